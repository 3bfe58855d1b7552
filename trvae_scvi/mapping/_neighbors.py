"""Embeddings out of AnnData objects and the nearest reference cells in them. Knows neither labels nor scores."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from trvae_scvi._arguments import check_integer

__all__ = ["get_embeddings", "nearest_cells"]


def get_embeddings(query: AnnData, reference: AnnData, use_rep: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the embeddings of query and reference.

    Parameters
    ----------
    query, reference
        `m` and `n` cells with the embedding in `obsm`. May be views or backed.
    use_rep
        Key of `obsm` in both.

    Returns
    -------
    The `m x d` and the `n x d` embedding in float64 and in new memory, shifted together so that the reference has mean
    0. Distances are those of the input.

    Raises
    ------
    TypeError
        If query or reference is no AnnData.
    KeyError
        If one lacks the embedding.
    ValueError
        If an embedding is no matrix of finite numbers with at least one cell, or the two differ in width.
    """
    of_query, of_reference = _embedding(query, "query", use_rep), _embedding(reference, "reference", use_rep)
    if of_query.shape[1] != of_reference.shape[1]:
        msg = (
            f"Expected embeddings of one width in `obsm[{use_rep!r}]`, found {of_query.shape[1]} dimensions in `query` "
            f"and {of_reference.shape[1]} in `reference`. Embed both with the same model."
        )
        raise ValueError(msg)
    # Distances do not see a common offset, but the dot products behind the search would lose digits to it.
    centre = of_reference.mean(axis=0)
    return of_query - centre, of_reference - centre


def _embedding(adata: AnnData, name: str, use_rep: str) -> np.ndarray:
    if not isinstance(adata, AnnData):
        msg = f"Expected `{name}` to be an AnnData, found {type(adata).__name__}."
        raise TypeError(msg)
    if use_rep not in adata.obsm:
        msg = (
            f"Expected {use_rep!r} in `{name}.obsm`, found {list(adata.obsm)}. "
            f"Store it with `{name}.obsm[{use_rep!r}] = model.get_latent_representation({name})`."
        )
        raise KeyError(msg)
    embedding = np.asarray(adata.obsm[use_rep])
    if embedding.ndim != 2 or 0 in embedding.shape or embedding.dtype.kind not in "fiu":
        msg = (
            f"Expected a dense array of cells x dimensions in `{name}.obsm[{use_rep!r}]`, with at least one of each, "
            f"found shape {embedding.shape} and dtype {embedding.dtype}."
        )
        raise ValueError(msg)
    unusable = ~np.isfinite(embedding).all(axis=1)
    if unusable.any():
        msg = (
            f"Expected finite values in `{name}.obsm[{use_rep!r}]`, found NaN or infinity in {int(unusable.sum())} of "
            f"{len(unusable)} cells. Remove these cells."
        )
        raise ValueError(msg)
    return np.array(embedding, dtype=np.float64)


def nearest_cells(query: np.ndarray | None, reference: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest reference cells by Euclidean distance, exactly.

    Parameters
    ----------
    query
        `m x d` cells. `None` takes every reference cell with its nearest *other* reference cells.
    reference
        `n x d` cells.
    n_neighbors
        Number `k` of neighbours.

    Returns
    -------
    Positions in the reference and distances, both `m x k`, nearest first. Identical cells have distance 0.

    Raises
    ------
    TypeError
        If `n_neighbors` is no integer.
    ValueError
        If `n_neighbors` is below 1 or there are fewer cells to choose from.
    """
    check_integer("n_neighbors", n_neighbors, 1)
    n_choices = len(reference) - (query is None)
    if n_neighbors > n_choices:
        others = " once a cell itself is left out" if query is None else ""
        msg = (
            f"Expected `n_neighbors` of at most {n_choices}, the number of reference cells{others}, "
            f"found {n_neighbors}. Lower it or take a larger reference."
        )
        raise ValueError(msg)
    # Exact at every width and, at 100,000 cells, faster than a tree from 10 dimensions on.
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(reference)
    neighbors = search.kneighbors(query, return_distance=False)
    cells = reference if query is None else query
    # The search's own distances come from dot products, by which identical cells can lie apart.
    distances = [np.linalg.norm(cells - reference[column], axis=1) for column in neighbors.T]
    return neighbors, np.stack(distances, axis=1)
