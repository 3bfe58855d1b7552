from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import trvae_scvi as tv
from trvae_scvi._math._mmd import mmd
from trvae_scvi.model._scarches import read_scarches

SAVED = Path(__file__).parent / "data" / "scarches"
NAMES = ("nb_layer_z", "zinb_layer_y", "mse_batch_y", "nb_plain", "nb_query")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


from_scarches = tv.TRVAE.from_scarches


def load_expected(name):
    with np.load(SAVED / name / "expected.npz") as file:
        return dict(file)


def make_adata(expected):
    obs = pd.DataFrame({"batch": expected["condition"]}, index=[f"cell{i}" for i in range(len(expected["x"]))])
    var = pd.DataFrame(index=[f"gene{i}" for i in range(expected["x"].shape[1])])
    return ad.AnnData(expected["x"], obs=obs, var=var)


def decode(model, z, adata):
    """What the module's decoder gives for latent variables, under the conditions of `adata`."""
    codes = model.adata_manager.get_from_registry("batch")
    with torch.no_grad():
        return model.module.generative(
            torch.tensor(z),
            torch.tensor(np.log(adata.X.sum(axis=1, keepdims=True))),
            torch.tensor(codes.astype(np.int64)),
        )


@pytest.fixture
def copy(tmp_path):
    """A saved model that may be spoilt."""
    return Path(shutil.copytree(SAVED / "nb_layer_z", tmp_path / "saved"))


def edit(folder, **changes):
    """Change settings of a saved model."""
    path = folder / "attr.pkl"
    settings = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(settings | changes))


@pytest.mark.parametrize("name", NAMES)
def test_posterior_equals_that_of_scarches(name):
    expected = load_expected(name)
    model = from_scarches(SAVED / name, make_adata(expected))
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, expected["latent_mean"], **TOLERANCE)
    np.testing.assert_allclose(variance, expected["latent_variance"], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_decoder_equals_that_of_scarches(name):
    expected = load_expected(name)
    adata = make_adata(expected)
    model = from_scarches(SAVED / name, adata)
    found = decode(model, expected["latent_mean"], adata)
    px = found["px"]
    np.testing.assert_allclose(found["first_layer"], expected["y"], **TOLERANCE)
    np.testing.assert_allclose(px.loc if name.startswith("mse") else px.mu, expected["mean"], **TOLERANCE)
    if name.startswith("zinb"):
        np.testing.assert_allclose(px.zi_logits, expected["zi_logits"], **TOLERANCE)
    if not name.startswith("mse"):
        np.testing.assert_allclose(px.theta, expected["theta"], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES[:3])
def test_penalty_is_that_of_scarches_divided_by_the_number_of_pairs(name):
    expected = load_expected(name)
    model = from_scarches(SAVED / name, make_adata(expected))
    on_y = name.endswith("y")
    assert model.module.mmd_on == ("y" if on_y else "z")
    found = mmd(
        torch.tensor(expected["y" if on_y else "latent_mean"]),
        torch.tensor(model.adata_manager.get_from_registry("batch").squeeze().astype(np.int64)),
        kernel=model.module.mmd_kernel,
    )
    assert expected["mmd"] > 0.01
    np.testing.assert_allclose(3 * model.module.mmd_weight * found, expected["mmd"], rtol=1e-3)


def test_squared_errors_weigh_as_in_scarches():
    expected = load_expected("mse_batch_y")
    adata = make_adata(expected)
    model = from_scarches(SAVED / "mse_batch_y", adata)
    found = decode(model, expected["latent_mean"], adata)
    loss = -model.module.reconstruction_weight * model.module._log_likelihood(torch.tensor(expected["x"]), found)
    squares = np.square(expected["x"] - expected["mean"]).sum(axis=1)
    difference = loss.numpy() - squares
    np.testing.assert_allclose(difference, difference.mean(), rtol=1e-4)  # a constant


def test_codes_follow_the_saved_order_and_not_the_alphabet():
    saved = read_scarches(SAVED / "nb_layer_z")
    assert saved.conditions == ["stim_b", "control", "stim_a"]
    assert read_scarches(SAVED / "nb_query").conditions == ["stim_b", "control", "stim_a", "a_new_one"]
    weights = torch.load(SAVED / "nb_layer_z" / "model_params.pt", weights_only=True)
    for code, name in enumerate(saved.conditions):
        expected = load_expected("nb_layer_z")
        adata = make_adata(expected)[expected["condition"] == name].copy()
        model = from_scarches(SAVED / "nb_layer_z", adata)
        theta = decode(model, expected["latent_mean"][: adata.n_obs], adata)["px"].theta
        np.testing.assert_allclose(theta[0].log(), weights["theta"][:, code], rtol=1e-5, atol=1e-6)


def test_data_of_one_condition_suffice_and_others_can_be_predicted():
    expected = load_expected("nb_layer_z")
    own = expected["condition"] == "control"
    adata = make_adata(expected)[own].copy()
    model = from_scarches(SAVED / "nb_layer_z", adata)
    np.testing.assert_allclose(model.get_latent_representation(), expected["latent_mean"][own], **TOLERANCE)
    assert model.predict_perturbation(target="stim_a").shape == adata.shape


def test_a_model_read_can_be_saved_and_trained(tmp_path):
    expected = load_expected("zinb_layer_y")
    model = from_scarches(SAVED / "zinb_layer_y", make_adata(expected))
    model.save(tmp_path / "model")
    loaded = tv.TRVAE.load(tmp_path / "model", make_adata(expected))
    np.testing.assert_allclose(loaded.get_latent_representation(), expected["latent_mean"], **TOLERANCE)
    loaded.train(max_epochs=1, batch_size=45, accelerator="cpu", enable_progress_bar=False)
    assert np.abs(loaded.get_latent_representation() - expected["latent_mean"]).max() > 1e-4


def test_settings_become_arguments():
    arguments = read_scarches(SAVED / "zinb_layer_y").arguments
    assert arguments["n_hidden"] == [8]
    assert arguments["dropout_rate"] == 0.05
    assert arguments["gene_likelihood"] == "zinb"
    assert arguments["mmd_weight"] == 19 * 2.5
    assert read_scarches(SAVED / "nb_plain").arguments["normalization"] is None
    assert read_scarches(SAVED / "nb_plain").arguments["mmd_on"] is None
    assert read_scarches(SAVED / "mse_batch_y").arguments["normalization"] == "batch"
    assert read_scarches(SAVED / "nb_query").arguments["dropout_rate"] == 0.0


def test_numpy_numbers_and_texts_in_the_settings_become_pythons(copy):
    conditions = list(np.array(["stim_b", "control", "stim_a"]))
    edit(copy, conditions_=conditions, hidden_layer_sizes_=list(np.array([16, 8])), beta_=np.float32(0.5))
    saved = read_scarches(copy)
    assert [type(name) for name in saved.conditions] == [str] * 3
    assert saved.conditions == conditions
    assert [type(n) for n in saved.arguments["n_hidden"]] == [int, int]
    assert saved.arguments["mmd_weight"] == 9.5


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_byte_order_of_numpy_values_is_kept(copy, order):
    edit(copy, beta_=np.array([3.0], dtype=f"{order}f8")[0], mmd_boundary_=np.array([1], dtype=f"{order}i8")[0])
    arguments = read_scarches(copy).arguments
    assert arguments["mmd_weight"] == 57.0
    assert arguments["mmd_pairs"] == "stim_b"


class Malicious:
    """Runs code when an ordinary unpickler reads it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("file", ["attr.pkl", "model_params.pt"])
def test_code_in_a_pickle_is_refused_and_not_run(copy, tmp_path, file):
    marker = tmp_path / "was run"
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()  # it would have been
    marker.unlink()
    if file == "attr.pkl":
        edit(copy, note_=Malicious(marker))
    else:
        weights = torch.load(copy / file, weights_only=True)
        torch.save(weights | {"note": Malicious(marker)}, copy / file)
    with pytest.raises(ValueError, match=r"asks for `pathlib|holds something else than tensors"):
        read_scarches(copy)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (np.ones(2), "_reconstruct"),
        (np.dtype("O").type, "numpy.object_"),
        (np.void(b"x"), "NumPy value of the type"),
        (ad.AnnData, "AnnData"),
        (pickle.loads, "loads"),
    ],
)
def test_what_is_no_plain_value_is_refused_by_name(copy, value, refused):
    edit(copy, note_=value)
    with pytest.raises(ValueError, match=refused):
        read_scarches(copy)


@pytest.mark.parametrize(
    ("file", "length"),
    [*(("attr.pkl", n) for n in (0, 1, 20, 200)), *(("model_params.pt", n) for n in (0, 10, 5000))],
)
def test_a_file_cut_off_is_named(copy, file, length):
    (copy / file).write_bytes((copy / file).read_bytes()[:length])
    with pytest.raises(ValueError, match=file):
        read_scarches(copy)


@pytest.mark.parametrize("content", [["a list"], {"theta": 1.0}, torch.zeros(2)])
def test_a_weights_file_without_tensors_is_named(copy, content):
    torch.save(content, copy / "model_params.pt")
    with pytest.raises(ValueError, match=r"model_params\.pt"):
        read_scarches(copy)


@pytest.mark.parametrize("file", ["attr.pkl", "model_params.pt", "var_names.csv"])
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read_scarches(copy)


def test_folders_of_other_models_are_recognised(trained, copy, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_scarches(tmp_path / "nowhere")
    trained.save(tmp_path / "scvi")
    with pytest.raises(FileNotFoundError, match="model of scvi-tools"):
        read_scarches(tmp_path / "scvi")
    (copy / "attr.pkl").write_bytes(pickle.dumps({"soft_mask_": True, "conditions_": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"not that of a trVAE model.*mmd_on_.*soft_mask_"):
        read_scarches(copy)
    (copy / "attr.pkl").write_bytes(pickle.dumps(["a"]))
    with pytest.raises(ValueError, match="dictionary"):
        read_scarches(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_dim_": 11}, "Expected 11 names"),
        ({"hidden_layer_sizes_": [8, 16]}, r"`encoder\.FC\.L0\.expr_L\.weight` of shape \(8, 10\)"),
        ({"hidden_layer_sizes_": [16]}, r"shape \(16, 4\) in .*, found \(8, 4\)"),
        ({"hidden_layer_sizes_": []}, "one hidden layer or more"),
        ({"use_bn_": True}, r"`encoder\.FC\.N0\.weight` of shape \(16,\).*there is none"),
        ({"recon_loss_": "zinb"}, r"dropout_decoder\.weight"),
        ({"recon_loss_": "bce"}, r"\['nb', 'zinb', 'mse'\], found 'bce'"),
        ({"conditions_": ["stim_b", "control"]}, r"cond_L\.weight` of shape \(16, 2\)"),
        ({"conditions_": ["control"]}, r"two conditions or more, the saved model has \['control'\]"),
        ({"condition_key_": None, "conditions_": []}, "two conditions or more"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(ValueError, match=message):
        read_scarches(copy)


def test_weights_left_over_are_refused(copy):
    weights = torch.load(copy / "model_params.pt", weights_only=True)
    torch.save(weights | {"prototypes": torch.zeros(2)}, copy / "model_params.pt")
    with pytest.raises(ValueError, match="prototypes"):
        read_scarches(copy)


def test_a_boundary_is_kept_where_one_condition_stands_alone(copy):
    edit(copy, mmd_boundary_=1)
    assert read_scarches(copy).arguments["mmd_pairs"] == "stim_b"
    edit(copy, mmd_boundary_=2)
    assert read_scarches(copy).arguments["mmd_pairs"] == "stim_a"
    edit(copy, mmd_boundary_=3)
    with pytest.raises(ValueError, match=r"`mmd_boundary=3`.*3 conditions"):
        read_scarches(copy)
    edit(copy, mmd_boundary_=3, use_mmd_=False)
    assert read_scarches(copy).arguments["mmd_pairs"] == "all"


def test_variable_names_may_hold_commas_hashes_and_blanks(copy):
    names = ["a,b", "c#d", " e ", "ç", *(f"gene{i}" for i in range(6))]
    (copy / "var_names.csv").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert read_scarches(copy).var_names == names


def test_genes_and_conditions_of_the_data_are_checked():
    expected = load_expected("nb_layer_z")
    adata = make_adata(expected)
    with pytest.raises(ValueError, match="order differs"):
        from_scarches(SAVED / "nb_layer_z", adata[:, ::-1].copy())
    with pytest.raises(ValueError, match="genes are missing"):
        from_scarches(SAVED / "nb_layer_z", adata[:, 1:].copy())
    adata.obs["batch"] = adata.obs["batch"].replace("stim_a", "stim_c")
    with pytest.raises(ValueError, match=r"does not know: \['stim_c'\]"):
        from_scarches(SAVED / "nb_layer_z", adata)


def test_other_ways_to_load_point_here():
    for load in (tv.TRVAE.load, lambda path: tv.TRVAE.load_query_data(make_adata(load_expected("nb_plain")), path)):
        with pytest.raises(ValueError, match="from_scarches"):
            load(SAVED / "nb_plain")
