"""The data sets of the benchmarks: which file, which groups and conditions, and what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anndata
import numpy as np
from files import data_file

import trvae_scvi as tv

__all__ = ["DATA_SETS", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """Cells of several groups under several conditions, each group to be held out under each target."""

    title: str
    read: Callable[[], anndata.AnnData]
    group_key: str
    control: str
    targets: tuple[str, ...] | None = None  # all
    groups: tuple[str, ...] | None = None
    counts: bool = True
    n_hvg: int | None = None  # in every hold-out anew

    @property
    def keys(self) -> dict:
        """What the functions of the package take."""
        return {"group_key": self.group_key, "condition_key": "condition", "control": self.control}


def _file(name: str) -> Callable[[], anndata.AnnData]:
    return lambda: _not_empty(anndata.read_h5ad(data_file(name)))


def _mcfaline() -> anndata.AnnData:
    """The interference screen alone: the activation screen of the same file has a single line."""
    adata = anndata.read_h5ad(data_file("perturbench_devel_norman19_mcfaline23_lognorm.h5ad"))
    screen = adata[(adata.obs["dataset"] == "mcfaline23").to_numpy()].copy()
    screen.X = screen.layers["counts"].copy()
    return _not_empty(screen)


def _kang_public() -> anndata.AnnData:
    """The public file of Kang et al.; needs the network once."""
    return _not_empty(tv.datasets.kang_2018())


def _not_empty(adata: anndata.AnnData) -> anndata.AnnData:
    """Leave cells without a count out: models of counts take none."""
    return adata[np.asarray(abs(adata.X).sum(axis=1)).ravel() > 0].copy()


DATA_SETS = {
    # settings were chosen on the other three types
    "kang": DataSet(
        "Kang et al. 2018: PBMC, interferon-beta",
        _file("kang_pbmc_hvg2000_counts.h5ad"),
        "cell_type",
        "control",
        groups=("B", "CD14+Mono", "FCGR3A+Mono", "NK"),
    ),
    "mcfaline": DataSet(
        "McFaline-Figueroa et al. 2023: glioblastoma lines, CRISPR interference", _mcfaline, "cell_type", "control"
    ),
    # the three that respond alike in all replicates, and three of the others
    "papalexi": DataSet(
        "Papalexi et al. 2021: THP-1, CRISPR knock-outs",
        _file("papalexi_eccite_thp1_299genes.h5ad"),
        "donor",
        "non-targeting",
        targets=("STAT1", "JAK2", "SMAD4", "IRF1", "CUL3", "STAT3"),
    ),
    "croconet": DataSet(
        "CroCoNet: neural differentiation of three primates",
        _file("croconet_primate_neural.h5ad"),
        "species",
        "early_d0-1",
    ),
    "bodenmiller": DataSet(
        "Bodenmiller et al. 2012: PBMC, mass cytometry, three stimuli",
        _file("bodenmiller2012_cytof_stims.h5ad"),
        "cell_type",
        "reference",
        counts=False,
    ),
    "kang_public": DataSet("Kang et al. 2018, public file", _kang_public, "cell_type", "control", n_hvg=2000),
}
