"""The report of a held-out group: its prediction, scored beside trivial ones, as tables, plots and cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.table import Table

from trvae_scvi._files import finished_at_end, write_text

from ._input import HoldOut, select_cells
from ._terminal import console, say

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from trvae_scvi import TRVAE

__all__ = ["write_report"]


def write_report(
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
    """Predict the held-out cells and write tables, plots and prediction to `out`."""
    from trvae_scvi.benchmark import compare_predictions

    of_group = select_cells(adata, hold_out.cell_type_key, hold_out.group)
    control = select_cells(of_group, hold_out.condition_key, control_name)
    real = select_cells(of_group, hold_out.condition_key, hold_out.target)
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
    _print_scores(scores, f"{hold_out.group} under {hold_out.target}, never seen in training")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "effect.csv", effect.to_csv(index=False))
    write_text(out / "scores.csv", scores.to_csv(index=False))
    _plots(prediction, real, control, scores, effect, layer, counts, out)
    # last: columns of the user's that h5ad cannot hold are no reason to lose the rest
    with finished_at_end(out / "prediction.h5ad") as unfinished:
        prediction.write_h5ad(unfinished)
    say(f"Table, plots and predicted cells are in {out}{os.sep}")


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
    import matplotlib.pyplot as plt

    from trvae_scvi import metrics, pl

    means = [metrics.comparison_matrix(cells, layer=layer, counts=counts).mean(axis=0) for cells in (real, control)]
    drawn = {
        "mean.png": pl.reg_mean(prediction, real, layer=layer, counts=counts, show=False),
        "variance.png": pl.reg_var(prediction, real, layer=layer, counts=counts, show=False),
        "response.png": pl.response(effect.assign(change_real=means[0] - means[1]), n_genes=20, show=False),
        "scores.png": pl.scores(scores, show=False)[0],
    }
    for name, ax in drawn.items():
        with finished_at_end(out / name) as unfinished:
            ax.figure.savefig(unfinished, dpi=120, bbox_inches="tight")
        plt.close(ax.figure)


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
