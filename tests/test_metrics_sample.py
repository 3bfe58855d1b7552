"""Moments and distances of samples: against NumPy and SciPy, and computed once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import distance

from trvae_scvi.metrics import _sample
from trvae_scvi.metrics._sample import Sample, distance_between, samples


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return rng.gamma(2.0, size=(9, 5)), rng.gamma(3.0, size=(7, 5))


def test_moments_are_of_all_cells_and_distances_of_the_first(cells):
    x, y = cells
    sample, other = Sample(x, 4), Sample(y, 6)
    assert len(sample) == 9
    np.testing.assert_allclose(sample.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sample.variance, x.var(axis=0), rtol=1e-12)
    assert sample.spread == pytest.approx(distance.pdist(x[:4]).mean(), rel=1e-12)
    assert distance_between(sample, other) == pytest.approx(distance.cdist(x[:4], y[:6]).mean(), rel=1e-12)
    assert Sample(x).spread == pytest.approx(distance.pdist(x).mean(), rel=1e-12)


def test_a_common_offset_costs_no_digits(cells):
    near, far = ([Sample(matrix + offset) for matrix in cells] for offset in (0, 1e6))
    assert distance_between(*far) == pytest.approx(distance_between(*near), rel=1e-8)
    assert far[0].spread == pytest.approx(near[0].spread, rel=1e-8)


def test_on_some_genes(cells):
    x, _ = cells
    some = Sample(x, 4).on(np.array([3, 1]))
    np.testing.assert_array_equal(some.cells, x[:, [3, 1]])
    assert some.spread == pytest.approx(distance.pdist(x[:4, [3, 1]]).mean(), rel=1e-12)


def test_everything_is_computed_once(cells, monkeypatch):
    calls = []
    for name in ("gene_means", "gene_variances", "_total_distance"):
        original = getattr(_sample, name)
        monkeypatch.setattr(_sample, name, lambda *a, name=name, of=original: calls.append(name) or of(*a))
    sample = Sample(cells[0])
    for _ in range(3):
        assert len(sample.mean) == len(sample.variance) == 5
        assert sample.spread > 0
    assert sorted(calls) == ["_total_distance", "gene_means", "gene_means", "gene_variances"]  # of cells for distances


def test_comparisons_with_several_others_are_all_kept(cells):
    """Metrics ask in turn for all control cells and for half of them."""
    calls = []

    def gap(own, other):
        calls.append(len(other))
        return own.mean() - other.mean()

    x, y = cells
    sample, others = Sample(x), [Sample(y), Sample(y[:4]), Sample(x)]
    for _ in range(3):
        assert [sample.against(other, gap) for other in others] == [x.mean() - y.mean(), x.mean() - y[:4].mean(), 0.0]
    assert calls == [7, 4, 9]


def test_matrices_are_checked_under_their_names(cells):
    x, y = cells
    given, _ = samples(pred=sparse.csr_matrix(x), real=y)
    np.testing.assert_allclose(given.mean, x.mean(axis=0))
    with pytest.raises(ValueError, match="`pred` 5, `real` 2"):
        samples(pred=x, real=y[:, :2])
    with pytest.raises(ValueError, match="finite.*`real`"):
        samples(pred=x, real=np.full((2, 5), np.nan))
