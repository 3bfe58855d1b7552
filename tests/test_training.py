from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import scvi
import torch
from helpers import FAST, make_trained
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi.data._sampler import ConditionBalancedSampler
from trvae_scvi.train._plan import RestoreBestWeights
from trvae_scvi.train._splitter import TRVAEDataSplitter

TERMS = ("reconstruction_loss", "kl_local", "condition_prior")


def batches(sizes, batch_size, epoch=0, reference=None, seed=0, labels=None):
    conditions = np.repeat(np.arange(len(sizes)), sizes)
    sampler = ConditionBalancedSampler(
        conditions,
        np.zeros_like(conditions) if labels is None else labels,
        np.arange(len(conditions)),
        batch_size=batch_size,
        reference=reference,
        seed=seed,
    )
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return conditions, drawn


def test_batches_are_balanced_and_hold_no_cell_twice():
    conditions, drawn = batches([500, 100, 60], 96)
    assert len(drawn) == round(660 / 96)
    for batch in drawn:
        assert len(set(batch)) == len(batch) == 96
        assert np.bincount(conditions[batch]).tolist() == [32, 32, 32]


def test_a_small_condition_gives_all_it_has():
    conditions, drawn = batches([500, 5, 100], 99)
    for batch in drawn:
        assert len(set(batch)) == len(batch) == 99
        counts = np.bincount(conditions[batch])
        assert counts[1] == 5
        assert abs(counts[0] - counts[2]) <= 1


def test_no_cell_comes_again_before_all_others_came():
    _, drawn = batches([64, 64], 32)
    first = np.concatenate(drawn[:4])
    assert len(set(first)) == 128


def test_labels_take_shares_by_the_square_root_of_their_cells():
    labels = np.concatenate([np.repeat([0, 1, 2], [900, 100, 1]), np.repeat([0, 2], [400, 25])])
    conditions, drawn = batches([1001, 425], 64, labels=labels)
    counts = np.array([np.bincount(2 * labels[batch] + conditions[batch], minlength=6) for batch in drawn])
    assert (counts.sum(axis=1) == 64).all()
    assert all(len(set(batch)) == 64 for batch in drawn)
    # condition 0: 30 : 10 : 1 of 32 cells; condition 1: 20 : 5
    np.testing.assert_allclose(counts.mean(axis=0), np.array([30, 32.8, 10, 0, 1, 8.2]) * 32 / 41, rtol=0.1, atol=0.3)
    assert np.ptp(counts, axis=0).max() <= 1


def test_a_small_label_gives_all_it_has_and_no_more():
    labels = np.concatenate([np.repeat([0, 1], [100, 2]), np.zeros(102, int)])
    conditions, drawn = batches([102, 102], 160, labels=labels)
    for batch in drawn:
        assert len(set(batch)) == 160
        assert (labels[batch] == 1).sum() == 2


def test_many_conditions_take_turns_and_the_reference_is_always_there():
    conditions, drawn = batches([50] * 20, 128, reference=3)
    seen = set()
    for batch in drawn:
        present = set(conditions[batch])
        assert len(present) == 128 // 32
        assert 3 in present
        seen |= present
    assert len(seen) > 8


def test_batches_follow_seed_and_epoch_alone():
    assert batches([50, 50], 20)[1] == batches([50, 50], 20)[1]
    assert batches([50, 50], 20)[1] != batches([50, 50], 20, epoch=1)[1]
    assert batches([50, 50], 20)[1] != batches([50, 50], 20, seed=1)[1]


def test_split_is_within_every_condition(adata):
    adata = adata[(adata.obs["condition"] == "control") | (np.arange(400) % 10 == 0)].copy()
    tv.TRVAE.setup_anndata(adata)
    manager = tv.TRVAE(adata).adata_manager
    splitter = TRVAEDataSplitter(manager, train_size=0.6, validation_size=0.2, batch_size=32)
    parts = splitter.train_idx, splitter.val_idx, splitter.test_idx
    assert sorted(np.concatenate(parts)) == list(range(adata.n_obs))
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(splitter.conditions[part])
        np.testing.assert_allclose(counts / np.bincount(splitter.conditions), share, atol=0.03)
    first, second = ([b["batch"].numel() for b in splitter.val_dataloader()] for _ in range(2))
    assert first == second


def test_external_indexing_is_kept_to(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16)
    parts = [np.arange(0, 300), np.arange(300, 350), np.arange(350, 400)]
    model.train(**FAST, datasplitter_kwargs={"external_indexing": parts})
    for found, part in zip((model.train_indices, model.validation_indices, model.test_indices), parts, strict=True):
        np.testing.assert_array_equal(found, part)


def test_history_has_every_term(trained):
    terms = ["elbo", "mmd", *TERMS]
    keys = {f"{term}_{part}" for term in terms for part in ("train", "validation")}
    assert keys | {"train_loss", "validation_loss", "kl_weight"} <= set(trained.history)
    assert all(len(trained.history[key]) == 3 for key in keys)
    assert float(trained.history["mmd_train"].iloc[-1, 0]) > 0.0


def test_loss_falls(adata):
    model = make_trained(adata, train={"max_epochs": 15})
    losses = model.history["validation_loss"].iloc[:, 0].astype(float)
    assert losses.iloc[-1] < losses.iloc[0] - 5.0


@pytest.mark.parametrize("max_epochs", [6, 12])
def test_kl_warm_up_is_tied_to_the_number_of_epochs(adata, max_epochs):
    model = make_trained(adata, train={"max_epochs": max_epochs, "log_every_n_steps": 1}, kl_weight=0.5)
    weights = model.history["kl_weight"].iloc[:, 0].astype(float).to_numpy()
    assert weights[0] == 0.0
    assert weights[-1] == 0.5
    steps_an_epoch = model.trainer.num_training_batches
    assert model.trainer.max_epochs // 3 == model.trainer.early_stopping_callback.warmup_epochs
    assert steps_an_epoch == round(0.9 * 400 / 64)


def test_warm_up_in_steps(adata):
    """Twelve steps of six an epoch: the warm-up, and what waits for it, ends after two epochs."""
    train = {"max_epochs": 4, "log_every_n_steps": 1, "plan_kwargs": {"n_steps_kl_warmup": 12}}
    model = make_trained(adata, train=train)
    weights = model.history["kl_weight"].iloc[:, 0].astype(float).to_numpy()
    assert 0.0 < weights[0] < weights[1] < 1.0
    assert weights[2] == weights[3] == 1.0
    assert model.trainer.early_stopping_callback.warmup_epochs == 2


def test_configuration_objects_count(adata):
    train = {"plan_config": {"n_epochs_kl_warmup": 2}, "trainer_config": {"gradient_clip_val": 1.0}}
    model = make_trained(adata, train=train)
    assert model.trainer.gradient_clip_val == 1.0
    assert model.trainer.early_stopping_callback.warmup_epochs == 2


def test_validation_uses_the_final_kl_weight(adata):
    """Under a warm-up from 0 the validation loss of the first epoch already has the whole KL."""
    model = make_trained(adata, train={"max_epochs": 3, "plan_kwargs": {"n_epochs_kl_warmup": 3}}, mmd_on=None)
    last = {key: float(model.history[f"{key}_validation"].iloc[0, 0]) for key in TERMS}
    loss = float(model.history["validation_loss"].iloc[0, 0])
    assert loss == pytest.approx(sum(last.values()), rel=1e-5)


class Spy(Callback):
    """Keeps copies of the weights after every validation."""

    def __init__(self):
        self.weights = []

    def on_validation_end(self, trainer, pl_module):
        self.weights.append(copy.deepcopy(pl_module.module.state_dict()))


class Spoil(Callback):
    """Ruins the weights when the last epoch begins, and makes the first one look unbeatable."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == trainer.max_epochs - 1:
            pl_module.module.decoder.output.shared.weight.data.mul_(30.0)

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.callback_metrics["validation_loss"] = torch.tensor(0.0)


def test_best_weights_after_the_warm_up_are_restored(adata):
    spy = Spy()
    train = {"max_epochs": 6, "plan_kwargs": {"n_epochs_kl_warmup": 2}, "callbacks": [spy, Spoil()]}
    model = make_trained(adata, train=train)
    losses = model.history["validation_loss"].iloc[:, 0].astype(float).to_numpy()
    best = 2 + int(np.argmin(losses[2:]))
    assert 2 <= best < len(losses) - 1
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, spy.weights[best][name])
    assert any(not torch.equal(spy.weights[best][name], spy.weights[-1][name]) for name in spy.weights[-1])


def test_early_stopping_waits_for_the_warm_up(adata):
    plan = {"lr": 0.0, "lr_schedule": False, "n_epochs_kl_warmup": 5}
    model = make_trained(
        adata, train={"max_epochs": 40, "plan_kwargs": plan, "early_stopping_patience": 2}, dropout_rate=0.0
    )
    assert 5 + 2 <= len(model.history["validation_loss"]) <= 10


def test_without_early_stopping_the_last_weights_stay(adata):
    spy = Spy()
    model = make_trained(
        adata, train={"early_stopping": False, "check_val_every_n_epoch": 1, "max_epochs": 3, "callbacks": [spy]}
    )
    assert len(spy.weights) == 3
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, spy.weights[-1][name])
    assert not any(isinstance(callback, RestoreBestWeights) for callback in model.trainer.callbacks)


def test_equal_seeds_give_equal_models_whatever_ran_before(adata, one_thread):
    first = make_trained(adata).get_latent_representation()
    torch.rand(7)
    np.random.seed(3)
    np.testing.assert_array_equal(first, make_trained(adata).get_latent_representation())
    scvi.settings.seed = 1
    assert np.abs(first - make_trained(adata).get_latent_representation()).max() > 1e-3


def test_training_leaves_the_global_random_state(adata):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    make_trained(adata)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_resumed_run_equals_an_uninterrupted_one(adata, tmp_path, one_thread, monkeypatch):
    monkeypatch.chdir(tmp_path)  # scvi-tools puts its own checkpoints there
    whole = make_trained(adata, train={"max_epochs": 6})

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                raise InterruptedError

    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    with pytest.raises(InterruptedError):
        make_trained(
            adata, train={"max_epochs": 6, "enable_checkpointing": True, "callbacks": [checkpoint, Interrupt()]}
        )
    resumed = make_trained(adata, train={"max_epochs": 6, "ckpt_path": str(tmp_path / "last.ckpt")})
    for name, tensor in whole.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_training_twice_goes_on(adata):
    model = make_trained(adata)
    before = len(model.history["train_loss"])
    model.train(**FAST)
    assert len(model.history["train_loss"]) == before + 3


def test_sparse_loading_gives_the_same_model(adata, one_thread):
    dense = make_trained(adata).get_latent_representation()
    loaded = make_trained(adata, train={"load_sparse_tensor": True}).get_latent_representation()
    np.testing.assert_allclose(dense, loaded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gene_likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("encode_condition", [False, True])
def test_sparse_counts_stay_sparse_up_to_the_first_layer(adata, one_thread, gene_likelihood, encode_condition):
    layouts = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            layouts.append(batch["X"].layout)

    values = adata.X.toarray()
    values[values <= np.quantile(values, 0.9)] = 0.0
    values[:, 0] = 1.0  # no cell without counts
    options = {"gene_likelihood": gene_likelihood, "encode_condition": encode_condition}
    histories = []
    for x in (sparse.csr_matrix(values), values):
        data = adata.copy()
        data.X = x
        histories.append(make_trained(data, train={"callbacks": [Look()]}, **options).history)
    n = len(layouts) // 2
    assert set(layouts[:n]) == {torch.sparse_csr} and set(layouts[n:]) == {torch.strided}
    for name in ("train_loss", "validation_loss", "mmd_train"):
        np.testing.assert_allclose(*(h[name].astype(float) for h in histories), rtol=1e-4)


def test_what_cannot_stay_sparse_is_made_dense(adata):
    """Real values, many values that are not zero, entries that occur twice."""
    values = adata.X.toarray()
    few = sparse.csr_matrix(np.where(values > np.quantile(values, 0.9), values, 0.0))
    first = few.indptr[1]
    doubled = (
        np.insert(few.data, first, 1.0),
        np.insert(few.indices, first, few.indices[first - 1]),
        few.indptr.copy(),
    )
    doubled[2][1:] += 1
    real, many, twice = few.log1p(), sparse.csr_matrix(values + 1.0), sparse.csr_matrix(doubled, shape=few.shape)
    for x, likelihood in ((real, "mse"), (many, "nb"), (twice, "nb")):
        data = adata.copy()
        data.X = x
        tv.TRVAE.setup_anndata(data)
        model = tv.TRVAE(data, n_hidden=8, gene_likelihood=likelihood)
        layouts = []

        class Look(Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, layouts=layouts):
                layouts.append(batch["X"].layout)

        model.train(**{**FAST, "max_epochs": 1}, callbacks=[Look()])
        assert set(layouts) == {torch.strided}


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_history_holds_the_means_over_cells(adata, mode):
    """What is logged once an epoch equals what scvi-tools' plan logs at every step."""
    model = make_trained(adata, mmd_weight=3.0)
    plan = make_trained(adata, mmd_weight=3.0, train={"plan_kwargs": {"on_step": True}})
    assert {name for name in plan.history if name.endswith("_epoch")}  # upstream's names
    for name in (f"elbo_{mode}", f"reconstruction_loss_{mode}", f"kl_local_{mode}", f"mmd_{mode}", f"{mode}_loss"):
        expected = plan.history[f"{name}_epoch"].astype(float)
        np.testing.assert_allclose(model.history[name].astype(float), expected, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("on_step", [False, True])
def test_training_and_validation_minimise_the_whole_objective(adata, monkeypatch, on_step):
    """So that early stopping looks at all of it; answers are about the cells alone."""
    asked = {"train": [], "validation": [], "answer": []}
    loss = tv.TRVAEModule.loss

    def spy(self, *args, **kwargs):
        output = loss(self, *args, **kwargs)
        mode = "answer" if model is not None else "train" if torch.is_grad_enabled() else "validation"
        asked[mode].append((kwargs.get("whole_objective", False), kwargs.get("n_obs"), output))
        return output

    monkeypatch.setattr(tv.TRVAEModule, "loss", functools.wraps(loss)(spy))
    model = None
    model = make_trained(adata, train={"max_epochs": 1, "plan_kwargs": {"on_step": on_step}})
    model.get_elbo()
    model.get_reconstruction_error()
    for mode, whole in (("train", True), ("validation", True), ("answer", False)):
        assert {(given, n_obs) for given, n_obs, _ in asked[mode]} == {(whole, 360 if whole else None)}
        for *_, output in asked[mode]:
            terms = output.extra_metrics
            assert (terms["condition_prior"] > 0.0) == whole
    *_, output = asked["validation"][-1]
    rest = output.reconstruction_loss["reconstruction_loss"] + output.kl_local["kl_local"]
    terms = rest.mean() + 10.0 * output.extra_metrics["mmd"] + output.extra_metrics["condition_prior"]
    torch.testing.assert_close(output.loss, terms)


def test_adam_is_fused(adata):
    optimizer = make_trained(adata).trainer.optimizers[0]
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["fused"]
    optimizer = make_trained(adata, train={"plan_kwargs": {"optimizer": "AdamW"}}).trainer.optimizers[0]
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]


def test_mixed_precision_trains(adata):
    full = make_trained(adata).history["validation_loss"].to_numpy(float)
    mixed = make_trained(adata, train={"precision": "bf16-mixed"}).history["validation_loss"].to_numpy(float)
    assert mixed[-1] < mixed[0]
    np.testing.assert_allclose(mixed, full, rtol=0.02)


def test_sparse_counts_train_in_mixed_precision(adata):
    """On the CPU they stay sparse up to the first layer, whose product there is in single precision only."""
    thin = adata.X.multiply(np.random.default_rng(0).random(adata.shape) < 0.15)
    adata.X = sparse.csr_matrix(thin + sparse.csr_matrix(np.eye(1, adata.n_vars)[[0] * adata.n_obs]), dtype=np.float32)
    full = make_trained(adata).history["validation_loss"].to_numpy(float)
    mixed = make_trained(adata, train={"precision": "bf16-mixed"}).history["validation_loss"].to_numpy(float)
    np.testing.assert_allclose(mixed, full, rtol=0.02)


def test_autotune_gets_the_latent_space(adata):
    """scvi-tools' autotune makes the model with this argument and reads what the plan keeps for such a callback."""
    kept = []

    class ScibLike(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            kept.append(pl_module._training_epoch_outputs)
            pl_module._training_epoch_outputs = None

    setup = {"labels_key": "cell_type"}
    train = {"callbacks": [ScibLike()], "max_epochs": 1}
    model = make_trained(adata, setup=setup, train=train, extra_payload_autotune=True)
    n = len(kept[0]["z"])
    assert kept[0]["z"].shape == (n, 5) and n >= 64
    assert set(kept[0]["batch"].tolist()) == {0.0, 1.0} and len(kept[0]["labels"]) == n
    assert not {"z_train", "batch_train", "labels_train"} & set(model.history)


def test_gradients_are_clipped_by_default(adata):
    model = make_trained(adata)
    assert model.trainer.gradient_clip_val == 100.0
    assert make_trained(adata, train={"gradient_clip_val": 1.0}).trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 1}, "`batch_size` of at least 2"),
        ({"train_size": 1.0}, "early_stopping=False"),
        ({"max_epochs": 0}, "`max_epochs`"),
        ({"max_epochs": 1.5}, "`max_epochs` to be an integer"),
        ({"validation_size": 0.0}, "early_stopping=False"),
        ({"plan_kwargs": {"no_such_option": 1}}, "no_such_option"),
        ({"train_size": 0}, "`train_size` above 0"),
        ({"train_size": 1.1}, "`train_size` above 0 and at most 1.0, found 1.1"),
        ({"train_size": "0.9"}, "`train_size` to be a number"),
        ({"train_size": 0.9, "validation_size": 0.2}, "at most 1 in sum"),
        ({"validation_size": 1.0}, "at most 1 in sum"),
        ({"validation_size": -0.1}, "`validation_size` of at least 0 .* found -0.1"),
        ({"datasplitter_kwargs": {"num_worker": 4}}, r"out of \['external_indexing', .* found \['num_worker'\]"),
        ({"datasplitter_kwargs": {"train_size": 0.5}}, r"`datasplitter_kwargs` out of .* found \['train_size'\]"),
    ],
)
def test_bad_arguments(adata, arguments, message):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16)
    with pytest.raises((ValueError, TypeError), match=message):
        model.train(**{**FAST, **arguments})
    assert not model.is_trained


def test_all_cells_may_be_trained_on(adata):
    model = make_trained(adata, train={"train_size": 1.0, "early_stopping": False})
    assert len(model.train_indices) == adata.n_obs


def test_a_share_that_is_not_given_is_what_the_other_leaves(adata):
    model = make_trained(adata, train={"validation_size": 0.25})
    assert len(model.train_indices) + len(model.validation_indices) == adata.n_obs
    assert len(model.validation_indices) / adata.n_obs == pytest.approx(0.25, abs=0.01)


def test_a_trained_model_can_be_pickled(adata):
    model = make_trained(adata)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


@pytest.mark.parametrize(("n_cells", "epochs"), [(100, 400), (20_000, 60), (1_000_000, 10)])
def test_default_number_of_epochs(n_cells, epochs):
    from trvae_scvi.train._training import default_epochs

    assert default_epochs(n_cells) == epochs


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "message"),
    [
        (200, 12, "MMD was 0 in all of training"),
        (60, 40, "could not be estimated on the validation cells"),
        (200, 100, None),
    ],
)
def test_an_mmd_that_no_batch_can_estimate_is_said(n_cells, batch_size, message, recwarn):
    adata = tv.datasets.simulate_perturbation(n_cells=2 * n_cells, n_genes=30, n_types=2).adata
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata)
    model.train(**FAST | {"batch_size": batch_size})
    said = [str(warning.message) for warning in recwarn if "MMD" in str(warning.message)]
    assert len(said) == (message is not None)
    assert message is None or message in said[0]


def test_a_model_without_mmd_is_not_warned_about(adata, recwarn):
    make_trained(adata, mmd_on=None, train={"batch_size": 12})
    assert not [warning for warning in recwarn if "MMD" in str(warning.message)]
