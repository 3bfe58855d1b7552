"""What a prediction is described by: the columns of its cells, and how it was made. Knows tables, no model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from trvae_scvi.data._schema import Schema

__all__ = ["check_writable", "fingerprint", "free_source_key", "predicted_obs", "target_measured"]


def free_source_key(schema: Schema, columns: Iterable[Any], earlier: str | None) -> str:
    """Name of the column with the condition a cell was measured under: none that is the caller's own.

    Parameters
    ----------
    schema
        Column of the conditions, and the others that the model needs.
    columns
        Columns of the caller's cells.
    earlier
        What an earlier prediction of these cells named it; replaced, as its conditions are no longer the latest.
    """
    taken = set(columns) - ({earlier} - set(schema.columns))
    name, number = f"{schema.condition_key}_source", 1
    while name in taken:
        number += 1
        name = f"{schema.condition_key}_source_{number}"
    return name


def predicted_obs(
    own: Mapping[Any, pd.DataFrame], schema: Schema, source_key: str, covariates: Mapping[str, Any]
) -> pd.DataFrame:
    """Columns of predicted cells, target by target.

    Parameters
    ----------
    own
        Columns of the cells for every target.
    schema
        Column that gets the target, and the conditions and categories of covariates that the model knows, in order.
    source_key
        Column that gets the condition the cells were measured under.
    covariates
        Values of covariates that were asked for.
    """
    first, condition_key, known = next(iter(own.values())), schema.condition_key, schema.covariates
    dtype = _dtype_with(first[condition_key].dtype, schema.conditions, list(own))
    dtypes = {name: _dtype_with(first[name].dtype, known.get(name, ()), [v]) for name, v in covariates.items()}
    parts = []
    for target, cells in own.items():
        part = cells.drop(columns=[condition_key, source_key], errors="ignore")
        part.insert(0, condition_key, _constant(target, cells.index, dtype))
        part.insert(1, source_key, cells[condition_key])
        for column, value in covariates.items():
            part[column] = _constant(value, cells.index, dtypes[column])
        # AnnData writes no table whose index has the name of a column
        name = None if cells.index.name in part.columns else cells.index.name
        part.index = (cells.index.astype(str) + f"-{target}").rename(name)
        parts.append(part)
    table = pd.concat(parts)
    for column in (condition_key, source_key):
        values = table[column]
        is_ordered = getattr(values.dtype, "ordered", False)
        # as many categories as there are; an order is a statement about all
        if not is_ordered and not pd.api.types.is_numeric_dtype(values):
            table[column] = _used_categories(values, first[condition_key].dtype)
    return table


def _used_categories(values: pd.Series, dtype: Any) -> pd.Categorical:
    """A column with the categories that it has cells of, of the kind that the caller's categories are."""
    # pandas 3 leaves numbers and booleans as objects, which no file takes
    found = pd.Categorical(values.astype(object).infer_objects())
    kind = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else None
    if kind is None or not pd.api.types.is_numeric_dtype(kind):
        return found
    kind = _holding(kind, list(found.categories))
    return found if kind is None else found.rename_categories(found.categories.astype(kind))


def _dtype_with(dtype: Any, known: Iterable[Any], values: list[Any]) -> Any:
    """The dtype of a column in which these values have a place, too; ``None`` for what pandas makes of them.

    Parameters
    ----------
    dtype
        That of the caller's column.
    known
        The categories that the model knows, in order; a view has lost those that it has no cell of.
    values
        What is to be held.
    """
    if not isinstance(dtype, pd.CategoricalDtype):
        return _holding(dtype, values) if pd.api.types.is_numeric_dtype(dtype) else object
    names = list(dtype.categories)
    if [name for name in known if name in set(names)] == names:
        names = list(known)
    if set(values) <= set(names):
        return pd.CategoricalDtype(names, ordered=dtype.ordered)
    return None if dtype.ordered else pd.CategoricalDtype([*names, *(v for v in values if v not in names)])


def _holding(dtype: Any, values: Sequence[Any]) -> Any:
    """The dtype, if it can hold these numbers; else what pandas makes of them."""
    try:
        kept = pd.Series(values).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    return dtype if list(kept) == list(values) else None


def _constant(value: Any, index: pd.Index, dtype: Any) -> pd.Series:
    return pd.Series([value] * len(index), index=index, dtype=dtype)


def check_writable(obs: pd.DataFrame) -> None:
    """Raise a TypeError for columns whose names are no texts, a ValueError for names that are twice.

    No file of AnnData takes either.
    """
    twice = sorted({str(column) for column in obs.columns[obs.columns.duplicated()]})
    if twice:
        msg = f"Expected every column of `adata.obs` once, to be written to `out`, found several of {twice}."
        raise ValueError(msg)
    foreign = [column for column in obs.columns if not isinstance(column, str)]
    if foreign:
        msg = (
            f"Expected columns of `adata.obs` with texts as names, to be written to `out`, found {foreign}. Rename "
            "them: `adata.obs.columns = adata.obs.columns.astype(str)`."
        )
        raise TypeError(msg)


def target_measured(obs: pd.DataFrame, schema: Schema, target: Any, table: np.ndarray | None) -> str:
    """Whether cells of these labels were measured under a target when the model was trained.

    Parameters
    ----------
    obs
        Columns of the cells.
    schema
        Column of their labels, and the labels and conditions that the model knows, in order.
    target
        The target.
    table
        Labels x conditions, whether there were training cells; ``None`` if that is not known.

    Returns
    -------
    ``"yes"``, ``"no"``, ``"some"`` (of the labels) or ``"unknown"``.
    """
    conditions, key = list(schema.conditions), schema.labels_key
    if target not in conditions:
        return "no"
    if table is None or key is None or key not in obs or obs[key].isna().any():
        return "unknown"
    known = dict(zip(schema.labels, table[:, conditions.index(target)], strict=True))
    answers = {bool(known.get(label, False)) for label in obs[key].unique()}
    return "some" if len(answers) > 1 else "yes" if answers == {True} else "no"


def fingerprint(state: Mapping[str, torch.Tensor], *names: Iterable[Any]) -> str:
    """A text that differs between models with different weights, or names of genes and conditions."""
    digest = hashlib.blake2b(digest_size=8)
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(state[key].detach().cpu().numpy()).tobytes())
    for values in names:
        digest.update("\0".join(map(str, values)).encode())
    return digest.hexdigest()
