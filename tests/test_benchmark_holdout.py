"""What a method is given: nothing of the cells held out; which hold-outs there are and why others are skipped."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from trvae_scvi.benchmark import hold_out, hold_out_pairs
from trvae_scvi.benchmark._holdout import other_groups
from trvae_scvi.datasets import simulate_perturbation

KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
PAIR = {**KEYS, "group": "type_2", "target": "stimulated"}


@pytest.fixture
def adata():
    return simulate_perturbation(300, 40, n_types=3, seed=1).adata


def rows(adata, group, condition):
    return ((adata.obs["cell_type"] == group) & (adata.obs["condition"] == condition)).to_numpy()


def spoilt(adata):
    """The same cells, but those held out have other counts, which make other genes variable."""
    other = adata.copy()
    held_out = rows(adata, "type_2", "stimulated")
    dense = other.X.toarray()
    dense[held_out] = dense[held_out][:, ::-1] * np.random.default_rng(0).integers(1, 9, (held_out.sum(), 1)) + 3
    other.X = dense
    return other


def test_hold_out_splits_the_cells(adata):
    holdout, real = hold_out(adata, **PAIR, seed=5)
    held_out = rows(adata, "type_2", "stimulated")
    pd.testing.assert_index_equal(holdout.training.obs_names, adata.obs_names[~held_out])
    pd.testing.assert_index_equal(holdout.control.obs_names, adata.obs_names[rows(adata, "type_2", "control")])
    pd.testing.assert_index_equal(real.obs_names, adata.obs_names[held_out])
    np.testing.assert_array_equal(holdout.training.X.toarray(), adata.X[~held_out].toarray())
    np.testing.assert_array_equal(real.X.toarray(), adata.X[held_out].toarray())
    assert (holdout.group, holdout.source, holdout.target, holdout.seed) == ("type_2", "control", "stimulated", 5)


def test_hold_out_shares_nothing_and_hands_on_no_results(adata):
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    adata.uns["seen"] = "all cells"
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.zeros(adata.shape)
    holdout, real = hold_out(adata, **PAIR, layer="counts")
    for part in (holdout.training, holdout.control, real):
        assert not (part.obsm or part.uns or part.varm or part.obsp)
        assert list(part.obs.columns) == list(adata.obs.columns)
        part.X.data[:] = -1
        part.obs["condition"] = "other"
    assert adata.layers["counts"].min() >= 0
    assert adata.obs["condition"].nunique() == 2


@pytest.mark.parametrize("n_hvg", [None, 15])
def test_held_out_counts_change_nothing_that_a_method_sees(adata, n_hvg):
    seen, real = hold_out(adata, **PAIR, n_hvg=n_hvg)
    seen_of_spoilt, real_of_spoilt = hold_out(spoilt(adata), **PAIR, n_hvg=n_hvg)
    for part in ("training", "control"):
        one, other = getattr(seen, part), getattr(seen_of_spoilt, part)
        pd.testing.assert_frame_equal(one.obs, other.obs)
        pd.testing.assert_frame_equal(one.var, other.var)
        np.testing.assert_array_equal(ad.AnnData(one.X).to_df(), ad.AnnData(other.X).to_df())
    assert list(real.var_names) == list(real_of_spoilt.var_names) == list(seen.control.var_names)


def variable_genes(cells):
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=15, flavor="seurat")
    return set(cells.var_names[cells.var["highly_variable"]])


def test_variable_genes_are_those_of_the_other_cells(adata):
    other = spoilt(adata)
    held_out = rows(adata, "type_2", "stimulated")
    holdout, _ = hold_out(other, **PAIR, n_hvg=15)
    assert set(holdout.training.var_names) == variable_genes(other[~held_out])
    assert set(holdout.training.var_names) != variable_genes(other)


def test_variable_genes_of_values_as_they_are(adata):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    holdout, _ = hold_out(adata, **PAIR, n_hvg=15, counts=False)
    training = adata[~rows(adata, "type_2", "stimulated")].copy()
    sc.pp.highly_variable_genes(training, n_top_genes=15, flavor="seurat")
    assert set(holdout.training.var_names) == set(training.var_names[training.var["highly_variable"]])


def test_cells_without_counts_of_the_variable_genes_are_not_learned_from(adata):
    held_out, own = rows(adata, "type_2", "stimulated"), rows(adata, "type_2", "control")
    adata.X = adata.X.toarray()
    adata.X[np.flatnonzero(held_out)[3]] = 0
    holdout, real = hold_out(adata, **PAIR, n_hvg=2)
    filled = np.asarray(adata[:, holdout.training.var_names].X.sum(axis=1)).ravel() > 0
    for cells, of_part in ((holdout.training, ~held_out), (holdout.control, own)):
        assert list(cells.obs_names) == list(adata.obs_names[of_part & filled])
    assert holdout.training.n_obs < (~held_out).sum()
    # the truth is not chosen by what it turned out to be
    assert list(real.obs_names) == list(adata.obs_names[held_out])
    assert (np.asarray(real.X.sum(axis=1)).ravel() == 0).any()
    adata.X[own] = 0
    with pytest.raises(ValueError, match="n_hvg=2"):
        hold_out(adata, **PAIR, n_hvg=2)


def test_hold_out_refuses_what_is_not_there(adata):
    with pytest.raises(ValueError, match="cell_type 'type_9' and condition 'control'"):
        hold_out(adata, **{**PAIR, "group": "type_9"})
    with pytest.raises(ValueError, match="condition 'other'"):
        hold_out(adata, **{**PAIR, "target": "other"})
    with pytest.raises(KeyError, match="Layer 'nope'"):
        hold_out(adata, **PAIR, layer="nope")
    with pytest.raises(ValueError, match="two conditions, found 'control' as `control` and as `target`"):
        hold_out(adata, **{**PAIR, "target": "control"})


def test_the_column_of_conditions_has_a_default_name(adata):
    pair = {name: value for name, value in PAIR.items() if name != "condition_key"}
    assert hold_out(adata, **pair)[0].condition_key == "condition"
    assert hold_out_pairs(adata, group_key="cell_type", control="control").pairs[0] == ("type_1", "stimulated")


# ---- which pairs


@pytest.fixture
def design():
    """Group b lacks control cells and c target cells of one drug; drug2 has been given to group a alone."""
    sizes = {
        ("a", "ctrl"): 10, ("a", "drug"): 10, ("a", "drug2"): 30,
        ("b", "ctrl"): 9, ("b", "drug"): 20,
        ("c", "ctrl"): 12, ("c", "drug"): 10, ("c", "drug2"): 9,
        ("d", "ctrl"): 50,
    }  # fmt: skip
    obs = pd.DataFrame([key for key, n in sizes.items() for _ in range(n)], columns=["kind", "state"]).astype(
        "category"
    )
    return ad.AnnData(np.ones((len(obs), 2)), obs=obs.set_index(obs.index.astype(str)))


DESIGN = {"group_key": "kind", "condition_key": "state", "control": "ctrl"}


def test_pairs_and_reasons(design):
    pairs, skipped = hold_out_pairs(design, **DESIGN)
    assert pairs == [("a", "drug"), ("c", "drug")]
    reasons = {(row["group"], row["target"]): row["reason"] for row in skipped}
    assert reasons == {
        ("a", "drug2"): "no other group has 10 cells under 'ctrl' and under 'drug2'",
        ("b", "drug"): "9 cells under 'ctrl', fewer than 10",
        ("b", "drug2"): "9 cells under 'ctrl', fewer than 10",
        ("c", "drug2"): "9 cells under 'drug2', fewer than 10",
        ("d", "drug"): "0 cells under 'drug', fewer than 10",
        ("d", "drug2"): "0 cells under 'drug2', fewer than 10",
    }


def test_asked_for_pairs_keep_their_order(design):
    pairs, skipped = hold_out_pairs(design, **DESIGN, groups=["c", "a"], targets=["drug"])
    assert pairs == [("c", "drug"), ("a", "drug")]
    assert skipped == []


def test_numbers_and_text_columns(design):
    design.obs["kind"] = design.obs["kind"].astype(str)
    design.obs["state"] = design.obs["state"].map({"ctrl": 0, "drug": 6, "drug2": 24}).astype(int)
    pairs, skipped = hold_out_pairs(design, **{**DESIGN, "control": 0})
    assert pairs == [("a", 6), ("c", 6)]
    assert len(skipped) == 6


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"control": "nope"}, r"`control` out of \['ctrl', 'drug', 'drug2'\], none twice, found \['nope'\]"),
        ({"groups": ["a", "z"]}, r"`groups` out of .* found \['z'\]"),
        ({"groups": "a"}, "`groups` out of .* found a"),
        ({"groups": ["a", "a"]}, r"none twice, found \['a', 'a'\]"),
        ({"groups": []}, r"`groups` out of .* found \[\]"),
        ({"targets": ["drug", "ctrl"]}, "other than the control, found 'ctrl'"),
    ],
)
def test_pairs_refuse(design, change, match):
    with pytest.raises(ValueError, match=match):
        hold_out_pairs(design, **{**DESIGN, **change})


def test_choices_of_genes_are_not_handed_on(adata):
    adata.var["highly_variable"] = True
    holdout, real = hold_out(adata, **PAIR)
    assert [list(cells.var.columns) for cells in (holdout.training, holdout.control, real)] == [[], [], []]
    assert "highly_variable" in adata.var


def test_a_group_of_few_cells_is_not_learned_from_where_others_have_more(adata):
    few = rows(adata, "type_3", "stimulated")
    kept = ~few | (np.cumsum(few) <= 9)
    holdout, _ = hold_out(adata[kept], **PAIR)
    assert list(other_groups(holdout)) == ["type_1"]
    only_few = kept & (adata.obs["cell_type"] != "type_1").to_numpy()
    holdout, _ = hold_out(adata[only_few], **PAIR)
    assert list(other_groups(holdout)) == ["type_3"]


def test_incomplete_groups_are_refused(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[0], "cell_type"] = None
    with pytest.raises(ValueError, match="missing for 1"):
        hold_out(adata, **PAIR)
