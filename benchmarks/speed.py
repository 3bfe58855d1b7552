"""How long TRVAE takes, beside scvi-tools' SCVI, and where the time goes.

    python benchmarks/speed.py

Both models have two hidden layers of 128, ten latent dimensions, the negative binomial and the same batches; TRVAE is
run with its MMD and with weight 0. Nothing is validated while an epoch is timed. What is compared is timed in turns in
one process, and medians are given, so that ratios mean something on a busy machine; seconds are those of the machine in
`speed_machine.txt`. Writes `benchmarks/results/speed_{epoch,memory,grid,growth,pieces,trained,prediction}.csv`, for
which `--parts` chooses, and draws `growth` into `docs/_static/speed.png`.

`memory`, `grid`, `growth` and `pieces` run on simulated counts; `epoch`, `trained` and `prediction` read
`kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA. With `--accelerator cuda`
the names end in `_cuda`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scvi
import torch
from files import data_file
from kang import FILE
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi.distributions import NegativeBinomial
from scvi.model import SCVI

import trvae_scvi as tv
from trvae_scvi._math._log_densities import log_nb
from trvae_scvi._math._mmd import TRVAE_BANDWIDTHS, mmd

RESULTS = Path(__file__).parent / "results"
DRAWING = Path(__file__).parent.parent / "docs" / "_static" / "speed.png"
MODELS = ("TRVAE", "TRVAE, weight 0", "SCVI")
SCVI_NETWORK = {"n_hidden": 128, "n_layers": 2, "n_latent": 10, "gene_likelihood": "nb"}
N_CELLS, N_GENES, BATCH_SIZE, DENSITY = 10_000, 2_000, 512, 0.1
ROUNDS = 3
SCVI_EPOCHS = 5
PIECE_ROUNDS = 40


def simulate(n_cells: int, n_genes: int, *, n_conditions: int, density: float) -> anndata.AnnData:
    """Poisson counts of genes with log-normal means, a share `density` of them above zero."""
    rng = np.random.default_rng(0)
    means = rng.lognormal(0.0, 1.5, n_genes)
    low, high = 1e-6, 1e3
    for _ in range(60):  # the share of zeros falls as the means rise
        middle = np.sqrt(low * high)
        low, high = (low, middle) if np.mean(-np.expm1(-means * middle)) > density else (middle, high)
    blocks = [
        sparse.csr_matrix(rng.poisson(means * low, (min(2_000, n_cells - start), n_genes)).astype(np.float32))
        for start in range(0, n_cells, 2_000)
    ]
    adata = anndata.AnnData(sparse.vstack(blocks, format="csr"))
    adata.obs["condition"] = pd.Categorical([f"c{i % n_conditions}" for i in range(n_cells)])
    adata.obs["cell_type"] = pd.Categorical([f"t{i}" for i in rng.integers(0, 7, n_cells)])
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


class EpochTimes(Callback):
    """Seconds of every epoch, without validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        """Stop it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def trainers(adata: anndata.AnnData, batch_size: int, accelerator: str) -> dict[str, Callable[..., None]]:
    """For every model a function that trains it further."""
    common = {"batch_size": batch_size, "accelerator": accelerator, "enable_progress_bar": False}
    functions: dict[str, Callable[..., None]] = {}
    for name in MODELS:
        data = adata.copy()
        if name == "SCVI":
            SCVI.setup_anndata(data, batch_key="condition")
            model, options = SCVI(data, **SCVI_NETWORK), {}
        else:
            tv.TRVAE.setup_anndata(data, labels_key="cell_type")
            model = tv.TRVAE(data) if name == "TRVAE" else tv.TRVAE(data, mmd_weight=0.0)
            options = {"early_stopping": False}
        functions[name] = lambda model=model, options=options, **kwargs: model.train(**common, **options, **kwargs)
    return functions


def peak_memory(name: str, n_conditions: int, accelerator: str) -> float:
    """MiB by which an epoch raises the peak so far, in a process that has done nothing else but simulate the cells."""
    adata = simulate(N_CELLS, N_GENES, n_conditions=n_conditions, density=DENSITY)
    train = trainers(adata, BATCH_SIZE, accelerator)[name]
    if accelerator == "cuda":
        train(max_epochs=1)
        return torch.cuda.max_memory_allocated() / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(max_epochs=1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def memory(accelerator: str) -> pd.DataFrame:
    """Peak memory of an epoch, each in a fresh process."""
    rows = []
    for n_conditions, name in itertools.product((2, 7, 50), MODELS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(peak_memory, name, n_conditions, accelerator).result()
        rows.append({"conditions": n_conditions, "model": name, "peak memory, MiB": peak})
    return pd.DataFrame(rows)


def time_models(adata: anndata.AnnData, batch_size: int, accelerator: str) -> list[dict]:
    """A row for every model, their epochs timed in turns."""
    functions = trainers(adata, batch_size, accelerator)
    for train in functions.values():  # the first epoch takes longer
        train(max_epochs=1)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, train in functions.items():
            times = EpochTimes()
            train(max_epochs=2, callbacks=[times])
            seconds[name] += times.seconds[1:]
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return [
        {
            "model": name,
            "seconds per epoch": medians[name],
            "times faster than SCVI": medians["SCVI"] / medians[name],
        }
        for name in functions
    ]


def grid(accelerator: str) -> pd.DataFrame:
    """Conditions, batch sizes, densities and two sizes."""
    sizes = ((N_CELLS, N_GENES), (N_CELLS // 2, N_GENES // 2))
    rows = []
    for (n_cells, n_genes), n_conditions, density in itertools.product(sizes, (2, 7, 50), (0.05, 0.15)):
        adata = simulate(n_cells, n_genes, n_conditions=n_conditions, density=density)
        for batch_size in (128, 512, 1024):
            setting = {"cells": n_cells, "genes": n_genes, "conditions": n_conditions, "density": density}
            found = time_models(adata, batch_size, accelerator)
            rows += [{**setting, "batch size": batch_size, **row} for row in found]
            logging.info("%s, batch size %s", setting, batch_size)
    return pd.DataFrame(rows)


def growth(accelerator: str) -> pd.DataFrame:
    """One quantity at a time, the others at their default."""
    ladders = {
        "cells": (5_000, 10_000, 20_000, 40_000),
        "genes": (1_000, 2_000, 4_000, 8_000),
        "conditions": (2, 8, 32, 128),
    }
    rows = []
    for quantity, values in ladders.items():
        for value in values:
            size = {"cells": N_CELLS, "genes": N_GENES, "conditions": 2} | {quantity: value}
            adata = simulate(size["cells"], size["genes"], n_conditions=size["conditions"], density=DENSITY)
            rows += [{"growing": quantity, **size, **row} for row in time_models(adata, BATCH_SIZE, accelerator)]
            logging.info("%s %s", quantity, value)
    return pd.DataFrame(rows)


def medians(functions: dict[str, Callable[[], object]], rounds: int = PIECE_ROUNDS) -> dict[str, float]:
    """Milliseconds of every function, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 5):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 5:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def mmd_by_pairs(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The published kernel's mean MMD, pair by pair and kernel by kernel."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances = torch.cdist(a, b).square()
        return torch.stack([torch.exp(distances * (-0.5 / v)).mean() for v in TRVAE_BANDWIDTHS]).mean()

    samples = [x[groups == code] for code in torch.unique(groups)]
    pairs = list(itertools.combinations(samples, 2))
    return torch.stack([kernel(a, a) + kernel(b, b) - 2.0 * kernel(a, b) for a, b in pairs]).mean()


def pieces(accelerator: str) -> pd.DataFrame:
    """Parts of a step with their derivatives, in units of one matrix product with its own."""
    device = "cuda" if accelerator == "cuda" else "cpu"
    adata = simulate(BATCH_SIZE, N_GENES, n_conditions=2, density=DENSITY)
    counts = torch.as_tensor(adata.X.toarray(), device=device)
    csr = torch.sparse_csr_tensor(
        *(torch.as_tensor(part) for part in (adata.X.indptr, adata.X.indices, adata.X.data)), size=adata.shape
    )
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    hidden, weight, logits, theta = (
        parameter(*s) for s in ((BATCH_SIZE, 128), (N_GENES, 128), counts.shape, [N_GENES])
    )
    upstream, library = torch.ones_like(counts), counts.sum(dim=1, keepdim=True)
    y = torch.relu(parameter(BATCH_SIZE, 128)).detach().requires_grad_()
    labels = torch.arange(BATCH_SIZE, device=device) % 11 % 7

    def likelihood(log_likelihood: Callable[..., torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
        return lambda: log_likelihood(x, torch.softmax(logits, -1) * library, theta.exp()).mean().backward()

    def penalty(n_conditions: int, **kwargs: object) -> Callable[[], None]:
        groups = torch.arange(BATCH_SIZE, device=device) % n_conditions
        return lambda: mmd(y, groups, **kwargs).backward()

    functions: dict[str, Callable[[], object]] = {
        "matrix product": lambda: (hidden @ weight.T).backward(upstream),
        "likelihood, dense counts": likelihood(log_nb, counts),
        "likelihood of scvi-tools": likelihood(
            lambda x, mu, t: NegativeBinomial(mu=mu, theta=t).log_prob(x).sum(dim=-1), counts
        ),
    }
    if device == "cpu":
        functions["likelihood, sparse counts"] = likelihood(log_nb, csr)
    for n_conditions in (2, 7, 50):
        functions[f"MMD, {n_conditions} conditions"] = penalty(n_conditions, kernel="median")
        functions[f"MMD, {n_conditions} conditions, label by label"] = penalty(
            n_conditions, kernel="median", labels=labels
        )
        functions[f"MMD, {n_conditions} conditions, published kernel"] = penalty(n_conditions)
    found = medians(functions)
    fifty = torch.arange(BATCH_SIZE, device=device) % 50
    # one round of it takes as long as all others
    found["MMD, 50 conditions, published kernel, pair by pair"] = medians(
        {"": lambda: mmd_by_pairs(y, fifty).backward()}, rounds=3
    )[""]
    frame = pd.DataFrame({"piece": list(found), "milliseconds": list(found.values())})
    frame["matrix products"] = frame["milliseconds"] / found["matrix product"]
    return frame


def read_kang() -> anndata.AnnData:
    """20,123 cells, 2,000 genes, two conditions."""
    return anndata.read_h5ad(data_file(FILE))


def trained(accelerator: str) -> pd.DataFrame:
    """Defaults against defaults: the whole of TRVAE's training, and SCVI's median epoch times its number of epochs."""
    adata, rows = read_kang(), []
    n_epochs = int(np.min([round(20_000 / adata.n_obs * 400), 400]))  # scvi-tools' rule
    common = {"accelerator": accelerator, "enable_progress_bar": False}
    data = adata.copy()
    SCVI.setup_anndata(data, batch_key="condition")
    model, times = SCVI(data), EpochTimes()
    model.train(max_epochs=SCVI_EPOCHS, callbacks=[times], **common)
    seconds = float(np.median(times.seconds)) * n_epochs
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    own, start = tv.TRVAE(adata), time.perf_counter()
    own.train(**common)
    whole = time.perf_counter() - start
    rows = [
        {"model": "SCVI", "epochs": n_epochs, "seconds": seconds, "times faster than SCVI": 1.0},
        {
            "model": "TRVAE",
            "epochs": len(own.history["train_loss"]),
            "seconds": whole,
            "times faster than SCVI": seconds / whole,
        },
    ]
    return pd.DataFrame(rows)


def prediction(accelerator: str) -> pd.DataFrame:
    """Cells predicted in a second, in memory, 2,000 genes."""
    adata = read_kang()
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    model = tv.TRVAE(adata)
    model.train(max_epochs=1, accelerator=accelerator, enable_progress_bar=False)
    settings = list(itertools.product(("counterfactual", "mean", "sample"), (128, 512, 2048)))
    asked: dict[str, Callable[[], object]] = {
        f"{method}, {batch_size}": lambda method=method, batch_size=batch_size: model.predict_perturbation(
            target="stimulated", method=method, batch_size=batch_size
        )
        for method, batch_size in settings
    }
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(ROUNDS):
        for name, function in asked.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    rows = [
        {"method": method, "batch size": batch_size, "cells per second": adata.n_obs / np.median(values)}
        for (method, batch_size), values in zip(settings, seconds.values(), strict=True)
    ]
    return pd.DataFrame(rows)


def epoch(accelerator: str) -> pd.DataFrame:
    """Epochs of both models on the same cells in the same batches."""
    return pd.DataFrame(time_models(read_kang(), BATCH_SIZE, accelerator))


PARTS = {
    "epoch": epoch,
    "memory": memory,
    "grid": grid,
    "growth": growth,
    "pieces": pieces,
    "trained": trained,
    "prediction": prediction,
}


def machine(accelerator: str) -> str:
    """What the seconds are of."""
    name = torch.cuda.get_device_name() if accelerator == "cuda" else platform.processor() or platform.machine()
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, scvi))
    return f"{name}, {torch.get_num_threads()} threads, {versions}"


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Seconds per epoch against what grows, a panel for each."""
    quantities = frame["growing"].unique()
    figure, axes = plt.subplots(1, len(quantities), figsize=(4 * len(quantities), 3.2), sharey=True)
    for ax, quantity in zip(axes, quantities, strict=True):
        part = frame[frame["growing"] == quantity]
        for (name, rows), marker in zip(part.groupby("model", sort=False), "osD", strict=True):
            ax.plot(rows[quantity], rows["seconds per epoch"], marker=marker, label=name)
        ax.set(xscale="log", yscale="log", xlabel=quantity)
        ax.set_xticks(part[quantity].unique(), [f"{value:,}" for value in part[quantity].unique()])
        ax.minorticks_off()
    axes[0].set_ylabel("seconds per epoch")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    suffix = "" if arguments.accelerator == "cpu" else f"_{arguments.accelerator}"
    # first: a process that is started begins with the peak of the one that starts it
    for part in sorted(arguments.parts, key=lambda part: part != "memory"):
        frame = PARTS[part](arguments.accelerator)
        frame.to_csv(arguments.results / f"speed_{part}{suffix}.csv", index=False, float_format="%.4g")
        (arguments.results / f"speed_machine{suffix}.txt").write_text(machine(arguments.accelerator) + "\n")
        print(f"\n{part}\n{frame.to_string(index=False, float_format='%.4g')}", flush=True)
        if part == "growth":
            draw(frame, DRAWING.with_stem(DRAWING.stem + suffix))


if __name__ == "__main__":
    main()
