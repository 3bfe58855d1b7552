"""What is held out: the cells a method is given, and the cells it is to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from trvae_scvi._arguments import check_integer, check_number
from trvae_scvi.data._columns import check_column
from trvae_scvi.data._values import get_values
from trvae_scvi.metrics._matrix import in_memory

if TYPE_CHECKING:
    from collections.abc import Hashable

    import pandas as pd

__all__ = [
    "MIN_CELLS",
    "HoldOut",
    "Truth",
    "check_columns",
    "check_n_hvg",
    "check_two_conditions",
    "highly_variable",
    "hold_out",
    "in_order",
    "only_values",
    "other_groups",
    "rows_under",
    "set_aside",
]

#: Cells of each condition that a group needs to be held out, or to be learned from.
MIN_CELLS = 10
# So many control cells are set aside at least, as far as as many are left to predict from.
_MIN_ASIDE = 20


@dataclass(frozen=True, eq=False)
class HoldOut:
    """What a method is given to predict a group's cells under a condition that it has not seen them under.

    Attributes
    ----------
    training
        All cells but those held out: other groups, other conditions and the group's own control cells, less those set
        aside. Values in ``X``.
    control
        The group's control cells to predict from; they are in `training`, too.
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
    >>> holdout, truth = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
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


class Truth(NamedTuple):
    """What no method is shown: the cells to be predicted, and control cells to measure their change against.

    Attributes
    ----------
    real
        The group's cells under the target condition. Values in ``X``.
    control
        Control cells of the group that no method learns or predicts from. Empty where there are too few: a change
        measured against the cells that a prediction starts from shares their noise with it.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, _ = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, truth = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> truth.control.obs_names.intersection(holdout.training.obs_names).empty
    True
    """

    real: AnnData
    control: AnnData


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
    control_share: float = 0.3,
    split_seed: int = 0,
    seed: int = 0,
) -> tuple[HoldOut, Truth]:
    """Split data into what a method may see and what its prediction is compared with.

    Some of the group's control cells are set aside: nothing learns or predicts from them, and the real change is
    measured against them. Against the cells that a prediction started from, predicted and real change would share the
    noise of these cells, which correlates them where there is no effect at all.

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
    control_share
        Share of the group's control cells to set aside; at least 20, but no more than half of them, and none where that
        is fewer than 10. With 0 none are set aside.
    split_seed
        Seeds which ones. They depend on nothing else: they are the same for every target and method.
    seed
        Seed for the method.

    Returns
    -------
    What a method is given, and what is held out. Both have the `obs` of `adata`, and of `var` the names only: no choice
    of genes, no embedding and no other result, which may have been computed from the held-out cells, too.
    Columns of `obs` can be such results; methods are meant to read the two that are named, and covariates.

    Raises
    ------
    KeyError
        If a column or layer is not there.
    TypeError
        If `control_share` is no number, or `n_hvg` no integer.
    ValueError
        If a column is incomplete, `control` and `target` are the same, the group has no cell under either condition,
        fewer than 10 to predict from have a count of the genes chosen, `n_hvg` is below 2 or above the
        number of genes, or `control_share` is not from 0 to 0.5.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, truth = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> holdout.training.n_obs + truth.real.n_obs + truth.control.n_obs == adata.n_obs
    True
    """
    check_columns(adata, group_key, condition_key)
    check_two_conditions(control, target)
    check_n_hvg(n_hvg, adata)
    check_number("control_share", control_share)
    if not 0 <= control_share <= 0.5:
        msg = f"Expected `control_share` from 0 to 0.5, as many cells are to be predicted from, found {control_share}."
        raise ValueError(msg)
    own, held_out = (rows_under(adata.obs, group_key, group, condition_key, name) for name in (control, target))
    aside = set_aside(own, control_share, split_seed)
    parts = (~held_out & ~aside, own & ~aside, held_out, aside)
    training, given, real, apart = (only_values(adata[rows], layer) for rows in parts)
    if n_hvg is not None:
        genes = highly_variable(training, n_hvg, counts)
        training, given = (_on_genes(cells, genes, counts) for cells in (training, given))
        real, apart = (cells[:, genes].copy() for cells in (real, apart))
        if given.n_obs < MIN_CELLS:
            msg = (
                f"Expected at least {MIN_CELLS} cells with {group_key} {group!r} and {condition_key} {control!r} that "
                f"have a count of the n_hvg={n_hvg} genes chosen, found {given.n_obs}. Choose more genes."
            )
            raise ValueError(msg)
    holdout = HoldOut(training, given, group_key, group, condition_key, control, target, counts, seed)
    return holdout, Truth(real, apart)


def set_aside(own: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose among the rows of a mask those to set aside, as a mask."""
    rows = np.flatnonzero(own)
    n_aside = min(max(round(share * len(rows)), _MIN_ASIDE), len(rows) // 2) if share > 0 else 0
    if n_aside < MIN_CELLS:
        n_aside = 0
    aside = np.zeros(len(own), dtype=bool)
    aside[np.random.default_rng(seed).permutation(rows)[:n_aside]] = True
    return aside


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
    under = [_rows_of(obs[holdout.condition_key], name) for name in (holdout.source, holdout.target)]
    # The categories' order rather than that of the rows, which must not matter.
    others = [name for name in in_order(obs[holdout.group_key]) if name != holdout.group]
    rows = {name: _rows_of(obs[holdout.group_key], name) for name in others}
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


def check_n_hvg(n_hvg: int | None, adata: AnnData) -> None:
    """Check that so many genes can be chosen."""
    if n_hvg is None:
        return
    check_integer("n_hvg", n_hvg, 2)
    if n_hvg > adata.n_vars:
        msg = f"Expected `n_hvg` of at most the number of genes ({adata.n_vars}), found {n_hvg}."
        raise ValueError(msg)


def check_columns(adata: AnnData, group_key: str, condition_key: str) -> None:
    """Check that both columns are there and complete."""
    check_column(adata, "group_key", group_key)
    check_column(adata, "condition_key", condition_key)


def check_two_conditions(control: Hashable, target: Hashable) -> None:
    """Raise a ValueError if the condition to predict from is the one to predict."""
    if control == target:
        msg = f"Expected two conditions, found {control!r} as `control` and as `target`."
        raise ValueError(msg)


def rows_under(
    obs: pd.DataFrame, group_key: str, group: Hashable, condition_key: str, condition: Hashable
) -> np.ndarray:
    """Boolean mask of a group's cells under a condition; raise a ValueError if there are none."""
    rows = _rows_of(obs[group_key], group) & _rows_of(obs[condition_key], condition)
    if not rows.any():
        which = f"{group_key} {group!r} and {condition_key} {condition!r}"
        msg = f"Expected cells of the group under the condition, found none with {which}."
        raise ValueError(msg)
    return rows


def _rows_of(column: pd.Series, value: Hashable) -> np.ndarray:
    # isin rather than ==: a missing value is then False whatever the column's type.
    return column.isin([value]).to_numpy()


def in_order(column: pd.Series) -> list[Hashable]:
    """Values that occur, in the order of the categories."""
    return list(column.astype("category").cat.remove_unused_categories().cat.categories)


def only_values(cells: AnnData, layer: str | None) -> AnnData:
    """Copy a layer (`None`: `X`) into the `X` of an object of its own, with `obs` and the gene names."""
    values = in_memory(get_values(cells, layer))
    copied = values.copy() if sparse.issparse(values) else np.array(values)
    return AnnData(X=copied, obs=cells.obs.copy(), var=cells.var[[]].copy())


def highly_variable(training: AnnData, n_hvg: int, counts: bool) -> np.ndarray:
    """Positions of the most variable genes of cells with their values in `X`, in their order."""
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
