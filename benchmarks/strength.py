"""How strong predicted responses are: the factor that would have made each prediction of changes the best.

    python benchmarks/strength.py --data kang croconet --seeds 0

takes the hold-outs and the models of `contexts.py` (trains those that are not there) and regresses the real change of
the genes on the predicted one, without an intercept: 1 is as strong as it should be, below 1 is too strong. Predicted
changes subtract the control cells that predictions start from, real ones those set aside, so that no noise is shared;
hold-outs without any are left out. Writes `benchmarks/results/strength.{csv,md}` for all data sets that have been run.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from contexts import QUICK, RESULTS, RUNS, own_methods
from data_sets import DATA_SETS
from joblib import Parallel, delayed
from kang import markdown

from trvae_scvi import benchmark
from trvae_scvi.benchmark._pairs import some_pairs
from trvae_scvi.metrics import comparison_matrix

SHIFTS = ["mean shift", "shrunk shift"]


def factors(name: str, group: str, target: str, seed: int) -> pd.DataFrame:
    """One row a method: the products of changes that the factor is a quotient of."""
    data = DATA_SETS[name]
    holdout, truth = benchmark.hold_out(
        data.read(), group=group, target=target, counts=data.counts, n_hvg=data.n_hvg, seed=seed, **data.keys
    )
    if not truth.control.n_obs:
        return pd.DataFrame()
    methods = {"trVAE": own_methods(data, RUNS / name)["trVAE"]} | {key: benchmark.BASELINES[key] for key in SHIFTS}
    before, apart, real = (_mean(cells, data.counts) for cells in (holdout.control, truth.control, truth.real))
    rows = []
    for method, predict in methods.items():
        change = _mean(predict(holdout), data.counts) - before
        rows.append({"method": method, "shared": change @ (real - apart), "own": change @ change})
    return pd.DataFrame(rows).assign(data=name, group=group, target=target, seed=seed)


def _mean(cells: object, counts: bool) -> np.ndarray:
    values = cells if isinstance(cells, np.ndarray) else comparison_matrix(cells, counts=counts)
    return values.mean(axis=0, dtype=np.float64)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Factors by data set and method, weighted by how much is predicted: of next to nothing a factor says nothing."""
    by_method = table.assign(factor=table["shared"] / table["own"]).groupby(["data", "method"], sort=False)
    sums, single = by_method[["shared", "own"]].sum(), by_method["factor"]
    wide = (sums["shared"] / sums["own"]).unstack("method")
    of_holdouts = {"mean": single.mean(), "25 %": single.quantile(0.25), "75 %": single.quantile(0.75)}
    for title, values in of_holdouts.items():
        wide[f"trVAE, {title} of hold-outs"] = values.unstack("method")["trVAE"]
    wide.insert(0, "hold-outs", table.drop_duplicates(["data", "group", "target"]).groupby("data").size())
    return wide


def main() -> None:
    """Measure what is asked for, and write all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(QUICK), default=list(QUICK))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n-jobs", type=int, default=1)
    arguments = parser.parse_args()
    path = RESULTS / "strength.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame({"data": []})
    for name in arguments.data:
        data = DATA_SETS[name]
        pairs = some_pairs(data.read(), groups=data.groups, targets=data.targets, **data.keys).pairs
        jobs = [delayed(factors)(name, *pair, seed) for pair in pairs for seed in arguments.seeds]
        found = Parallel(n_jobs=arguments.n_jobs)(jobs)
        table = pd.concat([table[table["data"] != name], *found], ignore_index=True)
        table.to_csv(path, index=False, float_format="%.4g")
    wide = summary(table)
    path.with_suffix(".md").write_text(f"{markdown(wide)}\n")
    print(wide.round(2).to_string(), flush=True)


if __name__ == "__main__":
    main()
