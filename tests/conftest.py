from __future__ import annotations

import logging
import os
from pathlib import Path

import numba
import numpy as np
import pytest
import scvi
import torch
from helpers import make_trained
from threadpoolctl import threadpool_limits

import trvae_scvi as tv

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; waiting threads of several would block each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    # BLAS has read the environment before this file was: it is loaded already
    ONE_THREAD_EACH = threadpool_limits(1)


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_recovery.py")


@pytest.fixture(autouse=True)
def _plain_settings():
    """Every test begins with scvi-tools' defaults and the same random state, whatever ran before it."""
    scvi.settings.seed = None
    torch.manual_seed(0)
    np.random.seed(0)
    scvi.settings.dl_num_workers = 0
    verbosity = scvi.settings.verbosity
    yield
    assert scvi.settings.verbosity == verbosity  # what is set for good is the user's to set
    scvi.settings.seed = None


@pytest.fixture(scope="session")
def small():
    """A simulated data set with its truth; tests must not change it."""
    return tv.datasets.simulate_perturbation(400, 60, n_types=3, seed=1)


@pytest.fixture
def adata(small):
    """A fresh copy of the small data set with every kind of column."""
    adata = small.adata.copy()
    rng = np.random.default_rng(0)
    adata.obs["donor"] = rng.choice(["a", "b", "c"], adata.n_obs)
    adata.obs["lab"] = rng.choice(["x", "y"], adata.n_obs)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel() / 1000.0
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture
def control(adata):
    return adata[adata.obs["condition"] == "control"]


@pytest.fixture(scope="session")
def trained(small):
    """A model trained for a few epochs; tests must not change it."""
    return make_trained(small.adata, {"labels_key": "cell_type"})


@pytest.fixture(scope="session")
def real_data():
    """Folder with real data, from the environment."""
    folder = os.environ.get("TRVAE_SCVI_DATA")
    if folder is None:
        pytest.skip("TRVAE_SCVI_DATA is not set")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"TRVAE_SCVI_DATA={folder} is no folder")
    return path


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
