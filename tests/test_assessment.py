"""What to expect of a prediction for a group that was not measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import trvae_scvi as tv
from trvae_scvi.benchmark import assess, holdout_skills, leave_one_group_out

KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
ASKED = {**KEYS, "group": "type_1", "target": "stimulated", "methods": {}, "progress_bar": False}


def simulated(**kwargs):
    return tv.datasets.simulate_perturbation(**({"n_cells": 1800, "n_genes": 150, "n_types": 5} | kwargs)).adata


@pytest.fixture(scope="module")
def alike():
    return simulated()


@pytest.fixture(scope="module")
def table(alike):
    return leave_one_group_out(alike, methods={}, progress_bar=False, **KEYS)


@pytest.fixture(scope="module")
def found(alike):
    return assess(alike, **ASKED)


@pytest.mark.parametrize("seed", range(3))
def test_types_that_respond_alike_can_be_predicted(seed):
    found = assess(simulated(seed=seed), **ASKED)
    assert found.verdict == "use"
    best = found.expected.loc[found.recommended]
    assert best["share_of_means"] > 0.5
    assert found.message.startswith(f"Use {found.recommended}: in 4 measured groups")


@pytest.mark.parametrize("seed", range(3))
def test_types_that_respond_in_their_own_way_cannot(seed):
    found = assess(simulated(seed=seed, type_specific=True), **ASKED)
    assert found.verdict == "do not use"
    assert found.message.startswith("Do not use a prediction of type_1")


def test_where_nothing_happens_there_is_no_effect():
    adata = simulated()
    adata = adata[adata.obs["condition"] == "control"].copy()
    drawn = np.random.default_rng(0).choice(["control", "stimulated"], adata.n_obs)
    adata.obs["condition"] = pd.Categorical(drawn)
    found = assess(adata, **ASKED)
    assert found.verdict == "no effect"
    assert "expect no effect on type_1" in found.message


def test_a_right_mean_of_wrong_cells_is_for_means_only(alike, table):
    """As decoder means are: the method predicts means as the ceiling does, and no distribution."""
    best = table[table["method"] == "noise ceiling"].assign(method="means")
    worst = table[table["method"] == "no change"].set_index(["group", "genes", "metric"])
    of_cells = best["metric"].isin(["energy_distance", "mse_stds"])
    rows = best.set_index(["group", "genes", "metric"]).index
    best["skill"] = 0.9
    best.loc[of_cells, "value"] = worst.loc[rows[of_cells], "value"].to_numpy()
    best.loc[of_cells, "skill"] = 0.1
    found = assess(alike, **(ASKED | {"table": pd.concat([table, best], ignore_index=True)}))
    assert found.recommended == "means"
    assert found.verdict == "use means only"
    assert found.message.startswith("Use means, for means only")


def test_a_direction_without_its_size_is_a_direction_only(alike, table):
    best = table[table["method"] == "noise ceiling"].assign(method="direction")
    worst = table[table["method"] == "no change"].set_index(["group", "genes", "metric"])
    other = best["metric"] != "pearson_change"
    rows = best.set_index(["group", "genes", "metric"]).index
    best.loc[other, "value"] = worst.loc[rows[other], "value"].to_numpy()
    best["skill"] = 0.5
    found = assess(alike, **(ASKED | {"table": pd.concat([table, best], ignore_index=True)}))
    assert (found.recommended, found.verdict) == ("direction", "use the direction only")


def test_the_group_s_own_cells_under_the_target_take_no_part(alike, found):
    own = (alike.obs["cell_type"] == "type_1") & (alike.obs["condition"] == "stimulated")
    without = assess(alike[~own].copy(), **ASKED)
    pd.testing.assert_frame_equal(found.expected, without.expected)
    assert found.message == without.message


def test_expectation_and_interval_are_those_of_one_more_group(table, alike):
    found = assess(alike, **(ASKED | {"table": table, "level": 0.9}))
    skills = holdout_skills(table).fillna({"skill": 0.0})
    own = skills[(skills["method"] == "fold change") & (skills["group"] != "type_1")]["skill"]
    row = found.expected.loc["fold change"]
    half = stats.t.ppf(0.95, len(own) - 1) * np.sqrt((own.var() + 0.05**2) * (1 + 1 / len(own)))
    assert row["skill"] == pytest.approx(own.mean())
    assert row["lower"] == pytest.approx(max(own.mean() - half, -1.0))
    assert row["upper"] == pytest.approx(min(own.mean() + half, 1.0))


def test_a_table_from_a_file_says_the_same(alike, table, tmp_path):
    table.to_csv(tmp_path / "scores.csv", index=False)
    read = pd.read_csv(tmp_path / "scores.csv", keep_default_na=True)
    first, second = (assess(alike, **(ASKED | {"table": t})) for t in (table, read))
    pd.testing.assert_frame_equal(first.expected, second.expected)
    assert str(first) == str(second)


def test_evidence_counts_groups_and_cells(alike, found):
    assert found.evidence["n_groups"] == 4
    assert found.evidence["n_changed"] == 4
    own = (alike.obs["cell_type"] == "type_1") & (alike.obs["condition"] == "control")
    assert found.evidence["n_cells"] == own.sum()
    assert 0.3 < found.evidence["distance"] < 2.0


def test_a_group_unlike_all_others_is_told(alike, table):
    apart = alike.copy()
    rows = (apart.obs["cell_type"] == "type_1").to_numpy()
    values = apart.X.toarray()
    values[rows] = values[rows][:, ::-1]
    apart.X = values
    found = assess(apart, **(ASKED | {"table": table}))
    assert found.evidence["distance"] > 2.0
    assert "times as far from those of the nearest measured group" in found.message


def test_the_data_are_not_changed(alike):
    before = alike.copy()
    assess(alike, **ASKED)
    assert (alike.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(alike.obs, before.obs)


WRONG = [
    ({"group": "type_9"}, ValueError, "group"),
    ({"target": "another"}, ValueError, "target"),
    ({"control": "another"}, ValueError, "control"),
    ({"target": "control"}, ValueError, "two conditions"),
    ({"level": 1.0}, ValueError, "level"),
    ({"level": "high"}, TypeError, "level"),
    ({"group_key": "none"}, KeyError, "none"),
    ({"table": pd.DataFrame({"group": []})}, KeyError, "leave_one_group_out"),
]


@pytest.mark.parametrize(("change", "error", "match"), WRONG)
def test_bad_requests_say_what_is_wrong(alike, change, error, match):
    with pytest.raises(error, match=match):
        assess(alike, **(ASKED | change))


def test_two_other_groups_have_to_be_measured(alike):
    types = alike.obs["cell_type"]
    few = alike[types.isin(["type_1", "type_2"])].copy()
    with pytest.raises(ValueError, match=r"two other groups or more .* found \['type_2'\]"):
        assess(few, **ASKED)
    none = alike[(types != "type_1") | (alike.obs["condition"] == "stimulated")].copy()
    with pytest.raises(ValueError, match="found 0"):
        assess(none, **ASKED)


def test_a_table_of_other_groups_is_refused(alike, table):
    with pytest.raises(ValueError, match="two groups or more"):
        assess(alike, **(ASKED | {"table": table[table["group"].isin(["type_1", "type_2"])]}))
