"""Designs that mislead: what a set-up can see of them, said once, before anything is trained on them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi import settings

from trvae_scvi._math._mmd import MIN_CELLS
from trvae_scvi._math._two_way import connected

from ._columns import categorical_columns
from ._sampler import TRAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._schema import Schema

__all__ = ["warn", "warn_of_columns", "warn_of_few_cells", "warn_of_similar_names"]

_SHOWN = 5
_MISSING = ("nan", "none", "na", "n/a", "null", "<na>")


def warn(message: str) -> None:
    """A UserWarning."""
    warnings.warn(message, UserWarning, stacklevel=settings.warnings_stacklevel)


def warn_of_columns(obs: pd.DataFrame, arguments: Mapping[str, Any]) -> None:
    """Warn of what misleads in the columns of categories among a set-up's arguments."""
    condition_key, *others = categorical_columns(arguments)
    for key in (condition_key, *others):
        warn_of_similar_names(key, obs[key].unique())
    for key in others:
        _warn_of_nesting(obs, condition_key, key)


def warn_of_similar_names(key: str, values: Iterable[object]) -> None:
    """Warn of categories of a column that differ only by blanks or case, or that read as if they were missing."""
    names = {str(value) for value in values}
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    same = [group for group in alike.values() if len(group) > 1]
    if same:
        warn(
            f"`adata.obs[{key!r}]` holds names that differ only by blanks or upper and lower case: "
            f"{same[:_SHOWN]}. Each counts as a category of its own; give them one name if they are the same."
        )
    missing = [name for name in sorted(names) if name.strip().casefold() in _MISSING]
    if missing:
        warn(
            f"`adata.obs[{key!r}]` holds the texts {missing}, which count as the name of a category. If the "
            "value is missing for these cells, remove them or fill it in."
        )


def _warn_of_nesting(obs: pd.DataFrame, condition_key: str, key: str) -> None:
    """Warn of a column whose effects no cell tells apart from those of the conditions.

    In a model where both add up, the difference of two conditions is identified only if a chain of categories that were
    measured under several conditions connects them.
    """
    (codes, names), (condition_codes, conditions) = _codes(obs[key]), _codes(obs[condition_key])
    table = np.zeros((len(names), len(conditions)), dtype=bool)
    table[codes, condition_codes] = True
    measured = table.any(axis=0)
    if measured.sum() < 2 or (connected(table.T)[0][measured] == 0).all():
        return
    alone = np.flatnonzero(table.sum(axis=1) == 1)[:_SHOWN]
    shown = {str(names[i]): str(conditions[int(np.argmax(table[i]))]) for i in alone}
    warn(
        f"No category of `adata.obs[{key!r}]` connects some of the conditions in `adata.obs[{condition_key!r}]`, "
        f"e.g. {shown}: what the one does cannot be told from what the other does. Measure categories under "
        "several conditions, or leave the column out and read a predicted change as that of both together."
    )


def _codes(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a column's values, and what they stand for."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), column.cat.categories.to_numpy()
    codes, values = pd.factorize(column)
    return codes, np.asarray(values)


def warn_of_few_cells(counts: np.ndarray, schema: Schema, *, by_label: bool) -> None:
    """Warn of conditions, and of labels under a condition, that have too few cells for the MMD to match.

    Parameters
    ----------
    counts
        Numbers of cells, labels x conditions.
    schema
        Has their names.
    by_label
        Whether the MMD is balanced over labels, of which it needs two cells each.
    """
    needed = int(np.ceil(MIN_CELLS / TRAIN_SIZE))
    few = {str(name): int(n) for name, n in zip(schema.conditions, counts.sum(axis=0), strict=True) if 0 < n < needed}
    if few:
        warn(
            f"Conditions with fewer cells than the MMD can match, {needed}: {_shortened(few)}. What is learned of them "
            "rests on these cells alone. Add cells, or merge or leave out these conditions."
        )
    needed = int(np.ceil(2 / TRAIN_SIZE))
    rare = {
        f"{label}, {condition}": int(n)
        for label, row in zip(schema.labels, counts, strict=True)
        for condition, n in zip(schema.conditions, row, strict=True)
        if 0 < n < needed
    }
    if by_label and rare:
        warn(
            f"Labels with fewer than {needed} cells under a condition, too few for the MMD to match: "
            f"{_shortened(rare)}. They count for the likelihood alone. Merge them with another label."
        )


def _shortened(counts: dict[str, int]) -> str:
    shown = dict(list(counts.items())[:_SHOWN])
    return f"{shown} and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else str(shown)
