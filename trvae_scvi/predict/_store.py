"""Where a prediction goes as it is made: memory, or a file that holds it at last and never half of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

__all__ = ["DiskStore", "MemoryStore", "check_out"]

_SUFFIXES = (".h5ad", ".zarr")
_BUFFER = 2**24  # bytes written at once
_CHUNK = 2**16  # numbers in a chunk on disk
_MAX_INT32 = np.iinfo(np.int32).max


def check_out(out: str | os.PathLike[str]) -> Path:
    """Check where a prediction is to be written.

    Raises
    ------
    TypeError
        If `out` is no path.
    ValueError
        If it ends in neither ``.h5ad`` nor ``.zarr``.
    FileNotFoundError
        If its folder is missing.
    FileExistsError
        If there is something already, be it the unfinished file of a run that was killed.
    """
    if not isinstance(out, str | os.PathLike):
        msg = f"Expected `out` to be a path, found {out!r}."
        raise TypeError(msg)
    path = Path(out)
    if path.suffix not in _SUFFIXES:
        msg = f"Expected `out` to end in one of {list(_SUFFIXES)}, found {str(out)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder of `out`, {str(path.parent)!r}, does not exist. Make it first."
        raise FileNotFoundError(msg)
    for present in (path, _unfinished(path)):
        if present.exists() or present.is_symlink():
            msg = f"{str(present)!r} is there already and is not written over. Remove it, or choose another `out`."
            raise FileExistsError(msg)
    return path


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


class MemoryStore:
    """Holds the blocks of a prediction, target by target, in memory."""

    def __init__(self, layer: str | None) -> None:
        self._layer = layer
        self._blocks: dict[Any, list[np.ndarray | sparse.csr_matrix]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.clear()

    def append(self, target: Any, block: np.ndarray | sparse.csr_matrix) -> None:
        """Take the next cells of a target."""
        self._blocks.setdefault(target, []).append(block)

    def finish(self, annotation: AnnData) -> AnnData:
        """The prediction: its annotation, with the values."""
        x = _stacked([block for blocks in self._blocks.values() for block in blocks])
        annotation.X = x
        if self._layer is not None:
            annotation.layers[self._layer] = x.copy()
        return annotation


class DiskStore:
    """Writes the blocks of a prediction, which must come in the order of its rows, to an h5ad file or a zarr folder.

    They go to a name of their own beside the target, which is given at the end and removed on an error.

    Parameters
    ----------
    path
        Where the prediction is to be, as :func:`check_out` gave it.
    layer
        Layer that gets the same values as ``X``.
    annotation
        What the prediction will be described by, as far as is known; whether it can be written shows at once.
    max_entries
        As many numbers as the prediction has at most; ``None`` if unknown.
    """

    def __init__(self, path: Path, layer: str | None, annotation: AnnData, max_entries: int | None) -> None:
        self._path = path
        self._layer = layer
        self._annotation = annotation
        # SciPy wants one type for both index arrays
        narrow = max_entries is not None and max_entries <= _MAX_INT32
        self._index_type = np.int32 if narrow else np.int64
        self._buffer: list[np.ndarray | sparse.csr_matrix] = []
        self._file: Any = None

    def __enter__(self) -> Self:
        unfinished = _unfinished(self._path)
        try:
            if self._path.suffix == ".h5ad":
                self._annotation.write_h5ad(unfinished)
                self._file = h5py.File(unfinished, "r+")
            else:
                self._annotation.write_zarr(unfinished)
                self._file = zarr.open_group(unfinished, mode="r+", use_consolidated=False)
            for name in ("obs", "uns"):  # written anew at the end
                del self._file[name]
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._discard()

    def append(self, target: Any, block: np.ndarray | sparse.csr_matrix) -> None:
        """Take the next cells."""
        self._buffer.append(block)
        if sum(_n_bytes(waiting) for waiting in self._buffer) >= _BUFFER:
            self._flush()

    def finish(self, annotation: AnnData) -> AnnData:
        """Write the rest and the annotation, give the file its name and open it."""
        self._flush()
        annotation.strings_to_categoricals()
        write_elem(self._file, "obs", annotation.obs)
        write_elem(self._file, "uns", dict(annotation.uns))
        if isinstance(self._file, zarr.Group):
            zarr.consolidate_metadata(self._file.store)
        self._close()
        os.replace(_unfinished(self._path), self._path)
        return _opened(self._path)

    def _flush(self) -> None:
        if not self._buffer:
            return
        block = _stacked(self._buffer)
        self._buffer = []
        if not isinstance(block, np.ndarray):
            block.indices, block.indptr = (part.astype(self._index_type) for part in (block.indices, block.indptr))
        _write(self._file, "X", block)
        if self._layer is not None:
            _write(self._file["layers"], self._layer, block)

    def _close(self) -> None:
        if isinstance(self._file, h5py.File):
            self._file.close()
        self._file = None

    def _discard(self) -> None:
        self._close()
        unfinished = _unfinished(self._path)
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)


def _stacked(blocks: list[np.ndarray | sparse.csr_matrix]) -> np.ndarray | sparse.csr_matrix:
    return sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def _n_bytes(block: np.ndarray | sparse.csr_matrix) -> int:
    return block.nbytes if isinstance(block, np.ndarray) else block.data.nbytes + block.indices.nbytes


def _write(group: Any, name: str, block: np.ndarray | sparse.csr_matrix) -> None:
    """Append rows to a matrix in a file, or begin it with them."""
    if sparse.issparse(block):
        if name in group:
            sparse_dataset(group[name]).append(block)
        else:
            write_elem(group, name, block, dataset_kwargs={"chunks": (_CHUNK,)})
        return
    n_columns = block.shape[1]
    if name in group:
        start = group[name].shape[0]
        group[name].resize((start + len(block), n_columns))
        group[name][start:] = block
    else:
        growing = {"maxshape": (None, n_columns)} if isinstance(group, h5py.Group) else {}
        chunks = (max(1, _CHUNK // n_columns), n_columns)
        write_elem(group, name, block, dataset_kwargs={"chunks": chunks, **growing})


def _opened(path: Path) -> AnnData:
    """A prediction on disk, whose values stay there."""
    if path.suffix == ".h5ad":
        file = h5py.File(path, "r")
        backing: dict[str, Any] = {"filename": path, "filemode": "r"}  # `read_h5ad` would load the layers
    else:
        file = zarr.open_group(path, mode="r")
        backing = {"X": _lazy(file["X"])}
    layers = {name: _lazy(file["layers"][name]) for name in file["layers"]}
    tables = {name: read_elem(file[name]) for name in ("obs", "var", "uns")}
    return AnnData(**tables, layers=layers, **backing)


def _lazy(matrix: Any) -> Any:
    return sparse_dataset(matrix) if isinstance(matrix, h5py.Group | zarr.Group) else matrix
