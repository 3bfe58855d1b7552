"""Posterior means under a prior that is learned from all estimates: adaptive shrinkage.

The prior is a scale mixture of normals around 0 with a point mass there (Stephens 2017,
doi:10.1093/biostatistics/kxw041). Its weights are found by expectation maximisation of a concave likelihood, which has
one maximum.
"""

from __future__ import annotations

import numpy as np

__all__ = ["shrinkage"]

_EM_STEPS = 200
_TINY = 1e-12


def shrinkage(estimate: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means, as shares of the estimates, and posterior variances, under a prior learned from all of them.

    Parameters
    ----------
    estimate, noise
        `g` estimates and their variances.
    """
    noise = np.maximum(noise, _TINY)
    low, high = noise.min() / 100.0, max(noise.max(), (estimate**2).max())
    grid = np.concatenate([[0.0], low * 2.0 ** np.arange(np.ceil(np.log2(high / low)) + 2)])
    total = grid[:, None] + noise
    log_density = -0.5 * (np.log(total) + estimate**2 / total)
    density = np.exp(log_density - log_density.max(axis=0))
    share = np.full(len(grid), 1.0 / len(grid))
    for _ in range(_EM_STEPS):
        before = share
        # the mean over estimates of their posteriors, none of which is needed by itself
        share = share * (density @ (1.0 / (share @ density))) / density.shape[1]
    posterior = before[:, None] * density
    posterior /= posterior.sum(axis=0)
    kept = grid[:, None] / total
    factor = (posterior * kept).sum(axis=0)
    second = (posterior * (kept * noise + (kept * estimate) ** 2)).sum(axis=0)
    return factor, second - (factor * estimate) ** 2
