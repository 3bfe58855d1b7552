"""Training in two processes on the CPU, started from a script as a user would."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import FAST

import trvae_scvi as tv
from trvae_scvi.data._sampler import ConditionBalancedSampler
from trvae_scvi.train._splitter import TRVAEDataSplitter

SCRIPT = Path(__file__).with_name("distributed_script.py")
needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)


def run(strategy, folder):
    """What the processes that are left after training saw."""
    here, out = folder / "here", folder / "out"
    here.mkdir()
    out.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), strategy, str(out)],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "automatically disabled" not in done.stderr
    return [pickle.loads(path.read_bytes()) for path in sorted(out.iterdir())]


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    return run("ddp", tmp_path_factory.mktemp("ddp"))


@needs_gloo
def test_two_processes_train_one_model(ddp):
    assert [seen["rank"] for seen in ddp] == [0, 1]
    for seen in ddp:
        for name, tensor in seen["weights"].items():
            np.testing.assert_array_equal(tensor, ddp[0]["weights"][name], err_msg=name)
    assert any((ddp[0]["weights"][name] != tensor).any() for name, tensor in ddp[0]["before"].items())
    assert ddp[0]["history"]["train_loss"][-1] < 0.95 * ddp[0]["history"]["train_loss"][0]
    np.testing.assert_array_equal(ddp[0]["latent"], ddp[1]["latent"])


@needs_gloo
def test_processes_see_different_cells_and_equally_many_batches(ddp):
    for mine, other in zip(ddp[0]["cells"], ddp[1]["cells"], strict=True):
        assert len(mine) == len(other) == round(360 / (2 * 32))
        first, second = ({cell for batch in batches for cell in batch} for batches in (mine, other))
        assert len(first | second) > 1.5 * max(len(first), len(second))
    for mine, later in itertools.pairwise(ddp[0]["cells"]):
        assert set(map(tuple, mine)).isdisjoint(map(tuple, later))


@needs_gloo
def test_the_mmd_is_the_mean_over_processes_of_each_ones_own(ddp):
    own = np.array([np.mean(seen["mmds"], axis=1) for seen in ddp])
    assert (own[0] != own[1]).all()
    np.testing.assert_allclose(ddp[0]["history"]["mmd_train"], own.mean(axis=0), rtol=1e-5)


@needs_gloo
def test_early_stopping_and_the_best_weights_are_those_of_all(ddp):
    # warm-up of two epochs, then one that is the best so far and three that are not better by enough
    assert [seen["epochs"] for seen in ddp] == [6, 6]
    losses = ddp[0]["history"]["validation_loss"]
    assert [seen["best_score"] for seen in ddp] == pytest.approx([losses[2:].min()] * 2)
    for seen in ddp:
        for name, tensor in seen["best"].items():
            np.testing.assert_array_equal(tensor, seen["weights"][name], err_msg=name)


@needs_gloo
def test_spawned_processes_hand_over_weights_and_history(ddp, tmp_path):
    (spawned,) = run("ddp_spawn", tmp_path)
    for name, tensor in spawned["weights"].items():
        np.testing.assert_allclose(tensor, ddp[0]["weights"][name], rtol=1e-4, atol=1e-5, err_msg=name)
    for name, values in ddp[0]["history"].items():
        np.testing.assert_allclose(spawned["history"][name], values, rtol=1e-4, err_msg=name)
    assert spawned["leftovers"] == []


def sampler(indices, conditions, **replica):
    return ConditionBalancedSampler(
        conditions, np.zeros_like(conditions), indices, batch_size=40, reference=None, seed=0, **replica
    )


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_replicas_share_the_batches_of_a_single_process(num_replicas):
    conditions = np.repeat([0, 1, 2], [120, 60, 60])
    single = list(sampler(np.arange(240), conditions))
    replicas = [
        list(sampler(np.arange(240), conditions, num_replicas=num_replicas, rank=r)) for r in range(num_replicas)
    ]
    assert [batch for turn in zip(*replicas, strict=True) for batch in turn] == single


def test_every_replica_has_a_batch_however_few_cells_there_are():
    conditions = np.repeat([0, 1], [20, 20])
    replicas = [sampler(np.arange(40), conditions, num_replicas=8, rank=rank) for rank in range(8)]
    for replica in replicas:
        (batch,) = replica
        assert len(replica) == 1
        assert sorted(batch) == list(range(40))


def test_only_ddp_strategies_share_a_model(adata):
    tv.TRVAE.setup_anndata(adata)
    splitter = TRVAEDataSplitter(tv.TRVAE(adata).adata_manager, batch_size=32)
    splitter.trainer = SimpleNamespace(world_size=2, strategy=object())
    with pytest.raises(ValueError, match="Expected a DDP strategy for 2 devices, found object"):
        splitter.train_dataloader()


def test_early_stopping_takes_its_arguments(adata):
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, n_hidden=16)
    wanted = {"monitor": "elbo_validation", "patience": 2, "min_delta": 1e9, "mode": "min", "warmup_epochs": 1}
    model.train(**FAST | {"max_epochs": 20}, **{f"early_stopping_{name}": value for name, value in wanted.items()})
    callback = model.trainer.early_stopping_callback
    assert {name: getattr(callback, name) for name in wanted} == wanted | {"min_delta": -1e9}
    assert model.trainer.current_epoch == 4  # one of warm-up, the first to count, two without success
