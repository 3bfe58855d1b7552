"""Two genes perturbed together, predicted from each alone: five pairs of the Norman et al. 2019 screen.

    python benchmarks/combinations.py

reads `perturbench_devel_norman19_mcfaline23_lognorm.h5ad` (a development subset of PerturBench, arXiv 2408.10609) from
the folder in the environment variable TRVAE_SCVI_DATA. All five pairs whose single genes were both measured are hidden
together, and a third of the control cells is set aside to measure changes against; the model is trained on the other
K562 cells. Writes `benchmarks/results/combinations.{csv,md}`.
"""

from __future__ import annotations

import argparse

import anndata
import numpy as np
import pandas as pd
import scvi
from files import data_file
from kang import HERE, markdown

import trvae_scvi as tv
from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays

FILE = "perturbench_devel_norman19_mcfaline23_lognorm.h5ad"
PAIRS = ["MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2", "KLF1+MAP2K6", "KLF1+TGFBR2"]
NETWORKS = {"trVAE": {}, "trVAE, weight 0": {"mmd_on": None}}


def load() -> anndata.AnnData:
    """K562 cells of the screen with their counts."""
    adata = anndata.read_h5ad(data_file(FILE))
    adata = adata[(adata.obs["dataset"] == "norman19").to_numpy()].copy()
    adata.X = adata.layers["counts"]
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.obs["condition"] = adata.obs["condition"].astype(str)
    return adata


def baselines(adata: anndata.AnnData, pair: str) -> dict[str, np.ndarray]:
    """What needs no network: control cells, and the same moved by the sum of both single effects."""
    control = comparison_matrix(adata[(adata.obs["condition"] == "control").to_numpy()])
    return {"no change": control, "additive": np.maximum(control + shift(adata, pair), 0.0)}


def shift(adata: anndata.AnnData, pair: str) -> np.ndarray:
    """The sum of both single effects on the means."""
    control, *both = (
        comparison_matrix(adata[(adata.obs["condition"] == name).to_numpy()]).mean(axis=0) for name in single(pair)
    )
    return sum(mean - control for mean in both)


def single(pair: str) -> list[str]:
    """The conditions a pair is predicted from."""
    return ["control", *pair.split("+")]


def score(adata: anndata.AnnData, seed: int) -> pd.DataFrame:
    """Scores of all pairs and methods."""
    scvi.settings.seed = seed
    of_control = np.flatnonzero((adata.obs["condition"] == "control").to_numpy())
    apart = np.isin(np.arange(adata.n_obs), np.random.default_rng(0).permutation(of_control)[: len(of_control) // 3])
    aside = adata[apart]
    training = adata[~adata.obs["condition"].isin(PAIRS).to_numpy() & ~apart].copy()
    tv.TRVAE.setup_anndata(training)
    models = {}
    for name, kwargs in NETWORKS.items():
        models[name] = tv.TRVAE(training, **kwargs)
        models[name].train(enable_progress_bar=False)
    control = training[(training.obs["condition"] == "control").to_numpy()]
    sides = comparison_matrix(aside), comparison_matrix(control)
    frames = []
    for pair in PAIRS:
        real = comparison_matrix(adata[(adata.obs["condition"] == pair).to_numpy()])
        cells = baselines(training, pair)
        for name, model in models.items():
            cells[name] = comparison_matrix(model.predict_combination(control, target=pair, control="control"))
        for name, predicted in cells.items():
            scores = score_arrays(predicted, real, *sides, expected=shift(training, pair), n_top_genes=100)
            frames.append(scores.assign(method=name, pair=pair, seed=seed))
        given = {"expected": shift(training, pair), "n_cells": control.n_obs}
        ceiling = noise_ceiling(real, *sides, **given, n_top_genes=100)
        frames.append(ceiling.assign(method="noise ceiling", pair=pair, seed=seed))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    adata = load()
    table = pd.concat([score(adata, seed) for seed in arguments.seeds], ignore_index=True)
    path = HERE / "results" / "combinations.csv"
    table[["pair", "seed", "method", "genes", "metric", "value"]].to_csv(path, index=False, float_format="%.5g")
    parts = []
    for genes, rows in table.groupby("genes", sort=False):
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        parts.append(
            f"{genes} genes, mean over {len(PAIRS)} pairs and {len(arguments.seeds)} seeds\n\n{markdown(values)}"
        )
        print(genes, values.round(4).to_string(), sep="\n", flush=True)
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
