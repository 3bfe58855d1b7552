"""trVAE as a scvi-tools extension, to predict cells under conditions they were not measured in."""

from __future__ import annotations

from importlib import import_module, util
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import benchmark, datasets, features, mapping, metrics, nn, pl
    from .model import TRVAE
    from .module import TRVAEModule

__all__ = ["TRVAE", "TRVAEModule", "benchmark", "datasets", "features", "mapping", "metrics", "nn", "pl"]

__version__ = version("trvae-scvi")

_CLASSES = {"TRVAE": "model", "TRVAEModule": "module"}


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: the command line's help needs none of them, and torch takes seconds."""
    is_part = not name.startswith("_") and util.find_spec(f"{__name__}.{name}") is not None
    if name not in _CLASSES and not is_part:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = import_module(f".{_CLASSES.get(name, name)}", __name__)
    value = getattr(found, name) if name in _CLASSES else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
