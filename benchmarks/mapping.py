"""Map two patients of Kang et al. 2018 onto a reference of the six others, and predict their stimulated cells.

    python benchmarks/mapping.py

reads `kang_pbmc_hvg2000_counts.h5ad` from the folder in the environment variable TRVAE_SCVI_DATA. The condition is
control or stimulated, the patient a covariate. The reference is trained without patients 101 and 107; of these only
control cells are given to the query model. Scored are the labels transferred to those cells, beside scvi-tools' SCVI
mapped with its own surgery on the same split, and the prediction of their stimulated cells, type by type, beside mean
shifts of the reference's patients. Writes `benchmarks/results/mapping_labels.{csv,md}` and
`mapping_prediction.{csv,md}`.
"""

from __future__ import annotations

import argparse
import logging

import anndata
import numpy as np
import pandas as pd
import scvi
from files import data_file
from kang import FILE, HERE, markdown
from scvi.model import SCVI

import trvae_scvi as tv
from trvae_scvi.mapping import transfer_labels
from trvae_scvi.metrics import comparison_matrix, score_arrays

QUERY_PATIENTS = ["101", "107"]
MIN_CELLS = 20
SCVI_EPOCHS = 100
# what scvi-tools' tutorial of query mapping recommends
SCVI_NETWORK = {
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "encode_covariates": True,
    "dropout_rate": 0.2,
    "n_layers": 2,
}
NETWORKS = {"trVAE": {}, "trVAE, condition encoded": {"encode_condition": True}}
QUIET = {"enable_progress_bar": False}


def split(adata: anndata.AnnData) -> tuple[anndata.AnnData, anndata.AnnData, anndata.AnnData]:
    """Reference, the query's control cells, and its stimulated cells, which no model sees."""
    of_query = adata.obs["patient"].isin(QUERY_PATIENTS).to_numpy()
    control = (adata.obs["condition"] == "control").to_numpy()
    reference, query, hidden = adata[~of_query].copy(), adata[of_query & control].copy(), adata[of_query & ~control]
    for part in (reference, query):
        part.obs["patient"] = part.obs["patient"].astype(str)
    return reference, query, hidden.copy()


def accuracies(reference: anndata.AnnData, query: anndata.AnnData, latent: tuple[np.ndarray, np.ndarray]) -> dict:
    """Share of right labels, over cells and as a mean over types."""
    reference, query = reference.copy(), query.copy()
    reference.obsm["X_latent"], query.obsm["X_latent"] = latent
    labels = transfer_labels(query, reference, labels_key="cell_type", use_rep="X_latent")["label"]
    right = pd.Series(labels.astype(str).to_numpy() == query.obs["cell_type"].astype(str).to_numpy(), query.obs_names)
    return {
        "accuracy": right.mean(),
        "mean over types": right.groupby(query.obs["cell_type"].astype(str)).mean().mean(),
    }


def map_trvae(reference: anndata.AnnData, query: anndata.AnnData, **kwargs: object) -> tuple[tv.TRVAE, tuple]:
    """The mapped model and both latent representations."""
    tv.TRVAE.setup_anndata(reference, labels_key="cell_type", categorical_covariate_keys=["patient"])
    model = tv.TRVAE(reference, **kwargs)
    model.train(**QUIET)
    unlabelled = query.copy()
    del unlabelled.obs["cell_type"]
    mapped = tv.TRVAE.load_query_data(unlabelled, model)
    mapped.train(**QUIET)
    return mapped, (model.get_latent_representation(), mapped.get_latent_representation())


def map_scvi(reference: anndata.AnnData, query: anndata.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Both latent representations of SCVI with the patient as its batch, mapped as its documentation says."""
    SCVI.setup_anndata(reference, batch_key="patient")
    model = SCVI(reference, **SCVI_NETWORK)
    model.train(max_epochs=SCVI_EPOCHS, **QUIET)
    mapped = SCVI.load_query_data(query, model)
    mapped.train(max_epochs=SCVI_EPOCHS, plan_kwargs={"weight_decay": 0.0}, **QUIET)
    return model.get_latent_representation(), mapped.get_latent_representation()


def shifts(reference: anndata.AnnData, cell_type: str) -> dict[str, np.ndarray]:
    """Mean change of a type in the reference: over its cells, and over its patients with the same weight."""
    cells = reference[(reference.obs["cell_type"] == cell_type).to_numpy()]
    values = pd.DataFrame(comparison_matrix(cells))
    condition = cells.obs["condition"].astype(str).to_numpy()
    pooled = values.groupby(condition).mean()
    by_patient = values.groupby([condition, cells.obs["patient"].astype(str).to_numpy()]).mean()
    stimulated, control = by_patient.loc["stimulated"], by_patient.loc["control"]
    both = stimulated.index.intersection(control.index)
    return {
        "mean shift of the type": (pooled.loc["stimulated"] - pooled.loc["control"]).to_numpy(),
        "mean shift, patients balanced": (stimulated.loc[both] - control.loc[both]).mean().to_numpy(),
    }


def score_predictions(
    mapped: dict[str, tv.TRVAE],
    reference: anndata.AnnData,
    query: anndata.AnnData,
    aside: anndata.AnnData,
    hidden: anndata.AnnData,
) -> pd.DataFrame:
    """Scores for every patient, type and method."""
    frames = []
    for patient in QUERY_PATIENTS:
        for cell_type in query.obs["cell_type"].cat.categories:
            given, apart, real = (
                cells[((cells.obs["patient"] == patient) & (cells.obs["cell_type"] == cell_type)).to_numpy()]
                for cells in (query, aside, hidden)
            )
            if min(given.n_obs, real.n_obs) < MIN_CELLS:
                continue
            control, moved = comparison_matrix(given), shifts(reference, cell_type)
            cells = {"no change": control}
            for name, shift in moved.items():
                cells[name] = np.maximum(control + shift, 0.0)
            for name, model in mapped.items():
                cells[name] = comparison_matrix(model.predict_perturbation(given, target="stimulated"))
            for name, predicted in cells.items():
                sides = comparison_matrix(real), comparison_matrix(apart), control
                scores = score_arrays(predicted, *sides, expected=moved["mean shift of the type"], n_top_genes=100)
                frames.append(scores.assign(method=name, patient=patient, cell_type=cell_type))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Run all seeds and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    adata = anndata.read_h5ad(data_file(FILE))
    labels, predictions = [], []
    for seed in arguments.seeds:
        scvi.settings.seed = seed
        reference, query, hidden = split(adata)
        of_kind = query.obs.groupby(["patient", "cell_type"], observed=True)
        apart = query.obs_names.isin(of_kind.sample(frac=0.3, random_state=0).index)
        query, aside = query[~apart].copy(), query[apart].copy()  # the change is measured against cells set aside
        mapped = {}
        for name, kwargs in NETWORKS.items():
            mapped[name], latent = map_trvae(reference.copy(), query, **kwargs)
            labels.append({"method": name, "seed": seed, **accuracies(reference, query, latent)})
        latent = map_scvi(reference.copy(), query.copy())
        name = f"SCVI, {SCVI_EPOCHS} epochs"
        labels.append({"method": name, "seed": seed, **accuracies(reference, query, latent)})
        predictions.append(score_predictions(mapped, reference, query, aside, hidden).assign(seed=seed))
        write(pd.DataFrame(labels), pd.concat(predictions, ignore_index=True))


def write(labels: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Write what is there so far."""
    results = HERE / "results"
    labels.to_csv(results / "mapping_labels.csv", index=False, float_format="%.5g")
    values = labels.groupby("method", sort=False)[["accuracy", "mean over types"]]
    wide = values.mean().join(values.std(), rsuffix=", sd over seeds")
    (results / "mapping_labels.md").write_text(f"Labels transferred to the query's cells\n\n{markdown(wide)}\n")
    print(wide.round(4).to_string(), flush=True)
    predictions.to_csv(results / "mapping_prediction.csv", index=False, float_format="%.5g")
    parts = []
    for genes, rows in predictions.groupby("genes", sort=False):
        values = rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        n = len(rows[["patient", "cell_type"]].drop_duplicates())
        parts.append(f"{genes} genes, mean over {n} pairs of patient and type and over seeds\n\n{markdown(values)}")
        print(genes, values.round(4).to_string(), sep="\n", flush=True)
    (results / "mapping_prediction.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
