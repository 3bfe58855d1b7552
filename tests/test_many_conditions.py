"""Hundreds of conditions, most with few cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import trvae_scvi as tv
from trvae_scvi.data._sampler import ConditionBalancedSampler

N_CONDITIONS, N_GENES = 300, 30
SIZES = np.where(np.arange(N_CONDITIONS) % 30 == 0, 3, 12)


@pytest.fixture(scope="module")
def screen():
    """Every tenth gene answers to a tenth of the conditions."""
    rng = np.random.default_rng(0)
    code = np.repeat(np.arange(N_CONDITIONS), SIZES)
    change = np.where((code % 10)[:, None] == (np.arange(N_GENES) % 10)[None, :], 4.0, 1.0)
    counts = rng.poisson(rng.gamma(2.0, 3.0, (len(code), 1)) * change).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    obs = {"condition": [f"g{c:03}" for c in code], "cell_type": rng.choice(["x", "y"], len(code))}
    adata = ad.AnnData(counts, obs=obs)
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    return adata


@pytest.fixture(scope="module")
def model(screen):
    adata = screen.copy()
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16, n_latent=4)
    model.train(max_epochs=8, batch_size=128, enable_progress_bar=False, plan_kwargs={"lr": 0.02})
    return model


def test_small_conditions_fill_the_batches():
    codes = np.repeat(np.arange(N_CONDITIONS), SIZES)
    batches = list(
        ConditionBalancedSampler(
            codes, np.zeros_like(codes), np.arange(len(codes)), batch_size=128, reference=None, seed=0
        )
    )
    present = [np.unique(codes[batch]) for batch in batches]
    assert all(120 <= len(batch) <= 128 for batch in batches)
    assert all(len(set(batch)) == len(batch) for batch in batches)
    assert max(map(len, present)) < 20  # most are absent from a batch
    assert len(np.unique(np.concatenate(present))) > 0.5 * N_CONDITIONS


def test_trains_and_matches_hundreds_of_conditions(model):
    for name, values in model.history.items():
        assert np.isfinite(values.to_numpy(dtype=float)).all(), name
    assert (model.history["mmd_train"].to_numpy(dtype=float) > 0).all()
    reconstruction = model.history["reconstruction_loss_train"].to_numpy(dtype=float).ravel()
    assert reconstruction[-1] < reconstruction[0]


def test_every_condition_can_be_asked_for(screen, model):
    cells = screen[screen.obs["condition"] == "g001"]
    prediction = model.predict_perturbation(cells, target="all", method="mean")
    assert prediction.n_obs == N_CONDITIONS * cells.n_obs
    assert np.isfinite(prediction.X).all()
    share = prediction.X / prediction.X.sum(axis=1, keepdims=True)
    code = prediction.obs["condition"].str[1:].astype(int).to_numpy()
    own = (code % 10)[:, None] == (np.arange(N_GENES) % 10)[None, :]
    assert share[own].mean() > 1.5 * share[~own].mean()


def test_a_query_adds_to_hundreds_of_conditions(screen, model):
    query = screen[screen.obs["condition"].isin(["g000", "g001", "g002"])].copy()
    query.obs["condition"] = "q" + query.obs["condition"].astype(str)
    before = model.predict_perturbation(screen[:50], target="g007", method="mean").X
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(max_epochs=2, batch_size=16, enable_progress_bar=False)
    np.testing.assert_array_equal(mapped.predict_perturbation(screen[:50], target="g007", method="mean").X, before)
    assert torch.equal(mapped.module.decoder.output.offset.weight, model.module.decoder.output.offset.weight)
    assert len(mapped.module.decoder.output.offset.new) == 3
