"""Training: the defaults, what is checked before it and put in order after it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import tempfile
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import StochasticWeightAveraging
from scvi.dataloaders import DataSplitter
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import LoudEarlyStopping, TrainingPlan

from trvae_scvi._arguments import check_choice, check_integer, check_number
from trvae_scvi._compat import merge_kwargs
from trvae_scvi._math._mmd import MIN_CELLS
from trvae_scvi._seeds import current_seed, seeded
from trvae_scvi.data._designs import warn, warn_of_few_cells
from trvae_scvi.data._sampler import shares
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._strata import cells_by_label
from trvae_scvi.data._values import read_once

from ._datamodule import CheckBatches, check_datamodule, prepare_datamodule
from ._own_data import check_unchanged_cells, check_unchanged_columns, check_values
from ._plan import RestoreBestWeights, TRVAETrainingPlan
from ._prior import count_cells, learn_prior
from ._splitter import TRVAEDataSplitter
from ._stopping import Progress, usable_afterwards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning.pytorch.callbacks import Callback

    from trvae_scvi.data._model import Model
    from trvae_scvi.module import TRVAEModule

__all__ = ["default_epochs", "train_model"]

logger = logging.getLogger(__name__)

_KL_WARMUP_FRACTION = 1 / 3
_REFERENCE_CELLS = 20_000
_REFERENCE_EPOCHS = 60
_EPOCHS_BOUNDS = (10, 400)
_OURS = {"adata_manager", "module", "seed"}  # arguments of splitter and plan that a training sets
# Parameters of another precision than single would not fit the data, which predictions read in single precision.
_PRECISIONS = (None, 32, 16, "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")


def train_model(
    model: Model,
    run: Callable[..., None],
    validate: Callable[[], object],
    *,
    max_epochs: int | None,
    train_size: float | None,
    validation_size: float | None,
    shuffle_set_split: bool,
    batch_size: int,
    early_stopping: bool,
    datasplitter_kwargs: dict[str, Any] | None,
    plan_config: Any,
    plan_kwargs: dict[str, Any] | None,
    datamodule: Any,
    trainer_config: Any,
    trainer_kwargs: dict[str, Any],
    **others: Any,
) -> None:
    """Train a model, as :meth:`~trvae_scvi.TRVAE.train` describes it.

    Parameters
    ----------
    model
        The model.
    run
        scvi-tools' training of it.
    validate
        scvi-tools' check of its own data.
    **others
        Arguments of `run` that are passed on.

    The others are those of the method.
    """
    check_integer("batch_size", batch_size, 2)  # the MMD needs company
    if max_epochs is not None:
        check_integer("max_epochs", max_epochs, 1)
    # `validation_size` as given: what 1 - 0.9 leaves is rounded to less than 0.1, which others cut to fewer cells
    split: dict[str, Any] = {"train_size": shares(train_size, validation_size)[0], "validation_size": validation_size}
    split["shuffle_set_split"] = shuffle_set_split
    _check_split(datasplitter_kwargs or {})
    trainer_kwargs = {"gradient_clip_val": 100.0} | _trainer_arguments(trainer_config, trainer_kwargs)
    callbacks = list(trainer_kwargs.pop("callbacks", None) or ())
    _check_trainable(model, callbacks)
    set_here: dict[str, Any] = {"seed": current_seed()}
    nonnegative, n_cells = model.nonnegative_, int(model.summary_stats.n_cells)
    if datamodule is None:
        nonnegative = _check_own_data(model, validate)
    else:
        asked = {"batch_size": batch_size, "needs_validation": early_stopping, **split}
        # upstream hands `n_obs` to the loss only where a data module has `n_train`
        n_cells, set_here["n_obs"] = _prepare(datamodule, model, n_cells=n_cells, **asked)
        callbacks = CheckBatches.needed(datamodule, model.module.likelihood) + callbacks
    progress, was_trained = Progress(), model.is_trained_
    is_new = not was_trained and model.surgery_ is None
    if max_epochs is None:
        max_epochs = default_epochs(n_cells)
    elif is_new:
        _warn_of_short_training(max_epochs, n_cells)
    plan_kwargs = _plan_arguments(merge_kwargs(plan_config, plan_kwargs, name="plan"), max_epochs) | set_here
    if early_stopping:
        stopping, trainer_kwargs = _early_stopping(max_epochs, plan_kwargs, trainer_kwargs)
        callbacks += stopping
    if is_new:
        _warn_of_few_cells(model, has_cells=datamodule is None)
    prepare = functools.partial(_prepare_conditions, model, has_cells=datamodule is None, is_new=is_new)
    with (
        _taking_note(model, progress, prepare, nonnegative=nonnegative, has_cells=datamodule is None),
        _quiet(model.module),
        seeded(set_here["seed"]),
        tempfile.TemporaryDirectory() as folder,
    ):
        run(
            max_epochs=max_epochs,
            **split,
            batch_size=batch_size,
            early_stopping=False,  # upstream's gives up on several devices; ours is among the callbacks
            datasplitter_kwargs={
                "mmd_reference": model.module.mmd_reference,
                "needs_validation": early_stopping,
                "sparse_input": model.module.takes_sparse,
                "seed": set_here["seed"],
                **(datasplitter_kwargs or {}),
            },
            plan_kwargs=plan_kwargs,
            datamodule=datamodule,
            callbacks=[*callbacks, progress],
            # processes hand over the history in a file; our sampler shares out the batches itself
            **others,
            **{"log_save_dir": folder, "use_distributed_sampler": datamodule is not None} | trainer_kwargs,
        )
    _finish(model, progress, was_trained=was_trained)


def _prepare_conditions(model: Model, *, has_cells: bool, is_new: bool) -> None:
    """Learn what a model's own cells tell of its conditions before training."""
    if has_cells:
        count_cells(model)
        if is_new:
            learn_prior(model)
    else:
        model.module.n_cells.zero_()


def _prepare(datamodule: Any, model: Model, **asked: Any) -> tuple[int, int]:
    """Check a data module and have it prepare; return its numbers of cells and of those to train on."""
    check_datamodule(datamodule, model.registry_, model.module)
    return prepare_datamodule(datamodule, mmd_reference=model.module.mmd_reference, **asked)


def _finish(model: Model, progress: Progress, *, was_trained: bool) -> None:
    """Check that something was trained, on every device the same."""
    if progress.n_batches == 0 and not progress.moved:  # several devices have batches of their own
        model.is_trained_ = was_trained
        msg = "Nothing was trained: no step was taken. Allow for some (`max_steps`, `max_time`, learning rate)."
        raise ValueError(msg)
    # running means of batch normalisation are of one device's batches
    if model.trainer.world_size > 1:
        model.module.load_state_dict(model.trainer.strategy.broadcast(model.module.state_dict()))
    _warn_of_absent_mmd(model)


def _check_trainable(model: Model, callbacks: Sequence[Callback]) -> None:
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        msg = (
            "There is nothing to train: the query has no condition and no covariate that the reference does not "
            "know, and all else is frozen. Use the model as it is, or free more with `load_query_data`."
        )
        raise ValueError(msg)
    if model.module.is_frozen and any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        msg = "StochasticWeightAveraging estimates batch normalisation anew, also where it is frozen. Leave it out."
        raise ValueError(msg)


def _check_own_data(model: Model, validate: Callable[[], object]) -> bool:
    """Check the cells, which another set-up or step may have changed; return whether no value is negative."""
    adata, schema = model.adata, Schema.of(model.registry_)
    if adata is None:
        msg = "The model has no data: pass a `datamodule`, or load it with an AnnData."
        raise ValueError(msg)
    check_unchanged_cells(adata, int(model.summary_stats["n_cells"]))
    with read_once():
        validate()
        check_unchanged_columns(adata, model.adata_manager, schema)
        remark = " (changed since the model was made)"
        return check_values(adata, schema.layer, model.module.likelihood, remark)


@contextlib.contextmanager
def _taking_note(
    model: Model, progress: Progress, prepare: Callable[[], None], *, nonnegative: bool, has_cells: bool
) -> Iterator[None]:
    """Leave the model fit for use whatever ends the block, and bring up to date what it knows of its training."""
    was_trained = model.is_trained_
    try:
        with usable_afterwards(model, progress, prepare):
            yield
    finally:
        if progress.moved and model.surgery_ is None:
            model.levels_ = model.process_ = None  # they are of the network that was
            model.nonnegative_ = nonnegative
            _note_measured(model, was_trained=was_trained, has_cells=has_cells)


@contextlib.contextmanager
def _quiet(module: TRVAEModule) -> Iterator[None]:
    """Without warnings of what is done on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are)")
        # of Lightning about itself, and about logging by the step, where one line an epoch is logged
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        warnings.filterwarnings(
            "ignore", message="The number of training batches .* is smaller than the logging interval"
        )
        warnings.filterwarnings("ignore", message="early_stopping was automatically disabled due to the use of DDP")
        if module.is_frozen:  # Lightning wonders at modules that stay in evaluation
            warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
        yield


def _note_measured(model: Model, *, was_trained: bool, has_cells: bool) -> None:
    """Take down under which conditions labels had training cells, in this training and in earlier ones."""
    schema = Schema.of(model.registry_)
    if not has_cells:
        model.measured_ = None  # a data module does not tell what it serves before it does
    if not has_cells or schema.labels_key is None:
        return
    measured = cells_by_label(model.adata_manager, schema) > 0
    if not was_trained:
        model.measured_ = measured
    elif model.measured_ is not None:  # else what earlier trainings had is not known
        model.measured_ = model.measured_ | measured


def _warn_of_few_cells(model: Model, *, has_cells: bool) -> None:
    if not has_cells or not model.module.options.matches_conditions:
        return
    schema = Schema.of(model.registry_)
    counts = cells_by_label(model.adata_manager, schema)
    warn_of_few_cells(counts, schema, by_label=model.module.options.mmd_balance_labels)


def _warn_of_absent_mmd(model: Model) -> None:
    """Of a query there may be nothing to match, which is no mistake."""
    options = model.module.options
    if not options.matches_conditions or model.surgery_ is not None:
        return
    shared = " and labels that both have" if options.mmd_balance_labels else ""
    why = f"a pair of conditions needs {MIN_CELLS} cells of each{shared} in a batch."
    seen = {key: bool(np.any(values)) for key, values in (model.history or {}).items()}
    if not seen.get("mmd_train", True):
        warn(f"The MMD was 0 in all of training: {why} Raise `batch_size`, or say what is meant by `mmd_on=None`.")
    elif not seen.get("mmd_validation", True):
        warn(
            f"The MMD could not be estimated on the validation cells and did not count for early stopping: {why} "
            "There are too few; `train_size` sets their share."
        )


def _trainer_arguments(trainer_config: Any, trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Check the trainer's arguments, those of the plan among them, which upstream would hand on to it."""
    trainer_kwargs = merge_kwargs(trainer_config, trainer_kwargs, name="trainer")
    check_choice("precision", trainer_kwargs.get("precision"), _PRECISIONS)
    if trainer_kwargs.get("limit_train_batches") == 0:
        msg = "limit_train_batches=0 leaves nothing to train on, but the model would count as trained."
        raise ValueError(msg)
    misplaced = sorted(set(trainer_kwargs) & (_parameters(TrainingPlan, TRVAETrainingPlan) - _OURS))
    if misplaced:
        msg = f"{misplaced} are arguments of the training plan: pass them as `plan_kwargs`, a dictionary."
        raise TypeError(msg)
    return trainer_kwargs


def _early_stopping(
    max_epochs: int, plan_kwargs: dict[str, Any], trainer_kwargs: dict[str, Any]
) -> tuple[list[Callback], dict[str, Any]]:
    """The callbacks of early stopping, by the trainer's arguments that are meant for it, and the other arguments."""
    prefix = "early_stopping_"
    given = {name.removeprefix(prefix): value for name, value in trainer_kwargs.items() if name.startswith(prefix)}
    rest = {name: value for name, value in trainer_kwargs.items() if not name.startswith(prefix)}
    warmup_epochs, warmup_steps = (plan_kwargs.get(f"n_{unit}_kl_warmup") for unit in ("epochs", "steps"))
    settings: dict[str, Any] = {"monitor": "validation_loss", "mode": "min", "warmup_epochs": warmup_epochs or 0}
    settings |= {"patience": max(10, max_epochs // 4), **given}
    check_choice("early_stopping_mode", settings["mode"], ("min", "max"))
    if "warmup_epochs" in given or warmup_epochs is not None:
        warmup_steps = None
    # patience and min_delta say when to stop; the best weights are the best by any margin
    shared = {name: settings[name] for name in ("monitor", "mode", "warmup_epochs")}
    best = RestoreBestWeights(warmup_steps=warmup_steps, **shared)
    rest["check_val_every_n_epoch"] = rest.get("check_val_every_n_epoch") or 1
    return [best, LoudEarlyStopping(**settings)], rest


def _warn_of_short_training(max_epochs: int, n_cells: int) -> None:
    default = default_epochs(n_cells)
    if 3 * max_epochs < default:
        warn(
            f"max_epochs={max_epochs} is less than a third of the default for {n_cells} cells, {default}. That does to "
            "see whether the code runs; predictions of a model trained so little are often worse than the mean shift."
        )


def _check_split(datasplitter_kwargs: dict[str, Any]) -> None:
    """Check what upstream would ignore: its loaders' arguments, which ours do not take."""
    known = _parameters(DataSplitter, TRVAEDataSplitter) - _parameters(UnsupervisedTrainingMixin.train) - _OURS
    _check_names("datasplitter_kwargs", datasplitter_kwargs, known)


def _check_names(argument: str, given: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        msg = f"Expected `{argument}` out of {sorted(known)}, found {unknown}."
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
    _check_names("plan_kwargs", plan_kwargs, _parameters(TrainingPlan, TRVAETrainingPlan) - _OURS)
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
