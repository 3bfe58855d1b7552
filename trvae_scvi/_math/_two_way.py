r"""Weighted least squares in a two-way layout, exactly, gene by gene.

.. math::

    y_{skg} = a_{kg} + m_{sg} + \epsilon_{skg}, \qquad \mathrm{Var}(\epsilon_{skg}) = 1 / w_{skg}

with groups missing anywhere. Of the two sides the longer one is eliminated, which leaves a system with a Laplacian as
large as the shorter one. Only differences within connected parts can be estimated, so that m has weighted mean 0 in
each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

__all__ = ["TwoWay", "connected", "two_way"]

_TINY = 1e-12


class TwoWay(NamedTuple):
    """What :func:`two_way` finds.

    Attributes
    ----------
    rows, columns
        m (`s x g`), of weighted mean 0 in each connected part, and a (`k x g`).
    variance
        Of m, `s x g`, if the weights are inverse variances.
    leverage
        Share of a group in its own fitted value, `s x k x g`.
    """

    rows: np.ndarray
    columns: np.ndarray
    variance: np.ndarray
    leverage: np.ndarray


def connected(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the connected parts that rows and columns belong to, -1 where there is nothing to compare with.

    Parameters
    ----------
    there
        Which groups there are, `s x k` booleans.
    """
    there = there & (there.sum(axis=0) > 1)
    n_rows = len(there)
    graph = sparse.bmat([[None, there.astype(int)], [there.T.astype(int), None]])
    parts = connected_components(graph, directed=False)[1]
    alone = ~np.concatenate([there.any(axis=1), there.any(axis=0)])
    _, numbers = np.unique(np.where(alone, -1, parts), return_inverse=True)
    numbers = numbers - (1 if alone.any() else 0)
    return numbers[:n_rows], numbers[n_rows:]


def two_way(y: np.ndarray, weights: np.ndarray, parts: tuple[np.ndarray, np.ndarray]) -> TwoWay:
    """Fit the model of this file.

    Parameters
    ----------
    y, weights
        `s x k x g`; a weight of 0 leaves a group out.
    parts
        As from :func:`connected`; every row and column must belong to one.
    """
    turned = len(parts[0]) > len(parts[1])
    own, other = parts[::-1] if turned else parts
    order = (2, 1, 0) if turned else (2, 0, 1)
    y, weights = (values.transpose(order) for values in (y, weights))  # the shorter side first
    of_own, of_other = (np.maximum(weights.sum(axis=axis), _TINY) for axis in (2, 1))
    member = np.equal.outer(own, np.unique(own)).astype(float)
    total = of_own @ member
    shares = weights / of_other[:, None]
    pinned = of_own[..., None] * member / np.sqrt(total)[:, None]
    laplacian = -weights @ shares.swapaxes(1, 2) + pinned @ pinned.swapaxes(1, 2)
    diagonal = np.arange(len(own))
    laplacian[:, diagonal, diagonal] += of_own
    inverse = np.linalg.inv(laplacian)
    centres = (shares * y).sum(axis=1)
    right = (weights * (y - centres[:, None])).sum(axis=2)
    short = np.einsum("gij,gj->gi", inverse, right)
    long = centres - (shares * short[..., None]).sum(axis=1)
    spread = inverse @ shares
    through = (shares * spread).sum(axis=1)
    own_variance = inverse[:, diagonal, diagonal]
    fitted = own_variance[..., None] - 2.0 * spread + (1.0 / of_other + through)[:, None]
    leverage = np.clip(weights * fitted, 0.0, 1.0)
    if not turned:
        rows, columns, variance = short, long, own_variance - 1.0 / total[:, own]
    else:
        weighted = (of_other * long) @ np.equal.outer(other, np.unique(other)) / total
        rows, columns = long - weighted[:, other], short + weighted[:, own]
        variance = 1.0 / of_other + through - 2.0 / total[:, other]
    back = (2, 1, 0) if turned else (1, 2, 0)
    return TwoWay(rows.T, columns.T, np.maximum(variance, 0.0).T, leverage.transpose(back))
