"""Errors of means in which the genes count that set one perturbation apart from the others.

After Mejia et al. 2025 (arXiv:2506.22641) and Miller et al. 2025 (doi:10.1101/2025.10.20.683304): over all genes alike,
the mean over the perturbations is hard to beat, as most genes respond to none of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import r2_score

from ._de import DEMethod, de_table
from ._matrix import as_matrices, gene_means

__all__ = ["de_weights", "weighted_mse", "weighted_r2_change"]


def de_weights(real: Any, rest: Any, *, method: DEMethod = "t-test_overestim_var") -> np.ndarray:
    """Weight of every gene: how clearly it sets the cells of one perturbation apart from those of all others.

    The absolute test score of `real` against `rest`, scaled to run from 0 to 1, squared and divided by its sum (Mejia
    et al. 2025, arXiv:2506.22641). The authors test against all other perturbations without the control, by the t-test
    that overestimates the variance.

    Parameters
    ----------
    real
        Real cells of one perturbation (`m x d`, at least 2), log-normalised.
    rest
        Real cells of all other perturbations (`k x d`, at least 2), without the control.
    method
        As in :func:`~trvae_scvi.metrics.de_genes`.

    Returns
    -------
    `d` weights from 0 that sum to 1. If all genes have the same absolute score, none stands out and all weigh the same.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a side has fewer than 2 cells, `method` is unknown, or the arrays are no matrices of finite values with the
        same number of genes.

    Notes
    -----
    The weights know the real cells: they belong into a score, never into training for the same target. With few cells a
    large score is often chance, and the metric then looks at noise.

    Examples
    --------
    >>> from trvae_scvi.metrics import de_weights
    >>> de_weights([[9, 5, 1], [8, 4, 1]], [[0, 5, 1], [1, 4, 1]]).round(2).tolist()
    [1.0, 0.0, 0.0]
    """
    score = np.abs(de_table(real, rest, method=method)["score"].to_numpy(dtype=np.float64))
    above = score - score.min()
    if not above.any():
        return np.full(len(score), 1 / len(score))
    squared = (above / above.max()) ** 2
    return squared / squared.sum()


def weighted_mse(pred: Any, real: Any, weights: Any) -> float:
    """Weighted mean over genes of the squared difference of the predicted and the real mean.

    "WMSE" of Mejia et al. 2025 (arXiv:2506.22641) and Miller et al. 2025 (doi:10.1101/2025.10.20.683304).

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells, log-normalised.
    weights
        `d` weights, not negative; only their ratios matter. As a rule from :func:`de_weights`.

    Returns
    -------
    A number from 0, the best, in squared units of the input. Sampling of the real cells keeps it above 0: compare with
    what held-out real cells reach.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the weights are no `d` finite numbers from 0 with a positive sum, or the arrays are no matrices of finite
        values with the same number of genes.

    Notes
    -----
    Blind to all genes of weight 0, among them those that every perturbation changes alike, and to anything but means.

    Examples
    --------
    >>> from trvae_scvi.metrics import weighted_mse
    >>> weighted_mse([[1, 2]], [[1, 4]], [3, 1])
    1.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    error = gene_means(pred) - gene_means(real)
    return float(np.average(error**2, weights=_as_genes(weights, real.shape[1], "weights")))


def weighted_r2_change(pred: Any, real: Any, baseline: Any, weights: Any) -> float:
    """Weighted coefficient of determination over genes of the predicted change for the real one.

    Both are changes against the mean over all perturbations, not against control: what they have in common earns
    nothing. scikit-learn's `r2_score` with the weights as those of the samples; the weighted delta R2 of Mejia et al.
    2025 (arXiv:2506.22641) and Miller et al. 2025 (doi:10.1101/2025.10.20.683304).

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells, log-normalised.
    baseline
        `d` numbers: the average of the real means of all perturbations, the control not among them. Leave this target
        out if the prediction must not profit from knowing it.
    weights
        As in :func:`weighted_mse`.

    Returns
    -------
    A number up to 1, the best. The baseline itself has a value of at most 0: it differs from 0 by the weighted average
    of the real change. NaN if the real change is the same for all genes that weigh anything.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If `baseline` or the weights are no `d` finite numbers, a weight is negative or their sum is 0, or the arrays
        are no matrices of finite values with the same number of genes.

    Notes
    -----
    Blind to what :func:`weighted_mse` is blind to, and steep where the perturbations hardly differ: the real change is
    then mostly noise.

    Examples
    --------
    >>> from trvae_scvi.metrics import weighted_r2_change
    >>> weighted_r2_change([[1, 2, 9]], [[1, 4, 0]], [1, 2, 3], [1, 1, 0])
    -1.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    baseline, weights = _as_genes(baseline, real.shape[1], "baseline"), _as_genes(weights, real.shape[1], "weights")
    change, predicted_change = gene_means(real) - baseline, gene_means(pred) - baseline
    counted = weights > 0
    if np.ptp(change[counted]) == 0:
        return float("nan")
    return float(r2_score(change[counted], predicted_change[counted], sample_weight=weights[counted]))


def _as_genes(values: Any, n_genes: int, name: str) -> np.ndarray:
    """Check one number per gene, for weights also their signs and sum, and return them in float64."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (n_genes,) or not np.isfinite(numbers).all():
        msg = f"Expected {n_genes} finite numbers in `{name}`, one per gene, found {numbers.shape} or NaN or infinity."
        raise ValueError(msg)
    if name == "weights" and (numbers.min() < 0 or numbers.sum() <= 0):
        msg = f"Expected weights from 0 with a positive sum, found {numbers.min():g} and the sum {numbers.sum():g}."
        raise ValueError(msg)
    return numbers
