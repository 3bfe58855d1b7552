"""Honest evaluation of predictions: groups held out, beside predictions without a network and the noise ceiling."""

from __future__ import annotations

from trvae_scvi._math._intervals import ModelError

from ._assessment import Assessment, assess
from ._baseline_methods import BASELINES, Method, baseline_predictions
from ._baselines import fold_change, mean_of_others, mean_shift, no_change, shrunk_shift
from ._changes import change_table
from ._comparison import compare_predictions
from ._expectation import VERDICTS
from ._experiments import cells_needed, rank_experiments
from ._holdout import HoldOut, Truth, hold_out
from ._interval_calibration import calibrate_intervals, coverage_table, fit_model_error
from ._linear_baselines import pca_shift, ridge_shift
from ._methods import LatentShiftMethod, PertpyScGenMethod, SCVIMethod, TRVAEMethod, TRVAETargetMethod
from ._model_card import model_card
from ._pairs import Pairs, hold_out_pairs
from ._report import write_report
from ._runner import leave_one_group_out
from ._summary import holdout_skills, metric_ranges, summarize
from ._target_baselines import TARGET_BASELINES, TargetHoldOut
from ._target_runner import leave_one_target_out

__all__ = [
    "BASELINES",
    "TARGET_BASELINES",
    "VERDICTS",
    "Assessment",
    "HoldOut",
    "LatentShiftMethod",
    "Method",
    "ModelError",
    "Pairs",
    "PertpyScGenMethod",
    "SCVIMethod",
    "TRVAEMethod",
    "TRVAETargetMethod",
    "TargetHoldOut",
    "Truth",
    "assess",
    "baseline_predictions",
    "calibrate_intervals",
    "cells_needed",
    "change_table",
    "compare_predictions",
    "coverage_table",
    "fit_model_error",
    "fold_change",
    "hold_out",
    "hold_out_pairs",
    "holdout_skills",
    "leave_one_group_out",
    "leave_one_target_out",
    "mean_of_others",
    "mean_shift",
    "metric_ranges",
    "model_card",
    "no_change",
    "pca_shift",
    "rank_experiments",
    "ridge_shift",
    "shrunk_shift",
    "summarize",
    "write_report",
]
