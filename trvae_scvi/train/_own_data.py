"""A model's own data: whether they fit the likelihood and are still what was set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

from trvae_scvi._compat import SETUP_COLUMNS
from trvae_scvi.data._cells import AnnDataCells
from trvae_scvi.data._designs import warn
from trvae_scvi.data._values import check_summary, get_values, place_of, summarize_values

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager

    from trvae_scvi._math._likelihoods import Likelihood
    from trvae_scvi.data._schema import Schema

__all__ = ["check_unchanged_cells", "check_unchanged_columns", "check_values"]

# What a set-up copies of `obs`, and the argument that names it.
_COLUMNS = {
    REGISTRY_KEYS.BATCH_KEY: "condition_key",
    REGISTRY_KEYS.LABELS_KEY: "labels_key",
    REGISTRY_KEYS.CAT_COVS_KEY: "categorical_covariate_keys",
    REGISTRY_KEYS.CONT_COVS_KEY: "continuous_covariate_keys",
}


def check_values(adata: AnnData, layer: str | None, likelihood: Likelihood, remark: str = "") -> bool:
    """Check that values and likelihood fit; return whether no value is negative."""
    where = place_of(layer)
    summary = summarize_values(get_values(adata, layer))
    check_summary(summary, where + remark, likelihood, adata, layer)
    if likelihood.name == "mse" and summary.integer and summary.minimum >= 0:
        warn(
            f"{where} looks like raw counts, but gene_likelihood='mse' models log-normalised or scaled values. "
            "Use 'nb' for counts, or normalise first."
        )
    return summary.minimum >= 0


def check_unchanged_cells(adata: AnnData, n_before: int) -> None:
    """Raise if cells or scvi-tools' columns were added or removed since the set-up."""
    if adata.n_obs != n_before:
        msg = (
            f"`adata` had {n_before} cells when it was set up and has {adata.n_obs} now. Call `setup_anndata` "
            "again and make the model anew."
        )
        raise ValueError(msg)
    gone = [column for column in SETUP_COLUMNS if column not in adata.obs]
    if gone:
        msg = f"The columns {gone} that `setup_anndata` wrote into `adata.obs` are gone. Call it again."
        raise ValueError(msg)


def check_unchanged_columns(adata: AnnData, manager: AnnDataManager, schema: Schema) -> None:
    """Raise if what is trained on is not what the registered columns say, of data that were just validated."""
    cells = AnnDataCells(adata, np.arange(adata.n_obs), schema)
    again = cells.registered(cells.annotation, keep_labels=True)
    arguments = schema.registry["setup_args"]
    for key, argument in _COLUMNS.items():
        if key not in manager.data_registry:
            continue
        registered, found = (np.asarray(either.get_from_registry(key)) for either in (manager, again))
        if not np.array_equal(registered.ravel(), found.ravel()):
            msg = (
                f"The column of `{argument}={arguments[argument]!r}` changed since `setup_anndata`, which training "
                "would not notice. Call `setup_anndata` again and make the model anew."
            )
            raise ValueError(msg)
