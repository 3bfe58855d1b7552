"""Every condition held out in turn, in all groups: predicted from its description alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from joblib import Parallel, delayed
from scvi.utils import track

from trvae_scvi._arguments import check_integer
from trvae_scvi.data._columns import check_column
from trvae_scvi.data._condition_features import ConditionFeatures
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.metrics._scorer import DEFAULT_METRICS, Scorer
from trvae_scvi.predict._request import as_list

from ._baseline_methods import as_compared
from ._comparison import CEILING, TARGET_TRIVIAL, with_skill
from ._holdout import MIN_CELLS, in_order, only_values, set_aside
from ._methods import TRVAETargetMethod
from ._runner import check_methods, check_numbers, check_values
from ._target_baselines import TARGET_BASELINES, TargetHoldOut, changes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["leave_one_target_out"]

_COLUMNS = ["group", "target", "seed", "method", "genes", "metric", "value", "std", "skill", "skill_std", "note"]
_ALL = "all"
_SHOWN = 10

logger = logging.getLogger(__name__)


def leave_one_target_out(
    adata: AnnData,
    *,
    condition_features: pd.DataFrame,
    condition_key: str = "condition",
    control: Hashable,
    methods: Mapping[str, Callable[[TargetHoldOut], Mapping[Any, Any]]] | None = None,
    targets: Sequence[Hashable] | None = None,
    n_folds: int | None = None,
    group_key: str | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    counts: bool = True,
    n_top_genes: int = 100,
    metrics: Sequence[str] = DEFAULT_METRICS,
    n_jobs: int | None = None,
    progress_bar: bool = True,
) -> pd.DataFrame:
    """Hide conditions altogether, predict them from their descriptions, and score the predictions.

    Where :func:`~trvae_scvi.benchmark.leave_one_group_out` asks what a group would do under a condition that others
    were seen under, this asks what a condition would do that nobody was seen under. Some control cells are set aside,
    which no method learns or predicts from, and real changes are measured against them.

    Parameters
    ----------
    adata
        Cells under the control and other conditions. Not changed.
    condition_features
        Descriptions of the conditions, as for :class:`~trvae_scvi.TRVAE`; 0 for the control.
    condition_key, control
        Column of `obs` with the conditions, and the one to predict from.
    methods
        Methods by name: callables that take a :class:`~trvae_scvi.benchmark.TargetHoldOut` and give predicted cells by
        target, as an AnnData with counts (what `X` holds with ``counts=False``) or as an array that is log-normalised
        already. `None` is ``{"trVAE": TRVAETargetMethod()}``.
    targets
        Conditions to hide. `None` takes all but the control that have at least 10 cells.
    n_folds
        Into how many parts targets are divided at random, each hidden at a time. `None` hides one target at a time, as
        many trainings as there are targets.
    group_key
        Column of `obs` with groups of cells (cell types, species ...), each scored apart. `None`: all cells together.
        Where a group has fewer than 10 cells under a target, no control cell to predict from, or no cell under a
        condition that is not hidden, the two are skipped with a warning.
    seeds
        Every method is run with each of them.
    layer
        The layer to read; `None` reads `X`.
    counts
        Whether the values are counts. ``False`` compares them as they are.
    n_top_genes
        Number of genes in the second gene set; all genes if there are fewer.
    metrics
        Names out of ``metrics.METRICS``.
    n_jobs
        Number of processes, as in :class:`joblib.Parallel`.
    progress_bar
        Whether to show one.

    Returns
    -------
    One row per group, target, seed, method, gene set and metric with the columns `group` ("all" without groups),
    `target`, `seed`, `method`, `genes`, `metric`, `value`, `std`, `skill`, `skill_std` and `note`, as in
    :func:`~trvae_scvi.benchmark.leave_one_group_out`, whose summaries take it; ``attrs["skipped"]`` lists what was
    skipped. 0 is the better of no change and of the
    measured conditions' mean response. Beside the methods there are `TARGET_BASELINES`: the mean of the three nearest
    descriptions, the linear fit of smallest norm (which adds up factors of combinations), a ridge regression and, for
    doses, linear interpolation.

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the table lacks a condition or describes the control by anything but 0, values are no counts, a target is
        unknown or there twice, a method has the name of a baseline, `n_folds` is less than 2, fewer than two conditions
        beside the control would be left, nothing can be scored, or a method predicts other cells, genes or targets than
        it is asked for, or values that are not finite.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, features, _ = tv.datasets.simulate_conditions(n_cells=900, n_genes=50, n_conditions=12)
    >>> methods = {"short": tv.benchmark.TRVAETargetMethod(train_kwargs={"max_epochs": 2})}
    >>> table = tv.benchmark.leave_one_target_out(
    ...     adata,
    ...     condition_features=features,
    ...     control="control",
    ...     targets=["condition_1"],
    ...     methods=methods,
    ...     progress_bar=False,
    ... )
    >>> table["method"].unique().tolist()
    ['short', 'no change', 'mean response', 'nearest conditions', 'linear', 'ridge', 'interpolation', 'noise ceiling']
    """
    methods = check_methods({"trVAE": TRVAETargetMethod()} if methods is None else methods, TARGET_BASELINES)
    check_numbers(adata, seeds, None, n_top_genes, metrics)
    cells = only_values(adata, layer)
    check_values(cells, counts)
    if group_key is not None:
        check_column(cells, "group_key", group_key)
    folds = _folds(cells, condition_features, condition_key, control, targets, n_folds)
    scoring = {"n_top_genes": n_top_genes, "metrics": list(metrics)}
    keys = {"condition_key": condition_key, "group_key": group_key, "source": control, "counts": counts}
    sides = _Sides.of(cells, keys)
    skipped = sides.to_skip(folds)
    jobs = [
        delayed(_run)(cells, sides, condition_features, fold, methods, [int(seed) for seed in seeds], keys, scoring)
        for fold in folds
    ]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    shown = track(results, description="Holding out", total=len(jobs), disable=not progress_bar)
    table = pd.concat(shown, ignore_index=True)
    table.attrs["skipped"] = skipped
    return table


@dataclass(frozen=True)
class _Sides:
    """Rows that are the same whatever is hidden."""

    condition: np.ndarray
    group: np.ndarray
    of_control: np.ndarray
    aside: np.ndarray  # control cells that real changes are measured against

    @classmethod
    def of(cls, cells: AnnData, keys: Mapping[str, Any]) -> _Sides:
        condition = cells.obs[keys["condition_key"]].to_numpy()
        of_control = condition == keys["source"]
        group = np.full(cells.n_obs, _ALL) if keys["group_key"] is None else cells.obs[keys["group_key"]].to_numpy()
        aside = np.zeros(cells.n_obs, dtype=bool)
        for name in pd.unique(group):
            aside |= set_aside(of_control & (group == name), 0.3, 0)
        return cls(condition, group, of_control, aside)

    def can_score(self, group: Hashable, target: Hashable, fold: Sequence[Any]) -> bool:
        """Whether there are cells to be predicted, others to predict them from, and a condition that is not hidden."""
        own = self.group == group
        learned_from = own & ~self.of_control & ~np.isin(self.condition, fold)
        has_control = (own & self.of_control & ~self.aside).any()
        return (own & (self.condition == target)).sum() >= MIN_CELLS and has_control and learned_from.any()

    def to_skip(self, folds: Sequence[list[Any]]) -> list[dict[str, Any]]:
        """Warn of groups that have no score under a target, raise a ValueError if none has any."""
        pairs = [(group, target, fold) for group in pd.unique(self.group) for fold in folds for target in fold]
        reason = f"fewer than {MIN_CELLS} cells, no control cell, or no other condition to learn from"
        found = [{"group": a, "target": b, "reason": reason} for a, b, fold in pairs if not self.can_score(a, b, fold)]
        lines = ", ".join(f"{row['group']} under {row['target']}" for row in found[:_SHOWN])
        if len(found) == len(pairs):
            msg = (
                f"Expected a group with {MIN_CELLS} cells under a target, a control cell, and cells under another "
                f"condition to learn from, found none ({lines})."
            )
            raise ValueError(msg)
        if found:
            logger.warning("Skipped %d of %d scores, for %s: %s.", len(found), len(pairs), reason, lines)
        return found


def _folds(
    cells: AnnData,
    table: pd.DataFrame,
    condition_key: str,
    control: Hashable,
    targets: Sequence[Hashable] | None,
    n_folds: int | None,
) -> list[list[Any]]:
    """Conditions that are hidden together."""
    check_column(cells, "condition_key", condition_key)
    numbers = cells.obs[condition_key].value_counts()
    conditions = in_order(cells.obs[condition_key])
    ConditionFeatures.of(table).check(conditions)
    if control not in conditions or table.loc[control].any():
        msg = f"Expected `control` to be the condition whose features are all 0, found {control!r}."
        raise ValueError(msg)
    known = [name for name in conditions if name != control and numbers[name] >= MIN_CELLS]
    asked = known if targets is None else as_list(targets)
    unknown = [name for name in asked if name not in known]
    if len(set(asked)) < len(asked):
        msg = f"Expected different `targets`, found {asked}."
        raise ValueError(msg)
    if unknown or not asked:
        msg = f"Expected `targets` among conditions with at least {MIN_CELLS} cells, {known}, found {unknown or asked}."
        raise ValueError(msg)
    if n_folds is None:
        folds = [[name] for name in asked]
    else:
        check_integer("n_folds", n_folds, 2)
        order = np.random.default_rng(0).permutation(len(asked))
        folds = [[asked[i] for i in sorted(part)] for part in np.array_split(order, n_folds) if len(part)]
    if len(conditions) - 1 - max(map(len, folds)) < 2:
        msg = f"Expected two conditions or more besides the control to learn from, found {len(conditions) - 1} in all."
        raise ValueError(msg)
    return folds


def _run(
    cells: AnnData,
    sides: _Sides,
    table: pd.DataFrame,
    fold: list[Any],
    methods: Mapping[str, Any],
    seeds: Sequence[int],
    keys: Mapping[str, Any],
    scoring: Mapping[str, Any],
) -> pd.DataFrame:
    """Hide the conditions of one fold, run all methods, and score them in every group."""
    hidden = np.isin(sides.condition, fold)
    seen = ~hidden & ~sides.aside
    training, control = cells[seen].copy(), cells[seen & sides.of_control].copy()
    predictions = {}
    for name, method in methods.items():
        for seed in seeds:
            given = TargetHoldOut(
                training.copy(), control.copy(), features=table.copy(), targets=list(fold), seed=seed, **keys
            )
            predictions[name, seed] = _checked(name, method(given), fold, control, keys["counts"])
    given = TargetHoldOut(training, control, features=table, targets=list(fold), **keys)
    frames = []
    for name in pd.unique(sides.group):
        rows = sides.group == name
        scored = [target for target in fold if sides.can_score(name, target, fold)]
        if not scored:
            continue
        measured = changes_of(given, rows[seen])
        for target in scored:
            real, apart = cells[rows & (sides.condition == target)], cells[sides.aside & rows]
            split = measured, rows[seen & sides.of_control], real, apart
            frames.append(_scored(given, predictions, target, *split, seeds[0], scoring).assign(group=name))
    return pd.concat(frames, ignore_index=True)[_COLUMNS] if frames else pd.DataFrame(columns=_COLUMNS)


def _checked(name: str, predicted: Any, fold: Sequence[Any], control: AnnData, counts: bool) -> dict[Any, np.ndarray]:
    """Predictions of a method as they are compared, if there is one of every cell for every target."""
    if not isinstance(predicted, Mapping) or not set(fold) <= set(predicted):
        found = list(predicted) if isinstance(predicted, Mapping) else type(predicted).__name__
        msg = f"Expected {name!r} to give predicted cells for each of {list(fold)}, found {found}."
        raise ValueError(msg)
    cells = {target: as_compared(predicted[target], control, counts=counts) for target in fold}
    for of_target in cells.values():
        if len(of_target) != control.n_obs:
            msg = f"Expected {name!r} to predict {control.n_obs} cells, found {len(of_target)}."
            raise ValueError(msg)
    return cells


def _scored(
    given: TargetHoldOut,
    predictions: Mapping[tuple[str, int], Mapping[Any, np.ndarray]],
    target: Any,
    measured: tuple[list[Any], np.ndarray],
    in_control: np.ndarray,
    real: AnnData,
    apart: AnnData,
    first_seed: int,
    scoring: Mapping[str, Any],
) -> pd.DataFrame:
    """Score all predictions of one target for one group, the baselines and the ceiling."""

    def matrix(cells: AnnData) -> np.ndarray:
        return comparison_matrix(cells, counts=given.counts)

    conditions, changes = measured
    source = matrix(given.control[in_control])
    features = given.features.astype(float)
    known, asked = features.loc[conditions].to_numpy(), features.loc[target].to_numpy()
    found = {name: function(known, changes, asked) for name, function in TARGET_BASELINES.items()}
    aside = matrix(apart) if apart.n_obs else None
    scorer = Scorer(
        matrix(real),
        aside,
        None if aside is None else source,
        expected=found["mean response"],
        n_cells=len(source),
        **scoring,
    )
    frames = [
        scorer.score(by_target[target][in_control]).assign(method=name, seed=seed)
        for (name, seed), by_target in predictions.items()
    ]
    references: list[pd.DataFrame] = []
    for name, change in found.items():
        if np.isnan(change).any():
            note = "conditions are no doses of one drug each"
            table = references[0].assign(value=np.nan, std=np.nan, note=note)
        else:
            table = scorer.score(np.maximum(source + change, 0.0) if given.counts else source + change)
        references.append(table.assign(method=name))
    references.append(scorer.ceiling().assign(method=CEILING))
    without_network = pd.concat(references, ignore_index=True).assign(seed=first_seed)
    return with_skill(frames, without_network, trivial=TARGET_TRIVIAL).assign(target=target)
