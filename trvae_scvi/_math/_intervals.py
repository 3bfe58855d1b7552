"""Prediction intervals for the change of a variable's mean. Pure functions on arrays.

A real sample misses the predicted change for two reasons: cells are sampled, and the model is wrong. The first is known
from the predicted cells. For the second a standard deviation is taken that grows with the predicted change, and is
calibrated on populations whose change is known and was hidden from the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DEFAULT_MODEL_ERROR", "ModelError", "calibrate", "margin", "standard_error"]

_LARGEST = 10.0  # of both parameters; no useful model needs more
_SHARES = np.linspace(0.0, 2.0, 41)


class ModelError(NamedTuple):
    """Standard deviation of a model's error in a predicted change: `floor + share * |change|`.

    Attributes
    ----------
    floor
        What it is where no change is predicted, on the scale of the change.
    share
        How it grows with the predicted change.

    Examples
    --------
    >>> from trvae_scvi.benchmark import ModelError
    >>> ModelError(floor=0.05, share=0.2)
    ModelError(floor=0.05, share=0.2)
    """

    floor: float
    share: float


#: Calibrated on three cell types of Kang et al. 2018, each hidden in turn from a model with default settings; changes
#: of mean log1p(counts per 10,000). `benchmarks/kang.py` reproduces it.
DEFAULT_MODEL_ERROR = ModelError(floor=0.006, share=0.37)


def standard_error(variance: np.ndarray, n_predicted: int, n_real: int) -> np.ndarray:
    """Standard deviation that sampling alone gives to the difference of a real and a predicted mean.

    Parameters
    ----------
    variance
        Variances of the predicted cells, taken for those of the real ones, too.
    n_predicted, n_real
        Numbers of cells.
    """
    return np.sqrt(variance * (1.0 / n_predicted + 1.0 / n_real))


def margin(change: np.ndarray, sampling: np.ndarray, error: ModelError, level: float) -> np.ndarray:
    """Half the width of the interval: both errors taken as normal and independent.

    Parameters
    ----------
    change
        Predicted changes.
    sampling
        Their :func:`standard_error`.
    error
        The model's.
    level
        Probability of the interval.
    """
    model = error.floor + error.share * np.abs(change)
    return stats.norm.ppf(0.5 + level / 2.0) * np.sqrt(sampling**2 + model**2)


def calibrate(
    change: Sequence[np.ndarray],
    sampling: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    responsive: Sequence[np.ndarray],
    *,
    level: float,
) -> ModelError:
    """Find the error with which intervals cover a share `level` of all variables and of the responsive ones.

    Coverage is averaged over populations, so that each has the same weight. It rises with both parameters; for every
    `share` there is one `floor` with the right coverage of all variables, and along these pairs the coverage of the
    responsive variables rises with `share`. Where the `floor` would have to be negative it is 0, and more than the
    level is covered of all variables. Where no such pair covers enough of the responsive variables, as when few cells
    leave their predicted changes near 0, it is, of the pairs that cover enough of both, the one with the narrowest
    intervals.

    Parameters
    ----------
    change, sampling, real
        For every population the predicted changes, their :func:`standard_error` and the real changes.
    responsive
        For every population a boolean mask of the variables that respond.
    level
        The coverage wanted.

    Returns
    -------
    The error. Where sampling alone covers enough, its parameters are 0.
    """

    def coverage(error: ModelError, masks: Sequence[np.ndarray] | None) -> float:
        shares = []
        for i, (c, s, r) in enumerate(zip(change, sampling, real, strict=True)):
            inside = np.abs(r - c) <= margin(c, s, error, level)
            shares.append(inside.mean() if masks is None else inside[masks[i]].mean())
        return float(np.mean(shares))

    def floor_for(share: float, *which: Sequence[np.ndarray] | None) -> float:
        return _root(lambda floor: min(coverage(ModelError(floor, share), masks) for masks in which) - level)

    def width(error: ModelError) -> float:
        return float(np.mean([margin(c, s, error, level).mean() for c, s in zip(change, sampling, strict=True)]))

    share = _root(lambda share: coverage(ModelError(floor_for(share, None), share), responsive) - level)
    if share < _LARGEST:
        return ModelError(floor_for(share, None), share)
    return min((ModelError(floor_for(share, None, responsive), float(share)) for share in _SHARES), key=width)


def _root(function: Callable[[float], float]) -> float:
    """Where a rising function passes 0; a bound where it does not."""
    low, high = function(0.0), function(_LARGEST)
    if low >= 0.0:
        return 0.0
    if high <= 0.0:
        return _LARGEST
    return float(optimize.bisect(function, 0.0, _LARGEST, xtol=1e-5))
