"""Whether intervals hold what they promise: how often the real values lie inside, and at what price.

Works on arrays of numbers; knows neither cells nor genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trvae_scvi._arguments import check_number

__all__ = ["interval_coverage", "interval_score"]


def interval_coverage(lower: Any, upper: Any, real: Any) -> dict[str, float]:
    """Share of real values that lie in their interval, and how wide the intervals are.

    Calibrated intervals of level 0.9 have a coverage near 0.9. Read the two numbers together: wide intervals always
    cover.

    Parameters
    ----------
    lower, upper
        Bounds of the intervals, for example the columns `change_lower` and `change_upper` of
        `TRVAE.get_perturbation_effect`. Any shape; matched by position, not by index.
    real
        The real values, of the same shape and on the same scale.

    Returns
    -------
    ``coverage``
        Share of the entries with lower <= real <= upper; NaN if none is left.
    ``mean_width``
        Mean of upper - lower over the same entries, in units of the input; NaN if none is left.
    ``n_left_out``
        Number of entries that were left out because a bound or the real value is NaN or infinite.

    Raises
    ------
    ValueError
        If the shapes differ or a lower bound is above its upper bound.

    Examples
    --------
    >>> from trvae_scvi.metrics import interval_coverage
    >>> interval_coverage([0, 0, float("nan")], [1, 3, float("nan")], [2, 2, 2])
    {'coverage': 0.5, 'mean_width': 2.0, 'n_left_out': 1}
    """
    low, high, value, n_left_out = _checked(lower, upper, real)
    if not len(value):
        return {"coverage": float("nan"), "mean_width": float("nan"), "n_left_out": n_left_out}
    inside = (low <= value) & (value <= high)
    return {
        "coverage": float(inside.mean()),
        "mean_width": float((high - low).mean()),
        "n_left_out": n_left_out,
    }


def interval_score(lower: Any, upper: Any, real: Any, *, level: float = 0.9) -> float:
    r"""Mean score of intervals: their width, and what real values outside cost. Smaller is better.

    .. math::

        (u - l) + \frac{2}{1 - \text{level}} \max(l - x, x - u, 0)

    (Gneiting & Raftery 2007, doi:10.1198/016214506000001437). It is least for the true quantiles: neither wide
    intervals nor narrow ones that miss can win it, as they can win coverage or width alone.

    Parameters
    ----------
    lower, upper, real
        As in :func:`~trvae_scvi.metrics.interval_coverage`; entries with a bound or value that is not finite are left
        out.
    level
        Probability that the intervals promise.

    Returns
    -------
    The mean, in units of the input; NaN if no entry is left.

    Raises
    ------
    TypeError
        If `level` is no number.
    ValueError
        If the shapes differ, a lower bound is above its upper bound, or `level` is not between 0 and 1.

    Examples
    --------
    >>> from trvae_scvi.metrics import interval_score
    >>> interval_score([0, 0], [1, 3], [2, 2], level=0.5)
    4.0
    """
    check_number("level", level, positive=True, below=1.0)
    low, high, value, _ = _checked(lower, upper, real)
    if not len(value):
        return float("nan")
    missed = np.maximum(np.maximum(low - value, value - high), 0.0)
    return float(((high - low) + 2.0 / (1.0 - level) * missed).mean())


def _checked(lower: Any, upper: Any, real: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The entries that are finite, and how many are not."""
    low, high, value = (np.asarray(values, dtype=np.float64) for values in (lower, upper, real))
    if not low.shape == high.shape == value.shape:
        msg = f"Expected `lower`, `upper` and `real` of the same shape, found {low.shape}, {high.shape}, {value.shape}."
        raise ValueError(msg)
    used = np.isfinite(low) & np.isfinite(high) & np.isfinite(value)
    n_left_out = int(used.size - used.sum())
    low, high, value = low[used], high[used], value[used]
    if (low > high).any():
        first = int(np.flatnonzero(low > high)[0])
        msg = f"Expected `lower` not above `upper`, found {low[first]:g} above {high[first]:g}. Swap the two."
        raise ValueError(msg)
    return low, high, value, n_left_out
