"""The commands and their options."""

from __future__ import annotations

import logging
import shlex
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._evaluation import write_report
from ._input import HoldOut, read_cells, same_value, select_cells
from ._places import check_folder, check_new
from ._terminal import INTERRUPTED, Commands, UserError, described, say

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


class Method(StrEnum):
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
    from trvae_scvi.datasets import simulate_perturbation

    check_folder(out)
    adata, truth = simulate_perturbation(seed=seed)
    hold_out = HoldOut("condition", "cell_type", _EXAMPLE_GROUP, "stimulated")
    say(f"Simulated {adata.n_obs} cells x {adata.n_vars} genes; held out: {_EXAMPLE_GROUP}, stimulated.")
    model = _untrained(adata, hold_out.condition_key, hold_out, cell_type_key="cell_type", seed=seed)
    model.train()
    truth = truth[(truth.obs["cell_type"] == _EXAMPLE_GROUP).to_numpy()]
    write_report(model, adata, hold_out, "control", out, seed=seed, truth=truth)


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
    hold_out = None
    if holdout is not None or target is not None:
        if holdout is None or target is None or cell_type_key is None:
            msg = "--holdout, --target and --cell-type-key go together: "
            raise UserError(msg + "which type is left out, under which condition.")
        hold_out = HoldOut(condition_key, cell_type_key, holdout, target)
    check_new(out, "folder")
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    if hold_out is not None:
        select_cells(select_cells(adata, hold_out.cell_type_key, hold_out.group), condition_key, hold_out.target)
    model = _untrained(
        adata,
        condition_key,
        hold_out,
        cell_type_key=cell_type_key,
        layer=layer,
        likelihood=gene_likelihood,
        seed=seed,
    )
    interrupted = False
    try:
        model.train(max_epochs=max_epochs)
    except KeyboardInterrupt:
        if not model.is_trained_:
            raise
        interrupted = True
    model.save(out)
    copied = [str(data), "--model", str(out), *(["--use-raw"] if use_raw else [])]
    saved = "Interrupted. Saved the model, as far as it was trained," if interrupted else "Saved the model"
    say(f"{saved} to {out}. Predict with: trvae-scvi predict {shlex.join(copied)} --target ...")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


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
    method: Annotated[Method, typer.Option(help="What to make of the decoded distribution.")] = Method.counterfactual,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Predict the cells of an .h5ad file under another condition."""
    check_new(out, "file", (".h5ad", ".zarr"))
    if holdout is not None and cell_type_key is None:
        msg = "--holdout needs --cell-type-key: the column that holds the cell types."
        raise UserError(msg)
    adata = read_cells(data, use_raw=use_raw)
    if holdout is not None and cell_type_key is not None:
        adata = select_cells(adata, cell_type_key, holdout)
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
    hold_out = HoldOut(condition_key, cell_type_key, holdout, target)
    if target == control:
        msg = f"--target and --control are both {target!r}; a prediction needs two conditions."
        raise UserError(msg)
    check_folder(out)
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    of_type = select_cells(adata, cell_type_key, holdout)
    for name in (control, target):
        select_cells(of_type, condition_key, name)
    model = _untrained(
        adata,
        condition_key,
        hold_out,
        cell_type_key=cell_type_key,
        layer=layer,
        likelihood=gene_likelihood,
        seed=seed,
    )
    model.train(max_epochs=max_epochs)
    write_report(model, adata, hold_out, control, out, layer=layer, seed=seed)


def _untrained(
    adata: AnnData,
    condition_key: str,
    hold_out: HoldOut | None,
    *,
    cell_type_key: str | None,
    layer: str | None = None,
    likelihood: Likelihood = Likelihood.nb,
    seed: int,
) -> TRVAE:
    """A model of all cells but the held-out ones, to be trained."""
    import scvi

    from trvae_scvi import TRVAE
    from trvae_scvi.data._values import NotCountsError

    training = adata if hold_out is None else adata[~hold_out.mask(adata).to_numpy()].copy()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.seed = seed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* holds no counts")  # what is said of them here names Python
        TRVAE.setup_anndata(training, condition_key, layer=layer, labels_key=cell_type_key)
    try:
        return TRVAE(training, gene_likelihood=likelihood.value)
    except NotCountsError as error:
        places = [f"--layer {shlex.quote(name)}" for name in error.layers if name is not None]
        places += ["--use-raw"] if error.in_raw else []
        places += ["no --layer"] if None in error.layers else []
        mend = f"There are some: pass {' or '.join(places)}." if places else "Name their --layer, or round them."
        msg = f"{error.problem} {mend} Log-normalised data need --gene-likelihood mse."
        raise UserError(msg) from error


def _loaded(folder: Path) -> TRVAE:
    from trvae_scvi import TRVAE

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Save path contains no saved anndata")
            return TRVAE.load(folder)
    except Exception as error:  # a damaged file can raise nearly all there are
        msg = f"The model in {folder} cannot be loaded: {described(error)}"
        raise UserError(msg) from error
