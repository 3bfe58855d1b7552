"""Violins of single genes: the table, and that what is drawn is the table."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy import sparse

from trvae_scvi import pl

KINDS = ["control", "real", "predicted"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def cells():
    """Predicted, real and control counts of four genes, the last without any count, the totals known."""
    var = pd.DataFrame(index=["A", "B", "C", "zero"])
    counts = {
        "control": [[1, 1, 8, 0], [2, 3, 5, 0], [4, 4, 2, 0]],
        "real": [[5, 4, 1, 0], [7, 1, 2, 0]],
        "pred": [[6.5, 2.5, 1, 0], [6, 2, 2, 0], [5, 3, 2, 0], [8, 1, 1, 0]],
    }
    return {kind: ad.AnnData(np.array(rows, dtype=np.float32), var=var.copy()) for kind, rows in counts.items()}


def test_violin_frame_holds_every_cell_of_every_gene(cells):
    frame = pl.violin_frame(cells["pred"], cells["real"], cells["control"], ["B", "A"])
    assert frame.columns.tolist() == ["gene", "cells", "value"]
    sizes = frame.groupby(["gene", "cells"], sort=False).size()
    assert sizes.index.tolist() == [(gene, kind) for gene in "BA" for kind in KINDS]
    assert sizes.tolist() == [3, 2, 4, 3, 2, 4]
    # Every cell has 10 counts in all: one count is 1,000 of 10,000.
    values = frame.loc[(frame["gene"] == "A") & (frame["cells"] == "predicted"), "value"]
    np.testing.assert_allclose(values, np.log1p([6500, 6000, 5000, 8000]), rtol=1e-6)
    values = frame.loc[(frame["gene"] == "B") & (frame["cells"] == "real"), "value"]
    np.testing.assert_allclose(values, np.log1p([4000, 1000]), rtol=1e-6)


def test_violin_frame_of_a_layer_and_of_values_as_they_are(cells):
    expected = pl.violin_frame(**cells, genes="A")
    for adata in cells.values():
        adata.layers["raw"] = sparse.csr_matrix(adata.X)
        adata.X = None
    views = {kind: adata[:] for kind, adata in cells.items()}
    pd.testing.assert_frame_equal(pl.violin_frame(**views, genes="A", layer="raw"), expected)
    plain = pl.violin_frame(**views, genes="A", layer="raw", counts=False)
    assert plain["value"].tolist() == [1, 2, 4, 5, 7, 6.5, 6, 5, 8]


def test_violin_draws_the_frame(cells):
    axes = pl.violin(**cells, genes=["B", "A"], counts=False)
    assert [ax.get_title() for ax in axes] == ["B", "A"]
    assert axes[0].get_ylabel() == "values as given"
    *bodies, means = axes[1].collections
    ranges = [(body.get_paths()[0].vertices[:, 1].min(), body.get_paths()[0].vertices[:, 1].max()) for body in bodies]
    assert ranges == [(1, 4), (5, 7), (5, 8)]
    np.testing.assert_allclose(means.get_offsets(), [[0, 7 / 3], [1, 6], [2, 25.5 / 4]], rtol=1e-6)
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == KINDS
    assert len({to_hex(body.get_facecolor()[0]) for body in bodies}) == 3


def test_violins_of_a_constant_gene_and_of_a_single_cell_are_drawn(cells):
    cells["real"] = cells["real"][:1]
    axes = pl.violin(**cells, genes=["zero", "A"])
    for ax in axes:
        ax.figure.canvas.draw()
        assert len(ax.collections) == 4
    *bodies, means = axes[0].collections
    np.testing.assert_array_equal(means.get_offsets(), [[0, 0], [1, 0], [2, 0]])
    # A violin of no height: its outline is what is seen.
    assert all(body.get_edgecolor().size and body.get_linewidth()[0] > 0 for body in bodies)


def test_violins_beyond_four_go_to_the_next_row():
    adata = ad.AnnData(np.eye(6, dtype=np.float32) + 1, var=pd.DataFrame(index=list("abcdef")))
    axes = pl.violin(adata, adata, adata, list("abcdef"))
    places = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert axes[0].get_ylabel() == "log1p counts per 10,000"


def test_violin_draws_into_given_axes_and_changes_nothing(cells, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    before, kept = dict(mpl.rcParams), {kind: adata.copy() for kind, adata in cells.items()}
    _, given = plt.subplots(2, 1)
    assert list(pl.violin(**cells, genes=["A", "C"], ax=given)) == list(given)
    _, single = plt.subplots()
    assert pl.violin(**cells, genes="A", ax=single)[0] is single
    assert not shown
    pl.violin(**cells, genes="A", show=True)
    assert shown == [1]
    assert dict(mpl.rcParams) == before
    for kind, adata in cells.items():
        np.testing.assert_array_equal(adata.X, kept[kind].X)


def test_violin_refuses(cells):
    with pytest.raises(ValueError, match=r"out of the 4 in `var_names` \(such as .*\), found \['X', 'Y'\]"):
        pl.violin(**cells, genes=["A", "X", "Y"])
    with pytest.raises(ValueError, match=r"in `genes` and each once, found \['A', 'A'\]"):
        pl.violin(**cells, genes=["A", "A"])
    with pytest.raises(ValueError, match=r"in `genes` and each once, found \[\]"):
        pl.violin(**cells, genes=[])
    with pytest.raises(ValueError, match="one axes per gene, found 1 for .*Pass 2 or none"):
        pl.violin(**cells, genes=["A", "B"], ax=plt.subplots()[1])
    with pytest.raises(ValueError, match=r"genes of `pred` and `real` in the same order"):
        pl.violin(cells["pred"][:, ::-1], cells["real"], cells["control"], ["A"])
    with pytest.raises(KeyError, match=r"layer 'raw' in `control`"):
        pl.violin(**cells, genes="A", layer="raw")
    for adata in cells.values():
        adata.var_names = ["A", "A", "C", "zero"]
    with pytest.raises(ValueError, match=r"found several for \['A'\]"):
        pl.violin(**cells, genes=["C", "A"])


def test_violin_warns_of_real_cells_that_are_normalised_already(cells):
    cells["real"].X = cells["real"].X + np.float32(0.5)
    with pytest.warns(UserWarning, match="integer counts in `real`"):
        pl.violin_frame(**cells, genes="A")
