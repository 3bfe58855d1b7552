"""Agreement of gene-gene correlations: against scipy pair by pair, and on cells whose structure is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from trvae_scvi import metrics as m
from trvae_scvi.metrics._coexpression import _responsive, correlation_agreement


def draw(loadings, n, seed):
    """Log-normalised counts; the genes follow one program as strongly as they load on it."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2, size=(n, 1)) * loadings + 5
    return m.log_normalize(rng.poisson(mean))


@pytest.fixture(scope="module")
def kinds():
    rng = np.random.default_rng(0)
    loadings = np.r_[rng.uniform(0, 9, size=30), np.zeros(10)]
    real, again = (draw(loadings, 300, seed) for seed in (1, 2))
    control = m.log_normalize(np.random.default_rng(3).poisson(5, size=(300, 40)))
    return {"real": real, "again": again, "control": control}


def by_loop(pred, real):
    pairs = [(i, j) for i in range(real.shape[1]) for j in range(i)]
    predicted, actual = ([stats.pearsonr(x[:, i], x[:, j])[0] for i, j in pairs] for x in (pred, real))
    return stats.pearsonr(predicted, actual)[0]


def test_it_equals_a_loop_over_pairs(kinds):
    pred, real = (kinds[name][:, :25].astype(float) for name in ("again", "real"))
    assert correlation_agreement(pred, real) == pytest.approx(by_loop(pred, real))
    # all 25 genes are responsive ones then, in the order of the columns
    found = m.coexpression_agreement(pred, real, kinds["control"][:, :25])
    assert found == pytest.approx(by_loop(pred, real))


def test_genes_are_those_that_change_the_most(kinds):
    fold = np.abs(np.log2((np.expm1(kinds["real"]).mean(axis=0) + 1) / (np.expm1(kinds["control"]).mean(axis=0) + 1)))
    genes = np.sort(np.argsort(-fold)[:20])
    expected = by_loop(*(kinds[name][:, genes].astype(float) for name in ("again", "real")))
    found = m.coexpression_agreement(*kinds_of(kinds), n_genes=20)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != pytest.approx(m.coexpression_agreement(*kinds_of(kinds)), abs=1e-3)


@pytest.mark.parametrize(("rare", "first"), [(0.3, 0), (0.2, 1)])
def test_rare_genes_change_less_than_their_ratios_say(rare, first):
    # log2(1.3) > log2(31 / 25) > log2(1.2)
    real, control = (np.log1p(np.tile(row, (10, 1))) for row in ([rare, 30.0, 5.0], [0.0, 24.0, 5.0]))
    assert _responsive(real, control, 2, 1).tolist() == [first, 1 - first]


def kinds_of(kinds):
    return kinds["again"], kinds["real"], kinds["control"]


def test_what_it_sees_and_what_not(kinds):
    real, control = kinds["real"], kinds["control"]
    assert m.coexpression_agreement(real, real, control) == pytest.approx(1)
    shuffled = np.random.default_rng(0).permuted(real, axis=0)
    assert abs(m.coexpression_agreement(shuffled, real, control)) < 0.2
    assert 0.7 < m.coexpression_agreement(kinds["again"], real, control) < 1
    # neither mean nor variance
    assert m.coexpression_agreement(3 * real + 1, real, control) == pytest.approx(1)
    assert m.coexpression_agreement(sparse.csr_matrix(real), real, control) == pytest.approx(1)


def test_both_sides_are_cut_to_the_same_number_of_cells(kinds):
    pred, real, control = kinds_of(kinds)
    rng = np.random.default_rng(5)
    drawn = pred[rng.permutation(300)[:100]], real[rng.permutation(300)[:100]]
    genes_of_all = {"n_genes": 40}
    found = m.coexpression_agreement(pred, real, control, max_cells=100, seed=5, **genes_of_all)
    assert found == pytest.approx(by_loop(*(x.astype(float) for x in drawn)))
    few = m.coexpression_agreement(pred[:100], real, control, max_cells=None, seed=5, **genes_of_all)
    first = np.random.default_rng(5).permutation(300)[:100]
    assert few == pytest.approx(by_loop(pred[:100].astype(float), real[first].astype(float)))


def test_too_little_is_undefined(kinds):
    pred, real, control = kinds_of(kinds)
    assert np.isnan(m.coexpression_agreement(pred[:49], real, control))
    assert np.isfinite(m.coexpression_agreement(pred[:50], real, control))
    assert np.isnan(m.coexpression_agreement(pred, real, control, max_cells=49))
    assert np.isnan(m.coexpression_agreement(pred, real, control, n_genes=19))
    constant = np.repeat(pred[:1], 300, axis=0)
    assert np.isnan(m.coexpression_agreement(constant, real, control))
    partly = np.where(np.arange(40) < 21, constant, pred)
    assert np.isnan(m.coexpression_agreement(partly, real, control))
    assert np.isfinite(m.coexpression_agreement(partly, real, control, min_genes=19))
    one_program = np.linspace(0, 1, 300)[:, None] * np.arange(1, 41)
    assert np.isnan(m.coexpression_agreement(one_program, real, control))


def test_rarely_expressed_genes_are_left_out(kinds):
    pred, real, control = (x.copy() for x in kinds_of(kinds))
    real[9:, :20] = 0
    assert np.isfinite(m.coexpression_agreement(pred, real, control))
    assert np.isnan(m.coexpression_agreement(pred, real, control, min_genes=21))
    assert np.isfinite(m.coexpression_agreement(pred, real, control, min_genes=21, min_expressing=9))


@pytest.mark.parametrize("name", ["n_genes", "min_genes", "min_cells", "min_expressing", "max_cells"])
def test_it_refuses_numbers_below_1(kinds, name):
    with pytest.raises(ValueError, match=f"Expected `{name}` of at least 1, found 0"):
        m.coexpression_agreement(*kinds_of(kinds), **{name: 0})
