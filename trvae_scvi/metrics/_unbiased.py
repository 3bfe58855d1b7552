"""The squared error of means without what sampling adds to it, relative to the effect that was to be predicted."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._matrix import as_matrices, gene_means, gene_variances

__all__ = ["unbiased_capped_mse", "unbiased_errors"]


def unbiased_capped_mse(pred: Any, real: Any, control: Any) -> float:
    """Squared error of the predicted mean over the squared real effect, both without what sampling adds.

    ``(|p - r|^2 - min(s_p, s_r) - s_r) / (|r - c|^2 - s_r - s_c)`` with the means `p`, `r` and `c` of the three kinds
    of cells and ``s``, the jackknife estimate of a mean's sampling variance (of a mean: the variance with `ddof=1`
    over the number of cells), all summed over genes. What is subtracted for the prediction is capped by what the real
    cells earn: else scattering the predicted cells would lower the score. `expr_mse_unbiased_capped_norm` of
    cell-eval2, for normalised values.

    Parameters
    ----------
    pred
        Predicted cells (`n x d`), log-normalised. A single row, as a predicted mean is one, earns no correction.
    real
        Real target cells (`m x d`, at least 2).
    control
        Real control cells (`k x d`, at least 2), others than those that the prediction started from.

    Returns
    -------
    0 is the truth and 1 is no change, on average and whatever the numbers of cells, as long as the cap does not bind: a
    number without unit and without bounds. It scatters around 0 for a perfect prediction and can be slightly negative.
    NaN if the corrected effect is not above 0: there is none that could be told from noise.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If there are fewer than 2 real or control cells, or the arrays are no matrices of finite values with the same
        number of genes.

    Notes
    -----
    Blind to anything but means. Where the cap binds, because the predicted cells are fewer than the real ones or more
    scattered, no change scores above 1 and the truth above 0. Predicted cells that scatter although their mean is
    pinned are rewarded: cell-eval2 also limits the sum of the corrections by the differences between the predicted
    perturbations, which needs many of them. Its score of several perturbations is the ratio of the sums, not the mean
    of ratios. By default it compares logarithms of sums of counts over cells instead of means of logarithms, so that
    its numbers differ from these.

    Examples
    --------
    >>> from trvae_scvi.metrics import unbiased_capped_mse
    >>> real, control = [[3.0, 1.0], [5.0, 1.0]], [[0.0, 1.0], [2.0, 1.0]]
    >>> [round(unbiased_capped_mse([[mean, 1.0]], real, control), 2) for mean in (4.0, 1.0)]
    [-0.14, 1.14]
    """
    error, effect = unbiased_errors(pred, real, control)
    return error / effect if effect > 0 else float("nan")


def unbiased_errors(pred: Any, real: Any, control: Any) -> tuple[float, float]:
    """Return the two parts of :func:`unbiased_capped_mse`, each as a mean over genes: the error and the effect.

    Sum each over the targets and divide the sums for one score of several targets: a ratio of one weak target is mostly
    noise.

    Parameters
    ----------
    pred, real, control
        As in :func:`unbiased_capped_mse`.

    Returns
    -------
    The corrected squared error and the corrected squared effect, in squared units of the input; either can be negative.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        As :func:`unbiased_capped_mse`.

    Examples
    --------
    >>> from trvae_scvi.metrics import unbiased_errors
    >>> unbiased_errors([[4.0, 1.0]], [[3.0, 1.0], [5.0, 1.0]], [[0.0, 1.0], [2.0, 1.0]])
    (-0.5, 3.5)
    """
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    if min(len(real), len(control)) < 2:
        msg = (
            f"Expected at least 2 real and 2 control cells for variances, found {len(real)} and {len(control)}. "
            "Leave such targets out."
        )
        raise ValueError(msg)
    of_pred, of_real, of_control = (_sampling_variance(cells) for cells in (pred, real, control))
    error = _squared_distance(pred, real) - min(of_pred, of_real) - of_real
    effect = _squared_distance(real, control) - of_real - of_control
    return error / real.shape[1], effect / real.shape[1]


def _squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(((gene_means(x) - gene_means(y)) ** 2).sum())


def _sampling_variance(cells: np.ndarray) -> float:
    """Variance of the mean of the cells, summed over genes; 0 for a single cell, which does not show any."""
    return 0.0 if len(cells) < 2 else float(gene_variances(cells, ddof=1).sum() / len(cells))
