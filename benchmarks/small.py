"""Kang et al. with fewer cells: the defaults beside those of before conditions had a prior, and beside other methods.

    python benchmarks/small.py --parts earlier                  # 1,500 cells, three draws: an hour on one thread
    python benchmarks/small.py --parts peers --peers scgen scvi # 5,000 cells, an hour for each type

reads `kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA, draws cells of it,
and hides each of the four scored types, or those that are named. Earlier defaults are those of the commit EARLIER,
whose code git hands over. Resumes where it was interrupted; writes `benchmarks/results/small_{earlier,peers}.{csv,md}`.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from contexts import PEERS, peer_methods, write_holdout
from data_sets import DATA_SETS
from kang import HERE, markdown

from trvae_scvi import benchmark

EARLIER = "d818795^"
# cells and draws
PARTS = {"earlier": (1500, [0, 1, 2]), "peers": (5000, [0])}
RUNS, RESULTS = HERE / "runs" / "small", HERE / "results"
SHOWN = {"mse_means": "MSE of means", "energy_distance": "E-distance"}
BEFORE = "before the prior"
PREDICT = """
import sys
import anndata
from trvae_scvi.benchmark import HoldOut, TRVAEMethod

cells = anndata.read_h5ad(sys.argv[1])
told = cells.uns["holdout"]
names = {name: told[name] for name in ("group_key", "group", "condition_key", "source", "target")}
own = cells[cells.obs["predict_from"].to_numpy(dtype=bool)].copy()
holdout = HoldOut(cells, own, **names, counts=bool(told["counts"]), seed=int(told["seed"]))
predicted = TRVAEMethod()(holdout)
anndata.AnnData(predicted.X, obs=own.obs[[]], var=own.var[[]]).write_h5ad(sys.argv[2])
"""


@dataclass(frozen=True)
class EarlierTRVAE:
    """Trains and predicts by default with the code of another commit, in a process of its own."""

    commit: str
    code: str = field(repr=False)  # where it lies does not change what it predicts

    def __call__(self, holdout: benchmark.HoldOut) -> anndata.AnnData:
        """Hand the hold-out over as a file, and read the file with the prediction."""
        with tempfile.TemporaryDirectory() as folder:
            given, predicted = Path(folder, "holdout.h5ad"), Path(folder, "prediction.h5ad")
            write_holdout(holdout, given)
            command = [sys.executable, "-c", PREDICT, str(given), str(predicted)]
            subprocess.run(command, check=True, cwd=self.code, env=os.environ | {"PYTHONPATH": self.code})
            cells = anndata.read_h5ad(predicted)
        return anndata.AnnData(cells.X, obs=holdout.control.obs.copy(), var=holdout.control.var.copy())


def earlier_code(folder: Path) -> Path:
    """The files of the earlier commit."""
    if not (folder / "trvae_scvi").exists():
        files = subprocess.run(["git", "archive", EARLIER], cwd=HERE.parent, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(folder, filter="data")
    return folder


def score(n_cells: int, draw: int, methods: dict[str, benchmark.Method], groups: list[str]) -> pd.DataFrame:
    """Scores on so many cells, drawn with a seed that is the model's, too."""
    data = DATA_SETS["kang"]
    adata = data.read()
    rows = np.random.default_rng(draw).choice(adata.n_obs, n_cells, replace=False)
    return benchmark.leave_one_group_out(
        adata[np.sort(rows)].copy(),
        methods={"trVAE": benchmark.TRVAEMethod(), **methods},
        groups=groups,
        seeds=[draw],
        out=RUNS / f"scores_{n_cells}_{draw}",
        n_jobs=1,
        **data.keys,
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """What the tables show of every hold-out and method."""
    keys = ["method", "group", "seed"]
    columns = {"skill": "headline skill", "mean_response": "mean response", "distribution": "distribution"}
    wide = benchmark.holdout_skills(table).set_index(keys)[list(columns)].rename(columns=columns)
    for metric, name in SHOWN.items():
        for genes in ("all", "top100"):
            rows = table[(table["metric"] == metric) & (table["genes"] == genes)]
            wide[f"{name}, {genes}"] = rows.set_index(keys)["value"]
    return wide


def beside_earlier(table: pd.DataFrame) -> pd.DataFrame:
    """Means of both, and of the differences of hold-outs with the standard error."""
    new, old = (shown(table).xs(name, level="method") for name in ("trVAE", BEFORE))
    rows = {"trVAE": new.mean(), BEFORE: old.mean(), "difference": (new - old).mean()}
    return pd.DataFrame({**rows, "its standard error": (new - old).sem()}).T.rename_axis("method")


def beside_peers(table: pd.DataFrame) -> pd.DataFrame:
    """Means of all methods, and the minutes of a hold-out on one thread."""
    means = shown(table).groupby("method", sort=False).mean()
    minutes = table.groupby("method")["seconds"].mean() / 60
    # drawn with the means, in the same run
    return means.assign(minutes=minutes.where(~minutes.index.str.endswith(", sampled")))


def main() -> None:
    """Run what is asked for, and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["scgen", "scvi"])
    parser.add_argument("--groups", nargs="+", choices=DATA_SETS["kang"].groups, default=list(DATA_SETS["kang"].groups))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for part in arguments.parts:
        n_cells, draws = PARTS[part]
        if part == "earlier":
            methods = {BEFORE: EarlierTRVAE(EARLIER, str(earlier_code(RUNS / "code")))}
        else:
            methods = peer_methods(DATA_SETS["kang"], RUNS / f"{n_cells}_{draws[0]}", arguments.peers)
        table = pd.concat([score(n_cells, draw, methods, arguments.groups) for draw in draws], ignore_index=True)
        means = beside_earlier(table) if part == "earlier" else beside_peers(table)
        groups, n = ", ".join(table["group"].unique()), len(table[["group", "seed"]].drop_duplicates())
        text = f"{n_cells:,} cells of Kang et al., {n} hold-outs: {groups}\n\n{markdown(means)}\n"
        table.to_csv(RESULTS / f"small_{part}.csv", index=False, float_format="%.4g")
        (RESULTS / f"small_{part}.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
