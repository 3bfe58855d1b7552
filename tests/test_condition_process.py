"""How alike conditions are by what describes them: scales, expected effects and their spread, against a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trvae_scvi._math._condition_process import ConditionProcess, Effects, fit_condition_process

N_CONDITIONS, N_OTHERS, N_GENES = 60, 100, 300


def drawn(explained, *, seed=0, noise=0.1, shared=0.0):
    """Descriptions and effects of measured conditions and of others, half of the genes weakly responding."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((N_CONDITIONS + N_OTHERS, 5)) / np.sqrt(5)
    size = np.where(np.arange(N_GENES) % 2, 1.0, 0.2)
    true = np.sqrt(explained) * features @ rng.standard_normal((5, N_GENES))
    true = true + np.sqrt(1 - explained) * rng.standard_normal((len(features), N_GENES))
    true = (true + shared * rng.standard_normal(N_GENES)) * size
    control = np.sqrt(noise / 4) * rng.standard_normal(N_GENES)
    estimate = true[:N_CONDITIONS] + np.sqrt(noise) * rng.standard_normal((N_CONDITIONS, N_GENES)) - control
    effects = Effects(
        estimate,
        np.full(estimate.shape, noise),
        np.full(N_GENES, noise / 4),
        np.ones(N_GENES, dtype=bool),
    )
    return features[:N_CONDITIONS], effects, features[N_CONDITIONS:], true[N_CONDITIONS:]


@pytest.mark.parametrize("explained", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_descriptions_explain_is_found(explained, seed):
    features, effects, _, _ = drawn(explained, seed=seed)
    assert fit_condition_process(features, effects).share_described == pytest.approx(explained, abs=0.1)


def test_what_all_conditions_share_is_found():
    without, with_it = (fit_condition_process(*drawn(0.5, shared=s)[:2]).variances for s in (0.0, 1.0))
    assert without[0] < 0.05 * without.sum()
    # half of the variance, of which the smooth part can take some: far from the origin its effects are alike, too
    assert 0.25 * with_it.sum() < with_it[0] < 0.6 * with_it.sum()


@pytest.mark.parametrize("explained", [0.0, 0.5, 1.0])
def test_expected_effects_are_better_than_the_mean_response_and_as_good_as_the_best_linear_fit(explained):
    features, effects, others, true = drawn(explained, shared=0.5)
    found = fit_condition_process(features, effects).predict(others).effect
    error, of_mean = (((guess - true) ** 2).mean() for guess in (found, effects.estimate.mean(axis=0)))
    design = np.column_stack([np.ones(N_CONDITIONS), features])
    asked = np.column_stack([np.ones(N_OTHERS), others])

    def linear(penalty):
        weights = np.linalg.solve(design.T @ design + penalty * np.diag([0, *[1] * 5]), design.T @ effects.estimate)
        return ((asked @ weights - true) ** 2).mean()

    best = min(linear(penalty) for penalty in (0.0, 0.1, 1.0, 10.0, 100.0, 1e4))
    assert error < 1.03 * best
    assert error < 1.01 * of_mean
    if explained == 1.0:
        assert error < 0.1 * of_mean


@pytest.mark.parametrize("explained", [0.0, 0.5, 1.0])
def test_standard_deviations_cover_what_they_say(explained):
    features, effects, others, true = drawn(explained)
    found = fit_condition_process(features, effects).predict(others)
    z = np.abs(found.effect - true) / found.sd
    assert (z < stats.norm.ppf(0.95)).mean() == pytest.approx(0.9, abs=0.05)


def test_the_noise_of_the_control_is_no_response():
    """Estimates share the control's noise: it is not what all conditions have in common."""
    rng = np.random.default_rng(0)
    control = rng.standard_normal(N_GENES)
    effects = Effects(
        0.3 * rng.standard_normal((N_CONDITIONS, N_GENES)) - control,
        np.full((N_CONDITIONS, N_GENES), 0.01),
        np.ones(N_GENES),
        np.ones(N_GENES, dtype=bool),
    )
    features = rng.standard_normal((N_CONDITIONS, 3))
    found = fit_condition_process(features, effects).predict(rng.standard_normal((20, 3)))
    assert np.abs(found.effect).mean() < 0.3 * np.abs(control).mean()
    # but known to be there
    assert ((found.of_control + control) ** 2).mean() < 0.1 * (control**2).mean()


def test_the_origin_is_the_control_and_what_is_far_from_all_is_the_mean_response():
    features, effects, _, _ = drawn(1.0, shared=1.0)
    process = fit_condition_process(features, effects)
    found = process.predict(np.zeros((1, 5)))
    assert (found.effect == 0).all()
    assert (found.sd == 0).all()
    assert found.explained.tolist() == [1.0]
    apart = np.hstack([features, np.zeros((N_CONDITIONS, 1))])
    found = fit_condition_process(apart, effects).predict(np.array([[0, 0, 0, 0, 0, 3.0]]))
    mean = effects.estimate.mean(axis=0)
    assert np.corrcoef(found.effect[0], mean)[0, 1] > 0.9
    assert found.described[0] < 0.3


def test_nothing_hangs_on_the_unit_of_descriptions_or_effects():
    features, effects, others, _ = drawn(0.5)
    plain = fit_condition_process(features, effects).predict(others)
    scaled = Effects(10 * effects.estimate, 100 * effects.noise, 100 * effects.control_noise, effects.informative)
    found = fit_condition_process(1000 * features, scaled).predict(1000 * others)
    np.testing.assert_allclose(found.effect, 10 * plain.effect, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.sd, 10 * plain.sd, rtol=1e-3)


def test_a_column_that_says_nothing_changes_nothing():
    features, effects, others, _ = drawn(0.5)
    plain = fit_condition_process(features, effects).predict(others)
    more, asked = (np.hstack([table, np.zeros((len(table), 7))]) for table in (features, others))
    np.testing.assert_allclose(fit_condition_process(more, effects).predict(asked).effect, plain.effect, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_conditions_do_not_claim_to_know(n):
    features, effects, others, _ = drawn(1.0)
    few = Effects(effects.estimate[:n], effects.noise[:n], effects.control_noise, effects.informative)
    process = fit_condition_process(features[:n], few)
    found = process.predict(others)
    assert np.isfinite(found.effect).all()
    assert (found.explained < 0.95).all()
    assert 0.1 < process.share_described < 0.99


def test_many_conditions_are_as_cheap_as_one_system_of_equations():
    rng = np.random.default_rng(0)
    features, n = rng.standard_normal((400, 5)), 400
    effects = Effects(
        features @ rng.standard_normal((5, 50)) + 0.1 * rng.standard_normal((n, 50)),
        np.full((n, 50), 0.01),
        np.full(50, 0.001),
        np.ones(50, dtype=bool),
    )
    process = fit_condition_process(features, effects)
    assert isinstance(process, ConditionProcess)
    assert process.share_described > 0.95


# ---- what would mislead


def sparse(explained, *, n_silent=0, seed=0, noise=0.1, control=0.1):
    """As :func:`drawn`, with 5 % of the genes responding, and a control that is as noisy as the conditions."""
    rng = np.random.default_rng(seed)
    n_genes = 1000 + n_silent
    features = rng.standard_normal((N_CONDITIONS + N_OTHERS, 5))
    size = np.where(np.arange(n_genes) < 50, rng.standard_t(3, n_genes), 0.0)
    true = np.sqrt(explained / 5) * features @ rng.standard_normal((5, n_genes))
    true = (true + np.sqrt(1 - explained) * rng.standard_normal((len(features), n_genes))) * size
    estimate = true[:N_CONDITIONS] + np.sqrt(noise) * rng.standard_normal((N_CONDITIONS, n_genes))
    estimate -= np.sqrt(control) * rng.standard_normal(n_genes)
    effects = Effects(estimate, np.full(estimate.shape, noise), np.full(n_genes, control), np.ones(n_genes, dtype=bool))
    return features[:N_CONDITIONS], effects, features[N_CONDITIONS:], true[N_CONDITIONS:]


@pytest.mark.parametrize("n_silent", [0, 10_000])
@pytest.mark.parametrize("explained", [0.0, 1.0])
def test_silent_genes_and_the_noise_of_the_control_are_no_response(n_silent, explained):
    features, effects, others, true = sparse(explained, n_silent=n_silent)
    process = fit_condition_process(features, effects)
    assert process.share_described == pytest.approx(explained, abs=0.1)
    assert process.variances[0] < 0.1 * process.variances.sum()
    found = process.predict(others)
    of_no_change = (true**2).mean()
    assert ((found.effect - true) ** 2).mean() < (1.05 if explained == 0 else 0.1) * of_no_change
    responds = np.argsort(-(true**2).mean(axis=0))[:25]
    covered = np.abs(found.effect - true)[:, responds] < stats.norm.ppf(0.95) * found.sd[:, responds]
    assert 0.82 < covered.mean()


def test_a_condition_of_hardly_any_cells_does_not_rule_the_others():
    features, effects, others, true = drawn(1.0)
    factor = np.where(np.arange(N_CONDITIONS) == 0, 1000.0, 1.0)[:, None]
    noisy = np.random.default_rng(1).standard_normal(N_GENES) * np.sqrt(100.0)
    estimate = effects.estimate + np.where(factor > 1, noisy, 0.0)
    worse = effects._replace(estimate=estimate, noise=effects.noise * factor)
    plain, found = (fit_condition_process(features, e).predict(others) for e in (effects, worse))
    error, usual = (((f.effect - true) ** 2).mean() for f in (found, plain))
    assert error < 1.3 * usual


def test_a_condition_unlike_all_others_does_not_ruin_them():
    features, effects, others, true = drawn(1.0)
    effects.estimate[0] += 30.0 * np.random.default_rng(1).standard_normal(N_GENES)
    process = fit_condition_process(features, effects)
    assert process.outlying[0] > 10.0 * np.delete(process.outlying, 0).max()
    assert ((process.predict(others).effect - true) ** 2).mean() < 0.15 * (true**2).mean()


def test_effects_of_nothing_are_nothing():
    features, effects, others, _ = drawn(1.0)
    nothing = effects._replace(estimate=np.zeros_like(effects.estimate))
    found = fit_condition_process(features, nothing).predict(others)
    assert np.abs(found.effect).max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_conditions_are_weighted_as_they_are_added(n):
    """Only products of variances are determined: they stay on one scale, and what is said of a prediction is true."""
    rng = np.random.default_rng(0)
    true = (rng.random((n, 200)) < 0.2) * rng.normal(0, 0.8, (n, 200))
    noise = np.full((n, 200), 0.01)
    effects = Effects(
        true + 0.1 * rng.standard_normal(true.shape), noise, np.full(200, 0.003), np.ones(200, dtype=bool)
    )
    process = fit_condition_process(np.eye(n), effects)
    assert process.variances.sum() == pytest.approx(1.0)
    found = process.predict(np.ones((1, n)))
    slope = np.polyfit(true.sum(axis=0), found.effect[0], 1)[0]
    assert found.weights.mean() == pytest.approx(slope, abs=0.1)
    assert found.explained[0] > 0.4
