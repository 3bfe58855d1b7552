"""Scores on a common scale: 0 is as good as a trivial baseline, 1 as good as noise allows.

Works on the tidy tables of `_score`; knows neither cells nor genes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ._score import HIGHER_IS_BETTER

__all__ = ["mean_skill", "skill"]

_KEYS = ["genes", "metric"]


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
        The same for :func:`~trvae_scvi.metrics.noise_ceiling`.

    Returns
    -------
    One row per row of `scores`, in that order, with the columns `genes`, `metric` and `skill`. NaN where the skill is
    undefined: the reference is as good as the ceiling or better, or one of the two has no value. Where both have one
    and the prediction's correlation has none, the prediction is constant over genes and counts as a correlation of 0:
    else a prediction without any variance would be spared the metric that it fails.

    Raises
    ------
    ValueError
        If a column is missing, a pair of genes and metric is there twice or absent in `reference` or `ceiling`, or a
        metric is unknown.
    """
    table = pd.DataFrame({"value": _by_key(scores, "scores")})
    for name, frame in (("reference", reference), ("ceiling", ceiling)):
        column = _by_key(frame, name)
        absent = table.index.difference(column.index)
        if len(absent):
            msg = f"Expected every pair of genes and metric of `scores` in `{name}` too, found none for {list(absent)}."
            raise ValueError(msg)
        table[name] = column.reindex(table.index)
    higher = table.index.get_level_values("metric").map(dict(HIGHER_IS_BETTER)).to_numpy(dtype=bool)
    value = table["value"].where(table["value"].notna() | ~higher, 0.0)
    gain = table["ceiling"] - table["reference"]
    defined = np.where(higher, gain, -gain) > 0
    result = ((value - table["reference"]) / gain).where(defined)
    return result.rename("skill").reset_index()


def mean_skill(skill_frame: pd.DataFrame) -> float:
    """One number for a prediction: its skills clipped to [-1, 1] and averaged.

    The clipping keeps one metric with a narrow gap between reference and ceiling from deciding alone.

    Parameters
    ----------
    skill_frame
        What :func:`~trvae_scvi.metrics.skill` returns. Undefined skills (NaN) are left out.

    Returns
    -------
    A number from -1 to 1; NaN if no skill is defined.

    Raises
    ------
    ValueError
        If there is no column `skill`.
    """
    if "skill" not in skill_frame.columns:
        msg = f"Expected a column 'skill', found {list(skill_frame.columns)}. Pass the result of `skill`."
        raise ValueError(msg)
    return float(skill_frame["skill"].clip(-1, 1).mean())


def _by_key(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return the values of a tidy table, indexed by genes and metric; raise ValueError if it is not tidy."""
    missing = [column for column in (*_KEYS, "value") if column not in frame.columns]
    if missing:
        msg = f"Expected the columns 'genes', 'metric' and 'value' in `{name}`, found no {missing}."
        raise ValueError(msg)
    unknown = sorted(set(frame["metric"]) - set(HIGHER_IS_BETTER))
    if unknown:
        msg = f"Expected metrics out of {list(HIGHER_IS_BETTER)} in `{name}`, found {unknown}."
        raise ValueError(msg)
    if frame.duplicated(_KEYS).any():
        pairs = list(frame.loc[frame.duplicated(_KEYS), _KEYS].itertuples(index=False, name=None))
        msg = f"Expected one row per genes and metric in `{name}`, found several for {pairs}. Pass one method's rows."
        raise ValueError(msg)
    return frame.set_index(_KEYS)["value"].astype(float)
