"""Several panels in one figure: the names and rows asked for, and one axes for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["panel_axes", "rows_with_genes", "unique_names"]


def panel_axes(
    ax: Axes | Sequence[Axes] | None, names: Sequence[str], *, kind: str, size: tuple[float, float], n_columns: int
) -> np.ndarray:
    """Return the axes given, or those of a new figure, one per panel.

    Parameters
    ----------
    ax
        Where to draw: as many axes as there are names. `None` makes a new figure.
    names
        What the panels show.
    kind
        What a name is the name of, for the message.
    size
        Width and height of one new panel in inches.
    n_columns
        How many new panels stand side by side; further ones go to the next row.

    Returns
    -------
    One-dimensional array of axes, one per name and in their order.

    Raises
    ------
    ValueError
        If the number of axes is not that of the names.
    """
    if ax is None:
        n_columns = min(n_columns, len(names))
        n_rows = -(-len(names) // n_columns)
        figure = plt.figure(figsize=(size[0] * n_columns, size[1] * n_rows), layout="constrained")
        panels = [figure.add_subplot(n_rows, n_columns, number + 1) for number in range(len(names))]
        return np.array(panels, dtype=object)
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) != len(names):
        msg = f"Expected one axes per {kind}, found {len(axes)} for {list(names)}. Pass {len(names)} or none."
        raise ValueError(msg)
    return axes


def unique_names(names: str | Sequence[str], argument: str) -> list[str]:
    """Return the names as a list, one name on its own too.

    Parameters
    ----------
    names
        One name or several.
    argument
        The argument they were given as, for the message.

    Raises
    ------
    ValueError
        If there is none, or one of them is there twice.
    """
    result = [names] if isinstance(names, str) else list(names)
    if not result or len(set(result)) < len(result):
        msg = f"Expected at least one name in `{argument}` and each once, found {result}."
        raise ValueError(msg)
    return result


def rows_with_genes(frame: pd.DataFrame, genes: str, columns: Sequence[str], remedy: str = "") -> pd.DataFrame:
    """Rows of a tidy table of scores with one set of genes; raise unless there are some, and all of the columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        msg = f"Expected the columns {list(columns)}, found no {missing}.{remedy}"
        raise KeyError(msg)
    kept = frame[frame["genes"] == genes]
    if kept.empty:
        msg = f"Expected rows with genes {genes!r}, found only {list(frame['genes'].unique())}."
        raise ValueError(msg)
    return kept
