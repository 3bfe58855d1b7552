"""Coefficients of determination, cosine, absolute error and variance ratio against scikit-learn, SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import distance
from sklearn.metrics import mean_absolute_error, r2_score

from trvae_scvi import metrics as m


@pytest.fixture
def cells():
    """Three samples of different size: predicted, real, control."""
    rng = np.random.default_rng(1)
    base = rng.gamma(2.0, size=12)
    shift = rng.normal(size=12)
    widths = np.linspace(0.5, 2.0, 12)
    return [base + weight * shift + widths * rng.normal(size=(n, 12)) for weight, n in ((0.8, 30), (1.0, 25), (0, 40))]


def test_they_equal_sklearn_and_scipy(cells):
    pred, real, control = cells
    mp, mr, mc = (x.mean(axis=0) for x in cells)
    assert m.r2_means(pred, real) == pytest.approx(r2_score(mr, mp), rel=1e-12)
    assert m.r2_variances(pred, real) == pytest.approx(r2_score(real.var(axis=0), pred.var(axis=0)), rel=1e-12)
    assert m.mae_means(pred, real) == pytest.approx(mean_absolute_error(mr, mp), rel=1e-12)
    assert m.cosine_change(pred, real, control) == pytest.approx(1 - distance.cosine(mp - mc, mr - mc), rel=1e-12)
    assert m.r2_means(sparse.csr_matrix(pred), real) == pytest.approx(m.r2_means(pred, real), rel=1e-12)


def test_values_by_hand():
    pred = np.array([[0.0, 0.0, 2.0], [2.0, 4.0, 4.0]])  # means 1 2 3, variances 1 4 1
    real = np.array([[2.0, 1.0, 3.0], [2.0, 3.0, 10.0]])  # means 2 2 6.5, variances 0 1 12.25
    control = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])  # changes 0 1 2 and 1 1 5.5
    assert m.mae_means(pred, real) == pytest.approx(4.5 / 3)
    # Residuals 1 0 3.5; the real means deviate from 3.5 by -1.5 -1.5 3.
    assert m.r2_means(pred, real) == pytest.approx(1 - 13.25 / 13.5)
    assert m.cosine_change(pred, real, control) == pytest.approx(12 / np.sqrt(5 * 32.25))
    # With ddof=1 both sums double, of two cells each.
    assert m.variance_ratio(pred, real) == pytest.approx(6 / 13.25)


def test_only_the_determination_sees_scale_and_offset(cells):
    _, real, _ = cells
    wrong = 3 * real - 2
    assert m.squared_pearson_means(wrong, real) == pytest.approx(1)
    assert m.squared_pearson_variances(wrong, real) == pytest.approx(1)
    assert m.r2_means(wrong, real) < 0.5
    assert m.r2_variances(wrong, real) < 0
    assert m.r2_means(real, real) == m.r2_variances(real, real) == 1


def test_real_cells_are_the_truth_of_the_determination(cells):
    pred, real, _ = cells
    assert m.r2_means(pred, real) != pytest.approx(m.r2_means(real, pred))


def test_determination_is_undefined_without_differences_between_genes():
    flat, varied = np.full((4, 5), 0.1), np.random.default_rng(0).normal(size=(4, 5))
    assert np.isnan(m.r2_means(varied, flat))
    assert np.isnan(m.r2_variances(varied, flat))
    assert np.isnan(m.r2_means(varied[:, :1], varied[:, :1]))
    assert m.r2_means(flat, varied) < 0


def test_cosine_sees_a_common_shift_that_pearson_does_not():
    control = np.random.default_rng(0).normal(size=(9, 4))
    assert m.cosine_change(control + 2, control + 1, control) == pytest.approx(1)
    assert m.cosine_change(control - 2, control + 1, control) == pytest.approx(-1)
    change = np.array([1.0, 2.0, 3.0, 4.0])
    assert m.pearson_change(control + change - 10, control + change, control) == pytest.approx(1)
    assert m.cosine_change(control + change - 10, control + change, control) < 0


def test_cosine_of_no_change_counts_as_zero_also_in_another_order():
    rng = np.random.default_rng(0)
    control, real = rng.gamma(2.0, size=(500, 6)), rng.gamma(3.0, size=(50, 6))
    shuffled = control[rng.permutation(500)]
    assert (shuffled.mean(axis=0) != control.mean(axis=0)).any()
    assert m.cosine_change(control, real, control) == 0.0
    assert m.cosine_change(shuffled, real, control) == 0.0
    assert m.cosine_change(control + 1e-6, real, control) > 0.5
    assert np.isnan(m.cosine_change(real, shuffled, control))


def test_variance_ratio_is_the_square_of_a_common_factor(cells):
    _, real, _ = cells
    assert m.variance_ratio(0.5 * real + 7, real) == pytest.approx(0.25)
    assert m.variance_ratio(np.full((3, 12), 0.1), real) == pytest.approx(0, abs=1e-12)


def test_variance_ratio_does_not_depend_on_the_numbers_of_cells():
    rng = np.random.default_rng(0)
    values = [m.variance_ratio(rng.normal(size=(3, 400)), rng.normal(size=(90, 400))) for _ in range(40)]
    # With ddof=0 the mean would be near 2/3.
    assert np.mean(values) == pytest.approx(1, abs=0.03)


def test_variance_ratio_is_undefined_if_no_real_gene_varies():
    # The variance of three equal numbers need not be exactly 0.
    assert np.isnan(m.variance_ratio(np.eye(3), np.full((3, 3), 0.1)))


def test_variance_ratio_needs_two_cells():
    with pytest.raises(ValueError, match="2 predicted and 2 real cells.*found 1 and 3"):
        m.variance_ratio(np.ones((1, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("name", ["r2_means", "r2_variances", "mae_means", "variance_ratio"])
def test_different_numbers_of_genes_are_refused(name):
    with pytest.raises(ValueError, match="`pred` 3, `real` 2"):
        getattr(m, name)(np.ones((2, 3)), np.ones((2, 2)))
