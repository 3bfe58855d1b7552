"""A held-out group: its prediction, scored beside trivial ones, as tables, plots and cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from trvae_scvi._files import finished_at_end, write_text

from ._terminal import console, say

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from trvae_scvi import TRVAE
    from trvae_scvi.benchmark import Assessment, HoldOut, Truth

__all__ = ["write_all", "write_assessment", "write_evaluation"]


def write_evaluation(
    model: TRVAE, holdout: HoldOut, truth: Truth, out: Path, *, seed: int, counterfactual: AnnData | None = None
) -> None:
    """Predict cells that were held out from the group's own control cells; write tables, plots and cells to `out`.

    `counterfactual` are the cells as they would be, where that is known.
    """
    from trvae_scvi.benchmark import compare_predictions

    real, control, counts = truth.real, holdout.control, holdout.counts
    prediction = model.predict_perturbation(control, target=holdout.target, seed=seed)
    effect = model.get_perturbation_effect(control, target=holdout.target, seed=seed)
    effect = effect.assign(change_real=_change(holdout, truth))
    known = {} if counterfactual is None else {"true counterfactual": counterfactual}
    scores = compare_predictions({"trVAE": prediction} | known, holdout, truth)
    _print_headline(scores, f"{holdout.group} under {holdout.target}, never seen in training")
    _print_scores(scores)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "effect.csv", effect.to_csv(index=False))
    write_text(out / "scores.csv", scores.to_csv(index=False))
    _plots(prediction, real, scores, effect, out, counts=counts)
    # last: columns of the user's that h5ad cannot hold are no reason to lose the rest
    with finished_at_end(out / "prediction.h5ad") as unfinished:
        prediction.write_h5ad(unfinished)
    say(f"Table, plots and predicted cells are in {out}{os.sep}")


def write_all(table: pd.DataFrame, out: Path) -> None:
    """Print what every cell type held out in turn comes to; `out` has the report already."""
    from trvae_scvi.benchmark import summarize

    shown = Table(
        title="Every cell type held out in turn: headline skill (0: best trivial prediction, 1: noise ceiling)"
    )
    shown.add_column("method", no_wrap=True)
    for column in ("skill", "90 % interval", "above every trivial prediction"):
        shown.add_column(column, justify="right")
    for row in summarize(table).itertuples():
        interval = f"{_skill(row.lower)} to {_skill(row.upper)}" if row.lower <= row.upper else "undefined"
        shown.add_row(str(row.method), _skill(row.skill), interval, f"{row.above_trivial:.0%} of {row.n_holdouts}")
    console.print(shown)
    say(f"Scores of every cell type and a report are in {out}{os.sep}")


def write_assessment(found: Assessment, out: Path) -> None:
    """Print a verdict and what to expect of every method; write both to `out`."""
    columns = ["skill", "lower", "upper", "share_of_means", "share_of_cells", "direction"]
    table = Table(title=f"Expected of {found.group} under {found.target}, from the cell types that were measured")
    table.add_column("method", no_wrap=True)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for method, values in found.expected[columns].iterrows():
        table.add_row(str(method), *(f"{value:z.2f}" for value in values))
    console.print(table)
    say(found.message)
    write_text(out / "expected.csv", found.expected.to_csv())
    write_text(out / "verdict.txt", f"{found.verdict}\n{found.message}\n")
    say(f"The scores of the measured cell types are in {out}{os.sep}")


def _change(holdout: HoldOut, truth: Truth) -> np.ndarray:
    """The real change of every gene, against the control cells that were set aside if there are any."""
    from trvae_scvi.metrics import comparison_matrix
    from trvae_scvi.metrics._matrix import gene_means

    control = truth.control if truth.control.n_obs else holdout.control
    of_real, of_control = (gene_means(comparison_matrix(c, counts=holdout.counts)) for c in (truth.real, control))
    return of_real - of_control


def _plots(
    prediction: AnnData, real: AnnData, scores: pd.DataFrame, effect: pd.DataFrame, out: Path, **scale: Any
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from trvae_scvi import pl

    drawn = {
        "mean.png": pl.reg_mean(prediction, real, **scale),
        "variance.png": pl.reg_var(prediction, real, **scale),
        "response.png": pl.response(effect, n_genes=20),
        "scores.png": pl.scores(scores)[0],
    }
    for name, ax in drawn.items():
        with finished_at_end(out / name) as unfinished:
            ax.figure.savefig(unfinished, dpi=120, bbox_inches="tight")
        plt.close(ax.figure)


def _print_headline(scores: pd.DataFrame, title: str) -> None:
    from trvae_scvi.metrics import headline_skill

    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    table.add_column("headline skill (0: best trivial prediction, 1: noise ceiling)", justify="right")
    reasons: dict[str, None] = {}
    for method, rows in scores.groupby("method", sort=False):
        value = headline_skill(rows)
        table.add_row(str(method), _skill(value))
        if np.isnan(value):
            notes = rows.loc[rows["note"].fillna("") != "", "note"]
            reasons |= dict.fromkeys(notes.unique())
    console.print(table)
    if reasons:
        say(f"Undefined: {'; '.join(reasons)}.")


def _skill(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:z.2f}"


def _print_scores(scores: pd.DataFrame) -> None:
    from trvae_scvi.benchmark._report import wide_table
    from trvae_scvi.metrics import HIGHER_IS_BETTER

    for genes, rows in scores.groupby("genes", sort=False):
        has_value = rows.groupby("metric", sort=False)["value"].transform("count") > 0
        if not has_value.any():
            say(f"No metric has a value on {genes} genes.")
            continue
        wide = wide_table(rows[has_value], "value", ".3f")
        table = Table(title=f"{genes} genes (↑ higher, ↓ lower is better)")
        table.add_column("method", no_wrap=True)
        for metric in wide:
            higher = HIGHER_IS_BETTER.get(metric.replace(" ", "_"))
            table.add_column(metric + {True: " ↑", False: " ↓", None: ""}[higher], justify="right")
        for method, texts in wide.iterrows():
            table.add_row(str(method), *texts)
        console.print(table)
