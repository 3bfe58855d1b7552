"""Prediction intervals: their width by hand, and that calibration finds the error that made the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trvae_scvi._math._intervals import Calibration, ModelError, calibrate, margin, standard_error


def populations(error, n_groups=12, n=1500, n_responsive=150, seed=0, factors=None, noise=None):
    """Predicted changes, and real ones that miss them by the model's error and by sampling."""
    rng = np.random.default_rng(seed)
    shape = n_groups, n
    change = rng.normal(0.0, 0.02, shape)
    change[:, :n_responsive] = rng.normal(0.0, 2.0, (n_groups, n_responsive))
    sampling, sd = rng.uniform(0.01, 0.03, shape), rng.uniform(0.1, 1.0, shape)
    factors = np.ones(n) if factors is None else factors
    model = factors * np.sqrt(error.floor**2 + (error.share * change) ** 2 + (error.spread * sd) ** 2)
    drawn = rng.normal(size=shape) if noise is None else noise(rng, shape)
    real = change + drawn * np.hypot(sampling, model)
    group, variable = np.repeat(np.arange(n_groups), n), np.tile(np.arange(n), n_groups)
    values = [array.ravel() for array in (change, sampling, sd, real)]
    return Calibration(*values, variable < n_responsive, variable, group, group)


def covered(cells, error, level, factors=None):
    """Shares of all variables and of the responsive ones."""
    own = 1.0 if factors is None else factors[cells.variable]
    half = margin(cells.change, cells.sampling, cells.sd, error, level, own)
    inside = np.abs(cells.real - cells.change) <= half
    return inside.mean(), inside[cells.responsive].mean()


def found(cells):
    parameters, factors, quantiles = calibrate(cells)
    return ModelError(*parameters, quantiles=quantiles), factors


def test_standard_error_is_that_of_a_difference_of_two_means():
    rng = np.random.default_rng(0)
    means = rng.normal(0.0, 2.0, (4000, 30)).mean(1) - rng.normal(0.0, 2.0, (4000, 50)).mean(1)
    assert standard_error(np.array(4.0), 30, 50) == pytest.approx(means.std(), rel=0.05)


def test_margin_by_hand():
    error = ModelError(0.4, 0.1, 0.5)
    half = margin(np.array([0.0, -2.0]), np.array([0.3, 0.4]), np.array([0.0, 0.6]), error, 0.95, np.array([1.0, 2.0]))
    second = np.sqrt(0.4**2 + 4 * (0.4**2 + 0.2**2 + 0.3**2))
    np.testing.assert_allclose(half, stats.norm.ppf(0.975) * np.array([0.5, second]))


def test_calibration_finds_the_error_that_made_the_data():
    error, factors = found(populations(ModelError(0.05, 0.3, 0.1)))
    scale = error.quantile(0.9) / stats.norm.ppf(0.95)  # what the three numbers do not say the quantiles do
    np.testing.assert_allclose(scale * np.array([error.floor, error.share, error.spread]), [0.05, 0.3, 0.1], rtol=0.1)
    assert factors.std() < 0.2


def test_genes_that_are_missed_elsewhere_have_wider_intervals():
    true = np.where(np.arange(1500) % 10 == 5, 3.0, 1.0)
    cells = populations(ModelError(0.05, 0.3, 0.1), factors=true)
    _, factors = found(cells)
    # drawn towards one another
    assert 2.0 < factors[true == 3.0].mean() / factors[true == 1.0].mean() < 3.2
    new = populations(ModelError(0.05, 0.3, 0.1), factors=true, seed=1)
    error, _ = found(cells)
    hard = np.isin(new.variable, np.flatnonzero(true == 3.0))
    half = [margin(new.change, new.sampling, new.sd, error, 0.9, own) for own in (1.0, factors[new.variable])]
    inside = [(np.abs(new.real - new.change) <= each)[hard].mean() for each in half]
    assert inside[0] < 0.7
    assert inside[1] > 0.8


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_intervals_cover_other_populations_whatever_the_distribution(level):
    def heavy(rng, shape):
        return rng.standard_t(3, shape) * (1.0 + (rng.random(shape) < 0.1))

    error, factors = found(populations(ModelError(0.05, 0.3, 0.1), noise=heavy))
    new = populations(ModelError(0.05, 0.3, 0.1), noise=heavy, seed=1)
    everything, responsive = covered(new, error, level, factors)
    assert min(everything, responsive) == pytest.approx(level, abs=0.03)
    assert max(everything, responsive) < level + 0.05


@pytest.mark.parametrize("share_silent", [0.5, 0.8])
def test_genes_without_a_count_say_nothing(share_silent):
    """Of these nothing is predicted, and nothing missed: they must not stand for the others."""

    def silenced(cells):
        silent = (cells.variable >= 150) & (cells.variable % 10 < 10 * share_silent)
        zero = {name: np.where(silent, 0.0, getattr(cells, name)) for name in ("change", "sampling", "sd", "real")}
        return Calibration(**{**vars(cells), **zero}), ~silent

    error, factors = found(silenced(populations(ModelError(0.05, 0.3, 0.1)))[0])
    new, heard = silenced(populations(ModelError(0.05, 0.3, 0.1), seed=1))
    for level in (0.5, 0.9):
        half = margin(new.change, new.sampling, new.sd, error, level, factors[new.variable])
        inside = np.abs(new.real - new.change) <= half
        assert inside[heard].mean() == pytest.approx(level, abs=0.04)
        assert inside[new.responsive].mean() == pytest.approx(level, abs=0.05)
    # nothing is known of them, should another group express them
    np.testing.assert_allclose(factors[~heard[: len(factors)]], 1.0)


def test_nothing_is_added_where_sampling_covers_enough():
    cells = populations(ModelError(0.0, 0.0))
    error, factors = found(cells)
    assert max(error.floor, error.spread) < 0.004
    assert error.share < 0.01
    assert error.quantile(0.9) == pytest.approx(stats.norm.ppf(0.95), rel=0.05)


def test_the_harder_of_all_and_responsive_variables_decides():
    # all are predicted to change by next to nothing, and a few do
    cells = populations(ModelError(0.01, 0.0, 0.05), seed=2)
    rng = np.random.default_rng(0)
    real = np.where(cells.responsive, rng.normal(0.0, 0.6, len(cells.change)), cells.real)
    missed = Calibration(**{**vars(cells), "change": 0.01 * cells.change, "real": real})
    error, factors = found(missed)
    for level in (0.5, 0.9):
        assert min(covered(missed, error, level, factors)) == pytest.approx(level, abs=0.03)


def test_one_outlier_is_not_all_that_is_known_of_a_gene():
    cells = populations(ModelError(0.05, 0.3, 0.1))
    real = cells.real.copy()
    real[700] += 1e3
    error, factors = found(Calibration(**{**vars(cells), "real": real}))
    assert factors[700] < 2.0
    assert error.quantile(0.9) < 2.2


def test_with_few_groups_genes_share_one_rule():
    assert found(populations(ModelError(0.05, 0.3), n_groups=4))[1] is None
    assert found(populations(ModelError(0.05, 0.3), n_groups=5))[1] is not None


def test_a_group_does_not_judge_itself():
    """The targets of one group are left out together: they miss the same genes."""
    cells = populations(ModelError(0.05, 0.3, 0.1), n_groups=10)
    rng = np.random.default_rng(0)
    own = rng.random((5, 1500)) < 0.1  # each group misses genes of its own, under both of its targets
    group = np.repeat(np.arange(5), 3000)
    missed = own[group, cells.variable]
    real = cells.change + (cells.real - cells.change) * np.where(missed, 5.0, 1.0)
    apart = Calibration(**{**vars(cells), "real": real})
    together = Calibration(**{**vars(apart), "group": group})
    assert found(together)[0].quantile(0.95) > 1.1 * found(apart)[0].quantile(0.95)


def test_predictions_of_one_group_are_no_further_groups():
    cells = populations(ModelError(0.05, 0.3, 0.1), n_groups=5)
    again = {name: np.tile(getattr(cells, name), 10) for name in ("change", "sampling", "sd", "real", "responsive")}
    table = cells.table.max() + 1
    tables = np.concatenate([cells.table + i * table for i in range(10)])
    copies = Calibration(**again, variable=np.tile(cells.variable, 10), table=tables, group=np.tile(cells.group, 10))
    (once, own), (tenfold, others) = found(cells), found(copies)
    np.testing.assert_allclose(own, others, rtol=1e-3)
    np.testing.assert_allclose(once.quantiles, tenfold.quantiles, rtol=1e-2)


def test_every_group_counts_alike_however_many_predictions_it_has():
    """One group of nine predictions that are nearly right, and one of a single prediction that is not."""
    cells = populations(ModelError(0.05, 0.3, 0.1), n_groups=10)
    group = np.where(cells.table < 9, 0, 1)
    noise = np.random.default_rng(0).normal(0, np.where(group == 0, 0.05, 0.5))
    parts = Calibration(**{**vars(cells), "real": cells.change + noise, "group": group})
    half = margin(parts.change, parts.sampling, parts.sd, found(parts)[0], 0.9)
    inside = np.abs(noise) <= half
    assert np.mean([inside[group == name].mean() for name in (0, 1)]) == pytest.approx(0.9, abs=0.02)


def test_quantiles_of_all_levels():
    error = ModelError(0.1, 0.1, quantiles=np.linspace(0.02, 3.0, 99))
    assert error.quantile(0.5) == pytest.approx(np.linspace(0.02, 3.0, 99)[49])
    assert error.quantile(1e-6) < 1e-4
    levels = [error.quantile(level) for level in (0.001, 0.3, 0.9, 0.99, 0.995, 0.9999)]
    assert levels == sorted(levels)
    assert ModelError(0.1, 0.1).quantile(0.9) == pytest.approx(stats.norm.ppf(0.95))


def test_factors_by_name():
    error = ModelError(0.1, 0.1, factors=pd.Series([2.0, 3.0], index=["a", "b"]))
    np.testing.assert_array_equal(error.of_genes(pd.Index(["b", "c", "a"])), [3.0, 1.0, 2.0])
    with pytest.raises(KeyError, match="model error of these genes"):
        error.of_genes(pd.Index(["x", "y"]))
