"""What scvi-tools' mixins give works with our module, and means what it says."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_trained

import trvae_scvi as tv

LIKELIHOODS = ["nb", "zinb", "poisson", "mse"]


@pytest.fixture(scope="module", params=LIKELIHOODS)
def any_model(request, small):
    adata = small.adata.copy()
    if request.param == "mse":
        adata.X = np.log1p(adata.X.toarray())
    return make_trained(adata, gene_likelihood=request.param)


def test_likelihood_of_the_data(any_model):
    torch.manual_seed(0)
    elbo = float(any_model.get_elbo())
    torch.manual_seed(0)  # the same draws of z: the two differ by the KL alone
    error = float(any_model.get_reconstruction_error()["reconstruction_loss"])
    marginal = float(any_model.get_marginal_ll(n_mc_samples=100))
    assert np.isfinite([elbo, error, marginal]).all()
    assert elbo < -error  # the KL is missing in the error
    assert marginal > elbo - 1.0
    assert any_model.get_elbo(return_mean=False).shape == (400,)


def test_latent_representation(any_model):
    z = any_model.get_latent_representation()
    assert z.shape == (400, 5)
    np.testing.assert_array_equal(z, any_model.get_latent_representation())
    mean, variance = any_model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(z, mean)
    assert (variance > 0).all()
    assert not np.array_equal(z, any_model.get_latent_representation(give_mean=False))


def test_normalized_expression(any_model):
    own = any_model.get_normalized_expression()
    assert isinstance(own, pd.DataFrame)
    swapped = any_model.get_normalized_expression(transform_batch="stimulated", n_samples=5)
    assert swapped.shape == (400, 60)
    if any_model.module.gene_likelihood != "mse":
        np.testing.assert_allclose(own.sum(axis=1), 1.0, rtol=1e-4)
        scaled = any_model.get_normalized_expression(library_size=1e4)
        np.testing.assert_allclose(scaled.sum(axis=1), 1e4, rtol=1e-4)
    with pytest.raises(ValueError, match="not a valid batch category"):
        any_model.get_normalized_expression(transform_batch="nope")


def test_transform_batch_is_the_condition(trained, small):
    control = small.adata[small.adata.obs["condition"] == "control"].copy()
    predicted = trained.predict_perturbation(control, target="stimulated", method="mean").X
    normalized = trained.get_normalized_expression(control, transform_batch="stimulated", n_samples=50)
    proportions = predicted / predicted.sum(axis=1, keepdims=True)
    assert np.corrcoef(proportions.mean(0), normalized.mean(0))[0, 1] > 0.95


def test_posterior_predictive_sample(any_model):
    one = any_model.posterior_predictive_sample()
    assert one.shape == (400, 60)
    several = any_model.posterior_predictive_sample(n_samples=3, indices=np.arange(10), transform_batch="stimulated")
    assert several.shape == (10, 60, 3)


def test_differential_expression(any_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = any_model.differential_expression(
            groupby="condition", group1="stimulated", group2="control", silent=True
        )
        assert len(table) == 60
        table = any_model.differential_expression(
            groupby="condition", group1="stimulated", group2="control", mode="change", silent=True
        )
    assert {"lfc_mean", "proba_de"} <= set(table.columns)


def test_likelihood_parameters(any_model):
    if any_model.module.gene_likelihood in ("nb", "zinb"):
        parameters = any_model.get_likelihood_parameters()
        assert parameters["mean"].shape == (400, 60)
        assert (parameters["dispersions"] > 0).all()
        assert ("dropout" in parameters) is (any_model.module.gene_likelihood == "zinb")
        assert any_model.get_feature_correlation_matrix(n_samples=2).shape == (60, 60)
        return
    for method in (any_model.get_likelihood_parameters, any_model.get_feature_correlation_matrix):
        with pytest.raises(NotImplementedError, match="'nb' or 'zinb'"):
            method()


def test_other_answers(adata):
    trained = make_trained(adata)
    trained.differential_abundance(sample_key="condition")
    assert list(trained.adata.obsm["da_log_probs"].columns) == ["control", "stimulated"]
    posterior = trained.get_aggregated_posterior(indices=np.arange(50))
    assert posterior.sample((3,)).shape == (3, 5)
    with pytest.raises(RuntimeError, match="library size"):
        trained.get_latent_library_size()


def test_views_of_the_set_up(trained, capsys):
    trained.view_anndata_setup()
    assert "_scvi_batch" in capsys.readouterr().out
    repr(trained)
    assert "TRVAE" in capsys.readouterr().out


@pytest.mark.parametrize("keep", [False, True])
def test_minified_data(small, tmp_path, keep):
    from scvi.data._constants import ADATA_MINIFY_TYPE

    model = make_trained(small.adata)
    control = small.adata[small.adata.obs["condition"] == "control"]
    expected = model.predict_perturbation(control, target="stimulated", method="mean")
    counterfactual = model.predict_perturbation(control, target="stimulated")
    full = model.adata
    full.obsm["m"], full.obsm["v"] = model.get_latent_representation(return_dist=True)
    kind = ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS if keep else ADATA_MINIFY_TYPE.LATENT_POSTERIOR
    model.minify_adata(kind, use_latent_qzm_key="m", use_latent_qzv_key="v")
    assert model.minified_data_type == kind

    def check(model):
        np.testing.assert_allclose(model.get_latent_representation(), full.obsm["m"], rtol=1e-5, atol=1e-5)
        found = model.predict_perturbation(target="stimulated", source="control", method="mean")
        np.testing.assert_allclose(found.X, expected.X, rtol=1e-4, atol=1e-4)
        assert model.get_normalized_expression().shape == (400, 60)
        if keep:
            drawn = model.predict_perturbation(target="stimulated", source="control")
            assert (drawn.X != counterfactual.X).nnz <= 1e-3 * drawn.X.nnz
        else:
            with pytest.raises(ValueError, match="minified.*method='mean'.*with_counts"):
                model.predict_perturbation(target="stimulated", source="control")
            with pytest.raises(ValueError, match="minified"):
                model.train(max_epochs=1)
        # full data are still read as such
        again = model.predict_perturbation(control, target="stimulated", method="mean")
        np.testing.assert_allclose(again.X, expected.X, rtol=1e-4, atol=1e-4)

    check(model)
    model.save(tmp_path / "minified", save_anndata=True)
    check(tv.TRVAE.load(tmp_path / "minified"))
