"""What the user names: files with cells, cells by texts, and places to write to, which are checked before any work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ._terminal import UserError, mended, say

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anndata import AnnData

    from trvae_scvi import TRVAE

__all__ = [
    "check_folder",
    "check_new",
    "known_genes",
    "number_of_genes",
    "on_variable_genes",
    "read_cells",
    "rows_of",
    "same_value",
]


def read_cells(path: Path, *, use_raw: bool = False, layer: str | None = None) -> AnnData:
    """Cells of an h5ad file or a zarr folder, with the values and genes of ``raw`` if asked for."""
    import anndata

    if use_raw and layer is not None:
        msg = "--use-raw and --layer exclude each other: raw has no layers."
        raise UserError(msg)
    kind, read = (".zarr folder", anndata.read_zarr) if path.is_dir() else (".h5ad file", anndata.read_h5ad)
    with mended(f"{path} cannot be read as {kind}"):
        adata = read(path)
    if not use_raw:
        return adata
    if adata.raw is None:
        msg = f"{path} has no raw values. Leave out --use-raw."
        raise UserError(msg)
    return adata.raw.to_adata()


def number_of_genes(adata: AnnData, n_hvg: int) -> int | None:
    """How many highly variable genes to choose; ``None`` for all there are."""
    if n_hvg == 1:
        msg = "--n-hvg 1 leaves a single gene. Give 2 or more, or 0 for all."
        raise UserError(msg)
    return n_hvg if 0 < n_hvg < adata.n_vars else None


def on_variable_genes(adata: AnnData, n_hvg: int, layer: str | None, *, counts: bool) -> AnnData:
    """The cells on the most variable genes, without those that have no count of them."""
    from trvae_scvi.benchmark._holdout import highly_variable, only_values

    n_genes = number_of_genes(adata, n_hvg)
    if n_genes is None:
        return adata
    cells = only_values(adata, layer)
    genes = highly_variable(cells, n_genes, counts)
    kept = np.asarray(abs(cells.X[:, genes]).sum(axis=1)).ravel() > 0 if counts else np.ones(cells.n_obs, dtype=bool)
    if not kept.all():
        say(f"Left out {(~kept).sum()} cells without a count of the {n_genes} most variable genes.")
    return adata[kept, genes].copy()


def known_genes(adata: AnnData, model: TRVAE) -> AnnData:
    """The cells on the genes of a model, where they have all of them; what is missing the model tells itself."""
    from trvae_scvi.data._schema import Schema

    names = list(Schema.of(model.registry_).var_names)
    return adata[:, names] if set(names) <= set(adata.var_names) else adata


def same_value(values: Iterable[Any], text: str | None) -> Any:
    """The one of `values` that is written as `text`; the text itself if there is none."""
    return next((value for value in values if str(value) == text), text)


def rows_of(adata: AnnData, *texts: tuple[str, str | None]) -> np.ndarray:
    """Mask of the cells whose columns hold the texts (any: ``None``), in pairs; a clear message if there are none."""
    rows = np.ones(adata.n_obs, dtype=bool)
    for key, text in texts:
        if key not in adata.obs:
            msg = f"Column {key!r} not found in obs; there are {list(adata.obs.columns)}."
            raise UserError(msg)
        if text is None:
            continue
        found = adata.obs[key].astype(str)
        matching = rows & (found == text).to_numpy()
        if not matching.any():
            msg = f"No cell has {key} {text!r}; there are {sorted(found[rows].unique())}."
            raise UserError(msg)
        rows = matching
    return rows


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to, or can be made."""
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not present.is_dir():
        msg = f"{present} is a file and no folder. Name another place with --out."
        raise UserError(msg)
    if not os.access(present, os.W_OK):
        msg = f"There is no permission to write to the folder {present}. Name another place with --out."
        raise UserError(msg)


def check_new(path: Path, kind: str, suffixes: tuple[str, ...] = (), *, option: str = "--out") -> None:
    """Check that nothing has this name yet, that it can be made, and its suffix."""
    if suffixes and path.suffix not in suffixes:
        msg = f"{option} {path} ends in none of {', '.join(suffixes)}. Name the {kind} so."
        raise UserError(msg)
    if path.exists() or path.is_symlink():
        msg = f"{path} is there already. Name another {kind} with {option}."
        raise UserError(msg)
    check_folder(path.parent)
