"""Predicted against real gene means and variances: the table, its summary, and the scatter plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from trvae_scvi._arguments import check_integer
from trvae_scvi.metrics._anndata import check_same_genes, comparison_matrix
from trvae_scvi.metrics._array import pearson

from ._labels import label_points
from ._style import OKABE_ITO, new_axes, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["reg_mean", "reg_var", "regression_fit", "regression_frame"]

Statistic = Literal["mean", "variance"]


def regression_frame(
    pred: AnnData, real: AnnData, *, statistic: Statistic, layer: str | None = None, counts: bool = True
) -> pd.DataFrame:
    """Per gene, the mean or the variance over the real and over the predicted cells.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells. May be views or backed; not changed.
    statistic
        `"mean"` or `"variance"` (`ddof=0`).
    layer
        The layer to read in both; `None` reads `X`.
    counts
        Whether the values are counts, to be turned into log1p of counts per 10,000 over all genes of the object.
        `False` takes values as they are.

    Returns
    -------
    Indexed by gene in the order of the objects, with the columns `real`, `predicted` and `residual`, which is predicted
    minus real.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If the cells are no AnnData.
    ValueError
        If `statistic` is unknown, the genes or their order differ, or the values are no counts.

    Warns
    -----
    UserWarning
        If `counts` is set and the real cells have values that are no integers.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> tv.pl.regression_frame(truth, real, statistic="mean").columns.tolist()
    ['real', 'predicted', 'residual']
    """
    if statistic not in get_args(Statistic):
        msg = f"Expected `statistic` out of {list(get_args(Statistic))}, found {statistic!r}."
        raise ValueError(msg)
    check_same_genes(real=real, pred=pred)
    matrices = {
        "real": comparison_matrix(real, layer=layer, counts=counts, name="real", expect_integers=True),
        "predicted": comparison_matrix(pred, layer=layer, counts=counts, name="pred"),
    }
    reduce = np.mean if statistic == "mean" else np.var
    columns = {name: reduce(matrix, axis=0, dtype=np.float64) for name, matrix in matrices.items()}
    return pd.DataFrame(columns, index=real.var_names.copy()).assign(residual=lambda f: f["predicted"] - f["real"])


def regression_fit(frame: pd.DataFrame) -> pd.Series:
    """Two numbers that are both called "R2": how the genes correlate, and how close they are to the identity line.

    Parameters
    ----------
    frame
        What :func:`~trvae_scvi.pl.regression_frame` returns: the columns `real` and `predicted`, at least 2 genes.

    Returns
    -------
    `squared_pearson`, the squared Pearson correlation over genes, which papers report and which forgives a wrong scale
    or offset; and `coefficient_of_determination`, 1 - sum (real - predicted)^2 / sum (real - its mean)^2, which does
    not and can be negative. NaN where a column is constant.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there are fewer than 2 genes.

    Examples
    --------
    >>> import pandas as pd
    >>> from trvae_scvi.pl import regression_fit
    >>> regression_fit(pd.DataFrame({"real": [1, 2, 3], "predicted": [2, 4, 6]})).round(2).to_dict()
    {'squared_pearson': 1.0, 'coefficient_of_determination': -6.0}
    """
    if {"real", "predicted"} - set(frame.columns):
        msg = f"Expected the columns 'real' and 'predicted', found {list(frame.columns)}."
        raise KeyError(msg)
    if len(frame) < 2:
        msg = f"Expected at least 2 genes, found {len(frame)}."
        raise ValueError(msg)
    real, predicted = frame["real"].to_numpy(dtype=float), frame["predicted"].to_numpy(dtype=float)
    finite = bool(np.isfinite(real).all() and np.isfinite(predicted).all())
    values = {
        "squared_pearson": pearson(real, predicted) ** 2 if finite else np.nan,
        "coefficient_of_determination": r2_score(real, predicted) if finite and np.ptp(real) > 0 else np.nan,
    }
    return pd.Series(values, dtype=float)


def reg_mean(
    pred: AnnData,
    real: AnnData,
    *,
    layer: str | None = None,
    counts: bool = True,
    n_labels: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes:
    """Scatter plot of the genes' real (x) and predicted (y) means, with the identity line.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells. May be views or backed; not changed.
    layer
        The layer to read in both; `None` reads `X`.
    counts
        Whether the values are counts, shown as log1p of counts per 10,000. `False` shows values as they are.
    n_labels
        How many of the genes furthest from the line are named.
    ax
        Where to draw; `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes. The two numbers written there are those of :func:`~trvae_scvi.pl.regression_fit`.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If the cells are no AnnData.
    ValueError
        If the genes or their order differ, the values are no counts or `n_labels` is negative.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> ax = tv.pl.reg_mean(truth, real)
    >>> ax.get_xlabel()
    'real gene mean (log1p counts per 10,000)'
    """
    frame = regression_frame(pred, real, statistic="mean", layer=layer, counts=counts)
    return _draw(frame, "mean", counts, n_labels, ax, show)


def reg_var(
    pred: AnnData,
    real: AnnData,
    *,
    layer: str | None = None,
    counts: bool = True,
    n_labels: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes:
    """Scatter plot of the genes' real (x) and predicted (y) variances, with the identity line.

    Parameters
    ----------
    pred, real
        Predicted (`n x d`) and real (`m x d`) cells. May be views or backed; not changed.
    layer
        The layer to read in both; `None` reads `X`.
    counts
        Whether the values are counts, taken as log1p of counts per 10,000. `False` takes values as they are.
    n_labels
        How many of the genes furthest from the line are named.
    ax
        Where to draw; `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    The axes. The two numbers written there are those of :func:`~trvae_scvi.pl.regression_fit`.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If the cells are no AnnData.
    ValueError
        If the genes or their order differ, the values are no counts or `n_labels` is negative.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> ax = tv.pl.reg_var(truth, real)
    >>> ax.get_xlabel()
    'real gene variance (log1p counts per 10,000)'
    """
    frame = regression_frame(pred, real, statistic="variance", layer=layer, counts=counts)
    return _draw(frame, "variance", counts, n_labels, ax, show)


def _draw(frame: pd.DataFrame, statistic: str, counts: bool, n_labels: int, ax: Axes | None, show: bool | None) -> Axes:
    check_integer("n_labels", n_labels, 0)
    fit = regression_fit(frame)
    ax = new_axes(ax, (4.5, 4.5))
    ax.scatter(frame["real"], frame["predicted"], s=8, color=OKABE_ITO[0], alpha=0.6, linewidths=0)
    # Through a point that lies on every plot of a non-negative statistic and on the line in any case.
    ax.axline((0, 0), slope=1, color=OKABE_ITO[-1], linewidth=0.8, linestyle="--")
    furthest = frame.loc[:, "residual"].abs().to_numpy().argsort(kind="stable")[::-1][:n_labels]
    labelled = frame.iloc[furthest]
    text = (
        f"squared Pearson correlation {fit['squared_pearson']:.3f}\n"
        f"coefficient of determination {fit['coefficient_of_determination']:.3f}"
    )
    ax.text(0.03, 0.97, text, transform=ax.transAxes, ha="left", va="top", fontsize="small")
    columns = ["real", "predicted"]
    names = [str(gene) for gene in labelled.index]
    label_points(ax, labelled[columns].to_numpy(), names, frame[columns].to_numpy())
    scale = "log1p counts per 10,000" if counts else "values as given"
    ax.set(xlabel=f"real gene {statistic} ({scale})", ylabel=f"predicted gene {statistic} ({scale})")
    return shown(ax, show)
