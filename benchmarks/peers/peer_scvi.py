# /// script
# requires-python = "==3.11.*"
# dependencies = ["scvi-tools==1.4.2", "torch==2.13.0"]
# ///
"""SCVI with the condition as batch, trained as long as it does by default, decoded as the target batch.

The prediction is the decoder's mean at each cell's own total; draws are SCVI's posterior predictive samples of the same
cells labelled with the target condition.
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, parser, read_holdout, set_seeds, totals, write_prediction


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--epochs", type=int, help="as many as SCVI chooses by default")
    arguments = arguments.parse_args()

    import scvi

    holdout, clock = read_holdout(arguments.holdout), Clock()
    if not holdout.counts:
        raise SystemExit("SCVI models counts; this hold-out has normalised values.")
    set_seeds(holdout.seed)
    scvi.settings.seed = holdout.seed
    source = holdout.predict_from
    with clock("training"):
        scvi.model.SCVI.setup_anndata(holdout.cells, batch_key=holdout.condition_key)
        model = scvi.model.SCVI(holdout.cells)
        model.train(max_epochs=arguments.epochs, enable_progress_bar=False)
    arguments.epochs = len(model.history["elbo_train"])
    with clock("prediction"):
        shares = model.get_normalized_expression(source, transform_batch=holdout.target, return_numpy=True)
    told = {"log1p": False, "arguments": arguments, "clock": clock, "version": f"scvi-tools {version('scvi-tools')}"}
    write_prediction(arguments.prediction, shares * totals(source), source, **told)
    if arguments.sampled:
        told_target = source.copy()
        told_target.obs[holdout.condition_key] = holdout.target  # the encoder is not told the batch, the decoder is
        draws = model.posterior_predictive_sample(told_target, n_samples=1).todense()
        write_prediction(arguments.sampled, draws, source, **told)


if __name__ == "__main__":
    main()
