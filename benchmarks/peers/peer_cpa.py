# /// script
# requires-python = "==3.10.*"
# dependencies = [
#   "cpa-tools==0.8.1", "torch==1.13.1", "scvi-tools==0.20.3", "pyro-ppl==1.8.6", "pytorch-lightning==1.9.5",
#   "torchmetrics==0.11.4", "numpy==1.26.4", "pandas==1.5.3", "anndata==0.9.2", "scanpy==1.9.8", "scipy==1.10.1",
#   "jax==0.4.13", "jaxlib==0.4.13", "flax==0.7.2", "optax==0.1.7", "chex==0.1.82", "numpyro==0.12.1",
#   "orbax-checkpoint==0.2.6", "mudata==0.2.3", "setuptools<81",
# ]
# ///
"""CPA on counts, with the condition as perturbation and the group as covariate; settings of its tutorial on such data.

As it asks for, the cells to predict from are appended with the target condition, set aside as out of distribution and
trained on in no way; what it gives for them is the prediction. Draws are from its negative binomial likelihood.
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, draw_counts, parser, read_holdout, set_seeds, write_prediction

MODEL = {
    "n_latent": 64,
    "recon_loss": "nb",
    "doser_type": "linear",
    "n_hidden_encoder": 128,
    "n_layers_encoder": 2,
    "n_hidden_decoder": 512,
    "n_layers_decoder": 2,
    "use_batch_norm_encoder": True,
    "use_layer_norm_encoder": False,
    "use_batch_norm_decoder": False,
    "use_layer_norm_decoder": True,
    "dropout_rate_encoder": 0.0,
    "dropout_rate_decoder": 0.1,
}
PLAN = {
    "n_epochs_pretrain_ae": 30,
    "n_epochs_adv_warmup": 50,
    "n_epochs_mixup_warmup": 0,
    "mixup_alpha": 0.0,
    "adv_steps": None,
    "n_hidden_adv": 64,
    "n_layers_adv": 3,
    "use_batch_norm_adv": True,
    "use_layer_norm_adv": False,
    "dropout_rate_adv": 0.3,
    "reg_adv": 20.0,
    "pen_adv": 5.0,
    "lr": 3e-4,
    "wd": 4e-7,
    "adv_lr": 3e-4,
    "adv_wd": 4e-7,
    "adv_loss": "cce",
    "doser_lr": 3e-4,
    "doser_wd": 4e-7,
    "do_clip_grad": True,
    "gradient_clip_value": 1.0,
    "step_size_lr": 10,
}


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--epochs", type=int, default=2000, help="at most, as training stops early")
    arguments.add_argument("--batch-size", type=int, default=512)
    arguments = arguments.parse_args()

    import anndata
    import cpa
    import numpy as np
    import torch

    holdout, clock = read_holdout(arguments.holdout), Clock()
    if not holdout.counts:
        raise SystemExit("CPA is trained on counts here; this hold-out has normalised values.")
    set_seeds(holdout.seed)
    torch.manual_seed(holdout.seed)
    source = holdout.predict_from
    kept = np.random.default_rng(holdout.seed).random(holdout.cells.n_obs) < 0.1
    holdout.cells.obs["split"] = np.where(kept, "valid", "train")
    wanted = source.copy()
    wanted.obs = wanted.obs.assign(**{holdout.condition_key: holdout.target, "split": "ood"})
    cells = anndata.concat([holdout.cells, wanted], index_unique="-")
    with clock("training"):
        cpa.CPA.pert_smiles_map = {}  # else it looks for a chemical structure of each condition
        cpa.CPA.setup_anndata(
            cells,
            perturbation_key=holdout.condition_key,
            control_group=holdout.source,
            categorical_covariate_keys=[holdout.group_key],
            is_count_data=True,
            max_comb_len=1,
        )
        split = {"split_key": "split", "train_split": "train", "valid_split": "valid", "test_split": "ood"}
        model = cpa.CPA(cells, **split, **MODEL, seed=holdout.seed)
        model.train(
            max_epochs=arguments.epochs,
            use_gpu=torch.cuda.is_available(),
            batch_size=arguments.batch_size,
            plan_kwargs=PLAN,
            early_stopping_patience=5,
            check_val_every_n_epoch=5,
            save_path=False,
        )
    arguments.epochs = int(model.epoch_history["epoch"].max()) + 1
    with clock("prediction"):
        target = cells[(cells.obs["split"] == "ood").to_numpy()].copy()
        model.predict(target, batch_size=1024)
    means = target.obsm["CPA_pred"]
    told = {"log1p": False, "arguments": arguments, "clock": clock, "version": f"cpa-tools {version('cpa-tools')}"}
    write_prediction(arguments.prediction, means, source, **told)
    if arguments.sampled:
        theta = torch.exp(model.module.px_r).detach().cpu().numpy()
        write_prediction(arguments.sampled, draw_counts(means, theta, holdout.seed), source, **told)


if __name__ == "__main__":
    main()
