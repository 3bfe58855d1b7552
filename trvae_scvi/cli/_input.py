"""The user's cells: read, selected and held out, by the names that the command line gives as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._terminal import UserError, described

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

__all__ = ["HoldOut", "read_cells", "same_value", "select_cells"]


class HoldOut(NamedTuple):
    """Which cells are left out of training, and where the columns are."""

    condition_key: str
    cell_type_key: str
    group: str
    target: str

    def mask(self, adata: AnnData) -> pd.Series:
        """True for the cells left out."""
        of_group = adata.obs[self.cell_type_key].astype(str) == self.group
        return of_group & (adata.obs[self.condition_key].astype(str) == self.target)

    def target_value(self, adata: AnnData) -> Any:
        """The target as the data have it: a number, perhaps, where the command line has text."""
        return same_value(adata.obs[self.condition_key].unique(), self.target)


def read_cells(path: Path, *, use_raw: bool = False, layer: str | None = None) -> AnnData:
    """Cells of an h5ad file or a zarr folder, with the values and genes of ``raw`` if asked for."""
    import anndata

    if use_raw and layer is not None:
        msg = "--use-raw and --layer exclude each other: raw has no layers."
        raise UserError(msg)
    kind, read = (".zarr folder", anndata.read_zarr) if path.is_dir() else (".h5ad file", anndata.read_h5ad)
    try:
        adata = read(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise nearly all there are
        msg = f"{path} cannot be read as {kind}: {described(error)}"
        raise UserError(msg) from error
    if not use_raw:
        return adata
    if adata.raw is None:
        msg = f"{path} has no raw values. Leave out --use-raw."
        raise UserError(msg)
    return adata.raw.to_adata()


def same_value(values: Iterable[Any], text: str | None) -> Any:
    """The one of `values` that is written as `text`; the text itself if there is none."""
    return next((value for value in values if str(value) == text), text)


def select_cells(adata: AnnData, key: str, value: str) -> AnnData:
    """Cells whose `key` is `value`; a clear message if there are none."""
    if key not in adata.obs:
        msg = f"Column {key!r} not found in obs; there are {list(adata.obs.columns)}."
        raise UserError(msg)
    found = adata.obs[key].astype(str)
    if not (found == value).any():
        msg = f"No cell has {key} {value!r}; there are {sorted(found.unique())}."
        raise UserError(msg)
    return adata[(found == value).to_numpy()]
