r"""Counterfactual counts: abduction, action, prediction.

A cell's count :math:`x` is explained by the source condition's mean :math:`\mu_s`; what the mean leaves
over (the latent rate :math:`\lambda`) is kept, and only what the condition changes is changed. Every
function draws :math:`x'` such that, for fixed means, :math:`x \sim F_s` implies :math:`x' \sim F_t`
exactly, and returns :math:`x` itself where source and target agree.

Arrays are NumPy's, `n` cells x `g` genes, because NumPy draws every distribution needed from one seeded
generator, so that a prediction does not depend on the device the decoder ran on.
"""

from __future__ import annotations

import numpy as np

from ._draws import MAX_RATE, bounded_theta, draw_nb, draw_poisson
from ._gamma import draw_log_rate, match_log_rate

__all__ = ["counterfactual_nb", "counterfactual_normal", "counterfactual_poisson", "counterfactual_zinb"]

_TINY = 1e-30


def counterfactual_nb(
    x: np.ndarray,
    mu_source: np.ndarray,
    mu_target: np.ndarray,
    theta_source: np.ndarray,
    theta_target: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    r"""Negative binomial counts under the target condition.

    The model is :math:`\lambda \sim \mathrm{Gamma}(\theta, \text{rate } \theta/\mu)`,
    :math:`x \mid \lambda \sim \mathrm{Poisson}(\lambda)`, so that
    :math:`\lambda \mid x \sim \mathrm{Gamma}(\theta_s + x, \text{rate } \theta_s/\mu_s + 1)`. With one theta
    the target's rate is :math:`\lambda' = r \lambda`, :math:`r = \mu_t / \mu_s`; with two it is
    :math:`\lambda' = G_t^{-1}(G_s(\lambda))`, G the Gamma distribution functions. Given both rates, x is thinned
    to :math:`\mathrm{Binomial}(x, \lambda'/\lambda)` or :math:`\mathrm{Poisson}(\lambda' - \lambda)` is added.

    Parameters
    ----------
    x
        `n x g` counts.
    mu_source, mu_target
        `n x g` positive means.
    theta_source, theta_target
        Inverse dispersions, broadcastable to `n x g`.
    rng
        Source of randomness.

    Returns
    -------
    `n x g` counts of the dtype of `x`.
    """
    x, mu_source, mu_target = _counts(x), _positive(mu_source), _positive(mu_target)
    theta_source, theta_target = bounded_theta(theta_source), bounded_theta(theta_target)
    one = theta_source == theta_target
    if one.all():
        return _one_theta(x, mu_source, mu_target, theta_source, rng)
    result = x.copy()
    one = np.broadcast_to(one, x.shape)
    thetas = [np.broadcast_to(theta, x.shape) for theta in (theta_source, theta_target)]
    if one.any():
        result[one] = _one_theta(x[one], mu_source[one], mu_target[one], thetas[0][one], rng)
    two = np.flatnonzero(~one)
    wide = [np.take(values, two).astype(np.float64) for values in (mu_source, mu_target, *thetas)]
    _two_thetas(result, two, wide[0], wide[1], wide[2], wide[3], rng)
    return result


def _one_theta(
    x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, theta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    result = _thinned(x, mu_source, mu_target, rng)
    # Poisson(c lambda) with lambda ~ Gamma(a, rate b) is negative binomial with size a and mean a c / b
    with np.errstate(over="ignore"):
        odds = (mu_target - mu_source) / (theta + mu_source)
    _add(result, *draw_nb(theta + x, odds, rng))
    return result


def _thinned(x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of the counts, each event kept with probability `mu_target / mu_source` where that is below 1."""
    result = x.copy()
    counted = np.flatnonzero(x != 0)
    ratio = np.take(mu_target, counted).astype(np.float64) / np.take(mu_source, counted)
    at, ratio = counted[ratio < 1.0], ratio[ratio < 1.0]
    counts = np.take(x, at).astype(np.int64)
    kept = (rng.random(len(at)) < ratio).astype(np.int64)  # of single events, which most are
    many = counts > 1
    kept[many] = rng.binomial(counts[many], ratio[many])
    result.reshape(-1)[at] = kept
    return result


def _add(x: np.ndarray, at: np.ndarray, counts: np.ndarray) -> None:
    """Add counts at positions of the flattened array, a contiguous one, in place."""
    flat = x.reshape(-1)
    if x.dtype.kind in "iu":
        counts = np.minimum(counts, np.iinfo(x.dtype).max - np.take(flat, at))
    flat[at] += counts.astype(x.dtype)


def _two_thetas(
    x: np.ndarray,
    at: np.ndarray,
    mu_source: np.ndarray,
    mu_target: np.ndarray,
    theta_source: np.ndarray,
    theta_target: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Change counts at positions of the flattened array, in place; the rest are values there."""
    counts = np.take(x, at).astype(np.int64)
    u = draw_log_rate(theta_source, counts, mu_source, rng)
    log_rate = match_log_rate(u, theta_source, theta_target) + np.log(mu_target)
    log_ratio = log_rate - u - np.log(mu_source)
    thin = (log_ratio < 0.0) & (counts > 0)
    x.reshape(-1)[at[thin]] = rng.binomial(counts[thin], np.exp(log_ratio[thin]))
    more = log_ratio > 0.0
    added = np.exp(np.minimum(log_rate[more], np.log(MAX_RATE))) * -np.expm1(-log_ratio[more])
    _add(x, at[more], rng.poisson(added))


def counterfactual_poisson(
    x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Poisson counts under the target condition: thinned, or with Poisson counts added.

    Shapes as in :func:`counterfactual_nb`.
    """
    x, mu_source, mu_target = _counts(x), _positive(mu_source), _positive(mu_target)
    result = _thinned(x, mu_source, mu_target, rng)
    _add(result, *draw_poisson(mu_target - mu_source, rng))
    return result


def counterfactual_zinb(
    x: np.ndarray,
    mu_source: np.ndarray,
    mu_target: np.ndarray,
    theta_source: np.ndarray,
    theta_target: np.ndarray,
    pi_source: np.ndarray,
    pi_target: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    r"""Zero-inflated negative binomial counts under the target condition.

    Whether an observed zero is an extra one is drawn from its posterior; the uniform variable behind
    that draw decides whether the target has an extra zero too. A count that appears where the source
    had an extra zero is a fresh draw, every other one follows :func:`counterfactual_nb`.

    Parameters
    ----------
    pi_source, pi_target
        `n x g` probabilities of an extra zero; the rest as in :func:`counterfactual_nb`.
    """
    x, mu_source, mu_target = _counts(x), _positive(mu_source), _positive(mu_target)
    theta_source, theta_target = bounded_theta(theta_source), bounded_theta(theta_target)
    with np.errstate(over="ignore"):
        nb_zero = np.exp(theta_source * -np.log1p(mu_source / theta_source))
        odds_target = mu_target / theta_target
    extra_probability = pi_source / np.maximum(pi_source + (1.0 - pi_source) * nb_zero, _TINY)
    extra = (x == 0) & (rng.random(x.shape) < extra_probability)
    uniform = rng.random(x.shape)
    level = np.where(extra, pi_source * uniform, pi_source + (1.0 - pi_source) * uniform)
    extra_target = level < pi_target
    result = counterfactual_nb(x, mu_source, mu_target, theta_source, theta_target, rng)
    result[extra | extra_target] = 0
    appear = extra & ~extra_target
    _add(result, *draw_nb(theta_target, np.where(appear, odds_target, 0.0), rng))
    return result


def counterfactual_normal(
    x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, *, nonnegative: bool
) -> np.ndarray:
    """Values under the target condition, `x + mu_target - mu_source`, clipped at 0 if `nonnegative`."""
    result = x + (mu_target - mu_source)
    return np.maximum(result, 0.0) if nonnegative else result


def _counts(x: np.ndarray) -> np.ndarray:
    """Whole numbers, also of counts that came back from logarithms a little off."""
    return x if x.dtype.kind in "iu" else np.minimum(np.rint(x), MAX_RATE)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.asarray(values), _TINY)
