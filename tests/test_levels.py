"""Labels under conditions that they were not measured under: drawn towards what groups share, as far as they do."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from helpers import FAST, assert_same_cells, make_trained
from lightning.pytorch import Callback

import trvae_scvi as tv
from trvae_scvi._math._kriging import deviation_of_new_label
from trvae_scvi._math._mixed_model import GroupMeans, fit_mixed_model
from trvae_scvi.data._cells import AnnDataCells
from trvae_scvi.data._group_means import label_means
from trvae_scvi.data._strata import comparable
from trvae_scvi.predict._find_levels import _measure, _Missing, _missing, _wanted_change, find_levels
from trvae_scvi.predict._levels import Levels
from trvae_scvi.predict._predictor import Predictor
from trvae_scvi.predict._request import Request

LABELS = {"labels_key": "cell_type"}


@pytest.fixture(scope="module")
def cells():
    """Of four types, the first one never stimulated."""
    adata = tv.datasets.simulate_perturbation(n_cells=800, n_genes=60, n_types=4).adata
    hidden = (adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "stimulated")
    return adata[~hidden.to_numpy()].copy()


@pytest.fixture(scope="module")
def model(cells):
    return make_trained(cells, LABELS, {"max_epochs": 20})


def control_of(model, label):
    obs = model.adata.obs
    return model.adata[((obs["cell_type"] == label) & (obs["condition"] == "control")).to_numpy()]


def test_levels_are_looked_up_by_label_own_condition_and_target():
    levels = Levels(np.array([[1, 0, 2], [3, 0, 2], [1, 1, 0]]), np.arange(6, dtype=np.float32).reshape(3, 2))
    found = levels.of(np.array([3, -1, 1, 1]), np.array([0, 0, 0, 1]), 2)
    np.testing.assert_array_equal(found, [[2, 3], [0, 0], [0, 1], [0, 0]])
    assert levels.of(np.array([3, 3]), np.array([0, 0]), 1) is None


def test_what_is_missing_is_asked_of_every_condition_if_there_are_few_and_of_the_largest_if_many():
    few = np.array([[30, 30, 5], [20, 0, 20], [0, 9, 20]])  # conditions x labels
    found = [tuple(each) for each in _missing(few)]
    assert found == [(0, 0, [2]), (0, 1, [2]), (1, 0, [1])]  # 9 and 5 cells are too few to go by
    many = np.zeros((1002, 2), dtype=int)
    many[:, 0], many[0, 1], many[1, 1] = 12, 20, 30
    assert [tuple(each) for each in _missing(many)] == [(1, 1, list(range(2, 1002)))]
    assert list(_missing(np.array([[30, 30], [0, 0]]))) == []  # nothing to learn from
    apart = np.array([[30, 0, 30], [30, 0, 0], [0, 30, 0], [0, 30, 30], [0, 0, 0]])
    assert [tuple(each) for each in _missing(apart[:, :2])] == []  # no label connects the pairs
    assert (0, 0, [2, 3]) in [tuple(each) for each in _missing(apart)]


def test_only_labels_that_were_not_measured_have_levels(model, cells):
    codes = list(model.adata.obs["cell_type"].cat.categories).index("type_1"), 0, 1
    assert model.levels_["triples"].tolist() == [list(codes)]
    assert model.levels_["offsets"].shape == (1, 60)
    assert make_trained(cells).levels_ is None  # without labels
    complete = cells[cells.obs["cell_type"] != "type_1"]
    assert make_trained(complete, LABELS).levels_ is None


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse", "bernoulli"])
def test_the_mean_of_a_label_is_what_the_others_and_the_network_say_in_shares(cells, likelihood):
    cells = cells.copy()
    if likelihood in ("mse", "bernoulli"):
        cells.X = np.log1p(cells.X.toarray())
        cells.X = cells.X / (cells.X.max() if likelihood == "bernoulli" else 1.0)
    model = make_trained(cells, LABELS, {"max_epochs": 20}, gene_likelihood=likelihood)
    predictor = Predictor.of(model)
    if likelihood == "bernoulli":
        with pytest.raises(ValueError, match=r"predict_perturbation\(method='mean'\)"):
            model.get_perturbation_effect(target="stimulated")
    method = "mean" if likelihood == "bernoulli" else "counterfactual"
    asked = Request(method=method, seed=0), 24
    own_cells = AnnDataCells(control_of(model, "type_1"), np.arange(len(control_of(model, "type_1"))), predictor.schema)
    own, network, _ = _measure(replace(predictor, levels=None), own_cells, [1], *asked)
    _, reached, _ = _measure(predictor, own_cells, [1], *asked)
    groups = label_means(model.adata_manager, model.module.likelihood, np.zeros(model.adata.n_obs, int), (2, 4))
    fit = fit_mixed_model(groups)
    label = model.levels_["triples"][0, 0]
    share = 1.0 / fit.n_labels[1]
    assert 0.3 < share < 0.4  # three other types
    lasting = fit.baseline[label] + fit.effect[0] - groups.mean[0, label]
    shared = fit.effect[1] - fit.effect[0]
    others = np.flatnonzero(np.arange(4) != label)
    change, error = groups.mean[1] - groups.mean[0], groups.error.sum(axis=0)
    states = groups.mean[0, [*others, label]]
    apart = deviation_of_new_label(change[others], error[others], shared, fit.between.sum(axis=0), states)
    wanted = own + lasting + shared + 0.5 * apart + 0.5 * (1.0 - share) * (network[0] - own - shared)
    before, after = (np.sqrt(((values[0] - wanted) ** 2).mean()) for values in (network, reached))
    assert after < 0.6 * before  # not all the way: a mean of few cells moves a gene by little


def test_the_network_counts_for_half_where_labels_tell_of_each_other_and_for_all_where_not():
    rng = np.random.default_rng(0)
    n = np.array([[50.0, 50.0, 50.0, 50.0], [0.0, 50.0, 50.0, 50.0], [0.0, 50.0, 1.0, 0.0]])  # conditions x labels
    groups = GroupMeans(rng.normal(size=(3, 4, 5)), np.full((3, 4, 5), 0.01), n)
    fit, of_network = fit_mixed_model(groups), rng.normal(size=(2, 5))
    found = _wanted_change(_Missing(0, 0, [1, 2]), fit, groups, of_network)
    lasting = fit.baseline[0] + fit.effect[0] - groups.mean[0, 0]
    for row, target in enumerate((1, 2)):
        shared = fit.effect[target] - fit.effect[0]
        apart = (1.0 - 1.0 / max(fit.n_labels[target], 1.0)) * (of_network[row] - shared)
        if target == 1:  # the third condition has a single other label
            others = deviation_of_new_label(
                groups.mean[1, 1:] - groups.mean[0, 1:],
                groups.error[1, 1:] + groups.error[0, 1:],
                shared,
                fit.between[0] + fit.between[1],
                groups.mean[0, [1, 2, 3, 0]],
            )
            assert others.any()
            apart = 0.5 * apart + 0.5 * others
        np.testing.assert_allclose(found[row], lasting + shared + apart)


def test_means_of_groups_are_those_of_the_values_compared(model):
    groups = label_means(model.adata_manager, model.module.likelihood, np.zeros(model.adata.n_obs, int), (2, 4))
    obs = model.adata.obs
    values = tv.metrics.comparison_matrix(model.adata)
    for s, condition in enumerate(("control", "stimulated")):
        for k, label in enumerate(obs["cell_type"].cat.categories):
            own = values[((obs["condition"] == condition) & (obs["cell_type"] == label)).to_numpy()]
            assert groups.n[s, k] == len(own)
            if len(own):
                np.testing.assert_allclose(groups.mean[s, k], own.mean(axis=0), rtol=1e-5, atol=1e-6)
                # those of the label under the other condition and of other labels count as much as 20 cells
                np.testing.assert_allclose(groups.error[s, k], own.var(axis=0, ddof=1) / len(own), rtol=0.25, atol=1e-4)


def test_cells_without_a_known_label_are_predicted_as_before(model):
    control = control_of(model, "type_1").copy()
    known = model.predict_perturbation(control, target="stimulated").X.toarray()
    unknown = control.copy()
    unknown.obs["cell_type"] = "never seen"
    without = control.copy()
    del without.obs["cell_type"]
    plain = [model.predict_perturbation(some, target="stimulated").X.toarray() for some in (unknown, without)]
    np.testing.assert_array_equal(*plain)
    assert (plain[0] != known).any()
    measured = control_of(model, "type_2")
    levels, model.levels_ = model.levels_, None
    try:
        np.testing.assert_array_equal(model.predict_perturbation(control, target="stimulated").X.toarray(), plain[0])
        other = model.predict_perturbation(measured, target="stimulated").X.toarray()
    finally:
        model.levels_ = levels
    np.testing.assert_array_equal(model.predict_perturbation(measured, target="stimulated").X.toarray(), other)


def test_levels_are_saved_and_taken_over_by_a_query(model, tmp_path):
    control = control_of(model, "type_1").copy()
    prediction = model.predict_perturbation(control, target="stimulated")
    model.save(tmp_path / "model", save_anndata=True)
    assert_same_cells(tv.TRVAE.load(tmp_path / "model").predict_perturbation(control, target="stimulated"), prediction)
    query = model.adata.copy()
    query.obs["condition"] = query.obs["condition"].astype(str) + "_new"
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(**FAST)
    again = mapped.predict_perturbation(control, target="stimulated")
    np.testing.assert_array_equal(again.X.toarray(), prediction.X.toarray())
    for trained in ("unfrozen", "freeze_expression", "freeze_decoder_first_layer"):  # another network, other levels
        free = tv.TRVAE.load_query_data(query, model, **{trained: trained == "unfrozen"})
        assert free.levels_ is None, trained


def test_levels_do_not_hang_on_the_order_of_cells(cells):
    """But for the draws with which they are found."""
    model = make_trained(cells, LABELS, {"max_epochs": 20})
    control = control_of(model, "type_1").copy()

    def change(levels):
        model.levels_ = levels
        effects = [model.get_perturbation_effect(control, target="stimulated", seed=seed) for seed in range(8)]
        return np.mean([effect["change"] for effect in effects], axis=0)

    first = model.levels_
    shuffled = make_trained(cells[np.random.default_rng(0).permutation(cells.n_obs)], LABELS, {"max_epochs": 1})
    shuffled.module.load_state_dict(model.module.state_dict())
    with_first, with_second, without = (change(levels) for levels in (first, find_levels(shuffled), None))
    corrected = np.sqrt(((with_first - without) ** 2).mean())
    assert np.sqrt(((with_first - with_second) ** 2).mean()) < 0.5 * corrected


class Stop(Callback):
    """The stop button, in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch % FAST["max_epochs"]:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [False, True])
def test_levels_are_those_of_the_network_that_there_is(cells, stopped):
    model = make_trained(cells, LABELS)
    first = model.levels_["offsets"]
    with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
        model.train(**FAST, callbacks=[Stop()] if stopped else [])
    assert not np.array_equal(model.levels_["offsets"], first)
    np.testing.assert_array_equal(model.levels_["offsets"], find_levels(model)["offsets"])


def test_a_donor_is_not_taken_for_an_effect(cells):
    """Nothing happens; nearly all stimulated cells are of the other donor, whose genes are up."""
    cells = cells[cells.obs["condition"] == "control"].copy()
    rng = np.random.default_rng(0)
    stimulated = np.arange(cells.n_obs) % 2 == 1
    other = rng.random(cells.n_obs) < np.where(stimulated, 0.8, 0.2)
    counts = cells.X.toarray()
    counts[:, :10] = rng.poisson(counts[:, :10] * np.where(other, 3.0, 1.0)[:, None])
    cells.X = counts
    cells.obs["condition"] = np.where(stimulated, "stimulated", "control")
    cells.obs["donor"] = np.where(other, "b", "a")
    hidden = (cells.obs["cell_type"] == "type_1") & stimulated
    cells = cells[~hidden.to_numpy()].copy()
    shifts = []
    for keys in (["donor"], None):
        model = make_trained(cells, {**LABELS, "categorical_covariate_keys": keys})
        offset = model.module.decoder.output.offset.weight.detach().numpy()
        groups = label_means(model.adata_manager, model.module.likelihood, comparable(model)[1], (2, 4))
        shared = fit_mixed_model(groups).effect
        shifts.append([np.abs((values[1] - values[0])[:10].mean()) for values in (offset, shared)])
    assert (np.array(shifts[0]) < 0.25 * np.array(shifts[1])).all()
    assert (np.array(shifts[1]) > 0.1).all()


def distances_where_nothing_happens(seed):
    """Of the prediction and of no change to the truth, with two names for one condition."""
    adata = tv.datasets.simulate_perturbation(n_cells=1600, n_genes=100, n_types=4, seed=seed).adata
    adata = adata[adata.obs["condition"] == "control"].copy()
    rng = np.random.default_rng(seed)
    adata.obs["condition"] = np.where(rng.random(adata.n_obs) < 0.5, "control", "nothing")
    keys = {"group_key": "cell_type", "control": "control", "target": "nothing"}
    holdout, truth = tv.benchmark.hold_out(adata, **keys, group="type_2")
    prediction = tv.benchmark.TRVAEMethod({"n_hidden": 32}, {"max_epochs": 40, "batch_size": 128})(holdout)
    real, own, predicted = (tv.metrics.comparison_matrix(x) for x in (truth.real, holdout.control, prediction))
    errors = [((x.mean(axis=0) - real.mean(axis=0)) ** 2).mean() for x in (predicted, own)]
    return [*(tv.metrics.energy_distance(x, real) for x in (predicted, own)), *errors]


def test_where_nothing_happens_the_prediction_is_as_good_as_no_change():
    distance, unchanged, error, unchanged_error = np.mean(
        [distances_where_nothing_happens(s) for s in range(4)], axis=0
    )
    assert distance < unchanged + 0.005
    assert error < 1.02 * unchanged_error


def test_where_no_label_connects_the_conditions_the_network_stands_alone(cells):
    nested = cells.copy()
    nested.obs["cell_type"] = nested.obs["condition"].astype(str) + "_cells"
    assert make_trained(nested, LABELS).levels_ is None
    # the first two conditions share a label, the third none with them
    assert [tuple(each) for each in _missing(np.array([[30, 30, 0], [30, 0, 0], [0, 0, 30]]))] == [(1, 0, [1])]
