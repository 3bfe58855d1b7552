"""What the energy distance draws, refuses and sees, and pertpy's; against brute force it is in `test_metrics.py`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance

from trvae_scvi import metrics as m


@pytest.fixture
def samples():
    """Two samples of different size and distribution."""
    rng = np.random.default_rng(3)
    return rng.gamma(1.0, size=(14, 6)), rng.gamma(2.0, size=(9, 6))


def test_it_draws_from_one_generator_for_both_sides():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(1.0, size=(50, 3))
    draw = np.random.default_rng(7)
    rows_x, rows_y = draw.permutation(60)[:20], draw.permutation(50)[:20]
    value = m.energy_distance(x, y, max_cells=20, seed=7)
    assert value == pytest.approx(m.energy_distance(x[rows_x], y[rows_y]), rel=1e-12)
    assert value != m.energy_distance(x, y, max_cells=20, seed=8)
    assert m.energy_distance(x, y, max_cells=None) == m.energy_distance(x, y, max_cells=60)


def test_it_keeps_its_input_and_refuses():
    x, y = np.arange(6.0).reshape(3, 2), np.ones((4, 2))
    kept = x.copy(), y.copy()
    m.energy_distance(x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])
    with pytest.raises(ValueError, match="`max_cells` of at least 2, found 1"):
        m.energy_distance(x, y, max_cells=1)
    with pytest.raises(ValueError, match="`x` 2, `y` 3"):
        m.energy_distance(x, np.ones((4, 3)))
    with pytest.raises(ValueError, match="at least 2 cells in `x`.*found 1"):
        m.energy_distance(x[:1], y)


def test_it_sees_what_means_do_not():
    rng = np.random.default_rng(0)
    narrow, wide = 0.3 * rng.normal(size=(80, 4)), rng.normal(size=(80, 4))
    other = rng.normal(size=(80, 4))
    assert m.energy_distance(narrow, wide) > 10 * abs(m.energy_distance(other, wide))


def test_energy_distance_equals_pertpys_up_to_the_diagonals(samples):
    pertpy = pytest.importorskip("pertpy")
    x, y = samples
    n, m_ = len(x), len(y)
    # Versions differ in whether they square distances by default: hand them the ones of our definition.
    pairs = distance.squareform(distance.pdist(np.vstack([x, y])))
    of_x = np.arange(n + m_) < n
    # pertpy keeps the diagonals, where a cell is compared with itself.
    biased = pertpy.tl.Distance("edistance").metric_fct.from_precomputed(pairs, of_x)
    within_x, within_y = pairs[:n, :n].mean(), pairs[n:, n:].mean()
    expected = biased - within_x / (n - 1) - within_y / (m_ - 1)
    assert m.energy_distance(x, y) == pytest.approx(expected, rel=1e-6)
