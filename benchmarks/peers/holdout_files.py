"""What every script here shares: its command line, the hold-out it reads and the prediction it writes.

Imported in each peer's own environment, so it needs nothing but anndata, numpy and scipy, and Python 3.10.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PER_CELL = 1e4  # counts that the values of a cell are scaled to before the logarithm


@dataclass
class HoldOut:
    """All cells that a peer may see, and what it is to predict."""

    cells: Any
    group_key: str
    group: str
    condition_key: str
    source: str
    target: str
    counts: bool
    seed: int

    @property
    def predict_from(self) -> Any:
        """Control cells of the held-out group, training cells as well."""
        return self.cells[self.cells.obs["predict_from"].to_numpy(dtype=bool)].copy()

    def log_normalised(self) -> HoldOut:
        """The same with log1p of counts per 10,000, or with the values as they are where there are no counts."""
        if not self.counts:
            return self
        from scipy import sparse

        cells = self.cells.copy()
        scale = sparse.diags((PER_CELL / totals(cells).clip(min=1)).ravel())
        cells.X = sparse.csr_matrix(scale @ cells.X, dtype="float32")
        cells.X.data = _numpy().log1p(cells.X.data)
        return HoldOut(**{**vars(self), "cells": cells})


def parser(description: str | None) -> argparse.ArgumentParser:
    """Command line that all peers have in common; each adds its own settings."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("holdout", type=Path, help="h5ad file with the training cells")
    made.add_argument("prediction", type=Path, help="h5ad file to write")
    made.add_argument("--sampled", type=Path, help="h5ad file for draws from the likelihood around the same means")
    return made


def read_holdout(path: Path) -> HoldOut:
    """Read the training cells; groups and conditions become strings."""
    import anndata

    cells = anndata.read_h5ad(path)
    told = cells.uns.pop("holdout")
    names = {name: str(told[name]) for name in ("group_key", "group", "condition_key", "source", "target")}
    for key in (names["group_key"], names["condition_key"]):
        cells.obs[key] = cells.obs[key].astype(str).astype("category")
    return HoldOut(cells, **names, counts=bool(told["counts"]), seed=int(told["seed"]))


def write_prediction(
    path: Path, values: Any, cells: Any, *, log1p: bool, arguments: argparse.Namespace, clock: Clock, version: str
) -> None:
    """Write predicted cells; `log1p` for log1p of counts per 10,000, which are cut off at 0, else the data's scale."""
    import anndata

    np = _numpy()
    values = np.asarray(values, dtype=np.float32)
    if values.shape != cells.shape:
        raise ValueError(f"Expected a prediction of shape {cells.shape}, one row a cell, found {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"Expected finite values, found {int((~np.isfinite(values)).sum())} that are not.")
    predicted = anndata.AnnData(X=np.maximum(values, 0) if log1p else values, obs=cells.obs.copy())
    predicted.var_names = list(cells.var_names)
    files = ("holdout", "prediction", "sampled")
    settings = {name: value for name, value in vars(arguments).items() if name not in files}
    predicted.uns = {
        **({"scale": "log1p"} if log1p else {}),
        "seconds_training": clock.seconds.get("training", 0.0),
        "seconds_prediction": clock.seconds.get("prediction", 0.0),
        "settings": repr(settings),
        "version": version,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    predicted.write_h5ad(unfinished)
    os.replace(unfinished, path)


class Clock:
    """Seconds of each part of a run.

    Used as ``with clock("training"): ...``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str) -> Clock:
        """Say which part comes next."""
        self._part = part
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._part] = time.perf_counter() - self._start


def totals(cells: Any) -> Any:
    """Total counts of every cell, `n x 1`."""
    return _numpy().asarray(cells.X.sum(axis=1), dtype="float32").reshape(-1, 1)


def draw_counts(means: Any, inverse_dispersion: Any, seed: int) -> Any:
    """Draw from negative binomials with these means, variance mean + mean^2 / inverse dispersion."""
    np = _numpy()
    rng = np.random.default_rng(seed)
    means = np.maximum(np.asarray(means, dtype=np.float64), 1e-12)
    shape = np.broadcast_to(np.maximum(np.asarray(inverse_dispersion, dtype=np.float64), 1e-12), means.shape)
    return rng.poisson(rng.gamma(shape, means / shape))


def set_seeds(seed: int) -> None:
    """Seed Python and NumPy."""
    random.seed(seed)
    _numpy().random.seed(seed)


def _numpy() -> Any:
    import numpy

    return numpy
