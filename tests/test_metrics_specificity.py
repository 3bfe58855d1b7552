"""Genes with a type-specific response and the error on them, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trvae_scvi import metrics as m


@pytest.fixture
def changes():
    values = np.random.default_rng(0).normal(size=(5, 40))
    return pd.DataFrame(values, index=list("ABCDE"), columns=range(100, 140))


def test_scores_and_bins_equal_a_loop(changes):
    expected = {g: max(abs(v - np.median(changes[g])) for v in changes[g]) for g in changes}
    ranked = sorted(expected, key=expected.get, reverse=True)
    found = m.specific_genes(changes, n_bins=3, bin_size=10)
    assert found.index.tolist() == ranked[:30]
    assert found["bin"].tolist() == [1] * 10 + [2] * 10 + [3] * 10
    np.testing.assert_allclose(found["score"], [expected[g] for g in ranked[:30]], rtol=1e-12)


def test_a_response_that_all_types_share_is_not_specific():
    changes = pd.DataFrame(
        {"shared": [5.0, 5.0, 5.0], "in one": [0.0, 0.0, -1.0], "none": [0.0, 0.0, 0.0]}, index=["B", "T", "NK"]
    )
    found = m.specific_genes(changes, n_bins=1, bin_size=3)
    assert found["score"].to_dict() == {"in one": 1.0, "shared": 0.0, "none": 0.0}


def test_defaults_are_five_bins_of_fifty():
    changes = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 1000)))
    assert m.specific_genes(changes)["bin"].value_counts().sort_index().to_dict() == dict.fromkeys(range(1, 6), 50)


def test_specific_genes_refuse(changes):
    with pytest.raises(ValueError, match="at least 2 cell types and 250 genes for 5 bins of 50, found 5 and 40"):
        m.specific_genes(changes)
    with pytest.raises(ValueError, match="found 1 and 40"):
        m.specific_genes(changes.iloc[:1], n_bins=1, bin_size=2)
    with pytest.raises(ValueError, match="at least 1, found 0 and 2"):
        m.specific_genes(changes, n_bins=0, bin_size=2)
    with pytest.raises(ValueError, match="first for gene 103"):
        m.specific_genes(changes.replace({103: {changes.loc["C", 103]: np.nan}}), n_bins=1, bin_size=2)
    twice = changes.set_axis([100, *changes.columns[:-1]], axis=1)
    with pytest.raises(ValueError, match="found 100 several times"):
        m.specific_genes(twice, n_bins=1, bin_size=2)


def test_error_is_relative_only_where_the_real_mean_exceeds_one():
    pred = np.array([[0.0, 1.0, 6.0], [0.5, 1.0, 6.0]])  # means .25 1 6
    real = np.array([[0.5, 3.0, 4.0], [0.5, 1.0, 4.0], [0.5, 2.0, 4.0]])  # means .5 2 4
    np.testing.assert_allclose(m.specific_gene_error(pred, real, [2, 0, 1]), [0.5, 0.25, 0.5])


def test_bins_and_errors_fit_together():
    rng = np.random.default_rng(0)
    real = {name: rng.gamma(3.0, size=(9, 20)) for name in "AB"}
    pred = {name: cells[:5] + 0.1 for name, cells in real.items()}
    changes = pd.DataFrame({name: cells.mean(axis=0) for name, cells in real.items()}).T
    bins = m.specific_genes(changes, n_bins=2, bin_size=4)
    errors = pd.DataFrame({name: m.specific_gene_error(pred[name], real[name], bins.index) for name in "AB"})
    by_bin = errors.mean(axis=1).groupby(bins["bin"].to_numpy()).mean()
    for number in (1, 2):
        values = [
            abs(real[name][:, g].mean() - pred[name][:, g].mean()) / max(real[name][:, g].mean(), 1)
            for name in "AB"
            for g in bins.index[bins["bin"] == number]
        ]
        assert by_bin[number] == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize(
    ("genes", "match"),
    [
        (["g0", "g1"], "column positions in `genes`, found .*get_indexer"),
        ([True, False, True], "column positions"),
        ([0, 3], "from 0 to 2 in `genes`, found 0 to 3"),
        ([-1], "found -1 to -1"),
    ],
)
def test_error_refuses_genes(genes, match):
    with pytest.raises(ValueError, match=match):
        m.specific_gene_error(np.ones((2, 3)), np.ones((2, 3)), genes)
