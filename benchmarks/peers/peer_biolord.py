# /// script
# requires-python = "==3.11.*"
# dependencies = ["biolord==0.0.3", "scvi-tools==1.4.2", "torch==2.13.0"]
# ///
"""biolord on log-normalised values, with group and condition as attributes; predicted by its own function.

Settings are those of its tutorials. As what it does not know of a cell is learned for each training cell, the cells to
predict from are always trained on, and a tenth of the others is kept for early stopping. Draws are from its normal
likelihood, on the scale of the prediction, not counts.
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, parser, read_holdout, set_seeds, write_prediction

MODULE = {
    "decoder_width": 1024,
    "decoder_depth": 4,
    "attribute_nn_width": 512,
    "attribute_nn_depth": 2,
    "n_latent_attribute_categorical": 4,
    "gene_likelihood": "normal",
    "reconstruction_penalty": 1e2,
    "unknown_attribute_penalty": 1e1,
    "unknown_attribute_noise_param": 1e-1,
    "attribute_dropout_rate": 0.1,
    "use_batch_norm": False,
    "use_layer_norm": False,
}
PLAN = {
    "n_epochs_warmup": 0,
    "latent_lr": 1e-4,
    "latent_wd": 1e-4,
    "decoder_lr": 1e-4,
    "decoder_wd": 1e-4,
    "attribute_nn_lr": 1e-2,
    "attribute_nn_wd": 4e-8,
    "step_size_lr": 45,
    "cosine_scheduler": True,
    "scheduler_final_lr": 1e-5,
}


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--epochs", type=int, default=500, help="at most, as training stops early")
    arguments.add_argument("--batch-size", type=int, default=512)
    arguments.add_argument("--latent", type=int, default=32)
    arguments = arguments.parse_args()

    import biolord
    import numpy as np
    import torch

    given, clock = read_holdout(arguments.holdout), Clock()
    holdout = given.log_normalised()
    set_seeds(holdout.seed)
    torch.manual_seed(holdout.seed)
    cells, keys = holdout.cells, [holdout.group_key, holdout.condition_key]
    kept = (np.random.default_rng(holdout.seed).random(cells.n_obs) < 0.1) & ~cells.obs["predict_from"].to_numpy()
    cells.obs["split"] = np.where(kept, "test", "train")
    with clock("training"):
        biolord.Biolord.setup_anndata(cells, categorical_attributes_keys=keys)
        model = biolord.Biolord(
            cells, n_latent=arguments.latent, split_key="split", module_params={**MODULE, "seed": holdout.seed}
        )
        model.train(
            max_epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            plan_kwargs=PLAN,
            early_stopping=True,
            early_stopping_patience=20,
            check_val_every_n_epoch=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
    arguments.epochs = model.trainer.current_epoch
    model.module.eval()
    with clock("prediction"):
        source = holdout.predict_from
        predicted = model.compute_prediction_adata(cells, source, target_attributes=[holdout.condition_key])
        rows = (predicted.obs[holdout.condition_key] == holdout.target).to_numpy()
    told = {"log1p": given.counts, "arguments": arguments, "clock": clock, "version": f"biolord {version('biolord')}"}
    write_prediction(arguments.prediction, predicted.X[rows], source, **told)
    if arguments.sampled:
        tensors = model.get_dataset(source)
        target = cells[(cells.obs[holdout.condition_key] == holdout.target).to_numpy()][:1].copy()
        code = model.get_dataset(target)[holdout.condition_key]
        with torch.no_grad():
            tensors[holdout.condition_key] = code[:1].expand(source.n_obs, -1)
            means, variances = (value.numpy() for value in model.module.get_expression(tensors))
        draws = np.random.default_rng(holdout.seed).normal(means, np.sqrt(variances))
        write_prediction(arguments.sampled, draws, source, **told)


if __name__ == "__main__":
    main()
