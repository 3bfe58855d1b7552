from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from trvae_scvi._math._mmd import TRVAE_BANDWIDTHS, kernel_and_slope, mmd, squared_distances


def reference_kernel(a, b, variances):
    distances = ((a[:, None] - b[None]) ** 2).sum(-1)
    return sum(torch.exp(-distances / (2 * v)) for v in variances) / len(variances)


def reference_mmd(p, q, variances, wp=None, wq=None):
    """The formula, by explicit differences in float64, with optional weights of the cells."""
    wp = torch.full((len(p),), 1 / len(p), dtype=p.dtype) if wp is None else wp
    wq = torch.full((len(q),), 1 / len(q), dtype=q.dtype) if wq is None else wq
    return (
        wp @ reference_kernel(p, p, variances) @ wp
        + wq @ reference_kernel(q, q, variances) @ wq
        - 2 * wp @ reference_kernel(p, q, variances) @ wq
    )


def draw(sizes, d=16, offset=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.cat([torch.full((n,), code) for code, n in enumerate(sizes)])
    x = torch.randn(len(groups), d, generator=generator, dtype=torch.float64) * scale
    x = x + 0.3 * groups[:, None] + offset
    return x, groups


def gradient(function, x):
    x = x.clone().requires_grad_(True)
    value = function(x)
    return value.item(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("sizes", [(40, 30), (8, 8), (100, 9), (30, 20, 25)])
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (100.0, 1.0), (0.0, 0.01), (1000.0, 3.0)])
def test_value_and_gradient_in_float32_against_float64(sizes, offset, scale):
    x, groups = draw(sizes, offset=offset, scale=scale)
    # what float32 can hold of x is the input of both
    x = x.float().double()

    def reference(x):
        pairs = list(itertools.combinations(range(len(sizes)), 2))
        return sum(reference_mmd(x[groups == s], x[groups == t], TRVAE_BANDWIDTHS) for s, t in pairs) / len(pairs)

    value, grad = gradient(reference, x)
    found, found_grad = gradient(lambda x: mmd(x, groups), x.float())
    assert found == pytest.approx(value, rel=1e-3, abs=2e-6)
    assert torch.linalg.norm(found_grad - grad) / torch.linalg.norm(grad) < 2e-3
    assert found_grad.dtype == torch.float32


@pytest.mark.parametrize("kernel", ["trvae", "median"])
def test_fifty_groups_in_float32_against_float64(kernel):
    """Activations as they occur: a batch of 512, 128 of them, not negative."""
    x = torch.relu(torch.randn(512, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    groups = torch.arange(512) % 50
    x = (x + 0.01 * groups[:, None]).float().double()

    def reference(x):
        distances = x.square().sum(1)[:, None] + x.square().sum(1) - 2 * x @ x.T  # in double precision, good to 1e-13
        above = distances.detach()[torch.triu(torch.ones_like(distances, dtype=torch.bool), 1)]
        variances = TRVAE_BANDWIDTHS if kernel == "trvae" else [float(above.median()) * 2.0**i for i in range(-2, 3)]
        distances = distances * (1 - torch.eye(512, dtype=x.dtype))
        gram = sum(torch.exp(-distances / (2 * v)) for v in variances) / len(variances)
        members = torch.nn.functional.one_hot(groups).to(x.dtype)
        members = members / members.sum(dim=0)
        means = members.T @ gram @ members
        pairs = list(itertools.combinations(range(50), 2))
        return sum(means[a, a] + means[b, b] - 2 * means[a, b] for a, b in pairs) / len(pairs)

    value, grad = gradient(reference, x)
    found, found_grad = gradient(lambda x: mmd(x, groups, kernel=kernel), x.float())
    assert found == pytest.approx(value, rel=1e-5)
    assert torch.linalg.norm(found_grad - grad) / torch.linalg.norm(grad) < 1e-5


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (2, 1, 1)])
def test_tiny_groups(sizes):
    x, groups = draw(sizes, d=3)

    def reference(x):
        pairs = list(itertools.combinations(range(len(sizes)), 2))
        return sum(reference_mmd(x[groups == s], x[groups == t], TRVAE_BANDWIDTHS) for s, t in pairs) / len(pairs)

    value, grad = gradient(reference, x)
    found, found_grad = gradient(lambda x: mmd(x, groups, min_cells=1), x)
    assert found == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(found_grad, grad, rtol=1e-8, atol=1e-10)


def test_median_kernel():
    x, groups = draw((20, 30))
    distances = squared_distances(x)
    above = distances[torch.triu(torch.ones_like(distances, dtype=torch.bool), 1)]
    variances = [float(above.median()) * 2.0**i for i in range(-2, 3)]
    expected = sum(torch.exp(-distances / (2 * v)) for v in variances) / 5
    torch.testing.assert_close(kernel_and_slope(distances, "median")[0], expected)
    expected = reference_mmd(x[groups == 0], x[groups == 1], variances)
    assert float(mmd(x, groups, kernel="median")) == pytest.approx(float(expected), rel=1e-9)


def test_median_kernel_of_identical_rows_is_finite():
    x = torch.ones(20, 3, requires_grad=True)
    value = mmd(x, torch.arange(20) % 2, kernel="median")
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(x.grad).all()


def test_same_sample_twice_gives_zero_and_a_shift_does_not():
    x, _ = draw((20,))
    twice = torch.cat([x, x])
    groups = torch.arange(40) // 20
    assert abs(float(mmd(twice, groups))) < 1e-6
    twice[20:] += 1.0
    assert float(mmd(twice, groups)) > 0.01


def test_order_of_rows_and_codes_do_not_matter():
    x, groups = draw((20, 30, 25))
    order = torch.randperm(75, generator=torch.Generator().manual_seed(0))
    expected = float(mmd(x, groups))
    assert float(mmd(x[order], groups[order])) == pytest.approx(expected, rel=1e-6)
    assert float(mmd(x, torch.tensor([7, 300, 11])[groups])) == pytest.approx(expected, rel=1e-6)


def test_reference_pairs_only():
    x, groups = draw((20, 30, 25))
    wanted = [reference_mmd(x[groups == 1], x[groups == other], TRVAE_BANDWIDTHS) for other in (0, 2)]
    assert float(mmd(x, groups, reference=1)) == pytest.approx(float(sum(wanted) / 2), rel=1e-10)
    assert float(mmd(x, groups, reference=5)) == 0.0  # not in the batch


def test_small_groups_are_left_out():
    x, groups = draw((20, 30, 7))
    assert float(mmd(x, groups)) == pytest.approx(float(mmd(x[:50], groups[:50])), rel=1e-10)
    few = mmd(x[:20], groups[:20])
    assert float(few) == 0.0


def test_label_balance_against_explicit_weights():
    x, groups = draw((30, 40))
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 3, 70))
    labels[groups == 0] = torch.where(labels[groups == 0] == 2, 0, labels[groups == 0])  # label 2 in group 1 only
    weights = []
    for code in (0, 1):
        of_group = labels[groups == code]
        weight = torch.zeros(len(of_group), dtype=torch.float64)
        for label in (0, 1):
            weight[of_group == label] = 0.5 / (of_group == label).sum()
        weights.append(weight)
    expected = reference_mmd(x[groups == 0], x[groups == 1], TRVAE_BANDWIDTHS, *weights)
    assert float(mmd(x, groups, labels=labels)) == pytest.approx(float(expected), rel=1e-6)
    assert float(mmd(x, groups, labels=labels)) != pytest.approx(float(mmd(x, groups)), rel=1e-3)


def test_label_balance_is_blind_to_composition():
    """Two groups that differ in composition alone: only the balanced discrepancy is about zero."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(200) % 10 < 8, torch.arange(200) % 10 < 2]).long()
    x = torch.randn(400, 4, generator=generator, dtype=torch.float64) + 4.0 * labels[:, None]
    groups = torch.arange(400) // 200
    assert float(mmd(x, groups, labels=labels)) < 0.1 * float(mmd(x, groups))


def test_labels_with_one_cell_or_none_in_common_give_no_term():
    x, groups = draw((10, 10))
    labels = torch.arange(20)
    assert float(mmd(x, groups, labels=labels)) == 0.0
    labels = torch.tensor([0] * 9 + [1] + [1] * 10)  # one cell of label 1 in group 0
    assert float(mmd(x, groups, labels=labels)) == 0.0


def test_three_groups_with_labels_are_a_mean_over_the_pairs_with_a_shared_label():
    x, groups = draw((20, 20, 20))
    labels = torch.cat([torch.arange(20) % 2, torch.arange(20) % 2, torch.full((20,), 5)])
    pair = mmd(x[:40], groups[:40], labels=labels[:40])
    assert float(mmd(x, groups, labels=labels)) == pytest.approx(float(pair), rel=1e-6)


def test_autocast_does_not_lower_the_precision():
    x, groups = draw((40, 40), d=64)
    expected = float(mmd(x.float(), groups))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(mmd(x.float(), groups)) == expected
        assert mmd(x.bfloat16(), groups).dtype == torch.float32
