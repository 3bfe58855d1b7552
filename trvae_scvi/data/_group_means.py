"""Means of the cells of every condition and label, in passes over the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from scvi import REGISTRY_KEYS
from sklearn.utils.extmath import randomized_svd

from trvae_scvi._math._mixed_model import GroupMeans
from trvae_scvi._math._offset_prior import GroupRates
from trvae_scvi._math._two_way import connected, two_way

from ._expression import Expression
from ._strata import codes_of
from ._values import row_chunks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from scvi.data import AnnDataManager

    from trvae_scvi._math._likelihoods import Likelihood

    Block: TypeAlias = Any  # rows of a matrix, an array or a sparse one

__all__ = ["label_means", "logarithms", "one_count", "output_rates", "shares_beyond_cell_types"]

_TARGET_SUM = 1e4
_DRAWN_CELLS, _DRAWN_ENTRIES = 5000, 40_000_000
_COMPONENTS = 5
_PRIOR_CELLS = 10.0  # that count, as cells of other groups scatter, beside a group's own
_LEAST, _LEAST_SCALE, _LEAST_SHARE = 1e-100, 1e-9, 1e-3


def output_rates(
    manager: AnnDataManager, likelihood: Likelihood, strata: np.ndarray, shape: tuple[int, int]
) -> GroupRates:
    """Means of every condition and stratum, and how well they are known, as the decoder's output has them.

    Parameters
    ----------
    manager, likelihood
        Of the model.
    strata
        What cells of different conditions are compared within: a number for each.
    shape
        Numbers of conditions and strata.
    """
    moments, codes = _Moments(shape[0] * shape[1]), codes_of(manager, REGISTRY_KEYS.BATCH_KEY) * shape[1] + strata
    if not likelihood.models_counts:
        moments.add_all(manager, codes, None)
        per_event = np.ones(len(moments.n))
    else:
        totals = _totals(manager)
        moments.add_all(manager, codes, lambda x, rows: shares(x, totals[rows]))
        per_event = np.bincount(codes, 1.0 / totals, len(moments.n)) / np.maximum(moments.n, 1.0)
    free = np.maximum(moments.n - 1.0, 0.0)[:, None]
    if likelihood.models_counts:
        # what cells scatter more than counts of one rate do, in units of the squared mean
        excess = moments.squares - free * per_event[:, None] * moments.mean
        dispersion = np.maximum(_pooled(excess, free, moments.mean**2, shape), 0.0)
        scale = np.ones_like(dispersion)
    else:
        function = moments.mean * (1.0 - moments.mean) if likelihood.name == "bernoulli" else np.ones((1, 1))
        scale = _pooled(moments.squares, free, function, shape)
        scale = np.maximum(scale, max(_LEAST_SCALE * scale.max(), _LEAST))
        dispersion = np.zeros_like(scale)
    return GroupRates(
        moments.mean.reshape(*shape, -1),
        (per_event / np.maximum(moments.n, 1.0)).reshape(shape),
        scale,
        dispersion,
        moments.n.reshape(shape),
        _link(manager, likelihood),
    )


def _link(manager: AnnDataManager, likelihood: Likelihood) -> Literal["log", "softplus", "logit", "identity"]:
    if likelihood.models_counts:
        return "softplus" if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry else "log"
    return "logit" if likelihood.name == "bernoulli" else "identity"


def label_means(
    manager: AnnDataManager, likelihood: Likelihood, covariates: np.ndarray, shape: tuple[int, int]
) -> GroupMeans:
    """Means of every condition and label on the scale on which changes are told: `log1p` of counts per 10,000.

    Parameters
    ----------
    manager, likelihood
        Of the model.
    covariates
        A number for every cell's categorical covariates. What they add to all groups alike is taken off where groups
        share enough of them to tell, so that means are of the same ones.
    shape
        Numbers of conditions and labels.
    """
    n_groups, n_covariates = shape[0] * shape[1], int(covariates.max()) + 1
    moments = _Moments(n_groups * n_covariates)
    transform = (lambda x, rows: logarithms(x)) if likelihood.models_counts else None
    pairs = codes_of(manager, REGISTRY_KEYS.BATCH_KEY) * shape[1] + codes_of(manager, REGISTRY_KEYS.LABELS_KEY)
    moments.add_all(manager, pairs * n_covariates + covariates, transform)
    # a few cells do not tell how much cells scatter: beside them count those of the label under other conditions
    free = np.maximum(moments.n - 1.0, 0.0)[:, None]
    pooled = _pooled(moments.squares, free, np.ones((1, 1)), (shape[0], shape[1] * n_covariates))
    pooled = np.tile(pooled, (shape[0], 1))
    variance = (_PRIOR_CELLS * pooled + moments.squares) / (_PRIOR_CELLS + free)
    n = moments.n.reshape(n_groups, n_covariates)
    n_cells = np.maximum(moments.n, 1.0)[:, None]
    # what no cell shows may be there: half a count in all of them, or by far the smallest error of any gene
    least = _LEAST_SHARE * (variance / n_cells).mean(axis=1, keepdims=True)
    if likelihood.models_counts:
        least = 0.5 * (one_count(manager) / n_cells) ** 2
    error = np.maximum(variance / n_cells, least)
    mean, error = (values.reshape(n_groups, n_covariates, -1) for values in (moments.mean, error))
    mean, error = (mean[:, 0], error[:, 0]) if n_covariates == 1 else _adjusted(mean, error, n)
    return GroupMeans(mean.reshape(*shape, -1), error.reshape(*shape, -1), n.sum(axis=1).reshape(shape))


def one_count(manager: AnnDataManager) -> float:
    """What one count is on the scale of `log1p` of counts per 10,000, in a typical cell."""
    return float(np.log1p(_TARGET_SUM / np.median(_sums(manager))))


def _adjusted(mean: np.ndarray, error: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of groups and their squared standard errors, as if covariates were spread alike over those that share them.

    Parameters
    ----------
    mean, error
        Of every group and covariate, `p x c x g`.
    n
        Numbers of cells, `p x c`.
    """
    share = (n / np.maximum(n.sum(axis=1, keepdims=True), 1.0))[..., None]
    plain, plain_error = (share * mean).sum(axis=1), (share**2 * error).sum(axis=1)
    there = n > 0
    parts = connected(there)
    sizes = np.bincount(parts[0][parts[0] >= 0], minlength=1)
    known, columns = (part == np.argmax(sizes) for part in parts)
    if sizes.max() < 2 or columns.sum() < 2:
        return plain, plain_error
    weights = np.where(there[known][:, columns, None], 1.0 / np.maximum(error[known][:, columns], _LEAST), 0.0)
    top = weights.max(axis=(0, 1))
    whole = tuple(np.zeros(int(each.sum()), dtype=int) for each in (known, columns))
    fit = two_way(mean[known][:, columns], weights / top, (whole[0], whole[1]))
    everywhere = (n[known][:, columns].sum(axis=0) / n[known][:, columns].sum()) @ fit.columns
    plain[known], plain_error[known] = fit.rows + everywhere, np.maximum(fit.variance / top, plain_error[known])
    return plain, plain_error


def _pooled(squares: np.ndarray, free: np.ndarray, unit: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How much cells of a label scatter, `k x g`; of few cells as those of all labels do.

    Parameters
    ----------
    squares
        Sums of squared deviations of every group, `(s * k) x g`.
    free
        Their degrees of freedom, `(s * k) x 1`.
    unit
        In units of what, broadcastable to `(s * k) x g`.
    shape
        Numbers of conditions and labels.
    """
    total = np.broadcast_to(free * unit, squares.shape).reshape(*shape, -1).sum(axis=0)
    squares = squares.reshape(*shape, -1).sum(axis=0)
    of_gene = squares.sum(axis=0) / np.maximum(total.sum(axis=0), _LEAST)
    some = _PRIOR_CELLS * total.sum(axis=0) / max(free.sum(), 1.0)
    return (squares + some * of_gene) / np.maximum(total + some, _LEAST)


def shares_beyond_cell_types(manager: AnnDataManager, likelihood: Likelihood, n_conditions: int) -> np.ndarray:
    """Which share of a condition's difference from the others is not one that cells under one condition show, too.

    Other shares of cell types move the mean of a condition along the directions in which cell types differ. These are
    the first principal components of cells around the means of their conditions, on the scale on which changes are
    told; what lies along them may be an effect or not.

    Returns
    -------
    `n_conditions` numbers from 0 to 1, of up to 5,000 cells, as many as there are of small conditions and equally many
    of the others; 0 for a condition with too few.
    """
    x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    conditions = codes_of(manager, REGISTRY_KEYS.BATCH_KEY)
    n_cells = min(len(conditions), _DRAWN_CELLS, max(_DRAWN_ENTRIES // x.shape[1], 1))
    rows = _drawn(conditions, n_cells)
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


def _drawn(conditions: np.ndarray, n_cells: int) -> np.ndarray:
    """Positions of about so many cells, drawn so that the smallest conditions lose none."""
    n = np.bincount(conditions)
    sizes = np.sort(n)
    left = n_cells - np.concatenate([[0], np.cumsum(sizes)[:-1]])
    most = int(np.max(np.minimum(sizes, left // np.arange(len(sizes), 0, -1)), initial=1))
    order = np.random.default_rng(0).permutation(len(conditions))
    order = order[np.argsort(conditions[order], kind="stable")]
    place = np.arange(len(order)) - np.repeat(np.cumsum(n) - n, n)
    return np.sort(order[place < max(most, 1)])


def shares(x: Block, totals: np.ndarray) -> Block:
    """Counts as shares of their cells' totals (or multiples of their size factors)."""
    return sparse.diags_array(1.0 / totals) @ x if sparse.issparse(x) else x / totals[:, None]


def logarithms(x: Block) -> Block:
    """`log1p` of counts per 10,000."""
    x = x.astype(np.float64)
    scaled = shares(x, np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1.0) / _TARGET_SUM)
    return scaled.log1p() if sparse.issparse(scaled) else np.log1p(scaled)


class _Moments:
    """Means and squared deviations of the rows of groups, added up a block at a time."""

    def __init__(self, n_groups: int) -> None:
        self.n = np.zeros(n_groups)
        self._sums: Any = None  # of values and of their squares

    def add_all(
        self, manager: AnnDataManager, codes: np.ndarray, transform: Callable[[Block, slice], Block] | None
    ) -> None:
        """Pass through the expression that a model has registered."""
        x, start = manager.get_from_registry(REGISTRY_KEYS.X_KEY), 0
        x = x.tocsr() if sparse.issparse(x) else x
        self._sums = np.zeros((2, len(self.n), x.shape[1]))
        for block in row_chunks(x):
            rows = slice(start, start + block.shape[0])
            self._add(block if transform is None else transform(block, rows), codes[rows])
            start = rows.stop

    def _add(self, block: Block, codes: np.ndarray) -> None:
        present, places = np.unique(codes, return_inverse=True)  # of many groups few are in a block
        ones = np.ones(len(codes))
        members = sparse.csr_array((ones, (places, np.arange(len(codes)))), shape=(len(present), len(codes)))
        block = block.astype(np.float64)  # squares of small integers would not fit into their type
        squares = block.multiply(block) if sparse.issparse(block) else np.square(block)
        for sums, part in zip(self._sums, (block, squares), strict=True):
            added = members @ part
            sums[present] += np.asarray(added.todense()) if sparse.issparse(added) else added
        self.n += np.bincount(codes, minlength=len(self.n))

    @property
    def mean(self) -> np.ndarray:
        return self._sums[0] / np.maximum(self.n, 1.0)[:, None]

    @property
    def squares(self) -> np.ndarray:
        """Sums of squared deviations from the means."""
        return np.maximum(self._sums[1] - self._sums[0] * self.mean, 0.0)


def _totals(manager: AnnDataManager) -> np.ndarray:
    """Size factors, or total counts where there are none."""
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
        return np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY), dtype=np.float64).ravel()
    return _sums(manager)


def _sums(manager: AnnDataManager) -> np.ndarray:
    """Sums of the cells' values."""
    x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    sums = [np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in row_chunks(x)]
    return np.concatenate(sums)
