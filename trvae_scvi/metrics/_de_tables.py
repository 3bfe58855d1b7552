"""How well a predicted and a real table of differential expression agree: the arithmetic behind `_de_metrics`.

Both tables have one row per gene that was tested, in the same order, with the columns `log_fc`, `p` and `p_adj`, as
:func:`~trvae_scvi.metrics.de_table` returns them. All metrics are taken from cell-eval2, which defines them for tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trvae_scvi._arguments import check_integer, check_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fidelity_of_tables", "jaccard_of_tables", "nmae_of_tables", "reach_of_tables"]

_NAN = float("nan")


def nmae_of_tables(predicted: pd.DataFrame, real: pd.DataFrame, *, alpha: float = 0.05, min_genes: int = 10) -> float:
    """Sum of absolute errors of the log fold change over the sum of absolute real ones, over really significant genes.

    A predicted change that is no number counts as none: leaving genes open must not pay.

    Parameters
    ----------
    predicted, real
        Tables as described for this module.
    alpha
        Genes with a real adjusted p value below this are significant.
    min_genes
        Fewer significant genes than this give NaN.
    """
    _check_tables(predicted, real, alpha)
    check_integer("min_genes", min_genes, 1)
    change, predicted_change = real["log_fc"].to_numpy(float), predicted["log_fc"].to_numpy(float)
    counted = _significant(real, alpha) & np.isfinite(change)
    total = np.abs(change[counted]).sum()
    if counted.sum() < min_genes or total == 0:
        return _NAN
    predicted_change = np.where(np.isfinite(predicted_change), predicted_change, 0.0)
    return float(np.abs(predicted_change - change)[counted].sum() / total)


def fidelity_of_tables(predicted: pd.DataFrame, real: pd.DataFrame, *, alpha: float = 0.05) -> float:
    """Predicted significant genes with the real sign, over the larger number of significant genes.

    Of the predicted ones, only those count that have a real direction. NaN if both numbers are 0.

    Parameters
    ----------
    predicted, real, alpha
        As in :func:`nmae_of_tables`.
    """
    _check_tables(predicted, real, alpha)
    called = _significant(predicted, alpha) & _has_direction(real)
    n_most = max(int(called.sum()), int(_significant(real, alpha).sum()))
    return float((called & _right(predicted, real)).sum() / n_most) if n_most else _NAN


def reach_of_tables(
    predicted: pd.DataFrame, real: pd.DataFrame, *, alpha: float = 0.05, min_purity: float = 0.9
) -> float:
    """Deepest prefix of the predicted ranking with enough right signs, over the number of really significant genes.

    Only really significant genes are ranked: by the predicted adjusted p value, then the p value, then the absolute
    change. NaN if there are none.

    Parameters
    ----------
    predicted, real, alpha
        As in :func:`nmae_of_tables`.
    min_purity
        Share of right signs that a prefix needs. A purer one below it does not stop the search.
    """
    _check_tables(predicted, real, alpha)
    check_number("min_purity", min_purity, positive=True, at_most=1)
    significant = _significant(real, alpha)
    if not significant.any():
        return _NAN
    p_adj, p = (np.nan_to_num(x, nan=np.inf) for x in (_p_adj(predicted), predicted["p"].to_numpy(float)))
    size = np.nan_to_num(np.abs(predicted["log_fc"].to_numpy(float)), nan=-np.inf, posinf=np.inf)
    # The last key is the first to sort by; lexsort keeps ties in the order of the genes.
    order = np.lexsort((-size, p, p_adj))
    order = order[significant[order]]
    depth = np.cumsum(_has_direction(real)[order])
    n_right = np.cumsum(_right(predicted, real)[order])
    pure = (depth > 0) & (n_right / np.maximum(depth, 1) >= min_purity)
    return float(depth[pure].max(initial=0) / significant.sum())


def jaccard_of_tables(predicted: pd.DataFrame, real: pd.DataFrame, *, alpha: float = 0.05) -> float:
    """Genes that are significant in both tables over those that are so in one of them; 1 if there are none.

    Parameters
    ----------
    predicted, real, alpha
        As in :func:`nmae_of_tables`.
    """
    _check_tables(predicted, real, alpha)
    called, significant = _significant(predicted, alpha), _significant(real, alpha)
    union = (called | significant).sum()
    return float((called & significant).sum() / union) if union else 1.0


def _check_tables(predicted: pd.DataFrame, real: pd.DataFrame, alpha: float) -> None:
    for name, table in (("predicted", predicted), ("real", real)):
        lacking = [column for column in ("log_fc", "p", "p_adj") if column not in table.columns]
        if lacking:
            msg = f"Expected the columns 'log_fc', 'p' and 'p_adj' in `{name}`, found no {lacking}."
            raise KeyError(msg)
    if not real.index.is_unique or not predicted.index.equals(real.index):
        msg = (
            "Expected the same genes in `predicted` and `real`, each once and in the same order, found others. Test "
            "all genes on both sides: leaving out those that are hard to predict would pay."
        )
        raise ValueError(msg)
    check_number("alpha", alpha, positive=True, at_most=1)


def _p_adj(table: pd.DataFrame) -> np.ndarray:
    """Adjusted p values; 1 where the change is no number."""
    return np.where(np.isnan(table["log_fc"].to_numpy(float)), 1.0, table["p_adj"].to_numpy(float))


def _significant(table: pd.DataFrame, alpha: float) -> np.ndarray:
    return _p_adj(table) < alpha


def _has_direction(table: pd.DataFrame) -> np.ndarray:
    change = table["log_fc"].to_numpy(float)
    return ~np.isnan(change) & (change != 0)


def _right(predicted: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Whether both changes have a direction, and the same one."""
    same = np.sign(predicted["log_fc"].to_numpy(float)) == np.sign(real["log_fc"].to_numpy(float))
    return same & _has_direction(real) & _has_direction(predicted)
