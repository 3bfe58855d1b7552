"""Train a small model on two devices and write what every process saw; takes strategy and folder."""

from __future__ import annotations

import functools
import pickle
import sys
from pathlib import Path

import scvi
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS

import trvae_scvi as tv
from trvae_scvi.module._trvae_module import TRVAEModule
from trvae_scvi.train._training import RestoreBestWeights


class Witness(Callback):
    """What a process is trained on: its cells and its MMDs, by epoch."""

    def __init__(self):
        self.cells, self.mmds = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.cells.append([])
        self.mmds.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.cells[-1].append([cell.tobytes() for cell in batch[REGISTRY_KEYS.X_KEY].numpy()])


def train(strategy, **arguments):
    witness = Witness()
    loss = TRVAEModule.loss

    @functools.wraps(loss)  # the plan looks at the arguments' names
    def watched(module, *args, **kwargs):
        output = loss(module, *args, **kwargs)
        if module.training:
            witness.mmds[-1].append(float(output.extra_metrics["mmd"].detach()))
        return output

    TRVAEModule.loss = watched
    adata = tv.datasets.simulate_perturbation(400, 30, n_types=2, seed=1).adata
    scvi.settings.seed = 0
    tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    model = tv.TRVAE(adata, n_hidden=16, n_latent=4, normalization="batch")
    before = weights(model)
    model.train(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        batch_size=32,
        enable_progress_bar=False,
        callbacks=[witness],
        **arguments,
    )
    return model, witness, before


def weights(model):
    return {name: tensor.numpy().copy() for name, tensor in model.module.state_dict().items()}


def main(strategy, folder):
    # nothing is better by so much: training stops when the patience is over, but the best weights are kept
    stopping = {"early_stopping_min_delta": 1e9, "early_stopping_patience": 3}
    model, witness, before = train(strategy, max_epochs=30, plan_kwargs={"n_epochs_kl_warmup": 2}, **stopping)
    best = next(c for c in model.trainer.callbacks if isinstance(c, RestoreBestWeights))
    seen = {
        "rank": model.trainer.global_rank,
        "epochs": len(witness.cells),
        "cells": witness.cells,
        "mmds": witness.mmds,
        "best": None if best.best_weights is None else {n: t.numpy() for n, t in best.best_weights.items()},
        "best_score": best.best_score,
        "before": before,
        "weights": weights(model),
        "history": {name: table[name].to_numpy(dtype=float) for name, table in model.history.items()},
        "latent": model.get_latent_representation(),
        "leftovers": [path.name for path in Path.cwd().iterdir()],
    }
    (Path(folder) / f"rank_{model.trainer.global_rank}.pkl").write_bytes(pickle.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
