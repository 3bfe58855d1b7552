"""Balanced batches of cells on disk, of which a few runs are in memory at a time."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from annbatch.abc import Sampler
from scipy import sparse
from scvi import REGISTRY_KEYS

from ._sampler import ConditionBalancedSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from annbatch import Loader

__all__ = ["Minibatches", "RunSampler", "fast_decompression"]


def fast_decompression() -> AbstractContextManager[Any]:
    """Arrays that are opened inside the block are decompressed by several threads, without which that takes longest."""
    # zarr finds the package by this name, wherever arrays are opened next; outside of the block nothing has changed
    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})


class RunSampler(Sampler):
    """Balanced batches of the cells of a few runs at a time.

    Runs are contiguous cells of the collection, read in one piece. Every pass takes them in random order, some at a
    time, and makes batches of their cells as :class:`ConditionBalancedSampler` does of all.

    Parameters
    ----------
    runs
        First cells and ends of the runs, `n x 2`.
    conditions, labels
        Codes of every cell of the collection.
    batch_size, reference, seed
        As for :class:`ConditionBalancedSampler`.
    n_loaded
        Runs in memory at a time.
    epoch
        Gives the epoch, which decides the draws of a pass together with the seed.
    """

    shuffle = True

    def __init__(
        self,
        runs: np.ndarray,
        conditions: np.ndarray,
        labels: np.ndarray,
        *,
        n_loaded: int,
        batch_size: int,
        reference: int | None,
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        self.runs, self.epoch = runs, epoch
        self.conditions, self.labels = conditions, labels
        self._batch_size, self.reference, self.seed = batch_size, reference, seed
        self.n_windows = max(1, round(len(runs) / n_loaded))
        self.n_cells = int((runs[:, 1] - runs[:, 0]).sum())

    @property
    def batch_size(self) -> int:
        """Cells a batch."""
        return self._batch_size

    def n_batches(self, n_obs: int) -> int:
        """Batches of a pass, at least one for every load."""
        return max(self.n_windows, round(self.n_cells / self.batch_size))

    def validate(self, n_obs: int) -> None:
        """Nothing to check: the runs are those of the collection."""

    def _sample(self, n_obs: int) -> Iterator[Any]:
        rng = np.random.default_rng([self.seed, self.epoch()])
        windows = np.array_split(rng.permutation(self.runs), self.n_windows)
        quotas = np.diff(np.linspace(0, self.n_batches(n_obs), self.n_windows + 1).astype(int))
        for window, quota in zip(windows, quotas, strict=True):
            cells = np.concatenate([np.arange(start, stop) for start, stop in window])
            batches = ConditionBalancedSampler(
                self.conditions[cells],
                self.labels[cells],
                np.arange(len(cells)),
                batch_size=self.batch_size,
                reference=self.reference,
                seed=int(rng.integers(1 << 31)),
            )
            batches.n_batches = int(quota)
            yield {
                "requests": [slice(int(start), int(stop)) for start, stop in window],
                "splits": [np.asarray(batch) for batch in batches],
            }


class Minibatches:
    """Minibatches as scvi-tools' modules expect them, with ``X`` as a sparse tensor unless `dense` is set.

    Parameters
    ----------
    loader
        Gives values and positions of cells.
    codes
        What else a minibatch holds, with a row for every cell of the collection.
    dense
        Whether ``X`` is dense.
    """

    def __init__(self, loader: Loader, codes: dict[str, np.ndarray], *, dense: bool) -> None:
        self.loader, self.codes, self.dense = loader, codes, dense

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = iter(self.loader)
        with fast_decompression():  # annbatch opens the arrays with the first batch, and keeps them
            first = list(itertools.islice(batches, 1))
        for batch in itertools.chain(first, batches):
            values, cells = batch["X"], batch["index"]
            tensors = {key: torch.from_numpy(codes[cells]) for key, codes in self.codes.items()}
            whole = {key: tensors[key].long() for key in tensors.keys() - {REGISTRY_KEYS.CONT_COVS_KEY}}
            yield {REGISTRY_KEYS.X_KEY: _tensor(values, dense=self.dense), **tensors, **whole}


def _tensor(values: Any, *, dense: bool) -> torch.Tensor:
    if not sparse.issparse(values):
        return torch.from_numpy(np.asarray(values, dtype=np.float32))
    if dense:
        return torch.from_numpy(values.astype(np.float32).toarray())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        starts, genes = (torch.from_numpy(part.astype(np.int64)) for part in (values.indptr, values.indices))
        filled = torch.from_numpy(values.data.astype(np.float32))
        # that nothing is checked is said, as silence makes torch warn
        return torch.sparse_csr_tensor(starts, genes, filled, size=values.shape, check_invariants=False)
