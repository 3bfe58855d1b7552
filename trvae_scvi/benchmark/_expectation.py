"""What the groups that were measured let expect of one more: of every method, and as a verdict. Reads scores alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from trvae_scvi.metrics._skill import CLEAR_GAP

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
    skills = holdout_skills(table)
    skills[parts] = skills[parts].fillna(0.0)  # no room: no better than what is trivial
    skills = skills.groupby(["method", "group"], sort=False)[parts].mean()
    by_method = skills.groupby("method", sort=False)
    expected, n = by_method.mean(), by_method.size()
    sd = np.hypot(by_method["skill"].std(ddof=1), _LEAST_SD)
    half = stats.t.ppf((1.0 + level) / 2.0, n - 1) * sd * np.sqrt(1.0 + 1.0 / n)
    expected.insert(1, "lower", (expected["skill"] - half).clip(-1.0, 1.0))
    expected.insert(2, "upper", (expected["skill"] + half).clip(-1.0, 1.0))
    all_genes = table[table["genes"] == "all"]
    scores = all_genes.pivot_table("value", "method", "metric", sort=False, dropna=False)
    errors = all_genes.pivot_table("std", "method", "metric", aggfunc=_error_of_mean, sort=False, dropna=False)
    room = {metric: _room(scores[metric], errors[metric], zero) for metric, zero in _SHARES.values()}
    for name, (metric, zero) in _SHARES.items():
        expected[name] = (scores[metric] - (0.0 if zero is None else scores[metric][zero])) / room[metric]
    correlations = all_genes[all_genes["metric"] == "pearson_change"].groupby(["method", "group"], sort=False)["value"]
    # in the group where it is least
    least = correlations.mean().groupby("method", sort=False).min()
    expected["direction_least"] = least / room["pearson_change"]
    return expected.drop(index=CEILING)


def _error_of_mean(errors: pd.Series) -> float:
    return float(np.sqrt((errors**2).sum()) / max(errors.size, 1))


def _room(values: pd.Series, errors: pd.Series, zero: str | None) -> float:
    """From a 0 (if there is one, less is better) to the ceiling; NaN unless noise lets that be seen."""
    errors = errors.fillna(0.0)  # a single split has none
    at_zero, of_zero = (0.0, 0.0) if zero is None else (values[zero], errors[zero])
    room = values[CEILING] - at_zero
    clear = (room if zero is None else -room) > CLEAR_GAP * np.hypot(errors[CEILING], of_zero)
    return room if clear else np.nan


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
    if n_changed < n_groups / 2:
        return "no effect"
    if np.isnan(own["share_of_means"]):  # cells change, but no prediction of their means could be seen to be right
        return "do not use"
    if own["share_of_means"] >= _PREDICTED:
        return "use" if own["share_of_cells"] >= _PREDICTED else "use means only"
    return "use the direction only" if own["direction"] >= _ALIKE else "do not use"
