"""A model that is shared: without its data, minified, and through scvi-tools' hub."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_trained

import trvae_scvi as tv


@pytest.fixture
def reference(adata):
    return make_trained(adata, {"labels_key": "cell_type", "categorical_covariate_keys": ["donor"]})


def test_a_reference_without_data_predicts_and_maps(adata, reference, tmp_path):
    reference.save(tmp_path / "shared")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["model.pt", "versions.json"]
    size = (tmp_path / "shared" / "model.pt").stat().st_size
    assert size < 4 * sum(p.numel() for p in reference.module.parameters()) + 200_000
    shared = tv.TRVAE.load(tmp_path / "shared", False)
    np.testing.assert_array_equal(
        shared.predict_perturbation(adata, target="stimulated").X.toarray(),
        reference.predict_perturbation(adata, target="stimulated").X.toarray(),
    )
    with pytest.raises(ValueError, match="loaded without data"):
        shared.predict_perturbation(target="stimulated")
    query = adata[:60].copy()
    query.obs["donor"] = "new"
    mapped = tv.TRVAE.load_query_data(query, tmp_path / "shared")
    mapped.train(max_epochs=1, enable_progress_bar=False)
    assert mapped.get_latent_representation().shape == (60, 5)


def test_a_query_model_can_be_minified(adata, reference, tmp_path):
    query = adata[::2].copy()
    query.obs["donor"] = "new"
    mapped = tv.TRVAE.load_query_data(query, reference)
    mapped.train(max_epochs=1, enable_progress_bar=False)
    latent = mapped.get_latent_representation()
    mean = mapped.predict_perturbation(target="stimulated", method="mean").X
    mapped.adata.obsm["m"], mapped.adata.obsm["v"] = mapped.get_latent_representation(return_dist=True)
    mapped.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    mapped.save(tmp_path / "minified", save_anndata=True)
    loaded = tv.TRVAE.load(tmp_path / "minified")
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    np.testing.assert_allclose(loaded.predict_perturbation(target="stimulated", method="mean").X, mean, rtol=1e-4)


def test_the_hub_finds_this_package(adata, reference, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import ModelCard
    from scvi.hub import HubMetadata, HubModel

    folder = str(tmp_path / "model")
    reference.save(folder, save_anndata=True)
    metadata = HubMetadata.from_dir(folder, anndata_version="0.12", model_parent_module="trvae_scvi")
    # scvi-tools writes cards for its own models only
    text = tv.benchmark.model_card(reference, title="Cells with and without a stimulus", license="cc-by-4.0")
    card = ModelCard(text)
    hub = HubModel(folder, metadata=metadata, model_card=card)
    hub.save(overwrite=True)
    again = HubModel(folder)
    assert again.model_card.content == card.content
    assert isinstance(again.model, tv.TRVAE)
    np.testing.assert_array_equal(
        again.model.predict_perturbation(adata, target="stimulated").X.toarray(),
        reference.predict_perturbation(adata, target="stimulated").X.toarray(),
    )
