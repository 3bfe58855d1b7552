"""What the groups that were measured let expect of one more: of every method, and as a verdict. Reads scores alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ._baseline_methods import BASELINES
from ._comparison import CEILING
from ._summary import holdout_skills

__all__ = ["VERDICTS", "expected_skills", "lacking_metrics", "n_changed", "verdict_of"]

#: What an assessment comes to.
VERDICTS = ("use", "use means only", "use the direction only", "do not use", "no effect")

# All fixed before anything was scored with them.
_ALPHA = 0.05  # of the test whether cells change at all
_PREDICTED = 0.5  # share of the change from which on a prediction is worth having
_ALIKE = 0.3  # correlation of changes, as a share of the noise ceiling's, from which on a direction is
_LEAST_SD = 0.05  # of skills: a few groups may agree by chance
_TIE = 0.01  # of skills
# of the scores that a verdict reads, and what is their 0
_SHARES = {
    "share_of_means": ("mse_means", "no change"),
    "share_of_cells": ("energy_distance", "no change"),
    "direction": ("pearson_change", None),
}


def lacking_metrics(table: pd.DataFrame) -> list[str]:
    """Metrics that a verdict needs and the table does not have."""
    return [metric for metric, _ in _SHARES.values() if not (table["metric"] == metric).any()]


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
    scores = table[table["genes"] == "all"].pivot_table("value", "method", "metric", sort=False, dropna=False)
    for name, (metric, zero) in _SHARES.items():
        values = scores[metric]
        start = 0.0 if zero is None else values[zero]
        expected[name] = (values - start) / (values[CEILING] - start)
    return expected.drop(index=CEILING)


def n_changed(table: pd.DataFrame) -> int:
    """How many of the groups the target changes beyond noise."""
    return int((table.drop_duplicates("group")["effect_p"] < _ALPHA).sum())


def verdict_of(expected: pd.DataFrame, n_changed: int, n_groups: int) -> tuple[str, str]:
    """One of `VERDICTS` and the method that it is about.

    That is the one with the highest expected skill, of those that are level with it the simplest; only where it knows
    no direction, another one that does.
    """
    level = expected.index[expected["skill"] >= expected["skill"].max() - _TIE]
    method = next((name for name in BASELINES if name in level), level[0])
    best, directions = expected.loc[method], expected["direction"]
    if n_changed < n_groups / 2:
        return "no effect", method
    if best["share_of_means"] >= _PREDICTED:
        return ("use" if best["share_of_cells"] >= _PREDICTED else "use means only"), method
    if best["direction"] >= _ALIKE:
        return "use the direction only", method
    if directions.max() >= _ALIKE:
        return "use the direction only", str(directions.idxmax())
    return "do not use", method
