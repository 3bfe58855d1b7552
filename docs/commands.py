"""Write `docs/commands.md`, the page of the command line, from the commands themselves.

    python docs/commands.py

Run after a command or an option has changed; a test says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from trvae_scvi.cli import app

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# On the command line

`trvae-scvi` has five commands, each with `--help`. They do what the functions of the package do, with equal numbers.
Cells come from an `.h5ad` file or a `.zarr` folder. A column holds the condition of each cell, another one its type:
`evaluate` and `assess` take `cell_type` if you name none, `train` and `predict` use types only if you name the column.
Name it in `train`: without it predictions are worse where conditions hold types in different shares. Of more genes than
2,000 the most variable are taken, chosen without the cells that are hidden.
"""


def option_row(option: Any) -> str:
    """One option as a row of a table."""
    is_argument = option.param_type_name == "argument"
    name = option.name.upper() if is_argument else "`, `".join(option.opts)
    default = "" if option.required or option.default is None or option.is_flag else f"`{option.default}`"
    needed = "needed" if option.required else default
    return f"| `{name}` | {option.help} | {needed} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in typer.main.get_command(app).commands.items():
        rows = [option_row(option) for option in command.params if "--help" not in option.opts]
        parts += [
            f"## `trvae-scvi {name}`\n",
            command.help.strip() + "\n",
            "| option | | default |",
            "|---|---|---|",
            *rows,
            "",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
