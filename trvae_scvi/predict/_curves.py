"""By how much means change if the decoder's output is moved, gene by gene: to move it as far as a change is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from trvae_scvi.data._group_means import shares

if TYPE_CHECKING:
    from trvae_scvi.data._cells import Cells

    from ._predictor import Predictor

__all__ = ["response_curves", "shifts_for"]

_SHIFTS = np.array([-6, -4, -3, -2, -1.5, -1, -0.6, -0.3, 0, 0.3, 0.6, 1, 1.5, 2, 3, 4, 6, 8], dtype=np.float64)
_TARGET_SUM = 1e4


def response_curves(predictor: Predictor, cells: Cells) -> np.ndarray | None:
    """Changes of the cells' means for every one of some shifts of the output, `shifts x g`, rising with them.

    Of counts that is mean log1p(counts per 10,000), totals as they are. ``None`` where a shift is the change.
    """
    likelihood = predictor.module.likelihood
    if likelihood.name == "mse":
        return None
    sums: Any = 0.0
    rng = np.random.default_rng(0)
    for x, decoded in predictor.decoded(cells):
        if likelihood.models_counts:
            totals = np.maximum(x.sum(axis=1), 1.0) / _TARGET_SUM
            moved = [
                likelihood.counterfactual(
                    x, decoded, decoded._replace(mu=decoded.mu * np.exp(shift)), rng, nonnegative=True
                )
                for shift in _SHIFTS
            ]
            values = [shares(block.astype(np.float64), totals).log1p() for block in moved]
        else:
            values = [expit(logit(np.clip(decoded.mu, 1e-6, 1.0 - 1e-6)) + shift) for shift in _SHIFTS]
        sums = sums + np.stack([np.asarray(block.sum(axis=0), dtype=np.float64).ravel() for block in values])
    curves = sums / len(cells.obs)
    # draws let a mean fall now and then where it should rise
    return np.maximum.accumulate(curves - curves[_SHIFTS == 0], axis=0).astype(np.float32)


def shifts_for(changes: np.ndarray, curves: np.ndarray | None) -> np.ndarray:
    """Shifts of the output for changes of means, both `t x g`."""
    if curves is None:
        return changes
    found = np.zeros_like(changes)
    for g in range(changes.shape[1]):
        found[:, g] = np.interp(changes[:, g], curves[:, g], _SHIFTS)
    return np.where(changes == 0.0, 0.0, found)
