"""The likelihoods, one class a case: what they check, how they score, draw and change the values of cells.

Scoring and decoding take tensors of `n` cells and `g` genes; whatever is drawn is drawn by NumPy, see
:mod:`._counterfactual`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from scipy import sparse
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from torch.nn.functional import softplus

from trvae_scvi._arguments import check_choice

from ._counterfactual import counterfactual_nb, counterfactual_normal, counterfactual_poisson, counterfactual_zinb
from ._draws import bounded_theta, draw_nb, draw_poisson
from ._log_densities import Bernoulli, log_bernoulli, log_nb, log_normal, log_poisson, log_zinb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributions import Distribution

    from ._summaries import ValueSummary

__all__ = ["LIKELIHOODS", "METHODS", "Decoded", "Likelihood", "NotCountsError", "Outputs", "make_likelihood"]

METHODS = ("counterfactual", "mean", "sample")
_NONE = np.empty(0)  # a parameter that a likelihood has not
_MAX_POISSON_RATE = 1e8  # torch's sampler misbehaves beyond


class Decoded(NamedTuple):
    """Parameters of the likelihood for a minibatch, `n x g` arrays (theta may be `g`)."""

    mu: np.ndarray
    theta: np.ndarray = _NONE
    pi: np.ndarray = _NONE


class Outputs(NamedTuple):
    """What a distribution is made of.

    Parameters
    ----------
    raw
        The decoder's output, `... x n x g`.
    library
        Logarithm of the total counts, `... x n x 1`.
    size_factor
        Factors of the means, `n x 1`, instead of the total counts.
    theta, zi_logits
        Inverse dispersions (`g`, or `n x g`) and logits of extra zeros (`... x n x g`), where the likelihood has them.
    """

    raw: torch.Tensor
    library: torch.Tensor
    size_factor: torch.Tensor | None
    theta: torch.Tensor | None
    zi_logits: torch.Tensor | None


class NotCountsError(ValueError):
    """Values are no counts though the likelihood is one of counts.

    Parameters
    ----------
    problem
        What was expected and what was found.
    remedy
        How to mend it.
    layers
        Layers that hold counts, ``None`` for `X`.
    in_raw
        Whether `raw` does.
    """

    def __init__(self, problem: str, remedy: str, layers: tuple[str | None, ...] = (), *, in_raw: bool = False) -> None:
        super().__init__(f"{problem} {remedy} Log-normalised or scaled data need gene_likelihood='mse'.")
        self.problem, self.layers, self.in_raw = problem, layers, in_raw


class Likelihood:
    """What the model takes the values of a cell for. This one knows finite values of a continuous scale.

    Attributes
    ----------
    name
        As `gene_likelihood` has it.
    models_counts
        Whether it is one of counts, whose sum is the library size; the network then sees their logarithms.
    has_dispersion, has_zero_inflation
        Whether it has the parameters theta, and logits of extra zeros.
    refused
        Ways to predict that it does not have, with what to do instead.

    Parameters
    ----------
    nonnegative_output
        Whether the decoded mean passes a ReLU; for normal values alone.
    """

    name: ClassVar[str]
    models_counts: ClassVar[bool] = False
    has_dispersion: ClassVar[bool] = False
    has_zero_inflation: ClassVar[bool] = False
    refused: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, nonnegative_output: bool = False) -> None:
        self.nonnegative_output = nonnegative_output

    def check(self, summary: ValueSummary, where: str) -> None:
        """Raise a ValueError unless these are values it models."""
        summary.check_finite(where)

    def check_method(self, method: str) -> None:
        """Raise a ValueError for a way to predict that it does not have."""
        check_choice("method", method, METHODS)
        if method in self.refused:
            msg = f"method={method!r} {self.refused[method]}"
            raise ValueError(msg)

    def scale_of(self, method: str) -> str:
        """What the values are that a method predicts."""
        if not self.models_counts:
            return "input"
        return "expected counts" if method == "mean" else "counts"

    def distribution(self, given: Outputs) -> Distribution:
        """The distribution that the decoder's outputs stand for."""
        raise NotImplementedError

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Log-likelihood of every cell, `n`.

        Parameters
        ----------
        x
            `n x g` values; counts may be sparse.
        px
            What :meth:`distribution` gave, for `n` cells in all.
        theta
            As it is stored, which saves a table of the size of `x`.
        """
        raise NotImplementedError

    def draw(self, px: Any) -> torch.Tensor:
        """Draw from :meth:`distribution`."""
        return px.sample()

    def decoded(self, px: Any, theta: torch.Tensor | None) -> Decoded:
        """Parameters of :meth:`distribution` as arrays."""
        return Decoded(
            px.get_normalized("mu").cpu().numpy(),
            _NONE if theta is None else theta.cpu().numpy(),
            px.zi_probs.cpu().numpy() if self.has_zero_inflation else _NONE,
        )

    def mean(self, decoded: Decoded) -> np.ndarray:
        """Means, `n x g`."""
        return decoded.mu

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> sparse.csr_matrix:
        """Fresh draws, `n x g`."""
        raise NotImplementedError

    def counterfactual(
        self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator, *, nonnegative: bool
    ) -> np.ndarray | sparse.csr_matrix:
        """The cells' own values under another condition.

        Parameters
        ----------
        x
            `n x g` values under the source condition.
        source, target
            What was decoded for both.
        rng
            Source of randomness.
        nonnegative
            Whether the data know no value below 0.
        """
        raise NotImplementedError


class UnitNormal(Likelihood):
    """Normal with unit variance, for log-normalised or scaled data."""

    name = "mse"
    refused = {"sample": "needs a count likelihood; with gene_likelihood='mse' use 'counterfactual' or 'mean'."}

    def distribution(self, given: Outputs) -> Distribution:
        """Normal around the output."""
        mean = torch.relu(given.raw) if self.nonnegative_output else given.raw
        return Normal(mean, torch.ones_like(mean), normal_mu=mean)

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Half the squared errors, and the constant."""
        return log_normal(x, px.loc.flatten(0, -2))

    def counterfactual(
        self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator, *, nonnegative: bool
    ) -> np.ndarray:
        """The values plus the difference of the means."""
        return counterfactual_normal(x, source.mu, target.mu, nonnegative=nonnegative)


class Pixels(Likelihood):
    """Bernoulli, for values from 0 to 1."""

    name = "bernoulli"
    refused = {"counterfactual": "is not defined for gene_likelihood='bernoulli'; use 'mean' or 'sample'."}

    def check(self, summary: ValueSummary, where: str) -> None:
        """Raise a ValueError unless values are from 0 to 1."""
        super().check(summary, where)
        if summary.minimum < 0 or summary.maximum > 1:
            msg = (
                f"gene_likelihood='bernoulli' expects values from 0 to 1, found {summary.minimum:g} to "
                f"{summary.maximum:g} in {where}. Divide by the largest value possible, e.g. pixels by 255."
            )
            raise ValueError(msg)

    def distribution(self, given: Outputs) -> Distribution:
        """Bernoulli with the output as its logits."""
        return Bernoulli(given.raw)

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Negative cross-entropy."""
        return log_bernoulli(x, px.logits.flatten(0, -2))

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> sparse.csr_matrix:
        """Pixels that are on or off."""
        at = np.flatnonzero(rng.random(decoded.mu.shape, dtype=np.float32) < decoded.mu)
        return _matrix(at, np.ones(len(at)), decoded.mu.shape)


class PoissonCounts(Likelihood):
    """Poisson counts."""

    name = "poisson"
    models_counts = True

    def check(self, summary: ValueSummary, where: str) -> None:
        """Raise a ValueError unless values are counts with which every cell has a library size."""
        super().check(summary, where)
        if not summary.are_counts:
            kind = "negative" if summary.minimum < 0 else "fractional"
            problem = f"gene_likelihood={self.name!r} expects raw counts (non-negative integers), found {kind} values"
            remedy = "Register the counts, e.g. `setup_anndata(adata, layer='counts')`"
            if kind == "fractional":
                remedy += "; round counts that were corrected or estimated (SoupX, decontX, alevin-fry, salmon), e.g. "
                remedy += "`adata.X = np.rint(adata.X)`"
            raise NotCountsError(f"{problem} in {where}.", f"{remedy}.")
        if summary.n_empty_rows:
            msg = (
                f"{summary.n_empty_rows} cells have no counts at all in {where}, so their library size is 0. "
                "Remove them first: `sc.pp.filter_cells(adata, min_counts=1)` does so for counts in `X`, "
                "`adata[np.asarray(adata.layers[layer].sum(axis=1)).ravel() > 0].copy()` for counts in a layer."
            )
            raise ValueError(msg)

    def distribution(self, given: Outputs) -> Distribution:
        """Means are shares of the total counts (softmax), or multiples of the size factor (softplus)."""
        if given.size_factor is None:
            scale = torch.softmax(given.raw, dim=-1)
            return self._counts(scale * torch.exp(given.library), scale, given)
        scale = softplus(given.raw)
        return self._counts(scale * given.size_factor, scale, given)

    def _counts(self, mu: torch.Tensor, scale: torch.Tensor, given: Outputs) -> Distribution:
        return Poisson(mu, scale=scale)

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Of Poisson counts."""
        return log_poisson(x, px.rate.flatten(0, -2))

    def draw(self, px: Any) -> torch.Tensor:
        """Draw on the CPU, as MPS has no Poisson sampler."""
        return Poisson(px.rate.clamp(max=_MAX_POISSON_RATE).cpu()).sample()

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> sparse.csr_matrix:
        """Counts, drawn where there are any."""
        return _matrix(*self._draw_counts(decoded, rng), decoded.mu.shape)

    def _draw_counts(self, decoded: Decoded, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return draw_poisson(decoded.mu, rng)

    def counterfactual(
        self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator, *, nonnegative: bool
    ) -> sparse.csr_matrix:
        """Counts thinned or added to by what the condition changes."""
        counts = self._changed_counts(x, source, target, rng)
        at = np.flatnonzero(counts != 0)
        return _matrix(at, np.take(counts, at), counts.shape)

    def _changed_counts(self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator) -> np.ndarray:
        return counterfactual_poisson(x, source.mu, target.mu, rng)


class NegativeBinomialCounts(PoissonCounts):
    """Negative binomial counts."""

    name = "nb"
    has_dispersion = True

    def _counts(self, mu: torch.Tensor, scale: torch.Tensor, given: Outputs) -> Distribution:
        return NegativeBinomial(mu=mu, theta=given.theta, scale=scale)

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Of negative binomial counts."""
        return log_nb(x, px.mu.flatten(0, -2), cast("torch.Tensor", theta))

    def draw(self, px: Any) -> torch.Tensor:
        """Draw where the parameters are."""
        return px.sample()

    def _draw_counts(self, decoded: Decoded, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        theta = bounded_theta(decoded.theta)
        with np.errstate(over="ignore"):
            odds = decoded.mu / theta
        return draw_nb(theta, odds, rng)

    def _changed_counts(self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator) -> np.ndarray:
        return counterfactual_nb(x, source.mu, target.mu, source.theta, target.theta, rng)


class ZeroInflatedCounts(NegativeBinomialCounts):
    """Negative binomial counts with extra zeros."""

    name = "zinb"
    has_zero_inflation = True

    def _counts(self, mu: torch.Tensor, scale: torch.Tensor, given: Outputs) -> Distribution:
        return ZeroInflatedNegativeBinomial(mu=mu, theta=given.theta, zi_logits=given.zi_logits, scale=scale)

    def log_prob(self, x: torch.Tensor, px: Any, theta: torch.Tensor | None) -> torch.Tensor:
        """Of zero-inflated counts."""
        return log_zinb(x, px.mu.flatten(0, -2), cast("torch.Tensor", theta), px.zi_logits.flatten(0, -2))

    def mean(self, decoded: Decoded) -> np.ndarray:
        """Means with the extra zeros."""
        return (1.0 - decoded.pi) * decoded.mu

    def _draw_counts(self, decoded: Decoded, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        at, counts = super()._draw_counts(decoded, rng)
        kept = rng.random(len(at)) >= decoded.pi.flat[at]
        return at[kept], counts[kept]

    def _changed_counts(self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator) -> np.ndarray:
        thetas, extra = (source.theta, target.theta), (source.pi, target.pi)
        return counterfactual_zinb(x, source.mu, target.mu, *thetas, *extra, rng)


_CASES = (NegativeBinomialCounts, ZeroInflatedCounts, PoissonCounts, UnitNormal, Pixels)
#: The likelihoods by name, the default first.
LIKELIHOODS: dict[str, type[Likelihood]] = {case.name: case for case in _CASES}


def make_likelihood(gene_likelihood: str, *, nonnegative_output: bool = False) -> Likelihood:
    """The likelihood of a name; `nonnegative_output` counts for ``"mse"`` alone."""
    return LIKELIHOODS[gene_likelihood](nonnegative_output=nonnegative_output)


def _matrix(at: np.ndarray, counts: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A sparse matrix of counts by their increasing positions in the flattened one."""
    n, g = shape
    starts = np.searchsorted(at, np.arange(n + 1) * g)
    parts = counts.astype(np.float32), (at % g).astype(np.int32), starts.astype(np.int32)
    return sparse.csr_matrix(parts, shape=shape)
