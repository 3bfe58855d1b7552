"""Training: the plan, the best weights, and `train` with its defaults, a mixin for the model."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import TrainingPlan
from scvi.utils import unsupported_if_adata_minified

from ._batches import TRVAEDataSplitter, current_seed, seeded
from ._compat import merge_kwargs, use_distributed_sampler
from ._validation import check_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import lightning.pytorch as pl
    from anndata import AnnData

    from ._module import TRVAEModule

__all__ = ["RestoreBestWeights", "TRVAETrainingPlan", "TrainingMixin"]

logger = logging.getLogger(__name__)

_WARMUP_STEPS_FRACTION = 0.1
_KL_WARMUP_FRACTION = 1 / 3
_REFERENCE_CELLS = 20_000
_REFERENCE_EPOCHS = 60
_EPOCHS_BOUNDS = (10, 400)


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
        module: TRVAEModule,
        *,
        lr: float = 3e-3,
        weight_decay: float = 1e-6,
        eps: float = 1e-8,
        lr_schedule: bool = True,
        max_kl_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
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

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Seed every epoch by itself, so that a resumed run equals an uninterrupted one."""
        if batch_idx == 0:  # not before the loader is made, which draws a random number, too
            torch.manual_seed(current_seed() * 1_000_003 + self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """The same noise in every validation, so that its losses can be compared."""
        torch.manual_seed(current_seed())

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Validation with the final KL weight."""
        during_training: dict[str, Any] = self.loss_kwargs
        self.loss_kwargs = {**during_training, "kl_weight": self.max_kl_weight}
        super().validation_step(batch, batch_idx)
        self.loss_kwargs = during_training

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, with the cycle unless `reduce_lr_on_plateau` asks for another schedule."""
        config = super().configure_optimizers()
        if self.lr_schedule and not self.reduce_lr_on_plateau:
            n_steps = max(1, int(self.trainer.estimated_stepping_batches))
            # a partial and not a lambda: the trainer, which the model keeps, can then be pickled
            schedule = torch.optim.lr_scheduler.LambdaLR(
                config["optimizer"], functools.partial(_cycle, n_steps=n_steps)
            )
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config


def _cycle(step: int, *, n_steps: int) -> float:
    """Share of the peak learning rate at a step."""
    progress = step / n_steps
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
        weights = pl_module.get_submodule("module").state_dict()
        self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the copy."""
        if self.best_weights is None:
            return
        pl_module.get_submodule("module").load_state_dict(self.best_weights)
        logger.info("Restored the weights of epoch %s (%s %.4f).", self.best_epoch, self.monitor, self.best_score)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.best_score, self.best_epoch = state_dict["score"], state_dict["epoch"]
        self.best_weights = state_dict["weights"]


class TrainingMixin(UnsupervisedTrainingMixin):
    """Training of :class:`~trvae_scvi.TRVAE`."""

    _data_splitter_cls = TRVAEDataSplitter
    _training_plan_cls = TRVAETrainingPlan

    if TYPE_CHECKING:
        module: TRVAEModule
        adata: AnnData
        reference_summary_: dict[str, np.ndarray] | None
        _validate_anndata: Callable[..., AnnData]

    @unsupported_if_adata_minified
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 512,
        early_stopping: bool = True,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_config: Any = None,
        plan_kwargs: dict[str, Any] | None = None,
        trainer_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Batches hold as many cells of every condition as of any other. The weight of the KL divergence
        rises over the first third of the epochs, the learning rate follows one cycle.

        Parameters
        ----------
        max_epochs
            Passes through the training cells. Defaults to 60 for 20,000 cells and in proportion more for
            fewer (at most 400), fewer for more (at least 10).
        accelerator, devices
            As for Lightning: ``"cpu"``, ``"gpu"``, ``"mps"``, ``"auto"``.
        train_size, validation_size
            Shares of the cells of every condition. By default 0.9 and the rest; what remains of one is a
            test set.
        shuffle_set_split
            Whether to draw the sets at random instead of in the order of the cells.
        load_sparse_tensor
            Whether to move sparse data to the device as such and make them dense there.
        batch_size
            Cells a step. The MMD is estimated within a batch, so that it should not be small.
        early_stopping
            Whether to stop when the validation loss, the whole objective with its final weights, has not
            fallen for a quarter of `max_epochs`, and to restore the weights with the lowest one. Both
            count only once the KL warm-up is over. `early_stopping_patience` sets another patience.
        datasplitter_kwargs
            Further arguments of :class:`~scvi.dataloaders.DataSplitter`, e.g. `external_indexing`.
        plan_config, trainer_config
            As upstream: settings that `plan_kwargs` and the trainer's arguments override.
        plan_kwargs
            Arguments of the training plan: `lr`, `weight_decay`, `eps`, `lr_schedule`,
            `n_epochs_kl_warmup`, `max_kl_weight` and those of :class:`~scvi.train.TrainingPlan`.
        **trainer_kwargs
            Arguments of :class:`~scvi.train.Trainer`, e.g. `callbacks`, or `ckpt_path` to resume from a
            Lightning checkpoint.

        Raises
        ------
        TypeError
            If an argument has the wrong type or `plan_kwargs` an unknown name.
        ValueError
            If `batch_size` or `max_epochs` is too small, early stopping has no validation cells, the data
            are minified, nothing is left to train, or weights are to be averaged in a frozen model.
        NotImplementedError
            If several devices are asked for.
        """
        check_integer("batch_size", batch_size, 2)  # the MMD needs company
        if max_epochs is not None:
            check_integer("max_epochs", max_epochs, 1)
        if use_distributed_sampler(trainer_kwargs.get("strategy")):
            msg = "Training on several devices is not supported yet; use one with devices=1."
            raise NotImplementedError(msg)
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            msg = (
                "There is nothing to train: the query has no condition and no covariate that the reference does not "
                "know, and all else is frozen. Use the model as it is, or free more with `load_query_data`."
            )
            raise ValueError(msg)
        self._prepare_training(trainer_kwargs.get("callbacks") or ())
        if max_epochs is None:
            max_epochs = _default_epochs(self.adata.n_obs)
        plan_kwargs = merge_kwargs(plan_config, plan_kwargs, name="plan")
        _check_plan(plan_kwargs)
        in_steps = plan_kwargs.get("n_steps_kl_warmup") is not None
        plan_kwargs.setdefault("n_epochs_kl_warmup", None if in_steps else round(max_epochs * _KL_WARMUP_FRACTION))
        trainer_kwargs = {"gradient_clip_val": 100.0} | merge_kwargs(trainer_config, trainer_kwargs, name="trainer")
        if early_stopping:
            n_train = self.adata.n_obs * (train_size or 0.9)
            steps = (plan_kwargs.get("n_steps_kl_warmup") or 0) * batch_size / n_train
            warmup = plan_kwargs.get("n_epochs_kl_warmup") or math.ceil(steps)
            trainer_kwargs = self._early_stopping_arguments(max_epochs, warmup, trainer_kwargs)
        with seeded(), warnings.catch_warnings():
            if self.module.is_frozen:  # Lightning wonders at modules that stay in evaluation
                warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                load_sparse_tensor=load_sparse_tensor,
                batch_size=batch_size,
                early_stopping=early_stopping,
                datasplitter_kwargs={
                    "mmd_reference": self.module.mmd_reference,
                    "needs_validation": early_stopping,
                    **(datasplitter_kwargs or {}),
                },
                plan_kwargs=plan_kwargs,
                **trainer_kwargs,
            )

    def _prepare_training(self, callbacks: Sequence[Callback]) -> None:
        if self.module.is_frozen and any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
            msg = "StochasticWeightAveraging estimates batch normalisation anew, also where it is frozen. Leave it out."
            raise ValueError(msg)
        # another set-up of the same AnnData may have written other codes into it
        self._validate_anndata(self.adata)
        if self.reference_summary_ is not None and not self.module.is_frozen:
            self.reference_summary_ = None
            logger.info("The kept cells are forgotten, as training moves them: call `store_reference_summary()` again.")
        self.module.train()  # Lightning leaves a model that was loaded in evaluation

    @staticmethod
    def _early_stopping_arguments(max_epochs: int, warmup: int, trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
        monitor = trainer_kwargs.get("early_stopping_monitor", "validation_loss")
        best = RestoreBestWeights(warmup_epochs=warmup, monitor=monitor)
        return {
            "early_stopping_monitor": monitor,
            "early_stopping_warmup_epochs": warmup,
            "early_stopping_patience": max(10, max_epochs // 4),
            **trainer_kwargs,
            "callbacks": [*trainer_kwargs.get("callbacks", ()), best],
        }


def _check_plan(plan_kwargs: dict[str, Any]) -> None:
    # upstream hands unknown names on to the loss, where they fail in the midst of training
    known = {
        name
        for cls in (TrainingPlan, TRVAETrainingPlan)
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    } - {"module"}
    unknown = sorted(set(plan_kwargs) - known)
    if unknown:
        msg = f"Expected `plan_kwargs` out of {sorted(known)}, found {unknown}."
        raise TypeError(msg)


def _default_epochs(n_cells: int) -> int:
    low, high = _EPOCHS_BOUNDS
    return int(np.clip(round(_REFERENCE_EPOCHS * _REFERENCE_CELLS / n_cells), low, high))
