"""Cells of an AnnData for training: the split, and loaders of balanced batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from trvae_scvi._seeds import current_seed
from trvae_scvi.data._sampler import ConditionBalancedSampler, divided, shares
from trvae_scvi.data._strata import codes_of

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

__all__ = ["TRVAEDataSplitter"]

_MAX_DENSITY = 0.2  # above, the dense product is the faster one


class _SparseCells(Dataset):
    """Cells in memory by lists of positions, their counts as sparse tensors.

    scvi-tools' own looks every column up in a table again for every batch.
    """

    def __init__(self, manager: AnnDataManager) -> None:
        keys = [key for key in manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        others = manager.create_torch_dataset(data_and_attributes=keys)
        self.counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        self.others = {key: torch.from_numpy(values) for key, values in others[slice(None)].items()}

    def __getitem__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        block = self.counts[rows].astype(np.float32, copy=False)
        indptr, indices, values = map(torch.from_numpy, (block.indptr, block.indices, block.data))
        counts = torch.sparse_csr_tensor(indptr, indices, values, size=block.shape, check_invariants=False)
        return {REGISTRY_KEYS.X_KEY: counts, **{key: table[rows] for key, table in self.others.items()}}


class TRVAEDataSplitter(DataSplitter):
    """Training and validation cells, split within every condition, in condition-balanced batches.

    The validation batches are drawn once.

    Parameters
    ----------
    mmd_reference
        Code of a condition that is part of every batch.
    needs_validation
        Whether to raise a ValueError if no cell is left for validation.
    sparse_input
        Whether batches may be sparse tensors, where that is faster.
    seed
        Of the split and of the batches; ``None`` takes ``scvi.settings.seed``.

    The others are those of :class:`~scvi.dataloaders.DataSplitter`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        mmd_reference: int | None = None,
        needs_validation: bool = False,
        sparse_input: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # drop_last: our batches are always full, upstream need not move stray cells about
        super().__init__(adata_manager, **{**kwargs, "drop_last": True})
        self.seed = current_seed() if seed is None else seed
        self.mmd_reference = mmd_reference
        self.sparse_input = sparse_input
        self.stays_sparse = False
        self.conditions = codes_of(adata_manager, REGISTRY_KEYS.BATCH_KEY)
        self.labels = codes_of(adata_manager, REGISTRY_KEYS.LABELS_KEY)
        parts = self._split() if self.external_indexing is None else self.external_indexing
        self.train_idx, self.val_idx, self.test_idx = (np.asarray(part, dtype=np.int64) for part in parts)
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        if needs_validation and self.n_val == 0:
            msg = (
                f"early_stopping needs validation cells, but of {len(self.conditions)} cells none is left for that. "
                "Train on fewer (train_size), or pass early_stopping=False."
            )
            raise ValueError(msg)

    def setup(self, stage: str | None = None) -> None:
        """Nothing: the split is made with the object."""

    def _split(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        sizes = shares(self.train_size, self.validation_size)
        of_conditions = []
        for code in np.unique(self.conditions):
            cells = np.flatnonzero(self.conditions == code)
            if self.shuffle_set_split:
                cells = rng.permutation(cells)
            of_conditions.append(divided(cells, *sizes))
        return [np.concatenate(part) for part in zip(*of_conditions, strict=True)]

    def _sampler(self, indices: np.ndarray) -> ConditionBalancedSampler:
        return ConditionBalancedSampler(
            self.conditions,
            self.labels,
            indices,
            batch_size=self.data_loader_kwargs["batch_size"],
            reference=self.mmd_reference,
            seed=self.seed,
            **self._replicas(),
        )

    def _replicas(self) -> dict[str, int]:
        """How many processes train together, and which one this is; nothing outside of training or on one device."""
        if self.trainer is None or self.trainer.world_size == 1:
            return {}
        if not isinstance(self.trainer.strategy, DDPStrategy):
            msg = (
                f"Expected a DDP strategy for {self.trainer.world_size} devices, found "
                f"{type(self.trainer.strategy).__name__}. Pass strategy='ddp' or another one of that family."
            )
            raise ValueError(msg)
        return self.trainer.distributed_sampler_kwargs

    def _loader(self, batches: Sampler | list[list[int]]) -> DataLoader:
        workers = settings.dl_num_workers
        self.stays_sparse = self._is_faster_sparse() and workers == 0
        if self.stays_sparse:
            dataset: Dataset = _SparseCells(self.adata_manager)
        else:
            dataset = self.adata_manager.create_torch_dataset(load_sparse_tensor=self.load_sparse_tensor)
        return DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,  # the sampler gives whole batches
            num_workers=workers,
            persistent_workers=settings.dl_persistent_workers and workers > 0,
            pin_memory=self.pin_memory,
        )

    def _is_faster_sparse(self) -> bool:
        """Whether counts had best stay sparse up to the network's first layer."""
        x = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        return (
            self.sparse_input
            and torch.backends.mkl.is_available()  # without it torch has no such product
            and self.trainer is not None
            and self.trainer.strategy.root_device.type == "cpu"
            and isinstance(x, sparse.csr_matrix)
            and x.nnz <= _MAX_DENSITY * x.shape[0] * x.shape[1]
            and x.has_canonical_format
        )

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """As upstream, unless sparse counts are what the network takes."""
        if self.stays_sparse:
            return batch
        return cast("dict[str, torch.Tensor]", super().on_after_batch_transfer(batch, dataloader_idx))

    def train_dataloader(self) -> DataLoader:
        """Batches of training cells, new ones every epoch."""
        return self._loader(self._sampler(self.train_idx))

    def val_dataloader(self) -> DataLoader | None:
        """Always the same batches of validation cells; ``None`` without any."""
        return self._loader(list(self._sampler(self.val_idx))) if self.n_val else None

    def test_dataloader(self) -> DataLoader | None:
        """Always the same batches of test cells; ``None`` without any."""
        return self._loader(list(self._sampler(self.test_idx))) if len(self.test_idx) else None
