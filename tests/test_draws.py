"""Counts that are drawn where they are not zero follow the laws that SciPy has, at rates of any size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from trvae_scvi._math._draws import MAX_RATE, draw_nb, draw_poisson
from trvae_scvi._math._likelihoods import Decoded, NegativeBinomialCounts

N = 200_000


def filled(drawn, n=N):
    at, counts = drawn
    assert (np.diff(at) > 0).all()
    assert (counts > 0).all()
    full = np.zeros(n, np.int64)
    full[at] = counts
    return full


def assert_law(sample, law):
    """Chi-square test over about thirty bins of equal probability, as far as the law allows (fixed seeds)."""
    edges = np.unique(law.ppf(np.linspace(0.0, 1.0, 31)[1:-1]))
    expected = len(sample) * np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, sample), minlength=len(expected))
    kept = expected > 0
    assert (observed[~kept] == 0).all()
    assert kept.sum() > 1
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-3


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.9, 1.0, 1.1, 30.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_poisson(rate, dtype):
    sample = filled(draw_poisson(np.full(N, rate, dtype), np.random.default_rng(0)))
    if rate < 0.02:  # one bin holds all but a few
        assert stats.binomtest(int((sample > 0).sum()), N, -np.expm1(-rate)).pvalue > 1e-3
        return
    assert_law(sample, stats.poisson(rate))


@pytest.mark.parametrize(
    ("size", "odds"),
    [
        (0.01, 1e5),  # nearly always zero, and large otherwise
        (0.05, 3.0),
        (0.5, 0.2),
        (0.5, 10.0),
        (5.0, 0.01),
        (5.0, 0.19),
        (5.0, 0.25),
        (50.0, 100.0),
        (1e4, 1e-5),
        (1e4, 1e-3),
        (1e-3, 1e12),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nb(size, odds, dtype):
    drawn = draw_nb(np.full(1, size, dtype), np.full(N, odds, dtype), np.random.default_rng(1))
    law = stats.nbinom(size, 1.0 / (1.0 + odds))
    sample = filled(drawn)
    assert stats.binomtest(int((sample > 0).sum()), N, -np.expm1(-size * np.log1p(odds))).pvalue > 1e-3
    given = sample[sample > 0]
    if len(np.unique(given)) > 2:  # the law of what is positive
        p0 = law.pmf(0)
        edges = np.unique(law.ppf(p0 + (1.0 - p0) * np.linspace(0.0, 1.0, 16)[1:-1]))
        expected = len(given) * np.diff(np.concatenate([[p0], law.cdf(edges), [1.0]])) / (1.0 - p0)
        observed = np.bincount(np.searchsorted(edges, given), minlength=len(expected))
        enough = expected > 5
        observed = np.append(observed[enough], observed[~enough].sum())
        expected = np.append(expected[enough], expected[~enough].sum())
        observed, expected = observed[expected > 0], expected[expected > 0]
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


class Lowest:
    """Gives 0 for every uniform variable in single precision: rates below its resolution are decided by the rest."""

    def __init__(self):
        self.rng = np.random.default_rng(2)

    def random(self, shape, dtype=np.float64):
        return np.zeros(shape, dtype) if dtype == np.float32 else self.rng.random(shape)

    def __getattr__(self, name):
        return getattr(self.rng, name)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.01])
def test_rates_below_the_resolution_of_single_precision(share):
    rate = share * 2.0**-24
    for at, counts in (
        draw_poisson(np.full(N, rate, np.float32), Lowest()),
        draw_nb(np.full(N, 2.0, np.float32), np.full(N, rate / 2.0, np.float32), Lowest()),
    ):
        assert stats.binomtest(len(at), N, share).pvalue > 1e-3
        assert (counts == 1).all()
    assert len(draw_poisson(np.zeros(N, np.float32), Lowest())[0]) == 0
    assert len(draw_nb(np.ones(1), np.zeros(N), Lowest())[0]) == 0


def test_entries_keep_their_rates_and_places():
    rng = np.random.default_rng(3)
    rates = np.array([[0.0, 0.01, -1.0], [0.5, 3.0, 1e3]])
    draws = np.zeros((20_000, 6))
    for row in draws:
        at, counts = draw_poisson(rates, rng)
        row[at] = counts
    expected = np.maximum(rates.ravel(), 0.0)
    assert (np.abs(draws.mean(axis=0) - expected) <= 4 * np.sqrt(expected / len(draws))).all()
    for row in draws:
        at, counts = draw_nb(np.array([2.0, 1.0, 4.0]), rates / 10.0, rng)
        row[:] = 0
        row[at] = counts
    size = np.array([2.0, 1.0, 4.0, 2.0, 1.0, 4.0])
    variance = size * expected / 10.0 * (1.0 + expected / 10.0)
    assert (np.abs(draws.mean(axis=0) - size * expected / 10.0) <= 4 * np.sqrt(variance / len(draws))).all()


@pytest.mark.parametrize(("size", "odds"), [(0.02, 1e13), (0.01, 1e20), (0.01, 1e40)])
def test_odds_beyond_the_resolution_of_their_share(size, odds):
    """As t / (1 + t) has no digits left; the law goes over 40 decades, and counts end where they are cut."""
    _, counts = draw_nb(np.full(1, size), np.full(N, odds), np.random.default_rng(5))
    edges = np.array([0.0, 1.0, 3.0, 1e2, 1e5, 1e8, 1e11, 1e14])
    expected = N * np.diff(np.append(special.betainc(size, edges + 1.0, 1.0 / (1.0 + odds)), 1.0))
    observed = np.bincount(np.searchsorted(edges, counts) - 1, minlength=len(edges))
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_what_overflowed_is_drawn():
    for size in np.float32([1e-30, 1e-4, 1e-2, 1.0]):
        _, counts = draw_nb(np.full(1, size), np.full(5000, np.inf, np.float32), np.random.default_rng(6))
        assert (counts > 0).all()
        assert (counts <= 10 * MAX_RATE).all()


def test_samples_of_extreme_dispersions():
    shape = (200, 50)
    mu = np.full(shape, 3.0, np.float32)
    poisson = NegativeBinomialCounts().sample(Decoded(mu, np.full(50, np.inf, np.float32)), np.random.default_rng(7))
    assert_law(poisson.toarray().ravel(), stats.poisson(3.0))
    huge = NegativeBinomialCounts().sample(Decoded(mu * 1e12, np.zeros(50, np.float32)), np.random.default_rng(7))
    assert np.isfinite(huge.data).all()


def test_extremes_and_seeds():
    huge = np.array([0.0, 1e-38, 1e15, 1e30, 3e38], np.float32)
    for draw in (draw_poisson, lambda odds, rng: draw_nb(np.float32([1e-30, 1e-4, 1.0, 1e3, 1e6]), odds, rng)):
        at, counts = draw(huge, np.random.default_rng(4))
        again = draw(huge, np.random.default_rng(4))
        np.testing.assert_array_equal(at, again[0])
        np.testing.assert_array_equal(counts, again[1])
        assert (counts > 0).all()
        assert (counts <= 2 * MAX_RATE).all()
