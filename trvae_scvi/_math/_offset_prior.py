r"""What conditions do to all labels alike, on the scale of the decoder's output: its prior, learned from group means.

.. math::

    \mathrm{E}[x_{skg}] = f(a_{kg} + m_{sg}), \qquad \mathrm{Var}(\bar x_{skg}) = u_{skg} V(\mathrm{E}[x_{skg}])

with f the inverse link of the likelihood and V its variance function: a quasi-likelihood regression (Wedderburn 1974,
doi:10.1093/biomet/61.3.439), fitted by iteratively reweighted least squares. Sums of counts decide, so that few cells
make an estimate uncertain and not large, as the logarithm of a mean with a half count added would.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ._shrinkage import shrinkage
from ._two_way import TwoWay, connected, two_way

__all__ = ["GroupRates", "OffsetPrior", "fit_offset_prior"]

_STEPS = 8
_LARGEST_STEP = 2.0
_ENTRIES = 4_000_000  # of groups and genes at a time
_LARGEST_OUTPUT = 30.0
_LEAST_SHARE = 1e-6  # of a gene's mean in the label where it is highest, for labels in which it was never seen
_LEAST_WEIGHT = 1e-8  # beside a gene's best known group
_MOST_NOISE = 1e4  # of an estimate on a scale of logarithms
_TINY = 1e-12


class GroupRates(NamedTuple):
    """Means of groups of cells on the scale of the data.

    Attributes
    ----------
    mean
        `s x k x g`: shares of the total or multiples of size factors, values from 0 to 1, or any values.
    unit, scale
        `s x k` and `k x g`, whose product is the variance of a mean in units of the variance function.
    n
        Numbers of cells, `s x k`.
    link
        Of the means to the decoder's output.
    """

    mean: np.ndarray
    unit: np.ndarray
    scale: np.ndarray
    n: np.ndarray
    link: Literal["log", "softplus", "logit", "identity"]


class OffsetPrior(NamedTuple):
    """What :func:`fit_offset_prior` finds.

    Attributes
    ----------
    effect
        Posterior mean of m, `s x g`, of weighted mean 0 over the conditions that labels connect.
    prior_variance
        Of the normal prior for which these would be the posterior means, `s x g`; infinite for conditions without a
        group to compare.
    """

    effect: np.ndarray
    prior_variance: np.ndarray


def fit_offset_prior(rates: GroupRates) -> OffsetPrior:
    """Fit the model of this file, and the prior of m over the genes of every condition."""
    there = rates.n > 0
    parts = connected(there)
    rows, columns = (part >= 0 for part in parts)
    effect, noise = (np.zeros((len(there), rates.mean.shape[-1])) for _ in range(2))
    size = max(1, _ENTRIES // (there.size + min(there.shape) ** 2))
    for start in range(0, effect.shape[-1] if rows.any() else 0, size):
        genes = slice(start, start + size)
        unit = np.where(there, rates.unit, np.inf)[rows][:, columns, None] * rates.scale[columns, genes]
        found = _fit(rates.mean[rows][:, columns, genes], unit, rates.link, (parts[0][rows], parts[1][columns]))
        effect[rows, genes], noise[rows, genes] = found
    prior = np.full_like(effect, np.inf)
    for s in np.flatnonzero(rows):
        factor, _ = shrinkage(effect[s], noise[s])
        effect[s] *= factor
        prior[s] = noise[s] * factor / np.maximum(1.0 - factor, 1e-6)
    return OffsetPrior(effect, prior)


def _fit(
    mean: np.ndarray, unit: np.ndarray, link: str, parts: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of m and their variances, both `s x g`; groups with an infinite `unit` are not there."""
    weights = 1.0 / unit
    pooled = (weights * mean).sum(axis=0) / np.maximum(weights.sum(axis=0), _TINY)
    if link == "identity":
        fit = two_way(mean, weights, parts)
        return fit.rows, fit.variance
    pooled = _inside(pooled, link)
    output = np.broadcast_to(_to_output(pooled, link), mean.shape)
    # as if one event more had been seen under every condition where it counts, distributed as under all of them
    _, variance = _step(mean, output, weights, link, parts)
    mean = np.where(weights > 0, (mean + variance[:, None] * pooled) / (1.0 + variance[:, None]), pooled)
    for _ in range(_STEPS):
        fit, variance = _step(mean, output, weights, link, parts)
        output = np.clip(fit.rows[:, None] + fit.columns, -_LARGEST_OUTPUT, _LARGEST_OUTPUT)
    return fit.rows, variance


def _step(
    mean: np.ndarray, output: np.ndarray, weights: np.ndarray, link: str, parts: tuple[np.ndarray, np.ndarray]
) -> tuple[TwoWay, np.ndarray]:
    """Weighted least squares around the output so far, and the variances of m."""
    fitted, slope = _from_output(output, link)
    precision = weights * slope**2 / _variance(fitted, link)
    top = np.maximum(precision.max(axis=(0, 1)), 1.0 / _MOST_NOISE)
    relative = np.where(weights > 0, np.maximum(precision / top, _LEAST_WEIGHT), 0.0)
    step = np.clip((mean - fitted) / slope, -_LARGEST_STEP, _LARGEST_STEP)
    fit = two_way(output + step, relative, parts)
    return fit, np.minimum(fit.variance / top, _MOST_NOISE)


def _inside(mean: np.ndarray, link: str) -> np.ndarray:
    """Means with a finite output also for labels in which a gene was never seen."""
    mean = np.maximum(mean, np.maximum(_LEAST_SHARE * mean.max(axis=0), _TINY))
    return np.minimum(mean, 1.0 - _LEAST_SHARE) if link == "logit" else mean


def _variance(mean: np.ndarray, link: str) -> np.ndarray:
    """The variance function: of values from 0 to 1 that of a share, of counts that of a Poisson distribution."""
    return mean * (1.0 - mean) if link == "logit" else mean


def _to_output(mean: np.ndarray, link: str) -> np.ndarray:
    if link == "softplus":
        return mean + np.log(-np.expm1(-mean))
    return np.log(mean / (1.0 - mean)) if link == "logit" else np.log(mean)


def _from_output(output: np.ndarray, link: str) -> tuple[np.ndarray, np.ndarray]:
    """Means, and their derivative."""
    if link == "softplus":
        mean = np.logaddexp(0.0, output)
        return mean, -np.expm1(-mean)
    mean = np.exp(output) if link == "log" else 1.0 / (1.0 + np.exp(-output))
    return mean, mean if link == "log" else mean * (1.0 - mean)
