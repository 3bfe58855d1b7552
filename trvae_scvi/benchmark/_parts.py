"""The folder of a run: what it was made with, and every finished piece of it as small tables. Knows no method."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from scipy import sparse

from trvae_scvi._files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

__all__ = ["Part", "PartStore", "data_fingerprint", "describe_method"]

_SETTINGS = "settings.json"
_TEXT_COLUMNS = ["method", "genes", "metric", "note"]  # of scores; all others hold numbers


class Part(NamedTuple):
    """What comes of a piece.

    Attributes
    ----------
    scores
        With the columns of :func:`~trvae_scvi.metrics.score_arrays` and `seconds`; for baselines and ceiling also
        `method` and `effect_p`.
    changes
        Of genes, by a method, see :func:`~._changes.change_table`; ``None`` for baselines and ceiling.
    """

    scores: pd.DataFrame
    changes: pd.DataFrame | None


class PartStore:
    """Finished pieces of a run on disk, each written at once, so that an interrupted run leaves none unfinished.

    Parameters
    ----------
    folder
        Where to keep ``settings.json``, ``parts/`` and ``changes/``; made if need be.
    settings
        What the pieces depend on, JSON values by name. Under ``"methods"`` further names may join in a later run.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings.
    OSError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        for name in ("parts", "changes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        present = folder / _SETTINGS
        kept = json.loads(present.read_text(encoding="utf-8")) if present.exists() else {}
        if kept:
            _check_same(kept, settings, folder)
        methods = {**kept.get("methods", {}), **settings["methods"]}
        write_text(present, json.dumps({**settings, "methods": methods}, indent=2))

    def read(self, *key: Any) -> Part | None:
        """Return what is kept under a key, or `None` if there is nothing."""
        path = self._path(key)
        if not path.exists():
            return None
        # As text first: the reader's own conversion may miss the number written by its last digit.
        scores = pd.read_csv(path, dtype=str)
        scores = scores.astype(dict.fromkeys(scores.columns.difference(_TEXT_COLUMNS), float))
        beside = _changes(path)
        if not beside.exists():
            return Part(scores, None)
        changes = pd.read_csv(beside, dtype=str, index_col=0, keep_default_na=False)
        changes = changes.astype(dict.fromkeys(changes.columns, float)).astype({"responsive": bool})
        return Part(scores, changes)

    def write(self, part: Part, *key: Any) -> None:
        """Keep something under a key."""
        path = self._path(key)
        # first: what is there with its scores is complete
        if part.changes is not None:
            changes = part.changes.astype({"responsive": int})
            write_text(_changes(path), changes.to_csv(index_label="gene"))
        write_text(path, part.scores.to_csv(index=False))

    def _path(self, key: tuple[Any, ...]) -> Path:
        # Names can hold characters that a file name cannot, and differ only in those: hence the hash.
        readable = re.sub(r"[^\w.-]+", "-", "_".join(map(str, key)), flags=re.ASCII)[:80]
        return self.folder / "parts" / f"{readable}_{joblib.hash([str(part) for part in key])[:12]}.csv"


def _changes(path: Path) -> Path:
    """Where the changes are that go with some scores."""
    return path.parent.parent / "changes" / path.name


def data_fingerprint(adata: AnnData, *keys: str) -> dict[str, Any]:
    """Describe data such that other data are told from them, without keeping any.

    Parameters
    ----------
    adata
        Cells with the values in `X`.
    *keys
        Columns of `obs` that count.

    Returns
    -------
    Shape, and hashes of the values, of the names of cells and genes and of the columns.
    """
    texts = {"obs_names": adata.obs_names, "var_names": adata.var_names, **{f"obs[{k!r}]": adata.obs[k] for k in keys}}
    values = sparse.csr_matrix(adata.X, dtype=np.float64, copy=True)  # however they are stored
    values.sort_indices()
    parts = (values.data, values.indices.astype(np.int64), values.indptr.astype(np.int64))
    described = {"shape": list(adata.shape), "values": joblib.hash(parts)}
    return described | {name: joblib.hash("\n".join(column.astype(str))) for name, column in texts.items()}


def describe_method(method: object) -> str:
    """Give a method's `repr` without the addresses in memory, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(method))


def _check_same(kept: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> None:
    before, now = _as_texts(kept), _as_texts(settings)
    # further methods may join, but nothing else
    missing = {name: "nothing" for name in now if not name.startswith("method ")} | before
    differences = [
        f"{name} {missing[name]} there and {value} now"
        for name, value in now.items()
        if missing.get(name, value) != value
    ]
    if differences:
        msg = f"Expected the folder {folder} to be of this run, found {'; '.join(differences)}. Name another folder."
        raise ValueError(msg)


def _as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting and every method as a text."""
    plain = json.loads(json.dumps(settings))  # NumPy's texts and tuples are what a file makes of them
    texts = {name: repr(value) for name, value in plain.items() if name != "methods"}
    return texts | {f"method {name!r}": method for name, method in settings.get("methods", {}).items()}
