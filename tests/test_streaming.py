"""Predictions to disk, from disk and from the caller's own minibatches: equal to those in memory, a piece at a time."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata.io import sparse_dataset, write_elem
from helpers import make_trained
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader

import trvae_scvi as tv
from trvae_scvi.data import _expression, _values
from trvae_scvi.predict import _predictor, _store
from trvae_scvi.predict._predictor import Predictor

SETUP = {
    "labels_key": "cell_type",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor", "lab"],
    "continuous_covariate_keys": ["age"],
}
TARGETS = ["stimulated", "control"]
SUFFIXES = (".h5ad", ".zarr")


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def assert_same(found, expected):
    found = found.to_memory()
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    assert sparse.issparse(found.X) == sparse.issparse(expected.X)
    assert found.X.dtype == expected.X.dtype
    for layer in set(expected.layers) - {None}:
        np.testing.assert_array_equal(dense(found.layers[layer]), dense(expected.layers[layer]))
    assert set(found.layers) == set(expected.layers)
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(
            getattr(found, name), getattr(expected, name), check_dtype=False, check_categorical=False
        )
    assert list(found.uns) == list(expected.uns)
    for key, value in expected.uns["trvae"].items():
        np.testing.assert_array_equal(found.uns["trvae"][key], value)


@pytest.fixture(params=["h5ad", "h5ad dense", "csr h5", "csr zarr", "dense zarr"])
def on_disk(request, small, tmp_path):
    """The small data set with its values on disk, in every way."""
    adata = small.adata.copy()
    if "dense" in request.param:
        adata.X = adata.X.toarray()
    if request.param.startswith("h5ad"):
        adata.write_h5ad(tmp_path / "cells.h5ad")
        yield anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        return
    if "zarr" in request.param:
        group = zarr.open_group(tmp_path / "cells.zarr", mode="w")
    else:
        group = h5py.File(tmp_path / "x.h5", "w")
    write_elem(group, "X", adata.X)
    x = group["X"] if "dense" in request.param else sparse_dataset(group["X"])
    yield anndata.AnnData(X=x, obs=adata.obs, var=adata.var)


@pytest.fixture
def reads(monkeypatch):
    """Numbers of rows of every read of expression."""
    read = _expression.Expression.__getitem__
    rows = []

    def counting(self, asked):
        block = read(self, asked)
        rows.append(block.shape[0])
        return block

    monkeypatch.setattr(_expression.Expression, "__getitem__", counting)
    return rows


# --- to disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("method", ["counterfactual", "mean", "sample"])
@pytest.mark.parametrize("buffer", [1, 2**24])
def test_a_file_holds_what_memory_would(trained, control, tmp_path, monkeypatch, suffix, method, buffer):
    monkeypatch.setattr(_store, "_BUFFER", buffer)
    arguments = {"target": TARGETS, "method": method, "batch_size": 48}
    expected = trained.predict_perturbation(control, **arguments)
    path = tmp_path / f"prediction{suffix}"
    found = trained.predict_perturbation(control, **arguments, out=path)
    assert not isinstance(found.X, np.ndarray | sparse.spmatrix)  # still on disk
    assert found.isbacked == (suffix == ".h5ad")
    some = found[[150, 3]].to_memory()
    np.testing.assert_array_equal(dense(some.X), dense(expected[[150, 3]].X))
    assert_same(found, expected)
    read = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    assert_same(read(path), expected)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_the_registered_layer_is_written_and_stays_on_disk(adata, tmp_path, suffix, likelihood):
    if likelihood == "mse":
        adata.layers["counts"] = np.log1p(adata.X.toarray())
    adata.X = None
    model = make_trained(adata, {"layer": "counts"}, gene_likelihood=likelihood)
    expected = model.predict_perturbation(target="all", source="control")
    path = tmp_path / f"prediction{suffix}"
    found = model.predict_perturbation(target="all", source="control", out=str(path))
    assert not isinstance(found.layers["counts"], np.ndarray | sparse.spmatrix)
    assert found.isbacked == (suffix == ".h5ad")
    assert_same(found, expected)
    read = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    assert_same(read(path), expected)


@pytest.mark.parametrize("n_entries", [10, 2**31])
def test_index_types(tmp_path, n_entries):
    """Both index arrays are wide where the counts may be too many, and of one type, as SciPy asks."""
    n, wide = 3, n_entries > 2**31 - 1
    described = anndata.AnnData(obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=["x", "y"]))
    x = sparse.csr_matrix(np.array([[1.0, 0.0]], dtype=np.float32))
    with _store.DiskStore(tmp_path / "x.h5ad", None, described.copy(), n_entries) as store:
        for _ in range(n):
            store.append("target", x)
            store._flush()
        found = store.finish(described)
    for name in ("indices", "indptr"):
        assert found.file["X"][name].dtype == (np.int64 if wide else np.int32)
    np.testing.assert_array_equal(found.to_memory().X.toarray(), [[1.0, 0.0]] * n)


def test_more_counts_than_fit_into_32_bits(tmp_path):
    described = anndata.AnnData(obs=pd.DataFrame(index=list("ab")), var=pd.DataFrame(index=["x", "y"]))
    x = sparse.csr_matrix(np.array([[1.0, 2.0]], dtype=np.float32))
    n = 2**31 + 5
    with _store.DiskStore(tmp_path / "x.h5ad", None, described.copy(), None) as store:
        store.append("target", x)
        store._flush()
        matrix = store._file["X"]  # as if the first cell had that many: what is not written takes no room
        for name in ("data", "indices"):
            matrix[name].resize((n,))
        matrix["indptr"][1] = n
        store.append("target", x)
        store.finish(described).file.close()
    with h5py.File(tmp_path / "x.h5ad") as file:
        np.testing.assert_array_equal(file["X/indptr"][:], [0, n, n + 2])
        np.testing.assert_array_equal(file["X/data"][n:], [1.0, 2.0])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_leaves_nothing(trained, control, tmp_path, monkeypatch, suffix):
    blocks, calls = Predictor.blocks, []

    def crashing(*args):
        for block in blocks(*args):
            calls.append(sorted(file.name for file in tmp_path.iterdir()))
            if len(calls) == 3:
                raise RuntimeError("power cut")
            yield block

    monkeypatch.setattr(_store, "_BUFFER", 1)
    monkeypatch.setattr(Predictor, "blocks", crashing)
    with pytest.raises(RuntimeError, match="power cut"):
        trained.predict_perturbation(control, target="all", batch_size=64, out=tmp_path / f"x{suffix}")
    assert calls == [[f"x{suffix}.unfinished"]] * 3
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_known_before_anything_is_computed(trained, adata, tmp_path, monkeypatch):
    adata.obs["odd"] = [{"a": i} for i in range(adata.n_obs)]
    monkeypatch.setattr(Predictor, "blocks", None)
    with pytest.raises(TypeError):
        trained.predict_perturbation(adata, target="stimulated", out=tmp_path / "x.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(trained, adata, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "cells", None)  # refused before the cells are looked at
    paths = [tmp_path / "x.h5ad", tmp_path / "x.zarr", tmp_path / "y.h5ad.unfinished"]
    adata.write_h5ad(paths[0])
    paths[1].mkdir()
    paths[2].touch()
    before = paths[0].read_bytes()
    backed = anndata.read_h5ad(paths[0], backed="r")
    for out in (paths[0], paths[1], tmp_path / "y.h5ad"):
        with pytest.raises(FileExistsError, match="not written over. Remove it, or choose"):
            trained.predict_perturbation(backed, target="stimulated", out=out)
    assert paths[0].read_bytes() == before
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        ("x.csv", ValueError, r"end in one of \['.h5ad', '.zarr'\], found .*x.csv"),
        ("x", ValueError, "end in one of"),
        ("missing/x.h5ad", FileNotFoundError, "missing.*does not exist"),
    ],
)
def test_wrong_places(trained, control, tmp_path, out, error, match):
    with pytest.raises(error, match=match):
        trained.predict_perturbation(control, target="stimulated", out=tmp_path / out)
    with pytest.raises(TypeError, match="`out` to be a path"):
        trained.predict_perturbation(control, target="stimulated", out=3)


# --- from disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [None, [3, 3, 1], [399, 0, 5, 5], slice(7, 60), "mask"], ids=["all", "twice", "any order", "slice", "mask"]
)
def test_cells_on_disk_are_predicted_as_in_memory(trained, small, on_disk, rows):
    if rows == "mask":
        rows = np.arange(400) % 7 == 0
    arguments = {"target": "stimulated", "indices": rows, "batch_size": 32}
    expected = trained.predict_perturbation(small.adata, **arguments)
    assert_same(trained.predict_perturbation(on_disk, **arguments), expected)


def test_source_and_views_of_cells_on_disk(trained, small, on_disk):
    control = (small.adata.obs["condition"] == "control").to_numpy()
    expected = trained.predict_perturbation(small.adata[control], target="stimulated")
    assert_same(trained.predict_perturbation(on_disk, target="stimulated", source="control"), expected)
    view = on_disk[control]
    assert_same(trained.predict_perturbation(view, target="stimulated"), expected)
    backwards = np.flatnonzero(control)[::-1]
    arguments = {"target": "stimulated", "indices": [5, 5, 2], "batch_size": 2}
    found = trained.predict_perturbation(on_disk[backwards], **arguments)
    assert_same(found, trained.predict_perturbation(small.adata[backwards].copy(), **arguments))
    np.testing.assert_array_equal(
        trained.get_mmd_representation(view, indices=[4, 0]),
        trained.get_mmd_representation(small.adata[control].copy(), indices=[4, 0]),
    )


def test_a_view_of_some_genes_is_read_a_minibatch_at_a_time(small, on_disk, reads):
    genes = list(small.adata.var_names[[5, 2, 30, 31, 59]])
    model = make_trained(small.adata[:, genes][small.adata[:, genes].X.sum(1) > 0].copy())
    rows = np.flatnonzero(small.adata[:, genes].X.sum(1) > 0)
    expected = model.predict_perturbation(small.adata[rows][:, genes].copy(), target="stimulated", batch_size=50)
    reads.clear()
    assert_same(model.predict_perturbation(on_disk[rows, genes], target="stimulated", batch_size=50), expected)
    assert max(reads[1:]) <= 50


def test_no_more_than_a_piece_is_read_at_a_time(trained, on_disk, reads, monkeypatch, tmp_path):
    monkeypatch.setattr(_values, "_ROWS", 30)
    trained.predict_perturbation(on_disk, target="all", source="control", batch_size=20, out=tmp_path / "out.h5ad")
    n = 200
    # one pass over the cells for the checks, then one for every target
    assert reads == [30] * 6 + [20] + ([20] * 10) * 2
    assert sum(reads) == 3 * n


@pytest.mark.parametrize("in_memory", [False, True])
def test_values_are_checked_once_before_the_first_minibatch(trained, small, reads, in_memory, tmp_path):
    adata = small.adata.copy()
    if not in_memory:
        adata.write_h5ad(tmp_path / "x.h5ad")
        adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    trained.predict_perturbation(adata, target="stimulated", batch_size=100)
    assert reads == [400] + [100] * 4  # the first is below the size of a piece


def test_on_disk_gene_by_gene(trained, small, tmp_path):
    adata = small.adata.copy()
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    expected = trained.predict_perturbation(small.adata, target="stimulated")
    with pytest.warns(UserWarning, match="all of it is loaded"):
        assert_same(trained.predict_perturbation(backed, target="stimulated"), expected)
    assert_same(trained.predict_perturbation(adata, target="stimulated"), expected)  # in memory it may be


def test_wrong_cells_on_disk(trained, small, tmp_path):
    adata = small.adata.copy()
    adata.X.data[-1] = 0.5
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(ValueError, match="fractional"):
        trained.predict_perturbation(backed, target="stimulated")
    good = trained.predict_perturbation(backed, target="stimulated", indices=[0, 1])  # only what is asked for matters
    assert good.n_obs == 2


def test_models_that_have_their_cells_on_disk(trained, small, tmp_path):
    small.adata.write_h5ad(tmp_path / "x.h5ad")
    trained.save(tmp_path / "model")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    tv.TRVAE.setup_anndata(backed, labels_key="cell_type")
    model = tv.TRVAE.load(tmp_path / "model", backed)
    expected = trained.predict_perturbation(small.adata, target="stimulated")
    assert_same(model.predict_perturbation(target="stimulated"), expected)


# --- from minibatches -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(small):
    """A model with every kind of registered column, and its data."""
    adata = small.adata.copy()
    rng = np.random.default_rng(0)
    adata.obs["donor"] = rng.choice(["a", "b", "c"], adata.n_obs)
    adata.obs["lab"] = rng.choice(["x", "y"], adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs).astype(np.float32)
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel() / 1000.0
    return make_trained(adata, SETUP)


def loader(model, **kwargs):
    return AnnDataLoader(model.adata_manager, batch_size=64, **kwargs)


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("suffix", [None, *SUFFIXES])
def test_minibatches_are_predicted_as_their_cells(full, tmp_path, as_sparse, suffix):
    out = None if suffix is None else tmp_path / f"x{suffix}"
    covariates = {"donor": "b", "age": 0.5}
    expected = full.predict_perturbation(target=TARGETS, batch_size=64, covariates=covariates)
    minibatches = loader(full, load_sparse_tensor=as_sparse)
    found = full.predict_perturbation(dataloader=minibatches, target=TARGETS, covariates=covariates, out=out)
    found = found.to_memory()
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    columns = ["condition", "condition_source", "cell_type", "donor", "lab", "age"]
    assert list(found.obs.columns) == columns
    for column in columns:
        assert list(found.obs[column]) == list(expected.obs[column])
    assert list(found.obs_names) == [f"{i}-{target}" for target in TARGETS for i in range(400)]
    assert list(found.var_names) == list(expected.var_names)
    assert list(found.uns["trvae"]["source"]) == list(expected.uns["trvae"]["source"])
    np.testing.assert_array_equal(
        full.get_mmd_representation(dataloader=minibatches), full.get_mmd_representation(batch_size=64)
    )


def test_an_effect_is_that_of_all_cells_however_they_come(full):
    """Moments of a few cells at a time are those of all; the rows of a loader are told apart by its own columns."""
    prediction = full.predict_perturbation(target=TARGETS, batch_size=64)
    groups, own = full.adata.obs["donor"].to_numpy(), dense(full.adata.X).astype(np.float64)
    of_target = {
        name: dense(prediction.X[400 * i : 400 * (i + 1)]).astype(np.float64) for i, name in enumerate(TARGETS)
    }
    with pytest.warns(UserWarning, match="400 of 400 cells were measured under a target"):
        found = full.get_perturbation_effect(target=TARGETS, groupby="donor", batch_size=64, model_error=(0.0, 0.0))
    for (target, group), table in found.groupby(["target", "group"]):
        rows = groups == group
        x, p = (1e4 * values[rows] / values[rows].sum(axis=1, keepdims=True) for values in (own, of_target[target]))
        expected = np.log1p(p).mean(axis=0) - np.log1p(x).mean(axis=0)
        np.testing.assert_allclose(table["change"], expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(table["log_fc"], np.log2((p.mean(axis=0) + 1) / (x.mean(axis=0) + 1)), atol=1e-13)
        half = 1.6448536269514722 * np.sqrt(2 * np.log1p(p).var(axis=0, ddof=1) / rows.sum())
        np.testing.assert_allclose(table["change_upper"] - table["change"], half, rtol=1e-9)
    with pytest.warns(UserWarning, match="400 of 400 cells"):
        from_loader = full.get_perturbation_effect(
            target=TARGETS, groupby="donor", dataloader=loader(full), model_error=(0.0, 0.0)
        )
    pd.testing.assert_frame_equal(from_loader, found)
    with pytest.raises(KeyError, match="groupby='nope'"):
        full.get_perturbation_effect(target="stimulated", groupby="nope", dataloader=loader(full))


def test_minibatches_without_labels_cannot_be_grouped_by_them(full):
    without = [{k: v for k, v in batch.items() if k != REGISTRY_KEYS.LABELS_KEY} for batch in loader(full)]
    with pytest.raises(KeyError, match="'cell_type' in every minibatch of `dataloader`"):
        full.get_perturbation_effect(target="stimulated", dataloader=without)
    by_condition = full.get_perturbation_effect(target="stimulated", dataloader=without, groupby="condition")
    assert set(by_condition["group"]) == {"control", "stimulated"}
    with pytest.raises(ValueError, match="of earlier minibatches, found"):
        full.predict_perturbation(target="stimulated", dataloader=[next(iter(loader(full))), without[0]])


def test_cells_under_the_target_are_spoken_of_before_the_work(full, monkeypatch):
    monkeypatch.setattr(Predictor, "blocks", None)
    with pytest.warns(UserWarning, match="measured under a target"), pytest.raises(TypeError):
        full.get_perturbation_effect(target="stimulated")


def test_one_bar_of_progress_for_all_targets(full, tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(_predictor, "track", lambda steps, **options: bars.append(options) or steps)
    full.predict_perturbation(target=TARGETS, batch_size=50, out=tmp_path / "x.h5ad")
    full.predict_perturbation(target=TARGETS, batch_size=100)
    assert [(bar["total"], bar["disable"]) for bar in bars] == [(16, False), (4, True)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_combinations_are_streamed(tmp_path, suffix):
    cells = tv.datasets.simulate_perturbation(n_cells=300, n_genes=20, targets=("A", "B"), seed=0).adata
    model = make_trained(cells)
    asked = {"target": "A+B", "control": "control"}
    expected = model.predict_combination(**asked, batch_size=64)
    assert_same(model.predict_combination(**asked, batch_size=64, out=tmp_path / f"x{suffix}"), expected)
    found = model.predict_combination(**asked, dataloader=loader(model))
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))


def test_iterators_serve_once(full, tmp_path):
    expected = full.predict_perturbation(target=TARGETS, batch_size=64)
    found = full.predict_perturbation(dataloader=iter(loader(full)), target=TARGETS)
    assert (found.X != expected.X).nnz == 0
    with pytest.raises(ValueError, match="can be iterated over 2 times"):
        full.predict_perturbation(dataloader=iter(loader(full)), target=TARGETS, out=tmp_path / "x.h5ad")
    assert list(tmp_path.iterdir()) == []
    one = full.predict_perturbation(dataloader=iter(loader(full)), target="control", out=tmp_path / "x.h5ad")
    assert (one.to_memory().X != expected[400:].X).nnz == 0


def test_shuffled_loaders_are_annotated_pass_by_pass(full, tmp_path):
    torch.manual_seed(0)
    found = full.predict_perturbation(
        dataloader=loader(full, shuffle=True), target=TARGETS, out=tmp_path / "x.h5ad"
    ).to_memory()
    ages = [found.obs["age"][:400].to_numpy(), found.obs["age"][400:].to_numpy()]
    assert not np.array_equal(*ages)
    # where source and target agree the cell is given back, which tells whether columns and counts belong together
    own = (found.obs["condition"] == found.obs["condition_source"]).to_numpy()
    by_age = dict(zip(full.adata.obs["age"], full.adata.X.toarray(), strict=True))
    np.testing.assert_array_equal(
        found.X[own].toarray(), [by_age[age] for age in found.obs["age"].to_numpy()[own].astype(np.float32)]
    )


def test_labels_may_be_left_out_and_one_column_may_be_flat(full):
    first = dict(next(iter(loader(full))))
    expected = full.predict_perturbation(dataloader=[first], target="stimulated")
    del first[REGISTRY_KEYS.LABELS_KEY]
    first[REGISTRY_KEYS.BATCH_KEY] = first[REGISTRY_KEYS.BATCH_KEY].squeeze(1)
    found = full.predict_perturbation(dataloader=[first], target="stimulated")
    assert (found.X != expected.X).nnz == 0
    assert "cell_type" not in found.obs
    assert "cell_type" in expected.obs


def put(key, value):
    return lambda minibatch: minibatch | {key: value(minibatch[key]) if callable(value) else value}


def at_first(value):
    def edit(tensor):
        tensor = tensor.clone()
        tensor[0] = value
        return tensor

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (
            put("batch", at_first(2)),
            ValueError,
            "codes from 0 to 1 for 'condition' .*of minibatch 1.*found 2",
        ),
        (put("batch", at_first(-1)), ValueError, "found -1"),
        (put("batch", lambda t: t + 0.5), ValueError, "codes from 0 to 1"),
        (put("batch", lambda t: t[1:]), ValueError, "64 x 1 values for key 'batch' of minibatch 1.*found 63 x 1"),
        (put("labels", at_first(9)), ValueError, "codes from 0 to 2 for 'cell_type'"),
        (put("extra_categorical_covs", at_first(3)), ValueError, "codes from 0 to 2 for 'donor'"),
        (put("extra_categorical_covs", None), KeyError, "key 'extra_categorical_covs' in minibatch 1"),
        (put("extra_continuous_covs", at_first(np.nan)), ValueError, "'extra_continuous_covs'.*NaN"),
        (put("size_factor", at_first(0.0)), ValueError, "positive size factors"),
        (put("X", lambda t: t[:, 1:]), ValueError, "n x 60 values for key 'X' of minibatch 1.*found 64 x 59"),
        (put("X", at_first(0.5)), ValueError, "fractional values in minibatch 1"),
        (put("X", at_first(-1.0)), ValueError, "negative values in minibatch 1"),
        (put("X", at_first(np.nan)), ValueError, "minibatch 1 of `dataloader` holds NaN"),
        (put("X", at_first(0.0)), ValueError, "1 cells have no counts"),
        (put("X", lambda t: t.numpy()), TypeError, "a tensor for key 'X' of minibatch 1.*found ndarray"),
        (lambda m: {}, KeyError, "key 'X' in minibatch 1"),
        (lambda m: list(m.values()), TypeError, "dictionary of tensors, found a list"),
    ],
)
def test_wrong_minibatches(full, edit, error, match):
    first = dict(next(iter(loader(full))))
    with pytest.raises(error, match=match):
        full.predict_perturbation(dataloader=[first, edit(first)], target="stimulated")


def test_a_loader_excludes_what_it_replaces(full, adata):
    for given in ({"adata": adata}, {"indices": [1]}, {"source": "control"}, {"batch_size": 3}):
        with pytest.raises(ValueError, match=f"without .*{next(iter(given))}"):
            full.predict_perturbation(dataloader=loader(full), target="stimulated", **given)
    with pytest.raises(TypeError, match="iterable of minibatches, found int"):
        full.predict_perturbation(dataloader=3, target="stimulated")
    with pytest.raises(TypeError, match="iterable of minibatches, found dict"):
        full.predict_perturbation(dataloader=next(iter(loader(full))), target="stimulated")
    with pytest.raises(ValueError, match="gave no minibatch"):
        full.predict_perturbation(dataloader=[], target="stimulated")
    with pytest.raises(RuntimeError, match="not trained"):
        tv.TRVAE.setup_anndata(adata)
        tv.TRVAE(adata).predict_perturbation(dataloader=[], target="stimulated")


def test_mse_takes_any_finite_value_from_a_loader(adata):
    adata.X = np.log1p(adata.X.toarray()) - 1.0
    model = make_trained(adata, gene_likelihood="mse")
    expected = model.predict_perturbation(adata, target="stimulated", batch_size=64)
    found = model.predict_perturbation(dataloader=loader(model), target="stimulated")
    np.testing.assert_array_equal(found.X, expected.X)
    first = dict(next(iter(loader(model))))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.predict_perturbation(dataloader=[put("X", at_first(np.inf))(first)], target="stimulated")
