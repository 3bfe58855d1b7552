"""The corrected squared error: against a jackknife by loops, and what it promises about numbers of cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from trvae_scvi import metrics as m


def jackknife(cells):
    """Variance of the mean, summed over genes, by leaving out one cell at a time."""
    n = len(cells)
    if n < 2:
        return 0.0
    means = np.array([np.delete(cells, i, axis=0).mean(axis=0) for i in range(n)])
    return (n - 1) / n * ((means - means.mean(axis=0)) ** 2).sum()


def by_hand(pred, real, control):
    s_p, s_r, s_c = (jackknife(x) for x in (pred, real, control))
    error = ((pred.mean(axis=0) - real.mean(axis=0)) ** 2).sum() - min(s_p, s_r) - s_r
    return error, ((real.mean(axis=0) - control.mean(axis=0)) ** 2).sum() - s_r - s_c


@pytest.mark.parametrize("n_pred", [1, 4, 40])
def test_it_equals_a_jackknife(n_pred):
    rng = np.random.default_rng(n_pred)
    pred, real, control = (rng.normal(mean, size=(n, 7)) for mean, n in ((1, n_pred), (2, 9), (0, 12)))
    error, effect = by_hand(pred, real, control)
    assert m.unbiased_errors(pred, real, control) == pytest.approx((error / 7, effect / 7))
    assert m.unbiased_capped_mse(pred, real, control) == pytest.approx(error / effect)
    assert m.unbiased_capped_mse(sparse.csr_matrix(pred), real, control) == pytest.approx(error / effect)


@pytest.mark.parametrize("n_cells", [10, 40])
def test_truth_is_0_and_no_change_is_1_whatever_the_number_of_cells(n_cells):
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(200):
        control, real = (rng.normal(mean, size=(n_cells, 30)) for mean in (0, 0.5))
        source, again = (rng.normal(mean, size=(4 * n_cells, 30)) for mean in (0, 0.5))  # the cap does not bind
        scores.append((m.unbiased_errors(again, real, control), m.unbiased_errors(source, real, control)))
    truth, no_change = np.sum(scores, axis=0)
    assert truth[0] / truth[1] == pytest.approx(0, abs=0.03)
    assert no_change[0] / no_change[1] == pytest.approx(1, abs=0.03)


def test_scatter_earns_no_more_than_the_real_cells_do():
    rng = np.random.default_rng(0)
    pred, real, control = (rng.normal(mean, size=(50, 5)) for mean in (0, 1, 0))
    scores = [
        m.unbiased_capped_mse(pred.mean(axis=0) + k * (pred - pred.mean(axis=0)), real, control) for k in (0, 5, 50)
    ]
    assert scores[0] > scores[1]
    assert scores[1] == pytest.approx(scores[2])


def test_no_effect_beyond_noise_is_undefined():
    cells = np.random.default_rng(0).normal(size=(20, 5))
    assert np.isnan(m.unbiased_capped_mse(cells + 1, cells, cells[::-1]))
    assert m.unbiased_errors(cells + 1, cells, cells[::-1])[1] < 0


def test_it_refuses_single_real_cells():
    one, two = np.ones((1, 3)), np.ones((2, 3))
    for real, control in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="at least 2 real and 2 control"):
            m.unbiased_capped_mse(two, real, control)
    with pytest.raises(ValueError, match="different numbers of genes"):
        m.unbiased_capped_mse(np.ones((2, 4)), two, two)
