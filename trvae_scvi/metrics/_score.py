"""Several metrics at once, as tidy tables: a prediction's scores, and those of a perfect prediction beside them.

Works on arrays that are already in the space to be compared; knows no AnnData.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trvae_scvi._arguments import check_integer

from ._array import checked_response
from ._distance import check_max_cells
from ._matrix import as_matrices
from ._scorer import DEFAULT_METRICS, METRICS, Scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["check_metrics", "noise_ceiling", "score_arrays"]


def score_arrays(
    pred: Any,
    real: Any,
    control: Any = None,
    source: Any = None,
    *,
    expected: Any = None,
    n_top_genes: int = 100,
    n_splits: int = 10,
    max_cells: int | None = 500,
    seed: int | None = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> pd.DataFrame:
    """Score predicted cells against random halves of the real ones, on all genes and on the most responsive ones.

    In each split, half of the real cells are compared with as many of the predicted ones as
    :func:`~trvae_scvi.metrics.noise_ceiling` takes of the other half, at most half of them. A metric on all cells at
    once is what the function of its name gives.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real target (`m x d`, at least 4) cells, dense or scipy sparse, on one scale: as a rule
        :func:`~trvae_scvi.metrics.log_normalize` of counts.
    control
        Control cells of the same kind (`l x d`, at least 2) that the prediction did not start from: the real change is
        measured against these, and the most responsive genes are chosen with them. With `None` the values that need
        them are missing: with the cells of `source` in their place they would be biased.
    source
        Control cells that the prediction started from (`k x d`): the predicted change is measured against these.
    expected
        Mean response of others (`d`), for :func:`~trvae_scvi.metrics.partial_pearson`.
    n_top_genes
        Number of genes in the second set, :func:`~trvae_scvi.metrics.responsive_genes` of the half compared with; all
        genes if there are fewer.
    n_splits
        How many random splits.
    max_cells
        At most so many cells of each half are used for :func:`~trvae_scvi.metrics.energy_distance`. `None` uses all.
    seed
        Seeds the splits: the same with the same seed, whatever is predicted. `None` is unseeded.
    metrics
        Names out of `METRICS`.

    Returns
    -------
    One row per set of genes and metric, with the columns

    ``genes``
        ``"all"`` or, say, ``"top100"``.
    ``metric``
        In the order asked for.
    ``value``
        Mean over the splits; splits without a value are left out.
    ``std``
        Standard deviation over the splits (`ddof=1`; NaN for a single one), with random halves of the control cells:
        the standard error that the numbers of cells leave. Halves drawn without replacement vary around all cells as
        these vary around the truth (Shao & Wu 1989, doi:10.1214/aos/1176347263); a bootstrap would hold cells twice,
        which distances take for cells that are alike.
    ``note``
        Why there is no value; empty otherwise.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If there are too few cells, an array is not finite, numbers of genes differ, `n_top_genes` or `n_splits` is
        below 1, or a metric is unknown or there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize, score_arrays
    >>> rng = np.random.default_rng(0)
    >>> means = [2, 5, 9, 4], [2, 5, 9, 4], [9, 5, 2, 4], [9, 5, 2, 4]
    >>> control, source, real, pred = (log_normalize(rng.poisson(mean, size=(50, 4))) for mean in means)
    >>> score_arrays(pred, real, control, source, n_top_genes=2)["genes"].unique().tolist()
    ['all', 'top2']
    """
    options: dict[str, Any] = {
        "n_top_genes": n_top_genes,
        "n_splits": n_splits,
        "max_cells": max_cells,
        "metrics": metrics,
    }
    arrays = _checked({"pred": pred, "real": real, "control": control, "source": source}, expected, **options)
    *cells, expected = (arrays[name] for name in ("real", "control", "source", "expected"))
    scorer = Scorer(*cells, expected=expected, n_cells=len(arrays["pred"]), seed=seed, **options)
    return scorer.score(arrays["pred"])


def noise_ceiling(
    real: Any,
    control: Any = None,
    source: Any = None,
    *,
    n_cells: int | None = None,
    expected: Any = None,
    n_top_genes: int = 100,
    n_splits: int = 10,
    max_cells: int | None = 500,
    seed: int | None = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> pd.DataFrame:
    """Score a random half of the real target cells against the other half: what a perfect prediction would get.

    The half that stands for the prediction has as many cells as :func:`~trvae_scvi.metrics.score_arrays` takes of a
    prediction, its change is against the same `source`, and it is compared with the same cells on the same genes. So
    draws from the true distribution have the same expected score in every metric, however few the cells.

    Parameters
    ----------
    real, control, source
        As in :func:`~trvae_scvi.metrics.score_arrays`.
    n_cells
        Number of cells of the prediction to compare with. `None`: more than there are real ones.
    expected, n_top_genes, n_splits, max_cells, seed, metrics
        As in :func:`~trvae_scvi.metrics.score_arrays`: give both the same.

    Returns
    -------
    As :func:`~trvae_scvi.metrics.score_arrays`.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        As :func:`~trvae_scvi.metrics.score_arrays`, or if `n_cells` is below 2.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import log_normalize, noise_ceiling
    >>> rng = np.random.default_rng(0)
    >>> means = [5, 9, 50], [9, 5, 50], [9, 5, 50]
    >>> real, control, source = (log_normalize(rng.poisson(mean, size=(90, 3))) for mean in means)
    >>> noise_ceiling(real, control, source, n_top_genes=2).columns.tolist()
    ['genes', 'metric', 'value', 'std', 'note']
    """
    if n_cells is not None:
        check_integer("n_cells", n_cells, 2)
    options: dict[str, Any] = {
        "n_top_genes": n_top_genes,
        "n_splits": n_splits,
        "max_cells": max_cells,
        "metrics": metrics,
    }
    arrays = _checked({"real": real, "control": control, "source": source}, expected, **options)
    *cells, expected = (arrays[name] for name in ("real", "control", "source", "expected"))
    return Scorer(*cells, expected=expected, n_cells=n_cells, seed=seed, **options).ceiling()


def _checked(
    cells: Mapping[str, Any],
    expected: Any,
    *,
    n_top_genes: int,
    n_splits: int,
    max_cells: int | None,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Check what is to be scored; give the matrices, dense, and the mean response."""
    check_metrics(metrics)
    check_max_cells(max_cells)
    for name, number in (("n_top_genes", n_top_genes), ("n_splits", n_splits)):
        check_integer(name, number, 1)
    there = {name: values for name, values in cells.items() if values is not None}
    arrays: dict[str, Any] = dict.fromkeys(("control", "source", "expected"))
    arrays |= dict(zip(there, as_matrices(list(there.values()), list(there)), strict=True))
    for name, least, what in (("pred", 2, ""), ("real", 4, ", 2 in each half"), ("control", 2, "")):
        if arrays.get(name) is not None and len(arrays[name]) < least:
            msg = f"Expected at least {least} cells in `{name}`{what}, found {len(arrays[name])}."
            raise ValueError(msg)
    if expected is not None:
        arrays["expected"] = checked_response(expected, arrays["real"].shape[1])
    return arrays


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise a ValueError unless these are names of metrics, each once."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        msg = f"Expected metrics out of {list(METRICS)}, found {unknown}."
        raise ValueError(msg)
    if isinstance(metrics, str) or len(set(names)) != len(names):
        msg = f"Expected a sequence of metrics, each once, found {metrics!r}."
        raise ValueError(msg)
