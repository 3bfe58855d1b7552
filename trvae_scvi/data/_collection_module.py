"""The data module of an annbatch collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from annbatch import DatasetCollection, Loader
from annbatch.samplers import SequentialSampler
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import check_integer
from trvae_scvi._seeds import current_seed

from ._collection import (
    backed,
    check_conditions,
    place_in,
    read_categorical,
    read_numbers,
    read_var_names,
    value_summary,
)
from ._collection_batches import Minibatches, RunSampler, fast_decompression
from ._columns import categorical_columns
from ._designs import warn_of_columns
from ._registry import make_registry
from ._sampler import divided, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annbatch.abc import Sampler

__all__ = ["CollectionDataModule"]

_MIN_RUNS = 200  # a small collection is read in smaller pieces, so that the validation cells can be drawn


class CollectionDataModule(LightningDataModule):
    """The cells of an annbatch collection, for :meth:`~trvae_scvi.TRVAE.train`.

    Validation cells are runs of cells drawn at random from the whole collection. Only the codes of the registered
    columns are held in memory for all cells. All is drawn with the `seed`, which is that of scvi-tools when the cells
    are divided last, as :meth:`~trvae_scvi.TRVAE.train` does.

    Parameters
    ----------
    collection
        The cells.
    arguments
        Names of columns and layer, as :func:`~trvae_scvi.data._registry.setup_arguments` gives them.
    chunk_size
        Cells of a run, at most.
    preload_nchunks
        Runs in memory at a time.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :meth:`~trvae_scvi.TRVAE.setup_annbatch`.
    """

    def __init__(
        self,
        collection: DatasetCollection,
        arguments: dict[str, Any],
        *,
        chunk_size: int,
        preload_nchunks: int,
    ) -> None:
        super().__init__()
        self._groups, self._place = list(collection), place_in(collection, arguments["layer"])
        columns = {key: read_categorical(self._groups, key) for key in categorical_columns(arguments)}
        condition = columns[arguments["condition_key"]]
        check_conditions(condition, arguments["condition_key"])
        warn_of_columns(pd.DataFrame(columns), arguments)
        self.n_obs = len(condition)
        self._conditions = condition.categories.to_numpy()
        self.n_batch = len(self._conditions)  # that of scvi-tools is the condition
        self.n_labels = 1 if arguments["labels_key"] is None else len(columns[arguments["labels_key"]].categories)
        self.var_names = read_var_names(self._groups[0])
        self.n_vars = len(self.var_names)
        self.values = value_summary(collection)
        self.registry = make_registry(
            arguments,
            var_names=self.var_names,
            categories={key: list(column.categories) for key, column in columns.items()},
            n_obs=self.n_obs,
        )
        self._codes = _codes(columns, arguments, self._groups)
        self._runs = _runs(self.n_obs, chunk_size)
        self._cells_loaded = chunk_size * preload_nchunks
        self.batch_size = 512
        self.mmd_reference: int | None = None
        self.data_loader_kwargs: dict[str, Any] = {}  # scvi-tools' logging reads it
        self.set_split()

    def set_batch_size(self, batch_size: int | None = None) -> None:
        """Set the cells of a training and validation batch; ``None`` leaves them."""
        if batch_size is not None:
            check_integer("batch_size", batch_size, 2)
            if batch_size > self._cells_loaded:
                msg = (
                    f"Expected a `batch_size` of at most the {self._cells_loaded} cells in memory at a time, found "
                    f"{batch_size}. Set up with a larger `preload_nchunks`."
                )
                raise ValueError(msg)
            self.batch_size = batch_size

    def set_split(
        self,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
    ) -> None:
        """Divide the runs into those to train on, to validate with, and the rest.

        Parameters
        ----------
        train_size, validation_size
            Shares, by default 0.9 and what that leaves.
        shuffle_set_split
            Whether runs are drawn at random, as ``scvi.settings.seed`` has it, or in the order of the collection.
        batch_size
            As for :meth:`set_batch_size`.

        Raises
        ------
        TypeError
            If a share is no number.
        ValueError
            If a share is not between 0 and 1, both are above 1 in sum, or a condition has no training cell.
        """
        self.set_batch_size(batch_size)
        train_size, validation_size = shares(train_size, validation_size)
        self.seed = current_seed()
        runs = self._runs
        if shuffle_set_split:
            runs = np.random.default_rng(self.seed).permutation(runs)
        parts = divided(runs, train_size, validation_size)
        self._train_runs, self._validation_runs, _ = parts
        self.train_idx, self.val_idx, self.test_idx = map(_cells, parts)
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        present = np.bincount(self._codes[REGISTRY_KEYS.BATCH_KEY][self.train_idx, 0], minlength=self.n_batch)
        absent = list(self._conditions[present == 0])
        if absent:
            msg = (
                f"No training cell is left of the conditions {absent}: their cells are few or lie together. "
                "Train on more (train_size), or write the collection anew with shuffle=True."
            )
            raise ValueError(msg)

    def train_dataloader(self) -> Minibatches:
        """Balanced batches of training cells, new ones every epoch."""
        return self._balanced(self._train_runs)

    def val_dataloader(self) -> Minibatches | list[Any]:
        """Always the same balanced batches of validation cells; nothing without any."""
        return self._balanced(self._validation_runs, fixed=True) if self.n_val else []

    def inference_dataloader(self, batch_size: int | None = None) -> Minibatches:
        """All cells once, in the order of the collection, `batch_size` (2,048) at a time."""
        size = 2048 if batch_size is None else batch_size
        check_integer("batch_size", size, 1)
        sampler = SequentialSampler(batch_size=size, chunk_size=size, preload_nchunks=max(1, 8192 // size))
        return Minibatches(self._loader(sampler), self._codes, dense=True)

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Make values dense on the device, where a sparse batch comes cheaper."""
        x = batch[REGISTRY_KEYS.X_KEY]
        return batch if x.layout == torch.strided else {**batch, REGISTRY_KEYS.X_KEY: x.to_dense()}

    def _balanced(self, runs: np.ndarray, *, fixed: bool = False) -> Minibatches:
        if self.trainer is not None and self.trainer.world_size > 1:
            msg = "Cells on disk are served to one device only. Train with devices=1."
            raise NotImplementedError(msg)
        sampler = RunSampler(
            runs,
            self._codes[REGISTRY_KEYS.BATCH_KEY][:, 0],
            self._codes[REGISTRY_KEYS.LABELS_KEY][:, 0],
            n_loaded=max(1, round(self._cells_loaded * len(self._runs) / self.n_obs)),
            batch_size=self.batch_size,
            reference=self.mmd_reference,
            seed=self.seed,
            epoch=(lambda: 0) if fixed else self._epoch,
        )
        return Minibatches(self._loader(sampler), self._codes, dense=False)

    def _epoch(self) -> int:
        return 0 if self.trainer is None else int(self.trainer.current_epoch)

    def _loader(self, sampler: Sampler) -> Loader:
        loader = Loader(batch_sampler=sampler, return_index=True, preload_to_gpu=False)
        with fast_decompression():
            for group in self._groups:
                loader.add_dataset(backed(group[self._place]))
        return loader


def _codes(columns: dict[str, pd.Categorical], arguments: dict[str, Any], groups: Sequence[Any]) -> dict[str, Any]:
    """What minibatches hold beside the values, as tables with a row for every cell."""
    condition, labels_key = columns[arguments["condition_key"]].codes, arguments["labels_key"]
    labels = np.zeros(len(condition), np.int8) if labels_key is None else columns[labels_key].codes
    codes = {REGISTRY_KEYS.BATCH_KEY: condition[:, None], REGISTRY_KEYS.LABELS_KEY: labels[:, None]}
    categorical, continuous = arguments["categorical_covariate_keys"], arguments["continuous_covariate_keys"]
    if categorical:
        codes[REGISTRY_KEYS.CAT_COVS_KEY] = np.column_stack([columns[key].codes for key in categorical])
    if continuous:
        codes[REGISTRY_KEYS.CONT_COVS_KEY] = np.column_stack([read_numbers(groups, key) for key in continuous])
    return codes


def _runs(n_obs: int, chunk_size: int) -> np.ndarray:
    """First cells and ends of runs that differ by one cell at most, so that every epoch has as many batches."""
    n_runs = -(-n_obs // min(chunk_size, max(1, n_obs // _MIN_RUNS)))
    bounds = np.linspace(0, n_obs, n_runs + 1).astype(np.int64)
    return np.column_stack([bounds[:-1], bounds[1:]])


def _cells(runs: np.ndarray) -> np.ndarray:
    """Positions of the cells of some runs, in order."""
    parts = [np.arange(start, stop, dtype=np.int32) for start, stop in runs[np.argsort(runs[:, 0])]]
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts])
