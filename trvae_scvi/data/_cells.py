"""The cells a prediction starts from: checked, and read a minibatch at a time. A mixin for the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS, settings

from trvae_scvi._arguments import check_choice, check_integer
from trvae_scvi._compat import (
    ADATA_MINIFY_TYPE,
    SETUP_COLUMNS,
    get_minify_type,
    parent_of,
    registered_categories,
    registered_var_names,
)

from ._columns import check_anndata, check_condition, check_known_conditions
from ._gene_names import check_var_names
from ._minibatches import CellMinibatches, Expression, LoaderMinibatches
from ._values import check_summary, get_values, place_of, summarize_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scvi.data import AnnDataManager

    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["NOT_TRAINED", "Cells", "CellsMixin", "positions_of"]

NOT_TRAINED = "The model is not trained: call `model.train()` before asking it for predictions."


class Cells(NamedTuple):
    """The cells asked for.

    Parameters
    ----------
    annotation
        An AnnData of our own with all about them but their expression, whose place is empty.
    expression
        Their expression, which stays where it is until it is read.
    """

    annotation: AnnData
    expression: Expression

    @property
    def obs(self) -> pd.DataFrame:
        """Columns of the cells."""
        return self.annotation.obs

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.annotation.n_obs

    def take(self, rows: np.ndarray) -> Cells:
        """Some of the cells."""
        return Cells(self.annotation[rows].copy(), self.expression.take(rows))


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
    def _labels_key(self) -> str | None:
        return self.registry_["setup_args"]["labels_key"]

    @property
    def _conditions(self) -> np.ndarray:
        return registered_categories(self.registry_, REGISTRY_KEYS.BATCH_KEY)

    def _cells_for_prediction(
        self, adata: AnnData | None, indices: Sequence[int] | np.ndarray | None, source: str | None
    ) -> Cells:
        """Check the caller's cells and give the wanted ones, whose expression is read once for the check."""
        self._needs_training()
        adata = self._resolve(adata)
        condition = self._check_cells(adata)
        rows = positions_of(indices, adata.obs_names)
        if source is not None:
            check_choice("source", source, list(self._conditions))
            rows = rows[(condition == source).to_numpy()[rows]]
        if len(rows) == 0:
            given = condition.iloc[positions_of(indices, adata.obs_names)].astype(str).value_counts()
            of_source = "" if source is None else f" with source {source!r}"
            found = {name: int(n) for name, n in given.items() if n} or "none at all"
            msg = f"No cell to predict from{of_source}; found {found}. Pass cells of another condition or selection."
            raise ValueError(msg)
        cells = self._chosen(adata, rows)
        self._check_expression_of(cells)
        return cells

    def _check_cells(self, adata: AnnData) -> pd.Series:
        """Check genes and conditions of the caller's cells; give the conditions."""
        check_anndata(adata)
        check_var_names(adata, registered_var_names(self.registry_))
        condition = check_condition(adata, self._condition_key, new_data=False)
        check_known_conditions(condition, self._conditions)
        return condition

    def _needs_training(self) -> None:
        self._check_if_trained(warn=False, message=NOT_TRAINED)

    def _resolve(self, adata: AnnData | None) -> AnnData:
        if adata is not None:
            return adata
        if self.adata is None:
            msg = "The model was loaded without data. Pass the cells to predict from as `adata`."
            raise ValueError(msg)
        return self.adata

    def _chosen(self, adata: AnnData, rows: np.ndarray) -> Cells:
        """Rows of an AnnData; nothing of its expression is read, of a view neither."""
        parent, parent_rows, columns = parent_of(adata)
        expression = Expression(get_values(parent, self._layer), parent_rows[rows], columns)
        own = ~adata.obs.columns.isin(SETUP_COLUMNS)
        annotation = AnnData(obs=adata.obs.loc[:, own].iloc[rows].copy(), var=adata.var.copy())
        # no counts at all take no room; the loaders read `expression` in its place
        empty = sparse.csr_matrix(annotation.shape, dtype=np.float32)
        if self._layer is None:
            annotation.X = empty
        else:
            annotation.layers[self._layer] = empty
        earlier = adata.uns.get("trvae")
        if isinstance(earlier, Mapping) and {"method", "target"} <= set(earlier):  # a prediction
            annotation.uns["trvae"] = str(earlier.get("source_key", f"{self._condition_key}_source"))
        minify_type = get_minify_type(adata)
        if minify_type is not None:
            annotation.uns["_scvi_adata_minify_type"] = minify_type
            for key in (self._LATENT_QZM_KEY, self._LATENT_QZV_KEY):
                annotation.obsm[key] = np.asarray(adata.obsm[key])[rows]
        return Cells(annotation, expression)

    def _check_expression_of(self, cells: Cells) -> None:
        if get_minify_type(cells.annotation) != ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            where = f"{place_of(self._layer)} of these cells"
            check_summary(summarize_values(cells.expression), where, self.module.gene_likelihood)

    def _manager(self, cells: Cells, *, keep_labels: bool = False) -> AnnDataManager:
        registered = cells.annotation.copy()  # registering writes to obs and uns
        if self._labels_key is not None and not keep_labels:
            # labels are never fed to the network: missing or new ones are no obstacle to a prediction
            registered.obs[self._labels_key] = registered_categories(self.registry_, REGISTRY_KEYS.LABELS_KEY)[0]
        setup_method_args = {key: self.registry_[key] for key in ("model_name", "setup_args")}
        return self._build_manager(registered, setup_method_args, source_registry=self.registry_)

    def _minibatches(self, cells: Cells, batch_size: int | None, *, keep_labels: bool = False) -> CellMinibatches:
        batch_size = settings.batch_size if batch_size is None else batch_size
        check_integer("batch_size", batch_size, 1)
        manager = self._manager(cells, keep_labels=keep_labels)
        return CellMinibatches(cells.annotation, manager, cells.expression, batch_size)

    def _minibatches_of(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | np.ndarray | None,
        source: str | None,
        batch_size: int | None,
        dataloader: Iterable[dict[str, Any]] | None,
    ) -> CellMinibatches | LoaderMinibatches:
        """Minibatches of the caller's cells or of the caller's own loader, which excludes all other choices."""
        if dataloader is None:
            return self._minibatches(self._cells_for_prediction(adata, indices, source), batch_size)
        self._needs_training()
        others = {"adata": adata, "indices": indices, "source": source, "batch_size": batch_size}
        given = [name for name, value in others.items() if value is not None]
        if given:
            msg = f"Expected `dataloader` without {given}: the loader decides about cells and minibatches."
            raise ValueError(msg)
        return LoaderMinibatches(
            dataloader,
            self.registry_,
            condition_key=self._condition_key,
            labels_key=self._labels_key,
            gene_likelihood=self.module.gene_likelihood,
            needs_size_factor=self.module.use_size_factor_key,
        )


def positions_of(indices: Sequence[int] | np.ndarray | None, obs_names: pd.Index) -> np.ndarray:
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
        found = f"a mask of {len(asked)}" if asked.dtype.kind == "b" else f"{asked.min()} to {asked.max()}"
        msg = f"`indices` ({found}) do not fit the {len(positions)} cells of `adata`."
        raise ValueError(msg)
    return positions[asked if asked.size else asked.astype(np.int64)]
