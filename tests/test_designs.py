"""Designs that mislead are said once, before anything is trained; sound ones are not talked about."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import FAST, make_trained

import trvae_scvi as tv


def said(action):
    """Texts of our warnings that an action sets off."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in seen if issubclass(w.category, UserWarning) and "trvae_scvi" in w.filename]


def set_up(adata, **arguments):
    return said(lambda: tv.TRVAE.setup_anndata(adata, **arguments))


def test_a_sound_design_is_silent(adata):
    assert set_up(adata, labels_key="cell_type", categorical_covariate_keys=["donor", "lab"]) == []
    assert said(lambda: tv.TRVAE(adata)) == []


def test_nested_donors(adata):
    condition = adata.obs["condition"].astype(str)
    adata.obs["donor"] = condition.str[0] + pd.Series(np.resize(["1", "2"], adata.n_obs), index=adata.obs_names)
    (text,) = set_up(adata, categorical_covariate_keys=["donor", "lab"])
    assert "No category of `adata.obs['donor']` connects" in text
    assert "'c1': 'control'" in text
    # one donor under both is enough to tell what is the donors' and what the condition's
    adata.obs.loc[adata.obs_names[:5], "donor"] = "both"
    adata.obs.loc[adata.obs_names[-5:], "donor"] = "both"
    assert {"control", "stimulated"} == set(adata.obs.loc[adata.obs["donor"] == "both", "condition"])
    assert set_up(adata, categorical_covariate_keys=["donor", "lab"]) == []


def test_conditions_that_no_chain_connects():
    """A and B share donors, C and D do, the two pairs share none."""
    adata = tv.datasets.simulate_perturbation(400, 30, targets=("B", "C", "D"), n_types=2).adata
    pair = adata.obs["condition"].isin(["C", "D"]).to_numpy()
    adata.obs["donor"] = np.where(pair, "second", "first")
    (text,) = set_up(adata, categorical_covariate_keys=["donor"])
    assert "'donor'" in text


def test_labels_of_one_condition_each(adata):
    adata.obs["cell_type"] = adata.obs["condition"].astype(str) + " cells"
    (text,) = set_up(adata, labels_key="cell_type")
    assert "No category of `adata.obs['cell_type']`" in text


@pytest.mark.parametrize("other", ["Control", "control ", " CONTROL"])
@pytest.mark.parametrize("column", ["condition", "donor"])
def test_names_that_differ_only_in_blanks_or_case(adata, column, other):
    values = adata.obs[column].astype(str)
    first = "control" if column == "condition" else "a"
    if column == "donor":
        other = {"Control": "A", "control ": "a ", " CONTROL": " A"}[other]
    values.iloc[np.flatnonzero(values == first)[:20]] = other
    adata.obs[column] = values
    texts = set_up(adata, categorical_covariate_keys=["donor"])
    assert [text for text in texts if "differ only by blanks" in text and repr(other) in text]


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "<NA>"])
def test_names_that_read_as_missing(adata, name):
    values = adata.obs["condition"].astype(str)
    values.iloc[:20] = name
    adata.obs["condition"] = values
    (text,) = set_up(adata)
    assert f"holds the texts ['{name}']" in text


def test_query_whose_new_condition_is_nearly_a_known_one(adata, trained):
    query = adata[adata.obs["condition"] == "control"].copy()
    query.obs["condition"] = "Control"
    texts = said(lambda: tv.TRVAE.load_query_data(query, trained))
    assert any("['Control', 'control']" in text for text in texts)


def test_conditions_and_labels_with_few_cells(adata):
    condition, label = (adata.obs[key].astype(str) for key in ("condition", "cell_type"))
    condition.iloc[:8] = "rare"
    label.iloc[20] = "single"
    adata.obs["condition"], adata.obs["cell_type"] = condition, label
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")

    def of_training(**options):
        model = tv.TRVAE(adata, n_hidden=8, **options)
        return [text for text in said(lambda: model.train(**FAST)) if "fewer" in text and "MMD" in text]

    texts = of_training()
    assert any("Conditions with fewer cells than the MMD can match, 9: {'rare': 8}" in text for text in texts)
    assert any("'single, " in text for text in texts)
    assert of_training(mmd_on=None) == []
    assert not any("single" in text for text in of_training(mmd_balance_labels=False))


def test_few_cells_are_no_fault_where_nothing_is_trained_or_matched(adata, trained, tmp_path):
    trained.save(tmp_path / "m")
    few = adata[[0, 1, 2, -3, -2, -1]].copy()
    assert not any("MMD" in text for text in said(lambda: tv.TRVAE.load(tmp_path / "m", few)))
    few.obs["condition"] = "drug"
    assert not any("MMD" in text for text in said(lambda: tv.TRVAE.load_query_data(few, trained)))


def test_a_hidden_group_is_no_fault(adata):
    hidden = (adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "stimulated")
    rest = adata[~hidden.to_numpy()].copy()
    assert set_up(rest, labels_key="cell_type") == []
    assert said(lambda: tv.TRVAE(rest)) == []


def test_short_training(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    texts = said(lambda: model.train(**FAST))
    assert sum("less than a third of the default for 400 cells, 400" in text for text in texts) == 1
    assert not any("a third" in text for text in said(lambda: model.train(**FAST)))  # training goes on
    atlas = make_trained(adata, train={"max_epochs": 1})
    query = adata[adata.obs["condition"] == "control"].copy()
    query.obs["condition"] = "drug"
    mapped = tv.TRVAE.load_query_data(query, atlas)
    assert not any("a third" in text for text in said(lambda: mapped.train(**FAST)))
