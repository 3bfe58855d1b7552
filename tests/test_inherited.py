"""The methods of scvi-tools' mixins refuse what a prediction refuses, in its words, and answer where it answers."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import FAST, make_trained
from scvi.model.base import VAEMixin

import trvae_scvi as tv

ANSWERS = {
    "predict_perturbation": lambda m, a: m.predict_perturbation(a, target="stimulated").X,
    "get_perturbation_effect": lambda m, a: m.get_perturbation_effect(a, target="stimulated", groupby="condition"),
    "get_mmd_representation": lambda m, a: m.get_mmd_representation(a),
    "get_latent_representation": lambda m, a: m.get_latent_representation(a),
    "get_normalized_expression": lambda m, a: m.get_normalized_expression(a, n_samples=1),
    "posterior_predictive_sample": lambda m, a: m.posterior_predictive_sample(a),
    "differential_expression": lambda m, a: m.differential_expression(a, groupby="condition", silent=True),
    "differential_abundance": lambda m, a: m.differential_abundance(a, sample_key="condition"),
    "get_aggregated_posterior": lambda m, a: m.get_aggregated_posterior(a).mean,
    "get_elbo": lambda m, a: m.get_elbo(a),
    "get_reconstruction_error": lambda m, a: m.get_reconstruction_error(a),
    "get_marginal_ll": lambda m, a: m.get_marginal_ll(a, n_mc_samples=2),
    "get_likelihood_parameters": lambda m, a: m.get_likelihood_parameters(a, n_samples=1),
    "get_feature_correlation_matrix": lambda m, a: m.get_feature_correlation_matrix(a, n_samples=1),
}
INHERITED = [name for name in ANSWERS if name not in list(ANSWERS)[:3]]


@pytest.fixture(scope="module")
def model(small):
    """A model with everything registered that can be."""
    adata = small.adata.copy()
    rng = np.random.default_rng(0)
    adata.obs["donor"] = rng.choice(["a", "b"], adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    adata.obs["size"] = 1.0
    adata.layers["counts"] = adata.X.copy()
    setup = {
        "layer": "counts",
        "labels_key": "cell_type",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["donor"],
        "continuous_covariate_keys": ["age"],
    }
    return make_trained(adata, setup)


@pytest.fixture
def cells(model):
    return model.adata[::4].copy()


def edit(**columns):
    """Replace columns of `obs`."""

    def apply(cells):
        cells.obs = cells.obs.assign(**columns)
        return cells

    return apply


def drop(column):
    def apply(cells):
        cells.obs = cells.obs.drop(columns=column)
        return cells

    return apply


def some(column, value):
    def apply(cells):
        values = cells.obs[column].astype(object)
        values.iloc[:3] = value
        cells.obs[column] = values
        return cells

    return apply


def counts(change):
    def apply(cells):
        change(cells.layers["counts"])
        return cells

    return apply


def without_layer(cells):
    del cells.layers["counts"]
    return cells


def repeated_names(cells):
    cells.var_names = ["gene_1", *cells.var_names[:-1]]
    return cells


def empty_cells(counts):
    counts.data[: counts.indptr[2]] = 0


BAD = {
    "no AnnData": (lambda c: c.to_df(), TypeError, "to be an AnnData, found DataFrame"),
    "no cells": (lambda c: c[:0].copy(), ValueError, "at least one cell"),
    "no genes": (lambda c: c[:, :0].copy(), ValueError, "at least one cell and one gene"),
    "fewer genes": (lambda c: c[:, :-2].copy(), ValueError, "2 of 60 genes are missing"),
    "order of genes": (lambda c: c[:, ::-1].copy(), ValueError, "order differs"),
    "names of genes": (repeated_names, ValueError, "not unique"),
    "no condition": (drop("condition"), KeyError, "condition_key='condition'` not found"),
    "condition missing": (some("condition", np.nan), ValueError, "missing for 3 of"),
    "condition blank": (some("condition", " "), ValueError, "empty text for 3"),
    "conditions mixed": (some("condition", 1), ValueError, "mixes"),
    "condition unknown": (some("condition", "drug"), ValueError, r"does not know: \['drug'\]"),
    "no covariate": (drop("donor"), KeyError, "categorical_covariate_keys='donor'` not found"),
    "covariate missing": (some("donor", None), ValueError, "missing for 3 of"),
    "covariate unknown": (some("donor", "z"), ValueError, r"does not know: \['z'\]"),
    "no number": (drop("age"), KeyError, "continuous_covariate_keys='age'` not found"),
    "number missing": (some("age", np.nan), ValueError, "missing for 3 of"),
    "text for a number": (edit(age="old"), TypeError, "Expected numbers"),
    "number infinite": (edit(age=np.inf), ValueError, "infinite"),
    "no size": (drop("size"), KeyError, "size_factor_key='size'` not found"),
    "size zero": (edit(size=0.0), ValueError, "positive size factors, found 0.0"),
    "no layer": (without_layer, KeyError, "Layer 'counts' not found"),
    "fractions": (counts(lambda x: np.multiply(x.data, 0.5, out=x.data)), ValueError, "found fractional values"),
    "negative": (counts(lambda x: np.negative(x.data, out=x.data)), ValueError, "found negative values"),
    "NaN": (counts(lambda x: x.data.__setitem__(0, np.nan)), ValueError, "NaN or infinite"),
    "infinite": (counts(lambda x: x.data.__setitem__(0, np.inf)), ValueError, "NaN or infinite"),
    "cells without counts": (counts(empty_cells), ValueError, "2 cells have no counts at all"),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_bad_cells_are_refused_alike_by_all_and_left_alone(model, cells, bad):
    change, error, match = BAD[bad]
    given = change(cells)
    before = given.copy()
    for name, answer in ANSWERS.items():
        with pytest.raises(error, match=match):
            answer(model, given)
            pytest.fail(f"{name} took {bad}")
    if bad != "no AnnData":
        pd.testing.assert_frame_equal(given.obs, before.obs)
        assert list(given.uns) == list(before.uns)
        assert list(given.obsm) == list(before.obsm)


GOOD = {
    "as they were": lambda c: c,
    "no label": drop("cell_type"),
    "labels missing": edit(cell_type=np.nan),
    "some labels missing": some("cell_type", None),
    "another label": edit(cell_type="a new one"),
    "a view": lambda c: c[10:60],
    "one condition": lambda c: c[(c.obs["condition"] == "control").to_numpy()],
    "a column that is no text": lambda c: edit()(c) if c.obs.insert(0, 0, 1.0) is None else c,
    "traces of another set-up": lambda c: edit(_scvi_batch=99, _scvi_labels=99)(c),
}


@pytest.mark.parametrize("good", list(GOOD))
@pytest.mark.filterwarnings("ignore:Trying to modify attribute", "ignore::FutureWarning")
def test_cells_that_can_be_predicted_get_every_answer(model, cells, good):
    given = GOOD[good](cells)
    before = given.copy()
    expected = model.get_latent_representation(model.adata[given.obs_names].copy())
    for name, answer in ANSWERS.items():
        if good == "one condition" and name == "differential_expression":
            continue  # has nothing to compare
        assert answer(model, given) is not None or name == "differential_abundance"
    np.testing.assert_allclose(model.get_latent_representation(given), expected, rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(given.obs, before.obs)
    assert list(given.uns) == list(before.uns)
    assert set(given.obsm) - set(before.obsm) == {"da_log_probs"}  # where scvi-tools' documentation puts it


@pytest.mark.parametrize(
    ("column", "argument"),
    [("condition", "condition_key"), ("cell_type", "labels_key"), ("donor", "categorical"), ("age", "continuous")],
)
def test_columns_that_change_after_the_set_up_are_not_trained_on(adata, column, argument):
    """The codes that scvi-tools keeps are those of the set-up."""
    tv.TRVAE.setup_anndata(
        adata,
        labels_key="cell_type",
        size_factor_key="size",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["age"],
    )
    model = tv.TRVAE(adata, n_hidden=8)
    adata.obs[column] = adata.obs[column].to_numpy()[::-1]
    with pytest.raises(ValueError, match=f"{argument}.*changed since `setup_anndata`"):
        model.train(**FAST)
    adata.obs[column] = adata.obs[column].to_numpy()[::-1]
    model.train(**FAST)


def test_columns_that_are_gone_from_the_models_own_data(small):
    model = make_trained(small.adata, {"labels_key": "cell_type"})
    expected = model.get_latent_representation()
    model.adata.obs = small.adata.obs[["condition"]].copy()
    np.testing.assert_array_equal(model.get_latent_representation(), expected)
    assert model.get_normalized_expression(n_samples=1).shape == (400, 60)
    model.adata.obs = small.adata.obs[["cell_type"]].copy()
    for answer in (model.get_latent_representation, model.get_elbo):
        with pytest.raises(KeyError, match="condition_key='condition'` not found"):
            answer()


def test_labels_of_the_caller_can_be_grouped_by(model, cells):
    cells.obs["cell_type"] = np.resize(["new 1", "new 2"], cells.n_obs)
    table = model.differential_expression(cells, groupby="cell_type", group1="new 1", silent=True)
    assert set(table["group1"]) == {"new 1"}
    model.differential_abundance(cells, sample_key="cell_type")
    assert list(cells.obsm["da_log_probs"].columns) == ["new 1", "new 2"]
    with pytest.raises(KeyError, match="sample_key='nope'` not found"):
        model.differential_abundance(cells, sample_key="nope")


@pytest.mark.parametrize("name", INHERITED)
def test_an_untrained_model_has_no_answers(small, name):
    adata = small.adata.copy()
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises(RuntimeError, match=r"not trained: call `model.train\(\)`"):
        ANSWERS[name](tv.TRVAE(adata, n_hidden=8), adata)


@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        ([0.5], TypeError, "positions or a boolean mask"),
        ([999], ValueError, "do not fit"),
        ("abc", TypeError, "positions"),
    ],
)
def test_indices(model, indices, error, match):
    for answer in (model.get_latent_representation, model.get_elbo, model.get_aggregated_posterior):
        with pytest.raises(error, match=match):
            answer(indices=indices)
    mask = np.arange(model.adata.n_obs) < 7
    np.testing.assert_array_equal(
        model.get_latent_representation(indices=mask), model.get_latent_representation(indices=np.arange(7))
    )
    assert model.get_aggregated_posterior(indices=[1, 2]).sample((2,)).shape == (2, 5)


@pytest.mark.parametrize("batch_size", [0, 1.5, "many"])
def test_batch_size(model, batch_size):
    for answer in (model.get_latent_representation, model.get_elbo, model.get_normalized_expression):
        with pytest.raises((TypeError, ValueError), match="`batch_size`"):
            answer(batch_size=batch_size)


def test_a_model_without_data_answers_for_any_and_adopts_none(model, cells, tmp_path):
    model.save(tmp_path / "m")
    loaded = tv.TRVAE.load(tmp_path / "m", False)
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.get_latent_representation()
    np.testing.assert_allclose(
        loaded.get_latent_representation(cells), model.get_latent_representation(cells), rtol=1e-5, atol=1e-6
    )
    assert loaded.adata is None


def test_cells_are_let_go_of(model):
    """scvi-tools keeps whatever was asked about, so that a loop over files would fill the memory."""
    gone = []
    for _ in range(8):
        cells = model.adata[:20].copy()
        gone.append(weakref.ref(cells.layers["counts"]))
        model.get_latent_representation(cells)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: model.get_latent_representation(model.adata[:20].copy()), range(6)))
    model.get_latent_representation(cells)
    del cells
    gc.collect()
    assert sum(ref() is not None for ref in gone) <= 4
    assert len(model._per_instance_manager_store[model.id]) <= 5  # with the model's own


def test_the_models_data_can_be_replaced(small):
    model = make_trained(small.adata)
    other = small.adata[::2].copy()
    model.adata = other
    assert model.adata is other
    assert model.get_latent_representation().shape == (200, 5)


def test_a_set_up_with_a_dot_in_a_name_can_be_viewed(small, capsys):
    adata = small.adata.copy()
    adata.obs["orig.ident"] = np.resize(["one", "two"], adata.n_obs)
    tv.TRVAE.setup_anndata(adata, categorical_covariate_keys=["orig.ident"])
    model = tv.TRVAE(adata, n_hidden=8)
    model.view_anndata_setup()
    assert "orig.ident" in capsys.readouterr().out
    assert list(model.get_state_registry("extra_categorical_covs").mappings["orig.ident"]) == ["one", "two"]
    with pytest.raises(AttributeError):
        _ = model.get_state_registry("batch").nothing


@pytest.mark.parametrize("kind", [tuple, pd.Index, np.array, list])
def test_keys_of_any_kind(adata, kind, tmp_path):
    setup = {"categorical_covariate_keys": kind(["donor", "lab"]), "continuous_covariate_keys": kind(["age"])}
    model = make_trained(adata, setup)
    model.save(tmp_path / "m", save_anndata=True)
    assert list(tv.TRVAE.load(tmp_path / "m").registry_["setup_args"]["categorical_covariate_keys"]) == ["donor", "lab"]


def test_keys_that_are_named_twice(adata):
    with pytest.raises(ValueError, match=r"`categorical_covariate_keys` names \['donor'\] more than once"):
        tv.TRVAE.setup_anndata(adata, categorical_covariate_keys=["donor", "lab", "donor"])
    with pytest.raises(TypeError, match="list of columns, found 3"):
        tv.TRVAE.setup_anndata(adata, continuous_covariate_keys=3)


def test_a_covariate_category_without_a_cell(adata):
    adata.obs["donor"] = pd.Categorical(adata.obs["donor"], categories=["a", "b", "c", "ghost"])
    with pytest.raises(ValueError, match=r"without any cell.*\['ghost'\].*remove_unused_categories"):
        tv.TRVAE.setup_anndata(adata, categorical_covariate_keys=["donor"])
    adata.obs["donor"] = adata.obs["donor"].cat.remove_unused_categories()
    tv.TRVAE.setup_anndata(adata, categorical_covariate_keys=["donor"])


@pytest.mark.parametrize("weights", ["uniform", "importance"])
def test_importance_weights(trained, weights):
    expression = trained.get_normalized_expression(n_samples_overall=50, weights=weights, return_numpy=True)
    assert expression.shape[1] == 60
    assert np.isfinite(expression).all()


def test_the_aggregated_posterior_has_the_standard_deviations_of_the_cells(trained):
    mean, variance = trained.get_latent_representation(return_dist=True)
    found = trained.get_aggregated_posterior(dof=None).component_distribution.base_dist
    np.testing.assert_allclose(found.scale, np.sqrt(variance), rtol=1e-6)
    np.testing.assert_allclose(found.loc, mean, rtol=1e-6)


def test_differential_abundance_of_numbers_can_be_written(trained, small, tmp_path):
    cells = small.adata.copy()
    cells.obs["sample"] = np.arange(cells.n_obs) % 3
    trained.differential_abundance(cells, sample_key="sample")
    assert list(cells.obsm["da_log_probs"].columns) == ["0", "1", "2"]
    cells.write_h5ad(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"groupby": "nope"}, KeyError, "groupby='nope'` not found"),
        ({}, KeyError, "groupby=None` not found"),
        ({"groupby": "cell_type", "group1": "zzz"}, ValueError, r"'type_1'.*found \['zzz'\]"),
        ({"groupby": "cell_type", "group1": "type_1", "group2": "zzz"}, ValueError, r"found \['zzz'\]"),
        ({"groupby": "empty"}, ValueError, "found none"),
        ({"groupby": "number", "group1": "1"}, ValueError, r"\[0, 1, 2\], found \['1'\]"),
        ({"groupby": "unused"}, ValueError, r"found \['ghost'\]"),
    ],
)
def test_groups_that_are_not_there(trained, small, arguments, error, match):
    cells = small.adata.copy()
    cells.obs["empty"], cells.obs["number"] = np.nan, np.arange(cells.n_obs) % 3
    cells.obs["unused"] = cells.obs["cell_type"].cat.add_categories("ghost")
    with pytest.raises(error, match=match):
        trained.differential_expression(cells, silent=True, **arguments)


def test_cells_without_a_group_are_spoken_of(trained, small):
    cells = small.adata.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[:7], "cell_type"] = None
    with pytest.warns(UserWarning, match="7 cells have no value"):
        trained.differential_expression(cells, groupby="cell_type", group1="type_1", silent=True)


def test_differential_expression_of_data_on_disk(trained, small, tmp_path):
    small.adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match="all_stats=False"):
        trained.differential_expression(backed, groupby="cell_type", group1="type_1", silent=True)
    table = trained.differential_expression(backed, groupby="cell_type", group1="type_1", silent=True, all_stats=False)
    assert len(table) == 60


@pytest.mark.parametrize("genes", [["gene_1", "nope"], "gene_1"])
def test_genes_that_are_not_there(trained, genes):
    for answer in (trained.get_normalized_expression, trained.posterior_predictive_sample):
        with pytest.raises(ValueError, match="`gene_list` to be a list of genes of the model"):
            answer(gene_list=genes)


def test_groups_and_genes_in_any_collection(trained, small):
    table = trained.differential_expression(small.adata.copy(), groupby="cell_type", group1={"type_1"}, silent=True)
    assert set(table["group1"]) == {"type_1"}
    genes = (name for name in ("gene_3", "gene_1"))
    assert trained.get_normalized_expression(gene_list=genes).columns.tolist() == ["gene_1", "gene_3"]


def test_no_indices(trained):
    for answer in (trained.get_latent_representation, trained.get_elbo):
        with pytest.raises(ValueError, match="`indices` is empty"):
            answer(indices=[])


def test_labels_that_a_model_was_not_made_with_are_no_data_of_its_own(trained, small, tmp_path):
    """Refused before anything is written into the cells; its methods take them all the same."""
    trained.save(tmp_path / "m")
    cells = small.adata[:100].copy()
    cells.obs["cell_type"] = "new"
    before = cells.copy()

    def replace(adata):
        trained.adata = adata

    for action in (lambda a: tv.TRVAE.load(tmp_path / "m", a), replace):
        with pytest.raises(ValueError, match=r"labels that the model was not made with: \['new'\]"):
            action(cells)
        assert list(cells.obs) == list(before.obs)
    assert trained.get_latent_representation(cells).shape == (100, 5)


@pytest.mark.parametrize(("column", "argument"), [("condition", "condition_key"), ("cell_type", "labels_key")])
def test_two_columns_of_one_name(adata, column, argument):
    adata.obs = pd.concat([adata.obs, adata.obs[[column]]], axis=1)
    with pytest.raises(ValueError, match=f"has 2 columns '{column}'"):
        tv.TRVAE.setup_anndata(adata, labels_key="cell_type")


def test_labels_of_several_types(adata):
    adata.obs["cell_type"] = np.resize(np.array([1, "a"], dtype=object), adata.n_obs)
    with pytest.raises(ValueError, match=r"mixes \['int', 'str'\]"):
        tv.TRVAE.setup_anndata(adata, labels_key="cell_type")


def test_cells_that_go_between_set_up_and_training(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    adata._inplace_subset_obs(np.arange(100))
    with pytest.raises(ValueError, match="had 400 cells when it was set up and has 100 now"):
        model.train(**FAST)


def test_another_set_up_of_the_same_cells_is_no_change(adata):
    """It writes other codes under the same names, which are written anew."""
    model = make_trained(adata, {"labels_key": "cell_type"})
    own = model.adata
    tv.TRVAE.setup_anndata(own, "donor")
    model.train(**FAST)
    np.testing.assert_array_equal(own.obs["_scvi_batch"], (own.obs["condition"] == "stimulated").astype(int))


def test_columns_of_the_set_up_that_go(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    adata.obs = adata.obs.drop(columns="_scvi_batch")
    with pytest.raises(ValueError, match=r"\['_scvi_batch'\] that `setup_anndata` wrote"):
        model.train(**FAST)


def test_threads_do_not_forget_each_others_cells(trained, small):
    """Each asks for its cells before any reads them."""
    barrier = threading.Barrier(6)

    def ask(_):
        own = trained._validate_anndata(small.adata.copy())
        barrier.wait()
        return trained.get_latent_representation(own).shape

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [(400, 5)] * 6


@pytest.mark.skipif(
    "adata_sub" not in inspect.signature(VAEMixin.differential_abundance).parameters, reason="scvi-tools 1.5 has it"
)
def test_both_sets_of_cells_need_the_column_of_samples(trained, adata):
    some = adata[:60].copy()
    for missing in (adata, some):
        for cells in (adata, some):
            cells.obs["sample"] = np.resize(["a", "b"], cells.n_obs)
        del missing.obs["sample"]
        with pytest.raises(KeyError, match="`sample_key='sample'` not found"):
            trained.differential_abundance(adata, adata_sub=some, sample_key="sample")
