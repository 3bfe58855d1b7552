"""Conditions that were not measured, predicted from what describes them.

    python benchmarks/descriptions.py
    python benchmarks/descriptions.py --titles "simulation, doses" --seeds 0

reads `croconet_primate_neural.h5ad` and `perturbench_devel_norman19_mcfaline23_lognorm.h5ad` from the folder in the
environment variable TRVAE_SCVI_DATA. Hides the third day of neural differentiation in all species, all five pairs of
genes whose single genes were measured, and in turn every single gene that pairs have in common; and simulates 80
conditions, of which a quarter is hidden, whose descriptions explain nothing, half or all of what they do, doses of 16
drugs, and pairs; models of simulated cells are trained for 15 epochs. A third of the control cells is set aside to
measure changes against. Writes `benchmarks/results/descriptions.{csv,md}`: scores, the share of 90 % intervals with the
real change in them, and the share of what conditions differ by that descriptions were found to explain.
"""

from __future__ import annotations

import argparse
from functools import cache
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
    """Conditions hidden together.

    `apart` are control cells to measure changes against (otherwise a third at random), and `independent` cells under
    the hidden conditions that have nothing in common with these, for the intervals (otherwise those in `adata`).
    """

    title: str
    adata: anndata.AnnData
    features: pd.DataFrame
    control: str
    hidden: list[str]
    group_key: str | None = None
    apart: np.ndarray | None = None
    independent: anndata.AnnData | None = None


SIMULATED = {
    "simulation, not described": {"explained": 0.0},
    "simulation, half described": {"explained": 0.5},
    "simulation, described": {"explained": 1.0},
    "simulation, doses": {"design": "doses"},
    "simulation, pairs": {"design": "pairs"},
}
TITLES = ["third day", "pairs", "single genes", *SIMULATED]


@cache
def measured_cases() -> list[Case]:
    """Those of real cells."""
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


def cases(title: str, seed: int) -> list[Case]:
    """Those of one title; simulated cells are others with every seed."""
    if title not in SIMULATED:
        return [case for case in measured_cases() if case.title == title]
    cells, features, truth = tv.datasets.simulate_conditions(20_000, n_types=1, seed=seed, **SIMULATED[title])
    of_control = cells.obs_names[cells.obs["condition"] == "control"]
    _, apart, others = np.array_split(np.random.default_rng(seed).permutation(of_control), 3)
    source = truth.obs_names.str.split("-").str[0]  # the truth is that of control cells
    real = truth[source.isin(apart)]
    both = anndata.concat([cells[~cells.obs_names.isin(others)], real])
    hidden = list(real.obs["condition"].unique())
    return [Case(title, both, features, "control", hidden, apart=apart, independent=truth[source.isin(others)])]


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


def of_itself(
    model: tv.TRVAE, control: anndata.AnnData, name: str, real: np.ndarray, apart: np.ndarray
) -> pd.DataFrame:
    """How often the model's intervals hold, and the share of differences that it takes descriptions to explain.

    An interval is for as many real cells under either condition as it was predicted from.
    """
    rng, n = np.random.default_rng(0), min(control.n_obs, len(real), len(apart))
    change = np.subtract(*(rng.permutation(cells)[:n].mean(axis=0) for cells in (real, apart)))
    effect = model.get_perturbation_effect(control[rng.permutation(control.n_obs)[:n]], target=name)  # of one group
    within = (effect["change_lower"].to_numpy() <= change) & (change <= effect["change_upper"].to_numpy())
    _, linear, smooth, own = model.process_["variances"]
    rows = [
        ("all", "coverage", within.mean()),
        ("all", "share_described", (linear + smooth) / (linear + smooth + own)),
    ]
    return pd.DataFrame(rows, columns=["genes", "metric", "value"]).assign(method="trVAE")


def score(case: Case, seed: int) -> pd.DataFrame:
    """Scores of all hidden conditions and methods."""
    scvi.settings.seed = seed
    adata, condition = case.adata, case.adata.obs["condition"].astype(str).to_numpy()
    of_control = adata.obs_names[condition == case.control]
    chosen = np.random.default_rng(0).permutation(of_control)[: len(of_control) // 3]
    apart = adata.obs_names.isin(chosen if case.apart is None else case.apart)
    training = adata[~np.isin(condition, case.hidden) & ~apart].copy()
    training.obs["condition"] = training.obs["condition"].astype(str)
    tv.TRVAE.setup_anndata(training, labels_key=case.group_key)
    model = tv.TRVAE(training, condition_features=case.features)
    # of simulated cells there are enough: what is learned of conditions comes from their means, after training
    model.train(max_epochs=15 if case.title in SIMULATED else None, enable_progress_bar=False)
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
            independent = real
            if case.independent is not None:
                independent = comparison_matrix(case.independent[case.independent.obs["condition"] == name])
            frames.append(of_itself(model, control, name, independent, sides[0]).assign(**known))
            for method, predicted in cells.items():
                scores = score_arrays(predicted, real, *sides, n_top_genes=100)
                frames.append(scores.assign(method=method, **known))
            ceiling = noise_ceiling(real, *sides, n_cells=control.n_obs, n_top_genes=100)
            frames.append(ceiling.assign(method="noise ceiling", **known))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 to 2, and 0 to 7 of simulations")
    parser.add_argument("--titles", nargs="+", default=TITLES, choices=TITLES)
    arguments = parser.parse_args()
    path = HERE / "results" / "descriptions.csv"
    columns = ["title", "group", "condition", "seed", "method", "genes", "metric", "value"]
    for title in arguments.titles:
        seeds = arguments.seeds or range(8 if title in SIMULATED else 3)
        table = pd.concat([score(case, seed)[columns] for seed in seeds for case in cases(title, seed)])
        if title in SIMULATED:  # as many rows as there are conditions would be megabytes
            keys = [name for name in columns if name not in ("condition", "value")]
            means = table.groupby(keys, sort=False)["value"].mean().reset_index()
            table = means.assign(condition=f"mean of {table.groupby('seed')['condition'].nunique().max()}")[columns]
        if path.exists():  # other titles stay
            kept = pd.read_csv(path)
            table = pd.concat([kept[kept["title"] != title], table], ignore_index=True)
        table.to_csv(path, index=False, float_format="%.5g")
    path.with_suffix(".md").write_text("\n\n".join(parts(pd.read_csv(path))) + "\n")


def parts(table: pd.DataFrame) -> list[str]:
    """A table of means for every title and set of genes."""
    found = []
    for title in TITLES:
        for genes, rows in table[table["title"] == title].groupby("genes", sort=False):
            n_seeds = rows["seed"].nunique()
            n = len(rows[["seed", "group", "condition"]].drop_duplicates()) // n_seeds
            if title in SIMULATED:
                n = int(rows["condition"].iloc[0].removeprefix("mean of "))
            values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
            values = values.dropna(axis="columns", how="all")
            seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
            found.append(f"{title}, {genes} genes, mean over {n} and {seeds}\n\n{markdown(values)}")
    return found


if __name__ == "__main__":
    main()
