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
    table = benchmark.change_table(predicted, real, control, n_top_genes=4, var_names=list("abcdefghijkl"))
    order = np.random.default_rng(0).permutation(30)
    chosen_by, measured = real[order[:15]], real[order[15:]]
    np.testing.assert_allclose(table["change"], predicted.mean(0) - control.mean(0), atol=1e-6)
    np.testing.assert_allclose(table["change_real"], measured.mean(0) - control.mean(0), atol=1e-6)
    expected = np.sqrt(predicted.var(0, ddof=1) * (1 / 20 + 1 / 15))
    np.testing.assert_allclose(table["standard_error"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["sd"], predicted.std(0, ddof=1), rtol=1e-5)
    assert set(np.flatnonzero(table["responsive"])) == set(responsive_genes(control, chosen_by, n_genes=4))
    assert list(table.index) == list("abcdefghijkl")


def test_responsive_genes_are_not_those_with_the_largest_noise():
    """Where nothing happens, their intervals hold as often as those of all genes."""
    rng = np.random.default_rng(0)
    tables = {
        i: benchmark.change_table(*(rng.normal(size=(60, 400)) for _ in range(3)), n_top_genes=50) for i in range(30)
    }
    # the control cells' noise is in both changes
    coverage = benchmark.coverage_table(tables, benchmark.ModelError(0.0, 0.0)).groupby("genes")["coverage"].mean()
    assert coverage["all"] == pytest.approx(0.9, abs=0.02)
    assert coverage["responsive"] == pytest.approx(0.9, abs=0.03)


def test_what_is_finished_without_its_changes_is_not(simulated, tmp_path):
    asked = {**KEYS, "method": shrunken, "n_top_genes": 10, "progress_bar": False, "out": tmp_path / "runs"}
    with pytest.warns(UserWarning, match="rest on 3 groups"):
        first = benchmark.calibrate_intervals(simulated, **asked)
        next((tmp_path / "runs" / "changes").glob("*.csv")).unlink()
        again = benchmark.calibrate_intervals(simulated, **asked)
    assert first.n_groups == again.n_groups == 3
    np.testing.assert_array_equal(first.quantiles, again.quantiles)


def test_what_is_no_table_of_changes_is_refused():
    row = {"change": 1.0, "standard_error": 0.3, "sd": 1.0, "change_real": 0.5, "responsive": True}
    table = pd.DataFrame([row, row], index=["a", "b"])
    with pytest.raises(TypeError, match="list of tables"):
        benchmark.fit_model_error({"group": table})
    with pytest.raises(TypeError, match="to be a ModelError"):
        benchmark.coverage_table({"group": table}, (0.1, 0.2))
    table.loc["b", "change"] = np.nan
    with pytest.raises(ValueError, match="of 1 genes, e.g. 'b'"):
        benchmark.fit_model_error([table])


def test_groups_may_have_any_names(simulated):
    tables = [hidden(simulated, group) for group in ("type_1", "type_2", "type_3")]
    with pytest.warns(UserWarning, match="rest on 3 groups"):
        named = benchmark.fit_model_error(tables, groups=[("donor", 0), ("donor", 1), None])
    assert named.n_groups == 3


@pytest.mark.parametrize(("n_real", "n_top_genes", "match"), [(3, 2, "4 real cells"), (9, 0, "`n_top_genes`")])
def test_change_table_refuses(n_real, n_top_genes, match):
    cells = [np.random.default_rng(0).normal(size=(n, 5)) for n in (9, n_real, 9)]
    with pytest.raises(ValueError, match=match):
        benchmark.change_table(*cells, n_top_genes=n_top_genes)


def test_coverage_table_by_hand():
    table = pd.DataFrame(
        {
            "change": [0.0, 1.0, 2.0, 3.0],
            "standard_error": 0.3,
            "sd": 1.0,
            "change_real": [0.5, 1.9, 2.0, 9.0],
            "responsive": [False, False, True, True],
        }
    )
    # half widths of 1.645 * 0.5 = 0.822 without a share of the change
    error = benchmark.ModelError(0.4, 0.0)
    found = benchmark.coverage_table({"a": table}, error, level=0.9).set_index("genes")
    assert found.loc["all", "coverage"] == pytest.approx(2 / 4)
    assert found.loc["responsive", "coverage"] == pytest.approx(1 / 2)
    np.testing.assert_allclose(found["mean_width"], 2 * 1.6448536 * 0.5)
    missed = np.array([0.9 - 0.8224268, 6.0 - 0.8224268])
    np.testing.assert_allclose(found.loc["all", "score"], 1.6448536 + 20.0 * missed.sum() / 4)
    np.testing.assert_allclose(found.loc["responsive", "score"], 1.6448536 + 20.0 * missed[1] / 2)


def shrunken(holdout):
    """Predict half of what the fold change predicts: wrong, by a share of the change."""
    full = comparison_matrix(benchmark.BASELINES["fold change"](holdout))
    own = comparison_matrix(holdout.control)
    return own + 0.5 * (full - own)


def hidden(adata, group):
    keys = {**KEYS, "condition_key": "condition"}
    holdout, truth = benchmark.hold_out(adata, **keys, group=group, target="stimulated")
    cells = (shrunken(holdout), comparison_matrix(truth.real), comparison_matrix(holdout.control))
    return benchmark.change_table(*cells, n_top_genes=10, var_names=adata.var_names)


def test_calibration_is_that_of_the_hidden_groups(simulated):
    """The error found gives the mean coverage asked for when every group is hidden as in the calibration."""
    with pytest.warns(UserWarning, match="rest on 3 groups"):
        error = benchmark.calibrate_intervals(simulated, **KEYS, method=shrunken, n_top_genes=10, progress_bar=False)
    assert error.share > 0.1
    assert (error.n_groups, error.factors) == (3, None)
    tables = {group: hidden(simulated, group) for group in ("type_1", "type_2", "type_3")}
    for level in (0.6, 0.8, 0.9):
        coverage = benchmark.coverage_table(tables, error, level=level).groupby("genes")["coverage"].mean()
        assert coverage.min() == pytest.approx(level, abs=0.05)


def test_a_group_that_took_no_part_is_covered():
    adata = tv.datasets.simulate_perturbation(n_cells=3000, n_genes=200, n_types=8, seed=1).adata
    others = adata[adata.obs["cell_type"] != "type_1"]
    error = benchmark.calibrate_intervals(others, **KEYS, method=shrunken, n_top_genes=20, progress_bar=False)
    assert error.n_groups == 7
    assert list(error.factors.index) == list(adata.var_names)
    found = benchmark.coverage_table({"type_1": hidden(adata, "type_1")}, error).set_index("genes")["coverage"]
    assert found["all"] > 0.85
    assert found["responsive"] > 0.8


def test_calibration_resumes_and_is_the_same(simulated, tmp_path):
    def count(holdout, calls=[]):  # noqa: B006
        calls.append(holdout.group)
        count.calls = calls
        return shrunken(holdout)

    asked = {**KEYS, "method": count, "n_top_genes": 10, "progress_bar": False, "out": tmp_path / "runs"}
    with pytest.warns(UserWarning, match="rest on 3 groups"):
        first, again = (benchmark.calibrate_intervals(simulated, **asked) for _ in range(2))
    assert len(count.calls) == 3
    assert (first.floor, first.share, first.spread) == (again.floor, again.share, again.spread)
    np.testing.assert_array_equal(first.quantiles, again.quantiles)


def test_calibration_with_a_trained_model_changes_nothing_of_the_callers(simulated):
    before = simulated.copy()
    method = benchmark.TRVAEMethod({"n_hidden": 16}, {"max_epochs": 2})
    with pytest.warns(UserWarning, match="rest on 1 group"):
        error = benchmark.calibrate_intervals(simulated, **KEYS, method=method, groups=["type_1"], progress_bar=False)
    assert error.floor >= 0
    assert error.share >= 0
    pd.testing.assert_frame_equal(simulated.obs, before.obs)
    assert (simulated.X != before.X).nnz == 0
    assert set(simulated.uns) == set(before.uns)


@pytest.mark.parametrize(("level", "error"), [(0, ValueError), (1, ValueError), (90, ValueError), ("0.9", TypeError)])
def test_levels_are_probabilities(level, error):
    row = {"change": 1.0, "standard_error": 0.3, "sd": 1.0, "change_real": 0.5, "responsive": True}
    table = pd.DataFrame([row, row])
    with pytest.raises(error, match="`level`"):
        benchmark.coverage_table({"a": table}, benchmark.ModelError(0.4, 0.0), level=level)


def test_every_table_is_of_a_group():
    row = {"change": 1.0, "standard_error": 0.3, "sd": 1.0, "change_real": 0.5, "responsive": True}
    with pytest.raises(ValueError, match="each of 2 tables, found 1"):
        benchmark.fit_model_error([pd.DataFrame([row, row])] * 2, groups=["a"])
    with pytest.raises(ValueError, match="at least one table"):
        benchmark.fit_model_error([])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"seeds": ()}, ValueError, "`seeds`"),
        ({"group_key": "kind"}, KeyError, "group_key='kind'"),
        ({"groups": ["type_9"]}, ValueError, "type_9"),
        ({"method": "mean shift", "group_key": "kind"}, TypeError, "`method` to be callable"),
    ],
)
def test_calibration_refuses(simulated, change, error, match):
    with pytest.raises(error, match=match):
        benchmark.calibrate_intervals(simulated, **{**KEYS, **change})
