"""Training from cells on disk, in an annbatch collection."""

from __future__ import annotations

import inspect

import anndata
import numpy as np
import pytest
import scvi
import torch
from helpers import FAST
from scipy import sparse

import trvae_scvi as tv

annbatch = pytest.importorskip("annbatch", reason="annbatch needs Python 3.12 and the extra trvae-scvi[annbatch]")
zarr = pytest.importorskip("zarr")

SMALL = {"n_hidden": 32, "n_latent": 5}


@pytest.fixture
def cells(adata):
    """Cells in the order of their conditions, each with a number of its own."""
    adata = adata[np.argsort(adata.obs["condition"].astype(str).to_numpy(), kind="stable")].copy()
    adata.obs["number"] = np.arange(adata.n_obs, dtype=np.float64)
    return adata


@pytest.fixture
def files(cells, tmp_path):
    """The cells in two files."""
    return write(cells, tmp_path)


def write(cells, folder, first=150):
    paths = [folder / "first.h5ad", folder / "second.h5ad"]
    cells[:first].copy().write_h5ad(paths[0])
    cells[first:].copy().write_h5ad(paths[1])
    return paths


@pytest.fixture
def datamodule(files, tmp_path):
    return tv.TRVAE.setup_annbatch(
        tmp_path / "cells.zarr", files, labels_key="cell_type", continuous_covariate_keys=["number"]
    )


def numbers(batches):
    return [batch["extra_continuous_covs"][:, 0].numpy().astype(int) for batch in batches]


def dense(batch):
    return batch["X"].to_dense() if batch["X"].layout != torch.strided else batch["X"]


def test_the_collection_holds_the_cells_and_nothing_is_written_elsewhere(cells, files, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    datamodule = tv.TRVAE.setup_annbatch(
        tmp_path / "cells.zarr", files, labels_key="cell_type", continuous_covariate_keys=["number"]
    )
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    assert list((tmp_path / "empty").iterdir()) == []
    order, values, conditions, labels = [], [], [], []
    for batch in datamodule.inference_dataloader(batch_size=64):
        order.append(batch["extra_continuous_covs"][:, 0].numpy().astype(int))
        values.append(batch["X"].numpy())
        conditions.append(batch["batch"][:, 0].numpy())
        labels.append(batch["labels"][:, 0].numpy())
    order = np.concatenate(order)
    assert sorted(order) == list(range(cells.n_obs))
    assert (np.diff(order) != 1).mean() > 0.9  # shuffled
    np.testing.assert_array_equal(np.concatenate(values), cells.X.toarray()[order])
    for codes, key, field in ((conditions, "condition", "batch"), (labels, "cell_type", "labels")):
        mapping = datamodule.registry["field_registries"][field]["state_registry"]["categorical_mapping"]
        np.testing.assert_array_equal(mapping[np.concatenate(codes)], cells.obs[key].to_numpy()[order])


def test_the_registry_is_that_of_a_setup_in_memory(cells, datamodule):
    tv.TRVAE.setup_anndata(cells, labels_key="cell_type", continuous_covariate_keys=["number"])
    expected = tv.TRVAE(cells).registry_
    assert datamodule.registry["setup_args"] == expected["setup_args"]
    for name, field in expected["field_registries"].items():
        assert str(datamodule.registry["field_registries"][name]["state_registry"]) == str(field["state_registry"])


def test_validation_cells_are_drawn_from_the_whole_collection(datamodule):
    validation, n = datamodule.val_idx, datamodule.n_obs
    assert sorted([*validation, *datamodule.train_idx]) == list(range(n))
    assert len(validation) == pytest.approx(n / 10, abs=10)
    assert validation.min() > 0
    assert np.ptp(validation) > n / 2
    scvi.settings.seed = 3
    datamodule.set_split()
    assert not np.array_equal(datamodule.val_idx, validation)
    datamodule.set_split(train_size=0.5, validation_size=0.25, shuffle_set_split=False)
    assert datamodule.train_idx.tolist() == list(range(n // 2))
    assert datamodule.val_idx.tolist() == list(range(n // 2, 3 * n // 4))
    assert len(datamodule.test_idx) == n // 4


def test_the_seed_is_that_of_when_the_cells_were_divided(datamodule):
    datamodule.set_batch_size(32)
    before = np.concatenate(numbers(datamodule.train_dataloader()))
    scvi.settings.seed = 3
    assert np.array_equal(np.concatenate(numbers(datamodule.train_dataloader())), before)
    datamodule.set_split()
    assert datamodule.seed == 3
    assert not np.array_equal(np.concatenate(numbers(datamodule.train_dataloader())), before)


def test_settings_of_zarr_are_left_as_they_were(datamodule):
    before = zarr.config.get("codec_pipeline")
    for batches in (datamodule.inference_dataloader(batch_size=64), datamodule.train_dataloader()):
        next(iter(batches))  # not read to the end
        assert zarr.config.get("codec_pipeline") == before


def test_training_batches_never_hold_validation_cells(cells, datamodule):
    datamodule.set_batch_size(32)
    every = np.concatenate(numbers(datamodule.inference_dataloader()))
    held_out = set(every[datamodule.val_idx])
    trained = np.concatenate(numbers(datamodule.train_dataloader()))
    validated = np.concatenate(numbers(datamodule.val_dataloader()))
    assert not held_out & set(trained)
    assert set(validated) <= held_out
    assert len(set(trained)) > 0.6 * datamodule.n_train  # balance leaves some out of an epoch
    assert len(datamodule.train_dataloader()) == len(list(datamodule.train_dataloader()))


def test_batches_hold_as_many_cells_of_a_rare_condition(cells, tmp_path):
    rare = np.concatenate([np.flatnonzero(cells.obs["condition"] == "control"), [398, 397, *range(360, 390)]])
    few = cells[np.sort(rare)].copy()
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", write(few, tmp_path), labels_key="cell_type")
    datamodule.set_batch_size(32)
    for batch in datamodule.train_dataloader():
        codes, counts = np.unique(batch["batch"].numpy(), return_counts=True)
        assert codes.tolist() == [0, 1]
        assert counts.tolist() == [16, 16]


def test_several_loads_an_epoch_give_the_announced_number_of_batches(files, tmp_path):
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files, chunk_size=7, preload_nchunks=6)
    datamodule.set_batch_size(16)
    loader = datamodule.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == round(datamodule.n_train / 16)
    assert max(len(batch["X"]) for batch in batches) == 16
    with pytest.raises(ValueError, match="at most the 42 cells"):
        datamodule.set_batch_size(43)


def test_training_lowers_the_loss_and_is_repeatable(datamodule, tmp_path):
    weights = []
    for _ in range(2):
        model = tv.TRVAE(registry=datamodule.registry, **SMALL)
        model.train(datamodule=datamodule, **{**FAST, "max_epochs": 8})
        losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
        assert losses[-1] < losses[0] - 1.0
        weights.append(model.module.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


def test_epochs_differ_and_validations_do_not(datamodule):
    class Trainer:
        world_size, current_epoch = 1, 0

    datamodule.trainer = Trainer()
    train, validation = datamodule.train_dataloader(), datamodule.val_dataloader()
    first = [np.concatenate(numbers(loader)) for loader in (train, validation)]
    again = [np.concatenate(numbers(loader)) for loader in (train, validation)]
    Trainer.current_epoch = 1
    second = [np.concatenate(numbers(loader)) for loader in (train, validation)]
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    Trainer.world_size = 2
    with pytest.raises(NotImplementedError, match="one device"):
        datamodule.train_dataloader()


def test_answers_are_those_of_the_same_cells_in_memory(cells, datamodule):
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    latent = model.get_latent_representation(dataloader=datamodule.inference_dataloader(batch_size=100))
    order = np.concatenate(numbers(datamodule.inference_dataloader()))
    in_memory = cells.copy()
    tv.TRVAE.setup_anndata(in_memory, labels_key="cell_type", continuous_covariate_keys=["number"])
    twin = tv.TRVAE(in_memory, **SMALL)
    twin.module.load_state_dict(model.module.state_dict())
    twin.module.eval()
    twin.is_trained_ = True
    np.testing.assert_allclose(latent, twin.get_latent_representation()[order], atol=1e-5)
    predictions = [m.predict_perturbation(cells, source="control", target="stimulated") for m in (model, twin)]
    assert (predictions[0].X != predictions[1].X).nnz == 0


def test_differential_expression_is_computed_from_disk(files, tmp_path):
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files, categorical_covariate_keys=["donor"])
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    if "dataloader" not in inspect.signature(model.differential_expression).parameters:
        pytest.skip("scvi-tools has it from 1.5 on")
    table = model.differential_expression(
        dataloader=datamodule.inference_dataloader(), groupby="condition", group1="stimulated", group2="control"
    )
    assert set(table.index) == set(datamodule.var_names)


def test_a_saved_model_goes_on_from_disk(cells, files, datamodule, tmp_path):
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    model.save(tmp_path / "model")
    reopened = tv.TRVAE.setup_annbatch(
        tmp_path / "cells.zarr", labels_key="cell_type", continuous_covariate_keys=["number"]
    )
    loaded = tv.TRVAE.load(tmp_path / "model", datamodule=reopened, accelerator="cpu")
    latents = [m.get_latent_representation(dataloader=reopened.inference_dataloader()) for m in (model, loaded)]
    np.testing.assert_allclose(latents[0], latents[1], atol=1e-6)
    loaded.train(datamodule=reopened, **FAST)
    with pytest.raises(ValueError, match="continuous covariates"):
        tv.TRVAE.load(
            tmp_path / "model", datamodule=tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", labels_key="cell_type")
        )


def test_a_layer_is_kept_as_such(cells, tmp_path):
    cells.X = cells.X.astype(np.float32).log1p()
    files = write(cells, tmp_path)
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files, layer="counts")
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    assert "counts" in model.predict_perturbation(cells, source="control", target="stimulated").layers
    with pytest.raises(KeyError, match="was made of 'layers/counts'"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr")
    tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", layer="counts")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"chunk_size": 0}, "chunk_size"), ({"preload_nchunks": 0}, "preload_nchunks"), ({"condition_key": "one"}, "one")],
)
def test_nothing_is_written_that_could_not_be_trained_on(cells, tmp_path, change, match):
    cells.obs["one"] = "x"
    with pytest.raises(ValueError, match=match):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", write(cells, tmp_path), **change)
    assert not (tmp_path / "cells.zarr").exists()


def test_values_that_are_no_counts_are_refused_before_training(cells, tmp_path):
    cells.X = cells.X.astype(np.float32).log1p()
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", write(cells, tmp_path))
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    with pytest.raises(ValueError, match="fractional values in the collection"):
        model.train(datamodule=datamodule, **FAST)
    assert model.history is None
    tv.TRVAE(registry=datamodule.registry, gene_likelihood="mse", **SMALL).train(datamodule=datamodule, **FAST)


def test_dense_files_are_served_alike(cells, files, datamodule, tmp_path):
    (tmp_path / "dense").mkdir()
    cells.X = cells.X.toarray()
    other = tv.TRVAE.setup_annbatch(
        tmp_path / "dense.zarr",
        write(cells, tmp_path / "dense"),
        labels_key="cell_type",
        continuous_covariate_keys=["number"],
    )
    for mine, theirs in zip(other.train_dataloader(), datamodule.train_dataloader(), strict=True):
        assert torch.equal(dense(mine), dense(theirs))


def test_a_collection_of_annbatch_itself_is_opened(cells, files, tmp_path):
    def load(path):
        adata = anndata.experimental.read_lazy(path)
        return anndata.AnnData(adata.X, adata.obs.to_memory(), adata.var.to_memory())

    annbatch.DatasetCollection(tmp_path / "theirs.zarr").add_adatas(
        files, load_adata=load, dataset_size=1000, shuffle=True
    )
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "theirs.zarr", labels_key="cell_type")
    assert datamodule.n_obs == cells.n_obs
    model = tv.TRVAE(registry=datamodule.registry, **SMALL)
    model.train(datamodule=datamodule, **FAST)
    np.testing.assert_array_equal(datamodule.var_names, cells.var_names)


def test_the_data_module_of_scvi_tools_for_annbatch_serves_too(cells, datamodule):
    dataloaders = pytest.importorskip("scvi.dataloaders")
    if not hasattr(dataloaders, "AnnbatchDataModule"):
        pytest.skip("scvi-tools has it from 1.5 on")
    loader = annbatch.Loader(batch_size=64, chunk_size=16, preload_nchunks=16, to="torch", preload_to_gpu=False)
    for group in datamodule._groups:
        loader.add_dataset(anndata.io.sparse_dataset(group["X"]), obs=anndata.io.read_elem(group["obs"]))
    theirs = dataloaders.AnnbatchDataModule(
        loader,
        batch_key="condition",
        label_key="cell_type",
        categorical_covariate_keys=["donor"],
        var_names=list(datamodule.var_names),
        chunk_size=16,
        preload_nchunks=16,
    )
    model = tv.TRVAE(registry=theirs.registry, **SMALL)
    model.train(datamodule=theirs, **{**FAST, "max_epochs": 8})
    losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    assert losses[-1] < losses[0] - 1.0
    latent = model.get_latent_representation(dataloader=theirs.inference_dataloader())
    assert latent.shape == (cells.n_obs, 5)
    prediction = model.predict_perturbation(
        cells, source="control", target="stimulated", covariates={"donor": str(cells.obs["donor"].iloc[0])}
    )
    assert prediction.n_obs == (cells.obs["condition"] == "control").sum()


def test_what_is_there_is_not_overwritten_unasked(files, datamodule, tmp_path):
    with pytest.raises(FileExistsError, match="rebuild=True"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files)
    rebuilt = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files[:1] + files[1:], rebuild=True)
    assert rebuilt.n_obs == datamodule.n_obs
    assert rebuilt.values == datamodule.values
    one = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files[1:], condition_key="cell_type", rebuild=True)
    assert one.n_obs < datamodule.n_obs  # nothing is left of the first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no annbatch collection"):
        tv.TRVAE.setup_annbatch(tmp_path / "mine", files, rebuild=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    with pytest.raises(FileExistsError, match="no annbatch collection"):
        tv.TRVAE.setup_annbatch(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="no collection at"):
        tv.TRVAE.setup_annbatch(tmp_path / "absent.zarr")
    with pytest.raises(ValueError, match="needs the `paths`"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", rebuild=True)
    with pytest.raises(ValueError, match="at least one file"):
        tv.TRVAE.setup_annbatch(tmp_path / "other.zarr", [])


def test_wrong_columns_are_named(files, datamodule, tmp_path):
    with pytest.raises(KeyError, match="'treatment' not found"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", condition_key="treatment")
    with pytest.raises(KeyError, match="condition_key='treatment'"):
        tv.TRVAE.setup_annbatch(tmp_path / "new.zarr", files, "treatment")
    with pytest.raises(TypeError, match="Expected numbers in 'donor'"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", continuous_covariate_keys=["donor"])
    for path, given in (("cells.zarr", None), ("new.zarr", files)):
        with pytest.raises(TypeError, match="list of columns, found the text 'donor'"):
            tv.TRVAE.setup_annbatch(tmp_path / path, given, categorical_covariate_keys="donor")
    with pytest.raises(TypeError, match="Expected numbers"):
        tv.TRVAE.setup_annbatch(tmp_path / "new.zarr", files, continuous_covariate_keys=["donor"])
    with pytest.raises(KeyError, match="layers/spliced"):
        tv.TRVAE.setup_annbatch(tmp_path / "new.zarr", files, layer="spliced")
    with pytest.raises(ValueError, match="is the column of conditions"):
        tv.TRVAE.setup_annbatch(tmp_path / "new.zarr", files, labels_key="condition")
    assert not (tmp_path / "new.zarr").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("genes", "same genes in the same order"),
        ("nan", "NaN or infinite"),
        ("missing", "is missing for 1 of"),
        ("csc", "sparse by gene"),
    ],
)
def test_files_that_cannot_be_joined_are_refused_before_anything_is_written(files, tmp_path, change, message):
    second = anndata.read_h5ad(files[1])
    if change == "genes":
        second = second[:, ::-1].copy()
    elif change == "nan":
        second.X = second.X.astype(np.float32)
        second.X.data[0] = np.nan
    elif change == "missing":
        second.obs["condition"] = second.obs["condition"].astype(object)
        second.obs.iloc[0, second.obs.columns.get_loc("condition")] = None
        second.obs["condition"] = second.obs["condition"].astype("category")
    else:
        second.X = sparse.csc_matrix(second.X)
    second.write_h5ad(files[1])
    with pytest.raises(ValueError, match=message):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files)
    assert not (tmp_path / "cells.zarr").exists()


def test_one_condition_is_refused(cells, tmp_path):
    control = cells[cells.obs["condition"] == "control"].copy()
    with pytest.raises(ValueError, match="one condition only"):
        tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", write(control, tmp_path))


def test_a_condition_without_training_cells_is_refused(files, tmp_path):
    datamodule = tv.TRVAE.setup_annbatch(tmp_path / "cells.zarr", files, shuffle=False)
    with pytest.raises(ValueError, match="No training cell is left of the conditions \\['stimulated'\\]"):
        datamodule.set_split(train_size=0.3, shuffle_set_split=False)
    with pytest.raises(ValueError, match="Expected shares"):
        datamodule.set_split(train_size=0.9, validation_size=0.2)
