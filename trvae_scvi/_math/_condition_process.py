r"""How alike conditions are, by what describes them: a Gaussian process over conditions, learned from their effects.

.. math::

    y_{sg} = f_{sg} + \epsilon_{sg}, \qquad
    \mathrm{Cov}(f_{sg}, f_{tg}) = \tau_g^2 \, (\theta_1 + \theta_2\, \phi_s^\top \phi_t
    + \theta_3\, k(\phi_s, \phi_t) + \theta_4\, 1_{s = t})

is the effect of condition s on gene g against a control, which is the origin of the descriptions :math:`\phi`: what all
conditions share, what is linear and what is smooth in the description, and what each condition has of its own. Of the
control itself nothing of it is left, so that k is a squared exponential kernel less what it has at the origin. The
scales :math:`\theta` are those of the largest marginal likelihood of all genes together (restricted to differences from
the control, whose noise all effects share), with a weak prior that keeps each of them above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize
from scipy.spatial.distance import cdist

__all__ = ["ConditionProcess", "Effects", "Unmeasured", "fit_condition_process"]

_LENGTHS = (0.5, 1.0, 2.0)  # of the smooth part, in median distances
# of the four parts' shares a priori, in conditions: who describes conditions thinks that descriptions tell
_PRIOR = 0.2 * np.array([0.3, 0.3, 0.3, 0.1])
_MOST = 600  # conditions that scales are learned from; the rest counts in predictions
_LEAST_SHARE = 1e-3
_TINY = 1e-12


class Effects(NamedTuple):
    """Unbiased estimates of the effects of `s` conditions against a control.

    Attributes
    ----------
    estimate, noise
        Estimates and their variances, `s x g`.
    control_noise
        Variance that all estimates share, as they have the control in common, `g`.
    informative
        Which genes are known well enough to tell how alike conditions are, `g` booleans.
    """

    estimate: np.ndarray
    noise: np.ndarray
    control_noise: np.ndarray
    informative: np.ndarray


class Unmeasured(NamedTuple):
    """Conditions that were not measured, as the measured ones have them.

    Attributes
    ----------
    effect, sd
        Posterior means and standard deviations of their effects, `t x g`.
    weights
        Of the measured conditions' effects in these, for a gene that is known as well as genes are on average, `t x s`.
    explained
        Share of a condition's prior variance that the measured ones explain, `t`, for such a gene.
    described
        The same of what depends on the description alone, `t`.
    """

    effect: np.ndarray
    sd: np.ndarray
    weights: np.ndarray
    explained: np.ndarray
    described: np.ndarray


@dataclass(frozen=True, eq=False)
class ConditionProcess:
    """What :func:`fit_condition_process` finds; all of it plain values.

    Attributes
    ----------
    features, estimate
        Descriptions of the measured conditions but the control, `s x p`, and their effects, `s x g`.
    variances
        Of the four parts in turn: shared, linear, smooth, own; their sum is about 1.
    length
        Of the smooth part, in the units of the features.
    noise, control_noise
        Of the estimates, in units of a gene's variance, for a gene that is known as well as genes are on average: `s`
        and one.
    gene_variance, gene_noise
        Of effects, `g`, and how much noisier than on average an estimate is, in units of these, `g`.
    """

    features: np.ndarray
    estimate: np.ndarray
    variances: np.ndarray
    length: float
    noise: np.ndarray
    control_noise: float
    gene_variance: np.ndarray
    gene_noise: np.ndarray

    @property
    def share_described(self) -> float:
        """Share of what conditions differ by that their descriptions explain."""
        described = self.variances[1] + self.variances[2]
        return float(described / (described + self.variances[3]))

    def predict(self, features: np.ndarray) -> Unmeasured:
        """Expect conditions of these descriptions, `t x p`."""
        parts = _Parts.of(self.features, self.length)
        variances = self.variances[:3, None, None]
        covariance = (variances * parts.between(self.features)).sum(axis=0) + self.variances[3] * np.eye(
            len(self.noise)
        )
        # in coordinates in which effects and noise are both independent, so that every gene has its own weights
        values, vectors = linalg.eigh(covariance, np.diag(self.noise) + self.control_noise)
        across = variances * parts.between(features)
        rotated, of_description = across.sum(axis=0) @ vectors, across[1:].sum(axis=0) @ vectors
        kept = 1.0 / (np.maximum(values, 0.0)[:, None] + self.gene_noise)  # s x g
        alone = self.variances[:3] * parts.alone(features)
        # a description that is the origin's is the control, of which all is known
        at_origin = ~features.any(axis=1)
        total = np.where(at_origin, 0.0, alone.sum(axis=1) + self.variances[3])
        left = np.maximum(total[:, None] - rotated**2 @ kept, 0.0)
        typical = 1.0 / (np.maximum(values, 0.0) + 1.0)
        known, described = (rotated**2 @ typical, of_description**2 @ typical)
        shares = (
            np.where(at_origin, 1.0, np.clip(share / np.maximum(of, _TINY), 0.0, 1.0))
            for share, of in ((known, total), (described, alone[:, 1:].sum(axis=1)))
        )
        return Unmeasured(
            rotated @ (kept * (vectors.T @ self.estimate)),
            np.sqrt(left * self.gene_variance),
            (rotated * typical) @ vectors.T,
            *shares,
        )


@dataclass(frozen=True, eq=False)
class _Parts:
    """Covariances of conditions by what they share and by their descriptions, each of mean 1 over those measured."""

    features: np.ndarray
    length: float
    scales: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, length: float) -> _Parts:
        plain = cls(features, length, np.ones(3))
        return cls(features, length, np.maximum(plain.alone(features).mean(axis=0), _TINY))

    def between(self, others: np.ndarray) -> np.ndarray:
        """Of other conditions with the measured ones, `3 x t x s`."""
        there = others.any(axis=1)
        return (
            np.stack(
                [
                    np.outer(there, self.features.any(axis=1)).astype(float),
                    others @ self.features.T,
                    self._smooth(cdist(others, self.features, "sqeuclidean"))
                    - self._at_origin(others)[:, None]
                    - self._at_origin(self.features)
                    + 1.0,
                ]
            )
            / self.scales[:, None, None]
        )

    def alone(self, others: np.ndarray) -> np.ndarray:
        """Variances of other conditions, `t x 3`."""
        smooth = 2.0 - 2.0 * self._at_origin(others)
        return np.column_stack([others.any(axis=1).astype(float), (others**2).sum(axis=1), smooth]) / self.scales

    def _at_origin(self, others: np.ndarray) -> np.ndarray:
        return self._smooth((others**2).sum(axis=1))

    def _smooth(self, squared: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * squared / self.length**2)


def fit_condition_process(features: np.ndarray, effects: Effects) -> ConditionProcess:
    """Learn how alike conditions are.

    Parameters
    ----------
    features
        Descriptions of the conditions, `s x p`, none of them all 0.
    effects
        Their effects.
    """
    gene_variance, weights = _genes(effects)
    unit = float((weights * gene_variance).sum())
    weighted = effects.estimate * np.sqrt(weights)
    moments = weighted @ weighted.T / unit
    noise = effects.noise @ weights / unit
    control_noise = float(effects.control_noise @ weights / unit)
    some = np.sort(np.random.default_rng(0).permutation(len(features))[:_MOST])
    known = moments[np.ix_(some, some)], np.diag(noise[some]) + control_noise
    distances = cdist(features[some], np.vstack([features[some], np.zeros(features.shape[1])]))
    median = float(np.median(distances[distances > 0]))
    fits = [(*_fit(_Parts.of(features[some], scale * median), *known), scale * median) for scale in _LENGTHS]
    _, variances, length = min(fits, key=lambda fit: fit[0])
    ratio = (effects.noise.mean(axis=0) + effects.control_noise) / gene_variance
    return ConditionProcess(
        features,
        effects.estimate,
        variances,
        length,
        np.maximum(noise, _TINY),
        control_noise,
        gene_variance,
        ratio / (noise.mean() + control_noise),
    )


def _genes(effects: Effects) -> tuple[np.ndarray, np.ndarray]:
    """Variances of effects over conditions, those of single genes drawn to their mean, and the genes' weights.

    A gene counts as it informs: by the inverse of its own variance where that is well above its noise.
    """
    noise = effects.noise.mean(axis=0) + effects.control_noise
    excess = (effects.estimate**2).mean(axis=0) - noise
    counted = effects.informative if effects.informative.any() else np.ones_like(effects.informative)
    weights = np.where(counted, (noise + np.median(noise[counted])) ** -2.0, 0.0)
    overall = max(float(np.average(excess, weights=weights)), _LEAST_SHARE * float(np.median(noise[counted])), _TINY)
    # a gene's own variance is known to two n-ths of its square, the others' to about its own size
    own = 1.0 / (1.0 + 2.0 / len(effects.estimate) * ((noise + overall) / overall) ** 2)
    own = np.where(counted, own, 1.0)
    variance = np.maximum(overall + own * (excess - overall), _LEAST_SHARE * overall)
    return variance, counted * variance / (variance + noise) ** 2


def _fit(parts: _Parts, moments: np.ndarray, noise: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log posterior and the variances of the four parts with the smallest one."""
    kernels = [*parts.between(parts.features), np.eye(len(moments))]

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        variances = np.exp(logarithms)
        factor = linalg.cholesky(sum(v * kernel for v, kernel in zip(variances, kernels, strict=True)) + noise)
        inverse = linalg.cho_solve((factor, False), np.eye(len(moments)))
        fitted = inverse @ moments
        value = 0.5 * np.trace(fitted) + np.log(np.diag(factor)).sum()
        slope = inverse - fitted @ inverse
        gradient = np.array([0.5 * (slope * kernel).sum() for kernel in kernels]) * variances
        shares = variances / variances.sum()
        return value - _PRIOR @ np.log(shares), gradient - _PRIOR + _PRIOR.sum() * shares

    start = np.full(4, np.log(max(np.trace(moments - noise) / len(moments), 1e-3) / 4.0))
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-20.0, 10.0)] * 4)
    return float(found.fun), np.exp(found.x)
