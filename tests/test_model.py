"""Set-up, construction and what is refused before any training starts."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
from helpers import FAST, make_trained
from scipy import sparse
from scvi import REGISTRY_KEYS

import trvae_scvi as tv


def test_one_line_set_up_finds_the_condition(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata)
    assert list(model.get_state_registry("batch").categorical_mapping) == ["control", "stimulated"]
    assert model.summary_stats["n_batch"] == 2


def test_other_names(adata):
    adata.obs = adata.obs.rename(columns={"condition": "drug", "cell_type": "kind"})
    tv.TRVAE.setup_anndata(
        adata,
        "drug",
        layer="counts",
        labels_key="kind",
        size_factor_key="size",
        categorical_covariate_keys=["donor", "lab"],
        continuous_covariate_keys=["age"],
    )
    model = tv.TRVAE(adata, n_hidden=16)
    model.train(**FAST)
    assert [tuple(table.weight.shape) for table in model.module.decoder.first.tables] == [(3, 16), (2, 16)]
    assert model.module.decoder.output.response.weight.shape == (2, 16, adata.n_vars)
    assert model.module.decoder.first.continuous.weight.shape == (16, 1)
    assert model.module.use_size_factor_key
    prediction = model.predict_perturbation(adata, target="stimulated", source="control")
    assert {"drug", "drug_source", "kind"} <= set(prediction.obs)
    assert "counts" in prediction.layers


@pytest.mark.parametrize(("labels_key", "balanced"), [(None, False), ("cell_type", True)])
def test_mmd_is_balanced_over_labels_where_there_are_any(adata, labels_key, balanced):
    tv.TRVAE.setup_anndata(adata, labels_key=labels_key)
    assert tv.TRVAE(adata, mmd_balance_labels=None).module.mmd_balance_labels is balanced
    assert tv.TRVAE(adata, mmd_balance_labels=False).module.mmd_balance_labels is False


def test_condition_is_registered_as_batch(adata):
    tv.TRVAE.setup_anndata(adata)
    manager = tv.TRVAE(adata).adata_manager
    assert manager.get_state_registry(REGISTRY_KEYS.BATCH_KEY).original_key == "condition"


def as_dense(x):
    return x.toarray()


STORAGES = {
    "dense": as_dense,
    "fortran": lambda x: np.asfortranarray(x.toarray()),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "int": lambda x: x.astype(np.int64),
}


@pytest.mark.parametrize("storage", list(STORAGES))
@pytest.mark.filterwarnings("ignore:Training will be faster")
def test_storage_does_not_matter(small, storage, one_thread):
    reference = make_trained(small.adata)
    other = anndata.AnnData(STORAGES[storage](small.adata.X), obs=small.adata.obs.copy(), var=small.adata.var.copy())
    model = make_trained(other)
    np.testing.assert_allclose(
        model.get_latent_representation(), reference.get_latent_representation(), rtol=1e-5, atol=1e-5
    )
    first, second = (
        m.predict_perturbation(a, target="stimulated").X for m, a in ((model, other), (reference, small.adata))
    )
    assert (first != second).nnz <= 1e-3 * first.nnz  # a sum in another order can tip a rare draw


@pytest.mark.parametrize("kind", ["csr", "dense", "csc"])
@pytest.mark.filterwarnings("ignore:Training will be faster")
def test_backed(small, tmp_path, kind, one_thread):
    path = tmp_path / "data.h5ad"
    adata = anndata.AnnData(STORAGES[kind](small.adata.X), obs=small.adata.obs.copy(), var=small.adata.var.copy())
    adata.write_h5ad(path)
    backed = anndata.read_h5ad(path, backed="r")
    tv.TRVAE.setup_anndata(backed)
    model = tv.TRVAE(backed, n_hidden=32, n_latent=5)
    model.train(**FAST)
    reference = make_trained(adata)
    np.testing.assert_allclose(
        model.get_latent_representation(), reference.get_latent_representation(), rtol=1e-4, atol=1e-4
    )
    expected = reference.predict_perturbation(adata, target="stimulated", source="control", method="mean")
    for cells in (backed, None, backed[np.arange(400)[::-1]]):
        found = model.predict_perturbation(cells, target="stimulated", source="control", method="mean")
        np.testing.assert_allclose(found[expected.obs_names].X, expected.X, rtol=1e-3, atol=1e-3)


def test_seven_conditions():
    targets = [f"drug_{i}" for i in range(6)]
    adata = tv.datasets.simulate_perturbation(700, 40, n_types=2, targets=targets).adata
    model = make_trained(adata, train={"batch_size": 128})
    prediction = model.predict_perturbation(adata, target="all", source="control")
    assert set(prediction.obs["condition"]) == {"control", *targets}
    assert prediction.n_obs == 7 * (adata.obs["condition"] == "control").sum()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("normalization", ["layer", "batch", None])
def test_every_likelihood_trains_and_predicts(adata, likelihood, dispersion, normalization):
    if likelihood == "mse":
        adata.X = np.log1p(adata.X.toarray())
    model = make_trained(
        adata, gene_likelihood=likelihood, dispersion=dispersion, normalization=normalization, dropout_rate=0.1
    )
    assert np.isfinite(float(model.history["train_loss"].iloc[-1, 0]))
    prediction = model.predict_perturbation(adata, target="stimulated", source="control")
    values = prediction.X.toarray() if sparse.issparse(prediction.X) else prediction.X
    assert np.isfinite(values).all()
    assert (values >= 0).all()


# --- bad input: a clear message before anything happens, and nothing changed ---------------------


def unchanged(adata, action, error, match):
    """`action(adata)` raises, and `adata` is what it was."""
    obs, uns, x = adata.obs.copy(), list(adata.uns), adata.X.copy()
    with pytest.raises(error, match=match):
        action(adata)
    pd.testing.assert_frame_equal(adata.obs, obs)
    assert list(adata.uns) == uns
    assert type(adata.X) is type(x)
    np.testing.assert_array_equal(
        as_dense(adata.X) if sparse.issparse(x) else adata.X, as_dense(x) if sparse.issparse(x) else x
    )


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"condition_key": "nope"}, KeyError, "'nope'.*its columns are"),
        ({"labels_key": "nope"}, KeyError, "labels_key='nope'"),
        ({"size_factor_key": "nope"}, KeyError, "size_factor_key='nope'"),
        ({"categorical_covariate_keys": ["nope"]}, KeyError, "categorical_covariate_keys='nope'"),
        ({"continuous_covariate_keys": ["nope"]}, KeyError, "continuous_covariate_keys='nope'"),
        ({"continuous_covariate_keys": ["donor"]}, TypeError, "Expected numbers"),
        ({"categorical_covariate_keys": "donor"}, TypeError, r"Write \['donor'\]"),
        ({"layer": "nope"}, KeyError, "Layer 'nope'.*there are \\['counts'\\]"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
        ({"batch_key": "condition"}, TypeError, "batch_key.*`condition_key`"),
        ({"condition_key": ["condition"]}, TypeError, "to name a column"),
        ({"labels_key": "condition"}, ValueError, "labels_key='condition'` is the column of conditions"),
        (
            {"categorical_covariate_keys": ["donor", "condition"]},
            ValueError,
            "`categorical_covariate_keys` holds 'condition', the column of conditions",
        ),
    ],
)
def test_set_up_refuses_wrong_arguments(adata, arguments, error, match):
    unchanged(adata, lambda a: tv.TRVAE.setup_anndata(a, **arguments), error, match)


def edit_obs(column, rows, value):
    def edit(adata):
        values = adata.obs[column].astype(object)
        values.iloc[rows] = value
        adata.obs[column] = values

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (edit_obs("condition", slice(0, 2), np.nan), "missing for 2 of 400"),
        (edit_obs("condition", slice(0, 2), "  "), "empty text for 2 of 400"),
        (edit_obs("condition", slice(0, 5), 1), r"mixes \['int', 'str'\]"),
        (edit_obs("condition", slice(None), "control"), "one condition only \\('control'\\)"),
        (edit_obs("condition", slice(0, 2), "rare"), r"at least 3 cells.*'rare': 2"),
        (edit_obs("cell_type", slice(0, 2), None), r"obs\['cell_type'\]` is missing for 2"),
        (edit_obs("donor", slice(0, 2), None), r"obs\['donor'\]` is missing for 2"),
        (lambda a: a.obs.__setitem__("age", np.inf), "infinite"),
        (lambda a: a.obs.__setitem__("size", 0.0), "positive size factors, found 0.0"),
        (lambda a: a.X.data.__setitem__(3, np.nan), "adata.X` holds NaN or infinite"),
        (lambda a: a.X.data.__setitem__(3, np.inf), "adata.X` holds NaN or infinite"),
        (lambda a: setattr(a, "var_names", ["gene_1", *a.var_names[:-1]]), "not unique, e.g. \\['gene_1'\\]"),
    ],
)
def test_set_up_refuses_wrong_data(adata, edit, match):
    edit(adata)
    arguments = {
        "labels_key": "cell_type",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["donor"],
        "continuous_covariate_keys": ["age"],
    }
    unchanged(adata, lambda a: tv.TRVAE.setup_anndata(a, **arguments), ValueError, match)


def test_unused_categories_are_named(adata):
    adata.obs["condition"] = adata.obs["condition"].cat.add_categories("ghost")
    unchanged(adata, tv.TRVAE.setup_anndata, ValueError, "'ghost': 0.*remove_unused_categories")


def test_what_is_no_anndata(adata):
    with pytest.raises(TypeError, match="to be an AnnData, found DataFrame"):
        tv.TRVAE.setup_anndata(adata.obs)
    for empty in (adata[:0].copy(), adata[:, :0].copy()):
        with pytest.raises(ValueError, match="at least one cell and one gene"):
            tv.TRVAE.setup_anndata(empty)


def test_numpy_integers_are_integers(adata):
    tv.TRVAE.setup_anndata(adata)
    assert tv.TRVAE(adata, n_hidden=np.int64(16)).module.decoder.first.linear.weight.shape[0] == 16


def test_a_dose_may_be_condition_or_covariate_but_not_both(adata):
    adata.obs["dose"] = np.resize([0.0, 0.1, 1.0], adata.n_obs)
    arguments = {"condition_key": "dose", "continuous_covariate_keys": ["dose"]}
    match = "`continuous_covariate_keys` holds 'dose', the column of conditions"
    unchanged(adata, lambda a: tv.TRVAE.setup_anndata(a, **arguments), ValueError, match)
    tv.TRVAE.setup_anndata(adata, "dose", continuous_covariate_keys=["age"])


def test_a_view_must_be_copied(adata):
    with pytest.raises(ValueError, match=r"adata = adata.copy\(\)"):
        tv.TRVAE.setup_anndata(adata[:300])


def test_no_expression(adata):
    empty = anndata.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    with pytest.raises(ValueError, match="`layer=`"):
        tv.TRVAE.setup_anndata(empty)
    tv.TRVAE.setup_anndata(empty, layer="counts")
    assert tv.TRVAE(empty).summary_stats["n_vars"] == adata.n_vars


def test_construction_without_set_up(adata):
    with pytest.raises(ValueError, match="setup_anndata"):
        tv.TRVAE(adata)
    with pytest.raises(ValueError, match="adata or registry"):
        tv.TRVAE()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a.X.data.__setitem__(5, 0.5), "found fractional values in `adata.X`"),
        (lambda a: a.X.data.__setitem__(5, -1.0), "found negative values in `adata.X`"),
        (
            lambda a: setattr(a, "X", sparse.vstack([a.X[:0], a.X[:2] * 0, a.X[2:]], format="csr")),
            "2 cells have no counts",
        ),
    ],
)
def test_count_likelihoods_refuse_other_values(adata, likelihood, edit, match):
    edit(adata)
    tv.TRVAE.setup_anndata(adata)
    unchanged(adata, lambda a: tv.TRVAE(a, gene_likelihood=likelihood), ValueError, match)


def test_mse_warns_of_counts_and_takes_other_values(adata):
    tv.TRVAE.setup_anndata(adata)
    with pytest.warns(UserWarning, match="looks like raw counts"):
        assert tv.TRVAE(adata, gene_likelihood="mse").nonnegative_
    for values, nonnegative in ((np.log1p(adata.X.toarray()), True), (adata.X.toarray() - 1.5, False)):
        adata.X = values
        tv.TRVAE.setup_anndata(adata)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tv.TRVAE(adata, gene_likelihood="mse").nonnegative_ is nonnegative


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"gene_likelihood": "normal"}, r"`gene_likelihood` to be one of \['nb'"),
        ({"dispersion": "gene-cell"}, "`dispersion`"),
        ({"normalization": "group"}, "`normalization`"),
        ({"mmd_on": "x"}, "`mmd_on`"),
        ({"mmd_kernel": "linear"}, "`mmd_kernel`"),
        ({"condition_layer": "last"}, "`condition_layer`"),
        ({"response_scale": 0.0}, "`response_scale`"),
        ({"mmd_pairs": "nope"}, r"`mmd_pairs`.*'control', 'stimulated'"),
        ({"mmd_balance_labels": True}, "labels_key"),
        ({"mmd_weight": -1.0}, "`mmd_weight`"),
        ({"kl_weight": np.nan}, "`kl_weight`"),
        ({"reconstruction_weight": np.inf}, "`reconstruction_weight`"),
        ({"dropout_rate": 1.0}, "`dropout_rate`"),
        ({"n_latent": 0}, "`n_latent`"),
        ({"n_layers": 0}, "`n_layers`"),
        ({"n_hidden": [8, 8, 8]}, "n_layers=2"),
        ({"n_hidden": 0}, "`n_hidden`"),
        ({"n_hidden": "64"}, "`n_hidden` to be an integer"),
        ({"n_latent": 2.5}, "`n_latent` to be an integer"),
        ({"mmd_weight": None}, "`mmd_weight` to be a number"),
        ({"encode_condition": "no"}, "`encode_condition` to be True or False, found 'no'"),
        ({"nonnegative_output": None}, "`nonnegative_output` to be True or False"),
        ({"mmd_balance_labels": 0}, "`mmd_balance_labels` to be True or False"),
    ],
)
def test_unknown_option_values(adata, option, match):
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises((ValueError, TypeError), match=match):
        tv.TRVAE(adata, **option)


def test_options_reach_the_module(adata):
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    model = tv.TRVAE(
        adata,
        n_hidden=[20, 12],
        mmd_on="z",
        mmd_pairs="stimulated",
        mmd_kernel="median",
        mmd_balance_labels=True,
        mmd_weight=3.0,
        encode_condition=False,
        nonnegative_output=True,
    )
    module = model.module
    assert (module.mmd_on, module.mmd_kernel, module.mmd_weight) == ("z", "median", 3.0)
    assert (module.mmd_reference, module.mmd_balance_labels, module.encode_condition) == (1, True, False)
    assert module.nonnegative_output
    assert module.encoder.first.linear.weight.shape[0] == module.decoder.output.shared.weight.shape[1] == 20
    model.train(**FAST)
    assert float(model.history["mmd_train"].iloc[-1, 0]) > 0.0


def test_numbers_as_conditions(adata):
    adata.obs["condition"] = (adata.obs["condition"] == "stimulated").astype(int)
    model = make_trained(adata)
    prediction = model.predict_perturbation(adata, target=1, source=0)
    assert set(prediction.obs["condition"]) == {1}
    assert prediction.obs_names[0].endswith("-1")


def test_summary_names_the_conditions(trained):
    assert "['control', 'stimulated']" in trained.summary_string


class Shorter(tv.TRVAE):
    """A model of a user's own, with other arguments."""

    def __init__(self, adata=None, registry=None, n_latent=4):
        super().__init__(adata, registry, n_hidden=16, n_latent=n_latent)


def test_a_subclass_with_a_constructor_of_its_own(adata, tmp_path):
    Shorter.setup_anndata(adata)
    model = Shorter(adata, n_latent=3)
    model.train(**FAST)
    model.save(tmp_path / "m")
    loaded = Shorter.load(tmp_path / "m", adata)
    assert loaded.get_latent_representation().shape == (adata.n_obs, 3)
    without_data = Shorter(registry=model.registry_)
    without_data.is_trained_ = True
    without_data.save(tmp_path / "n")
    assert Shorter.load(tmp_path / "n", False).registry_["model_name"] == "Shorter"


def test_a_subclass_can_be_made_of_a_registry_of_scvi_tools(adata, tmp_path):
    scvi.model.SCVI.setup_anndata(adata, batch_key="condition")
    registry = scvi.model.SCVI(adata).registry_
    model = Shorter(registry=registry)
    model.is_trained_ = True
    model.save(tmp_path / "m")
    assert Shorter.load(tmp_path / "m", False).registry_["model_name"] == "Shorter"
