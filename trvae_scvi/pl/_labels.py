"""Names next to points, placed so that they cover neither each other nor points. Knows no data but the points."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ._style import AS_IS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["label_points"]

_FONT_SIZE = 6.5
# Width of an average capital and height of a line, in units of the font size; genes are named in capitals.
_CHARACTER, _LINE = 0.7, 1.25
_STEPS = 12  # lines up or down, and half as many steps of a line's height aside, that are tried
_RADIUS = 2.0  # of points, in points


def label_points(ax: Axes, points: np.ndarray, names: Sequence[str], others: np.ndarray) -> None:
    """Write a name next to each point, further away and with a thin line where a text or a point is in the way.

    A library for this (adjustText) was tried: in a crowd it left names on points, and on each other.

    Parameters
    ----------
    ax
        Where to write; free places are looked for at its present size and with what it holds, so draw the points first.
    points
        `n x 2` array of positions in data coordinates. Earlier points have the first choice.
    names
        One name per point.
    others
        `m x 2` array of all positions that are not to be covered.
    """
    ax.autoscale_view()  # otherwise put off until the figure is drawn
    scale = 72 / ax.figure.dpi
    centres = ax.transData.transform(points) * scale
    frame = ax.get_window_extent().get_points() * scale
    taken = [text.get_window_extent().get_points() * scale for text in ax.texts]
    crowd = ax.transData.transform(others) * scale
    for point, centre, name in zip(points, centres, names, strict=True):
        size = np.array([_CHARACTER * len(name), _LINE]) * _FONT_SIZE
        offset, box = _place(centre, size, frame, taken, crowd)
        taken.append(box)
        arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            name,
            tuple(point),
            xytext=tuple(offset),
            textcoords="offset points",
            fontsize=_FONT_SIZE,
            ha="left",
            va="bottom",
            arrowprops=arrow if _distance(offset, size) > 2 * _FONT_SIZE else None,
            **AS_IS,
        )


def _distance(offset: np.ndarray, size: np.ndarray) -> float:
    """From the point to the nearest edge of a text."""
    return float(np.linalg.norm(np.maximum(np.maximum(offset, -offset - size), 0.0)))


def _place(
    centre: np.ndarray, size: np.ndarray, frame: np.ndarray, taken: Sequence[np.ndarray], crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and box (lower left, upper right) in points: in the frame, on no box taken, and if possible on no point.

    The nearest such place; where there is no room at all, one on top of what is there.
    """
    line = _LINE * _FONT_SIZE
    asides = [x for k in range(_STEPS // 2) for x in (3.0 + k * line, -3.0 - size[0] - k * line)]
    heights = [y for k in range(_STEPS) for y in (2.0 + k * line, -2.0 - size[1] - k * line)]
    offsets = sorted((np.array(place) for place in product(asides, heights)), key=lambda at: _distance(at, size))
    free = []
    for offset in offsets:
        box = np.stack([centre + offset, centre + offset + size])
        inside = (frame[0] <= box[0]).all() and (box[1] <= frame[1]).all()
        if inside and not any((box[0] < other[1]).all() and (other[0] < box[1]).all() for other in taken):
            if not ((box[0] - _RADIUS < crowd) & (crowd < box[1] + _RADIUS)).all(axis=1).any():
                return offset, box
            free.append((offset, box))
    return free[0] if free else (offsets[0], np.stack([centre + offsets[0], centre + offsets[0] + size]))
