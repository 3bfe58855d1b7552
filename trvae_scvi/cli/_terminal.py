"""What the commands say and how they end: names as they are, errors in one line, Ctrl-C with its exit code."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INTERRUPTED", "Commands", "UserError", "console", "mended", "say"]

INTERRUPTED = 130  # exit code of what Ctrl-C ended

# Names of cell types, conditions and files may hold brackets, which are markup otherwise.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
console = Console(**_PLAIN)
_errors = Console(stderr=True, **_PLAIN)


class UserError(Exception):
    """What the user can mend, told in one line."""


class Commands(TyperGroup):
    """The commands, with errors about the user's data, files and options as a message and exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; no character that the terminal lacks may end what has succeeded."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run a command whose arguments are known."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # typer's own, and of a reader that went away
            raise
        except KeyboardInterrupt:
            _errors.print("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except (UserError, OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            _errors.print(Text.assemble(("Error:", "bold red"), " ", _described(error)), soft_wrap=True)
            raise typer.Exit(1) from error


@contextlib.contextmanager
def mended(problem: str) -> Iterator[None]:
    """Make every error of a reader the user's: a damaged file can raise nearly all there are."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        msg = f"{problem}: {_described(error)}"
        raise UserError(msg) from error


def _described(error: BaseException) -> str:
    """The message of an error in one line, with the notes that say where it happened."""
    # of a KeyError, str gives the message in quotes
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    parts = [text or repr(error), *getattr(error, "__notes__", ())]
    return " ".join(line.strip() for part in parts for line in part.splitlines() if line.strip())


def say(text: str) -> None:
    """Print a line, which is not broken: there may be a command to copy in it."""
    console.print(text, soft_wrap=True)
