"""Means of the cells of every condition and label, in one pass over the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scvi import REGISTRY_KEYS
from sklearn.utils.extmath import randomized_svd

from trvae_scvi._math._mixed_model import GroupMeans

from ._designs import warn
from ._expression import Expression
from ._values import row_chunks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from scvi.data import AnnDataManager

    from trvae_scvi._math._likelihoods import Likelihood

    Block: TypeAlias = Any  # rows of a matrix, an array or a sparse one

__all__ = ["are_too_many", "label_means", "logarithms", "output_means", "shares_beyond_cell_types"]

_TARGET_SUM = 1e4
_MOST_MEANS = 100_000_000  # of conditions, labels and genes, to be held in memory at a time
_DRAWN_CELLS, _DRAWN_ENTRIES = 5000, 40_000_000
_COMPONENTS = 5
_LEAST = 1e-100  # of groups without a cell


def are_too_many(n_conditions: int, n_labels: int, n_genes: int) -> bool:
    """Whether means of every condition and label would take too much memory; warns if so."""
    if n_conditions * n_labels * n_genes <= _MOST_MEANS:
        return False
    warn(
        f"Means of {n_conditions} conditions, {n_labels} labels and {n_genes} genes are more than fit into memory: "
        "labels are not compared with each other, neither for the prior of what conditions do nor for labels that were "
        "not measured. Register coarser labels, or fewer genes."
    )
    return True


def output_means(manager: AnnDataManager, likelihood: Likelihood, shape: tuple[int, int]) -> GroupMeans:
    """Means of every condition and label on the scale of the decoder's output.

    Of counts these are logarithms of shares of the total (of multiples of the size factor the inverse of the softplus),
    of values from 0 to 1 logits, of others the values.

    Parameters
    ----------
    manager, likelihood
        Of the model.
    shape
        Numbers of conditions and labels.
    """
    codes, moments = _pairs(manager, shape[1]), _Moments(shape[0] * shape[1])
    if not likelihood.models_counts:
        moments.add_all(manager, codes, None)
    else:
        totals = _totals(manager)
        moments.add_all(manager, codes, lambda x, rows: shares(x, totals[rows]))
    mean, error = moments.mean, moments.error
    # half a count, or half a cell of values from 0 to 1, keeps what was never seen from being minus infinity
    half = 0.5 / np.maximum(moments.n, 1.0)[:, None]
    if likelihood.models_counts:
        half *= (np.bincount(codes, 1.0 / totals, len(half)) / np.maximum(moments.n, 1.0))[:, None]
        mean = np.maximum(mean + half, _LEAST)
        error = np.maximum(error, 2.0 * half * mean)
        has_factors = REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry
        error = error / (-np.expm1(-mean) if has_factors else mean) ** 2
        mean = mean + np.log(-np.expm1(-mean)) if has_factors else np.log(mean)
    elif likelihood.name == "bernoulli":
        mean = (mean + half) / (1.0 + 2.0 * half)
        slope = mean * (1.0 - mean)
        error = np.maximum(error, 2.0 * half * slope) / slope**2
        mean = np.log(mean / (1.0 - mean))
    return GroupMeans(mean.reshape(*shape, -1), error.reshape(*shape, -1), moments.n.reshape(shape))


def label_means(manager: AnnDataManager, likelihood: Likelihood, shape: tuple[int, int]) -> GroupMeans:
    """Means of every condition and label on the scale on which changes are told: `log1p` of counts per 10,000.

    Parameters
    ----------
    manager, likelihood
        Of the model.
    shape
        Numbers of conditions and labels.
    """
    moments = _Moments(shape[0] * shape[1])
    transform = (lambda x, rows: logarithms(x)) if likelihood.models_counts else None
    moments.add_all(manager, _pairs(manager, shape[1]), transform)
    mean, error = (values.reshape(*shape, -1) for values in (moments.mean, moments.error))
    return GroupMeans(mean, error, moments.n.reshape(shape))


def shares_beyond_cell_types(manager: AnnDataManager, likelihood: Likelihood, n_conditions: int) -> np.ndarray:
    """Which share of a condition's difference from the others is not one that cells under one condition show, too.

    Other shares of cell types move the mean of a condition along the directions in which cell types differ. These are
    the first principal components of cells around the means of their conditions, on the scale on which changes are
    told; what lies along them may be an effect or not.

    Returns
    -------
    `n_conditions` numbers from 0 to 1, of up to 5,000 cells drawn at random; 0 where too few are of a condition.
    """
    x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    conditions = _pairs(manager, 1)
    n_cells = min(len(conditions), _DRAWN_CELLS, max(_DRAWN_ENTRIES // x.shape[1], 1))
    rows = np.sort(np.random.default_rng(0).permutation(len(conditions))[:n_cells])
    block: Any = Expression(x, rows)[:]
    block = logarithms(block) if likelihood.models_counts else block
    # always a copy, as the values may be the caller's
    cells = np.array(block.toarray() if sparse.issparse(block) else block, dtype=np.float32)
    codes = conditions[rows]
    n = np.bincount(codes, minlength=n_conditions)
    known = n > 1
    means, noise = np.zeros((n_conditions, cells.shape[1])), np.zeros(n_conditions)
    for code in np.flatnonzero(known):
        own = codes == code
        means[code], noise[code] = cells[own].mean(axis=0), cells[own].var(axis=0, ddof=1).sum() / n[code]
        cells[own] -= means[code].astype(np.float32)
    n_components = min(_COMPONENTS, *cells.shape)
    components = randomized_svd(cells[known[codes]], n_components, random_state=0)[2]
    change = means - means[known].mean(axis=0)
    beyond = change - (change @ components.T) @ components
    total, left = ((values**2).sum(axis=1) - noise for values in (change, beyond))
    return np.where(known & (total > 0), np.clip(left, 0.0, None) / np.maximum(total, 1e-12), 0.0)


def shares(x: Block, totals: np.ndarray) -> Block:
    """Counts as shares of their cells' totals (or multiples of their size factors)."""
    return sparse.diags_array(1.0 / totals) @ x if sparse.issparse(x) else x / totals[:, None]


def logarithms(x: Block) -> Block:
    """`log1p` of counts per 10,000."""
    x = x.astype(np.float64)
    scaled = shares(x, np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1.0) / _TARGET_SUM)
    return scaled.log1p() if sparse.issparse(scaled) else np.log1p(scaled)


class _Moments:
    """Means and squared standard errors of the rows of groups, added up a block at a time."""

    def __init__(self, n_groups: int) -> None:
        self.n = np.zeros(n_groups)
        self._sums: Any = 0.0  # of values and of their squares

    def add_all(
        self, manager: AnnDataManager, codes: np.ndarray, transform: Callable[[Block, slice], Block] | None
    ) -> None:
        """Pass through the expression that a model has registered."""
        x, start = manager.get_from_registry(REGISTRY_KEYS.X_KEY), 0
        x = x.tocsr() if sparse.issparse(x) else x
        for block in row_chunks(x):
            rows = slice(start, start + block.shape[0])
            self._add(block if transform is None else transform(block, rows), codes[rows])
            start = rows.stop

    def _add(self, block: Block, codes: np.ndarray) -> None:
        ones = np.ones(len(codes))
        members = sparse.csr_array((ones, (codes, np.arange(len(codes)))), shape=(len(self.n), len(codes)))
        block = block.astype(np.float64)  # squares of small integers would not fit into their type
        squares = block.multiply(block) if sparse.issparse(block) else np.square(block)
        sums = [members @ part for part in (block, squares)]
        total = np.stack([np.asarray(part.todense()) if sparse.issparse(part) else part for part in sums])
        self._sums = self._sums + total
        self.n += np.bincount(codes, minlength=len(self.n))

    @property
    def mean(self) -> np.ndarray:
        return self._sums[0] / np.maximum(self.n, 1.0)[:, None]

    @property
    def error(self) -> np.ndarray:
        """Squared standard errors of the means, of groups of two cells or more."""
        n = np.maximum(self.n, 2.0)[:, None]
        return np.maximum(self._sums[1] / n - (self._sums[0] / n) ** 2, 0.0) / (n - 1.0)


def _pairs(manager: AnnDataManager, n_labels: int) -> np.ndarray:
    """One number for every cell's condition and label, or condition alone if all count as one label."""
    conditions, labels = (
        np.asarray(manager.get_from_registry(key)).ravel().astype(np.int64)
        for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
    )
    return conditions * n_labels + (labels if n_labels > 1 else 0)


def _totals(manager: AnnDataManager) -> np.ndarray:
    """Size factors, or total counts where there are none."""
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
        return np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY), dtype=np.float64).ravel()
    x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    sums = [np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in row_chunks(x)]
    return np.concatenate(sums)
