"""scvi-tools' sweep of hyperparameters with Ray Tune."""

from __future__ import annotations

import pytest
import scvi

import trvae_scvi as tv

for package in ("hyperopt", "muon", "ray.tune", "scib_metrics"):
    pytest.importorskip(package)


@pytest.fixture
def ray():
    import ray

    yield ray
    ray.shutdown()


def test_autotune_sweeps_arguments_of_model_and_training(tmp_path, ray):
    from scvi.autotune import run_autotune

    adata = tv.datasets.simulate_perturbation(200, 20, n_types=2, seed=1).adata
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    experiment = run_autotune(
        tv.TRVAE,
        adata,
        metrics="validation_loss",
        mode="min",
        search_space={
            "model_params": {"n_hidden": ray.tune.grid_search([8, 16])},
            "train_params": {"max_epochs": 2, "batch_size": 64, "plan_kwargs": {"lr": ray.tune.loguniform(1e-3, 1e-2)}},
        },
        num_samples=1,
        scheduler="fifo",
        searcher="random",
        seed=0,
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
    )
    results = list(experiment.result_grid)
    assert [result.error for result in results] == [None, None]
    assert sorted(result.config["model_params"]["n_hidden"] for result in results) == [8, 16]
    assert len({result.config["train_params"]["plan_kwargs"]["lr"] for result in results}) == 2
    for result in results:
        assert result.metrics["training_iteration"] == 2
    best = experiment.result_grid.get_best_result("validation_loss", "min")
    # what the best trial reported is what one gets with its arguments
    scvi.settings.seed = 0
    model = tv.TRVAE(adata, **best.config["model_params"])
    model.train(**best.config["train_params"], accelerator="cpu", enable_progress_bar=False)
    losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    assert best.metrics["validation_loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert best.metrics["validation_loss"] < max(result.metrics["validation_loss"] for result in results)
