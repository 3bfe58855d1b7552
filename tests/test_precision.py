"""Mixed precision rounds the linear layers only: what is made of their outputs is what double precision gives."""

from __future__ import annotations

import warnings

import pytest
import torch
from scvi import REGISTRY_KEYS

from trvae_scvi import TRVAEModule
from trvae_scvi._math._linear import sum_of_squares
from trvae_scvi._math._log_densities import log_bernoulli, log_nb, log_normal, log_poisson, log_zinb

N, GENES = 24, 2000
COUNTS = ("nb", "zinb", "poisson")


@pytest.fixture
def low_precision():
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16):
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        yield


def draw_counts(generator):
    rates = torch.rand(N, GENES, generator=generator) ** 6 * 3
    rates[:, 0] = 700.0  # more than eight bits hold
    return torch.poisson(rates, generator=generator)


def log_likelihood(likelihood, x, mu, theta, logits):
    if likelihood == "nb":
        return log_nb(x, mu, theta)
    if likelihood == "zinb":
        return log_zinb(x, mu, theta, logits)
    if likelihood == "poisson":
        return log_poisson(x, mu)
    return log_bernoulli(x, logits) if likelihood == "bernoulli" else log_normal(x, mu)


def doubled(likelihood, *values):
    with torch.autocast("cpu", enabled=False):
        return log_likelihood(likelihood, *(v if v is None else v.double() for v in values))


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("likelihood", [*COUNTS, "mse", "bernoulli"])
def test_likelihoods(low_precision, likelihood, dispersion, is_sparse):
    if is_sparse and likelihood not in COUNTS:
        return
    generator = torch.Generator().manual_seed(0)
    x = draw_counts(generator)
    if likelihood == "bernoulli":
        x = (x > 0).float()
    if likelihood == "mse":
        x = x / 100.0
    mu = (torch.rand(N, GENES, generator=generator) + 0.01).requires_grad_()
    logits = torch.randn(N, GENES, generator=generator).requires_grad_()
    theta = torch.randn(*(() if dispersion == "gene" else (N,)), GENES, generator=generator).exp().requires_grad_()
    given = x.to_sparse_csr() if is_sparse else x
    value = log_likelihood(likelihood, given, mu, theta, logits)
    expected = doubled(likelihood, x, mu, theta, logits)
    torch.testing.assert_close(value.double(), expected, rtol=0.0, atol=0.01)
    grads = [torch.autograd.grad(v.sum(), (mu, theta, logits), allow_unused=True) for v in (value, expected)]
    for grad, expected_grad in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-3)


def recorded(layer, outputs, name):
    layer.register_forward_hook(lambda _, __, output: outputs.__setitem__(name, output.detach()))


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("likelihood", [*COUNTS, "mse", "bernoulli"])
def test_module(low_precision, likelihood, dispersion, is_sparse):
    """The outputs of the last layers, taken as they are, and the formulas in double precision give its terms."""
    if is_sparse and likelihood not in COUNTS:
        return
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    module = TRVAEModule(GENES, n_batch=2, gene_likelihood=likelihood, dispersion=dispersion).eval()
    for name, parameter in module.named_parameters():
        if "log_theta" in name:
            parameter.data.normal_()
    outputs = {}
    zeros = ("decoder.zero_inflation",) if likelihood == "zinb" else ()
    for name in ("encoder.mean", "encoder.log_variance", "decoder.output", *zeros):
        recorded(module.get_submodule(name), outputs, name)
    x = draw_counts(generator)
    x = (x > 0).float() if likelihood == "bernoulli" else x / 100.0 if likelihood == "mse" else x
    codes = torch.arange(N)[:, None] % 2
    batch = {REGISTRY_KEYS.X_KEY: x.to_sparse_csr() if is_sparse else x, REGISTRY_KEYS.BATCH_KEY: codes}
    batch[REGISTRY_KEYS.LABELS_KEY] = codes
    inference, generative, loss = module(batch)
    assert outputs["decoder.output"].dtype == torch.bfloat16  # that is what it is for

    output, mean = outputs["decoder.output"].double(), outputs["encoder.mean"].double()
    variance = outputs["encoder.log_variance"].double().exp() + 1e-4
    kl = 0.5 * (mean.square() + variance - 1.0 - variance.log()).sum(dim=-1)
    torch.testing.assert_close(loss.kl_local["kl_local"].double(), kl, rtol=1e-5, atol=1e-4)
    mu = torch.softmax(output, dim=-1) * x.double().sum(dim=-1, keepdim=True)
    logits = outputs["decoder.zero_inflation"] if likelihood == "zinb" else output
    expected = doubled(likelihood, x, output if likelihood == "mse" else mu, generative["theta"], logits)
    found = loss.reconstruction_loss["reconstruction_loss"]
    torch.testing.assert_close(-found.double(), expected, rtol=0.0, atol=0.01)
    assert inference["z"].dtype == torch.float32


def test_sum_of_squares(low_precision):
    x = torch.randn(300, 50, generator=torch.Generator().manual_seed(2))
    weights = torch.ones(300)
    expected = x.square().sum(dtype=torch.float64).float()
    torch.testing.assert_close(sum_of_squares(x, weights), expected, rtol=1e-6, atol=0.0)
    rounded = x.bfloat16()
    expected = rounded.double().square().sum().float()
    torch.testing.assert_close(sum_of_squares(rounded, weights), expected, rtol=1e-5, atol=0.0)
