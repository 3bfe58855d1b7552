"""Cells of one side of a comparison, whose moments and distances are computed once however many metrics ask for them.

Knows no metric and no AnnData.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from sklearn import config_context
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import euclidean_distances

from ._matrix import as_matrices, gene_means, gene_variances

Compared = TypeVar("Compared")
_AT_ONCE = 1000  # cells of either side

__all__ = ["Sample", "distance_between", "samples"]


class Sample:
    """A sample of cells.

    Parameters
    ----------
    cells
        `n x d`, dense, checked.
    max_cells
        So many cells, the first ones, are used for distances. `None` uses all.

    Attributes
    ----------
    mean, variance
        Of every gene, `d`; variances with `ddof=0`.
    spread
        Mean Euclidean distance between two different cells.
    """

    def __init__(self, cells: np.ndarray, max_cells: int | None = None) -> None:
        self.cells, self._max_cells = cells, max_cells
        self._compared: dict[tuple[int, Any], tuple[Sample, Any]] = {}

    def __len__(self) -> int:
        return len(self.cells)

    def on(self, genes: Any) -> Sample:
        """Give the same cells on some genes: an index of columns."""
        return Sample(self.cells[:, genes], self._max_cells)

    def against(self, other: Sample, function: Callable[[np.ndarray, np.ndarray], Compared]) -> Compared:
        """Compare with other cells by a function of both, whose result is kept."""
        key = id(other), function
        if key not in self._compared:
            # kept with the other sample, so that no later one can have its id
            self._compared[key] = other, function(self.cells, other.cells)
        return self._compared[key][1]

    @cached_property
    def mean(self) -> np.ndarray:
        return gene_means(self.cells)

    @cached_property
    def variance(self) -> np.ndarray:
        return gene_variances(self.cells)

    @cached_property
    def centred(self) -> np.ndarray:
        """The cells used for distances less their own mean, in float64: dot products lose digits to a common offset."""
        cells = self.cells[: self._max_cells].astype(np.float64)
        return cells - self.centre

    @cached_property
    def centre(self) -> np.ndarray:
        return gene_means(self.cells[: self._max_cells])

    @cached_property
    def spread(self) -> float:
        n_cells = len(self.centred)
        return _total_distance(self.centred, None) / (n_cells * (n_cells - 1))


def samples(**matrices: Any) -> list[Sample]:
    """Check matrices, each under its name, and that they have the same number of genes."""
    return [Sample(cells) for cells in as_matrices(list(matrices.values()), list(matrices))]


def distance_between(x: Sample, y: Sample) -> float:
    """Mean Euclidean distance between a cell of `x` and one of `y`."""
    apart = (x.centre - y.centre) / 2
    return _total_distance(x.centred + apart, y.centred - apart) / (len(x.centred) * len(y.centred))


def _total_distance(a: np.ndarray, b: np.ndarray | None) -> float:
    """Sum of the distances between all rows of `a` and `b`, or of `a` itself."""
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checked before; there are many calls
        if max(len(a), 0 if b is None else len(b)) <= _AT_ONCE:
            return float(euclidean_distances(a, b).sum())
        # In chunks: the whole matrix of distances need not fit into memory.
        return float(sum(chunk.sum() for chunk in pairwise_distances_chunked(a, b, metric="euclidean")))
