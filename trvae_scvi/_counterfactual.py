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
from scipy import special

__all__ = ["counterfactual_nb", "counterfactual_normal", "counterfactual_poisson", "counterfactual_zinb"]

_TINY = np.finfo(np.float64).tiny
_MAX_RATE = 1e15  # beyond this NumPy's Poisson sampler refuses


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
    counts = x.astype(np.int64)
    mu_source, mu_target = _positive(mu_source), _positive(mu_target)
    theta_source = np.broadcast_to(_positive(theta_source), x.shape)
    theta_target = np.broadcast_to(_positive(theta_target), x.shape)
    result = counts.copy()
    one = theta_source == theta_target
    ratio = mu_target / mu_source
    thin = one & (ratio < 1.0) & (counts > 0)
    result[thin] = rng.binomial(counts[thin], ratio[thin])
    add = one & (ratio > 1.0)
    # Poisson(c lambda) with lambda ~ Gamma(a, rate b) is negative binomial with size a and success b / (b + c)
    rate = theta_source[add] / mu_source[add] + 1.0
    result[add] += rng.negative_binomial(theta_source[add] + counts[add], rate / (rate + ratio[add] - 1.0))
    two = ~one
    if two.any():
        result[two] = _two_thetas(
            counts[two], mu_source[two], mu_target[two], theta_source[two], theta_target[two], rng
        )
    return result.astype(x.dtype)


def _two_thetas(
    x: np.ndarray,
    mu_source: np.ndarray,
    mu_target: np.ndarray,
    theta_source: np.ndarray,
    theta_target: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    rate = rng.gamma(theta_source + x, 1.0 / (theta_source / mu_source + 1.0))
    scaled = rate * theta_source / mu_source
    lower = special.gammainc(theta_source, scaled)
    upper = special.gammaincc(theta_source, scaled)
    # the smaller tail keeps its digits
    quantile = np.where(
        lower < 0.5, special.gammaincinv(theta_target, lower), special.gammainccinv(theta_target, upper)
    )
    target_rate = quantile * mu_target / theta_target
    result = x.copy()
    thin = (target_rate < rate) & (x > 0)
    result[thin] = rng.binomial(x[thin], target_rate[thin] / rate[thin])
    add = target_rate > rate
    result[add] += rng.poisson(np.minimum(target_rate[add] - rate[add], _MAX_RATE))
    return result


def counterfactual_poisson(
    x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Poisson counts under the target condition: thinned, or with Poisson counts added.

    Shapes as in :func:`counterfactual_nb`.
    """
    counts = x.astype(np.int64)
    mu_source, mu_target = _positive(mu_source), _positive(mu_target)
    result = counts.copy()
    thin = (mu_target < mu_source) & (counts > 0)
    result[thin] = rng.binomial(counts[thin], mu_target[thin] / mu_source[thin])
    add = mu_target > mu_source
    result[add] += rng.poisson(np.minimum(mu_target[add] - mu_source[add], _MAX_RATE))
    return result.astype(x.dtype)


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
    theta_source = np.broadcast_to(_positive(theta_source), x.shape)
    theta_target = np.broadcast_to(_positive(theta_target), x.shape)
    pi_source, pi_target = np.asarray(pi_source, np.float64), np.asarray(pi_target, np.float64)
    nb_zero = np.exp(theta_source * -np.log1p(_positive(mu_source) / theta_source))
    extra_probability = pi_source / np.maximum(pi_source + (1.0 - pi_source) * nb_zero, _TINY)
    extra = (x == 0) & (rng.random(x.shape) < extra_probability)
    uniform = rng.random(x.shape)
    level = np.where(extra, pi_source * uniform, pi_source + (1.0 - pi_source) * uniform)
    extra_target = level < pi_target
    result = counterfactual_nb(x, mu_source, mu_target, theta_source, theta_target, rng)
    appear = extra & ~extra_target
    theta = theta_target[appear]
    result[appear] = rng.negative_binomial(theta, theta / (theta + _positive(mu_target)[appear]))
    result[extra_target] = 0
    return result


def counterfactual_normal(
    x: np.ndarray, mu_source: np.ndarray, mu_target: np.ndarray, *, nonnegative: bool
) -> np.ndarray:
    """Values under the target condition, `x + mu_target - mu_source`, clipped at 0 if `nonnegative`."""
    result = x + (mu_target - mu_source)
    return np.maximum(result, 0.0) if nonnegative else result


def _positive(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.asarray(values, dtype=np.float64), 1e-30)
