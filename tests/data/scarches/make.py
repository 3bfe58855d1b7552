"""Makes the checkpoints and expected outputs beside this file, from simulated counts and a moment of training.

Needs scArches 0.6.1 with ``anndata>=0.11,<0.12`` and ``numpy<2`` in an environment of its own; later versions of
anndata lack a function that it imports. Run it as ``python make.py`` and commit what it writes. The expected outputs
are scArches' own, with the posterior mean as the latent variable.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scarches as sca
import torch
from scarches.models.trvae.losses import mmd

HERE = Path(__file__).parent
CONDITIONS = ["stim_b", "control", "stim_a"]  # neither sorted nor reversed, so that codes matter
MODELS = {
    "nb_layer_z": {"hidden_layer_sizes": [16, 8], "recon_loss": "nb", "mmd_on": "z"},
    "zinb_layer_y": {"hidden_layer_sizes": [8], "recon_loss": "zinb", "mmd_on": "y", "beta": 2.5},
    "mse_batch_y": {"hidden_layer_sizes": [16, 8], "recon_loss": "mse", "mmd_on": "y", "use_bn": True},
    "nb_plain": {"hidden_layer_sizes": [12, 8, 4], "recon_loss": "nb", "use_mmd": False, "use_ln": False},
}


def simulate(conditions: list[str], seed: int, *, logarithm: bool) -> ad.AnnData:
    """Thirty cells of every condition with ten genes."""
    rng = np.random.default_rng(seed)
    condition = np.repeat(conditions, 30)
    rates = np.exp(rng.normal(1.0, 1.0, (len(conditions), 10))).repeat(30, axis=0)
    x = rng.poisson(rates * rng.gamma(2.0, 0.5, rates.shape)).astype(np.float32)
    x[:, 0] += 1.0  # no cell is empty
    obs = pd.DataFrame({"batch": condition}, index=[f"cell{i}" for i in range(len(condition))])
    var = pd.DataFrame(index=[f"gene{i}" for i in range(10)])
    return ad.AnnData(np.log1p(x) if logarithm else x, obs=obs, var=var)


def expected(model: sca.models.TRVAE, adata: ad.AnnData) -> dict[str, np.ndarray]:
    """What scArches makes of the data without sampling; ``mmd`` is its penalty on ``mmd_on``."""
    network = model.model.cpu().eval()
    x = torch.tensor(adata.X)
    code = torch.tensor([network.condition_encoder[name] for name in adata.obs["batch"]])
    size = x.sum(dim=1, keepdim=True)
    with torch.no_grad():
        latent_mean, latent_variance = network.get_latent(x, code, mean_var=True)
        *outputs, y = network.decoder(latent_mean, code)
        result = {"x": x, "latent_mean": latent_mean, "latent_variance": latent_variance, "y": y}
        result["mean"] = outputs[0] if network.recon_loss == "mse" else outputs[0] * size
        if network.recon_loss == "zinb":
            result["zi_logits"] = outputs[1]
        if network.recon_loss != "mse":
            result["theta"] = torch.exp(network.theta.T[code])
        features = y if network.mmd_on == "y" else latent_mean
        result["mmd"] = mmd(features, code, network.n_conditions, network.beta, network.mmd_boundary)
    return {name: tensor.numpy() for name, tensor in result.items()} | {"condition": adata.obs["batch"].to_numpy(str)}


def write(model: sca.models.TRVAE, adata: ad.AnnData, name: str) -> None:
    """Save a model and what it gives for `adata`."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save(str(folder))
    np.savez_compressed(folder / "expected.npz", **expected(model, adata))


def main() -> None:
    """Train and save every model of the table, and a query on the first."""
    torch.manual_seed(0)
    training = {"n_epochs": 20, "lr": 1e-2, "use_early_stopping": False, "monitor": False}
    for seed, (name, options) in enumerate(MODELS.items()):
        adata = simulate(CONDITIONS, seed, logarithm=options["recon_loss"] == "mse")
        model = sca.models.TRVAE(adata, condition_key="batch", latent_dim=4, **options)
        model.train(**training)
        write(model, adata, name)
    query = simulate(["a_new_one"], 10, logarithm=False)
    model = sca.models.TRVAE.load_query_data(query, str(HERE / "nb_layer_z"))
    model.train(**training, weight_decay=0.0)
    write(model, query, "nb_query")


if __name__ == "__main__":
    main()
