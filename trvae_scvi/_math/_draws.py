r"""Counts that are nearly all zero, drawn where they are not.

A Poisson count of rate h is positive with probability :math:`1 - e^{-h}`, a negative binomial one of size a and mean
:math:`a t` is a Poisson number, of rate :math:`h = a \log(1 + t)`, of clusters whose sizes are logarithmic with
parameter :math:`t / (1 + t)`. One uniform variable an entry decides whether there is anything; only where there may be
are special functions evaluated. The laws are exact: a uniform variable is single precision first, and gets the digits
of double precision where it is looked at closer.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_RATE", "bounded_theta", "draw_nb", "draw_poisson"]

MAX_RATE = 1e15  # beyond this NumPy's Poisson sampler refuses
_RESOLUTION = 2.0**-24  # of NumPy's uniform variables in single precision
_MAX_ODDS = 1e38  # stands for what single precision cannot hold
_FAR_ODDS = 1e12  # beyond this NumPy's logarithmic sampler loses its parameter's distance from 1
_MARGIN = 1.0001  # rounding of rates in single precision must not lose an entry


def bounded_theta(theta: np.ndarray) -> np.ndarray:
    """Inverse dispersions without 0 and infinity, for which formulas break down; the laws remain what they are."""
    return np.clip(theta, 1e-30, 1e20)


def draw_poisson(rate: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Poisson counts.

    Parameters
    ----------
    rate
        Array of any shape; nothing is drawn where it is not positive.
    rng
        Source of randomness.

    Returns
    -------
    Positions in the flattened array, increasing, and the counts there; all others are 0.
    """
    at, uniform = _candidates(rate, rng)
    counts = _poisson(np.take(rate, at).astype(np.float64), uniform, rng)
    return _positive(at, counts)


def draw_nb(size: np.ndarray, odds: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r"""Negative binomial counts: Poisson ones whose rate is :math:`t` times a Gamma variable of shape `a`.

    Parameters
    ----------
    size
        :math:`a`, positive, broadcastable to `odds`.
    odds
        :math:`t`, so that the mean is :math:`a t`; nothing is drawn where it is not positive.
    rng
        Source of randomness.

    Returns
    -------
    As from :func:`draw_poisson`.
    """
    with np.errstate(over="ignore"):
        mean = size * odds
    at, uniform = _candidates(mean, rng)  # as log(1 + t) <= t
    a = np.broadcast_to(size, mean.shape).flat[at].astype(np.float64)
    t = np.take(odds, at).astype(np.float64)
    t[np.isinf(t)] = _MAX_ODDS
    clusters = a * np.log1p(t)
    counts = np.zeros(len(at), np.int64)
    many = clusters > 1.0
    counts[many] = rng.poisson(np.minimum(rng.standard_gamma(a[many]) * t[many], MAX_RATE))
    n = np.zeros(len(at), np.int64)
    n[~many] = _poisson(clusters[~many], uniform[~many], rng)
    some = np.flatnonzero(n)
    if some.size:
        sizes = _logarithmic(np.repeat(t[some], n[some]), rng)
        counts[some] = np.add.reduceat(sizes, np.cumsum(n[some]) - n[some])
    return _positive(at, counts)


def _logarithmic(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Logarithmic numbers with parameter :math:`t / (1 + t)`."""
    far = t > _FAR_ODDS
    sizes = np.empty(len(t), np.int64)
    near = t[~far]
    sizes[~far] = rng.logseries(near / (1.0 + near))
    if far.any():
        # geometric with a random parameter q (Kemp 1981); only 1 - q is at hand so close to 1
        rest = np.exp(-rng.random(far.sum()) * np.log1p(t[far]))
        trials = rng.standard_exponential(far.sum()) / -np.log1p(-np.minimum(rest, np.nextafter(1.0, 0.0)))
        sizes[far] = 1 + np.minimum(trials, MAX_RATE).astype(np.int64)
    return sizes


def _candidates(mean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions where a count with at most this mean may be positive, and a uniform variable for each.

    A count is positive where its uniform variable is below that probability, which no mean exceeds.
    """
    uniform = rng.random(mean.shape, dtype=np.float32)
    with np.errstate(over="ignore"):
        at = np.flatnonzero(uniform <= mean * _MARGIN)
    return at, np.take(uniform, at) + _RESOLUTION * rng.random(len(at))


def _poisson(rate: np.ndarray, uniform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts, positive where `uniform` is below that probability; above a rate of 1 it is not looked at."""
    counts = np.zeros(len(rate), np.int64)
    many = rate > 1.0
    counts[many] = rng.poisson(np.minimum(rate[many], MAX_RATE))
    hit = ~many & (uniform < -np.expm1(-rate))
    # the uniform variable gives the first arrival; after it the process begins anew
    rest = rate[hit] + np.log1p(-uniform[hit])
    counts[hit] = 1 + rng.poisson(np.maximum(rest, 0.0))
    return counts


def _positive(at: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return at[counts > 0], counts[counts > 0]
