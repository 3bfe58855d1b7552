"""What settings, longer training and calibration do on the three types of Kang et al. that settings are chosen on.

    python benchmarks/kang.py                      # everything: hours; resumes where it was interrupted
    python benchmarks/kang.py --parts ablation     # a part

reads `kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA. Defaults were chosen
on CD4T, CD8T and Dendritic only; `contexts.py` scores the other four types. Pieces and trained models are kept in
`benchmarks/runs/`, tables go to `benchmarks/results/`:

* `kang_ablation.csv`, `kang_ablation.md`: other settings on the three types;
* `kang_length.csv`, `kang_length.md`: the same types after training by default and three times as long;
* `kang_ranges.md`: which metrics tell anything there, by predictions without a network (minutes);
* `kang_response.csv`: predicted and real changes of the strongest genes of NK cells, hidden, for a picture.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from files import data_file
from saved import SavedTRVAE

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.train._training import default_epochs

FILE = "kang_pbmc_hvg2000_counts.h5ad"
HERE = Path(__file__).parent
KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
CHOICE = ["CD4T", "CD8T", "Dendritic"]
SCORED = ["B", "CD14+Mono", "FCGR3A+Mono", "NK"]
SEEDS = [0, 1, 2]
N_GENES = 16  # of the picture

ABLATIONS = {
    "MMD on y": {},
    "MMD on y, not balanced": {"mmd_balance_labels": False},
    "MMD on z": {"mmd_on": "z"},
    "no MMD": {"mmd_on": None},
    "condition encoded": {"encode_condition": True},
    "condition in the first layer": {"condition_layer": "first"},
    "condition in the first layer, no MMD": {"condition_layer": "first", "mmd_on": None},
    "published layers and kernel": {
        "condition_layer": "first",
        "encode_condition": True,
        "mmd_kernel": "trvae",
        "mmd_balance_labels": False,
        "mmd_weight": 100.0,
    },
}


@dataclass(frozen=True)
class LongTRVAE(SavedTRVAE):
    """Trains three times as many epochs as by default."""

    def fit(self, holdout: benchmark.HoldOut) -> tv.TRVAE:
        """Train, or load."""
        epochs = {"max_epochs": 3 * default_epochs(holdout.training.n_obs)}
        return SavedTRVAE(self.model_kwargs, epochs, folder=self.folder).fit(holdout)


def ablate(adata: anndata.AnnData, seeds: list[int], out: Path, n_jobs: int) -> pd.DataFrame:
    """Score other settings on the types the defaults were chosen on, the most important ones first."""
    folder = str(out / "models")
    methods = {name: SavedTRVAE(kwargs, folder=folder) for name, kwargs in ABLATIONS.items()}
    methods |= {f"MMD on y, {kind}": SavedTRVAE({}, prediction=kind, folder=folder) for kind in ("sample", "mean")}
    table = pd.DataFrame()
    for some in ([name for name in methods if "MMD on" in name or name == "no MMD"], list(methods)):
        scores = benchmark.leave_one_group_out(
            adata,
            methods={name: methods[name] for name in some},
            groups=CHOICE,
            seeds=seeds,
            out=out / "kang_ablation",
            n_jobs=n_jobs,
            **KEYS,
        )
        table = pd.concat([table, scores]).drop_duplicates(["group", "seed", "method", "genes", "metric"])
    return table


def lengthen(adata: anndata.AnnData, seeds: list[int], out: Path, n_jobs: int) -> pd.DataFrame:
    """Score models trained by default and three times as long, on the types the defaults were chosen on."""
    folder = str(out / "models")
    methods = {
        "trVAE": SavedTRVAE({}, folder=folder),
        "trVAE, three times as long": LongTRVAE({}, folder=folder),
    }
    return benchmark.leave_one_group_out(
        adata, methods=methods, groups=CHOICE, seeds=seeds, out=out / "kang_length", n_jobs=n_jobs, **KEYS
    )


def measure_ranges(adata: anndata.AnnData, out: Path, results: Path) -> None:
    """Range and saturation of every metric, by which those of the headline skill were chosen."""
    table = benchmark.leave_one_group_out(
        adata, methods={}, groups=CHOICE, seeds=SEEDS[:1], out=out / "kang_ranges", **KEYS
    )
    ranges = benchmark.metric_ranges(table)
    names = ranges["metric"].str.replace("_", " ") + ", " + ranges["genes"] + " genes"
    ranges = ranges.drop(columns=["genes", "metric"]).set_index(pd.Index(names, name="metric"))
    (results / "kang_ranges.md").write_text(f"{markdown(ranges)}\n")
    print(f"\n{ranges.round(3).to_string()}", flush=True)


def respond(adata: anndata.AnnData, out: Path, results: Path) -> None:
    """The strongest predicted changes of NK cells, which were hidden, and the real ones."""
    holdout, truth = benchmark.hold_out(adata, group="NK", target="stimulated", **KEYS)
    model = SavedTRVAE({}, folder=str(out / "models")).fit(holdout)
    effect = model.get_perturbation_effect(holdout.control, target="stimulated")
    of_real, of_control = (comparison_matrix(cells).mean(axis=0) for cells in (truth.real, truth.control))
    strongest = tv.pl.response_frame(effect.assign(change_real=of_real - of_control), n_genes=N_GENES)
    strongest.to_csv(results / "kang_response.csv", index=False, float_format="%.4g")
    print(strongest.round(2).to_string(), flush=True)


def headline_skills(table: pd.DataFrame) -> pd.DataFrame:
    """Headline skill of methods by types, and its mean over them with the standard deviation over seeds."""
    skills = benchmark.holdout_skills(table)
    wide = skills.groupby(["method", "group"], sort=False)["skill"].mean().unstack("group")
    of_seed = skills.groupby(["method", "seed"], sort=False)["skill"].mean().groupby("method", sort=False)
    return wide.assign(mean=of_seed.mean(), **{"sd over seeds": of_seed.std()})


def markdown(frame: pd.DataFrame) -> str:
    """A table, three digits, undefined values as a dash, columns without any value left out."""
    frame = frame.dropna(axis=1, how="all")
    names = [str(name).replace("_", " ") for name in frame.columns]
    lines = ["| " + " | ".join([str(frame.index.name or ""), *names]) + " |", "|---" + "|---:" * len(names) + "|"]
    for name, *row in frame.itertuples(name=None):
        lines.append(f"| {name} | " + " | ".join(map(_number, row)) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.0f}" if isinstance(value, int | np.integer) else f"{value:.3f}"


def write(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write all scores as CSV, and their means as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.drop(columns=["target", "seconds"]).to_csv(path, index=False, float_format="%.5g")
    skills = headline_skills(table)
    parts = [f"# {title}\n\nHeadline skill (0: best trivial prediction, 1: noise ceiling)\n\n{markdown(skills)}"]
    for genes, rows in table.groupby("genes", sort=False):
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        parts.append(f"{genes} genes, mean over types and seeds\n\n{markdown(values)}")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print(f"\n{title}\n{skills.round(3).to_string()}", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["ranges", "response", "length", "ablation"])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--n-jobs", type=int, default=2)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    adata = anndata.read_h5ad(data_file(FILE))
    out, results = HERE / "runs", HERE / "results"
    if "ranges" in arguments.parts:
        measure_ranges(adata, out, results)
    if "response" in arguments.parts:
        respond(adata, out, results)
    if "length" in arguments.parts:
        write(
            lengthen(adata, arguments.seeds, out, arguments.n_jobs), results / "kang_length.csv", "Length of training"
        )
    if "ablation" in arguments.parts:
        write(ablate(adata, arguments.seeds, out, arguments.n_jobs), results / "kang_ablation.csv", "Ablation")


if __name__ == "__main__":
    main()
