"""Labels for query cells, from a vote of the nearest reference cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._neighbors import get_embeddings, nearest_cells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["transfer_labels"]

_ROUNDING = 1e-12  # shares that differ by less are tied: their sums differ by the order of the addition


def transfer_labels(
    query: AnnData,
    reference: AnnData,
    *,
    labels_key: str,
    use_rep: str = "X_trvae",
    n_neighbors: int = 50,
) -> pd.DataFrame:
    """Transfer labels from a reference to query cells with a weighted vote of the nearest reference cells.

    A reference cell at distance `d` votes with the weight ``exp(-d^2 / (2 s^2))``, where `s` is the median distance of
    the neighbours of this query cell: each query cell has a kernel as wide as the reference is sparse around it, and
    the result does not depend on the unit of the embedding. The label with the largest share of the weights wins; one
    minus that share is the uncertainty.

    A weighted vote with one kernel width per query cell and this uncertainty are described by Lotfollahi et al. 2022
    (doi:10.1038/s41587-021-01001-7). The kernel differs: theirs is ``exp(-d sd^2 / 4)`` with the standard deviation
    `sd` of the distances, which depends on the unit of the embedding.

    Parameters
    ----------
    query
        `m` cells with an embedding in `obsm`. May be a view or backed; not changed.
    reference
        `n` cells with labels and with an embedding by the same model. May be a view or backed; not changed.
    labels_key
        Column of `reference.obs` with the labels.
    use_rep
        Key of `obsm` with the embedding, in both.
    n_neighbors
        Number of reference cells that vote. A label with fewer than about half as many cells is outvoted wherever
        others are near.

    Returns
    -------
    Indexed by query cell in the order of `query`, with the columns `label`, a categorical with the categories of the
    reference (sorted, where the column is not categorical), and `uncertainty`, from 0 (all voters agree) to below 1.
    Of labels with equal shares the first category wins.

    Raises
    ------
    TypeError
        If `query` or `reference` is no AnnData, `labels_key` no text or `n_neighbors` no integer.
    KeyError
        If the labels or an embedding is missing.
    ValueError
        If a reference cell has no label, an embedding is not finite or no matrix, the embeddings differ in width, or
        `n_neighbors` is below 1 or above the number of reference cells.

    Notes
    -----
    The uncertainty says how mixed the labels around a cell are. It says nothing about how far away they are: a cell of
    a kind that the reference lacks gets the label of the nearest cells, often with low uncertainty. See
    :func:`~trvae_scvi.mapping.mapping_score` for that.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from trvae_scvi.mapping import transfer_labels
    >>> reference = AnnData(obsm={"X_trvae": np.array([[0.0], [1.0], [5.0], [6.0]])})
    >>> reference.obs["cell_type"] = ["B", "B", "T", "T"]
    >>> query = AnnData(obsm={"X_trvae": np.array([[0.5], [4.0]])})
    >>> transfer_labels(query, reference, labels_key="cell_type", n_neighbors=3).round(2)
      label  uncertainty
    0     B         0.00
    1     T         0.18
    """
    labels = _labels(reference, labels_key)
    of_query, of_reference = get_embeddings(query, reference, use_rep)
    neighbors, distances = nearest_cells(of_query, of_reference, n_neighbors)
    votes = _votes(labels.codes[neighbors], _weights(distances), len(labels.categories))
    total = votes.sum(axis=1)
    largest = votes.max(axis=1)
    winners = (votes >= (largest - _ROUNDING * total)[:, None]).argmax(axis=1)
    return pd.DataFrame(
        {"label": pd.Categorical.from_codes(winners, dtype=labels.dtype), "uncertainty": (total - largest) / total},
        index=query.obs_names.copy(),
    )


def _labels(reference: AnnData, labels_key: str) -> pd.Categorical:
    if not isinstance(labels_key, str):
        msg = f"Expected `labels_key` to name one column of `reference.obs`, found {labels_key!r}."
        raise TypeError(msg)
    if labels_key not in reference.obs:
        msg = f"Expected {labels_key!r} in `reference.obs`, found the columns {list(reference.obs.columns)}."
        raise KeyError(msg)
    column = reference.obs[labels_key]
    if column.isna().any():
        msg = (
            f"Expected a label for every reference cell, found none for {int(column.isna().sum())} of {len(column)} in "
            f"`reference.obs[{labels_key!r}]`. Leave them out: "
            f"`reference[reference.obs[{labels_key!r}].notna()]`."
        )
        raise ValueError(msg)
    return pd.Categorical(column)


def _weights(distances: np.ndarray) -> np.ndarray:
    """Gaussian kernel over `m x k` distances, for every row as wide as the row's median."""
    width = np.median(distances, axis=1, keepdims=True)
    # Width 0, as half of the neighbours coincide with the cell: the limit of the kernel leaves only these.
    ratio = np.divide(distances, width, out=np.where(distances > 0, np.inf, 0.0), where=width > 0)
    return np.exp(-(ratio**2) / 2)


def _votes(codes: np.ndarray, weights: np.ndarray, n_labels: int) -> np.ndarray:
    """Sum `m x k` weights by label, `m x c`."""
    n_cells = len(codes)
    flat = np.arange(n_cells)[:, None] * n_labels + codes  # as wide integers: the codes alone may be int8
    return np.bincount(flat.ravel(), weights.ravel(), n_cells * n_labels).reshape(n_cells, n_labels)
