"""Combinations: the weights of measured conditions, and what is predicted with them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from helpers import make_trained

import trvae_scvi as tv
from trvae_scvi.predict._combination import combination_weights

CONDITIONS = ["control", "A", "B", "C", "A+C"]


def conditions_of(model):
    return list(model.get_state_registry("batch").categorical_mapping)


def weights_by_name(conditions, target, control="control"):
    return dict(zip(conditions, combination_weights(conditions, target, control, "+"), strict=True))


def test_two_single_factors_add_up_relative_to_the_control():
    weights = weights_by_name(CONDITIONS[:3], "A+B")
    assert weights == pytest.approx({"control": -1.0, "A": 1.0, "B": 1.0})


def test_drug_and_dose_add_up_without_a_control():
    weights = weights_by_name(["x+1", "x+10", "y+1"], "y+10", control=None)
    assert weights == pytest.approx({"x+1": -1.0, "x+10": 1.0, "y+1": 1.0})


def test_weights_are_least_squares_on_additive_data():
    """On additive truth any weights give the sum; on noise they are those of a regression's prediction."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(CONDITIONS), 7))
    design = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 1]])
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    for target, row in (("A+B", [1, 1, 1, 0]), ("B+C", [1, 0, 1, 1]), ("A+B+C", [1, 1, 1, 1])):
        weights = combination_weights(CONDITIONS, target, "control", "+")
        np.testing.assert_allclose(weights @ values, np.array(row) @ coefficients, atol=1e-10)
        assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("conditions", "target", "control", "match"),
    [
        (["control", "A", "B"], "A+D", "control", "found \\['D'\\]"),
        (["control", "A", "B+C"], "A+B", "control", "do not tell apart"),
        (["control", "A", "B"], "A+B", None, "name it as `control`"),
        (["control", "A", "B", "B+A"], "A+B", "control", "was measured, as 'B\\+A'"),
        (["control", "A", "B"], "A", "control", "was measured"),
        (["control", "A", "B"], "A+A", "control", "every factor once"),
    ],
)
def test_what_cannot_be_told_is_refused(conditions, target, control, match):
    with pytest.raises(ValueError, match=match):
        combination_weights(conditions, target, control, "+")


@pytest.fixture(scope="module")
def several():
    """A model of a control and three perturbations."""
    adata = tv.datasets.simulate_perturbation(600, 50, n_types=2, targets=["A", "B", "A+C", "C"], seed=3).adata
    return adata, make_trained(adata, {}, {"max_epochs": 20}, dispersion="gene-batch")


@pytest.mark.parametrize("condition_layer", ["output", "first"])
def test_parameters_of_the_combination_are_the_weighted_sum(several, condition_layer):
    """Where each condition has its own linear output, the logits of the combination are that sum, too."""
    adata = several[0]
    model = make_trained(adata, {}, condition_layer=condition_layer, gene_likelihood="mse", n_layers=1)
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    control = adata[adata.obs["condition"] == "control"]

    def mean(target):
        return model.predict_perturbation(control, target=target, method="mean").X

    combined = model.predict_combination(control, target="A+B", control="control", method="mean")
    weights = combination_weights(conditions_of(model), "A+B", "control", "+")
    expected = sum(w * mean(name) for w, name in zip(weights, conditions_of(model), strict=True))
    if condition_layer == "output":
        np.testing.assert_allclose(combined.X, expected, atol=1e-4)
    else:
        assert np.abs(combined.X - expected).max() > 1e-4  # a nonlinearity lies between
    assert (combined.obs["condition"] == "A+B").all()
    assert list(combined.uns["trvae"]["target"]) == ["A+B"]
    for name, parameter in model.module.named_parameters():
        assert np.array_equal(parameter.detach(), before[name]), name


@pytest.mark.parametrize("control", ["control", "ctrl"])
def test_the_name_of_the_control_is_no_factor(control):
    conditions = [control, f"A+{control}", f"{control}+B"]
    for target in ("A+B", " A + B ", f"A+B+{control}"):
        np.testing.assert_allclose(combination_weights(conditions, target, control, "+"), [-1.0, 1.0, 1.0], atol=1e-12)


def test_counts_of_several_combinations(several, tmp_path):
    adata, model = several
    prediction = model.predict_combination(
        adata, target=["A+B", "B+C"], control="control", source="control", library_size=500.0
    )
    n = int((adata.obs["condition"] == "control").sum())
    assert prediction.obs["condition"].value_counts().to_dict() == {"A+B": n, "B+C": n}
    assert (prediction.X.data % 1 == 0).all()
    weights = [combination_weights(conditions_of(model), t, "control", "+") for t in ("A+B", "B+C")]
    np.testing.assert_allclose(prediction.uns["trvae"]["weights"], weights)
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    for target, rows in (("A+B", slice(0, n)), ("C+B", slice(n, None))):
        alone = model.predict_combination(adata, target=target, control="control", source="control", library_size=500.0)
        assert (alone.X != prediction[rows].X).nnz == 0


def test_combinations_of_a_query_model(several):
    adata, model = several
    query = adata[adata.obs["condition"] == "B"].copy()
    query.obs["condition"] = "D"
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(max_epochs=1, enable_progress_bar=False)
    prediction = mapped.predict_combination(query, target="A+D", control="control")
    assert prediction.n_obs == query.n_obs
    # what the reference can combine is drawn alike by both
    before = model.predict_combination(adata[:50], target="A+B", control="control").X
    assert (mapped.predict_combination(adata[:50], target="A+B", control="control").X != before).nnz == 0


def test_bad_requests_name_what_is_wrong(several):
    adata, model = several
    with pytest.raises(ValueError, match="Expected `control`"):
        model.predict_combination(adata, target="A+B", control="none")
    for target in (["A+B", "A+B"], [], 5, None, [1, 2]):
        with pytest.raises(ValueError, match="list of different ones"):
            model.predict_combination(adata, target=target, control="control")
    with pytest.raises(ValueError, match="separator"):
        model.predict_combination(adata, target="A+B", control="control", separator="")
    with pytest.raises(ValueError, match="Expected `method`"):
        model.predict_combination(adata, target="A+B", control="control", method="median")


class Held:
    """A network that cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def encoder(self, n_input):
        return torch.nn.Identity(), n_input

    def decoder(self, n_output):
        return n_output, torch.nn.Identity()


def test_a_network_that_cannot_be_copied_is_no_obstacle():
    cells = tv.datasets.simulate_perturbation(n_cells=90, n_genes=10, n_types=2, targets=("A", "B"), seed=0).adata
    model = make_trained(cells, network=Held())
    assert model.predict_combination(target="A+B", control="control").n_obs == 90
