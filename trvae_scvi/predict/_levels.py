"""What the decoder's output is corrected by for labels under conditions that they were not measured under."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

__all__ = ["Levels"]


@dataclass(frozen=True, eq=False)
class Levels:
    """What is added to the decoder's output for cells of a label under a condition it was not measured under.

    Attributes
    ----------
    triples
        Codes of label, own condition and the other condition, `p x 3`.
    offsets
        `p x g`, on the scale of the decoder's output.
    """

    triples: np.ndarray
    offsets: np.ndarray

    def of(self, labels: np.ndarray, sources: np.ndarray, target: int) -> np.ndarray | None:
        """Rows for cells under a condition, `n x g`, 0 where there is nothing to correct; ``None`` if that is all.

        Parameters
        ----------
        labels, sources
            `n` codes of the cells' labels, -1 for those that are not known, and of their own conditions.
        target
            Code of the condition.
        """
        rows = self.rows(labels, sources, target)
        if (rows < 0).all():
            return None
        return np.where((rows >= 0)[:, None], self.offsets[rows], np.float32(0.0))

    def rows(self, labels: np.ndarray, sources: np.ndarray, target: int) -> np.ndarray:
        """Which offsets are those of cells, `n` positions, -1 for none; the parameters are those of :meth:`of`."""
        cells = zip(labels.tolist(), sources.tolist(), strict=True)
        return np.array([self._places.get((label, source, target), -1) for label, source in cells], dtype=np.int64)

    @functools.cached_property
    def _places(self) -> dict[tuple[int, int, int], int]:
        """Positions of the triples, of which there may be a thousand."""
        return {tuple(triple): place for place, triple in enumerate(np.asarray(self.triples).tolist())}
