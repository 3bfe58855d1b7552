"""Tails against values of 60 digits, quantiles against the tails, draws against the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trvae_scvi._math._gamma import _log_tail, draw_log_rate, match_log_rate

# theta, u, whether the upper tail, its logarithm by numerical integration with mpmath at 60 digits
TAILS = [
    (0.0001, -5000.0, False, -0.500863321),
    (0.0001, -5000.0, True, -0.931422784),
    (0.0001, 2.0, True, -7.3184723),
    (0.0001, 15.9, True, -819.949045),
    (0.5, -2000.0, False, -1000.22579),
    (0.5, -1.0, False, -0.785618738),
    (0.5, 7.0, True, -552.04328),
    (2.0, -3.0, False, -5.37295895),
    (2.0, 6.2, True, -978.603921),
    (50.0, -1.0, False, -20.8290589),
    (50.0, -5.0, False, -203.206887),
    (50.0, 0.5, True, -9.94833318),
    (50.0, 3.0, True, -810.103495),
    (3000.0, -0.02, False, -1.97469458),
    (3000.0, 0.8, True, -1281.74881),
    (100000.0, 0.015, True, -13.8300292),
    (100000.0, -0.2, False, -1878.04319),
    (100000000.0, -2e-05, False, -0.865707923),
    (100000000.0, -0.0005, False, -15.0626647),  # SciPy's series ends too soon: -15.4895
    (100000000.0, 0.0006, True, -20.7406699),
    (100000000.0, 0.01, True, -5022.23763),
]
thetas = st.floats(-4.0, 8.0).map(lambda exponent: 10.0**exponent)


def log_tail(u, theta, upper):
    return _log_tail(*(np.array([value]) for value in (u, theta, upper)))[0]


@pytest.mark.parametrize(("theta", "u", "upper", "expected"), TAILS)
def test_tails(theta, u, upper, expected):
    # far out only the first terms are taken
    assert log_tail(u, theta, upper) == pytest.approx(expected, rel=1e-8, abs=0.0 if expected > -600.0 else 1e-3)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(thetas, thetas, st.floats(-1000.0, 1000.0), st.sampled_from([0.1, 1.0, 100.0]))
def test_the_quantile_is_kept(source, target, place, width):
    """At `place` of ever narrower scales: standard deviations, and what is far out in either tail."""
    u = np.array([min(place / width / np.sqrt(source), np.log1p(1e6 / source))])
    matched = match_log_rate(u, np.array([source]), np.array([target]))
    assert np.isfinite(matched).all()
    upper = log_tail(u[0], source, False) > np.log(0.5)
    kept = log_tail(u[0], source, upper)
    assert log_tail(matched[0], target, upper) == pytest.approx(kept, rel=1e-6, abs=1e-6)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(thetas, thetas)
def test_the_map_is_increasing_and_the_identity_for_one_theta(source, target):
    u = np.linspace(-110.0, 110.0, 111) / np.sqrt(source)
    u = u[u < np.log1p(1e6 / source)]
    matched = match_log_rate(u, np.full(len(u), source), np.full(len(u), target))
    width = np.maximum(1e-6 / np.sqrt(target), 1e-6 * np.abs(matched))
    assert (np.diff(matched) > -width[1:]).all()
    same = match_log_rate(u, np.full(len(u), source), np.full(len(u), source))
    np.testing.assert_allclose(same, u, rtol=1e-6, atol=1e-6 / np.sqrt(source))


@pytest.mark.parametrize("theta", [1e-4, 0.3, 1.0, 50.0, 1e4, 1e8])
def test_draws_without_a_count_to_go_by_have_the_prior_law(theta):
    n = 20_000
    u = draw_log_rate(np.full(n, theta), np.zeros(n), np.full(n, 1e-12), np.random.default_rng(0))
    assert np.isfinite(u).all()
    lower = np.exp(_log_tail(u, np.full(n, theta), np.zeros(n, bool)))
    assert stats.kstest(lower, "uniform").pvalue > 1e-3
