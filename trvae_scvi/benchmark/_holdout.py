"""What is held out: the cells a method is given, the cells it is to predict, and which hold-outs data allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from trvae_scvi.data._columns import check_column
from trvae_scvi.data._values import get_values

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import pandas as pd

__all__ = ["MIN_CELLS", "HoldOut", "Pairs", "hold_out", "hold_out_pairs", "only_values", "other_groups", "rows_of"]

#: Cells of each condition that a group needs to be held out, or to be learned from.
MIN_CELLS = 10


@dataclass(frozen=True, eq=False)
class HoldOut:
    """What a method is given to predict a group's cells under a condition that it has not seen them under.

    Attributes
    ----------
    training
        All cells but those held out: other groups, other conditions and the group's own control cells. Values in ``X``.
    control
        The group's control cells, to predict from; they are in `training`, too.
    group_key
        Column of `obs` with the groups.
    group
        The group held out.
    condition_key
        Column of `obs` with the conditions.
    source
        Condition of `control`.
    target
        Condition to predict.
    counts
        Whether ``X`` holds counts. ``False``: values that are normalised already.
    seed
        Seed of everything random in a method.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, real = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> holdout.group, holdout.source, holdout.target
    ('type_1', 'control', 'stimulated')
    """

    training: AnnData
    control: AnnData
    group_key: str
    group: Hashable
    condition_key: str
    source: Any
    target: Any
    counts: bool = True
    seed: int = 0


class Pairs(NamedTuple):
    """Which groups can be held out under which conditions.

    Attributes
    ----------
    pairs
        Groups and conditions to hold them out under.
    skipped
        Those that cannot be, with the keys `group`, `target` and `reason`.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> tv.benchmark.hold_out_pairs(adata, **keys, groups=["type_1"])
    Pairs(pairs=[('type_1', 'stimulated')], skipped=[])
    """

    pairs: list[tuple[Hashable, Hashable]]
    skipped: list[dict[str, Any]]


def hold_out(
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable,
    layer: str | None = None,
    counts: bool = True,
    n_hvg: int | None = None,
    seed: int = 0,
) -> tuple[HoldOut, AnnData]:
    """Split data into what a method may see and the cells that it is to predict.

    Parameters
    ----------
    adata
        Cells of several groups under several conditions. Not changed, and its data are not shared.
    group_key, group
        Column of `obs` with the groups, and the group to hold out.
    condition_key, control, target
        Column of `obs` with the conditions, the one to predict from and the one to hold out.
    layer
        The layer to read; `None` reads `X`. The results have the values in `X`.
    counts
        Whether the values are counts.
    n_hvg
        Keep so many highly variable genes, chosen by :func:`scanpy.pp.highly_variable_genes` on the log-normalised
        training cells: without those held out. Cells to learn or to predict from that have no count of these genes are
        left out; cells held out are not. `None` keeps all.
    seed
        Seed for the method.

    Returns
    -------
    What a method is given, and the cells held out. Both have the `obs` of `adata`, and of `var` the names only: no
    choice of genes, no embedding and no other result, which may have been computed from the held-out cells, too.
    Columns of `obs` can be such results; methods are meant to read the two that are named, and covariates.

    Raises
    ------
    KeyError
        If a column or layer is not there.
    ValueError
        If a column is incomplete, `control` and `target` are the same, the group has no cell under either condition, or
        fewer than 10 to predict from have a count of the genes chosen.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, real = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> holdout.training.n_obs + real.n_obs == adata.n_obs
    True
    """
    check_column(adata, "group_key", group_key)
    check_column(adata, "condition_key", condition_key)
    if control == target:
        msg = f"Expected two conditions, found {control!r} as `control` and as `target`."
        raise ValueError(msg)
    of_group = rows_of(adata.obs[group_key], group)
    held_out, own = (of_group & rows_of(adata.obs[condition_key], name) for name in (target, control))
    for name, rows in ((control, own), (target, held_out)):
        if not rows.any():
            msg = f"Expected cells with {group_key} {group!r} and {condition_key} {name!r}, found none."
            raise ValueError(msg)
    training, given, real = (only_values(adata[rows], layer) for rows in (~held_out, own, held_out))
    if n_hvg is not None:
        genes = _highly_variable(training, n_hvg, counts)
        training, given = (_on_genes(cells, genes, counts) for cells in (training, given))
        real = real[:, genes].copy()
        if given.n_obs < MIN_CELLS:
            msg = (
                f"Expected at least {MIN_CELLS} cells with {group_key} {group!r} and {condition_key} {control!r} that "
                f"have a count of the n_hvg={n_hvg} genes chosen, found {given.n_obs}. Choose more genes."
            )
            raise ValueError(msg)
    return HoldOut(training, given, group_key, group, condition_key, control, target, counts, seed), real


def hold_out_pairs(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    groups: Sequence[Hashable] | None = None,
    targets: Sequence[Hashable] | None = None,
) -> Pairs:
    """List the groups and target conditions that can be held out, and those that cannot.

    A group can be held out under a target if it has at least 10 cells under control and under the target, and another
    group has as many of both to learn from.

    Parameters
    ----------
    adata
        The cells; only `obs` is read.
    group_key, condition_key
        Columns of `obs` with the groups and the conditions.
    control
        The condition to predict from.
    groups, targets
        Groups to hold out, and conditions to hold them out under. `None` takes all, without the control.

    Returns
    -------
    The pairs, group by group, in the order asked for or that of the categories, and what was skipped for which reason.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If a group or a condition is not in the data or asked for twice, or the control is among the targets.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> tv.benchmark.hold_out_pairs(adata, **keys).pairs
    [('type_1', 'stimulated'), ('type_2', 'stimulated'), ('type_3', 'stimulated')]
    """
    for argument, key in (("group_key", group_key), ("condition_key", condition_key)):
        if key not in adata.obs:
            msg = f"`{argument}={key!r}` not found in `adata.obs`; its columns are {list(adata.obs.columns)}."
            raise KeyError(msg)
    groups = _asked("groups", groups, adata.obs[group_key])
    known = _asked("control", [control], adata.obs[condition_key])
    if targets is None:
        targets = [name for name in _values(adata.obs[condition_key]) if name not in known]
    targets = _asked("targets", targets, adata.obs[condition_key])
    if control in targets:
        msg = f"Expected targets other than the control, found {control!r} among {targets}."
        raise ValueError(msg)
    n_cells = adata.obs.groupby([group_key, condition_key], observed=True).size().to_dict()
    others = _values(adata.obs[group_key])
    pairs, skipped = [], []
    for group in groups:
        for target in targets:
            reason = _reason_to_skip(n_cells, group, [name for name in others if name != group], control, target)
            if reason is None:
                pairs.append((group, target))
            else:
                skipped.append({"group": group, "target": target, "reason": reason})
    return Pairs(pairs, skipped)


def other_groups(holdout: HoldOut) -> dict[Hashable, tuple[np.ndarray, np.ndarray]]:
    """Find the groups to learn from: all but the held-out one with at least 10 cells under source and under target.

    Every group has the same weight in the baselines, so that one of a few cells would add mostly noise. Where no group
    has as many cells, all that have any are taken.

    Parameters
    ----------
    holdout
        The cells.

    Returns
    -------
    For each group, in the order of the categories, the rows of `training` under the source and under the target, as two
    boolean masks.

    Raises
    ------
    ValueError
        If there is none.
    """
    obs = holdout.training.obs
    under = [rows_of(obs[holdout.condition_key], name) for name in (holdout.source, holdout.target)]
    # The categories' order rather than that of the rows, which must not matter.
    others = [name for name in _values(obs[holdout.group_key]) if name != holdout.group]
    rows = {name: rows_of(obs[holdout.group_key], name) for name in others}
    both = {name: (rows[name] & under[0], rows[name] & under[1]) for name in others}
    found = {name: masks for name, masks in both.items() if masks[0].any() and masks[1].any()}
    if not found:
        msg = (
            f"Expected another group than {holdout.group!r} with cells under both {holdout.source!r} and "
            f"{holdout.target!r}, found none among {others}."
        )
        raise ValueError(msg)
    enough = {name: masks for name, masks in found.items() if min(mask.sum() for mask in masks) >= MIN_CELLS}
    return enough or found


def rows_of(column: pd.Series, value: Hashable) -> np.ndarray:
    """Boolean mask of the rows with a value."""
    # isin rather than ==: a missing value is then False whatever the column's type.
    return column.isin([value]).to_numpy()


def _values(column: pd.Series) -> list[Hashable]:
    """Values that occur, in the order of the categories."""
    return list(column.astype("category").cat.remove_unused_categories().cat.categories)


def _asked(name: str, asked: Sequence[Hashable] | None, column: pd.Series) -> list[Hashable]:
    known = _values(column)
    wanted = known if asked is None else list(asked)
    unknown = [value for value in wanted if value not in known]
    if unknown or not wanted or isinstance(asked, str) or len(set(wanted)) < len(wanted):
        found = asked if isinstance(asked, str) else unknown or wanted
        msg = f"Expected `{name}` out of {known}, none twice, found {found}."
        raise ValueError(msg)
    return wanted


def _reason_to_skip(
    n_cells: dict[Any, int], group: Hashable, others: list[Hashable], control: Hashable, target: Hashable
) -> str | None:
    for condition in (control, target):
        own = n_cells.get((group, condition), 0)
        if own < MIN_CELLS:
            return f"{own} cells under {condition!r}, fewer than {MIN_CELLS}"
    fewest = [min(n_cells.get((name, condition), 0) for condition in (control, target)) for name in others]
    if max(fewest, default=0) < MIN_CELLS:
        return f"no other group has {MIN_CELLS} cells under {control!r} and under {target!r}"
    return None


def only_values(cells: AnnData, layer: str | None) -> AnnData:
    """Copy a layer (`None`: `X`) into the `X` of an object of its own, with `obs` and the gene names."""
    values = get_values(cells, layer)
    for load in ("to_memory", "compute"):  # backed sparse matrices of anndata; dask arrays
        if hasattr(values, load):
            values = getattr(values, load)()
    copied = values.copy() if sparse.issparse(values) else np.array(values)
    return AnnData(X=copied, obs=cells.obs.copy(), var=cells.var[[]].copy())


def _highly_variable(training: AnnData, n_hvg: int, counts: bool) -> np.ndarray:
    cells = AnnData(X=training.X.copy(), var=training.var[[]].copy())
    if counts:
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=n_hvg, flavor="seurat")
    # ranked here, as scanpy takes more where several are tied
    dispersions = cells.var["dispersions_norm"].fillna(-np.inf).to_numpy()
    return np.sort(np.argsort(-dispersions, kind="stable")[:n_hvg])


def _on_genes(cells: AnnData, genes: np.ndarray, counts: bool) -> AnnData:
    kept = cells[:, genes]
    # Models of counts take no cell without any.
    return kept[np.asarray(kept.X.sum(axis=1)).ravel() > 0].copy() if counts else kept.copy()
