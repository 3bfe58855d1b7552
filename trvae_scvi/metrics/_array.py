"""Metrics of means and of variation: functions on cells x genes arrays that are already in the space to be compared.

Notation: an `n x d` array holds n cells in rows and d genes in columns. Predicted and real cells are not paired, so
every metric compares two samples. All statistics are accumulated in float64, whatever the input's type.

Every public function has a twin in `BY_SAMPLE` that takes :class:`~trvae_scvi.metrics._sample.Sample` objects, in which
the moments are kept from one metric to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ._sample import Sample, samples

__all__ = [
    "BY_SAMPLE",
    "checked_response",
    "mse_means",
    "mse_stds",
    "partial_pearson",
    "pearson",
    "pearson_change",
    "pearson_residual",
    "squared_pearson_means",
    "squared_pearson_variances",
]

# Means of the same cells in another order differ by rounding; on any scale in use a change this small is none.
NO_CHANGE = 1e-9


def squared_pearson_means(pred: Any, real: Any) -> float:
    """Squared Pearson correlation over genes of the predicted and the real mean.

    Published as "R2" of the means, also by Lotfollahi et al. 2020 (doi:10.1093/bioinformatics/btaa800). It is no
    coefficient of determination: a prediction on a wrong scale or with a wrong offset can still reach 1. Predicting no
    change at all reaches .8 and more where genes differ more than conditions do.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0 to 1; NaN if either mean is the same for all genes.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import squared_pearson_means
    >>> round(squared_pearson_means([[2, 4, 6]], [[1, 2, 3]]), 2)  # twice too large, which it does not see
    1.0
    """
    return _squared_pearson_means(*samples(pred=pred, real=real))


def squared_pearson_variances(pred: Any, real: Any) -> float:
    """Squared Pearson correlation over genes of the predicted and the real variance (`ddof=0`).

    Published as "R2" of the variances; see :func:`squared_pearson_means` for what it does not see. Cells that are too
    narrow or too wide by a common factor have 1, too: :func:`mse_stds` sees that.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0 to 1; NaN if either variance is the same for all genes, as for a single cell.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import squared_pearson_variances
    >>> round(squared_pearson_variances([[0, 0, 0], [1, 2, 3]], [[0, 0, 0], [2, 4, 6]]), 2)
    1.0
    """
    return _squared_pearson_variances(*samples(pred=pred, real=real))


def pearson_change(pred: Any, real: Any, source: Any, control: Any) -> float:
    """Pearson correlation over genes of the predicted and the real change of the mean against control.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.
    source
        Control cells (`k x d`) that the prediction started from: the predicted change is against these.
    control
        Other control cells of the same kind (`l x d`): the real change is against these. Given the same cells twice,
        both changes share their noise, which can correlate them well above 0 where there is no effect at all.

    Returns
    -------
    A number from -1 to 1. By convention 0 if no gene's predicted mean differs from that of `source` (by more than
    rounding, 1e-9): predicting no change says nothing about the change. NaN if either change is otherwise the same for
    all genes.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Notes
    -----
    It does not see the size of a change, and a change that all groups share is enough for a high value.

    Examples
    --------
    >>> from trvae_scvi.metrics import pearson_change
    >>> source, control, real = [[1, 1, 1]], [[1, 0, 1]], [[2, 1, 0]]
    >>> round(pearson_change([[3, 2, -1]], real, source, control), 2), pearson_change(source, real, source, control)
    (0.97, 0.0)
    """
    return _pearson_change(*samples(pred=pred, real=real, source=source, control=control))


def pearson_residual(pred: Any, real: Any, source: Any, control: Any, expected: Any) -> float:
    """Pearson correlation over genes of what the predicted and the real change are beyond the mean response.

    As :func:`pearson_change`, after the mean response has been subtracted from both changes: what a condition does to
    everything correlates every prediction with the truth. The idea is that of Systema (Viñas Torné et al. 2025), which
    subtracts the mean over perturbations; here it is what the caller says, as a rule the other groups' mean change.

    Parameters
    ----------
    pred, real, source, control
        As in :func:`pearson_change`.
    expected
        The mean response, `d`: the change of every gene's mean that is subtracted from both.

    Returns
    -------
    A number from -1 to 1. By convention 0 if the prediction is the mean response (to rounding, 1e-9). NaN if either
    residual is otherwise the same for all genes.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes, or `expected` is no such vector.

    Notes
    -----
    A group that responds less than the others has a residual opposite to their response, and so has predicting no
    change: that scores well above 0 there. :func:`partial_pearson` is free of that.

    Examples
    --------
    >>> from trvae_scvi.metrics import pearson_residual
    >>> source = control = [[1, 1, 1]]
    >>> round(pearson_residual([[4, 1, 1]], [[4, 1, 0]], source, control, [2, 0, 0]), 2)
    0.87
    """
    return _with_response(_pearson_residual, pred, real, source, control, expected)


def partial_pearson(pred: Any, real: Any, source: Any, control: Any, expected: Any) -> float:
    """Partial Pearson correlation over genes of the predicted and the real change, given the mean response.

    As :func:`pearson_change`, after both changes have been regressed on the mean response over the genes, with an
    intercept: what is left is the part of a response that is not more or less of what the others do.

    Parameters
    ----------
    pred, real, source, control
        As in :func:`pearson_change`.
    expected
        The mean response, `d`: as a rule the other groups' mean change.

    Returns
    -------
    A number from -1 to 1. By convention 0 if nothing of the prediction is left (to rounding, 1e-9), as of no change, of
    the mean response and of any multiple of it. NaN if nothing is left of the real change.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        As :func:`pearson_residual`.

    Notes
    -----
    It does not see how strong a response is, in common or specific parts.

    Examples
    --------
    >>> from trvae_scvi.metrics import partial_pearson
    >>> source = control = [[1, 1, 1, 1]]
    >>> round(partial_pearson([[4, 1, 1, 2]], [[4, 1, 0, 2]], source, control, [2, 0, 0, 0]), 2)
    0.87
    """
    return _with_response(_partial_pearson, pred, real, source, control, expected)


def mse_means(pred: Any, real: Any) -> float:
    """Mean over genes of the squared difference of the predicted and the real mean.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0, in squared units of the input. With few cells most of it is noise, whatever is predicted.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Notes
    -----
    It does not see single cells: the right mean without any variation is perfect.

    Examples
    --------
    >>> from trvae_scvi.metrics import mse_means
    >>> mse_means([[1, 2]], [[1, 4]])
    2.0
    """
    return _mse_means(*samples(pred=pred, real=real))


def mse_stds(pred: Any, real: Any) -> float:
    """Mean over genes of the squared difference of the predicted and the real standard deviation (`ddof=0`).

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells on the same scale.

    Returns
    -------
    A number from 0, in squared units of the input.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the arrays are no matrices of finite values with the same number of genes.

    Notes
    -----
    It sees neither means nor how genes vary together.

    Examples
    --------
    >>> from trvae_scvi.metrics import mse_stds
    >>> mse_stds([[0, 0], [2, 2]], [[0, 0], [2, 6]])
    2.0
    """
    return _mse_stds(*samples(pred=pred, real=real))


def _with_response(
    function: Callable[..., float], pred: Any, real: Any, source: Any, control: Any, expected: Any
) -> float:
    sides = samples(pred=pred, real=real, source=source, control=control)
    return function(*sides, checked_response(expected, len(sides[0].mean)))


def checked_response(expected: Any, n_genes: int) -> np.ndarray:
    """Give a mean response as an array; raise a ValueError unless it holds a finite number for each gene."""
    response = np.asarray(expected, dtype=np.float64)
    if response.shape != (n_genes,) or not np.isfinite(response).all():
        msg = f"Expected a finite number for each of {n_genes} genes in `expected`, found {expected!r}."
        raise ValueError(msg)
    return response


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two arrays of numbers; NaN if either is constant."""
    # Tested by the range, not by the standard deviation: the latter of equal numbers need not be exactly 0.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _squared_pearson_means(pred: Sample, real: Sample) -> float:
    return pearson(pred.mean, real.mean) ** 2


def _squared_pearson_variances(pred: Sample, real: Sample) -> float:
    return pearson(pred.variance, real.variance) ** 2


def _pearson_change(pred: Sample, real: Sample, source: Sample, control: Sample) -> float:
    predicted = pred.mean - source.mean
    if np.abs(predicted).max() <= NO_CHANGE:
        return 0.0
    return pearson(predicted, real.mean - control.mean)


def _pearson_residual(pred: Sample, real: Sample, source: Sample, control: Sample, expected: np.ndarray) -> float:
    predicted = pred.mean - source.mean - expected
    if np.abs(predicted).max() <= NO_CHANGE:
        return 0.0
    return pearson(predicted, real.mean - control.mean - expected)


def _partial_pearson(pred: Sample, real: Sample, source: Sample, control: Sample, expected: np.ndarray) -> float:
    given = np.stack([np.ones(len(expected)), expected], axis=1)
    changes = np.stack([pred.mean - source.mean, real.mean - control.mean], axis=1)
    left = changes - given @ np.linalg.lstsq(given, changes, rcond=None)[0]
    of_predicted, of_real = np.abs(left).max(axis=0)
    if of_real <= NO_CHANGE:
        return float("nan")
    return 0.0 if of_predicted <= NO_CHANGE else pearson(*left.T)


def _mse_means(pred: Sample, real: Sample) -> float:
    return float(np.mean((pred.mean - real.mean) ** 2))


def _mse_stds(pred: Sample, real: Sample) -> float:
    return float(np.mean((np.sqrt(pred.variance) - np.sqrt(real.variance)) ** 2))


#: The same on samples, by name.
BY_SAMPLE: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "mse_means": _mse_means,
        "partial_pearson": _partial_pearson,
        "pearson_residual": _pearson_residual,
        "mse_stds": _mse_stds,
        "pearson_change": _pearson_change,
        "squared_pearson_means": _squared_pearson_means,
        "squared_pearson_variances": _squared_pearson_variances,
    }
)
