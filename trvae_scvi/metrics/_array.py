"""The metrics: pure functions on cells x genes arrays that are already in the space to be compared.

Notation: an `n x d` array holds n cells in rows and d genes in columns. Predicted and real cells are not paired, so
every metric compares two samples. All statistics are accumulated in float64, whatever the input's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import mean_squared_error, pairwise_distances_chunked

from ._matrix import as_matrices

__all__ = [
    "energy_distance",
    "mse_means",
    "pearson_change",
    "responsive_genes",
    "squared_pearson_means",
    "squared_pearson_variances",
]

# Keeps the t value of a gene without any variance finite (0 if its means agree).
T_DENOMINATOR_OFFSET = 1e-9
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
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return _pearson(_means(pred), _means(real)) ** 2


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
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return _pearson(_variances(pred), _variances(real)) ** 2


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
    """
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    predicted_change = _means(pred) - _means(control)
    if np.abs(predicted_change).max() <= NO_CHANGE:
        return 0.0
    return _pearson(predicted_change, _means(real) - _means(control))


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
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    return float(mean_squared_error(_means(real), _means(pred)))


def energy_distance(x: Any, y: Any, *, max_cells: int | None = 1000, seed: int | None = 0) -> float:
    """Energy distance of two samples with Euclidean distances.

    ``2 E|x - y| - E|x - x'| - E|y - y'|``, Székely & Rizzo 2013 (doi:10.1016/j.jspi.2013.03.018). A cell is not
    compared with itself, which makes the estimate unbiased: between samples of the same distribution it scatters around
    0 and can be slightly negative. Programs that use squared distances or principal components report other numbers.

    Parameters
    ----------
    x, y
        `n x d` and `m x d` cells on the same scale, at least 2 rows each.
    max_cells
        At most so many rows of each side are used, drawn without replacement. `None` uses all.
    seed
        Seeds one :func:`numpy.random.default_rng`; each side that is larger than `max_cells` takes the first rows of a
        permutation drawn from it, `x` before `y`. `None` is unseeded.

    Returns
    -------
    The distance in units of the input; 0 for equal distributions.

    Raises
    ------
    ValueError
        If a side has fewer than 2 rows, `max_cells` is below 2, or the arrays are no matrices of finite values with the
        same number of genes.
    """
    x, y = as_matrices([x, y], ["x", "y"])
    if max_cells is not None and max_cells < 2:
        msg = f"Expected `max_cells` to be at least 2 or None, found {max_cells}."
        raise ValueError(msg)
    for name, cells in (("x", x), ("y", y)):
        if len(cells) < 2:
            msg = f"Expected at least 2 cells in `{name}` for distances within it, found {len(cells)}."
            raise ValueError(msg)
    rng = np.random.default_rng(seed)
    x, y = (_draw(cells, max_cells, rng).astype(np.float64) for cells in (x, y))
    # Distances do not see a common offset, but the dot products behind them would lose digits to it.
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    x -= centre
    y -= centre
    n, m = len(x), len(y)
    within = _sum_of_distances(x) / (n * (n - 1)) + _sum_of_distances(y) / (m * (m - 1))
    return 2 * _sum_of_distances(x, y) / (n * m) - within


def responsive_genes(control: Any, real: Any, *, n_genes: int = 100) -> np.ndarray:
    """Genes whose real response is most certain: largest absolute Welch t between control and target cells.

    t = (mean real - mean control) / (sqrt(v_r / n_r + v_c / n_c) + 1e-9), variances with `ddof=1` (Welch 1947,
    doi:10.1093/biomet/34.1-2.28); the constant keeps genes without variance finite.

    Parameters
    ----------
    control, real
        Real control (`k x d`) and real target (`m x d`) cells on the same scale, at least 2 each.
    n_genes
        How many genes to return.

    Returns
    -------
    Column indices, `n_genes`, largest absolute t first; ties in the order of the columns.

    Raises
    ------
    ValueError
        If a side has fewer than 2 cells, `n_genes` is not from 1 to the number of genes, or the arrays are no matrices
        of finite values with the same number of genes.
    """
    control, real = as_matrices([control, real], ["control", "real"])
    if min(len(control), len(real)) < 2:
        msg = f"Expected at least 2 control and 2 real cells for variances, found {len(control)} and {len(real)}."
        raise ValueError(msg)
    if not 1 <= n_genes <= real.shape[1]:
        msg = f"Expected a number of top genes from 1 to the number of genes ({real.shape[1]}), found {n_genes}."
        raise ValueError(msg)
    squared_error = _variances(real, ddof=1) / len(real) + _variances(control, ddof=1) / len(control)
    t = (_means(real) - _means(control)) / (np.sqrt(squared_error) + T_DENOMINATOR_OFFSET)
    return np.argsort(-np.abs(t), kind="stable")[:n_genes]


def _means(cells: np.ndarray) -> np.ndarray:
    return cells.mean(axis=0, dtype=np.float64)


def _variances(cells: np.ndarray, ddof: int = 0) -> np.ndarray:
    return cells.var(axis=0, dtype=np.float64, ddof=ddof)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    # Tested by the range, not by the standard deviation: the latter of equal numbers need not be exactly 0.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _draw(cells: np.ndarray, max_cells: int | None, rng: np.random.Generator) -> np.ndarray:
    if max_cells is None or len(cells) <= max_cells:
        return cells
    return cells[rng.permutation(len(cells))[:max_cells]]


def _sum_of_distances(x: np.ndarray, y: np.ndarray | None = None) -> float:
    # In chunks: the whole matrix of distances need not fit into memory. The diagonal is exactly 0 without `y`.
    return float(sum(chunk.sum() for chunk in pairwise_distances_chunked(x, y, metric="euclidean")))
