"""Shifts of the decoder's output that make changes of means."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import make_trained
from scipy import sparse

from trvae_scvi.data._cells import AnnDataCells
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.predict._curves import _SHIFTS, response_curves, shifts_for
from trvae_scvi.predict._predictor import Predictor
from trvae_scvi.predict._request import Request


def curves_of(levels):
    """Of genes whose log1p at these levels is all there is."""
    return np.log1p(levels * np.exp(_SHIFTS)[:, None]) - np.log1p(levels)


def test_shifts_make_the_changes_that_are_wanted():
    levels = np.array([0.5, 3.0, 50.0])
    changes = np.array([[0.3, -0.7, 0.0], [-0.1, 0.5, 1.2]])
    shifts, made = shifts_for(changes, curves_of(levels), None)
    np.testing.assert_allclose(np.log1p(levels * np.exp(shifts)) - np.log1p(levels), changes, atol=0.02)
    np.testing.assert_allclose(made, changes, atol=1e-6)
    assert shifts[0, 2] == 0.0


def test_a_shift_is_the_change_where_there_are_no_curves():
    changes = np.array([[0.3, -0.7]])
    assert all((found == changes).all() for found in shifts_for(changes, None, None))


def test_changes_that_cannot_be_had_together_cost_the_genes_with_the_most_counts():
    shares = np.array([0.5, 0.3, *np.full(20, 0.01)])
    changes = np.full((1, 22), 0.3)  # of all genes up: there are no more counts than there are
    shifts, made = shifts_for(changes, curves_of(1e4 * shares), shares)
    assert abs((shares * np.exp(shifts)).sum() - 1.0) < 0.002
    assert made[0, :2].max() < 0.2
    np.testing.assert_allclose(made[0, 2:], 0.3, atol=0.03)


@pytest.fixture(scope="module")
def model():
    """Of cells that hardly have the first gene."""
    rng = np.random.default_rng(0)
    means = np.full(60, 2.0)
    means[0] = 0.05
    counts = rng.poisson(rng.gamma(5.0, means / 5.0, (240, 60))).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(counts))
    cells.obs["condition"] = pd.Categorical(np.repeat(["control", "other"], 120))
    return make_trained(cells, {}, {"max_epochs": 30})


# beyond 2, the second gene's counts leave too few for others, of which curves know nothing
@pytest.mark.parametrize(("gene", "shift"), [(0, 0.6), (0, 2.0), (0, 3.0), (0, 4.0), (1, 0.6), (1, 2.0)])
def test_curves_are_what_becomes_of_cells(model, gene, shift):
    """Of a gene that is hardly seen, too: once it is moved up there are many counts of it."""
    predictor = Predictor.of(model)
    rows = np.flatnonzero(model.adata.obs["condition"] == "control")
    cells = AnnDataCells(model.adata, rows, predictor.schema)
    expected = response_curves(predictor, cells)["curves"][_SHIFTS == shift, gene]
    shifts = np.zeros((1, 60))
    shifts[0, gene] = shift
    moved = predictor.describing(np.array([[1.0, 0.0]]), 0, shifts)
    changes = []
    for seed in range(8):
        blocks = list(moved.blocks(cells, {"it": 2}, Request(seed=seed)))
        before, after = (
            comparison_matrix(anndata.AnnData(np.vstack([part if i == 0 else part["it"].toarray() for part in parts])))
            for i, parts in enumerate(zip(*blocks, strict=True))
        )
        changes.append((after - before).mean(axis=0)[gene])
    assert np.mean(changes) == pytest.approx(expected[0], rel=0.1, abs=0.15)
