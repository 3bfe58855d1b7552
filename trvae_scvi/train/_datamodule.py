"""Training from data that a data module serves, e.g. from disk. A mixin for the model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from trvae_scvi._compat import (
    registered_categories,
    registered_continuous_covariates,
    registered_covariates,
    registered_var_names,
)
from trvae_scvi.data._columns import check_keys, check_not_condition
from trvae_scvi.data._registry import make_registry, own_registry
from trvae_scvi.data._values import ValueSummary, check_summary, summarize_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from trvae_scvi.data._collection_module import CollectionDataModule
    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["CheckBatches", "DataModuleMixin"]

_TRAIN_SIZE = 0.9


class CheckBatches(Callback):
    """Checks the values of every batch that a data module serves before the model sees them, and makes them dense.

    Parameters
    ----------
    gene_likelihood
        Decides what is checked: counts with at least one in every cell, finite values for ``"mse"``, values from 0 to 1
        for ``"bernoulli"``.
    """

    def __init__(self, gene_likelihood: str) -> None:
        self.gene_likelihood = gene_likelihood

    @classmethod
    def needed(cls, datamodule: Any, gene_likelihood: str) -> list[CheckBatches]:
        """The callback, unless all values of a data module are known already."""
        return [] if isinstance(getattr(datamodule, "values", None), ValueSummary) else [cls(gene_likelihood)]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse several devices, all of which the data module would serve the same cells."""
        if trainer.world_size > 1:
            msg = "A data module serves one device only. Train with devices=1."
            raise NotImplementedError(msg)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Check a training batch."""
        self._check(batch)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: dict[str, torch.Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Check a validation batch."""
        self._check(batch)

    def _check(self, batch: dict[str, torch.Tensor]) -> None:
        x = batch[REGISTRY_KEYS.X_KEY]
        if x.layout != torch.strided:  # it is on the device by now, where a sparse batch came cheaper
            x = x.to_dense()
        batch[REGISTRY_KEYS.X_KEY] = x = x.float()
        check_summary(summarize_tensor(x), "a batch of the data module", self.gene_likelihood)


class DataModuleMixin(BaseModelClass):
    """How :class:`~trvae_scvi.TRVAE` is set up for, and trained from, scvi-tools' data modules."""

    if TYPE_CHECKING:
        module: TRVAEModule
        registry_: dict[str, Any]

    @classmethod
    def setup_annbatch(
        cls,
        collection_path: str | os.PathLike[str],
        paths: Sequence[str | os.PathLike[str]] | None = None,
        condition_key: str = "condition",
        *,
        layer: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        rebuild: bool = False,
        shuffle: bool = True,
        chunk_size: int = 256,
        preload_nchunks: int = 32,
    ) -> CollectionDataModule:
        """Set up training from cells on disk, of which only a few thousand are in memory at a time.

        The cells of `paths` are written to an annbatch collection, shuffled, or one that is there is opened. Needs the
        extra ``trvae-scvi[annbatch]`` and Python 3.12.

        Parameters
        ----------
        collection_path
            Folder of the collection, ending in ``.zarr``.
        paths
            Files to make it of: h5ad files or zarr stores with the same genes in the same order. ``None`` opens the
            collection that is there, one made by annbatch itself included.
        condition_key, layer, labels_key, categorical_covariate_keys, continuous_covariate_keys
            As in :meth:`setup_anndata`.
        rebuild
            Whether to replace a collection that is there.
        shuffle
            Whether to write the cells in random order. Cells are read in runs of `chunk_size`, so that in a collection
            in the order of its files a batch holds what few runs hold.
        chunk_size
            Cells read in one piece, at most; the pieces are drawn at random.
        preload_nchunks
            Pieces in memory at a time. Batches are made of their cells, balanced by condition and label as in
            :meth:`train` on an AnnData, but as far as these are among them: of a condition with one cell in a thousand
            every batch holds the few that are in memory.

        Returns
        -------
        A data module for ``TRVAE(registry=datamodule.registry)`` and :meth:`train`.

        Raises
        ------
        ImportError
            If annbatch is missing.
        FileExistsError
            If there is a collection and neither is `paths` left out nor `rebuild` set, or `collection_path` is
            something else.
        FileNotFoundError
            If there is none and no `paths` are given.
        KeyError
            If a column or layer is not there.
        TypeError
            If a continuous covariate is no number, or the covariates are no list.
        ValueError
            If genes differ between files, values are NaN, infinite or beyond single precision, a column is incomplete
            or named twice, there is one condition only, a condition has fewer than three cells, or its column is that
            of the labels or a covariate, too.

        Warns
        -----
        UserWarning
            Of names and designs, as :meth:`setup_anndata`.

        Examples
        --------
        >>> files = ["atlas_1.h5ad", "atlas_2.h5ad"]
        >>> dm = tv.TRVAE.setup_annbatch("atlas.zarr", files, labels_key="cell_type")  # doctest: +SKIP
        >>> model = tv.TRVAE(registry=dm.registry)  # doctest: +SKIP
        >>> model.train(datamodule=dm)  # doctest: +SKIP
        >>> latent = model.get_latent_representation(dataloader=dm.inference_dataloader())  # doctest: +SKIP
        """
        try:
            from trvae_scvi.data._collection import build_collection, open_collection
            from trvae_scvi.data._collection_module import CollectionDataModule
        except ImportError as error:
            msg = (
                "Training from disk needs annbatch, which runs on Python 3.12 or newer. Install the extra `annbatch`: "
                "`pip install '.[annbatch]'` in a clone of trvae-scvi."
            )
            raise ImportError(msg) from error
        arguments = {
            "condition_key": condition_key,
            "layer": layer,
            "labels_key": labels_key,
            "size_factor_key": None,
            "categorical_covariate_keys": check_keys("categorical_covariate_keys", categorical_covariate_keys),
            "continuous_covariate_keys": check_keys("continuous_covariate_keys", continuous_covariate_keys),
        }
        check_not_condition(condition_key, arguments)
        path = os.fspath(collection_path)
        if paths is not None:
            build_collection(path, [os.fspath(p) for p in paths], arguments, rebuild=rebuild, shuffle=shuffle)
        elif rebuild:
            msg = "rebuild=True needs the `paths` of the files to make the collection of."
            raise ValueError(msg)
        return CollectionDataModule(
            open_collection(path),
            arguments,
            functools.partial(make_registry, cls),
            chunk_size=chunk_size,
            preload_nchunks=preload_nchunks,
        )

    @classmethod
    def _own_registry(cls, registry: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if registry is None else own_registry(cls, registry)

    def _check_datamodule(self, datamodule: Any) -> None:
        """Raise unless a data module serves what the model was made for."""
        if not isinstance(datamodule, LightningDataModule) or not hasattr(datamodule, "registry"):
            msg = f"Expected `datamodule` to be a data module of scvi-tools, found {type(datamodule).__name__}."
            raise TypeError(msg)
        served = own_registry(type(self), datamodule.registry)
        for what, reader in _READERS.items():
            found, expected = reader(served), reader(self.registry_)
            if found != expected:
                msg = (
                    f"Expected the {what} the model was made with, {_shortened(expected)}, found {_shortened(found)}. "
                    "Make the model of this data module with `TRVAE(registry=datamodule.registry)`."
                )
                raise ValueError(msg)
        if self.module.use_size_factor_key and served["setup_args"]["size_factor_key"] is None:
            msg = "The model was made with size factors, which this data module does not serve."
            raise ValueError(msg)
        if self.module.mmd_balance_labels and served["setup_args"]["labels_key"] is None:
            msg = "The model balances labels, which this data module does not serve; mmd_balance_labels=False does not."
            raise ValueError(msg)
        summary = getattr(datamodule, "values", None)
        if isinstance(summary, ValueSummary):
            check_summary(summary, "the collection", self.module.gene_likelihood)

    def _prepare_datamodule(
        self, datamodule: Any, *, needs_validation: bool, batch_size: int, **split: Any
    ) -> tuple[int, int]:
        """Check a data module, have it split its cells and give the numbers of all and of those to train on."""
        self._check_datamodule(datamodule)
        if hasattr(datamodule, "mmd_reference"):
            datamodule.mmd_reference = self.module.mmd_reference
        # upstream does so, too, from 1.5 on, but never sets a batch size of 128
        if hasattr(datamodule, "set_batch_size"):
            datamodule.set_batch_size(batch_size)
        if hasattr(datamodule, "set_split"):
            if split["train_size"] is None and split["validation_size"] is None:
                split["train_size"] = _TRAIN_SIZE  # as upstream; its own data module does not split unasked
            datamodule.set_split(**split)
        if needs_validation and (
            getattr(datamodule, "n_val", None) == 0 or not is_overridden("val_dataloader", datamodule)
        ):
            msg = (
                "early_stopping needs validation cells, but the data module has none. Give it some (train_size), or "
                "pass early_stopping=False."
            )
            raise ValueError(msg)
        n_cells = int(getattr(datamodule, "n_obs", self.summary_stats.n_cells))
        return n_cells, int(getattr(datamodule, "n_train", n_cells))


def _shortened(values: Any) -> str:
    values = list(values.items()) if isinstance(values, dict) else values
    return f"{values[:3]} and {len(values) - 3} more" if len(values) > 3 else str(values)


def _text(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in values]


_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "genes": lambda registry: _text(registered_var_names(registry)),
    "conditions": lambda registry: _text(registered_categories(registry, REGISTRY_KEYS.BATCH_KEY)),
    "covariates": lambda registry: {key: _text(names) for key, names in registered_covariates(registry).items()},
    "continuous covariates": registered_continuous_covariates,
}
