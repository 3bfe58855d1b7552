from __future__ import annotations

import pytest
import torch

from trvae_scvi._math._linear import grouped_linear, sparse_linear, sum_of_squares


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_sparse_product_and_its_gradients(index):
    x = torch.relu(draw(12, 7) - 0.8)
    x[3] = 0.0  # a row without an entry
    weight, bias = draw(5, 7, seed=1).requires_grad_(), draw(5, seed=2).requires_grad_()
    csr = x.to_sparse_csr()
    csr = torch.sparse_csr_tensor(
        csr.crow_indices().to(index), csr.col_indices().to(index), csr.values(), size=x.shape, check_invariants=True
    )
    found, expected = sparse_linear(csr, weight, bias), torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(found, expected)
    upstream = draw(12, 5, seed=3)
    found, expected = (torch.autograd.grad(y, (weight, bias), upstream) for y in (found, expected))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("codes", [[0, 2, 1, 2, 0, 3], [2] * 6, [3, 4, 3, 0, 4, 4]])
@pytest.mark.parametrize("samples", [(), (3,)])
@pytest.mark.parametrize("n_new", [0, 2])
def test_grouped_product_and_its_gradients(codes, samples, n_new):
    """Codes 3 and 4 are rows of tables of their own, if there are such."""
    n_old = 5 - n_new
    codes = torch.tensor(codes)
    hidden = draw(*samples, 6, 4).requires_grad_()
    weight, bias = draw(7, 4, seed=1).requires_grad_(), draw(7, seed=2).requires_grad_()
    tables = [
        (draw(n_old, *shape, seed=3).requires_grad_(), draw(n_new, *shape, seed=4).requires_grad_() if n_new else None)
        for shape in ((7,), (4, 7))
    ]
    offset, response = (torch.cat([part for part in table if part is not None]) for table in tables)
    expected = hidden @ weight.t() + bias + offset[codes]
    centre = draw(hidden.shape[-1], seed=6)
    expected = expected + torch.einsum("...ni,nio->...no", hidden - centre, response[codes])
    found = grouped_linear(hidden, codes, weight, bias, *tables, centre)
    torch.testing.assert_close(found, expected)
    parameters = [hidden, weight, bias, *(part for table in tables for part in table if part is not None)]
    upstream = draw(*found.shape, seed=5)
    found, expected = (torch.autograd.grad(y, parameters, upstream, allow_unused=True) for y in (found, expected))
    torch.testing.assert_close(found, expected)


def test_grouped_product_gives_gradients_to_what_is_trained_only():
    hidden, codes = draw(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    weight, bias = draw(7, 4, seed=1), draw(7, seed=2)
    new = (draw(1, 7, seed=3).requires_grad_(), draw(1, 4, 7, seed=4).requires_grad_())
    result = grouped_linear(hidden, codes, weight, bias, (draw(2, 7), new[0]), (draw(2, 4, 7), new[1]), draw(4))
    result.sum().backward()
    torch.testing.assert_close(new[0].grad, torch.full((1, 7), 2.0, dtype=torch.float64))
    torch.testing.assert_close(new[1].grad[0], (hidden[2:4] - draw(4)).sum(dim=0)[:, None].expand(4, 7))


def test_grouped_product_in_low_precision():
    hidden, codes = draw(6, 4).float().requires_grad_(), torch.tensor([0, 1, 1, 0, 1, 0])
    parameters = [draw(7, 4, seed=1), draw(7, seed=2), (draw(2, 7, seed=3), None), (draw(2, 4, 7, seed=4), None)]
    parameters = [p.float() if isinstance(p, torch.Tensor) else (p[0].float(), None) for p in parameters]
    parameters.append(draw(4, seed=5).float())
    expected = grouped_linear(hidden, codes, *parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = grouped_linear(hidden, codes, *parameters)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert hidden.grad.dtype == torch.float32


def test_sparse_product_under_autocast():
    """There is none in low precision: it stays in single precision, and so does its gradient."""
    x = torch.relu(draw(12, 7) - 0.8).float()
    weight, bias = draw(5, 7, seed=1).float().requires_grad_(), draw(5, seed=2).float().requires_grad_()
    expected = torch.nn.functional.linear(x, weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sparse_linear(x.to_sparse_csr(), weight, bias)
        grads = torch.autograd.grad(found.square().sum(), (weight, bias))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), (weight, bias)))


def test_sum_of_squares_and_its_gradient():
    x = draw(3, 4, 5).requires_grad_()
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=x.dtype)
    found = sum_of_squares(x, weights)
    torch.testing.assert_close(found, (weights[:, None, None] * x.square()).sum())
    expected = 1.4 * weights[:, None, None] * x.detach()
    torch.testing.assert_close(torch.autograd.grad(0.7 * found, x)[0], expected)
