"""Scores on a common scale: 0 is as good as a trivial baseline, 1 as good as noise allows.

Works on the tidy tables of `_score`; knows neither cells nor genes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ._score import HIGHER_IS_BETTER, METRICS, SKILL_METRICS

__all__ = ["mean_skill", "skill"]

_KEYS = ["genes", "metric"]
_SIGN = {metric: 1.0 if higher else -1.0 for metric, higher in HIGHER_IS_BETTER.items()}
# Below so many standard deviations the gap between reference and ceiling is noise, and dividing by it makes more.
_CLEAR_GAP = 3.0


def skill(scores: pd.DataFrame, *, reference: pd.DataFrame, ceiling: pd.DataFrame) -> pd.DataFrame:
    """Place every score between a reference prediction's (0) and the noise ceiling (1).

    skill = (value - reference) / (ceiling - reference), the same for metrics where a lower value is the better one. It
    is not clipped: a prediction worse than the reference has a negative skill.

    Parameters
    ----------
    scores
        Tidy table with the columns `genes`, `metric` and `value`, one row each: of one prediction, as
        :func:`~trvae_scvi.metrics.score_arrays` returns it.
    reference
        The same for the reference, as a rule the "mean shift" baseline. More rows than in `scores` are ignored.
    ceiling
        The same for :func:`~trvae_scvi.metrics.noise_ceiling`. Its column `std`, if there, says how certain it is.

    Returns
    -------
    One row per row of `scores`, in that order, with the columns `genes`, `metric` and `skill`. NaN where the skill is
    undefined: the reference is as good as the ceiling or better, the two are less than three `std` of the ceiling
    apart, one of them has no value, or the metric has no direction (it is not in `HIGHER_IS_BETTER`). Where both have a
    value and the prediction's correlation has none, the prediction is constant over genes and counts as a correlation
    of 0: else a prediction without any variance would be spared the metric that it fails.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a pair of genes and metric is there twice or absent in `reference` or `ceiling`, or a metric is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> from trvae_scvi.metrics import skill
    >>> table = pd.DataFrame({"genes": ["all"], "metric": ["mse_means"], "value": [0.5]})
    >>> skill(table, reference=table.assign(value=2.0), ceiling=table.assign(value=0.0))["skill"].tolist()
    [0.75]
    """
    value, of_reference = _by_key(scores, "scores")["value"], _by_key(reference, "reference")
    of_ceiling = _by_key(ceiling, "ceiling")
    for name, table in (("reference", of_reference), ("ceiling", of_ceiling)):
        absent = value.index.difference(table.index)
        if len(absent):
            msg = f"Expected every pair of genes and metric of `scores` in `{name}` too, found none for {list(absent)}."
            raise ValueError(msg)
    of_reference, of_ceiling = of_reference.reindex(value.index), of_ceiling.reindex(value.index)
    metric = value.index.get_level_values("metric")
    sign = pd.Series([_SIGN.get(name, np.nan) for name in metric], index=value.index)
    gap = of_ceiling["value"] - of_reference["value"]
    defined = sign * gap > 0
    if "std" in of_ceiling.columns:
        # A NaN, from a single split, hides nothing.
        defined &= ~(gap.abs() < _CLEAR_GAP * of_ceiling["std"])
    value = value.where(value.notna() | ~(sign > 0), 0.0)
    return ((value - of_reference["value"]) / gap).where(defined).rename("skill").reset_index()


def mean_skill(skill_frame: pd.DataFrame) -> float:
    """One number for a prediction: its skills clipped to [-1, 1] and averaged.

    The clipping keeps one metric with a narrow gap between reference and ceiling from deciding alone.

    Parameters
    ----------
    skill_frame
        What :func:`~trvae_scvi.metrics.skill` returns. Only the metrics of `SKILL_METRICS` are averaged, so that the
        number is the same whatever else was computed; all rows if there is no column `metric`. Undefined skills (NaN)
        are left out.

    Returns
    -------
    A number from -1 to 1; NaN if no skill is defined.

    Raises
    ------
    KeyError
        If there is no column `skill`.

    Examples
    --------
    >>> import pandas as pd
    >>> from trvae_scvi.metrics import mean_skill
    >>> mean_skill(pd.DataFrame({"skill": [0.5, -3.0, float("nan")]}))
    -0.25
    """
    if "skill" not in skill_frame.columns:
        msg = f"Expected a column 'skill', found {list(skill_frame.columns)}. Pass the result of `skill`."
        raise KeyError(msg)
    if "metric" in skill_frame.columns:
        skill_frame = skill_frame[skill_frame["metric"].isin(SKILL_METRICS)]
    return float(skill_frame["skill"].clip(-1, 1).mean())


def _by_key(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a tidy table's numbers, indexed by genes and metric; raise KeyError or ValueError if it is not tidy."""
    missing = [column for column in (*_KEYS, "value") if column not in frame.columns]
    if missing:
        msg = f"Expected the columns 'genes', 'metric' and 'value' in `{name}`, found no {missing}."
        raise KeyError(msg)
    unknown = sorted(set(frame["metric"]) - set(METRICS))
    if unknown:
        msg = f"Expected metrics out of {list(METRICS)} in `{name}`, found {unknown}."
        raise ValueError(msg)
    if frame.duplicated(_KEYS).any():
        pairs = list(frame.loc[frame.duplicated(_KEYS), _KEYS].itertuples(index=False, name=None))
        msg = f"Expected one row per genes and metric in `{name}`, found several for {pairs}. Pass one method's rows."
        raise ValueError(msg)
    numbers = [column for column in ("value", "std") if column in frame.columns]
    return frame.set_index(_KEYS)[numbers].astype(float)
