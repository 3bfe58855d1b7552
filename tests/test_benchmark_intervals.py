"""Intervals of predicted changes, from held-out cells to a model's error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.metrics import comparison_matrix, log_normalize, responsive_genes

KEYS = {"group_key": "cell_type", "control": "control"}


@pytest.fixture(scope="module")
def simulated():
    return tv.datasets.simulate_perturbation(n_cells=900, n_genes=80, n_types=3, seed=0).adata


def test_change_table_by_hand():
    rng = np.random.default_rng(0)
    predicted, real, control = (log_normalize(rng.poisson(3, (n, 12)) + 1).astype(float) for n in (20, 30, 40))
    table = benchmark.change_table(predicted, real, control, n_top_genes=4)
    np.testing.assert_allclose(table["change"], predicted.mean(0) - control.mean(0), atol=1e-6)
    np.testing.assert_allclose(table["change_real"], real.mean(0) - control.mean(0), atol=1e-6)
    expected = np.sqrt(predicted.var(0, ddof=1) * (1 / 20 + 1 / 30))
    np.testing.assert_allclose(table["standard_error"], expected, rtol=1e-5)
    assert set(np.flatnonzero(table["responsive"])) == set(responsive_genes(control, real, n_genes=4))


def test_coverage_table_by_hand():
    table = pd.DataFrame(
        {
            "change": [0.0, 1.0, 2.0, 3.0],
            "standard_error": 0.3,
            "change_real": [0.5, 1.9, 2.0, 9.0],
            "responsive": [False, False, True, True],
        }
    )
    # half widths of 1.645 * 0.5 = 0.822 without a share of the change
    found = benchmark.coverage_table({"a": table}, (0.4, 0.0), level=0.9).set_index("genes")
    assert found.loc["all", "coverage"] == pytest.approx(2 / 4)
    assert found.loc["responsive", "coverage"] == pytest.approx(1 / 2)
    np.testing.assert_allclose(found["mean_width"], 2 * 1.6448536 * 0.5)
    missed = np.array([0.9 - 0.8224268, 6.0 - 0.8224268])
    np.testing.assert_allclose(found.loc["all", "score"], 1.6448536 + 20.0 * missed.sum() / 4)
    np.testing.assert_allclose(found.loc["responsive", "score"], 1.6448536 + 20.0 * missed[1] / 2)


def test_calibration_is_that_of_the_hidden_groups(simulated):
    """The error found gives the mean coverage asked for when every group is hidden as in the calibration."""

    def shrunken(holdout):
        """Predict half of what the fold change predicts: wrong, by a share of the change."""
        full = comparison_matrix(benchmark.BASELINES["fold change"](holdout))
        own = comparison_matrix(holdout.control)
        return own + 0.5 * (full - own)

    level = 0.8
    error = benchmark.calibrate_intervals(
        simulated, **KEYS, method=shrunken, level=level, n_top_genes=10, progress_bar=False
    )
    assert error.share > 0.1
    tables = {}
    for group in ("type_1", "type_2", "type_3"):
        holdout, truth = benchmark.hold_out(
            simulated, **KEYS, condition_key="condition", group=group, target="stimulated"
        )
        cells = (shrunken(holdout), comparison_matrix(truth.real), comparison_matrix(holdout.control))
        tables[group] = benchmark.change_table(*cells, n_top_genes=10)
    coverage = benchmark.coverage_table(tables, error, level=level).groupby("genes")["coverage"].mean()
    assert coverage["all"] > level - 0.03  # more where sampling alone covers more
    assert coverage["responsive"] == pytest.approx(level, abs=0.07)  # 30 genes


def test_calibration_with_a_trained_model_changes_nothing_of_the_callers(simulated):
    before = simulated.copy()
    method = benchmark.TRVAEMethod({"n_hidden": 16}, {"max_epochs": 2})
    error = benchmark.calibrate_intervals(simulated, **KEYS, method=method, groups=["type_1"], progress_bar=False)
    assert error.floor >= 0
    assert error.share >= 0
    pd.testing.assert_frame_equal(simulated.obs, before.obs)
    assert (simulated.X != before.X).nnz == 0
    assert set(simulated.uns) == set(before.uns)


@pytest.mark.parametrize(("level", "error"), [(0, ValueError), (1, ValueError), (90, ValueError), ("0.9", TypeError)])
def test_levels_are_probabilities(level, error):
    row = {"change": 1.0, "standard_error": 0.3, "change_real": 0.5, "responsive": True}
    table = pd.DataFrame([row, row])
    with pytest.raises(error, match="`level`"):
        benchmark.fit_model_error([table], level=level)
    with pytest.raises(error, match="`level`"):
        benchmark.coverage_table({"a": table}, (0.4, 0.0), level=level)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"level": 90}, ValueError, "`level`"),
        ({"seeds": ()}, ValueError, "`seeds`"),
        ({"group_key": "kind"}, KeyError, "group_key='kind'"),
        ({"groups": ["type_9"]}, ValueError, "type_9"),
        ({"method": "mean shift", "group_key": "kind"}, TypeError, "`method` to be callable"),
    ],
)
def test_calibration_refuses(simulated, change, error, match):
    with pytest.raises(error, match=match):
        benchmark.calibrate_intervals(simulated, **{**KEYS, **change})
