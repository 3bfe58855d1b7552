"""Names next to points, placed so that they do not cover each other. Knows no data but the points to name."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ._style import AS_IS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

__all__ = ["label_points"]

_FONT_SIZE = 6.5
# Width of an average capital and height of a line, in units of the font size; genes are named in capitals.
_CHARACTER, _LINE = 0.7, 1.25


def label_points(ax: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Write a name next to each point, further away and with a thin line where another text is in the way.

    Parameters
    ----------
    ax
        Where to write; free places are looked for at its present size and with what it holds, so draw the points first.
    points
        `n x 2` array of positions in data coordinates. Earlier points have the first choice.
    names
        One name per point.
    """
    ax.autoscale_view()  # otherwise put off until the figure is drawn
    scale = 72 / ax.figure.dpi
    centres = ax.transData.transform(points) * scale
    frame = ax.get_window_extent().get_points() * scale
    taken = [text.get_window_extent().get_points() * scale for text in ax.texts]
    for point, centre, name in zip(points, centres, names, strict=True):
        size = np.array([_CHARACTER * len(name), _LINE]) * _FONT_SIZE
        offset, box = next(_free_places(centre, size, frame, taken))
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
            arrowprops=arrow if np.abs(offset[1]) > 2 * _FONT_SIZE else None,
            **AS_IS,
        )


def _free_places(
    centre: np.ndarray, size: np.ndarray, frame: np.ndarray, taken: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield offsets and boxes (lower left, upper right) in points, nearest first, in the frame and on no box taken."""
    sides = {"right": 3.0, "left": -3.0 - size[0]}
    for step, side, up in product(range(12), sides, (1, -1)):
        height = 2.0 + step * size[1]
        offset = np.array([sides[side], height if up == 1 else -height - size[1]])
        box = np.stack([centre + offset, centre + offset + size])
        inside = (frame[0] <= box[0]).all() and (box[1] <= frame[1]).all()
        if inside and not any((box[0] < other[1]).all() and (other[0] < box[1]).all() for other in taken):
            yield offset, box
    # No room at all: better written on top of each other than left out.
    offset = np.array([3.0, 2.0])
    yield offset, np.stack([centre + offset, centre + offset + size])
