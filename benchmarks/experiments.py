"""Whether measuring groups in the suggested order helps to predict the others sooner than measuring them in any order.

    python benchmarks/experiments.py

replays experiments: groups are "measured" one after the other, in the order of `rank_experiments`, which sees control
cells alone, and in 50 random orders, and those that are left are predicted by the mean change of those that were
measured. The error is the mean squared error of means over all genes. Writes `benchmarks/results/experiments.{csv,md}`.
"""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
from data_sets import DATA_SETS, DataSet
from kang import HERE, markdown

from trvae_scvi.benchmark import rank_experiments
from trvae_scvi.metrics import comparison_matrix

RESULTS = HERE / "results"
N_ORDERS, LEAST = 50, 20
# all targets there are
CASES = {name: replace(data, targets=None, groups=None) for name, data in DATA_SETS.items() if name != "kang_public"}
CASES["kang, donors"] = replace(CASES["kang"], title="Kang et al. 2018, donors", group_key="patient")


def means_of(adata: anndata.AnnData, data: DataSet, condition: str) -> dict[str, np.ndarray]:
    """Mean cells of the groups with enough of them under a condition."""
    cells = adata[(adata.obs["condition"] == condition).to_numpy()]
    found = {name: cells[(cells.obs[data.group_key] == name).to_numpy()] for name in cells.obs[data.group_key].unique()}
    return {
        str(name): comparison_matrix(own, counts=data.counts).mean(axis=0)
        for name, own in found.items()
        if own.n_obs >= LEAST
    }


def errors(order: list[str], control: dict, target: dict) -> np.ndarray:
    """Error in the groups that are left after 1, 2, ... were measured."""
    found = []
    for n in range(1, len(order)):
        change = np.mean([target[name] - control[name] for name in order[:n]], axis=0)
        found.append(np.mean([np.mean((control[name] + change - target[name]) ** 2) for name in order[n:]]))
    return np.array(found)


def replayed(name: str, data: DataSet) -> list[dict]:
    """Both kinds of orders, for every target."""
    adata = data.read()
    control, rng, rows = means_of(adata, data, data.control), np.random.default_rng(0), []
    for condition in sorted(set(adata.obs["condition"]) - {data.control}):
        target = means_of(adata, data, condition)
        groups = [group for group in control if group in target]
        if len(groups) < 3:
            continue
        kept = adata[adata.obs[data.group_key].isin(groups).to_numpy()]
        suggested = rank_experiments(kept, target=None, counts=data.counts, **data.keys)["group"].astype(str).tolist()
        own = errors(suggested, control, target)
        others = np.array([errors(list(rng.permutation(groups)), control, target) for _ in range(N_ORDERS)])
        goal = others.mean(axis=0).min()
        for n, (value, mean, sd) in enumerate(zip(own, others.mean(axis=0), others.std(axis=0), strict=True), 1):
            rows.append(
                {"data": name, "target": condition, "measured": n, "suggested": value, "random": mean, "sd": sd}
            )
        reached = [first_below(curve, goal) for curve in (own, *others)]
        rows[-1] |= {"needed": reached[0], "needed_random": np.mean(reached[1:])}
    return rows


def first_below(curve: np.ndarray, goal: float) -> int:
    """With how many groups the error is at the goal, and one more than there are if never."""
    below = np.flatnonzero(curve <= goal)
    return int(below[0]) + 1 if len(below) else len(curve) + 1


def main() -> None:
    """Replay all data sets."""
    table = pd.DataFrame([row for name, data in CASES.items() for row in replayed(name, data)])
    table.to_csv(RESULTS / "experiments.csv", index=False, float_format="%.4g")
    table["ratio"] = table["suggested"] / table["random"]
    by_data = table.groupby("data", sort=False)
    shown = pd.DataFrame(
        {
            "targets": by_data["target"].nunique(),
            "groups": by_data["measured"].max() + 1,
            "error after one group, of that in random order": table[table["measured"] == 1]
            .groupby("data")["ratio"]
            .mean(),
            "error over all numbers of groups": by_data["ratio"].mean(),
            "groups needed": by_data["needed"].mean(),
            "groups needed in random order": by_data["needed_random"].mean(),
        }
    )
    (RESULTS / "experiments.md").write_text(f"{markdown(shown.rename_axis('data'))}\n")
    print(shown.round(3).to_string())


if __name__ == "__main__":
    main()
