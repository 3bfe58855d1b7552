"""Files and folders that appear under their name only when they are complete. Knows nothing of what they hold."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["finished_at_end", "write_text"]


@contextlib.contextmanager
def finished_at_end(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` at the end; on an error what was written is removed.

    Parameters
    ----------
    path
        The file, which is written over, or the folder, which must not be there.

    Yields
    ------
    A name beside it, for a disk renames only within itself, and with its suffix, which some writers go by.
    """
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8 wherever it is: whatever interrupts, it is there as a whole or not at all."""
    with finished_at_end(path) as unfinished:
        # pandas' tables have the system's line ends already
        unfinished.write_text(text, encoding="utf-8", newline="")
