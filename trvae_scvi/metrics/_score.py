"""Several metrics at once, as tidy tables: a prediction's score and the best score that noise allows.

Works on arrays that are already in the space to be compared; knows no AnnData.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import _array, _de, _distance
from ._de import responsive_genes
from ._matrix import as_matrices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["HIGHER_IS_BETTER", "METRICS", "SKILL_METRICS", "noise_ceiling", "score_arrays"]

_FUNCTIONS: dict[str, Callable[..., float]] = {
    function.__name__: function
    for function in (
        _array.squared_pearson_means,
        _array.pearson_change,
        _array.mse_means,
        _array.squared_pearson_variances,
        _distance.energy_distance,
        _array.r2_means,
        _array.r2_variances,
        _array.cosine_change,
        _array.mae_means,
        _array.variance_ratio,
        _distance.mmd_rbf,
        _distance.wasserstein_genes,
        _de.direction_accuracy,
        _de.de_recall,
    )
}

#: All metrics that can be computed on a set of genes.
METRICS: tuple[str, ...] = tuple(_FUNCTIONS)

#: The metrics that are computed by default, in the order of the tables, and averaged by `mean_skill`.
SKILL_METRICS: tuple[str, ...] = METRICS[:5]

_LOWER_IS_BETTER = ("mse_means", "energy_distance", "mae_means", "mmd_rbf", "wasserstein_genes")

#: Whether a higher value is the better one. `variance_ratio`, which is best at 1, has no direction and is not there.
HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {name: name not in _LOWER_IS_BETTER for name in METRICS if name != "variance_ratio"}
)


def score_arrays(
    pred: Any,
    real: Any,
    control: Any,
    *,
    n_top_genes: int = 100,
    max_cells: int | None = 1000,
    seed: int | None = 0,
    metrics: Sequence[str] = SKILL_METRICS,
) -> pd.DataFrame:
    """Score predicted cells against real ones, on all genes and on the most responsive ones.

    Parameters
    ----------
    pred, real, control
        Predicted (`n x d`), real target (`m x d`) and real control (`k x d`) cells, dense or scipy sparse, on one
        scale: as a rule :func:`~trvae_scvi.metrics.log_normalize` of counts. At least 2 cells each.
    n_top_genes
        Number of genes in the second set, :func:`~trvae_scvi.metrics.responsive_genes` of the real cells; all genes if
        there are fewer.
    max_cells, seed
        For the draw in :func:`~trvae_scvi.metrics.energy_distance`, the same in every metric that draws.
    metrics
        Names out of `METRICS`: functions of this module. Tests for differential expression are made on the genes of the
        set.

    Returns
    -------
    One row per set of genes and metric, with the columns `genes` (`"all"` or, say, `"top100"`), `metric` (in the order
    asked for) and `value`.

    Raises
    ------
    ValueError
        If an array has fewer than 2 cells, is not finite, numbers of genes differ, `n_top_genes` is below 1, or a
        metric is unknown or there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize, score_arrays
    >>> rng = np.random.default_rng(0)
    >>> control, real = (log_normalize(rng.poisson(mean, size=(50, 4))) for mean in ([2, 5, 9, 4], [9, 5, 2, 4]))
    >>> score_arrays(real, real, control, n_top_genes=2)["genes"].unique().tolist()
    ['all', 'top2']
    """
    _check_metrics(metrics)
    pred, real, control = as_matrices([pred, real, control], ["pred", "real", "control"])
    return _scored(pred, real, control, _gene_sets(control, real, n_top_genes), metrics, max_cells, seed)


def noise_ceiling(
    real: Any,
    control: Any,
    *,
    n_top_genes: int = 100,
    n_splits: int = 10,
    max_cells: int | None = 1000,
    seed: int | None = 0,
    metrics: Sequence[str] = SKILL_METRICS,
) -> pd.DataFrame:
    """Score a random half of the real target cells against the other half: what a perfect prediction would get.

    Half is compared with half: with squared errors of means, a perfect prediction of many cells against all real ones
    can be up to four times better. For small groups, where sampling is most of the difference, a skill can exceed 1.

    Parameters
    ----------
    real, control
        Real target (`m x d`, at least 4) and real control (`k x d`, at least 2) cells as in
        :func:`~trvae_scvi.metrics.score_arrays`.
    n_top_genes
        Number of genes in the second set, chosen on all real cells: the same genes as in `score_arrays`. All genes if
        there are fewer.
    n_splits
        How many random splits.
    max_cells
        For the draw in :func:`~trvae_scvi.metrics.energy_distance`.
    seed
        Seeds the splits and the draws. `None` is unseeded.
    metrics
        As in :func:`~trvae_scvi.metrics.score_arrays`.

    Returns
    -------
    One row per set of genes and metric, with the columns `genes`, `metric`, `value` (mean over the splits) and `std`
    (standard deviation over the splits, `ddof=1`; NaN for a single split). Splits without a value are left out of both.

    Raises
    ------
    ValueError
        If there are too few cells, `n_splits` is below 1, or the arrays or metrics are not what `score_arrays` takes.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize, noise_ceiling
    >>> rng = np.random.default_rng(0)
    >>> real, control = (log_normalize(rng.poisson(mean, size=(90, 3))) for mean in ([5, 9, 50], [9, 5, 50]))
    >>> noise_ceiling(real, control, n_top_genes=2).columns.tolist()
    ['genes', 'metric', 'value', 'std']
    """
    _check_metrics(metrics)
    real, control = as_matrices([real, control], ["real", "control"])
    if len(real) < 4:
        msg = f"Expected at least 4 real cells, 2 in each half, found {len(real)}."
        raise ValueError(msg)
    if n_splits < 1:
        msg = f"Expected `n_splits` to be at least 1, found {n_splits}."
        raise ValueError(msg)
    gene_sets = _gene_sets(control, real, n_top_genes)
    rng = np.random.default_rng(seed)
    splits = []
    for _ in range(n_splits):
        order = rng.permutation(len(real))
        half, other = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
        splits.append(_scored(half, other, control, gene_sets, metrics, max_cells, seed))
    values = pd.concat(splits).groupby(["genes", "metric"], sort=False)["value"]
    return values.agg(value="mean", std="std").reset_index()


def _gene_sets(control: np.ndarray, real: np.ndarray, n_top_genes: int) -> dict[str, Any]:
    n_top_genes = min(n_top_genes, real.shape[1])
    top = responsive_genes(control, real, n_genes=n_top_genes)
    return {"all": slice(None), f"top{n_top_genes}": top}


def _check_metrics(metrics: Sequence[str]) -> None:
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        msg = f"Expected metrics out of {list(METRICS)}, found {unknown}."
        raise ValueError(msg)
    if isinstance(metrics, str) or len(set(names)) != len(names):
        msg = f"Expected a sequence of metrics, each once, found {metrics!r}."
        raise ValueError(msg)


def _scored(
    pred: np.ndarray,
    real: np.ndarray,
    control: np.ndarray,
    gene_sets: Mapping[str, Any],
    metrics: Sequence[str],
    max_cells: int | None,
    seed: int | None,
) -> pd.DataFrame:
    rows = []
    for name, genes in gene_sets.items():
        further = {"control": control[:, genes], "max_cells": max_cells, "seed": seed}
        for metric in metrics:
            function = _FUNCTIONS[metric]
            taken = {key: further[key] for key in inspect.signature(function).parameters if key in further}
            rows.append((name, metric, function(pred[:, genes], real[:, genes], **taken)))
    return pd.DataFrame(rows, columns=["genes", "metric", "value"])
