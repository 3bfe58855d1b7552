"""Groups of cells: how many there are, and within which ones conditions are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

from trvae_scvi._math._two_way import connected

from ._designs import warn
from ._schema import Schema

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

    from ._model import Model

__all__ = ["cells_by_label", "covariates", "fit_into_memory", "strata"]

_MOST_MEANS = 100_000_000  # of conditions, labels and genes, to be held in memory at a time


def strata(model: Model) -> np.ndarray:
    """A number for every cell: cells are compared with those of other conditions that have the same one.

    They are the labels, together with the categorical covariates unless conditions could then be compared less: where
    every donor has one condition, what a condition does cannot be told from what donors differ by. Warns where there
    are too many labels for that.
    """
    schema, manager = Schema.of(model.registry_), model.adata_manager
    conditions, labels = (
        np.asarray(manager.get_from_registry(key)).ravel()
        for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
    )
    n_conditions, n_genes = len(schema.conditions), len(schema.var_names)
    if not fit_into_memory(n_conditions, len(schema.labels), n_genes):
        warn(
            f"Means of {n_conditions} conditions, {len(schema.labels)} labels and {n_genes} genes are more than fit "
            "into memory: labels are not compared with each other, neither for the prior of what conditions do nor for "
            "labels that were not measured. Register coarser labels, or fewer genes."
        )
        return np.zeros(len(labels), dtype=np.int64)
    fine = _together(labels, covariates(model))
    if fit_into_memory(n_conditions, int(fine.max()) + 1, n_genes):
        if np.array_equal(_parts(conditions, labels, n_conditions), _parts(conditions, fine, n_conditions)):
            return fine
    return labels.astype(np.int64)


def covariates(model: Model) -> np.ndarray:
    """A number for every cell's categorical covariates, all together; 0 without any."""
    conditions = np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
    if not Schema.of(model.registry_).covariates:
        return np.zeros(len(conditions), dtype=np.int64)
    codes = np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.CAT_COVS_KEY))
    return _together(*codes.reshape(len(conditions), -1).T)


def cells_by_label(manager: AnnDataManager, schema: Schema) -> np.ndarray:
    """Numbers of cells, labels x conditions."""
    counts = np.zeros((len(schema.labels), len(schema.conditions)), dtype=np.int64)
    codes = (manager.get_from_registry(key) for key in (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.BATCH_KEY))
    np.add.at(counts, tuple(np.asarray(column).ravel() for column in codes), 1)
    return counts


def _together(*codes: np.ndarray) -> np.ndarray:
    return np.unique(np.column_stack(codes), axis=0, return_inverse=True)[1].ravel()


def _parts(conditions: np.ndarray, codes: np.ndarray, n_conditions: int) -> np.ndarray:
    """Numbers of the parts of conditions that can be compared."""
    n = np.zeros((n_conditions, int(codes.max()) + 1))
    np.add.at(n, (conditions, codes), 1)
    return connected(n > 0)[0]


def fit_into_memory(n_conditions: int, n_strata: int, n_genes: int) -> bool:
    """Whether means of all groups do."""
    return n_conditions * n_strata * n_genes <= _MOST_MEANS
