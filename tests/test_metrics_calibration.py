"""Coverage of intervals by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trvae_scvi import metrics as m

NAN = float("nan")


def test_coverage_by_hand_with_both_bounds_included():
    found = m.interval_coverage([0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 3.5, -1e-9])
    assert found == {"coverage": 0.5, "mean_width": 1.5, "n_left_out": 0}


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_calibrated_intervals_cover_as_often_as_they_say(level):
    rng = np.random.default_rng(0)
    centre, width = rng.normal(size=(100, 40)), rng.gamma(2.0, size=(100, 40))
    real = centre + width * rng.normal(size=centre.shape)
    half = width * stats.norm.ppf((1 + level) / 2)
    found = m.interval_coverage(centre - half, centre + half, real)
    assert found["coverage"] == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / real.size))
    assert found["mean_width"] == pytest.approx(2 * half.mean())
    assert m.interval_coverage(centre - half / 2, centre + half / 2, real)["coverage"] < level - 0.1


def test_what_is_not_finite_is_left_out_and_counted():
    lower = [0.0, NAN, 0.0, -np.inf, 0.0, 5.0]
    upper = [1.0, 1.0, NAN, 1.0, 1.0, 8.0]
    real = [0.5, 0.5, 0.5, 0.5, NAN, 9.0]
    assert m.interval_coverage(lower, upper, real) == {"coverage": 0.5, "mean_width": 2.0, "n_left_out": 4}


def test_undefined_if_nothing_is_left():
    for values in ([], [NAN, NAN]):
        found = m.interval_coverage(values, values, values)
        assert np.isnan(found["coverage"])
        assert np.isnan(found["mean_width"])
        assert found["n_left_out"] == len(values)


def test_columns_of_a_table_are_matched_by_position():
    frame = pd.DataFrame({"lower": [0.0, 10.0], "upper": [1.0, 11.0]}, index=["g0", "g1"])
    real = pd.Series([0.5, 10.5], index=["g1", "g0"])
    assert m.interval_coverage(frame["lower"], frame["upper"], real)["coverage"] == 1


def test_it_refuses():
    with pytest.raises(ValueError, match=r"same shape, found \(2,\), \(2,\), \(3,\)"):
        m.interval_coverage([0, 0], [1, 1], [0, 0, 0])
    with pytest.raises(ValueError, match="found 2 above 1. Swap"):
        m.interval_coverage([0, 2], [1, 1], [0, 0])


def test_the_score_of_intervals_is_least_for_the_true_quantiles():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=20_000)
    real = centre + rng.normal(size=centre.size)
    half = np.linspace(0.5, 4.0, 36)
    scores = [m.interval_score(centre - h, centre + h, real, level=0.9) for h in half]
    assert half[np.argmin(scores)] == pytest.approx(1.645, abs=0.1)
    np.testing.assert_allclose(m.interval_score([0.0, 0.0], [1.0, 1.0], [0.5, -0.1], level=0.8), (1.0 + 2.0) / 2)
    assert np.isnan(m.interval_score([np.nan], [1.0], [0.0]))
    with pytest.raises(ValueError, match="level"):
        m.interval_score([0], [1], [0], level=1.0)
    with pytest.raises(ValueError, match="shape"):
        m.interval_score([0, 0], [1, 1], [0, 0, 0])
