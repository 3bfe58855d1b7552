"""What the plots share: colours, names written as they are, the conventions for `ax` and `show`. Knows no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["AS_IS", "OKABE_ITO", "named_legend", "new_axes", "shown"]

Drawn = TypeVar("Drawn")

#: For every text with a name of the user's: dollar signs in it are no formula.
AS_IS: dict[str, Any] = {"parse_math": False}

#: The palette of Okabe & Ito 2008 ("Color Universal Design"), safe for colour-blind readers; yellow, which is faint on
#: white, and black last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def new_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return `ax`, or the axes of a new figure of `figsize` inches if there is none."""
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def named_legend(ax: Axes, handles: Sequence[Any], names: Sequence[str], **look: Any) -> None:
    """Add a legend with names as they are, also those that begin with "_", which matplotlib leaves out."""
    legend = ax.legend(list(handles), ["name"] * len(names), frameon=False, **look)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **AS_IS)


def shown(axes: Drawn, show: bool | None) -> Drawn:
    """Give the axes, after showing the open figures if `show` is True. Notebooks show them anyway; scripts ask."""
    if show:
        plt.show()
    return axes
