"""Whether the genes that respond vary together over the predicted cells as they do over the real ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from trvae_scvi._arguments import check_integer

from ._array import pearson
from ._matrix import as_matrices

__all__ = ["coexpression_agreement", "correlation_agreement"]

# Below this standard deviation a gene does not vary: that of equal float32 numbers need not be exactly 0.
_NO_SPREAD = 1e-6


def coexpression_agreement(
    pred: Any,
    real: Any,
    control: Any,
    *,
    n_genes: int = 100,
    min_genes: int = 20,
    min_cells: int = 50,
    min_expressing: int = 10,
    max_cells: int | None = 500,
    seed: int | None = 0,
) -> float:
    """Correlation of the predicted and the real gene-gene correlations, over the genes that respond.

    The genes have the largest real ``|log2((t + 1) / (c + 1))|`` with the mean counts per 10,000 `t` of target and `c`
    of control cells, among those that enough real target cells express. The Pearson correlations of all pairs of them
    over cells are then correlated between prediction and real cells: `cell_cov_corr` of cell-eval2. Energy distances
    hardly see this structure (Heidari 2026, doi:10.64898/2026.02.14.705879).

    Parameters
    ----------
    pred, real, control
        Predicted (`n x d`), real (`m x d`) and control (`k x d`) cells as log1p of counts per 10,000.
    n_genes
        At most so many genes.
    min_genes
        Fewer genes than this, after leaving out those that do not vary on both sides, give NaN.
    min_cells
        Fewer cells than this on a side give NaN.
    min_expressing
        In how many real target cells a gene must be above 0.
    max_cells, seed
        Both sides are cut to the same number of cells, at most `max_cells` (`None`: no limit), as correlations scatter
        more over fewer cells: drawn without replacement by one :func:`numpy.random.default_rng`, `pred` before `real`.

    Returns
    -------
    A number from -1 to 1, the best; 0 for unrelated structure. NaN as said above, and if all pairs correlate alike.
    Half of the real cells against the other half stay below 1: compare with that.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If a number that counts genes or cells is below 1, or the arrays are no matrices of finite values with the same
        number of genes.

    Notes
    -----
    Blind to the strength of the correlations as a whole, to means and to variances: weak copies of the structure reach
    1. Depth that varies between cells makes all genes correlate, and is part of what is compared. Gene by gene
    sampling, which no metric of means or single genes notices, scores near 0.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import coexpression_agreement, log_normalize
    >>> rng = np.random.default_rng(0)
    >>> program = rng.gamma(2, size=(400, 1)) * rng.uniform(0, 9, size=30) + 5
    >>> real, control = (log_normalize(rng.poisson(mean)) for mean in (program, np.full((400, 30), 5)))
    >>> shuffled = rng.permuted(real, axis=0)  # every gene by itself is as in the real cells
    >>> round(coexpression_agreement(real, real, control), 1)
    1.0
    >>> abs(coexpression_agreement(shuffled, real, control)) < 0.2
    True
    """
    limits = {"n_genes": n_genes, "min_genes": min_genes, "min_cells": min_cells, "min_expressing": min_expressing}
    for name, value in {**limits, "max_cells": max_cells}.items():
        if value is not None:
            check_integer(name, value, 1)
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    n_cells = min(len(pred), len(real), len(real) if max_cells is None else max_cells)
    if n_cells < min_cells:
        return float("nan")
    genes = _responsive(real, control, n_genes, min_expressing)
    rng = np.random.default_rng(seed)
    blocks = [
        (cells if len(cells) == n_cells else cells[rng.permutation(len(cells))[:n_cells]])[:, genes].astype(np.float64)
        for cells in (pred, real)
    ]
    varies = (blocks[0].std(axis=0) > _NO_SPREAD) & (blocks[1].std(axis=0) > _NO_SPREAD)
    if varies.sum() < min_genes:
        return float("nan")
    return correlation_agreement(blocks[0][:, varies], blocks[1][:, varies])


def correlation_agreement(pred: np.ndarray, real: np.ndarray) -> float:
    """Correlate the correlations of all pairs of columns; all columns have to vary in both arrays."""
    if pred.shape[1] < 3:
        return float("nan")
    pairs = np.triu_indices(pred.shape[1], k=1)
    predicted, actual = (np.corrcoef(cells, rowvar=False)[pairs] for cells in (pred, real))
    # Columns that are multiples of each other correlate to 1 but for rounding.
    if min(predicted.std(), actual.std()) <= 1e-10:
        return float("nan")
    return pearson(predicted, actual)


def _responsive(real: np.ndarray, control: np.ndarray, n_genes: int, min_expressing: int) -> np.ndarray:
    """Columns of the expressed genes with the largest fold change, the largest first."""
    target, reference = (np.expm1(cells.astype(np.float64)).mean(axis=0) for cells in (real, control))
    expressed = np.flatnonzero((real != 0).sum(axis=0) >= min_expressing)
    change = np.abs(np.log2((target[expressed] + 1) / (reference[expressed] + 1)))
    return expressed[np.argsort(-change, kind="stable")[:n_genes]]
