"""All metrics at once, as tidy tables: a prediction's score and the best score that noise allows.

Works on arrays that are already in the space to be compared; knows no AnnData.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._array import (
    energy_distance,
    mse_means,
    pearson_change,
    responsive_genes,
    squared_pearson_means,
    squared_pearson_variances,
)
from ._matrix import as_matrices

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HIGHER_IS_BETTER", "noise_ceiling", "score_arrays"]

#: The metrics in the order of the tables, and whether a higher value is the better one.
HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {
        "squared_pearson_means": True,
        "pearson_change": True,
        "mse_means": False,
        "squared_pearson_variances": True,
        "energy_distance": False,
    }
)


def score_arrays(
    pred: Any,
    real: Any,
    control: Any,
    *,
    n_top_genes: int = 100,
    max_cells: int | None = 1000,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Score predicted cells against real ones with every metric, on all genes and on the most responsive ones.

    Parameters
    ----------
    pred, real, control
        Predicted (`n x d`), real target (`m x d`) and real control (`k x d`) cells, dense or scipy sparse, on one
        scale: as a rule :func:`~trvae_scvi.metrics.log_normalize` of counts. At least 2 cells each.
    n_top_genes
        Number of genes in the second set: :func:`~trvae_scvi.metrics.responsive_genes` of the real cells.
    max_cells, seed
        For the draw in :func:`~trvae_scvi.metrics.energy_distance`.

    Returns
    -------
    Ten rows with the columns `genes` (`"all"` or, say, `"top100"`), `metric` (a key of `HIGHER_IS_BETTER`) and `value`.

    Raises
    ------
    ValueError
        If an array has fewer than 2 cells, is not finite, numbers of genes differ or are smaller than `n_top_genes`.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize, score_arrays
    >>> rng = np.random.default_rng(0)
    >>> control, real = (log_normalize(rng.poisson(mean, size=(50, 4))) for mean in ([2, 5, 9, 4], [9, 5, 2, 4]))
    >>> score_arrays(real, real, control, n_top_genes=2)["genes"].unique().tolist()
    ['all', 'top2']
    """
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    gene_sets = _gene_sets(control, real, n_top_genes)
    rows = [
        (name, metric, value)
        for name, genes in gene_sets.items()
        for metric, value in _values(pred[:, genes], real[:, genes], control[:, genes], max_cells, seed).items()
    ]
    return pd.DataFrame(rows, columns=["genes", "metric", "value"])


def noise_ceiling(
    real: Any,
    control: Any,
    *,
    n_top_genes: int = 100,
    n_splits: int = 10,
    max_cells: int | None = 1000,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Score a random half of the real target cells against the other half: what a perfect prediction would get.

    The halves are smaller than the whole, so that the ceiling lies a little below what all real cells would allow.

    Parameters
    ----------
    real, control
        Real target (`m x d`, at least 4) and real control (`k x d`, at least 2) cells as in
        :func:`~trvae_scvi.metrics.score_arrays`.
    n_top_genes
        Number of genes in the second set, chosen on all real cells: the same genes as in `score_arrays`.
    n_splits
        How many random splits.
    max_cells
        For the draw in :func:`~trvae_scvi.metrics.energy_distance`.
    seed
        Seeds the splits and the draws. `None` is unseeded.

    Returns
    -------
    Ten rows with the columns `genes`, `metric`, `value` (mean over the splits) and `std` (standard deviation over the
    splits, `ddof=1`; NaN for a single split).

    Raises
    ------
    ValueError
        If there are too few cells, `n_splits` is below 1, or the arrays are not what `score_arrays` takes.
    """
    real, control = as_matrices([real, control], ["real", "control"])
    if len(real) < 4:
        msg = f"Expected at least 4 real cells, 2 in each half, found {len(real)}."
        raise ValueError(msg)
    if n_splits < 1:
        msg = f"Expected `n_splits` to be at least 1, found {n_splits}."
        raise ValueError(msg)
    gene_sets = _gene_sets(control, real, n_top_genes)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_splits):
        order = rng.permutation(len(real))
        half, other = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
        for name, genes in gene_sets.items():
            values = _values(half[:, genes], other[:, genes], control[:, genes], max_cells, seed)
            rows += [(name, metric, value) for metric, value in values.items()]
    splits = pd.DataFrame(rows, columns=["genes", "metric", "value"]).groupby(["genes", "metric"], sort=False)["value"]
    return splits.agg(value="mean", std="std").reset_index()


def _gene_sets(control: np.ndarray, real: np.ndarray, n_top_genes: int) -> dict[str, Any]:
    top = responsive_genes(control, real, n_genes=n_top_genes)
    return {"all": slice(None), f"top{n_top_genes}": top}


def _values(
    pred: np.ndarray, real: np.ndarray, control: np.ndarray, max_cells: int | None, seed: int | None
) -> dict[str, float]:
    return {
        "squared_pearson_means": squared_pearson_means(pred, real),
        "pearson_change": pearson_change(pred, real, control),
        "mse_means": mse_means(pred, real),
        "squared_pearson_variances": squared_pearson_variances(pred, real),
        "energy_distance": energy_distance(pred, real, max_cells=max_cells, seed=seed),
    }
