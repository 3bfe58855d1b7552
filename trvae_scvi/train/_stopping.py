"""What a model is left with when its training ends early: by the user, or by an error."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from ._plan import RestoreBestWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import lightning.pytorch as pl

    from trvae_scvi.data._model import Model

__all__ = ["Progress", "usable_afterwards"]

logger = logging.getLogger(__name__)


class Progress(Callback):
    """Notes how far training came, and the trainer where the user stopped it, of which scvi-tools loses track."""

    n_epochs = 0
    n_batches = 0
    stopped: pl.Trainer | None = None
    #: Whether weights are not what they were; of processes that were started for it only these come back.
    moved = False

    def on_train_batch_end(self, *args: Any) -> None:
        """Count batches."""
        self.n_batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count epochs that are complete."""
        self.n_epochs += 1

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Note the trainer."""
        if isinstance(exception, KeyboardInterrupt):
            self.stopped = trainer


@contextlib.contextmanager
def usable_afterwards(model: Model, progress: Progress, prepare: Callable[[], None]) -> Iterator[None]:
    """Train inside the block: whatever ends it, the model is left in evaluation, and what was trained can be used.

    Parameters
    ----------
    model
        A :class:`~trvae_scvi.TRVAE`.
    progress
        Among the callbacks of the training.
    prepare
        What changes the network before it is trained; undone where nothing is kept of the training.
    """
    module = model.module
    before = _copy(module)
    try:
        prepare()
    except BaseException:
        module.load_state_dict(before)
        raise
    start = _copy(module)
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    module.train()  # Lightning leaves a model that was loaded in evaluation
    try:
        yield
        progress.moved = _differ(start, module)
        if not progress.moved:
            module.load_state_dict(before)
    except BaseException:
        module.eval()
        progress.moved = _differ(start, module)
        if not progress.moved:
            module.load_state_dict(before)
        if progress.stopped is None:
            raise
        if is_main:  # Lightning leaves the process deaf to any further interruption, and asks it to exit
            signal.signal(signal.SIGINT, handler)
        if progress.n_epochs == 0:
            module.load_state_dict(before)
            progress.moved = False
            logger.warning("Training was stopped before the first epoch was complete. The model is as it was before.")
        else:
            _keep(model, progress.stopped)
        raise KeyboardInterrupt from None


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _differ(before: dict[str, torch.Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(tensor.cpu(), before[name]) for name, tensor in module.state_dict().items())


def _keep(model: Model, trainer: Any) -> None:
    """Leave the model as after a training that was not stopped."""
    for mine, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        setattr(model, f"{mine}_indices", getattr(trainer.datamodule, f"{theirs}_idx", None))
    model.is_trained_ = True
    model.trainer = trainer
    best = [c for c in trainer.callbacks if isinstance(c, RestoreBestWeights) and c.best_weights is not None]
    weights = f"the weights of epoch {best[0].best_epoch}, the best so far," if best else "its latest weights"
    logger.warning(
        "Training was stopped in epoch %s of %s. The model has %s and can be used.",
        trainer.current_epoch + 1,
        trainer.max_epochs,
        weights,
    )
