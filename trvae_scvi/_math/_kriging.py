r"""What a condition does to one label only, foretold from the labels that are like it: Gaussian process regression.

.. math::

    v_{\cdot g} \sim \mathrm{Normal}\bigl(0,\, V_g (\rho R + (1 - \rho) I)\bigr),
    \qquad R_{kl} \propto \exp(-D_{kl}^2 / \lambda)

are the deviations of the labels from what they share, gene by gene, with D how far two labels are apart where all were
measured, and R such that measured labels vary by V around their mean. A share :math:`\rho` of them repeats in labels
that are alike, the rest is a label's own (geostatistics calls this kriging with a nugget). Share and length scale are
averaged over a grid by their restricted likelihood, so that two labels, which tell nothing of either, still count for
something and never for all. R is not centred: labels that all deviate alike correct what they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist, squareform

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["deviation_of_new_label"]

_LENGTHS = 0.5, 1.0, 2.0, 4.0, 16.0  # of squared distances, beside their median; the last is nearly a straight line
_SHARES = 0.0, 0.25, 0.5, 0.75, 0.9, 1.0
_GENES = 100  # that the likelihood counts for at most, as genes respond together
_MOST_OF_NEW = 4.0  # variance of the new label around the others' mean, beside theirs
_TINY = 1e-12


def deviation_of_new_label(
    change: np.ndarray, error: np.ndarray, shared: np.ndarray, variance: np.ndarray, states: np.ndarray
) -> np.ndarray:
    """By how much the change of a label that was not measured is expected to differ from what labels share.

    Parameters
    ----------
    change, error
        Changes of the measured labels and their squared standard errors, `k x g`.
    shared
        What labels share, `g`.
    variance
        Of labels around it, `g`.
    states
        Means of these labels, and of the new one behind them, before the change, `k + 1 x g`.

    Returns
    -------
    Posterior mean of the deviation, `g`; 0 where there are less than two labels, or all are the same.
    """
    n, n_genes = change.shape
    if n < 2:
        return np.zeros(n_genes)
    of_gene = np.maximum(error.mean(axis=0), _TINY * (error.mean() or 1.0))
    # errors as a product, so that one decomposition does for all genes
    scale = 1.0 / np.sqrt(np.maximum((error / of_gene).mean(axis=1), _TINY))
    log_likelihoods, deviations = [], []
    for like, like_new in _kernels(states):
        values, vectors = np.linalg.eigh(scale[:, None] * like * scale)
        ones, rotated, misfit = (vectors.T @ (scale * of.T).T for of in (np.ones(n), change, change - shared))
        precision = 1.0 / (np.maximum(values, 0.0)[:, None] * variance + of_gene)
        weighted = ones[:, None] * precision
        of_mean = ones @ weighted
        squares = (rotated**2 * precision).sum(axis=0) - (rotated * weighted).sum(axis=0) ** 2 / of_mean
        log_likelihoods.append(-0.5 * (np.log(of_mean) - np.log(precision).sum(axis=0) + squares).sum())
        deviations.append(variance * ((like_new * scale) @ vectors @ (precision * misfit)))
    if not deviations:
        return np.zeros(n_genes)
    relative = np.array(log_likelihoods) - max(log_likelihoods)
    weights = np.exp(relative * min(1.0, _GENES / n_genes))
    return weights / weights.sum() @ np.array(deviations)


def _kernels(states: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Covariances of measured labels, which vary by 1 around their mean or less, and with the new one: `k x k`, `k`."""
    n = len(states) - 1
    distances = pdist(states, "sqeuclidean")
    typical, squares = np.median(distances), squareform(distances)
    centre = np.eye(n) - 1.0 / n
    for length in _LENGTHS if typical > 0 else ():
        like = np.exp(-squares / (length * typical))
        spread = np.trace(centre @ like[:n, :n] @ centre) / (n - 1)
        # a label far from all others is not extrapolated to without end
        of_new = like[n, n] - 2.0 * like[n, :n].mean() + like[:n, :n].mean()
        spread = max(spread, of_new / _MOST_OF_NEW)
        if spread > _TINY:
            for share in _SHARES:
                repeats = share * like / spread
                yield repeats[:n, :n] + (1.0 - share) * np.eye(n), repeats[:n, n]
