"""Scores on a common scale: 0 is as good as the best trivial prediction, 1 as good as noise allows.

Works on the tidy tables of `_scorer`; knows neither cells nor genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ._scorer import HIGHER_IS_BETTER, METRICS, SKILL_METRICS

__all__ = ["CLEAR_GAP", "headline_skill", "skill"]

_KEYS = ["genes", "metric"]
# of which one that is constant over genes has no value
_CORRELATIONS = frozenset(metric for metric in METRICS if "pearson" in metric)
_JUDGED = {metric for metrics in SKILL_METRICS.values() for metric in metrics}
#: Closer together than so many standard errors, ceiling and reference are not told apart.
CLEAR_GAP = 2.0
_NO_ROOM = "no room above the best trivial prediction that noise would let be seen"


def skill(
    scores: pd.DataFrame, *, reference: pd.DataFrame | Sequence[pd.DataFrame], ceiling: pd.DataFrame
) -> pd.DataFrame:
    """Place every score between the best reference prediction's (0) and the noise ceiling's (1).

    skill = (value - reference) / (ceiling - reference), the same for metrics where a lower value is the better one. It
    is not clipped: a prediction worse than the reference has a negative skill.

    Where ceiling and reference are less than two standard errors of their difference apart there is no room to see that
    anything is better than the reference: a skill would be one noise divided by another, and has no value. What is
    worse than the reference by more than two standard errors fails there all the same, and has a skill of -1: else a
    prediction that fails a metric would be spared it wherever a trivial one is as good as can be. Not where the ceiling
    fails as well.

    Parameters
    ----------
    scores
        Tidy table with the columns `genes`, `metric`, `value` and `std`, one row each: of one prediction, as
        :func:`~trvae_scvi.metrics.score_arrays` returns it.
    reference
        The same for a trivial prediction, or for several: then the best of them in each metric is what counts, so that
        none of them has a skill above 0. More rows than in `scores` are ignored.
    ceiling
        The same for :func:`~trvae_scvi.metrics.noise_ceiling`.

    Returns
    -------
    One row per row of `scores`, in that order, with the columns

    ``genes``, ``metric``
        As in `scores`.
    ``skill``
        NaN where there is no room, or the reference or the ceiling has no value. Where only the prediction has
        none of a Pearson correlation it is constant over genes, and counts as a correlation of 0: else it would be
        spared the metric that it fails.
    ``skill_std``
        Standard error of the skill that the numbers of cells leave, from the `std` of the three scores as if these were
        independent; they share the real cells, which makes it rather too large than too small. 0 without room.
    ``note``
        Why the skill is NaN or, without room, -1; empty otherwise.

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
    >>> table = pd.DataFrame({"genes": ["all"], "metric": ["mse_means"], "value": [0.5], "std": [0.01]})
    >>> skill(table, reference=table.assign(value=2.0), ceiling=table.assign(value=0.0))["skill"].tolist()
    [0.75]
    """
    several = [reference] if isinstance(reference, pd.DataFrame) else list(reference)
    own = _by_key(scores, "scores")
    of_ceiling, *of_references = (
        _reindexed(table, name, own.index)
        for table, name in [(ceiling, "ceiling"), *((table, "reference") for table in several)]
    )
    higher = own.index.get_level_values("metric").map(HIGHER_IS_BETTER).to_numpy(dtype=bool)
    best = _best(of_references, np.where(higher, 1.0, -1.0))
    value, top, bottom = (frame["value"].to_numpy() for frame in (own, of_ceiling, best))
    constant = np.array([name in _CORRELATIONS for name in own.index.get_level_values("metric")], dtype=bool)
    value = np.where(np.isnan(value) & constant, 0.0, value)
    # a single split has no standard deviation, and hides nothing
    error, of_top, of_bottom = (np.nan_to_num(frame["std"].to_numpy()) for frame in (own, of_ceiling, best))
    gain, gap = (np.where(higher, of - bottom, bottom - of) for of in (value, top))
    least = np.maximum(CLEAR_GAP * np.hypot(of_top, of_bottom), np.finfo(float).tiny)
    room, fails = gap >= least, -gain > np.maximum(least, CLEAR_GAP * np.hypot(error, of_bottom))
    fails &= gap > -least  # what a perfect prediction fails as well tells nothing
    width = np.where(room, gap, least)
    found = np.where(room, gain / width, np.where(fails, -1.0, np.nan))
    share = np.clip(found, 0, 1)
    spread = np.sqrt(error**2 + ((1 - share) * of_bottom) ** 2 + (share * of_top) ** 2) / width
    spread = np.where(room, spread, 0.0)  # a verdict, no measurement
    why = of_ceiling["note"].where(of_ceiling["note"] != "", best["note"].where(best["value"].isna(), ""))
    note = np.where(room, "", why.where(why != "", _NO_ROOM))
    return own.index.to_frame(index=False).assign(skill=found, skill_std=spread, note=note)


def headline_skill(skills: pd.DataFrame) -> float:
    """One number for a prediction: the lower of its skills in the mean response and in the distribution of cells.

    Each of the two is the mean over the metrics of `SKILL_METRICS` and the sets of genes, every skill clipped to
    [-1, 1], so that no metric decides alone. The lower one counts, since the two cannot stand in for each other: the
    right mean without the variation of cells is no prediction of cells.

    Parameters
    ----------
    skills
        What :func:`~trvae_scvi.metrics.skill` returns. Metrics that are not in `SKILL_METRICS` are left out, and so are
        skills without a value; where one of the two has none, the other one counts.

    Returns
    -------
    A number from -1 to 1; NaN if no skill has a value.

    Raises
    ------
    KeyError
        If there is no column `metric` or `skill`.

    Examples
    --------
    >>> import pandas as pd
    >>> from trvae_scvi.metrics import headline_skill
    >>> metrics = ["mse_means", "partial_pearson", "energy_distance", "mse_stds"]
    >>> headline_skill(pd.DataFrame({"metric": metrics, "skill": [0.9, 0.7, -3.0, 0.5]}))
    -0.25
    """
    missing = [name for name in ("metric", "skill") if name not in skills.columns]
    if missing:
        msg = f"Expected the columns 'metric' and 'skill', found no {missing}. Pass the result of `skill`."
        raise KeyError(msg)
    clipped = skills["skill"].clip(-1, 1)
    if not clipped[skills["metric"].map(lambda metric: metric in _JUDGED)].notna().any():
        return float("nan")
    return float(np.nanmin([clipped[skills["metric"].isin(names)].mean() for names in SKILL_METRICS.values()]))


def _best(tables: Sequence[pd.DataFrame], sign: np.ndarray) -> pd.DataFrame:
    """Row by row, the table with the best value."""
    signed = np.array([sign * table["value"].to_numpy() for table in tables])
    which = np.where(np.isnan(signed), -np.inf, signed).argmax(axis=0)
    columns = {name: [tables[w][name].iloc[row] for row, w in enumerate(which)] for name in ("value", "std", "note")}
    return pd.DataFrame(columns, index=tables[0].index)


def _reindexed(frame: pd.DataFrame, name: str, index: pd.Index) -> pd.DataFrame:
    table = _by_key(frame, name)
    absent = index.difference(table.index)
    if len(absent):
        msg = f"Expected every pair of genes and metric of `scores` in `{name}` too, found none for {list(absent)}."
        raise ValueError(msg)
    return table.reindex(index)


def _by_key(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a tidy table's scores, indexed by genes and metric; raise KeyError or ValueError if it is not tidy."""
    missing = [column for column in (*_KEYS, "value", "std") if column not in frame.columns]
    if missing:
        msg = f"Expected the columns 'genes', 'metric', 'value' and 'std' in `{name}`, found no {missing}."
        raise KeyError(msg)
    unknown = sorted(set(frame["metric"]) - set(METRICS))
    if unknown:
        msg = f"Expected metrics out of {list(METRICS)} in `{name}`, found {unknown}."
        raise ValueError(msg)
    if frame.duplicated(_KEYS).any():
        pairs = list(frame.loc[frame.duplicated(_KEYS), _KEYS].itertuples(index=False, name=None))
        msg = f"Expected one row per genes and metric in `{name}`, found several for {pairs}. Pass one method's rows."
        raise ValueError(msg)
    note: Any = frame["note"].astype(object).fillna("") if "note" in frame.columns else ""
    return frame.assign(note=note).set_index(_KEYS)[["value", "std", "note"]].astype({"value": float, "std": float})
