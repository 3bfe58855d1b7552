"""The error on the genes that respond differently in every cell type, as Lotfollahi et al. 2020 measured it.

These are the genes that a prediction cannot take over from the other types. Follows the code released with that paper
(doi:10.1093/bioinformatics/btaa800).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._matrix import as_matrices, gene_means

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["specific_gene_error", "specific_genes"]


def specific_genes(changes: pd.DataFrame, *, n_bins: int = 5, bin_size: int = 50) -> pd.DataFrame:
    """Genes whose change is the most specific to one cell type, in bins from the most to the less specific.

    ``score = max over types c of |change_c - median over types|``; the genes are sorted by it and cut into bins.

    Parameters
    ----------
    changes
        Cell types x genes, at least 2 types: the real change of every gene in every type, as a log fold change. The
        released code passes on only the 1000 genes that Wilcoxon's test between the conditions ranks highest. Name the
        columns by the genes' positions to use the result in :func:`specific_gene_error`.
    n_bins, bin_size
        Number of bins and of genes in each.

    Returns
    -------
    One row per gene in a bin, indexed by its column in `changes`, the most specific first (ties in the order of the
    columns), with the columns `score` and `bin` (from 1, the most specific).

    Raises
    ------
    ValueError
        If there are fewer than 2 types or too few genes for the bins, a change is not finite, a gene is there twice, or
        `n_bins` or `bin_size` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> from trvae_scvi.metrics import specific_genes
    >>> changes = pd.DataFrame({"common": [2, 2, 2], "in one": [0, 0, 3], "in part": [0, 1, 2]}, index=["B", "T", "NK"])
    >>> specific_genes(changes, n_bins=2, bin_size=1)["bin"].to_dict()
    {'in one': 1, 'in part': 2}
    """
    if n_bins < 1 or bin_size < 1:
        msg = f"Expected `n_bins` and `bin_size` to be at least 1, found {n_bins} and {bin_size}."
        raise ValueError(msg)
    n_types, n_genes = changes.shape
    if n_types < 2 or n_genes < n_bins * bin_size:
        msg = (
            f"Expected at least 2 cell types and {n_bins * bin_size} genes for {n_bins} bins of {bin_size}, found "
            f"{n_types} and {n_genes}. Types are rows, genes are columns."
        )
        raise ValueError(msg)
    if not changes.columns.is_unique:
        gene = changes.columns[changes.columns.duplicated()].tolist()[0]
        msg = f"Expected every gene once, found {gene!r} several times."
        raise ValueError(msg)
    values = changes.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        gene = changes.columns[~np.isfinite(values).all(axis=0)].tolist()[0]
        msg = f"Expected finite changes, found others (first for gene {gene!r}). Leave such genes out."
        raise ValueError(msg)
    score = np.abs(values - np.median(values, axis=0)).max(axis=0)
    first = np.argsort(-score, kind="stable")[: n_bins * bin_size]
    bins = np.repeat(np.arange(1, n_bins + 1), bin_size)
    return pd.DataFrame({"score": score[first], "bin": bins}, index=changes.columns[first].rename("gene"))


def specific_gene_error(pred: Any, real: Any, genes: Sequence[int] | np.ndarray | pd.Index) -> np.ndarray:
    """Error of the predicted mean of chosen genes in one cell type, relative to the real mean where that exceeds 1.

    ``|mean real - mean predicted| / max(mean real, 1)``.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells of one type, log-normalised.
    genes
        Columns of the arrays: as a rule the index of what :func:`specific_genes` returns.

    Returns
    -------
    One number from 0 per gene, in the order of `genes`. The paper shows their mean in every bin.

    Raises
    ------
    ValueError
        If `genes` are no column positions, or the arrays are no matrices of finite values with the same number of
        genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import specific_gene_error
    >>> specific_gene_error([[1.0, 3.0, 2.0]], [[0.5, 4.0, 2.0]], [1, 0]).tolist()
    [0.25, 0.5]
    """
    pred, real = as_matrices([pred, real], ["pred", "real"])
    columns = np.asarray(genes)
    if columns.ndim != 1 or not np.issubdtype(columns.dtype, np.integer):
        msg = (
            f"Expected column positions in `genes`, found {columns[:3].tolist()}. "
            "Translate names with `Index.get_indexer`."
        )
        raise ValueError(msg)
    if columns.size and not 0 <= columns.min() <= columns.max() < real.shape[1]:
        msg = f"Expected positions from 0 to {real.shape[1] - 1} in `genes`, found {columns.min()} to {columns.max()}."
        raise ValueError(msg)
    predicted, observed = gene_means(pred)[columns], gene_means(real)[columns]
    return np.abs(observed - predicted) / np.maximum(observed, 1.0)
