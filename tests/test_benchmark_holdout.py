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
N_HVG = 17  # the last one is not tied with the next, of which scanpy would take both
PAIR = {**KEYS, "group": "type_2", "target": "stimulated"}


@pytest.fixture
def adata():
    return simulate_perturbation(300, 40, n_types=3, seed=1).adata


def rows(adata, group, condition):
    return ((adata.obs["cell_type"] == group) & (adata.obs["condition"] == condition)).to_numpy()


def spoilt(adata, hidden):
    """The same cells, but those that are hidden have other counts, which make other genes variable."""
    other = adata.copy()
    dense = other.X.toarray()
    dense[hidden] = dense[hidden][:, ::-1] * np.random.default_rng(0).integers(1, 9, (hidden.sum(), 1)) + 3
    other.X = dense
    return other


def n_aside(n, share=0.3):
    """How many control cells are set aside: the share, at least 20, at most half, none if those are below 10."""
    wanted = max(round(share * n), 20) if share else 0
    return min(wanted, n // 2) if min(wanted, n // 2) >= 10 else 0


def test_hold_out_splits_the_cells(adata):
    holdout, truth = hold_out(adata, **PAIR, seed=5)
    held_out, own = rows(adata, "type_2", "stimulated"), rows(adata, "type_2", "control")
    aside = adata.obs_names.isin(truth.control.obs_names)
    assert (own[aside]).all()
    assert aside.sum() == n_aside(own.sum()) >= 20
    parts = (holdout.training, holdout.control, truth.real, truth.control)
    for part, of_part in zip(parts, (~held_out & ~aside, own & ~aside, held_out, aside), strict=True):
        pd.testing.assert_index_equal(part.obs_names, adata.obs_names[of_part])
        np.testing.assert_array_equal(part.X.toarray(), adata.X[of_part].toarray())
        pd.testing.assert_frame_equal(part.obs.astype(str), adata.obs[of_part].astype(str))
    assert (holdout.group, holdout.source, holdout.target, holdout.seed) == ("type_2", "control", "stimulated", 5)


def test_hold_out_shares_nothing_and_hands_on_no_results(adata):
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    adata.uns["seen"] = "all cells"
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.zeros(adata.shape)
    holdout, truth = hold_out(adata, **PAIR, layer="counts")
    for part in (holdout.training, holdout.control, *truth):
        assert not (part.obsm or part.uns or part.varm or part.obsp)
        assert list(part.obs.columns) == list(adata.obs.columns)
        part.X.data[:] = -1
        part.obs["condition"] = "other"
    assert adata.layers["counts"].min() >= 0
    assert adata.obs["condition"].nunique() == 2


# ---- control cells set aside


def sized(n_control, n_target=12):
    """Two groups, the first with so many control cells."""
    sizes = {
        ("a", "ctrl"): n_control,
        ("a", "drug"): n_target,
        ("a", "drug2"): 11,
        ("b", "ctrl"): 15,
        ("b", "drug"): 15,
    }
    obs = pd.DataFrame([key for key, n in sizes.items() for _ in range(n)], columns=["kind", "state"])
    obs.index = obs.index.astype(str)
    counts = np.random.default_rng(0).poisson(3.0, size=(len(obs), 4)) + 1
    return ad.AnnData(counts.astype(np.float32), obs=obs)[np.random.default_rng(1).permutation(len(obs))].copy()


SIZED = {"group_key": "kind", "group": "a", "condition_key": "state", "control": "ctrl", "target": "drug"}


@pytest.mark.parametrize(
    ("n_control", "share", "n"),
    [(300, 0.3, 90), (67, 0.3, 20), (68, 0.3, 20), (70, 0.3, 21), (50, 0.3, 20), (39, 0.3, 19), (20, 0.3, 10),
     (19, 0.3, 0), (3, 0.3, 0), (1, 0.3, 0), (300, 0.5, 150), (300, 0.01, 20), (300, 0.0, 0), (30, 0, 0)],
)  # fmt: skip
def test_so_many_control_cells_are_set_aside(n_control, share, n):
    holdout, truth = hold_out(sized(n_control), **SIZED, control_share=share)
    assert n == n_aside(n_control, share)
    assert truth.control.n_obs == n
    assert holdout.control.n_obs == n_control - n
    assert list(truth.control.var_names) == list(holdout.control.var_names)


def test_nothing_is_on_two_sides():
    adata = sized(80)
    holdout, truth = hold_out(adata, **SIZED)
    names = [set(part.obs_names) for part in (holdout.training, truth.real, truth.control)]
    assert sum(map(len, names)) == adata.n_obs
    assert set.union(*names) == set(adata.obs_names)
    assert set(holdout.control.obs_names) < names[0]
    assert set(holdout.training.obs_names[rows_of(holdout.training, "a", "ctrl")]) == set(holdout.control.obs_names)


def rows_of(adata, kind, state):
    return ((adata.obs["kind"] == kind) & (adata.obs["state"] == state)).to_numpy()


def test_the_same_cells_are_set_aside_for_every_target_and_seed_of_a_method():
    adata = sized(80)
    first = list(hold_out(adata, **SIZED)[1].control.obs_names)
    # With few target cells of drug2 in another group, too.
    adata.obs.loc[adata.obs_names[rows_of(adata, "b", "drug")][:3], "state"] = "drug2"
    for change in ({"seed": 3}, {"target": "drug2"}, {"n_hvg": 2}, {"counts": False}):
        assert list(hold_out(adata, **{**SIZED, **change})[1].control.obs_names) == first
    fewer = adata[~rows_of(adata, "b", "ctrl")]
    assert set(hold_out(fewer, **SIZED)[1].control.obs_names) == set(first)
    other = [list(hold_out(adata, **SIZED, split_seed=seed)[1].control.obs_names) for seed in (1, 1, 2)]
    assert other[0] == other[1] != other[2]
    assert first not in other


def test_all_control_cells_can_be_set_aside():
    adata = sized(40)
    found = [set(hold_out(adata, **SIZED, split_seed=seed)[1].control.obs_names) for seed in range(20)]
    assert set.union(*found) == set(adata.obs_names[rows_of(adata, "a", "ctrl")])


@pytest.mark.parametrize("share", [-0.1, 0.51, 1, float("nan")])
def test_more_than_half_cannot_be_set_aside(share):
    with pytest.raises(ValueError, match="control_share"):
        hold_out(sized(40), **SIZED, control_share=share)


def test_a_share_is_a_number():
    with pytest.raises(TypeError, match="control_share"):
        hold_out(sized(40), **SIZED, control_share="0.3")


# ---- what a method sees


@pytest.mark.parametrize("n_hvg", [None, 15])
def test_held_out_counts_change_nothing_that_a_method_sees(adata, n_hvg):
    seen, truth = hold_out(adata, **PAIR, n_hvg=n_hvg)
    hidden = rows(adata, "type_2", "stimulated") | adata.obs_names.isin(truth.control.obs_names)
    seen_of_spoilt, truth_of_spoilt = hold_out(spoilt(adata, hidden), **PAIR, n_hvg=n_hvg)
    for part in ("training", "control"):
        one, other = getattr(seen, part), getattr(seen_of_spoilt, part)
        pd.testing.assert_frame_equal(one.obs, other.obs)
        pd.testing.assert_frame_equal(one.var, other.var)
        np.testing.assert_array_equal(ad.AnnData(one.X).to_df(), ad.AnnData(other.X).to_df())
    for one, other in zip(truth, truth_of_spoilt, strict=True):
        assert list(one.var_names) == list(other.var_names) == list(seen.control.var_names)
        assert list(one.obs_names) == list(other.obs_names)
        assert (one.X != other.X).sum() > 0


def variable_genes(cells):
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=N_HVG, flavor="seurat")
    return set(cells.var_names[cells.var["highly_variable"]])


def test_variable_genes_are_those_of_the_training_cells(adata):
    aside = hold_out(adata, **PAIR)[1].control.obs_names
    hidden = rows(adata, "type_2", "stimulated") | adata.obs_names.isin(aside)
    other = spoilt(adata, hidden)
    holdout, _ = hold_out(other, **PAIR, n_hvg=N_HVG)
    assert set(holdout.training.var_names) == variable_genes(other[~hidden])
    assert set(holdout.training.var_names) != variable_genes(other)


def test_variable_genes_of_values_as_they_are(adata):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    aside = hold_out(adata, **PAIR)[1].control.obs_names
    holdout, _ = hold_out(adata, **PAIR, n_hvg=N_HVG, counts=False)
    training = adata[~rows(adata, "type_2", "stimulated") & ~adata.obs_names.isin(aside)].copy()
    sc.pp.highly_variable_genes(training, n_top_genes=N_HVG, flavor="seurat")
    assert set(holdout.training.var_names) == set(training.var_names[training.var["highly_variable"]])


def test_cells_without_counts_of_the_variable_genes_are_not_learned_from(adata):
    held_out, own = rows(adata, "type_2", "stimulated"), rows(adata, "type_2", "control")
    aside = adata.obs_names.isin(hold_out(adata, **PAIR)[1].control.obs_names)
    adata.X = adata.X.toarray()
    adata.X[[np.flatnonzero(held_out)[3], np.flatnonzero(aside)[3]]] = 0
    holdout, truth = hold_out(adata, **PAIR, n_hvg=2)
    filled = np.asarray(adata[:, holdout.training.var_names].X.sum(axis=1)).ravel() > 0
    for cells, of_part in ((holdout.training, ~held_out & ~aside), (holdout.control, own & ~aside)):
        assert list(cells.obs_names) == list(adata.obs_names[of_part & filled])
    assert holdout.training.n_obs < (~held_out & ~aside).sum()
    # the truth is not chosen by what it turned out to be
    for cells, of_part in ((truth.real, held_out), (truth.control, aside)):
        assert list(cells.obs_names) == list(adata.obs_names[of_part])
        assert (np.asarray(cells.X.sum(axis=1)).ravel() == 0).any()
    adata.X[own] = 0
    with pytest.raises(ValueError, match=r"at least 10 cells .*n_hvg=2 genes chosen, found 0"):
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
    holdout, truth = hold_out(adata, **PAIR)
    assert [list(cells.var.columns) for cells in (holdout.training, holdout.control, *truth)] == [[], [], [], []]
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
