"""The headline skill of several methods, with how uncertain it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._style import AS_IS, OKABE_ITO, new_axes, shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["skill_intervals"]


def skill_intervals(summary: pd.DataFrame, *, ax: Axes | None = None, show: bool | None = None) -> Axes:
    """Points and intervals of every method's headline skill, between the best trivial prediction and the ceiling.

    Parameters
    ----------
    summary
        What :func:`~trvae_scvi.benchmark.summarize` returns: the columns `method`, `skill`, `lower` and `upper`.
    ax
        Where to draw. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes. Methods are from top to bottom in the order of the table; one without a skill has no point.

    Raises
    ------
    KeyError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> rows = [("trVAE", 0.6, 0.5, 0.7), ("mean shift", 0.0, -0.1, 0.0)]
    >>> ax = tv.pl.skill_intervals(pd.DataFrame(rows, columns=["method", "skill", "lower", "upper"]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['trVAE', 'mean shift']
    """
    missing = [name for name in ("method", "skill", "lower", "upper") if name not in summary.columns]
    if missing:
        msg = f"Expected the columns that `benchmark.summarize` gives, found no {missing}."
        raise KeyError(msg)
    ax = new_axes(ax, (7.5, 1 + 0.3 * len(summary)))
    places = np.arange(len(summary))
    value, lower, upper = (summary[name].to_numpy(dtype=float) for name in ("skill", "lower", "upper"))
    ax.hlines(places, lower, upper, color=OKABE_ITO[0], linewidth=2)
    ax.plot(value, places, "o", color=OKABE_ITO[0])
    for end in (0, 1):
        ax.axvline(end, color="0.5", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_yticks(places, [str(name) for name in summary["method"]], **AS_IS)
    ax.invert_yaxis()
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("headline skill (0: best trivial prediction, 1: noise ceiling)")
    return shown(ax, show)
