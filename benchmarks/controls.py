"""How much of a correlation between predicted and real change comes from the control cells that both subtract.

    python benchmarks/controls.py

Half of a group's control cells are set aside, neither trained on nor predicted from. The same prediction is then
compared with the change against the cells it started from, with the change against those set aside, and, where there
is nothing to be found, with the cells set aside in the place of the real ones. Done for the weak effects of
`perturbench.py` and for the scored types of `kang.py`, whose data it reads; one seed. Writes
`benchmarks/results/controls.csv` and `.md`; pieces are kept in `benchmarks/runs/controls`.
"""

from __future__ import annotations

import argparse

import anndata
import joblib
import numpy as np
import pandas as pd
from files import data_file
from kang import FILE as KANG
from kang import HERE, SCORED, markdown
from perturbench import FILE as PERTURBENCH

from trvae_scvi import benchmark, metrics
from trvae_scvi.benchmark import TRVAEMethod

RUNS = HERE / "runs" / "controls"
METHOD = TRVAEMethod()


def read(data: str) -> anndata.AnnData:
    """Cells of one of the two data sets, counts in X."""
    if data == "kang":
        return anndata.read_h5ad(data_file(KANG))
    adata = anndata.read_h5ad(data_file(PERTURBENCH))
    screen = adata[(adata.obs["dataset"] == "mcfaline23").to_numpy()].copy()
    screen.X = screen.layers["counts"]
    return screen[np.asarray(screen.X.sum(axis=1)).ravel() > 0].copy()


def correlations(
    predictions: dict[str, np.ndarray], own: np.ndarray, aside: np.ndarray, real: np.ndarray
) -> pd.DataFrame:
    """Pearson correlation of the change in three comparisons that differ in their control cells or real ones only."""
    comparisons = {
        "same control cells": (real, own),
        "control cells set aside": (real, aside),
        "no effect: control cells for real ones": (aside, own),
    }
    rows = []
    for comparison, (truth, control) in comparisons.items():
        change = truth.mean(axis=0) - control.mean(axis=0)
        gene_sets = {"all": slice(None), "top100": metrics.responsive_genes(control, truth, n_genes=100)}
        for genes, of_set in gene_sets.items():
            for method, cells in predictions.items():
                found = (cells.mean(axis=0) - own.mean(axis=0))[of_set]
                rows.append((comparison, genes, method, np.corrcoef(found, change[of_set])[0, 1]))
    return pd.DataFrame(rows, columns=["comparison", "genes", "method", "pearson change"])


def score(data: str, cells: anndata.AnnData, group: str, target: str, seed: int) -> pd.DataFrame:
    """Predict one group under one target from half of its control cells."""
    path = RUNS / f"{data}_{group}_{target}_{seed}.csv"
    if not path.exists():
        controls = ((cells.obs["cell_type"] == group) & (cells.obs["condition"] == "control")).to_numpy()
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(controls))
        rows = np.sort(drawn[: len(drawn) // 2])
        keys = {"group_key": "cell_type", "group": group, "control": "control", "target": target}
        rest = cells[np.setdiff1d(np.arange(cells.n_obs), rows)].copy()
        holdout, real = benchmark.hold_out(rest, seed=seed, **keys)
        predictions = {
            "trVAE": metrics.comparison_matrix(METHOD(holdout)),
            **benchmark.baseline_predictions(rest, **keys),
        }
        del predictions["no change"]  # has no correlation
        own, aside, truth = (metrics.comparison_matrix(given) for given in (holdout.control, cells[rows], real))
        table = correlations(predictions, own, aside, truth)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.assign(data=data, group=group, target=target, seed=seed).to_csv(path, index=False)
    return pd.read_csv(path)


def main() -> None:
    """Score both data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    parts, tables = ["# Pearson correlation of the change, half of the control cells set aside"], []
    for data, title in (("perturbench", "McFaline-Figueroa screen"), ("kang", "Kang et al., scored types")):
        cells = read(data)
        groups = SCORED if data == "kang" else cells.obs["cell_type"].astype(str).unique()
        targets = [name for name in cells.obs["condition"].astype(str).unique() if name != "control"]
        jobs = [(group, target, seed) for seed in arguments.seeds for group in groups for target in targets]
        pieces = joblib.Parallel(n_jobs=arguments.n_jobs)(joblib.delayed(score)(data, cells, *job) for job in jobs)
        table = pd.concat(pieces, ignore_index=True)
        for genes, rows in table.groupby("genes", sort=False):
            values = rows.groupby(["method", "comparison"], sort=False)["pearson change"].mean().unstack("comparison")
            parts.append(f"{title}, {genes} genes, mean over {len(jobs)} hold-outs\n\n{markdown(values)}")
            print(f"{title}, {genes} genes\n{values.round(3).to_string()}", flush=True)
        tables.append(table)
    path = HERE / "results" / "controls.csv"
    order = ["data", "group", "target", "seed", "comparison", "genes", "method", "pearson change"]
    pd.concat(tables)[order].to_csv(path, index=False, float_format="%.5g")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
