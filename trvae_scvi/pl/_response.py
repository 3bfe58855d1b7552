"""The predicted response gene by gene: the table of the strongest changes and the bars."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_integer

from ._panels import panel_axes
from ._style import AS_IS, OKABE_ITO, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["response", "response_frame"]

_LINE = 36  # characters of a label


def response_frame(effect: pd.DataFrame, *, n_genes: int = 10) -> pd.DataFrame:
    """Pick the variables with the largest predicted changes, up and down.

    Parameters
    ----------
    effect
        Table with the columns `variable`, `change`, `change_lower` and `change_upper`, one row per variable, as
        `TRVAE.get_perturbation_effect` returns it for one target and one group. Variables whose change is NaN are left
        out.
    n_genes
        How many to pick, half of them in each direction (one more up, if that is odd); more of the other direction
        where one has not as many, and all if there are fewer.

    Returns
    -------
    The rows picked, all columns, from the largest increase to the largest decrease.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If `n_genes` is no integer.
    ValueError
        If a variable has several rows or `n_genes` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> effect = pd.DataFrame({"variable": ["CD4", "ISG15", "IFI6"], "change": [0.1, 2.0, -0.7]})
    >>> effect = effect.assign(change_lower=effect["change"] - 0.2, change_upper=effect["change"] + 0.2)
    >>> tv.pl.response_frame(effect, n_genes=2)["variable"].tolist()
    ['ISG15', 'IFI6']
    """
    missing = [name for name in ("variable", "change", "change_lower", "change_upper") if name not in effect.columns]
    if missing:
        msg = f"Expected the columns 'variable', 'change', 'change_lower' and 'change_upper', found no {missing}."
        raise KeyError(msg)
    repeated = effect["variable"].duplicated()
    if repeated.any():
        msg = (
            f"Expected one row per variable, found several for {effect.loc[repeated, 'variable'].iloc[0]!r}. "
            "Select one target and one group first."
        )
        raise ValueError(msg)
    check_integer("n_genes", n_genes, 1)
    ordered = effect[effect["change"].notna()].sort_values("change", ascending=False, kind="stable")
    n = min(n_genes, len(ordered))
    n_up, n_down = int((ordered["change"] > 0).sum()), int((ordered["change"] < 0).sum())
    last = min(n_down, max(n // 2, n - n_up))
    return pd.concat([ordered.head(n - last), ordered.tail(last)]) if last else ordered.head(n)


def response(
    effect: pd.DataFrame, *, n_genes: int = 10, ax: Axes | Sequence[Axes] | None = None, show: bool | None = None
) -> Axes | np.ndarray:
    """Bars of the strongest predicted changes, up and down, with their intervals, and the real changes if known.

    Parameters
    ----------
    effect
        Table with the columns `variable`, `change`, `change_lower` and `change_upper`, as
        `TRVAE.get_perturbation_effect` returns it. Several groups or targets are drawn in a panel each. With a column
        `change_real` (the same on real cells) its values are drawn as diamonds.
    n_genes
        How many variables to draw, half of them with the largest predicted increases, on top, and half with the
        largest decreases, as :func:`~trvae_scvi.pl.response_frame` picks them.
    ax
        Where to draw: as many axes as there are groups and targets. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes; an array of them for several groups or targets.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If `n_genes` is no integer.
    ValueError
        If a variable has several rows in a group under a target, `n_genes` is below 1, or the number of axes is not
        that of the panels.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> effect = pd.DataFrame({"variable": ["CD4", "ISG15", "IFI6"], "change": [0.1, 2.0, -0.7]})
    >>> effect = effect.assign(change_lower=effect["change"] - 0.2, change_upper=effect["change"] + 0.2)
    >>> ax = tv.pl.response(effect, n_genes=2)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['ISG15', 'IFI6']
    """
    keys = [name for name in ("group", "target") if name in effect.columns]
    parts = dict(list(effect.groupby(keys, sort=False, observed=True, dropna=False))) if keys else {(): effect}
    titles = [" under ".join(str(value) for value in key) for key in parts]
    frames = [response_frame(part, n_genes=n_genes) for part in parts.values()] or [response_frame(effect)]
    size = 4.5, 1.4 + 0.25 * max(len(frame) for frame in frames)
    axes = panel_axes(ax, titles or [""], kind="group and target", size=size, n_columns=3)
    for panel, frame, title in zip(axes, frames, titles or [""], strict=True):
        _draw(panel, frame, title)
    return shown(axes if len(axes) > 1 else axes[0], show)


def _draw(ax: Axes, frame: pd.DataFrame, title: str) -> None:
    """The bars of one group under one target."""
    rows = np.arange(len(frame))
    ax.barh(rows, frame["change"], color=OKABE_ITO[4], label="predicted")
    levels = frame["level"].unique() if "level" in frame.columns else []
    name = f"{levels[0]:.0%} interval" if len(levels) == 1 else "interval"
    # Lines rather than error bars: an interval need not contain the bar's end.
    ax.hlines(rows, frame["change_lower"], frame["change_upper"], color=OKABE_ITO[-1], linewidth=1.2, label=name)
    if "change_real" in frame.columns:
        ax.scatter(frame["change_real"], rows, marker="D", s=18, color=OKABE_ITO[5], zorder=3, label="real")
    ax.axvline(0, color=OKABE_ITO[-1], linewidth=0.8)
    ax.set_yticks(rows, frame["variable"].astype(str), fontsize="small", **AS_IS)
    ax.invert_yaxis()
    ax.set_title(title, fontsize="medium", **AS_IS)
    scales = frame["scale"].unique() if "scale" in frame.columns else ["log1p(counts per 10,000)"]
    # a panel is narrow, and genes may have long names
    label = "\n".join(line for scale in scales for line in wrap(f"change of the mean of {scale}", _LINE))
    ax.set_xlabel(label, fontsize="small", **AS_IS)
    # where bars are short; on paper of its own, as bars that all go one way leave no corner free
    upward = (frame["change"] > 0).any()
    ax.legend(framealpha=0.9, edgecolor="none", fontsize="small", loc="lower right" if upward else "upper left")
