"""What sets a label apart, foretold from those like it: what repeats is found, and nothing where nothing does."""

import numpy as np
import pytest

from trvae_scvi._math._kriging import deviation_of_new_label

GENES, ERROR, SPREAD = 400, 0.1, 0.5


def simulate(rng, *, share, n_labels=12):
    """Labels along three directions; deviations follow these in a share of their variance. The last label is new."""
    places = rng.normal(size=(n_labels, 3))
    states = places @ rng.normal(size=(3, GENES)) + rng.normal(0, 0.1, (n_labels, GENES))
    covariance = share * np.exp(-((places[:, None] - places) ** 2).sum(axis=-1) / 6.0) + (1.0 - share) * np.eye(
        n_labels
    )
    deviation = SPREAD * np.linalg.cholesky(covariance + 1e-9 * np.eye(n_labels)) @ rng.normal(size=(n_labels, GENES))
    shared = rng.normal(0, 0.3, GENES)
    change = shared + deviation + rng.normal(0, ERROR, deviation.shape)
    return (
        change[:-1],
        np.full((n_labels - 1, GENES), ERROR**2),
        shared,
        np.full(GENES, SPREAD**2),
        states,
        deviation[-1],
    )


def error_left(share, seed, **more):
    """Mean squared error of what is expected, beside that of expecting nothing."""
    *given, real = simulate(np.random.default_rng(seed), share=share, **more)
    found = deviation_of_new_label(*given)
    return ((found - real) ** 2).mean() / (real**2).mean()


def test_labels_that_are_alike_tell_of_each_other_as_far_as_alike_ones_differ_alike():
    left = {share: np.mean([error_left(share, seed) for seed in range(10)]) for share in (0.0, 0.5, 1.0)}
    assert left[1.0] < 0.35
    assert left[1.0] < left[0.5] < 0.9
    assert left[0.0] < 1.02  # nothing is made of what does not repeat


@pytest.mark.parametrize(("n_labels", "at_worst"), [(3, 1.3), (4, 1.1), (6, 1.02)])
def test_few_labels_gain_more_where_deviations_repeat_than_they_lose_where_not(n_labels, at_worst):
    """Two measured labels cannot tell which it is."""
    lost, left = (np.mean([error_left(share, seed, n_labels=n_labels) for seed in range(100)]) for share in (0.0, 1.0))
    assert lost < at_worst
    assert left < 0.75


def test_what_is_noise_is_not_taken_for_a_deviation():
    change, error, shared, variance, states, _ = simulate(np.random.default_rng(0), share=1.0)
    assert np.abs(deviation_of_new_label(change, 1e6 * error, shared, variance, states)).max() < 0.01
    assert not deviation_of_new_label(change, error, shared, 0.0 * variance, states).any()


def test_a_label_far_from_all_others_is_not_extrapolated_to_without_end():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=GENES)
    change = np.stack([np.full(GENES, SPREAD), np.full(GENES, -SPREAD)])
    error, shared, variance = np.full((2, GENES), 1e-6), np.zeros(GENES), np.full(GENES, SPREAD**2)
    for far in (3.0, 1000.0):
        states = np.stack([0.0 * direction, direction, far * direction])
        found = deviation_of_new_label(change, error, shared, variance, states)
        assert np.abs(found).max() < 3.0 * SPREAD


def test_means_known_exactly_are_taken_as_they_are():
    change, error, shared, variance, states, real = simulate(np.random.default_rng(3), share=1.0)
    for some in (0.0 * error, np.where(np.arange(len(error))[:, None] == 0, 0.0, error)):
        found = deviation_of_new_label(change, some, shared, variance, states)
        assert ((found - real) ** 2).mean() < (real**2).mean()


def test_a_single_label_and_labels_that_are_all_the_same_tell_nothing():
    change, error, shared, variance, states, _ = simulate(np.random.default_rng(0), share=1.0)
    none, one = (deviation_of_new_label(change[:n], error[:n], shared, variance, states[-n - 1 :]) for n in (0, 1))
    assert not one.any()
    assert not none.any()
    assert not deviation_of_new_label(change, error, shared, variance, np.ones_like(states)).any()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_nothing_depends_on_the_scale_of_the_values(scale):
    change, error, shared, variance, states, _ = simulate(np.random.default_rng(1), share=1.0)
    found = deviation_of_new_label(change, error, shared, variance, states)
    scaled = deviation_of_new_label(
        scale * change, scale**2 * error, scale * shared, scale**2 * variance, scale * states
    )
    np.testing.assert_allclose(scaled / scale, found, rtol=1e-6)


def test_a_label_with_noisy_means_counts_for_less():
    change, error, shared, variance, states, _ = simulate(np.random.default_rng(2), share=1.0)
    noisy, wrong = error.copy(), change.copy()
    noisy[0], wrong[0] = 1e4, change[0] + 50.0
    found, without = (
        deviation_of_new_label(*cells, shared, variance, means)
        for cells, means in (((wrong, noisy), states), ((change[1:], error[1:]), states[1:]))
    )
    assert np.corrcoef(found, without)[0, 1] > 0.9
