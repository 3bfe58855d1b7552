"""Methods on a hold-out: what they are given to train on, what they return, and that they leave no trace."""

from __future__ import annotations

import os
import pickle
import random
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import trvae_scvi as tv
from trvae_scvi.benchmark import (
    BASELINES,
    LatentShiftMethod,
    PertpyScGenMethod,
    SCVIMethod,
    TRVAEMethod,
    _methods,
    baseline_predictions,
    hold_out,
)
from trvae_scvi.metrics import log_normalize

TRAIN = {"max_epochs": 1, "accelerator": "cpu"}
SMALL = {"n_hidden": 8, "n_latent": 3}
NETWORKS = {
    "trVAE": TRVAEMethod(SMALL, TRAIN, prediction="mean"),  # counts are hardly changed after one epoch, means are
    "latent shift": LatentShiftMethod(SMALL, TRAIN),
    "scVI": SCVIMethod(SMALL, TRAIN),
}
KEYS = {
    "group_key": "cell_type", "group": "type_1", "condition_key": "condition", "control": "control", "target": "drug",
}  # fmt: skip


@pytest.fixture(scope="module")
def adata():
    return tv.datasets.simulate_perturbation(240, 20, n_types=4, targets=("drug", "other"), seed=3).adata


@pytest.fixture
def holdout(adata):
    return hold_out(adata, **KEYS, seed=1)[0]


def matrix(prediction):
    values = prediction.X if isinstance(prediction, ad.AnnData) else prediction
    return np.asarray(values if isinstance(values, np.ndarray) else values.toarray())


@pytest.mark.parametrize("name", [*BASELINES, *NETWORKS])
def test_held_out_cells_leave_no_trace_in_a_prediction(adata, name):
    method = {**BASELINES, **NETWORKS}[name]
    spoilt = adata.copy()
    held_out = ((adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "drug")).to_numpy()
    dense = spoilt.X.toarray()
    dense[held_out] = dense[held_out][:, ::-1] + 7
    spoilt.X = dense
    first, second = (matrix(method(hold_out(cells, **KEYS)[0])) for cells in (adata, spoilt))
    np.testing.assert_array_equal(first, second)
    # Other cells do leave one, so that the comparison can fail.
    dense[~held_out] = dense[~held_out][:, ::-1]
    other = matrix(method(hold_out(ad.AnnData(dense, obs=adata.obs, var=adata.var), **KEYS)[0]))
    assert other.shape != first.shape or (other != first).any()


@pytest.mark.parametrize("name", [*BASELINES, *NETWORKS])
def test_methods_are_pickled(name):
    method = {**BASELINES, **NETWORKS}[name]
    assert repr(pickle.loads(pickle.dumps(method))) == repr(method)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_leave_everything_as_it_was(holdout, name):
    scvi.settings.seed = 11
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    environment, deterministic = dict(os.environ), torch.backends.cudnn.deterministic
    columns, values = list(holdout.training.obs.columns), holdout.training.X.toarray()
    prediction = NETWORKS[name](holdout)
    assert scvi.settings.seed == 11
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert (dict(os.environ), torch.backends.cudnn.deterministic) == (environment, deterministic)
    for cells in (holdout.training, holdout.control):
        assert list(cells.obs.columns) == columns
        assert not cells.uns
    np.testing.assert_array_equal(holdout.training.X.toarray(), values)
    assert prediction.n_obs == holdout.control.n_obs
    assert list(prediction.var_names) == list(holdout.control.var_names)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_seeds_decide(adata, name):
    first, again, other = (matrix(NETWORKS[name](hold_out(adata, **KEYS, seed=seed)[0])) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# ---- baselines as methods


def test_baselines_as_methods_give_what_the_helper_gives(holdout):
    helper = baseline_predictions(holdout.training, **KEYS)
    assert holdout.control.n_obs == len(helper["no change"])
    for name, method in BASELINES.items():
        predicted = method(holdout)
        if name == "fold change":
            assert predicted.X.min() >= 0
            np.testing.assert_array_equal(predicted.X, np.rint(predicted.X))
            predicted = log_normalize(predicted.X)
        np.testing.assert_array_equal(predicted, helper[name], err_msg=name)


def test_fold_change_needs_counts(adata):
    adata = adata.copy()
    adata.X = log_normalize(adata.X)
    assert list(baseline_predictions(adata, **KEYS, counts=False)) == [n for n in BASELINES if n != "fold change"]
    with pytest.raises(ValueError, match="Expected counts"):
        BASELINES["fold change"](hold_out(adata, **KEYS, counts=False)[0])


# ---- trVAE


@pytest.mark.parametrize("prediction", ["counterfactual", "mean"])
def test_trvae_is_trained_without_the_held_out_cells_and_asked_for_the_target(holdout, prediction):
    training = holdout.training.copy()
    scvi.settings.seed = 1
    tv.TRVAE.setup_anndata(training, labels_key="cell_type")
    model = tv.TRVAE(training, mmd_balance_labels=True, **SMALL)
    model.train(enable_progress_bar=False, **TRAIN)
    expected = model.predict_perturbation(holdout.control, target="drug", method=prediction, seed=1)
    result = TRVAEMethod({**SMALL, "mmd_balance_labels": True}, TRAIN, prediction=prediction)(holdout)
    np.testing.assert_array_equal(matrix(result), matrix(expected))
    assert result.uns["trvae"]["method"] == prediction


# ---- latent shift


def test_decoded_means_are_those_of_the_model(adata):
    cells = adata.copy()
    cells.obs["_half"] = np.where(np.arange(cells.n_obs) % 3, "first", "second")
    tv.TRVAE.setup_anndata(cells, "_half")
    model = tv.TRVAE(cells, gene_likelihood="zinb", mmd_on=None, **SMALL)
    model.train(enable_progress_bar=False, **TRAIN)
    decoded = _methods._decode_means(model, cells, model.get_latent_representation())
    for half in ("first", "second"):
        rows = (cells.obs["_half"] == half).to_numpy()
        expected = model.predict_perturbation(cells[rows], target=half, method="mean").X
        np.testing.assert_allclose(decoded[rows], expected, rtol=1e-4)


def test_latent_shift_is_the_unweighted_mean_change_of_the_other_groups(holdout, monkeypatch):
    seen = {}

    def record(model, cells, latent):
        seen.update(model=model, cells=cells, latent=latent)
        return np.zeros(cells.shape)

    monkeypatch.setattr(_methods, "_decode_means", record)
    LatentShiftMethod(SMALL, TRAIN)(holdout)
    model, obs = seen["model"], holdout.training.obs
    z = model.get_latent_representation()
    change = np.zeros(3)
    for group in ("type_2", "type_3", "type_4"):
        of_group = obs["cell_type"] == group
        for condition, sign in (("drug", 1), ("control", -1)):
            change += sign * z[(of_group & (obs["condition"] == condition)).to_numpy()].mean(axis=0) / 3
    expected = model.get_latent_representation(seen["cells"]) + change
    np.testing.assert_allclose(seen["latent"], expected, rtol=1e-5, atol=1e-6)
    assert list(seen["cells"].obs_names) == list(holdout.control.obs_names)
    assert model.module.mmd_on is None
    halves = model.adata.obs["_half"].value_counts()
    assert abs(halves["first"] - halves["second"]) <= 1


def test_latent_shift_has_no_penalty_to_set(holdout):
    with pytest.raises(TypeError, match="mmd_on"):
        LatentShiftMethod({"mmd_on": "y"}, TRAIN)(holdout)


# ---- scVI


def test_scvi_gives_expected_counts_under_the_target(holdout, monkeypatch):
    asked = []
    original = scvi.model.SCVI.get_normalized_expression

    def record(self, *args, **kwargs):
        asked.append(kwargs["transform_batch"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(scvi.model.SCVI, "get_normalized_expression", record)
    result = SCVIMethod(SMALL, TRAIN)(holdout)
    assert asked == ["drug"]
    np.testing.assert_allclose(result.X.sum(axis=1), np.asarray(holdout.control.X.sum(axis=1)).ravel(), rtol=1e-4)


# ---- scGen, with stand-ins that have the arguments of pertpy's and, where it is installed, with pertpy


class StandIn:
    """Predicts the control cells less 1 and keeps what it was called with."""

    calls: dict = {}

    @classmethod
    def setup_anndata(cls, adata, batch_key=None, labels_key=None, layer=None):
        cls.calls.update(adata=adata, batch_key=batch_key, labels_key=labels_key)

    def __init__(self, adata, n_hidden=800):
        self.calls.update(n_hidden=n_hidden)

    def train(self, *, max_epochs=None, batch_size=128, seed=0):
        self.calls.update(max_epochs=max_epochs, seed=seed)

    def predict(self, ctrl_key=None, stim_key=None, adata_to_predict=None, celltype_to_predict=None):
        self.calls.update(ctrl_key=ctrl_key, stim_key=stim_key, given=adata_to_predict)
        return ad.AnnData(adata_to_predict.X - 1, obs=adata_to_predict.obs, var=adata_to_predict.var), np.zeros(3)


@pytest.fixture
def pertpy(monkeypatch):
    module = ModuleType("pertpy")
    module.tl = SimpleNamespace(Scgen=StandIn)
    monkeypatch.setitem(sys.modules, "pertpy", module)
    monkeypatch.setattr(_methods, "version", {"pertpy": "1.2.0"}.get)
    monkeypatch.setattr(StandIn, "calls", {})
    return StandIn.calls


def test_scgen_is_trained_on_log_normalised_cells(holdout, pertpy):
    result = PertpyScGenMethod({"n_hidden": 5}, {"max_epochs": 2})(holdout)
    control = log_normalize(holdout.control.X)
    np.testing.assert_allclose(result, np.maximum(control - 1, 0))
    assert (result == 0).any()
    np.testing.assert_array_equal(pertpy["adata"].X, log_normalize(holdout.training.X))
    np.testing.assert_array_equal(pertpy["given"].X, control)
    assert (pertpy["n_hidden"], pertpy["max_epochs"]) == (5, 2)
    assert pertpy["seed"] == holdout.seed == 1
    keys = ("batch_key", "labels_key", "ctrl_key", "stim_key")
    assert [pertpy[key] for key in keys] == ["condition", "cell_type", "control", "drug"]
    assert holdout.training.X.max() > 20


def test_scgen_takes_normalised_values_as_they_are(adata, pertpy):
    adata = adata.copy()
    adata.X = log_normalize(adata.X) - 2
    holdout, _ = hold_out(adata, **KEYS, counts=False)
    result = PertpyScGenMethod()(holdout)
    np.testing.assert_array_equal(result, holdout.control.X - 1)
    assert result.min() < 0


def test_scgen_of_a_faulty_version_is_refused(holdout, pertpy, monkeypatch):
    monkeypatch.setattr(_methods, "version", {"pertpy": "1.0.3"}.get)
    with pytest.raises(ImportError, match=r"pertpy 1\.2 or later.*found 1\.0\.3"):
        PertpyScGenMethod()(holdout)
    assert pertpy == {}


def test_scgen_says_what_to_install(holdout, monkeypatch):
    monkeypatch.setitem(sys.modules, "pertpy", None)
    with pytest.raises(ImportError, match=r"halted; None in sys.modules.*pip install '\.\[benchmark\]'"):
        PertpyScGenMethod()(holdout)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")  # of cells that pertpy draws twice
def test_scgen_of_pertpy_is_given_and_predicts_log_normalised_values(holdout, monkeypatch):
    scgen = pytest.importorskip("pertpy", minversion="1.2").tl.Scgen
    original, seen = scgen.predict, {}

    def record(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        seen.update(training=np.array(self.adata.X), given=np.array(kwargs["adata_to_predict"].X), result=result[0].X)
        return result

    monkeypatch.setattr(scgen, "predict", record)
    result = PertpyScGenMethod({"n_hidden": 64, "n_latent": 5}, {"max_epochs": 40, "batch_size": 32})(holdout)
    control = log_normalize(holdout.control.X)
    np.testing.assert_array_equal(seen["training"], log_normalize(holdout.training.X))
    np.testing.assert_array_equal(seen["given"], control)
    np.testing.assert_array_equal(result, np.maximum(seen["result"], 0))
    # On the scale of its input: closer to the control cells than these are if normalised twice.
    twice = np.abs(log_normalize(control).mean(axis=0) - control.mean(axis=0)).mean()
    assert np.abs(result.mean(axis=0) - control.mean(axis=0)).mean() < twice / 2


def test_scvi_refuses_values_that_are_no_counts(holdout):
    with pytest.raises(ValueError, match="SCVI models counts"):
        SCVIMethod()(replace(holdout, counts=False))
