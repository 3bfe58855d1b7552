"""Metrics of means and variances: functions on cells x genes arrays that are already in the space to be compared.

Notation: an `n x d` array holds n cells in rows and d genes in columns. Predicted and real cells are not paired, so
every metric compares two samples. All statistics are accumulated in float64, whatever the input's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import distance
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from ._matrix import as_matrices, gene_means, gene_variances

__all__ = [
    "cosine_change",
    "determination",
    "mae_means",
    "mse_means",
    "pearson",
    "pearson_change",
    "r2_means",
    "r2_variances",
    "squared_pearson_means",
    "squared_pearson_variances",
    "variance_ratio",
]

# Means of the same cells in another order differ by rounding; on any scale in use a change this small is none.
NO_CHANGE = 1e-9


def squared_pearson_means(pred: Any, real: Any) -> float:
    """Squared Pearson correlation over genes of the predicted and the real mean.

    Published as "R2" of the means, also by Lotfollahi et al. 2020 (doi:10.1093/bioinformatics/btaa800). It is no
    coefficient of determination: a prediction on a wrong scale or with a wrong offset can still reach 1.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0 to 1; NaN if either mean is the same for all genes.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import squared_pearson_means
    >>> round(squared_pearson_means([[2, 4, 6]], [[1, 2, 3]]), 2)  # twice too large, which it does not see
    1.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return pearson(gene_means(pred), gene_means(real)) ** 2


def squared_pearson_variances(pred: Any, real: Any) -> float:
    """Squared Pearson correlation over genes of the predicted and the real variance (`ddof=0`).

    Published as "R2" of the variances; see :func:`squared_pearson_means` for what it does not see.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0 to 1; NaN if either variance is the same for all genes, as for a single cell.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import squared_pearson_variances
    >>> round(squared_pearson_variances([[0, 0, 0], [1, 2, 3]], [[0, 0, 0], [2, 4, 6]]), 2)
    1.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return pearson(gene_variances(pred), gene_variances(real)) ** 2


def r2_means(pred: Any, real: Any) -> float:
    """Coefficient of determination of the predicted mean for the real one, over genes: the fit of the identity line.

    1 - sum (real - predicted)^2 / sum (real - average real)^2, scikit-learn's `r2_score` with the real mean as truth.
    :func:`squared_pearson_means` is the fit of the best line instead, whatever its slope and offset; a prediction on a
    wrong scale loses here and not there.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number up to 1, negative if the average real mean, predicted for every gene, would be better; NaN if the real mean
    is the same for all genes.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import r2_means
    >>> round(r2_means([[2, 4, 6]], [[1, 2, 3]]), 2)
    -6.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return determination(gene_means(pred), gene_means(real))


def r2_variances(pred: Any, real: Any) -> float:
    """Coefficient of determination of the predicted variance (`ddof=0`) for the real one, over genes.

    As :func:`r2_means`: predictions that are too narrow by a common factor lose here, and not in
    :func:`squared_pearson_variances`.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number up to 1; NaN if the real variance is the same for all genes, as for a single cell.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import r2_variances
    >>> round(r2_variances([[0, 0, 0], [1, 2, 3]], [[0, 0, 0], [2, 4, 6]]), 2)
    -0.69
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return determination(gene_variances(pred), gene_variances(real))


def variance_ratio(pred: Any, real: Any) -> float:
    """Predicted over real variance, both summed over genes: 1 is right, below 1 the prediction is too narrow.

    Variances with `ddof=1`, so that samples of one distribution do not differ by their numbers of cells.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale, at least 2 each.

    Returns
    -------
    A number from 0; NaN if no gene of the real cells varies.

    Raises
    ------
    ValueError
        If a side has fewer than 2 cells, or the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import variance_ratio
    >>> round(variance_ratio([[0, 0], [1, 2]], [[0, 0], [2, 4]]), 2)
    0.25
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    if min(len(pred), len(real)) < 2:
        msg = f"Expected at least 2 predicted and 2 real cells for variances, found {len(pred)} and {len(real)}."
        raise ValueError(msg)
    # Tested by the range, not by the variance: that of equal numbers need not be exactly 0.
    if not np.ptp(real, axis=0).any():
        return float("nan")
    return float(gene_variances(pred, ddof=1).sum() / gene_variances(real, ddof=1).sum())


def pearson_change(pred: Any, real: Any, control: Any) -> float:
    """Pearson correlation over genes of the predicted and the real change of the mean against control.

    Parameters
    ----------
    pred, real, control
        Predicted (`n x d`), real (`m x d`) and control (`k x d`) cells on the same scale.

    Returns
    -------
    A number from -1 to 1. By convention 0 if no gene's predicted mean differs from control (by more than rounding,
    1e-9): predicting no change says nothing about the change. NaN if either change is otherwise the same for all genes.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Notes
    -----
    Both changes are against the same control cells, whose noise they share. With few of them it can be well above 0
    where there is no effect at all: score against control cells that the prediction did not start from.

    Examples
    --------
    >>> from trvae_scvi.metrics import pearson_change
    >>> control, real = [[1, 1, 1]], [[2, 1, 0]]
    >>> round(pearson_change([[3, 1, -1]], real, control), 2), pearson_change(control, real, control)
    (1.0, 0.0)
    """
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    predicted_change = gene_means(pred) - gene_means(control)
    if np.abs(predicted_change).max() <= NO_CHANGE:
        return 0.0
    return pearson(predicted_change, gene_means(real) - gene_means(control))


def cosine_change(pred: Any, real: Any, control: Any) -> float:
    """Cosine over genes of the predicted and the real change of the mean against control.

    Unlike :func:`pearson_change` it sees a shift that all genes share. Neither sees the size of the change.

    Parameters
    ----------
    pred, real, control
        Predicted (`n x d`), real (`m x d`) and control (`k x d`) cells on the same scale.

    Returns
    -------
    A number from -1 to 1. By convention 0 if no gene's predicted mean differs from control (by more than rounding,
    1e-9), as in :func:`pearson_change`; otherwise NaN if no gene's real mean does.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import cosine_change
    >>> round(cosine_change([[2, 2]], [[4, 1]], [[1, 1]]), 2)
    0.71
    """
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    predicted_change, change = gene_means(pred) - gene_means(control), gene_means(real) - gene_means(control)
    if np.abs(predicted_change).max() <= NO_CHANGE:
        return 0.0
    if np.abs(change).max() <= NO_CHANGE:
        return float("nan")
    return float(1 - distance.cosine(predicted_change, change))


def mse_means(pred: Any, real: Any) -> float:
    """Mean over genes of the squared difference of the predicted and the real mean.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0, in squared units of the input.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import mse_means
    >>> mse_means([[1, 2]], [[1, 4]])
    2.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return float(mean_squared_error(gene_means(real), gene_means(pred)))


def mae_means(pred: Any, real: Any) -> float:
    """Mean over genes of the absolute difference of the predicted and the real mean.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0, in units of the input.

    Raises
    ------
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import mae_means
    >>> mae_means([[1, 2]], [[1, 4]])
    1.0
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return float(mean_absolute_error(gene_means(real), gene_means(pred)))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two arrays of numbers; NaN if either is constant."""
    # Tested by the range, not by the standard deviation: the latter of equal numbers need not be exactly 0.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def determination(predicted: np.ndarray, real: np.ndarray) -> float:
    """Coefficient of determination of the identity line; NaN if `real` is constant."""
    return float("nan") if np.ptp(real) == 0 else float(r2_score(real, predicted))
