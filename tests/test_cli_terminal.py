"""What the commands say and leave behind: names as they are, one line for an error, whole files or none."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest
import torch
from helpers import assert_same_cells
from typer.testing import CliRunner

import trvae_scvi as tv
from trvae_scvi.cli import app
from trvae_scvi.predict._store import DiskStore

ODD = "γδ [/memory] :smile: $x"  # markup, an emoji and a formula to rich and matplotlib


def run(*arguments, code=0, charset="utf-8"):
    result = CliRunner(charset=charset).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)  # else there is a traceback
    return result


def error_of(*arguments):
    """The only line of an error."""
    (line,) = run(*arguments, code=1).stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    """A folder with data and a model, made once; its names need quotes."""
    folder = tmp_path_factory.mktemp("with blanks") / "[v2]"
    folder.mkdir()
    adata = small.adata.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_1": ODD})
    adata.obs_names.name = "barcode"
    adata.write_h5ad(folder / "my data.h5ad")
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata)
    model.save(folder / "untrained")
    model.train(max_epochs=1, enable_progress_bar=False)
    model.save(folder / "trained")
    return folder


@pytest.fixture
def predicting(place):
    arguments = ["predict", place / "my data.h5ad", "--model", place / "trained", "--target", "stimulated", "--out"]
    return lambda out, **changes: [changes.get(str(a), a) for a in [*arguments, out]]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- names


def test_names_that_rich_would_change_on_a_terminal_without_their_characters(place, tmp_path):
    out = tmp_path / "report [/x]"
    options = ["--holdout", ODD, "--target", "stimulated", "--max-epochs", 1, "--out", out]
    text = " ".join(run("evaluate", place / "my data.h5ad", *options, charset="ascii").stdout.split())
    assert r"\u03b3\u03b4 [/memory] :smile: $x under stimulated, never seen" in text
    assert "report [/x]" in text
    cells = anndata.read_h5ad(out / "prediction.h5ad")
    assert set(cells.obs["cell_type"]) == {ODD}
    assert "prediction.h5ad scores.csv" in " ".join(name for name in files(out) if not name.endswith(".png"))


def test_the_command_to_copy_is_one(place, tmp_path):
    model = tmp_path / "it's [/mine]"
    result = run("train", place / "my data.h5ad", "--out", model, "--max-epochs", 1)
    command = result.stdout.splitlines()[-1].split("Predict with: ")[1]
    expected = ["trvae-scvi", "predict", place / "my data.h5ad", "--model", model, "--target", "..."]
    assert shlex.split(command) == [str(part) for part in expected]


def test_names_in_errors(place, tmp_path):
    options = ["--holdout", "[b]", "--target", "stimulated", "--out", tmp_path]
    line = error_of("evaluate", place / "my data.h5ad", *options)
    assert "No cell has cell_type '[b]'" in line
    assert ODD in line
    assert "with [/red] markup" in run("train", "with [/red] markup", "--out", "m", code=2).stderr


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trvae-scvi", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("trvae_scvi.cli", run_name="__main__")
    assert "evaluate" in capsys.readouterr().out


# --- errors


def test_a_model_that_is_not_trained(place, predicting, tmp_path):
    arguments = predicting(tmp_path / "p.h5ad", **{str(place / "trained"): place / "untrained"})
    assert "train" in error_of(*arguments)
    assert files(tmp_path) == []


def test_a_model_that_is_damaged(place, predicting, tmp_path):
    (tmp_path / "model").mkdir()
    whole = (place / "trained" / "model.pt").read_bytes()
    for content in (b"", b"no", whole[:5000]):
        (tmp_path / "model" / "model.pt").write_bytes(content)
        arguments = predicting(tmp_path / "p.h5ad", **{str(place / "trained"): tmp_path / "model"})
        assert "model cannot be loaded: " in error_of(*arguments)


@pytest.mark.parametrize(("name", "kind"), [("x.h5ad", ".zarr folder"), ("x.zarr", ".h5ad file"), ("x.loom", ".h5ad")])
def test_what_holds_no_cells(name, kind, tmp_path):
    data = tmp_path / name
    data.mkdir() if kind == ".zarr folder" else data.write_text("no")
    assert f"{name} cannot be read as {kind}" in error_of("train", data, "--out", tmp_path / "m")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("p.csv", "ends in none of .h5ad, .zarr"),
        ("p", "ends in none of .h5ad, .zarr"),
        ("there.h5ad", "is there already. Name another file with --out"),
        ("there.h5ad/p.h5ad", "is a file and no folder"),
    ],
)
def test_the_place_of_a_prediction_is_checked_first(predicting, tmp_path, monkeypatch, out, message):
    (tmp_path / "there.h5ad").touch()
    monkeypatch.setattr(anndata, "read_h5ad", None)
    assert message in error_of(*predicting(tmp_path / out))
    assert files(tmp_path) == ["there.h5ad"]


def test_the_place_of_a_report_is_checked_first(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(anndata, "read_h5ad", None)
    commands = [["demo"], ["evaluate", place / "my data.h5ad", "--holdout", ODD, "--target", "stimulated"]]
    for command in commands:
        assert "is a file and no folder" in error_of(*command, "--out", tmp_path / "file")
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    for command in commands:
        assert "no permission to write" in error_of(*command, "--out", tmp_path / "new" / "report")


def test_mistakes_of_our_own_keep_their_traceback(predicting, tmp_path, monkeypatch):
    monkeypatch.setattr(tv.TRVAE, "predict_perturbation", lambda model, *args, **kwargs: model.no_such_thing)
    result = CliRunner().invoke(app, [str(argument) for argument in predicting(tmp_path / "p.h5ad")])
    assert isinstance(result.exception, AttributeError)


# --- what is left behind


def test_a_prediction_that_fails_leaves_nothing(predicting, tmp_path, monkeypatch):
    finish = DiskStore.finish

    def full(store, annotation):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DiskStore, "finish", full)
    assert "No space left" in error_of(*predicting(tmp_path / "p.h5ad"))
    assert files(tmp_path) == []
    monkeypatch.setattr(DiskStore, "finish", finish)
    run(*predicting(tmp_path / "p.h5ad"))
    assert files(tmp_path) == ["p.h5ad"]


def test_an_index_with_the_name_of_a_column(place, predicting, tmp_path):
    """It may have its values, too; in a prediction they are others."""
    data = anndata.read_h5ad(place / "my data.h5ad")
    data.obs["barcode"] = data.obs_names.to_numpy()
    data.write_h5ad(tmp_path / "data.h5ad")
    arguments = predicting(tmp_path / "p.h5ad", **{str(place / "my data.h5ad"): tmp_path / "data.h5ad"})
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "barcode" in anndata.read_h5ad(tmp_path / "p.h5ad").obs
    assert not list(tmp_path.glob("*unfinished*"))


def test_a_report_that_fails_keeps_what_is_finished(trained, adata, tmp_path, monkeypatch):
    from trvae_scvi.benchmark import hold_out
    from trvae_scvi.cli import _evaluation

    def full(cells, path, **kwargs):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", full)
    held_out = hold_out(adata, group_key="cell_type", group="type_1", control="control", target="stimulated")
    with pytest.raises(OSError, match="No space"):
        _evaluation.write_evaluation(trained, *held_out, tmp_path, seed=0)
    names = ["mean.png", "response.png", "scores.png", "variance.png"]
    assert files(tmp_path) == sorted(["effect.csv", "scores.csv", *names])
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert (scores["value"].notna() | scores["note"].notna()).all()


def test_a_model_that_cannot_be_saved_leaves_nothing(place, tmp_path, monkeypatch):
    def full(model, path, **kwargs):
        Path(path).touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result = run("train", place / "my data.h5ad", "--out", tmp_path / "m", "--max-epochs", 1, code=1)
    assert "Error: [Errno 28] No space left" in result.stderr
    assert files(tmp_path) == []


# --- Ctrl-C


@pytest.fixture
def interrupted(monkeypatch):
    """Training is interrupted, early or after some epochs, and keeps what it has."""
    train = tv.TRVAE.train

    def start(*, trained):
        def training(model, max_epochs):
            if trained:
                train(model, max_epochs=max_epochs)
            raise KeyboardInterrupt

        monkeypatch.setattr(tv.TRVAE, "train", training)

    return start


def test_an_interrupted_training_is_saved(place, interrupted, tmp_path):
    interrupted(trained=True)
    model, data = tmp_path / "m", place / "my data.h5ad"
    result = run("train", data, "--out", model, "--max-epochs", 1, code=130)
    assert "Interrupted. Saved the model, as far as it was trained, to" in result.stdout
    loaded = tv.TRVAE.load(model, anndata.read_h5ad(data))
    assert loaded.is_trained_
    prediction = loaded.predict_perturbation(target="stimulated")
    run("predict", data, "--model", model, "--target", "stimulated", "--out", tmp_path / "p.h5ad")
    assert_same_cells(prediction, anndata.read_h5ad(tmp_path / "p.h5ad"))


def test_nothing_is_saved_of_a_model_that_is_not_trained(place, interrupted, tmp_path):
    interrupted(trained=False)
    options = ["--holdout", ODD, "--target", "stimulated", "--max-epochs", 1]
    for command in (["train"], ["evaluate", *options]):
        name, *rest = command
        result = run(name, place / "my data.h5ad", "--out", tmp_path / "m", *rest, code=130)
        assert result.stderr.splitlines()[-1] == "Interrupted."
        assert files(tmp_path) == []
