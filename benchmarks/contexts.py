"""Every data set, every hold-out, every method: who is above the trivial predictions, and where.

    python benchmarks/contexts.py --quick                  # a few hold-outs of each, trVAE alone: minutes
    python benchmarks/contexts.py                          # our methods, three seeds: a day; resumes
    python benchmarks/contexts.py --peers scgen scvi       # these peers, too, each in an environment of its own
    python benchmarks/contexts.py --data kang_public       # the public file, which is downloaded

reads the files of `data_sets.py` from the folder in the environment variable TRVAE_SCVI_DATA. Each group of a data set
is held out under each target, with some of its control cells set aside. Models, predictions and scores are kept in
`benchmarks/runs/contexts`; `benchmarks/results/contexts_NAME.csv` has the scores of a data set, `contexts_NAME.md` its
summary, and `contexts.md` that of all of them. Run `--quick` before and after a change of the model.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from data_sets import DATA_SETS, DataSet
from kang import ABLATIONS, HERE, markdown
from saved import SavedTRVAE
from scipy import sparse

from trvae_scvi import benchmark
from trvae_scvi.benchmark import HoldOut, Method
from trvae_scvi.metrics import comparison_matrix

sys.path.append(str(HERE / "peers"))
from environments import NAMES as PEERS
from environments import PeerError, predict

RUNS, RESULTS = HERE / "runs" / "contexts", HERE / "results"
SEEDS = [0, 1, 2]
QUICK = {
    "kang": {"groups": ["NK"]},
    "mcfaline": {"groups": ["A172"], "targets": ["MAPK1", "TGFBR2"]},
    "papalexi": {"groups": ["rep_3"], "targets": ["STAT1"]},
    "croconet": {"groups": ["human"]},
    "bodenmiller": {"groups": ["nk"], "targets": ["PMA/Ionomycin"]},
}
PUBLISHED = ABLATIONS["published layers and kernel"]
# where they are not the script's own
SETTINGS: dict[str, dict] = {"scarches": {"recon_loss": "nb"}}
# those with a likelihood, with which the means that they predict can be sampled
SAMPLED = ("scarches", "biolord", "scvi", "cpa")
COUNTS_ONLY = ("scvi", "cpa")


@dataclass(frozen=True)
class PeerMethod:
    """Runs a peer's script on the hold-out written to a file, and reads what it predicts; keeps both."""

    name: str
    sampled: bool = False
    settings: dict = field(default_factory=dict)
    folder: str = field(default="", repr=False)  # where it lies does not change what it predicts

    def __call__(self, holdout: HoldOut) -> anndata.AnnData | np.ndarray:
        """Predict, or read what was predicted before."""
        case = "_".join(str(part).replace("/", "-") for part in (holdout.group, holdout.target, holdout.seed))
        folder = Path(self.folder) / case
        stem = "_".join([self.name, *(str(value) for value in self.settings.values())])
        mean, drawn = folder / f"{stem}.h5ad", folder / f"{stem}_sampled.h5ad"
        if not mean.exists():
            write_holdout(holdout, folder / "holdout.h5ad")
            more = {"sampled": drawn} if self.name in SAMPLED else {}
            predict(self.name, folder / "holdout.h5ad", mean, **more, **self.settings)
        cells = anndata.read_h5ad(drawn if self.sampled else mean)
        if not holdout.counts or cells.uns.get("scale") == "log1p":
            values = comparison_matrix(cells, counts=False)
            return np.maximum(values, 0) if holdout.counts else values
        return anndata.AnnData(cells.X, obs=holdout.control.obs.copy(), var=holdout.control.var.copy())


def write_holdout(holdout: HoldOut, path: Path) -> None:
    """Write what a peer may see, as `peers/README.md` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = holdout.training
    obs = cells.obs[[holdout.group_key, holdout.condition_key]].astype(str).astype("category")
    own = (obs[holdout.group_key] == str(holdout.group)) & (obs[holdout.condition_key] == str(holdout.source))
    written = anndata.AnnData(
        sparse.csr_matrix(cells.X, dtype=np.float32), obs=obs.assign(predict_from=own), var=cells.var.copy()
    )
    names = ("group_key", "condition_key", "group", "source", "target")
    written.uns["holdout"] = {name: str(getattr(holdout, name)) for name in names}
    written.uns["holdout"] |= {"counts": holdout.counts, "seed": holdout.seed}
    written.write_h5ad(path)


def own_methods(data: DataSet, folder: Path) -> dict[str, Method]:
    """TRVAE with its defaults, also sampled and as means; without its penalty; and as published, which took means."""
    likelihood = {} if data.counts else {"gene_likelihood": "mse"}
    models = str(folder / "models")
    kinds = {"trVAE": "counterfactual", "trVAE, means": "mean"}
    if data.counts:  # a normal distribution of unit variance is no model of how cells scatter
        kinds["trVAE, sampled"] = "sample"
    found = {name: SavedTRVAE(likelihood, prediction=kind, folder=models) for name, kind in kinds.items()}
    published = {**PUBLISHED, **likelihood}
    return {
        **found,
        "trVAE, weight 0": SavedTRVAE({"mmd_on": None, **likelihood}, folder=models),
        "published recipe": SavedTRVAE(published, folder=models),
        "published recipe, means": SavedTRVAE(published, prediction="mean", folder=models),
    }


def peer_methods(data: DataSet, folder: Path, names: list[str]) -> dict[str, Method]:
    """Each peer as it is used, and with its means sampled where it has a likelihood."""
    found: dict[str, Method] = {}
    for name in names:
        if not data.counts and name in COUNTS_ONLY:
            continue
        settings = SETTINGS.get(name, {}) if data.counts else {}
        found[name] = PeerMethod(name, False, settings, str(folder / "peers"))
        if data.counts and name in SAMPLED:
            found[f"{name}, sampled"] = PeerMethod(name, True, settings, str(folder / "peers"))
    return found


def score(name: str, arguments: argparse.Namespace) -> None:
    """Score all that is asked for on a data set, and write its tables."""
    data = DATA_SETS[name]
    folder = RUNS / (f"quick_{name}" if arguments.quick else name)
    ours = own_methods(data, folder)
    ours = {key: ours[key] for key in arguments.methods or (["trVAE"] if arguments.quick else ours) if key in ours}
    chosen = QUICK[name] if arguments.quick else {"groups": data.groups, "targets": data.targets}
    table = benchmark.leave_one_group_out(
        data.read(),
        methods=ours | peer_methods(data, folder, arguments.peers),
        seeds=arguments.seeds,
        counts=data.counts,
        n_jobs=arguments.n_jobs,
        n_hvg=data.n_hvg,
        out=folder / "scores",
        **data.keys,
        **chosen,
    )
    write_tables(table.drop(columns="seconds"), data.title, (RUNS if arguments.quick else RESULTS) / f"contexts_{name}")


def write_tables(table: pd.DataFrame, title: str, path: Path) -> None:
    """Write all scores of a data set as CSV, and what is to be read as Markdown."""
    table.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4g")
    summary = benchmark.summarize(table).set_index("method")
    summary.insert(0, "seeds", table.groupby("method")["seed"].nunique())
    n = len(table[["group", "target"]].drop_duplicates())
    parts = [f"# {title}", f"{n} hold-outs", markdown(summary)]
    for genes, rows in table.groupby("genes", sort=False):
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        parts += [f"{genes} genes, mean over hold-outs and seeds", markdown(values)]
    ranges = benchmark.metric_ranges(table)
    ranges.index = pd.Index(ranges["metric"].str.replace("_", " ") + ", " + ranges["genes"] + " genes", name="metric")
    parts += ["Range (standard errors) and saturation", markdown(ranges.drop(columns=["genes", "metric"]))]
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print(f"\n{title}, {n} hold-outs\n{summary.round(2).to_string()}", flush=True)


def write_summary(folder: Path) -> None:
    """One table of all data sets scored so far: headline skill, and share above every trivial prediction."""
    tables = {name: folder / f"contexts_{name}.csv" for name in DATA_SETS}
    tables = {name: pd.read_csv(path) for name, path in tables.items() if path.exists()}
    summaries = {name: benchmark.summarize(table).set_index("method") for name, table in tables.items()}
    shape = pd.DataFrame(
        {
            "hold-outs": {name: len(table[["group", "target"]].drop_duplicates()) for name, table in tables.items()},
            "without room": {name: summary["n_without_room"].iloc[0] for name, summary in summaries.items()},
            "without effect": {
                name: (table.drop_duplicates(["group", "target"])["effect_p"] >= 0.05).sum()
                for name, table in tables.items()
            },
        }
    )
    parts = []
    for name, summary in summaries.items():
        skills = benchmark.holdout_skills(tables[name]).dropna(subset="skill").groupby("method")["skill"]
        summary["above_zero"] = skills.apply(lambda values: (values > 0).mean())
    columns = {
        "skill": "Headline skill",
        "above_trivial": "Share above every trivial prediction",
        "above_zero": "Share with a headline skill above 0",
    }
    for column, title in columns.items():
        wide = pd.DataFrame({name: summary[column] for name, summary in summaries.items()})
        wide = wide.reindex(dict.fromkeys(name for summary in summaries.values() for name in summary.index))
        wide.insert(0, "mean", wide.mean(axis=1, skipna=False))
        parts.append(f"{title}\n\n{markdown(wide.rename_axis('method'))}")
        print(f"\n{title}\n{wide.round(2).to_string()}", flush=True)
    parts.append(f"Hold-outs\n\n{markdown(shape)}")
    (folder / "contexts.md").write_text("# All data sets\n\n" + "\n\n".join(parts) + "\n")


def main() -> None:
    """Score what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few hold-outs, trVAE alone, one seed, kept apart")
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), help="default: all but kang_public")
    parser.add_argument("--methods", nargs="+", help="of ours; default: all, and trVAE with --quick")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--n-jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (SEEDS[:1] if arguments.quick else SEEDS)
    if arguments.quick and arguments.data and not set(arguments.data) <= set(QUICK):
        parser.error(f"--quick has no part of {', '.join(sorted(set(arguments.data) - set(QUICK)))}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    RUNS.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.data or QUICK:
            score(name, arguments)
    except (PeerError, OSError) as error:
        sys.exit(str(error))
    write_summary(RUNS if arguments.quick else RESULTS)


if __name__ == "__main__":
    main()
