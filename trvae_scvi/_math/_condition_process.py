r"""How alike conditions are, by what describes them: a Gaussian process over conditions, learned from their effects.

.. math::

    y_{sg} = f_{sg} + \epsilon_{sg}, \qquad
    \mathrm{Cov}(f_{sg}, f_{tg}) = \tau_g^2 \, (\theta_1 + \theta_2\, \phi_s^\top \phi_t
    + \theta_3\, k(\phi_s, \phi_t) + \theta_4\, 1_{s = t})

is the effect of condition s on gene g against a control, which is the origin of the descriptions :math:`\phi`: what
all conditions share, what is linear and what is smooth in the description, and what each has of its own. Of the control
itself nothing is left, so that k is a squared exponential kernel less what it has at the origin. The noise of an
estimate is a factor of the gene times one of the condition, and what all have in common by the control.

Two things are learned in turn. The scales :math:`\theta` are those of the largest marginal likelihood of all genes,
each counted as it informs. The variances :math:`\tau_g^2` have a prior on a grid that is learned over genes as
in adaptive shrinkage (Stephens 2017, doi:10.1093/biostatistics/kxw041), as most genes do nothing and a few do a lot; in
coordinates in which effects and noise are both independent every gene has one likelihood over the grid.
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
_PRIOR = 0.1 * np.array([0.3, 0.3, 0.3, 0.1])
_MOST = 600  # conditions that scales are learned from; the rest counts in predictions
_ROUNDS, _EM_STEPS = 4, 100
_LEAST_KNOWN = 0.1  # share of variance in a gene's estimates; thousands of genes with less would count for their noise
_OUTLYING = 10.0  # squared misfit of a condition, in variances, from which on it has a variance of its own
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
        Of the measured conditions' effects in these, averaged over genes as they vary, `t x s`.
    explained
        Share of a condition's prior variance that the measured ones explain, `t`, of all genes together.
    described
        The same of what depends on the description alone, `t`.
    of_control
        By how much the control's true means are expected to differ from the measured ones, `g`: all estimates have its
        noise in common, and whoever starts from the measured control starts with it.
    """

    effect: np.ndarray
    sd: np.ndarray
    weights: np.ndarray
    explained: np.ndarray
    described: np.ndarray
    of_control: np.ndarray


@dataclass(frozen=True, eq=False)
class ConditionProcess:
    """What :func:`fit_condition_process` finds; all of it plain values.

    Attributes
    ----------
    features, estimate
        Descriptions of the measured conditions but the control, `s x p`, and their effects, `s x g`.
    unit
        What descriptions are divided by.
    variances
        Of the four parts in turn: shared, linear, smooth, own; their sum is 1.
    length
        Of the smooth part.
    outlying
        What a condition's own variance is larger by, `s`; 0 for nearly all.
    noise, control_noise
        Factors of the estimates' noise, `s` and one.
    gene_noise
        The other factor, `g`.
    grid, posterior
        Variances of effects (`k`) and their posterior probabilities (`g x k`).
    """

    features: np.ndarray
    estimate: np.ndarray
    unit: float
    variances: np.ndarray
    length: float
    outlying: np.ndarray
    noise: np.ndarray
    control_noise: float
    gene_noise: np.ndarray
    grid: np.ndarray
    posterior: np.ndarray

    @property
    def share_described(self) -> float:
        """Share of what conditions differ by that their descriptions explain."""
        described = self.variances[1] + self.variances[2]
        return float(described / (described + self.variances[3]))

    def predict(self, features: np.ndarray) -> Unmeasured:
        """Expect conditions of these descriptions, `t x p`."""
        features = features / self.unit
        parts = _Parts.of(self.features / self.unit, self.length)
        values, vectors = _independent(parts, self.variances, self.outlying, self.noise, self.control_noise)
        across = self.variances[:3, None, None] * parts.between(features)
        rotated, of_description = across.sum(axis=0) @ vectors, across[1:].sum(axis=0) @ vectors
        alone = self.variances[:3] * parts.alone(features)
        # a description that is the origin's is the control, of which all is known
        at_origin = ~features.any(axis=1)
        total = np.where(at_origin, 0.0, alone.sum(axis=1) + self.variances[3])
        z = vectors.T @ self.estimate
        effect, sd = self._moments(rotated, total, values, z)
        typical = self._inverse_variances(values)
        explained, described = (
            np.where(at_origin, 1.0, np.clip(known**2 @ typical / np.maximum(of, _TINY), 0.0, 1.0))
            for known, of in ((rotated, total), (of_description, alone[:, 1:].sum(axis=1)))
        )
        weights = (rotated * typical) @ vectors.T
        return Unmeasured(effect, sd, weights, explained, described, self._of_control(values, vectors, z))

    def _inverse_variances(self, values: np.ndarray) -> np.ndarray:
        """Of the coordinates, relative to a gene's own variance, averaged over genes as they vary."""
        tau = self.posterior @ self.grid
        each = tau**2 / (tau * values[:, None] + self.gene_noise)
        return each.sum(axis=1) / max(float(tau.sum()), _TINY)

    def _of_control(self, values: np.ndarray, vectors: np.ndarray, z: np.ndarray) -> np.ndarray:
        alike = vectors.sum(axis=0)[:, None] * z
        each = (alike / (variance * values[:, None] + self.gene_noise) for variance in self.grid)
        expected = sum(p * part.sum(axis=0) for p, part in zip(self.posterior.T, each, strict=True))
        return self.control_noise * self.gene_noise * expected

    def _moments(
        self, rotated: np.ndarray, total: np.ndarray, values: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and standard deviations, over the grid of variances, `t x g`."""
        mean, square = (np.zeros((len(rotated), z.shape[1])) for _ in range(2))
        for variance, probability in zip(self.grid, self.posterior.T, strict=True):
            kept = variance / (variance * values[:, None] + self.gene_noise)
            own = rotated @ (kept * z)
            left = np.maximum(total[:, None] - rotated**2 @ kept, 0.0) * variance
            mean += probability * own
            square += probability * (left + own**2)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


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
    y, n = effects.estimate, len(effects.estimate)
    unit = float(np.abs(features).max())
    scaled = features / unit
    noise, control_noise, gene_noise = _factors(effects)
    distances = cdist(scaled[:_MOST], np.vstack([scaled[:_MOST], np.zeros(features.shape[1])]))
    median = float(np.median(distances[distances > 0]))
    some = np.sort(np.random.default_rng(0).permutation(n)[:_MOST])
    variances, length, outlying = np.full(4, 0.25), median, np.zeros(n)
    for _ in range(_ROUNDS):
        parts = _Parts.of(scaled, length)
        values, vectors = _independent(parts, variances, outlying, noise, control_noise)
        grid, posterior = _gene_variances(vectors.T @ y, values, gene_noise)
        tau = posterior @ grid
        # a gene counts as it informs: by the inverse of its own variance where that is well above its noise
        known = tau / (tau + gene_noise * np.median(noise))
        weights = np.where(effects.informative & (known > _LEAST_KNOWN), known**2, 0.0) / np.maximum(tau, _TINY)
        weights = weights if weights.sum() > 0 else np.ones_like(tau)
        signal = float(max(weights @ tau, _TINY * (weights @ gene_noise)))
        typical = float(weights @ gene_noise) / signal
        moments = (weights * y) @ y.T / signal
        of_some = moments[np.ix_(some, some)], typical * (np.diag(noise[some]) + control_noise)
        fits = [
            (*_fit(_Parts.of(scaled[some], scale * median), *of_some, outlying[some]), scale * median)
            for scale in _LENGTHS
        ]
        _, variances, length = min(fits, key=lambda fit: fit[0])
        # only their products with the genes' variances are determined: of a few conditions they would go to 0
        total = float(variances.sum())
        variances, moments, typical = variances / total, moments / total, typical / total
        outlying = _outlying(_Parts.of(scaled, length), variances, moments, typical, noise, control_noise)
    values, vectors = _independent(_Parts.of(scaled, length), variances, outlying, noise, control_noise)
    grid, posterior = _gene_variances(vectors.T @ y, values, gene_noise)
    return ConditionProcess(
        features, y, unit, variances, length, outlying, noise, control_noise, gene_noise, grid, posterior
    )


def _factors(effects: Effects) -> tuple[np.ndarray, float, np.ndarray]:
    """Factors of the noise: of conditions, of the control, and of genes, which a few noisy conditions do not rule."""
    logarithms = np.log(np.maximum(effects.noise, _TINY * max(float(effects.noise.max()), _TINY)))
    of_gene = np.median(logarithms, axis=0)
    counted = effects.informative if effects.informative.any() else np.ones_like(effects.informative)
    of_condition = np.median((logarithms - of_gene)[:, counted], axis=1)
    control = np.median((np.log(np.maximum(effects.control_noise, _TINY)) - of_gene)[counted])
    return np.exp(of_condition), float(np.exp(control)), np.exp(of_gene)


def _independent(
    parts: _Parts, variances: np.ndarray, outlying: np.ndarray, noise: np.ndarray, control_noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in which effects have these variances and noise has 1, both independent: values and vectors."""
    covariance = (variances[:3, None, None] * parts.between(parts.features)).sum(axis=0)
    covariance += np.diag(variances[3] + outlying)
    values, vectors = linalg.eigh(covariance, np.diag(noise) + control_noise)
    return np.maximum(values, 0.0), vectors


def _gene_variances(z: np.ndarray, values: np.ndarray, gene_noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grid of variances, and posterior probabilities of genes under the distribution over genes that fits best."""
    largest = float(np.max(z**2 / np.maximum(values, _TINY * values.max())[:, None], initial=_TINY))
    largest = min(largest, float((z**2).sum(axis=0).max() / values.sum()) * len(z))
    least = float(np.median(gene_noise)) / max(float(values.max()), _TINY) / 10.0
    n = int(np.ceil(np.log2(max(largest / least, 2.0)))) + 1
    grid = np.concatenate([[0.0], least * 2.0 ** np.arange(min(n, 60))])
    logarithms = np.stack(
        [-0.5 * (np.log(v) + z**2 / v).sum(axis=0) for v in (value * values[:, None] + gene_noise for value in grid)],
        axis=1,
    )
    density = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    share = np.full(len(grid), 1.0 / len(grid))
    for _ in range(_EM_STEPS):
        posterior = share * density
        posterior /= posterior.sum(axis=1, keepdims=True)
        share = posterior.mean(axis=0)
    return grid, posterior


def _outlying(
    parts: _Parts,
    variances: np.ndarray,
    moments: np.ndarray,
    typical: float,
    noise: np.ndarray,
    control_noise: float,
) -> np.ndarray:
    """What a condition's own variance is larger by that is far from what the others let expect of it."""
    covariance = (variances[:3, None, None] * parts.between(parts.features)).sum(axis=0)
    covariance += np.diag(variances[3] + typical * noise) + typical * control_noise
    inverse = linalg.inv(covariance)
    alone = 1.0 / np.diag(inverse)  # variance of a condition given all others
    misfit = np.diag(inverse @ moments @ inverse) * alone
    return np.where(misfit > _OUTLYING, (misfit - 1.0) * alone, 0.0)


def _fit(parts: _Parts, moments: np.ndarray, noise: np.ndarray, outlying: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log posterior and the variances of the four parts with the smallest one."""
    kernels = [*parts.between(parts.features), np.eye(len(moments))]
    fixed = noise + np.diag(outlying)
    # genes that respond together are one: as many count as moments have directions
    n_genes = max(float(np.trace(moments) ** 2 / max((moments**2).sum(), _TINY)), 1.0)
    prior = _PRIOR / n_genes

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        variances = np.exp(logarithms)
        factor = linalg.cholesky(sum(v * kernel for v, kernel in zip(variances, kernels, strict=True)) + fixed)
        inverse = linalg.cho_solve((factor, False), np.eye(len(moments)))
        fitted = inverse @ moments
        value = 0.5 * np.trace(fitted) + np.log(np.diag(factor)).sum()
        slope = inverse - fitted @ inverse
        gradient = np.array([0.5 * (slope * kernel).sum() for kernel in kernels]) * variances
        shares = variances / variances.sum()
        return value - prior @ np.log(shares), gradient - prior + prior.sum() * shares

    start = np.full(4, np.log(0.25))
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-20.0, 10.0)] * 4)
    return float(found.fun), np.exp(found.x)
