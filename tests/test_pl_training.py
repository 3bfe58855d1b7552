"""Training curves: the table by hand and from a trained model, and that what is drawn is the table."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from trvae_scvi import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def logged(name, values, epochs=None, index_name="epoch"):
    """One entry of a history, with objects as values, as scvi-tools has it."""
    index = pd.Index(range(len(values)) if epochs is None else epochs, name=index_name)
    return pd.DataFrame({name: values}, index=index, dtype=object)


@pytest.fixture
def history():
    """Three epochs, validated in the first and the last; steps and a term that is 0 throughout."""
    entries = {
        "validation_loss": ([9.5, 6.5], [0, 2]),
        "mmd_validation": ([0.5, 0.25], [0, 2]),
        "train_loss_step": ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0], None),
        "train_loss_epoch": ([9.0, 7.0, 5.0], None),
        "mmd_train": ([0.75, 0.5, 0.25], None),
        "kl_global_train": ([0.0, 0.0, 0.0], None),
        "kl_global_validation": ([0.0, 0.0], [0, 2]),
        "kl_weight": ([0.5, 1.0], [1, 2]),
    }
    steps = logged("lr-Adam", [0.1, 0.2], index_name="step")
    return {name: logged(name, *values) for name, values in entries.items()} | {"lr-Adam": steps}


def test_training_frame_holds_terms_sets_and_epochs(history):
    kept = copy.deepcopy(history)
    frame = pl.training_frame(history)
    assert frame.columns.tolist() == ["term", "set", "epoch", "value"]
    assert frame.to_numpy().tolist() == [
        ["loss", "train", 0, 9.0], ["loss", "train", 1, 7.0], ["loss", "train", 2, 5.0],
        ["loss", "validation", 0, 9.5], ["loss", "validation", 2, 6.5],
        ["mmd", "train", 0, 0.75], ["mmd", "train", 1, 0.5], ["mmd", "train", 2, 0.25],
        ["mmd", "validation", 0, 0.5], ["mmd", "validation", 2, 0.25],
        ["kl_weight", "train", 1, 0.5], ["kl_weight", "train", 2, 1.0],
    ]  # fmt: skip
    assert frame["value"].dtype == float
    for name, values in history.items():
        pd.testing.assert_frame_equal(values, kept[name])


def test_training_frame_of_the_terms_asked_for(history):
    assert pl.training_frame(history, keys=["kl_weight", "loss"])["term"].unique().tolist() == ["kl_weight", "loss"]
    # Asked for, a term is shown even where it is 0.
    zero = pl.training_frame(history, keys="kl_global")
    assert zero["value"].tolist() == [0.0] * 5
    pd.testing.assert_frame_equal(pl.training_frame(SimpleNamespace(history=history)), pl.training_frame(history))


def test_training_frame_of_a_trained_model(trained):
    frame = pl.training_frame(trained)
    assert {"loss", "elbo", "reconstruction_loss", "kl_local", "mmd"} <= set(frame["term"])
    assert "kl_global" not in set(frame["term"])
    for term, name in [("loss", "train_loss"), ("mmd", "mmd_train")]:
        rows = frame[(frame["term"] == term) & (frame["set"] == "train")]
        assert rows["epoch"].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(rows["value"], trained.history[name].iloc[:, 0].astype(float))
    for term, name in [("loss", "validation_loss"), ("kl_local", "kl_local_validation")]:
        rows = frame[(frame["term"] == term) & (frame["set"] == "validation")]
        np.testing.assert_array_equal(rows["value"], trained.history[name].iloc[:, 0].astype(float))


def test_training_draws_the_frame(history):
    axes = pl.training(history)
    assert [ax.get_title() for ax in axes] == ["loss", "mmd", "kl weight"]
    train, validation = axes[0].lines
    np.testing.assert_array_equal(train.get_xydata(), [[0, 9], [1, 7], [2, 5]])
    np.testing.assert_array_equal(validation.get_xydata(), [[0, 9.5], [2, 6.5]])
    assert (train.get_label(), validation.get_label()) == ("train", "validation")
    assert to_hex(train.get_color()) != to_hex(validation.get_color())
    (weight,) = axes[2].lines
    np.testing.assert_array_equal(weight.get_xydata(), [[1, 0.5], [2, 1]])
    assert {ax.get_xlabel() for ax in axes} == {"epoch"}


def test_training_without_validation(history):
    without = {name: values for name, values in history.items() if "validation" not in name}
    axes = pl.training(without)
    assert [len(ax.lines) for ax in axes] == [1, 1, 1]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["train"]


def test_the_legend_names_both_sets_wherever_they_are(history):
    axes = pl.training(history, keys=["kl_weight", "loss"])
    assert axes[0].get_legend() is None
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["train", "validation"]


def test_a_single_epoch_is_visible():
    (ax,) = pl.training({"train_loss": logged("train_loss", [3.0])})
    assert ax.lines[0].get_marker() == "o"


def test_training_draws_into_given_axes_and_changes_no_setting(history, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    before = dict(mpl.rcParams)
    _, given = plt.subplots(1, 3)
    assert list(pl.training(history, ax=given)) == list(given)
    assert not shown
    pl.training(history, keys="loss", show=True)
    assert shown == [1]
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match="one axes per term, found 3 for .*Pass 1 or none"):
        pl.training(history, keys="loss", ax=given)


def test_training_refuses(history):
    with pytest.raises(ValueError, match="found the history None. Call `train` first"):
        pl.training(SimpleNamespace(history=None))
    with pytest.raises(ValueError, match="found the history {}"):
        pl.training({})
    with pytest.raises(ValueError, match=r"out of \['loss', 'mmd', 'kl_global', 'kl_weight'\], found \['train_loss'\]"):
        pl.training(history, keys=["train_loss"])
    with pytest.raises(ValueError, match="each once"):
        pl.training(history, keys=["mmd", "mmd"])
    with pytest.raises(ValueError, match=r"logged by epoch, found only \['train_loss_step'\]"):
        pl.training({"train_loss_step": history["train_loss_step"]})
    with pytest.raises(ValueError, match="names such as 'train_loss' .*found ''"):
        pl.training({"": history["train_loss_epoch"]})
    with pytest.raises(ValueError, match=r"out of \['kl_global'\], found None, and all of them 0 throughout"):
        pl.training({"kl_global_train": history["kl_global_train"]})
