"""Weights of genes and the weighted errors: against scanpy's own test against the rest, and by hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from trvae_scvi import metrics as m


@pytest.fixture
def cells():
    """Real cells of three perturbations that each change genes of their own."""
    rng = np.random.default_rng(0)
    means = np.full((3, 20), 5.0)
    for i in range(3):
        means[i, 3 * i : 3 * i + 3] += 10
    return {
        name: m.log_normalize(rng.poisson(mean, size=(40 + i, 20)))
        for i, (name, mean) in enumerate(zip("abc", means, strict=True))
    }


def test_weights_are_those_of_scanpys_test_against_the_rest(cells):
    adata = ad.AnnData(np.vstack(list(cells.values())))
    adata.obs["group"] = np.repeat(list(cells), [len(x) for x in cells.values()])
    sc.tl.rank_genes_groups(adata, "group", method="t-test_overestim_var", reference="rest")
    for name in cells:
        score = sc.get.rank_genes_groups_df(adata, name).set_index("names")["scores"].reindex(adata.var_names).abs()
        expected = ((score - score.min()) / (score.max() - score.min())) ** 2
        rest = np.vstack([x for other, x in cells.items() if other != name])
        found = m.de_weights(cells[name], rest)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5, atol=1e-12)
        assert found.sum() == pytest.approx(1)
        own = 3 * "abc".index(name)
        assert set(np.argsort(found)[-3:]) == set(range(own, own + 3))


def test_where_no_gene_stands_out_all_weigh_the_same():
    same = np.ones((3, 4))
    assert m.de_weights(same, same).tolist() == [0.25] * 4
    assert m.de_weights([[1.0], [2.0]], [[5.0], [6.0]]).tolist() == [1.0]


def test_weighted_mse_by_formula(cells):
    rng = np.random.default_rng(1)
    weights = rng.random(20)
    pred, real = cells["a"], cells["b"]
    difference = pred.mean(axis=0, dtype=float) - real.mean(axis=0, dtype=float)
    found = m.weighted_mse(pred, real, weights)
    assert found == pytest.approx((weights * difference**2).sum() / weights.sum())
    assert m.weighted_mse(sparse.csr_matrix(pred), real, 7 * weights) == pytest.approx(found)
    assert m.weighted_mse(real[::-1], real, weights) == pytest.approx(0)
    assert m.weighted_mse(pred, real, np.ones(20)) == pytest.approx(m.mse_means(pred, real))


def test_weighted_r2_by_formula(cells):
    rng = np.random.default_rng(1)
    weights = rng.random(20) * (rng.random(20) > 0.3)
    baseline = np.mean([x.mean(axis=0, dtype=float) for x in cells.values()], axis=0)
    pred, real = 0.5 * cells["b"] + 0.5, cells["b"]
    change, predicted = (x.mean(axis=0, dtype=float) - baseline for x in (real, pred))
    centre = np.average(change, weights=weights)
    expected = 1 - (weights * (change - predicted) ** 2).sum() / (weights * (change - centre) ** 2).sum()
    assert m.weighted_r2_change(pred, real, baseline, weights) == pytest.approx(expected)
    assert m.weighted_r2_change(real, real, baseline, weights) == 1
    assert m.weighted_r2_change(baseline[None], real, baseline, weights) <= 0


def test_only_genes_with_weight_count(cells):
    weights = np.array([0.0] * 3 + [1.0] * 17)
    baseline = np.zeros(20)
    pred = cells["a"].copy()
    changed = pred.copy()
    changed[:, :3] += 100
    assert m.weighted_mse(changed, cells["b"], weights) == m.weighted_mse(pred, cells["b"], weights)
    found, expected = (m.weighted_r2_change(x, cells["b"], baseline, weights) for x in (changed, pred))
    assert found == expected


def test_a_mode_that_collapsed_loses_under_weights(cells):
    """The mean over perturbations is close on all genes alike, and far where it matters."""
    baseline = np.mean([x.mean(axis=0, dtype=float) for x in cells.values()], axis=0)
    rest = np.vstack([cells["b"], cells["c"]])
    weights = m.de_weights(cells["a"], rest)
    collapsed = m.weighted_mse(baseline[None], cells["a"], weights)
    assert collapsed > 3 * m.weighted_mse(baseline[None], cells["a"], np.ones(20))


def test_r2_is_undefined_without_a_change():
    assert np.isnan(m.weighted_r2_change([[1, 2]], [[3, 4]], [2, 3], [1, 1]))
    assert np.isnan(m.weighted_r2_change([[1, 2]], [[3, 4]], [0, 0], [1, 0]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 3], r"Expected 2 finite numbers in `weights`, one per gene, found \(3,\)"),
        ([1, np.nan], "NaN"),
        ([1, -1], "found -1 and the sum 0"),
        ([0, 0], "positive sum"),
    ],
)
def test_it_refuses_other_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        m.weighted_mse([[1, 2]], [[3, 4]], weights)
    with pytest.raises(ValueError, match=message):
        m.weighted_r2_change([[1, 2]], [[3, 4]], [0, 0], weights)


def test_it_refuses_other_baselines():
    with pytest.raises(ValueError, match="`baseline`"):
        m.weighted_r2_change([[1, 2]], [[3, 4]], [[0, 0]], [1, 1])
    # unlike weights it may be negative
    assert m.weighted_r2_change([[1, 2]], [[1, 2]], [-1, -9], [1, 1]) == 1
