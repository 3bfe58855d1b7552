"""The kernel and Wasserstein distances against brute force, SciPy and pertpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.spatial import distance
from sklearn.metrics.pairwise import rbf_kernel

from trvae_scvi import metrics as m


@pytest.fixture
def samples():
    """Two samples of different size and distribution."""
    rng = np.random.default_rng(3)
    return rng.gamma(1.0, size=(14, 6)), rng.gamma(2.0, size=(9, 6))


def brute_force_mmd(x, y, gamma):
    def mean(a, b, skip_diagonal):
        values = [
            np.exp(-gamma * sum((float(p) - float(q)) ** 2 for p, q in zip(a[i], b[j], strict=True)))
            for i in range(len(a))
            for j in range(len(b))
            if not (skip_diagonal and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


# ---- MMD


@pytest.mark.parametrize("gamma", [None, 0.05, 2.0])
def test_mmd_equals_brute_force(samples, gamma):
    x, y = samples
    expected = brute_force_mmd(x, y, 1 / 6 if gamma is None else gamma)
    assert m.mmd_rbf(x, y, gamma=gamma) == pytest.approx(expected, rel=1e-10)
    assert m.mmd_rbf(sparse.csr_matrix(x), y, gamma=gamma) == pytest.approx(expected, rel=1e-10)


def test_mmd_default_width_is_that_of_sklearn(samples):
    x, y = samples
    n, m_ = len(x), len(y)
    xx, yy, xy = rbf_kernel(x), rbf_kernel(y), rbf_kernel(x, y)
    expected = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m_) / (m_ * (m_ - 1)) - 2 * xy.mean()
    assert m.mmd_rbf(x, y) == pytest.approx(expected, rel=1e-10)


def test_mmd_invariances(samples):
    x, y = samples
    value = m.mmd_rbf(x, y)
    assert value > 0
    assert m.mmd_rbf(y, x) == pytest.approx(value, rel=1e-9)
    assert m.mmd_rbf(x[::-1], y) == pytest.approx(value, rel=1e-9)
    assert m.mmd_rbf(x + 1e6, y + 1e6) == pytest.approx(value, rel=1e-6)
    assert m.mmd_rbf(3 * x, 3 * y, gamma=0.1 / 9) == pytest.approx(m.mmd_rbf(x, y, gamma=0.1), rel=1e-9)


def test_mmd_is_unbiased_around_zero():
    rng = np.random.default_rng(0)
    values = [m.mmd_rbf(rng.normal(size=(20, 5)), rng.normal(size=(20, 5))) for _ in range(200)]
    # With the diagonals in, the mean would be about 2 * (1 - E k(x, x')) / 20 = 0.08.
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)
    assert min(values) < 0 < max(values)


def test_mmd_sees_what_means_do_not():
    rng = np.random.default_rng(0)
    narrow, wide = 0.3 * rng.normal(size=(80, 4)), rng.normal(size=(80, 4))
    other = rng.normal(size=(80, 4))
    assert m.mmd_rbf(narrow, wide) > 10 * abs(m.mmd_rbf(other, wide))


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_mmd_refuses_gamma(samples, gamma):
    with pytest.raises(ValueError, match=f"positive `gamma` or None, found {gamma}"):
        m.mmd_rbf(*samples, gamma=gamma)


def test_mmd_needs_two_cells():
    with pytest.raises(ValueError, match="at least 2 cells in `x`.*found 1"):
        m.mmd_rbf(np.ones((1, 2)), np.ones((3, 2)))


# ---- Wasserstein


def test_wasserstein_is_the_mean_over_genes_of_scipys(samples):
    x, y = samples
    expected = np.mean([stats.wasserstein_distance(x[:, g], y[:, g]) for g in range(6)])
    assert m.wasserstein_genes(x, y) == pytest.approx(expected, rel=1e-12)
    assert m.wasserstein_genes(sparse.csr_matrix(x), y) == pytest.approx(expected, rel=1e-12)


def test_wasserstein_of_equally_many_cells_is_the_mean_difference_of_sorted_values(samples):
    x, y = samples[0][:9], samples[1]
    expected = np.abs(np.sort(x, axis=0) - np.sort(y, axis=0)).mean()
    assert m.wasserstein_genes(x, y) == pytest.approx(expected, rel=1e-12)


def test_wasserstein_of_a_shift_is_the_shift(samples):
    x, _ = samples
    shift = np.array([0.0, 1.0, -2.0, 0.0, 0.0, 3.0])
    assert m.wasserstein_genes(x + shift, x) == pytest.approx(1.0)
    assert m.wasserstein_genes(x[::-1], x) == 0


def test_wasserstein_does_not_see_how_genes_vary_together(samples):
    x, _ = samples
    shuffled = np.random.default_rng(0).permuted(x, axis=0)
    assert m.wasserstein_genes(shuffled, x) == pytest.approx(0, abs=1e-12)


# ---- all


@pytest.mark.parametrize("name", ["energy_distance", "mmd_rbf", "wasserstein_genes"])
def test_all_draw_the_same_cells(name):
    function = getattr(m, name)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(1.0, size=(50, 3))
    draw = np.random.default_rng(7)
    rows_x, rows_y = draw.permutation(60)[:20], draw.permutation(50)[:20]
    value = function(x, y, max_cells=20, seed=7)
    assert value == pytest.approx(function(x[rows_x], y[rows_y]), rel=1e-12)
    assert value != function(x, y, max_cells=20, seed=8)
    assert function(x, y, max_cells=None) == function(x, y, max_cells=60)


@pytest.mark.parametrize("name", ["energy_distance", "mmd_rbf", "wasserstein_genes"])
def test_all_keep_their_input_and_refuse_alike(name):
    function = getattr(m, name)
    x, y = np.arange(6.0).reshape(3, 2), np.ones((4, 2))
    kept = x.copy(), y.copy()
    function(x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])
    with pytest.raises(ValueError, match="`max_cells` to be at least 2 or None, found 1"):
        function(x, y, max_cells=1)
    with pytest.raises(ValueError, match="`x` 2, `y` 3"):
        function(x, np.ones((4, 3)))


# ---- pertpy keeps the diagonals, where a cell is compared with itself


def test_mmd_equals_pertpys_up_to_the_diagonals(samples):
    pertpy = pytest.importorskip("pertpy")
    x, y = samples
    n, m_ = len(x), len(y)
    # Older versions have no width but 1.
    biased = pertpy.tl.Distance("mmd")(x, y, kernel="rbf", gamma=1.0)
    within_x, within_y = (rbf_kernel(cells, gamma=1.0).mean() for cells in (x, y))
    # Without the n ones of its diagonal, a mean over n^2 pairs becomes one over n (n - 1).
    expected = biased + (within_x - 1) / (n - 1) + (within_y - 1) / (m_ - 1)
    assert m.mmd_rbf(x, y, gamma=1.0) == pytest.approx(expected, rel=1e-6)


def test_energy_distance_equals_pertpys_up_to_the_diagonals(samples):
    pertpy = pytest.importorskip("pertpy")
    x, y = samples
    n, m_ = len(x), len(y)
    # Versions differ in whether they square distances by default: hand them the ones of our definition.
    pairs = distance.squareform(distance.pdist(np.vstack([x, y])))
    of_x = np.arange(n + m_) < n
    biased = pertpy.tl.Distance("edistance").metric_fct.from_precomputed(pairs, of_x)
    within_x, within_y = pairs[:n, :n].mean(), pairs[n:, n:].mean()
    expected = biased - within_x / (n - 1) - within_y / (m_ - 1)
    assert m.energy_distance(x, y) == pytest.approx(expected, rel=1e-6)
