"""The latent space in two dimensions: the table of coordinates and one scatter plot per column of `obs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from ._panels import panel_axes, unique_names
from ._style import AS_IS, OKABE_ITO, named_legend, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["latent_umap", "latent_umap_frame"]

_MIN_CELLS = 4  # for the eigenvectors that the layout begins with
_MAX_CATEGORIES = 20
# Up to eight categories differ in colour alone. More take scanpy's twenty colours, which not everybody can tell apart,
# and a marker that changes after eight.
_MARKERS = ("o", "^", "s")
_MISSING = ("missing", "0.8", "o")


def latent_umap_frame(
    adata: AnnData,
    *,
    keys: str | Sequence[str] = ("condition", "cell_type"),
    basis: str = "X_trvae",
    seed: int = 0,
) -> pd.DataFrame:
    """UMAP coordinates of a latent representation beside columns of `obs`.

    The neighbours are those of :func:`scanpy.pp.neighbors` on the representation and the coordinates those of
    :func:`scanpy.tl.umap`, both with scanpy's defaults.

    Parameters
    ----------
    adata
        `n` cells, at least 4, with the representation in `obsm`. May be a view or backed; not changed.
    keys
        Columns of `obs` with categories: strings, a categorical, booleans or integers, at most 20 different.
    basis
        Key of `obsm`, an `n x d` array.
    seed
        Seed of the neighbour search and of the layout.

    Returns
    -------
    Indexed by cell in the order of `adata`, with the columns `UMAP1`, `UMAP2` and, as categoricals, `keys`.

    Raises
    ------
    KeyError
        If the representation or a column is missing.
    ValueError
        If the representation is not finite or has fewer than 4 cells, or a column is continuous, has more than 20
        categories or is asked for twice.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50).adata
    >>> adata.obsm["X_trvae"] = np.random.default_rng(0).normal(size=(600, 5))  # as a rule the latent representation
    >>> tv.pl.latent_umap_frame(adata, keys="condition").columns.tolist()
    ['UMAP1', 'UMAP2', 'condition']
    """
    names = unique_names(keys, "keys")
    columns = {name: _categories(adata.obs, name) for name in names}
    latent = _representation(adata, basis)
    # in `X`, which every version of scanpy and each of its presets calls by that name
    private = AnnData(latent, obs=pd.DataFrame(index=adata.obs_names.copy()))
    sc.pp.neighbors(private, use_rep="X", random_state=seed)
    sc.tl.umap(private, random_state=seed, key_added="X_umap")
    frame = pd.DataFrame(private.obsm["X_umap"], index=adata.obs_names.copy(), columns=["UMAP1", "UMAP2"])
    for name, column in columns.items():
        frame.insert(frame.shape[1], name, column.array)
    return frame


def _representation(adata: AnnData, basis: str) -> np.ndarray:
    if basis not in adata.obsm:
        msg = (
            f"Expected {basis!r} in `adata.obsm`, found {list(adata.obsm)}. "
            f"Store it with `adata.obsm[{basis!r}] = model.get_latent_representation()`."
        )
        raise KeyError(msg)
    latent = np.array(adata.obsm[basis])
    if latent.ndim != 2 or len(latent) < _MIN_CELLS:
        msg = (
            f"Expected an array of at least {_MIN_CELLS} cells x dimensions in `adata.obsm[{basis!r}]`, "
            f"found shape {latent.shape}."
        )
        raise ValueError(msg)
    if not np.isfinite(latent).all():
        msg = f"Expected finite values in `adata.obsm[{basis!r}]`, found NaN or infinity. Remove such cells."
        raise ValueError(msg)
    return latent


def _categories(obs: pd.DataFrame, key: str) -> pd.Series:
    """Return a column as a categorical that has no unused categories."""
    if key not in obs.columns:
        msg = f"Expected `keys` out of the columns of `adata.obs`, {list(obs.columns)}, found {key!r}."
        raise KeyError(msg)
    column = obs[key]
    if pd.api.types.is_float_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
        msg = (
            f"Expected categories in `adata.obs[{key!r}]`, found continuous values ({column.dtype}). "
            "Bin them with `pandas.cut`, or make them strings if they are names."
        )
        raise ValueError(msg)
    categories = column.astype("category").cat.remove_unused_categories()
    if (found := len(categories.cat.categories)) > _MAX_CATEGORIES:
        msg = (
            f"Expected at most {_MAX_CATEGORIES} categories in `adata.obs[{key!r}]`, which is what can be told apart, "
            f"found {found}. Group or select them first."
        )
        raise ValueError(msg)
    return categories


def latent_umap(
    adata: AnnData,
    *,
    keys: str | Sequence[str] = ("condition", "cell_type"),
    basis: str = "X_trvae",
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    seed: int = 0,
) -> np.ndarray:
    """UMAP of a latent representation, one panel per column of `obs`.

    The cells are drawn in a random order, so that no category hides another; cells without one are grey.

    Parameters
    ----------
    adata
        `n` cells, at least 4, with the representation in `obsm`. May be a view or backed; not changed.
    keys
        Columns of `obs` with categories: strings, a categorical, booleans or integers, at most 20 different.
    basis
        Key of `obsm`, an `n x d` array.
    ax
        Where to draw: as many axes as there are keys. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.
    seed
        Seed of the neighbour search, of the layout and of the order of drawing.

    Returns
    -------
    One-dimensional array of axes, one per key and in their order.

    Raises
    ------
    KeyError
        If the representation or a column is missing.
    ValueError
        If the representation is not finite or has fewer than 4 cells, a column is continuous, has more than 20
        categories or is asked for twice, or the number of axes is not that of the keys.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50).adata
    >>> adata.obsm["X_trvae"] = np.random.default_rng(0).normal(size=(600, 5))  # as a rule the latent representation
    >>> axes = tv.pl.latent_umap(adata)
    >>> [ax.get_title() for ax in axes]
    ['condition', 'cell_type']
    """
    names = unique_names(keys, "keys")
    layout: dict[str, Any] = {"kind": "key", "size": (4.6, 3.4), "n_columns": 2}
    if ax is not None:  # checked before the layout of the cells, which takes long
        panel_axes(ax, names, **layout)
    frame = latent_umap_frame(adata, keys=names, basis=basis, seed=seed)
    axes = panel_axes(ax, names, **layout)
    order = np.random.default_rng(seed).permutation(len(frame))
    for panel, name in zip(axes, names, strict=True):
        _draw_panel(panel, frame.iloc[order], name)
    return shown(axes, show)


def _looks(categories: pd.Series) -> list[tuple[str, str, str]]:
    """Label, colour and marker of every category, then of cells without one."""
    labels = [str(category) for category in categories.cat.categories]
    n_safe = len(OKABE_ITO)
    colours = OKABE_ITO if len(labels) <= n_safe else sc.pl.palettes.default_20
    looks = [(label, colours[i], _MARKERS[i // n_safe]) for i, label in enumerate(labels)]
    return [*looks, _MISSING]


def _draw_panel(ax: Axes, rows: pd.DataFrame, key: str) -> None:
    looks = _looks(rows[key])
    codes = rows[key].cat.codes.to_numpy()  # -1, the last of the looks, where there is no category
    styles = [MarkerStyle(marker) for _, _, marker in looks]
    paths = [style.get_path().transformed(style.get_transform()) for style in styles]
    size = float(np.clip(60_000 / len(rows), 3, 20))
    colours = np.array([to_rgba(colour) for _, colour, _ in looks])[codes]
    points = ax.scatter(rows["UMAP1"], rows["UMAP2"], s=size, c=colours, alpha=0.8, linewidths=0)
    # A marker each, in one collection: one collection per marker would draw the markers on top of each other.
    points.set_paths([paths[code] for code in codes])
    drawn = looks if (codes < 0).any() else looks[:-1]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, markersize=5, color=colour) for _, colour, marker in drawn
    ]
    # As high as the panel with the most categories allowed.
    dense = {"fontsize": "x-small", "labelspacing": 0.2} if len(drawn) > 10 else {"fontsize": "small"}
    names = [label for label, _, _ in drawn]
    named_legend(ax, handles, names, loc="center left", bbox_to_anchor=(1, 0.5), **dense)
    ax.set_title(key, **AS_IS)
    ax.set(xlabel="UMAP1", ylabel="UMAP2", xticks=[], yticks=[])
