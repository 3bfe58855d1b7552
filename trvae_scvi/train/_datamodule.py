"""Training from data that a data module serves, e.g. from disk. A mixin for the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import check_integer
from trvae_scvi._math._summaries import ValueSummary, summarize_tensor
from trvae_scvi._seeds import current_seed
from trvae_scvi.data._columns import check_not_condition
from trvae_scvi.data._registry import own_registry
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._values import check_summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from trvae_scvi._math._likelihoods import Likelihood
    from trvae_scvi.data._collection_module import CollectionDataModule
    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["CheckBatches", "check_datamodule", "prepare_datamodule", "setup_annbatch"]


class CheckBatches(Callback):
    """Checks the values of every batch that a data module serves before the model sees them, and makes them dense.

    Parameters
    ----------
    likelihood
        What their values must be.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    @classmethod
    def needed(cls, datamodule: object, likelihood: Likelihood) -> list[CheckBatches]:
        """The callback, unless all values of a data module are known already."""
        return [cls(likelihood)] if _known_values(datamodule) is None else []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse several devices, all of which the data module would serve the same cells."""
        if trainer.world_size > 1:
            msg = "A data module serves one device only. Train with devices=1."
            raise NotImplementedError(msg)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, torch.Tensor], *args: int
    ) -> None:
        """Check a training batch."""
        self._check(batch)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, torch.Tensor], *args: int
    ) -> None:
        """Check a validation batch."""
        self._check(batch)

    def _check(self, batch: dict[str, torch.Tensor]) -> None:
        x = batch[REGISTRY_KEYS.X_KEY]
        if x.layout != torch.strided:  # it is on the device by now, where a sparse batch came cheaper
            x = x.to_dense()
        batch[REGISTRY_KEYS.X_KEY] = x = x.float()
        check_summary(summarize_tensor(x), "a batch of the data module", self.likelihood)


def setup_annbatch(
    collection_path: str | os.PathLike[str],
    paths: Sequence[str | os.PathLike[str]] | None,
    arguments: dict[str, Any],
    *,
    rebuild: bool,
    shuffle: bool,
    chunk_size: int,
    preload_nchunks: int,
) -> CollectionDataModule:
    """Write and open a collection for a class of models, see :meth:`~trvae_scvi.TRVAE.setup_annbatch`."""
    try:
        import zarrs  # noqa: F401 - which annbatch can do without, but not in reasonable time

        from trvae_scvi.data._collection import build_collection, open_collection
        from trvae_scvi.data._collection_module import CollectionDataModule
    except ImportError as error:
        msg = (
            "Training from disk needs annbatch, which runs on Python 3.12 or newer. Install the extra `annbatch`: "
            "`pip install '.[annbatch]'` in a clone of trvae-scvi."
        )
        raise ImportError(msg) from error
    check_not_condition(arguments)
    for name, number in (("chunk_size", chunk_size), ("preload_nchunks", preload_nchunks)):
        check_integer(name, number, 1)  # before an hour of writing
    path = os.fspath(collection_path)
    if paths is not None:
        files = [os.fspath(file) for file in paths]
        build_collection(path, files, arguments, rebuild=rebuild, shuffle=shuffle, seed=current_seed())
    elif rebuild:
        msg = "rebuild=True needs the `paths` of the files to make the collection of."
        raise ValueError(msg)
    collection = open_collection(path)
    return CollectionDataModule(collection, arguments, chunk_size=chunk_size, preload_nchunks=preload_nchunks)


def check_datamodule(datamodule: Any, registry: dict[str, Any], module: TRVAEModule) -> None:
    """Raise unless a data module serves what a model was made for.

    Parameters
    ----------
    datamodule
        Whatever was given as one.
    registry, module
        Of the model.

    Raises
    ------
    TypeError
        If it is no data module.
    ValueError
        If it serves other genes, conditions or covariates, lacks a column, or is known to hold values that the model
        does not take.
    """
    served_registry = getattr(datamodule, "registry", None)
    if not isinstance(datamodule, LightningDataModule) or served_registry is None:
        msg = f"Expected `datamodule` to be a data module of scvi-tools, found {type(datamodule).__name__}."
        raise TypeError(msg)
    served, own = Schema.of(own_registry(served_registry)), Schema.of(registry)
    for what, names_of in _NAMES.items():
        found, expected = names_of(served), names_of(own)
        if found != expected:
            msg = (
                f"Expected the {what} the model was made with, {_shortened(expected)}, found {_shortened(found)}. "
                "Make the model of this data module with `TRVAE(registry=datamodule.registry)`."
            )
            raise ValueError(msg)
    if module.use_size_factor_key and served.size_factor_key is None:
        msg = "The model was made with size factors, which this data module does not serve."
        raise ValueError(msg)
    if module.options.mmd_balance_labels and served.labels_key is None:
        msg = "The model balances labels, which this data module does not serve; mmd_balance_labels=False does not."
        raise ValueError(msg)
    summary = _known_values(datamodule)
    if summary is not None:
        check_summary(summary, "the collection", module.likelihood)


def prepare_datamodule(
    datamodule: Any,
    *,
    mmd_reference: int | None,
    batch_size: int,
    train_size: float | None,
    validation_size: float | None,
    shuffle_set_split: bool,
    needs_validation: bool,
    n_cells: int,
) -> tuple[int, int]:
    """Have a data module that was checked divide its cells and make its batches, as far as it can.

    Parameters
    ----------
    datamodule
        The data module.
    mmd_reference
        Code of the condition of which every batch is to hold cells, ``None`` for none in particular.
    batch_size, train_size, validation_size, shuffle_set_split
        As for :meth:`~trvae_scvi.TRVAE.train`.
    needs_validation
        Whether to raise where there are no validation cells.
    n_cells
        Number of cells where the data module does not tell.

    Returns
    -------
    Numbers of all cells and of those to train on.

    Raises
    ------
    ValueError
        If there are no validation cells though there should be, or the data module cannot do what is asked.
    """
    if hasattr(datamodule, "mmd_reference"):
        datamodule.mmd_reference = mmd_reference
    # upstream does so, too, from 1.5 on, but never sets a batch size of 128
    if hasattr(datamodule, "set_batch_size"):
        datamodule.set_batch_size(batch_size)
    if hasattr(datamodule, "set_split"):
        datamodule.set_split(
            train_size=train_size, validation_size=validation_size, shuffle_set_split=shuffle_set_split
        )
    if needs_validation and (
        getattr(datamodule, "n_val", None) == 0 or not is_overridden("val_dataloader", datamodule)
    ):
        msg = (
            "early_stopping needs validation cells, but the data module has none. Give it some (train_size), or "
            "pass early_stopping=False."
        )
        raise ValueError(msg)
    n_obs = int(getattr(datamodule, "n_obs", n_cells))
    return n_obs, int(getattr(datamodule, "n_train", n_obs))


def _known_values(datamodule: object) -> ValueSummary | None:
    """What a data module tells of all its values, if it does."""
    values = getattr(datamodule, "values", None)
    return values if isinstance(values, ValueSummary) else None


def _shortened(values: Any) -> str:
    values = list(values.items()) if isinstance(values, dict) else values
    return f"{values[:3]} and {len(values) - 3} more" if len(values) > 3 else str(values)


def _text(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in values]


_NAMES: dict[str, Callable[[Schema], Any]] = {
    "genes": lambda schema: _text(schema.var_names),
    "conditions": lambda schema: _text(schema.conditions),
    "covariates": lambda schema: {key: _text(names) for key, names in schema.covariates.items()},
    "continuous covariates": lambda schema: schema.continuous_covariates,
}
