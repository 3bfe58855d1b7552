"""Training: `train` with its defaults, a mixin for the model."""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import StochasticWeightAveraging
from scvi import settings
from scvi.dataloaders import DataSplitter
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import LoudEarlyStopping, TrainingPlan
from scvi.utils import unsupported_if_adata_minified

from trvae_scvi._arguments import check_choice, check_integer, check_number
from trvae_scvi._compat import merge_kwargs
from trvae_scvi._math._mmd import MIN_CELLS
from trvae_scvi.data._designs import warn
from trvae_scvi.data._registry import adopting
from trvae_scvi.data._sampler import TRVAEDataSplitter, seeded
from trvae_scvi.data._values import read_once

from ._datamodule import CheckBatches
from ._plan import RestoreBestWeights, TRVAETrainingPlan
from ._stopping import Progress, usable_afterwards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import lightning.pytorch as pl
    from anndata import AnnData
    from lightning.pytorch.callbacks import Callback

    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["TrainingMixin", "default_epochs"]

logger = logging.getLogger(__name__)

_KL_WARMUP_FRACTION = 1 / 3
_REFERENCE_CELLS = 20_000
_REFERENCE_EPOCHS = 60
_EPOCHS_BOUNDS = (10, 400)
# Parameters of another precision than single would not fit the data, which predictions read in single precision.
_PRECISIONS = (None, 32, 16, "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")


class TrainingMixin(UnsupervisedTrainingMixin):
    """Training of :class:`~trvae_scvi.TRVAE`."""

    _data_splitter_cls = TRVAEDataSplitter
    _training_plan_cls = TRVAETrainingPlan

    if TYPE_CHECKING:
        module: TRVAEModule
        adata: AnnData
        history: dict[str, Any] | None
        history_: dict[str, Any] | None
        is_trained_: bool
        nonnegative_: bool
        _check_expression: Callable[[str, str], bool]
        _check_own_cells: Callable[[], None]
        _check_own_columns: Callable[[], None]
        _note_measured: Callable[..., None]
        _warn_of_few_cells: Callable[[], None]
        surgery_: dict[str, bool] | None
        _prepare_datamodule: Callable[..., tuple[int, int]]
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
        datamodule: pl.LightningDataModule | None = None,
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
            Cells a step, on every device. The MMD is estimated within a batch, so that it should not be small.
        early_stopping
            Whether to stop when the validation loss, the whole objective with its final weights, has not
            fallen for a quarter of `max_epochs`, and to restore the weights with the lowest one. Both
            count only once the KL warm-up is over. `early_stopping_monitor`, `early_stopping_mode` and
            `early_stopping_warmup_epochs` set other rules for both, `early_stopping_patience` and
            `early_stopping_min_delta` for when to stop.
        datasplitter_kwargs
            Further arguments of :class:`~scvi.dataloaders.DataSplitter`: `external_indexing` and `pin_memory`.
        plan_config, trainer_config
            As upstream: settings that `plan_kwargs` and the trainer's arguments override.
        plan_kwargs
            Arguments of the training plan: `lr`, `weight_decay`, `eps`, `lr_schedule`,
            `n_epochs_kl_warmup`, `max_kl_weight` and those of :class:`~scvi.train.TrainingPlan`.
        datamodule
            Where the cells come from instead of an AnnData: what :meth:`setup_annbatch` gives, or another of
            scvi-tools' data modules, with the registry the model was made with. One that has no `set_split` or
            `set_batch_size` divides and batches its cells itself, whatever is said here; only that of
            :meth:`setup_annbatch` balances conditions. `datasplitter_kwargs` and `load_sparse_tensor` are not used.
        trainer_kwargs
            Further arguments, of :class:`~scvi.train.Trainer`, e.g. `callbacks`, or `ckpt_path` to resume from a
            Lightning checkpoint. Gradients are clipped at a norm of 100 unless `gradient_clip_val` says otherwise.

        Raises
        ------
        TypeError
            If an argument has the wrong type, or `plan_kwargs` or `datasplitter_kwargs` an unknown name.
        ValueError
            If `batch_size` or `max_epochs` is too small, `train_size` is not above 0 and at most 1, `precision` or
            `early_stopping_mode` is none of those there are, cells, a registered column or values changed since the
            set-up, early stopping has no validation cells, the data are minified, nothing is left to train, no batch
            was trained on, weights are to be averaged in a frozen model, or several devices are to share the model by
            another strategy than DDP.
        KeyboardInterrupt
            If the user stops training (Ctrl-C, the stop button of a notebook) - after the best weights so far (the
            latest ones without early stopping, and during the warm-up) are restored, the history is there and the model
            is marked as trained, so that it can be used, saved or trained further. Before the end of the first epoch
            there is nothing to keep, and the model is what it was before.

        Warns
        -----
        UserWarning
            If the MMD was asked for and no batch had enough cells to estimate it, if conditions or labels have too few
            cells for it, or if `max_epochs` is below a third of the default.

        Notes
        -----
        Several devices need one of Lightning's DDP strategies, e.g. ``devices=2, strategy="ddp"``. Each has a copy of
        the model and batches of its own, so that `batch_size` is per device and an epoch has as many times fewer steps.
        The MMD is estimated within a device's batch; gradients and logged values, the MMD's among them, are the means
        over the devices. Early stopping and the best weights go by the mean validation loss, alike on every device.

        Threads of one process train one after the other, since torch has one source of random numbers for all of them;
        processes train side by side.

        Examples
        --------
        >>> tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
        >>> model = tv.TRVAE(adata)
        >>> model.train(max_epochs=2, batch_size=256, plan_kwargs={"lr": 1e-3})
        >>> len(model.history["validation_loss"])
        2
        """
        check_integer("batch_size", batch_size, 2)  # the MMD needs company
        if max_epochs is not None:
            check_integer("max_epochs", max_epochs, 1)
        _check_split(train_size, datasplitter_kwargs or {})
        trainer_kwargs = merge_kwargs(trainer_config, trainer_kwargs, name="trainer")
        check_choice("precision", trainer_kwargs.get("precision"), _PRECISIONS)
        if trainer_kwargs.get("limit_train_batches") == 0:
            msg = "limit_train_batches=0 leaves nothing to train on, but the model would count as trained."
            raise ValueError(msg)
        nonnegative = self._check_trainable(
            trainer_kwargs.get("callbacks") or (), has_datamodule=datamodule is not None
        )
        split: dict[str, Any] = {
            "train_size": train_size,
            "validation_size": validation_size,
            "shuffle_set_split": shuffle_set_split,
        }
        if datamodule is None:
            n_cells, n_train = self.adata.n_obs, self.adata.n_obs * (train_size or 0.9)
        else:
            n_cells, n_train = self._prepare_datamodule(
                datamodule, needs_validation=early_stopping, batch_size=batch_size, **split
            )
        if max_epochs is None:
            max_epochs = default_epochs(n_cells)
        elif not self.is_trained_ and self.surgery_ is None:
            _warn_of_short_training(max_epochs, n_cells)
        misplaced = sorted(set(trainer_kwargs) & (_parameters(TrainingPlan, TRVAETrainingPlan) - {"module"}))
        if misplaced:
            msg = f"{misplaced} are arguments of the training plan: pass them as `plan_kwargs`, a dictionary."
            raise TypeError(msg)
        plan_kwargs = _plan_arguments(merge_kwargs(plan_config, plan_kwargs, name="plan"), max_epochs)
        trainer_kwargs = {"gradient_clip_val": 100.0} | trainer_kwargs
        if datamodule is not None:
            plan_kwargs["n_obs"] = n_train  # upstream hands it to the loss only where a data module has `n_train`
            checks = CheckBatches.needed(datamodule, self.module.gene_likelihood)
            trainer_kwargs["callbacks"] = [*checks, *(trainer_kwargs.get("callbacks") or ())]
        if early_stopping:
            warmup = plan_kwargs.get("n_epochs_kl_warmup"), plan_kwargs.get("n_steps_kl_warmup")
            trainer_kwargs = self._early_stopping_arguments(max_epochs, *warmup, trainer_kwargs)
        progress, was_trained = Progress(), self.is_trained_
        trainer_kwargs["callbacks"] = [*(trainer_kwargs.get("callbacks") or ()), progress]
        if not self.is_trained_ and self.surgery_ is None:
            self._warn_of_few_cells()
        with (
            self._taking_note(progress, nonnegative=nonnegative, was_trained=was_trained),
            usable_afterwards(self, progress),
            seeded(),
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are)")
            warnings.filterwarnings("ignore", message="early_stopping was automatically disabled due to the use of DDP")
            if self.module.is_frozen:  # Lightning wonders at modules that stay in evaluation
                warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                **split,
                load_sparse_tensor=load_sparse_tensor,
                batch_size=batch_size,
                early_stopping=False,  # upstream's gives up on several devices; ours is among the callbacks
                datasplitter_kwargs={
                    "mmd_reference": self.module.mmd_reference,
                    "needs_validation": early_stopping,
                    "sparse_input": self.module.takes_sparse,
                    **(datasplitter_kwargs or {}),
                },
                plan_kwargs=plan_kwargs,
                datamodule=datamodule,
                # processes hand over the history in a file; our sampler shares out the batches itself
                **{"log_save_dir": folder, "use_distributed_sampler": datamodule is not None} | trainer_kwargs,
            )
        if progress.n_batches == 0 and not progress.moved:  # several devices have batches of their own
            self.is_trained_ = was_trained
            msg = "Nothing was trained: no step was taken. Allow for some (`max_steps`, `max_time`, learning rate)."
            raise ValueError(msg)
        # running means of batch normalisation are of one device's batches
        if self.trainer.world_size > 1:
            self.module.load_state_dict(self.trainer.strategy.broadcast(self.module.state_dict()))
        self._warn_of_absent_mmd()

    def _warn_of_absent_mmd(self) -> None:
        """Of a query there may be nothing to match, which is no mistake."""
        module = self.module
        if module.mmd_on is None or not module.mmd_weight or self.surgery_ is not None:
            return
        shared = " and labels that both have" if module.mmd_balance_labels else ""
        why = f"a pair of conditions needs {MIN_CELLS} cells of each{shared} in a batch."
        seen = {key: bool(np.any(values)) for key, values in (self.history or {}).items()}
        if not seen.get("mmd_train", True):
            msg = f"The MMD was 0 in all of training: {why} Raise `batch_size`, or say what is meant by `mmd_on=None`."
        elif not seen.get("mmd_validation", True):
            msg = (
                f"The MMD could not be estimated on the validation cells and did not count for early stopping: {why} "
                "There are too few; `train_size` sets their share."
            )
        else:
            return
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)

    @contextlib.contextmanager
    def _taking_note(self, progress: Progress, *, nonnegative: bool, was_trained: bool) -> Iterator[None]:
        """Bring up to date what the model knows of its training, if the block moved its weights."""
        try:
            yield
        finally:
            if progress.moved and self.surgery_ is None:
                self.nonnegative_ = nonnegative
                self._note_measured(was_trained=was_trained)
            if progress.moved and self.reference_summary_ is not None and not self.module.is_frozen:
                self.reference_summary_ = None
                logger.info("The kept cells are forgotten, as training moved them: call `store_reference_summary()`.")

    def _check_trainable(self, callbacks: Sequence[Callback], *, has_datamodule: bool) -> bool:
        """Check model and data before training; return whether no value is negative."""
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            msg = (
                "There is nothing to train: the query has no condition and no covariate that the reference does not "
                "know, and all else is frozen. Use the model as it is, or free more with `load_query_data`."
            )
            raise ValueError(msg)
        if self.module.is_frozen and any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
            msg = "StochasticWeightAveraging estimates batch normalisation anew, also where it is frozen. Leave it out."
            raise ValueError(msg)
        if not has_datamodule:
            if self.adata is None:
                msg = "The model has no data: pass a `datamodule`, or load it with an AnnData."
                raise ValueError(msg)
            # another set-up of the same AnnData may have written other codes into it, another step other values
            self._check_own_cells()
            with read_once():
                with adopting():
                    self._validate_anndata(self.adata)
                self._check_own_columns()
                return self._check_expression(self.module.gene_likelihood, " (changed since the model was made)")
        return self.nonnegative_

    @staticmethod
    def _early_stopping_arguments(
        max_epochs: int, warmup_epochs: int | None, warmup_steps: int | None, trainer_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        prefix = "early_stopping_"
        given = {name: value for name, value in trainer_kwargs.items() if name.startswith(prefix)}
        rest = {name: value for name, value in trainer_kwargs.items() if name not in given}
        patience = max(10, max_epochs // 4)
        settings: dict[str, Any] = {"monitor": "validation_loss", "warmup_epochs": warmup_epochs or 0}
        settings |= {"patience": patience, "mode": "min"}
        settings |= {name.removeprefix(prefix): value for name, value in given.items()}
        check_choice("early_stopping_mode", settings["mode"], ("min", "max"))
        if f"{prefix}warmup_epochs" in given or warmup_epochs is not None:
            warmup_steps = None
        # patience and min_delta say when to stop; the best weights are the best by any margin
        shared = {name: settings[name] for name in ("monitor", "mode", "warmup_epochs")}
        best = RestoreBestWeights(warmup_steps=warmup_steps, **shared)
        return {
            **rest,
            "check_val_every_n_epoch": rest.get("check_val_every_n_epoch") or 1,
            "callbacks": [*(rest.get("callbacks") or ()), best, LoudEarlyStopping(**settings)],
        }


def _warn_of_short_training(max_epochs: int, n_cells: int) -> None:
    default = default_epochs(n_cells)
    if 3 * max_epochs < default:
        warn(
            f"max_epochs={max_epochs} is less than a third of the default for {n_cells} cells, {default}. That does to "
            "see whether the code runs; predictions of a model trained so little are often worse than the mean shift."
        )


def _check_split(train_size: float | None, datasplitter_kwargs: dict[str, Any]) -> None:
    """Check what upstream would refuse late or, as its loaders' arguments, which ours do not take, ignore."""
    if train_size is not None:
        check_number("train_size", train_size, positive=True)
        if train_size > 1:
            msg = f"Expected `train_size`, a share of the cells, of at most 1, found {train_size}."
            raise ValueError(msg)
    known = _parameters(DataSplitter, TRVAEDataSplitter) - _parameters(TrainingMixin.train) - {"adata_manager"}
    unknown = sorted(set(datasplitter_kwargs) - known)
    if unknown:
        msg = f"Expected `datasplitter_kwargs` out of {sorted(known)}, found {unknown}."
        raise TypeError(msg)


def _parameters(*functions: Callable[..., Any]) -> set[str]:
    """Names of the arguments of functions or classes."""
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


def _plan_arguments(plan_kwargs: dict[str, Any], max_epochs: int) -> dict[str, Any]:
    """Check the plan's arguments and tie its KL warm-up to the number of epochs, unless it is in steps."""
    # upstream hands unknown names on to the loss, where they fail in the midst of training
    known = _parameters(TrainingPlan, TRVAETrainingPlan) - {"module"}
    unknown = sorted(set(plan_kwargs) - known)
    if unknown:
        msg = f"Expected `plan_kwargs` out of {sorted(known)}, found {unknown}."
        raise TypeError(msg)
    for name in ("lr", "weight_decay", "eps"):
        if isinstance(plan_kwargs.get(name), Real):
            check_number(f"plan_kwargs[{name!r}]", plan_kwargs[name])
    in_steps = plan_kwargs.get("n_steps_kl_warmup") is not None
    warmup = None if in_steps else round(max_epochs * _KL_WARMUP_FRACTION)
    return {"n_epochs_kl_warmup": warmup, **plan_kwargs}


def default_epochs(n_cells: int) -> int:
    """Passes through the training cells by default, of `n_cells` in all."""
    low, high = _EPOCHS_BOUNDS
    return int(np.clip(round(_REFERENCE_EPOCHS * _REFERENCE_CELLS / n_cells), low, high))
