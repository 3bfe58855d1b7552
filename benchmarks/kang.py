"""Hold cell types of Kang et al. 2018 out under stimulation, predict them, score against everything simpler.

    python benchmarks/kang.py            # everything: hours; resumes where it was interrupted
    python benchmarks/kang.py --quick    # one scored type, one seed: minutes, into a folder of its own

reads `kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA. Defaults were chosen
on CD4T, CD8T and Dendritic only; the other four types were scored once after that. Pieces and trained models are kept
in `benchmarks/runs/`, tables go to `benchmarks/results/`:

* `kang.csv`, `kang.md`: every method on every type;
* `kang_ablation.csv`, `kang_ablation.md`: other settings on the three types the defaults were chosen on;
* `kang_intervals.csv`: how often intervals calibrated on those three hold on the other four;
* `kang_length.csv`, `kang_length.md`: the same three types after training by default and three times as long;
* `kang_scgen.csv`, `kang_scgen.md`: pertpy's scGen on the four scored types, only with `--parts scgen`, as it needs the
  extra `benchmark`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import anndata
import pandas as pd
from files import data_file

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.benchmark import LatentShiftMethod, PertpyScGenMethod, SCVIMethod, TRVAEMethod
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.train._training import default_epochs

FILE = "kang_pbmc_hvg2000_counts.h5ad"
HERE = Path(__file__).parent
KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
CHOICE = ["CD4T", "CD8T", "Dendritic"]
SCORED = ["B", "CD14+Mono", "FCGR3A+Mono", "NK"]
SEEDS = [0, 1, 2]

NETWORKS = {"trVAE": {}, "trVAE, weight 0": {"mmd_on": None}}
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
class SavedTRVAE(TRVAEMethod):
    """Keeps trained models in a folder, so that several kinds of prediction share one."""

    folder: str = field(default="", repr=False)  # where it lies does not change what it predicts

    def fit(self, holdout: benchmark.HoldOut) -> tv.TRVAE:
        """Train, or load what was trained before with the same settings."""
        # defaults, too: a model trained with others must not be taken for one of these
        defaults = str(inspect.signature(tv.TRVAE.__init__)), str(inspect.signature(tv.TRVAE.train))
        settings = (self.model_kwargs, self.train_kwargs, defaults, holdout.group, holdout.target, holdout.seed)
        path = Path(self.folder) / hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        if not (path / "model.pt").exists():
            super().fit(holdout).save(path, overwrite=True)
        return tv.TRVAE.load(path, holdout.training.copy())


@dataclass(frozen=True)
class LongTRVAE(SavedTRVAE):
    """Trains three times as many epochs as by default."""

    def fit(self, holdout: benchmark.HoldOut) -> tv.TRVAE:
        """Train, or load."""
        epochs = {"max_epochs": 3 * default_epochs(holdout.training.n_obs)}
        return SavedTRVAE(self.model_kwargs, epochs, folder=self.folder).fit(holdout)


def stages(folder: str) -> list[tuple[list[str], dict[str, benchmark.Method], list[int]]]:
    """Types, methods and seeds, the most important first; networks are trained once for all kinds of prediction."""
    networks = {name: SavedTRVAE(kwargs, folder=folder) for name, kwargs in NETWORKS.items()}
    ours, without = ({name: networks[name]} for name in NETWORKS)
    kinds = {f"trVAE, {kind}": SavedTRVAE({}, prediction=kind, folder=folder) for kind in ("sample", "mean")}
    others = {"latent shift": LatentShiftMethod(), "SCVI (60 epochs)": SCVIMethod(train_kwargs={"max_epochs": 60})}
    return [
        (SCORED, ours, SEEDS),
        (SCORED, kinds, SEEDS),
        (CHOICE, ours, SEEDS[:1]),
        (SCORED, without, SEEDS[:1]),
        (SCORED, others, SEEDS[:1]),
        (CHOICE, ours, SEEDS),
        (SCORED, without, SEEDS),
        (CHOICE, without, SEEDS),
        (CHOICE, others, SEEDS[:1]),
    ]


def predict_all(adata: anndata.AnnData, out: Path, n_jobs: int, path: Path) -> None:
    """Score every method on every type, and write what is finished after each stage."""
    table = pd.DataFrame()
    for types, methods, seeds in stages(str(out / "models")):
        scores = benchmark.leave_one_group_out(
            adata, methods=methods, groups=types, seeds=seeds, out=out / "kang", n_jobs=n_jobs, **KEYS
        )
        table = pd.concat([table, scores]).drop_duplicates(["group", "seed", "method", "genes", "metric"])
        write(table, path, "Held-out types of Kang et al. 2018")


def quick(adata: anndata.AnnData, out: Path, n_jobs: int) -> None:
    """Score the model and the same without penalty on one type."""
    methods = {name: TRVAEMethod(kwargs) for name, kwargs in NETWORKS.items()}
    scores = benchmark.leave_one_group_out(
        adata, methods=methods, groups=["NK"], out=out / "quick", n_jobs=n_jobs, **KEYS
    )
    write(scores, out / "quick" / "kang.csv", "NK, one seed")


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


def score_scgen(adata: anndata.AnnData, out: Path, n_jobs: int) -> pd.DataFrame:
    """Score scGen on the scored types; 40 of its tutorials' 100 epochs."""
    method = PertpyScGenMethod(train_kwargs={"max_epochs": 40, "batch_size": 32})
    name = "scGen (40 epochs)"
    scores = benchmark.leave_one_group_out(
        adata, methods={name: method}, groups=SCORED, seeds=SEEDS[:1], out=out / "kang_scgen", n_jobs=n_jobs, **KEYS
    )
    return scores[scores["method"] == name]


def score_intervals(adata: anndata.AnnData, seed: int, out: Path, results: Path) -> None:
    """Calibrate intervals on the types the defaults were chosen on, score them on the others."""
    method = SavedTRVAE({}, folder=str(out / "models"))
    tables = {}
    for group in CHOICE + SCORED:
        holdout, real = benchmark.hold_out(adata, group=group, target="stimulated", seed=seed, **KEYS)
        cells = (comparison_matrix(c) for c in (method(holdout), real, holdout.control))
        tables[group] = benchmark.change_table(*cells)
    error = benchmark.fit_model_error([tables[group] for group in CHOICE])
    frame = benchmark.coverage_table(tables, error)
    role = frame["group"].isin(CHOICE).map({True: "calibrated on", False: "scored"})
    frame = frame.assign(role=role, seed=seed, floor=error.floor, share=error.share)
    frame.to_csv(results / "kang_intervals.csv", index=False, float_format="%.4g")
    wide = frame.pivot_table(index=["role", "group"], columns="genes", values=["coverage", "mean_width"], sort=False)
    wide.columns = [f"{name}, {genes} genes" for name, genes in wide.columns]
    wide.index = [f"{group} ({role})" for role, group in wide.index]
    title = (
        f"Intervals of 90 %, standard deviation of the model's error {error.floor:.4f} + {error.share:.3f} x |change|"
    )
    (results / "kang_intervals.md").write_text(f"{title}\n\n{markdown(wide)}\n")
    print(f"\n{title}\n{wide.to_string()}", flush=True)


def mean_skills(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the mean clipped skill, methods by types, with the mean and spread over the scored ones."""
    clipped = table.assign(skill=table["skill"].clip(-1, 1))
    by_seed = clipped.groupby(["method", "group", "seed"], sort=False)["skill"].mean()
    wide = by_seed.groupby(["method", "group"], sort=False).mean().unstack("group")
    for name, types in (("mean of chosen on", CHOICE), ("mean of scored", SCORED)):
        there = [group for group in types if group in wide]
        if there:
            means = by_seed[by_seed.index.get_level_values("group").isin(there)].groupby(["method", "seed"]).mean()
            wide[name] = means.groupby("method").mean()
            wide[f"sd over seeds, {name.split(' of ')[1]}"] = means.groupby("method").std()
    return wide


def markdown(frame: pd.DataFrame) -> str:
    """A table, three digits, undefined values as a dash."""
    names = [str(name).replace("_", " ") for name in frame.columns]
    lines = ["| " + " | ".join([str(frame.index.name or ""), *names]) + " |", "|---" + "|---:" * len(names) + "|"]
    for name, row in frame.iterrows():
        lines.append(f"| {name} | " + " | ".join("-" if pd.isna(x) else f"{x:.3f}" for x in row) + " |")
    return "\n".join(lines)


def write(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write all scores as CSV, and their means as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.drop(columns=["target", "seconds"]).to_csv(path, index=False, float_format="%.5g")
    parts = [f"# {title}\n\nMean skill (0: mean shift, 1: noise ceiling)\n\n{markdown(mean_skills(table))}"]
    for role, types in (("scored", SCORED), ("chosen on", CHOICE)):
        part = table[table["group"].isin(types)]
        for genes, rows in part.groupby("genes", sort=False):
            values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
            groups = ", ".join(part["group"].unique())
            parts.append(f"Types {role} ({groups}), {genes} genes, mean over types and seeds\n\n{markdown(values)}")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print(f"\n{title}\n{mean_skills(table).round(3).to_string()}", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="NK, one seed, no ablation")
    parser.add_argument("--parts", nargs="+", default=["main", "intervals", "length", "ablation"], help="and scgen")
    parser.add_argument("--ablation-seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--n-jobs", type=int, default=2)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    adata = anndata.read_h5ad(data_file(FILE))
    out, results = HERE / "runs", HERE / "results"
    if arguments.quick:
        quick(adata, out, arguments.n_jobs)
        return
    if "main" in arguments.parts:
        predict_all(adata, out, arguments.n_jobs, results / "kang.csv")
    if "intervals" in arguments.parts:
        score_intervals(adata, SEEDS[0], out, results)
    if "scgen" in arguments.parts:
        table = score_scgen(adata, out, arguments.n_jobs)
        write(table, results / "kang_scgen.csv", f"scGen of pertpy {version('pertpy')}")
    if "length" in arguments.parts:
        table = lengthen(adata, arguments.ablation_seeds, out, arguments.n_jobs)
        write(table, results / "kang_length.csv", "Length of training")
    if "ablation" in arguments.parts:
        write(ablate(adata, arguments.ablation_seeds, out, arguments.n_jobs), results / "kang_ablation.csv", "Ablation")


if __name__ == "__main__":
    main()
