"""Prediction intervals: their width by hand, and that calibration finds the error that made the data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trvae_scvi._math._intervals import ModelError, calibrate, margin, standard_error


def populations(error, n_populations=40, n=2000, n_responsive=200, seed=0):
    """Predicted changes, and real ones that miss them by the model's error and by sampling."""
    rng = np.random.default_rng(seed)
    change, sampling, real, responsive = [], [], [], []
    for _ in range(n_populations):
        c = rng.normal(0.0, 0.02, n)
        c[:n_responsive] = rng.normal(0.0, 2.0, n_responsive)
        s = rng.uniform(0.01, 0.03, n)
        noise = np.hypot(s, error.floor + error.share * np.abs(c))
        change.append(c)
        sampling.append(s)
        real.append(c + rng.normal(size=n) * noise)
        responsive.append(np.arange(n) < n_responsive)
    return change, sampling, real, responsive


def test_standard_error_is_that_of_a_difference_of_two_means():
    rng = np.random.default_rng(0)
    means = rng.normal(0.0, 2.0, (4000, 30)).mean(1) - rng.normal(0.0, 2.0, (4000, 50)).mean(1)
    assert standard_error(np.array(4.0), 30, 50) == pytest.approx(means.std(), rel=0.05)


def test_margin_by_hand():
    half = margin(np.array([0.0, -2.0]), np.array([0.3, 0.4]), ModelError(0.4, 0.1), level=0.95)
    np.testing.assert_allclose(half, stats.norm.ppf(0.975) * np.array([0.5, np.hypot(0.4, 0.6)]))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_calibration_finds_the_error_that_made_the_data(level):
    error = ModelError(0.05, 0.3)
    found = calibrate(*populations(error), level=level)
    np.testing.assert_allclose(found, error, rtol=0.1)


def test_calibrated_intervals_cover_populations_not_calibrated_on():
    # the real error is not normal and not of the assumed form: coverage at the level has to hold nevertheless
    def heavy(seed):
        change, sampling, _, responsive = populations(ModelError(0.0, 0.0), seed=seed)
        rng = np.random.default_rng(seed + 100)
        real = [c + rng.standard_t(3, c.size) * (0.03 + 0.2 * np.sqrt(np.abs(c))) for c in change]
        return change, sampling, real, responsive

    error = calibrate(*heavy(1), level=0.9)
    change, sampling, real, responsive = heavy(2)
    for masks in (responsive, [np.ones(2000, bool)] * len(change)):
        inside = [
            (np.abs(r - c) <= margin(c, s, error, 0.9))[mask].mean()
            for c, s, r, mask in zip(change, sampling, real, masks, strict=True)
        ]
        assert 0.88 < np.mean(inside) < 0.92


def test_nothing_is_added_where_sampling_covers_enough():
    change, sampling, real, responsive = populations(ModelError(0.0, 0.0))
    wide = [10.0 * s for s in sampling]
    assert calibrate(change, wide, real, responsive, level=0.9) == ModelError(0.0, 0.0)


def test_responsive_variables_are_covered_where_their_predicted_changes_say_nothing():
    # all are predicted to change by next to nothing, and a few do: no share of a change covers these
    rng = np.random.default_rng(0)
    responsive = np.arange(1000) < 100
    change = [0.01 * rng.standard_normal(1000) for _ in range(2)]
    sampling = [np.full(1000, 0.05) for _ in change]
    real = [c + 0.05 * rng.standard_normal(1000) + responsive * rng.normal(0.0, 0.5, 1000) for c in change]
    error = calibrate(change, sampling, real, [responsive, responsive], level=0.9)
    inside = [np.abs(r - c) <= margin(c, s, error, 0.9) for c, s, r in zip(change, sampling, real, strict=True)]
    assert 0.9 <= np.mean([values[responsive].mean() for values in inside]) < 0.93
    assert error.share <= 2.0  # not a bound of the search, with intervals that say nothing
