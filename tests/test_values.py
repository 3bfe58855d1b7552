"""What the checks see of expression values, however they are stored, and what they say."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import torch
from helpers import FAST, make_trained
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi._math._likelihoods import NotCountsError, make_likelihood
from trvae_scvi._math._summaries import summarize_tensor
from trvae_scvi.data._values import check_summary, summarize_values

COUNTS = np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool", ">f4"])
@pytest.mark.parametrize("store", [np.asarray, np.asfortranarray, sparse.csr_matrix, sparse.csc_array, da.from_array])
def test_summary_of_every_storage(dtype, store):
    if sparse.issparse(store(COUNTS)) and dtype in ("float16", ">f4"):
        pytest.skip("SciPy has no such matrix")
    summary = summarize_values(store(COUNTS.astype(dtype)))
    assert summary == (True, 0.0, True, 1, 1.0 if dtype == "bool" else 3.0)
    assert summary.are_counts


def test_half_precision_does_not_overflow():
    """The sum of a cell is beyond the 65,504 of half precision, its values are not."""
    x = np.full((4, 60), 2000.0, dtype=np.float16)
    assert not np.isfinite(x.sum(axis=1)).any()
    assert summarize_values(x).finite
    assert summarize_tensor(torch.from_numpy(x)).finite


def test_values_beyond_single_precision_are_no_infinities():
    summary = summarize_values(np.array([[1.0, 1e39]]))
    assert summary.finite
    with pytest.raises(ValueError, match="up to 1e\\+39, more than the single precision"):
        check_summary(summary, "`adata.X`", make_likelihood("mse"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    x = COUNTS.copy()
    x[1, 1] = value
    for summary in (summarize_values(x), summarize_values(sparse.csr_matrix(x)), summarize_tensor(torch.tensor(x))):
        assert not summary.finite
        assert not summary.are_counts


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_error_is_no_fraction(dtype):
    counts = np.arange(1.0, 3001.0, dtype=dtype).reshape(-1, 3)
    recovered = np.expm1(np.log1p(counts))
    assert (recovered != counts).any()
    for summary in (summarize_values(recovered), summarize_tensor(torch.from_numpy(recovered))):
        assert summary.are_counts
    for fraction in (0.97 * counts, counts + dtype(0.02)):
        assert not summarize_values(fraction).integer
        assert not summarize_tensor(torch.from_numpy(fraction)).integer


def test_recovered_counts_are_counts_to_the_model(small):
    """A model of counts with rounding errors predicts whole counts, those it predicts from the exact ones."""
    adata = small.adata.copy()
    adata.X = adata.X.astype(np.float64)
    exact = make_trained(adata)
    adata.X.data = np.expm1(np.log1p(adata.X.data))
    assert (adata.X.data != np.rint(adata.X.data)).any()
    recovered = exact.predict_perturbation(adata, source="control", target="stimulated")
    assert (recovered.X.data == np.rint(recovered.X.data)).all()
    expected = exact.predict_perturbation(source="control", target="stimulated")
    assert (recovered.X != expected.X).nnz == 0
    assert make_trained(adata).is_trained_


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("layer", r"`adata.layers\['counts'\]` holds whole numbers: register it with `setup_anndata\(adata, layer='c"),
        ("raw", r"`adata.raw` holds whole numbers: take them with `adata = adata.raw.to_adata\(\)`"),
        ("nowhere", r"round counts that were corrected or estimated .*np.rint\(adata.X\)"),
    ],
)
def test_counts_that_lie_elsewhere_are_pointed_to(small, place, match):
    adata = small.adata.copy()
    if place == "layer":
        adata.layers["counts"] = adata.X.copy()
    if place == "raw":
        adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        tv.TRVAE.setup_anndata(adata)
    assert [str(w.message) for w in seen if "holds no counts" in str(w.message)] == [
        str(w.message) for w in seen if "holds whole numbers" in str(w.message)
    ]
    assert any("holds no counts" in str(w.message) for w in seen) is (place != "nowhere")
    with pytest.raises(NotCountsError, match=match) as caught:
        tv.TRVAE(adata)
    assert (caught.value.layers, caught.value.in_raw) == (("counts",) if place == "layer" else (), place == "raw")


def test_the_remedies_work(small):
    """Every line that a message tells to run mends what it is about."""
    adata = small.adata.copy()
    adata.X = sparse.csr_matrix(adata.X * 0.97)
    adata.X = np.rint(adata.X)
    tv.TRVAE.setup_anndata(adata)
    tv.TRVAE(adata)
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    adata = adata.raw.to_adata()
    tv.TRVAE.setup_anndata(adata)
    tv.TRVAE(adata)


def test_a_layer_may_be_wrong_where_x_is_right(small):
    adata = small.adata.copy()
    adata.layers["normalised"] = adata.X.log1p()
    with pytest.warns(UserWarning, match="`adata.X` holds whole numbers"):
        tv.TRVAE.setup_anndata(adata, layer="normalised")


@pytest.mark.parametrize("change", ["log1p", "nan"])
def test_values_changed_in_place_are_seen_where_they_are_read(small, change):
    adata = small.adata.copy()
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16)
    trained = make_trained(small.adata)

    def break_in_place(x):
        x.data[:] = np.log1p(x.data) if change == "log1p" else np.nan

    break_in_place(adata.X)
    match = "changed since the model was made" if change == "log1p" else "NaN or infinite"
    with pytest.raises(ValueError, match=match):
        model.train(**FAST)
    break_in_place(trained.adata.X)
    for answer in (
        trained.get_latent_representation,
        trained.get_normalized_expression,
        trained.get_elbo,
        lambda: trained.predict_perturbation(target="stimulated", source="control"),
        lambda: trained.get_perturbation_effect(target="stimulated", source="control"),
        trained.get_mmd_representation,
    ):
        with pytest.raises(ValueError, match="fractional values|NaN or infinite"):
            answer()


@pytest.mark.filterwarnings("ignore:Training will be faster")
def test_dask(small, one_thread):
    """Dense chunks are trained on; sparse ones are predicted from, and refused where no cell can be read alone."""
    reference = make_trained(small.adata)
    expected = reference.predict_perturbation(source="control", target="stimulated").X
    dense = small.adata.copy()
    dense.X = da.from_array(small.adata.X.toarray(), chunks=(100, 7))
    found = make_trained(dense).predict_perturbation(source="control", target="stimulated").X
    assert (found != expected).nnz <= 1e-3 * expected.nnz
    lazy = small.adata.copy()
    lazy.X = da.from_array(small.adata.X.toarray(), chunks=(100, 60)).map_blocks(sparse.csr_matrix)
    assert (reference.predict_perturbation(lazy, source="control", target="stimulated").X != expected).nnz == 0
    aligned = tv.TRVAE.prepare_query_anndata(lazy, reference, inplace=False)
    assert (aligned.X != small.adata.X).nnz == 0
    for refused in (tv.TRVAE.setup_anndata, reference.get_latent_representation):
        with pytest.raises(TypeError, match=r"Dask array of sparse chunks.*adata.to_memory\(\)"):
            refused(lazy)


def test_read_lazy(small, trained, tmp_path):
    small.adata.write_zarr(tmp_path / "cells.zarr")
    from anndata.experimental import read_lazy

    lazy = read_lazy(tmp_path / "cells.zarr")
    for refused in (
        tv.TRVAE.setup_anndata,
        trained.get_latent_representation,
        lambda a: trained.predict_perturbation(a, target="stimulated"),
        lambda a: tv.TRVAE.load_query_data(a, trained),
        lambda a: tv.TRVAE.prepare_query_anndata(a, trained),
    ):
        with pytest.raises(TypeError, match=r"opened lazily.*adata.to_memory\(\)"):
            refused(lazy)


@pytest.mark.parametrize("store", [sparse.csr_array, sparse.csc_array, lambda x: x.toarray().astype(np.float16)])
def test_storages_answer_alike(small, trained, store):
    cells = small.adata.copy()
    cells.X = store(small.adata.X)
    np.testing.assert_allclose(
        trained.get_latent_representation(cells), trained.get_latent_representation(), rtol=1e-5, atol=1e-5
    )
    expected = trained.predict_perturbation(target="stimulated", source="control").X
    assert (trained.predict_perturbation(cells, target="stimulated", source="control").X != expected).nnz == 0
