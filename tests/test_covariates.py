"""Covariates: kept at the cells' own values in a prediction unless they are set."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_trained

SETUP = {"categorical_covariate_keys": ["donor", "lab"], "continuous_covariate_keys": ["age"]}
ASKED = {"donor": "b", "age": 2.5}


@pytest.fixture(params=[False, True], ids=["not encoded", "encoded"])
def model(adata, request):
    return make_trained(adata, SETUP, encode_condition=request.param)


def mean(model, cells, **kwargs):
    return model.predict_perturbation(cells, target="stimulated", method="mean", **kwargs)


def with_values(cells):
    changed = cells.copy()
    for name, value in ASKED.items():
        changed.obs[name] = value
    return changed


def test_covariates_are_decoded_as_set_and_encoded_as_they_are(model, control):
    own, asked = mean(model, control), mean(model, control, covariates=ASKED)
    relabelled = mean(model, with_values(control))
    assert np.abs(asked.X - own.X).max() > 1e-3
    # labelled otherwise, cells are also encoded otherwise where the encoder knows covariates
    assert np.allclose(asked.X, relabelled.X, rtol=1e-5) is not model.module.encode_condition
    assert (asked.obs["donor"] == "b").all()
    assert (asked.obs["age"] == 2.5).all()
    np.testing.assert_array_equal(asked.obs["lab"], control.obs["lab"])
    np.testing.assert_array_equal(own.obs["donor"], control.obs["donor"])


def test_setting_a_covariate_to_its_own_value_changes_nothing(model, control):
    cells = control[(control.obs["donor"] == "b").to_numpy()]
    for method in ("mean", "counterfactual"):
        own = model.predict_perturbation(cells, target="stimulated", method=method)
        asked = model.predict_perturbation(cells, target="stimulated", method=method, covariates={"donor": "b"})
        assert np.array_equal(_dense(own), _dense(asked))


def test_the_source_keeps_its_covariates(model, control):
    """Counts move by the ratio of the target with the set covariate to the source with the cells' own."""
    kept = model.predict_perturbation(control, target="control", covariates={"lab": "x"})
    own_lab = (control.obs["lab"] == "x").to_numpy()
    given = control.X.toarray()
    # nothing changes for cells that have the value and the condition already
    np.testing.assert_array_equal(kept.X.toarray()[own_lab], given[own_lab])
    assert (kept.X.toarray()[~own_lab] != given[~own_lab]).any()


def test_the_effect_with_covariates_is_that_of_the_prediction_with_them(model, control):
    effect = model.get_perturbation_effect(control, target="stimulated", covariates=ASKED).set_index("variable")
    predicted = model.predict_perturbation(control, target="stimulated", covariates=ASKED)
    x, p = (1e4 * cells.X.toarray() / cells.X.toarray().sum(axis=1, keepdims=True) for cells in (control, predicted))
    np.testing.assert_allclose(effect["change"], np.log1p(p).mean(0) - np.log1p(x).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(effect["log_fc"], np.log2((p.mean(0) + 1) / (x.mean(0) + 1)), rtol=1e-4, atol=1e-5)
    own = model.get_perturbation_effect(control, target="stimulated").set_index("variable")
    assert (effect["change"] - own["change"]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="`covariates` among the registered"):
        model.get_perturbation_effect(control, target="stimulated", covariates={"sex": "f"})


@pytest.mark.parametrize(
    ("covariates", "error", "match"),
    [
        ({"sex": "f"}, ValueError, "Expected `covariates` among the registered \\['donor', 'lab', 'age'\\]"),
        ({"donor": "z"}, ValueError, "covariates\\['donor'\\]"),
        ({"age": "old"}, TypeError, "covariates\\['age'\\]"),
        ({"age": float("nan")}, ValueError, "covariates\\['age'\\]"),
        ({"donor": ["a", "b"]}, TypeError, "one value for covariate 'donor'"),
        ("donor", TypeError, "map columns to values"),
    ],
)
def test_bad_covariates_are_refused(adata, control, covariates, error, match):
    model = make_trained(adata, SETUP)
    with pytest.raises(error, match=match):
        mean(model, control, covariates=covariates)


def _dense(prediction):
    return prediction.X if isinstance(prediction.X, np.ndarray) else prediction.X.toarray()


def test_a_category_of_a_covariate_that_the_model_does_not_know_is_named(adata, control):
    model = make_trained(adata, SETUP)
    cells = control.copy()
    cells.obs["donor"] = "stranger"
    with pytest.raises(ValueError, match=r"holds categories the model does not know: \['stranger'\].*load_query_data"):
        model.predict_perturbation(cells, target="stimulated")
    with pytest.raises(ValueError, match="does not know"):
        model.get_perturbation_effect(cells, target="stimulated")
