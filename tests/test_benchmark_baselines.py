"""Fold change, shift in principal components and ridge regression, each against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from trvae_scvi.benchmark import fold_change, mean_shift, pca_shift, ridge_shift
from trvae_scvi.benchmark._linear_baselines import RIDGE_ALPHAS

# ---- fold change


def test_fold_change_of_two_groups_by_hand():
    # Proportions per 10,000 with a total of 10 are thousands; the fold changes of x are 2, 1/2, 1 and of y 8, 1/8, 1.
    controls = {"x": np.array([[2.0, 4.0, 4.0]]), "y": np.array([[1.0, 8.0, 1.0], [1.0, 8.0, 1.0]])}
    targets = {"x": np.array([[4.0, 2.0, 4.0]]), "y": np.array([[8.0, 1.0, 1.0]])}
    control = np.tile(np.array([[30.0, 50.0, 20.0]], dtype=np.float32), (20_000, 1))
    predicted = fold_change(control, controls, targets, pseudocount=0.0, theta=2.0)
    assert predicted.dtype == np.float32
    # Geometric means 4, 1/4 and 1. Each cell's mean is its count, so r > 1 adds (r - 1) (theta + x) / (theta / mu + 1).
    np.testing.assert_allclose(predicted.mean(axis=0), [30 + 3 * 32 / (2 / 30 + 1), 50 / 4, 20], rtol=0.005)
    assert (predicted[:, 0] >= 30).all()
    assert (predicted[:, 1] <= 50).all()
    np.testing.assert_array_equal(predicted[:, 2], 20)


def test_fold_change_reads_shares_not_totals():
    rng = np.random.default_rng(0)
    control, base, under = (rng.poisson(5, (8, 4)).astype(float) for _ in range(3))
    deep = fold_change(control, {"x": base * 7}, {"x": under * 3})
    np.testing.assert_array_equal(deep, fold_change(control, {"x": base}, {"x": under}))


def test_pseudocount_keeps_unseen_genes_finite():
    control = np.array([[5.0, 0.0, 5.0]])
    predicted = fold_change(control, {"x": np.array([[10.0, 0.0, 0.0]])}, {"x": np.array([[10.0, 0.0, 0.0]])})
    np.testing.assert_array_equal(predicted, control)


def test_fold_change_is_seeded():
    control = np.full((5, 3), 20.0)
    cells = {"x": np.array([[1.0, 2.0, 3.0]])}, {"x": np.array([[3.0, 2.0, 1.0]])}
    np.testing.assert_array_equal(fold_change(control, *cells, seed=3), fold_change(control, *cells, seed=3))
    assert (fold_change(control, *cells, seed=3) != fold_change(control, *cells, seed=4)).any()


@pytest.mark.parametrize("control", [[[0.5, 1.0]], [[-1.0, 1.0]]])
def test_fold_change_refuses_what_is_no_counts(control):
    with pytest.raises(ValueError, match="Expected counts"):
        fold_change(np.array(control), {"x": np.ones((1, 2))}, {"x": np.ones((1, 2))})


# ---- principal components and ridge


def groups_of_cells(n_groups, *, n_genes=8, seed=0):
    """Control cells of a group, and cells of others under both conditions."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n_groups)]
    controls = {name: 5 + rng.normal(size=n_genes) + rng.normal(size=(6 + i, n_genes)) for i, name in enumerate(names)}
    targets = {name: cells[:-1] + rng.normal(size=n_genes) for name, cells in controls.items()}
    return 5 + rng.normal(size=(7, n_genes)), controls, targets


def axes_by_svd(control, controls, targets, n_components):
    cells = np.concatenate([control, *controls.values(), *targets.values()])
    return np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)[2][:n_components]


def changes_of(controls, targets):
    return np.stack([targets[name].mean(axis=0) - controls[name].mean(axis=0) for name in targets])


def test_pca_shift_adds_the_projected_change():
    control, controls, targets = groups_of_cells(3)
    axes = axes_by_svd(control, controls, targets, 2)
    expected = control.copy()
    for axis in axes:
        expected += np.mean(changes_of(controls, targets) @ axis) * axis
    np.testing.assert_allclose(pca_shift(control, controls, targets, n_components=2), expected, rtol=1e-8)


def test_pca_shift_with_all_components_is_the_mean_shift():
    cells = groups_of_cells(3)
    assert not np.allclose(pca_shift(*cells, n_components=2), mean_shift(*cells))
    np.testing.assert_allclose(pca_shift(*cells), mean_shift(*cells), rtol=1e-8)


@pytest.mark.parametrize("n_groups", [5, 8])
def test_ridge_shift_leaves_each_group_out_to_choose_the_penalty(n_groups):
    control, controls, targets = groups_of_cells(n_groups, seed=n_groups)
    # The changes of these groups follow their control means, up to noise.
    targets = {name: cells[:-1] * np.linspace(0.8, 1.2, 8) + 0.01 * targets[name] for name, cells in controls.items()}
    axes = axes_by_svd(control, controls, targets, 4)
    inputs = np.stack([controls[name].mean(axis=0) for name in targets]) @ axes.T
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    inputs, changes = (inputs - centre) / scale, changes_of(controls, targets)

    def error(alpha):
        errors = []
        for left_out in range(n_groups):
            kept = np.arange(n_groups) != left_out
            predicted = Ridge(alpha).fit(inputs[kept], changes[kept]).predict(inputs[~kept])
            errors.append(np.mean((predicted - changes[~kept]) ** 2))
        return np.mean(errors)

    best = min(RIDGE_ALPHAS, key=error)
    own = (control.mean(axis=0) @ axes.T - centre) / scale
    change = Ridge(best).fit(inputs, changes).predict([own])[0]
    assert np.abs(change - changes.mean(axis=0)).max() > 0.01
    np.testing.assert_allclose(ridge_shift(control, controls, targets, n_components=4), control + change, rtol=1e-6)


def test_ridge_shift_finds_a_linear_rule_that_the_mean_shift_misses():
    control, controls, _ = groups_of_cells(12, n_genes=3)
    targets = {name: cells * 1.5 for name, cells in controls.items()}
    ridge, mean = ridge_shift(control, controls, targets), mean_shift(control, controls, targets)
    wanted = control.mean(axis=0) * 1.5
    assert np.abs(ridge.mean(axis=0) - wanted).max() < 0.1 * np.abs(mean.mean(axis=0) - wanted).max()
    exact = LinearRegression().fit(
        np.stack([cells.mean(axis=0) for cells in controls.values()]), changes_of(controls, targets)
    )
    np.testing.assert_allclose(
        ridge.mean(axis=0), control.mean(axis=0) + exact.predict([control.mean(axis=0)])[0], rtol=0.01
    )


@pytest.mark.parametrize("n_groups", [1, 2])
def test_ridge_shift_of_few_groups_is_the_mean_shift(n_groups):
    cells = groups_of_cells(n_groups)
    np.testing.assert_array_equal(ridge_shift(*cells), mean_shift(*cells))


@pytest.mark.parametrize("shift", [pca_shift, ridge_shift])
def test_shifts_keep_type_and_order_and_clip(shift):
    control, controls, targets = groups_of_cells(4)
    single = [control.astype(np.float32)] + [
        {k: v.astype(np.float32) for k, v in m.items()} for m in (controls, targets)
    ]
    assert shift(*single).dtype == np.float32
    reordered = {name: targets[name] for name in reversed(list(targets))}
    np.testing.assert_allclose(shift(control, controls, reordered), shift(control, controls, targets), rtol=1e-8)
    downwards = {name: np.full((3, 8), 0.0) for name in targets}
    assert shift(control, controls, downwards).min() == 0
    assert shift(control - 10, {k: v - 10 for k, v in controls.items()}, downwards).max() > 0
    below = shift(control, controls, {name: np.full((3, 8), -5.0) for name in targets})
    assert below.min() < 0


@pytest.mark.parametrize("shift", [pca_shift, ridge_shift, fold_change])
def test_refuse(shift):
    with pytest.raises(ValueError, match="at least one other group"):
        shift(np.ones((1, 1)), {}, {})
    with pytest.raises(ValueError, match=r"found \['a'\] and \['b'\]"):
        shift(np.ones((1, 1)), {"a": np.ones((1, 1))}, {"b": np.ones((1, 1))})


def test_at_least_one_component():
    for shift in (pca_shift, ridge_shift):
        with pytest.raises(ValueError, match="`n_components` of at least 1, found 0"):
            shift(*groups_of_cells(3), n_components=0)
