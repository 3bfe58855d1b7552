r"""How strongly conditions act on the means of groups: a linear mixed model, fitted by empirical Bayes.

.. math::

    y_{skg} = a_{kg} + m_{sg} + v_{skg} + e_{skg}

is the mean of gene g over the cells with label k under condition s, :math:`a` what the labels differ by whatever the
condition, :math:`m` what a condition does to all labels alike, :math:`v` what it does to one label only, and :math:`e`
the sampling of cells, whose variance is known. All but the last are random. For m the prior is a scale mixture of
normals, whose weights are fitted for every condition over the genes (adaptive shrinkage, Stephens 2017,
doi:10.1093/biostatistics/kxw041): most genes do not respond, few respond strongly. The variances of v and a are
moments, those of single genes drawn towards their mean over genes. Nothing depends on a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ._shrinkage import shrinkage
from ._two_way import connected, two_way

__all__ = ["GroupMeans", "MixedModel", "fit_mixed_model"]

_PRIOR_DF = 4.0  # degrees of freedom that the mean over genes counts for beside a gene's own variance
_ROUNDS = 6
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
        Posterior mean and variance of m, `s x g`; 0 for conditions without a group to compare. m has mean 0, weighted
        with what is known, over the conditions that labels connect.
    between
        Variance of v, `s x g`.
    baseline
        Posterior mean of a, `k x g`.
    n_labels
        Effective number of labels that a condition was compared in, `s`.
    estimate, noise
        What `effect` would be without a prior, `s x g`, and the variance that is a condition's own: differences between
        two conditions have the sum of both.
    """

    effect: np.ndarray
    variance: np.ndarray
    between: np.ndarray
    baseline: np.ndarray
    n_labels: np.ndarray
    estimate: np.ndarray
    noise: np.ndarray


def fit_mixed_model(groups: GroupMeans) -> MixedModel:
    """Fit the model of this file."""
    there = groups.n > 1
    # in units of what means are known to, so that nothing depends on the scale of the values
    unit = float(np.sqrt(np.median(groups.error[there]))) if there.any() else 1.0
    unit = unit or 1.0
    groups = GroupMeans(groups.mean / unit, groups.error / unit**2, groups.n)
    parts = connected(there)
    rows, columns = (part >= 0 for part in parts)
    n_genes = groups.mean.shape[-1]
    effect, noise, between, n_labels = (np.zeros((len(there), n_genes)) for _ in range(4))
    # genes a part at a time, as groups may be many
    size = max(_LEAST_GENES, _ENTRIES // there.size)
    for start in range(0, n_genes if rows.any() else 0, size):
        genes = slice(start, start + size)
        mean, error = (values[rows][:, columns, genes] for values in (groups.mean, groups.error))
        found = _fit(mean, error, there[rows][:, columns], (parts[0][rows], parts[1][columns]))
        for all_of, values in zip((effect, noise, between, n_labels), found, strict=True):
            all_of[rows, genes] = values
    factor, variance = np.zeros_like(effect), np.zeros_like(effect)
    with_between = np.where(there[..., None], groups.error + between[:, None], np.inf)
    own_noise = 1.0 / np.maximum((1.0 / with_between).sum(axis=1), _TINY)
    for s in np.flatnonzero(rows):
        factor[s], variance[s] = shrinkage(effect[s], noise[s])
    estimate, effect = effect, factor * effect
    starts = range(0, n_genes, size)
    baseline = [_baseline(groups, there, effect, between, slice(start, start + size)) for start in starts]
    return MixedModel(
        effect * unit,
        variance * unit**2,
        between * unit**2,
        np.concatenate(baseline, axis=-1) * unit,
        n_labels.mean(axis=-1),
        estimate * unit,
        own_noise * unit**2,
    )


def _fit(
    y: np.ndarray, error: np.ndarray, there: np.ndarray, parts: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimates of m, their variances, the variance of v, and effective numbers of labels, each `s x g`."""
    between = np.zeros((len(there), y.shape[-1]))
    free = there.sum() - sum(there.shape) + len(np.unique(parts[0]))  # degrees of freedom of the residuals
    for turn in range(_ROUNDS if free > 0 else 1):
        weights = np.where(there[..., None], 1.0 / (error + between[:, None] + _TINY), 0.0)
        fit = two_way(y, weights, parts)
        if free > 0 and turn < _ROUNDS - 1:
            between = _between(y - fit.rows[:, None] - fit.columns, error, weights, fit.leverage)
    n_labels = weights.sum(axis=1) ** 2 / np.maximum((weights**2).sum(axis=1), _TINY)
    return fit.rows, fit.variance, between, n_labels


def _between(residual: np.ndarray, error: np.ndarray, weights: np.ndarray, leverage: np.ndarray) -> np.ndarray:
    """Variance of what a condition does to one label only: what residuals vary more than sampling has them.

    A squared residual is on average the variance of its group less the share that the fit takes up; groups count as
    much as these squares are precise.
    """
    left = np.where(weights > 0, 1.0 - leverage, 0.0)
    total = np.maximum((weights**2 * left).sum(axis=1), _TINY)
    squares = (weights**2 * residual**2).sum(axis=1) / total
    sampling = (weights**2 * left * np.where(weights > 0, error, 0.0)).sum(axis=1) / total
    expected = sampling + np.maximum((squares - sampling).mean(axis=-1, keepdims=True), 0.0) + _TINY
    ratio, own = squares / expected, left.sum(axis=1)
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
