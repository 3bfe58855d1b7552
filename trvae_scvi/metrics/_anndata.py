"""The metrics on AnnData: which matrix is compared, on which scale, and that the genes agree.

The objects are only read. The metrics themselves are in `_array` and `_score`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from ._matrix import as_matrix, in_memory, log_normalize_matrix
from ._score import score_arrays
from ._scorer import DEFAULT_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["check_same_genes", "comparison_matrix", "score_prediction"]


def score_prediction(
    pred: AnnData,
    real: AnnData,
    control: AnnData | None = None,
    source: AnnData | None = None,
    *,
    layer: str | None = None,
    counts: bool = True,
    expected: np.ndarray | None = None,
    n_top_genes: int = 100,
    n_splits: int = 10,
    max_cells: int | None = 500,
    seed: int | None = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> pd.DataFrame:
    """Score predicted cells against real ones, on all genes and on the most responsive ones.

    The same as :func:`~trvae_scvi.metrics.score_arrays` on :func:`~trvae_scvi.metrics.comparison_matrix` of each.
    Counts are normalised over all genes of the object, before the most responsive genes are picked.

    Parameters
    ----------
    pred
        Predicted cells (`n x d`), for example from `TRVAE.predict_perturbation`. May be a view or backed; not changed.
    real
        Real cells (`m x d`) of the same kind under the target condition.
    control
        Real cells (`k x d`) of the same kind under control that the prediction did not start from. `None`: values that
        need them are missing.
    source
        The control cells (`l x d`) that the prediction started from.
    layer
        The layer to read in all of them; `None` reads `X`.
    counts
        Whether the values are counts (or expected counts), to be log-normalised. `False` compares them as they are:
        for models that were trained on normalised data.
    expected, n_top_genes, n_splits, max_cells, seed, metrics
        As in :func:`~trvae_scvi.metrics.score_arrays`.

    Returns
    -------
    As :func:`~trvae_scvi.metrics.score_arrays`.

    Raises
    ------
    KeyError
        If a layer is missing.
    TypeError
        If what should be an AnnData is none.
    ValueError
        If the genes or their order differ, the values are not what the metrics take, or a metric is unknown.

    Warns
    -----
    UserWarning
        If `counts` is set and the real or the control cells have values that are no integers.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50)
    >>> control, real = (adata[adata.obs["condition"] == name] for name in ("control", "stimulated"))
    >>> scores = tv.metrics.score_prediction(truth, real, control[::2], control[1::2], n_top_genes=10)
    >>> scores["genes"].unique().tolist()
    ['all', 'top10']
    """
    there = {"real": real, "pred": pred, "control": control, "source": source}
    check_same_genes(**{name: cells for name, cells in there.items() if cells is not None or name in ("real", "pred")})
    matrices = [
        None
        if there[name] is None
        else comparison_matrix(there[name], layer=layer, counts=counts, name=name, expect_integers=name != "pred")
        for name in ("pred", "real", "control", "source")
    ]
    return score_arrays(
        *matrices,
        expected=expected,
        n_top_genes=n_top_genes,
        n_splits=n_splits,
        max_cells=max_cells,
        seed=seed,
        metrics=metrics,
    )


def comparison_matrix(
    adata: AnnData,
    *,
    layer: str | None = None,
    counts: bool = True,
    name: str = "adata",
    expect_integers: bool = False,
) -> np.ndarray:
    """Return the cells of an AnnData in the space in which they are compared.

    Parameters
    ----------
    adata
        `n x d` cells. May be a view or backed; not changed.
    layer
        The layer to read; `None` reads `X`.
    counts
        Whether to log-normalise (log1p of counts per 10,000 over all genes of the object). `False` takes values as they
        are.
    name
        What to call the object in messages.
    expect_integers
        Whether to warn if `counts` is set and some value is no integer: data that are normalised already would be
        normalised twice.

    Returns
    -------
    A dense `n x d` array; with `counts=False` it may share memory with the object.

    Raises
    ------
    KeyError
        If the layer is missing.
    TypeError
        If what should be an AnnData is none.
    ValueError
        If `X` is empty, or the values are not finite or, with `counts`, no counts.

    Warns
    -----
    UserWarning
        As said for `expect_integers`.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from trvae_scvi.metrics import comparison_matrix
    >>> np.expm1(comparison_matrix(AnnData(np.array([[1.0, 3.0]])))).round()
    array([[2500., 7500.]], dtype=float32)
    """
    _check_anndata(adata, name)
    if layer is not None and layer not in adata.layers:
        # Newer versions of anndata list X as the layer None.
        present = [key for key in adata.layers if key is not None]
        msg = f"Expected the layer {layer!r} in `{name}`, found the layers {present}."
        raise KeyError(msg)
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        msg = f"Expected values in `{name}.X`, found None. Name a layer that holds them."
        raise ValueError(msg)
    dense = as_matrix(in_memory(matrix), name)
    if not counts:
        return dense
    if expect_integers and (np.rint(dense) != dense).any():
        msg = (
            f"Expected integer counts in `{name}`, found other values. If they are normalised already, "
            "pass `counts=False`: now they are log-normalised."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    return log_normalize_matrix(dense, name)


def check_same_genes(**adatas: AnnData) -> None:
    """Check that AnnData objects have the same genes in the same order.

    Parameters
    ----------
    **adatas
        The objects by the names to use in messages. The others are compared with the first.

    Raises
    ------
    TypeError
        If what should be an AnnData is none.
    ValueError
        If the `var_names` of one of them differ from those of the first, in content or in order.
    """
    for name, adata in adatas.items():
        _check_anndata(adata, name)
    (first, reference), *others = adatas.items()
    genes = reference.var_names
    for name, other in others:
        if other.var_names.equals(genes):
            continue
        absent, foreign = genes.difference(other.var_names), other.var_names.difference(genes)
        if len(absent) or len(foreign):
            msg = (
                f"Expected the same genes in `{name}` and `{first}`, found {len(absent)} of `{first}` missing in "
                f"`{name}` (such as {list(absent[:3])}) and {len(foreign)} only there (such as {list(foreign[:3])}). "
                "Subset both to their common genes."
            )
        else:
            msg = (
                f"Expected the genes of `{name}` and `{first}` in the same order, found another. "
                f"Reorder with `{name}[:, {first}.var_names]`."
            )
        raise ValueError(msg)


def _check_anndata(adata: object, name: str) -> None:
    if not isinstance(adata, AnnData):
        msg = f"Expected `{name}` to be an AnnData, found {type(adata).__name__}. For arrays there is `score_arrays`."
        raise TypeError(msg)
