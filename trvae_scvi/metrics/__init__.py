"""Scores of predicted cells against real ones: array functions, and wrappers for AnnData.

Every score is computed in the space that the caller hands over; the AnnData wrappers log-normalise counts first.
Nothing in here knows the model.
"""

from __future__ import annotations

from ._anndata import comparison_matrix, score_prediction
from ._array import (
    cosine_change,
    mae_means,
    mse_means,
    pearson_change,
    r2_means,
    r2_variances,
    squared_pearson_means,
    squared_pearson_variances,
    variance_ratio,
)
from ._calibration import interval_coverage
from ._de import de_genes, de_recall, direction_accuracy, responsive_genes
from ._discrimination import discrimination
from ._distance import energy_distance, mmd_rbf, wasserstein_genes
from ._matrix import log_normalize
from ._score import HIGHER_IS_BETTER, METRICS, SKILL_METRICS, noise_ceiling, score_arrays
from ._skill import mean_skill, skill
from ._specificity import specific_gene_error, specific_genes

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "SKILL_METRICS",
    "comparison_matrix",
    "cosine_change",
    "de_genes",
    "de_recall",
    "direction_accuracy",
    "discrimination",
    "energy_distance",
    "interval_coverage",
    "log_normalize",
    "mae_means",
    "mean_skill",
    "mmd_rbf",
    "mse_means",
    "noise_ceiling",
    "pearson_change",
    "r2_means",
    "r2_variances",
    "responsive_genes",
    "score_arrays",
    "score_prediction",
    "skill",
    "specific_gene_error",
    "specific_genes",
    "squared_pearson_means",
    "squared_pearson_variances",
    "variance_ratio",
    "wasserstein_genes",
]
