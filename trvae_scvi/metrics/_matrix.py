"""The cells x genes matrices that the metrics take: their validation, log-normalisation and moments.

Knows no metric and no AnnData.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "as_matrices",
    "as_matrix",
    "gene_means",
    "gene_variances",
    "in_memory",
    "log_normalize",
    "log_normalize_matrix",
]


def in_memory(values: Any) -> Any:
    """Load values that are a backed sparse matrix of anndata or a Dask array; give others as they are."""
    for load in ("to_memory", "compute"):
        if hasattr(values, load):
            values = getattr(values, load)()
    return values


def as_matrix(values: Any, name: str) -> np.ndarray:
    """Check one cells x genes matrix and return it dense.

    Parameters
    ----------
    values
        Dense or scipy sparse, `n x d` with at least one row and one column, finite.
    name
        What to call it in an error message.

    Returns
    -------
    A dense `n x d` floating point array; shares memory with `values` where that is one already.

    Raises
    ------
    TypeError
        If `values` is an AnnData.
    ValueError
        If `values` is not two-dimensional, is empty or contains NaN or infinity.
    """
    if hasattr(values, "var_names"):  # NumPy would try for minutes to make an array of it
        msg = (
            f"Expected `{name}` to be a cells x genes matrix, found {type(values).__name__}. Pass its values, for "
            "example as `comparison_matrix(adata)` gives them."
        )
        raise TypeError(msg)
    dense = np.asarray(values.toarray() if sparse.issparse(values) else values)
    if dense.ndim != 2 or 0 in dense.shape:
        msg = f"Expected `{name}` to be a cells x genes matrix with at least one of each, found shape {dense.shape}."
        raise ValueError(msg)
    if not np.issubdtype(dense.dtype, np.floating):
        dense = dense.astype(np.float64)
    if not np.isfinite(dense).all():
        row = int(np.flatnonzero(~np.isfinite(dense).all(axis=1))[0])
        msg = f"Expected finite values in `{name}`, found NaN or infinity (first in row {row}). Remove such cells."
        raise ValueError(msg)
    return dense


def as_matrices(matrices: Sequence[Any], names: Sequence[str]) -> list[np.ndarray]:
    """Check several matrices with :func:`as_matrix`, and that all have the same number of genes.

    Parameters
    ----------
    matrices
        Dense or scipy sparse, `n_i x d` each.
    names
        One name per matrix, for error messages.

    Returns
    -------
    The matrices, dense, in the same order.

    Raises
    ------
    TypeError
        If one of them is an AnnData.
    ValueError
        If one of them is no valid matrix or the numbers of genes differ.
    """
    dense = [as_matrix(matrix, name) for matrix, name in zip(matrices, names, strict=True)]
    if len({matrix.shape[1] for matrix in dense}) > 1:
        found = ", ".join(f"`{name}` {matrix.shape[1]}" for name, matrix in zip(names, dense, strict=True))
        msg = f"Expected the same genes in the same order, found different numbers of genes: {found}."
        raise ValueError(msg)
    return dense


def log_normalize(counts: Any, *, target_sum: float = 1e4) -> np.ndarray:
    """Scale every cell to the same total over the genes given and take log(1 + x).

    The same as :func:`scanpy.pp.normalize_total` followed by :func:`scanpy.pp.log1p`, on an array. A cell without
    counts, which a prediction from shallow data can hold, stays zero.

    Parameters
    ----------
    counts
        Dense or scipy sparse `n x d`: counts or expected counts, not negative. Not changed.
    target_sum
        The total of a cell after scaling.

    Returns
    -------
    A new dense float32 array, `n x d`: log1p of counts per `target_sum`.

    Raises
    ------
    TypeError
        If `counts` is an AnnData.
    ValueError
        If a count is negative or not finite, or `target_sum` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize
    >>> np.expm1(log_normalize([[1, 3], [5, 5]], target_sum=100)).round()
    array([[25., 75.],
           [50., 50.]], dtype=float32)
    """
    if not target_sum > 0:
        msg = f"Expected a positive `target_sum`, found {target_sum}."
        raise ValueError(msg)
    return log_normalize_matrix(as_matrix(counts, "counts"), "counts", target_sum)


def log_normalize_matrix(dense: np.ndarray, name: str, target_sum: float = 1e4) -> np.ndarray:
    """Do the work of :func:`log_normalize` on what :func:`as_matrix` returned, and call it `name` in messages."""
    if dense.min() < 0:
        msg = (
            f"Expected counts, which are not negative, in `{name}`, found {dense.min():g}. "
            "Values that are normalised already must not be log-normalised again."
        )
        raise ValueError(msg)
    totals = dense.sum(axis=1, dtype=np.float64)
    scaled = dense * (target_sum / np.where(totals == 0, 1.0, totals)).astype(np.float32)[:, None]
    return np.log1p(scaled, out=scaled).astype(np.float32, copy=False)


def gene_means(cells: Any) -> np.ndarray:
    """Mean of every gene over dense or sparse cells (`n x d` to `d`), accumulated in float64."""
    # scipy gives a matrix, in which a mean would stay two-dimensional
    return np.asarray(cells.mean(axis=0, dtype=np.float64)).ravel()


def gene_variances(cells: np.ndarray, *, ddof: int = 0) -> np.ndarray:
    """Variance of every gene over the cells (`n x d` to `d`), accumulated in float64."""
    return cells.var(axis=0, dtype=np.float64, ddof=ddof)
