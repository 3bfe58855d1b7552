"""What to expect of a prediction for a group that was not measured."""

from __future__ import annotations

import anndata
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


def test_a_direction_counts_where_no_change_is_the_safest(alike, table):
    rows = table[table["method"].isin(["no change", "noise ceiling"])]
    other = rows[rows["method"] == "noise ceiling"].assign(method="too strong", skill=-0.9)
    other.loc[other["metric"] == "mse_means", "value"] = 99.0
    found = assess(alike, **(ASKED | {"table": pd.concat([rows, other], ignore_index=True)}))
    assert found.expected["skill"].idxmax() == "no change"
    assert (found.recommended, found.verdict) == ("too strong", "use the direction only")
    assert found.message.startswith("Use too strong, for the direction of changes only")


def test_means_count_where_no_change_is_the_safest(alike, table):
    rows = table[table["method"].isin(["no change", "noise ceiling"])]
    other = rows[rows["method"] == "noise ceiling"].assign(method="profile", skill=-0.9)
    other.loc[other["metric"].isin(["energy_distance", "mse_stds"]), "value"] = 99.0
    found = assess(alike, **(ASKED | {"table": pd.concat([rows, other], ignore_index=True)}))
    assert found.expected["skill"].idxmax() == "no change"
    assert (found.recommended, found.verdict) == ("profile", "use means only")


def test_where_types_differ_in_strength_alone_the_direction_is_known():
    """In one type all cells respond, in another few: no size is right for the next one, and the direction is."""
    adata = simulated(n_cells=4000)
    rng = np.random.default_rng(0)
    spared = adata[adata.obs["condition"] == "control"]
    spared = spared[rng.random(spared.n_obs) < 0.5]
    shares = {"type_1": 0.5, "type_2": 0.2, "type_3": 0.9, "type_4": 0.2, "type_5": 0.9}
    parts = [adata[(adata.obs["condition"] == "control") & ~adata.obs_names.isin(spared.obs_names)]]
    for name, share in shares.items():
        responded = adata[(adata.obs["cell_type"] == name) & (adata.obs["condition"] == "stimulated")]
        not_responded = spared[spared.obs["cell_type"] == name].copy()
        not_responded.obs["condition"] = "stimulated"
        n = min(responded.n_obs / share, not_responded.n_obs / (1 - share))
        parts += [responded[: int(n * share)], not_responded[: int(n * (1 - share))]]
    found = assess(anndata.concat(parts), **ASKED)
    assert found.verdict == "use the direction only"
    assert found.expected.loc[found.recommended, "direction"] > 0.5


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


def test_a_table_needs_the_scores_that_a_verdict_reads(alike, table):
    with pytest.raises(ValueError, match="energy_distance"):
        assess(alike, **(ASKED | {"table": table[table["metric"] != "energy_distance"]}))


def test_the_model_error_is_that_of_the_measured_groups(alike):
    method = tv.benchmark.BASELINES["mean shift"]
    with pytest.warns(UserWarning, match="rest on 4 groups"):
        found = assess(alike, **(ASKED | {"methods": {"own": method}}))
        rows = (alike.obs["cell_type"] == "type_1") & (alike.obs["condition"] == "stimulated")
        expected = tv.benchmark.calibrate_intervals(
            alike[~rows].copy(), **KEYS, method=method, groups=[f"type_{i}" for i in range(2, 6)], progress_bar=False
        )
    error = found.model_errors["own"]
    assert (error.floor, error.share, error.spread) == (expected.floor, expected.share, expected.spread)
    np.testing.assert_array_equal(error.quantiles, expected.quantiles)
    assert error.n_groups == 4


def test_a_prediction_carries_its_verdict(alike, found, tmp_path):
    prediction = alike[:5].copy()
    prediction.uns["trvae"] = {"target": np.array(["stimulated"])}
    prediction.obs["cell_type"] = "type_1"
    found.add_to(prediction, method="ridge")
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    kept = anndata.read_h5ad(tmp_path / "prediction.h5ad").uns["trvae"]["assessment"]
    assert (kept["group"], kept["target"], kept["method"]) == ("type_1", "stimulated", "ridge")
    assert found.expected.loc["ridge", "share_of_means"] < 0.5 < found.expected.loc[found.recommended, "share_of_means"]
    assert (kept["verdict"], kept["recommended"]) == ("use the direction only", found.recommended)
    assert kept["skill"] == pytest.approx(found.expected.loc["ridge", "skill"])
    assert kept["n_groups"] == 4
    found.add_to(prediction, method="no change")
    assert prediction.uns["trvae"]["assessment"]["verdict"] == "do not use"
    with pytest.raises(ValueError, match="`method`"):
        found.add_to(prediction)
    with pytest.raises(ValueError, match="a view of another"):
        found.add_to(prediction[:2], method="ridge")
    mixed = prediction.copy()
    mixed.obs["cell_type"] = ["type_1", "type_2"] * 2 + ["type_1"]
    with pytest.raises(ValueError, match="cells of 'type_1' alone"):
        found.add_to(mixed, method="ridge")
    prediction.uns["trvae"]["target"] = np.array(["other"])
    with pytest.raises(ValueError, match=r"found one of \['other'\]"):
        found.add_to(prediction, method="ridge")
    with pytest.raises(ValueError, match="TRVAE.predict_perturbation"):
        found.add_to(alike[:5].copy(), method="ridge")


def test_a_ceiling_below_no_change_makes_nobody_good(alike, table):
    """Two negatives would make a large share of the change."""
    rows = table[table["method"].isin(["no change", "noise ceiling"])].copy()
    bad = rows[rows["method"] == "noise ceiling"].assign(method="bad", skill=0.0)
    values = {"no change": 0.1, "bad": 0.5, "noise ceiling": 0.12}
    rows = pd.concat([rows, bad], ignore_index=True)
    below = rows["metric"].isin(["mse_means", "energy_distance"])
    rows.loc[below, "value"] = rows.loc[below, "method"].map(values)
    rows.loc[(rows["method"] == "bad") & (rows["metric"] == "pearson_change"), "value"] = 0.0
    found = assess(alike, **(ASKED | {"table": rows}))
    assert found.expected[["share_of_means", "share_of_cells"]].isna().all(axis=None)
    assert found.verdict == "do not use"
    assert "their means by no more than noise" in found.message


@pytest.mark.parametrize(("std", "clear"), [(0.01, True), (0.5, False)])
def test_a_share_of_noise_is_none(alike, table, std, clear):
    """Of the distance between no change and the ceiling, where that is no more than two standard errors."""
    rows = table[table["method"].isin(["no change", "noise ceiling"])].copy()
    good = rows[rows["method"] == "noise ceiling"].assign(method="good", skill=0.1)
    rows = pd.concat([rows, good], ignore_index=True)
    means = rows["metric"] == "mse_means"
    values = {"no change": 1.0, "good": 0.4, "noise ceiling": 0.5}
    rows.loc[means, "value"] = rows.loc[means, "method"].map(values)
    rows.loc[means, "std"] = std
    found = assess(alike, **(ASKED | {"table": rows}))
    share = found.expected.loc["good", "share_of_means"]
    assert share == pytest.approx(1.2) if clear else np.isnan(share)
    assert (found.verdict == "use") == clear


def test_seeds_without_room_count_as_in_a_summary(alike, table):
    """A seed of no skill is as good as trivial, and not left out beside one that has a skill."""
    rows = table[table["method"] == "ridge"]
    seeds = [rows.assign(method="mine", seed=seed, skill=-1.0 if seed == 0 else np.nan) for seed in range(3)]
    more = pd.concat([table, *seeds], ignore_index=True)
    others = more[more["group"] != "type_1"]
    expected = assess(alike, **(ASKED | {"table": more})).expected.loc["mine", "skill"]
    assert expected == pytest.approx(-1 / 3)
    assert tv.benchmark.summarize(others).set_index("method").loc["mine", "skill"] == pytest.approx(expected)


def test_a_direction_by_chance_is_not_believed(alike, table):
    """One method of many has it in one group and not in another."""
    rows = table[table["method"].isin(["no change", "noise ceiling"])]
    other = rows[rows["method"] == "noise ceiling"].assign(method="by chance", skill=-0.9)
    other.loc[other["metric"] == "mse_means", "value"] = 99.0
    lost = (other["metric"] == "pearson_change") & (other["group"] == "type_3")
    other.loc[lost, "value"] = 0.0
    found = assess(alike, **(ASKED | {"table": pd.concat([rows, other], ignore_index=True)}))
    assert found.expected.loc["by chance", "direction"] > 0.5
    assert (found.recommended, found.verdict) == ("no change", "do not use")


@pytest.mark.parametrize("missing", ["no change", "noise ceiling"])
def test_a_table_needs_its_ends(alike, table, missing):
    with pytest.raises(ValueError, match=missing):
        assess(alike, **(ASKED | {"table": table[table["method"] != missing]}))


@pytest.mark.parametrize("n", [12, 40])
def test_few_cells_are_not_far_away(n):
    """Groups that differ in nothing but the number of their cells."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 2.0, 300)
    sizes = {"few": n, **{f"other_{i}": 200 for i in range(4)}}
    effect = np.where(np.arange(300) < 40, 3.0, 1.0)
    parts = []
    for name, size in sizes.items():
        own = mean * np.exp(rng.normal(0.0, 0.1, 300))
        for condition, by in (("control", 1.0), ("stimulated", effect)):
            obs = pd.DataFrame(
                {"cell_type": name, "condition": condition}, index=[f"{name}{condition}{i}" for i in range(size)]
            )
            parts.append(anndata.AnnData(rng.poisson(own * by, (size, 300)).astype(np.float32), obs=obs))
    found = assess(anndata.concat(parts), **(ASKED | {"group": "few"}))
    assert found.evidence["distance"] < 1.7
    assert "times as far" not in found.message
