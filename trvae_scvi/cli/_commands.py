"""The commands and their options."""

from __future__ import annotations

import logging
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trvae_scvi._files import write_text

from ._evaluation import write_all, write_assessment, write_evaluation
from ._input import (
    check_folder,
    check_new,
    known_genes,
    number_of_genes,
    on_variable_genes,
    read_cells,
    rows_of,
    same_value,
)
from ._shared_options import (
    CellTypeKey,
    ConditionKey,
    Control,
    Covariates,
    DataArgument,
    Epochs,
    GeneLikelihood,
    Layer,
    Likelihood,
    NHvg,
    Prediction,
    PredictionMethod,
    Seed,
    Target,
    UseRaw,
)
from ._terminal import INTERRUPTED, Commands, UserError, mended, say

if TYPE_CHECKING:
    from anndata import AnnData

    from trvae_scvi import TRVAE
    from trvae_scvi.benchmark import TRVAEMethod

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    help="What would these cells look like under that condition? Predictions with trVAE, and how good they are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

_EXAMPLE_GROUP = "type_1"
_QUICK_EPOCHS = 100
_QUICK_DEMO: dict[str, Any] = {"n_cells": 2400, "n_genes": 200, "n_types": 6}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cells and genes, trained for less long.")] = False,
    max_epochs: Epochs = None,
    seed: Seed = 0,
) -> None:
    """Run the main job on simulated data: hold cells out, train, predict them, score against the truth.

    Needs no data and no network.
    """
    from trvae_scvi.benchmark import hold_out
    from trvae_scvi.datasets import simulate_perturbation

    check_folder(out)
    adata, would_be = simulate_perturbation(**(_QUICK_DEMO if quick else {}), seed=seed)
    say(f"Simulated {adata.n_obs} cells x {adata.n_vars} genes; held out: {_EXAMPLE_GROUP}, stimulated.")
    holdout, truth = hold_out(
        adata, group_key="cell_type", group=_EXAMPLE_GROUP, control="control", target="stimulated"
    )
    model = _untrained(holdout.training, "condition", "cell_type", None, Likelihood.nb, seed)
    with warnings.catch_warnings():
        if quick:  # which is to say that it is trained for less long
            warnings.filterwarnings("ignore", message="max_epochs=.* is less than a third of the default")
        model.train(max_epochs=_QUICK_EPOCHS if quick and max_epochs is None else max_epochs)
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
    covariate: Covariates = None,
    layer: Layer = None,
    use_raw: UseRaw = False,
    n_hvg: NHvg = 2000,
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
    _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed, covariate)  # what is wrong with all
    adata = on_variable_genes(adata, n_hvg, layer, counts=gene_likelihood is not Likelihood.mse)
    model = _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed, covariate)
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
    effect: Annotated[Path | None, typer.Option(help="A .csv file for the change of every gene, too.")] = None,
    source: Annotated[str | None, typer.Option(help="Use only cells of this condition. Default: all cells.")] = None,
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types, for --cell-type.")] = None,
    cell_type: Annotated[str | None, typer.Option(help="Use only cells of this type.")] = None,
    use_raw: UseRaw = False,
    method: PredictionMethod = Prediction.counterfactual,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Predict the cells of an .h5ad file under another condition."""
    check_new(out, "file", (".h5ad", ".zarr"))
    if effect is not None:
        check_new(effect, "file", (".csv",), option="--effect")
    if cell_type is not None and cell_type_key is None:
        msg = "--cell-type needs --cell-type-key: the column that holds the cell types."
        raise UserError(msg)
    adata = read_cells(data, use_raw=use_raw)
    if cell_type is not None and cell_type_key is not None:
        adata = adata[rows_of(adata, (cell_type_key, cell_type))]
    trained = _loaded(model)
    adata = known_genes(adata, trained)
    known = trained.get_state_registry("batch").categorical_mapping
    out.parent.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "target": target if target == "all" else same_value(known, target),
        "source": same_value(known, source),
        "seed": seed,
    }
    prediction = trained.predict_perturbation(adata, **asked, method=method.value, out=out)
    say(f"Wrote {prediction.n_obs} predicted cells ({prediction.uns['trvae']['scale']}) to {out}.")
    if effect is not None:
        effect.parent.mkdir(parents=True, exist_ok=True)
        write_text(effect, trained.get_perturbation_effect(adata, **asked).to_csv(index=False))
        say(f"Wrote the change of every gene to {effect}.")


@app.command()
def evaluate(
    data: DataArgument,
    target: Target,
    holdout: Annotated[str | None, typer.Option(help="Cell type to hold out under --target.")] = None,
    all_groups: Annotated[bool, typer.Option("--all-groups", help="Hold every cell type out in turn.")] = False,
    control: Control = "control",
    condition_key: ConditionKey = "condition",
    cell_type_key: CellTypeKey = "cell_type",
    covariate: Covariates = None,
    layer: Layer = None,
    use_raw: UseRaw = False,
    n_hvg: NHvg = 2000,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Hold a measured cell type out, predict it, and score the prediction against trivial ones."""
    from trvae_scvi import benchmark

    if target == control:
        msg = f"--target and --control are both {target!r}; a prediction needs two conditions."
        raise UserError(msg)
    if (holdout is None) != all_groups:
        msg = "Give either --holdout or --all-groups: which cell type is hidden, or each of them in turn."
        raise UserError(msg)
    check_folder(out)
    adata = read_cells(data, use_raw=use_raw, layer=layer)
    for name in (control, target):
        own = [] if holdout is None else [(cell_type_key, holdout)]
        rows_of(adata, *own, (condition_key, name))  # or a message that tells what there is
    _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed, covariate)  # what is wrong with all
    conditions = adata.obs[condition_key].unique()
    keys: dict[str, Any] = {
        "group_key": cell_type_key,
        "condition_key": condition_key,
        "control": same_value(conditions, control),
    }
    keys |= {"layer": layer, "counts": gene_likelihood is not Likelihood.mse, "n_hvg": number_of_genes(adata, n_hvg)}
    target_value = same_value(conditions, target)
    if holdout is None:
        method = _method(gene_likelihood, covariate, max_epochs)
        asked: dict[str, Any] = {"methods": {"trVAE": method}, "targets": [target_value], "seeds": (seed,), "out": out}
        write_all(benchmark.leave_one_group_out(adata, **keys, **asked), out)
        return
    group = same_value(adata.obs[cell_type_key].unique(), holdout)
    given, truth = benchmark.hold_out(adata, **keys, group=group, target=target_value)
    model = _untrained(given.training, condition_key, cell_type_key, None, gene_likelihood, seed, covariate)
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
    covariate: Covariates = None,
    layer: Layer = None,
    use_raw: UseRaw = False,
    n_hvg: NHvg = 2000,
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
    _untrained(adata, condition_key, cell_type_key, layer, gene_likelihood, seed, covariate)  # what is wrong with all
    conditions = adata.obs[condition_key].unique()
    epochs = max(1, default_epochs(adata.n_obs) // 2) if quick else max_epochs
    found = benchmark.assess(
        adata,
        group=same_value(adata.obs[cell_type_key].unique(), cell_type),
        group_key=cell_type_key,
        condition_key=condition_key,
        control=same_value(conditions, control),
        target=same_value(conditions, target),
        methods={"trVAE": _method(gene_likelihood, covariate, epochs)},
        seeds=(seed,),
        layer=layer,
        counts=gene_likelihood is not Likelihood.mse,
        n_hvg=number_of_genes(adata, n_hvg),
        out=out,
    )
    write_assessment(found, out)


def _method(likelihood: Likelihood, covariates: list[str] | None, max_epochs: int | None) -> TRVAEMethod:
    """What trains a model as the commands do."""
    from trvae_scvi.benchmark import TRVAEMethod

    setup = {"categorical_covariate_keys": covariates} if covariates else {}
    return TRVAEMethod({"gene_likelihood": likelihood.value}, {"max_epochs": max_epochs}, setup_kwargs=setup)


def _untrained(
    adata: AnnData,
    condition_key: str,
    cell_type_key: str | None,
    layer: str | None,
    likelihood: Likelihood,
    seed: int,
    covariates: list[str] | None = None,
) -> TRVAE:
    """A model to be trained on all of the cells."""
    import scvi

    from trvae_scvi import TRVAE
    from trvae_scvi.data._values import NotCountsError

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for name in covariates or []:
        rows_of(adata, (name, None))
    scvi.settings.seed = seed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* holds no counts")  # what is said of them here names Python
        TRVAE.setup_anndata(
            adata, condition_key, layer=layer, labels_key=cell_type_key, categorical_covariate_keys=covariates or None
        )
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
