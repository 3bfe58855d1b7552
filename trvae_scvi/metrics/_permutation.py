"""A permutation test of the energy distance: whether two samples of cells can be told apart at all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances

from trvae_scvi._arguments import check_integer

from ._distance import drawn

__all__ = ["EnergyTest", "energy_test"]

# So many permutations at a time: their products with the distances are computed at once.
_BATCH = 128


class EnergyTest(NamedTuple):
    """What :func:`energy_test` returns.

    Examples
    --------
    >>> from trvae_scvi.metrics import EnergyTest
    >>> EnergyTest(statistic=0.5, p_value=0.01).p_value
    0.01
    """

    statistic: float
    p_value: float


def energy_test(
    x: Any, y: Any, *, n_permutations: int = 1000, max_cells: int | None = 1000, seed: int | None = 0
) -> EnergyTest:
    """Test whether two samples have the same distribution, by permuting which cell belongs to which.

    The E-test of Székely & Rizzo 2004 (InterStat 5) with the energy distance of
    :func:`~trvae_scvi.metrics.energy_distance`. ``p = (1 + permutations at least as far apart) / (1 + permutations)``.
    The distances between the cells are computed once.

    Parameters
    ----------
    x, y
        `n x d` and `m x d` cells on the same scale, at least 2 rows each.
    n_permutations
        How many random permutations; the smallest p value is `1 / (1 + n_permutations)`.
    max_cells
        At most so many rows of each side, drawn as in `energy_distance`. `None` uses all: all distances between them
        are held in memory.
    seed
        Seeds the draw of the cells, the same as in `energy_distance`, and the permutations. `None` is unseeded.

    Returns
    -------
    A named tuple of the energy distance (0 for equal distributions) and the p value, above 0 and up to 1.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a side has fewer than 2 rows, `n_permutations` is below 1, `max_cells` is below 2, or the arrays are no
        matrices of finite values with the same number of genes.

    Notes
    -----
    A large p value is no praise: few cells always have one. With many cells every prediction is told from real cells,
    and so is another donor. Cells are taken as independent, which those of one sample are not. The test sees what the
    distance sees: with many genes mostly means and variances, hardly how genes vary together.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import energy_test
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(50, 3)), rng.normal(1, size=(50, 3))
    >>> energy_test(x, y, n_permutations=99).p_value
    0.01
    >>> energy_test(x[:25], x[25:], n_permutations=99).p_value > 0.05
    True
    """
    check_integer("n_permutations", n_permutations, 1)
    x, y = drawn(x, y, max_cells, seed)
    cells = np.vstack([x, y]).astype(np.float64)
    cells -= cells.mean(axis=0)  # dot products behind the distances lose digits to a common offset
    distances = pairwise_distances(cells, metric="euclidean")
    is_x = np.repeat([1.0, 0.0], [len(x), len(y)])
    statistic = float(_statistics(distances, is_x[:, None])[0])
    # Another stream than that of the draw. A split that is the observed one, up to order, must count as such.
    rng = np.random.default_rng(None if seed is None else [seed, 1])
    threshold = statistic - 1e-9 * distances.mean()
    n_further = 0
    for start in range(0, n_permutations, _BATCH):
        size = min(_BATCH, n_permutations - start)
        labels = np.stack([rng.permutation(is_x) for _ in range(size)], axis=1)
        n_further += int((_statistics(distances, labels) >= threshold).sum())
    return EnergyTest(statistic, (1 + n_further) / (1 + n_permutations))


def _statistics(distances: np.ndarray, is_x: np.ndarray) -> np.ndarray:
    """Energy distance for every column of labels (1 for the cells of `x`, 0 for those of `y`)."""
    n, m = is_x[:, 0].sum(), (1 - is_x[:, 0]).sum()
    within_x = ((distances @ is_x) * is_x).sum(axis=0)
    from_x = distances.sum(axis=0) @ is_x
    within_y = distances.sum() - 2 * from_x + within_x
    between = from_x - within_x
    return 2 * between / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))
