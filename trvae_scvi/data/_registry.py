"""Registries of scvi-tools in our terms, whether a set-up made them or a data module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import plain_list
from trvae_scvi._compat import registered_categories, registered_var_names

from ._columns import MIN_CELLS_TO_LEARN, check_keys
from ._designs import warn_of_similar_names
from ._setup import check_new_data, register

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["make_registry", "own_registry", "setup_arguments"]


def setup_arguments(
    condition_key: str,
    *,
    layer: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Iterable[str] | None = None,
    continuous_covariate_keys: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Arguments of :meth:`~trvae_scvi.TRVAE.setup_anndata`, as a registry has them; raises for covariates no list."""
    return {
        "condition_key": condition_key,
        "layer": layer,
        "labels_key": labels_key,
        "size_factor_key": size_factor_key,
        "categorical_covariate_keys": check_keys("categorical_covariate_keys", categorical_covariate_keys),
        "continuous_covariate_keys": check_keys("continuous_covariate_keys", continuous_covariate_keys),
    }


def make_registry(
    arguments: dict[str, Any],
    *,
    var_names: Iterable[str],
    categories: Mapping[str, Sequence[Any]],
    n_obs: int,
) -> dict[str, Any]:
    """The registry that :meth:`~trvae_scvi.TRVAE.setup_anndata` would make of cells that are not at hand.

    It is that of a few blank cells, so that whatever reads registries finds what it expects.

    Parameters
    ----------
    arguments
        Those of the set-up, see :func:`setup_arguments`.
    var_names
        Names of the variables.
    categories
        Categories of every categorical column, the condition's among them, in the order of their codes.
    n_obs
        Number of cells.

    Raises
    ------
    ValueError
        As :meth:`~trvae_scvi.TRVAE.setup_anndata`, e.g. for one condition only.
    """
    n_blank = MIN_CELLS_TO_LEARN * max(len(names) for names in categories.values())
    columns: dict[str, Any] = {
        key: pd.Categorical.from_codes(np.arange(n_blank) % len(names), list(names))
        for key, names in categories.items()
    }
    numbers = [*(arguments["continuous_covariate_keys"] or ()), arguments["size_factor_key"]]
    columns |= {key: np.ones(n_blank) for key in numbers if key is not None}
    obs = pd.DataFrame(columns, index=[str(i) for i in range(n_blank)])
    var = pd.DataFrame(index=pd.Index([str(name) for name in var_names]))
    values = sparse.csr_matrix((n_blank, len(var)), dtype=np.float32)
    blank = AnnData(values, obs, var, layers={} if arguments["layer"] is None else {arguments["layer"]: values})
    setup = {"model_name": "TRVAE", "setup_method_name": "setup_anndata", "setup_args": arguments}
    check_new_data(blank, arguments)
    registry: dict[str, Any] = register(blank, setup).registry
    field = registry["field_registries"][REGISTRY_KEYS.X_KEY]
    field["state_registry"]["n_obs"] = field["summary_stats"]["n_cells"] = n_obs
    covariates = registry["field_registries"][REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]
    if "mappings" in covariates:  # scvi-tools' differential expression of a dataloader reads it by another name
        covariates["mapping"] = covariates["mappings"]
    return registry


def own_registry(registry: Mapping[str, Any]) -> dict[str, Any]:
    """A registry in our terms, with the batch of a data module or of another model's set-up as the condition.

    Raises
    ------
    ValueError
        If there is no batch, it has one category only, or `registry` is none of scvi-tools.
    """
    fields, arguments = registry.get("field_registries"), registry.get("setup_args")
    if not isinstance(fields, Mapping) or not isinstance(arguments, Mapping) or REGISTRY_KEYS.X_KEY not in fields:
        msg = f"Expected the `registry` of a data module or a set-up of scvi-tools, found {list(registry)}."
        raise ValueError(msg)
    if "condition_key" in arguments:
        return dict(registry)
    if arguments.get("batch_key") is None:
        msg = (
            "The registry has no batch, which is the condition here. Make the data module with the condition's "
            "column as its `batch_key`."
        )
        raise ValueError(msg)
    return _translated(dict(registry), arguments)


def _translated(registry: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    fields = registry["field_registries"]
    conditions = _names(registered_categories(registry, REGISTRY_KEYS.BATCH_KEY))
    if len(conditions) < 2:
        msg = f"Expected at least two conditions in {theirs['batch_key']!r}, found {plain_list(conditions)}."
        raise ValueError(msg)
    categories = {theirs["batch_key"]: conditions}
    labels = _names(fields.get(REGISTRY_KEYS.LABELS_KEY, {}).get("state_registry", {}).get("categorical_mapping"))
    # a data module without labels may name a column all the same
    labels_key = theirs.get("labels_key") if len(labels) > 1 else None
    if labels_key is not None:
        categories[labels_key] = labels
    covariates = fields.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
    mappings = covariates.get("mappings", covariates.get("mapping", {}))  # either occurs
    covariate_keys = [key for key in theirs.get("categorical_covariate_keys") or () if key in mappings]
    categories |= {key: _names(mappings[key]) for key in covariate_keys}
    arguments = setup_arguments(
        theirs["batch_key"],
        layer=theirs.get("layer"),
        labels_key=labels_key,
        size_factor_key=theirs.get("size_factor_key"),
        categorical_covariate_keys=covariate_keys or None,
        continuous_covariate_keys=theirs.get("continuous_covariate_keys") or None,
    )
    for key, names in categories.items():
        warn_of_similar_names(key, names)
    values = fields[REGISTRY_KEYS.X_KEY]["state_registry"]
    return make_registry(
        arguments,
        var_names=registered_var_names(registry),
        categories=categories,
        n_obs=int(values["n_obs"]),
    )


def _names(mapping: Any) -> list[Any]:
    """Categories in the order of their codes, however a data module keeps them."""
    if mapping is None:
        return []
    if isinstance(mapping, Mapping):
        return sorted(mapping, key=mapping.__getitem__)
    return plain_list(mapping)
