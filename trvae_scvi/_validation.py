"""Checks of the user's data. They raise before anything is written or trained; none changes its input."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "ValueSummary",
    "check_anndata",
    "check_boolean",
    "check_choice",
    "check_column",
    "check_condition",
    "check_counts",
    "check_covariates",
    "check_finite",
    "check_integer",
    "check_known_conditions",
    "check_known_covariate",
    "check_not_condition",
    "check_not_view",
    "check_number",
    "check_query_conditions",
    "check_same_kind",
    "check_summary",
    "check_values",
    "check_var_names",
    "get_values",
    "plain_list",
    "summarize_tensor",
    "summarize_values",
]

_ROWS = 4096
_MIN_CELLS = 3


class ValueSummary(NamedTuple):
    """What the checks need to know of an expression matrix."""

    finite: bool
    minimum: float
    integer: bool
    n_empty_rows: int
    maximum: float


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        msg = f"Expected `{name}` to be one of {plain_list(choices)}, found {value!r}."
        raise ValueError(msg)


def plain_list(values: Iterable[object]) -> list[object]:
    """Values for a message, as Python's own types."""
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def check_anndata(adata: object) -> None:
    """Raise a TypeError unless `adata` is an AnnData, a ValueError if it has no cells or no genes."""
    if not isinstance(adata, AnnData):
        mend = " Pass one of its modalities, e.g. `mdata['rna']`." if hasattr(adata, "mod") else ""
        msg = f"Expected `adata` to be an AnnData, found {type(adata).__name__}.{mend}"
        raise TypeError(msg)
    if 0 in adata.shape:
        msg = f"Expected at least one cell and one gene, found {adata.n_obs} cells and {adata.n_vars} genes."
        raise ValueError(msg)


def check_boolean(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is ``True`` or ``False``."""
    if not isinstance(value, bool | np.bool_):
        msg = f"Expected `{name}` to be True or False, found {value!r}."
        raise TypeError(msg)


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raise a TypeError unless `value` is an integer, a ValueError if it is below `minimum`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        msg = f"Expected `{name}` to be an integer, found {value!r}."
        raise TypeError(msg)
    if value < minimum:
        msg = f"Expected `{name}` of at least {minimum}, found {value}."
        raise ValueError(msg)


def check_number(name: str, value: object, *, positive: bool = False, below: float = np.inf) -> None:
    """Raise a TypeError unless `value` is a real number, a ValueError unless 0 <= (or <) value < below."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"Expected `{name}` to be a number, found {value!r}."
        raise TypeError(msg)
    if not (0.0 <= float(value) < below) or (positive and value == 0):
        low = "above 0" if positive else "of at least 0"
        msg = f"Expected `{name}` {low} and below {below}, found {value}."
        raise ValueError(msg)


def check_finite(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is a real number, a ValueError if it is NaN or infinite."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"Expected `{name}` to be a number, found {value!r}."
        raise TypeError(msg)
    if not np.isfinite(float(value)):
        msg = f"Expected `{name}` to be finite, found {value}."
        raise ValueError(msg)


def check_not_view(adata: AnnData) -> None:
    """Raise a ValueError for a view: registering it would copy it behind the user's back."""
    if adata.is_view:
        msg = "`adata` is a view of another AnnData. Make it an object of its own first: `adata = adata.copy()`."
        raise ValueError(msg)


def get_values(adata: AnnData, layer: str | None) -> Any:
    """``adata.X`` or a layer; a KeyError names the layers there are."""
    if layer is None:
        if adata.X is None:
            msg = "`adata.X` is empty. Put the counts there, or name the layer that holds them with `layer=`."
            raise ValueError(msg)
        return adata.X
    if layer not in adata.layers:
        present = [name for name in adata.layers if name is not None]  # anndata 0.13 lists X as None
        msg = f"Layer {layer!r} not found in `adata.layers`; there are {present}."
        raise KeyError(msg)
    return adata.layers[layer]


def _chunks(x: Any) -> Iterator[np.ndarray | sparse.spmatrix]:
    for start in range(0, x.shape[0], _ROWS):
        chunk = x[start : start + _ROWS]
        yield chunk if sparse.issparse(chunk) else np.asarray(chunk)


def summarize_values(x: Any) -> ValueSummary:
    """Pass once through a dense, sparse or backed matrix, a few thousand rows at a time."""
    finite, integer, minimum, n_empty, maximum = True, True, np.inf, 0, -np.inf
    if sparse.issparse(x) and x.format != "csr":
        x = x.tocsr()
    for chunk in _chunks(x):
        values = np.asarray(chunk.data if sparse.issparse(chunk) else chunk)
        row_sums = np.asarray(abs(chunk).sum(axis=1)).ravel()
        n_empty += int((row_sums == 0).sum())
        if values.size == 0:
            minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
            continue
        finite = finite and bool(np.isfinite(row_sums).all())
        integer = integer and finite and bool((values % 1 == 0).all())
        zeros = [0.0] if values.size < chunk.shape[0] * chunk.shape[1] else []
        minimum = min(minimum, float(values.min()), *zeros)
        maximum = max(maximum, float(values.max()), *zeros)
    return ValueSummary(finite, minimum, integer, n_empty, maximum)


def summarize_tensor(x: torch.Tensor) -> ValueSummary:
    """As :func:`summarize_values`, for a dense minibatch on any device."""
    if x.numel() == 0:
        return ValueSummary(True, 0.0, True, len(x), 0.0)
    totals = x.abs().sum(dim=1)
    # in one piece, as every number that leaves the device waits for all before it
    finite, minimum, integer, n_empty, maximum = torch.stack(
        [torch.isfinite(totals).all(), x.min(), (x == x.round()).all(), (totals == 0).sum(), x.max()]
    ).tolist()
    return ValueSummary(bool(finite), minimum, bool(finite and integer), int(n_empty), maximum)


def check_counts(summary: ValueSummary, where: str, gene_likelihood: str) -> None:
    """Raise a ValueError unless the values are counts with which every cell has a library size."""
    _check_finite(summary, where)
    if summary.minimum < 0 or not summary.integer:
        kind = "negative" if summary.minimum < 0 else "fractional"
        msg = (
            f"gene_likelihood={gene_likelihood!r} expects raw counts (non-negative integers), found {kind} values in "
            f"{where}. Register the counts, e.g. `setup_anndata(adata, layer='counts')`, or use "
            "gene_likelihood='mse' for log-normalised or scaled data."
        )
        raise ValueError(msg)
    if summary.n_empty_rows:
        msg = (
            f"{summary.n_empty_rows} cells have no counts at all in {where}, so their library size is 0. "
            "Remove them first: `sc.pp.filter_cells(adata, min_counts=1)` does so for counts in `X`, "
            "`adata[np.asarray(adata.layers[layer].sum(axis=1)).ravel() > 0].copy()` for counts in a layer."
        )
        raise ValueError(msg)


def check_summary(summary: ValueSummary, where: str, gene_likelihood: str) -> None:
    """Raise a ValueError unless the values are what a likelihood models.

    That is finite values for ``"mse"``, values from 0 to 1 for ``"bernoulli"``, else counts.
    """
    if gene_likelihood in ("mse", "bernoulli"):
        _check_finite(summary, where)
        if gene_likelihood == "bernoulli" and (summary.minimum < 0 or summary.maximum > 1):
            msg = (
                f"gene_likelihood='bernoulli' expects values from 0 to 1, found {summary.minimum:g} to "
                f"{summary.maximum:g} in {where}. Divide by the largest value possible, e.g. pixels by 255."
            )
            raise ValueError(msg)
    else:
        check_counts(summary, where, gene_likelihood)


def check_column(adata: AnnData, argument: str, key: str) -> pd.Series:
    """Give a column of `obs`, after checking that it is there and complete."""
    if not isinstance(key, str):
        msg = f"Expected `{argument}` to name a column of `adata.obs`, found {key!r}."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = f"`{argument}={key!r}` not found in `adata.obs`; its columns are {list(adata.obs.columns)}."
        raise KeyError(msg)
    column = adata.obs[key]
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
    kinds = {type(value).__name__ for value in column.unique()}
    if len(kinds) > 1:
        msg = f"`adata.obs[{key!r}]` mixes {sorted(kinds)}. Give it one type: `adata.obs[{key!r}].astype(str)`."
        raise ValueError(msg)
    if not new_data:
        return column
    counts = column.value_counts()
    if (counts > 0).sum() < 2:
        msg = (
            f"`adata.obs[{key!r}]` holds one condition only ({counts.index[0]!r}); a transfer between conditions needs "
            "at least two. For one condition use scvi.model.SCVI."
        )
        raise ValueError(msg)
    few = counts[counts < _MIN_CELLS]
    if len(few):
        msg = (
            f"Expected at least {_MIN_CELLS} cells of every condition in `adata.obs[{key!r}]`, found "
            f"{ {str(name): int(n) for name, n in few.items()} }. Remove these cells or merge the condition with "
            "another; for conditions without any cell: "
            f"`adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories()`."
        )
        raise ValueError(msg)
    return column


def check_known_conditions(column: pd.Series, known: np.ndarray) -> None:
    """Raise a ValueError naming the conditions the model was not trained on."""
    unknown = plain_list(sorted(set(column.unique()) - set(known), key=str))
    if unknown:
        msg = (
            f"`adata.obs[{column.name!r}]` holds conditions the model does not know: {unknown}. "
            f"It was trained on {plain_list(known)}. Leave these cells out, or map them with `TRVAE.load_query_data`."
        )
        raise ValueError(msg)


def check_known_covariate(column: pd.Series, known: np.ndarray) -> None:
    """Raise a ValueError naming the categories of a covariate the model was not trained on."""
    unknown = plain_list(sorted(set(column.unique()) - set(known), key=str))
    if unknown:
        msg = (
            f"`adata.obs[{column.name!r}]` holds categories the model does not know: {unknown}. It was trained on "
            f"{plain_list(known)}. Map these cells with `TRVAE.load_query_data`, or give the column a known category."
        )
        raise ValueError(msg)


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
        if isinstance(value, bool | np.bool_):
            return "booleans"
        if isinstance(value, Integral):
            return "whole numbers"
        return "numbers" if isinstance(value, Real) else "texts" if isinstance(value, str) else type(value).__name__

    return sorted({kind(value) for value in values})


def check_query_conditions(column: pd.Series, known: np.ndarray) -> None:
    """Raise a ValueError if a condition that is to be learned has too few cells."""
    counts = column.value_counts()
    few = {str(name): int(n) for name, n in counts.items() if name not in set(known) and 0 < n < _MIN_CELLS}
    if few:
        msg = (
            f"Expected at least {_MIN_CELLS} cells of every new condition in `adata.obs[{column.name!r}]`, found "
            f"{few}. Remove these cells or merge the condition with another."
        )
        raise ValueError(msg)


def check_covariates(
    adata: AnnData,
    *,
    labels_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: Sequence[str] | None,
    continuous_covariate_keys: Sequence[str] | None,
) -> None:
    """Check every registered column but the condition's: there, complete and, where numeric, finite."""
    if labels_key is not None:
        check_column(adata, "labels_key", labels_key)
    for argument, keys in (
        ("categorical_covariate_keys", categorical_covariate_keys),
        ("continuous_covariate_keys", continuous_covariate_keys),
    ):
        if isinstance(keys, str):
            msg = f"Expected `{argument}` to be a list of columns, found the text {keys!r}. Write [{keys!r}]."
            raise TypeError(msg)
    for key in categorical_covariate_keys or ():
        check_column(adata, "categorical_covariate_keys", key)
    for key in continuous_covariate_keys or ():
        _numbers(check_column(adata, "continuous_covariate_keys", key))
    if size_factor_key is not None:
        numbers = _numbers(check_column(adata, "size_factor_key", size_factor_key))
        if (numbers <= 0).any():
            msg = f"Expected positive size factors, found {numbers.min()} in `adata.obs[{size_factor_key!r}]`."
            raise ValueError(msg)


def check_not_condition(condition_key: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if a set-up's arguments register the column of conditions as something else, too."""
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


def _numbers(column: pd.Series) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        msg = f"Expected numbers in `adata.obs[{column.name!r}]`, found dtype {column.dtype}."
        raise TypeError(msg)
    numbers = column.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        msg = f"`adata.obs[{column.name!r}]` holds infinite values."
        raise ValueError(msg)
    return numbers


def check_values(x: Any, where: str) -> None:
    """Raise a ValueError for NaN or infinite values."""
    _check_finite(summarize_values(x), where)


def _check_finite(summary: ValueSummary, where: str) -> None:
    if not summary.finite:
        msg = f"{where} holds NaN or infinite values. Remove or replace them first."
        raise ValueError(msg)


def check_var_names(var_names: pd.Index, expected: np.ndarray | None = None) -> None:
    """Check the genes: unique and, where a model expects some, these in this order.

    Raises
    ------
    ValueError
        Says which genes are missing or extra, or that only the order differs, and how to mend it.
    """
    if not var_names.is_unique:
        examples = list(dict.fromkeys(var_names[var_names.duplicated()]))[:3]
        msg = f"`adata.var_names` are not unique, e.g. {examples}. Run `adata.var_names_make_unique()` first."
        raise ValueError(msg)
    if expected is None or np.array_equal(var_names.astype(str), np.asarray(expected).astype(str)):
        return
    missing = pd.Index(expected).difference(var_names, sort=False)
    extra = var_names.difference(pd.Index(expected), sort=False)
    if len(missing):
        what = f"{len(missing)} of {len(expected)} genes are missing, e.g. {list(missing[:3])}"
        mend = "Provide them (zeros are a claim that they were measured and absent)"
    else:
        what = f"there are {len(extra)} further genes, e.g. {list(extra[:3])}" if len(extra) else "their order differs"
        mend = "Select and order them: `adata = adata[:, model.get_var_names()].copy()`"
    msg = f"Expected the {len(expected)} genes the model was trained on, in that order; {what}. {mend}."
    raise ValueError(msg)
