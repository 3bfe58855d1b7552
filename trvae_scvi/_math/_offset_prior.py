r"""What conditions do to all labels alike, on the scale of the decoder's output: its prior, learned from group means.

.. math::

    \mathrm{E}[x_{skg}] = f(a_{kg} + m_{sg}), \qquad \mathrm{Var}(\bar x_{skg}) = V_{skg}(\mathrm{E}[x_{skg}])

with f the inverse link and V a variance function, of counts that of a negative binomial distribution: a
quasi-likelihood regression (Wedderburn 1974, doi:10.1093/biomet/61.3.439), fitted by iteratively reweighted least
squares. Sums of counts decide, so that few cells make an estimate uncertain and not large, as the logarithm of a mean
with a half count added would.
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
_SCALES = (1e-4, 10.0)  # of standard deviations of the prior, on a scale of logarithms
_TINY = 1e-12


class GroupRates(NamedTuple):
    """Means of groups of cells on the scale of the data.

    Attributes
    ----------
    mean
        `s x k x g`: shares of the total or multiples of size factors, values from 0 to 1, or any values.
    unit, scale, dispersion
        `s x k`, `k x g` and `k x g`: the variance of a mean m is `unit scale V(m) + dispersion m^2 / n`, with V(m) = m
        for counts, m (1 - m) for values from 0 to 1, and 1 for any values.
    n
        Numbers of cells, `s x k`.
    link
        Of the means to the decoder's output.
    """

    mean: np.ndarray
    unit: np.ndarray
    scale: np.ndarray
    dispersion: np.ndarray
    n: np.ndarray
    link: Literal["log", "softplus", "logit", "identity"]


class OffsetPrior(NamedTuple):
    """What :func:`fit_offset_prior` finds.

    Attributes
    ----------
    effect
        Posterior mean of what is added to the decoder's output, `s x g`; m of weighted mean 0 over the conditions that
        labels connect.
    scale
        Standard deviation of the normal prior for which these would be the posterior means, `s x g`; infinite for
        conditions without a group to compare.
    level
        Mean over all groups as a decoder's output, `g`.
    part
        Numbers of the parts that labels connect, `s`, -1 for conditions without a group to compare.
    """

    effect: np.ndarray
    scale: np.ndarray
    level: np.ndarray
    part: np.ndarray


def fit_offset_prior(rates: GroupRates) -> OffsetPrior:
    """Fit the model of this file, and the prior of m over the genes of every condition."""
    if rates.link == "identity":  # in units of what means are known to, so that nothing depends on their scale
        known = (rates.unit[..., None] * rates.scale)[rates.n > 0]
        unit = float(np.sqrt(np.median(known))) or 1.0
        found = _fit_all(rates._replace(mean=rates.mean / unit, scale=rates.scale / unit**2))
        return found._replace(effect=found.effect * unit, scale=found.scale * unit, level=found.level * unit)
    return _fit_all(rates)


def _fit_all(rates: GroupRates) -> OffsetPrior:
    there = rates.n > 0
    parts = connected(there)
    rows, columns = (part >= 0 for part in parts)
    effect, noise = (np.zeros((len(there), rates.mean.shape[-1])) for _ in range(2))
    size = max(1, _ENTRIES // (there.size + min(there.shape) ** 2))
    inner = rates.link if rates.link != "softplus" else "log"
    for start in range(0, effect.shape[-1] if rows.any() else 0, size):
        genes = slice(start, start + size)
        known = there[rows][:, columns, None]
        unit = np.where(known, rates.unit[rows][:, columns, None], np.inf) * rates.scale[columns, genes]
        excess = rates.dispersion[columns, genes] / np.maximum(rates.n[rows][:, columns, None], 1.0)
        found = _fit(
            rates.mean[rows][:, columns, genes], _Variance(unit, excess, inner), (parts[0][rows], parts[1][columns])
        )
        effect[rows, genes], noise[rows, genes] = found
    scale = np.full_like(effect, np.inf)
    for s in np.flatnonzero(rows):
        factor, _ = shrinkage(effect[s], noise[s])
        effect[s] *= factor
        scale[s] = np.sqrt(noise[s] * factor / np.maximum(1.0 - factor, 1e-9))
    return _as_output(OffsetPrior(effect, scale, _overall(rates), parts[0]), rates.link)


def _overall(rates: GroupRates) -> np.ndarray:
    mean = (rates.n[..., None] * rates.mean).sum(axis=(0, 1)) / rates.n.sum()
    return mean if rates.link == "identity" else _inside(mean[None], rates.link)[0]


def _as_output(found: OffsetPrior, link: str) -> OffsetPrior:
    """In units of the decoder's output, and no smaller or larger than single precision can square."""
    effect, scale, mean, part = found
    finite = np.isfinite(scale)
    least, most = _SCALES if link != "identity" else (_SCALES[0] * np.max(scale, where=finite, initial=0.0), np.inf)
    scale = np.where(finite, np.clip(scale, max(least, _TINY), most), np.inf)
    if link != "softplus":
        return OffsetPrior(effect, scale, _to_output(mean, link), part)
    # the fit was one of logarithms: what a factor is before the softplus hangs on the level
    level = _to_output(mean, link)
    return OffsetPrior(_to_output(mean * np.exp(effect), link) - level, scale * mean / -np.expm1(-mean), level, part)


class _Variance(NamedTuple):
    """Of means: `unit V(m) + excess m^2`, infinite for groups that are not there."""

    unit: np.ndarray
    excess: np.ndarray
    link: str

    def __call__(self, mean: np.ndarray) -> np.ndarray:
        function = {"log": mean, "logit": mean * (1.0 - mean)}.get(self.link, 1.0)
        return self.unit * function + self.excess * mean**2


def _fit(
    mean: np.ndarray, variance_of: _Variance, parts: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of m and their variances, both `s x g`."""
    link, weights = variance_of.link, 1.0 / variance_of.unit
    if link == "identity":
        top = weights.max(axis=(0, 1))
        fit = two_way(mean, weights / top, parts)
        return fit.rows, fit.variance / top
    pooled = _inside((weights * mean).sum(axis=0) / np.maximum(weights.sum(axis=0), _TINY), link)
    output = np.broadcast_to(_to_output(pooled, link), mean.shape)
    # as if one event more had been seen under every condition where it counts, distributed as under all of them
    _, variance = _step(mean, output, variance_of, parts)
    mean = np.where(weights > 0, (mean + variance[:, None] * pooled) / (1.0 + variance[:, None]), pooled)
    for _ in range(_STEPS):
        fit, variance = _step(mean, output, variance_of, parts)
        output = np.clip(fit.rows[:, None] + fit.columns, -_LARGEST_OUTPUT, _LARGEST_OUTPUT)
    return fit.rows, variance


def _step(
    mean: np.ndarray, output: np.ndarray, variance_of: _Variance, parts: tuple[np.ndarray, np.ndarray]
) -> tuple[TwoWay, np.ndarray]:
    """Weighted least squares around the output so far, and the variances of m."""
    fitted, slope = _from_output(output, variance_of.link)
    precision = slope**2 / variance_of(fitted)
    top = np.maximum(precision.max(axis=(0, 1)), 1.0 / _MOST_NOISE)
    relative = np.where(precision > 0, np.maximum(precision / top, _LEAST_WEIGHT), 0.0)
    step = np.clip((mean - fitted) / slope, -_LARGEST_STEP, _LARGEST_STEP)
    fit = two_way(output + step, relative, parts)
    return fit, np.minimum(fit.variance / top, _MOST_NOISE)


def _inside(mean: np.ndarray, link: str) -> np.ndarray:
    """Means with a finite output also for labels in which a gene was never seen."""
    mean = np.maximum(mean, np.maximum(_LEAST_SHARE * mean.max(axis=0), _TINY))
    return np.minimum(mean, 1.0 - _LEAST_SHARE) if link == "logit" else mean


def _to_output(mean: np.ndarray, link: str) -> np.ndarray:
    if link == "identity":
        return mean
    if link == "softplus":
        return mean + np.log(-np.expm1(-mean))
    return np.log(mean / (1.0 - mean)) if link == "logit" else np.log(mean)


def _from_output(output: np.ndarray, link: str) -> tuple[np.ndarray, np.ndarray]:
    """Means, and their derivative."""
    mean = np.exp(output) if link == "log" else 1.0 / (1.0 + np.exp(-output))
    return mean, mean if link == "log" else mean * (1.0 - mean)
