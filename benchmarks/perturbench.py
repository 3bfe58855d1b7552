"""Many conditions: 34 genetic perturbations trained in one call, and lines of the McFaline-Figueroa screen held out.

    python benchmarks/perturbench.py

reads `perturbench_devel_norman19_mcfaline23_lognorm.h5ad` (a development subset of PerturBench, arXiv 2408.10609) from
the folder in the environment variable TRVAE_SCVI_DATA. Hold-outs are within McFaline-Figueroa et al. 2023, three lines
with nine targets: Norman et al. 2019 is CRISPR activation and this is interference, so that the same gene's name means
opposite things. Writes `benchmarks/results/perturbench.csv` and `.md`; pieces are kept in `benchmarks/runs/`.
"""

from __future__ import annotations

import argparse

import anndata
import numpy as np
import pandas as pd
from files import data_file
from kang import HERE, markdown

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.benchmark import TRVAEMethod

FILE = "perturbench_devel_norman19_mcfaline23_lognorm.h5ad"
METHODS = {"trVAE": TRVAEMethod()}


def train_all(adata: anndata.AnnData) -> tv.TRVAE:
    """Train on every condition of both screens."""
    cells = adata.copy()
    tv.TRVAE.setup_anndata(cells, layer="counts", labels_key="cell_type", categorical_covariate_keys=["dataset"])
    model = tv.TRVAE(cells)
    model.train(enable_progress_bar=False)
    losses = np.concatenate([frame.to_numpy(dtype=float).ravel() for frame in model.history.values()])
    if not np.isfinite(losses).all():
        msg = "Expected finite losses with 34 conditions, found others."
        raise RuntimeError(msg)
    return model


def main() -> None:
    """Train on all conditions, then hold lines out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    adata = anndata.read_h5ad(data_file(FILE))
    model = train_all(adata)
    n_conditions = adata.obs["condition"].nunique()
    print(f"{n_conditions} conditions, {len(model.history['train_loss'])} epochs", flush=True)
    screen = adata[(adata.obs["dataset"] == "mcfaline23").to_numpy()].copy()
    screen = screen[np.asarray(screen.layers["counts"].sum(axis=1)).ravel() > 0].copy()
    table = benchmark.leave_one_group_out(
        screen,
        group_key="cell_type",
        control="control",
        layer="counts",
        methods=METHODS,
        seeds=arguments.seeds,
        n_jobs=arguments.n_jobs,
        out=HERE / "runs" / "perturbench",
    )
    path = HERE / "results" / "perturbench.csv"
    table.drop(columns="seconds").to_csv(path, index=False, float_format="%.5g")
    parts = ["# McFaline-Figueroa screen, each line held out under each target"]
    for genes, rows in table.groupby("genes", sort=False):
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        defined = rows.groupby("method", sort=False)["skill"].agg(lambda s: s.notna().mean())
        n = len(rows[["group", "target"]].drop_duplicates())
        values["skill defined"] = defined
        parts.append(f"{genes} genes, mean over {n} hold-outs\n\n{markdown(values)}")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print(
        pd.concat(
            {
                g: r.groupby(["method", "metric"], sort=False)["value"].mean().unstack()
                for g, r in table.groupby("genes", sort=False)
            }
        )
        .round(3)
        .to_string()
    )


if __name__ == "__main__":
    main()
