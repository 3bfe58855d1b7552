"""Train on, and predict from, more cells than are held in memory: time and peak memory.

    python benchmarks/atlas.py --cells 1000000

generates cells of two conditions and eight types, a block at a time, and writes them to an annbatch collection
(`generate`, `write`). Then it trains a fixed number of steps from that collection (`train from disk`) and on the first
100,000 cells in memory (`train in memory`), and predicts every cell under the other condition from disk into a file
(`predict from disk`). Every stage is a process of its own, so that its peak resident memory is its own; `--stage` runs
one. Writes `benchmarks/results/atlas.{csv,md}`; a million cells take about 3 GB in `--folder`.

Training and prediction from disk should stay below 3 GB, and training at least half as fast as in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from kang import HERE, markdown
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import trvae_scvi as tv

N_GENES, N_TYPES, BLOCK = 2000, 8, 10_000
MEDIAN_LIBRARY = 130.0
BATCH_SIZE = 512
IN_MEMORY = 100_000
TARGET = "stimulated"
QUIET = {"enable_progress_bar": False, "early_stopping": False}


class Clock(Callback):
    """Seconds and steps of training, without what comes before the first and after the last one."""

    def __init__(self) -> None:
        self.seconds, self.steps = 0.0, 0

    def on_train_start(self, trainer: object, pl_module: object) -> None:
        """Begin."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: object, pl_module: object, outputs: object, batch: dict, index: int) -> None:
        """Take the time after every step."""
        self.seconds, self.steps = time.perf_counter() - self.start, self.steps + 1


def simulate_block(number: int, n_cells: int) -> anndata.AnnData:
    """Some cells of a population that is the same for every block: negative binomial counts, 4 to 7 % of them not 0."""
    population = np.random.default_rng(0)
    logits = 1.5 * population.standard_normal(N_GENES) + 0.5 * population.standard_normal((N_TYPES, N_GENES))
    responding = population.random((N_TYPES, N_GENES)) < 0.1
    response = 0.8 * responding * population.standard_normal((N_TYPES, N_GENES))
    theta = population.gamma(4.0, 1.5, N_GENES) + 0.5
    rng = np.random.default_rng([1, number])
    types, stimulated = rng.integers(N_TYPES, size=n_cells), rng.random(n_cells) < 0.5
    means = np.exp(logits[types] + np.where(stimulated[:, None], response[types], 0.0))
    means *= MEDIAN_LIBRARY * np.exp(0.35 * rng.standard_normal((n_cells, 1))) / means.sum(axis=1, keepdims=True)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(theta, means / theta)).astype(np.float32))
    keep = np.diff(counts.indptr) > 0
    obs = pd.DataFrame(
        {
            "condition": pd.Categorical(np.where(stimulated, TARGET, "control")),
            "cell_type": pd.Categorical.from_codes(types, [f"type_{i}" for i in range(N_TYPES)]),
        },
        index=[f"cell_{number}_{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(N_GENES)])
    return anndata.AnnData(counts, obs, var)[keep].copy()


def blocks(folder: Path) -> list[Path]:
    """The generated files."""
    return sorted((folder / "blocks").glob("*.h5ad"))


def generate(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Write the cells, block by block."""
    shutil.rmtree(folder / "blocks", ignore_errors=True)
    (folder / "blocks").mkdir(parents=True)
    start, n_cells, n_values = time.perf_counter(), 0, 0
    for number in range(math.ceil(arguments.cells / BLOCK)):
        block = simulate_block(number, min(BLOCK, arguments.cells - number * BLOCK))
        block.write_h5ad(folder / "blocks" / f"{number:05d}.h5ad")
        n_cells, n_values = n_cells + block.n_obs, n_values + block.X.nnz
    density = n_values / n_cells / N_GENES
    return {"cells": n_cells, "seconds": time.perf_counter() - start, "density": density}


def write_collection(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Write them to a collection."""
    start = time.perf_counter()
    path = folder / "cells.zarr"
    datamodule = tv.TRVAE.setup_annbatch(path, blocks(folder), labels_key="cell_type", rebuild=path.exists())
    return {"cells": datamodule.n_obs, "seconds": time.perf_counter() - start}


def train(model: tv.TRVAE, n_train: int, steps: int, **kwargs: object) -> dict[str, float]:
    """Train for some steps."""
    clock = Clock()
    max_epochs = math.ceil(steps / max(1, n_train // BATCH_SIZE)) + 1
    model.train(max_epochs=max_epochs, max_steps=steps, batch_size=BATCH_SIZE, callbacks=[clock], **QUIET, **kwargs)
    return {"cells": clock.steps * BATCH_SIZE, "seconds": clock.seconds}


def train_from_disk(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Train from the collection, and save the model."""
    datamodule = tv.TRVAE.setup_annbatch(folder / "cells.zarr", labels_key="cell_type")
    model = tv.TRVAE(registry=datamodule.registry)
    measured = train(model, datamodule.n_train, arguments.steps, datamodule=datamodule)
    model.save(folder / "model", overwrite=True)
    return measured


def train_in_memory(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Train on the first cells, read into memory."""
    adata = anndata.concat([anndata.read_h5ad(path) for path in blocks(folder)[: IN_MEMORY // BLOCK]])
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    return train(tv.TRVAE(adata), round(0.9 * adata.n_obs), arguments.steps)


def predict_from_disk(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Predict every cell."""
    datamodule = tv.TRVAE.setup_annbatch(folder / "cells.zarr", labels_key="cell_type")
    model = tv.TRVAE.load(folder / "model", datamodule=datamodule)
    out = folder / "prediction.h5ad"
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    model.predict_perturbation(dataloader=datamodule.inference_dataloader(), target=TARGET, out=out)
    return {"cells": datamodule.n_obs, "seconds": time.perf_counter() - start}


STAGES = {
    "generate": generate,
    "write": write_collection,
    "train from disk": train_from_disk,
    "train in memory": train_in_memory,
    "predict from disk": predict_from_disk,
}


def run(stage: str, arguments: argparse.Namespace) -> None:
    """Run one stage in this process and keep what was measured."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    measured = STAGES[stage](arguments.folder, arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    row = {"stage": stage, "stored cells": arguments.cells, **measured}
    row |= {"cells per second": measured["cells"] / measured["seconds"], "peak memory, GB": peak / 1e9}
    (arguments.folder / f"{stage}.json").write_text(json.dumps(row))


def main() -> None:
    """Run the stages, each in a fresh process, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--stage", choices=list(STAGES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trvae_scvi_atlas")
    arguments = parser.parse_args()
    if arguments.stage is not None:
        run(arguments.stage, arguments)
        return
    rows = []
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--folder", str(arguments.folder)]
        subprocess.run([*command, "--cells", str(arguments.cells), "--steps", str(arguments.steps)], check=True)
        rows.append(json.loads((arguments.folder / f"{stage}.json").read_text()))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "results" / "atlas.csv", index=False, float_format="%.5g")
    columns = table.set_index("stage")[["seconds", "cells per second", "peak memory, GB"]]
    title = f"{arguments.cells:,} cells x {N_GENES} genes on disk; every stage in a process of its own"
    (HERE / "results" / "atlas.md").write_text(f"{title}\n\n{markdown(columns)}\n")


if __name__ == "__main__":
    main()
