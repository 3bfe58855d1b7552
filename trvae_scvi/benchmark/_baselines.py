"""Predictions without a network: what a model has to beat.

Pure functions in the space in which predictions are compared (log-normalised), and a helper that takes the cells from
an AnnData. None of them sees a cell of the group that is held out under the target condition.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from trvae_scvi.metrics import comparison_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

__all__ = ["baseline_predictions", "mean_of_others", "mean_shift", "no_change"]


def no_change(control: np.ndarray) -> np.ndarray:
    """Predict that the condition changes nothing: the control cells themselves.

    Parameters
    ----------
    control
        `k x d` control cells of the held-out group.

    Returns
    -------
    A copy of `control`.
    """
    return np.array(control)


def mean_of_others(targets: Mapping[Hashable, np.ndarray], *, max_cells: int = 400) -> np.ndarray:
    """Predict that the held-out group looks like the other groups under the target condition.

    Parameters
    ----------
    targets
        For each other group its `m_g x d` cells under the target condition.
    max_cells
        The first so many cells of each group are taken, so that a large group does not outweigh the others.

    Returns
    -------
    The cells taken, in the order of the mapping: `sum_g min(m_g, max_cells) x d`.

    Raises
    ------
    ValueError
        If there is no other group or `max_cells` is below 1.
    """
    _check_not_empty(targets)
    if max_cells < 1:
        msg = f"Expected `max_cells` to be at least 1, found {max_cells}."
        raise ValueError(msg)
    # Copied group by group: a slice would keep all cells of each group in memory until the end.
    return np.concatenate([np.array(targets[group][:max_cells]) for group in targets])


def mean_shift(
    control: np.ndarray, controls: Mapping[Hashable, np.ndarray], targets: Mapping[Hashable, np.ndarray]
) -> np.ndarray:
    """Predict the mean change of the other groups, added to every control cell.

    The change is the unweighted mean over the groups of (mean target - mean control): a large group does not outweigh
    the others. The result is clipped at 0, unless the cells given have negative values themselves.

    Parameters
    ----------
    control
        `k x d` control cells of the held-out group.
    controls, targets
        For each other group its cells under control and under the target condition, `n_g x d` and `m_g x d`; the same
        groups in both.

    Returns
    -------
    `k x d` predicted cells, of the floating point type of `control`.

    Raises
    ------
    ValueError
        If there is no other group, or the groups of `controls` and `targets` differ.
    """
    _check_not_empty(targets)
    if set(controls) != set(targets):
        msg = f"Expected the same groups in `controls` and `targets`, found {list(controls)} and {list(targets)}."
        raise ValueError(msg)
    lowest = control.min()
    shifts = []
    for group in targets:
        target, own_control = targets[group], controls[group]
        shifts.append(target.mean(axis=0, dtype=np.float64) - own_control.mean(axis=0, dtype=np.float64))
        lowest = min(lowest, target.min(), own_control.min())
    shifted = control + np.mean(shifts, axis=0).astype(np.result_type(control, np.float32))
    return shifted if lowest < 0 else np.clip(shifted, 0, None)


def baseline_predictions(
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str,
    control: Hashable,
    target: Hashable,
    layer: str | None = None,
    counts: bool = True,
) -> dict[str, np.ndarray]:
    """Predict a group's cells under a target condition with every baseline, from the other groups' change.

    The cells to be predicted (`group` under `target`) are never read, whether they are in `adata` or not.

    Parameters
    ----------
    adata
        Cells of several groups under the control and the target condition. May be a view; not changed.
    group_key, condition_key
        Columns of `adata.obs` with the group (cell type, donor ...) and the condition.
    group
        The group to predict. The others count where they have cells under both conditions.
    control, target
        The two conditions.
    layer
        The layer to read; `None` reads `X`.
    counts
        Whether the values are counts, to be log-normalised. `False` takes them as they are.

    Returns
    -------
    `{"no change", "mean of others", "mean shift"}`, each an array of predicted cells with the genes of `adata`:
    log1p of counts per 10,000, or on the data's own scale with `counts=False`. The first and the third have one row per
    control cell of the group, in its order.

    Raises
    ------
    ValueError
        If a column is missing, `control` and `target` are the same, the group has no control cells, no other group has
        both conditions, or the values are no counts.
    """
    _check_columns(adata, group_key, condition_key)
    if control == target:
        msg = f"Expected two conditions, found {control!r} as `control` and as `target`."
        raise ValueError(msg)
    groups, conditions = adata.obs[group_key], adata.obs[condition_key]
    own = _rows(groups, group, conditions, control)
    if not own.any():
        msg = (
            f"Expected control cells of the group to predict, found none with {group_key} {group!r} and "
            f"{condition_key} {control!r}."
        )
        raise ValueError(msg)
    # The categories' order rather than that of the rows, which must not matter.
    others = [name for name in groups.astype("category").cat.categories if name != group]
    rows = {
        condition: {name: _rows(groups, name, conditions, condition) for name in others}
        for condition in (control, target)
    }
    both = [name for name in others if rows[control][name].any() and rows[target][name].any()]
    if not both:
        msg = (
            f"Expected another group than {group!r} with cells under both {control!r} and {target!r}, "
            f"found none among {others}."
        )
        raise ValueError(msg)
    controls, targets = (
        _Cells(adata, {name: rows[c][name] for name in both}, layer, counts) for c in (control, target)
    )
    own_control = comparison_matrix(adata[own], layer=layer, counts=counts)
    return {
        "no change": no_change(own_control),
        "mean of others": mean_of_others(targets),
        "mean shift": mean_shift(own_control, controls, targets),
    }


class _Cells(Mapping[Hashable, np.ndarray]):
    """The cells of each group in comparison space, read when asked for: only one group is dense at a time."""

    def __init__(self, adata: AnnData, rows: Mapping[Hashable, np.ndarray], layer: str | None, counts: bool) -> None:
        self._adata, self._rows, self._layer, self._counts = adata, rows, layer, counts

    def __getitem__(self, group: Hashable) -> np.ndarray:
        return comparison_matrix(self._adata[self._rows[group]], layer=self._layer, counts=self._counts)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _rows(groups: pd.Series, group: Hashable, conditions: pd.Series, condition: Hashable) -> np.ndarray:
    # isin rather than ==: a missing value is then False whatever the columns' type.
    return groups.isin([group]).to_numpy() & conditions.isin([condition]).to_numpy()


def _check_not_empty(targets: Mapping[Hashable, np.ndarray]) -> None:
    if not targets:
        msg = "Expected at least one other group in `targets`, found none."
        raise ValueError(msg)


def _check_columns(adata: AnnData, *keys: str) -> None:
    for key in keys:
        if key not in adata.obs.columns:
            msg = f"Expected the column {key!r} in `adata.obs`, found {list(adata.obs.columns)}."
            raise ValueError(msg)
