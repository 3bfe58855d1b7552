"""Scores of predicted cells against real ones: array functions, and wrappers for AnnData.

Every score is computed in the space that the caller hands over; the AnnData wrappers log-normalise counts first.
Nothing in here knows the model.
"""

from __future__ import annotations

from ._anndata import comparison_matrix, score_prediction
from ._array import (
    energy_distance,
    mse_means,
    pearson_change,
    responsive_genes,
    squared_pearson_means,
    squared_pearson_variances,
)
from ._matrix import log_normalize
from ._score import HIGHER_IS_BETTER, noise_ceiling, score_arrays
from ._skill import mean_skill, skill

__all__ = [
    "HIGHER_IS_BETTER",
    "comparison_matrix",
    "energy_distance",
    "log_normalize",
    "mean_skill",
    "mse_means",
    "noise_ceiling",
    "pearson_change",
    "responsive_genes",
    "score_arrays",
    "score_prediction",
    "skill",
    "squared_pearson_means",
    "squared_pearson_variances",
]
