"""The mixed model of group means: what was simulated is found again, and nothing where there was nothing."""

import numpy as np
import pytest

from trvae_scvi._math._mixed_model import GroupMeans, fit_mixed_model
from trvae_scvi._math._shrinkage import shrinkage

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
    found = fit_mixed_model(groups)
    assert np.corrcoef(found.effect.ravel(), m.ravel())[0, 1] > 0.99
    assert ((found.effect - m) ** 2).mean() == pytest.approx(found.variance.mean(), rel=0.3)
    assert found.n_labels == pytest.approx([6.0, 6.0], rel=0.1)
    nothing = fit_mixed_model(simulate(rng, effect=0.0)[0])
    assert (nothing.effect**2).mean() < 0.05 * 0.05**2 / 6


@pytest.mark.parametrize("between", [0.0, 0.3])
def test_how_far_labels_differ_is_found_again(between):
    groups, *_ = simulate(np.random.default_rng(5), between=between)
    found = fit_mixed_model(groups)
    assert found.between.mean() == pytest.approx(between**2, rel=0.15, abs=3e-4)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_nothing_depends_on_the_scale_of_the_values(scale):
    groups, *_ = simulate(np.random.default_rng(11), between=0.2)
    found = fit_mixed_model(groups)
    other = fit_mixed_model(GroupMeans(groups.mean * scale, groups.error * scale**2, groups.n))
    np.testing.assert_allclose(other.effect, found.effect * scale, rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(other.baseline, found.baseline * scale, rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(other.n_labels, found.n_labels, rtol=1e-6)


def test_small_groups_neither_count_as_labels_nor_as_disagreement():
    """Where errors are known and labels do not differ: a group of few cells misses by more, as it must."""
    rng = np.random.default_rng(9)
    for n, labels in (([[400, 400], [400, 3]], 1.0), ([[400] * 6, [400, *[5] * 5]], 1.1), ([[400, 400]] * 2, 2.0)):
        n = np.array(n, float)
        error = np.repeat(1.0 / n[..., None], GENES, axis=-1)
        mean = rng.normal(0, 1, (1, n.shape[1], GENES)) + rng.normal(size=error.shape) * np.sqrt(error)
        found = fit_mixed_model(GroupMeans(mean, error, n))
        assert labels - 0.15 < found.n_labels[1] < labels + 0.5
        assert found.between.mean() < 0.02  # single genes, which cannot be below 0; the small group's own error is 0.33
        assert np.sqrt(((found.effect[1] - found.effect[0]) ** 2).mean()) < 0.01


def test_the_noise_of_a_small_condition_stays_with_it():
    """Control of 2,000 cells and 20 under the other condition: nothing is said of the first."""
    rng = np.random.default_rng(10)
    n = np.array([[2000.0] * 3, [20.0] * 3])
    error = np.repeat(1.0 / n[..., None], GENES, axis=-1)
    truth = np.where(rng.random(GENES) < 0.2, rng.normal(0, 0.5, GENES), 0.0) * np.array([0.0, 1.0])[:, None]
    mean = rng.normal(0, 1, (1, 3, GENES)) + truth[:, None] + rng.normal(size=error.shape) * np.sqrt(error)
    found = fit_mixed_model(GroupMeans(mean, error, n))
    change = found.effect[1] - found.effect[0]
    assert ((change - truth[1]) ** 2).mean() == pytest.approx(found.variance.sum(axis=0).mean(), rel=0.3)
    assert (change * truth[1]).sum() / (change**2).sum() == pytest.approx(1.0, abs=0.15)


def test_a_label_that_was_not_seen_is_predicted_better_than_by_shift_or_no_change():
    """Where labels share a response, where they do not, and where nothing happens."""
    rng = np.random.default_rng(6)
    for effect, between in ((1.0, 0.1), (0.3, 0.3), (0.0, 0.1)):
        groups, _, _, truth = simulate(rng, effect=effect, between=between, error=0.1, responding=0.3)
        hidden = groups.n.copy()
        hidden[1, 0] = 0.0
        found = fit_mixed_model(groups._replace(n=hidden))
        mean = groups.mean
        shift = mean[0, 0] + (mean[1, 1:] - mean[0, 1:]).mean(axis=0)
        errors = [
            ((guess - truth[1, 0]) ** 2).mean() for guess in (found.baseline[0] + found.effect[1], mean[0, 0], shift)
        ]
        assert errors[0] < min(errors[1:])


def test_what_was_compared_with_nothing_has_no_effect():
    groups, *_ = simulate(np.random.default_rng(7), shape=(3, 2))
    n = np.array([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])  # the third condition shares no label with the others
    found = fit_mixed_model(groups._replace(n=n))
    assert (found.effect[2] == 0.0).all() and found.n_labels[2] == 0.0
    alone = fit_mixed_model(groups._replace(n=np.eye(3, 2) * 50.0))
    assert (alone.effect == 0.0).all() and np.isfinite(alone.baseline).all()


def test_many_groups_are_fitted_a_part_of_the_genes_at_a_time(monkeypatch):
    groups, *_ = simulate(np.random.default_rng(8), between=0.2)
    whole = fit_mixed_model(groups)
    monkeypatch.setattr("trvae_scvi._math._mixed_model._ENTRIES", 1)
    parts = fit_mixed_model(groups)
    for name in ("effect", "baseline", "between", "n_labels"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=0.1, atol=0.02)
