"""Predictions without a network: by hand, against leaks from the held-out cells, and against published values."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from trvae_scvi import metrics
from trvae_scvi.benchmark import (
    baseline_predictions,
    fold_change,
    hold_out,
    mean_of_others,
    mean_shift,
    no_change,
    pca_shift,
    ridge_shift,
    shrunk_shift,
)
from trvae_scvi.benchmark._baseline_methods import expected_change
from trvae_scvi.metrics import log_normalize, responsive_genes

NAMES = ["no change", "mean of others", "mean shift", "shrunk shift", "PCA shift", "ridge", "fold change"]
KEYS = {"group_key": "kind", "group": "b", "condition_key": "state", "control": "ctrl", "target": "drug"}


@pytest.fixture
def adata():
    """Groups a, b, c under both conditions, d under control only, e under the target only, and a third condition."""
    rng = np.random.default_rng(0)
    sizes = {
        ("a", "ctrl"): 6, ("a", "drug"): 9, ("b", "ctrl"): 5, ("b", "drug"): 4, ("c", "ctrl"): 3, ("c", "drug"): 2,
        ("d", "ctrl"): 7, ("e", "drug"): 8, ("a", "other"): 4, ("b", "other"): 3,
    }  # fmt: skip
    rows = [key for key, n in sizes.items() for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["kind", "state"], index=[f"cell{i}" for i in range(len(rows))])
    counts = (rng.poisson(4.0, size=(len(rows), 6)) + 1).astype(np.float32)
    shuffled = rng.permutation(len(rows))
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs)[shuffled].copy()


def cells_of(adata, kind, state):
    rows = ((adata.obs["kind"] == kind) & (adata.obs["state"] == state)).to_numpy()
    return log_normalize(adata.X[rows])


# ---- pure functions


def test_no_change_is_a_copy():
    control = np.ones((3, 2))
    result = no_change(control)
    np.testing.assert_array_equal(result, control)
    assert not np.shares_memory(result, control)


def test_mean_of_others_takes_the_first_cells_of_each():
    a, b = np.arange(10.0).reshape(5, 2), np.arange(4.0).reshape(2, 2) + 100
    np.testing.assert_array_equal(mean_of_others({"a": a, "b": b}, max_cells=3), np.concatenate([a[:3], b]))
    np.testing.assert_array_equal(mean_of_others({"b": b, "a": a}, max_cells=1), [b[0], a[0]])


def test_mean_shift_weighs_groups_alike_and_clips():
    control = np.array([[1.0, 1.0, 0.0], [3.0, 0.0, 2.0]])
    # Group x changes by (2, -2, 0), the far larger group y by (0, -1, 1): mean (1, -1.5, 0.5).
    controls = {"x": np.array([[0.0, 2.0, 1.0]]), "y": np.tile([1.0, 1.0, 0.0], (50, 1))}
    targets = {"x": np.array([[2.0, 0.0, 1.0]]), "y": np.tile([1.0, 0.0, 1.0], (70, 1))}
    np.testing.assert_allclose(mean_shift(control, controls, targets), [[2.0, 0.0, 0.5], [4.0, 0.0, 2.5]])
    np.testing.assert_array_equal(control[0], [1.0, 1.0, 0.0])


def test_mean_shift_does_not_clip_data_with_negative_values():
    shifted = mean_shift(np.array([[0.5]]), {"x": np.array([[0.0]])}, {"x": np.array([[-2.0]])})
    np.testing.assert_allclose(shifted, [[-1.5]])


@pytest.mark.parametrize(("given", "expected"), [(np.float32, np.float32), (np.float64, np.float64), (int, np.float64)])
def test_mean_shift_keeps_the_type(given, expected):
    shifted = mean_shift(np.array([[1]], dtype=given), {"x": np.array([[1.0]])}, {"x": np.array([[1.5]])})
    assert shifted.dtype == expected
    assert shifted[0, 0] == 1.5


def test_pure_functions_refuse():
    with pytest.raises(ValueError, match="at least one other group"):
        mean_of_others({})
    with pytest.raises(ValueError, match="`max_cells` of at least 1, found 0"):
        mean_of_others({"a": np.ones((1, 1))}, max_cells=0)
    with pytest.raises(ValueError, match="at least one other group"):
        mean_shift(np.ones((1, 1)), {}, {})
    with pytest.raises(ValueError, match=r"found \['a'\] and \['b'\]"):
        mean_shift(np.ones((1, 1)), {"a": np.ones((1, 1))}, {"b": np.ones((1, 1))})


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_cells_give_the_same_array(make):
    rng = np.random.default_rng(0)
    control = rng.poisson(1.0, size=(7, 5)).astype(np.float32)
    controls, targets = ({name: rng.poisson(1.0, size=(6, 5)).astype(np.float32) for name in "abc"} for _ in range(2))
    given = make(control), *({name: make(cells) for name, cells in side.items()} for side in (controls, targets))
    for method in (mean_shift, fold_change, pca_shift, ridge_shift):
        expected, found = method(control, controls, targets), method(*given)
        assert type(found) is np.ndarray
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if make is not sparse.csc_matrix:  # which cannot be cut by rows
        np.testing.assert_array_equal(mean_of_others(given[2]), mean_of_others(targets), strict=True)
    np.testing.assert_array_equal(no_change(given[0]), control, strict=True)


@pytest.mark.parametrize("theta", [0.0, -1.0, np.nan])
def test_fold_change_refuses_dispersions(theta):
    cells = {"a": np.ones((2, 3))}
    with pytest.raises(ValueError, match="`theta` above 0"):
        fold_change(np.ones((2, 3)), cells, cells, theta=theta)


# ---- AnnData helper


def test_baseline_predictions_use_groups_with_both_conditions(adata):
    result = baseline_predictions(adata, **KEYS)
    assert list(result) == NAMES
    own = cells_of(adata, "b", "ctrl")
    controls = {kind: cells_of(adata, kind, "ctrl") for kind in ("a", "c")}
    targets = {kind: cells_of(adata, kind, "drug") for kind in ("a", "c")}
    np.testing.assert_array_equal(result["no change"], own)
    np.testing.assert_array_equal(result["mean of others"], np.concatenate([targets["a"], targets["c"]]))
    np.testing.assert_array_equal(result["mean shift"], mean_shift(own, controls, targets))
    change = np.mean([targets[kind].mean(0) - controls[kind].mean(0) for kind in ("a", "c")], axis=0)
    np.testing.assert_allclose(result["mean shift"], np.maximum(own + change, 0), rtol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, -1e30, 0.0])
def test_held_out_cells_are_never_read(adata, garbage):
    adata.X = adata.X.toarray()
    expected = baseline_predictions(adata, **KEYS)
    held_out = ((adata.obs["kind"] == "b") & (adata.obs["state"] == "drug")).to_numpy()
    spoilt = adata.copy()
    spoilt.X[held_out] = garbage
    for case in (spoilt, adata[~held_out]):
        result = baseline_predictions(case, **KEYS)
        for name in NAMES:
            np.testing.assert_array_equal(result[name], expected[name])


def test_baselines_read_a_layer_and_leave_the_object_alone(adata):
    expected = baseline_predictions(adata, **KEYS)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.full(adata.shape, -1.0, dtype=np.float32)
    kept = adata.copy()
    result = baseline_predictions(adata[:], layer="counts", **KEYS)
    for name in NAMES:
        np.testing.assert_array_equal(result[name], expected[name])
    np.testing.assert_array_equal(adata.X, kept.X)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), kept.layers["counts"].toarray())
    pd.testing.assert_frame_equal(adata.obs, kept.obs)


def test_values_as_they_are(adata):
    adata.X = log_normalize(adata.X)
    result = baseline_predictions(adata, counts=False, **KEYS)
    rows = ((adata.obs["kind"] == "b") & (adata.obs["state"] == "ctrl")).to_numpy()
    np.testing.assert_array_equal(result["no change"], adata.X[rows])


def test_missing_labels_belong_to_no_group(adata):
    expected = baseline_predictions(adata, **KEYS)
    extra = adata[:3].copy()
    extra.obs_names = ["x", "y", "z"]
    extra.obs["kind"] = None
    both = ad.concat([adata, extra])
    for kind in (both.obs["kind"].astype("category"), both.obs["kind"].astype("string")):
        both.obs["kind"] = kind
        result = baseline_predictions(both, **KEYS)
        for name in NAMES:
            np.testing.assert_array_equal(result[name], expected[name])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"group_key": "type"}, KeyError, "group_key='type'"),
        ({"condition_key": "cond"}, KeyError, "condition_key='cond'"),
        ({"layer": "nope"}, KeyError, "Layer 'nope'"),
        ({"control": "drug"}, ValueError, "two conditions, found 'drug'"),
        ({"group": "e"}, ValueError, "none with kind 'e' and state 'ctrl'"),
        ({"target": "absent"}, ValueError, "'ctrl' and 'absent', found none among"),
    ],
)
def test_baseline_predictions_refuse(adata, change, error, match):
    with pytest.raises(error, match=match):
        baseline_predictions(adata, **{**KEYS, **change})


def test_the_column_of_conditions_has_a_default_name(adata):
    expected = baseline_predictions(adata, **KEYS)
    adata.obs = adata.obs.rename(columns={"state": "condition"})
    found = baseline_predictions(adata, **{name: value for name, value in KEYS.items() if name != "condition_key"})
    np.testing.assert_array_equal(found["mean shift"], expected["mean shift"])


def test_no_other_group_with_both_conditions(adata):
    with pytest.raises(ValueError, match=r"both 'ctrl' and 'drug', found none among \['d', 'e'\]"):
        baseline_predictions(adata[adata.obs["kind"].isin(["b", "d", "e"])], **KEYS)


# ---- real data

# Squared Pearson of means, Pearson of the change, mean squared error, squared Pearson of variances, energy distance on
# all genes, then the same on the 100 most responsive ones; measured independently of this code. As text, because the
# number of digits says how exactly each is known.
KANG_NK = {
    "no change": "0.869 0 0.0817 0.838 3.66 0.553 0 1.480 0.094 7.65",
    "mean of others": "0.847 0.672 0.1010 0.627 4.87 0.746 0.843 0.445 0.194 2.45",
    "mean shift": "0.970 0.895 0.0198 0.831 0.888 0.895 0.920 0.192 0.086 1.31",
}


def test_baselines_on_kang_nk():
    folder = os.environ.get("TRVAE_SCVI_DATA")
    if not folder or not (Path(folder) / "kang_pbmc_hvg2000_counts.h5ad").exists():
        pytest.skip("TRVAE_SCVI_DATA names no folder with kang_pbmc_hvg2000_counts.h5ad")
    adata = ad.read_h5ad(Path(folder) / "kang_pbmc_hvg2000_counts.h5ad")
    predictions = baseline_predictions(
        adata, group_key="cell_type", group="NK", condition_key="condition", control="control", target="stimulated"
    )
    nk = adata[adata.obs["cell_type"] == "NK"]
    real, control = (log_normalize(nk[nk.obs["condition"] == c].X) for c in ("stimulated", "control"))
    top = responsive_genes(control, real, n_genes=100)
    for name, expected in KANG_NK.items():
        values = []
        for genes in (slice(None), top):
            pred, cells, own = (matrix[:, genes] for matrix in (predictions[name], real, control))
            values += [
                metrics.squared_pearson_means(pred, cells),
                metrics.pearson_change(pred, cells, own, own),  # as it was measured: one set of control cells
                metrics.mse_means(pred, cells),
                metrics.squared_pearson_variances(pred, cells),
                metrics.energy_distance(pred, cells),
            ]
        for value, published in zip(values, expected.split(), strict=True):
            unit = 10.0 ** -len(published.partition(".")[2])
            # Half a unit of the last digit, and a little for one that was rounded from just about a half.
            assert value == pytest.approx(float(published), abs=0.51 * unit), name


def test_the_mean_response_is_that_of_the_other_groups(adata):
    adata = ad.concat([adata, adata, adata], keys=list("xyz"), index_unique="-")  # enough of them for a hold-out
    holdout, _ = hold_out(adata, **KEYS)
    controls, targets = ([cells_of(adata, kind, state) for kind in ("a", "c")] for state in ("ctrl", "drug"))
    groups = [kind for kind in ("a", "c") if min(len(cells_of(adata, kind, s)) for s in ("ctrl", "drug")) >= 10]
    assert groups == ["a"]
    np.testing.assert_allclose(expected_change(holdout), targets[0].mean(0) - controls[0].mean(0), atol=1e-5)
    many = ad.concat([adata, adata], keys=list("vw"), index_unique="-")
    changes = [target.mean(0) - control.mean(0) for control, target in zip(controls, targets, strict=True)]
    np.testing.assert_allclose(expected_change(hold_out(many, **KEYS)[0]), np.mean(changes, axis=0), atol=1e-5)


def test_shrunk_shift_is_the_empirical_bayes_estimate():
    rng = np.random.default_rng(0)
    control = rng.random((5, 40)).astype(np.float32) + 5.0
    controls = {name: rng.random((30, 40)) + 5.0 for name in "abc"}
    targets = {name: controls[name] + rng.normal(0.5, 0.5, 40) + rng.normal(0.0, 0.3, 40) for name in "abc"}
    changes = np.stack([targets[name].mean(axis=0) - controls[name].mean(axis=0) for name in "abc"])
    mean, noise = changes.mean(axis=0), changes.var(axis=0, ddof=1).mean() / 3
    signal = (mean**2).mean() - noise
    found = shrunk_shift(control, controls, targets) - control
    np.testing.assert_allclose(found, np.tile(mean * signal / (signal + noise), (5, 1)), rtol=1e-4, atol=1e-5)
    # one group does not tell how far groups agree
    one = shrunk_shift(control, {"a": controls["a"]}, {"a": targets["a"]})
    np.testing.assert_allclose(one, mean_shift(control, {"a": controls["a"]}, {"a": targets["a"]}))
    with pytest.raises(ValueError, match="same groups"):
        shrunk_shift(control, controls, {"a": targets["a"]})
