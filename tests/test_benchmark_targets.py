"""Conditions held out altogether: what methods are shown, the baselines, and that scores are those of the metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import trvae_scvi as tv
from trvae_scvi.benchmark import TARGET_BASELINES, TargetHoldOut, leave_one_target_out
from trvae_scvi.metrics import comparison_matrix, headline_skill


@pytest.fixture(scope="module")
def simulated():
    return tv.datasets.simulate_conditions(1800, 60, n_conditions=12, seed=2)


def arguments(simulated, **more):
    return {
        "condition_features": simulated.features,
        "control": "control",
        "targets": ["condition_2"],
        "progress_bar": False,
        **more,
    }


class Recorder:
    """A method that keeps what it was given and predicts the control cells."""

    def __init__(self):
        self.given = []

    def __call__(self, holdout):
        self.given.append(holdout)
        return dict.fromkeys(holdout.targets, holdout.control)


# ---- what methods see


def test_methods_see_no_cell_of_the_target_and_not_the_control_cells_set_aside(simulated):
    method = Recorder()
    leave_one_target_out(simulated.adata, methods={"it": method}, group_key="cell_type", **arguments(simulated))
    (holdout,) = method.given
    assert isinstance(holdout, TargetHoldOut)
    assert "condition_2" not in set(holdout.training.obs["condition"])
    assert set(holdout.training.obs["condition"]) | {"condition_2"} == set(simulated.adata.obs["condition"])
    control = simulated.adata[(simulated.adata.obs["condition"] == "control").to_numpy()]
    share = holdout.control.n_obs / control.n_obs
    assert 0.45 < share < 0.75
    assert set(holdout.control.obs_names) < set(control.obs_names)
    assert set(holdout.control.obs_names) == set(
        holdout.training.obs_names[holdout.training.obs["condition"] == "control"]
    )
    assert "condition_2" in holdout.features.index


def test_folds_hide_several_at_a_time_and_every_target_once(simulated):
    method = Recorder()
    table = leave_one_target_out(
        simulated.adata, methods={"it": method}, n_folds=3, **arguments(simulated, targets=None)
    )
    hidden = [target for holdout in method.given for target in holdout.targets]
    measured = sorted(set(simulated.adata.obs["condition"]) - {"control"})
    assert sorted(hidden) == measured
    assert len(method.given) == 3
    assert sorted(table["target"].unique()) == measured


def test_the_data_are_not_changed(simulated):
    before = simulated.adata.copy()

    def vandal(holdout):
        holdout.training.X[:] = 0
        holdout.features.iloc[:] = 0
        return dict.fromkeys(holdout.targets, holdout.control)

    leave_one_target_out(simulated.adata, methods={"it": vandal}, **arguments(simulated))
    assert (simulated.adata.X != before.X).nnz == 0
    assert simulated.features.to_numpy()[1:].any()


# ---- scores


def test_no_change_and_mean_response_have_no_skill_and_a_copy_of_no_change_scores_alike(simulated):
    table = leave_one_target_out(simulated.adata, methods={"it": Recorder()}, **arguments(simulated))
    skills = {name: headline_skill(rows) for name, rows in table.groupby("method")}
    assert skills["no change"] <= 0
    assert skills["mean response"] <= 0
    assert skills["noise ceiling"] > 0.9
    mine, theirs = (
        table.loc[table["method"] == name, ["genes", "metric", "value"]].reset_index(drop=True)
        for name in ("it", "no change")
    )
    pd.testing.assert_frame_equal(mine, theirs)


def test_groups_are_scored_apart(simulated):
    table = leave_one_target_out(
        simulated.adata, methods={"it": Recorder()}, group_key="cell_type", **arguments(simulated)
    )
    assert set(table["group"]) == {"type_1", "type_2", "type_3"}
    table = table[(table["method"] == "it") & (table["genes"] == "all") & (table["metric"] == "mse_means")]
    assert table["value"].nunique() == 3


def test_the_network_is_better_than_what_needs_none(simulated):
    method = tv.benchmark.TRVAETargetMethod({"n_hidden": 32}, {"max_epochs": 40, "accelerator": "cpu"})
    table = leave_one_target_out(
        simulated.adata, methods={"trVAE": method}, **arguments(simulated, targets=["condition_2", "condition_5"])
    )
    error = table[(table["metric"] == "mse_means") & (table["genes"] == "all")].groupby("method")["value"].mean()
    assert error["trVAE"] < 0.9 * min(error["no change"], error["mean response"])
    assert tv.benchmark.summarize(table)["method"].tolist()[0] == "trVAE"


# ---- baselines


def test_baselines_know_what_they_are_told():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((30, 4))
    effects = rng.standard_normal((4, 7))
    changes, asked = table @ effects, rng.standard_normal(4)
    found = {name: function(table, changes, asked) for name, function in TARGET_BASELINES.items()}
    np.testing.assert_allclose(found["linear"], asked @ effects, atol=1e-10)
    np.testing.assert_allclose(found["ridge"], asked @ effects, atol=0.01)
    np.testing.assert_allclose(found["mean response"], changes.mean(axis=0))
    assert not found["no change"].any()
    order = np.argsort(((table - asked) ** 2).sum(axis=1))[:3]
    np.testing.assert_allclose(found["nearest conditions"], changes[order].mean(axis=0))
    assert np.isnan(found["interpolation"]).all()


def test_ridge_starts_from_what_all_conditions_share():
    rng = np.random.default_rng(0)
    table, asked, shared = rng.standard_normal((20, 5)), rng.standard_normal(5), 3.0 * rng.standard_normal(50)
    changes = shared + 0.3 * rng.standard_normal((20, 50))
    found = TARGET_BASELINES["ridge"](table, changes, asked)
    assert ((found - shared) ** 2).mean() < 0.05 * (shared**2).mean()


def test_conditions_of_a_few_cells_do_not_count_in_the_baselines(simulated):
    rows = simulated.adata.obs["condition"].ne("condition_5").to_numpy(copy=True)
    rows[np.flatnonzero(~rows)[:2]] = True
    few = simulated.adata[rows]
    without = few[few.obs["condition"].ne("condition_5").to_numpy()]
    tables = [
        leave_one_target_out(cells, methods={"it": Recorder()}, **arguments(simulated)) for cells in (few, without)
    ]
    mine, theirs = (
        table[table["method"].isin(TARGET_BASELINES)].drop(columns="seed").reset_index(drop=True) for table in tables
    )
    pd.testing.assert_frame_equal(mine, theirs)


def test_ridge_shrinks_where_descriptions_say_nothing():
    rng = np.random.default_rng(0)
    table, changes, asked = rng.standard_normal((20, 15)), rng.standard_normal((20, 50)), rng.standard_normal(15)
    found = {name: TARGET_BASELINES[name](table, changes, asked) for name in ("linear", "ridge")}
    assert np.abs(found["ridge"]).mean() < 0.3 * np.abs(found["linear"]).mean()


def test_interpolation_is_between_neighbouring_doses_of_the_same_drug():
    table = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    changes = np.array([[1.0], [5.0], [100.0]])
    of = {dose: TARGET_BASELINES["interpolation"](table, changes, np.array([dose, 0.0]))[0] for dose in (0.5, 2, 9)}
    assert of == pytest.approx({0.5: 0.5, 2: 3.0, 9: 5.0})


def test_additive_pairs_are_the_sum_of_their_factors():
    table = tv.features.combination_features(["A", "B", "C"], control="ctrl").loc[["A", "B", "C"]].to_numpy()
    changes = np.eye(3)
    np.testing.assert_allclose(TARGET_BASELINES["linear"](table, changes, np.array([1.0, 1.0, 0.0])), [1, 1, 0])


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"condition_key": "nothing"}, KeyError, "not found"),
        ({"control": "condition_1"}, ValueError, "features are all 0"),
        ({"targets": ["condition_99"]}, ValueError, r"found \['condition_99'\]"),
        ({"targets": []}, ValueError, "Expected `targets`"),
        ({"targets": "condition_99"}, ValueError, r"found \['condition_99'\]"),
        ({"targets": ["condition_1", "condition_1"]}, ValueError, "different `targets`"),
        ({"group_key": "nothing"}, KeyError, "group_key"),
        ({"n_folds": 1}, ValueError, "n_folds"),
        ({"seeds": []}, ValueError, "seeds"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(simulated, change, error, match):
    method = Recorder()
    with pytest.raises(error, match=match):
        leave_one_target_out(simulated.adata, methods={"it": method}, **arguments(simulated, **change))
    assert method.given == []


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (lambda holdout: {}, "'it' to give predicted cells for each of"),
        (lambda holdout: holdout.control, "'it' to give predicted cells for each of"),
        (lambda holdout: {"condition_2": holdout.control[:3]}, "'it' to predict"),
    ],
)
def test_a_method_that_answers_something_else_is_named(simulated, answer, match):
    with pytest.raises(ValueError, match=match):
        leave_one_target_out(simulated.adata, methods={"it": answer}, **arguments(simulated))


def test_two_conditions_are_too_few_to_learn_from(simulated):
    some = simulated.adata[simulated.adata.obs["condition"].isin(["control", "condition_1", "condition_2"])]
    with pytest.raises(ValueError, match="two conditions or more"):
        leave_one_target_out(some, methods={"it": Recorder()}, **arguments(simulated))


def test_values_that_are_normalised_are_compared_as_they_are(simulated):
    adata = simulated.adata.copy()
    adata.X = comparison_matrix(adata)
    with pytest.raises(ValueError, match="counts"):
        leave_one_target_out(adata, methods={"it": Recorder()}, **arguments(simulated))
    table = leave_one_target_out(adata, methods={"it": Recorder()}, counts=False, **arguments(simulated))
    assert table["value"].notna().any()


# ---- what cannot be scored, and what is refused before anything is run


def unlike(name, simulated):
    """A wrong prediction by its name."""

    def predict(holdout):
        cells = {
            "other genes": holdout.control[:, ::-1].copy(),
            "not finite": np.full(holdout.control.shape, np.nan),
            "no cells": holdout.control.X.toarray().tolist(),
        }
        return dict.fromkeys(holdout.targets, cells[name])

    return predict


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [("other genes", ValueError, "genes"), ("not finite", ValueError, "finite"), ("no cells", TypeError, "AnnData")],
)
def test_a_wrong_prediction_is_refused(simulated, name, error, match):
    with pytest.raises(error, match=match):
        leave_one_target_out(simulated.adata, methods={"it": unlike(name, simulated)}, **arguments(simulated))


@pytest.mark.parametrize(
    ("methods", "error"),
    [({"ridge": Recorder()}, ValueError), ({"noise ceiling": Recorder()}, ValueError), ({"it": 1}, TypeError)],
)
def test_methods_are_checked_before_one_is_run(simulated, methods, error):
    first = Recorder()
    with pytest.raises(error, match="methods"):
        leave_one_target_out(simulated.adata, methods={"first": first, **methods}, **arguments(simulated))
    assert not first.given


def test_groups_without_cells_are_skipped_and_told(simulated, caplog):
    obs = simulated.adata.obs
    gone = (obs["condition"] == "condition_2") & (obs["cell_type"] == "type_1")
    fewer = simulated.adata[~gone.to_numpy()].copy()
    given = arguments(simulated, group_key="cell_type", methods={"it": Recorder()})
    table = leave_one_target_out(fewer, **given)
    assert set(table["group"]) == {"type_2", "type_3"}
    assert [(row["group"], row["target"]) for row in table.attrs["skipped"]] == [("type_1", "condition_2")]
    assert "type_1 under condition_2" in caplog.text
    # a group that has seen nothing but what is hidden
    seen = (obs["cell_type"] != "type_1") | obs["condition"].isin(["control", "condition_2"])
    table = leave_one_target_out(simulated.adata[seen.to_numpy()].copy(), **given)
    assert set(table["group"]) == {"type_2", "type_3"}
    assert "no other condition to learn from" in table.attrs["skipped"][0]["reason"]
    fewer.obs["cell_type"] = [f"group_{i // 12}" for i in range(fewer.n_obs)]
    method = Recorder()
    with pytest.raises(ValueError, match="found none"):
        leave_one_target_out(fewer, **{**given, "methods": {"it": method}})
    assert not method.given


@pytest.mark.parametrize("method", [tv.benchmark.TRVAEMethod, tv.benchmark.TRVAETargetMethod])
@pytest.mark.parametrize(("likelihood", "prediction"), [("bernoulli", "counterfactual"), ("mse", "sample")])
def test_a_prediction_that_a_likelihood_has_not_is_refused_before_training(method, likelihood, prediction):
    with pytest.raises(ValueError, match=prediction):
        method({"gene_likelihood": likelihood}, prediction=prediction)


# ---- summaries


def test_a_baseline_that_does_not_apply_has_no_skill(simulated):
    table = leave_one_target_out(simulated.adata, methods={"it": Recorder()}, **arguments(simulated))
    rows = table[table["method"] == "interpolation"]
    assert rows[["value", "skill"]].isna().all(axis=None)
    assert rows["note"].str.contains("no doses").all()
    assert np.isnan(headline_skill(rows))


def test_summaries_know_the_trivial_predictions_of_hidden_conditions(simulated):
    some = arguments(simulated, targets=["condition_1", "condition_2", "condition_5", "condition_7"])
    table = leave_one_target_out(simulated.adata, methods={"it": Recorder()}, **some)
    summary = tv.benchmark.summarize(table).set_index("method")
    assert (summary.loc[["it", "no change", "mean response"], "above_trivial"] == 0).all()
    # all cells are one group: the interval is for other targets
    own = tv.benchmark.holdout_skills(table).set_index("method").loc["ridge", "skill"]
    assert summary.loc["ridge", "skill"] == pytest.approx(own.fillna(0).mean())
    assert summary.loc["ridge", "upper"] - summary.loc["ridge", "lower"] > own.std()
    ranges = tv.benchmark.metric_ranges(table)
    rows = (table["method"] == "mean response") & (table["genes"] == "all") & (table["metric"] == "mse_means")
    found = ranges[(ranges["genes"] == "all") & (ranges["metric"] == "mse_means")]
    assert found["mean_shift"].item() == pytest.approx(table.loc[rows, "value"].mean())
    assert np.isfinite(found["range"]).all()
    assert tv.pl.score_heatmap_frame(table).index[-3:].tolist() == ["no change", "mean response", "noise ceiling"]
