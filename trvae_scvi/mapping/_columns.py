"""Matrices of cells x genes with other genes: columns taken, reordered and filled with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["place_columns"]

_ROWS = 4096


def place_columns(x: Any, positions: np.ndarray) -> np.ndarray | sparse.csr_matrix | sparse.csr_array:
    """Give a matrix whose column `j` is column ``positions[j]`` of `x`, or zero where that is negative.

    Parameters
    ----------
    x
        `n x g` values: dense, sparse or backed. Of backed ones, only the columns that are asked for are kept in memory.
    positions
        `d` positions below `g`, none of them twice; negative for columns of zeros.

    Returns
    -------
    The `n x d` matrix in new memory and of the same dtype; dense for dense, CSR for any sparse one.
    """
    if isinstance(x, np.ndarray) or sparse.issparse(x):
        return _place(x, positions)
    if getattr(x, "format", None) == "csc":  # backed by columns: cheap to read those, dear to read rows
        present = positions >= 0
        return _place(x[:, positions[present]], np.where(present, np.cumsum(present) - 1, -1))
    # By rows: anndata reads the whole matrix to take columns out of a backed CSR one.
    chunks = (x[start : start + _ROWS] for start in range(0, x.shape[0], _ROWS))
    loaded = (chunk.compute() if hasattr(chunk, "compute") else chunk for chunk in chunks)  # dask
    blocks = [_place(chunk if sparse.issparse(chunk) else np.asarray(chunk), positions) for chunk in loaded]
    return sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def _place(x: Any, positions: np.ndarray) -> Any:
    target = np.flatnonzero(positions >= 0)
    source = positions[target]
    shape = (x.shape[0], len(positions))
    if not sparse.issparse(x):
        out = np.zeros(shape, dtype=x.dtype)
        out[:, target] = x[:, source]
        return out
    taken = x[:, source].tocsr()
    make = sparse.csr_array if isinstance(x, sparse.sparray) else sparse.csr_matrix
    placed = make((taken.data, target[taken.indices], taken.indptr), shape=shape)
    placed.sort_indices()
    return placed
