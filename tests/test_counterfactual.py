"""The marginal of every case, by simulation: x from the source's law must give x' from the target's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from trvae_scvi._math._counterfactual import (
    counterfactual_nb,
    counterfactual_normal,
    counterfactual_poisson,
    counterfactual_zinb,
)

N = 40_000
CASES = [(2.0, 0.5), (0.7, 3.0), (5.0, 4.9), (1e-3, 2.0), (3.0, 1e-3)]


def nb(mu, theta):
    return stats.nbinom(theta, theta / (theta + mu))


def column(value):
    return np.full((N, 1), float(value))


def assert_law(sample, pmf):
    """Chi-square test of counts against a probability mass function (fixed seeds: it cannot flake)."""
    sample = sample.ravel().astype(int)
    probabilities = np.array([pmf(k) for k in range(sample.max() + 30)])
    expected = N * np.append(probabilities, max(0.0, 1.0 - probabilities.sum()))
    observed = np.append(np.bincount(sample, minlength=len(probabilities)), 0)
    # merge rare values from above, so that the approximation holds
    edges = np.flatnonzero(np.cumsum(expected[::-1]) >= 10)[0]
    cut = len(expected) - edges - 1
    expected, observed = (np.append(v[:cut], v[cut:].sum()) for v in (expected, observed))
    expected, observed = expected[expected > 0], observed[expected > 0]
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(("mu_source", "mu_target"), CASES)
@pytest.mark.parametrize("theta", [0.3, 5.0])
def test_nb_with_one_theta(mu_source, mu_target, theta):
    rng = np.random.default_rng(0)
    x = nb(mu_source, theta).rvs((N, 1), random_state=rng).astype(np.float32)
    result = counterfactual_nb(x, column(mu_source), column(mu_target), np.array([theta]), np.array([theta]), rng)
    assert_law(result, nb(mu_target, theta).pmf)
    assert result.dtype == np.float32


@pytest.mark.parametrize(("mu_source", "mu_target"), CASES)
@pytest.mark.parametrize(("theta_source", "theta_target"), [(0.3, 5.0), (5.0, 0.3)])
def test_nb_with_two_thetas(mu_source, mu_target, theta_source, theta_target):
    rng = np.random.default_rng(1)
    x = nb(mu_source, theta_source).rvs((N, 1), random_state=rng)
    thetas = column(theta_source), column(theta_target)
    result = counterfactual_nb(x, column(mu_source), column(mu_target), *thetas, rng)
    assert_law(result, nb(mu_target, theta_target).pmf)


@pytest.mark.parametrize(("mu_source", "mu_target"), CASES)
def test_poisson(mu_source, mu_target):
    rng = np.random.default_rng(2)
    x = rng.poisson(mu_source, (N, 1))
    result = counterfactual_poisson(x, column(mu_source), column(mu_target), rng)
    assert_law(result, stats.poisson(mu_target).pmf)


@pytest.mark.parametrize(("mu_source", "mu_target"), [(2.0, 0.5), (0.7, 3.0)])
@pytest.mark.parametrize(("pi_source", "pi_target"), [(0.6, 0.2), (0.2, 0.6), (0.0, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize("theta_target", [1.5, 4.0])
def test_zinb(mu_source, mu_target, pi_source, pi_target, theta_target):
    rng = np.random.default_rng(3)
    x = nb(mu_source, 1.5).rvs((N, 1), random_state=rng) * (rng.random((N, 1)) >= pi_source)
    result = counterfactual_zinb(
        x,
        column(mu_source),
        column(mu_target),
        column(1.5),
        column(theta_target),
        column(pi_source),
        column(pi_target),
        rng,
    )
    target = nb(mu_target, theta_target)
    assert_law(result, lambda k: pi_target * (k == 0) + (1 - pi_target) * target.pmf(k))


def test_equal_means_return_the_input():
    rng = np.random.default_rng(4)
    x = rng.poisson(2.0, (50, 20)).astype(np.float32)
    mu, pi = rng.gamma(2.0, 1.0, (50, 20)), rng.random((50, 20))
    theta = rng.gamma(2.0, 1.0, 20)
    for result in (
        counterfactual_nb(x, mu, mu, theta, theta, rng),
        counterfactual_poisson(x, mu, mu, rng),
        counterfactual_zinb(x, mu, mu, theta, theta, pi, pi, rng),
        counterfactual_normal(x, mu, mu, nonnegative=True),
    ):
        np.testing.assert_array_equal(result, x)


def test_the_cell_is_kept():
    """What the mean does not explain stays: counts before and after go together, unlike fresh draws."""
    rng = np.random.default_rng(5)
    x = nb(20.0, 1.0).rvs((N, 1), random_state=rng)
    result = counterfactual_nb(x, column(20.0), column(40.0), np.ones(1), np.ones(1), rng)
    assert np.corrcoef(x.ravel(), result.ravel())[0, 1] > 0.9
    down = counterfactual_nb(x, column(20.0), column(10.0), np.ones(1), np.ones(1), rng)
    assert (down <= x).all()
    assert (result >= x).all()


def test_normal():
    x = np.array([[0.0, 2.0, 1.0]])
    source, target = np.array([[1.0, 1.0, 1.0]]), np.array([[0.0, 2.5, 1.0]])
    np.testing.assert_allclose(counterfactual_normal(x, source, target, nonnegative=False), [[-1.0, 3.5, 1.0]])
    np.testing.assert_allclose(counterfactual_normal(x, source, target, nonnegative=True), [[0.0, 3.5, 1.0]])


def powers(low, high):
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


counts = st.one_of(st.just(0.0), powers(0.0, 6.0).map(np.rint))
means, dispersions = powers(-12.0, 6.0), powers(-4.0, 8.0)
dtypes = st.sampled_from([np.float32, np.float64])
often = settings(deadline=None, derandomize=True, max_examples=200)
seldom = settings(deadline=None, derandomize=True, max_examples=40)


def most(x, mu_source, mu_target, theta_source, theta_target):
    """What x' exceeds with a probability of less than 1e-9, from the Chernoff bounds of both Gamma laws."""
    size = theta_source + x
    y = (size + 8.0 * np.sqrt(size) + 30.0) / (1.0 + mu_source / theta_source)
    if theta_source == theta_target:
        rate = y * mu_target / theta_target
    else:
        exponent = y + np.log(2.0 * (1.0 + y) * max(1.0, 1.0 / theta_source))  # Q_s(y) >= exp(-exponent)
        rate = (2.0 * exponent + 1.4 * theta_target) * mu_target / theta_target
    return x + min(rate + 8.0 * np.sqrt(rate) + 30.0, 1.01e15)


@often
@given(counts, means, means, dispersions, dispersions, st.booleans(), dtypes)
@example(1500.0, 1.0, 1.5, 2.0, 3.0, False, np.float64)
@example(1500.0, 1.0, 1.5, 2.0, 3.0, False, np.float32)
@example(100.0, 1e-12, 1e3, 1e-2, 1e4, False, np.float64)
@example(1e6, 1e-12, 1e6, 1e8, 1e-4, False, np.float32)
def test_counts_are_whole_and_bounded(x, mu_source, mu_target, theta_source, theta_target, one, dtype):
    values = (x, mu_source, mu_target, theta_source, theta_source if one else theta_target)
    arrays = [np.full((20, 1), value, dtype) for value in values]
    result = counterfactual_nb(*arrays, np.random.default_rng(0))
    assert result.dtype == dtype
    assert (result == np.rint(result)).all()
    assert (result >= 0).all()
    assert (result <= most(*(float(a[0, 0]) for a in arrays))).all()
    pi = np.full((20, 1), 0.5, dtype)
    inflated = counterfactual_zinb(*arrays, pi, pi, np.random.default_rng(0))
    assert (inflated <= 2.0 * most(*(float(a[0, 0]) for a in arrays)) + 40.0 * mu_target / values[4]).all()
    assert (counterfactual_poisson(*arrays[:3], np.random.default_rng(0)) >= 0).all()


@often
@given(counts, means, dispersions, st.floats(0.0, 1.0), dtypes)
def test_equal_laws_return_the_input(x, mu, theta, pi, dtype):
    x, mu, theta, pi = (np.full((20, 1), value, dtype) for value in (x, mu, theta, pi))
    rng = np.random.default_rng(0)
    for result in (
        counterfactual_nb(x, mu, mu, theta, theta, rng),
        counterfactual_poisson(x, mu, mu, rng),
        counterfactual_zinb(x, mu, mu, theta, theta, pi, pi, rng),
    ):
        np.testing.assert_array_equal(result, x)


@seldom
@given(counts, powers(-6.0, 4.0), st.lists(powers(-6.0, 4.0), min_size=2, max_size=2), powers(-2.0, 8.0))
def test_the_expected_count_grows_with_the_target_mean(x, mu_source, mu_targets, theta):
    """With one theta it is known: r x below r = 1, and x + (r - 1)(theta + x) / (theta / mu + 1) above."""
    n, found = 4000, []
    arrays = [np.full((n, 1), value) for value in (x, mu_source)]
    for mu_target in sorted(mu_targets):
        target = np.full((n, 1), mu_target)
        drawn = counterfactual_nb(*arrays, target, np.array([theta]), np.array([theta]), np.random.default_rng(0))
        r = mu_target / mu_source
        expected = r * x if r < 1.0 else x + (r - 1.0) * (theta + x) / (theta / mu_source + 1.0)
        variance = (1.0 - r) * r * x if r < 1.0 else expected - x + (expected - x) ** 2 / (theta + x)
        assert abs(drawn.mean() - expected) <= 5.0 * np.sqrt(variance / n) + 30.0 / n
        found.append(expected)
    assert found[0] <= found[1]


@seldom
@given(counts, powers(-6.0, 4.0), powers(-6.0, 4.0), powers(-2.0, 8.0), powers(-2.0, 8.0))
def test_the_expected_count_grows_with_the_target_mean_with_two_thetas(x, mu_source, mu_target, source, target):
    arrays = [np.full((4000, 1), value) for value in (x, mu_source)]
    thetas = np.array([source]), np.array([target])
    low, high = (
        counterfactual_nb(*arrays, np.full((4000, 1), mu), *thetas, np.random.default_rng(0))
        for mu in (mu_target, 1.5 * mu_target)
    )
    assert low.mean() <= high.mean() + 5.0 * np.sqrt((low.var() + high.var()) / 4000) + 30.0 / 4000


@pytest.mark.parametrize(
    ("theta_source", "theta_target", "mu_source", "mu_target"),
    [
        (1e-4, 100.0, 2.0, 3.0),
        (1e-4, 100.0, 30.0, 4.0),
        (1e-2, 1e8, 30.0, 4.0),
        (1e8, 0.2, 200.0, 500.0),
        (100.0, 1e-2, 2.0, 3.0),
        (1e5, 2e6, 200.0, 5e3),
        (3e3, 3.001e3, 30.0, 4.0),
        (0.5, 0.4, 200.0, 500.0),
    ],
)
def test_laws_of_extreme_thetas_and_their_tails(theta_source, theta_target, mu_source, mu_target):
    n, rng = 100_000, np.random.default_rng(7)
    rate = np.full((n, 1), mu_source / theta_source) * rng.gamma(theta_source, size=(n, 1))
    x = rng.poisson(rate).astype(np.float64)
    arrays = [np.full((n, 1), value) for value in (mu_source, mu_target, theta_source, theta_target)]
    result = counterfactual_nb(x, *arrays, rng).ravel()
    law = nb(mu_target, theta_target)
    levels = np.concatenate([[1e-4, 1e-3, 0.01], np.linspace(0.05, 0.95, 19), [0.99, 0.999, 0.9999]])
    edges = np.unique(law.ppf(levels))
    expected = n * np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, result), minlength=len(expected))
    kept = expected > 5
    assert stats.chisquare(observed[kept], expected[kept] * observed[kept].sum() / expected[kept].sum()).pvalue > 1e-3
    assert observed[~kept].sum() <= 30


def test_an_outlier_remains_one():
    """A count that its mean does not explain at all: theta and mean change it by a little, not to 1e15."""
    x = np.full((1000, 1), 1500.0)
    thetas = np.array([2.0]), np.array([3.0])
    result = counterfactual_nb(x, column(1.0)[:1000], column(1.5)[:1000], *thetas, np.random.default_rng(8))
    # the 1 - e^-y quantile of Gamma(3) is near y + log(y / 2) where that of Gamma(2) is y = 1000.7
    assert result.mean() == pytest.approx(1500.0 + (1000.7 + np.log(500.0)) * 0.5 - 500.3, abs=1.0)


def test_counts_beside_whole_numbers_are_rounded():
    """Counts that were recovered from logarithms: 2.9999999 is 3, also where it is thinned."""
    whole = np.repeat(np.arange(6.0), 200)[:, None]
    mu_source, mu_target = np.full_like(whole, 2.0), np.full_like(whole, 1.0)
    theta, other, pi = np.array([3.0]), np.array([1.5]), np.full_like(whole, 0.3)
    for dtype, error in ((np.float32, 2e-7), (np.float64, 1e-9)):
        beside = (whole * (1.0 - error)).astype(dtype)
        assert (beside != whole)[whole > 0].all()
        for function, parameters in (
            (counterfactual_nb, (theta, theta)),
            (counterfactual_nb, (theta, other)),
            (counterfactual_poisson, ()),
            (counterfactual_zinb, (theta, theta, pi, pi)),
        ):
            given, expected = (
                function(x, mu_source, mu_target, *parameters, np.random.default_rng(9))
                for x in (beside, whole.astype(dtype))
            )
            np.testing.assert_array_equal(given, expected)


def test_input_is_not_changed_and_extremes_are_finite():
    rng = np.random.default_rng(6)
    x = np.array([[0.0, 5.0, 5000.0, 0.0]])
    before = x.copy()
    mu_source, mu_target = np.array([[0.0, 0.0, 1e-12, 1e6]]), np.array([[1e5, 1.0, 1e3, 0.0]])
    for thetas in ((np.full(4, 1e-4), np.full(4, 1e-4)), (np.full(4, 1e-2), np.full(4, 1e4))):
        result = counterfactual_nb(x, mu_source, mu_target, *thetas, rng)
        assert (result >= 0).all()
        assert result[0, 3] == 0
    # the last: two thetas. y = 5000 of Gamma(0.01) is as far out as 2.4 times the mean of Gamma(1e4)
    assert (result[0, 1:3] < [50.0, 5000.0 + 3e3]).all()
    np.testing.assert_array_equal(x, before)


def test_what_single_precision_or_integers_cannot_hold_is_bounded():
    rng = np.random.default_rng(10)
    x = np.full((50, 1), 1000, np.int32)
    mu_source, mu_target = np.full((50, 1), 1e-3), np.full((50, 1), 1e6)
    for thetas in ((np.array([1e-3]), np.array([1e-3])), (np.array([1.0]), np.array([1e-3]))):
        result = counterfactual_nb(x, mu_source, mu_target, *thetas, rng)
        assert (result >= 1000).all()
        assert result.dtype == np.int32
    large, none, endless = (np.full((50, 1), v, np.float32) for v in (1e30, 0.0, np.inf))
    for theta in (none, endless):
        result = counterfactual_nb(x.astype(np.float32), large, large * 2, theta, theta, rng)
        assert np.isfinite(result).all()
    # infinite theta is the Poisson law
    more = np.full((50, 1), 5.0, np.float32), np.full((50, 1), 900.0, np.float32)
    assert counterfactual_nb(none, *more, endless, endless, rng).mean() == pytest.approx(895.0, abs=30.0)
