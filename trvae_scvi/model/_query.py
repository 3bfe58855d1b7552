"""A model of new data out of a trained reference: what is checked, taken over, frozen and kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from trvae_scvi._arguments import check_boolean
from trvae_scvi._compat import subset_genes, without_labels
from trvae_scvi.data._columns import (
    check_column,
    check_condition,
    check_not_view,
    check_query_conditions,
    check_same_kind,
)
from trvae_scvi.data._designs import warn_of_similar_names
from trvae_scvi.data._gene_names import check_var_names
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._strata import cells_by_label
from trvae_scvi.data._values import check_summary, get_values, place_of, summarize_values
from trvae_scvi.module._tables import trains_new_rows_only

from ._described import with_new_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from trvae_scvi.data._model import Model

__all__ = ["apply_surgery", "check_surgery", "query_model"]

logger = logging.getLogger(__name__)

# Arguments of upstream's method that leave no choice here, with the one value that is taken and why.
_WITHOUT_CHOICE = {
    "freeze_dropout": (True, "dropout of what is frozen is always off; unfrozen=True trains with it"),
    "freeze_batchnorm_encoder": (True, "normalisation always stays as in the reference; unfrozen=True frees it"),
    "freeze_batchnorm_decoder": (True, "normalisation always stays as in the reference; unfrozen=True frees it"),
    "freeze_classifier": (True, "the model has no classifier"),
    "transfer_batch": (True, "conditions that the reference knows keep their parameters, new ones get their own"),
    "registry": (None, "the set-up is that of the reference"),
    "datamodule": (None, "a query is read from an AnnData"),
}


def check_surgery(flags: dict[str, Any], without_choice: dict[str, Any]) -> None:
    """Check the options of a query, those of upstream's method that leave no choice among them."""
    unknown = sorted(set(without_choice) - set(_WITHOUT_CHOICE))
    if unknown:
        msg = f"load_query_data() got unknown arguments {unknown}."
        raise TypeError(msg)
    for name, value in without_choice.items():
        taken, reason = _WITHOUT_CHOICE[name]
        if value is not taken:
            msg = f"`{name}={value!r}` is not taken: {reason}. Leave `{name}` out."
            raise ValueError(msg)
    for name, value in flags.items():
        check_boolean(name, value)


def query_model(
    model_cls: Any,
    adata: AnnData,
    reference: Model,
    surgery: dict[str, bool],
    *,
    subset: bool,
    features: pd.DataFrame | None,
) -> Any:
    """A model of a query that has taken over all of a trained reference.

    Parameters
    ----------
    model_cls
        Class of both.
    adata
        The query.
    reference
        The reference.
    surgery
        What is to be frozen, as :meth:`~trvae_scvi.TRVAE.load_query_data` has it.
    subset
        Whether to reduce `adata` itself to the genes of the reference first.
    features
        Descriptions of further conditions to ask for.
    """
    described = with_new_rows(features, reference.features_)
    model = _of_query(model_cls, adata, reference, {"condition_features": described}, subset=subset)
    grown = model.module.adopt(reference.module)
    model.nonnegative_ = reference.nonnegative_
    model.surgery_ = surgery
    schema = Schema.of(model.registry_)
    counts = cells_by_label(model.adata_manager, schema) if schema.labels_key is not None else None
    model.measured_ = _measured(counts, reference.measured_, trains_all=surgery["unfrozen"])
    apply_surgery(model)
    if trains_new_rows_only(model.module):  # else they would be of another network than the one that answers
        model.levels_, model.process_ = reference.levels_, reference.process_
    model.is_trained_ = not grown and not any(p.requires_grad for p in model.module.parameters())
    model.module.eval()
    return model


def _of_query(model_cls: Any, adata: AnnData, reference: Model, changed: dict[str, Any], *, subset: bool) -> Any:
    """A new model of the query with the reference's settings and, so far, weights of its own."""
    registry = dict(reference.registry_)
    arguments = dict(registry["setup_args"])
    settings = reference.init_params_["non_kwargs"] | changed
    labels_key = arguments["labels_key"]
    if labels_key is not None and (labels_key not in adata.obs or adata.obs[labels_key].isna().all()):
        level = logging.WARNING if settings["mmd_balance_labels"] else logging.INFO
        logger.log(level, "The query has no labels in %r: the new model is without labels.", labels_key)
        settings["mmd_balance_labels"] = arguments["labels_key"] = None
        registry = without_labels(registry)
    schema = Schema.of({**registry, "setup_args": arguments})
    whole = subset and bool(np.isin(schema.var_names, adata.var_names).all()) and adata.var_names.is_unique
    _check_query(adata[:, schema.var_names] if whole else adata, schema, reference)
    if whole:
        check_not_view(adata)
        subset_genes(adata, schema.var_names)
    model_cls.setup_anndata(adata, source_registry=registry, extend_categories=True, **arguments)
    return model_cls(adata, **settings)


def _check_query(adata: AnnData, schema: Schema, reference: Model) -> None:
    """Raise for what does not fit the reference, before anything is written into `adata`."""
    try:
        check_var_names(adata, schema.var_names)
    except ValueError as error:
        error.add_note("`TRVAE.prepare_query_anndata(adata, reference_model)` brings them to those of the reference.")
        raise
    condition = check_condition(adata, schema.condition_key, new_data=False)
    categories = {schema.condition_key: schema.conditions, **schema.covariates}
    if schema.labels_key is not None:
        categories[schema.labels_key] = schema.labels
        _check_labels(adata.obs[schema.labels_key])
    for key, known in categories.items():
        check_same_kind(check_column(adata, "categorical_covariate_keys", key), known)
        warn_of_similar_names(key, [*known, *adata.obs[key].unique()])
    check_query_conditions(condition, schema.conditions)
    likelihood, where = reference.module.likelihood, place_of(schema.layer)
    summary = summarize_values(get_values(adata, schema.layer))
    check_summary(summary, f"{where} of the query", likelihood, adata, schema.layer)
    if likelihood.name == "mse" and reference.nonnegative_ and summary.minimum < 0:
        msg = (
            "The reference was trained on values of at least 0, the query holds negative ones. Bring them to the "
            "same scale."
        )
        raise ValueError(msg)


def apply_surgery(model: Model) -> None:
    """Freeze what the reference brought along; after loading, too."""
    if model.surgery_ is not None and not model.surgery_["unfrozen"]:
        model.module.freeze(
            encoder_first_layer=model.surgery_["freeze_expression"],
            decoder_first_layer=model.surgery_["freeze_decoder_first_layer"],
        )


def _measured(own: np.ndarray | None, theirs: np.ndarray | None, *, trains_all: bool) -> np.ndarray | None:
    """Labels x conditions that were trained on: of the reference's conditions what it had, if it is frozen."""
    if own is None or theirs is None:
        return None
    rows, columns = theirs.shape  # those of the reference are the first ones
    if not trains_all:
        own[:, :columns] = 0
    measured = own > 0
    measured[:rows, :columns] |= theirs
    return measured


def _check_labels(labels: pd.Series) -> None:
    n_missing = int(labels.isna().sum())
    if n_missing:
        msg = (
            f"{n_missing} of {len(labels)} cells have no label in `adata.obs[{labels.name!r}]`. Give them one, such as "
            "'unknown', or remove the column: the query is then mapped without labels."
        )
        raise ValueError(msg)
