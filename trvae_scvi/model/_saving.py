"""Folders of saved models: complete or not there, in plain values that any version reads, with a note of versions."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import read_elem
from packaging.version import Version

from trvae_scvi._compat import DOWNLOAD_LOGGER
from trvae_scvi.data._designs import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trvae_scvi.data._model import Model

__all__ = ["complete_folder", "history_from_plain", "open_saved", "warn_of_newer"]

_PACKAGES = ("trvae-scvi", "scvi-tools", "torch", "anndata", "pandas", "numpy")
_FILE = "versions.json"
_PLAIN = "trvae_scvi_history"


@contextlib.contextmanager
def complete_folder(
    model: Model,
    dir_path: str | os.PathLike[str],
    prefix: str,
    *,
    overwrite: bool,
    save_anndata: bool,
) -> Iterator[str]:
    """Give a folder to save a model in, whose files get their place at the end, all or none.

    Parameters
    ----------
    model
        The model, whose history is plain values inside the block.
    dir_path, prefix, overwrite, save_anndata
        As :meth:`~trvae_scvi.TRVAE.save` has them.

    Yields
    ------
    The folder's name.
    """
    target = Path(dir_path).resolve()  # which has a name and a parent, also if it was given as "."
    if Path(prefix).name != prefix:
        msg = f"Expected `prefix` to begin the names of files, found {prefix!r}."
        raise ValueError(msg)
    if target.exists() and not target.is_dir():
        msg = f"{os.fspath(dir_path)!r} is a file. Name a folder."
        raise ValueError(msg)
    if target.exists() and not overwrite:
        msg = f"{os.fspath(dir_path)!r} already exists. Name another folder, or replace it with overwrite=True."
        raise ValueError(msg)
    if not save_anndata:
        _check_cells_beside(target / f"{prefix}adata.h5ad", model)
    target.parent.mkdir(parents=True, exist_ok=True)
    history = model.history_
    place = target if target.exists() else target.parent  # a disk renames only within itself
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{target.name}.") as parent:
        unfinished = Path(parent) / "model"
        model.history_ = _history_to_plain(history)
        try:
            yield os.fspath(unfinished)
        finally:
            model.history_ = history
        # beside the model, where they can be read when it cannot
        (unfinished / f"{prefix}{_FILE}").write_text(json.dumps(_versions(), indent=2) + "\n", encoding="utf-8")
        if not target.exists():
            unfinished.rename(target)
            return
        for file in unfinished.iterdir():
            os.replace(file, target / file.name)


def _check_cells_beside(file: Path, model: Model) -> None:
    """Raise for cells in the folder that would be taken for those of the model."""
    if not file.exists():
        return
    with h5py.File(file, "r") as saved:
        names = read_elem(saved["obs"]).index
    own = model.adata
    same = len(names) == model.summary_stats["n_cells"] if own is None else names.equals(own.obs_names)
    if not same:
        msg = (
            f"{os.fspath(file)!r} holds other cells than the model's, and `load` would take them for its own. Save "
            "the model's with save_anndata=True, remove the file, or name another folder."
        )
        raise ValueError(msg)


@contextlib.contextmanager
def open_saved(dir_path: str | os.PathLike[str], load_kwargs: dict[str, Any]) -> Iterator[None]:
    """Load a model from a folder inside the block; raises for a folder that holds none, or whose file is damaged.

    Parameters
    ----------
    dir_path
        The folder.
    load_kwargs
        Arguments of upstream's method, of which `prefix` and `backup_url` count.
    """
    folder, prefix = Path(dir_path), load_kwargs.get("prefix") or ""
    if (folder / "attr.pkl").exists() and (folder / "model_params.pt").exists():
        msg = (
            f"{os.fspath(dir_path)!r} was saved by scArches or an early scvi-tools. Read trVAE models of scArches "
            "with `TRVAE.from_scarches(path, adata)`."
        )
        raise ValueError(msg)
    file = folder / f"{prefix}model.pt"
    if not file.exists() and load_kwargs.get("backup_url") is None:
        msg = f"Expected a folder that `save` wrote, with a file {file.name!r}, found none in {os.fspath(dir_path)!r}."
        raise FileNotFoundError(msg)
    try:
        with _without_download_log() if load_kwargs.get("backup_url") is None else contextlib.nullcontext():
            yield
    except Exception:  # whatever the reason, is it the file?
        try:
            torch.load(file, map_location="cpu", weights_only=False)
        except Exception as unreadable:  # a pickle can raise nearly all there are
            msg = (
                f"{os.fspath(file)!r} could not be opened: {_differing_versions(folder, prefix)}. It is damaged, or "
                f"needs those versions. ({type(unreadable).__name__}: {unreadable})"
            )
            raise ValueError(msg) from unreadable
        raise


@contextlib.contextmanager
def _without_download_log() -> Iterator[None]:
    """Nothing was to be downloaded, so that nothing is to be said about it."""
    logger = logging.getLogger(DOWNLOAD_LOGGER)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def warn_of_newer(made_with: str) -> None:
    """Warn of a model that a newer version of the package made."""
    installed = version("trvae-scvi")
    if Version(made_with).release > Version(installed).release:
        warn(f"The model was made with trvae-scvi {made_with}, newer than the installed {installed}.")


def _history_to_plain(history: Any) -> Any:
    """A history of training as arrays: a table of pandas 3 cannot be unpickled by pandas 2."""
    if not isinstance(history, dict) or not all(isinstance(table, pd.DataFrame) for table in history.values()):
        return history
    plain = {
        name: {
            "index": table.index.to_numpy(),
            "index_name": None if table.index.name is None else str(table.index.name),
            "columns": {str(column): np.asarray(table[column]) for column in table.columns},
        }
        for name, table in history.items()
    }
    return {_PLAIN: plain}


def history_from_plain(saved: Any) -> Any:
    """The tables again; what was saved otherwise stays as it is."""
    if not isinstance(saved, dict) or _PLAIN not in saved:
        return saved
    return {
        name: pd.DataFrame(parts["columns"], index=pd.Index(parts["index"], name=parts["index_name"]))
        for name, parts in saved[_PLAIN].items()
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a build of torch under another name
            continue
    return found


def _differing_versions(folder: Path, prefix: str) -> str:
    """What of the noted versions differs from those installed, for a message."""
    try:
        noted = json.loads((folder / f"{prefix}{_FILE}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "which versions wrote it is not noted"
    here = _versions()
    differing = [f"{name} {noted[name]} (here {here.get(name)})" for name in noted if noted[name] != here.get(name)]
    return f"it was written with {', '.join(differing) or 'the versions that are here'}"
