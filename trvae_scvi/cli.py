"""The command line: ``trvae-scvi demo``, ``train``, ``predict``, ``evaluate``. Uses the public API only."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
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

_METHOD = "trVAE"
_EXAMPLE_GROUP = "type_1"

DataArgument = Annotated[Path, typer.Argument(help="An .h5ad file with raw counts.", exists=True, dir_okay=False)]
ConditionKey = Annotated[str, typer.Option(help="Column of `obs` with the condition of every cell.")]
CellTypeKey = Annotated[str, typer.Option(help="Column of `obs` with cell types.")]
Layer = Annotated[str | None, typer.Option(help="Layer that holds the counts. Default: X.")]
Likelihood = Annotated[str, typer.Option(help="nb, zinb or poisson for counts; mse for log-normalised data.")]
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
    from .datasets import simulate_perturbation

    adata, truth = simulate_perturbation(seed=seed)
    console.print(f"Simulated {adata.n_obs} cells x {adata.n_vars} genes; {_EXAMPLE_GROUP} is held out under stimulation.")
    truth = truth[truth.obs["cell_type"] == _EXAMPLE_GROUP]
    model, train = _train_without(
        adata, "condition", "cell_type", _EXAMPLE_GROUP, "stimulated", layer=None, likelihood="nb", epochs=None, seed=seed
    )
    _report(model, adata, "condition", "cell_type", _EXAMPLE_GROUP, "control", "stimulated", None, out, seed, truth)


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder to save the model in.")],
    condition_key: ConditionKey = "condition",
    cell_type_key: Annotated[str | None, typer.Option(help="Column with cell types, needed for --holdout.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Cell type to leave out under --target.")] = None,
    target: Annotated[str | None, typer.Option(help="Condition under which --holdout is left out.")] = None,
    layer: Layer = None,
    gene_likelihood: Likelihood = "nb",
    max_epochs: Epochs = None,
    seed: Seed = 0,
) -> None:
    """Train a model on an .h5ad file and save it."""
    adata = _read(data)
    if (holdout is None) != (target is None) or (holdout is not None and cell_type_key is None):
        _fail("--holdout, --target and --cell-type-key go together: which cell type is left out under which condition.")
    if out.exists():
        _fail(f"{out} is there already. Name another folder with --out.")
    with _clear_errors():
        model, _ = _train_without(
            adata, condition_key, cell_type_key, holdout, target, layer, gene_likelihood, max_epochs, seed
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
    method: Annotated[str, typer.Option(help="counterfactual, mean or sample.")] = "counterfactual",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Predict the cells of an .h5ad file under another condition."""
    from . import TRVAE

    adata = _read(data)
    if holdout is not None:
        if cell_type_key is None:
            _fail("--holdout needs --cell-type-key: the column that holds the cell types.")
        adata = _select(adata, cell_type_key, holdout)
    with _clear_errors():
        trained = _load(TRVAE, model)
        prediction = trained.predict_perturbation(adata, target=target, source=source, method=method, seed=seed)
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
    gene_likelihood: Likelihood = "nb",
    max_epochs: Epochs = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; made if need be.")] = Path("report"),
    seed: Seed = 0,
) -> None:
    """Hold a measured cell type out, predict it, and score the prediction against trivial ones."""
    adata = _read(data)
    of_type = _select(adata, cell_type_key, holdout)
    for name in (control, target):
        _select(of_type, condition_key, name)
    with _clear_errors():
        model, _ = _train_without(
            adata, condition_key, cell_type_key, holdout, target, layer, gene_likelihood, max_epochs, seed
        )
        _report(model, adata, condition_key, cell_type_key, holdout, control, target, layer, out, seed)


class _clear_errors:  # noqa: N801 - used like a function
    """Turn the package's errors about the user's data into a message and exit code 1."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError | ValueError | TypeError):
            _fail(str(error.args[0]) if error.args else repr(error))


def _fail(message: str) -> None:
    Console(stderr=True).print(f"[bold red]Error:[/] {message}", highlight=False)
    raise typer.Exit(1)


def _read(path: Path) -> AnnData:
    import anndata

    return anndata.read_h5ad(path)


def _select(adata: AnnData, key: str, value: str) -> AnnData:
    """Cells whose `key` is `value`; a clear message if there are none."""
    if key not in adata.obs:
        _fail(f"Column {key!r} not found in obs; there are {list(adata.obs.columns)}.")
    found = adata.obs[key].astype(str)
    if not (found == value).any():
        _fail(f"No cell has {key} {value!r}; there are {sorted(found.unique())}.")
    return adata[(found == value).to_numpy()]


def _load(cls: type[TRVAE], folder: Path) -> TRVAE:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Save path contains no saved anndata")
        return cls.load(folder)


def _train_without(
    adata: AnnData,
    condition_key: str,
    cell_type_key: str | None,
    holdout: str | None,
    target: str | None,
    layer: str | None,
    likelihood: str,
    epochs: int | None,
    seed: int,
) -> tuple[TRVAE, AnnData]:
    """Train on all cells but the held-out ones."""
    import scvi

    from . import TRVAE

    training = adata
    if holdout is not None:
        held_out = (adata.obs[cell_type_key].astype(str) == holdout) & (adata.obs[condition_key].astype(str) == target)
        training = adata[~held_out.to_numpy()].copy()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.seed = seed
    TRVAE.setup_anndata(training, condition_key, layer=layer)
    model = TRVAE(training, gene_likelihood=likelihood)
    model.train(max_epochs=epochs)
    return model, training


def _report(
    model: TRVAE,
    adata: AnnData,
    condition_key: str,
    cell_type_key: str,
    group: str,
    control_name: str,
    target: str,
    layer: str | None,
    out: Path,
    seed: int,
    truth: AnnData | None = None,
) -> None:
    """Predict the held-out cells and write table, plots and prediction to `out`."""
    of_group = _select(adata, cell_type_key, group)
    control, real = _select(of_group, condition_key, control_name), _select(of_group, condition_key, target)
    prediction = model.predict_perturbation(control, target=target, seed=seed)
    counts = model.module.gene_likelihood != "mse"
    scores = _scores(prediction, adata, control, real, condition_key, cell_type_key, layer, counts, truth)
    out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(out / "scores.csv", index=False)
    prediction.write_h5ad(out / "prediction.h5ad")
    effect = model.get_perturbation_effect(control, target=target, seed=seed)
    effect.to_csv(out / "effect.csv", index=False)
    _plots(prediction, real, control, scores, effect, layer, counts, out)
    _print_scores(scores, f"{group} under {target}, never seen in training")
    console.print(f"Table, plots and predicted cells are in {out}{os.sep}")


def _scores(
    prediction: AnnData,
    adata: AnnData,
    control: AnnData,
    real: AnnData,
    condition_key: str,
    cell_type_key: str,
    layer: str | None,
    counts: bool,
    truth: AnnData | None,
) -> pd.DataFrame:
    """Scores of the model, of predictions without a network and of the ceiling, one block each."""
    from . import benchmark, metrics

    def matrix(cells: AnnData, name: str, of: str | None = layer) -> np.ndarray:
        return metrics.comparison_matrix(cells, layer=of, counts=counts, name=name)

    predictions: dict[str, Any] = {_METHOD: matrix(prediction, "prediction")}
    predictions |= benchmark.baseline_predictions(
        adata,
        group_key=cell_type_key,
        group=real.obs[cell_type_key].iloc[0],
        condition_key=condition_key,
        control=control.obs[condition_key].iloc[0],
        target=real.obs[condition_key].iloc[0],
        layer=layer,
        counts=counts,
    )
    if truth is not None:
        predictions["true counterfactual"] = matrix(truth, "truth", None)
    real_matrix, control_matrix = matrix(real, "real"), matrix(control, "control")
    n_top_genes = min(100, real.n_vars)
    frames = [
        metrics.score_arrays(cells, real_matrix, control_matrix, n_top_genes=n_top_genes).assign(method=method)
        for method, cells in predictions.items()
    ]
    ceiling = metrics.noise_ceiling(real_matrix, control_matrix, n_top_genes=n_top_genes)
    frames.append(ceiling.drop(columns="std").assign(method="noise ceiling"))
    scores = pd.concat(frames, ignore_index=True)
    return scores[["method", "genes", "metric", "value"]]


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

    real_change = metrics.comparison_matrix(real, layer=layer, counts=counts, name="real").mean(axis=0)
    real_change = real_change - metrics.comparison_matrix(control, layer=layer, counts=counts, name="control").mean(axis=0)
    drawn = {
        "mean.png": pl.reg_mean(prediction, real, layer=layer, counts=counts, show=False),
        "variance.png": pl.reg_var(prediction, real, layer=layer, counts=counts, show=False),
        "response.png": pl.response(effect.assign(change_real=np.asarray(real_change)), n_genes=20, show=False),
        "scores.png": np.ravel(pl.scores(scores, show=False))[0],
    }
    for name, ax in drawn.items():
        ax.figure.savefig(out / name, dpi=120, bbox_inches="tight")


def _print_scores(scores: pd.DataFrame, title: str) -> None:
    table = Table(title=title)
    wide = scores.pivot_table(index="method", columns=["genes", "metric"], values="value", sort=False)
    table.add_column("method")
    for genes, metric in wide.columns:
        table.add_column(f"{metric.replace('_', ' ')} ({genes})", justify="right")
    for method, row in wide.iterrows():
        table.add_row(str(method), *(f"{value:.3f}" for value in row))
    console.print(table)


if __name__ == "__main__":
    app()
