"""A query model leaves its reference alone, learns what is new, and survives saving."""

from __future__ import annotations

import inspect
import itertools
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_trained
from lightning.pytorch.callbacks import StochasticWeightAveraging
from scvi.model.base import ArchesMixin

import trvae_scvi as tv
from trvae_scvi.data import _values

COVARIATES = (None, ["donor"], ["donor", "lab"])
NETWORKS = {
    "default": {},
    "published": {"encode_condition": True, "condition_layer": "first"},
    "encoded": {"encode_condition": True},
}


@pytest.fixture
def query(adata):
    """New cells of an old and of a new condition, donor and lab."""
    query = adata[::2].copy()
    query.obs_names = "q" + query.obs_names
    query.obs["condition"] = query.obs["condition"].astype(str).replace({"stimulated": "drug"})
    query.obs["donor"] = np.where(np.arange(query.n_obs) % 3 == 0, "a", "z")
    query.obs["lab"] = "elsewhere"
    return query


def make_reference(adata, covariates=None, **model_kwargs):
    setup = {"labels_key": "cell_type", "categorical_covariate_keys": covariates}
    return make_trained(adata, setup, **model_kwargs)


def answers(model, cells):
    """What a model says of old conditions and covariates, whole and cell by cell."""
    few = cells[:5]
    return {
        "latent": model.get_latent_representation(cells),
        "latent, single": model.get_latent_representation(few, batch_size=1),
        "y": model.get_mmd_representation(cells),
        "mean": model.predict_perturbation(cells, target="stimulated", method="mean").X,
        "mean, single": model.predict_perturbation(few, target="stimulated", method="mean", batch_size=1).X,
        "counts": model.predict_perturbation(cells, target="control", method="counterfactual").X.toarray(),
    }


def train_on(query, reference, **kwargs):
    model = tv.TRVAE.load_query_data(query, reference, **kwargs)
    model.train(
        max_epochs=2,
        batch_size=64,
        accelerator="cpu",
        enable_progress_bar=False,
        plan_kwargs={"optimizer": "AdamW", "weight_decay": 0.1, "lr": 0.05},
    )
    return model


@pytest.mark.parametrize(
    ("covariates", "normalization", "dispersion", "network"),
    list(itertools.product(COVARIATES, ("layer", "batch"), ("gene", "gene-batch"), NETWORKS)),
)
def test_reference_answers_are_bit_equal(adata, query, covariates, normalization, dispersion, network):
    options = {"normalization": normalization, "dispersion": dispersion, **NETWORKS[network]}
    reference = make_reference(adata, covariates, **options)
    before = answers(reference, adata)
    model = train_on(query, reference)
    after, reference_after = answers(model, adata), answers(reference, adata)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
        np.testing.assert_array_equal(reference_after[name], expected, err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_only_new_rows_are_trained_and_they_move(adata, query, network):
    reference = make_reference(adata, ["donor", "lab"], dispersion="gene-batch", **NETWORKS[network])
    model = tv.TRVAE.load_query_data(query, reference)
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    trained = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert trained == {name for name in before if name.endswith(".new")}
    model.train(max_epochs=2, batch_size=64, enable_progress_bar=False)
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained), name


def test_new_rows_start_at_the_mean_of_the_old_ones(adata, query):
    reference = make_reference(adata, ["donor"], dispersion="gene-batch")
    model = tv.TRVAE.load_query_data(query, reference)
    for name in ("log_theta", "decoder.output.offset", "decoder.first.tables.0"):
        old, table = reference.module.get_submodule(name).weight, model.module.get_submodule(name)
        torch.testing.assert_close(table.new, old.mean(dim=0, keepdim=True))
        assert torch.equal(table.weight, old)


def test_query_learns_its_own_condition(adata):
    """Half of the genes lose four fifths of their counts, and that is what is predicted."""
    stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
    rng = np.random.default_rng(0)
    shifted = adata[~stimulated].copy()
    factor = np.where(np.arange(adata.n_vars) % 2 == 0, 0.2, 1.0)
    shifted.X = ad.AnnData(rng.binomial(shifted.X.toarray().astype(int), factor).astype(np.float32)).X
    shifted.obs["condition"] = "shifted"
    reference = make_trained(adata, {"labels_key": "cell_type"}, {"max_epochs": 30})
    model = tv.TRVAE.load_query_data(shifted, reference)
    model.train(max_epochs=60, batch_size=64, enable_progress_bar=False, plan_kwargs={"lr": 0.03})
    control = adata[~stimulated]
    effect = model.get_perturbation_effect(control, target="shifted").groupby("variable", sort=False)["log_fc"].mean()
    half = effect.to_numpy()[::2].mean() - effect.to_numpy()[1::2].mean()
    assert half < 0.6 * np.log2(0.2)


def test_predicts_from_and_to_old_and_new_conditions(adata, query):
    model = train_on(query, make_reference(adata, ["donor"]))
    for cells, target in ((query, "stimulated"), (query, "drug"), (adata, "drug")):
        prediction = model.predict_perturbation(cells, target=target)
        assert prediction.n_obs == cells.n_obs
        assert (prediction.obs["condition"] == target).all()
    everything = model.predict_perturbation(query[:4], target="all")
    assert list(everything.uns["trvae"]["target"]) == ["control", "stimulated", "drug"]


@pytest.mark.parametrize("kind", [str, Path])
def test_reference_from_a_folder_equals_the_model(adata, query, tmp_path, kind):
    reference = make_reference(adata, ["donor"])
    reference.save(tmp_path / "reference", save_anndata=False)
    from_folder = train_on(query.copy(), kind(tmp_path / "reference"))
    from_model = train_on(query, reference)
    np.testing.assert_array_equal(
        from_folder.predict_perturbation(query, target="drug", method="mean").X,
        from_model.predict_perturbation(query, target="drug", method="mean").X,
    )


def test_saved_query_model_answers_alike_and_stays_frozen(adata, query, tmp_path):
    model = train_on(query, make_reference(adata, ["donor"]))
    expected = answers(model, adata)
    model.save(tmp_path / "query")
    loaded = tv.TRVAE.load(tmp_path / "query", query)
    for name, value in answers(loaded, adata).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    np.testing.assert_array_equal(
        loaded.predict_perturbation(query, target="drug").X.toarray(),
        model.predict_perturbation(query, target="drug").X.toarray(),
    )
    loaded.train(max_epochs=1, enable_progress_bar=False)
    for name, value in answers(loaded, adata).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_query_model_is_a_reference_for_the_next_query(adata, query):
    first = train_on(query, make_reference(adata, ["donor"]))
    expected = first.predict_perturbation(query, target="drug", method="mean").X
    second_query = query.copy()
    second_query.obs["condition"] = "another"
    second = train_on(second_query, first)
    np.testing.assert_array_equal(second.predict_perturbation(query, target="drug", method="mean").X, expected)
    assert second.predict_perturbation(query, target="another").n_obs == query.n_obs


def test_freed_layers_are_trained(adata, query):
    reference = make_reference(adata, ["donor"])
    cases = {
        "encoder.first.linear.weight": {"freeze_expression": False},
        "decoder.first.linear.weight": {"freeze_decoder_first_layer": False},
        "decoder.output.shared.weight": {"unfrozen": True},
    }
    for name, options in cases.items():
        model = train_on(query.copy(), reference, **options)
        for other in cases:
            moved = not torch.equal(model.module.get_parameter(other), reference.module.get_parameter(other))
            assert moved == (other == name or "unfrozen" in options), (name, other)


def test_query_without_labels_or_a_second_condition(adata, query, caplog):
    reference = make_reference(adata, mmd_balance_labels=True)
    one = query[query.obs["condition"] == "drug"].copy()
    del one.obs["cell_type"]
    with caplog.at_level(logging.WARNING):
        model = train_on(one, reference)
    assert "the new model is without labels" in caplog.text
    assert model.predict_perturbation(one, target="control").n_obs == one.n_obs
    effect = model.get_perturbation_effect(one, target="control")
    assert set(effect["group"]) == {"all"}


def test_nothing_new_needs_no_training(adata):
    reference = make_reference(adata)
    model = tv.TRVAE.load_query_data(adata[:50].copy(), reference)
    np.testing.assert_array_equal(
        model.get_latent_representation(), reference.get_latent_representation(adata[:50].copy())
    )
    with pytest.raises(ValueError, match="nothing to train"):
        model.train(max_epochs=1)


def test_another_set_up_of_the_query_does_not_reach_its_training(adata, query):
    """The second model writes its own codes into the same AnnData."""
    one = make_reference(adata, encode_condition=True)
    other = adata.copy()
    other.obs["condition"] = other.obs["condition"].astype(str).replace({"control": "zero", "stimulated": "control"})
    another = make_reference(other, encode_condition=True)
    plain, shared = (tv.TRVAE.load_query_data(cells, one) for cells in (query.copy(), query))
    tv.TRVAE.load_query_data(query, another)
    for model in (plain, shared):
        model.train(max_epochs=2, batch_size=64, enable_progress_bar=False)
    for (name, expected), found in zip(plain.module.named_parameters(), shared.module.parameters(), strict=True):
        assert torch.equal(found, expected), name


def test_columns_of_another_kind_are_refused(adata, query):
    adata.obs["donor"] = adata.obs["donor"].map({"a": 1, "b": 2, "c": 3}).astype(str)
    reference = make_reference(adata, ["donor"])
    for key, values in (("donor", 1), ("condition", 0), ("cell_type", True), ("condition", 1.5)):
        cells = query.copy()
        cells.obs["donor"] = "1"
        cells.obs[key] = values
        columns = list(cells.obs)
        with pytest.raises(TypeError, match=f"'{key}'.*texts as in the reference"):
            tv.TRVAE.load_query_data(cells, reference)
        assert list(cells.obs) == columns


def test_averaging_weights_is_refused_where_something_is_frozen(adata, query):
    model = tv.TRVAE.load_query_data(query, make_reference(adata, normalization="batch"))
    with pytest.raises(ValueError, match="StochasticWeightAveraging"):
        model.train(max_epochs=2, callbacks=[StochasticWeightAveraging(swa_lrs=1e-2)])


def test_prepare_query_anndata(adata, trained):
    query = adata[:, ::-1].copy()
    query = query[:, :-6].copy()
    names = tv.TRVAE.prepare_query_anndata(query, trained, return_reference_var_names=True)
    assert list(names) == list(adata.var_names)
    new = tv.TRVAE.prepare_query_anndata(query, trained, inplace=False)
    assert list(query.var_names) != list(names)
    assert tv.TRVAE.prepare_query_anndata(query, trained) is None
    for aligned in (new, query):
        assert list(aligned.var_names) == list(names)
        assert aligned.uns["gene_alignment"]["kept"] == adata.n_vars - 6
        np.testing.assert_array_equal(aligned.X.toarray()[:, 6:], adata.X.toarray()[:, 6:])
        assert (aligned.X.toarray()[:, :6] == 0).all()
    with pytest.raises(ValueError, match="missing"):
        tv.TRVAE.prepare_query_anndata(adata[:, :20].copy(), trained)
    with pytest.raises(ValueError, match="is a view"):
        tv.TRVAE.prepare_query_anndata(adata[:9], trained)
    assert tv.TRVAE.prepare_query_anndata(adata[:9], trained, inplace=False).n_obs == 9


def test_bad_queries_are_refused_and_left_alone(adata, query, trained):
    cases = [
        (query[:, ::-1].copy(), trained, ValueError, "order"),
        (query, "nowhere", (ValueError, FileNotFoundError), "nowhere"),
        (query, 3, TypeError, "Expected `reference_model`"),
        (_without(query, "donor"), make_reference(adata, ["donor"]), KeyError, "donor"),
        (query, tv.TRVAE(_registered(adata)), ValueError, "not trained"),
        (_without(query, "condition"), trained, KeyError, "condition"),
    ]
    few = query.copy()
    few.obs["condition"] = few.obs["condition"].where(np.arange(few.n_obs) > 1, "rare")
    cases.append((few, trained, ValueError, "rare"))
    logarithm = query.copy()
    logarithm.X = logarithm.X.log1p()
    cases.append((logarithm, trained, ValueError, "raw counts"))
    for cells, reference, error, match in cases:
        obs, uns = cells.obs.copy(), dict(cells.uns)
        with pytest.raises(error, match=match):
            tv.TRVAE.load_query_data(cells, reference)
        pd.testing.assert_frame_equal(cells.obs, obs)
        assert dict(cells.uns) == uns


def test_scale_of_the_query_is_checked(adata):
    adata.X = np.log1p(adata.X.toarray())
    reference = make_trained(adata, {}, gene_likelihood="mse")
    query = adata.copy()
    query.X = query.X - 1.0
    with pytest.raises(ValueError, match="negative"):
        tv.TRVAE.load_query_data(query, reference)


def _without(adata, column):
    return ad.AnnData(adata.X, obs=adata.obs.drop(columns=column), var=adata.var)


def _registered(adata):
    tv.TRVAE.setup_anndata(adata)
    return adata


def test_a_query_whose_labels_are_all_missing_has_none(adata, query):
    reference = make_reference(adata, mmd_balance_labels=True)
    for empty in (np.nan, None, pd.NA):
        query.obs["cell_type"] = empty
        model = tv.TRVAE.load_query_data(query, reference)
        assert model.registry_["setup_args"]["labels_key"] is None
    query.obs["cell_type"] = ["type_1"] * (query.n_obs - 2) + [None, None]
    with pytest.raises(ValueError, match="2 of 200 cells have no label.*remove the column"):
        tv.TRVAE.load_query_data(query, reference)


def test_arguments_of_upstream_are_taken_or_refused_by_name(query, trained):
    taken = {"accelerator": "cpu", "device": "auto", "freeze_dropout": True, "transfer_batch": True, "registry": None}
    assert tv.TRVAE.load_query_data(query, trained, **taken, freeze_batchnorm_encoder=True).device.type == "cpu"
    refused = {
        "freeze_dropout": (False, "dropout of what is frozen is always off"),
        "freeze_batchnorm_encoder": (False, "normalisation always stays"),
        "freeze_batchnorm_decoder": (False, "normalisation always stays"),
        "freeze_classifier": (False, "no classifier"),
        "transfer_batch": (False, "new ones get their own"),
        "registry": ({}, "that of the reference"),
        "datamodule": (object(), "read from an AnnData"),
    }
    upstream = set(inspect.signature(ArchesMixin.load_query_data).parameters) - {"adata", "reference_model"}
    own = set(inspect.signature(tv.TRVAE.load_query_data).parameters)
    assert upstream <= own | set(refused)
    for name, (value, reason) in refused.items():
        with pytest.raises(ValueError, match=f"`{name}=.*{reason}"):
            tv.TRVAE.load_query_data(query, trained, **{name: value})
    with pytest.raises(TypeError, match=r"unknown arguments \['freeze'\]"):
        tv.TRVAE.load_query_data(query, trained, freeze=True)


@pytest.mark.parametrize("name", ["unfrozen", "freeze_expression", "freeze_decoder_first_layer"])
@pytest.mark.parametrize("value", ["False", None, 1])
def test_flags_are_true_or_false(query, trained, name, value):
    with pytest.raises(TypeError, match=f"`{name}` to be True or False"):
        tv.TRVAE.load_query_data(query, trained, **{name: value})


def test_values_of_a_query_are_passed_through_once(query, trained, tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(_values, "_summary_of", lambda x, own=_values._summary_of: passes.append(x) or own(x))
    tv.TRVAE.load_query_data(query, trained)
    assert sum(x is query.X for x in passes) == len(passes) == 1
    trained.save(tmp_path / "m")
    passes.clear()
    tv.TRVAE.load(tmp_path / "m", query[query.obs["condition"] == "control"].copy())
    assert len(passes) == 1


def test_genes_of_a_query_can_be_brought_into_line_in_place(adata, query, trained):
    wide = query[:, ::-1].copy()
    wide.obs["condition"] = "drug"
    extra = ad.AnnData(wide.X[:, :1].copy(), obs=wide.obs, var=pd.DataFrame(index=["another gene"]))
    wide = ad.concat([wide, extra], axis=1, merge="same")
    model = tv.TRVAE.load_query_data(wide, trained, inplace_subset_query_vars=True)
    assert list(wide.var_names) == list(adata.var_names)
    assert model.adata is wide
    with pytest.raises(ValueError, match="5 of 60 genes are missing"):
        tv.TRVAE.load_query_data(query[:, 5:].copy(), trained, inplace_subset_query_vars=True)
