"""How well the latent space mixes batches and keeps cell types: trVAE beside SCVI, scANVI, Harmony and plain PCA.

    python benchmarks/integration.py --choose    # which settings, on simulations that are not scored
    python benchmarks/integration.py             # simulations and Kang et al. by patient: an hour; resumes

needs `pip install scib-metrics harmonypy`; Kang et al. are read from the folder in the environment variable
TRVAE_SCVI_DATA. The simulation is like the pancreas data of integration benchmarks: cell types of very different
shares, measured with four technologies, which differ in depth and in what they see of every gene, and one of which
lacks two types. With Kang et al. the batch is the patient, and what is to be kept is the type of a cell and its
condition, as a method that mixes patients must not undo what the stimulus did; 5,000 of its cells are drawn. Scores are
those of `scib_metrics.benchmark.Benchmarker` on its scale (larger is better). Writes
`benchmarks/results/integration.{csv,md}`; `--choose` writes `integration_choice.{csv,md}`.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from files import data_file
from kang import FILE, HERE, markdown
from scipy import sparse
from scvi.model import SCANVI, SCVI

import trvae_scvi as tv

BATCH, LABEL = "batch", "label"
CHOICE_SEEDS, SCORED_SEEDS = [10, 11], [0, 1, 2]
N_CELLS = 5000
# columns of the benchmarker's table: its means, and how many of the others are about labels
WHOLE, N_LABEL_METRICS = ["Total", "Bio conservation", "Batch correction"], 5
# Of the settings, those of integration: they are compared on the simulations with seeds 10 and 11.
SETTINGS: dict[str, dict] = {
    "default": {},
    "condition encoded": {"encode_condition": True},
    "condition encoded, first layer": {"encode_condition": True, "condition_layer": "first"},
    "condition encoded, first layer, MMD on z": {
        "encode_condition": True,
        "condition_layer": "first",
        "mmd_on": "z",
    },
    "condition encoded, first layer, MMD on z, weight 100": {
        "encode_condition": True,
        "condition_layer": "first",
        "mmd_on": "z",
        "mmd_weight": 100.0,
    },
    "condition encoded, first layer, no MMD": {
        "encode_condition": True,
        "condition_layer": "first",
        "mmd_on": None,
    },
}
# the best of them there, by the mean of `Total`
CHOSEN = "condition encoded"


def simulate(seed: int, n_cells: int = 3000, n_genes: int = 500, n_types: int = 8) -> anndata.AnnData:
    """Cells of types that differ in their share, by four technologies that differ in depth and in every gene."""
    rng = np.random.default_rng(seed)
    depths = np.array([600.0, 1500.0, 4000.0, 2500.0])
    batch = rng.integers(len(depths), size=n_cells)
    shares = 0.6 ** np.arange(n_types)
    types = rng.choice(n_types, n_cells, p=shares / shares.sum())
    lacking = (batch == 0) & np.isin(types, [1, 4])
    types[lacking] = 0
    base = 1.5 * rng.standard_normal(n_genes)
    markers = 1.5 * rng.standard_normal((n_types, n_genes)) * (rng.random((n_types, n_genes)) < 0.1)
    state = 0.8 * rng.standard_normal((2, n_genes)) * (rng.random((2, n_genes)) < 0.1)
    technology = 0.7 * rng.standard_normal((len(depths), n_genes))
    logits = base + markers[types] + technology[batch] + rng.standard_normal((n_cells, 2)) @ state
    means = np.exp(logits)
    means *= (depths[batch] * np.exp(0.35 * rng.standard_normal(n_cells)) / means.sum(axis=1))[:, None]
    counts = rng.poisson(rng.gamma(2.0, means / 2.0)).astype(np.float32)
    obs = pd.DataFrame(
        {BATCH: [f"technology_{b + 1}" for b in batch], LABEL: [f"type_{t + 1}" for t in types]},
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    return _prepared(anndata.AnnData(sparse.csr_matrix(counts), obs=obs.astype("category")))


def kang() -> anndata.AnnData:
    """5,000 cells of eight patients; a type under a condition is a label."""
    adata = anndata.read_h5ad(data_file(FILE))
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:N_CELLS])].copy()
    adata.obs[BATCH] = adata.obs["patient"].astype(str).astype("category")
    adata.obs[LABEL] = (adata.obs["cell_type"].astype(str) + ", " + adata.obs["condition"].astype(str)).astype(
        "category"
    )
    return _prepared(adata)


def _prepared(adata: anndata.AnnData) -> anndata.AnnData:
    """Counts in a layer, and principal components of the log-normalised genes."""
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=30)
    return adata


def of_trvae(adata: anndata.AnnData, seed: int, *, labelled: bool, **settings: object) -> np.ndarray:
    """The batch is the condition, so that the penalty matches batches."""
    scvi.settings.seed = seed
    cells = adata.copy()
    labels = {"labels_key": LABEL} if labelled else {}
    tv.TRVAE.setup_anndata(cells, condition_key=BATCH, layer="counts", **labels)
    model = tv.TRVAE(cells, **settings)
    model.train(enable_progress_bar=False)
    return model.get_latent_representation()


def of_scvi(adata: anndata.AnnData, seed: int) -> np.ndarray:
    """SCVI with its defaults."""
    scvi.settings.seed = seed
    cells = adata.copy()
    SCVI.setup_anndata(cells, layer="counts", batch_key=BATCH)
    model = SCVI(cells)
    model.train(enable_progress_bar=False)
    model.save(HERE / "runs" / "integration" / "scvi", overwrite=True)
    return model.get_latent_representation()


def of_scanvi(adata: anndata.AnnData, seed: int) -> np.ndarray:
    """Trained with all labels from that SCVI, the last one, 20 epochs as in scvi-tools' tutorial."""
    scvi.settings.seed = seed
    cells = adata.copy()
    SCVI.setup_anndata(cells, layer="counts", batch_key=BATCH)
    start = SCVI.load(HERE / "runs" / "integration" / "scvi", cells)
    model = SCANVI.from_scvi_model(start, unlabeled_category="Unknown", labels_key=LABEL)
    model.train(max_epochs=20, n_samples_per_label=100, enable_progress_bar=False)
    return model.get_latent_representation()


def of_harmony(adata: anndata.AnnData, seed: int) -> np.ndarray:
    """Harmony with its defaults on 30 principal components."""
    import harmonypy

    found = harmonypy.run_harmony(np.asarray(adata.obsm["X_pca"]), adata.obs, BATCH, random_state=seed)
    corrected = np.asarray(found.Z_corr)
    return corrected if len(corrected) == adata.n_obs else corrected.T


def methods(names: list[str], *, others: bool) -> dict[str, Callable[[anndata.AnnData, int], np.ndarray]]:
    """TRVAE with each of these settings; with the last one given labels, too, and other methods."""
    found: dict[str, Callable[[anndata.AnnData, int], np.ndarray]] = {
        f"trVAE, {name}": partial(of_trvae, labelled=False, **SETTINGS[name]) for name in names
    }
    if others:
        found[f"trVAE, {names[-1]}, labels"] = partial(of_trvae, labelled=True, **SETTINGS[names[-1]])
        found |= {"SCVI": of_scvi, "scANVI, labels": of_scanvi, "Harmony": of_harmony}
    return found | {"PCA": lambda adata, seed: np.asarray(adata.obsm["X_pca"])}


def embeddings(adata: anndata.AnnData, asked: dict[str, Callable], seed: int, folder: Path) -> dict[str, np.ndarray]:
    """Each method's representation; made once and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, method in asked.items():
        path = folder / f"{name}.npy"
        if not path.exists():
            print(folder.name, name, flush=True)
            np.save(path, method(adata, seed).astype(np.float32))
        found[name] = np.load(path)
    return found


def scores(adata: anndata.AnnData, found: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each method with the scores of scib-metrics."""
    from scib_metrics.benchmark import Benchmarker

    cells = adata.copy()
    for name, values in found.items():
        cells.obsm[name] = values
    scorer = Benchmarker(cells, BATCH, LABEL, list(found), pre_integrated_embedding_obsm_key="X_pca", n_jobs=1)
    scorer.benchmark()
    table = scorer.get_results(min_max_scale=False).drop(index="Metric Type").astype(float)
    return table.rename_axis("method").reset_index()


def main() -> None:
    """Score what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), help="of trVAE; --choose takes all")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="scib_metrics|jax|sklearn|umap")
    names = arguments.settings or (list(SETTINGS) if arguments.choose else ["default", CHOSEN])
    asked = methods(names, others=not arguments.choose)
    stem = "integration_choice" if arguments.choose else "integration"
    data = {"simulation": CHOICE_SEEDS if arguments.choose else SCORED_SEEDS}
    if not arguments.choose:
        data["Kang et al., patients"] = [0]
    parts = []
    for title, seeds in data.items():
        for seed in seeds:
            adata = simulate(seed) if title == "simulation" else kang()
            found = embeddings(adata, asked, seed, HERE / "runs" / "integration" / f"{title.split()[0]}_{seed}")
            parts.append(scores(adata, found).assign(data=title, seed=seed))
    table = pd.concat(parts)
    table.to_csv(HERE / "results" / f"{stem}.csv", index=False, float_format="%.4g")
    write(table, HERE / "results" / f"{stem}.md")


def write(table: pd.DataFrame, path: Path) -> None:
    """Means over seeds as Markdown, the best total first; what they are means of in tables that fit a page."""
    lines = ["# Batches mixed, labels kept"]
    for title, rows in table.groupby("data", sort=False):
        n = rows["seed"].nunique()
        means = rows.drop(columns=["data", "seed"]).groupby("method").mean().sort_values("Total", ascending=False)
        singles = means.drop(columns=WHOLE).columns
        lines += [f"## {title}, {'one seed' if n == 1 else f'{n} seeds'}", markdown(means[WHOLE])]
        lines += [f"Labels kept\n\n{markdown(means[singles[:N_LABEL_METRICS]])}"]
        lines += [f"Batches mixed\n\n{markdown(means[singles[N_LABEL_METRICS:]])}"]
        print(f"\n{title}\n{means[WHOLE].round(3)}", flush=True)
    path.write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
