"""Everything that we return goes through `.h5ad` and `.zarr` and is the same afterwards."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import assert_same_cells, make_trained

import trvae_scvi as tv

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def two_targets():
    adata = tv.datasets.simulate_perturbation(300, 20, n_types=2, targets=["A", "B"], seed=1).adata
    return make_trained(adata, {"labels_key": "cell_type"}, {"max_epochs": 1})


@pytest.fixture(params=[".h5ad", ".zarr"])
def through_file(request, tmp_path):
    """Write, read, compare, and return what was read."""

    def write_and_read(adata):
        before = adata.copy()  # writing makes texts categorical, in place
        path = tmp_path / f"cells{request.param}"
        if request.param == ".h5ad":
            adata.write_h5ad(path)
            back = ad.read_h5ad(path)
        else:
            adata.write_zarr(path)
            back = ad.read_zarr(path)
        assert_same_cells(back, before)
        return back

    return write_and_read


@pytest.mark.parametrize("method", ["counterfactual", "sample", "mean"])
def test_predictions(two_targets, through_file, method):
    prediction = two_targets.predict_perturbation(source="control", target=["A", "B"], method=method, seed=None)
    back = through_file(prediction)
    assert back.uns["trvae"]["method"] == method
    assert back.uns["trvae"]["target"].tolist() == ["A", "B"]
    # it can be predicted from, like any cells
    if method != "mean":
        again = [two_targets.predict_perturbation(cells, target="control") for cells in (back, prediction)]
        assert_same_cells(*again)


def test_combinations(two_targets, through_file):
    prediction = two_targets.predict_combination(target="A+B", control="control", source="control")
    back = through_file(prediction)
    assert back.uns["trvae"]["conditions"].tolist() == ["A", "B", "control"]
    np.testing.assert_array_equal(back.uns["trvae"]["weights"], prediction.uns["trvae"]["weights"])


def test_predictions_of_normalised_data(small, through_file):
    adata = small.adata.copy()
    adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, train={"max_epochs": 1}, gene_likelihood="mse")
    assert through_file(model.predict_perturbation(target="stimulated")).uns["trvae"]["scale"] == "input"


def test_effects(two_targets, through_file, tmp_path):
    effect = two_targets.get_perturbation_effect(source="control", target=["A", "B"])
    effect.to_csv(tmp_path / "effect.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "effect.csv"), effect, check_dtype=False)
    holder = ad.AnnData(np.zeros((2, 1), np.float32))
    holder.uns["effect"] = effect
    back = through_file(holder).uns["effect"]
    pd.testing.assert_frame_equal(
        back.reset_index(drop=True), effect, check_dtype=False, check_categorical=False, check_index_type=False
    )
    pytest.importorskip("pyarrow")
    effect.to_parquet(tmp_path / "effect.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "effect.parquet"), effect, check_dtype=False)


@pytest.mark.parametrize("n_missing", [0, 2])
def test_queries_and_their_labels(trained, small, through_file, n_missing):
    query = small.adata[:100, n_missing:].copy()
    query.obs["n"] = np.arange(query.n_obs)
    tv.TRVAE.prepare_query_anndata(query, trained)
    query.obsm["X_trvae"] = trained.get_latent_representation(query)
    reference = ad.AnnData(obs=small.adata.obs.copy(), obsm={"X_trvae": trained.get_latent_representation()})[100:]
    labels = tv.mapping.transfer_labels(query, reference, labels_key="cell_type")
    query.obs[["transferred", "uncertainty"]] = labels
    query.obs["mapping_score"] = tv.mapping.mapping_score(query, reference)
    back = through_file(query)
    assert len(back.uns["gene_alignment"]["missing"]) == n_missing
    assert back.obs["transferred"].dtype == "category"
    # aligned genes stay aligned
    np.testing.assert_array_equal(trained.get_latent_representation(back), query.obsm["X_trvae"])


def test_simulated_cells_and_their_truth(small, through_file):
    through_file(small.adata.copy())
    through_file(small.truth.copy())


@pytest.mark.parametrize("minified", ["latent_posterior_parameters", "latent_posterior_parameters_with_counts"])
def test_minified_cells(small, through_file, minified, tmp_path):
    model = make_trained(small.adata, train={"max_epochs": 1})
    mean = model.predict_perturbation(target="stimulated", method="mean")
    model.adata.obsm["m"], model.adata.obsm["v"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(minified, use_latent_qzm_key="m", use_latent_qzv_key="v")
    back = through_file(model.adata)
    model.save(tmp_path / "model")
    loaded = tv.TRVAE.load(tmp_path / "model", adata=back)
    assert loaded.minified_data_type == minified
    again = loaded.predict_perturbation(target="stimulated", method="mean")
    np.testing.assert_allclose(again.X, mean.X, rtol=1e-4)
