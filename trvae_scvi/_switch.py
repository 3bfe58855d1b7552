"""Something that holds inside a block of code, for whatever is called there, and in this thread alone."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Switch"]


class Switch:
    """Off, and on inside ``with switch():``; true while it is on.

    For what has to reach through a method of scvi-tools that has no argument for it.
    """

    def __init__(self, name: str) -> None:
        self._state: ContextVar[bool] = ContextVar(name, default=False)

    def __bool__(self) -> bool:
        return self._state.get()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """On inside the block."""
        token = self._state.set(True)
        try:
            yield
        finally:
            self._state.reset(token)
