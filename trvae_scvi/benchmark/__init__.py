"""Honest evaluation of predictions: what is predicted without a network, to compare with."""

from __future__ import annotations

from ._baselines import baseline_predictions, mean_of_others, mean_shift, no_change

__all__ = ["baseline_predictions", "mean_of_others", "mean_shift", "no_change"]
