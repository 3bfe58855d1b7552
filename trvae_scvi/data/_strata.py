"""Groups of cells: how many there are, and within which ones conditions are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

from trvae_scvi._math._two_way import connected

from ._designs import warn
from ._schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvi.data import AnnDataManager

    from ._model import Model

__all__ = ["cells_by_label", "codes_of", "comparable", "fit_into_memory", "together"]

_MOST_MEANS = 100_000_000  # of conditions, labels and genes, to be held in memory at a time


def comparable(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Labels and covariates within which cells of different conditions can be compared, a number each for every cell.

    Of the categorical covariates, one after the other, those that leave conditions to compare: where every donor has
    one condition, what a condition does cannot be told from what donors differ by. Warns where there are too many
    labels to be compared with each other; all cells then have the same one.
    """
    schema, manager = Schema.of(model.registry_), model.adata_manager
    conditions, labels = (codes_of(manager, key) for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY))
    n_conditions, n_genes = len(schema.conditions), len(schema.var_names)
    if not fit_into_memory(n_conditions, len(schema.labels), n_genes):
        warn(
            f"Means of {n_conditions} conditions, {len(schema.labels)} labels and {n_genes} genes are more than fit "
            "into memory: labels are not compared with each other, neither for the prior of what conditions do nor for "
            "labels that were not measured. Register coarser labels, or fewer genes."
        )
        labels = np.zeros_like(labels)
    taken = np.zeros_like(labels)
    for code in _covariates(manager, schema):
        more = together(taken, code)
        strata = together(labels, more)
        if fit_into_memory(n_conditions, int(strata.max()) + 1, n_genes) and _connects(conditions, strata):
            taken = more
    return labels, taken


def _covariates(manager: AnnDataManager, schema: Schema) -> Iterator[np.ndarray]:
    if schema.covariates:
        codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CAT_COVS_KEY))
        yield from codes.reshape(len(codes), -1).T.astype(np.int64)


def _connects(conditions: np.ndarray, strata: np.ndarray) -> bool:
    """Whether the largest condition can be compared with another one."""
    n = np.zeros((int(conditions.max()) + 1, int(strata.max()) + 1))
    np.add.at(n, (conditions, strata), 1)
    return bool(connected(n > 0)[0][np.argmax(n.sum(axis=1))] >= 0)


def together(*codes: np.ndarray) -> np.ndarray:
    """One number for what cells are in several respects."""
    return np.unique(np.column_stack(codes), axis=0, return_inverse=True)[1].ravel()


def codes_of(manager: AnnDataManager, key: str) -> np.ndarray:
    """Of the cells in a registered column of categories, `n`."""
    return np.asarray(manager.get_from_registry(key)).ravel().astype(np.int64)


def cells_by_label(manager: AnnDataManager, schema: Schema) -> np.ndarray:
    """Numbers of cells, labels x conditions."""
    counts = np.zeros((len(schema.labels), len(schema.conditions)), dtype=np.int64)
    codes = (codes_of(manager, key) for key in (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.BATCH_KEY))
    np.add.at(counts, tuple(codes), 1)
    return counts


def fit_into_memory(n_conditions: int, n_strata: int, n_genes: int) -> bool:
    """Whether means of all groups do."""
    return n_conditions * n_strata * n_genes <= _MOST_MEANS
