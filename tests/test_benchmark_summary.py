"""What is said of a whole table: means and intervals of skills, and what metrics tell, against loops and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from trvae_scvi.benchmark import holdout_skills, leave_one_group_out, metric_ranges, summarize
from trvae_scvi.benchmark._comparison import CEILING, TRIVIAL
from trvae_scvi.datasets import simulate_perturbation
from trvae_scvi.metrics import HIGHER_IS_BETTER, METRICS, SKILL_METRICS, headline_skill

METHODS = ["a", "b", *TRIVIAL, CEILING]
GROUPS = ["T", "NK", "B", "Mono", "DC", "pDC"]
KEYS = ["method", "group", "target", "seed"]


@pytest.fixture
def table():
    """Random scores and skills: two methods with two seeds, the references with one; six groups and two targets."""
    rng = np.random.default_rng(0)
    rows = [
        (group, target, seed, method, genes, metric)
        for group in GROUPS
        for target in ("drug", "other")
        for method in METHODS
        for seed in ((0, 1) if method in "ab" else (0,))
        for genes in ("all", "top5")
        for metric in METRICS
    ]
    table = pd.DataFrame(rows, columns=["group", "target", "seed", "method", "genes", "metric"])
    n = len(table)
    table["value"], table["std"] = rng.normal(size=n), 0.1 + rng.random(n)
    table["skill"] = np.where(rng.random(n) < 0.2, np.nan, rng.normal(0, 0.8, n))
    table["skill_std"] = np.where(table["skill"].isna(), np.nan, 0.1 + rng.random(n))
    # A hold-out without any skill at all.
    table.loc[(table["group"] == "DC") & (table["target"] == "drug"), ["skill", "skill_std"]] = np.nan
    return table


def scored(skills, stds=0.0):
    """A table of one judged metric: for every method the skills of its groups."""
    rows = [
        (str(group), "drug", 0, method, "all", "mse_means", 0.0, 0.1, skill)
        for method, values in skills.items()
        for group, skill in enumerate(values)
    ]
    columns = ["group", "target", "seed", "method", "genes", "metric", "value", "std", "skill"]
    return pd.DataFrame(rows, columns=columns).assign(skill_std=stds, note="")


# ---- hold-outs


def clipped_error(mean, std):
    """What is left of a normal error after clipping, by values that are spread as the normal distribution is."""
    spread = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    return np.clip(mean + std * spread, -1, 1).std()


def test_hold_outs_have_the_headline_skill_and_its_parts(table):
    found = holdout_skills(table)
    assert found.columns.tolist() == [*KEYS, "skill", "mean_response", "distribution", "skill_std"]
    assert len(found) == len(table.drop_duplicates(KEYS))
    assert list(found[KEYS].itertuples(index=False)) == list(table[KEYS].drop_duplicates().itertuples(index=False))
    for _, row in found.iterrows():
        own = table[(table[KEYS] == row[KEYS]).all(axis=1)]
        np.testing.assert_allclose(row["skill"], headline_skill(own))
        parts = {}
        for family, metrics in SKILL_METRICS.items():
            of_family = own[own["metric"].isin(metrics)]
            errors = [clipped_error(*pair) for pair in of_family[["skill", "skill_std"]].dropna().to_numpy()]
            parts[family.replace(" ", "_")] = of_family["skill"].clip(-1, 1).mean(), np.mean(errors or [np.nan])
        for name, (value, _) in parts.items():
            np.testing.assert_allclose(row[name], value)
        if not np.isnan(row["skill"]):
            _, std = min((part for part in parts.values() if not np.isnan(part[0])), key=lambda part: part[0])
            assert row["skill_std"] == pytest.approx(std, rel=5e-3)
        else:
            assert np.isnan(row["skill_std"])
    assert found["skill"].isna().sum() >= len(METHODS)


@pytest.mark.parametrize("metrics", [["pearson_change"], ["mse_stds"], ["mse_means", "discrimination"]])
def test_metrics_of_one_part_or_none(table, metrics):
    some = table[table["metric"].isin(metrics)]
    found = holdout_skills(some)
    assert len(found) == len(table.drop_duplicates(KEYS))
    assert found["mean_response"].notna().any() == ("mse_means" in metrics)
    assert found["distribution"].notna().any() == ("mse_stds" in metrics)
    summary = summarize(some)
    assert summary["method"].tolist() == METHODS
    for part, metric in (("mean_response", "mse_means"), ("distribution", "mse_stds")):
        assert summary[part].isna().all() == (metric not in metrics)  # what was not computed is not 0
    if metrics == ["pearson_change"]:
        assert found["skill"].isna().all()
        assert summary[["skill", "lower", "upper", "mean_response", "distribution"]].isna().all(axis=None)
        assert (summary["above_trivial"] == 0).all()
        assert (summary["n_without_room"] == 12).all()


# ---- one line a method


def test_summary_equals_a_loop(table):
    summary = summarize(table).set_index("method")
    assert summary.columns.tolist() == [
        "skill", "lower", "upper", "mean_response", "distribution", "rank", "above_trivial", "n_without_room",
        "n_holdouts",
    ]  # fmt: skip
    assert summary.index.tolist() == METHODS
    skills = holdout_skills(table)
    for method, row in summary.iterrows():
        own = skills[skills["method"] == method]
        for name in ("skill", "mean_response", "distribution"):
            of_groups = [own.loc[own["group"] == group, name].fillna(0).mean() for group in GROUPS]
            assert row[name] == pytest.approx(np.mean(of_groups))
        above = []
        for _, of in own.assign(has=own["skill"].notna()).fillna({"skill": 0.0}).iterrows():
            same = (skills["group"] == of["group"]) & (skills["target"] == of["target"])
            others = skills[same & skills["method"].isin(TRIVIAL)]["skill"].fillna(0)
            above.append(of["has"] and of["skill"] > others.max())
        assert row["above_trivial"] == pytest.approx(np.mean(above))
        rank = table[(table["method"] == method) & (table["metric"] == "discrimination") & (table["genes"] == "all")]
        assert row["rank"] == pytest.approx(rank["value"].mean())
        assert row["n_holdouts"] == 12
        without = (~(skills[skills["method"] == CEILING]["skill"] > 0)).sum()
        assert row["n_without_room"] == without >= 1


def test_groups_weigh_alike_however_many_targets_they_have(table):
    lacking = table[~((table["target"] == "other") & table["group"].isin(["T", "NK"]))]
    skills = holdout_skills(lacking[lacking["method"] == "a"]).fillna({"skill": 0.0})
    expected = skills.groupby("group")["skill"].mean().mean()
    assert expected != pytest.approx(skills["skill"].mean())
    summary = summarize(lacking).set_index("method")
    assert summary.loc["a", "skill"] == pytest.approx(expected)
    assert summary.loc["a", "n_holdouts"] == 10


def test_no_room_counts_as_no_better():
    skills = {"a": [0.8, np.nan], **dict.fromkeys(TRIVIAL, [0.0, np.nan]), CEILING: [1.0, np.nan]}
    summary = summarize(scored(skills)).set_index("method")
    assert summary["skill"].to_dict() == {"a": 0.4, **dict.fromkeys(TRIVIAL, 0.0), CEILING: 0.5}
    assert summary["above_trivial"].to_dict() == {"a": 0.5, **dict.fromkeys(TRIVIAL, 0.0), CEILING: 0.5}
    assert (summary["n_without_room"] == 1).all()
    assert summary["rank"].isna().all()


def test_the_best_trivial_prediction_is_that_of_each_hold_out():
    skills = {"a": [0.1, 0.1], "no change": [-0.5, 0.2], "mean of others": [0.0, -1.0], "mean shift": [-0.3, -0.1]}
    summary = summarize(scored({**skills, CEILING: [1.0, 1.0]})).set_index("method")
    assert summary["above_trivial"].to_dict() == {"a": 0.5, **dict.fromkeys(TRIVIAL, 0.0), CEILING: 1.0}


# ---- intervals


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n_groups", [2, 3, 12])
def test_an_interval_is_students(n_groups, level):
    values = np.random.default_rng(0).normal(0.1, 0.15, n_groups)
    skills = {"a": values, **dict.fromkeys(TRIVIAL, [0.0] * n_groups), CEILING: [1.0] * n_groups}
    found = summarize(scored(skills), level=level).set_index("method").loc["a", ["lower", "upper"]]
    expected = student_t.interval(level, n_groups - 1, values.mean(), values.std(ddof=1) / np.sqrt(n_groups))
    np.testing.assert_allclose(found.to_numpy(dtype=float), np.clip(expected, -1, 1), rtol=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("n_groups", [2, 3, 12])
def test_an_interval_holds_as_often_as_it_says(n_groups, level):
    """For the mean over all groups, of groups drawn from a normal distribution and measured with an error."""
    rng = np.random.default_rng(0)
    measured = rng.normal(0.1, np.hypot(0.1, 0.02), (2000, n_groups))
    skills = {str(row): values for row, values in enumerate(measured)}
    skills |= {**dict.fromkeys(TRIVIAL, [0.0] * n_groups), CEILING: [1.0] * n_groups}
    found = summarize(scored(skills, stds=0.02), level=level).iloc[: len(measured)]
    held = ((found["lower"] <= 0.1) & (found["upper"] >= 0.1)).mean()
    assert level - 0.03 < held < level + 0.06


def test_an_interval_holds_its_own_mean_however_near_the_ceiling_that_is():
    skills = {"a": [0.95] * 20, **dict.fromkeys(TRIVIAL, [0.0] * 20), CEILING: [1.0] * 20}
    summary = summarize(scored(skills, stds=0.3)).set_index("method")
    assert (summary["lower"] < summary["skill"]).all()
    assert (summary["skill"] <= summary["upper"]).all()
    assert summary["upper"].max() <= 1


def test_groups_that_agree_have_the_interval_of_their_cells():
    skills = {"a": [0.5] * 9, **dict.fromkeys(TRIVIAL, [0.0] * 9), CEILING: [1.0] * 9}
    row = summarize(scored(skills, stds=0.06)).iloc[0]
    assert row["upper"] - row["lower"] == pytest.approx(2 * norm.ppf(0.95) * 0.06 / 3, rel=1e-3)


def test_with_one_group_the_interval_is_for_other_cells():
    skills = {"a": [0.3], **dict.fromkeys(TRIVIAL, [0.0]), CEILING: [1.0]}
    certain, uncertain = (summarize(scored(skills, stds=std)).iloc[0] for std in (0.0, 0.05))
    assert certain["lower"] == certain["upper"] == pytest.approx(0.3)
    assert uncertain["upper"] - uncertain["lower"] == pytest.approx(2 * norm.ppf(0.95) * 0.05, rel=1e-3)


@pytest.mark.parametrize("values", [[np.nan], [np.nan] * 5, [0.4, np.nan, np.nan]])
def test_without_room_there_is_no_interval(values):
    skills = {"a": values, **dict.fromkeys(TRIVIAL, np.multiply(values, 0.0)), CEILING: np.divide(values, values)}
    summary = summarize(scored(skills)).set_index("method")
    assert summary.loc["a", ["lower", "upper"]].isna().all()
    assert summary.loc["a", "skill"] == pytest.approx(np.nan_to_num(values).mean())


def test_no_skill_is_above_nothing():
    skills = {"a": [np.nan, 0.2], **dict.fromkeys(TRIVIAL, [-1.0, -1.0]), CEILING: [np.nan, 1.0]}
    summary = summarize(scored(skills)).set_index("method")
    assert summary.loc["a", "above_trivial"] == summary.loc[CEILING, "above_trivial"] == 0.5


def test_a_ceiling_that_is_worse_than_trivial_leaves_no_room():
    skills = {"a": [0.5, 0.5, 0.5], **dict.fromkeys(TRIVIAL, [0.0] * 3), CEILING: [1.0, -1.0, np.nan]}
    assert (summarize(scored(skills))["n_without_room"] == 2).all()


def test_a_method_called_like_a_trivial_prediction_of_conditions_changes_nothing(table):
    more = pd.concat([table, table[table["method"] == "a"].assign(method="mean response")])
    pd.testing.assert_frame_equal(summarize(more).iloc[: len(METHODS)], summarize(table))


# ---- ranges of metrics


def test_ranges_equal_a_loop(table):
    found = metric_ranges(table)
    assert found.columns.tolist() == [
        "genes", "metric", "no_change", "mean_shift", "ceiling", "range", "saturation"
    ]  # fmt: skip
    assert (
        found[["genes", "metric"]].to_numpy().tolist()
        == table[["genes", "metric"]].drop_duplicates().to_numpy().tolist()
    )
    references = table[table["method"].isin([*TRIVIAL, CEILING])]
    indexed = references.set_index(["genes", "metric", "group", "target", "method"]).sort_index()
    n_saturations = 0
    for row in found.itertuples():
        sign = 1 if HIGHER_IS_BETTER[row.metric] else -1
        of = indexed.loc[row.genes, row.metric]
        reach, covered = [], []
        for pair in {(group, target) for group, target, _ in of.index}:
            rows = of.loc[pair]
            no_change, ceiling = rows.loc["no change"], rows.loc[CEILING]
            whole = sign * (ceiling["value"] - no_change["value"])
            reach.append(whole / np.hypot(ceiling["std"], no_change["std"]))
            if reach[-1] >= 2:
                best = max(sign * rows.loc[name, "value"] for name in TRIVIAL)
                covered.append((best - sign * no_change["value"]) / whole)
        for method, name in (("no change", "no_change"), ("mean shift", "mean_shift"), (CEILING, "ceiling")):
            assert getattr(row, name) == pytest.approx(of.xs(method, level="method")["value"].mean())
        assert row.range == pytest.approx(np.median(reach))
        assert row.saturation == pytest.approx(np.median(covered) if covered else np.nan, nan_ok=True)
        n_saturations += bool(covered)
    assert n_saturations > 5


def test_ranges_of_a_table_whose_targets_differ_by_group(table):
    lacking = table[~((table["target"] == "other") & table["group"].isin(["T", "NK"]))]
    found = metric_ranges(lacking)
    assert len(found) == 2 * len(METRICS)
    rows = lacking[(lacking["method"] == CEILING) & (lacking["metric"] == "mse_means") & (lacking["genes"] == "all")]
    assert found.loc[0, "ceiling"] == pytest.approx(rows["value"].mean())


def test_what_has_no_value_has_no_range(table):
    table.loc[table["metric"] == "discrimination", ["value", "std"]] = np.nan
    found = metric_ranges(table).set_index("metric")
    assert found.loc["discrimination", ["no_change", "ceiling", "range", "saturation"]].isna().all(axis=None)
    assert found.loc["mse_means", "range"].notna().all()


# ---- a run


def test_of_a_run():
    adata = simulate_perturbation(900, 30, n_types=3, targets=("x", "y", "z"), seed=1).adata
    methods = {"copy": lambda holdout: holdout.control}
    table = leave_one_group_out(
        adata, group_key="cell_type", control="control", methods=methods, n_top_genes=5, progress_bar=False
    )
    summary = summarize(table).set_index("method")
    assert (summary.loc[list(TRIVIAL), "skill"] <= 0).all()
    assert (summary.loc[list(TRIVIAL), "above_trivial"] == 0).all()
    assert (summary["lower"] <= summary["skill"]).all()
    assert (summary["skill"] <= summary["upper"]).all()
    assert summary.loc["copy", "rank"] == pytest.approx(summary.loc["no change", "rank"], abs=0.1)
    assert summary.loc[CEILING, "rank"] > 0.9
    ranges = metric_ranges(table).set_index(["genes", "metric"])
    assert ranges.loc[("all", "mse_means"), "range"] > 2


# ---- refusals


@pytest.mark.parametrize("function", [summarize, holdout_skills, metric_ranges])
def test_other_tables_are_refused(table, function):
    column = "std" if function is metric_ranges else "skill_std"
    with pytest.raises(KeyError, match=rf"Expected a table of `leave_one_group_out`, .*\['{column}'\]"):
        function(table.drop(columns=column))
    with pytest.raises(ValueError, match="found 0 rows"):
        function(table.iloc[:0])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"level": 1}, ValueError, "`level`"),
        ({"level": "0.9"}, TypeError, "`level`"),
    ],
)
def test_numbers_are_checked(table, change, error, match):
    with pytest.raises(error, match=match):
        summarize(table, **change)
