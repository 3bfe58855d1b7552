"""A held-out group: its prediction, scored beside trivial ones, as tables, plots and cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rich.table import Table

from trvae_scvi._files import finished_at_end, write_text

from ._terminal import console, say

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from trvae_scvi import TRVAE

__all__ = ["write_evaluation"]


def write_evaluation(
    model: TRVAE,
    adata: AnnData,
    own: np.ndarray,
    held_out: np.ndarray,
    out: Path,
    *,
    seed: int,
    truth: AnnData | None = None,
) -> None:
    """Predict cells that were held out from the group's own control cells; write tables, plots and cells to `out`.

    `own` and `held_out` are masks, and the group is a label of the model.
    """
    from trvae_scvi.benchmark import compare_predictions
    from trvae_scvi.metrics import comparison_matrix

    names = model.registry["setup_args"]
    group_key, condition_key, layer = (names[key] for key in ("labels_key", "condition_key", "layer"))
    control, real = adata[own], adata[held_out]
    # as the data have them: numbers, perhaps, where the command line has text
    group, target = real.obs[group_key].iloc[0], real.obs[condition_key].iloc[0]
    prediction = model.predict_perturbation(control, target=target, seed=seed)
    effect = model.get_perturbation_effect(control, target=target, seed=seed)
    scale: dict[str, Any] = {"layer": layer, "counts": prediction.uns["trvae"]["scale"] == "counts"}
    scores = compare_predictions(
        {"trVAE": prediction} | ({} if truth is None else {"true counterfactual": truth}),
        adata,
        group_key=group_key,
        group=group,
        condition_key=condition_key,
        control=control.obs[condition_key].iloc[0],
        target=target,
        **scale,
    )
    _print_scores(scores, f"{group} under {target}, never seen in training")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "effect.csv", effect.to_csv(index=False))
    write_text(out / "scores.csv", scores.to_csv(index=False))
    means = [comparison_matrix(cells, **scale).mean(axis=0) for cells in (real, control)]
    _plots(prediction, real, scores, effect.assign(change_real=means[0] - means[1]), out, **scale)
    # last: columns of the user's that h5ad cannot hold are no reason to lose the rest
    with finished_at_end(out / "prediction.h5ad") as unfinished:
        prediction.write_h5ad(unfinished)
    say(f"Table, plots and predicted cells are in {out}{os.sep}")


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


def _print_scores(scores: pd.DataFrame, title: str) -> None:
    from trvae_scvi.benchmark._report import wide_table

    for genes, rows in scores.groupby("genes", sort=False):
        wide = wide_table(rows, "value", ".3f")
        table = Table(title=f"{title}: {genes} genes")
        table.add_column("method", no_wrap=True)
        for metric in wide:
            table.add_column(metric, justify="right")
        for method, texts in wide.iterrows():
            table.add_row(str(method), *texts)
        console.print(table)
