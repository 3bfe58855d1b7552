"""Prediction intervals for the change of a variable's mean. Pure functions on arrays.

A real sample misses the predicted change for two reasons: cells are sampled, and the model is wrong. The first is known
from the predicted cells. For the second a standard deviation is taken that grows with the predicted change and with
what cells differ by, and for each variable with what its changes were missed by elsewhere; all of that, and how many
standard deviations hold which share, comes from populations whose change is known and was hidden from the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DEFAULT_MODEL_ERROR", "FEW_GROUPS", "Calibration", "ModelError", "calibrate", "margin", "standard_error"]

#: With fewer populations a variable's own errors are not counted.
FEW_GROUPS = 5
_LEVELS = np.linspace(0.01, 0.99, 99)
_PRIOR = 2.0  # populations that a variable's own errors are weighed against
_LARGEST = 25.0  # squared error, in variances: one outlier is not all that is known of a variable
_TAIL = 5.0  # degrees of freedom with which the three parameters are found


@dataclass(frozen=True, eq=False)
class ModelError:
    """How far a model's predicted changes are from the truth, besides what the sampling of cells adds.

    The standard deviation of the error is
    `factor * sqrt(floor**2 + (share * change)**2 + (spread * sd)**2)`, with the standard deviation `sd` of the gene in
    the predicted cells.

    Attributes
    ----------
    floor
        What it is where no change is predicted and cells do not differ, on the scale of the change.
    share
        How it grows with the predicted change.
    spread
        How it grows with what cells differ by.
    factors
        Of genes, by name: what a gene's own errors were, relative to what the three numbers say, drawn towards 1.
        ``None``, and of genes that are not named: 1.
    quantiles
        How many standard deviations (of sampling and model together) hold 1, 2, ... 99 % of the errors. ``None``: those
        of a normal distribution.
    n_groups
        On how many groups this rests; 0 if that is not known.

    Examples
    --------
    >>> from trvae_scvi.benchmark import ModelError
    >>> ModelError(floor=0.05, share=0.2)
    ModelError(floor=0.05, share=0.2, spread=0.0, n_groups=0)
    """

    floor: float
    share: float
    spread: float = 0.0
    factors: pd.Series | None = field(default=None, repr=False)
    quantiles: np.ndarray | None = field(default=None, repr=False)
    n_groups: int = 0

    def quantile(self, level: float) -> float:
        """How many standard deviations hold a share `level` of the errors."""
        normal = float(stats.norm.ppf(0.5 + level / 2.0))
        if self.quantiles is None:
            return normal
        last = float(stats.norm.ppf(0.5 + _LEVELS[-1] / 2.0))
        counted = float(np.interp(level, np.r_[0.0, _LEVELS], np.r_[0.0, self.quantiles]))
        # beyond what was counted the tail is that of a normal distribution
        return counted * max(1.0, normal / last)

    def of_genes(self, names: pd.Index) -> np.ndarray:
        """The factors of these genes."""
        if self.factors is None:
            return np.ones(len(names))
        if not self.factors.index.isin(names).any():
            msg = (
                f"Expected a model error of these genes ({list(names[:3])}, ...), found one of "
                f"{list(self.factors.index[:3])}, .... Calibrate it on data with the same gene names."
            )
            raise KeyError(msg)
        return self.factors.reindex(names).fillna(1.0).to_numpy()


#: Calibrated on three cell types of Kang et al. 2018, each hidden in turn from a model with default settings; changes
#: of mean log1p(counts per 10,000). `benchmarks/intervals.py` reproduces it.
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


def margin(
    change: np.ndarray,
    sampling: np.ndarray,
    sd: np.ndarray,
    error: ModelError,
    level: float,
    factors: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Half the width of the interval: both errors taken as independent.

    Parameters
    ----------
    change
        Predicted changes.
    sampling
        Their :func:`standard_error`.
    sd
        Standard deviations of the predicted cells.
    error
        The model's.
    level
        Probability of the interval.
    factors
        Those of the variables.
    """
    model = error.floor**2 + (error.share * change) ** 2 + (error.spread * sd) ** 2
    return error.quantile(level) * np.sqrt(sampling**2 + factors**2 * model)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted and real changes of all variables in all populations: one entry for each, `n` in all.

    Attributes
    ----------
    change, sampling, sd, real
        Predicted changes, their :func:`standard_error`, standard deviations of the predicted cells, and real changes.
    responsive
        Whether the variable responds.
    variable, table, group
        Codes of the variable, the prediction, and the population that was predicted.
    """

    change: np.ndarray
    sampling: np.ndarray
    sd: np.ndarray
    real: np.ndarray
    responsive: np.ndarray
    variable: np.ndarray
    table: np.ndarray
    group: np.ndarray

    @property
    def heard(self) -> np.ndarray:
        """Whether anything was counted of the variable: of others there is nothing to predict, and nothing to miss."""
        return (self.sd > 0) | (self.change != 0) | (self.real != self.change)

    def weights(self, chosen: np.ndarray) -> np.ndarray:
        """Weights with which every population counts alike, and its predictions alike within, for some entries."""
        rows = np.flatnonzero(chosen)
        _, first = np.unique(self.table[rows], return_index=True)
        n_tables = np.bincount(self.group[rows[first]], minlength=int(self.group.max()) + 1)
        n = np.bincount(self.table, weights=chosen)
        return chosen / np.maximum(n, 1.0)[self.table] / np.maximum(n_tables, 1)[self.group]


def calibrate(cells: Calibration) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Find the error with which intervals cover as much as they say, of all variables and of those that respond.

    The three parameters are those of the largest likelihood of a Student t distribution. A variable's factor is the
    posterior mean of its errors' square under an inverse gamma prior that weighs as much as two populations. How many
    standard deviations hold a share of the errors is then counted (conformal prediction with every population left out
    of its own factors), of all variables that were counted at all and of those that respond: the larger number holds
    for both.

    Parameters
    ----------
    cells
        What was predicted and what was found.

    Returns
    -------
    Floor, share and spread; factors of the variables by their codes, or ``None`` with fewer than five populations;
    and the quantiles of :class:`ModelError`.
    """
    squared = (cells.real - cells.change) ** 2
    heard = cells.weights(cells.heard), cells.weights(cells.heard & cells.responsive)
    parameters = _parameters(cells, squared, heard[0] + heard[1])
    model = _features(cells) @ parameters**2 + 1e-12
    share = model / (model + cells.sampling**2)
    # second moment of the model's part of an error, in units of its variance
    moment = share * np.minimum(squared / (model + cells.sampling**2), _LARGEST) + 1.0 - share
    factors, others = None, np.ones(len(moment))
    if len(np.unique(cells.group)) >= FEW_GROUPS:
        factors, others = _factors(cells, moment)
    ratios = np.sqrt(squared / (cells.sampling**2 + others * model))
    quantiles = [_weighted_quantiles(ratios, weights) for weights in heard if weights.any()]
    return parameters, factors, np.max([*quantiles, np.zeros(len(_LEVELS))], axis=0)


def _factors(cells: Calibration, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the variables, and for every entry the squared one that the other populations give.

    Several predictions of one population count as one, by their mean; where nothing was counted there is no error.
    """
    _, first, pair = np.unique(np.stack([cells.variable, cells.group]), axis=1, return_index=True, return_inverse=True)
    pair, heard = pair.ravel(), cells.heard.astype(float)
    n = np.bincount(pair, weights=heard)
    mean = np.bincount(pair, weights=heard * moment) / np.maximum(n, 1.0)
    variable = cells.variable[first]
    total, number = (np.bincount(variable, weights=values) for values in (mean, np.minimum(n, 1.0)))
    left = number[cells.variable] - np.minimum(n, 1.0)[pair]
    others = (_PRIOR + total[cells.variable] - mean[pair]) / (_PRIOR + left)
    return np.sqrt((_PRIOR + total) / (_PRIOR + number)), others


def _features(cells: Calibration) -> np.ndarray:
    return np.stack([np.ones(len(cells.change)), cells.change**2, cells.sd**2], axis=1)


def _parameters(cells: Calibration, squared: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Floor, share and spread, on a logarithmic scale while they are sought."""
    features, noise = _features(cells), cells.sampling**2 + 1e-12
    weights = weights / max(float(weights.sum()), 1e-300)

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        parts = features * np.exp(logs)
        variance = noise + parts.sum(axis=1)
        value = 0.5 * np.log(variance) + 0.5 * (_TAIL + 1.0) * np.log1p(squared / (_TAIL * variance))
        slope = 0.5 / variance - 0.5 * (_TAIL + 1.0) * squared / (variance * (_TAIL * variance + squared))
        return float(weights @ value), parts.T @ (weights * slope)

    unit = max(float(np.median(squared)), 1e-8)
    start = np.log([unit, 0.05, 0.05])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-25.0, 10.0)] * 3)
    return np.exp(0.5 * found.x)


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    places = np.searchsorted(reached, _LEVELS * reached[-1] * (1.0 - 1e-9))  # sums of weights are not exact
    return values[order][np.minimum(places, len(values) - 1)]
