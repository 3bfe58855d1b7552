"""Scores of several methods side by side: the table of bar heights and the bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trvae_scvi.metrics import HIGHER_IS_BETTER

from ._panels import panel_axes, rows_with_genes
from ._style import AS_IS, OKABE_ITO, named_legend, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

__all__ = ["score_table", "scores"]


def score_table(frame: pd.DataFrame, *, genes: str = "all", groupby: str | None = None) -> pd.DataFrame:
    """Mean score of every method on every metric, and its spread where a method has several rows.

    Parameters
    ----------
    frame
        Tidy table with the columns `method`, `genes`, `metric` and `value`, and maybe `std`. Several rows of one method
        and metric (seeds, held-out groups) are averaged.
    genes
        The set of genes to keep: a value of the column `genes`.
    groupby
        A further column to keep apart, for example the held-out cell type.

    Returns
    -------
    One row per metric, group (with `groupby`) and method, in the order of their first appearance, with the columns
    `metric`, the name given as `groupby`, `method`, `value` (mean), `std` (of several rows, `ddof=1`; of one its own,
    or NaN without such a column) and `n` (rows with a value).

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If no row has these genes.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> rows = [("trVAE", 0.5, 0.9), ("trVAE", 0.7, 0.8), ("mean shift", 0.9, 0.0)]
    >>> table = pd.DataFrame(rows, columns=["method", "value", "skill"])
    >>> table = table.assign(group="B", genes="all", metric="mse_means")
    >>> tv.pl.score_table(table)[["method", "value", "n"]].values.tolist()
    [['trVAE', 0.6, 2], ['mean shift', 0.9, 1]]
    """
    keys = ["metric", *([groupby] if groupby is not None else []), "method"]
    kept = rows_with_genes(frame, genes, [*keys, "genes", "value"])
    values = kept.groupby(keys, sort=False, observed=True)["value"]
    table = values.agg(value="mean", std="std", n="count")
    if "std" in kept.columns:
        alone = kept[kept["value"].notna()].groupby(keys, sort=False, observed=True)["std"].mean()
        table["std"] = table["std"].where(table["n"] != 1, alone.reindex(table.index))
    return table.reset_index()


def scores(
    frame: pd.DataFrame,
    *,
    genes: str = "all",
    groupby: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
) -> np.ndarray:
    """Bars of every method's score, one panel per metric.

    Parameters
    ----------
    frame
        Tidy table with the columns `method`, `genes`, `metric` and `value`, and maybe `std`.
    genes
        The set of genes to show: a value of the column `genes`.
    groupby
        A further column, shown along the x axis with one bar per method each; `None` averages over everything else.
        Several rows per bar are averaged and their standard deviation is drawn; of a single one its `std`, if there.
    ax
        Where to draw: as many axes as there are metrics with values. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    One-dimensional array of axes, one per metric with any value, in the order of their first appearance.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If no row with these genes has a value, or the number of axes is not that of the metrics.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> rows = [("trVAE", 0.5, 0.9), ("trVAE", 0.7, 0.8), ("mean shift", 0.9, 0.0)]
    >>> table = pd.DataFrame(rows, columns=["method", "value", "skill"])
    >>> table = table.assign(group="B", genes="all", metric="mse_means")
    >>> axes = tv.pl.scores(table)
    >>> axes.shape
    (1,)
    """
    table = score_table(frame, genes=genes, groupby=groupby)
    table = table[table.groupby("metric", sort=False, observed=True)["n"].transform("max") > 0]
    metrics = list(table["metric"].unique())
    if not metrics:
        msg = f"Expected values on {genes} genes, found nothing but NaN."
        raise ValueError(msg)
    axes = panel_axes(ax, metrics, kind="metric", size=(3.4, 3.2), n_columns=3)
    methods = list(table["method"].unique())
    for panel, metric in zip(axes, metrics, strict=True):
        bars = _draw_panel(panel, table[table["metric"] == metric], methods, groupby)
        title = str(metric).replace("_", " ")
        if metric in HIGHER_IS_BETTER:
            title += f"\n({'higher' if HIGHER_IS_BETTER[metric] else 'lower'} is better)"
        panel.set_title(title, fontsize="medium", **AS_IS)
    axes[0].set_ylabel(f"score on {genes} genes", **AS_IS)
    if groupby is not None:
        look = {"fontsize": "small", "loc": "upper left", "bbox_to_anchor": (1, 1)}
        named_legend(axes[-1], list(bars.values()), list(bars), **look)
    return shown(axes, show)


def _draw_panel(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], groupby: str | None) -> dict[str, BarContainer]:
    """Bars of every method, which are returned, and what is around them."""
    key = "method" if groupby is None else groupby
    ticks = methods if groupby is None else list(rows[groupby].unique())
    width = 0.8 if groupby is None else 0.8 / len(methods)
    bars = {}
    for number, method in enumerate(methods):
        own = rows[rows["method"] == method]
        if own.empty:
            continue
        aside = 0.0 if groupby is None else (number - (len(methods) - 1) / 2) * width
        places = np.array([ticks.index(name) + aside for name in own[key]])
        # More methods than colours: the second round is hatched.
        look: dict[str, Any] = {"color": OKABE_ITO[number % len(OKABE_ITO)], "hatch": "//" * (number // len(OKABE_ITO))}
        bars[str(method)] = ax.bar(places, own["value"], width, label=str(method), **look)
        spread = own["std"].notna().to_numpy()
        if spread.any():  # after the bars, which are then the first of the containers
            value, std = own.loc[spread, "value"], own.loc[spread, "std"]
            ax.errorbar(places[spread], value, yerr=std, fmt="none", ecolor="0.3", capsize=2)
    ax.set_xticks(range(len(ticks)), [str(tick) for tick in ticks], rotation=45, ha="right", **AS_IS)
    ax.axhline(0, color=OKABE_ITO[-1], linewidth=0.8)
    return bars
