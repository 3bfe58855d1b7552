"""Set-up of an AnnData: its checks, all before anything is written, and the fields that scvi-tools registers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from trvae_scvi._compat import DataManager, get_minify_type, minification_fields

from ._columns import (
    check_anndata,
    check_condition,
    check_covariates,
    check_known,
    check_not_condition,
    check_not_view,
)
from ._designs import warn_of_columns
from ._gene_names import check_var_names
from ._schema import Schema
from ._values import check_storage, get_values, place_of, summarize_values, warn_of_counts_elsewhere

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager
    from scvi.data.fields import BaseAnnDataField

    from trvae_scvi._math._summaries import ValueSummary

__all__ = ["check_new_data", "check_registered_data", "register", "warn_of_new_data"]


def check_new_data(adata: AnnData, arguments: dict[str, Any]) -> ValueSummary:
    """Check data that a model is to be trained on.

    Parameters
    ----------
    adata
        The cells.
    arguments
        Those of the set-up: names of columns and layer.
    """
    check_anndata(adata)
    check_not_view(adata)
    check_var_names(adata)
    check_condition(adata, arguments["condition_key"], new_data=True)
    check_covariates(adata, arguments, new_data=True)
    check_not_condition(arguments)
    return _checked_values(adata, arguments["layer"])


def warn_of_new_data(adata: AnnData, arguments: dict[str, Any], summary: ValueSummary) -> None:
    """Warn of what misleads in data that were checked, and whose values are summarised so."""
    warn_of_counts_elsewhere(adata, arguments["layer"], summary)
    warn_of_columns(adata.obs, arguments)


def check_registered_data(adata: AnnData, schema: Schema, *, extend_categories: bool = False) -> None:
    """Check data that are registered as others were before, so that they can be a model's own.

    Parameters
    ----------
    adata
        The cells.
    schema
        Of the others.
    extend_categories
        Whether there may be further conditions, categories and labels.
    """
    check_anndata(adata)
    check_not_view(adata)
    check_var_names(adata, schema.var_names)
    condition = check_condition(adata, schema.condition_key, new_data=False)
    if not extend_categories:
        check_known("conditions", condition, schema.conditions)
    check_covariates(adata, schema.registry["setup_args"], new_data=False)
    if not extend_categories:
        for key, known in schema.covariates.items():
            check_known("covariate", adata.obs[key], known)
        if schema.labels_key is not None:
            check_known("labels", adata.obs[schema.labels_key], schema.labels)
    _checked_values(adata, schema.layer)


def _checked_values(adata: AnnData, layer: str | None) -> ValueSummary:
    """What is known of the values, after checking that they can be trained on and are finite."""
    values, where = get_values(adata, layer), place_of(layer)
    check_storage(values, where)
    summary = summarize_values(values)
    summary.check_finite(where)
    return summary


def register(
    adata: AnnData,
    setup_method_args: dict[str, Any],
    *,
    source_registry: dict[str, Any] | None = None,
    **transfer_kwargs: Any,
) -> AnnDataManager:
    """Register the fields of checked data, as those of `source_registry` if that is given.

    Parameters
    ----------
    adata
        The cells; scvi-tools writes codes into its `obs`.
    setup_method_args
        scvi-tools' record of the set-up.
    source_registry, **transfer_kwargs
        As for :meth:`scvi.data.AnnDataManager.register_fields`.
    """
    manager = DataManager(fields=_fields(adata, setup_method_args["setup_args"]), setup_method_args=setup_method_args)
    with warnings.catch_warnings():
        if source_registry is not None:  # what is registered again is not trained on, or frozen
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
        manager.register_fields(adata, source_registry=source_registry, **transfer_kwargs)
    return manager


def _fields(adata: AnnData, arguments: dict[str, Any]) -> list[BaseAnnDataField]:
    fields = [
        LayerField(REGISTRY_KEYS.X_KEY, arguments["layer"], is_count_data=False),
        CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, arguments["condition_key"]),
        CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, arguments["labels_key"]),
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, arguments["size_factor_key"], required=False),
        CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, arguments["categorical_covariate_keys"]),
        NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, arguments["continuous_covariate_keys"]),
    ]
    return fields if get_minify_type(adata) is None else fields + minification_fields()
