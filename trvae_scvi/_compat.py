"""The only place where a private name of scvi-tools or annbatch, or a version difference, appears."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import rich.pretty  # noqa: F401 - scvi-tools' view_anndata_setup uses it without importing it
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import _ADATA_MINIFY_TYPE_UNS_KEY, ADATA_MINIFY_TYPE
from scvi.data._utils import _get_adata_minify_type as get_minify_type
from scvi.data.fields import BaseAnnDataField, NumericalObsField, ObsmField, StringUnsField
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseMinifiedModeModelClass
from scvi.module._constants import MODULE_KEYS
from scvi.train._config import merge_kwargs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import torch
    from annbatch import DatasetCollection
    from anndata import AnnData

__all__ = [
    "ADATA_MINIFY_TYPE",
    "DOWNLOAD_LOGGER",
    "MODULE_KEYS",
    "SETUP_COLUMNS",
    "DataManager",
    "StateRegistry",
    "get_minify_type",
    "QZM_KEY",
    "generative_input",
    "inference_input",
    "keep_datamodule",
    "keep_manager",
    "QZV_KEY",
    "collection_attributes",
    "copy_minification",
    "managers_of",
    "minification_fields",
    "merge_kwargs",
    "parent_of",
    "registered_categories",
    "replace_anndata",
    "without_labels",
    "registered_continuous_covariates",
    "registered_covariates",
    "registered_var_names",
    "single_device",
    "subset_genes",
]


#: Logger of scvi-tools that says of every model on the disk that it was downloaded already.
DOWNLOAD_LOGGER = "scvi.data._download"
#: Columns that a set-up writes into `obs`.
SETUP_COLUMNS = tuple(f"_scvi_{key}" for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY))


#: Keys of `obsm` with the latent posterior's means and variances of minified data.
QZM_KEY, QZV_KEY = "trvae_latent_qzm", "trvae_latent_qzv"


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


def without_labels(registry: dict[str, Any]) -> dict[str, Any]:
    """A registry in which all cells have the one label that stands for none."""
    labels = {**registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]}
    labels["state_registry"] = {"categorical_mapping": np.array([0])}
    return {**registry, "field_registries": {**registry["field_registries"], REGISTRY_KEYS.LABELS_KEY: labels}}


def inference_input(module: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """What a module of scvi-tools encodes of a minibatch."""
    return module._get_inference_input(tensors)


def generative_input(
    module: Any, tensors: dict[str, torch.Tensor], inference_outputs: dict[str, Any]
) -> dict[str, torch.Tensor | None]:
    """What it decodes."""
    return module._get_generative_input(tensors, inference_outputs)


def keep_datamodule(model: Any, datamodule: Any) -> None:
    """Have a model know the data module that it goes on with."""
    model._datamodule = datamodule


def keep_manager(model: Any, manager: AnnDataManager) -> None:
    """Have scvi-tools know the data of a manager as registered for a model."""
    model._register_manager_for_instance(manager)


def managers_of(model: Any) -> dict[str, AnnDataManager]:
    """The managers of data that scvi-tools keeps for a model, by the data's identifier."""
    return model._per_instance_manager_store.get(model.id, {})


def minification_fields() -> list[BaseAnnDataField]:
    """What scvi-tools registers of minified data besides."""
    return [
        ObsmField(REGISTRY_KEYS.LATENT_QZM_KEY, QZM_KEY),
        ObsmField(REGISTRY_KEYS.LATENT_QZV_KEY, QZV_KEY),
        NumericalObsField(REGISTRY_KEYS.OBSERVED_LIB_SIZE, BaseMinifiedModeModelClass._OBSERVED_LIB_SIZE_KEY),
        StringUnsField(REGISTRY_KEYS.MINIFY_TYPE_KEY, _ADATA_MINIFY_TYPE_UNS_KEY),
    ]


def copy_minification(source: AnnData, target: AnnData, rows: np.ndarray) -> None:
    """Give the cells of `target`, which are some rows of `source`, what minification made of them."""
    minify_type = get_minify_type(source)
    if minify_type is not None:
        target.uns[_ADATA_MINIFY_TYPE_UNS_KEY] = minify_type
        for key in (QZM_KEY, QZV_KEY):
            target.obsm[key] = np.asarray(source.obsm[key])[rows]


def collection_attributes(collection: DatasetCollection) -> Mapping[str, Any]:
    """What is noted of an annbatch collection as a whole; annbatch gives its parts only."""
    return collection._group.attrs


def single_device(accelerator: str, device: int | str) -> torch.device:
    """The device that scvi-tools' arguments name."""
    _, _, found = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
    return cast("torch.device", found)


def replace_anndata(adata: AnnData, new: AnnData) -> None:
    """Make an AnnData what another one is."""
    adata._init_as_actual(new)


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
