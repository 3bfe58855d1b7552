from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from trvae_scvi._math._log_densities import _log_gamma_difference, log_nb, log_normal, log_poisson, log_zinb


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(30, 12, generator=generator) * 3, generator=generator).double()
    x[0] = 0  # a row without any count
    mu = torch.rand(30, 12, generator=generator, dtype=torch.float64) * 5 + 1e-3
    theta = torch.rand(30, 12, generator=generator, dtype=torch.float64) * 4 + 1e-2
    logits = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    return x, mu, theta, logits


def with_gradients(function, *parameters):
    parameters = [p.clone().requires_grad_(True) for p in parameters]
    value = function(*parameters)
    weights = torch.linspace(0.5, 2.0, len(value), dtype=value.dtype)
    return value.detach(), torch.autograd.grad((weights * value).sum(), parameters)


@pytest.mark.parametrize("per_gene", [True, False])
def test_nb(cells, per_gene):
    x, mu, theta, _ = cells
    theta = theta[0] if per_gene else theta
    value, grads = with_gradients(lambda m, t: log_nb(x, m, t), mu, theta)
    expected, expected_grads = with_gradients(
        lambda m, t: NegativeBinomial(mu=m, theta=t).log_prob(x).sum(-1), mu, theta
    )
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("per_gene", [True, False])
def test_zinb(cells, per_gene):
    x, mu, theta, logits = cells
    theta = theta[0] if per_gene else theta
    value, grads = with_gradients(lambda m, t, z: log_zinb(x, m, t, z), mu, theta, logits)
    expected, expected_grads = with_gradients(
        lambda m, t, z: ZeroInflatedNegativeBinomial(mu=m, theta=t, zi_logits=z).log_prob(x).sum(-1), mu, theta, logits
    )
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-8)


def test_nb_sums_to_one(cells):
    _, mu, theta, _ = cells
    x = torch.arange(400.0, dtype=torch.float64)[:, None]
    log_p = log_nb(x, mu[:1, :1].expand(400, 1), theta[0, :1] + 1.0)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_poisson(cells):
    x, mu, _, _ = cells
    torch.testing.assert_close(log_poisson(x, mu), Poisson(mu).log_prob(x).sum(-1), rtol=1e-6, atol=1e-6)


def test_normal(cells):
    x, mu, _, _ = cells
    expected = torch.distributions.Normal(mu, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(log_normal(x, mu), expected)
    assert float(log_normal(x, x)[0]) == pytest.approx(-6 * math.log(2 * math.pi))


def test_float32_with_a_mean_of_zero_is_finite():
    x = torch.tensor([[0.0, 3.0]])
    mu = torch.tensor([[0.0, 0.0]])
    theta = torch.tensor([1e-4, 1e4])
    assert torch.isfinite(log_nb(x, mu, theta)).all()
    assert torch.isfinite(log_zinb(x, mu, theta, torch.zeros(1, 2))).all()
    assert torch.isfinite(log_poisson(x, mu)).all()


THETAS = [1e-4, 1e-2, 0.5, 3.0, 7.9, 8.1, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8]
EPS = 1e-8  # the guard of scvi-tools, which is part of the definition


@pytest.fixture(scope="module")
def grid():
    """Counts, means, inverse dispersions and logits of extra zeros, one combination a row, in single precision."""
    counts = [0.0, 1.0, 2.0, 3.0, 16.0, 17.0, 100.0, 1e4, 1e6]
    values = (counts, [1e-12, 1e-6, 1e-3, 0.1, 3.0, 50.0, 1e4, 1e6], THETAS, [-80.0, -10.0, 0.0, 3.0, 80.0])
    return [torch.tensor(v.reshape(-1, 1), dtype=torch.float32) for v in np.meshgrid(*values, indexing="ij")]


def expected_nb(x, mu, theta):
    """Value and derivatives by the mean and the inverse dispersion, in double precision."""
    r = mu / (theta + EPS)
    rising = special.gammaln(x + theta) - special.gammaln(theta)
    odds = np.log((mu + EPS) / (theta + EPS)) - np.log1p(r)
    value = rising - special.gammaln(x + 1.0) + x * odds - theta * np.log1p(r)
    guard = theta / (theta + EPS)
    by_mu = -guard / (1.0 + r) + x * (1.0 / (mu + EPS) - 1.0 / (theta + EPS + mu))
    slope = special.digamma(x + theta) - special.digamma(theta)
    by_theta = guard * r / (1.0 + r) - np.log1p(r) + slope - x / (theta + EPS + mu)
    return value, by_mu, by_theta


def scales(x, mu, theta):
    """Size of the terms that make up a value and its derivatives by log mean and log inverse dispersion."""
    dense = theta * np.log1p(mu / theta)
    logs = 1.0 + np.abs(np.log(mu + EPS)) + np.log1p(theta + x)
    return x * logs + dense + 1.0, x + dense + 1.0, theta * np.log1p(x / theta) + x * theta / (theta + mu) + dense + 1.0


def assert_close(found, expected, size):
    """Within 5e-7, eight units of single precision, of the size."""
    found, expected, size = (np.asarray(v).ravel() for v in (found, expected, size))
    assert (np.abs(found - expected) <= 5e-7 * size).all()


def check(function, parameters, expected, sizes):
    value, grads = with_gradients(function, *parameters)
    weights = np.linspace(0.5, 2.0, len(value))[:, None]  # those of `with_gradients`
    assert_close(value, expected[0], sizes[0])
    for parameter, grad, of_expected, size in zip(parameters, grads, expected[1:], sizes[1:], strict=True):
        scale = parameter.double().numpy() if (parameter > 0).all() else 1.0  # by the logarithm of what is positive
        assert_close(scale * grad.double().numpy() / weights, scale * of_expected, size)


def test_nb_of_any_size(grid):
    x, mu, theta, _ = grid
    wide = [v.double().numpy() for v in (x, mu, theta)]
    check(lambda m, t: log_nb(x, m, t), (mu, theta), expected_nb(*wide), scales(*wide))


@pytest.mark.parametrize("theta", THETAS)
def test_nb_of_any_size_with_a_theta_per_gene(grid, theta):
    x, mu = (v[grid[2].squeeze(1) == torch.tensor(theta)] for v in grid[:2])
    single = torch.tensor([theta])
    wide = [v.double().numpy() for v in (x, mu, single.expand(len(x), 1))]
    expected, sizes = expected_nb(*wide), scales(*wide)
    assert_close(log_nb(x, mu, single), expected[0], sizes[0])
    for row in range(0, len(x), 7):
        parameter = single.clone().requires_grad_()
        (grad,) = torch.autograd.grad(log_nb(x[row : row + 1], mu[row : row + 1], parameter).sum(), parameter)
        assert_close(theta * grad.double(), theta * expected[2][row], sizes[2][row])


def test_zinb_of_any_size(grid):
    x, mu, theta, logits = grid
    wide = [v.double().numpy() for v in (x, mu, theta)]
    zi = logits.double().numpy()
    value, by_mu, by_theta = expected_nb(*wide)
    zero = wide[0] == 0
    log_extra, log_other = -np.logaddexp(0.0, -zi), -np.logaddexp(0.0, zi)
    other = np.where(zero, special.expit(value - zi), 1.0)  # that it is no extra zero
    by_logits = np.where(zero, special.expit(-zi) - other, -special.expit(zi))
    expected = np.where(zero, np.logaddexp(log_extra, log_other + value), log_other + value)
    of_value, of_mu, of_theta = scales(*wide)
    sizes = of_value + np.maximum(zi, 0.0), of_mu, of_theta, 1.0 + zero * np.abs(value)
    check(
        lambda m, t, z: log_zinb(x, m, t, z),
        (mu, theta, logits),
        (expected, other * by_mu, other * by_theta, by_logits),
        sizes,
    )


def test_thetas_too_large_for_the_difference_of_two_log_gammas():
    """The Poisson law is near: single precision gave -0.45 at a count of 3."""
    x, mu = torch.tensor([[3.0, 0.0, 20.0]]), torch.tensor([[2.0, 1.0, 15.0]])
    for theta in (torch.full((3,), 1e8), torch.full((1, 3), 1e8)):
        expected = log_poisson(x, mu)
        torch.testing.assert_close(log_nb(x, mu, theta), expected, rtol=0.0, atol=1e-4)
        never = torch.full((1, 3), -80.0)
        torch.testing.assert_close(log_zinb(x, mu, theta, never), expected, rtol=0.0, atol=1e-4)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 10**6), st.floats(-4.0, 8.0))
@example(1, 0.5)
@example(1, 0.8913)
def test_difference_of_log_gammas(x, exponent):
    theta = 10.0**exponent
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 3e-7)):
        count, a = (torch.tensor([v], dtype=dtype) for v in (x, theta))
        value, slope = _log_gamma_difference(count, a)
        exact = float(a), float(count)
        lgamma = [special.gammaln(exact[0]), special.gammaln(sum(exact))]
        noise = 1e-15 * abs(lgamma[1])  # of the expected value
        size = abs(lgamma[1] - lgamma[0]) + x * abs(np.log(theta + x)) + 1.0
        assert abs(float(value) - (lgamma[1] - lgamma[0])) <= tolerance * size + noise
        expected = special.digamma(sum(exact)) - special.digamma(exact[0])
        assert theta * abs(float(slope) - expected) <= tolerance * (1.0 + theta * expected) + 1e-15 * theta * 20.0


@pytest.mark.parametrize("weight", [1.0, -2.0])
def test_gradients_of_zinb_at_a_logit_of_zero(weight):
    """Where a formula by cases has its corner."""
    parameters = [torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for v in (0.7, 2.0, 0.0)]
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, t, z: weight * log_zinb(x, m, t, z), parameters)


def test_sums_over_genes_do_not_drift():
    """Equal terms, one after a large one: each is rounded the same way."""
    x, mu = torch.ones(1, 2000), torch.full((1, 2000), 0.3337)
    x[0, 0] = 3000.0
    theta, logits = torch.ones(2000), torch.zeros(1, 2000)
    for function, parameters in ((log_nb, (mu, theta)), (log_zinb, (mu, theta, logits)), (log_poisson, (mu,))):
        expected = function(x.double(), *(p.double() for p in parameters)).float()
        torch.testing.assert_close(function(x, *parameters), expected, rtol=3e-7, atol=0.0)
