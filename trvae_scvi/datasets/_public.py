"""Public data sets, downloaded once into a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import pooch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["haber_2017", "kang_2018"]

_BASE_URL = "https://exampledata.scverse.org/pertpy/"
# The publisher states no checksum; shape and columns are checked instead.
_KNOWN_HASH = None


def kang_2018() -> AnnData:
    """Lupus PBMC of eight patients, control and after 6 h of IFN-beta (Kang et al. 2018).

    The file of pertpy's loader of the same name, downloaded on first use. Source: Nat Biotechnol 36:89,
    doi:10.1038/nbt.4042, GEO GSE96583.

    Returns
    -------
    24,673 cells x 15,706 genes, counts in ``X``; ``obs`` has `condition` (``"control"``,
    ``"stimulated"``), `cell_type` and `patient`.

    Raises
    ------
    OSError
        If the file is not there yet and cannot be downloaded.
    ValueError
        If the downloaded file is not the expected one.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.kang_2018()  # doctest: +SKIP
    """
    return _load(
        "kang_2018.h5ad",
        shape=(24_673, 15_706),
        columns={"label": "condition", "cell_type": "cell_type", "replicate": "patient"},
        conditions={"ctrl": "control", "stim": "stimulated"},
    )


def haber_2017() -> AnnData:
    """Mouse small intestine, control and three infections (Haber et al. 2017).

    The file of pertpy's loader ``haber_2017_regions``, downloaded on first use. Source: Nature 551:333,
    doi:10.1038/nature24489.

    Returns
    -------
    9,842 cells x 15,215 genes, counts in ``X``; ``obs`` has `condition` (``"Control"``,
    ``"Hpoly.Day3"``, ``"Hpoly.Day10"``, ``"Salmonella"``), `cell_type` and `batch`.

    Raises
    ------
    OSError
        If the file is not there yet and cannot be downloaded.
    ValueError
        If the downloaded file is not the expected one.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.haber_2017()  # doctest: +SKIP
    """
    return _load(
        "haber_2017_regions.h5ad",
        shape=(9_842, 15_215),
        columns={"condition": "condition", "cell_label": "cell_type", "batch": "batch"},
        conditions={name: name for name in ("Control", "Hpoly.Day3", "Hpoly.Day10", "Salmonella")},
    )


def _load(name: str, *, shape: tuple[int, int], columns: Mapping[str, str], conditions: Mapping[str, str]) -> AnnData:
    """Give the columns our names, after checking that the file is the expected one."""
    folder = pooch.os_cache("trvae_scvi")
    try:
        path = pooch.retrieve(_BASE_URL + name, known_hash=_KNOWN_HASH, fname=name, path=folder)
    except OSError as error:  # what the libraries below raise for a network that is not there derives from it
        msg = (
            f"Expected to download {_BASE_URL + name} into {folder}, which failed ({error}). Try again with a network, "
            "or put the file there by hand; once there it is not downloaded again."
        )
        raise OSError(msg) from error
    adata = anndata.read_h5ad(path)
    condition_column = next(old for old, new in columns.items() if new == "condition")
    found = set(adata.obs.get(condition_column, ()))
    if adata.shape != shape or not set(columns) <= set(adata.obs) or found != set(conditions):
        msg = (
            f"Expected {shape[0]} cells x {shape[1]} genes with the columns {list(columns)} and the conditions "
            f"{list(conditions)} in {path}, found {adata.shape}, {list(adata.obs)} and {sorted(map(str, found))}. "
            "The published file may have changed; delete it to download it again."
        )
        raise ValueError(msg)
    obs = adata.obs[list(columns)].rename(columns=dict(columns))
    obs["condition"] = obs["condition"].astype("category").cat.rename_categories(dict(conditions))
    return anndata.AnnData(X=adata.X, obs=obs, var=adata.var)
