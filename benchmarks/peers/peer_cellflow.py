# /// script
# requires-python = "==3.11.*"
# dependencies = ["cellflow-tools==0.0.9", "requests"]
# ///
"""CellFlow: flow matching from control to perturbed cells of a group, on principal components, decoded by these.

Control cells of each group are a population of their own, and a group is described by the mean of its control cells, so
that one without perturbed cells is described, too. It generates cells and has no likelihood of counts to draw from. The
widths here are a quarter of its own (2048, 4096), which are for a GPU. It steps once in 20 iterations of 1024 cells by
default, so that 200,000 of its iterations are as many steps as the 10,000 here.

CellFlow's licence is for non-commercial use; nothing of it is contained here.
"""

from __future__ import annotations

from importlib.metadata import version

from holdout_files import Clock, parser, read_holdout, set_seeds, write_prediction


def main() -> None:
    """Train and predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--iterations", type=int, default=10000)
    arguments.add_argument("--batch-size", type=int, default=256)
    arguments.add_argument("--width", type=int, default=512, help="of time and cells; the decoder has twice that")
    arguments.add_argument("--components", type=int, default=50)
    arguments.add_argument("--learning-rate", type=float, default=5e-5)
    arguments.add_argument("--accumulate", type=int, default=1, help="iterations to a step; CellFlow's default is 20")
    arguments.add_argument("--noise", type=float, default=0.5, help="constant, of the probability path")
    arguments.add_argument("--tolerance", type=float, default=1e-3, help="of the flow's solver; CellFlow's is 1e-5")
    arguments = arguments.parse_args()
    if arguments.sampled:
        raise SystemExit("CellFlow has no likelihood of counts: --sampled is not for it.")

    import anndata
    import diffrax
    import numpy as np
    import optax
    from cellflow import preprocessing
    from cellflow.model import CellFlow

    given, clock = read_holdout(arguments.holdout), Clock()
    holdout = given.log_normalised()
    set_seeds(holdout.seed)
    cells, group_key, condition_key = holdout.cells, holdout.group_key, holdout.condition_key
    with clock("training"):
        cells.obs["is_control"] = (cells.obs[condition_key] == holdout.source).to_numpy()
        preprocessing.centered_pca(cells, n_comps=arguments.components, keep_centered_data=False)
        conditions = list(cells.obs[condition_key].cat.categories)
        cells.uns["conditions"] = dict(zip(conditions, np.eye(len(conditions), dtype=np.float32), strict=True))
        groups = {part: set(cells.obs.loc[cells.obs["is_control"] == part, group_key]) for part in (True, False)}
        cells.uns["groups"] = {
            name: cells.obsm["X_pca"][(cells.obs["is_control"] & (cells.obs[group_key] == name)).to_numpy()].mean(
                axis=0
            )
            for name in groups[True]
        }
        # it refuses control cells without perturbed ones of their group
        flow = CellFlow(cells[cells.obs[group_key].isin(groups[True] & groups[False])].copy())
        flow.prepare_data(
            sample_rep="X_pca",
            control_key="is_control",
            perturbation_covariates={"condition": (condition_key,)},
            perturbation_covariate_reps={"condition": "conditions"},
            sample_covariates=[group_key],
            sample_covariate_reps={group_key: "groups"},
            split_covariates=[group_key],
        )
        flow.prepare_model(
            time_encoder_dims=[arguments.width] * 3,
            hidden_dims=[arguments.width] * 3,
            decoder_dims=[2 * arguments.width] * 3,
            probability_path={"constant_noise": arguments.noise},
            optimizer=optax.MultiSteps(optax.adam(arguments.learning_rate), arguments.accumulate),
            seed=holdout.seed,
        )
        flow.train(arguments.iterations, batch_size=arguments.batch_size, valid_freq=arguments.iterations + 1)
    with clock("prediction"):
        source = holdout.predict_from
        wanted = source.obs.iloc[:1].copy()
        wanted[condition_key], wanted["is_control"] = holdout.target, False
        steps = diffrax.PIDController(rtol=arguments.tolerance, atol=arguments.tolerance)
        (moved,) = flow.predict(source, covariate_data=wanted, sample_rep="X_pca", stepsize_controller=steps).values()
        query = anndata.AnnData(obs=source.obs, var=source.var, obsm={"X_pca": np.asarray(moved)})
        preprocessing.reconstruct_pca(query, ref_adata=cells)
    write_prediction(
        arguments.prediction,
        query.layers["X_recon"],
        source,
        log1p=given.counts,
        arguments=arguments,
        clock=clock,
        version=f"cellflow-tools {version('cellflow-tools')}",
    )


if __name__ == "__main__":
    main()
