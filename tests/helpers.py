"""What several test modules use."""

from __future__ import annotations

import trvae_scvi as tv

FAST = {"max_epochs": 3, "batch_size": 64, "enable_progress_bar": False, "accelerator": "cpu"}


def make_trained(adata, setup=None, train=None, **model):
    """A small model of a copy of `adata`, trained for a few epochs."""
    adata = adata.copy()
    tv.TRVAE.setup_anndata(adata, **(setup or {}))
    trained = tv.TRVAE(adata, **{"n_hidden": 32, "n_latent": 5, **model})
    trained.train(**{**FAST, **(train or {})})
    return trained
