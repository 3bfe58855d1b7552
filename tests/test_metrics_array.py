"""Changes against control and beyond the mean response, and spread, against formulas and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error

from trvae_scvi import metrics as m

WITH_RESPONSE = ("pearson_residual", "partial_pearson")


@pytest.fixture
def cells():
    """Four samples of different size: predicted, real, source, control."""
    rng = np.random.default_rng(1)
    base = rng.gamma(2.0, size=12)
    shift = rng.normal(size=12)
    widths = np.linspace(0.5, 2.0, 12)
    sizes = ((0.8, 30), (1.0, 25), (0, 40), (0, 35))
    return [base + weight * shift + widths * rng.normal(size=(n, 12)) for weight, n in sizes]


@pytest.fixture
def expected():
    return np.random.default_rng(2).normal(size=12)


def changes(cells):
    pred, real, source, control = (x.mean(axis=0) for x in cells)
    return pred - source, real - control


def cells_with_mean(mean):
    """Two cells, which are not the same."""
    return np.stack([mean + 1.0, mean - 1.0])


# ---- against control


def test_each_change_is_against_its_own_control_cells(cells):
    value = stats.pearsonr(*changes(cells)).statistic
    assert m.pearson_change(*cells) == pytest.approx(value, rel=1e-12)
    assert m.pearson_change(*map(sparse.csr_matrix, cells)) == pytest.approx(value, rel=1e-12)
    pred, real, source, control = cells
    assert m.pearson_change(pred, real, control, source) != pytest.approx(value, rel=1e-3)


def test_the_same_control_cells_twice_correlate_what_is_not_there():
    """Without any effect, other control cells keep the value around 0; the same ones do not."""
    rng = np.random.default_rng(0)
    shared, apart = [], []
    for _ in range(100):
        pred, real, source, control = rng.normal(size=(4, 20, 30))
        shared.append(m.pearson_change(pred, real, source, source))
        apart.append(m.pearson_change(pred, real, source, control))
    # Both changes have half of their variance from the cells they share.
    assert np.mean(shared) == pytest.approx(0.5, abs=0.05)
    assert abs(np.mean(apart)) < 4 * np.std(apart) / np.sqrt(100)


# ---- beyond the mean response


def test_residual_is_the_correlation_of_what_is_left_of_the_changes(cells, expected):
    of_pred, of_real = changes(cells)
    value = stats.pearsonr(of_pred - expected, of_real - expected).statistic
    assert m.pearson_residual(*cells, expected) == pytest.approx(value, rel=1e-12)


def test_partial_correlation_equals_the_textbook_formula_and_regressions(cells, expected):
    of_pred, of_real = changes(cells)
    r, of_p, of_r = (
        stats.pearsonr(*p).statistic for p in ((of_pred, of_real), (of_pred, expected), (of_real, expected))
    )
    value = (r - of_p * of_r) / np.sqrt((1 - of_p**2) * (1 - of_r**2))
    assert m.partial_pearson(*cells, expected) == pytest.approx(value, rel=1e-10)
    given = expected[:, None]
    left = [y - LinearRegression().fit(given, y).predict(given) for y in (of_pred, of_real)]
    assert m.partial_pearson(*cells, expected) == pytest.approx(stats.pearsonr(*left).statistic, rel=1e-10)


def test_more_or_less_of_the_mean_response_counts_for_nothing(cells, expected):
    """Neither added to a prediction nor as one: the partial correlation is free of it, the residual's is not."""
    pred, real, source, control = cells
    value = m.partial_pearson(*cells, expected)
    for share in (-1.0, 0.5, 3.0):
        assert m.partial_pearson(pred + share * expected, real, source, control, expected) == pytest.approx(value)
        assert m.partial_pearson(source + share * expected, real, source, control, expected) == 0.0
    assert m.pearson_residual(pred + 3 * expected, real, source, control, expected) != pytest.approx(value, abs=0.05)


def test_no_change_scores_in_the_residual_where_a_group_responds_less(expected):
    rng = np.random.default_rng(0)
    source, control = rng.normal(size=(2, 50, 12))
    real = rng.normal(size=(50, 12)) + 0.2 * expected
    assert m.pearson_residual(source, real, source, control, expected) > 0.9
    assert m.partial_pearson(source, real, source, control, expected) == 0.0
    assert m.pearson_residual(source + expected, real, source, control, expected) == 0.0


def test_no_change_in_another_order_is_none(cells, expected):
    _, real, source, control = cells
    source = np.random.default_rng(0).gamma(2.0, size=(500, 12)).astype(np.float32)
    shuffled = source[np.random.default_rng(1).permutation(500)]
    assert m.pearson_change(shuffled, real, source, control) == 0.0
    assert m.partial_pearson(shuffled, real, source, control, expected) == 0.0
    assert m.pearson_residual(shuffled + expected, real, source, control, expected) == 0.0


def test_a_truth_without_anything_of_its_own_is_undefined(cells, expected):
    pred, _, source, control = cells
    real = cells_with_mean(control.mean(axis=0) + 2 * expected)
    assert np.isnan(m.partial_pearson(pred, real, source, control, expected))
    # Whole numbers, which leave no rounding.
    whole = np.arange(12.0)
    assert np.isnan(m.pearson_residual(pred, cells_with_mean(5 + whole), source, cells_with_mean(np.ones(12)), whole))
    assert np.isnan(m.pearson_change(pred, cells_with_mean(5 + whole), source, cells_with_mean(whole)))


@pytest.mark.parametrize("name", WITH_RESPONSE)
@pytest.mark.parametrize("response", [np.ones(11), np.ones((12, 1)), np.full(12, np.nan), 1.0])
def test_a_mean_response_has_a_number_for_each_gene(cells, name, response):
    with pytest.raises(ValueError, match="a finite number for each of 12 genes in `expected`"):
        getattr(m, name)(*cells, response)


@pytest.mark.parametrize("name", ["pearson_change", *WITH_RESPONSE])
def test_all_four_samples_have_the_same_genes(cells, expected, name):
    pred, real, source, control = cells
    more = [expected] if name in WITH_RESPONSE else []
    with pytest.raises(ValueError, match="`control` 5"):
        getattr(m, name)(pred, real, source, control[:, :5], *more)


# ---- spread


def test_spread_equals_sklearn_on_standard_deviations(cells):
    pred, real, *_ = cells
    value = mean_squared_error(real.std(axis=0), pred.std(axis=0))
    assert m.mse_stds(pred, real) == pytest.approx(value, rel=1e-12)
    assert m.mse_stds(sparse.csr_matrix(pred), real) == pytest.approx(value, rel=1e-12)
    assert m.mse_stds(pred + 5, real) == pytest.approx(value, rel=1e-9)
    assert m.mse_stds(real[::-1], real) == pytest.approx(0, abs=1e-20)


def test_spread_by_hand():
    pred = np.array([[0.0, 0.0, 2.0], [2.0, 4.0, 4.0]])  # standard deviations 1 2 1
    real = np.array([[2.0, 1.0, 3.0], [2.0, 3.0, 10.0]])  # 0 1 3.5
    assert m.mse_stds(pred, real) == pytest.approx((1 + 1 + 2.5**2) / 3)


def test_only_the_spread_sees_a_common_factor_of_the_width(cells):
    _, real, *_ = cells
    centre = real.mean(axis=0)
    narrow = centre + 0.5 * (real - centre)
    assert m.squared_pearson_variances(narrow, real) == pytest.approx(1)
    assert m.mse_means(narrow, real) == pytest.approx(0, abs=1e-20)
    assert m.mse_stds(narrow, real) == pytest.approx(np.mean(real.var(axis=0)) / 4)


@pytest.mark.parametrize("name", ["squared_pearson_means", "squared_pearson_variances", "mse_means", "mse_stds"])
def test_different_numbers_of_genes_are_refused(name):
    with pytest.raises(ValueError, match="`pred` 3, `real` 2"):
        getattr(m, name)(np.ones((2, 3)), np.ones((2, 2)))
