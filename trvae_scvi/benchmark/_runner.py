"""Every group held out in turn: which hold-outs there are, every method on every one of them, one table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from scvi.utils import track

from trvae_scvi._arguments import check_choice, check_integer
from trvae_scvi._files import write_text
from trvae_scvi.data._values import summarize_values
from trvae_scvi.metrics import METRICS
from trvae_scvi.metrics._scorer import DEFAULT_METRICS

from ._baseline_methods import BASELINES
from ._comparison import CEILING, Job, compute, with_skill
from ._holdout import check_n_hvg, only_values
from ._methods import TRVAEMethod
from ._pairs import some_pairs
from ._parts import Part, PartStore, data_fingerprint, describe_method
from ._report import write_report

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Iterable, Sequence

    from anndata import AnnData

    from ._baseline_methods import Method

__all__ = ["Run", "check_methods", "check_numbers", "check_values", "held_out", "leave_one_group_out"]

_KEYS = ["group", "target", "seed", "method", "genes", "metric"]
_COLUMNS = [*_KEYS, "value", "std", "skill", "skill_std", "note", "effect_p", "seconds"]


def leave_one_group_out(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    methods: Mapping[str, Method] | None = None,
    groups: Sequence[Hashable] | None = None,
    targets: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    counts: bool = True,
    n_hvg: int | None = None,
    n_top_genes: int = 100,
    metrics: Sequence[str] = DEFAULT_METRICS,
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress_bar: bool = True,
) -> pd.DataFrame:
    """Hold every group out under every condition in turn, predict it, and score the prediction.

    For each group and target condition, every method is trained without the group's cells under the target, predicts
    them from the group's control cells, and is scored against the cells held out, beside all `BASELINES` and the noise
    ceiling. Groups with fewer than 10 cells under control or target, and those without another group to learn from, are
    skipped with a warning.

    Parameters
    ----------
    adata
        Cells of several groups under control and other conditions. Not changed.
    group_key, condition_key
        Columns of `obs` with the groups (cell types, donors ...) and the conditions, without missing values.
    control
        The condition to predict from.
    methods
        Methods by name: any callable that takes a :class:`~trvae_scvi.benchmark.HoldOut` and returns predicted cells,
        as an AnnData with counts or expected counts in ``X`` (what `X` holds with ``counts=False``) or as an array that
        is log-normalised already. `None` is ``{"trVAE": TRVAEMethod()}``.
    groups, targets
        Groups to hold out, and conditions to hold them out under. `None` takes all, without the control.
    seeds
        Every method is run with each of them. Baselines and ceiling do not depend on them.
    layer
        The layer to read; `None` reads `X`.
    counts
        Whether the values are counts. ``False`` compares them as they are, without "fold change".
    n_hvg
        Number of highly variable genes, chosen for every hold-out without the cells held out; everything is computed on
        these genes, the normalisation, too. `None` takes all genes.
    n_top_genes
        Number of genes in the second gene set; all genes if there are fewer.
    metrics
        Names out of ``metrics.METRICS``.
    out
        Folder for ``scores.csv``, ``skipped.csv`` and ``report.html``, which describe the last call, and for every
        finished piece. Called again with the same data and settings, only what is missing there is computed: after an
        interruption, or with further groups, seeds or methods. A method is known by its `repr`: one of your own should
        tell its settings. A function is known by its name alone; after a change of its code, name another folder.
    n_jobs
        Number of processes, as in :class:`joblib.Parallel`, which share the processor's cores. `None` is one, or what
        :class:`joblib.parallel_config` says, which also sets another backend, such as a Dask or Ray cluster.
    progress_bar
        Whether to show one.

    Returns
    -------
    One row per hold-out, seed, method, gene set and metric with the columns

    ``group``, ``target``, ``seed``, ``method``
        Which prediction; the seed is the first one for baselines and ceiling.
    ``genes``, ``metric``, ``value``, ``std``
        Its score and standard error, see :func:`~trvae_scvi.metrics.score_arrays`.
    ``skill``, ``skill_std``
        0 is the best trivial prediction, 1 the ceiling; see :func:`~trvae_scvi.metrics.skill`.
    ``note``
        Why there is no value or no skill.
    ``effect_p``
        p value of :func:`~trvae_scvi.metrics.energy_test` between the real cells and the group's control cells: large
        where there is no effect to be predicted that these cells would show.
    ``seconds``
        Training and prediction.

    ``attrs["skipped"]`` lists what was skipped, ``attrs["settings"]`` the arguments.
    :func:`~trvae_scvi.benchmark.summarize` makes one line a method of it.

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument has an unknown value, the values are no counts, nothing can be held out, or `out` is the folder
        of a run with other data or settings.

    Notes
    -----
    The error of a method is raised at once; its notes say where it happened, and with `out` nothing that was finished
    is lost. Equal seeds give equal results for equal numbers of threads, which differ with `n_jobs` unless
    ``OMP_NUM_THREADS`` sets one. Some control cells of the group are set aside, see
    :func:`~trvae_scvi.benchmark.hold_out`: with fewer than 20 there are none, and metrics of change have no value.

    Examples
    --------
    >>> from trvae_scvi.benchmark import TRVAEMethod, leave_one_group_out
    >>> from trvae_scvi.datasets import simulate_perturbation
    >>> adata = simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> methods = {"short": TRVAEMethod(train_kwargs={"max_epochs": 2})}
    >>> table = leave_one_group_out(
    ...     adata, group_key="cell_type", control="control", groups=["type_1"], methods=methods, progress_bar=False
    ... )
    >>> table["method"].unique().tolist()[:3]
    ['short', 'no change', 'mean of others']
    """
    return held_out(**locals()).table


class Run(NamedTuple):
    """What comes of holding groups out.

    Attributes
    ----------
    table
        That of :func:`leave_one_group_out`.
    changes
        Predicted and real changes of genes, see :func:`~._changes.change_table`, by method, then by group, target and
        seed.
    """

    table: pd.DataFrame
    changes: dict[str, dict[tuple[Hashable, Hashable, int], pd.DataFrame]]


def held_out(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    methods: Mapping[str, Method] | None = None,
    groups: Sequence[Hashable] | None = None,
    targets: Sequence[Hashable] | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    counts: bool = True,
    n_hvg: int | None = None,
    n_top_genes: int = 100,
    metrics: Sequence[str] = DEFAULT_METRICS,
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress_bar: bool = True,
) -> Run:
    """Hold groups out; the arguments are those of :func:`leave_one_group_out`."""
    methods = check_methods({"trVAE": TRVAEMethod()} if methods is None else methods, BASELINES)
    check_numbers(adata, seeds, n_hvg, n_top_genes, metrics)
    columns = {"group_key": group_key, "condition_key": condition_key, "control": control}
    pairs, skipped = some_pairs(adata, **columns, groups=groups, targets=targets)
    cells = only_values(adata, layer)
    check_values(cells, counts)
    keys = {**columns, "counts": counts, "n_hvg": n_hvg}
    scoring = {"n_top_genes": n_top_genes, "metrics": list(metrics)}
    described = {name: describe_method(method) for name, method in methods.items()}
    settings = {**keys, "control": str(control), **scoring, "layer": layer, "version": version("trvae-scvi")}
    store = None
    if out is not None:
        fingerprint = data_fingerprint(cells, group_key, condition_key)
        store = PartStore(Path(out), {**fingerprint, **settings, "methods": described})
    runs = list(product(map(int, seeds), methods))
    jobs = [*(Job(*pair) for pair in pairs), *(Job(*pair, *run) for pair, run in product(pairs, runs))]
    parts = _computed(jobs, cells, keys, scoring, methods, store, n_jobs=n_jobs, progress_bar=progress_bar)
    table = pd.concat([_pair_table(parts, pair, runs, int(seeds[0])) for pair in pairs], ignore_index=True)
    table.attrs["skipped"] = skipped
    table.attrs["settings"] = settings | {"seeds": list(map(int, seeds)), "methods": described}
    if out is not None:
        _write(table, Path(out))
    changes: dict[str, dict[tuple[Hashable, Hashable, int], Any]] = {name: {} for name in methods}
    for (group, target), (seed, name) in product(pairs, runs):
        changes[name][group, target, seed] = parts[Job(group, target, seed, name)].changes
    return Run(table, changes)


def _computed(
    jobs: Sequence[Job],
    cells: AnnData,
    keys: Mapping[str, Any],
    scoring: Mapping[str, Any],
    methods: Mapping[str, Method],
    store: PartStore | None,
    *,
    n_jobs: int | None,
    progress_bar: bool,
) -> dict[Job, Part]:
    """Do the jobs that are not finished yet; all of them, with what they gave."""
    kept = {} if store is None else {job: store.read(*job) for job in jobs}
    # a method's piece is finished when its changes are there, too
    parts: dict[Job, Part] = {
        job: part for job, part in kept.items() if part is not None and (job.method is None or part.changes is not None)
    }
    todo = [
        delayed(compute)(job, cells, keys, scoring, None if job.method is None else methods[job.method], store)
        for job in jobs
        if job not in parts
    ]
    # Processes of joblib take an equal share of the cores as threads each, unless the environment says otherwise.
    as_they_come = get_active_backend()[0].supports_return_generator  # Ray's backend does not
    results = Parallel(n_jobs=n_jobs, return_as="generator_unordered" if as_they_come else "list")(todo)
    parts.update(track(results, description="Holding out", total=len(todo), disable=not progress_bar))
    return parts


def _pair_table(
    parts: Mapping[Job, Part], pair: tuple[Hashable, Hashable], runs: Sequence[tuple[int, str]], first_seed: int
) -> pd.DataFrame:
    """Put the tables of one hold-out together, with skills."""
    frames = [parts[Job(*pair, *run)].scores.assign(seed=run[0], method=run[1]) for run in runs]
    references = parts[Job(*pair)].scores.assign(seed=first_seed)
    scored = with_skill(frames, references).assign(effect_p=references["effect_p"].iloc[0])
    return scored.assign(group=pair[0], target=pair[1])[_COLUMNS]


def _write(table: pd.DataFrame, out: Path) -> None:
    skipped = pd.DataFrame(table.attrs["skipped"], columns=["group", "target", "reason"])
    write_text(out / "skipped.csv", skipped.to_csv(index=False))
    write_text(out / "scores.csv", table.to_csv(index=False))
    write_report(table, out / "report.html")


def check_methods(methods: Mapping[str, Any], baselines: Iterable[str]) -> dict[str, Any]:
    """Check that methods are callables under names of their own, before one of them is run."""
    if not isinstance(methods, Mapping):
        msg = f"Expected `methods` to map names to callables, found {methods!r}."
        raise TypeError(msg)
    for name, method in methods.items():
        if not isinstance(name, str) or not callable(method):
            msg = f"Expected `methods` to map names to callables, found {name!r}: {method!r}."
            raise TypeError(msg)
        if name in (*baselines, CEILING):
            msg = f"Expected names of `methods` other than those of the baselines, found {name!r}. Choose another."
            raise ValueError(msg)
    return dict(methods)


def check_numbers(
    adata: AnnData, seeds: Sequence[int], n_hvg: int | None, n_top_genes: int, metrics: Sequence[str]
) -> None:
    for name, given in (("seeds", seeds), ("metrics", metrics)):
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            msg = f"Expected `{name}` to be a list, found {given!r}. Write [{given!r}]."
            raise TypeError(msg)
        values = list(given)
        if not values or len(set(values)) < len(values):
            msg = f"Expected `{name}` to hold at least one value and none twice, found {values}."
            raise ValueError(msg)
    for seed in seeds:
        check_integer("seeds", seed, 0)
    for metric in metrics:
        check_choice("metrics", metric, METRICS)
    check_integer("n_top_genes", n_top_genes, 1)
    check_n_hvg(n_hvg, adata)


def check_values(cells: AnnData, counts: bool) -> None:
    """Find out before the first training what would end one."""
    summary = summarize_values(cells.X)
    if not summary.finite:
        msg = "Expected finite values, found NaN or infinity. Remove or replace them first."
        raise ValueError(msg)
    if counts and not summary.are_counts:
        msg = (
            "Expected counts (whole numbers from 0), found other values. Name the layer that holds counts, or pass "
            "`counts=False` for values that are normalised already."
        )
        raise ValueError(msg)
    if counts and summary.n_empty_rows:
        msg = f"Expected counts in every cell, found {summary.n_empty_rows} cells without any. Remove them first."
        raise ValueError(msg)
