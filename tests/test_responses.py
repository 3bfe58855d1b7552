"""How effects differ between cells: a matrix for every condition, or shared parts of many."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import trvae_scvi as tv
from trvae_scvi.module import _networks
from trvae_scvi.module._networks import ConditionLinear
from trvae_scvi.module._responses import OwnResponses, SharedResponses
from trvae_scvi.predict._predictor import Predictor

ONE_EPOCH = {"max_epochs": 1, "enable_progress_bar": False}


def filled(layer):
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(layer.centre)
    return layer.eval()


def matrices(responses):
    """The `U_s`, `s x n_in x n_out`."""
    if isinstance(responses, OwnResponses):
        return responses.rows
    a, b = responses.basis.weight, responses.features.weight
    return torch.einsum("gk,sk,kh->shg", a, responses.table.rows, b)


def pair():
    """A layer with shared responses, and one with the same ones as parameters of their own."""
    torch.manual_seed(0)
    shared = filled(ConditionLinear(6, 9, n_conditions=20))
    own = ConditionLinear(6, 9, n_conditions=20)
    own.use(OwnResponses)
    own.response.weight.data = matrices(shared.response).detach()
    own.shared, own.offset, own.centre = shared.shared, shared.offset, shared.centre
    return shared, own.eval()


def test_few_conditions_have_responses_of_their_own_and_many_share_theirs():
    most = _networks.MOST_OWN_RESPONSES
    kinds = [type(ConditionLinear(3, 4, n_conditions=n).response) for n in (2, most, most + 1)]
    assert kinds == [OwnResponses, OwnResponses, SharedResponses]


@pytest.mark.parametrize("samples", [(), (3,)])
def test_shared_responses_are_the_matrices_that_they_stand_for(samples):
    shared, own = pair()
    hidden, codes = torch.randn(*samples, 11, 6, requires_grad=True), torch.arange(11) * 7 % 20
    results = [layer(hidden, codes) for layer in (shared, own)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(result.square().sum(), hidden)[0] for result in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-2)


def test_the_prior_of_shared_responses_is_that_of_the_matrices():
    shared, own = pair()
    weights = torch.rand(20)
    expected = (matrices(shared.response).square().sum(dim=(1, 2)) * weights).sum()
    for layer in (shared, own):
        torch.testing.assert_close(layer.response.sum_of_squares(weights), expected, rtol=1e-4, atol=1e-3)


def test_the_prior_leaves_frozen_conditions_out():
    shared, _ = pair()
    table, weights = shared.response.table, torch.rand(20)
    every = shared.response.sum_of_squares(weights)
    table.set_rows(table.rows[:15], table.rows[15:])
    table.weight.requires_grad_(False)
    left = shared.response.sum_of_squares(weights)
    expected = (matrices(shared.response)[15:].square().sum(dim=(1, 2)) * weights[15:]).sum()
    torch.testing.assert_close(left, expected, rtol=1e-4, atol=1e-3)
    assert left < every


def test_shared_responses_learn_a_response_that_differs_between_cells():
    """From a start at zero: 20 conditions, of which every other turns one gene's dependence on the cell around."""
    torch.manual_seed(1)
    layer = ConditionLinear(3, 2, n_conditions=20)
    hidden, codes = torch.randn(4_000, 3), torch.arange(4_000) % 20
    sign = torch.where(codes % 2 == 0, 1.0, -1.0)
    wanted = torch.stack([sign * hidden[:, 0], hidden[:, 1]], dim=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (layer(hidden, codes) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def many(n_conditions, n_cells=600):
    adata = AnnData(np.random.default_rng(0).poisson(1.0, (n_cells, 30)).astype(np.float32))
    adata.obs["condition"] = pd.Categorical([f"c{i % n_conditions:02d}" for i in range(n_cells)])
    adata.obs["cell_type"] = pd.Categorical([f"t{i % 2}" for i in np.random.default_rng(1).permutation(n_cells)])
    return adata


def trained(adata):
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    torch.manual_seed(0)
    model = tv.TRVAE(adata, n_hidden=16, n_latent=4)
    model.train(**ONE_EPOCH)
    return model


@pytest.mark.parametrize("n_conditions", [16, 18])
def test_a_query_keeps_the_kind_of_its_reference_and_its_answers(n_conditions):
    adata = many(n_conditions + 2)
    new = adata.obs["condition"].isin(["c00", "c01"]).to_numpy()
    reference = trained(adata[~new].copy())
    query = adata[new].copy()
    tv.TRVAE.prepare_query_anndata(query, reference)
    mapped = tv.TRVAE.load_query_data(query, reference)
    layers = [model.module.decoder.output for model in (reference, mapped)]
    assert type(layers[0].response) is type(layers[1].response)
    assert isinstance(layers[0].response, OwnResponses) is (n_conditions == 16)
    torch.testing.assert_close(
        matrices(layers[1].response)[-2:],
        matrices(layers[0].response).mean(dim=0, keepdim=True).repeat(2, 1, 1),
    )
    cells = reference.adata.copy()
    mapped.train(**ONE_EPOCH)
    answers = [model.predict_perturbation(cells, target="c05", method="mean").X for model in (reference, mapped)]
    np.testing.assert_array_equal(*answers)


def test_models_are_loaded_with_the_responses_that_they_were_saved_with(tmp_path, monkeypatch):
    """As those that were saved when every condition had its own."""
    monkeypatch.setattr(_networks, "MOST_OWN_RESPONSES", 1_000)
    old = trained(many(20))
    old.save(tmp_path / "old")
    monkeypatch.undo()
    new = trained(many(20))
    new.save(tmp_path / "new")
    for name, model, kind in (("old", old, OwnResponses), ("new", new, SharedResponses)):
        loaded = tv.TRVAE.load(tmp_path / name, adata=model.adata)
        assert isinstance(loaded.module.decoder.output.response, kind)
        np.testing.assert_array_equal(*(m.predict_perturbation(target="c05").X.toarray() for m in (model, loaded)))


def test_many_conditions_cost_no_more_parameters_than_their_offsets():
    sizes = [sum(p.numel() for p in ConditionLinear(128, 2_000, n_conditions=n).parameters()) for n in (100, 300)]
    assert sizes[1] - sizes[0] < 200 * 2_000 * 1.05


def test_weighted_sums_of_shared_responses_are_those_of_their_matrices():
    adata = many(20)
    model = trained(adata)
    filled(model.module.decoder.output)
    combined = Predictor.of(model).combining(np.eye(20)[[3]] + np.eye(20)[[4]])
    own = matrices(model.module.decoder.output.response)
    found = matrices(combined.decoding.decoder.output.response)[-1]
    torch.testing.assert_close(found, own[3] + own[4])
