"""Images: convolutions, the Bernoulli likelihood; and real-valued data of either sign."""

from __future__ import annotations

import math
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import FAST, make_trained
from scipy import sparse, stats

import trvae_scvi as tv
from trvae_scvi._math._log_densities import Bernoulli, log_bernoulli
from trvae_scvi.nn import ConvNetwork, Network

SIDE = 8
SMALL = ConvNetwork((1, SIDE, SIDE), channels=(3, 4))
SETUP = {"labels_key": "shape"}
IMAGES = {"gene_likelihood": "bernoulli", "network": SMALL}


def make_images(n: int = 180, seed: int = 0) -> anndata.AnnData:
    """Upright and lying bars, which a condition makes wider, as pixels from 0 to 1."""
    rng = np.random.default_rng(seed)
    wide, lying = np.arange(n) % 2 == 1, rng.random(n) < 0.5
    place = rng.integers(1, SIDE - 2, n)
    column = np.arange(SIDE)
    bars = (column >= place[:, None]) & (column < place[:, None] + np.where(wide, 3, 1)[:, None])
    images = np.repeat(bars[:, None, :], SIDE, axis=1)
    images[lying] = images[lying].transpose(0, 2, 1)
    pixels = images.reshape(n, -1) * rng.uniform(0.6, 1.0, (n, 1))
    obs = pd.DataFrame({"condition": np.where(wide, "wide", "plain"), "shape": np.where(lying, "lying", "upright")})
    return anndata.AnnData(pixels.astype(np.float32), obs=obs.rename(index=str))


@pytest.fixture
def images():
    return make_images()


@pytest.fixture(scope="module")
def trained_on_images():
    """A model trained for a few epochs; tests must not change it."""
    return make_trained(make_images(), SETUP, **IMAGES)


# --- the network by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "channels", "n_features"),
    [((1, 28, 28), (32, 64), 64 * 7 * 7), ((3, 16, 8), (5,), 5 * 8 * 4), ((2, 8, 16), (4, 6, 8), 8 * 1 * 2)],
)
def test_shapes(shape, channels, n_features):
    network = ConvNetwork(shape, channels=channels)
    n_pixels = math.prod(shape)
    assert network.n_features == n_features
    encoder, width = network.encoder(n_pixels)
    assert width == n_features
    x = torch.rand(5, n_pixels)
    assert encoder(x).shape == (5, n_features)
    width, decoder = network.decoder(n_pixels)
    assert width == n_features
    features = torch.randn(4, 5, n_features)
    assert decoder(features[0]).shape == (5, n_pixels)
    several = decoder(features)
    assert several.shape == (4, 5, n_pixels)
    torch.testing.assert_close(several[2], decoder(features[2]))


def test_pixels_are_read_in_the_order_of_reshape():
    """What is seen of an image depends on its neighbourhood: a pixel changes the features that cover it alone."""
    network = ConvNetwork((1, 8, 8), channels=(2,))
    encoder, _ = network.encoder(64)
    encoder[1].weight.data.fill_(1.0)
    encoder[1].bias.data.fill_(0.0)
    image = np.zeros((1, 8, 8), dtype=np.float32)
    image[0, 1, 6] = 1.0  # second row, seventh column
    features = encoder(torch.from_numpy(image.reshape(1, -1))).detach().reshape(2, 4, 4)
    rows, columns = torch.nonzero(features[0], as_tuple=True)
    assert set(rows.tolist()) == {0, 1}
    assert set(columns.tolist()) == {3, 2}


def test_the_decoder_mirrors_the_encoder():
    network = ConvNetwork((3, 16, 16), channels=(4, 6))
    encoder, decoder = network.encoder(768)[0], network.decoder(768)[1]
    down = [(m.in_channels, m.out_channels) for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    up = [(m.in_channels, m.out_channels) for m in decoder.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert down == [(3, 4), (4, 6)]
    assert up == [(6, 4), (4, 3)]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((28, 28),), r"channels, height and width"),
        (((0, 8, 8),), "all positive"),
        (((1, 8, 8), ()), "one number for every level"),
        (((1, 8, 8), (4, -1)), "all positive"),
        (((1, 28, 28), (4, 8, 16)), r"that 8 divides, for 3 levels, found \(28, 28\)"),
        (((1, 8, 10), (4, 8)), r"that 4 divides, for 2 levels, found \(8, 10\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        ConvNetwork(*arguments)


def test_another_number_of_pixels_is_refused(images):
    for build in (SMALL.encoder, SMALL.decoder):
        with pytest.raises(ValueError, match=r"Expected 64 variables, the pixels of an image of \(1, 8, 8\), found 65"):
            build(65)
    fewer = images[:, :-1].copy()
    tv.TRVAE.setup_anndata(fewer)
    with pytest.raises(ValueError, match="Expected 64 variables.*found 63"):
        tv.TRVAE(fewer, **IMAGES)


def test_a_network_is_a_value():
    network = ConvNetwork([1, np.int64(8), 8], channels=[3, 4])
    assert network == SMALL
    assert hash(network) == hash(SMALL)
    assert repr(network) == "ConvNetwork(shape=(1, 8, 8), channels=(3, 4))"
    assert pickle.loads(pickle.dumps(network)) == network
    assert isinstance(network, Network)


def test_what_is_no_network_is_refused(images):
    tv.TRVAE.setup_anndata(images)
    for network in (torch.nn.Linear(64, 8), "conv", (1, 8, 8)):
        with pytest.raises(TypeError, match=f"ConvNetwork`, found a {type(network).__name__}"):
            tv.TRVAE(images, network=network)


class Doubled:
    """A network of a user's own: the encoder sees every value twice, the decoder adds the halves up."""

    def encoder(self, n_input):
        return Twice(), 2 * n_input

    def decoder(self, n_output):
        return 2 * n_output, Halves()


class Twice(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x, x], dim=-1)


class Halves(torch.nn.Module):
    def forward(self, x):
        first, second = x.chunk(2, dim=-1)
        return first + second


def test_a_network_of_ones_own(adata):
    model = make_trained(adata, network=Doubled())
    assert model.module.encoder.first.linear.in_features == 2 * adata.n_vars
    assert model.module.decoder.output.shared.out_features == 2 * adata.n_vars
    assert model.predict_perturbation(adata, target="stimulated").shape == adata.shape
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=4))


def test_zero_inflation_logits_pass_by_the_network(adata):
    """They have one value for every variable already."""
    model = make_trained(adata, network=Doubled(), gene_likelihood="zinb")
    assert model.module.decoder.zero_inflation.shared.out_features == adata.n_vars
    assert np.isfinite(model.predict_perturbation(adata, target="stimulated", method="mean").X).all()


# --- in the model ----------------------------------------------------------------------------------------------------


def test_dense_models_have_the_parameters_they_had(trained):
    names = set(trained.module.state_dict())
    assert not [name for name in names if "trunk" in name or "head" in name]
    layers = ("first.linear", "hidden.0", "mean", "log_variance")
    assert {name for name in names if name.startswith("encoder.")} == {
        f"encoder.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("condition_layer", ["output", "first"])
def test_y_is_the_decoders_first_layer_and_the_mmd_acts_on_it(images, condition_layer):
    tv.TRVAE.setup_anndata(images, **SETUP)
    options = {**IMAGES, "n_hidden": [20, 12], "n_latent": 5, "condition_layer": condition_layer}
    far, near = (tv.TRVAE(images, mmd_weight=weight, encode_condition=True, **options) for weight in (0.0, 300.0))
    gaps = []
    for model in (far, near):
        model.train(**{**FAST, "max_epochs": 15}, early_stopping=False)
        y = model.get_mmd_representation()
        assert y.shape == (images.n_obs, 12)
        wide = (images.obs["condition"] == "wide").to_numpy()
        gaps.append(np.linalg.norm(y[wide].mean(axis=0) - y[~wide].mean(axis=0)))
    assert gaps[1] < 0.7 * gaps[0]
    assert "mmd_train" in near.history
    assert float(near.history["mmd_train"].iloc[-1, 0]) < float(near.history["mmd_train"].iloc[0, 0])


@pytest.mark.parametrize("likelihood", ["bernoulli", "mse"])
@pytest.mark.parametrize("normalization", ["layer", "batch", None])
@pytest.mark.parametrize("condition_layer", ["output", "first"])
def test_every_combination_trains_and_predicts(images, likelihood, normalization, condition_layer):
    model = make_trained(
        images,
        SETUP,
        network=SMALL,
        gene_likelihood=likelihood,
        normalization=normalization,
        condition_layer=condition_layer,
        encode_condition=True,
    )
    assert np.isfinite(float(model.history["train_loss"].iloc[-1, 0]))
    prediction = model.predict_perturbation(images, target="wide", source="plain", method="mean")
    assert prediction.shape == (90, 64)
    assert np.isfinite(prediction.X).all()


def test_a_style_of_a_shape_that_was_not_seen_in_it():
    """Lying bars were never wide; what upright ones show is carried over."""
    data = make_images(400)
    hidden = ((data.obs["condition"] == "wide") & (data.obs["shape"] == "lying")).to_numpy()
    network = ConvNetwork((1, SIDE, SIDE), channels=(8, 16))
    model = make_trained(data[~hidden], SETUP, {"max_epochs": 60}, **{**IMAGES, "network": network})
    plain = data[((data.obs["condition"] == "plain") & (data.obs["shape"] == "lying")).to_numpy()]
    predicted = model.predict_perturbation(plain, target="wide", method="mean").X
    assert predicted.sum() > 1.5 * plain.X.sum()
    rows = predicted.reshape(-1, SIDE, SIDE).mean(axis=2)
    given = plain.X.reshape(-1, SIDE, SIDE).mean(axis=2)
    assert np.mean(rows.argmax(axis=1) - given.argmax(axis=1) >= 0) > 0.8  # they grow downwards, as the others do


def test_sparse_images_train_like_dense_ones(images, trained_on_images, one_thread):
    as_sparse = images.copy()
    as_sparse.X = sparse.csr_matrix(images.X)
    model = make_trained(as_sparse, SETUP, **IMAGES)
    dense = make_trained(images, SETUP, **IMAGES)
    assert not model.module.takes_sparse
    np.testing.assert_allclose(
        model.get_latent_representation(), dense.get_latent_representation(), rtol=1e-5, atol=1e-5
    )
    found, expected = (
        m.predict_perturbation(a, target="wide", method="mean").X for m, a in ((model, as_sparse), (dense, images))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_sparse_counts_reach_a_network_dense(adata):
    """Counts that are mostly zeros are otherwise kept sparse up to the first layer."""
    counts = adata[:, :48].copy()
    keep = np.random.default_rng(0).random(counts.shape) < 0.15
    counts.X = sparse.csr_matrix(counts.X.toarray() * keep)
    counts = counts[np.asarray(counts.X.sum(axis=1)).ravel() > 0].copy()
    network = ConvNetwork((3, 4, 4), channels=(4,))
    assert make_trained(counts).module.takes_sparse
    model = make_trained(counts, network=network)
    assert not model.module.takes_sparse
    assert model.predict_perturbation(counts, target="stimulated").shape == counts.shape


def test_sparse_images_can_be_moved_as_such(images):
    images.X = sparse.csr_matrix(images.X)
    model = make_trained(images, SETUP, {"load_sparse_tensor": True}, **IMAGES)
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("condition_layer", ["output", "first"])
def test_a_combination_of_conditions(images, condition_layer):
    images.obs["condition"] = images.obs["condition"].astype(str)
    negative = images[::3].copy()
    negative.X = 1.0 - negative.X
    negative.obs["condition"] = "negative"
    data = anndata.concat([images, negative], index_unique="-")
    model = make_trained(data, SETUP, **IMAGES, condition_layer=condition_layer)
    both = model.predict_combination(images, target="wide+negative", control="plain", method="mean")
    assert both.shape == images.shape
    alone = model.predict_perturbation(images, target="wide", method="mean")
    assert not np.allclose(both.X, alone.X)


def test_saved_and_loaded(trained_on_images, images, tmp_path):
    trained_on_images.save(tmp_path / "model")
    loaded = tv.TRVAE.load(tmp_path / "model", images)
    assert loaded.init_params_["non_kwargs"]["network"] == SMALL
    for name, tensor in trained_on_images.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name])
    for method in ("mean", "sample"):
        found, expected = (
            m.predict_perturbation(images, target="wide", method=method).X for m in (loaded, trained_on_images)
        )
        assert abs(found - expected).max() == 0
    loaded.train(**FAST)


def test_the_whole_model_can_be_pickled(trained_on_images, images):
    module = pickle.loads(pickle.dumps(trained_on_images.module))
    for name, tensor in trained_on_images.module.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])


@pytest.mark.parametrize(
    "options",
    [{}, {"condition_layer": "first", "encode_condition": True}, {"gene_likelihood": "mse"}],
    ids=["default", "published", "mse"],
)
def test_a_query_leaves_its_reference_alone(images, options):
    reference = make_trained(images, SETUP, **{**IMAGES, **options})
    query = make_images(80, seed=1)
    query.X = 1.0 - query.X
    query.obs["condition"] = query.obs["condition"].replace({"wide": "negative"})
    model = tv.TRVAE.load_query_data(query, reference)
    trained = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.endswith(".new") for name in trained)

    def answers(of):
        mean = of.predict_perturbation(images, target="wide", method="mean").X
        return of.get_latent_representation(images), of.get_mmd_representation(images), mean

    before = answers(reference)
    model.train(**{**FAST, "max_epochs": 2}, plan_kwargs={"lr": 0.05})
    for found, expected in zip(answers(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    new, old = (model.predict_perturbation(images, target=t, method="mean").X for t in ("negative", "wide"))
    assert not np.allclose(new, old)


# --- Bernoulli -------------------------------------------------------------------------------------------------------


def test_log_likelihood_of_ones_and_zeros():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 11)) * 4
    x = (rng.random((6, 11)) < 0.5).astype(float)
    expected = stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum(axis=1)
    found = log_bernoulli(torch.from_numpy(x), torch.from_numpy(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    by_torch = torch.distributions.Bernoulli(logits=torch.from_numpy(logits)).log_prob(torch.from_numpy(x))
    torch.testing.assert_close(found, by_torch.sum(-1))


def test_log_likelihood_of_grey_is_the_cross_entropy():
    x, p = np.array([[0.25, 0.9]]), np.array([[0.5, 0.8]])
    expected = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum()
    logits = torch.logit(torch.from_numpy(p))
    assert float(log_bernoulli(torch.from_numpy(x), logits)) == pytest.approx(expected)
    assert float(Bernoulli(logits).log_prob(torch.from_numpy(x)).sum()) == pytest.approx(expected)
    assert torch.isfinite(log_bernoulli(torch.zeros(1, 1), torch.full((1, 1), 200.0))).all()


def test_the_distribution_answers_what_scvi_tools_asks():
    logits = torch.tensor([[-2.0, 0.0, 3.0]])
    px = Bernoulli(logits)
    for key in ("mu", "scale"):
        torch.testing.assert_close(px.get_normalized(key), torch.sigmoid(logits))
    assert set(px.sample((50,)).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("edit", "found"), [(lambda x: 255 * x, "0 to "), (lambda x: x - 0.5, "-0.5 to 0.")])
def test_values_outside_of_0_and_1_are_refused(images, trained_on_images, edit, found):
    images.X = edit(images.X)
    tv.TRVAE.setup_anndata(images)
    with pytest.raises(ValueError, match=f"expects values from 0 to 1, found {found}.*e.g. pixels by 255"):
        tv.TRVAE(images, gene_likelihood="bernoulli")
    for ask in (
        lambda: trained_on_images.predict_perturbation(images, target="wide", method="mean"),
        lambda: tv.TRVAE.load_query_data(images, trained_on_images),
    ):
        with pytest.raises(ValueError, match="values from 0 to 1"):
            ask()


def test_means_and_samples(trained_on_images, images):
    mean = trained_on_images.predict_perturbation(images, target="wide", method="mean")
    assert ((mean.X >= 0) & (mean.X <= 1)).all()
    assert mean.uns["trvae"]["scale"] == "input"
    draws = [
        trained_on_images.predict_perturbation(images, target="wide", method="sample", seed=s).X for s in range(60)
    ]
    assert set(np.unique(draws[0].toarray())) == {0.0, 1.0}
    assert (draws[0] != draws[1]).nnz > 0
    again = trained_on_images.predict_perturbation(images, target="wide", method="sample", seed=0).X
    assert (draws[0] != again).nnz == 0
    share = sum(draw.toarray() for draw in draws) / len(draws)
    assert np.abs(share - mean.X).max() < 6 * 0.5 / np.sqrt(len(draws))


def test_what_is_not_defined_is_refused(trained_on_images, images):
    with pytest.raises(ValueError, match="'counterfactual' is not defined for gene_likelihood='bernoulli'"):
        trained_on_images.predict_perturbation(images, target="wide")
    with pytest.raises(ValueError, match="gene_likelihood='bernoulli' has no effects: compare means"):
        trained_on_images.get_perturbation_effect(images, target="wide")
    with pytest.raises(ValueError, match="`library_size` has no meaning with gene_likelihood='bernoulli'"):
        trained_on_images.predict_perturbation(images, target="wide", method="mean", library_size=10.0)
    with pytest.raises(NotImplementedError, match="'bernoulli'"):
        trained_on_images.get_likelihood_parameters()


def test_inherited_answers(trained_on_images, images):
    model = trained_on_images
    normalized = model.get_normalized_expression(images, transform_batch="wide", return_numpy=True)
    assert normalized.shape == images.shape
    assert ((normalized >= 0) & (normalized <= 1)).all()
    several = model.get_normalized_expression(images, n_samples=3, return_mean=False, return_numpy=True)
    assert several.shape == (3, *images.shape)
    drawn = model.posterior_predictive_sample(images, n_samples=2)
    assert drawn.shape == (*images.shape, 2)
    assert set(np.unique(drawn.todense())) <= {0.0, 1.0}
    torch.manual_seed(0)
    elbo = float(model.get_elbo(images))
    torch.manual_seed(0)  # the same draws of z: the two differ by the KL alone
    error = float(model.get_reconstruction_error(images)["reconstruction_loss"])
    assert elbo < -error < 0.0
    assert float(model.get_marginal_ll(images, n_mc_samples=50)) > elbo - 1.0


def test_minified_images(images):
    model = make_trained(images, SETUP, **IMAGES)
    expected = model.predict_perturbation(target="wide", method="mean").X
    model.adata.obsm["qzm"], model.adata.obsm["qzv"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(use_latent_qzm_key="qzm", use_latent_qzv_key="qzv")
    np.testing.assert_allclose(model.predict_perturbation(target="wide", method="mean").X, expected, atol=1e-5)


# --- real values, such as proteins on the arcsinh scale --------------------------------------------------------------


@pytest.fixture
def proteins(adata):
    """Marker intensities with noise around 0, arcsinh of them over 5 as for mass cytometry."""
    rng = np.random.default_rng(0)
    level = adata.X[:, :20].toarray()
    level[(adata.obs["condition"] == "stimulated").to_numpy(), :4] += 20.0
    values = np.arcsinh((level + rng.normal(0.0, 2.0, level.shape)) / 5.0)
    assert values.min() < -0.3
    return anndata.AnnData(values.astype(np.float32), obs=adata.obs)


@pytest.mark.parametrize(("condition_layer", "epochs"), [("output", 40), ("first", 100)])
def test_real_values_of_either_sign(proteins, tmp_path, condition_layer, epochs):
    model = make_trained(
        proteins,
        {"labels_key": "cell_type"},
        {"max_epochs": epochs},
        gene_likelihood="mse",
        condition_layer=condition_layer,
    )
    assert not model.nonnegative_
    control = proteins[(proteins.obs["condition"] == "control").to_numpy()]
    counterfactual = model.predict_perturbation(control, target="stimulated")
    source, target = (
        model.predict_perturbation(control, target=name, method="mean").X for name in ("control", "stimulated")
    )
    expected = control.X + target - source
    assert expected.min() < -0.3
    np.testing.assert_allclose(counterfactual.X, expected, atol=1e-5)  # what is below 0 stays there
    assert counterfactual.uns["trvae"]["scale"] == "input"
    effect = model.get_perturbation_effect(control, target="stimulated", groupby="donor")
    assert len(effect) == 20 * 3
    assert effect["log_fc"].isna().all()
    assert np.isfinite(effect[["change", "change_lower", "change_upper"]]).all(axis=None)
    change = effect.groupby("variable", sort=False)["change"].mean().to_numpy()
    stimulated = (proteins.obs["condition"] == "stimulated").to_numpy()
    true = proteins.X[stimulated].mean(axis=0) - proteins.X[~stimulated].mean(axis=0)
    assert np.corrcoef(change, true)[0, 1] > 0.9
    assert (change[:4] > 0.4 * true[:4]).all()
    model.save(tmp_path / "model")
    loaded = tv.TRVAE.load(tmp_path / "model", proteins.copy())
    assert not loaded.nonnegative_
    np.testing.assert_array_equal(loaded.predict_perturbation(control, target="stimulated").X, counterfactual.X)
