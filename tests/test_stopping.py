"""When training ends, and what is kept: early stopping's arguments, a user who stops it, threads that share torch."""

from __future__ import annotations

import logging
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import FAST, make_trained
from lightning.pytorch.callbacks import Callback

import trvae_scvi as tv
from trvae_scvi.train._plan import RestoreBestWeights


class Watch(Callback):
    """Keeps the weights and a metric after every validation."""

    def __init__(self, metric):
        self.metric, self.values, self.weights = metric, [], []

    def on_validation_end(self, trainer, pl_module):
        self.values.append(float(trainer.callback_metrics[self.metric]))
        self.weights.append({k: v.clone() for k, v in pl_module.module.state_dict().items()})


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_weights_that_are_kept_follow_the_mode(adata, mode):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16)
    watch = Watch("elbo_validation")
    arguments = {"early_stopping_monitor": "elbo_validation", "early_stopping_mode": mode}
    train = {**FAST, "max_epochs": 6, "plan_kwargs": {"n_epochs_kl_warmup": 2}, **arguments}
    model.train(callbacks=[watch], **train)
    best = 2 + (np.argmin if mode == "min" else np.argmax)(watch.values[2:])
    assert same(model.module.state_dict(), watch.weights[best])
    assert len(set(watch.values[2:])) > 1  # there was a choice
    assert model.trainer.early_stopping_callback.mode == mode


def test_an_unknown_mode_is_refused_before_training(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    with pytest.raises(ValueError, match="`early_stopping_mode`"):
        model.train(**FAST, early_stopping_mode="lowest")
    assert model.history is None


def test_the_warm_up_of_early_stopping_can_be_set_apart(adata):
    model = make_trained(adata, train={"early_stopping_warmup_epochs": 2, "plan_kwargs": {"n_steps_kl_warmup": 1}})
    best = next(c for c in model.trainer.callbacks if isinstance(c, RestoreBestWeights))
    assert best.warmup_epochs == model.trainer.early_stopping_callback.warmup_epochs == 2


@pytest.mark.parametrize(("world_size", "accumulate", "epochs"), [(1, 1, 2), (2, 1, 4), (1, 3, 6)])
def test_a_warm_up_in_steps_is_counted_with_all_that_share_an_epoch(world_size, accumulate, epochs):
    """Twelve steps of an epoch of six batches, which devices share and accumulated gradients join."""

    class Trainer:
        num_training_batches = 6 // world_size
        accumulate_grad_batches = accumulate
        early_stopping_callbacks = ()

    callback = RestoreBestWeights(warmup_epochs=0, warmup_steps=12)
    callback.on_train_start(Trainer(), None)
    assert callback.warmup_epochs == epochs


class Stop(Callback):
    """The stop button, at the end of an epoch."""

    def __init__(self, epoch, hook="on_train_epoch_end"):
        self.epoch = epoch
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("early_stopping", [True, False])
def test_training_that_is_stopped_keeps_what_it_has(adata, early_stopping, tmp_path, caplog):
    handler = signal.getsignal(signal.SIGINT)
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16, n_latent=5)
    watch = Watch("validation_loss")
    arguments = {**FAST, "max_epochs": 9, "plan_kwargs": {"n_epochs_kl_warmup": 1}, "early_stopping": early_stopping}
    arguments["check_val_every_n_epoch"] = 1
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        model.train(callbacks=[watch, Stop(5)], **arguments)
    assert "stopped in epoch 6 of 9" in caplog.text
    assert signal.getsignal(signal.SIGINT) == handler
    assert model.is_trained
    assert not model.module.training
    assert len(model.history["train_loss"]) >= 5
    assert len(model.train_indices) + len(model.validation_indices) == adata.n_obs
    if early_stopping:
        assert same(model.module.state_dict(), watch.weights[1 + np.argmin(watch.values[1:])])
    prediction = model.predict_perturbation(adata, source="control", target="stimulated")
    model.save(tmp_path / "m")
    loaded = tv.TRVAE.load(tmp_path / "m", adata)
    again = loaded.predict_perturbation(adata, source="control", target="stimulated")
    assert (again.X != prediction.X).nnz == 0
    before = len(model.history["train_loss"])
    model.train(**{**arguments, "max_epochs": 2})
    assert len(model.history["train_loss"]) == before + 2


def test_before_the_first_epoch_there_is_nothing_to_keep(adata, caplog):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        model.train(callbacks=[Stop(0, "on_train_batch_end")], **FAST)
    assert "The model is as it was before" in caplog.text
    assert not model.is_trained
    model.train(**FAST)
    assert model.is_trained


def test_other_errors_are_passed_on(adata):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise RuntimeError("of the user's own")

    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    with pytest.raises(RuntimeError, match="of the user's own"):
        model.train(callbacks=[Fail()], **FAST)
    assert not model.is_trained


def test_threads_do_not_draw_from_each_other(small, one_thread):
    def latent(_):
        return make_trained(small.adata, n_hidden=8).get_latent_representation()

    alone = latent(0)
    with ThreadPoolExecutor(2) as pool:
        for together in pool.map(latent, range(3)):
            np.testing.assert_array_equal(together, alone)


@pytest.fixture
def once(adata):
    """A trained model of its own, and what it answers."""
    model = make_trained(adata, {"labels_key": "cell_type"}, dropout_rate=0.3)
    return model, model.get_latent_representation()


def unchanged(model, answer):
    """The model answers as before, and not as in training, where dropout is at work."""
    assert not model.module.training
    np.testing.assert_array_equal(model.get_latent_representation(), answer)
    assert model.is_trained


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"plan_kwargs": {"nope": 1}}, TypeError),
        ({"plan_kwargs": {"lr": -1.0}}, ValueError),
        ({"lr": 1e-3}, TypeError),
        ({"early_stopping_mode": "lowest"}, ValueError),
        ({"precision": "64-true"}, ValueError),
        ({"limit_train_batches": 0}, ValueError),
        ({"trainer_config": {"precision": "64-true"}}, ValueError),
        ({"trainer_config": {"limit_train_batches": 0}}, ValueError),
        ({"max_steps": 0}, ValueError),
        ({"no_such_argument": 1}, TypeError),
        ({"datasplitter_kwargs": {"nope": 1}}, TypeError),
        ({"strategy": "no such strategy"}, ValueError),
    ],
)
def test_a_training_that_is_refused_leaves_the_model_as_it_was(once, arguments, error):
    with pytest.raises(error):
        once[0].train(**{**FAST, **arguments})
    unchanged(*once)


def test_a_first_training_without_a_step_is_none(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=8)
    with pytest.raises(ValueError, match="no step was taken"):
        model.train(**FAST, max_steps=0)
    assert not model.is_trained


def test_an_error_in_the_midst_of_training_leaves_the_model_in_evaluation(once):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise RuntimeError("of the user's own")

    model, _ = once
    with pytest.raises(RuntimeError, match="of the user's own"):
        model.train(callbacks=[Fail()], **FAST)
    assert not model.module.training
    np.testing.assert_array_equal(model.get_latent_representation(), model.get_latent_representation())


def test_a_further_training_that_is_stopped_at_once_leaves_the_model_as_it_was(once, caplog):
    model, answer = once
    history = len(model.history["train_loss"])
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        model.train(callbacks=[Stop(0, "on_train_batch_end")], **FAST)
    assert "The model is as it was before" in caplog.text
    assert len(model.history["train_loss"]) == history
    np.testing.assert_array_equal(model.get_latent_representation(), answer)


def test_what_is_kept_is_said_as_it_is(adata, caplog):
    """Without early stopping, and during the warm-up, no weights are the best so far."""
    tv.TRVAE.setup_anndata(adata)
    for arguments in ({"early_stopping": False}, {"plan_kwargs": {"n_epochs_kl_warmup": 8}}):
        model = tv.TRVAE(adata, n_hidden=8)
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
            model.train(callbacks=[Stop(2)], **{**FAST, "max_epochs": 9, **arguments})
        assert "its latest weights" in caplog.text
        assert "best so far" not in caplog.text
        caplog.clear()
