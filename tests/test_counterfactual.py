"""The marginal of every case, by simulation: x from the source's law must give x' from the target's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trvae_scvi._counterfactual import (
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


def test_input_is_not_changed_and_extremes_are_finite():
    rng = np.random.default_rng(6)
    x = np.array([[0.0, 5.0, 100.0, 0.0]])
    before = x.copy()
    mu_source, mu_target = np.array([[0.0, 0.0, 1e-12, 1e6]]), np.array([[1e5, 1.0, 1e3, 0.0]])
    for thetas in ((np.full(4, 1e-4), np.full(4, 1e-4)), (np.full(4, 1e-2), np.full(4, 1e4))):
        result = counterfactual_nb(x, mu_source, mu_target, *thetas, rng)
        assert np.isfinite(result).all()
        assert (result >= 0).all()
    np.testing.assert_array_equal(x, before)
