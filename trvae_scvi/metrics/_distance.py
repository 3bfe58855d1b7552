"""The distance between two samples of cells, on cells x genes arrays that are already in the space to compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from trvae_scvi._arguments import check_integer

from ._matrix import as_matrices
from ._sample import Sample, distance_between

__all__ = ["check_max_cells", "drawn", "energy_distance", "energy_of_samples"]


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
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a side has fewer than 2 rows, `max_cells` is below 2, or the arrays are no matrices of finite values with the
        same number of genes.

    Notes
    -----
    It sees differences of means and of the total variation best, and of how genes vary together hardly.

    Examples
    --------
    >>> from trvae_scvi.metrics import energy_distance
    >>> round(energy_distance([[0.0], [1.0]], [[5.0], [6.0]]), 3)
    8.0
    """
    return energy_of_samples(*map(Sample, drawn(x, y, max_cells, seed)))


def energy_of_samples(pred: Sample, real: Sample) -> float:
    """The same for samples of at least 2 cells; those that they use for distances."""
    return 2 * distance_between(pred, real) - (pred.spread + real.spread)


def check_max_cells(max_cells: int | None) -> None:
    """Raise a TypeError or a ValueError unless `max_cells` allows for a distance within a sample."""
    if max_cells is not None:
        check_integer("max_cells", max_cells, 2)


def drawn(x: Any, y: Any, max_cells: int | None, seed: int | None) -> list[np.ndarray]:
    """Check two samples for distances within them and return at most `max_cells` rows of each."""
    x, y = as_matrices([x, y], ["x", "y"])
    check_max_cells(max_cells)
    for name, cells in (("x", x), ("y", y)):
        if len(cells) < 2:
            msg = f"Expected at least 2 cells in `{name}` for distances within it, found {len(cells)}."
            raise ValueError(msg)
    rng = np.random.default_rng(seed)
    return [
        cells if max_cells is None or len(cells) <= max_cells else cells[rng.permutation(len(cells))[:max_cells]]
        for cells in (x, y)
    ]
