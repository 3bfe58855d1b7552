"""The command line: ``trvae-scvi demo``, ``train``, ``predict``, ``evaluate``. Uses the public API only."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd
    from anndata import AnnData

    from . import TRVAE

__all__ = ["app"]

app = typer.Typer(
    help="What would these cells look like under that condition? Predictions with trVAE, and how good they are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
console = Console()

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


DataArgument = Annotated[Path, typer.Argument(help="An .h5ad file with the cells.", exists=True, dir_okay=False)]
ConditionKey = Annotated[str, typer.Option(help="Column of `obs` with the condition of every cell.")]
CellTypeKey = Annotated[str, typer.Option(help="Column of `obs` with cell types.")]
Layer = Annotated[str | None, typer.Option(help="Layer with the values. Default: X.")]
GeneLikelihood = Annotated[
    Likelihood, typer.Option(help="nb, zinb or poisson for raw counts; mse for log-normalised data.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes through the data. Default: fitted to the number of cells.")]
Seed = Annotated[int, typer.Option(help="Seed of the weights, of training and of the draws.")]
Target = Annotated[str, typer.Option(help="Condition to predict.")]
Control = Annotated[str, typer.Option(help="Condition to predict from.")]


class HoldOut(NamedTuple):
    """Which cells are left out of training, and where the columns are."""

    condition_key: str
    cell_type_key: str
    group: str
    target: str

    def mask(self, adata: AnnData) -> pd.Series:
        """True for the cells left out."""
        of_group = adata.obs[self.cell_type_key].astype(str) == self.group
        return of_group & (adata.obs[self.condition_key].astype(str) == self.target)

    def target_value(self, adata: AnnData) -> Any:
        """The target as the data have it: a number, perhaps, where the command line has text."""
        return _value(adata.obs[self.condition_key].unique(), self.target)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Run the main job on simulated data: hold cells out, train, predict them, score against the truth.

    Needs no data and no network.
    """
    from .datasets import simulate_perturbation

    adata, truth = simulate_perturbation(seed=seed)
    hold_out = HoldOut("condition", "cell_type", _EXAMPLE_GROUP, "stimulated")
    console.print(f"Simulated {adata.n_obs} cells x {adata.n_vars} genes; held out: {_EXAMPLE_GROUP}, stimulated.")
    model = _trained(adata, hold_out.condition_key, hold_out, cell_type_key="cell_type", seed=seed)
    truth = truth[(truth.obs["cell_type"] == _EXAMPLE_GROUP).to_numpy()]
    _report(model, adata, hold_out, "control", out, seed=seed, truth=truth)


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder to save the model in.")],
    condition_key: ConditionKey = "condition",
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types: balances the MMD.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Cell type to leave out under --target.")] = None,
    target: Annotated[str | None, typer.Option(help="Condition under which --holdout is left out.")] = None,
    layer: Layer = None,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    seed: Seed = 0,
) -> None:
    """Train a model on an .h5ad file and save it."""
    adata = _read(data)
    hold_out = None
    if holdout is not None or target is not None:
        if holdout is None or target is None or cell_type_key is None:
            _fail("--holdout, --target and --cell-type-key go together: which type is left out, under which condition.")
        else:
            hold_out = HoldOut(condition_key, cell_type_key, holdout, target)
            _select(_select(adata, cell_type_key, holdout), condition_key, target)
    if out.exists():
        _fail(f"{out} is there already. Name another folder with --out.")
    with _clear_errors():
        model = _trained(
            adata,
            condition_key,
            hold_out,
            cell_type_key=cell_type_key,
            layer=layer,
            likelihood=gene_likelihood,
            epochs=max_epochs,
            seed=seed,
        )
        model.save(out)
    console.print(f"Saved the model to {out}. Predict with: trvae-scvi predict {data} --model {out} --target ...")


@app.command()
def predict(
    data: DataArgument,
    model: Annotated[Path, typer.Option(help="Folder a model was saved in.", exists=True, file_okay=False)],
    target: Target,
    out: Annotated[Path, typer.Option(help="The .h5ad file to write.")] = Path("prediction.h5ad"),
    source: Annotated[str | None, typer.Option(help="Use only cells of this condition. Default: all cells.")] = None,
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types, for --holdout.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Use only cells of this type.")] = None,
    method: Annotated[Method, typer.Option(help="What to make of the decoded distribution.")] = Method.counterfactual,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Predict the cells of an .h5ad file under another condition."""
    from . import TRVAE

    adata = _read(data)
    if out.exists():
        _fail(f"{out} is there already. Name another file with --out.")
    if holdout is not None:
        if cell_type_key is None:
            _fail("--holdout needs --cell-type-key: the column that holds the cell types.")
        else:
            adata = _select(adata, cell_type_key, holdout)
    with _clear_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Save path contains no saved anndata")
        trained = TRVAE.load(model)
        known = trained.get_state_registry("batch").categorical_mapping
        prediction = trained.predict_perturbation(
            adata,
            target=target if target == "all" else _value(known, target),
            source=_value(known, source),
            method=method.value,
            seed=seed,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    prediction.write_h5ad(out)
    console.print(f"Wrote {prediction.n_obs} predicted cells ({prediction.uns['trvae']['scale']}) to {out}.")


@app.command()
def evaluate(
    data: DataArgument,
    holdout: Annotated[str, typer.Option(help="Cell type to hold out under --target.")],
    target: Target,
    control: Control = "control",
    condition_key: ConditionKey = "condition",
    cell_type_key: CellTypeKey = "cell_type",
    layer: Layer = None,
    gene_likelihood: GeneLikelihood = Likelihood.nb,
    max_epochs: Epochs = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Hold a measured cell type out, predict it, and score the prediction against trivial ones."""
    adata = _read(data)
    hold_out = HoldOut(condition_key, cell_type_key, holdout, target)
    if target == control:
        _fail(f"--target and --control are both {target!r}; a prediction needs two conditions.")
    of_type = _select(adata, cell_type_key, holdout)
    for name in (control, target):
        _select(of_type, condition_key, name)
    with _clear_errors():
        model = _trained(
            adata,
            condition_key,
            hold_out,
            cell_type_key=cell_type_key,
            layer=layer,
            likelihood=gene_likelihood,
            epochs=max_epochs,
            seed=seed,
        )
        _report(model, adata, hold_out, control, out, layer=layer, seed=seed)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the package's errors about the user's data into a message and exit code 1."""
    try:
        yield
    except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
        # of a KeyError, str gives the message in quotes
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        _fail(text or repr(error))


def _fail(message: str) -> None:
    Console(stderr=True).print(f"[bold red]Error:[/] {escape(message)}", highlight=False)
    raise typer.Exit(1)


def _read(path: Path) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(path)
    except OSError as error:
        _fail(f"{path} is no .h5ad file: {error}")
        raise


def _value(values: Iterable[Any], text: str | None) -> Any:
    """The one of `values` that is written as `text`; the text itself if there is none."""
    return next((value for value in values if str(value) == text), text)


def _select(adata: AnnData, key: str, value: str) -> AnnData:
    """Cells whose `key` is `value`; a clear message if there are none."""
    if key not in adata.obs:
        _fail(f"Column {key!r} not found in obs; there are {list(adata.obs.columns)}.")
    found = adata.obs[key].astype(str)
    if not (found == value).any():
        _fail(f"No cell has {key} {value!r}; there are {sorted(found.unique())}.")
    return adata[(found == value).to_numpy()]


def _trained(
    adata: AnnData,
    condition_key: str,
    hold_out: HoldOut | None,
    *,
    cell_type_key: str | None,
    layer: str | None = None,
    likelihood: Likelihood = Likelihood.nb,
    epochs: int | None = None,
    seed: int,
) -> TRVAE:
    """A model trained on all cells but the held-out ones."""
    import scvi

    from . import TRVAE

    training = adata if hold_out is None else adata[~hold_out.mask(adata).to_numpy()].copy()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.seed = seed
    TRVAE.setup_anndata(training, condition_key, layer=layer, labels_key=cell_type_key)
    model = TRVAE(training, gene_likelihood=likelihood.value)
    model.train(max_epochs=epochs)
    return model


def _report(
    model: TRVAE,
    adata: AnnData,
    hold_out: HoldOut,
    control_name: str,
    out: Path,
    *,
    layer: str | None = None,
    seed: int,
    truth: AnnData | None = None,
) -> None:
    """Predict the held-out cells and write table, plots and prediction to `out`."""
    from .benchmark import compare_predictions

    of_group = _select(adata, hold_out.cell_type_key, hold_out.group)
    control = _select(of_group, hold_out.condition_key, control_name)
    real = _select(of_group, hold_out.condition_key, hold_out.target)
    target = hold_out.target_value(adata)
    prediction = model.predict_perturbation(control, target=target, seed=seed)
    effect = model.get_perturbation_effect(control, target=target, seed=seed)
    counts = prediction.uns["trvae"]["scale"] == "counts"
    predictions = {"trVAE": prediction} | ({} if truth is None else {"true counterfactual": truth})
    scores = compare_predictions(
        predictions,
        adata,
        group_key=hold_out.cell_type_key,
        group=real.obs[hold_out.cell_type_key].iloc[0],
        condition_key=hold_out.condition_key,
        control=control.obs[hold_out.condition_key].iloc[0],
        target=target,
        layer=layer,
        counts=counts,
    )
    out.mkdir(parents=True, exist_ok=True)
    prediction.write_h5ad(out / "prediction.h5ad")
    effect.to_csv(out / "effect.csv", index=False)
    scores.to_csv(out / "scores.csv", index=False)
    _plots(prediction, real, control, scores, effect, layer, counts, out)
    _print_scores(scores, f"{hold_out.group} under {hold_out.target}, never seen in training")
    console.print(f"Table, plots and predicted cells are in {out}{os.sep}")


def _plots(
    prediction: AnnData,
    real: AnnData,
    control: AnnData,
    scores: pd.DataFrame,
    effect: pd.DataFrame,
    layer: str | None,
    counts: bool,
    out: Path,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from . import metrics, pl

    means = [metrics.comparison_matrix(cells, layer=layer, counts=counts).mean(axis=0) for cells in (real, control)]
    drawn = {
        "mean.png": pl.reg_mean(prediction, real, layer=layer, counts=counts, show=False),
        "variance.png": pl.reg_var(prediction, real, layer=layer, counts=counts, show=False),
        "response.png": pl.response(effect.assign(change_real=means[0] - means[1]), n_genes=20, show=False),
        "scores.png": pl.scores(scores, show=False)[0],
    }
    for name, ax in drawn.items():
        ax.figure.savefig(out / name, dpi=120, bbox_inches="tight")


def _print_scores(scores: pd.DataFrame, title: str) -> None:
    for genes, of_genes in scores.groupby("genes", sort=False):
        table = Table(title=f"{title}: {genes} genes")
        wide = of_genes.pivot_table(index="method", columns="metric", values="value", sort=False)
        table.add_column("method", no_wrap=True)
        for metric in wide.columns:
            table.add_column(metric.replace("_", " "), justify="right")
        for method, row in wide.iterrows():
            table.add_row(str(method), *(f"{value:.3f}" for value in row))
        console.print(table)


if __name__ == "__main__":
    app()
