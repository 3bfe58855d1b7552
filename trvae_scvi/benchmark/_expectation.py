"""What the groups that were measured let expect of one more: of every method, and as a verdict. Reads scores alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ._baseline_methods import BASELINES
from ._comparison import CEILING
from ._summary import holdout_skills

__all__ = ["VERDICTS", "expected_skills", "lacking_scores", "n_changed", "verdict_of", "verdict_on"]

#: What an assessment comes to.
VERDICTS = ("use", "use means only", "use the direction only", "do not use", "no effect")

# All fixed before anything was scored with them.
_ALPHA = 0.05  # of the test whether cells change at all
_PREDICTED = 0.5  # share of the change from which on a prediction is worth having
_ALIKE = 0.3  # correlation of changes, as a share of the noise ceiling's, from which on a direction is
_LEAST_SD = 0.05  # of skills: a few groups may agree by chance
_TIE = 0.01  # of skills
_FEW = 3  # groups, to believe means or a direction that were looked for among all methods
# of the scores that a verdict reads, and what is their 0
_SHARES = {
    "share_of_means": ("mse_means", "no change"),
    "share_of_cells": ("energy_distance", "no change"),
    "direction": ("pearson_change", None),
}


def lacking_scores(table: pd.DataFrame) -> list[str]:
    """What a verdict needs and the table does not have: metrics on all genes, and the ends that they are read by."""
    metrics = table.loc[table["genes"] == "all", "metric"]
    needed = [metric for metric, _ in _SHARES.values() if not (metrics == metric).any()]
    return needed + [name for name in (CEILING, "no change") if not (table["method"] == name).any()]


def expected_skills(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """What the measured groups of a table, all under one target, let expect of every method."""
    parts = ["skill", "mean_response", "distribution"]
    skills = holdout_skills(table).groupby(["method", "group"], sort=False)[parts].mean().fillna(0.0)
    by_method = skills.groupby("method", sort=False)
    expected, n = by_method.mean(), by_method.size()
    sd = np.hypot(by_method["skill"].std(ddof=1), _LEAST_SD)
    half = stats.t.ppf((1.0 + level) / 2.0, n - 1) * sd * np.sqrt(1.0 + 1.0 / n)
    expected.insert(1, "lower", (expected["skill"] - half).clip(-1.0, 1.0))
    expected.insert(2, "upper", (expected["skill"] + half).clip(-1.0, 1.0))
    all_genes = table[table["genes"] == "all"]
    scores = all_genes.pivot_table("value", "method", "metric", sort=False, dropna=False)
    for name, (metric, zero) in _SHARES.items():
        expected[name] = _share(scores[metric], zero)
    correlations = all_genes[all_genes["metric"] == "pearson_change"].groupby(["method", "group"], sort=False)["value"]
    # in the group where it is least
    least = correlations.mean().groupby("method", sort=False).min()
    expected["direction_least"] = least / _room(scores["pearson_change"], None)
    return expected.drop(index=CEILING)


def _share(values: pd.Series, zero: str | None) -> pd.Series:
    """How far methods get on the way from a 0 to the ceiling; NaN where that leaves no way to go."""
    return (values - (0.0 if zero is None else values[zero])) / _room(values, zero)


def _room(values: pd.Series, zero: str | None) -> float:
    """From a 0 to the ceiling, of a metric of which less is better if there is one; NaN if the ceiling is no better."""
    room = values[CEILING] - (0.0 if zero is None else values[zero])
    return room if (room > 0) == (zero is None) and room != 0 else np.nan


def n_changed(table: pd.DataFrame) -> int:
    """How many of the groups the target changes beyond noise."""
    return int((table.drop_duplicates("group")["effect_p"] < _ALPHA).sum())


def verdict_of(expected: pd.DataFrame, n_changed: int, n_groups: int) -> tuple[str, str]:
    """One of `VERDICTS` and the method that it is about.

    That is the one with the highest expected skill, of those that are level with it the simplest. Only where it is of
    no use, another one that knows means in three groups or more, or else the direction in each of them.
    """
    level = expected.index[expected["skill"] >= expected["skill"].max() - _TIE]
    method = next((name for name in BASELINES if name in level), level[0])
    found = verdict_on(expected.loc[method], n_changed, n_groups)
    if found != "do not use" or n_groups < _FEW:
        return found, method
    means, certain = expected["share_of_means"], expected["direction_least"].where(expected["direction"] >= _ALIKE)
    if means.max() >= _PREDICTED:
        return "use means only", str(means.idxmax())
    if certain.max() >= _ALIKE:
        return "use the direction only", str(certain.idxmax())
    return found, method


def verdict_on(own: pd.Series, n_changed: int, n_groups: int) -> str:
    """The verdict on a single method, whatever others can do."""
    if n_changed < n_groups / 2 or np.isnan(own["share_of_means"]):
        return "no effect"
    if own["share_of_means"] >= _PREDICTED:
        return "use" if own["share_of_cells"] >= _PREDICTED else "use means only"
    return "use the direction only" if own["direction"] >= _ALIKE else "do not use"
