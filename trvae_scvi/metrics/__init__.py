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
from ._calibration import interval_coverage, interval_score
from ._coexpression import coexpression_agreement
from ._de import de_genes, de_table, responsive_genes
from ._de_metrics import de_jaccard, direction_fidelity, direction_reach, lfc_nmae
from ._discrimination import discrimination
from ._distance import energy_distance
from ._matrix import log_normalize
from ._permutation import EnergyTest, energy_test
from ._score import noise_ceiling, score_arrays
from ._scorer import HIGHER_IS_BETTER, METRICS, SKILL_METRICS
from ._skill import headline_skill, skill
from ._unbiased import unbiased_capped_mse, unbiased_errors
from ._weights import de_weights, weighted_mse, weighted_r2_change

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "SKILL_METRICS",
    "EnergyTest",
    "coexpression_agreement",
    "comparison_matrix",
    "de_genes",
    "de_jaccard",
    "de_table",
    "de_weights",
    "direction_fidelity",
    "direction_reach",
    "discrimination",
    "energy_distance",
    "energy_test",
    "headline_skill",
    "interval_coverage",
    "interval_score",
    "lfc_nmae",
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
    "unbiased_capped_mse",
    "unbiased_errors",
    "weighted_mse",
    "weighted_r2_change",
]
