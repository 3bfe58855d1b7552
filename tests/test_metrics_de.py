"""Differential expression against SciPy's tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from trvae_scvi import metrics as m

UP, DOWN = [0, 1, 2], [3, 4]


def sample(effect, n, rng):
    """Log-normalised cells of 10 genes: UP higher, DOWN lower by `effect`, the others as in control."""
    means = np.full(10, 20.0)
    means[UP] *= effect
    means[DOWN] /= effect
    # A last gene with the bulk of the counts keeps the others' shares apart.
    counts = rng.poisson(np.append(means, 5000.0), size=(n, 11))
    return m.log_normalize(counts)[:, :10]


@pytest.fixture
def real():
    return sample(3.0, 60, np.random.default_rng(0))


@pytest.fixture
def control():
    return sample(1.0, 80, np.random.default_rng(1))


def benjamini_hochberg(p):
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((p[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1)
    return result


def test_de_genes_are_those_that_differ(real, control):
    table = m.de_genes(real, control, alpha=1e-6)
    assert table.columns.tolist() == ["score", "log_fc", "p_adj"]
    assert table.index.tolist() == UP + DOWN
    assert (np.sign(table["log_fc"]) == [1, 1, 1, -1, -1]).all()
    assert (np.sign(table["score"]) == np.sign(table["log_fc"])).all()
    expected = real.mean(axis=0, dtype=float) - control.mean(axis=0, dtype=float)
    np.testing.assert_allclose(table["log_fc"], expected[UP + DOWN], rtol=1e-12)


def test_wilcoxon_equals_scipys(real, control):
    found = m.de_genes(real, control, alpha=1.0)
    p = stats.ranksums(real, control).pvalue
    np.testing.assert_allclose(found["score"], stats.ranksums(real, control).statistic[found.index], rtol=1e-5)
    np.testing.assert_allclose(found["p_adj"], benjamini_hochberg(p)[found.index], rtol=1e-9)
    assert len(found) > len(UP + DOWN)


def test_t_test_equals_scipys(real, control):
    found = m.de_genes(real, control, method="t-test", alpha=1.0)
    expected = stats.ttest_ind(real.astype(float), control.astype(float), equal_var=False)
    np.testing.assert_allclose(found["score"], expected.statistic[found.index], rtol=1e-5)
    np.testing.assert_allclose(found["p_adj"], benjamini_hochberg(expected.pvalue)[found.index], rtol=1e-3)


def test_alpha_is_the_bound_of_the_adjusted_p_value(control):
    cells = sample(1.25, 60, np.random.default_rng(2))
    every = m.de_genes(cells, control, alpha=1.0)
    distinct = np.unique(every["p_adj"])
    bound = distinct[len(distinct) // 2]
    few = m.de_genes(cells, control, alpha=bound)
    assert few.index.tolist() == every.index[every["p_adj"] < bound].tolist()
    assert 0 < len(few) < len(every)


def test_de_genes_take_sparse_cells_and_values_below_zero(real, control):
    dense = m.de_genes(real, control)
    assert m.de_genes(sparse.csr_matrix(real), sparse.csr_matrix(control)).equals(dense)
    # Ranks do not see the offset; scanpy's own fold change is undefined here and must not matter.
    shifted = m.de_genes(real - 10, control - 10)
    assert shifted.index.equals(dense.index)
    np.testing.assert_allclose(shifted["log_fc"], dense["log_fc"], atol=1e-5)


def test_de_genes_keep_their_input(real, control):
    kept = real.copy(), control.copy()
    m.de_genes(real, control)
    np.testing.assert_array_equal(real, kept[0])
    np.testing.assert_array_equal(control, kept[1])


def test_de_genes_refuse(real, control):
    with pytest.raises(ValueError, match="at least 2 cells.*found 1 and 80"):
        m.de_genes(real[:1], control)
    with pytest.raises(ValueError, match=r"out of \['wilcoxon', 't-test', 't-test_overestim_var'\], found 'logreg'"):
        m.de_genes(real, control, method="logreg")
    for alpha in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"at most 1, found {alpha}"):
            m.de_genes(real, control, alpha=alpha)
