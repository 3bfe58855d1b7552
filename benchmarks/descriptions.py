"""Conditions that were not measured, predicted from what describes them.

    python benchmarks/descriptions.py

reads `croconet_primate_neural.h5ad` and `perturbench_devel_norman19_mcfaline23_lognorm.h5ad` from the folder in the
environment variable TRVAE_SCVI_DATA. Hides the third day of neural differentiation in all species, all five pairs of
genes whose single genes were measured, and in turn every single gene that pairs have in common; a third of the control
cells is set aside to measure changes against. Writes `benchmarks/results/descriptions.{csv,md}`.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import scvi
from combinations import PAIRS
from combinations import load as load_norman
from files import data_file
from kang import HERE, markdown

import trvae_scvi as tv
from trvae_scvi.benchmark import TARGET_BASELINES
from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays

SINGLE = ["KLF1", "MAP2K6", "MAP2K3", "TGFBR2", "MAPK1", "SLC38A2", "SGK1"]
DAYS = {"early_d0-1": 0.0, "mid_d3": 3.0, "late_d5-9": 7.0}


class Case(NamedTuple):
    """Conditions hidden together."""

    title: str
    adata: anndata.AnnData
    features: pd.DataFrame
    control: str
    hidden: list[str]
    group_key: str | None = None


def cases() -> list[Case]:
    """All of them."""
    neural = anndata.read_h5ad(data_file("croconet_primate_neural.h5ad"))
    times = tv.features.dose_features(list(DAYS), list(DAYS.values()))
    norman = load_norman()
    names = [name for name in norman.obs["condition"].unique() if name != "control"]
    genes = tv.features.combination_features(names, control="control")
    return [
        Case("third day", neural, times, "early_d0-1", ["mid_d3"], "species"),
        Case("pairs", norman, genes, "control", PAIRS),
        *(Case("single genes", norman, genes, "control", [name]) for name in SINGLE),
    ]


def baselines(training: anndata.AnnData, case: Case, control: np.ndarray, own: np.ndarray, name: str) -> dict:
    """What needs no network: the control cells as they are, and moved by changes of means that a table predicts."""
    means = {
        condition: comparison_matrix(training[own & (training.obs["condition"] == condition).to_numpy()]).mean(axis=0)
        for condition in training.obs["condition"].unique()
    }
    measured = [condition for condition in means if condition != case.control]
    changes = np.stack([means[condition] - means[case.control] for condition in measured])
    table, asked = case.features.loc[measured].to_numpy(), case.features.loc[name].to_numpy()
    moves = {method: function(table, changes, asked) for method, function in TARGET_BASELINES.items()}
    if len(measured) == 1:
        moves["half of the only response"] = 0.5 * changes[0]
    return {method: np.maximum(control + move, 0.0) for method, move in moves.items() if np.isfinite(move).all()}


def score(case: Case, seed: int) -> pd.DataFrame:
    """Scores of all hidden conditions and methods."""
    scvi.settings.seed = seed
    adata, condition = case.adata, case.adata.obs["condition"].astype(str).to_numpy()
    of_control = np.flatnonzero(condition == case.control)
    apart = np.isin(np.arange(adata.n_obs), np.random.default_rng(0).permutation(of_control)[: len(of_control) // 3])
    training = adata[~np.isin(condition, case.hidden) & ~apart].copy()
    training.obs["condition"] = training.obs["condition"].astype(str)
    tv.TRVAE.setup_anndata(training, labels_key=case.group_key)
    model = tv.TRVAE(training, condition_features=case.features)
    model.train(enable_progress_bar=False)
    groups = ["all"] if case.group_key is None else list(adata.obs[case.group_key].unique())
    frames = []
    for group in groups:
        in_group = (
            np.ones(adata.n_obs, dtype=bool) if group == "all" else (adata.obs[case.group_key] == group).to_numpy()
        )
        own = np.isin(training.obs_names, adata.obs_names[in_group])
        control = training[own & (training.obs["condition"] == case.control).to_numpy()]
        sides = comparison_matrix(adata[apart & in_group]), comparison_matrix(control)
        for name in case.hidden:
            real = comparison_matrix(adata[in_group & (condition == name)])
            cells = baselines(training, case, sides[1], own, name)
            cells["trVAE"] = comparison_matrix(model.predict_perturbation(control, target=name))
            known = {"title": case.title, "group": group, "condition": name, "seed": seed}
            for method, predicted in cells.items():
                scores = score_arrays(predicted, real, *sides, n_top_genes=100)
                frames.append(scores.assign(method=method, **known))
            ceiling = noise_ceiling(real, *sides, n_cells=control.n_obs, n_top_genes=100)
            frames.append(ceiling.assign(method="noise ceiling", **known))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--titles", nargs="+", default=["third day", "pairs", "single genes"])
    arguments = parser.parse_args()
    chosen = [case for case in cases() if case.title in arguments.titles]
    table = pd.concat([score(case, seed) for case in chosen for seed in arguments.seeds], ignore_index=True)
    path = HERE / "results" / "descriptions.csv"
    if path.exists():  # what was scored before and is not asked for now
        kept = pd.read_csv(path)
        table = pd.concat([kept[~kept["title"].isin(arguments.titles)], table], ignore_index=True)
    columns = ["title", "group", "condition", "seed", "method", "genes", "metric", "value"]
    table[columns].to_csv(path, index=False, float_format="%.5g")
    parts = []
    for (title, genes), rows in table.groupby(["title", "genes"], sort=False):
        n, n_seeds = len(rows[["group", "condition"]].drop_duplicates()), rows["seed"].nunique()
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        values = values.dropna(axis="columns", how="all")
        seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
        parts.append(f"{title}, {genes} genes, mean over {n} and {seeds}\n\n{markdown(values)}")
        print(title, genes, values.round(4).to_string(), sep="\n", flush=True)
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
