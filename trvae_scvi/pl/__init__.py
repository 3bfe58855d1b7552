"""Plots of predictions and scores, with scanpy's conventions: pass `ax` to draw into, get the axes back.

Each plot draws a table that a public function computes; nothing is saved and no global setting is changed.
"""

from __future__ import annotations

from ._regression import reg_mean, reg_var, regression_fit, regression_frame
from ._response import response, response_frame
from ._scores import score_table, scores

__all__ = [
    "reg_mean",
    "reg_var",
    "regression_fit",
    "regression_frame",
    "response",
    "response_frame",
    "score_table",
    "scores",
]
