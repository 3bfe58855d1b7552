"""The training plan: optimizer, schedules and what is logged; and the weights that are kept."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from scvi.train import LoudEarlyStopping, TrainingPlan

from trvae_scvi._seeds import current_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import lightning.pytorch as pl
    from scvi.module.base import LossOutput

    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["RestoreBestWeights", "TRVAETrainingPlan"]

logger = logging.getLogger(__name__)

_WARMUP_STEPS_FRACTION = 0.1


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
    seed
        Of every epoch's noise; ``None`` takes ``scvi.settings.seed``.
    **kwargs
        Further arguments of :class:`~scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: TRVAEModule,
        *,
        lr: float = 3e-3,
        weight_decay: float = 1e-6,
        eps: float = 1e-8,
        lr_schedule: bool = True,
        max_kl_weight: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.seed = current_seed() if seed is None else seed
        self.lr_schedule = lr_schedule
        self.module: TRVAEModule
        self.loss_kwargs: dict[str, Any]
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            max_kl_weight=module.kl_weight if max_kl_weight is None else max_kl_weight,
            **kwargs,
        )
        # upstream's steps pass these on, too, in training and in validation
        self.loss_kwargs["whole_objective"] = True
        self._train_means, self._validation_means = _Means(), _Means()

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Seed every epoch by itself, so that a resumed run equals an uninterrupted one."""
        if batch_idx == 0:  # not before the loader is made, which draws a random number, too
            # processes that train together do not share their noise
            place = self.current_epoch * self.trainer.world_size + self.global_rank
            torch.manual_seed(self.seed * 1_000_003 + place)

    def on_validation_epoch_start(self) -> None:
        """The same noise in every validation, so that its losses can be compared."""
        torch.manual_seed(self.seed)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One step. What is logged is added up and logged once an epoch, as that takes as long as half the step."""
        if self.on_step:
            return cast("torch.Tensor", super().training_step(batch, batch_idx))
        kl_weight = self.kl_weight
        output = self._losses(batch, kl_weight)
        self._train_means.add(output, kl_weight=kl_weight, train_loss=output.loss)
        self.prepare_scib_autotune(output.extra_metrics, "training")
        return output.loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Validation with the final KL weight."""
        if self.on_step:
            during_training: dict[str, Any] = self.loss_kwargs
            self.loss_kwargs = {**during_training, "kl_weight": self.max_kl_weight}
            super().validation_step(batch, batch_idx)
            self.loss_kwargs = during_training
            return
        output = self._losses(batch, self.max_kl_weight)
        self._validation_means.add(output, validation_loss=output.loss)
        self.prepare_scib_autotune(output.extra_metrics, "validation")

    def on_train_epoch_end(self) -> None:
        """Log the means over the training cells."""
        self._log_means(self._train_means, "train")
        super().on_train_epoch_end()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation cells."""
        self._log_means(self._validation_means, "validation")
        super().on_validation_epoch_end()

    def _losses(self, batch: dict[str, torch.Tensor], kl_weight: float) -> LossOutput:
        _, _, output = self.forward(batch, loss_kwargs={**self.loss_kwargs, "kl_weight": kl_weight})
        return output

    def _log_means(self, means: _Means, mode: str) -> None:
        own = ("kl_weight", "train_loss", "validation_loss")
        values = {name if name in own else f"{name}_{mode}": value for name, value in means.take().items()}
        in_bar = {name: values.pop(name) for name in own[1:] if name in values}
        for some, prog_bar in ((values, False), (in_bar, True)):
            self.log_dict(some, on_step=False, on_epoch=True, prog_bar=prog_bar, sync_dist=self.use_sync_dist)

    def get_optimizer_creator(self) -> Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]:
        """As upstream, but Adam in one pass over all parameters."""
        classes = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
        if self.optimizer_name not in classes:
            return super().get_optimizer_creator()
        # Lightning does not clip the gradients of a fused optimizer in mixed precision
        fused = None if isinstance(self.trainer.precision_plugin, MixedPrecision) else True
        settings = {"lr": self.lr, "eps": self.eps, "weight_decay": self.weight_decay}
        return functools.partial(classes[self.optimizer_name], fused=fused, **settings)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, with the cycle unless `reduce_lr_on_plateau` asks for another schedule."""
        config = super().configure_optimizers()
        if self.lr_schedule and not self.reduce_lr_on_plateau:
            self.trainer.fit_loop.setup_data()  # the number of steps asks for it, and says so
            n_steps = max(1, int(self.trainer.estimated_stepping_batches))
            # a partial and not a lambda: the trainer, which the model keeps, can then be pickled
            schedule = torch.optim.lr_scheduler.LambdaLR(
                config["optimizer"], functools.partial(_cycle, n_steps=n_steps)
            )
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config


class _Means:
    """Means over the cells of an epoch, added up on the device the model is on."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.n_cells = 0

    @torch.no_grad()
    def add(self, output: LossOutput, **others: torch.Tensor | float) -> None:
        """Add the terms of a minibatch's loss, and `others`."""
        n_cells = output.n_obs_minibatch
        # what autotune asks for besides is no number
        extra = {name: value for name, value in output.extra_metrics.items() if value.dim() == 0}
        for name, mean in {**extra, **others}.items():
            self.sums[name] = self.sums.get(name, 0.0) + torch.as_tensor(mean) * n_cells
        sums = {"reconstruction_loss": output.reconstruction_loss_sum, "kl_local": output.kl_local_sum}
        sums |= {"elbo": sum(sums.values()), "kl_global": output.kl_global_sum}
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.n_cells += n_cells

    def take(self) -> dict[str, torch.Tensor]:
        """The means; begins anew."""
        means = {name: value / self.n_cells for name, value in self.sums.items()}
        self.sums, self.n_cells = {}, 0
        return means


def _cycle(step: int, *, n_steps: int) -> float:
    """Share of the peak learning rate at a step."""
    progress = step / n_steps
    if progress < _WARMUP_STEPS_FRACTION:
        return 0.01 + 0.99 * progress / _WARMUP_STEPS_FRACTION
    rest = min(1.0, (progress - _WARMUP_STEPS_FRACTION) / (1.0 - _WARMUP_STEPS_FRACTION))
    return 0.5 * (1.0 + math.cos(math.pi * rest))


class RestoreBestWeights(Callback):
    """Keeps a copy of the weights with the best validation loss and restores it at the end.

    Parameters
    ----------
    warmup_epochs
        Epochs before which no validation counts.
    warmup_steps
        Steps of the optimizer instead; how many epochs they are shows when training begins, as several devices share
        an epoch's batches. Early stopping waits as long.
    monitor
        Name of the metric.
    mode
        Whether its best value is the lowest (``"min"``) or the highest (``"max"``).
    """

    def __init__(
        self,
        *,
        warmup_epochs: int,
        warmup_steps: int | None = None,
        monitor: str = "validation_loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.warmup_epochs = warmup_epochs
        self.warmup_steps = warmup_steps
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.best_score = self.sign * math.inf
        self.best_epoch: int | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn a warm-up in steps into one in epochs."""
        if self.warmup_steps is None:
            return
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        self.warmup_epochs = math.ceil(self.warmup_steps / steps)
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, LoudEarlyStopping):
                callback.warmup_epochs = self.warmup_epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if they are the best so far."""
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        is_better = self.sign * score < self.sign * self.best_score
        if trainer.sanity_checking or trainer.current_epoch < self.warmup_epochs or not is_better:
            return
        self.best_score, self.best_epoch = score, trainer.current_epoch
        weights = pl_module.get_submodule("module").state_dict()
        self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the copy."""
        self.restore(pl_module)

    def restore(self, pl_module: pl.LightningModule) -> None:
        """Restore the copy, if there is one."""
        if self.best_weights is None:
            return
        pl_module.get_submodule("module").load_state_dict(self.best_weights)
        logger.info("Restored the weights of epoch %s (%s %.4f).", self.best_epoch, self.monitor, self.best_score)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the copy if the user stopped training."""
        if isinstance(exception, KeyboardInterrupt):
            self.restore(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.best_score, self.best_epoch = state_dict["score"], state_dict["epoch"]
        self.best_weights = state_dict["weights"]
