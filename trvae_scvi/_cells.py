"""The cells a prediction starts from: checked, and taken into an AnnData of our own. A mixin for the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import AnnDataLoader

from ._compat import ADATA_MINIFY_TYPE, get_minify_type, registered_categories, registered_var_names
from ._validation import (
    check_anndata,
    check_choice,
    check_condition,
    check_counts,
    check_integer,
    check_known_conditions,
    check_var_names,
    get_values,
    summarize_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scvi.data import AnnDataManager

    from ._module import TRVAEModule

__all__ = ["CellsMixin"]


class CellsMixin:
    """How :class:`~trvae_scvi.TRVAE` takes the caller's cells without changing them."""

    if TYPE_CHECKING:
        adata: AnnData | None
        module: TRVAEModule
        registry_: dict[str, Any]
        _LATENT_QZM_KEY: str
        _LATENT_QZV_KEY: str
        _build_manager: Callable[..., AnnDataManager]
        _check_if_trained: Callable[..., None]

    @property
    def _layer(self) -> str | None:
        return self.registry_["setup_args"]["layer"]

    @property
    def _condition_key(self) -> str:
        return self.registry_["setup_args"]["condition_key"]

    @property
    def _conditions(self) -> np.ndarray:
        return registered_categories(self.registry_, REGISTRY_KEYS.BATCH_KEY)

    def _cells_for_prediction(
        self, adata: AnnData | None, indices: Sequence[int] | np.ndarray | None, source: str | None
    ) -> AnnData:
        """Check the caller's cells and give the wanted ones as a private AnnData that shares their data."""
        self._check_if_trained(
            warn=False, message="The model is not trained: call `model.train()` before asking it for predictions."
        )
        adata = self._resolve(adata)
        check_anndata(adata)
        if adata.is_view and adata.isbacked:
            adata = adata.to_memory()  # AnnData cannot take rows of such a view
        check_var_names(adata.var_names, registered_var_names(self.registry_))
        condition = check_condition(adata, self._condition_key, new_data=False)
        check_known_conditions(condition, self._conditions)
        rows = _positions(indices, adata.obs_names)
        if source is not None:
            check_choice("source", source, list(self._conditions))
            rows = rows[(condition == source).to_numpy()[rows]]
        if len(rows) == 0:
            found = {} if indices is not None else dict(condition.astype(str).value_counts())
            msg = f"No cell to predict from{'' if source is None else f' with source {source!r}'}; found {found}."
            raise ValueError(msg)
        cells = self._private(adata if len(rows) == adata.n_obs and (rows[:-1] < rows[1:]).all() else adata[rows])
        values = get_values(cells, self._layer)
        # finite values are checked when the cells are registered; counts are the likelihood's business
        if self.module.gene_likelihood != "mse" and get_minify_type(cells) != ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            check_counts(summarize_values(values), "the data to predict from", self.module.gene_likelihood)
        return cells

    def _resolve(self, adata: AnnData | None) -> AnnData:
        if adata is not None:
            return adata
        if self.adata is None:
            msg = "The model was loaded without data. Pass the cells to predict from as `adata`."
            raise ValueError(msg)
        return self.adata

    def _private(self, adata: AnnData) -> AnnData:
        """An AnnData with its own obs and uns, so that registering it leaves the caller's untouched."""
        obs = adata.obs.loc[:, [c for c in adata.obs.columns if not c.startswith("_scvi_")]].copy()
        values = _plain(get_values(adata, self._layer))
        private = AnnData(X=values if self._layer is None else None, obs=obs, var=adata.var.copy())
        if self._layer is not None:
            private.layers[self._layer] = values
        if get_minify_type(adata) is not None:
            private.uns["_scvi_adata_minify_type"] = get_minify_type(adata)
            for key in (self._LATENT_QZM_KEY, self._LATENT_QZV_KEY):
                private.obsm[key] = _plain(adata.obsm[key])
        return private

    def _manager(self, cells: AnnData, *, keep_labels: bool = False) -> AnnDataManager:
        registered = self._private(cells)  # registering writes to obs and uns
        labels_key = self.registry_["setup_args"]["labels_key"]
        if labels_key is not None and not keep_labels:
            # labels are never fed to the network: missing or new ones are no obstacle to a prediction
            registered.obs[labels_key] = registered_categories(self.registry_, REGISTRY_KEYS.LABELS_KEY)[0]
        setup_method_args = {key: self.registry_[key] for key in ("model_name", "setup_args")}
        return self._build_manager(registered, setup_method_args, source_registry=self.registry_)

    def _minibatches(self, cells: AnnData, batch_size: int | None) -> AnnDataLoader:
        return self._loader(self._manager(cells), batch_size)

    @staticmethod
    def _loader(manager: AnnDataManager, batch_size: int | None) -> AnnDataLoader:
        batch_size = settings.batch_size if batch_size is None else batch_size
        check_integer("batch_size", batch_size, 1)
        return AnnDataLoader(manager, batch_size=batch_size)


def _positions(indices: Sequence[int] | np.ndarray | None, obs_names: pd.Index) -> np.ndarray:
    """Positions of the cells that `indices` asks for; raises for what is neither positions nor a mask."""
    positions = np.arange(len(obs_names))
    if indices is None:
        return positions
    if isinstance(indices, slice):
        return positions[indices]
    if isinstance(indices, pd.Series) and not indices.index.equals(obs_names):
        msg = "The index of `indices` differs from `adata.obs_names`. Align it, or pass `indices.to_numpy()`."
        raise ValueError(msg)
    asked = np.asarray(indices)
    if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iub"):
        msg = f"Expected `indices` to be a list of positions or a boolean mask, found {indices!r}."
        raise TypeError(msg)
    if (asked.dtype.kind == "b" and len(asked) != len(positions)) or (
        asked.dtype.kind in "iu" and asked.size and not -len(positions) <= asked.min() <= asked.max() < len(positions)
    ):
        msg = f"`indices` (length {len(asked)}) do not fit the {len(positions)} cells of `adata`."
        raise ValueError(msg)
    return positions[asked if asked.size else asked.astype(np.int64)]


def _plain(x: Any) -> Any:
    """An array of a view without AnnData's wrapper, which torch does not take."""
    return np.asarray(x) if isinstance(x, np.ndarray) else x
