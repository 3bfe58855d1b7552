"""Distances between two samples of cells: functions on cells x genes arrays that are already in the space to compare.

All of them draw the cells that they use in the same way, so that one seed means the same cells in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from sklearn.metrics import pairwise_distances_chunked

from ._matrix import as_matrices

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["energy_distance", "mmd_rbf", "wasserstein_genes"]


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

    Examples
    --------
    >>> from trvae_scvi.metrics import energy_distance
    >>> round(energy_distance([[0.0], [1.0]], [[5.0], [6.0]]), 3)
    8.0
    """
    x, y = _centred(*_drawn(x, y, max_cells, seed))
    between, within_x, within_y = _means_over_pairs(x, y, lambda distances: distances)
    return 2 * between - (within_x + within_y)


def mmd_rbf(x: Any, y: Any, *, gamma: float | None = None, max_cells: int | None = 1000, seed: int | None = 0) -> float:
    """Squared maximum mean discrepancy of two samples with a Gaussian kernel.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)`` with ``k(x, y) = exp(-gamma |x - y|^2)``, the unbiased
    estimate of Gretton et al. 2012 (JMLR 13:723-773): a cell is not compared with itself, so that between samples of
    the same distribution it scatters around 0 and can be slightly negative. Programs that keep the diagonals report
    larger numbers.

    Parameters
    ----------
    x, y
        `n x d` and `m x d` cells on the same scale, at least 2 rows each.
    gamma
        Inverse squared width of the kernel. `None` is 1 / d, scikit-learn's default: it depends on the number of genes,
        so compare values on the same genes only.
    max_cells, seed
        For the draw, as in :func:`energy_distance`.

    Returns
    -------
    A number without unit, up to 2; 0 for equal distributions.

    Raises
    ------
    ValueError
        If a side has fewer than 2 rows, `max_cells` is below 2, `gamma` is not positive, or the arrays are no matrices
        of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import mmd_rbf
    >>> round(mmd_rbf([[0.0], [1.0]], [[50.0], [51.0]]), 3)
    0.736
    """
    if gamma is not None and not gamma > 0:
        msg = f"Expected a positive `gamma` or None, found {gamma}."
        raise ValueError(msg)
    x, y = _centred(*_drawn(x, y, max_cells, seed))
    rate = 1 / x.shape[1] if gamma is None else gamma
    between, within_x, within_y = _means_over_pairs(x, y, lambda distances: np.exp(-rate * distances**2))
    return within_x + within_y - 2 * between


def wasserstein_genes(x: Any, y: Any, *, max_cells: int | None = 1000, seed: int | None = 0) -> float:
    """Mean over genes of the Wasserstein-1 distance between the two samples of that gene alone.

    The distance of a gene is the area between the two empirical distribution functions, exact whatever the numbers of
    cells (:func:`scipy.stats.wasserstein_distance`). It sees the shape of every gene's distribution, but not how genes
    vary together. It is not unbiased: between samples of the same distribution it is positive and shrinks with the
    numbers of cells.

    Parameters
    ----------
    x, y
        `n x d` and `m x d` cells on the same scale.
    max_cells, seed
        For the draw, as in :func:`energy_distance`.

    Returns
    -------
    A number from 0, in units of the input.

    Raises
    ------
    ValueError
        If `max_cells` is below 2, or the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import wasserstein_genes
    >>> round(wasserstein_genes([[0.0], [1.0]], [[5.0], [6.0]]), 3)
    5.0
    """
    x, y = _drawn(x, y, max_cells, seed)
    return float(np.mean([stats.wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]))


def _drawn(x: Any, y: Any, max_cells: int | None, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Check two samples and return at most `max_cells` rows of each, in float64 and in new memory."""
    x, y = as_matrices([x, y], ["x", "y"])
    if max_cells is not None and max_cells < 2:
        msg = f"Expected `max_cells` to be at least 2 or None, found {max_cells}."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    drawn = [
        cells if max_cells is None or len(cells) <= max_cells else cells[rng.permutation(len(cells))[:max_cells]]
        for cells in (x, y)
    ]
    return drawn[0].astype(np.float64), drawn[1].astype(np.float64)


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift both samples to a common centre; raise ValueError if one has no pair of cells."""
    for name, cells in (("x", x), ("y", y)):
        if len(cells) < 2:
            msg = f"Expected at least 2 cells in `{name}` for distances within it, found {len(cells)}."
            raise ValueError(msg)
    # Distances do not see a common offset, but the dot products behind them would lose digits to it.
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    return x - centre, y - centre


def _means_over_pairs(
    x: np.ndarray, y: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float, float]:
    """Average a function of the distance over all pairs between `x` and `y`, within `x` and within `y`."""
    itself = float(function(np.zeros(())))  # of a cell, whose distance to itself is exactly 0 where there is no `y`

    def total(a: np.ndarray, b: np.ndarray | None) -> float:
        # In chunks: the whole matrix of distances need not fit into memory.
        return float(sum(function(chunk).sum() for chunk in pairwise_distances_chunked(a, b, metric="euclidean")))

    within = [(total(cells, None) - len(cells) * itself) / (len(cells) * (len(cells) - 1)) for cells in (x, y)]
    return total(x, y) / (len(x) * len(y)), within[0], within[1]
