"""Plots of predictions and scores, with scanpy's conventions: pass `ax` to draw into, get the axes back.

Each plot draws a table that a public function computes; nothing is saved and no global setting is changed.
"""

from __future__ import annotations

from ._dose_response import dose_response, dose_response_frame
from ._experiment_order import experiments
from ._heatmap import score_heatmap, score_heatmap_frame
from ._history import training, training_frame
from ._latent import latent_umap, latent_umap_frame
from ._regression import reg_mean, reg_var, regression_fit, regression_frame
from ._response import response, response_frame
from ._scores import score_table, scores
from ._skill_intervals import skill_intervals
from ._violin import violin, violin_frame

__all__ = [
    "dose_response",
    "dose_response_frame",
    "experiments",
    "latent_umap",
    "latent_umap_frame",
    "reg_mean",
    "reg_var",
    "regression_fit",
    "regression_frame",
    "response",
    "response_frame",
    "score_heatmap",
    "score_heatmap_frame",
    "score_table",
    "scores",
    "skill_intervals",
    "training",
    "training_frame",
    "violin",
    "violin_frame",
]
