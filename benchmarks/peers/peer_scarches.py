# /// script
# requires-python = "==3.10.*"
# dependencies = [
#   "scarches==0.6.1", "torch==1.13.1", "scvi-tools==1.1.6.post2", "pyro-ppl==1.8.6", "lightning==2.1.4",
#   "torchmetrics==1.4.3", "numpy==1.26.4", "pandas==2.2.3", "anndata==0.10.8", "scanpy==1.10.4", "scipy==1.11.4",
#   "mudata==0.2.4", "muon==0.1.6", "jax==0.4.30", "jaxlib==0.4.30", "flax==0.8.5", "numpyro==0.15.3", "setuptools<81",
# ]
# ///
"""trVAE as scArches has it, encoded with the source condition and decoded with the target condition.

Layers, epochs, annealing and early stopping are those of its tutorial; it has no function that predicts another
condition, so its network is called. It models counts (`nb`, its default, or `zinb`) or log-normalised values (`mse`).
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, draw_counts, parser, read_holdout, set_seeds, totals, write_prediction

STOPPING = {
    "early_stopping_metric": "val_unweighted_loss",
    "threshold": 0,
    "patience": 20,
    "reduce_lr": True,
    "lr_patience": 13,
    "lr_factor": 0.1,
}


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--recon-loss", choices=["nb", "zinb", "mse"], default="nb")
    arguments.add_argument("--mmd-on", choices=["z", "y"], default="z")
    arguments.add_argument("--beta", type=float, default=1.0, help="weight of the MMD")
    arguments.add_argument("--layers", type=int, nargs="+", default=[128, 128])
    arguments.add_argument("--epochs", type=int, default=500, help="at most, as training stops early")
    arguments.add_argument("--annealing", type=int, default=200, help="epochs until the KL divergence has its weight")
    arguments = arguments.parse_args()
    if arguments.sampled and arguments.recon_loss == "mse":
        raise SystemExit("The mse has no likelihood of counts: --sampled is for nb and zinb.")

    import scarches
    import torch

    given, clock = read_holdout(arguments.holdout), Clock()
    counts = arguments.recon_loss != "mse"
    if counts and not given.counts:
        raise SystemExit(f"{arguments.recon_loss} models counts; this hold-out has normalised values.")
    holdout = given if counts else given.log_normalised()
    set_seeds(holdout.seed)
    torch.manual_seed(holdout.seed)
    holdout.cells.X = holdout.cells.X.toarray()
    source = holdout.predict_from
    with clock("training"):
        model = scarches.models.TRVAE(
            holdout.cells,
            condition_key=holdout.condition_key,
            conditions=list(holdout.cells.obs[holdout.condition_key].cat.categories),
            hidden_layer_sizes=arguments.layers,
            recon_loss=arguments.recon_loss,
            mmd_on=arguments.mmd_on,
            beta=arguments.beta,
        )
        model.train(
            n_epochs=arguments.epochs,
            alpha_epoch_anneal=arguments.annealing,
            early_stopping_kwargs=STOPPING,
            monitor=False,
            seed=holdout.seed,
        )
    arguments.epochs = model.trainer.epoch + 1
    network, codes = model.model.cpu(), model.model.condition_encoder
    with clock("prediction"), torch.no_grad():
        conditions = [torch.full((source.n_obs,), codes[name]) for name in (holdout.source, holdout.target)]
        latent = network.get_latent(torch.as_tensor(source.X), conditions[0], mean=True)
        decoded = network.decoder(latent, conditions[1])
    means = decoded[0].numpy() * (totals(source) if counts else 1)
    dropped = torch.sigmoid(decoded[1]).numpy() if arguments.recon_loss == "zinb" else 0
    told = {"arguments": arguments, "clock": clock, "version": f"scarches {version('scarches')}"}
    write_prediction(arguments.prediction, means * (1 - dropped), source, log1p=given.counts and not counts, **told)
    if arguments.sampled:
        import numpy as np

        theta = torch.exp(network.theta[:, codes[holdout.target]]).detach().numpy()
        draws = draw_counts(means, theta, holdout.seed)
        kept = np.random.default_rng([holdout.seed, 1]).random(draws.shape) >= dropped
        write_prediction(arguments.sampled, draws * kept, source, log1p=False, **told)


if __name__ == "__main__":
    main()
