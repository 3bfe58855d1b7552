"""What was registered of a model's cells, in our terms: columns, the names behind codes, genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scvi import REGISTRY_KEYS

from trvae_scvi._compat import (
    registered_categories,
    registered_continuous_covariates,
    registered_covariates,
    registered_var_names,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Schema"]


@dataclass(frozen=True, eq=False)
class Schema:
    """What was registered of a model's cells.

    Attributes
    ----------
    condition_key, conditions
        Column of the conditions, and their names in the order of their codes.
    labels_key, labels
        Column of the labels, ``None`` without, and their names.
    layer
        Layer of the values; ``None`` for `X`.
    size_factor_key
        Column of the size factors; ``None`` without.
    covariates
        Categories of every further categorical covariate, by column.
    continuous_covariates
        Columns of the continuous ones.
    var_names
        Names of the genes, in order.
    registry
        scvi-tools' registry, of which all of this is read.
    """

    condition_key: str
    conditions: np.ndarray
    labels_key: str | None
    labels: np.ndarray
    layer: str | None
    size_factor_key: str | None
    covariates: dict[str, np.ndarray]
    continuous_covariates: list[str]
    var_names: np.ndarray
    registry: dict[str, Any]

    @classmethod
    def of(cls, registry: dict[str, Any]) -> Schema:
        """Read a registry that a set-up made, or one translated by :func:`own_registry`."""
        arguments = registry["setup_args"]
        return cls(
            condition_key=arguments["condition_key"],
            conditions=registered_categories(registry, REGISTRY_KEYS.BATCH_KEY),
            labels_key=arguments["labels_key"],
            labels=registered_categories(registry, REGISTRY_KEYS.LABELS_KEY),
            layer=arguments["layer"],
            size_factor_key=arguments["size_factor_key"],
            covariates=registered_covariates(registry),
            continuous_covariates=registered_continuous_covariates(registry),
            var_names=registered_var_names(registry),
            registry=registry,
        )

    @property
    def columns(self) -> list[str]:
        """The registered columns of conditions, labels and covariates."""
        labels = [] if self.labels_key is None else [self.labels_key]
        return [self.condition_key, *labels, *self.covariates, *self.continuous_covariates]
