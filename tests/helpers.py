"""What several test modules use."""

from __future__ import annotations

import numpy as np
import pandas as pd

import trvae_scvi as tv

FAST = {"max_epochs": 3, "batch_size": 64, "enable_progress_bar": False, "accelerator": "cpu"}


def make_trained(adata, setup=None, train=None, **model):
    """A small model of a copy of `adata`, trained for a few epochs."""
    adata = adata.copy()
    tv.TRVAE.setup_anndata(adata, **(setup or {}))
    trained = tv.TRVAE(adata, **{"n_hidden": 32, "n_latent": 5, **model})
    trained.train(**{**FAST, **(train or {})})
    return trained


def assert_same_cells(first, second):
    """Two AnnData hold the same values; texts may be categories in one of them, as they are once written."""
    for mine, other in ((first.obs, second.obs), (first.var, second.var)):
        pd.testing.assert_frame_equal(mine.astype(str), other.astype(str), check_index_type=False, check_names=False)
    matrices = [{"X": adata.X, **adata.layers, **adata.obsm} for adata in (first, second)]
    _assert_same(*matrices)
    _assert_same(dict(first.uns), dict(second.uns))


def _assert_same(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            _assert_same(value, second[key])
    elif first is None:
        assert second is None
    else:
        mine, other = (np.asarray(x.toarray() if hasattr(x, "toarray") else x) for x in (first, second))
        np.testing.assert_array_equal(mine, other, strict=mine.dtype.kind in "biuf")
