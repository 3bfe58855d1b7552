"""Genes that respond: functions on log-normalised cells x genes arrays."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from trvae_scvi._arguments import check_number

from ._matrix import as_matrices, gene_means, gene_variances

__all__ = ["DEMethod", "de_genes", "de_table", "responsive_genes"]

# Keeps the t value of a gene without any variance finite (0 if its means agree).
T_DENOMINATOR_OFFSET = 1e-9

DEMethod: TypeAlias = Literal["wilcoxon", "t-test", "t-test_overestim_var"]


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
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a side has fewer than 2 cells, `n_genes` is not from 1 to the number of genes, or the arrays are no matrices
        of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import responsive_genes
    >>> control, real = [[0, 5, 1], [1, 4, 1]], [[9, 5, 1], [8, 4, 1]]
    >>> responsive_genes(control, real, n_genes=1).tolist()
    [0]
    """
    control, real = as_matrices([control, real], ["control", "real"])
    if min(len(control), len(real)) < 2:
        msg = f"Expected at least 2 control and 2 real cells for variances, found {len(control)} and {len(real)}."
        raise ValueError(msg)
    if not 1 <= n_genes <= real.shape[1]:
        msg = (
            f"Expected a number of top genes from 1 to the number of genes ({real.shape[1]}), found {n_genes}. Set "
            "`n_genes`, or `n_top_genes` where several metrics are computed."
        )
        raise ValueError(msg)
    squared_error = gene_variances(real, ddof=1) / len(real) + gene_variances(control, ddof=1) / len(control)
    t = (gene_means(real) - gene_means(control)) / (np.sqrt(squared_error) + T_DENOMINATOR_OFFSET)
    return np.argsort(-np.abs(t), kind="stable")[:n_genes]


def de_genes(cells: Any, control: Any, *, method: DEMethod = "wilcoxon", alpha: float = 0.05) -> pd.DataFrame:
    """Differentially expressed genes of some cells against control, by :func:`scanpy.tl.rank_genes_groups`.

    Cells are taken as independent, which those of one sample are not: the p values are too small as a statement about
    other samples. They also depend on the numbers of cells. Use them to compare predictions, not to claim discoveries.

    Parameters
    ----------
    cells, control
        Log-normalised cells (`n x d`) and control (`k x d`), at least 2 each.
    method
        scanpy's test: ``"wilcoxon"`` (without correction for ties), ``"t-test"`` (Welch) or ``"t-test_overestim_var"``.
    alpha
        Genes with an adjusted p value below this are returned.

    Returns
    -------
    One row per differentially expressed gene, indexed by its column in the arrays and in that order, with the columns

    ``score``
        The test's statistic; positive where `cells` are higher.
    ``log_fc``
        Difference of the mean log-normalised values, `cells` minus `control`, on their own scale (natural logarithm).
        Not scanpy's log2 ratio of back-transformed means.
    ``p_adj``
        p value after Benjamini and Hochberg's correction over the genes of the arrays.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them; or `alpha` is no number.
    ValueError
        If a side has fewer than 2 cells, `method` is unknown, `alpha` is not above 0 and at most 1, or the arrays are
        no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import de_genes, log_normalize
    >>> rng = np.random.default_rng(0)
    >>> cells, control = (log_normalize(rng.poisson(mean, size=(90, 3))) for mean in ([5, 9, 50], [9, 5, 50]))
    >>> np.sign(de_genes(cells, control)["log_fc"]).to_dict()
    {0: -1.0, 1: 1.0}
    """
    check_number("alpha", alpha, positive=True, at_most=1)
    table = de_table(cells, control, method=method)
    return table.loc[table["p_adj"] < alpha, ["score", "log_fc", "p_adj"]]


def de_table(cells: Any, control: Any, *, method: DEMethod = "wilcoxon") -> pd.DataFrame:
    """Differential expression of every gene of some cells against control, by :func:`scanpy.tl.rank_genes_groups`.

    The whole table of which :func:`de_genes` gives the significant rows; what is said there holds here.

    Parameters
    ----------
    cells, control, method
        As in :func:`de_genes`.

    Returns
    -------
    One row per gene, indexed by its column in the arrays, with the columns `score`, `log_fc`, `p` (p value) and
    `p_adj`.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a side has fewer than 2 cells, `method` is unknown, or the arrays are no matrices of finite values with the
        same number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import de_table, log_normalize
    >>> rng = np.random.default_rng(0)
    >>> cells, control = (log_normalize(rng.poisson(mean, size=(90, 3))) for mean in ([5, 9, 50], [9, 5, 50]))
    >>> table = de_table(cells, control)
    >>> table.columns.tolist(), (table["p_adj"] >= table["p"]).all().item()
    (['score', 'log_fc', 'p', 'p_adj'], True)
    """
    cells, control = as_matrices([cells, control], ["cells", "control"])
    if min(len(cells), len(control)) < 2:
        msg = f"Expected at least 2 cells on either side of a test, found {len(cells)} and {len(control)} in control."
        raise ValueError(msg)
    if method not in get_args(DEMethod):
        msg = f"Expected a `method` out of {list(get_args(DEMethod))}, found {method!r}."
        raise ValueError(msg)
    table = _ranked(cells, control, method)
    table["log_fc"] = (gene_means(cells) - gene_means(control))[table.index]
    return table[["score", "log_fc", "p", "p_adj"]]


def _ranked(cells: np.ndarray, control: np.ndarray, method: DEMethod) -> pd.DataFrame:
    """Return scanpy's statistic and p values of every gene, indexed by the gene's column."""
    adata = AnnData(
        np.vstack([cells, control]),
        obs=pd.DataFrame(
            {"group": pd.Categorical(["cells"] * len(cells) + ["control"] * len(control))},
            index=[str(row) for row in range(len(cells) + len(control))],
        ),
        var=pd.DataFrame(index=[str(column) for column in range(cells.shape[1])]),
    )
    # scanpy's own fold change, which is not used, is undefined for values below 0.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sc.tl.rank_genes_groups(
            adata,
            "group",
            groups=["cells"],
            reference="control",
            method=method,
            use_raw=False,
            tie_correct=False,  # scanpy's default now, which a preset of later ones changes
        )
    names = {"scores": "score", "pvals": "p", "pvals_adj": "p_adj"}
    table = sc.get.rank_genes_groups_df(adata, "cells").rename(columns=names)
    return table.set_index(table["names"].astype(int).rename("gene")).sort_index()
