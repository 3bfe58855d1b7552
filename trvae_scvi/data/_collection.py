"""Cells on disk: writing, opening and reading an annbatch collection."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from annbatch import DatasetCollection
from anndata import AnnData
from pandas.api.types import union_categoricals

from ._columns import check_column, check_covariates
from ._sampler import current_seed
from ._values import ValueSummary, check_finite_values, summarize_values

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "backed",
    "build_collection",
    "named_columns",
    "open_collection",
    "place_in",
    "read_categorical",
    "read_numbers",
    "read_var_names",
    "value_summary",
]

_MARK = "trvae_scvi"
_BLOCK_BYTES = 1 << 28  # of values in memory while a collection is written; annbatch holds about three times that
_SHUFFLED_TOGETHER = 500  # cells of a file that stay in the same part of a large collection


def open_collection(path: str) -> DatasetCollection:
    """Open an annbatch collection; a FileNotFoundError or FileExistsError says what is there instead."""
    if not Path(path).exists():
        msg = f"There is no collection at {path!r}. Pass the `paths` of the files to make it of."
        raise FileNotFoundError(msg)
    if not _is_collection(path):
        msg = f"{path!r} is no annbatch collection, or was not finished. Remove it, or name another folder."
        raise FileExistsError(msg)
    return DatasetCollection(zarr.open_group(path, mode="r"))


def _is_collection(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return not DatasetCollection(zarr.open_group(path, mode="r")).is_empty
    return False


def build_collection(path: str, files: list[str], arguments: dict[str, Any], *, rebuild: bool, shuffle: bool) -> None:
    """Write the cells of some files to a new collection, with the wanted layer as its ``X``.

    Raises
    ------
    FileExistsError
        If there is something at `path`, unless that is a collection and `rebuild` is set.
    KeyError, TypeError, ValueError
        As :meth:`~trvae_scvi.TRVAE.setup_annbatch`; before anything is written.
    """
    _check_target(path, rebuild=rebuild)
    if not files:
        msg = "Expected the `paths` of at least one file, found none."
        raise ValueError(msg)
    place = _element(arguments["layer"])
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part in the Zarr format 3")
        sources = {file: _open_file(file, stack) for file in files}
        summary = _check_sources(sources, place, arguments)
        parts = {file: _lazy(source, place) for file, source in sources.items()}
        bytes_per_cell = sum(_size(s[place]) for s in sources.values()) / sum(part.n_obs for part in parts.values())
        if Path(path).exists():
            shutil.rmtree(path)
        root = zarr.open_group(path, mode="w")
        DatasetCollection(root).add_adatas(
            files,
            load_adata=parts.__getitem__,
            dataset_size=max(_SHUFFLED_TOGETHER, int(_BLOCK_BYTES / bytes_per_cell)),
            shuffle_chunk_size=_SHUFFLED_TOGETHER,
            shuffle=shuffle,
            rng=np.random.default_rng(current_seed()),
        )
        root.update_attributes({_MARK: {"layer": arguments["layer"], "values": list(summary)}})


def _check_target(path: str, *, rebuild: bool) -> None:
    if not Path(path).exists():
        return
    if not _is_collection(path):
        msg = f"{path!r} is there and no annbatch collection, so it is not replaced. Name another folder."
        raise FileExistsError(msg)
    if not rebuild:
        msg = f"There is a collection at {path!r}. Leave out `paths` to use it, or replace it with rebuild=True."
        raise FileExistsError(msg)


def _check_sources(sources: dict[str, Any], place: str, arguments: dict[str, Any]) -> ValueSummary:
    _check_genes(sources)
    summaries = []
    for file, source in sources.items():
        try:
            summaries.append(_check_source(source, place, arguments))
        except (KeyError, TypeError, ValueError) as error:
            error.add_note(f"The file is {file!r}.")
            raise
    return _joined(summaries)


def _open_file(file: str, stack: contextlib.ExitStack) -> Any:
    if Path(file).is_file():
        return stack.enter_context(h5py.File(file, "r"))
    return zarr.open_group(file, mode="r")


def _element(layer: str | None) -> str:
    return "X" if layer is None else f"layers/{layer}"


def _check_source(source: Any, place: str, arguments: dict[str, Any]) -> ValueSummary:
    if place not in source:
        msg = f"{place!r} not found; the layers are {list(source.get('layers', ()))}."
        raise KeyError(msg)
    if source[place].attrs.get("encoding-type") == "csc_matrix":
        msg = f"{place!r} is sparse by gene, of which cells cannot be read a few at a time. Write it with `.tocsr()`."
        raise ValueError(msg)
    cells = AnnData(obs=anndata.io.read_elem(source["obs"]))
    columns = {argument: key for argument, key in arguments.items() if argument not in ("condition_key", "layer")}
    check_column(cells, "condition_key", arguments["condition_key"])
    check_covariates(cells, **columns, new_data=False)  # a category may be in another file
    summary = summarize_values(backed(source[place]))
    check_finite_values(summary, repr(place))
    return summary


def backed(element: Any) -> Any:
    return element if hasattr(element, "shape") else anndata.io.sparse_dataset(element)


def _size(element: Any) -> int:
    """Bytes of a matrix in memory."""
    arrays = [element] if hasattr(element, "shape") else [element[name] for name in ("data", "indices", "indptr")]
    return sum(array.size * array.dtype.itemsize for array in arrays)


def _check_genes(sources: dict[str, Any]) -> None:
    names = {file: read_var_names(source) for file, source in sources.items()}
    first = next(iter(names))
    for file, own in names.items():
        if not own.equals(names[first]):
            differing = own.symmetric_difference(names[first])
            what = f"{len(differing)} differ, e.g. {list(differing[:3])}" if len(differing) else "their order differs"
            msg = f"Expected the same genes in the same order in all files, but of {first!r} and {file!r} {what}."
            raise ValueError(msg)


def read_var_names(group: Any) -> pd.Index:
    return pd.Index(anndata.io.read_elem(group["var"]).index.astype(str))


def _joined(summaries: list[ValueSummary]) -> ValueSummary:
    finite, minimum, integer, n_empty, maximum = zip(*summaries, strict=True)
    return ValueSummary(all(finite), float(min(minimum)), all(integer), sum(n_empty), float(max(maximum)))


def _lazy(source: Any, place: str) -> AnnData:
    obs = anndata.io.read_elem(source["obs"])
    return AnnData(anndata.experimental.read_elem_lazy(source[place]), obs, pd.DataFrame(index=read_var_names(source)))


def named_columns(arguments: dict[str, Any]) -> list[tuple[str, str]]:
    """Arguments that name columns, and the columns."""
    single = [(name, arguments[name]) for name in ("condition_key", "labels_key") if arguments[name] is not None]
    several = ("categorical_covariate_keys", "continuous_covariate_keys")
    return single + [(name, key) for name in several for key in arguments[name] or ()]


def place_in(collection: DatasetCollection, layer: str | None) -> str:
    held = _mark(collection).get("layer")
    if layer == held:
        return "X"
    place = _element(layer)
    first = next(iter(collection))
    if layer is None or place not in first:
        msg = f"The collection was made of {_element(held)!r} and has no {place!r}. Make another one, or pass `layer`."
        raise KeyError(msg)
    return place


def _mark(collection: DatasetCollection) -> dict[str, Any]:
    return collection._group.attrs.get(_MARK, {})


def value_summary(collection: DatasetCollection) -> ValueSummary | None:
    """What is known of the values since the collection was written; nothing if another program did that."""
    values = _mark(collection).get("values")
    return None if values is None else ValueSummary(*values)


def _column_parts(groups: Sequence[Any], key: str) -> list[Any]:
    for group in groups:
        if key not in group["obs"]:
            columns = list(group["obs"].attrs["column-order"])
            msg = f"{key!r} not found in the `obs` of the collection; its columns are {columns}."
            raise KeyError(msg)
    return [anndata.io.read_elem(group["obs"][key]) for group in groups]


def read_categorical(groups: Sequence[Any], key: str) -> pd.Categorical:
    parts = [pd.Categorical(part) for part in _column_parts(groups, key)]
    column = union_categoricals(parts, sort_categories=True).remove_unused_categories()
    missing = int((column.codes < 0).sum())
    if missing:
        msg = f"{key!r} is missing for {missing} of {len(column)} cells. Fill it in or remove these cells."
        raise ValueError(msg)
    return column


def read_numbers(groups: Sequence[Any], key: str) -> np.ndarray:
    parts = [np.asarray(part) for part in _column_parts(groups, key)]
    if any(part.dtype.kind not in "iuf" for part in parts):
        msg = f"Expected numbers in {key!r} of the collection, found {[str(part.dtype) for part in parts]}."
        raise TypeError(msg)
    numbers = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(numbers).all():
        msg = f"{key!r} holds missing or infinite values."
        raise ValueError(msg)
    return numbers
