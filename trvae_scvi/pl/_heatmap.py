"""Skills of many methods on many held-out groups and metrics: the wide table and the heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from ._panels import rows_with_genes
from ._style import AS_IS, new_axes, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["score_heatmap", "score_heatmap_frame"]

# The last has a skill of 1, the best of the others that there are one of 0; named so by the functions of `benchmark`.
_REFERENCES = ("no change", "mean of others", "mean shift", "mean response", "noise ceiling")
_FONT_SIZE = 7
# In inches, as is the width of an average character of the small labels and of the group names.
_CELL_WIDTH, _CELL_HEIGHT = 0.42, 0.27
_CHARACTER, _GROUP_CHARACTER = 0.06, 0.08


def score_heatmap_frame(frame: pd.DataFrame, *, genes: str = "all", value: str = "skill") -> pd.DataFrame:
    """Wide table of methods against held-out groups and metrics.

    Parameters
    ----------
    frame
        Tidy table with the columns `group`, `method`, `genes`, `metric` and the one named by `value`. Several rows of
        one group, method and metric (seeds; targets, unless one is selected first) are averaged, without those that
        have no value.
    genes
        The set of genes to keep: a value of the column `genes`.
    value
        The column to show, on the scale of a skill.

    Returns
    -------
    Indexed by `method`, the columns by `group` and `metric`, all in the order of their first appearance, but the
    references last: the trivial predictions, such as "no change" and "mean shift", then "noise ceiling". Not
    clipped; NaN where there is no value. A metric without any is left out, unless there is no other.

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
    >>> tv.pl.score_heatmap_frame(table).round(2).values.tolist()
    [[0.85], [0.0]]
    """
    needed = ["group", "method", "genes", "metric", value]
    kept = rows_with_genes(frame, genes, needed, " Name a single group with `frame.assign(group=...)`.")
    methods, groups = (list(kept[name].unique()) for name in ("method", "group"))
    valued = set(kept.loc[kept[value].notna(), "metric"])
    metrics = [name for name in kept["metric"].unique() if name in valued or not valued]
    rows = [name for name in methods if name not in _REFERENCES] + [name for name in _REFERENCES if name in methods]
    wide = (
        kept.groupby(["method", "group", "metric"], sort=False, observed=True)[value]
        .mean()
        .unstack(["group", "metric"])
    )
    columns = pd.MultiIndex.from_product([groups, metrics], names=["group", "metric"])
    return wide.reindex(index=pd.Index(rows, name="method"), columns=columns)


def score_heatmap(
    frame: pd.DataFrame, *, genes: str = "all", value: str = "skill", ax: Axes | None = None, show: bool | None = None
) -> Axes:
    """Heat map of skills, methods against held-out groups and metrics, with the numbers written into the cells.

    The colours end at -1 and 1, the numbers do not. The references, the trivial predictions of which the best has 0 and
    the noise ceiling with 1, stand in bold below a line. Cells without a value are grey and hatched.

    Parameters
    ----------
    frame
        Tidy table with the columns `group`, `method`, `genes`, `metric` and the one named by `value`. Several rows of
        one group, method and metric (seeds; targets, unless one is selected first) are averaged, without those that
        have no value.
    genes
        The set of genes to show: a value of the column `genes`.
    value
        The column to show, on the scale of a skill.
    ax
        Where to draw; `None` makes a new figure that grows with the table.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes.

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
    >>> ax = tv.pl.score_heatmap(table)
    >>> ax.get_title()
    'skill on all genes'
    """
    table = score_heatmap_frame(frame, genes=genes, value=value)
    ax = new_axes(ax, _figure_size(table))
    # A copy of its own: the registered map keeps its own colour for what is undefined.
    colours = mpl.colormaps["RdBu"].with_extremes(bad="0.88")
    numbers = table.to_numpy(dtype=float)
    values = np.ma.masked_where(np.isnan(numbers), numbers).clip(-1, 1)
    image = ax.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    _write_cells(ax, numbers, image)
    _label_columns(ax, table.columns)
    _label_rows(ax, table.index)
    ax.set_title(f"{value} on {genes} genes", fontsize="medium", **AS_IS)
    bar = ax.figure.colorbar(image, ax=ax, ticks=[-1, 0, 1], extend="both", fraction=0.05, aspect=12, shrink=0.9)
    bar.ax.set_yticklabels(["-1", "0: best trivial", "1: noise ceiling"], fontsize=_FONT_SIZE)
    return shown(ax, show)


def _figure_size(table: pd.DataFrame) -> tuple[float, float]:
    """Room for the cells, the labels around them and the colour bar."""
    methods, metrics = (
        max(len(str(name)) for name in labels) for labels in (table.index, table.columns.get_level_values("metric"))
    )
    groups = max(len(str(group)) for group in table.columns.get_level_values("group")) if _upright(table.columns) else 2
    width = 1.6 + _GROUP_CHARACTER * methods + max(1.0, _CELL_WIDTH * table.shape[1])
    height = 0.5 + _CHARACTER * metrics + _GROUP_CHARACTER * groups + max(1.1, _CELL_HEIGHT * table.shape[0])
    return width, height


def _upright(columns: pd.MultiIndex) -> bool:
    """Whether groups' names side by side would run into each other."""
    groups = columns.get_level_values("group").unique()
    room = _CELL_WIDTH * len(columns) / len(groups)
    return len(groups) > 1 and max(len(str(group)) for group in groups) * _GROUP_CHARACTER > room


def _write_cells(ax: Axes, numbers: np.ndarray, image: AxesImage) -> None:
    """Write the numbers, hatch the cells without one."""
    for (row, column), number in np.ndenumerate(numbers):
        if np.isnan(number):
            corner = (column - 0.5, row - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="0.6", linewidth=0))
            continue
        red, green, blue, _ = image.to_rgba(np.clip(number, -1, 1))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        colour = "white" if dark else "black"
        ax.text(column, row, _number_text(number), ha="center", va="center", fontsize=_FONT_SIZE, color=colour)


def _number_text(number: float) -> str:
    """At most six characters, so that a score far off the scale stays within its cell."""
    if abs(number) < 10:
        return f"{number:z.2f}"
    return f"{number:.0f}" if abs(number) < 10_000 else f"{number:.0e}"


def _label_columns(ax: Axes, columns: pd.MultiIndex) -> None:
    """Metrics below, groups above, a white line between groups."""
    metrics = [str(metric).replace("_", " ") for metric in columns.get_level_values("metric")]
    ax.set_xticks(range(len(metrics)), metrics, rotation=90, fontsize=_FONT_SIZE, **AS_IS)
    groups = [str(group) for group in columns.get_level_values("group").unique()]
    width = len(columns) // len(groups)
    top = ax.secondary_xaxis("top")
    top.set_xticks([(number + 0.5) * width - 0.5 for number in range(len(groups))], groups, **AS_IS)
    top.tick_params(length=0, labelsize="small", labelrotation=90 if _upright(columns) else 0)
    for number in range(1, len(groups)):
        ax.axvline(number * width - 0.5, color="white", linewidth=3)


def _label_rows(ax: Axes, methods: pd.Index) -> None:
    """Methods, the references bold and below a line."""
    ax.set_yticks(range(len(methods)), [str(method) for method in methods], fontsize="small", **AS_IS)
    references = [method in _REFERENCES for method in methods]
    for label, is_reference in zip(ax.get_yticklabels(), references, strict=True):
        label.set_fontweight("bold" if is_reference else "normal")
    if any(references) and not all(references):
        ax.axhline(references.index(True) - 0.5, color="black", linewidth=1.5)
