"""Least squares in a two-way layout: what the normal equations of the whole design give, at any shape."""

import numpy as np
import pytest

from trvae_scvi._math._two_way import connected, two_way

GENES = 3


def by_normal_equations(y, weights):
    """Of one gene: m of weighted mean 0, its variance, and leverages, from the pseudo-inverse."""
    rows, columns = np.nonzero(weights)
    design = np.zeros((len(rows), sum(weights.shape)))
    design[np.arange(len(rows)), rows] = 1.0
    design[np.arange(len(rows)), len(weights) + columns] = 1.0
    of_groups = weights[rows, columns]
    inverse = np.linalg.pinv(design.T @ (of_groups[:, None] * design))
    solution = inverse @ design.T @ (of_groups * y[rows, columns])
    contrasts = np.zeros((len(weights), sum(weights.shape)))
    contrasts[:, : len(weights)] = np.eye(len(weights)) - weights.sum(axis=1) / weights.sum()
    leverage = np.zeros(weights.shape)
    leverage[rows, columns] = of_groups * np.diag(design @ inverse @ design.T)
    return contrasts @ solution, np.diag(contrasts @ inverse @ contrasts.T), leverage, design @ solution


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (4, 4), (1, 1), (2, 1), (9, 3)])
def test_it_is_what_the_normal_equations_give(shape):
    rng = np.random.default_rng(sum(shape))
    there = rng.random(shape) < 0.7
    there[0] = there[:, 0] = True
    weights = rng.uniform(0.01, 100.0, (*shape, GENES)) * there[..., None]
    y = rng.normal(size=(*shape, GENES))
    found = two_way(y, weights, (np.zeros(shape[0], int), np.zeros(shape[1], int)))
    for g in range(GENES):
        effect, variance, leverage, fitted = by_normal_equations(y[..., g], weights[..., g])
        np.testing.assert_allclose(found.rows[:, g], effect, atol=1e-8)
        np.testing.assert_allclose(found.variance[:, g], variance, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found.leverage[..., g], leverage, atol=1e-6)
        both = found.rows[:, g][:, None] + found.columns[:, g]
        np.testing.assert_allclose(both[there], fitted, atol=1e-8)


def test_parts_that_nothing_connects_are_fitted_as_if_each_were_alone():
    there = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    parts = connected(there)
    assert parts[0].tolist() == [0, 0, 1, 1, -1]
    assert parts[1].tolist() == [0, 0, 1, -1]  # the last one was seen under one condition only
    rows, columns = (part >= 0 for part in parts)
    rng = np.random.default_rng(0)
    y, weights = rng.normal(size=(4, 3, GENES)), rng.uniform(1, 2, (4, 3, GENES)) * there[rows][:, columns, None]
    together = two_way(y, weights, (parts[0][rows], parts[1][columns]))
    for own, other in ((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 3))):
        n_rows, n_columns = (len(range(10)[part]) for part in (own, other))
        alone = two_way(y[own, other], weights[own, other], (np.zeros(n_rows, int), np.zeros(n_columns, int)))
        np.testing.assert_allclose(together.rows[own], alone.rows, atol=1e-8)
        np.testing.assert_allclose(together.variance[own], alone.variance, atol=1e-8)


def test_variances_are_those_over_repetitions():
    """Also of conditions that only a small group connects, which sweeps over rows and columns would not reach."""
    rng = np.random.default_rng(1)
    n = np.array([[5000.0, 5.0], [5.0, 5000.0]])
    y = rng.normal(size=(2, 2, 4000)) / np.sqrt(n)[..., None] + np.array([[0.0, 3.0]])[..., None]
    found = two_way(y, np.broadcast_to(n[..., None], y.shape), (np.zeros(2, int), np.zeros(2, int)))
    assert found.rows.var(axis=1) == pytest.approx(found.variance.mean(axis=1), rel=0.1)
    assert found.rows[1].mean() - found.rows[0].mean() == pytest.approx(0.0, abs=0.05)
