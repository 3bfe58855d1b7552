"""Single genes in control, real and predicted cells: the table of values and the violins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from trvae_scvi.metrics._anndata import check_same_genes, comparison_matrix

from ._panels import panel_axes, unique_names
from ._style import AS_IS, OKABE_ITO, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["violin", "violin_frame"]

# Real and predicted as in the plot of responses.
_COLOURS = {"control": OKABE_ITO[2], "real": OKABE_ITO[5], "predicted": OKABE_ITO[4]}


def violin_frame(
    pred: AnnData,
    real: AnnData,
    control: AnnData,
    genes: str | Sequence[str],
    *,
    layer: str | None = None,
    counts: bool = True,
) -> pd.DataFrame:
    """Values of single genes in every control, real and predicted cell.

    Parameters
    ----------
    pred, real, control
        Predicted cells (`n x d`), and real cells under the target condition (`m x d`) and under control (`k x d`). May
        be views or backed; not changed.
    genes
        Names of genes, for example markers of the response.
    layer
        The layer to read in all three; `None` reads `X`.
    counts
        Whether the values are counts, to be turned into log1p of counts per 10,000 over all genes of the object.
        `False` takes values as they are.

    Returns
    -------
    One row per gene, kind of cells and cell, in this order, with the columns `gene`, `cells` (`"control"`, `"real"` or
    `"predicted"`) and `value`.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If the cells are no AnnData.
    ValueError
        If a gene is unknown, is asked for twice or has several columns, the genes of the objects or their order differ,
        or the values are no counts.

    Warns
    -----
    UserWarning
        If `counts` is set and the control or the real cells have values that are no integers.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> frame = tv.pl.violin_frame(truth, real, control, "gene_1")
    >>> frame["cells"].unique().tolist()
    ['control', 'real', 'predicted']
    """
    names = unique_names(genes, "genes")
    check_same_genes(real=real, pred=pred, control=control)
    columns = _columns(real.var_names, names)
    matrices = {
        "control": comparison_matrix(control, layer=layer, counts=counts, name="control", expect_integers=True),
        "real": comparison_matrix(real, layer=layer, counts=counts, name="real", expect_integers=True),
        "predicted": comparison_matrix(pred, layer=layer, counts=counts, name="pred"),
    }
    parts = [
        pd.DataFrame({"gene": name, "cells": kind, "value": matrix[:, column]})
        for name, column in zip(names, columns, strict=True)
        for kind, matrix in matrices.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _columns(var_names: pd.Index, names: Sequence[str]) -> np.ndarray:
    unknown = [name for name in names if name not in var_names]
    if unknown:
        examples = list(var_names[:3])
        msg = f"Expected `genes` out of the {len(var_names)} in `var_names` (such as {examples}), found {unknown}."
        raise ValueError(msg)
    columns = var_names.get_indexer_for(list(names))
    if len(columns) > len(names):
        repeated = [name for name in names if (var_names == name).sum() > 1]
        msg = f"Expected one column per gene, found several for {repeated}. Make `var_names` unique first."
        raise ValueError(msg)
    return columns


def violin(
    pred: AnnData,
    real: AnnData,
    control: AnnData,
    genes: str | Sequence[str],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    layer: str | None = None,
    counts: bool = True,
) -> np.ndarray:
    """Violins of single genes in control, real and predicted cells, one panel per gene; a diamond marks the mean.

    Parameters
    ----------
    pred, real, control
        Predicted cells (`n x d`), and real cells under the target condition (`m x d`) and under control (`k x d`). May
        be views or backed; not changed.
    genes
        Names of genes, for example markers of the response.
    ax
        Where to draw: as many axes as there are genes. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.
    layer
        The layer to read in all three; `None` reads `X`.
    counts
        Whether the values are counts, shown as log1p of counts per 10,000. `False` shows values as they are.

    Returns
    -------
    One-dimensional array of axes, one per gene and in their order.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If the cells are no AnnData.
    ValueError
        If a gene is unknown, is asked for twice or has several columns, the genes of the objects or their order differ,
        the values are no counts, or the number of axes is not that of the genes.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> axes = tv.pl.violin(truth, real, control, ["gene_1", "gene_2"])
    >>> [ax.get_title() for ax in axes]
    ['gene_1', 'gene_2']
    """
    frame = violin_frame(pred, real, control, genes, layer=layer, counts=counts)
    names = unique_names(genes, "genes")
    axes = panel_axes(ax, names, kind="gene", size=(2.4, 2.6), n_columns=4)
    for panel, name in zip(axes, names, strict=True):
        _draw_panel(panel, frame[frame["gene"] == name])
        panel.set_title(name, fontsize="medium", **AS_IS)
        panel.set_ylabel("log1p counts per 10,000" if counts else "values as given", fontsize="small")
    return shown(axes, show)


def _draw_panel(ax: Axes, rows: pd.DataFrame) -> None:
    values = [rows.loc[rows["cells"] == kind, "value"].to_numpy() for kind in _COLOURS]
    places = range(len(values))
    bodies: Any = ax.violinplot(values, positions=places, widths=0.85, showextrema=False)["bodies"]
    for body, colour in zip(bodies, _COLOURS.values(), strict=True):
        # The outline is all that can be seen of a gene with one value in all cells.
        body.set(facecolor=colour, edgecolor=colour, linewidth=1.0, alpha=0.8)
    means = [part.mean() for part in values]
    ax.scatter(places, means, marker="D", s=16, color="white", edgecolors="black", linewidths=0.8, zorder=3)
    ax.set_xticks(places, list(_COLOURS))
    ax.tick_params(labelsize="small")
