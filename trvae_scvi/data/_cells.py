"""Cells to answer for: checked once, when they are taken from an AnnData, and given a minibatch at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import settings
from torch.utils.data import BatchSampler, DataLoader

from trvae_scvi._arguments import check_choice, check_integer
from trvae_scvi._compat import ADATA_MINIFY_TYPE, SETUP_COLUMNS, copy_minification, get_minify_type, parent_of

from ._columns import check_anndata, check_condition, check_covariates, check_known, check_single
from ._expression import Expression, RowsDataset
from ._gene_names import check_var_names
from ._setup import register
from ._values import check_summary, get_values, place_of, summarize_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scvi.data import AnnDataManager

    from trvae_scvi._math._likelihoods import Likelihood

    from ._schema import Schema

__all__ = ["AnnDataCells", "Cells", "positions_of"]

_LABELS = "_trvae_labels"


class Cells(Protocol):
    """Checked cells, by minibatches: dictionaries of tensors with scvi-tools' keys.

    Attributes
    ----------
    obs
        Columns of the cells; of those that a loader gives, of the ones iterated over last.
    latest
        Those of the minibatch given last.
    var
        Table of the genes.
    minify_type
        Which of scvi-tools' minified data they are, if any.
    batch_size
        Cells a minibatch; ``None`` if a loader decides.
    n_batches
        Number of minibatches, if it is known.
    repeatable
        Whether they can be iterated over again.
    earlier_source_key
        The column in which an earlier prediction of these cells kept the condition they were measured under.
    """

    var: pd.DataFrame
    minify_type: str | None
    n_batches: int | None
    repeatable: bool
    earlier_source_key: str | None

    @property
    def obs(self) -> pd.DataFrame: ...
    @property
    def latest(self) -> pd.DataFrame: ...
    @property
    def batch_size(self) -> int | None: ...
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]: ...


class AnnDataCells:
    """Cells of an AnnData, which is not changed and of whose expression nothing is read until it is asked for.

    Parameters
    ----------
    adata
        The caller's; a view will do.
    rows
        Positions of the cells, in any order.
    schema
        Of the model.
    batch_size
        Cells a minibatch; ``None`` is ``scvi.settings.batch_size``.
    """

    repeatable = True

    def __init__(self, adata: AnnData, rows: np.ndarray, schema: Schema, batch_size: int | None = None) -> None:
        self.batch_size: int = settings.batch_size if batch_size is None else batch_size
        check_integer("batch_size", self.batch_size, 1)
        self.schema = schema
        parent, parent_rows, columns = parent_of(adata)
        #: Their expression, which stays where it is.
        self.expression = Expression(get_values(parent, schema.layer), parent_rows[rows], columns)
        own = ~adata.obs.columns.isin(SETUP_COLUMNS)
        #: An AnnData of our own with all about them but their expression, whose place is empty.
        self.annotation = AnnData(obs=adata.obs.loc[:, own].iloc[rows].copy(), var=adata.var.copy())
        put_values(self.annotation, schema.layer, sparse.csr_matrix(self.annotation.shape, dtype=np.float32))
        copy_minification(adata, self.annotation, rows)
        #: Columns of the cells, and table of the genes.
        self.obs: pd.DataFrame = self.annotation.obs
        self.var: pd.DataFrame = self.annotation.var
        self.minify_type: str | None = get_minify_type(self.annotation)
        self.n_batches: int | None = -(-len(rows) // self.batch_size)
        self.earlier_source_key = _earlier_source_key(adata, schema)
        self._given = slice(0, 0)

    @classmethod
    def checked(
        cls,
        adata: AnnData,
        schema: Schema,
        likelihood: Likelihood,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        source: str | None = None,
        batch_size: int | None = None,
    ) -> Self:
        """Check the caller's cells and take the wanted ones, whose expression is read once for the check.

        Parameters
        ----------
        adata, schema, batch_size
            As above.
        likelihood
            What their values must be.
        indices
            Positions, or a boolean mask.
        source
            Only cells of this condition; ``None`` for all.
        """
        check_anndata(adata)
        check_var_names(adata, schema.var_names)
        condition = check_condition(adata, schema.condition_key, new_data=False)
        check_known("conditions", condition, schema.conditions)
        asked = rows = positions_of(indices, adata.obs_names)
        if source is not None:
            check_choice("source", source, list(schema.conditions))
            rows = asked[(condition == source).to_numpy()[asked]]
        if len(rows) == 0:
            given = condition.iloc[asked].astype(str).value_counts()
            of_source = "" if source is None else f" with source {source!r}"
            found = {name: int(n) for name, n in given.items() if n} or "none at all"
            msg = f"No cell to predict from{of_source}; found {found}. Pass cells of another condition or selection."
            raise ValueError(msg)
        cells = cls(adata, rows, schema, batch_size)
        cells.check_covariates()
        if cells.minify_type != ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            check_summary(summarize_values(cells.expression), f"{place_of(schema.layer)} of these cells", likelihood)
        return cells

    def check_covariates(self) -> None:
        """Check all that is registered but conditions and labels, which are never fed to the network."""
        if self.schema.labels_key is not None and self.schema.labels_key in self.obs:
            check_single(self.annotation, self.schema.labels_key)
        arguments = {**self.schema.registry["setup_args"], "labels_key": None}
        check_covariates(self.annotation, arguments, new_data=False)
        for key, known in self.schema.covariates.items():
            check_known("covariate", self.obs[key], known)

    @property
    def latest(self) -> pd.DataFrame:
        """Columns of the cells of the minibatch given last."""
        return self.obs.iloc[self._given]

    def registered(self, own: AnnData, *, keep_labels: bool = False) -> AnnDataManager:
        """Register their annotation, or a copy of it, as the model's cells were.

        Labels are never fed to the network: missing or new ones are no obstacle, unless `keep_labels` is set.
        """
        registry = self.schema.registry
        arguments = dict(registry["setup_args"])
        if self.schema.labels_key is not None and not keep_labels:
            own.obs[_LABELS] = self.schema.labels[0]
            arguments["labels_key"] = _LABELS
        setup = {"model_name": registry["model_name"], "setup_args": arguments}
        return register(own, setup, source_registry=registry)

    @functools.cached_property
    def _dataset(self) -> RowsDataset:
        own = self.annotation.copy()  # registering writes to obs and uns
        return RowsDataset(self.registered(own), self.expression)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=BatchSampler(range(len(self.obs)), self.batch_size, drop_last=False),
            num_workers=settings.dl_num_workers,
            generator=torch.Generator(),  # else a loader draws from the global one, which others may be training with
            persistent_workers=settings.dl_persistent_workers and settings.dl_num_workers > 0,
        )
        for start, tensors in zip(range(0, len(self.obs), self.batch_size), loader, strict=True):
            self._given = slice(start, start + self.batch_size)
            yield tensors


def put_values(adata: AnnData, layer: str | None, values: Any) -> None:
    """Put values where a model reads them."""
    if layer is None:
        adata.X = values
    else:
        adata.layers[layer] = values


def _earlier_source_key(adata: AnnData, schema: Schema) -> str | None:
    earlier = adata.uns.get("trvae")
    if isinstance(earlier, Mapping) and {"method", "target"} <= set(earlier):  # a prediction
        return str(earlier.get("source_key", f"{schema.condition_key}_source"))
    return None


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
