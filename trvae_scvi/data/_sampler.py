"""Which cells are trained on together: batches balanced by condition and label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from trvae_scvi._arguments import check_number

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TRAIN_SIZE", "ConditionBalancedSampler", "divided", "shares"]

#: Share of the cells to train on, where nothing else is said.
TRAIN_SIZE = 0.9
_MIN_CELLS_PER_CONDITION = 32


def shares(train_size: float | None, validation_size: float | None) -> tuple[float, float]:
    """Shares of cells to train on and to validate with: one that is not given is what the other one leaves."""
    for name, share in (("train_size", train_size), ("validation_size", validation_size)):
        if share is not None:
            check_number(name, share, positive=name == "train_size", at_most=1.0)
    if train_size is None:
        train_size = TRAIN_SIZE if validation_size is None else 1.0 - validation_size
    if validation_size is None:
        validation_size = 1.0 - train_size
    if not 0.0 < train_size <= 1.0 - validation_size + 1e-9:
        msg = f"Expected shares above 0 of at most 1 in sum, found {train_size=} and {validation_size=}."
        raise ValueError(msg)
    return train_size, validation_size


def divided(items: np.ndarray, train_size: float, validation_size: float) -> list[np.ndarray]:
    """The first items to train on, one at least, the next to validate with, and the rest."""
    n_train = max(1, round(train_size * len(items)))
    n_validation = min(round(validation_size * len(items)), len(items) - n_train)
    return np.split(items, [n_train, n_train + n_validation])


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
