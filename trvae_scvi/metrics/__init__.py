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
from ._coexpression import coexpression_agreement
from ._de import de_genes, de_recall, de_table, direction_accuracy, responsive_genes
from ._de_metrics import de_jaccard, direction_fidelity, direction_reach, lfc_nmae
from ._discrimination import discrimination
from ._distance import energy_distance, mmd_rbf, wasserstein_genes
from ._matrix import log_normalize
from ._permutation import EnergyTest, energy_test
from ._score import HIGHER_IS_BETTER, METRICS, SKILL_METRICS, noise_ceiling, score_arrays
from ._skill import mean_skill, skill
from ._specificity import specific_gene_error, specific_genes
from ._unbiased import unbiased_capped_mse, unbiased_errors
from ._weights import de_weights, weighted_mse, weighted_r2_change

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "SKILL_METRICS",
    "EnergyTest",
    "coexpression_agreement",
    "comparison_matrix",
    "cosine_change",
    "de_genes",
    "de_jaccard",
    "de_recall",
    "de_table",
    "de_weights",
    "direction_accuracy",
    "direction_fidelity",
    "direction_reach",
    "discrimination",
    "energy_distance",
    "energy_test",
    "interval_coverage",
    "lfc_nmae",
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
    "unbiased_capped_mse",
    "unbiased_errors",
    "variance_ratio",
    "wasserstein_genes",
    "weighted_mse",
    "weighted_r2_change",
]
