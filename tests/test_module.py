from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import nn

from trvae_scvi import TRVAE, TRVAEModule
from trvae_scvi._math._mmd import mmd
from trvae_scvi.module._networks import ConditionLinear, CovariateLinear
from trvae_scvi.module._options import ModelOptions

N, GENES = 40, 15


def tensors(likelihood="nb", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(N, GENES, generator=generator) * 4, generator=generator)
    x[:, 0] += 1
    if likelihood == "mse":
        x = torch.randn(N, GENES, generator=generator)
    return {
        REGISTRY_KEYS.X_KEY: x,
        REGISTRY_KEYS.BATCH_KEY: torch.arange(N)[:, None] % 3,
        REGISTRY_KEYS.LABELS_KEY: torch.arange(N)[:, None] % 2,
        REGISTRY_KEYS.CAT_COVS_KEY: torch.arange(N)[:, None] % 4,
        REGISTRY_KEYS.CONT_COVS_KEY: torch.randn(N, 2, generator=generator),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: torch.rand(N, 1, generator=generator) + 0.5,
    }


def make(**kwargs):
    torch.manual_seed(0)
    kwargs = {"n_batch": 3, "n_cats_per_cov": (4,), "n_continuous_cov": 2, "hidden_sizes": (16, 8), **kwargs}
    return TRVAEModule(GENES, **kwargs)


def test_defaults_are_those_of_the_model():
    models = {name: p.default for name, p in inspect.signature(TRVAE).parameters.items()}
    modules = {field.name: field.default for field in dataclasses.fields(ModelOptions)}
    shared = set(models) & set(modules)
    assert {"mmd_kernel", "mmd_weight", "response_scale", "n_latent"} <= shared
    # None stands for whether there are labels, which a module cannot know
    assert (models.pop("mmd_balance_labels"), modules.pop("mmd_balance_labels")) == (None, False)
    shared.remove("mmd_balance_labels")
    assert {name: modules[name] for name in shared} == {name: models[name] for name in shared}
    assert modules["hidden_sizes"] == (models["n_hidden"],) * models["n_layers"]


def test_table_rows_are_a_one_hot_in_a_wider_product():
    layer = CovariateLinear(5, 7, n_categories=(3, 2), n_continuous=1)
    x, code, other, value = torch.randn(9, 5), torch.arange(9) % 3, torch.arange(9) % 2, torch.randn(9, 1)
    wide = nn.Linear(5 + 3 + 2 + 1, 7)
    tables = [table.weight.T for table in layer.tables]
    wide.weight.data = torch.cat([layer.linear.weight, *tables, layer.continuous.weight], dim=1).detach()
    wide.bias.data = layer.linear.bias.detach()
    inputs = [x, nn.functional.one_hot(code, 3), nn.functional.one_hot(other, 2), value]
    torch.testing.assert_close(layer(x, [code, other], value), wide(torch.cat(inputs, dim=1)))


@pytest.mark.parametrize("n_samples", [None, 3])
def test_every_condition_has_a_linear_output_layer_of_its_own(n_samples):
    layer = ConditionLinear(5, 7, n_conditions=4)
    layer.offset.weight.data.normal_()
    layer.response.weight.data.normal_()
    layer.centre.normal_()
    layer.eval()
    hidden = torch.randn(9, 5) if n_samples is None else torch.randn(n_samples, 9, 5)
    condition = torch.tensor([2, 0, 2, 2, 1, 0, 1, 2, 0])  # not all, in no order
    result = layer(hidden, condition)
    for row, code in enumerate(condition.tolist()):
        weight = layer.shared.weight + layer.response.rows[code].T
        expected = hidden[..., row, :] @ weight.T + layer.shared.bias + layer.offset.rows[code]
        expected = expected - layer.centre @ layer.response.rows[code]
        torch.testing.assert_close(result[..., row, :], expected)
    result.sum().backward()
    assert (layer.response.weight.grad[3] == 0).all()
    assert (layer.response.weight.grad[:3] != 0).all()


def test_the_condition_enters_where_it_is_told_to():
    batch = tensors()
    for where in ("output", "first"):
        module = make(condition_layer=where).eval()
        for name, parameter in module.decoder.named_parameters():
            if name.endswith(("offset.weight", "response.weight")):
                parameter.data.normal_()
        inputs = module._get_generative_input(batch, module.inference(**module._get_inference_input(batch)))
        first, second = (module.generative(**inputs, transform_batch=code) for code in (0, 1))
        assert torch.equal(first["first_layer"], second["first_layer"]) is (where == "output")
        assert not torch.equal(first["px"].mu, second["px"].mu)


def responses_of(module):
    return [layer.response.weight for layer in module.decoder.condition_layers()]


def test_the_centre_is_the_mean_of_the_training_cells_and_stays_in_evaluation():
    layer = ConditionLinear(3, 4, n_conditions=2)
    batches = [torch.randn(20, 3) + 1.0 for _ in range(5)]
    for batch in batches:
        layer(batch, torch.zeros(20, dtype=torch.long))
    expected = torch.cat(batches).mean(dim=0)
    torch.testing.assert_close(layer.centre, expected)
    layer.eval()(batches[0] + 100.0, torch.zeros(20, dtype=torch.long))
    torch.testing.assert_close(layer.centre, expected)


def test_the_prior_of_what_conditions_do_is_normal_and_counts_once_for_every_condition():
    module = make(response_scale=0.5, gene_likelihood="nb", mmd_on=None).eval()
    layer = module.decoder.output
    layer.offset.weight.data.normal_()
    layer.response.weight.data.normal_()
    layer.offset.scale.uniform_(0.5, 2.0)
    cells = tensors()
    codes = cells["batch"].squeeze(-1).long()
    inference, generative = module(cells, compute_loss=False)
    module.n_cells.copy_(torch.tensor([20.0, 5.0, 8.0]))
    terms = (cells, inference, generative)
    without, whole = (module.loss(*terms, n_obs=33, whole_objective=asked).loss for asked in (False, True))
    zero, expected = torch.zeros(()), 0.0
    for code, n in enumerate((20, 5, 8)):
        share = (codes == code).float().mean()
        for prior, values in (
            # U_0 and U_1 independent with variance v each: their difference has the variance 2 v = 0.5 ** 2
            (torch.distributions.Normal(0.0, 0.5 / 2**0.5), layer.response.weight[code]),
            (torch.distributions.Normal(0.0, layer.offset.scale[code]), layer.offset.weight[code]),
        ):
            expected += share / n * (prior.log_prob(zero) - prior.log_prob(values)).sum()
    torch.testing.assert_close(whole - without, expected, rtol=1e-4, atol=1e-3)


def test_the_prior_of_the_responses_is_normal_and_spread_over_the_training_cells():
    module = make(response_scale=0.5, gene_likelihood="zinb", mmd_on=None).eval()
    responses = responses_of(module)
    assert len(responses) == 2  # those of the means and those of the extra zeros
    for response in responses:
        response.data.normal_()
    inference, generative = module(tensors(), compute_loss=False)
    terms = (tensors(), inference, generative)
    without, spread = (module.loss(*terms, n_obs=50, whole_objective=whole).loss for whole in (False, True))
    # U_0 and U_1 independent with variance v each: their difference has the variance 2 v = 0.5 ** 2
    prior = torch.distributions.Normal(0.0, 0.5 / 2**0.5)
    zero = torch.zeros(())
    expected = sum((prior.log_prob(zero) - prior.log_prob(r)).sum() for r in responses) / 50
    torch.testing.assert_close(spread - without, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mmd_on", "x"),
        ("condition_layer", "frist"),
        ("normalization", "instance"),
        ("gene_likelihood", "normal"),
        ("dispersion", "cell"),
        ("mmd_kernel", "rbf"),
        ("mmd_weight", -1.0),
        ("hidden_sizes", ()),
        ("hidden_sizes", (8, 0)),
        ("dropout_rate", 1.0),
        ("encode_condition", "no"),
        ("network", nn.Identity()),
        ("n_laten", 5),
    ],
)
def test_a_module_refuses_what_the_model_refuses(option, value):
    with pytest.raises((TypeError, ValueError), match="n_hidden" if value == (8, 0) else option):
        TRVAEModule(GENES, n_batch=2, **{option: value})


def test_options_can_be_read_and_are_checked_when_they_are_set():
    module = make(mmd_on="z", dispersion="gene-batch")
    assert (module.mmd_on, module.dispersion, module.n_latent) == ("z", "gene-batch", 10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.options.mmd_on = "y"
    assert "of_model" not in vars(module)
    assert not hasattr(module, "of_model")
    assert not hasattr(module, "__dataclass_fields__")
    with pytest.raises(AttributeError):
        module.no_such_option  # noqa: B018
    terms = (tensors(), *module(tensors(), compute_loss=False))
    assert module.loss(*terms).extra_metrics["mmd"] > 0
    module.mmd_weight = 0
    assert (module.mmd_weight, module.options.mmd_weight) == (0, 0)
    assert module.loss(*terms).extra_metrics["mmd"] == 0
    with pytest.raises(ValueError, match="`mmd_on` to be one of"):
        module.mmd_on = "x"
    assert module.mmd_on == "z"


def test_widths_may_be_an_array():
    assert make(hidden_sizes=np.array([8, 4])).options.hidden_sizes == (8, 4)
    with pytest.raises(ValueError, match="widths of one hidden layer or more, found 8"):
        make(hidden_sizes=8)


@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_whether_counts_are_modelled(likelihood):
    assert make(gene_likelihood=likelihood).likelihood.models_counts == (likelihood == "nb")


def test_only_the_whole_objective_has_the_prior():
    """However many cells were trained on: an answer is about the cells alone."""
    module = make(mmd_on="y").eval()
    for response in responses_of(module):
        response.data.normal_()
    terms = (tensors(), *module(tensors(), compute_loss=False))
    alone = module.loss(*terms)
    for answer in (module.loss(*terms), module.loss(*terms, n_obs=50)):
        assert answer.loss == alone.loss
        assert answer.extra_metrics["condition_prior"] == 0.0
    whole = module.loss(*terms, n_obs=50, whole_objective=True)
    assert whole.extra_metrics["condition_prior"] > 0.0
    assert whole.extra_metrics["mmd"] == alone.extra_metrics["mmd"]
    with pytest.raises(ValueError, match="Expected `n_obs`"):
        module.loss(*terms, whole_objective=True)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("mmd_on", ["y", "z", None])
def test_loss_is_the_weighted_sum_of_its_terms(likelihood, dispersion, mmd_on):
    module = make(
        gene_likelihood=likelihood, dispersion=dispersion, mmd_on=mmd_on, mmd_weight=7.0, reconstruction_weight=0.5
    )
    batch = tensors(likelihood)
    inference, generative, loss = module(batch, loss_kwargs={"kl_weight": 0.25})
    log_p = generative["px"].log_prob(batch[REGISTRY_KEYS.X_KEY]).sum(-1)
    torch.testing.assert_close(loss.reconstruction_loss["reconstruction_loss"], -log_p, rtol=1e-4, atol=1e-3)
    qz = inference["qz"]
    kl = 0.5 * (qz.loc**2 + qz.scale**2 - 1 - 2 * qz.scale.log()).sum(-1)
    torch.testing.assert_close(loss.kl_local["kl_local"], kl, rtol=1e-4, atol=1e-5)
    activations = {"y": generative["first_layer"], "z": inference["z"], None: None}[mmd_on]
    codes = batch[REGISTRY_KEYS.BATCH_KEY].squeeze(1)
    discrepancy = mmd(activations, codes, kernel="median") if mmd_on else torch.tensor(0.0)
    torch.testing.assert_close(loss.extra_metrics["mmd"], discrepancy)
    expected = (-0.5 * log_p + 0.25 * kl).mean() + 7.0 * discrepancy
    torch.testing.assert_close(loss.loss, expected, rtol=1e-4, atol=1e-3)
    loss.loss.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_y_is_the_activation_before_dropout_in_the_losss_own_pass():
    module = make(dropout_rate=0.5)
    _, generative, _ = module(tensors())
    y = generative["first_layer"]
    assert y.shape == (N, 8)
    assert (y >= 0).all()
    codes = module._codes(tensors()[REGISTRY_KEYS.BATCH_KEY], tensors()[REGISTRY_KEYS.CAT_COVS_KEY])
    inference, generative, _ = module(tensors())
    again = module.decoder.first_layer(inference["z"], codes, tensors()[REGISTRY_KEYS.CONT_COVS_KEY])
    torch.testing.assert_close(again, generative["first_layer"])  # a dropped-out one would differ


def test_weight_zero_and_no_location_are_the_same_plain_vae():
    losses = []
    for options in ({"mmd_weight": 0.0}, {"mmd_on": None}):
        module = make(**options)
        torch.manual_seed(1)
        losses.append(module(tensors())[2])
    assert losses[0].loss == losses[1].loss
    assert losses[0].extra_metrics["mmd"] == 0.0


def test_condition_reaches_the_encoder_only_if_asked():
    for encode in (True, False):
        module = make(encode_condition=encode).eval()
        batch = tensors()
        first = module.inference(**module._get_inference_input(batch))["qz"].loc
        batch[REGISTRY_KEYS.BATCH_KEY] = (batch[REGISTRY_KEYS.BATCH_KEY] + 1) % 3
        second = module.inference(**module._get_inference_input(batch))["qz"].loc
        assert torch.equal(first, second) is not encode


@pytest.mark.parametrize("condition_layer", ["output", "first"])
def test_transform_batch_decodes_with_another_condition(condition_layer):
    module = make(dispersion="gene-batch", condition_layer=condition_layer).eval()
    module.log_theta.weight.data.normal_()
    for response in responses_of(module):  # start at zero: no condition differs before training
        response.data.normal_()
    batch = tensors()
    outputs = module.inference(**module._get_inference_input(batch))
    arguments = module._get_generative_input(batch, outputs)
    swapped = module.generative(**arguments, transform_batch=2)
    direct = module.generative(**{**arguments, "batch_index": torch.full((N, 1), 2)})
    assert torch.equal(swapped["px"].mu, direct["px"].mu)
    assert torch.equal(swapped["theta"], module.log_theta.rows[2].exp().expand(N, -1))
    assert not torch.equal(swapped["px"].mu, module.generative(**arguments)["px"].mu)


@pytest.mark.parametrize("use_size_factor", [True, False])
def test_means_are_scaled_by_library_or_size_factor(use_size_factor):
    module = make(use_size_factor_key=use_size_factor).eval()
    batch = tensors()
    _, generative = module(batch, compute_loss=False)
    totals = generative["px"].mu.sum(-1)
    if use_size_factor:
        expected = generative["px"].scale.sum(-1) * batch[REGISTRY_KEYS.SIZE_FACTOR_KEY].squeeze(1)
    else:
        expected = batch[REGISTRY_KEYS.X_KEY].sum(1)
    torch.testing.assert_close(totals, expected, rtol=1e-4, atol=1e-4)


def test_mse_output_is_linear_or_not_negative():
    batch = tensors("mse")
    for nonnegative in (True, False):
        mean = make(gene_likelihood="mse", nonnegative_output=nonnegative)(batch, compute_loss=False)[1]["px"].loc
        assert bool((mean >= 0).all()) is nonnegative


@pytest.mark.parametrize("normalization", ["layer", "batch", None])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse"])
def test_several_samples(normalization, likelihood):
    module = make(normalization=normalization, gene_likelihood=likelihood).eval()
    batch = tensors(likelihood)
    assert module.sample(batch).shape == (N, GENES)
    assert module.sample(batch, n_samples=3).shape == (N, GENES, 3)
    torch.manual_seed(0)
    one = module.marginal_ll(batch, n_mc_samples=200, n_mc_samples_per_pass=1)
    many = module.marginal_ll(batch, n_mc_samples=201, n_mc_samples_per_pass=50)
    assert one.shape == (N,)
    # two estimates of the same numbers; few samples leave some noise
    assert float((one - many).abs().median()) < 1.0
    assert isinstance(module.marginal_ll(batch, n_mc_samples=2, return_mean=True), float)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse", "bernoulli"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_the_likelihood_of_several_samples_is_that_of_each(likelihood, dispersion):
    """With thetas so large that upstream's is off by tenths."""
    module = make(gene_likelihood=likelihood, dispersion=dispersion).eval()
    for name, parameter in module.named_parameters():
        if "log_theta" in name:
            parameter.data.fill_(15.0).add_(torch.randn_like(parameter))
    batch = tensors(likelihood)
    x = batch[REGISTRY_KEYS.X_KEY]
    if likelihood == "bernoulli":
        x = batch[REGISTRY_KEYS.X_KEY] = (x > 1).float()
    inference, generative = module(batch, inference_kwargs={"n_samples": 3}, compute_loss=False)
    found = module._log_likelihood(x, generative)
    assert found.shape == (3, N)
    if likelihood in ("nb", "zinb", "poisson"):
        torch.testing.assert_close(module._log_likelihood(x.to_sparse_csr(), generative), found)
    module.double()
    wide = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    for z, of_sample in zip(inference["z"], found, strict=True):
        inputs = module._get_generative_input(
            wide, {**inference, "z": z.double(), "library": wide["X"].sum(1, True).log()}
        )
        expected = module._log_likelihood(wide[REGISTRY_KEYS.X_KEY], module.generative(**inputs))
        torch.testing.assert_close(of_sample.double(), expected, rtol=1e-6, atol=5e-4)


def test_marginal_likelihood_bounds_the_elbo():
    module = make().eval()
    batch = tensors()
    torch.manual_seed(0)
    losses = [module(batch)[2] for _ in range(50)]
    elbo = -torch.stack([x.reconstruction_loss["reconstruction_loss"] + x.kl_local["kl_local"] for x in losses])
    assert float(module.marginal_ll(batch, n_mc_samples=500, return_mean=True)) > elbo.mean().item()


def test_represents_the_architecture_of_scarches():
    """Two hidden layers of different width, condition in the first only, theta a gene and condition."""
    module = make(
        hidden_sizes=(16, 8),
        dispersion="gene-batch",
        normalization="layer",
        encode_condition=True,
        condition_layer="first",
        n_cats_per_cov=(),
        n_continuous_cov=0,
    )
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes == {
        "log_theta.weight": (3, GENES),
        "encoder.first.linear.weight": (16, GENES),
        "encoder.first.linear.bias": (16,),
        "encoder.first.tables.0.weight": (3, 16),
        "encoder.hidden.0.weight": (8, 16),
        "encoder.hidden.0.bias": (8,),
        "encoder.mean.weight": (10, 8),
        "encoder.mean.bias": (10,),
        "encoder.log_variance.weight": (10, 8),
        "encoder.log_variance.bias": (10,),
        "decoder.first.linear.weight": (8, 10),
        "decoder.first.linear.bias": (8,),
        "decoder.first.tables.0.weight": (3, 8),
        "decoder.hidden.0.weight": (16, 8),
        "decoder.hidden.0.bias": (16,),
        "decoder.output.weight": (GENES, 16),
        "decoder.output.bias": (GENES,),
    }
