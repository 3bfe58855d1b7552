"""Options that several commands have, each with one name, one default and one help text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CellTypeKey",
    "ConditionKey",
    "Control",
    "Covariates",
    "DataArgument",
    "Epochs",
    "GeneLikelihood",
    "Layer",
    "Likelihood",
    "NHvg",
    "Prediction",
    "PredictionMethod",
    "Seed",
    "Target",
    "UseRaw",
]


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
NHvg = Annotated[
    int, typer.Option("--n-hvg", min=0, help="Number of highly variable genes, chosen without hidden cells. 0: all.")
]
Covariates = Annotated[
    list[str] | None,
    typer.Option("--covariate", help="Column of `obs` with donors, batches or the like; give it once for each."),
]
