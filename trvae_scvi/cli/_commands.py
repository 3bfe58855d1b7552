"""The commands and their options."""

from __future__ import annotations

import logging
import shlex
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._evaluation import write_assessment, write_evaluation
from ._input import check_folder, check_new, read_cells, rows_of, same_value
from ._terminal import INTERRUPTED, Commands, UserError, mended, say

if TYPE_CHECKING:
    from anndata import AnnData

    from trvae_scvi import TRVAE

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    help="What would these cells look like under that condition? Predictions with trVAE, and how good they are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

_EXAMPLE_GROUP = "type_1"


class Likelihood(StrEnum):
    """Values of ``--gene-likelihood``."""

    nb = "nb"
    zinb = "zinb"
    poisson = "poisson"
    mse = "mse"


class Prediction(StrEnum):
    """Values of ``--method``."""

    counterfactual = "counterfactual"
    mean = "mean"
    sample = "sample"


DataArgument = Annotated[Path, typer.Argument(help="An .h5ad file with the cells, or a .zarr folder.", exists=True)]
ConditionKey = Annotated[str, typer.Option(help="Column of `obs` with the condition of every cell.")]
CellTypeKey = Annotated[str, typer.Option(help="Column of `obs` with cell types.")]
Layer = Annotated[str | None, typer.Option(help="Layer with the values. Default: X.")]
UseRaw = Annotated[bool, typer.Option("--use-raw", help="Take values and genes from raw instead of X.")]
GeneLikelihood = Annotated[
    Likelihood, typer.Option(help="nb, zinb or poisson for raw counts; mse for log-normalised data.")
]
PredictionMethod = Annotated[Prediction, typer.Option(help="What to make of the decoded distribution.")]
Epochs = Annotated[int | None, typer.Option(help="Passes through the data. Default: fitted to the number of cells.")]
Seed = Annotated[int, typer.Option(help="Seed of the weights, of training and of the draws.")]
Target = Annotated[str, typer.Option(help="Condition to predict.")]
Control = Annotated[str, typer.Option(help="Condition to predict from.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Run the main job on simulated data: hold cells out, train, predict them, score against the truth.

    Needs no data and no network.
    """
    from trvae_scvi.benchmark import hold_out
    from trvae_scvi.datasets import simulate_perturbation

    check_folder(out)
    adata, would_be = simulate_perturbation(seed=seed)
    say(f"Simulated {adata.n_obs} cells x {adata.n_vars} genes; held out: {_EXAMPLE_GROUP}, stimulated.")
    holdout, truth = hold_out(
        adata, group_key="cell_type", group=_EXAMPLE_GROUP, control="control", target="stimulated"
    )
    model = _untrained(holdout.training, "condition", "cell_type", None, Likelihood.nb, seed)
    model.train()
    counterfactual = would_be[holdout.control.obs_names + "-stimulated"]
    write_evaluation(model, holdout, truth, out, seed=seed, counterfactual=counterfactual)


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder to save the model in.")],
    condition_key: ConditionKey = "condition",
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types: balances the MMD.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Cell type to leave out under --target.")] = None,
    target: Annotated[str | None, typer.Option(help="Condition under which --holdout is left out.")] = None,
    layer: Layer = None,
    use_raw: UseRaw = False,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    seed: Seed = 0,
) -> None:
    """Train a model on an .h5ad file and save it. Ctrl-C ends the training early."""
    left_out = []
    if holdout is not None or target is not None:
        if holdout is None or target is None or cell_type_key is None:
            msg = "--holdout, --target and --cell-type-key go together: "
            raise UserError(msg + "which type is left out, under which condition.")
        left_out = [(cell_type_key, holdout), (condition_key, target)]
    check_new(out, "folder")
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    if left_out:
        adata = adata[~rows_of(adata, *left_out)].copy()
    model = _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed)
    saved, code = "Saved the model", 0
    try:
        model.train(max_epochs=max_epochs)
    except KeyboardInterrupt:
        if not model.is_trained_:
            raise
        saved, code = "Interrupted. Saved the model, as far as it was trained,", INTERRUPTED
    model.save(out)
    copied = [str(data), "--model", str(out), *(["--use-raw"] if use_raw else [])]
    say(f"{saved} to {out}. Predict with: trvae-scvi predict {shlex.join(copied)} --target ...")
    if code:
        raise typer.Exit(code)


@app.command()
def predict(
    data: DataArgument,
    model: Annotated[Path, typer.Option(help="Folder a model was saved in.", exists=True, file_okay=False)],
    target: Target,
    out: Annotated[Path, typer.Option(help="The .h5ad file or .zarr folder to write.")] = Path("prediction.h5ad"),
    source: Annotated[str | None, typer.Option(help="Use only cells of this condition. Default: all cells.")] = None,
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types, for --holdout.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Use only cells of this type.")] = None,
    use_raw: UseRaw = False,
    method: PredictionMethod = Prediction.counterfactual,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Predict the cells of an .h5ad file under another condition."""
    check_new(out, "file", (".h5ad", ".zarr"))
    if holdout is not None and cell_type_key is None:
        msg = "--holdout needs --cell-type-key: the column that holds the cell types."
        raise UserError(msg)
    adata = read_cells(data, use_raw=use_raw)
    if holdout is not None and cell_type_key is not None:
        adata = adata[rows_of(adata, (cell_type_key, holdout))]
    trained = _loaded(model)
    known = trained.get_state_registry("batch").categorical_mapping
    out.parent.mkdir(parents=True, exist_ok=True)
    prediction = trained.predict_perturbation(
        adata,
        target=target if target == "all" else same_value(known, target),
        source=same_value(known, source),
        method=method.value,
        seed=seed,
        out=out,
    )
    say(f"Wrote {prediction.n_obs} predicted cells ({prediction.uns['trvae']['scale']}) to {out}.")


@app.command()
def evaluate(
    data: DataArgument,
    holdout: Annotated[str, typer.Option(help="Cell type to hold out under --target.")],
    target: Target,
    control: Control = "control",
    condition_key: ConditionKey = "condition",
    cell_type_key: CellTypeKey = "cell_type",
    layer: Layer = None,
    use_raw: UseRaw = False,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Hold a measured cell type out, predict it, and score the prediction against trivial ones."""
    from trvae_scvi.benchmark import hold_out

    if target == control:
        msg = f"--target and --control are both {target!r}; a prediction needs two conditions."
        raise UserError(msg)
    check_folder(out)
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    for name in (control, target):
        rows_of(adata, (cell_type_key, holdout), (condition_key, name))  # or a message that tells what there is
    _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed)  # what is wrong with all cells
    given, truth = hold_out(
        adata,
        group_key=cell_type_key,
        group=same_value(adata.obs[cell_type_key].unique(), holdout),
        condition_key=condition_key,
        control=same_value(adata.obs[condition_key].unique(), control),
        target=same_value(adata.obs[condition_key].unique(), target),
        layer=layer,
        counts=gene_likelihood is not Likelihood.mse,
    )
    model = _untrained(given.training, condition_key, cell_type_key, None, gene_likelihood, seed)
    model.train(max_epochs=max_epochs)
    write_evaluation(model, given, truth, out, seed=seed)


@app.command()
def assess(
    data: DataArgument,
    cell_type: Annotated[str, typer.Option(help="Cell type to be predicted under --target.")],
    target: Target,
    control: Control = "control",
    condition_key: ConditionKey = "condition",
    cell_type_key: CellTypeKey = "cell_type",
    layer: Layer = None,
    use_raw: UseRaw = False,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    quick: Annotated[bool, typer.Option("--quick", help="Train half as long as by default: a rough answer.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the report; an interrupted run goes on.")] = Path("assessment"),
    seed: Seed = 0,
) -> None:
    """Say how good a prediction will be before it is made: every other cell type is held out in turn."""
    from trvae_scvi import benchmark
    from trvae_scvi.train._training import default_epochs

    if quick and max_epochs is not None:
        msg = "--quick and --max-epochs both say how long to train; give one of them."
        raise UserError(msg)
    check_folder(out)
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    rows_of(adata, (cell_type_key, cell_type), (condition_key, control))  # or a message that tells what there is
    rows_of(adata, (condition_key, target))
    _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed)  # what is wrong with all cells
    conditions = adata.obs[condition_key].unique()
    epochs = max(1, default_epochs(adata.n_obs) // 2) if quick else max_epochs
    method = benchmark.TRVAEMethod({"gene_likelihood": gene_likelihood.value}, {"max_epochs": epochs})
    found = benchmark.assess(
        adata,
        group=same_value(adata.obs[cell_type_key].unique(), cell_type),
        group_key=cell_type_key,
        condition_key=condition_key,
        control=same_value(conditions, control),
        target=same_value(conditions, target),
        methods={"trVAE": method},
        seeds=(seed,),
        layer=layer,
        counts=gene_likelihood is not Likelihood.mse,
        out=out,
    )
    write_assessment(found, out)


def _untrained(
    adata: AnnData,
    condition_key: str,
    cell_type_key: str | None,
    layer: str | None,
    likelihood: Likelihood,
    seed: int,
) -> TRVAE:
    """A model to be trained on all of the cells."""
    import scvi

    from trvae_scvi import TRVAE
    from trvae_scvi.data._values import NotCountsError

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.seed = seed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* holds no counts")  # what is said of them here names Python
        TRVAE.setup_anndata(adata, condition_key, layer=layer, labels_key=cell_type_key)
    try:
        return TRVAE(adata, gene_likelihood=likelihood.value)
    except NotCountsError as error:
        places = [f"--layer {shlex.quote(name)}" for name in error.layers if name is not None]
        places += ["--use-raw"] if error.in_raw else []
        places += ["no --layer"] if None in error.layers else []
        mend = f"There are some: pass {' or '.join(places)}." if places else "Name their --layer, or round them."
        msg = f"{error.problem} {mend} Log-normalised data need --gene-likelihood mse."
        raise UserError(msg) from error


def _loaded(folder: Path) -> TRVAE:
    from trvae_scvi import TRVAE

    with mended(f"The model in {folder} cannot be loaded"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Save path contains no saved anndata")
        return TRVAE.load(folder)
