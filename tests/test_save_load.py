from __future__ import annotations

import json
import logging
import logging.handlers
import pickletools
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import FAST, make_trained

import trvae_scvi as tv


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_loaded_model_gives_the_same_answers(trained, small, saved, as_text):
    loaded = tv.TRVAE.load(str(saved) if as_text else saved, small.adata.copy())
    np.testing.assert_allclose(
        loaded.get_latent_representation(), trained.get_latent_representation(), rtol=1e-6, atol=1e-6
    )
    first, second = (m.predict_perturbation(small.adata, target="stimulated") for m in (trained, loaded))
    assert (first.X != second.X).nnz == 0
    assert loaded.is_trained
    assert loaded.history.keys() == trained.history.keys()


def test_every_option_survives(adata, tmp_path):
    options = {
        "n_hidden": [20, 12],
        "n_latent": 4,
        "dropout_rate": 0.3,
        "gene_likelihood": "zinb",
        "dispersion": "gene-batch",
        "encode_condition": False,
        "normalization": "batch",
        "nonnegative_output": True,
        "mmd_on": "z",
        "mmd_pairs": "control",
        "mmd_kernel": "median",
        "mmd_balance_labels": True,
        "mmd_weight": 3.0,
        "kl_weight": 0.5,
        "reconstruction_weight": 2.0,
    }
    setup = {
        "labels_key": "cell_type",
        "layer": "counts",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["donor"],
        "continuous_covariate_keys": ["age"],
    }
    model = make_trained(adata, setup, **options)
    model.save(tmp_path / "m")
    loaded = tv.TRVAE.load(tmp_path / "m", adata.copy())
    for name in ("mmd_on", "mmd_reference", "mmd_kernel", "mmd_balance_labels", "mmd_weight", "kl_weight"):
        assert getattr(loaded.module, name) == getattr(model.module, name)
    found = {k: v for k, v in loaded.init_params_["non_kwargs"].items() if k in options}
    assert found == options
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name])
    loaded.train(**FAST)


def test_without_data_then_with(trained, small, saved):
    with pytest.warns(UserWarning, match="no saved anndata"):
        loaded = tv.TRVAE.load(saved)
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.predict_perturbation(target="stimulated")
    found = loaded.predict_perturbation(small.adata, target="stimulated")
    assert (found.X != trained.predict_perturbation(small.adata, target="stimulated").X).nnz == 0
    assert loaded.get_latent_representation(small.adata.copy()).shape == (400, 5)


def test_loading_says_nothing_of_downloads(saved):
    """Listened to at the logger itself: scvi-tools' loggers do not hand on what they say."""
    heard = logging.handlers.BufferingHandler(100)
    logger = logging.getLogger("scvi.data._download")
    logger.addHandler(heard)
    try:
        tv.TRVAE.load(saved, False)
        assert not heard.buffer
        tv.TRVAE.load(saved, False, backup_url="https://localhost/nothing")
        assert ["already downloaded" in record.getMessage() for record in heard.buffer] == [True]
    finally:
        logger.removeHandler(heard)


def test_data_of_one_condition_can_be_loaded(trained, control, saved):
    loaded = tv.TRVAE.load(saved, control.copy())
    assert loaded.predict_perturbation(target="stimulated").n_obs == control.n_obs


@pytest.mark.filterwarnings("ignore:`var_names` for the loaded")
@pytest.mark.parametrize(
    ("select", "match"),
    [(lambda a: a[:, ::-1], "their order differs"), (lambda a: a[:, :-1], "1 of 60 genes are missing")],
)
def test_other_genes_are_refused(adata, saved, select, match):
    with pytest.raises(ValueError, match=match):
        tv.TRVAE.load(saved, select(adata).copy())


def test_unknown_condition_is_refused(adata, saved):
    adata.obs["condition"] = adata.obs["condition"].cat.rename_categories({"stimulated": "other"})
    with pytest.raises(ValueError, match=r"does not know: \['other'\]"):
        tv.TRVAE.load(saved, adata)


def test_missing_column_is_named(adata, saved):
    del adata.obs["condition"]
    with pytest.raises(KeyError, match="condition_key='condition'"):
        tv.TRVAE.load(saved, adata)


def test_a_folder_without_a_model_is_named(trained, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"with a file 'model.pt', found none in '.*{folder.name}'"):
            tv.TRVAE.load(folder)
    with pytest.raises(FileNotFoundError, match="'best_model.pt'"):
        tv.TRVAE.load(saved, prefix="best_")
    with pytest.raises(FileNotFoundError, match="'model.pt'"):
        tv.TRVAE.load_query_data(trained.adata, tmp_path / "empty")


def test_version_stamp(trained, small, saved):
    assert tv.TRVAE.load(saved, small.adata.copy()).trvae_scvi_version_ == tv.__version__
    content = torch.load(saved / "model.pt", weights_only=False)
    assert content["attr_dict"]["trvae_scvi_version_"] == tv.__version__
    content["attr_dict"]["trvae_scvi_version_"] = "999.0"
    torch.save(content, saved / "model.pt")
    with pytest.warns(UserWarning, match="made with trvae-scvi 999.0"):
        assert tv.TRVAE.load(saved, small.adata.copy()).trvae_scvi_version_ == "999.0"


def test_mse_keeps_to_the_sign_of_its_data(adata, tmp_path):
    adata.X = np.log1p(adata.X.toarray())
    model = make_trained(adata, gene_likelihood="mse")
    model.save(tmp_path / "m")
    shifted = adata.copy()
    shifted.X = shifted.X - 1.0
    assert tv.TRVAE.load(tmp_path / "m", shifted).nonnegative_


# --- nothing is lost ------------------------------------------------------------------------------


def pickled_modules(path):
    """Names of the modules whose objects a saved model is made of."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        operations = pickletools.genops(archive.read(name))
        texts, found = [], set()
        for operation, argument, _ in operations:
            if operation.name == "GLOBAL":
                found.add(argument.split(" ")[0])
            elif operation.name == "STACK_GLOBAL":
                found.add(texts[-2])
            elif isinstance(argument, str):
                texts.append(argument)
    return {module.split(".")[0] for module in found}


def test_a_saved_model_is_made_of_no_pandas(adata, tmp_path):
    """An object of pandas 3 does not open under pandas 2."""
    setup = {"labels_key": "cell_type", "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    model = make_trained(adata, setup)
    model.save(tmp_path / "m")
    assert "pandas" not in pickled_modules(tmp_path / "m" / "model.pt")
    assert isinstance(model.history["train_loss"], pd.DataFrame)
    loaded = tv.TRVAE.load(tmp_path / "m", False)
    assert loaded.history.keys() == model.history.keys()
    for name, table in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], table, check_column_type=False, check_index_type=False)
    loaded.save(tmp_path / "again")
    assert len(tv.TRVAE.load(tmp_path / "again", adata).history["train_loss"]) == 3


def test_models_with_tables_as_their_history_still_open(trained, tmp_path):
    trained.save(tmp_path / "m")
    saved = torch.load(tmp_path / "m" / "model.pt", weights_only=False)
    saved["attr_dict"]["history_"] = trained.history
    del saved["attr_dict"]["measured_"]
    torch.save(saved, tmp_path / "m" / "model.pt")
    control = trained.adata[trained.adata.obs["condition"] == "control"].copy()
    loaded = tv.TRVAE.load(tmp_path / "m", control)
    assert loaded.measured_ is None  # these cells are not those it was trained on
    pd.testing.assert_frame_equal(loaded.history["train_loss"], trained.history["train_loss"])


def test_a_file_that_does_not_open_says_who_wrote_it(saved):
    versions = json.loads((saved / "versions.json").read_text())
    assert {"trvae-scvi", "scvi-tools", "torch", "pandas", "numpy", "python"} <= set(versions)
    (saved / "model.pt").write_bytes(b"no model")
    with pytest.raises(ValueError, match="could not be opened: it was written with the versions that are here"):
        tv.TRVAE.load(saved, False)
    versions["pandas"] = "99.0"
    (saved / "versions.json").write_text(json.dumps(versions))
    with pytest.raises(ValueError, match=rf"it was written with pandas 99.0 \(here {pd.__version__}\)"):
        tv.TRVAE.load(saved, False)
    (saved / "versions.json").unlink()
    with pytest.raises(ValueError, match="which versions wrote it is not noted"):
        tv.TRVAE.load(saved, False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_fails_leaves_nothing_half_written(trained, tmp_path, monkeypatch, overwrite):
    folder = tmp_path / "model"
    if overwrite:
        trained.save(folder)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        trained.save(folder, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert folder.exists() is overwrite
    assert isinstance(trained.history["train_loss"], pd.DataFrame)


def test_cells_of_another_model_do_not_stay_beside_one_that_is_saved_over_it(trained, small, tmp_path):
    trained.save(tmp_path / "m", save_anndata=True)
    other = make_trained(small.adata[::2].copy())
    before = (tmp_path / "m" / "model.pt").read_bytes()
    with pytest.raises(ValueError, match="holds other cells than the model's.*save_anndata=True"):
        other.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.pt").read_bytes() == before
    other.save(tmp_path / "m", overwrite=True, save_anndata=True)
    loaded = tv.TRVAE.load(tmp_path / "m")
    assert loaded.adata.n_obs == 200
    loaded.save(tmp_path / "m", overwrite=True)  # whose cells are there already
    assert tv.TRVAE.load(tmp_path / "m").adata.n_obs == 200


def test_odd_places(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save(".", overwrite=True)
    assert (tmp_path / "model.pt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="'file' is a file"):
        trained.save("file", overwrite=True)
    with pytest.raises(ValueError, match="`prefix` to begin the names of files"):
        trained.save("m", prefix="sub/x_")


def test_saving_over_and_beside(trained, small, tmp_path):
    trained.save(tmp_path / "a" / "model", prefix="one_")
    with pytest.raises(ValueError, match="already exists.*overwrite=True"):
        trained.save(tmp_path / "a" / "model")
    trained.save(tmp_path / "a" / "model", prefix="two_", overwrite=True, save_anndata=True)
    assert sorted(path.name for path in (tmp_path / "a" / "model").iterdir()) == [
        "one_model.pt",
        "one_versions.json",
        "two_adata.h5ad",
        "two_model.pt",
        "two_versions.json",
    ]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]
    for prefix in ("one_", "two_"):
        loaded = tv.TRVAE.load(tmp_path / "a" / "model", small.adata.copy(), prefix=prefix)
        np.testing.assert_allclose(
            loaded.get_latent_representation(), trained.get_latent_representation(), rtol=1e-6, atol=1e-6
        )
