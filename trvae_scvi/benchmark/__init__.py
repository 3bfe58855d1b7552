"""Honest evaluation of predictions: what is predicted without a network, to compare with."""

from __future__ import annotations

from ._baselines import baseline_predictions, mean_of_others, mean_shift, no_change
from ._comparison import compare_predictions

__all__ = ["baseline_predictions", "compare_predictions", "mean_of_others", "mean_shift", "no_change"]
