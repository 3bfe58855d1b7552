"""Which cells are trained on together: the split, and batches balanced by condition."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvi.data import AnnDataManager

__all__ = ["ConditionBalancedSampler", "TRVAEDataSplitter", "current_seed", "seeded"]

logger = logging.getLogger(__name__)

_TURN = threading.RLock()
_MIN_CELLS_PER_CONDITION = 32
_MAX_DENSITY = 0.2  # above, the dense product is the faster one


def current_seed() -> int:
    """``scvi.settings.seed``, or 0 where it is not set."""
    return 0 if settings.seed is None else int(settings.seed)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed torch with :func:`current_seed` inside the block and leave its global state as it was.

    Threads take turns, as they would draw from each other's random numbers otherwise.
    """
    if not _TURN.acquire(blocking=False):
        logger.info("Waiting until the model that another thread makes or trains is ready.")
        _TURN.acquire()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(current_seed())
            yield
    finally:
        _TURN.release()


class ConditionBalancedSampler(Sampler):
    """Batches of cell indices with as many cells of every condition as of any other.

    A maximum mean discrepancy between many and few cells is noise. A batch therefore draws the same
    number of cells of each condition; a condition with fewer cells gives all it has, never one twice
    in a batch, and the others make up for it. With more conditions than `batch_size / 32`, every batch
    takes that many at random, and further ones where small conditions leave it unfilled.

    Within a condition, labels take shares proportional to the square root of their numbers of cells: a
    rare cell type is seen more often than its share, a common one less. Within a condition and label no
    cell is drawn again before all others were.

    Processes that train together take turns: every one draws the batches of all and keeps its own, so that together
    they see the batches of a single process, and every one as many as any other.

    Parameters
    ----------
    conditions
        Condition code of every cell of the data set.
    labels
        Label code of every cell of the data set; all the same where there are no labels.
    indices
        Cells to draw from.
    batch_size
        Cells a batch.
    reference
        Code of a condition that is part of every batch.
    seed
        Together with the epoch it decides all draws.
    num_replicas, rank
        Number of processes that train together, and which of them this one is.
    """

    def __init__(
        self,
        conditions: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        batch_size: int,
        reference: int | None,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        indices = np.asarray(indices, dtype=np.int64)
        self.pools = {int(c): indices[conditions[indices] == c] for c in np.unique(conditions[indices])}
        self.labels = labels
        self.batch_size = min(batch_size, len(indices))
        self.n_batches = max(1, round(len(indices) / (batch_size * num_replicas)))
        self.n_active = min(len(self.pools), max(2, batch_size // _MIN_CELLS_PER_CONDITION))
        self.reference = reference if reference in self.pools else None
        self.seed = seed
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch, also when training is resumed."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        queues = {c: _LabelQueues(pool, self.labels[pool], rng) for c, pool in self.pools.items()}
        for turn in range(self.n_batches * self.num_replicas):
            active = self._draw_conditions(rng)
            quotas = _quotas([len(self.pools[c]) for c in active], self.batch_size)
            batch = np.concatenate([queues[c].take(n) for c, n in zip(active, quotas, strict=True)])
            if turn % self.num_replicas == self.rank:
                yield np.sort(batch).tolist()  # backed files are read in order, and give the same batch as memory

    def _draw_conditions(self, rng: np.random.Generator) -> list[int]:
        codes = list(self.pools)
        if self.n_active == len(codes):
            return codes
        fixed = [] if self.reference is None else [self.reference]
        order = fixed + rng.permutation([c for c in codes if c not in fixed]).tolist()
        cells = np.cumsum([min(len(self.pools[c]), _MIN_CELLS_PER_CONDITION) for c in order])
        filled = int(np.searchsorted(cells, self.n_active * _MIN_CELLS_PER_CONDITION)) + 1
        return order[: max(filled, self.n_active)]


class _LabelQueues:
    """Cells of one condition, drawn label by label."""

    def __init__(self, pool: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
        self.rng = rng
        self.queues = [_Queue(pool[labels == label], rng) for label in np.unique(labels)]
        self.sizes = np.array([len(queue.pool) for queue in self.queues])

    def take(self, n: int) -> np.ndarray:
        shares = _shares(self.sizes, n)
        quotas = np.floor(shares).astype(int)
        # what rounding down leaves goes to labels at random, so that a share below one cell is not lost
        rest = shares - quotas
        more = n - quotas.sum()
        if more:
            quotas[self.rng.choice(len(rest), more, replace=False, p=rest / rest.sum())] += 1
        return np.concatenate([queue.take(quota) for queue, quota in zip(self.queues, quotas, strict=True)])


def _shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """Split `total` in proportion to the square roots of the sizes, none above its size."""
    shares = np.zeros(len(sizes))
    full = np.zeros(len(sizes), dtype=bool)
    while True:
        roots = np.where(full, 0.0, np.sqrt(sizes))
        shares = np.where(full, sizes, (total - sizes[full].sum()) * roots / max(roots.sum(), 1e-12))
        over = ~full & (shares > sizes)
        if not over.any():
            return shares
        full |= over


class _Queue:
    """Cells in random order; starts over when they run out."""

    def __init__(self, pool: np.ndarray, rng: np.random.Generator) -> None:
        self.pool, self.rng = pool, rng
        self.waiting = rng.permutation(pool)

    def take(self, n: int) -> np.ndarray:
        head, self.waiting = self.waiting[:n], self.waiting[n:]
        if len(head) < n:
            again = self.rng.permutation(self.pool[~np.isin(self.pool, head)])  # no cell twice in a batch
            missing, rest = again[: n - len(head)], again[n - len(head) :]
            self.waiting = self.rng.permutation(np.concatenate([rest, head]))
            head = np.concatenate([head, missing])
        return head


def _quotas(sizes: list[int], total: int) -> list[int]:
    """Split `total` as evenly as the sizes allow."""
    quotas = [0] * len(sizes)
    left = total
    ascending = sorted(range(len(sizes)), key=sizes.__getitem__)  # what a small one lacks goes to the larger
    for place, i in enumerate(ascending):
        quotas[i] = min(sizes[i], left // (len(sizes) - place))
        left -= quotas[i]
    return quotas


class _SparseCells(Dataset):
    """Cells in memory by lists of positions, their counts as sparse tensors.

    scvi-tools' own looks every column up in a table again for every batch.
    """

    def __init__(self, manager: AnnDataManager) -> None:
        keys = [key for key in manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        others = manager.create_torch_dataset(data_and_attributes=keys)
        self.counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        self.others = {key: torch.from_numpy(values) for key, values in others[slice(None)].items()}

    def __len__(self) -> int:
        return self.counts.shape[0]

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

    The others are those of :class:`~scvi.dataloaders.DataSplitter`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        mmd_reference: int | None = None,
        needs_validation: bool = False,
        sparse_input: bool = False,
        **kwargs: Any,
    ) -> None:
        # drop_last: our batches are always full, upstream need not move stray cells about
        super().__init__(adata_manager, **{**kwargs, "drop_last": True})
        self.mmd_reference = mmd_reference
        self.sparse_input = sparse_input
        self.stays_sparse = False
        self.conditions = np.asarray(adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        self.labels = np.asarray(adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        if self.external_indexing is None:
            self.train_idx, self.val_idx, self.test_idx = self._split()
        else:
            self.train_idx, self.val_idx, self.test_idx = (
                np.asarray(i, dtype=np.int64) for i in self.external_indexing
            )
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        if needs_validation and self.n_val == 0:
            msg = (
                f"early_stopping needs validation cells, but of {len(self.conditions)} cells none is left for that. "
                "Train on fewer (train_size), or pass early_stopping=False."
            )
            raise ValueError(msg)

    def setup(self, stage: str | None = None) -> None:
        """Nothing: the split is made with the object."""

    def _split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(current_seed())
        validation_size = 1.0 - self.train_size if self.validation_size is None else self.validation_size
        parts: tuple[list[np.ndarray], ...] = ([], [], [])
        for code in np.unique(self.conditions):
            cells = np.flatnonzero(self.conditions == code)
            if self.shuffle_set_split:
                cells = rng.permutation(cells)
            n_train = max(1, round(self.train_size * len(cells)))
            n_validation = min(round(validation_size * len(cells)), len(cells) - n_train)
            for part, some in zip(parts, np.split(cells, [n_train, n_train + n_validation]), strict=True):
                part.append(some)
        train, validation, test = (np.concatenate(part) for part in parts)
        return train, validation, test

    def _sampler(self, indices: np.ndarray) -> ConditionBalancedSampler:
        return ConditionBalancedSampler(
            self.conditions,
            self.labels,
            indices,
            batch_size=self.data_loader_kwargs["batch_size"],
            reference=self.mmd_reference,
            seed=current_seed(),
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
        return DataLoader(
            self._dataset(),
            sampler=batches,
            batch_size=None,  # the sampler gives whole batches
            num_workers=workers,
            persistent_workers=settings.dl_persistent_workers and workers > 0,
            pin_memory=self.pin_memory,
        )

    def _dataset(self) -> Dataset:
        if self.stays_sparse:
            return _SparseCells(self.adata_manager)
        return self.adata_manager.create_torch_dataset(load_sparse_tensor=self.load_sparse_tensor)

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
