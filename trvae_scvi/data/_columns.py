"""Checks of an AnnData and the columns of its `obs`. They raise before anything is written or trained."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from trvae_scvi._arguments import plain_list

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

__all__ = [
    "MIN_CELLS_TO_LEARN",
    "categorical_columns",
    "check_anndata",
    "check_column",
    "check_condition",
    "check_covariates",
    "check_keys",
    "check_known",
    "check_not_condition",
    "check_not_view",
    "check_query_conditions",
    "check_same_kind",
    "check_single",
]

MIN_CELLS_TO_LEARN = 3  # of a condition

_KINDS = ((bool | np.bool_, "booleans"), (Integral, "whole numbers"), (Real, "numbers"), (str, "texts"))


def categorical_columns(arguments: Mapping[str, Any]) -> list[str]:
    """The columns of categories among a set-up's arguments, each once, that of the conditions first."""
    keys = (arguments["condition_key"], arguments["labels_key"], *(arguments["categorical_covariate_keys"] or ()))
    return list(dict.fromkeys(key for key in keys if key is not None))


def check_anndata(adata: object) -> None:
    """Raise a TypeError unless `adata` is an AnnData, a ValueError if it has no cells or no genes."""
    if not isinstance(adata, AnnData):
        mend = " Pass one of its modalities, e.g. `mdata['rna']`." if hasattr(adata, "mod") else ""
        msg = f"Expected `adata` to be an AnnData, found {type(adata).__name__}.{mend}"
        raise TypeError(msg)
    if 0 in adata.shape:
        msg = f"Expected at least one cell and one gene, found {adata.n_obs} cells and {adata.n_vars} genes."
        raise ValueError(msg)
    if not isinstance(adata.obs, pd.DataFrame):
        msg = "`adata` was opened lazily; its columns are not in memory. Load it: `adata = adata.to_memory()`."
        raise TypeError(msg)


def check_not_view(adata: AnnData) -> None:
    """Raise a ValueError for a view: registering it would copy it behind the user's back."""
    if adata.is_view:
        msg = "`adata` is a view of another AnnData. Make it an object of its own first: `adata = adata.copy()`."
        raise ValueError(msg)


def check_keys(argument: str, keys: object) -> list[str] | None:
    """Names of columns as a list, whatever sequence they came in; raises for a text, and for a name that is twice."""
    if keys is None:
        return None
    if isinstance(keys, str) or not hasattr(keys, "__iter__"):
        found = f"the text {keys!r}. Write [{keys!r}]" if isinstance(keys, str) else repr(keys)
        msg = f"Expected `{argument}` to be a list of columns, found {found}."
        raise TypeError(msg)
    names = list(keys)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        msg = f"`{argument}` names {twice} more than once. Name every column once."
        raise ValueError(msg)
    return names


def check_single(adata: AnnData, key: str) -> pd.Series:
    """Give a column of `obs` that is there; raises a ValueError if there are several of the name."""
    column = adata.obs[key]
    if isinstance(column, pd.DataFrame):
        msg = f"`adata.obs` has {column.shape[1]} columns {key!r}. Rename or remove all but one."
        raise ValueError(msg)
    return column


def check_column(adata: AnnData, argument: str, key: object) -> pd.Series:
    """Give a column of `obs`, after checking that it is there and complete."""
    if not isinstance(key, str):
        msg = f"Expected `{argument}` to name a column of `adata.obs`, found {key!r}."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = f"`{argument}={key!r}` not found in `adata.obs`; its columns are {list(adata.obs.columns)}."
        raise KeyError(msg)
    column = check_single(adata, key)
    if column.isna().any():
        msg = (
            f"`adata.obs[{key!r}]` is missing for {int(column.isna().sum())} of {len(column)} cells. "
            "Fill it in or remove these cells."
        )
        raise ValueError(msg)
    return column


def check_condition(adata: AnnData, key: str, *, new_data: bool) -> pd.Series:
    """Check the condition column.

    Parameters
    ----------
    adata, key
        Where to find it.
    new_data
        Whether the data are for training, which needs two conditions of at least three cells.

    Returns
    -------
    The column.
    """
    column = check_column(adata, "condition_key", key)
    blank = column.astype(str).str.strip() == ""
    if blank.any():
        msg = f"`adata.obs[{key!r}]` is an empty text for {int(blank.sum())} of {len(column)} cells. Name it."
        raise ValueError(msg)
    _check_one_kind(column)
    if not new_data:
        return column
    counts = column.value_counts()
    if (counts > 0).sum() < 2:
        msg = (
            f"`adata.obs[{key!r}]` holds one condition only ({counts.index[0]!r}); a transfer between conditions needs "
            "at least two. For one condition use scvi.model.SCVI."
        )
        raise ValueError(msg)
    mend = f"`adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories()`"
    _check_numbers_of_cells(counts, key, "condition", f"; for conditions without any cell: {mend}")
    return column


def _check_one_kind(column: pd.Series) -> None:
    """Raise a ValueError if a column holds values of several types, which have no order."""
    kinds = {type(value).__name__ for value in column.unique()}
    if len(kinds) > 1:
        key = column.name
        msg = f"`adata.obs[{key!r}]` mixes {sorted(kinds)}. Give it one type: `adata.obs[{key!r}].astype(str)`."
        raise ValueError(msg)


def check_known(what: Literal["conditions", "covariate", "labels"], column: pd.Series, known: np.ndarray) -> None:
    """Raise a ValueError naming the values of a column that the model was not made with."""
    unknown = plain_list(sorted(set(column.unique()) - set(known), key=str))
    if unknown:
        holds, knows, mend = _KNOWN[what]
        msg = f"`adata.obs[{column.name!r}]` holds {holds}: {unknown}{knows} {plain_list(known)}{mend}"
        raise ValueError(msg)


_KNOWN = {
    "conditions": (
        "conditions the model does not know",
        ". It was trained on",
        ". Leave these cells out, or map them with `TRVAE.load_query_data`.",
    ),
    "covariate": (
        "categories the model does not know",
        ". It was trained on",
        ". Map these cells with `TRVAE.load_query_data`, or give the column a known category.",
    ),
    "labels": (
        "labels that the model was not made with",
        "; it knows",
        ". Its methods take such cells as `adata`; only as its own data they need known labels.",
    ),
}


def check_same_kind(column: pd.Series, known: np.ndarray) -> None:
    """Raise a TypeError if a column's values are of another kind (texts, numbers, booleans) than known categories."""
    kinds = [_kinds(values) for values in (column.unique(), known)]
    if kinds[0] != kinds[1]:
        msg = (
            f"Expected `adata.obs[{column.name!r}]` to hold {' and '.join(kinds[1])} as in the reference, e.g. "
            f"{plain_list(known[:3])}, found {' and '.join(kinds[0])}, e.g. {plain_list(column.unique()[:3])}. Convert "
            "it, for example with `.astype(str)`."
        )
        raise TypeError(msg)


def _kinds(values: Iterable[object]) -> list[str]:
    def kind(value: object) -> str:
        return next((kind for types, kind in _KINDS if isinstance(value, types)), type(value).__name__)

    return sorted({kind(value) for value in values})


def check_query_conditions(column: pd.Series, known: np.ndarray) -> None:
    """Raise a ValueError if a condition that is to be learned has too few cells."""
    counts = column.value_counts()
    new = counts[(counts > 0) & ~counts.index.isin(known)]
    _check_numbers_of_cells(new, column.name, "new condition")


def _check_numbers_of_cells(counts: pd.Series, key: Hashable, what: str, mend: str = "") -> None:
    few = {str(name): int(n) for name, n in counts.items() if n < MIN_CELLS_TO_LEARN}
    if few:
        msg = (
            f"Expected at least {MIN_CELLS_TO_LEARN} cells of every {what} in `adata.obs[{key!r}]`, found {few}. "
            f"Remove these cells or merge the condition with another{mend}."
        )
        raise ValueError(msg)


def check_covariates(adata: AnnData, arguments: Mapping[str, Any], *, new_data: bool) -> None:
    """Check every column of a set-up but the condition's: there, complete and, where numeric, finite.

    Of data to train on (`new_data`), every category of a covariate must have a cell.
    """
    labels_key, size_factor_key = arguments["labels_key"], arguments["size_factor_key"]
    if labels_key is not None:
        _check_one_kind(check_column(adata, "labels_key", labels_key))
    for key in arguments["categorical_covariate_keys"] or ():
        column = check_column(adata, "categorical_covariate_keys", key)
        if new_data:
            _check_used(column)
    for key in arguments["continuous_covariate_keys"] or ():
        _numbers(check_column(adata, "continuous_covariate_keys", key))
    if size_factor_key is not None:
        numbers = _numbers(check_column(adata, "size_factor_key", size_factor_key))
        if (numbers <= 0).any():
            msg = f"Expected positive size factors, found {numbers.min()} in `adata.obs[{size_factor_key!r}]`."
            raise ValueError(msg)


def check_not_condition(arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if a set-up's arguments register the column of conditions as something else, too."""
    condition_key = arguments["condition_key"]
    if arguments["labels_key"] == condition_key:
        msg = (
            f"`labels_key={condition_key!r}` is the column of conditions. No label would have cells of two conditions, "
            "and the MMD nothing to match: name a column with cell types, or leave `labels_key` out."
        )
        raise ValueError(msg)
    for argument in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if condition_key in list(arguments[argument] or ()):
            msg = (
                f"`{argument}` holds {condition_key!r}, the column of conditions. A prediction under another condition "
                "would keep it as a covariate: leave it out."
            )
            raise ValueError(msg)


def _check_used(column: pd.Series) -> None:
    """Raise a ValueError for categories without a cell, whose parameters would stay as random as they begin."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return
    unused = plain_list(column.cat.categories.difference(column.cat.remove_unused_categories().cat.categories))
    if unused:
        msg = (
            f"`adata.obs[{column.name!r}]` has categories without any cell, of which nothing can be learned: {unused}. "
            f"Remove them: `adata.obs[{column.name!r}] = adata.obs[{column.name!r}].cat.remove_unused_categories()`."
        )
        raise ValueError(msg)


def _numbers(column: pd.Series) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        msg = f"Expected numbers in `adata.obs[{column.name!r}]`, found dtype {column.dtype}."
        raise TypeError(msg)
    numbers = column.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        msg = f"`adata.obs[{column.name!r}]` holds infinite values."
        raise ValueError(msg)
    return numbers
