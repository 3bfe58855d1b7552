"""The prior of what conditions do: learned from the right means, before training, and kept by what follows."""

import anndata
import numpy as np
import pytest
import torch
from helpers import FAST, make_trained
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi.data._group_means import _drawn, output_rates, shares_beyond_cell_types

LABELS = {"labels_key": "cell_type"}


@pytest.fixture(scope="module")
def cells():
    return tv.datasets.simulate_perturbation(n_cells=900, n_genes=60, n_types=3).adata


def trained(cells, setup=LABELS, train=None, **model):
    return make_trained(cells, setup, {"max_epochs": 2, **(train or {})}, **model)


def groups_of(adata, labels):
    conditions = adata.obs["condition"].astype("category")
    kinds = adata.obs["cell_type"].astype("category") if labels else None
    for s, condition in enumerate(conditions.cat.categories):
        for k, label in enumerate(kinds.cat.categories if labels else [None]):
            yield s, k, ((conditions == condition) & (True if label is None else kinds == label)).to_numpy()


def rates_of(model, n_labels):
    """Of every condition and label."""
    labels = model.adata_manager.get_from_registry("labels").ravel() if n_labels > 1 else np.zeros(model.adata.n_obs)
    return output_rates(model.adata_manager, model.module.likelihood, labels.astype(int), (2, n_labels))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("likelihood", ["nb", "mse", "bernoulli"])
def test_means_and_their_errors_are_those_of_the_values(cells, likelihood, labels):
    cells = cells.copy()
    counts = cells.X.toarray()
    if likelihood != "nb":
        cells.X = np.log1p(counts)
        cells.X = cells.X / (cells.X.max() if likelihood == "bernoulli" else 1.0)
    model = trained(cells, LABELS if labels else {}, gene_likelihood=likelihood)
    found = rates_of(model, 3 if labels else 1)
    values = counts / counts.sum(axis=1, keepdims=True) if likelihood == "nb" else cells.X
    function = {"nb": lambda m: m, "mse": np.ones_like, "bernoulli": lambda m: m * (1 - m)}[likelihood]
    ratios = []
    for s, k, own in groups_of(cells, labels):
        mean, error = values[own].mean(axis=0), values[own].var(axis=0, ddof=1) / own.sum()
        assert found.n[s, k] == own.sum()
        np.testing.assert_allclose(found.mean[s, k], mean, rtol=1e-5, atol=1e-7)
        variance = found.unit[s, k] * found.scale[k] * function(mean) + found.dispersion[k] * mean**2 / own.sum()
        ratios.append(variance / error)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.1)
    assert (found.scale > 0).all()


def test_with_size_factors_means_are_multiples_of_them(cells):
    cells = cells.copy()
    cells.obs["factor"] = np.random.default_rng(0).uniform(0.5, 2.0, cells.n_obs)
    found = rates_of(trained(cells, {"size_factor_key": "factor"}), 1)
    assert found.link == "softplus"
    multiples = cells.X.toarray() / cells.obs["factor"].to_numpy()[:, None]
    for s, k, own in groups_of(cells, labels=False):
        np.testing.assert_allclose(found.mean[s, k], multiples[own].mean(axis=0), rtol=1e-5)


def test_dense_sparse_and_pieces_give_one_result(cells, monkeypatch):
    dense = cells.copy()
    dense.X = dense.X.toarray()
    column = cells.copy()
    column.X = sparse.csc_matrix(column.X)
    found = []
    for adata, rows in ((cells, 4096), (dense, 100), (column, 7)):
        model = trained(adata)
        monkeypatch.setattr("trvae_scvi.data._values._ROWS", rows)
        found.append(rates_of(model, 3))
        monkeypatch.undo()
    for other in found[1:]:
        for mine, theirs in zip(found[0][:4], other[:4], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("n", [(200, 10), (300, 3)])
@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_few_cells_of_a_condition_are_no_effect(cells, likelihood, n):
    """Two names for one condition, one of them given to few cells of every label."""
    cells = cells[cells.obs["condition"] == "control"].copy()
    rng = np.random.default_rng(0)
    cells = cells[rng.integers(0, cells.n_obs, 3 * sum(n))].copy()
    cells.obs_names_make_unique()
    cells.X = rng.poisson(cells.X.toarray()).astype(np.float32)
    if likelihood == "mse":
        cells.X = np.log1p(cells.X / cells.X.sum(axis=1, keepdims=True) * 1e4)
    cells.obs["condition"] = np.where(np.arange(cells.n_obs) < 3 * n[0], "control", "same")
    model = trained(cells, train={"plan_kwargs": {"lr": 1e-9}}, gene_likelihood=likelihood)
    offset = model.module.decoder.output.offset.weight.detach()
    assert (offset[1] - offset[0]).square().mean().sqrt() < 0.1


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_every_output_layer_has_the_prior_and_the_means_start_at_its_answer(cells, likelihood):
    model = trained(cells, train={"plan_kwargs": {"lr": 1e-9}}, gene_likelihood=likelihood)
    layers = model.module.decoder.condition_layers()
    assert len(layers) == (2 if likelihood == "zinb" else 1)
    for layer in layers:
        assert torch.isfinite(layer.offset.scale).all() and (layer.offset.scale > 0).all()
    difference = (layers[0].offset.weight[1] - layers[0].offset.weight[0]).detach().numpy()
    assert np.abs(difference).max() > 0.2
    values, change = tv.metrics.comparison_matrix(cells), 0.0
    for kind in cells.obs["cell_type"].unique():
        means = [
            values[((cells.obs["cell_type"] == kind) & (cells.obs["condition"] == name)).to_numpy()].mean(axis=0)
            for name in ("control", "stimulated")
        ]
        change = change + means[1] - means[0]
    assert np.corrcoef(difference, change)[0, 1] > 0.9


def test_a_second_training_and_a_query_keep_the_prior(cells):
    model = trained(cells)
    scale = model.module.decoder.output.offset.scale.clone()
    model.train(**FAST)
    assert torch.equal(model.module.decoder.output.offset.scale, scale)
    query = cells.copy()
    query.obs["condition"] = query.obs["condition"].astype(str).replace("stimulated", "new")
    mapped = tv.TRVAE.load_query_data(query, model)
    grown = mapped.module.decoder.output.offset.scale
    assert torch.equal(grown[:2], scale)
    torch.testing.assert_close(grown[2], scale.square().mean(dim=0).sqrt())  # as large as what the others did
    mapped.train(**FAST)
    assert torch.equal(mapped.module.decoder.output.offset.scale, grown)


def test_what_was_saved_before_there_were_priors_answers_as_it_did(cells, tmp_path):
    model = trained(cells)
    layer = model.module.decoder.output
    layer.offset.scale.fill_(torch.inf)
    layer.centre.zero_()
    layer.n_seen.zero_()
    expected = model.predict_perturbation(cells, target="stimulated").X.toarray()
    model.save(tmp_path / "model")
    saved = torch.load(tmp_path / "model" / "model.pt", weights_only=False)
    for name in ("offset.scale", "centre", "n_seen"):
        del saved["model_state_dict"][f"decoder.output.{name}"]
    torch.save(saved, tmp_path / "model" / "model.pt")
    again = tv.TRVAE.load(tmp_path / "model", cells)
    np.testing.assert_array_equal(again.predict_perturbation(cells, target="stimulated").X.toarray(), expected)


def test_there_is_none_in_the_first_layer(cells):
    assert trained(cells, condition_layer="first").module.decoder.condition_layers() == []


def test_a_prediction_says_of_how_many_cells_other_labels_decided(cells):
    hidden = ((cells.obs["cell_type"] == "type_1") & (cells.obs["condition"] == "stimulated")).to_numpy()
    model = trained(cells[~hidden].copy())
    control = cells[(cells.obs["condition"] == "control").to_numpy()]
    said = model.predict_perturbation(control, target=["stimulated", "control"]).uns["trvae"]
    n = int((control.obs["cell_type"] == "type_1").sum())
    assert said["n_drawn_to_other_labels"].tolist() == [n, 0]
    assert said["target_measured"].tolist() == ["some", "yes"]
    levels, model.levels_ = model.levels_, None
    plain = model.predict_perturbation(control, target="stimulated").uns["trvae"]
    assert plain["n_drawn_to_other_labels"].tolist() == [0] and plain["model"] != said["model"]
    model.levels_ = levels


def test_where_means_of_labels_are_too_many_labels_count_as_one(cells, monkeypatch):
    monkeypatch.setattr("trvae_scvi.data._strata._MOST_MEANS", 2 * 60)
    hidden = ((cells.obs["cell_type"] == "type_1") & (cells.obs["condition"] == "stimulated")).to_numpy()
    with pytest.warns(UserWarning, match="2 conditions, 3 labels and 60 genes are more than fit into memory"):
        model = trained(cells[~hidden].copy())
    assert model.levels_ is None
    assert torch.isfinite(model.module.decoder.output.offset.scale).all()


def test_a_training_without_a_step_is_refused_and_leaves_nothing_behind(cells):
    cells = cells.copy()
    tv.TRVAE.setup_anndata(cells, **LABELS)
    model = tv.TRVAE(cells, n_hidden=32)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.raises(ValueError, match="Nothing was trained"):
        model.train(max_epochs=1, max_steps=0, enable_progress_bar=False)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not model.is_trained_ and model.levels_ is None


def test_without_labels_other_shares_of_cell_types_are_no_start():
    """Two types far apart in other shares, and nothing else, or a change of genes that tell no types apart."""
    rng = np.random.default_rng(0)
    kinds, conditions = np.repeat([0, 1], 500), np.tile([0, 1], 500)
    kinds[(conditions == 1) & (rng.random(1000) < 0.6)] = 1
    means = np.exp(rng.normal(1.0, 0.3, 60)) * np.exp(np.outer(kinds, np.r_[rng.normal(0, 1.5, 30), np.zeros(30)]))
    changed = means * np.exp(np.outer(conditions, np.r_[np.zeros(30), rng.normal(0, 1.0, 30)]))
    starts = []
    for mu in (means, changed):
        adata = anndata.AnnData(sparse.csr_matrix(rng.poisson(mu).astype(np.float32)))
        adata.obs["condition"] = np.where(conditions == 1, "b", "a")
        model = trained(adata, {}, train={"plan_kwargs": {"lr": 1e-9}})
        shares = shares_beyond_cell_types(model.adata_manager, model.module.likelihood, 2)
        offset = model.module.decoder.output.offset
        starts.append((shares, float(offset.weight.detach().abs().max())))
        assert torch.isfinite(offset.scale).all() and offset.scale.max() > 0.1
    assert (starts[0][0] < 0.1).all() and starts[0][1] < 0.1
    assert (starts[1][0] > 0.3).all() and starts[1][1] > 0.3


def donors_and_conditions(n=3000, seed=0):
    """Of no effect at all: donors of very different genes, of which half are nearly all stimulated."""
    rng = np.random.default_rng(seed)
    donors, labels = rng.integers(0, 8, n), rng.integers(0, 3, n)
    stimulated = rng.random(n) < np.where(donors < 4, 0.05, 0.95)
    means = np.exp(rng.normal(1.0, 0.5, (3, 60)))[labels] * np.exp(rng.normal(0.0, 0.5, (9, 60)))[donors]
    obs = {"condition": np.where(stimulated, "stimulated", "control"), "donor": donors, "cell_type": labels}
    adata = anndata.AnnData(sparse.csr_matrix(rng.poisson(means).astype(np.float32)))
    for name, values in obs.items():
        adata.obs[name] = values.astype(str)
    return adata


@pytest.mark.parametrize("more", ["nothing", "a condition of another donor", "a nested covariate"])
def test_what_donors_differ_by_is_no_effect_whatever_else_is_nested(more):
    adata, keys = donors_and_conditions(), ["donor"]
    if more == "a condition of another donor":
        third = np.random.default_rng(1).random(adata.n_obs) < 0.1
        adata.obs.loc[third, "condition"], adata.obs.loc[third, "donor"] = "third", "8"
    if more == "a nested covariate":
        adata.obs["chip"] = adata.obs["condition"] + np.random.default_rng(1).integers(0, 2, adata.n_obs).astype(str)
        keys = ["chip", "donor"]
    contrasts = []
    for covariates in (keys, None):
        model = trained(adata, {**LABELS, "categorical_covariate_keys": covariates}, {"plan_kwargs": {"lr": 1e-9}})
        offset = model.module.decoder.output.offset
        assert torch.isfinite(offset.scale).all()
        contrasts.append(float((offset.weight[1] - offset.weight[0]).detach().square().mean().sqrt()))
    assert contrasts[0] < 0.02 < 0.2 < contrasts[1]


def test_a_query_gets_the_typical_prior_of_the_conditions_that_have_one(cells):
    adata = cells.copy()
    alone = (adata.obs["cell_type"] == "type_1").to_numpy()
    adata.obs["condition"] = np.where(alone, "alone", adata.obs["condition"].astype(str))
    model = trained(adata)
    scale = model.module.decoder.output.offset.scale
    assert torch.isinf(scale[0]).all() and torch.isfinite(scale[1:]).all()
    query = adata.copy()
    query.obs["condition"] = "new"
    grown = tv.TRVAE.load_query_data(query, model).module.decoder.output.offset.scale
    torch.testing.assert_close(grown[3], scale[1:].square().mean(dim=0).sqrt())


def test_cells_to_tell_shares_from_effects_are_drawn_of_every_condition():
    conditions = np.repeat([0, 1, 2], [20_000, 40, 900])
    drawn = np.bincount(conditions[_drawn(conditions, 2_000)])
    assert drawn[1] == 40 and drawn[2] == 900 and 900 <= drawn[0] <= 1_060
    assert len(_drawn(conditions[:50], 2_000)) == 50


@pytest.mark.parametrize("setup", [LABELS, {}])
@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_dense_values_of_the_caller_are_left_as_they_are(cells, setup, likelihood):
    cells = cells.copy()
    cells.X = cells.X.toarray() if likelihood == "nb" else np.log1p(cells.X.toarray())
    before = cells.X.copy()
    tv.TRVAE.setup_anndata(cells, **setup)
    tv.TRVAE(cells, n_hidden=16, gene_likelihood=likelihood).train(**FAST)
    np.testing.assert_array_equal(cells.X, before)
