"""Cells on disk, for training: an annbatch collection and its data module. Needs the extra ``annbatch``."""

from __future__ import annotations

from ._collection import build_collection, open_collection
from ._datamodule import CollectionDataModule

__all__ = ["CollectionDataModule", "build_collection", "open_collection"]
