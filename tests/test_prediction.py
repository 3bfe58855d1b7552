from __future__ import annotations

from dataclasses import replace
from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from helpers import make_trained
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi.predict._predictor import Predictor
from trvae_scvi.predict._request import Request


def layers(adata):
    return [name for name in adata.layers if name is not None]  # anndata 0.13 lists X as None


def test_shape_and_annotation(trained, control):
    prediction = trained.predict_perturbation(control, target="stimulated")
    assert prediction.shape == control.shape
    assert list(prediction.obs_names) == [f"{name}-stimulated" for name in control.obs_names]
    assert (prediction.obs["condition"] == "stimulated").all()
    assert (prediction.obs["condition_source"] == "control").all()
    np.testing.assert_array_equal(prediction.obs["cell_type"], control.obs["cell_type"])
    assert not [column for column in prediction.obs if column.startswith("_scvi")]
    pd.testing.assert_index_equal(prediction.var_names, control.var_names)
    assert layers(prediction) == []
    about = prediction.uns["trvae"]
    assert (about["method"], about["scale"], about["seed"]) == ("counterfactual", "counts", 0)
    assert about["version"] == tv.__version__
    assert list(about["source"]) == ["control"]
    assert list(about["target"]) == ["stimulated"]


def test_scales(trained, control):
    for method in ("counterfactual", "sample"):
        x = trained.predict_perturbation(control, target="stimulated", method=method).X
        assert sparse.issparse(x)
        assert x.dtype == np.float32
        assert (x.data % 1 == 0).all()
        assert x.data.min() >= 0
    mean = trained.predict_perturbation(control, target="stimulated", method="mean")
    assert mean.uns["trvae"]["scale"] == "expected counts"
    # softmax times the cell's own library size
    np.testing.assert_allclose(mean.X.sum(axis=1), np.asarray(control.X.sum(axis=1)).ravel(), rtol=1e-4)


def test_mean_is_what_upstream_decodes(trained, small):
    """At the posterior mean, `transform_batch` and our decoding agree."""
    adata = small.adata[:50].copy()
    prediction = trained.predict_perturbation(adata, target="stimulated", method="mean")
    z = torch.tensor(trained.get_latent_representation(adata))
    library = torch.log(torch.tensor(adata.X.sum(axis=1), dtype=torch.float32))
    codes = torch.zeros(50, 1, dtype=torch.long)
    with torch.inference_mode():
        expected = trained.module.generative(z, library, codes, transform_batch=1)["px"].mu
    np.testing.assert_allclose(prediction.X, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["counterfactual", "sample"])
def test_draws_follow_the_decoded_means(trained, small, method):
    """Sums over many seeds approach what the model expects."""
    adata = small.adata[small.adata.obs["condition"] == "control"][:40]
    draws = [
        trained.predict_perturbation(adata, target="stimulated", method=method, seed=seed).X.toarray()
        for seed in range(200)
    ]
    mean = trained.predict_perturbation(adata, target="stimulated", method="mean").X
    if method == "sample":
        np.testing.assert_allclose(np.mean(draws, axis=0).sum(axis=0), mean.sum(axis=0), rtol=0.1, atol=2.0)
        return
    # given x: x r where the mean falls, x + (r - 1) E[lambda | x] where it rises
    source = trained.predict_perturbation(adata, target="control", method="mean").X
    theta = trained.module.log_theta.exp().detach().numpy()
    x, ratio = adata.X.toarray(), mean / source
    rate = (theta + x) / (theta / source + 1)
    expected = np.where(ratio <= 1, x * ratio, x + (ratio - 1) * rate)
    np.testing.assert_allclose(np.mean(draws, axis=0).sum(axis=0), expected.sum(axis=0), rtol=0.05, atol=1.0)


def test_target_equal_to_source(trained, small):
    stimulated = small.adata[small.adata.obs["condition"] == "stimulated"]
    same = trained.predict_perturbation(stimulated, target="stimulated")
    assert (same.X != stimulated.X).nnz == 0
    mean = trained.predict_perturbation(stimulated, target="stimulated", method="mean")
    assert np.corrcoef(np.log1p(mean.X.mean(0)), np.log1p(stimulated.X.toarray().mean(0)))[0, 1] > 0.5
    sample = trained.predict_perturbation(stimulated, target="stimulated", method="sample")
    assert (sample.X != stimulated.X).nnz > 0


@pytest.mark.parametrize("likelihood", ["zinb", "poisson", "mse"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_target_equal_to_source_for_every_likelihood(adata, likelihood, dispersion):
    if likelihood == "mse":
        adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, gene_likelihood=likelihood, dispersion=dispersion)
    same = model.predict_perturbation(adata, target="control", source="control").X
    given = adata[adata.obs["condition"] == "control"].X
    for x in (same, given):
        assert x.shape == given.shape
    difference = (same.toarray() if sparse.issparse(same) else same) - (
        given.toarray() if sparse.issparse(given) else np.asarray(given)
    )
    np.testing.assert_array_equal(difference, 0)


def test_several_targets_are_blocks(trained, control):
    both = trained.predict_perturbation(control, target=["stimulated", "control"])
    alone = trained.predict_perturbation(control, target="stimulated")
    assert both.n_obs == 2 * control.n_obs
    assert (both[: control.n_obs].X != alone.X).nnz == 0
    assert list(both.obs["condition"].unique()) == ["stimulated", "control"]
    everything = trained.predict_perturbation(control, target="all")
    assert set(everything.obs["condition"]) == {"control", "stimulated"}


def test_source(trained, small, control):
    of_all = trained.predict_perturbation(small.adata, target="stimulated")
    assert of_all.n_obs == small.adata.n_obs
    assert set(of_all.obs["condition_source"]) == {"control", "stimulated"}
    assert list(of_all.uns["trvae"]["source"]) == ["control", "stimulated"]
    from_control = trained.predict_perturbation(small.adata, target="stimulated", source="control")
    direct = trained.predict_perturbation(control, target="stimulated")
    assert list(from_control.obs_names) == list(direct.obs_names)
    assert (from_control.X != direct.X).nnz == 0


def test_default_is_the_models_own_data(trained, small):
    default = trained.predict_perturbation(target="stimulated")
    assert (default.X != trained.predict_perturbation(small.adata, target="stimulated").X).nnz == 0


@pytest.mark.parametrize("kind", ["positions", "mask", "reversed", "slice", "series", "last"])
def test_indices(trained, small, kind):
    mask = np.isin(np.arange(400), [5, 9, 17])
    rows = {
        "positions": [5, 9, 17],
        "mask": mask,
        "reversed": [17, 9, 5],
        "slice": slice(3, 6),
        "series": pd.Series(mask, index=small.adata.obs_names),
        "last": [-1],
    }[kind]
    found = trained.predict_perturbation(small.adata, target="stimulated", indices=rows, method="mean")
    expected = trained.predict_perturbation(small.adata, target="stimulated", method="mean")
    positions = np.arange(400)[rows if kind == "slice" else np.asarray(rows)]
    np.testing.assert_allclose(found.X, expected.X[positions], rtol=1e-4, atol=1e-4)
    assert [name.rsplit("-", 1)[0] for name in found.obs_names] == list(small.adata.obs_names[positions])


def test_library_size(trained, control):
    prediction = trained.predict_perturbation(control, target="stimulated", library_size=5000.0, method="mean")
    np.testing.assert_allclose(prediction.X.sum(axis=1), 5000.0, rtol=1e-4)
    drawn = trained.predict_perturbation(control, target="stimulated", library_size=5000.0)
    assert drawn.X.sum(axis=1).mean() == pytest.approx(5000.0, rel=0.15)


def test_library_size_is_the_size_factor_if_one_is_registered(adata):
    model = make_trained(adata, {"size_factor_key": "size"})
    one, two = (
        model.predict_perturbation(adata, target="stimulated", library_size=size, method="mean").X
        for size in (1.0, 2.0)
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-5)


def test_seeds(trained, control):
    first = trained.predict_perturbation(control, target="stimulated")
    np.random.seed(5)
    torch.manual_seed(5)
    assert (first.X != trained.predict_perturbation(control, target="stimulated").X).nnz == 0
    assert (first.X != trained.predict_perturbation(control, target="stimulated", seed=1).X).nnz > 0
    fresh = [trained.predict_perturbation(control, target="stimulated", seed=None) for _ in range(2)]
    assert (fresh[0].X != fresh[1].X).nnz > 0
    assert fresh[0].uns["trvae"]["seed"] == "none"


def test_workers_that_would_stay_are_no_matter_where_there_are_none(trained, control, monkeypatch):
    expected = trained.predict_perturbation(control, target="stimulated")
    monkeypatch.setattr(scvi.settings, "_dl_persistent_workers", True)
    assert scvi.settings.dl_persistent_workers
    found = trained.predict_perturbation(control, target="stimulated")
    assert (found.X != expected.X).nnz == 0


def test_one_cell(trained, adata):
    assert trained.predict_perturbation(adata[7], target="stimulated").shape == (1, adata.n_vars)
    with_batch_norm = make_trained(adata, normalization="batch")
    assert with_batch_norm.predict_perturbation(adata[7], target="stimulated").n_obs == 1


def test_layer_is_predicted_and_no_other_is_copied(adata):
    adata.layers["other"] = adata.X.copy()
    adata.obsm["X_pca"] = np.zeros((adata.n_obs, 2))
    model = make_trained(adata, {"layer": "counts"})
    adata.X = np.full(adata.shape, np.nan)  # not read
    prediction = model.predict_perturbation(adata, target="stimulated")
    assert layers(prediction) == ["counts"]
    assert (prediction.layers["counts"] != prediction.X).nnz == 0
    assert prediction.layers["counts"] is not prediction.X
    assert list(prediction.obsm) == []
    assert prediction.raw is None


def test_covariates_stay_at_the_cells_values(adata):
    setup = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    model = make_trained(adata, setup)
    some = adata[:20].copy()
    before = model.predict_perturbation(some, target="stimulated", method="mean").X
    other = some.copy()
    other.obs["age"] += 3.0
    assert not np.allclose(before, model.predict_perturbation(other, target="stimulated", method="mean").X)
    other = some.copy()
    other.obs["donor"] = "a"
    assert not np.allclose(before, model.predict_perturbation(other, target="stimulated", method="mean").X)


def test_labels_are_not_needed_and_may_be_new(trained, control):
    """Labels never reach the network; a held-out or unnamed type can be predicted."""
    expected = trained.predict_perturbation(control, target="stimulated")
    new = control.copy()
    new.obs["cell_type"] = "never seen"
    found = trained.predict_perturbation(new, target="stimulated")
    assert (found.X != expected.X).nnz == 0
    assert (found.obs["cell_type"] == "never seen").all()
    del new.obs["cell_type"]
    assert (trained.predict_perturbation(new, target="stimulated").X != expected.X).nnz == 0
    with pytest.raises(KeyError, match="Name another one with `groupby`"):
        trained.get_perturbation_effect(new, target="stimulated")
    assert len(trained.get_perturbation_effect(new, target="stimulated", groupby="condition")) == new.n_vars


def test_nothing_of_the_caller_changes(trained, small):
    adata = small.adata.copy()
    adata.uns["mine"] = {"a": 1}
    x, obs, uns = adata.X.copy(), adata.obs.copy(), dict(adata.uns)
    view = adata[adata.obs["condition"] == "control"]
    managers = len(trained._per_instance_manager_store[trained.id])
    for cells in (adata, view):
        trained.predict_perturbation(cells, target="stimulated")
        trained.get_perturbation_effect(cells, target="stimulated")
        trained.get_mmd_representation(cells)
    assert view.is_view
    assert (adata.X != x).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, obs)
    assert adata.uns == uns
    assert len(trained._per_instance_manager_store[trained.id]) == managers  # nothing is held on to


def test_concatenates_with_the_real_control(trained, control, tmp_path):
    prediction = trained.predict_perturbation(control, target="stimulated")
    both = anndata.concat([control.copy(), prediction])
    assert set(both.obs["condition"]) == {"control", "stimulated"}
    assert both.obs_names.is_unique
    for path in (tmp_path / "p.h5ad", tmp_path / "p.zarr"):
        prediction.write_h5ad(path) if path.suffix == ".h5ad" else prediction.write_zarr(path)
        back = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
        assert (back.X != prediction.X).nnz == 0
        assert back.uns["trvae"]["method"] == "counterfactual"


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"target": "nope"}, r"`target` among.*'control', 'stimulated'.*\['nope'\]"),
        ({"target": ["stimulated", "nope"]}, r"\['nope'\]"),
        ({"target": []}, "`target`"),
        ({"target": ["stimulated", "stimulated"]}, r"list of different ones, found \['stimulated', 'stimulated'\]"),
        ({"target": "stimulated", "source": "nope"}, "`source` to be one of"),
        ({"target": "stimulated", "method": "median"}, "`method` to be one of"),
        ({"target": "stimulated", "library_size": 0.0}, "`library_size` above 0"),
        ({"target": "stimulated", "indices": []}, "No cell to predict from"),
        ({"target": "stimulated", "indices": [400]}, "do not fit the 400 cells"),
        ({"target": "stimulated", "indices": [True, False]}, "do not fit the 400 cells"),
        ({"target": "stimulated", "indices": pd.Series([True] * 400)}, "differs from `adata.obs_names`"),
        ({"target": "stimulated", "indices": ["control_1"]}, "positions or a boolean mask"),
        ({"target": "stimulated", "indices": [0.5]}, "positions or a boolean mask"),
        ({"target": "stimulated", "indices": [[1, 2]]}, "positions or a boolean mask"),
        ({"target": "stimulated", "library_size": np.array([1.0, 2.0])}, "`library_size` to be a number"),
        ({"target": "stimulated", "library_size": np.inf}, "`library_size`"),
        ({"target": "stimulated", "batch_size": 0}, "`batch_size` of at least 1"),
    ],
)
def test_wrong_arguments(trained, small, arguments, match):
    with pytest.raises((ValueError, TypeError), match=match):
        trained.predict_perturbation(small.adata, **arguments)


def test_what_is_no_anndata(trained, small):
    with pytest.raises(TypeError, match="to be an AnnData, found DataFrame"):
        trained.predict_perturbation(small.adata.obs, target="stimulated")
    with pytest.raises(ValueError, match="0 cells"):
        trained.predict_perturbation(small.adata[:0].copy(), target="stimulated")


def test_a_prediction_can_be_predicted_from(trained, control):
    there = trained.predict_perturbation(control, target="stimulated")
    back = trained.predict_perturbation(there, target="control")
    assert (back.obs["condition_source"] == "stimulated").all()
    assert list(back.obs.columns) == list(there.obs.columns)


def test_no_cell_of_the_source(trained, control):
    with pytest.raises(ValueError, match="No cell to predict from with source 'stimulated'; found .*control"):
        trained.predict_perturbation(control, target="stimulated", source="stimulated")


def set_condition(value):
    def edit(adata):
        conditions = adata.obs["condition"].astype(object)
        conditions.iloc[0] = value
        adata.obs["condition"] = conditions

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (set_condition("new"), ValueError, r"does not know: \['new'\]"),
        (set_condition(np.nan), ValueError, "missing for 1"),
        (lambda a: a.obs.__delitem__("condition"), KeyError, "condition_key='condition'"),
        (lambda a: a.X.data.__setitem__(0, 0.5), ValueError, "fractional"),
        (lambda a: a.X.data.__setitem__(0, np.nan), ValueError, "NaN or infinite"),
        (lambda a: setattr(a, "X", a.X * 0), ValueError, "400 cells have no counts"),
    ],
)
def test_wrong_cells(trained, adata, edit, error, match):
    edit(adata)
    with pytest.raises(error, match=match):
        trained.predict_perturbation(adata, target="stimulated")


@pytest.mark.parametrize(
    ("select", "match"),
    [
        (lambda a: a[:, ::-1], "their order differs.*get_var_names"),
        (lambda a: a[:, :-2], "2 of 60 genes are missing, e.g. \\['gene_59', 'gene_60'\\]"),
        (
            lambda a: anndata.concat(
                [a, anndata.AnnData(np.ones((400, 1)), obs=a.obs, var=pd.DataFrame(index=["x"]))], axis=1, merge="same"
            ),
            "1 further genes, e.g. \\['x'\\]",
        ),
    ],
)
def test_other_genes(trained, adata, select, match):
    other = select(adata).copy()
    calls = [
        lambda: trained.predict_perturbation(other, target="stimulated"),
        lambda: trained.get_mmd_representation(other),
        lambda: trained.get_latent_representation(other),
        lambda: trained.get_normalized_expression(other),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()


def test_untrained(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata)
    calls = [
        lambda: model.predict_perturbation(target="stimulated"),
        lambda: model.get_perturbation_effect(target="stimulated"),
        model.get_mmd_representation,
        model.get_latent_representation,
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"train"):
            call()


def test_sample_is_not_for_mse(adata):
    adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, gene_likelihood="mse")
    with pytest.raises(ValueError, match="needs a count likelihood"):
        model.predict_perturbation(adata, target="stimulated", method="sample")
    with pytest.raises(ValueError, match="`library_size` has no meaning"):
        model.predict_perturbation(adata, target="stimulated", library_size=1e4)


def test_nan_is_refused_with_mse(adata):
    adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, gene_likelihood="mse")
    adata.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.predict_perturbation(adata, target="stimulated")


def test_mse_adds_the_difference_of_the_means(adata):
    adata.X = adata.X.toarray() - 2.0  # negative values: nothing to clip
    model = make_trained(adata, gene_likelihood="mse")
    means = {t: model.predict_perturbation(adata, target=t, method="mean").X for t in ("control", "stimulated")}
    rows = (adata.obs["condition"] == "control").to_numpy()
    found = model.predict_perturbation(adata, target="stimulated", source="control")
    expected = adata.X[rows] + means["stimulated"][rows] - means["control"][rows]
    np.testing.assert_allclose(found.X, expected, rtol=1e-4, atol=1e-4)
    assert found.X.min() < 0
    assert found.uns["trvae"]["scale"] == "input"


# --- effect and first layer -----------------------------------------------------------------------


def test_effect(trained, control):
    effect = trained.get_perturbation_effect(control, target="stimulated", level=0.8, model_error=(0.1, 0.3))
    columns = ["variable", "target", "group", "log_fc", "change", "change_lower", "change_upper", "level", "scale"]
    assert list(effect.columns) == columns
    assert effect["scale"].unique().tolist() == ["log1p(counts per 10,000 of the registered genes)"]
    assert set(effect["group"]) == {"type_1", "type_2", "type_3"}
    assert len(effect) == 3 * control.n_vars
    of_type = effect[effect["group"] == "type_2"].set_index("variable")
    given = control[control.obs["cell_type"] == "type_2"]
    predicted = trained.predict_perturbation(control, target="stimulated")
    predicted = predicted[predicted.obs["cell_type"] == "type_2"]
    x, p = (1e4 * m.X.toarray() / m.X.toarray().sum(1, keepdims=True) for m in (given, predicted))
    np.testing.assert_allclose(of_type["log_fc"], np.log2((p.mean(0) + 1) / (x.mean(0) + 1)), rtol=1e-4, atol=1e-5)
    change = np.log1p(p).mean(0) - np.log1p(x).mean(0)
    np.testing.assert_allclose(of_type["change"], change, rtol=1e-4, atol=1e-5)
    margin = 1.2815516 * np.sqrt(2 * np.log1p(p).var(0, ddof=1) / len(p) + 0.1**2 + (0.3 * change) ** 2)
    np.testing.assert_allclose(of_type["change_upper"], change + margin, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_type["change_lower"], change - margin, rtol=1e-4, atol=1e-4)
    assert (effect["level"] == 0.8).all()


def test_effect_on_other_scales(trained, control):
    """Normalised by hand: to another number of counts, and by totals over more genes than are registered."""
    cells = control.copy()
    cells.obs["total_counts"] = 3.0 * cells.X.toarray().sum(1)
    predicted = trained.predict_perturbation(cells, target="stimulated").X.toarray()
    given = cells.X.toarray()
    totals = cells.obs["total_counts"].to_numpy()[:, None]
    of_sums = [4000 * m / m.sum(1, keepdims=True) for m in (given, predicted)]
    of_totals = [1e4 * m / totals for m in (given, predicted)]
    for asked, (x, p) in ((4000, of_sums), ("total_counts", of_totals)):
        effect = trained.get_perturbation_effect(
            cells, target="stimulated", groupby="condition", normalize_to=asked, pseudocount=0.5
        )
        np.testing.assert_allclose(effect["change"], (np.log1p(p) - np.log1p(x)).mean(0), rtol=1e-4, atol=1e-5)
        log_fc = np.log2((p.mean(0) + 0.5) / (x.mean(0) + 0.5))
        np.testing.assert_allclose(effect["log_fc"], log_fc, rtol=1e-4, atol=1e-5)
        scale = {4000: "4,000 of the registered genes", "total_counts": "10,000 of 'total_counts'"}[asked]
        assert effect["scale"].unique().tolist() == [f"log1p(counts per {scale})"]


def test_effect_refuses_totals_that_are_none(trained, control, monkeypatch):
    ask = partial(trained.get_perturbation_effect, target="stimulated")
    with pytest.raises(KeyError, match="total_counts.* to be a number or a column"):
        ask(control, normalize_to="total_counts")
    for wrong in (0.5 * np.asarray(control.X.sum(1)).ravel(), np.nan, "many"):
        cells = control.copy()
        cells.obs["n_counts"] = wrong
        with pytest.raises(ValueError, match="total counts of a cell over all genes"):
            ask(cells, normalize_to="n_counts")
    # the last cell, before anything is predicted
    cells.obs["n_counts"] = [1e6] * (cells.n_obs - 1) + [np.nan]
    monkeypatch.setattr("trvae_scvi.predict._predictor.Predictor.blocks", None)
    with pytest.raises(ValueError, match="found nan. Take"):
        ask(cells, normalize_to="n_counts")
    with pytest.raises(ValueError, match="`normalize_to` above 0"):
        ask(control, normalize_to=0)
    with pytest.raises(TypeError, match="`normalize_to` to be a number"):
        ask(control, normalize_to=True)


def test_effect_with_a_calibrated_error(trained, control):
    names = control.var_names
    factors = pd.Series(np.linspace(0.5, 2.0, len(names)), index=names)
    quantiles = np.linspace(0.02, 3.0, 99)
    error = tv.benchmark.ModelError(0.1, 0.3, 0.2, factors=factors[::-1], quantiles=quantiles)
    effect = trained.get_perturbation_effect(control, target="stimulated", model_error=error)
    of_type = effect[effect["group"] == "type_2"].set_index("variable")
    predicted = trained.predict_perturbation(control, target="stimulated")
    predicted = predicted[predicted.obs["cell_type"] == "type_2"]
    p = predicted.X.toarray()
    variance = np.log1p(1e4 * p / p.sum(1, keepdims=True)).var(0, ddof=1)
    model = factors**2 * (0.1**2 + (0.3 * of_type["change"]) ** 2 + 0.2**2 * variance)
    margin = quantiles[89] * np.sqrt(2 * variance / len(p) + model)
    np.testing.assert_allclose(of_type["change_upper"], of_type["change"] + margin, rtol=1e-4, atol=1e-4)
    broken = tv.benchmark.ModelError(0.1, 0.3, factors=factors * np.nan)
    with pytest.raises(ValueError, match="`model_error.factors` from 0"):
        trained.get_perturbation_effect(control, target="stimulated", model_error=broken)
    elsewhere = tv.benchmark.ModelError(0.1, 0.3, factors=factors.rename(lambda name: f"other {name}"))
    with pytest.raises(KeyError, match="same gene names"):
        trained.get_perturbation_effect(control, target="stimulated", model_error=elsewhere)


def test_effect_groups_and_targets(adata):
    model = make_trained(adata)
    assert set(model.get_perturbation_effect(target="stimulated")["group"]) == {"all"}
    by_donor = model.get_perturbation_effect(target="all", groupby="donor", source="control")
    assert set(by_donor["group"]) == {"a", "b", "c"}
    assert set(by_donor["target"]) == {"control", "stimulated"}
    assert (by_donor.loc[by_donor["target"] == "control", "change"] == 0).all()
    one = model.get_perturbation_effect(adata[:1], target="stimulated")
    assert one["change_lower"].isna().all()
    assert one["change"].notna().all()
    adata.obs.loc[adata.obs_names[:3], "donor"] = None
    with pytest.raises(ValueError, match="missing for 3"):
        model.get_perturbation_effect(adata, target="stimulated", groupby="donor")
    with pytest.raises(ValueError, match="`pseudocount`"):
        model.get_perturbation_effect(target="stimulated", pseudocount=-1.0)
    with pytest.raises(KeyError, match="groupby='nope'"):
        model.get_perturbation_effect(target="stimulated", groupby="nope")
    with pytest.raises(ValueError, match="`level`"):
        model.get_perturbation_effect(target="stimulated", level=90)
    with pytest.raises(ValueError, match="a ModelError or two numbers"):
        model.get_perturbation_effect(target="stimulated", model_error=0.1)
    with pytest.raises(ValueError, match="`model_error.share`"):
        model.get_perturbation_effect(target="stimulated", model_error=(0.0, -1.0))


def test_effect_with_mse_is_on_the_input_scale(adata):
    adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, gene_likelihood="mse")
    effect = model.get_perturbation_effect(adata, target="stimulated", source="control")
    prediction = model.predict_perturbation(adata, target="stimulated", source="control")
    given = adata[adata.obs["condition"] == "control"]
    assert effect["log_fc"].isna().all()
    np.testing.assert_allclose(effect["change"], prediction.X.mean(0) - given.X.mean(0), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="no `normalize_to` with values that are no counts"):
        model.get_perturbation_effect(target="stimulated", normalize_to=1e4)


def test_mmd_representation(trained, small):
    y = trained.get_mmd_representation(small.adata)
    assert y.shape == (400, 32)
    assert (y >= 0).all()
    np.testing.assert_array_equal(y, trained.get_mmd_representation(small.adata))
    z = torch.tensor(trained.get_latent_representation(small.adata.copy()))
    codes = torch.tensor((small.adata.obs["condition"] == "stimulated").to_numpy().astype(int))
    with torch.inference_mode():
        expected = trained.module.decoder.first_layer(z, [codes], None).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    some = trained.get_mmd_representation(small.adata, indices=[3, 1])
    np.testing.assert_allclose(some, y[[3, 1]], rtol=1e-4, atol=1e-5)


def test_cells_that_have_the_target_already_are_said_to_count_as_unchanged(trained, adata):
    n = int((adata.obs["condition"] == "stimulated").sum())
    with pytest.warns(UserWarning, match=rf"{n} of {adata.n_obs} cells were measured under a target already"):
        trained.get_perturbation_effect(adata, target="stimulated")


def test_a_mudata_is_refused_with_what_to_pass_instead(trained):
    class MuData:
        mod = {}

    with pytest.raises(TypeError, match=r"found MuData. Pass one of its modalities, e.g. `mdata\['rna'\]`"):
        trained.predict_perturbation(MuData(), target="stimulated")


def test_several_columns_of_the_labels_name_are_refused(trained, control):
    control.obs = pd.concat([control.obs, control.obs[["cell_type"]]], axis=1)
    for answer in (trained.predict_perturbation, trained.get_perturbation_effect):
        with pytest.raises(ValueError, match="2 columns 'cell_type'"):
            answer(control, target="stimulated")
    with pytest.raises(ValueError, match="2 columns 'cell_type'"):
        trained.get_mmd_representation(control)


@pytest.mark.parametrize("method", ["counterfactual", "sample"])
def test_draws_of_several_seeds_are_those_of_each(trained, control, method):
    """Cells are decoded once for all of them."""
    predictor = Predictor.of(trained)
    cells = predictor.cells(control, batch_size=50)
    targets = dict(zip(trained.get_state_registry("batch").categorical_mapping, (0, 1), strict=True))
    request = Request(method=method, seed=3)
    together = [(x, list(drawn)) for x, drawn in predictor.draws(cells, targets, request, [3, 8])]
    for place, seed in enumerate((3, 8)):
        alone = list(predictor.blocks(cells, targets, replace(request, seed=seed)))
        assert len(alone) == len(together) > 1
        for (x, drawn), (own, predicted) in zip(together, alone, strict=True):
            np.testing.assert_array_equal(x, own)
            for name, values in predicted.items():
                found = [cells_of for target, cells_of in drawn if target == name][place]
                assert (found != values).nnz == 0
