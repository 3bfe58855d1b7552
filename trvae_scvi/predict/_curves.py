"""By how much means change if the decoder's output is moved, gene by gene: to move it as far as changes are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from trvae_scvi.data._group_means import shares

if TYPE_CHECKING:
    from trvae_scvi._math._likelihoods import Decoded, Likelihood
    from trvae_scvi.data._cells import Cells

    from ._predictor import Predictor

__all__ = ["response_curves", "shifts_for"]

_SHIFTS = np.array([-4, -3, -2, -1.5, -1, -0.6, -0.3, 0, 0.3, 0.6, 1, 1.5, 2, 3, 4, 6, 8], dtype=np.float64)
_TARGET_SUM = 1e4
_DRAWN_CELLS = 500  # fewer are changed several times
_FEW = 30  # counts of a gene in all draws that are too few to see what becomes of them
_STEPS, _LARGEST_STEP, _CLOSE = 30, 0.5, 1e-3
_FLAT = 0.1  # a slope below which a gene costs nothing to move, but moving it brings nothing either


def response_curves(predictor: Predictor, cells: Cells) -> dict[str, np.ndarray | None]:
    """What :func:`shifts_for` takes, of some cells under their own condition.

    Returns
    -------
    ``curves``
        Changes of the cells' means for every one of some shifts of the output, `shifts x g`, rising with them; of
        counts that is mean log1p(counts per 10,000), totals as they are. ``None`` where a shift is the change.
    ``shares``
        Shares of the genes in all expected counts, `g`; ``None`` where they need not sum to 1.
    """
    likelihood = predictor.module.likelihood
    if likelihood.name == "mse":
        return {"curves": None, "shares": None}
    sums: Any = 0.0
    expected: Any = 0.0
    seen: Any = 0.0
    rng = np.random.default_rng(0)
    for x, decoded in predictor.decoded(cells):
        if likelihood.models_counts:
            for _ in range(-(-_DRAWN_CELLS // len(cells.obs))):
                sums = sums + _of_counts(x, decoded, likelihood, rng)
        else:
            output = logit(np.clip(decoded.mu, 1e-6, 1.0 - 1e-6))
            sums = sums + np.stack([expit(output + shift).sum(axis=0, dtype=np.float64) for shift in _SHIFTS])
        expected = expected + decoded.mu.sum(axis=0, dtype=np.float64)
        seen = seen + x.sum(axis=0, dtype=np.float64)
    if not likelihood.models_counts:
        curves = sums / len(cells.obs)
        return {"curves": (curves - curves[_SHIFTS == 0]).astype(np.float32), "shares": None}
    n_times = -(-_DRAWN_CELLS // len(cells.obs))
    drawn, likely = sums / (len(cells.obs) * n_times)
    # a gene that is hardly seen is seen well once it is moved up, and many counts of it are not one
    are_few = (seen < _FEW) & (n_times * expected * np.exp(_SHIFTS)[:, None] < _FEW)
    curves = np.where(are_few, likely - likely[_SHIFTS == 0], drawn - drawn[_SHIFTS == 0])
    is_closed = predictor.schema.size_factor_key is None
    # draws let a mean fall now and then where it should rise
    curves = np.maximum.accumulate(curves, axis=0).astype(np.float32)
    return {"curves": curves, "shares": expected / expected.sum() if is_closed else None}


def _of_counts(x: np.ndarray, decoded: Decoded, likelihood: Likelihood, rng: np.random.Generator) -> np.ndarray:
    """Sums over cells under every shift, drawn, and as far as a gene is seen once or not at all, `2 x shifts x g`."""
    totals = np.maximum(x.sum(axis=1), 1.0) / _TARGET_SUM
    of_one = np.log1p(1.0 / totals)
    sums = np.zeros((2, len(_SHIFTS), x.shape[1]))
    for i, shift in enumerate(_SHIFTS):
        mu = decoded.mu * np.exp(shift)
        block = likelihood.counterfactual(x, decoded, decoded._replace(mu=mu), rng, nonnegative=True)
        sums[0, i] = np.asarray(shares(block.astype(np.float64), totals).log1p().sum(axis=0)).ravel()
        sums[1, i] = of_one @ -np.expm1(-mu.astype(np.float64))
    return sums


def shifts_for(
    changes: np.ndarray, curves: np.ndarray | None, shares: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts of the output for changes of means, and the changes that these make, all `t x g`.

    Where the total of a cell is given, not all changes can be had together: those of some genes would leave too few or
    too many counts for the others. The shifts are then the ones that can, with the least squared misfit of the changes
    to first order, which is at the cost of the genes with the most counts.
    """
    if curves is None:
        return changes, changes
    found, slopes = np.zeros_like(changes), np.gradient(curves.astype(np.float64), _SHIFTS, axis=0)
    for g in range(changes.shape[1]):
        found[:, g] = np.interp(changes[:, g], curves[:, g], _SHIFTS)
    found = np.where(changes == 0.0, 0.0, found)
    for t in np.flatnonzero(changes.any(axis=1)) if shares is not None else ():
        shifts = found[t]  # a view
        for _ in range(_STEPS):
            part = shares * np.exp(shifts)
            if abs(part.sum() - 1.0) < _CLOSE:
                break
            direction = part / (_at(shifts, slopes) ** 2 + _FLAT**2)
            step = (part.sum() - 1.0) / (part @ direction) * direction
            shifts -= np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
    return found, np.stack([_at(shifts, curves) for shifts in found])


def _at(shifts: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Values of every gene at a shift of its own, `g`, between those of a table, `shifts x g`."""
    shifts = np.clip(shifts, _SHIFTS[0], _SHIFTS[-1])
    right = np.clip(np.searchsorted(_SHIFTS, shifts), 1, len(_SHIFTS) - 1)
    share = (shifts - _SHIFTS[right - 1]) / (_SHIFTS[right] - _SHIFTS[right - 1])
    genes = np.arange(len(shifts))
    return (1.0 - share) * table[right - 1, genes] + share * table[right, genes]
