"""Where the benchmarks find their data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "TRVAE_SCVI_DATA"


def data_file(name: str) -> Path:
    """The file of that name in the folder that the environment variable names; ends the program where there is none."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        sys.exit(f"Expected the environment variable {VARIABLE} to name the folder with {name}; it is not set.")
    path = Path(folder) / name
    if not path.exists():
        found = sorted(file.name for file in Path(folder).glob("*")) if Path(folder).is_dir() else "no such folder"
        sys.exit(f"Expected {name} in {folder}, as {VARIABLE} has it, found {found}.")
    return path
