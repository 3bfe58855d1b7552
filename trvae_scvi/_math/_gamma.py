r"""Gamma variables of mean 1, far into their tails.

Of a rate :math:`\lambda \sim \mathrm{Gamma}(\theta, \text{rate } \theta/\mu)`, :math:`u = \log(\lambda / \mu)` has a
law that depends on :math:`\theta` alone. Its density is log-concave, and so are its tails :math:`P(u)` and
:math:`Q(u) = 1 - P(u)`. They are kept as logarithms: a count that its mean does not explain at all may have one of
:math:`e^{-10^6}`, and with a small :math:`\theta` nearly all of the law is below the smallest number there is.
"""

from __future__ import annotations

import numpy as np
from scipy import special

__all__ = ["draw_log_rate", "match_log_rate"]

_UNDERFLOW = 1e-290  # SciPy's tails are good to here
_TINY = 1e-17  # below, all but the first term of the series is rounded away
_LARGE = 1e4  # beyond, SciPy's series need more terms than it takes
_MAX_STEPS = 50


def draw_log_rate(theta: np.ndarray, x: np.ndarray, mu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draws of :math:`u` given counts `x` that are Poisson with rate :math:`\lambda`; `n` values each."""
    a = theta + x
    # Gamma(a) is Gamma(a + 1) times U^(1/a), whose logarithm exists also where it underflows itself
    return np.log(rng.standard_gamma(a + 1.0) / (theta + mu)) - rng.standard_exponential(len(a)) / a


def match_log_rate(u: np.ndarray, theta_source: np.ndarray, theta_target: np.ndarray) -> np.ndarray:
    r"""The :math:`u` with the quantile under `theta_target` that the given one has under `theta_source`."""
    lower = _log_tail(u, theta_source, np.zeros(len(u), bool))
    upper = lower > np.log(0.5)  # the smaller tail keeps its digits
    log_tail = lower
    log_tail[upper] = _log_tail(u[upper], theta_source[upper], np.ones(upper.sum(), bool))
    return _quantile(log_tail, theta_target, upper)


def _log_density(u: np.ndarray, theta: np.ndarray) -> np.ndarray:
    constant = 0.5 * np.log(theta / (2.0 * np.pi)) - 1.0 / (12.0 * theta) + 1.0 / (360.0 * theta**3)
    small = theta < 100.0  # elsewhere these terms are large and cancel
    constant[small] = special.xlogy(theta[small], theta[small]) - theta[small] - special.gammaln(theta[small])
    return constant + theta * (u - np.expm1(u))


def _log_tail(u: np.ndarray, theta: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Logarithm of `Q(u)` where `upper`, of `P(u)` elsewhere."""
    result = np.empty_like(u)
    y = theta * np.exp(u)
    large, tiny = theta > _LARGE, y < _TINY
    near = ~(large | tiny)
    high, low = near & upper, near & ~upper
    result[high] = special.gammaincc(theta[high], y[high])
    result[low] = special.gammainc(theta[low], y[low])
    far = near & (result < _UNDERFLOW)
    near &= ~far
    tiny &= ~large
    result[near] = np.log(result[near])
    result[far] = _log_far_tail(u[far], theta[far], upper[far])
    result[large] = _log_tail_of_large(u[large], theta[large], upper[large])
    result[tiny] = _log_tail_of_tiny(np.log(theta[tiny]) + u[tiny], theta[tiny], upper[tiny])
    return result


def _log_far_tail(u: np.ndarray, theta: np.ndarray, upper: np.ndarray) -> np.ndarray:
    # over the density: the first terms of Q's continued fraction and of a geometric series for P
    distance = np.log1p(np.abs(theta * np.expm1(u)))
    return _log_density(u, theta) - distance + np.where(upper, 0.0, np.log1p(1.0 / theta))


def _log_tail_of_tiny(log_y: np.ndarray, theta: np.ndarray, upper: np.ndarray) -> np.ndarray:
    lower = np.minimum(theta * log_y - special.gammaln(theta + 1.0), -_UNDERFLOW)
    return np.where(upper, np.log(-np.expm1(lower)), lower)


def _log_tail_of_large(u: np.ndarray, theta: np.ndarray, upper: np.ndarray) -> np.ndarray:
    # Temme's uniform expansion (1979), to its first term; it cancels where the other one is good
    eta = np.sign(u) * np.sqrt(2.0 * np.maximum(np.expm1(u) - u, 0.0))
    small = np.abs(eta) < 1e-3
    one = np.where(small, 1.0, eta)
    term = np.where(small, eta / 12.0 - 1.0 / 3.0, 1.0 / np.expm1(np.where(small, 1.0, u)) - 1.0 / one)
    sign = np.where(upper, 1.0, -1.0)
    z = eta * np.sqrt(theta)
    far = sign * z > 100.0
    z = np.where(far, 0.0, z)
    normal = special.log_ndtr(-sign * z)
    log_ratio = -0.5 * z**2 - 0.5 * np.log(2.0 * np.pi * theta) - normal
    result = normal + np.log1p(np.where(far, 0.0, sign * term * np.exp(log_ratio)))
    result[far] = _log_far_tail(u[far], theta[far], upper[far])
    return result


def _quantile(log_tail: np.ndarray, theta: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Newton's method, which comes to a level of a concave function from below and stays there."""
    # P and Q are at most exp(-theta (e^u - 1 - u)), and P at most the first term of its series
    c = -log_tail / theta
    bound = np.where(upper, np.log1p(np.sqrt(2.0 * c) + c), -np.sqrt(2.0 * c) - c)
    log_lower = np.where(upper, np.log1p(-np.exp(np.minimum(log_tail, -0.5))), log_tail)
    log_y = (log_lower + special.gammaln(theta + 1.0)) / theta
    series = log_y - np.log(theta)
    u = np.where(upper, np.where(log_y < -1.0, series, bound), np.maximum(bound, series))
    rest = np.arange(len(u))
    for _ in range(_MAX_STEPS):
        at, shape, side = u[rest], theta[rest], upper[rest]
        tail = _log_tail(at, shape, side)
        error = tail - log_tail[rest]
        step = error * np.exp(tail - _log_density(at, shape))
        u[rest] = np.where(side, np.minimum(at + step, bound[rest]), at - step)
        rest = rest[np.abs(error) > 1e-7 * np.maximum(1.0, np.abs(tail))]
        if not len(rest):
            break
    return u
