"""Checks of what scvi-tools' methods are asked for, and would answer wrongly or fail at late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import pandas as pd
import zarr
from anndata.abc import CSCDataset, CSRDataset

from trvae_scvi._arguments import plain_list
from trvae_scvi.data._designs import warn
from trvae_scvi.predict._request import as_list

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

__all__ = ["check_genes", "check_groups", "check_takes_obsm"]


def check_takes_obsm(adata: AnnData) -> None:
    """Raise a ValueError for cells that cannot be given anything."""
    if getattr(adata, "is_view", False) and adata.isbacked:
        msg = "The result goes into `obsm`, which a view of data on disk cannot take. Load it: `adata.to_memory()`."
        raise ValueError(msg)


def check_groups(own: AnnData, given: dict[str, Any], values: Any) -> None:
    """Check the groups that a differential expression is to compare, and that its statistics can be had."""
    on_disk = isinstance(values, h5py.Dataset | zarr.Array | CSRDataset | CSCDataset)
    if given.get("all_stats", True) and on_disk:
        msg = "all_stats=True needs the values in memory: load them with `to_memory()`, or pass all_stats=False."
        raise ValueError(msg)
    if given.get("idx1") is not None:
        return
    key = given.get("groupby")
    if not isinstance(key, str) or key not in own.obs:
        msg = f"`groupby={key!r}` not found in `adata.obs`; its columns are {list(own.obs.columns)}."
        raise KeyError(msg)
    if isinstance(own.obs[key], pd.DataFrame):
        msg = f"`adata.obs` has several columns {key!r}. Rename or remove all but one."
        raise ValueError(msg)
    there = own.obs[key].dropna().unique()
    asked = {name: as_list(given[name]) for name in ("group1", "group2") if given.get(name) is not None}
    # upstream takes all of these
    first = asked.get("group1") or own.obs[key].astype("category").cat.categories.tolist()
    unknown = [group for group in first + asked.get("group2", []) if group not in set(there)]
    if unknown or not len(there):
        found = plain_list(unknown) or "none"
        msg = f"Expected groups of `adata.obs[{key!r}]`, {plain_list(there)}, found {found}."
        raise ValueError(msg)
    n_missing = int(own.obs[key].isna().sum())
    if n_missing and given.get("group2") is None:
        warn(f"{n_missing} cells have no value in `adata.obs[{key!r}]`; they are among the rest compared with.")


def check_genes(given: dict[str, Any], var_names: np.ndarray) -> None:
    """Check the genes that are asked for, and make a list of them."""
    asked = given.get("gene_list")
    if asked is None:
        return
    if not isinstance(asked, str):
        given["gene_list"] = asked = list(asked)
    known = {str(name) for name in var_names}
    unknown = [] if isinstance(asked, str) else [name for name in asked if name not in known]
    if unknown or isinstance(asked, str):
        msg = f"Expected `gene_list` to be a list of genes of the model, found {plain_list(unknown) or asked!r}."
        raise ValueError(msg)
