"""Intervals of clipped skills: no wider than what clipping leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trvae_scvi.benchmark import holdout_skills, summarize
from trvae_scvi.benchmark._summary import _clipped_error


@pytest.mark.parametrize("mean", [-73.0, -1.5, -1.0, -0.2, 0.0, 0.7, 1.0, 4.0])
@pytest.mark.parametrize("std", [0.01, 0.3, 3.0])
def test_error_of_a_clipped_normal_variable(mean, std):
    drawn = np.clip(mean + std * np.random.default_rng(0).standard_normal(200_000), -1, 1)
    assert _clipped_error(np.array([mean]), np.array([std]))[0] == pytest.approx(drawn.std(), rel=0.02, abs=1e-4)


def test_no_error_and_no_value():
    found = _clipped_error(np.array([0.5, 1.0, np.nan, 0.5]), np.array([0.0, 0.0, np.nan, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 0.0, np.nan, np.nan])


def test_numbers_of_any_size():
    large = _clipped_error(np.array([-1e300, 1e300, 0.5, -1e250]), np.array([1e300, 1e200, 1e300, 0.0]))
    likely = 0.158655  # of a normal variable to be more than a standard deviation above its mean
    np.testing.assert_allclose(large, [2 * np.sqrt(likely * (1 - likely)), 0.0, 1.0, 0.0], atol=1e-3)


def test_a_method_far_below_has_an_interval_there():
    keys = [(group, method) for group in "abcdef" for method in ("no change", "mean shift", "bad", "noise ceiling")]
    table = pd.DataFrame(keys, columns=["group", "method"]).assign(target="drug", seed=0, genes="all", value=0.0)
    table["skill"] = table["method"].map({"no change": -1.2, "mean shift": 0.0, "bad": -60.0, "noise ceiling": 1.0})
    table["skill_std"] = table["method"].map({"no change": 0.2, "mean shift": 0.2, "bad": 5.0, "noise ceiling": 0.2})
    table = pd.concat([table.assign(metric=metric) for metric in ("mse_means", "mse_stds")], ignore_index=True)
    summary = summarize(table).set_index("method")
    assert (summary[["lower", "upper"]].abs() <= 1).all(axis=None)
    assert summary.loc["bad", "upper"] == pytest.approx(-1)
    assert summary.loc["mean shift", "lower"] < 0 < summary.loc["mean shift", "upper"]
    assert (holdout_skills(table).set_index("method").loc["bad", "skill_std"] < 1e-6).all()
