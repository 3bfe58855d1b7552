# /// script
# requires-python = "==3.12.*"
# dependencies = ["pertpy[scgen]==1.4.0"]
# ///
"""scGen as pertpy has it, on log-normalised values: the mean change of the others in its latent space, decoded.

Epochs and batch size are those of its tutorials. It has no likelihood of counts to draw from.
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, parser, read_holdout, set_seeds, write_prediction


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--epochs", type=int, default=100)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments = arguments.parse_args()
    if arguments.sampled:
        raise SystemExit("scGen has no likelihood of counts: --sampled is not for it.")

    import pertpy

    given, clock = read_holdout(arguments.holdout), Clock()
    holdout = given.log_normalised()
    set_seeds(holdout.seed)
    source = holdout.predict_from
    with clock("training"):
        pertpy.tl.Scgen.setup_anndata(holdout.cells, batch_key=holdout.condition_key, labels_key=holdout.group_key)
        model = pertpy.tl.Scgen(holdout.cells)
        model.train(max_epochs=arguments.epochs, batch_size=arguments.batch_size, seed=holdout.seed)
    with clock("prediction"):
        predicted, _ = model.predict(ctrl_key=holdout.source, stim_key=holdout.target, adata_to_predict=source)
    write_prediction(
        arguments.prediction,
        predicted.X,
        source,
        log1p=given.counts,
        arguments=arguments,
        clock=clock,
        version=f"pertpy {version('pertpy')}",
    )


if __name__ == "__main__":
    main()
