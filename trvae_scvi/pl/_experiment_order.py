"""How much of the responses is known, group by group, as they are measured in the suggested order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from ._style import AS_IS, OKABE_ITO, new_axes, shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["experiments"]


def experiments(order: pd.DataFrame, *, ax: Axes | None = None, show: bool | None = None) -> Axes:
    """Share of the variance of responses that is not known after each experiment.

    Parameters
    ----------
    order
        What :func:`~trvae_scvi.benchmark.rank_experiments` returns: the columns `group`, `unknown_before` and
        `unknown`.
    ax
        Where to draw. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes, groups from left to right in the order in which to measure them.

    Raises
    ------
    KeyError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> order = pd.DataFrame({"group": ["B", "NK"], "unknown_before": [1.0, 0.6], "unknown": [0.6, 0.4]})
    >>> ax = tv.pl.experiments(order)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['now', 'B', 'NK']
    """
    missing = [name for name in ("group", "unknown_before", "unknown") if name not in order.columns]
    if missing:
        msg = f"Expected the columns that `benchmark.rank_experiments` gives, found no {missing}."
        raise KeyError(msg)
    ax = new_axes(ax, (2.0 + 0.5 * len(order), 3.4))
    values = np.r_[order["unknown_before"].iloc[:1], order["unknown"]]
    places = np.arange(len(values))
    ax.plot(places, values, "o-", color=OKABE_ITO[0])
    names = ["now", *(str(name) for name in order["group"])]
    ax.set_xticks(places, names[: len(places)], rotation=45, ha="right", **AS_IS)
    ax.set_ylim(0, 1.05 * max(1.0, float(values.max(initial=0.0))))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylabel("responses not known")
    ax.set_xlabel("measured next, one after the other")
    return shown(ax, show)
