"""How well query cells lie within a reference, as an empirical p-value for every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._neighbors import get_embeddings, nearest_cells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["mapping_score"]


def mapping_score(query: AnnData, reference: AnnData, *, use_rep: str = "X_trvae", n_neighbors: int = 50) -> pd.Series:
    """Score how well every query cell lies within the reference: an empirical p-value, small for cells outside of it.

    The mean Euclidean distance `a` of a query cell to its nearest reference cells is compared with the same distance
    `a_i` of each of the `n` reference cells to its nearest *other* reference cells: ``(1 + #{i: a_i >= a}) / (n + 1)``.
    The mean distance to the nearest cells as a measure of strangeness is from Angiulli & Pizzuti 2002
    (doi:10.1007/3-540-45681-3_2), its p-value from Bates et al. 2023 (doi:10.1214/22-AOS2244).

    For query cells that are exchangeable with those of the reference, the score is about uniform between 0 and 1, and
    never too small: at most a share of α of such cells scores α or below, on average over references. (If the query
    cell joined the reference, the `a_i` could only shrink, and the p-value would be exact; scores are a little above
    it, by `n_neighbors` / `n` at the order.)

    Parameters
    ----------
    query
        `m` cells with an embedding in `obsm`. May be a view or backed; not changed.
    reference
        `n` cells with an embedding by the same model, none of them a query cell: a cell at distance 0 from itself would
        score too well. May be a view or backed; not changed.
    use_rep
        Key of `obsm` with the embedding, in both.
    n_neighbors
        Number of neighbours, below the number of reference cells. Take it smaller than the smallest group of cells that
        is to count as a part of the reference.

    Returns
    -------
    Indexed by query cell in the order of `query` and named `"mapping_score"`, from 1 / (n + 1), which is further
    outside than any reference cell, to 1.

    Raises
    ------
    TypeError
        If `query` or `reference` is no AnnData or `n_neighbors` no integer.
    KeyError
        If an embedding is missing.
    ValueError
        If an embedding is not finite or no matrix, the embeddings differ in width, or `n_neighbors` is below 1 or not
        below the number of reference cells.

    Notes
    -----
    Read it by groups rather than by cells, as in ``(scores < 0.05).groupby(query.obs["cell_type"], observed=True)``
    and its ``mean()``: a share far above 0.05 points to a group that lies outside. Among many cells some score low by
    chance. The scores are uniform over all cells of a query that is composed like the reference, not within each type:
    a type whose cells lie dense scores higher and one whose cells lie sparse scores lower, however well it was mapped.

    What it cannot tell: a query cell that was put onto the *wrong* reference cells scores well, as does all of a query
    whose differences the model removed. Distances are compared with those anywhere in the reference, so that a cell
    beside a dense group can pass for one of a sparse group. If the reference cells trained the model and the query
    cells did not, these can score lower for that alone; reference cells that were held out show by how much.

    The search is exact and takes time proportional to `(m + n) n`: below a minute per 100,000 cells, of the query
    and of the reference, against a reference of 100,000 on one core.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from trvae_scvi.mapping import mapping_score
    >>> rng = np.random.default_rng(0)
    >>> reference = AnnData(obsm={"X_trvae": rng.normal(size=(999, 2))})
    >>> query = AnnData(obsm={"X_trvae": np.array([[0.0, 0.5], [2.0, 2.0], [30.0, 0.0]])})
    >>> mapping_score(query, reference, n_neighbors=15).round(3).tolist()
    [0.856, 0.014, 0.001]
    """
    of_query, of_reference = get_embeddings(query, reference, use_rep)
    _, within = nearest_cells(None, of_reference, n_neighbors)
    _, across = nearest_cells(of_query, of_reference, n_neighbors)
    sorted_within = np.sort(within.mean(axis=1))
    n_as_far = len(sorted_within) - np.searchsorted(sorted_within, across.mean(axis=1), side="left")
    scores = (1 + n_as_far) / (1 + len(sorted_within))
    return pd.Series(scores, index=query.obs_names.copy(), name="mapping_score")
