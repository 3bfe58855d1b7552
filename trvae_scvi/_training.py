"""Training: condition-balanced batches, the plan, best weights."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter
from scvi.train import TrainingPlan
from torch.utils.data import DataLoader, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning.pytorch as pl
    from scvi.data import AnnDataManager

__all__ = [
    "ConditionBalancedSampler",
    "RestoreBestWeights",
    "TRVAEDataSplitter",
    "TRVAETrainingPlan",
    "current_seed",
    "seeded",
]

logger = logging.getLogger(__name__)

_MIN_CELLS_PER_CONDITION = 32
_WARMUP_STEPS_FRACTION = 0.1


def current_seed() -> int:
    """``scvi.settings.seed``, or 0 where it is not set."""
    return 0 if settings.seed is None else int(settings.seed)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed torch with :func:`current_seed` inside the block and leave its global state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(current_seed())
        yield


class ConditionBalancedSampler(Sampler):
    """Batches of cell indices with as many cells of every condition as of any other.

    A maximum mean discrepancy between many and few cells is noise. A batch therefore draws the same
    number of cells of each condition; a condition with fewer cells gives all it has, never one twice
    in a batch, and the others make up for it. Within a condition no cell is drawn again before all
    others were. With more conditions than `batch_size / 32`, every batch takes that many at random.

    Parameters
    ----------
    conditions
        Condition code of every cell of the data set.
    indices
        Cells to draw from.
    batch_size
        Cells a batch.
    reference
        Code of a condition that is part of every batch.
    seed
        Together with the epoch it decides all draws.
    """

    def __init__(
        self, conditions: np.ndarray, indices: np.ndarray, *, batch_size: int, reference: int | None, seed: int
    ) -> None:
        indices = np.asarray(indices, dtype=np.int64)
        self.pools = {int(c): indices[conditions[indices] == c] for c in np.unique(conditions[indices])}
        self.batch_size = min(batch_size, len(indices))
        self.n_batches = max(1, round(len(indices) / batch_size))
        self.n_active = min(len(self.pools), max(2, batch_size // _MIN_CELLS_PER_CONDITION))
        self.reference = reference if reference in self.pools else None
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch, also when training is resumed."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        queues = {c: _Queue(pool, rng) for c, pool in self.pools.items()}
        for _ in range(self.n_batches):
            active = self._draw_conditions(rng)
            quotas = _quotas([len(self.pools[c]) for c in active], self.batch_size)
            batch = np.concatenate([queues[c].take(n) for c, n in zip(active, quotas, strict=True)])
            yield np.sort(batch).tolist()  # backed files are read in order, and give the same batch as memory

    def _draw_conditions(self, rng: np.random.Generator) -> list[int]:
        codes = list(self.pools)
        if self.n_active == len(codes):
            return codes
        fixed = [] if self.reference is None else [self.reference]
        others = [c for c in codes if c not in fixed]
        return fixed + rng.choice(others, self.n_active - len(fixed), replace=False).tolist()


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


class TRVAEDataSplitter(DataSplitter):
    """Training and validation cells, split within every condition, in condition-balanced batches.

    The validation batches are drawn once. Parameters are those of
    :class:`~scvi.dataloaders.DataSplitter`.
    """

    def __init__(self, adata_manager: AnnDataManager, *, mmd_reference: int | None = None, **kwargs: Any) -> None:
        # drop_last: our batches are always full, upstream need not move stray cells about
        super().__init__(adata_manager, **{**kwargs, "drop_last": True})
        self.mmd_reference = mmd_reference
        self.conditions = np.asarray(adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        if self.external_indexing is None:
            self.train_idx, self.val_idx, self.test_idx = self._split()
        else:
            self.train_idx, self.val_idx, self.test_idx = (np.asarray(i, dtype=np.int64) for i in self.external_indexing)
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)

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
            indices,
            batch_size=self.data_loader_kwargs["batch_size"],
            reference=self.mmd_reference,
            seed=current_seed(),
        )

    def _loader(self, batches: Sampler | list[list[int]]) -> DataLoader:
        workers = settings.dl_num_workers
        return DataLoader(
            self.adata_manager.create_torch_dataset(load_sparse_tensor=self.load_sparse_tensor),
            sampler=batches,
            batch_size=None,  # the sampler gives whole batches
            num_workers=workers,
            persistent_workers=settings.dl_persistent_workers and workers > 0,
            pin_memory=self.pin_memory,
        )

    def train_dataloader(self) -> DataLoader:
        """Batches of training cells, new ones every epoch."""
        return self._loader(self._sampler(self.train_idx))

    def val_dataloader(self) -> DataLoader | None:
        """Always the same batches of validation cells; ``None`` without any."""
        return self._loader(list(self._sampler(self.val_idx))) if self.n_val else None

    def test_dataloader(self) -> DataLoader | None:
        """Always the same batches of test cells; ``None`` without any."""
        return self._loader(list(self._sampler(self.test_idx))) if len(self.test_idx) else None


class TRVAETrainingPlan(TrainingPlan):
    """Training plan with a KL warm-up and a one-cycle learning rate tied to the length of training.

    The learning rate rises linearly to `lr` over the first tenth of all steps and falls to zero along a
    cosine. The validation loss uses the final KL weight whatever the warm-up stands at.

    Parameters
    ----------
    module
        A :class:`~trvae_scvi.TRVAEModule`.
    lr, weight_decay, eps
        Peak learning rate, weight decay and epsilon of Adam.
    lr_schedule
        Whether the learning rate follows the cycle or is constant.
    max_kl_weight
        KL weight at the end of the warm-up; the module's by default.
    **kwargs
        Further arguments of :class:`~scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        lr: float = 3e-3,
        weight_decay: float = 1e-6,
        eps: float = 1e-8,
        lr_schedule: bool = True,
        max_kl_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.lr_schedule = lr_schedule
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            max_kl_weight=module.kl_weight if max_kl_weight is None else max_kl_weight,
            **kwargs,
        )

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Seed every epoch by itself, so that a resumed run equals an uninterrupted one."""
        if batch_idx == 0:  # not before the loader is made, which draws a random number, too
            torch.manual_seed(current_seed() * 1_000_003 + self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """The same noise in every validation, so that its losses can be compared."""
        torch.manual_seed(current_seed())

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Validation with the final KL weight."""
        during_training = self.loss_kwargs
        self.loss_kwargs = {**during_training, "kl_weight": self.max_kl_weight}
        super().validation_step(batch, batch_idx)
        self.loss_kwargs = during_training

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, with the cycle unless `reduce_lr_on_plateau` asks for another schedule."""
        config = super().configure_optimizers()
        if self.lr_schedule and not self.reduce_lr_on_plateau:
            n_steps = max(1, int(self.trainer.estimated_stepping_batches))
            schedule = torch.optim.lr_scheduler.LambdaLR(config["optimizer"], lambda step: _cycle(step / n_steps))
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config


def _cycle(progress: float) -> float:
    if progress < _WARMUP_STEPS_FRACTION:
        return 0.01 + 0.99 * progress / _WARMUP_STEPS_FRACTION
    rest = min(1.0, (progress - _WARMUP_STEPS_FRACTION) / (1.0 - _WARMUP_STEPS_FRACTION))
    return 0.5 * (1.0 + math.cos(math.pi * rest))


class RestoreBestWeights(Callback):
    """Keeps a copy of the weights with the lowest validation loss and restores it at the end.

    Parameters
    ----------
    warmup_epochs
        Epochs before which no validation counts.
    monitor
        Name of the metric to keep low.
    """

    def __init__(self, *, warmup_epochs: int, monitor: str = "validation_loss") -> None:
        self.warmup_epochs = warmup_epochs
        self.monitor = monitor
        self.best_score = math.inf
        self.best_epoch: int | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are the best so far."""
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        if trainer.sanity_checking or trainer.current_epoch < self.warmup_epochs or not score < self.best_score:
            return
        self.best_score, self.best_epoch = score, trainer.current_epoch
        weights = pl_module.module.state_dict()
        self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the copy."""
        if self.best_weights is None:
            return
        pl_module.module.load_state_dict(self.best_weights)
        logger.info("Restored the weights of epoch %s (%s %.4f).", self.best_epoch, self.monitor, self.best_score)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.best_score, self.best_epoch = state_dict["score"], state_dict["epoch"]
        self.best_weights = state_dict["weights"]
