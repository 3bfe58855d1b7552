"""Where the commands write: checks of ``--out`` that come before any work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._terminal import UserError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_folder", "check_new"]


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to, or can be made."""
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not present.is_dir():
        msg = f"{present} is a file and no folder. Name another place with --out."
        raise UserError(msg)
    if not os.access(present, os.W_OK):
        msg = f"There is no permission to write to the folder {present}. Name another place with --out."
        raise UserError(msg)


def check_new(path: Path, kind: str, suffixes: tuple[str, ...] = ()) -> None:
    """Check that nothing has this name yet, that it can be made, and its suffix."""
    if suffixes and path.suffix not in suffixes:
        msg = f"--out {path} ends in none of {', '.join(suffixes)}. Name the {kind} so."
        raise UserError(msg)
    if path.exists() or path.is_symlink():
        msg = f"{path} is there already. Name another {kind} with --out."
        raise UserError(msg)
    check_folder(path.parent)
