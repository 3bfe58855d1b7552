"""Intervals of predicted changes: calibrated on groups whose response is known, and scored on others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi.utils import track

from trvae_scvi._arguments import check_number
from trvae_scvi._math._intervals import ModelError, calibrate, margin, standard_error
from trvae_scvi.metrics import interval_coverage, interval_score, responsive_genes
from trvae_scvi.metrics._matrix import gene_means, gene_variances

from ._baseline_methods import predicted_cells
from ._comparison import Split
from ._methods import TRVAEMethod
from ._pairs import some_pairs

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from anndata import AnnData

    from ._baseline_methods import Method

__all__ = ["calibrate_intervals", "change_table", "coverage_table", "fit_model_error"]


def calibrate_intervals(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    method: Method | None = None,
    groups: Sequence[Hashable] | None = None,
    targets: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    counts: bool = True,
    n_top_genes: int = 100,
    level: float = 0.9,
    progress_bar: bool = True,
) -> ModelError:
    """Find out how far predictions are from the truth, for intervals that hold as often as they say.

    Every group whose response is known is hidden in turn, a model is trained without it, and its change is predicted.
    The result makes the intervals of `TRVAE.get_perturbation_effect` cover a share `level` of all genes and of the most
    responsive ones, on average over these groups: with few groups the average is a rough one, and a single group can be
    covered less. Whether it holds for another group depends on its being no stranger to the others than they are to
    each other.

    Parameters
    ----------
    adata, group_key, condition_key, control, groups, targets, layer, counts
        As in :func:`~trvae_scvi.benchmark.leave_one_group_out`.
    method
        What predicts. `None` is :class:`~trvae_scvi.benchmark.TRVAEMethod` with its defaults.
    seeds
        Every group is predicted with each of them.
    n_top_genes
        Number of most responsive genes; all if there are fewer.
    level
        The share to cover.
    progress_bar
        Whether to show one.

    Returns
    -------
    The `model_error` for `TRVAE.get_perturbation_effect`.

    Raises
    ------
    KeyError
        If a column or layer is not there.
    TypeError
        If `method` cannot be called.
    ValueError
        If no group can be held out, `level` is not between 0 and 1, or for what the method refuses.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> error = tv.benchmark.calibrate_intervals(adata, **keys)  # doctest: +SKIP
    >>> model.get_perturbation_effect(nk, target="stimulated", model_error=error)  # doctest: +SKIP

    The same for a prediction without a network, which is faster:

    >>> method = tv.benchmark.BASELINES["mean shift"]
    >>> error = tv.benchmark.calibrate_intervals(adata, **keys, method=method, progress_bar=False)
    >>> error._fields
    ('floor', 'share')
    """
    check_number("level", level, positive=True, below=1.0)
    if method is not None and not callable(method):
        msg = f"Expected `method` to be callable, such as `TRVAEMethod()`, found {method!r}."
        raise TypeError(msg)
    if not list(seeds):
        msg = f"Expected at least one of `seeds`, found {seeds!r}."
        raise ValueError(msg)
    keys: dict[str, Any] = {"group_key": group_key, "condition_key": condition_key, "control": control}
    pairs = some_pairs(adata, **keys, groups=groups, targets=targets).pairs
    method = TRVAEMethod() if method is None else method
    jobs = [(*pair, seed) for pair in pairs for seed in seeds]
    tables = []
    for group, target, seed in track(jobs, description="Calibrating", disable=not progress_bar):
        split = Split.of(adata, **keys, group=group, target=target, layer=layer, counts=counts, seed=seed)
        predicted = predicted_cells(method, split.holdout)
        cells = (split.matrix(part) for part in (split.truth.real, split.holdout.control))
        tables.append(change_table(predicted, *cells, n_top_genes=n_top_genes))
    return fit_model_error(tables, level=level)


def change_table(
    predicted: np.ndarray, real: np.ndarray, control: np.ndarray, *, n_top_genes: int = 100
) -> pd.DataFrame:
    """Predicted and real change of every gene of a held-out group.

    Both changes are against the same control cells, which leave the difference between the two, all that intervals are
    about, as it is.

    Parameters
    ----------
    predicted, real, control
        Predicted (`n x d`), real (`m x d`) and control (`k x d`) cells, log-normalised.
    n_top_genes
        Number of most responsive genes, see :func:`~trvae_scvi.metrics.responsive_genes`; all if there are fewer.

    Returns
    -------
    One row per gene with the columns `change` (predicted mean - control mean), `standard_error` (what the sampling of
    as many cells as were predicted, and of the real ones, adds to the difference of their means), `change_real` and
    `responsive`.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> predicted, real, control = (rng.normal(mean, size=(30, 20)) for mean in (1, 2, 0))
    >>> changes = tv.benchmark.change_table(predicted, real, control, n_top_genes=5)
    >>> changes.columns.tolist()
    ['change', 'standard_error', 'change_real', 'responsive']
    """
    means = [gene_means(cells) for cells in (predicted, real, control)]
    responsive = np.zeros(real.shape[1], dtype=bool)
    responsive[responsive_genes(control, real, n_genes=min(n_top_genes, real.shape[1]))] = True
    return pd.DataFrame(
        {
            "change": means[0] - means[2],
            "standard_error": standard_error(gene_variances(predicted, ddof=1), len(predicted), len(real)),
            "change_real": means[1] - means[2],
            "responsive": responsive,
        }
    )


def fit_model_error(tables: Sequence[pd.DataFrame], *, level: float = 0.9) -> ModelError:
    """Calibrate intervals on groups that have been predicted.

    Parameters
    ----------
    tables
        One :func:`change_table` for every group.
    level
        The share to cover.

    Returns
    -------
    As :func:`calibrate_intervals`.

    Raises
    ------
    TypeError
        If `level` is no number.
    ValueError
        If there is no table, or `level` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> predicted, real, control = (rng.normal(mean, size=(30, 20)) for mean in (1, 2, 0))
    >>> changes = tv.benchmark.change_table(predicted, real, control, n_top_genes=5)
    >>> tv.benchmark.fit_model_error([changes])._fields
    ('floor', 'share')
    """
    check_number("level", level, positive=True, below=1.0)
    if not len(tables):
        msg = "Expected at least one table of changes in `tables`, found none. Make them with `change_table`."
        raise ValueError(msg)
    names = ("change", "standard_error", "change_real", "responsive")
    columns = [[table[name].to_numpy() for table in tables] for name in names]
    return calibrate(*columns, level=level)


def coverage_table(
    tables: Mapping[Hashable, pd.DataFrame], error: tuple[float, float], *, level: float = 0.9
) -> pd.DataFrame:
    """How often intervals hold, and how wide they are.

    Parameters
    ----------
    tables
        A :func:`change_table` for every group.
    error
        The model's error as in `TRVAE.get_perturbation_effect`.
    level
        Probability of the intervals.

    Returns
    -------
    Two rows per group with the columns `group`, `genes` (`"all"` or `"responsive"`), `coverage`, `mean_width` and
    `score`, the :func:`~trvae_scvi.metrics.interval_score`.

    Raises
    ------
    TypeError
        If `level` is no number.
    ValueError
        If `level` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> predicted, real, control = (rng.normal(mean, size=(30, 20)) for mean in (1, 2, 0))
    >>> changes = tv.benchmark.change_table(predicted, real, control, n_top_genes=5)
    >>> error = tv.benchmark.fit_model_error([changes])
    >>> tv.benchmark.coverage_table({"B": changes}, error)[["group", "genes"]].values.tolist()
    [['B', 'all'], ['B', 'responsive']]
    """
    check_number("level", level, positive=True, below=1.0)
    rows = []
    for group, table in tables.items():
        half = margin(table["change"], table["standard_error"], ModelError(*error), level)
        for genes, mask in (("all", np.ones(len(table), bool)), ("responsive", table["responsive"].to_numpy())):
            of = table[mask]
            bounds = of["change"] - half[mask], of["change"] + half[mask], of["change_real"]
            found = interval_coverage(*bounds)
            score = interval_score(*bounds, level=level)
            rows.append((group, genes, found["coverage"], found["mean_width"], score))
    return pd.DataFrame(rows, columns=["group", "genes", "coverage", "mean_width", "score"])
