"""Cells on disk: writing, opening and reading an annbatch collection."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from annbatch import DatasetCollection
from anndata import AnnData
from pandas.api.types import union_categoricals

from trvae_scvi._compat import collection_attributes
from trvae_scvi._math._summaries import ValueSummary

from ._columns import MIN_CELLS_TO_LEARN, check_column, check_condition, check_covariates
from ._values import summarize_values

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "backed",
    "build_collection",
    "check_conditions",
    "open_collection",
    "place_in",
    "read_categorical",
    "read_numbers",
    "read_var_names",
    "value_summary",
]

#: An opened file, a part of a collection or a matrix in one of them: of h5py, which has no types, or of zarr, whose
#: types leave open what a group holds.
Group: TypeAlias = Any

_MARK = "trvae_scvi"
_BLOCK_BYTES = 1 << 28  # of values in memory while a collection is written; annbatch holds about three times that
_SHUFFLED_TOGETHER = 500  # cells of a file that stay in the same part of a large collection


def open_collection(path: str) -> DatasetCollection:
    """Open an annbatch collection; a FileNotFoundError or FileExistsError says what is there instead."""
    if not Path(path).exists():
        msg = f"There is no collection at {path!r}. Pass the `paths` of the files to make it of."
        raise FileNotFoundError(msg)
    collection = _find(path)
    if collection is None:
        msg = f"{path!r} is no annbatch collection, or was not finished. Remove it, or name another folder."
        raise FileExistsError(msg)
    return collection


def _find(path: str) -> DatasetCollection | None:
    """The collection at a path, if there is one that was finished."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        collection = DatasetCollection(zarr.open_group(path, mode="r"))
        return None if collection.is_empty else collection
    return None


def build_collection(
    path: str, files: Sequence[str], arguments: dict[str, Any], *, rebuild: bool, shuffle: bool, seed: int
) -> None:
    """Write the cells of some files to a new collection, with the wanted layer as its ``X``.

    Parameters
    ----------
    path
        Folder of the collection.
    files
        h5ad files or zarr stores.
    arguments
        Names of columns and layer, as :func:`~trvae_scvi.data._registry.setup_arguments` gives them.
    rebuild
        Whether to replace a collection that is there.
    shuffle, seed
        Whether to write the cells in random order, and which.

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
        parts, summary = _checked_parts(sources, place, arguments)
        key = arguments["condition_key"]
        check_conditions(pd.Categorical(np.concatenate([part.obs[key].astype(object) for part in parts.values()])), key)
        n_bytes = sum(_size(source[place]) for source in sources.values())
        cells_in_memory = int(_BLOCK_BYTES * sum(part.n_obs for part in parts.values()) / n_bytes)
        mark: dict[str, Any] = {_MARK: {"layer": arguments["layer"], "values": list(summary)}}
        # annbatch's own mark, without which nothing is taken for a collection, comes last
        DatasetCollection(zarr.open_group(path, mode="w", attributes=mark)).add_adatas(
            files,
            load_adata=parts.__getitem__,
            dataset_size=max(_SHUFFLED_TOGETHER, cells_in_memory),
            shuffle_chunk_size=_SHUFFLED_TOGETHER,
            shuffle=shuffle,
            rng=np.random.default_rng(seed),
        )


def check_conditions(condition: pd.Categorical, key: str) -> None:
    """The checks of a set-up, on no more cells than they need."""
    few = np.repeat(condition.categories, np.minimum(np.bincount(condition.codes), MIN_CELLS_TO_LEARN))
    obs = pd.DataFrame({key: few}, index=[str(i) for i in range(len(few))])
    check_condition(AnnData(obs=obs), key, new_data=True)


def _check_target(path: str, *, rebuild: bool) -> None:
    exists = Path(path).exists()
    if exists and _find(path) is None:
        msg = f"{path!r} is there and no annbatch collection, so it is not replaced. Name another folder."
        raise FileExistsError(msg)
    if exists and not rebuild:
        msg = f"There is a collection at {path!r}. Leave out `paths` to use it, or replace it with rebuild=True."
        raise FileExistsError(msg)


def _open_file(file: str, stack: contextlib.ExitStack) -> Group:
    if Path(file).is_file():
        return stack.enter_context(h5py.File(file, "r"))
    return zarr.open_group(file, mode="r")


def _element(layer: str | None) -> str:
    return "X" if layer is None else f"layers/{layer}"


def _checked_parts(
    sources: dict[str, Group], place: str, arguments: dict[str, Any]
) -> tuple[dict[str, AnnData], ValueSummary]:
    """What annbatch is to write of every file, its values still on disk, and what is known of all values."""
    var_names, parts, summaries = _common_genes(sources), {}, []
    for file, source in sources.items():
        try:
            values = _find_values(source, place)
            part = AnnData(values, anndata.io.read_elem(source["obs"]), pd.DataFrame(index=var_names))
            check_column(part, "condition_key", arguments["condition_key"])
            check_covariates(part, arguments, new_data=False)  # a category may be in another file
            summary = summarize_values(backed(source[place]))  # faster than by Dask
            summary.check_finite(repr(place))
        except (KeyError, TypeError, ValueError) as error:
            error.add_note(f"The file is {file!r}.")
            raise
        parts[file] = part
        summaries.append(summary)
    return parts, ValueSummary.joined(summaries)


def _find_values(source: Group, place: str) -> Any:
    if place not in source:
        msg = f"{place!r} not found; the layers are {list(source.get('layers', ()))}."
        raise KeyError(msg)
    if source[place].attrs.get("encoding-type") == "csc_matrix":
        msg = f"{place!r} is sparse by gene, of which cells cannot be read a few at a time. Write it with `.tocsr()`."
        raise ValueError(msg)
    return anndata.experimental.read_elem_lazy(source[place])


def backed(element: Group) -> Any:
    """A matrix of which cells can be read a few at a time."""
    return element if isinstance(element, h5py.Dataset | zarr.Array) else anndata.io.sparse_dataset(element)


def _size(element: Group) -> int:
    """Bytes of a matrix in memory."""
    arrays = [element] if isinstance(element, h5py.Dataset | zarr.Array) else [element[name] for name in element]
    return sum(array.nbytes for array in arrays)


def _common_genes(sources: dict[str, Group]) -> pd.Index:
    names = {file: read_var_names(source) for file, source in sources.items()}
    first = next(iter(names))
    for file, own in names.items():
        if not own.equals(names[first]):
            differing = own.symmetric_difference(names[first])
            what = f"{len(differing)} differ, e.g. {list(differing[:3])}" if len(differing) else "their order differs"
            msg = f"Expected the same genes in the same order in all files, but of {first!r} and {file!r} {what}."
            raise ValueError(msg)
    return names[first]


def read_var_names(group: Group) -> pd.Index:
    """Names of the variables, as texts."""
    return pd.Index(anndata.io.read_elem(group["var"]).index.astype(str))


def place_in(collection: DatasetCollection, layer: str | None) -> str:
    """Where the parts of a collection hold a layer; a KeyError says which one they hold instead."""
    held = _mark(collection).get("layer")
    if layer == held:
        return "X"
    place = _element(layer)
    if layer is None or place not in next(iter(collection)):
        msg = f"The collection was made of {_element(held)!r} and has no {place!r}. Make another one, or pass `layer`."
        raise KeyError(msg)
    return place


def _mark(collection: DatasetCollection) -> dict[str, Any]:
    return collection_attributes(collection).get(_MARK, {})


def value_summary(collection: DatasetCollection) -> ValueSummary | None:
    """What is known of the values since the collection was written; nothing if another program did that."""
    values = _mark(collection).get("values")
    return None if values is None else ValueSummary(*values)


def _column_parts(groups: Sequence[Group], key: str) -> list[Any]:
    """A column of every part; annbatch's own reading takes the names of all cells, too, and no notice of what lacks."""
    for group in groups:
        if key not in group["obs"]:
            columns = list(group["obs"].attrs["column-order"])
            msg = f"{key!r} not found in the `obs` of the collection; its columns are {columns}."
            raise KeyError(msg)
    return [anndata.io.read_elem(group["obs"][key]) for group in groups]


def read_categorical(groups: Sequence[Group], key: str) -> pd.Categorical:
    """A column of all parts with the categories that occur, sorted; raises for missing ones."""
    parts = [pd.Categorical(part) for part in _column_parts(groups, key)]
    column = union_categoricals(parts, sort_categories=True).remove_unused_categories()
    missing = int((column.codes < 0).sum())
    if missing:
        msg = f"{key!r} is missing for {missing} of {len(column)} cells. Fill it in or remove these cells."
        raise ValueError(msg)
    return column


def read_numbers(groups: Sequence[Group], key: str) -> np.ndarray:
    """A column of all parts as numbers; raises for anything else, and for missing or infinite ones."""
    parts = [np.asarray(part) for part in _column_parts(groups, key)]
    if any(part.dtype.kind not in "iuf" for part in parts):
        msg = f"Expected numbers in {key!r} of the collection, found {[str(part.dtype) for part in parts]}."
        raise TypeError(msg)
    numbers = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(numbers).all():
        msg = f"{key!r} holds missing or infinite values."
        raise ValueError(msg)
    return numbers
