"""Where randomness begins: the seed that users set, read once for a construction or a training."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import torch
from scvi import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["current_seed", "seeded"]

logger = logging.getLogger(__name__)

_TURN = threading.RLock()


def current_seed() -> int:
    """``scvi.settings.seed``, or 0 where it is not set."""
    return 0 if settings.seed is None else int(settings.seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and leave its global state as it was.

    Threads take turns, as they would draw from each other's random numbers otherwise.
    """
    if not _TURN.acquire(blocking=False):
        logger.info("Waiting until the model that another thread makes or trains is ready.")
        _TURN.acquire()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        _TURN.release()
