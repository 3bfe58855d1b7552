"""The command line: ``trvae-scvi demo``, ``train``, ``predict``, ``evaluate``, ``assess``, on top of the public API."""

from __future__ import annotations

from ._commands import app

__all__ = ["app"]
