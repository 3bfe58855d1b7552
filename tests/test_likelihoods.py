from __future__ import annotations

import math

import pytest
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from trvae_scvi._likelihoods import log_nb, log_normal, log_poisson, log_zinb


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
