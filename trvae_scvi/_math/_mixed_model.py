r"""How strongly conditions act on the means of groups: a linear mixed model, fitted by empirical Bayes.

.. math::

    y_{skg} = a_{kg} + m_{sg} + v_{skg} + e_{skg}

is the mean of gene g over the cells with label k under condition s, :math:`a` what the labels differ by whatever the
condition, :math:`m` what a condition does to all labels alike (of mean 0 over the conditions), :math:`v` what it does
to one label only, and :math:`e` the sampling of cells, whose variance is known. All but the last are random. For m the
prior is a scale mixture of normals, whose weights are fitted for every condition over the genes (adaptive shrinkage,
Stephens 2017, doi:10.1093/biostatistics/kxw041): most genes do not respond, few respond strongly. The variances of v
and a are moments, those of single genes drawn towards their mean over genes. Nothing depends on a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["GroupMeans", "MixedModel", "fit_mixed_model", "shrinkage"]

_PRIOR_DF = 4.0  # degrees of freedom that the mean over genes counts for beside a gene's own variance
_ROUNDS, _SWEEPS, _EM_STEPS = 4, 30, 200
_TINY = 1e-12
_ENTRIES, _LEAST_GENES = 4_000_000, 500  # of groups and genes at a time; the least, as variances lean on each other


class GroupMeans(NamedTuple):
    """Means of groups on the scale of the model.

    Attributes
    ----------
    mean, error
        Means and their squared standard errors, `s x k x g`.
    n
        Numbers of cells, `s x k`; groups of less than two cells do not count.
    """

    mean: np.ndarray
    error: np.ndarray
    n: np.ndarray


@dataclass(frozen=True, eq=False)
class MixedModel:
    """What :func:`fit_mixed_model` finds.

    Attributes
    ----------
    effect, variance
        Posterior mean and variance of m, `s x g`; 0 for conditions without a group to compare.
    prior_variance
        Of the normal prior for which these would be the posterior, `s x g`; infinite for such conditions.
    between
        Variance of v, `s x g`.
    baseline
        Posterior mean of a, `k x g`.
    n_labels
        Effective number of labels that a condition was compared in, `s`.
    """

    effect: np.ndarray
    variance: np.ndarray
    prior_variance: np.ndarray
    between: np.ndarray
    baseline: np.ndarray
    n_labels: np.ndarray


def fit_mixed_model(groups: GroupMeans, *, labels_differ: bool) -> MixedModel:
    """Fit the model of this file.

    Parameters
    ----------
    groups
        Means of all groups.
    labels_differ
        Whether there is v: a condition that does something else to every label is then hardly known, however many
        cells there are.
    """
    there = groups.n > 1
    compared = there & (there.sum(axis=0) > 1)  # a label under one condition alone tells of none
    known = compared.any(axis=1)
    # genes a part at a time, as groups may be many
    size = max(_LEAST_GENES, _ENTRIES // there.size)
    parts = [slice(start, start + size) for start in range(0, groups.mean.shape[-1], size)]
    fits = [_fit(groups.mean[..., part], groups.error[..., part], compared, labels_differ) for part in parts]
    effect, between, noise, n_labels = (np.concatenate(each, axis=-1) for each in zip(*fits, strict=True))
    factor, variance = np.zeros_like(effect), np.zeros_like(effect)
    for s in np.flatnonzero(known):
        factor[s], variance[s] = shrinkage(effect[s], noise[s])
    effect = factor * effect
    baseline = [_baseline(groups, there, effect, between, part) for part in parts]
    return MixedModel(
        effect,
        variance,
        np.where(known[:, None], noise * factor / np.maximum(1.0 - factor, 1e-6), np.inf),
        between,
        np.concatenate(baseline, axis=-1),
        np.where(known, n_labels.mean(axis=-1), 0.0),
    )


def _fit(
    mean: np.ndarray, error: np.ndarray, compared: np.ndarray, labels_differ: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimates of m, the variance of v, that of the estimates, and effective numbers of labels, each `s x g`."""
    n_conditions = len(compared)
    weights_of = np.where(compared[..., None], 1.0, 0.0)
    y, error = (np.where(compared[..., None], values, 0.0) for values in (mean, error))
    between = np.zeros((n_conditions, y.shape[-1]))
    free = compared.sum() - compared.any(axis=0).sum() - n_conditions + 1  # degrees of freedom of the residuals
    weights = weights_of / (error + _TINY)
    effect, labels = _two_way(y, weights)
    for _ in range(_ROUNDS if labels_differ and free > 0 else 0):
        residual = y - labels - effect[:, None]
        between = _between(residual, error, compared, free / compared.sum())
        weights = weights_of / (error + between[:, None] + _TINY)
        effect, labels = _two_way(y, weights)
    total = np.maximum(weights.sum(axis=1), _TINY)
    n_labels = total**2 / np.maximum((weights**2).sum(axis=1), _TINY)
    return effect, between, (1.0 - 1.0 / n_conditions) / total, n_labels


def shrinkage(estimate: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means, as shares of the estimates, and posterior variances, under a prior learned from all of them.

    Parameters
    ----------
    estimate, noise
        `g` estimates and their variances.
    """
    noise = np.maximum(noise, _TINY)
    low, high = noise.min() / 100.0, max(noise.max(), (estimate**2).max())
    grid = np.concatenate([[0.0], low * 2.0 ** np.arange(np.ceil(np.log2(high / low)) + 2)])
    total = grid[:, None] + noise
    log_density = -0.5 * (np.log(total) + estimate**2 / total)
    density = np.exp(log_density - log_density.max(axis=0))
    share = np.full(len(grid), 1.0 / len(grid))
    for _ in range(_EM_STEPS):
        posterior = share[:, None] * density
        posterior /= posterior.sum(axis=0)
        share = posterior.mean(axis=1)
    kept = grid[:, None] / total
    factor = (posterior * kept).sum(axis=0)
    second = (posterior * (kept * noise + (kept * estimate) ** 2)).sum(axis=0)
    return factor, second - (factor * estimate) ** 2


def _two_way(y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares for `y = a_k + m_s`, by turns; `m`, of mean 0 over the conditions, and `a`."""
    of_labels, of_conditions = (np.maximum(weights.sum(axis=axis), _TINY) for axis in (0, 1))
    effect = np.zeros((y.shape[0], y.shape[2]))
    labels = np.zeros((y.shape[1], y.shape[2]))
    for _ in range(_SWEEPS):
        labels = (weights * (y - effect[:, None])).sum(axis=0) / of_labels
        effect = (weights * (y - labels)).sum(axis=1) / of_conditions
        effect -= effect.mean(axis=0)
    return effect, labels


def _between(residual: np.ndarray, error: np.ndarray, compared: np.ndarray, free: float) -> np.ndarray:
    """Variance of what a condition does to one label only: what residuals vary more than sampling has them."""
    there, n = compared[..., None], np.maximum(compared.sum(axis=1), 1)[:, None]
    squares = np.where(there, residual**2, 0.0).sum(axis=1) / (n * free)
    sampling = np.where(there, error, 0.0).sum(axis=1) / n
    expected = sampling + np.maximum((squares - sampling).mean(axis=-1, keepdims=True), 0.0) + _TINY
    ratio = squares / expected
    own = compared.sum(axis=1)[:, None] * free
    moderated = (_PRIOR_DF * ratio.mean(axis=-1, keepdims=True) + own * ratio) / (_PRIOR_DF + own)
    return np.maximum(moderated * expected - sampling, 0.0)


def _baseline(
    groups: GroupMeans, there: np.ndarray, effect: np.ndarray, between: np.ndarray, part: slice
) -> np.ndarray:
    """Posterior means of `a`: what a label has in common with the others, and what of its own will last."""
    variance = groups.error[..., part] + between[:, None, part] + _TINY
    weights = np.where(there[..., None], 1.0 / variance, 0.0)
    precision = np.maximum(weights.sum(axis=0), _TINY)
    means = np.where(there[..., None], groups.mean[..., part] - effect[:, None, part], 0.0)
    labels = (weights * means).sum(axis=0) / precision
    known = there.any(axis=0)
    n = int(known.sum())
    if n < 3:  # two labels do not tell how far labels differ
        return labels
    centre = labels[known].mean(axis=0)
    excess = labels[known].var(axis=0, ddof=1) - (1.0 / precision[known]).mean(axis=0)
    spread = np.maximum((_PRIOR_DF * excess.mean() + (n - 1) * excess) / (_PRIOR_DF + n - 1), 0.0)
    return centre + (labels - centre) * spread / (spread + 1.0 / precision)
