"""Expression values by rows, from memory or disk, read when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.abc import CSCDataset
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch.utils.data import Dataset

from ._designs import warn

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

__all__ = ["Expression", "RowsDataset"]


class Expression:
    """Rows of a matrix, dense or sparse, in memory or on disk; reads what is asked for and no more.

    Parameters
    ----------
    values
        The whole matrix.
    rows
        Positions of the rows, in any order, repeated ones included.
    columns
        Positions of the columns; ``None`` for all.

    Warns
    -----
    UserWarning
        If the matrix is on disk column by column, of which no row can be read alone: it is loaded.
    """

    def __init__(self, values: Any, rows: np.ndarray, columns: np.ndarray | None = None) -> None:
        if isinstance(values, CSCDataset):
            warn(
                "The expression on disk is stored gene by gene (CSC), so that no cell can be read alone: all of it is "
                "loaded. Write it cell by cell, with `.tocsr()`, to read it in pieces."
            )
            values = values.to_memory()
        self._values = values.tocsr() if sparse.issparse(values) else values
        self._rows = rows
        self._columns = columns

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self._rows), self._values.shape[1] if self._columns is None else len(self._columns)

    def __getitem__(self, asked: slice | list[int] | np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """Read rows into memory."""
        rows = self._rows[asked]
        # what is on disk can be read in rising order only, and fastest in one piece
        rising, order = np.unique(rows, return_inverse=True)
        in_one_piece = rising[-1] - rising[0] + 1 == len(rising)
        block = self._values[slice(rising[0], rising[-1] + 1) if in_one_piece else rising]
        if hasattr(block, "compute"):  # dask
            block = block.compute()
        block = sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)
        if not np.array_equal(rising, rows):
            block = block[order]
        return block if self._columns is None else block[:, self._columns]


class RowsDataset(Dataset):
    """Minibatches by lists of positions: expression of our own reading, all else by scvi-tools."""

    def __init__(self, manager: AnnDataManager, expression: Expression) -> None:
        keys = [key for key in manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        self._others = manager.create_torch_dataset(data_and_attributes=keys)
        self._expression = expression

    def __getitem__(self, rows: list[int]) -> dict[str, np.ndarray]:
        block = self._expression[rows]
        dense = block if isinstance(block, np.ndarray) else block.toarray()
        return {REGISTRY_KEYS.X_KEY: dense.astype(np.float32, copy=False), **self._others[rows]}
