"""Intervals of predicted changes: calibrated on groups whose response is known, and scored on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_number
from trvae_scvi._math._intervals import FEW_GROUPS, Calibration, ModelError, calibrate, margin
from trvae_scvi.data._designs import warn
from trvae_scvi.metrics import interval_coverage, interval_score

from ._methods import TRVAEMethod
from ._runner import held_out

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Sequence

    from anndata import AnnData

    from ._baseline_methods import Method

__all__ = ["calibrate_intervals", "coverage_table", "fit_model_error"]

_NAME = "method"
_NUMBERS = ["change", "standard_error", "sd", "change_real"]


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
    n_hvg: int | None = None,
    n_top_genes: int = 100,
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress_bar: bool = True,
) -> ModelError:
    """Find out how far predictions are from the truth, for intervals that hold as often as they say.

    Every group whose response is known is hidden in turn, a model is trained without it, and its change is predicted.
    The result makes the intervals of `TRVAE.get_perturbation_effect` hold at least as often in these groups as they
    say, on average over them, for all genes and for the most responsive ones: what they are multiplied with is counted
    (conformal prediction over groups), and nothing is assumed of the errors' distribution. From five groups on, genes
    whose changes were missed by more than others' have wider intervals.

    Parameters
    ----------
    adata, group_key, condition_key, control, groups, targets, seeds, layer, counts, n_hvg, out, n_jobs, progress_bar
        As in :func:`~trvae_scvi.benchmark.leave_one_group_out`. With donors as groups, the intervals are for another
        donor.
    method
        What predicts. `None` is :class:`~trvae_scvi.benchmark.TRVAEMethod` with its defaults.
    n_top_genes
        Number of most responsive genes; all if there are fewer.

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
        If no group can be held out, or for what :func:`~trvae_scvi.benchmark.leave_one_group_out` and the method
        refuse.

    Warns
    -----
    UserWarning
        If there are fewer than five groups: how often the intervals hold for another one cannot be promised.

    Notes
    -----
    What is right on average over `n` groups can be wrong for one more. If it is a further draw from where these came
    from, and if nothing but the multiplier had been learned from them, at least a share `level * n / (n + 1)` would be
    held on average (Lee, Barber & Willett 2023, arXiv:2306.06342); if it is a stranger to them, nothing is promised.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=1200, n_genes=50, n_types=6).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> error = tv.benchmark.calibrate_intervals(adata, **keys)  # doctest: +SKIP
    >>> model.get_perturbation_effect(nk, target="stimulated", model_error=error)  # doctest: +SKIP

    The same for a prediction without a network, which is faster:

    >>> method = tv.benchmark.BASELINES["mean shift"]
    >>> error = tv.benchmark.calibrate_intervals(adata, **keys, method=method, progress_bar=False)
    >>> error.n_groups
    6
    """
    if method is not None and not callable(method):
        msg = f"Expected `method` to be callable, such as `TRVAEMethod()`, found {method!r}."
        raise TypeError(msg)
    run = held_out(
        adata,
        group_key=group_key,
        condition_key=condition_key,
        control=control,
        methods={_NAME: TRVAEMethod() if method is None else method},
        groups=groups,
        targets=targets,
        seeds=seeds,
        layer=layer,
        counts=counts,
        n_hvg=n_hvg,
        n_top_genes=n_top_genes,
        metrics=["mse_means"],  # one is enough
        out=out,
        n_jobs=n_jobs,
        progress_bar=progress_bar,
    )
    changes = run.changes[_NAME]
    return fit_model_error(list(changes.values()), groups=[group for group, _, _ in changes])


def fit_model_error(tables: Sequence[pd.DataFrame], *, groups: Sequence[Hashable] | None = None) -> ModelError:
    """Calibrate intervals on groups that have been predicted.

    Parameters
    ----------
    tables
        :func:`change_table` of every prediction. Genes are told by the index.
    groups
        The group that each is of, where some are of the same group. `None`: each is of another one.

    Returns
    -------
    As :func:`calibrate_intervals`.

    Raises
    ------
    TypeError
        If `tables` is no list of tables.
    ValueError
        If there is no table, not one group for each, or a number that is not finite.

    Warns
    -----
    UserWarning
        If there are fewer than five groups.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> def cells(mean):
    ...     return rng.normal(mean, size=(30, 20))
    >>> tables = [tv.benchmark.change_table(cells(1), cells(2), cells(0), n_top_genes=5) for _ in range(5)]
    >>> tv.benchmark.fit_model_error(tables).n_groups
    5
    """
    if isinstance(tables, Mapping | pd.DataFrame) or not all(isinstance(each, pd.DataFrame) for each in tables):
        msg = "Expected `tables` to be a list of tables that `change_table` made."
        raise TypeError(msg)
    if not len(tables):
        msg = "Expected at least one table of changes in `tables`, found none. Make them with `change_table`."
        raise ValueError(msg)
    groups = list(range(len(tables))) if groups is None else list(groups)
    if len(groups) != len(tables):
        msg = f"Expected one of `groups` for each of {len(tables)} tables, found {len(groups)}."
        raise ValueError(msg)
    together = pd.concat(tables)
    wrong = ~np.isfinite(together[_NUMBERS].to_numpy(dtype=float)).all(axis=1)
    if wrong.any():
        msg = f"Expected finite changes, found others of {wrong.sum()} genes, e.g. {together.index[wrong][0]!r}."
        raise ValueError(msg)
    variable, names = pd.factorize(together.index)
    table = np.repeat(np.arange(len(tables)), [len(each) for each in tables])
    parameters, factors, quantiles = calibrate(
        Calibration(
            change=together["change"].to_numpy(dtype=float),
            sampling=together["standard_error"].to_numpy(dtype=float),
            sd=together["sd"].to_numpy(dtype=float),
            real=together["change_real"].to_numpy(dtype=float),
            responsive=together["responsive"].to_numpy(dtype=bool),
            variable=variable,
            table=table,
            group=np.array([list(dict.fromkeys(groups)).index(group) for group in groups])[table],
        )
    )
    n_groups = len(set(groups))
    if n_groups < FEW_GROUPS:
        warn(
            f"The intervals rest on {n_groups} groups, fewer than {FEW_GROUPS}: how often they hold for another group "
            "cannot be promised, and all genes have the same rule. Measure more groups, or read them as rough."
        )
    by_gene = None if factors is None else pd.Series(factors, index=names)
    floor, share, spread = parameters.tolist()
    return ModelError(floor, share, spread, factors=by_gene, quantiles=quantiles, n_groups=n_groups)


def coverage_table(tables: Mapping[Hashable, pd.DataFrame], error: ModelError, *, level: float = 0.9) -> pd.DataFrame:
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
    KeyError
        If the error is of other genes.
    TypeError
        If `level` is no number, `tables` no mapping, or `error` no ModelError.
    ValueError
        If `level` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> predicted, real, control = (rng.normal(mean, size=(30, 20)) for mean in (1, 2, 0))
    >>> changes = tv.benchmark.change_table(predicted, real, control, n_top_genes=5)
    >>> error = tv.benchmark.ModelError(floor=0.1, share=0.5)
    >>> tv.benchmark.coverage_table({"B": changes}, error)[["group", "genes"]].values.tolist()
    [['B', 'all'], ['B', 'responsive']]
    """
    check_number("level", level, positive=True, below=1.0)
    if not isinstance(error, ModelError) or not isinstance(tables, Mapping):
        msg = "Expected `tables` to map groups to tables that `change_table` made, and `error` to be a ModelError."
        raise TypeError(msg)
    rows = []
    for group, table in tables.items():
        change, sampling, sd = (table[name].to_numpy() for name in ("change", "standard_error", "sd"))
        half = margin(change, sampling, sd, error, level, error.of_genes(table.index))
        for genes, mask in (("all", np.ones(len(table), bool)), ("responsive", table["responsive"].to_numpy())):
            of = table[mask]
            bounds = of["change"] - half[mask], of["change"] + half[mask], of["change_real"]
            found = interval_coverage(*bounds)
            score = interval_score(*bounds, level=level)
            rows.append((group, genes, found["coverage"], found["mean_width"], score))
    return pd.DataFrame(rows, columns=["group", "genes", "coverage", "mean_width", "score"])
