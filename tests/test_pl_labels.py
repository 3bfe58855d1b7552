"""Names next to points keep to their axes and off other texts."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.text import Text

from trvae_scvi.pl._labels import label_points


def test_labels_stay_within_the_axes_and_off_the_text_there():
    figure, ax = plt.subplots()
    points = np.array([[0.0, 0.5], [1.0, 0.5], [0.5, 1.0], [0.5, 0.0], [0.03, 0.94]])
    ax.scatter(*points.T)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    note = ax.text(0.03, 0.97, "two\nlines", transform=ax.transAxes, va="top")
    label_points(ax, points, ["LEFT-OF-IT", "RIGHT-OF-IT", "ABOVE", "BELOW", "NOTE"], points)
    figure.canvas.draw()
    frame = ax.get_window_extent()
    boxes = [Text.get_window_extent(text) for text in ax.texts if text is not note]
    assert len(boxes) == 5
    for box in boxes:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not box.count_overlaps([note.get_window_extent()])
    plt.close(figure)
