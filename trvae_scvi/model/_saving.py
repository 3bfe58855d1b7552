"""What a saved model is beside its weights: plain values that any version of pandas reads, and a note of versions."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["differing_versions", "history_from_plain", "history_to_plain", "write_versions"]

_PACKAGES = ("trvae-scvi", "scvi-tools", "torch", "anndata", "pandas", "numpy")
_FILE = "versions.json"
_PLAIN = "trvae_scvi_history"


def history_to_plain(history: Any) -> Any:
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


def write_versions(folder: Path, prefix: str) -> None:
    """Note the versions that save a model, beside it, where they can be read when the model cannot."""
    (folder / f"{prefix}{_FILE}").write_text(json.dumps(_versions(), indent=2) + "\n", encoding="utf-8")


def differing_versions(folder: Path, prefix: str) -> str:
    """What of the noted versions differs from those installed, for a message."""
    try:
        noted = json.loads((folder / f"{prefix}{_FILE}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "which versions wrote it is not noted"
    here = _versions()
    differing = [f"{name} {noted[name]} (here {here.get(name)})" for name in noted if noted[name] != here.get(name)]
    return f"it was written with {', '.join(differing) or 'the versions that are here'}"
