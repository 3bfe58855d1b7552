"""Scores of predicted cells against real ones: array functions, and wrappers for AnnData.

Every score is computed in the space that the caller hands over; the AnnData wrappers log-normalise counts first.
Nothing in here knows the model.
"""

from __future__ import annotations

from ._anndata import comparison_matrix, score_prediction
from ._array import (
    mse_means,
    mse_stds,
    partial_pearson,
    pearson_change,
    pearson_residual,
    squared_pearson_means,
    squared_pearson_variances,
)
from ._calibration import interval_coverage
from ._de import de_genes, responsive_genes
from ._discrimination import discrimination
from ._distance import energy_distance
from ._matrix import log_normalize
from ._score import noise_ceiling, score_arrays
from ._scorer import HIGHER_IS_BETTER, METRICS, SKILL_METRICS
from ._skill import headline_skill, skill

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "SKILL_METRICS",
    "comparison_matrix",
    "de_genes",
    "discrimination",
    "energy_distance",
    "headline_skill",
    "interval_coverage",
    "log_normalize",
    "mse_means",
    "mse_stds",
    "noise_ceiling",
    "partial_pearson",
    "pearson_change",
    "pearson_residual",
    "responsive_genes",
    "score_arrays",
    "score_prediction",
    "skill",
    "squared_pearson_means",
    "squared_pearson_variances",
]
