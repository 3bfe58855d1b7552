"""UMAP of the latent space: the table is scanpy's, and what is drawn is the table."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.colors import to_hex

from trvae_scvi import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Sixty cells of three types in a latent space of four dimensions."""
    rng = np.random.default_rng(0)
    types = np.repeat(["B", "NK", "T"], 20)
    latent = rng.normal(size=(60, 4)) + 5 * np.eye(4)[np.repeat([0, 1, 2], 20)]
    obs = pd.DataFrame(
        {
            "condition": rng.choice(["control", "stimulated"], 60),
            "cell_type": pd.Categorical(types, categories=["T", "unused", "NK", "B"]),
            "age": rng.normal(size=60),
            "plate": np.arange(60) % 20,
            "well": np.arange(60) % 21,
        },
        index=[f"cell{i}" for i in range(60)],
    )
    return ad.AnnData(np.ones((60, 2), dtype=np.float32), obs=obs, obsm={"X_trvae": latent.astype(np.float32)})


def test_latent_umap_frame_is_what_scanpy_computes(adata):
    frame = pl.latent_umap_frame(adata, seed=3)
    expected = adata.copy()
    sc.pp.neighbors(expected, use_rep="X_trvae", random_state=3)
    sc.tl.umap(expected, random_state=3)
    assert frame.columns.tolist() == ["UMAP1", "UMAP2", "condition", "cell_type"]
    assert frame.index.tolist() == adata.obs_names.tolist()
    np.testing.assert_array_equal(frame[["UMAP1", "UMAP2"]], expected.obsm["X_umap"])
    assert frame["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    assert frame["cell_type"].cat.categories.tolist() == ["T", "NK", "B"]
    other = pl.latent_umap_frame(adata, seed=4)
    assert np.abs(other[["UMAP1", "UMAP2"]].to_numpy() - frame[["UMAP1", "UMAP2"]].to_numpy()).max() > 0.1


def test_latent_umap_leaves_data_and_settings_alone(adata, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    kept, before = adata.copy(), dict(mpl.rcParams)
    state = np.random.get_state()[1].copy()
    pl.latent_umap(adata[:])
    pl.latent_umap(adata, keys="cell_type", show=False)
    assert not shown
    pl.latent_umap(adata, keys="cell_type", show=True)
    assert shown == [1]
    pd.testing.assert_frame_equal(adata.obs, kept.obs)
    np.testing.assert_array_equal(adata.obsm["X_trvae"], kept.obsm["X_trvae"])
    assert list(adata.obsm) == ["X_trvae"]
    assert not list(adata.obsp) and not adata.uns
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert dict(mpl.rcParams) == before


def drawn(ax):
    """Position, colour and outline of every point in the order in which they are drawn, and the legend's of each."""
    (points,) = ax.collections
    shapes = [len(path.vertices) for path in points.get_paths()]
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    colours = [to_hex(handle.get_color()) for handle in legend.legend_handles]
    markers = [handle.get_marker() for handle in legend.legend_handles]
    return (
        np.asarray(points.get_offsets()),
        [to_hex(c) for c in points.get_facecolors()],
        shapes,
        dict(zip(names, zip(colours, markers, strict=True), strict=True)),
    )


@pytest.mark.parametrize("key", ["condition", "cell_type", "plate"])
def test_latent_umap_draws_every_cell_in_its_category(adata, key):
    frame = pl.latent_umap_frame(adata, keys=key)
    (ax,) = pl.latent_umap(adata, keys=key)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (key, "UMAP1", "UMAP2")
    offsets, colours, shapes, legend = drawn(ax)
    assert list(legend) == [str(category) for category in frame[key].cat.categories]
    assert len(set(legend.values())) == len(legend)
    at = {tuple(row): str(name) for row, name in zip(frame[["UMAP1", "UMAP2"]].to_numpy(), frame[key], strict=True)}
    assert len(offsets) == len(shapes) == len(at) == 60
    n_vertices = {"o": max(shapes), "^": 4, "s": 5}
    names = [at[tuple(offset)] for offset in offsets.astype(np.float32)]
    for name, colour, shape in zip(names, colours, shapes, strict=True):
        assert (colour, shape) == (legend[name][0], n_vertices[legend[name][1]])


def test_latent_umap_draws_the_categories_mixed(adata):
    """Neither in the order of the cells, which is that of the types, nor one category after the other."""
    (ax,) = pl.latent_umap(adata, keys="cell_type")
    colours = drawn(ax)[1]
    assert len(set(colours)) == 3
    changes = sum(a != b for a, b in zip(colours, colours[1:], strict=False))
    assert changes > 20


def test_latent_umap_shows_cells_without_a_category_in_grey(adata):
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = np.nan
    _, colours, _, legend = drawn(pl.latent_umap(adata, keys="cell_type")[0])
    assert list(legend) == ["T", "NK", "B", "missing"]
    assert colours.count(legend["missing"][0]) == 7


def test_latent_umap_draws_into_given_axes(adata):
    _, given = plt.subplots(1, 2)
    assert list(pl.latent_umap(adata, ax=given)) == list(given)
    assert [ax.get_title() for ax in given] == ["condition", "cell_type"]
    with pytest.raises(ValueError, match="one axes per key, found 2 for .*Pass 1 or none"):
        pl.latent_umap(adata, keys="condition", ax=given)


def test_latent_umap_refuses_columns(adata):
    with pytest.raises(ValueError, match=r"categories in `adata.obs\['age'\]`, found continuous values \(float64\)"):
        pl.latent_umap(adata, keys=["condition", "age"])
    with pytest.raises(ValueError, match=r"at most 20 categories in `adata.obs\['well'\]`.*found 21"):
        pl.latent_umap(adata, keys="well")
    with pytest.raises(KeyError, match=r"out of the columns of `adata.obs`, .*found 'batch'"):
        pl.latent_umap(adata, keys="batch")
    with pytest.raises(ValueError, match="each once"):
        pl.latent_umap(adata, keys=["condition", "condition"])


def test_latent_umap_refuses_representations(adata):
    with pytest.raises(KeyError, match=r"'X_scVI' in `adata.obsm`, found \['X_trvae'\]. Store it"):
        pl.latent_umap(adata, basis="X_scVI")
    with pytest.raises(ValueError, match=r"at least 4 cells .*found shape \(3, 4\)"):
        pl.latent_umap(adata[:3])
    adata.obsm["X_trvae"][5, 1] = np.nan
    with pytest.raises(ValueError, match=r"finite values in `adata.obsm\['X_trvae'\]`"):
        pl.latent_umap(adata)


def test_a_column_named_like_a_coordinate_is_not_lost(adata):
    adata.obs["UMAP1"] = adata.obs["condition"]
    with pytest.raises(ValueError, match="already exists"):
        pl.latent_umap_frame(adata, keys="UMAP1")
