"""With default settings the model recovers a response it never saw, on simulated and on real data."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scvi

import trvae_scvi as tv
from trvae_scvi import benchmark, metrics

SIZE = 3000, 300  # cells and genes: the whole size takes three times as long, and the demo's test has it
KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control", "target": "stimulated"}


def hold_out(adata, group, seed, **train):
    """Scores of our prediction and of the baselines for a held-out group, one column each."""
    scvi.settings.seed = seed
    holdout, truth = benchmark.hold_out(adata, group=group, **KEYS)
    tv.TRVAE.setup_anndata(holdout.training, labels_key="cell_type")
    model = tv.TRVAE(holdout.training)
    model.train(enable_progress_bar=False, **train)
    prediction = model.predict_perturbation(holdout.control, target="stimulated", seed=seed)
    scores = benchmark.compare_predictions({"trvae": prediction}, holdout, truth)
    return scores.set_index(["method", "genes", "metric"])["value"].dropna()  # without the rank among targets


def test_simulated_data():
    """Over three data sets and held-out types, with default settings: better than every simple prediction."""
    runs = [
        hold_out(tv.datasets.simulate_perturbation(*SIZE, seed=seed).adata, f"type_{seed + 2}", seed)
        for seed in range(3)
    ]
    mean = pd.concat(runs, axis=1).mean(axis=1).unstack(["genes", "metric"])
    for (genes, metric), column in mean.items():
        sign = 1 if metrics.HIGHER_IS_BETTER[metric] else -1
        for baseline in benchmark.BASELINES:
            assert sign * column["trvae"] > sign * column[baseline], (genes, metric, baseline)


def test_a_response_of_one_type_alone_is_not_predicted():
    """The simulator's unpredictable variant is one: nothing learned from other types helps."""
    adata = tv.datasets.simulate_perturbation(*SIZE, seed=0, type_specific=True).adata
    scores = hold_out(adata, "type_2", 0)
    assert scores["trvae"]["all", "pearson_change"] < 0.5


def test_real_data_in_a_few_minutes(real_data):
    """A small real data set: better than no change and mean shift on a held-out type, and no NaN on the way."""
    adata = anndata.read_h5ad(real_data / "kang_pbmc_tiny_counts.h5ad")
    scores = hold_out(adata, "CD8T", 0)
    for metric in ("mse_means", "energy_distance"):
        assert scores["trvae"]["all", metric] < scores["no change"]["all", metric]
    assert scores["trvae"]["all", "pearson_change"] > 0.7
    assert np.isfinite(scores).all()
