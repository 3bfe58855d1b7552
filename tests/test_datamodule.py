"""Training from data modules, with one of scvi-tools' form that is written by hand."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import scvi
import torch
from helpers import FAST
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

import trvae_scvi as tv
from trvae_scvi.data._registry import make_registry, setup_arguments
from trvae_scvi.module._objective import condition_prior
from trvae_scvi.train._datamodule import CheckBatches, prepare_datamodule


class HandWritten(LightningDataModule):
    """Serves an AnnData in the form of scvi-tools' own data modules: `batch_key`, `sample_key`, no `condition_key`."""

    def __init__(self, adata, *, batch_key="condition", label_key=None, covariate=None, number=None, sparse=False):
        super().__init__()
        self.adata, self.sparse = adata, sparse
        self.keys = {"batch": batch_key, "labels": label_key, "covariate": covariate, "number": number}
        order = np.random.default_rng(0).permutation(adata.n_obs)
        self.parts = {"train": order[adata.n_obs // 10 :], "validation": order[: adata.n_obs // 10]}

    n_obs = property(lambda self: self.adata.n_obs)
    n_vars = property(lambda self: self.adata.n_vars)

    def categories(self, role):
        key = self.keys[role]
        return np.array(["none"]) if key is None else np.unique(self.adata.obs[key].astype(str))

    @property
    def registry(self):
        covariates = [] if self.keys["covariate"] is None else [self.keys["covariate"]]
        numbers = [] if self.keys["number"] is None else [self.keys["number"]]
        return {
            "scvi_version": scvi.__version__,
            "model_name": "SCVI",
            "setup_args": {
                "layer": None,
                "batch_key": self.keys["batch"],
                "labels_key": self.keys["labels"] or "label",
                "sample_key": None,
                "size_factor_key": None,
                "categorical_covariate_keys": covariates or None,
                "continuous_covariate_keys": numbers or None,
            },
            "field_registries": {
                "X": {
                    "data_registry": {"attr_name": "X", "attr_key": None},
                    "state_registry": {
                        "n_obs": self.n_obs,
                        "n_vars": self.n_vars,
                        "column_names": list(self.adata.var_names),
                    },
                    "summary_stats": {"n_vars": self.n_vars, "n_cells": self.n_obs},
                },
                "batch": {
                    "data_registry": {"attr_name": "obs", "attr_key": "_scvi_batch"},
                    "state_registry": {
                        "categorical_mapping": self.categories("batch"),
                        "original_key": self.keys["batch"],
                    },
                    "summary_stats": {"n_batch": len(self.categories("batch"))},
                },
                "labels": {
                    "data_registry": {"attr_name": "obs", "attr_key": "_scvi_labels"},
                    "state_registry": {
                        "categorical_mapping": self.categories("labels"),
                        "original_key": self.keys["labels"] or "label",
                        "unlabeled_category": "Unknown",
                    },
                    "summary_stats": {"n_labels": len(self.categories("labels"))},
                },
                "size_factor": {"data_registry": {}, "state_registry": {}, "summary_stats": {}},
                "extra_categorical_covs": {
                    "data_registry": {},
                    "state_registry": {
                        "field_keys": covariates,
                        "mapping": {key: self.categories("covariate") for key in covariates},
                        "n_cats_per_key": [len(self.categories("covariate")) for _ in covariates],
                    },
                    "summary_stats": {"n_extra_categorical_covs": len(covariates)},
                },
                "extra_continuous_covs": {
                    "data_registry": {},
                    "state_registry": {"columns": np.array(numbers, dtype=object)},
                    "summary_stats": {"n_extra_continuous_covs": len(numbers)},
                },
            },
            "setup_method_name": "setup_datamodule",
        }

    def minibatch(self, cells):
        values = self.adata.X[cells].astype(np.float32)
        x = torch.from_numpy(values.toarray())
        batch = {"X": x.to_sparse_csr() if self.sparse else x}
        for name, role in (("batch", "batch"), ("labels", "labels"), ("extra_categorical_covs", "covariate")):
            if self.keys[role] is not None or name == "labels":
                key = self.keys[role]
                own = np.full(len(cells), "none") if key is None else self.adata.obs[key].astype(str).to_numpy()[cells]
                batch[name] = torch.from_numpy(np.searchsorted(self.categories(role), own))[:, None]
        if self.keys["number"] is not None:
            numbers = self.adata.obs[self.keys["number"]].to_numpy(np.float32)[cells]
            batch["extra_continuous_covs"] = torch.from_numpy(numbers)[:, None]
        return batch

    def loader(self, cells):
        return DataLoader(np.array_split(cells, max(1, len(cells) // 64)), batch_size=None, collate_fn=self.minibatch)

    def train_dataloader(self):
        return self.loader(self.parts["train"])

    def val_dataloader(self):
        return self.loader(self.parts["validation"])

    def inference_dataloader(self):
        return self.loader(np.arange(self.n_obs))


class WithoutValidation(HandWritten):
    val_dataloader = LightningDataModule.val_dataloader


class Able(HandWritten):
    """Can do all that is asked of a data module, and notes what it was."""

    mmd_reference = None
    values = None
    n_train, n_val = 300, 100

    def set_batch_size(self, batch_size):
        self.batch_size = batch_size

    def set_split(self, **split):
        self.split = split


SMALL = {"n_hidden": 32, "n_latent": 5}
ALL_COLUMNS = {"label_key": "cell_type", "covariate": "donor", "number": "age"}
OUR_NAMES = {
    "labels_key": "cell_type",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


def make(adata, module_class=HandWritten, train=None, **keys):
    datamodule = module_class(adata, **keys)
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **{**FAST, **(train or {})})
    return datamodule, model


@pytest.fixture
def both(adata):
    """A model of a data module, and one of the AnnData with its weights."""
    datamodule, model = make(adata, **ALL_COLUMNS)
    own = adata.copy()
    tv.TRVAE.setup_anndata(own, **OUR_NAMES)
    twin = tv.TRVAE(own, **SMALL)
    twin.module.load_state_dict(model.module.state_dict())
    twin.module.eval()
    twin.is_trained_ = True
    return datamodule, model, twin


def test_the_registry_is_that_of_a_setup_of_the_same_cells(adata):
    registry = tv.TRVAE(registry=HandWritten(adata, **ALL_COLUMNS).registry).registry_
    tv.TRVAE.setup_anndata(adata, **OUR_NAMES)
    expected = tv.TRVAE(adata).registry_
    assert registry["setup_args"] == expected["setup_args"]
    assert registry["model_name"] == "TRVAE"
    for name in ("X", "batch", "labels", "size_factor", "extra_categorical_covs", "extra_continuous_covs"):
        ours, theirs = registry["field_registries"][name], expected["field_registries"][name]
        assert ours["summary_stats"] == theirs["summary_stats"]
        for key, value in theirs["state_registry"].items():
            assert str(ours["state_registry"][key]) == str(value)


def test_a_registry_is_made_of_names_alone(adata):
    registry = make_registry(
        setup_arguments("condition"),
        var_names=adata.var_names,
        categories={"condition": ["stimulated", "control"]},
        n_obs=adata.n_obs,
    )
    tv.TRVAE.setup_anndata(adata, source_registry=registry)
    assert list(tv.TRVAE(adata).get_state_registry("batch").categorical_mapping) == ["stimulated", "control"]
    tv.TRVAE.setup_anndata(adata)
    expected = tv.TRVAE(adata).registry_
    assert registry["setup_args"] == expected["setup_args"]
    assert registry.keys() == expected.keys()
    with pytest.raises(TypeError, match="list of columns, found the text 'donor'"):
        setup_arguments("condition", categorical_covariate_keys="donor")


def test_a_registry_of_names_warns_of_no_design(adata):
    """The cells that it is made of are blank: which labels have which conditions is not known."""
    columns = setup_arguments("condition", labels_key="cell_type", categorical_covariate_keys=["donor"])
    categories = {"condition": ["a", "b"], "cell_type": list("wxyz"), "donor": list("cdef")}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="No category of")
        registry = make_registry(columns, var_names=adata.var_names, categories=categories, n_obs=9)
    assert registry["field_registries"]["labels"]["state_registry"]["categorical_mapping"].tolist() == list("wxyz")


def test_a_data_module_is_asked_for_no_more_than_it_can_do(adata):
    options = {
        "mmd_reference": 1,
        "batch_size": 128,
        "train_size": 0.9,
        "validation_size": None,
        "shuffle_set_split": False,
        "needs_validation": True,
        "n_cells": 7,
    }
    able = Able(adata)
    assert prepare_datamodule(able, **options) == (400, 300)
    assert (able.mmd_reference, able.batch_size) == (1, 128)
    assert able.split == {"train_size": 0.9, "validation_size": None, "shuffle_set_split": False}
    assert prepare_datamodule(HandWritten(adata), **options) == (400, 400)
    assert prepare_datamodule(LightningDataModule(), **options | {"needs_validation": False}) == (7, 7)
    able.n_val = 0
    with pytest.raises(ValueError, match="needs validation cells"):
        prepare_datamodule(able, **options)


def test_training_lowers_the_loss_and_restores_the_best_weights(adata):
    datamodule, model = make(adata, train={"max_epochs": 12}, label_key="cell_type")
    losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    assert losses[-1] < losses[0] - 1.0
    assert model.is_trained
    assert model.module.mmd_balance_labels


def test_latent_and_prediction_are_those_of_the_cells_in_memory(adata, both):
    datamodule, model, twin = both
    latent = model.get_latent_representation(dataloader=datamodule.inference_dataloader())
    np.testing.assert_allclose(latent, twin.get_latent_representation(), atol=1e-5)
    before = adata.obs.copy()
    predictions = [m.predict_perturbation(adata, source="control", target="stimulated") for m in (model, twin)]
    assert (predictions[0].X != predictions[1].X).nnz == 0
    assert adata.obs.equals(before)
    assert model.adata is None


def test_effects_and_inherited_answers_work_on_cells_in_memory(adata, both):
    _, model, twin = both
    effects = [m.get_perturbation_effect(adata, source="control", target="stimulated") for m in (model, twin)]
    np.testing.assert_allclose(effects[0]["change"], effects[1]["change"])
    assert set(effects[0]["group"]) == set(adata.obs["cell_type"])
    expected = twin.get_normalized_expression(transform_batch="stimulated")
    found = model.get_normalized_expression(adata.copy(), transform_batch="stimulated")
    assert found.shape == expected.shape


@pytest.mark.parametrize("reopened_with", ["adata", "nothing", "datamodule"])
def test_a_saved_model_comes_back(adata, both, tmp_path, reopened_with):
    datamodule, model, _ = both
    model.save(tmp_path / "model")
    expected = model.predict_perturbation(adata, source="control", target="stimulated").X
    arguments = {
        "adata": {"adata": adata.copy()},
        "nothing": {"adata": False},
        "datamodule": {"datamodule": datamodule},
    }
    loaded = tv.TRVAE.load(tmp_path / "model", accelerator="cpu", **arguments[reopened_with])
    assert (loaded.predict_perturbation(adata, source="control", target="stimulated").X != expected).nnz == 0
    if reopened_with == "datamodule":
        loaded.train(datamodule=datamodule, **FAST)


def test_a_model_of_an_anndata_goes_on_with_a_data_module(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, **SMALL)
    before = model.module.log_theta.detach().clone()
    model.train(datamodule=HandWritten(adata), **FAST)
    assert not torch.equal(model.module.log_theta, before)


def test_what_a_data_module_serves_is_not_what_the_model_s_own_cells_are(adata):
    """The cells of the AnnData took no part, so that they say nothing of what was measured."""
    gone = (adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "stimulated")
    own, control = adata[~gone].copy(), adata[(adata.obs["condition"] == "control")].copy()
    tv.TRVAE.setup_anndata(own, labels_key="cell_type")
    model = tv.TRVAE(own, **SMALL)
    model.train(**FAST)
    control = control[control.obs["cell_type"] == "type_2"].copy()
    assert model.predict_perturbation(control, target="stimulated").uns["trvae"]["target_measured"] == ["no"]
    model.train(datamodule=HandWritten(adata, label_key="cell_type"), **FAST)
    assert model.predict_perturbation(control, target="stimulated").uns["trvae"]["target_measured"] == ["unknown"]
    assert not model.module.n_cells.any()


def test_sparse_batches_train_the_same_model(adata):
    weights = [make(adata, sparse=sparse)[1].module.state_dict() for sparse in (False, True)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name])


def test_the_loss_knows_the_number_of_cells(adata):
    _, model = make(adata, train={"early_stopping": False, "max_epochs": 1})
    prior, module = float(model.history["condition_prior_train"].iloc[-1, 0]), model.module
    with torch.no_grad():
        terms = module.decoder, {"batch": torch.tensor([[0], [1]])}
        settings = {"scale": module.response_scale, "n_cells": module.n_cells, "n_obs": adata.n_obs}
        assert prior <= 2 * float(condition_prior(*terms, **settings))
    assert prior > 0


def test_epochs_follow_the_number_of_cells(adata, monkeypatch):
    asked = {}
    datamodule = HandWritten(adata)
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    base = scvi.model.base.UnsupervisedTrainingMixin

    def remember(self, **kwargs):
        asked.update(kwargs)
        raise InterruptedError

    monkeypatch.setattr(base, "train", remember)
    with pytest.raises(InterruptedError):
        model.train(datamodule=datamodule)
    assert asked["max_epochs"] == 400
    assert asked["plan_kwargs"]["n_epochs_kl_warmup"] == 133


@pytest.mark.parametrize("kind", ["fractional", "negative", "empty"])
def test_wrong_values_are_refused_before_the_first_step(adata, kind):
    adata.X = adata.X.astype(np.float32)
    if kind == "fractional":
        adata.X.data = np.log1p(adata.X.data)
    elif kind == "negative":
        adata.X.data *= -1
    else:
        adata.X = adata.X.multiply(np.arange(adata.n_obs)[:, None] % 2).tocsr()
    datamodule = HandWritten(adata)
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.raises(ValueError, match="no counts at all" if kind == "empty" else kind):
        model.train(datamodule=datamodule, **FAST)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_values_of_any_kind_are_trained_on_with_mse_unless_infinite(adata):
    adata.X = adata.X.astype(np.float32)
    adata.X.data = np.log1p(adata.X.data)
    datamodule = HandWritten(adata)
    model = tv.TRVAE(registry=datamodule.registry, gene_likelihood="mse", **SMALL)
    model.train(datamodule=datamodule, **FAST)
    adata.X.data[:] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.train(datamodule=datamodule, **FAST)


def test_registries_that_cannot_serve_are_refused(adata):
    registry = HandWritten(adata).registry
    registry["setup_args"]["batch_key"] = None
    with pytest.raises(ValueError, match="no batch"):
        tv.TRVAE(registry=registry)
    with pytest.raises(ValueError, match="two conditions"):
        tv.TRVAE(registry=HandWritten(adata[adata.obs["condition"] == "control"]).registry)
    with pytest.raises(ValueError, match="of scvi-tools, found \\['a'\\]"):
        tv.TRVAE(registry={"a": 1})


def test_a_setup_of_another_model_serves_with_its_batch(adata):
    scvi.model.SCVI.setup_anndata(adata, batch_key="condition")
    model = tv.TRVAE(registry=scvi.model.SCVI(adata).registry_)
    assert list(model.get_state_registry("batch").categorical_mapping) == ["control", "stimulated"]
    assert model.registry["setup_args"]["condition_key"] == "condition"


def test_encoders_kept_as_a_mapping_keep_their_codes(adata):
    registry = HandWritten(adata).registry
    registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"] = {"stimulated": 0, "control": 1}
    assert list(tv.TRVAE(registry=registry).get_state_registry("batch").categorical_mapping) == [
        "stimulated",
        "control",
    ]


def test_another_data_module_is_refused(adata):
    model = tv.TRVAE(registry=HandWritten(adata, covariate="donor").registry, **SMALL)
    for other, message in (
        (HandWritten(adata[:, ::-1].copy(), covariate="donor"), "Expected the genes"),
        (HandWritten(adata, batch_key="donor", covariate="lab"), "Expected the conditions"),
        (HandWritten(adata), "Expected the covariates"),
        (HandWritten(adata, covariate="donor", number="age"), "Expected the continuous covariates"),
    ):
        with pytest.raises(ValueError, match=message):
            model.train(datamodule=other, **FAST)
    for wrong in (adata, LightningDataModule()):
        with pytest.raises(TypeError, match=f"found {type(wrong).__name__}"):
            model.train(datamodule=wrong, **FAST)
    labelled = tv.TRVAE(registry=HandWritten(adata, label_key="cell_type").registry, **SMALL)
    with pytest.raises(ValueError, match="balances labels"):
        labelled.train(datamodule=HandWritten(adata), **FAST)


def test_unknown_conditions_and_genes_are_refused_in_prediction(adata):
    _, model = make(adata)
    with pytest.raises(ValueError, match="Expected `target` among"):
        model.predict_perturbation(adata, target="heated")
    with pytest.raises(ValueError, match="genes"):
        model.predict_perturbation(adata[:, :-1], target="stimulated")
    adata.obs["condition"] = "heated"
    with pytest.raises(ValueError, match="does not know: \\['heated'\\]"):
        model.predict_perturbation(adata, target="stimulated")


def test_early_stopping_needs_validation_cells(adata):
    datamodule = WithoutValidation(adata)
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    with pytest.raises(ValueError, match="needs validation cells"):
        model.train(datamodule=datamodule, **FAST)
    model.train(datamodule=datamodule, early_stopping=False, **FAST)
    assert model.is_trained


def test_several_devices_are_refused(adata):
    class Trainer:
        world_size = 2

    with pytest.raises(NotImplementedError, match="devices=1"):
        CheckBatches("nb").on_fit_start(Trainer(), None)


def test_a_model_without_data_says_what_it_trains_from(adata):
    model = tv.TRVAE(registry=HandWritten(adata).registry, **SMALL)
    with pytest.raises(ValueError, match="pass a `datamodule`"):
        model.train(**FAST)


def test_without_annbatch_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "annbatch", None)
    for name in ("_collection", "_collection_batches", "_collection_module"):
        monkeypatch.delitem(sys.modules, f"trvae_scvi.data.{name}", raising=False)
    with pytest.raises(ImportError, match=r"extra `annbatch`: `pip install '\.\[annbatch\]'`"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", ["a.h5ad"])


class Delegating(LightningDataModule):
    """Hands on to another data module all that it has not itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def train_dataloader(self):
        return self.inner.train_dataloader()

    def val_dataloader(self):
        return self.inner.val_dataloader()


def test_a_data_module_may_hand_on_to_another(adata):
    inner = Able(adata)
    outer = Delegating(inner)
    model = tv.TRVAE(registry=outer.registry, **SMALL)
    model.train(datamodule=outer, **{**FAST, "early_stopping": False})
    assert model.is_trained


@pytest.mark.parametrize("name", ["accelerator", "devices", "load_sparse_tensor"])
def test_arguments_of_train_are_refused_in_the_trainers_settings(adata, name):
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises(TypeError, match="multiple values"):
        tv.TRVAE(adata, **SMALL).train(trainer_config={name: "cpu"}, max_epochs=1)
