"""Checks of expression values: where they are, how they are stored, and whether a likelihood models them."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from trvae_scvi._math._likelihoods import NotCountsError
from trvae_scvi._math._summaries import ValueSummary, are_whole

from ._designs import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from trvae_scvi._math._likelihoods import Likelihood

__all__ = [
    "NotCountsError",
    "check_storage",
    "check_summary",
    "get_values",
    "place_of",
    "read_once",
    "row_chunks",
    "summarize_values",
    "warn_of_counts_elsewhere",
]

_ROWS = 4096
_SEEN: ContextVar[dict[int, tuple[Any, ValueSummary]] | None] = ContextVar("seen", default=None)


def place_of(layer: str | None) -> str:
    """Where values are, for a message."""
    return "`adata.X`" if layer is None else f"`adata.layers[{layer!r}]`"


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


def check_storage(x: Any, where: str) -> None:
    """Raise a TypeError for what training cannot read: a Dask array of sparse chunks, a masked array."""
    if isinstance(x, np.ma.MaskedArray):
        msg = f"{where} is a masked array. Fill in what is masked: `.filled(0)` if nothing was seen there."
        raise TypeError(msg)
    if hasattr(x, "compute") and sparse.issparse(getattr(x, "_meta", None)):
        msg = (
            f"{where} is a Dask array of sparse chunks, of which no cell can be read alone. Load it first: "
            "`adata = adata.to_memory()`. To train on what does not fit in memory there is `TRVAE.setup_annbatch`."
        )
        raise TypeError(msg)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Inside the block no matrix is passed through twice, however many checks ask for its summary."""
    token = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(token)


def row_chunks(x: Any) -> Iterator[np.ndarray | sparse.spmatrix]:
    """A dense, sparse or backed matrix, or a Dask array, in memory a few thousand rows at a time."""
    for start in range(0, x.shape[0], _ROWS):
        chunk = x[start : start + _ROWS]
        if hasattr(chunk, "compute"):
            chunk = chunk.compute()
        yield chunk if sparse.issparse(chunk) else np.asarray(chunk)


def summarize_values(x: Any) -> ValueSummary:
    """Pass once through a matrix, as far as :func:`read_once` has not seen it."""
    seen = _SEEN.get()
    if seen is None:
        return _summary_of(x)
    if id(x) not in seen:
        seen[id(x)] = x, _summary_of(x)  # with the matrix, as another one could be given its place
    return seen[id(x)][1]


def _summary_of(x: Any) -> ValueSummary:
    finite, integer, minimum, n_empty, maximum = True, True, np.inf, 0, -np.inf
    if sparse.issparse(x) and x.format != "csr":
        x = x.tocsr()
    for chunk in row_chunks(x):
        values = np.asarray(chunk.data if sparse.issparse(chunk) else chunk)
        filled = chunk.astype(bool)  # a sparse zero that is stored is none, too
        n_empty += int((np.asarray(filled.sum(axis=1)).ravel() == 0).sum())
        if values.dtype.kind == "f":
            finite = finite and bool(np.isfinite(values).all())
            integer = integer and finite and are_whole(values)
        extremes = [float(values.min()), float(values.max())] if values.size else []
        if values.size < chunk.shape[0] * chunk.shape[1]:
            extremes.append(0.0)
        minimum, maximum = min([minimum, *extremes]), max([maximum, *extremes])
    return ValueSummary(finite, minimum, integer, n_empty, maximum)


def check_summary(
    summary: ValueSummary, where: str, likelihood: Likelihood, adata: AnnData | None = None, layer: str | None = None
) -> None:
    """Raise a ValueError unless the values are what a likelihood models.

    If `adata`, whose `layer` the values are, is given, the message points to counts that lie elsewhere.
    """
    try:
        likelihood.check(summary, where)
    except NotCountsError as error:
        layers, in_raw = ((), False) if adata is None else _counts_elsewhere(adata, layer)
        if not layers and not in_raw:
            raise
        raise NotCountsError(error.problem, _directions(layers, in_raw), layers, in_raw=in_raw) from None


def _counts_elsewhere(adata: AnnData, layer: str | None) -> tuple[tuple[str | None, ...], bool]:
    """Layers that begin with cells of counts (``None`` for `X`), and whether `raw` does."""
    places = {name: adata.layers[name] for name in adata.layers if name not in (None, layer)}
    if layer is not None and adata.X is not None:
        places = {None: adata.X, **places}
    layers = tuple(name for name, values in places.items() if _begins_with_counts(values))
    return layers, adata.raw is not None and _begins_with_counts(adata.raw.X)


def _begins_with_counts(values: Any) -> bool:
    summary = summarize_values(values[: min(_ROWS, values.shape[0])])
    return summary.are_counts and summary.maximum > 1


def _directions(layers: tuple[str | None, ...], in_raw: bool) -> str:
    parts = [
        f"{place_of(name)} holds whole numbers: register it with `setup_anndata(adata, layer={name!r})`."
        for name in layers[:3]
    ]
    if in_raw:
        parts.append("`adata.raw` holds whole numbers: take them with `adata = adata.raw.to_adata()`.")
    return " ".join(parts)


def warn_of_counts_elsewhere(adata: AnnData, layer: str | None, summary: ValueSummary) -> None:
    """Warn where values are no counts and another place of `adata` has some."""
    directions = "" if summary.are_counts else _directions(*_counts_elsewhere(adata, layer))
    if directions:
        warn(
            f"{place_of(layer)} holds no counts, which the default likelihood needs. {directions} "
            "With gene_likelihood='mse' the values may stay as they are."
        )
