"""Hold cell types of Kang et al. 2018 out under stimulation, predict them, score against trivial predictions.

    python benchmarks/kang_holdout.py --groups NK --seeds 0

reads `kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA and writes one row for
every group, seed, method, gene set and metric to `benchmarks/results/kang_holdout.csv`, and a readable table beside it.
Settings are the package's defaults; nothing is chosen here.
"""

from __future__ import annotations

import argparse
import logging
import os
from importlib.metadata import version
from pathlib import Path

import anndata
import pandas as pd
import scvi

import trvae_scvi as tv
from trvae_scvi import benchmark

FILE = "kang_pbmc_hvg2000_counts.h5ad"
OUT = Path(__file__).parent / "results"
METHODS = {"trVAE": "counterfactual", "trVAE, sampled": "sample", "trVAE, mean": "mean"}


def hold_out(adata: anndata.AnnData, group: str, seed: int) -> pd.DataFrame:
    """Train without `group` under stimulation and score what is predicted for it."""
    of_group = adata.obs["cell_type"] == group
    control = adata[(of_group & (adata.obs["condition"] == "control")).to_numpy()]
    held_out = (of_group & (adata.obs["condition"] == "stimulated")).to_numpy()
    training = adata[~held_out].copy()
    scvi.settings.seed = seed
    tv.TRVAE.setup_anndata(training)
    model = tv.TRVAE(training)
    model.train(enable_progress_bar=False)
    predictions = {
        name: model.predict_perturbation(control, target="stimulated", method=method, seed=seed)
        for name, method in METHODS.items()
    }
    scores = benchmark.compare_predictions(
        predictions,
        adata,
        group_key="cell_type",
        group=group,
        condition_key="condition",
        control="control",
        target="stimulated",
    )
    return scores.assign(group=group, seed=seed, epochs=len(model.history["train_loss"]))


def main() -> None:
    """Run all asked hold-outs and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["NK"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=OUT / "kang_holdout.csv")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    adata = anndata.read_h5ad(Path(os.environ["TRVAE_SCVI_DATA"]) / FILE)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for group in arguments.groups:
        for seed in arguments.seeds:
            frames.append(hold_out(adata, group, seed))
            table = pd.concat(frames).assign(version=version("trvae-scvi"), scvi_tools=scvi.__version__)
            table = table[
                ["group", "seed", "method", "genes", "metric", "value", "skill", "epochs", "version", "scvi_tools"]
            ]
            table.to_csv(arguments.out, index=False, float_format="%.5g")
            arguments.out.with_suffix(".md").write_text(_markdown(table))
            print(f"\n{group}, seed {seed}\n{_readable(frames[-1]).to_string()}", flush=True)


def _readable(scores: pd.DataFrame) -> pd.DataFrame:
    """One row for every method, with the mean of its skills clipped to [-1, 1]."""
    wide = scores.pivot_table(index="method", columns=["genes", "metric"], values="value", sort=False)
    skills = scores.assign(skill=scores["skill"].clip(-1, 1)).groupby("method", sort=False)["skill"].mean()
    return wide.assign(mean_skill=skills).round(3)


def _markdown(scores: pd.DataFrame) -> str:
    """Means over seeds as tables, one for every group and gene set."""
    lines: list[str] = []
    for (group, genes), part in scores.groupby(["group", "genes"], sort=False):
        wide = part.pivot_table(index="method", columns="metric", values="value", sort=False)
        names = [metric.replace("_", " ") for metric in wide.columns]
        lines += [f"{group} held out under stimulation, {genes} genes, mean of {part['seed'].nunique()} seeds", ""]
        lines += ["| " + " | ".join(["method", *names]) + " |", "|---" + "|---:" * len(names) + "|"]
        lines += [f"| {method} | " + " | ".join(f"{x:.3f}" for x in row) + " |" for method, row in wide.iterrows()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
