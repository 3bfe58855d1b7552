"""The prior of offsets: what conditions do to all labels is found again, and nothing where there is nothing."""

import numpy as np
import pytest

from trvae_scvi._math._offset_prior import GroupRates, _fit, _Variance, fit_offset_prior

GENES, TOTAL = 2000, 1000.0


def simulate(n, *, responding=0.1, size=1.0, dispersion=0.0, totals=TOTAL, seed=0, link="log"):
    """Means of groups of `n` cells of so many counts, from genes of very different abundance; and the true effects."""
    rng, n = np.random.default_rng(seed), np.asarray(n, float)
    share = np.exp(rng.normal(0, 2, GENES))
    share = share / share.sum() * np.exp(rng.normal(0, 0.5, (n.shape[1], GENES)))
    effect = rng.normal(0, size, (len(n), GENES)) * (rng.random((len(n), GENES)) < responding)
    effect[0] = 0.0
    totals = np.broadcast_to(totals, len(n)).astype(float)
    expected = (totals[:, None] * n)[..., None] * share * np.exp(effect)[:, None]
    mu, size_of = expected, n[..., None] / max(dispersion, 1e-12)  # sums of cells with one dispersion each
    if dispersion:
        size_of = np.broadcast_to(np.maximum(size_of, 1e-12), mu.shape)
        mu = rng.gamma(size_of) * mu / size_of
    counts = rng.poisson(mu)
    unit = 1.0 / np.maximum(totals[:, None] * n, 1.0)
    shape = share.shape
    rates = GroupRates(counts * unit[..., None], unit, np.ones(shape), np.full(shape, dispersion), n, link)
    return rates, effect, expected


DESIGNS = {
    "balanced": [[100] * 5] * 2,
    "few cells of one condition": [[200] * 10, [3] * 10],
    "labels in reversed shares": [[5000, 5], [5, 5000]],
    "thirty small conditions": [[200] * 3, *[[5] * 3] * 29],
    "each stimulus in half of the labels": [[30] * 8, [1000] * 4 + [0] * 4, [0] * 4 + [1000] * 4],
    "no labels": [[300], [20]],
}


@pytest.mark.parametrize("dispersion", [0.0, 1.0])
@pytest.mark.parametrize("totals", [(1000.0,), (500.0, 8000.0), (4000.0, 500.0)])
@pytest.mark.parametrize("design", DESIGNS)
def test_where_nothing_happens_nothing_is_found_whatever_the_numbers_of_cells(design, totals, dispersion):
    totals = np.resize(totals, len(DESIGNS[design]))
    rates, _, _ = simulate(DESIGNS[design], responding=0.0, totals=totals, dispersion=dispersion)
    found = fit_offset_prior(rates)
    assert np.sqrt(((found.effect - found.effect[0]) ** 2).mean(axis=1)).max() < 0.05
    assert np.median(found.scale) < 0.1


@pytest.mark.parametrize("design", DESIGNS)
def test_effects_are_found_where_counts_are_enough_and_never_exaggerated(design):
    rates, effect, expected = simulate(DESIGNS[design])
    found = fit_offset_prior(rates)
    there = np.asarray(DESIGNS[design]) > 0
    # counts that the comparison of a label rests on: those of its smaller group
    known = np.minimum(expected, np.where(there[:1, :, None], expected[:1], np.inf)) * there[..., None]
    guesses = found.effect - found.effect[0]
    assert 0.9 < (guesses * effect).sum() / (guesses**2).sum() < 1.2  # the slope of truth on guess
    for s in range(1, min(len(effect), 3)):
        guess, truth, counts = guesses[s], effect[s], known[s].sum(axis=0)
        many = counts > 100
        assert ((guess - truth)[many] ** 2).mean() < 0.35 * (truth[many] ** 2).mean()
        assert ((guess - truth) ** 2).mean() < (truth**2).mean()


def test_a_strong_effect_is_not_shrunk_up_or_down():
    rates, _, expected = simulate([[200] * 3, [200] * 3], responding=0.0)
    mean = rates.mean.copy()
    genes = np.flatnonzero(expected[0].sum(axis=0) > 1000)[:40]
    mean[1][:, genes[:20]] *= 30.0
    mean[1][:, genes[20:]] /= 30.0
    found = fit_offset_prior(rates._replace(mean=mean))
    change = found.effect[1] - found.effect[0]
    np.testing.assert_allclose(change[genes[:20]], np.log(30.0), rtol=0.05)
    np.testing.assert_allclose(change[genes[20:]], -np.log(30.0), rtol=0.15)


def test_multiples_of_size_factors_have_effects_on_the_scale_before_softplus():
    """At any level, that of the softplus where it is an exponential and where it is the identity."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.uniform(-5.0, 8.0, GENES)) * np.where(rng.random(GENES) < 0.2, 2.0, 1.0) ** np.array([[0], [1]])
    output = mean + np.log(-np.expm1(-mean))
    effect, mean, unit = output[1] - output[0], mean[:, None], np.full((2, 1), 1e-6)
    found = fit_offset_prior(
        GroupRates(mean, unit, np.ones((1, GENES)), np.zeros((1, GENES)), np.full((2, 1), 1e4), "softplus")
    )
    np.testing.assert_allclose(found.effect[1] - found.effect[0], effect, rtol=0.06, atol=0.02)
    np.testing.assert_allclose(np.logaddexp(0.0, found.level), mean.mean(axis=0)[0], rtol=1e-6)
    there = effect > 0
    ratio = found.scale[1][there] / effect[there]
    assert ratio.min() > 0.1 and np.median(ratio) > 0.3


@pytest.mark.parametrize("link", ["logit", "identity"])
def test_values_have_effects_on_the_scale_of_their_output(link):
    rng = np.random.default_rng(0)
    output = rng.normal(0.0, 1.0, (3, GENES))
    effect = np.where(rng.random(GENES) < 0.2, 1.0, 0.0)
    both = np.stack([output, output + effect])
    mean = 1.0 / (1.0 + np.exp(-both)) if link == "logit" else both
    n = np.array([[500.0, 40.0, 20.0], [20.0, 500.0, 0.0]])
    found = fit_offset_prior(
        GroupRates(mean, 1.0 / np.maximum(n, 1.0), np.full((3, GENES), 0.05), np.zeros((3, GENES)), n, link)
    )
    np.testing.assert_allclose(found.effect[1] - found.effect[0], effect, atol=0.1)


def test_conditions_that_nothing_connects_have_no_prior_and_parts_are_not_compared():
    rates, _, _ = simulate([[200, 0, 0], [200, 0, 0], [0, 200, 0], [0, 200, 0], [0, 0, 50]], size=2.0)
    found = fit_offset_prior(rates)
    assert np.isinf(found.scale[4]).all() and (found.effect[4] == 0.0).all()
    for pair in ((0, 1), (2, 3)):
        alone = fit_offset_prior(
            rates._replace(mean=rates.mean[list(pair)], unit=rates.unit[list(pair)], n=rates.n[list(pair)])
        )
        np.testing.assert_allclose(found.effect[list(pair)], alone.effect, atol=1e-6)


def test_genes_that_were_never_seen_and_many_groups_at_a_time(monkeypatch):
    rates, _, _ = simulate([[50, 50], [50, 5]])
    mean = rates.mean.copy()
    mean[..., :10] = 0.0
    mean[:, 0, 10:20] = 0.0
    rates = rates._replace(mean=mean)
    whole = fit_offset_prior(rates)
    assert np.isfinite(whole.effect).all() and (np.abs(whole.effect[:, :10]) < 1e-3).all()
    monkeypatch.setattr("trvae_scvi._math._offset_prior._ENTRIES", 50)
    for part, all_of in zip(fit_offset_prior(rates), whole, strict=True):
        np.testing.assert_allclose(part, all_of, rtol=1e-6, atol=1e-9)


def test_variances_are_those_over_repetitions_whatever_depth_and_fold():
    """Negative binomial cells: what they scatter more than counts hangs on the mean, not on the depth."""
    for totals, fold in (
        ((500.0, 8000.0), 1.0),
        ((4000.0, 500.0), 1.0),
        ((2000.0, 2000.0), 0.2),
        ((2000.0, 2000.0), 5.0),
    ):
        rng, n = np.random.default_rng(0), np.array([[400.0] * 3, [20.0] * 3])
        mu = np.array([1.0, fold])[:, None, None] * np.array(totals)[:, None, None] * np.full((2, 3, GENES), 0.01)
        sums = rng.poisson(rng.gamma(np.broadcast_to(n[..., None], mu.shape)) * mu)  # theta 1
        unit = 1.0 / (np.array(totals)[:, None] * n)
        ones = np.ones((3, GENES))
        rates = GroupRates(sums * unit[..., None], unit, ones, ones, n, "log")
        columns = np.zeros(2, int), np.zeros(3, int)
        effect, noise = _fit(rates.mean, _Variance(unit[..., None] * ones, ones / n[..., None], "log"), columns)
        assert effect[1].var() == pytest.approx(noise[1].mean(), rel=0.3), (totals, fold)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e8])
def test_values_on_any_scale_have_effects_on_it(scale):
    rng = np.random.default_rng(0)
    effect = np.where(rng.random(GENES) < 0.2, 1.0, 0.0)
    mean = rng.normal(0.0, 1.0, (3, GENES)) + np.array([0.0, 1.0])[:, None, None] * effect
    n = np.full((2, 3), 200.0)
    zeros = np.zeros((3, GENES))
    found = fit_offset_prior(
        GroupRates(mean * scale, 1.0 / n, np.full((3, GENES), 0.05 * scale**2), zeros, n, "identity")
    )
    np.testing.assert_allclose((found.effect[1] - found.effect[0]) / scale, effect, atol=0.1)
    assert np.median(found.scale[1][effect > 0]) > 0.3 * scale
