"""The mixed model of group means: what was simulated is found again, and nothing where there was nothing."""

import numpy as np
import pytest

from trvae_scvi._math._mixed_model import GroupMeans, fit_mixed_model, shrinkage

GENES = 2000


def simulate(rng, *, effect=1.0, between=0.0, spread=1.0, error=0.05, shape=(2, 6), responding=0.1):
    """Means of groups by the model itself; also what they were made of."""
    conditions, labels = shape
    m = np.where(rng.random((conditions, GENES)) < responding, rng.normal(0, effect, (conditions, GENES)), 0.0)
    m -= m.mean(axis=0)
    a = rng.normal(0, spread, (labels, GENES))
    v = rng.normal(0, between, (conditions, labels, GENES))
    truth = a + m[:, None] + v
    noise = np.full(truth.shape, error**2)
    groups = GroupMeans(truth + rng.normal(0, error, truth.shape), noise, np.full(shape, 50.0))
    return groups, m, a, truth


def test_posterior_means_are_better_than_the_estimates_and_know_how_good_they_are():
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(GENES) < 0.1, rng.normal(0, 1.0, GENES), 0.0)
    noise = rng.uniform(0.01, 0.25, GENES)
    estimate = truth + rng.normal(0, np.sqrt(noise))
    factor, variance = shrinkage(estimate, noise)
    errors = (factor * estimate - truth) ** 2
    assert errors.mean() < 0.5 * min(((estimate - truth) ** 2).mean(), (truth**2).mean())
    assert errors.mean() == pytest.approx(variance.mean(), rel=0.15)
    strong = np.abs(estimate) > 2.0
    np.testing.assert_allclose(factor[strong], 1.0 / (1.0 + noise[strong]), atol=0.05)  # as if the prior were known
    assert np.median(factor) < 0.1  # what is noise does not


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_where_nothing_happens_nothing_is_found_on_any_scale(scale):
    rng = np.random.default_rng(1)
    noise = np.full(GENES, scale**2)
    factor, _ = shrinkage(rng.normal(0, scale, GENES), noise)
    assert factor.max() < 0.2
    assert (factor * np.sqrt(noise)).mean() < 0.05 * scale


def test_an_effect_is_found_again_and_none_where_there_is_none():
    rng = np.random.default_rng(2)
    groups, m, _, _ = simulate(rng)
    found = fit_mixed_model(groups, labels_differ=True)
    assert np.corrcoef(found.effect.ravel(), m.ravel())[0, 1] > 0.99
    assert ((found.effect - m) ** 2).mean() == pytest.approx(found.variance.mean(), rel=0.3)
    assert found.n_labels == pytest.approx([6.0, 6.0], rel=0.1)
    nothing = fit_mixed_model(simulate(rng, effect=0.0)[0], labels_differ=True)
    assert (nothing.effect**2).mean() < 0.05 * 0.05**2 / 6


def test_the_prior_is_that_of_which_the_effect_is_the_posterior_mean():
    groups, *_ = simulate(np.random.default_rng(3), shape=(2, 1))
    found = fit_mixed_model(groups, labels_differ=False)
    raw = groups.mean[:, 0] - groups.mean[:, 0].mean(axis=0)
    noise = 0.5 * groups.error[:, 0]  # of a difference from the mean of two
    np.testing.assert_allclose(raw * found.prior_variance / (found.prior_variance + noise), found.effect, atol=1e-6)


def test_other_shares_of_the_labels_are_no_effect():
    """Labels that are far apart, one of them hardly there under one condition."""
    rng = np.random.default_rng(4)
    groups, *_ = simulate(rng, effect=0.0, spread=3.0, error=0.1)
    n, error = groups.n.copy(), groups.error.copy()
    n[0, :3], error[0, :3] = 2.0, 1.0
    mean = groups.mean + np.where(error > 0.5, rng.normal(0, 1.0, error.shape), 0.0)
    found = fit_mixed_model(GroupMeans(mean, error, n), labels_differ=False)
    assert (found.effect**2).mean() < 1e-3


@pytest.mark.parametrize("between", [0.0, 0.3])
def test_how_far_labels_differ_is_found_again(between):
    groups, *_ = simulate(np.random.default_rng(5), between=between)
    found = fit_mixed_model(groups, labels_differ=True)
    assert found.between.mean() == pytest.approx(between**2, rel=0.15, abs=3e-4)


def test_a_label_that_was_not_seen_is_predicted_better_than_by_shift_or_no_change():
    """Where labels share a response, where they do not, and where nothing happens."""
    rng = np.random.default_rng(6)
    for effect, between in ((1.0, 0.1), (0.3, 0.3), (0.0, 0.1)):
        groups, _, _, truth = simulate(rng, effect=effect, between=between, error=0.1, responding=0.3)
        hidden = groups.n.copy()
        hidden[1, 0] = 0.0
        found = fit_mixed_model(groups._replace(n=hidden), labels_differ=True)
        mean = groups.mean
        shift = mean[0, 0] + (mean[1, 1:] - mean[0, 1:]).mean(axis=0)
        errors = [
            ((guess - truth[1, 0]) ** 2).mean() for guess in (found.baseline[0] + found.effect[1], mean[0, 0], shift)
        ]
        assert errors[0] < min(errors[1:])


def test_what_was_compared_with_nothing_has_no_effect():
    groups, *_ = simulate(np.random.default_rng(7), shape=(3, 2))
    n = np.array([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])  # the third condition shares no label with the others
    found = fit_mixed_model(groups._replace(n=n), labels_differ=True)
    assert (found.effect[2] == 0.0).all() and found.n_labels[2] == 0.0
    assert np.isinf(found.prior_variance[2]).all()
    alone = fit_mixed_model(groups._replace(n=np.eye(3, 2) * 50.0), labels_differ=True)
    assert (alone.effect == 0.0).all() and np.isfinite(alone.baseline).all()


def test_many_groups_are_fitted_a_part_of_the_genes_at_a_time(monkeypatch):
    groups, *_ = simulate(np.random.default_rng(8), between=0.2)
    whole = fit_mixed_model(groups, labels_differ=True)
    monkeypatch.setattr("trvae_scvi._math._mixed_model._ENTRIES", 1)
    parts = fit_mixed_model(groups, labels_differ=True)
    for name in ("effect", "baseline", "between", "n_labels"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=0.1, atol=0.02)
