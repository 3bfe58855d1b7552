"""Predictions keep what the caller's cells have, can be written where those can, and say how they were made."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import FAST, assert_same_cells, make_trained
from scvi import REGISTRY_KEYS

import trvae_scvi as tv

PREDICT = {"source": "control", "target": "stimulated"}


@pytest.fixture
def doses(adata):
    """Ordered conditions of three doses."""
    dose = np.resize(["2 nM", "10 nM", "50 nM"], adata.n_obs)
    adata.obs["condition"] = pd.Categorical(dose, categories=["2 nM", "10 nM", "50 nM"], ordered=True)
    return adata


def written(cells, path):
    """What comes back from a file."""
    cells.write_h5ad(path)
    return ad.read_h5ad(path)


def test_an_index_with_the_name_of_a_column(adata, trained, tmp_path):
    adata.obs["barcode"] = adata.obs_names.to_numpy()
    adata.obs_names = adata.obs_names.rename("barcode")
    adata.var["symbol"] = adata.var_names.to_numpy()
    adata.var_names = adata.var_names.rename("symbol")
    written(adata, tmp_path / "in.h5ad")
    prediction = trained.predict_perturbation(adata, **PREDICT)
    assert prediction.obs["barcode"].tolist() == [name.removesuffix("-stimulated") for name in prediction.obs_names]
    assert_same_cells(written(prediction, tmp_path / "p.h5ad"), prediction)
    for suffix in ("h5ad", "zarr"):
        streamed = trained.predict_perturbation(adata, **PREDICT, out=tmp_path / f"out.{suffix}")
        assert_same_cells(streamed.to_memory(), prediction)
    again = trained.predict_perturbation(prediction, target="control")
    assert_same_cells(written(again, tmp_path / "again.h5ad"), again)


def test_an_index_with_a_name_of_its_own_keeps_it(adata, trained):
    adata.obs_names = adata.obs_names.rename("barcode")
    assert trained.predict_perturbation(adata, **PREDICT).obs_names.name == "barcode"


def test_columns_whose_names_are_no_texts(adata, trained, tmp_path):
    adata.obs[0] = 1.0
    prediction = trained.predict_perturbation(adata, **PREDICT)
    assert (prediction.obs[0] == 1.0).all()
    assert len(trained.get_perturbation_effect(adata, **PREDICT))
    assert trained.get_latent_representation(adata).shape == (400, 5)
    with pytest.raises(TypeError, match=r"texts as names.*found \[0\].*astype\(str\)"):
        trained.predict_perturbation(adata, **PREDICT, out=tmp_path / "p.h5ad")
    assert not list(tmp_path.iterdir())


def test_a_column_of_the_caller_that_begins_like_scvis_own(adata, trained):
    adata.obs["_scvi_score"] = 3
    adata.obs["_scvi_batch"] = 7
    prediction = trained.predict_perturbation(adata, **PREDICT)
    assert (prediction.obs["_scvi_score"] == 3).all()
    assert "_scvi_batch" not in prediction.obs


@pytest.mark.parametrize("registered", [False, True])
def test_a_column_of_the_caller_with_the_name_of_the_source(adata, registered):
    adata.obs["condition_source"] = np.resize(["lab A", "lab B"], adata.n_obs)
    setup = {"categorical_covariate_keys": ["condition_source"]} if registered else {}
    model = make_trained(adata, setup)
    prediction = model.predict_perturbation(adata, **PREDICT)
    assert set(prediction.obs["condition_source"]) == {"lab A", "lab B"}
    assert prediction.uns["trvae"]["source_key"] == "condition_source_2"
    assert set(prediction.obs["condition_source_2"]) == {"control"}
    # a prediction of a prediction: its own column is replaced, the caller's stays
    again = model.predict_perturbation(prediction, target="control")
    assert set(again.obs["condition_source"]) == {"lab A", "lab B"}
    assert set(again.obs["condition_source_2"]) == {"stimulated"}
    assert "condition_source_3" not in again.obs


def test_the_source_of_a_prediction_is_replaced(adata, trained):
    prediction = trained.predict_perturbation(adata, **PREDICT)
    again = trained.predict_perturbation(prediction, target="control")
    assert set(again.obs["condition_source"]) == {"stimulated"}
    assert [c for c in again.obs if "source" in str(c)] == ["condition_source"]


def test_ordered_conditions_stay_ordered(doses, tmp_path):
    model = make_trained(doses)
    dtype = doses.obs["condition"].dtype
    cells = doses[doses.obs["condition"] == "2 nM"]  # a view has lost the other categories
    for given, target in ((doses, "all"), (cells, "10 nM"), (doses, ["50 nM", "2 nM"])):
        prediction = model.predict_perturbation(given, target=target)
        assert prediction.obs["condition"].dtype == dtype
        assert ad.concat([doses, prediction]).obs["condition"].dtype == dtype
        assert written(prediction, tmp_path / "p.h5ad").obs["condition"].dtype == dtype
    assert model.predict_perturbation(doses, target="all").obs["condition_source"].dtype == dtype
    assert model.predict_perturbation(doses, target="all")[:9].obs["condition"].astype(str).unique().tolist() == [
        "2 nM"
    ]


def test_an_order_without_a_place_for_the_target_is_none(doses):
    """Of the combination "10 nM+50 nM" nobody said between which doses it lies."""
    model = make_trained(doses)
    prediction = model.predict_combination(doses, target="10 nM+50 nM", control="2 nM", source="2 nM")
    assert not prediction.obs["condition"].cat.ordered


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "float64", "Int64"])
@pytest.mark.parametrize("is_category", [False, True])
def test_conditions_that_are_numbers_keep_their_type(adata, dtype, is_category, tmp_path):
    condition = (adata.obs["condition"] == "stimulated").astype(int).astype(dtype)
    adata.obs["condition"] = condition.astype("category") if is_category else condition
    model = make_trained(adata)
    prediction = model.predict_perturbation(adata, target=list(adata.obs["condition"].unique()))
    if dtype != "Int64":  # whose categories anndata does not write, of the cells neither
        back = written(prediction, tmp_path / "p.h5ad")
        assert back.obs["condition"].tolist() == prediction.obs["condition"].tolist()
    assert prediction.obs["condition"].dtype == adata.obs["condition"].dtype
    expected = ad.concat([adata, adata], index_unique="-").obs["condition"].dtype  # anndata widens narrow categories
    assert ad.concat([adata, prediction]).obs["condition"].dtype == expected


def test_a_number_that_a_narrow_column_cannot_hold(adata):
    """A view of few cells may have been stored in the smallest type that holds them."""
    adata.obs["condition"] = np.where(adata.obs["condition"] == "stimulated", 300, 0)
    model = make_trained(adata)
    cells = adata[adata.obs["condition"] == 0].copy()
    cells.obs["condition"] = cells.obs["condition"].astype("int8")
    assert set(model.predict_perturbation(cells, target=300).obs["condition"]) == {300}


def test_notes_of_the_caller_are_no_prediction(adata, trained):
    adata.obs["condition_source"] = "lab A"
    adata.uns["trvae"] = {"note": "of mine"}
    assert set(trained.predict_perturbation(adata, **PREDICT).obs["condition_source"]) == {"lab A"}


def test_covariates_that_are_asked_for_keep_their_type(adata):
    adata.obs["donor"] = pd.Categorical(adata.obs["donor"], categories=["c", "a", "b"], ordered=True)
    setup = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    model = make_trained(adata, setup)
    prediction = model.predict_perturbation(adata, **PREDICT, covariates={"donor": "b", "age": 1.5})
    for column in ("donor", "age", "cell_type", "lab"):
        assert prediction.obs[column].dtype == adata.obs[column].dtype
    assert set(prediction.obs["donor"]) == {"b"}
    without = adata[adata.obs["donor"] != "b"]  # has lost the category
    prediction = model.predict_perturbation(without, **PREDICT, covariates={"donor": "b"})
    assert prediction.obs["donor"].dtype == adata.obs["donor"].dtype


# --- provenance ----------------------------------------------------------------------------------


def test_predictions_that_differ_differ_in_what_they_say(adata):
    setup = {"labels_key": "cell_type", "categorical_covariate_keys": ["donor"]}
    model = make_trained(adata, setup)
    asked = [{}, {"library_size": 900.0}, {"covariates": {"donor": "a"}}, {"covariates": {"donor": "b"}}]
    asked += [{"seed": 1}, {"batch_size": 50}, {"method": "mean"}, {"method": "sample"}]
    said = [str(model.predict_perturbation(adata, **PREDICT, **options).uns["trvae"]) for options in asked]
    other = make_trained(adata, setup, train={"max_epochs": 1})
    said.append(str(other.predict_perturbation(adata, **PREDICT).uns["trvae"]))
    assert len(set(said)) == len(said)
    assert str(model.predict_perturbation(adata, **PREDICT).uns["trvae"]) == said[0]


def test_provenance_is_written_and_read(adata, tmp_path):
    model = make_trained(adata, {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]})
    options = {"covariates": {"donor": "b", "age": np.float32(1.5)}, "library_size": 900, "batch_size": 64}
    prediction = model.predict_perturbation(adata, **PREDICT, **options)
    said = prediction.uns["trvae"]
    assert said["covariates"] == {"donor": "b", "age": 1.5}
    assert (said["library_size"], said["batch_size"], said["device"]) == (900.0, 64, "cpu")
    assert_same_cells(written(prediction, tmp_path / "p.h5ad"), prediction)
    assert_same_cells(
        written(model.predict_perturbation(adata, **PREDICT), tmp_path / "q.h5ad"),
        model.predict_perturbation(adata, **PREDICT),
    )


def test_measured_is_what_was_trained_on(adata):
    """Other cells can be given to a model before it is trained, and after."""
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    model = tv.TRVAE(adata, n_hidden=8)
    hidden = (adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "stimulated")
    model.adata = adata[~hidden.to_numpy()].copy()
    model.train(**FAST)
    cells = adata[(adata.obs["cell_type"] == "type_1").to_numpy()].copy()
    assert measured(model.predict_perturbation(cells, **PREDICT)) == {"stimulated": "no"}
    model.adata = adata.copy()
    with pytest.raises(TypeError):
        model.train(**FAST, plan_kwargs={"nope": 1})
    assert measured(model.predict_perturbation(cells, **PREDICT)) == {"stimulated": "no"}
    model.train(**FAST)
    assert measured(model.predict_perturbation(cells, **PREDICT)) == {"stimulated": "yes"}


def test_the_fingerprint_is_that_of_the_weights(adata, trained, tmp_path):
    trained.save(tmp_path / "m")
    loaded = tv.TRVAE.load(tmp_path / "m", False)
    first, second = (m.predict_perturbation(adata, **PREDICT).uns["trvae"]["model"] for m in (trained, loaded))
    assert first == second
    loaded.module.log_theta.data[0] += 1e-3
    assert loaded.predict_perturbation(adata, **PREDICT).uns["trvae"]["model"] != first


def measured(prediction):
    """The answers by target."""
    said = prediction.uns["trvae"]
    return dict(zip(said["target"].tolist(), said["target_measured"].tolist(), strict=True))


def test_whether_the_target_was_measured_for_these_cells(adata, tmp_path):
    kind, condition = adata.obs["cell_type"], adata.obs["condition"]
    training = adata[~((kind == "type_1") & (condition == "stimulated"))].copy()
    model = make_trained(training, {"labels_key": "cell_type"})
    model.save(tmp_path / "m")
    hidden, seen = adata[kind == "type_1"], adata[kind == "type_2"]
    for m in (model, tv.TRVAE.load(tmp_path / "m", adata.copy())):  # all cells are at hand now, but were not trained on
        assert measured(m.predict_perturbation(hidden, target="all")) == {"control": "yes", "stimulated": "no"}
        assert measured(m.predict_perturbation(seen, target="stimulated")) == {"stimulated": "yes"}
        assert measured(m.predict_perturbation(adata, target="stimulated")) == {"stimulated": "some"}
    unknown = seen.copy()
    unknown.obs["cell_type"] = "a new type"
    assert measured(model.predict_perturbation(unknown, target="stimulated")) == {"stimulated": "no"}
    unknown.obs["cell_type"] = np.nan
    assert measured(model.predict_perturbation(unknown, target="stimulated")) == {"stimulated": "unknown"}
    assert measured(make_trained(training).predict_perturbation(hidden, target="stimulated")) == {
        "stimulated": "unknown"
    }
    query = hidden[hidden.obs["condition"] == "stimulated"].copy()
    mapped = tv.TRVAE.load_query_data(query, model)  # that has nothing to train
    assert measured(mapped.predict_perturbation(hidden, target="stimulated")) == {"stimulated": "no"}
    query.obs["condition"] = "drug"
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(**FAST)
    assert measured(mapped.predict_perturbation(hidden, target="all", source="control")) == {
        "control": "yes",
        "drug": "yes",
        "stimulated": "no",
    }
    assert measured(mapped.predict_perturbation(seen, target="drug", source="control")) == {"drug": "no"}
    tensors = next(iter(model._make_data_loader(model.adata, np.flatnonzero(training.obs["cell_type"] == "type_1"))))
    assert REGISTRY_KEYS.LABELS_KEY in tensors
    assert measured(model.predict_perturbation(target="stimulated", dataloader=[tensors])) == {"stimulated": "no"}
