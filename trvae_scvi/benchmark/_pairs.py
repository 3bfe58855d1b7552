"""Which groups can be held out under which conditions, and why others cannot."""

from __future__ import annotations

import logging
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from anndata import AnnData

from ._holdout import MIN_CELLS, check_columns, in_order

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import pandas as pd

__all__ = ["Pairs", "hold_out_pairs", "some_pairs"]

logger = logging.getLogger(__name__)

_SHOWN = 5


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
    # whether complete or not: no group is made of missing values
    check_columns(AnnData(obs=adata.obs.iloc[:0]), group_key, condition_key)
    groups = _asked("groups", groups, adata.obs[group_key])
    known = _asked("control", [control], adata.obs[condition_key])
    if targets is None:
        targets = [name for name in in_order(adata.obs[condition_key]) if name not in known]
    targets = _asked("targets", targets, adata.obs[condition_key])
    if control in targets:
        msg = f"Expected targets other than the control, found {control!r} among {targets}."
        raise ValueError(msg)
    n_cells = adata.obs.groupby([group_key, condition_key], observed=True).size().to_dict()
    known, found = in_order(adata.obs[group_key]), Pairs([], [])
    for group, target in product(groups, targets):
        reason = _reason_to_skip(n_cells, group, [name for name in known if name != group], control, target)
        if reason is None:
            found.pairs.append((group, target))
        else:
            found.skipped.append({"group": group, "target": target, "reason": reason})
    return found


def some_pairs(adata: AnnData, **arguments: Any) -> Pairs:
    """As :func:`hold_out_pairs`, of complete columns: warn of what is skipped, raise a ValueError if that is all."""
    check_columns(adata, arguments["group_key"], arguments["condition_key"])
    found = hold_out_pairs(adata, **arguments)
    lines = [f"{row['group']} under {row['target']}: {row['reason']}" for row in found.skipped]
    shown = "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
    if not found.pairs:
        msg = f"Expected a group that can be held out, found none ({shown})."
        raise ValueError(msg)
    if lines:
        logger.warning("Skipped %d hold-outs: %s.", len(lines), shown)
    return found


def _asked(name: str, asked: Sequence[Hashable] | None, column: pd.Series) -> list[Hashable]:
    known = in_order(column)
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
