"""Models that are trained once, however many kinds of prediction are made of them."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.benchmark import TRVAEMethod


@dataclass(frozen=True)
class SavedTRVAE(TRVAEMethod):
    """Keeps trained models in a folder, so that several kinds of prediction share one."""

    folder: str = field(default="", repr=False)  # where it lies does not change what it predicts

    def fit(self, holdout: benchmark.HoldOut) -> tv.TRVAE:
        """Train, or load what was trained before with the same settings."""
        # defaults, too: a model trained with others must not be taken for one of these
        defaults = str(inspect.signature(tv.TRVAE.__init__)), str(inspect.signature(tv.TRVAE.train))
        own = self.model_kwargs, self.train_kwargs, self.setup_kwargs
        settings = (*own, defaults, holdout.group, holdout.target, holdout.seed)
        path = Path(self.folder) / hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        if not (path / "model.pt").exists():
            super().fit(holdout).save(path, overwrite=True)
        return tv.TRVAE.load(path, holdout.training.copy())
