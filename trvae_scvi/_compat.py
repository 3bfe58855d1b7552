"""The only place where a private scvi-tools name or a version difference appears."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import rich.pretty  # noqa: F401 - scvi-tools' view_anndata_setup uses it without importing it
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import ADATA_MINIFY_TYPE
from scvi.data._utils import _get_adata_minify_type as get_minify_type
from scvi.model._utils import parse_device_args
from scvi.module._constants import MODULE_KEYS
from scvi.train._config import merge_kwargs

if TYPE_CHECKING:
    from typing import Any

    import torch
    from anndata import AnnData

__all__ = [
    "ADATA_MINIFY_TYPE",
    "MODULE_KEYS",
    "SETUP_COLUMNS",
    "DataManager",
    "StateRegistry",
    "get_minify_type",
    "latest_registry",
    "merge_kwargs",
    "parent_of",
    "registered_categories",
    "registered_continuous_covariates",
    "registered_covariate_counts",
    "registered_covariates",
    "registered_var_names",
    "single_device",
    "subset_genes",
]


#: Columns that a set-up writes into `obs`.
SETUP_COLUMNS = tuple(f"_scvi_{key}" for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY))


class StateRegistry(dict):
    """What a field registered, with its entries as attributes, too; scvi-tools' own takes no column with a dot."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DataManager(AnnDataManager):
    """scvi-tools' manager, which can be viewed with a column like ``orig.ident`` registered."""

    def get_state_registry(self, registry_key: str) -> Any:
        """What a field registered."""
        return StateRegistry(_state(self.registry, registry_key))


def _state(registry: dict[str, Any], key: str) -> dict[str, Any]:
    return registry["field_registries"].get(key, {}).get("state_registry", {})


def registered_var_names(registry: dict[str, Any]) -> np.ndarray:
    """Names of the variables a registry was made with, in order."""
    return _state(registry, "X")["column_names"]


def registered_categories(registry: dict[str, Any], key: str) -> np.ndarray:
    """Categories of a registered categorical column; their positions are its codes."""
    return _state(registry, key)["categorical_mapping"]


def latest_registry(model_cls: Any, adata: AnnData) -> dict[str, Any]:
    """The registry that the last set-up of `adata` made for a class of models."""
    return model_cls._get_most_recent_anndata_manager(adata, required=True).registry


def single_device(accelerator: str, device: int | str) -> torch.device:
    """The device that scvi-tools' arguments name."""
    _, _, found = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
    return cast("torch.device", found)


def subset_genes(adata: AnnData, names: np.ndarray) -> None:
    """Reduce an AnnData to some genes, in the order asked for."""
    adata._inplace_subset_var(names)


def parent_of(adata: AnnData) -> tuple[AnnData, np.ndarray, np.ndarray | None]:
    """The AnnData that holds a view's data, and the positions of its cells and variables there.

    Returns
    -------
    `adata` itself if it is no view, and ``None`` for all variables in their order.
    """
    if not adata.is_view:
        return adata, np.arange(adata.n_obs), None
    parent = adata._adata_ref
    # AnnData 0.13 wraps the positions
    rows, columns = (part if isinstance(part, slice) else np.asarray(part) for part in (adata._oidx, adata._vidx))
    every = isinstance(columns, slice) and columns == slice(None)
    return parent, np.arange(parent.n_obs)[rows], None if every else np.arange(parent.n_vars)[columns]


def registered_covariates(registry: dict[str, Any]) -> dict[str, np.ndarray]:
    """Categories of every extra categorical covariate, in the order of the codes' columns."""
    state = _state(registry, "extra_categorical_covs")
    return {key: state["mappings"][key] for key in state.get("field_keys", ())}


def registered_continuous_covariates(registry: dict[str, Any]) -> list[str]:
    """Names of the continuous covariates, in order."""
    return list(_state(registry, "extra_continuous_covs").get("columns", ()))


def registered_covariate_counts(registry: dict[str, Any]) -> tuple[int, ...]:
    """Numbers of categories of the extra categorical covariates, empty without any."""
    return tuple(int(n) for n in _state(registry, "extra_categorical_covs").get("n_cats_per_key", ()))
