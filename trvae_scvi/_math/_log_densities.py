r"""Log-likelihoods of one cell's counts or values, summed over genes.

Pure functions on tensors: `n` cells, `g` genes. They equal the sums of the ``log_prob`` of scvi-tools'
distributions, but evaluate the expensive ``lgamma`` only where a count is not zero:
:math:`\log\Gamma(0 + \theta) - \log\Gamma(\theta) = 0`. Counts may be a dense tensor, or a sparse one in the CSR
layout, which already knows where they are. Computed in single precision at least, whatever autocast says, and with no
difference of numbers that grow with :math:`\theta`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits, pad, softplus

from ._precision import full, no_autocast

__all__ = ["Bernoulli", "log_bernoulli", "log_nb", "log_normal", "log_poisson", "log_zinb"]

_EPS = 1e-8  # scvi-tools' guard against log(0)
_TABLE = 16  # counts up to here are looked up
_STIRLING = 8.0  # arguments from here on are large enough for the series


class _Counts(NamedTuple):
    """The counts that are not zero, row by row."""

    row: torch.Tensor
    column: torch.Tensor
    place: torch.Tensor  # position in the flattened matrix
    value: torch.Tensor
    offsets: torch.Tensor  # where the entries of every row begin, and their number

    @classmethod
    def of(cls, x: torch.Tensor) -> Self:
        """The entries of a dense or a sparse CSR tensor."""
        n_rows, n_columns = x.shape
        if x.layout == torch.sparse_csr:
            offsets, column, value = x.crow_indices().long(), x.col_indices().long(), full(x.values())
            row = torch.repeat_interleave(torch.arange(n_rows, device=x.device), offsets.diff())
        else:
            row, column = x.nonzero(as_tuple=True)
            value = full(x[row, column])
            offsets = pad(torch.bincount(row, minlength=n_rows).cumsum(0), (1, 0))
        return cls(row, column, row * n_columns + column, value, offsets)

    def entries(self, table: torch.Tensor) -> torch.Tensor:
        """What an `n x g` table, or `g` values for all rows, have there."""
        return table.index_select(0, self.column) if table.dim() == 1 else table.flatten().index_select(0, self.place)

    def row_sums(self, entries: torch.Tensor) -> torch.Tensor:
        """Sum of a value for every entry over each row, `n`."""
        # one after the other: the errors of equal terms would add up
        wide = entries if entries.device.type == "mps" else entries.double()
        if entries.device.type == "cpu":  # five times as fast; not all devices have it
            return torch.segment_reduce(wide, "sum", offsets=self.offsets).to(entries.dtype)
        return wide.new_zeros(len(self.offsets) - 1).index_add(0, self.row, wide).to(entries.dtype)


class _NegativeBinomial(torch.autograd.Function):
    r"""Log-likelihood with its derivatives written out, in half the passes over `n x g` that autograd makes.

    With :math:`r = \mu / \theta` and :math:`w = 1 / (1 + r)`, of an entry

    .. math::

        \log p &= -\theta \log(1 + r) + x \log(r w)
                  + \log\frac{\Gamma(x + \theta)}{\Gamma(\theta)\, x!} \\
        \partial_\mu &= -w + x w / \mu \\
        \partial_\theta &= r w - \log(1 + r) - x w / \theta + \psi(x + \theta) - \psi(\theta)

    and factors :math:`\theta / (\theta + \epsilon)` where a guard stands.
    """

    @staticmethod
    def forward(ctx: Any, mu: torch.Tensor, theta: torch.Tensor, *counts: torch.Tensor) -> torch.Tensor:
        x = _Counts(*counts)
        ratio = mu / (theta + _EPS)
        log_total = torch.log1p(ratio)  # log(theta + mu) - log(theta), without the loss of digits where theta is large
        dense = log_total @ theta if theta.dim() == 1 else (log_total * theta).sum(dim=-1)
        at_mu = x.entries(mu)
        rising, slope = _log_rising_factorial(x, theta)
        odds = torch.log((at_mu + _EPS) / (x.entries(theta) + _EPS)) - x.entries(log_total)
        ctx.save_for_backward(theta, ratio, log_total, at_mu, slope, *counts)
        return x.row_sums(x.value * odds + rising - _log_factorial(x.value)) - dense

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        theta, ratio, log_total, at_mu, slope, *counts = ctx.saved_tensors
        x = _Counts(*counts)
        with no_autocast(theta):
            weight = 1.0 + ratio
            torch.div(theta / (theta + _EPS), weight, out=weight)
            at_grad = grad_output.index_select(0, x.row)
            grad_theta = None
            if ctx.needs_input_grad[1]:
                dense = torch.mul(ratio, weight).sub_(log_total)
                entry = (slope - x.value / (x.entries(theta) + at_mu + _EPS)) * at_grad
                if theta.dim() == 1:
                    grad_theta = (grad_output @ dense).index_add_(0, x.column, entry)
                else:
                    grad_theta = dense.mul_(grad_output[:, None])
                    grad_theta.view(-1).index_add_(0, x.place, entry)
            entry = x.value * x.entries(weight) / (at_mu + _EPS) * at_grad
            grad_mu = weight.mul_(-grad_output[:, None])
            grad_mu.view(-1).index_add_(0, x.place, entry)
            return grad_mu, grad_theta, *(None for _ in counts)


def _log_rising_factorial(x: _Counts, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r""":math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` and its derivative by :math:`\theta`, for every entry.

    Most counts are small. For those it is :math:`\sum_{i < x} \log(\theta + i)`, looked up in a table of genes.
    """
    at_theta = x.entries(theta)
    if theta.dim() > 1:
        return _log_gamma_difference(x.value, at_theta)
    terms = theta + torch.arange(_TABLE, dtype=theta.dtype, device=theta.device)[:, None]
    place = (x.value.long() - 1).clamp(0, _TABLE - 1) * theta.shape[0] + x.column
    value = torch.log(terms).cumsum(dim=0).flatten().index_select(0, place)
    slope = terms.reciprocal().cumsum(dim=0).flatten().index_select(0, place)
    large = _not_in_table(x.value)
    value[large], slope[large] = _log_gamma_difference(x.value[large], at_theta[large])
    return value, slope


def _log_gamma_difference(x: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r""":math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` and its derivative by :math:`\theta`.

    Where :math:`\theta` is large, as the difference of Stirling's series, whose leading terms cancel on paper.
    """
    value, slope = torch.empty_like(theta), torch.empty_like(theta)
    is_large = theta >= _STIRLING
    small, large = torch.nonzero(~is_large).squeeze(1), torch.nonzero(is_large).squeeze(1)
    # differences lose digits, which only Apple's GPU has no type to spare for
    wide = theta.dtype if theta.device.type == "mps" else torch.float64
    a = theta.index_select(0, small).to(wide)
    b = a + x.index_select(0, small).to(wide)
    value.index_copy_(0, small, (torch.lgamma(b) - torch.lgamma(a)).to(theta.dtype))
    slope.index_copy_(0, small, (torch.digamma(b) - torch.digamma(a)).to(theta.dtype))
    a, count = theta.index_select(0, large), x.index_select(0, large)
    b = a + count
    log_ratio = torch.log1p(count / a)
    u, v = a.square().reciprocal(), b.square().reciprocal()
    rest = _stirling(v) / b - _stirling(u) / a
    value.index_copy_(0, large, (a - 0.5) * log_ratio + count * (torch.log(b) - 1.0) + rest)
    slope.index_copy_(0, large, log_ratio + 0.5 * count / (a * b) + _digamma_rest(u) - _digamma_rest(v))
    return value, slope


def _stirling(v: torch.Tensor) -> torch.Tensor:
    """Stirling's series at `a = v^(-1/2)`, times `a`: what its leading terms leave of the logarithm of Gamma."""
    return 1.0 / 12.0 - v * (1.0 / 360.0 - v * (1.0 / 1260.0 - v / 1680.0))


def _digamma_rest(v: torch.Tensor) -> torch.Tensor:
    """`log a - 1 / (2 a) - digamma(a)` at `a = v^(-1/2)`."""
    return v * (1.0 / 12.0 - v * (1.0 / 120.0 - v * (1.0 / 252.0 - v / 240.0)))


class _LogRisingFactorial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: torch.Tensor, *counts: torch.Tensor) -> torch.Tensor:
        x = _Counts(*counts)
        value, slope = _log_rising_factorial(x, theta)
        ctx.save_for_backward(slope, x.column if theta.dim() == 1 else x.place)
        ctx.shape = theta.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slope, place = ctx.saved_tensors
        grad_theta = slope.new_zeros(ctx.shape)
        grad_theta.view(-1).index_add_(0, place, slope * grad_output)
        return grad_theta, *(None for _ in _Counts._fields)


class _Zeros(torch.autograd.Function):
    r"""Sum of :math:`\log(\pi + (1 - \pi) p_0)` over the zeros of each row, from the logits of :math:`\pi`.

    As a difference of two softplus, which this is, it would lose its digits with a large logit of either sign.
    """

    @staticmethod
    def forward(ctx: Any, log_zero: torch.Tensor, logits: torch.Tensor, not_zero: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(log_zero, logits, not_zero)
        positive = torch.relu(logits)
        value = torch.logaddexp(logits - positive, log_zero - positive).sub_(softplus(-logits.abs()))
        value.view(-1).index_fill_(0, not_zero, 0.0)
        return value.sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        log_zero, logits, not_zero = ctx.saved_tensors
        not_extra = torch.sigmoid(log_zero - logits)
        grads = not_extra, torch.sigmoid(-logits).sub_(not_extra)
        for grad in grads:
            grad.mul_(grad_output[:, None]).view(-1).index_fill_(0, not_zero, 0.0)
        return *grads, None


def _log_factorial(count: torch.Tensor) -> torch.Tensor:
    terms = torch.arange(1, _TABLE + 1, dtype=count.dtype, device=count.device)
    value = torch.log(terms).cumsum(dim=0).index_select(0, (count.long() - 1).clamp(0, _TABLE - 1))
    large = _not_in_table(count)
    value[large] = torch.lgamma(count[large] + 1.0)
    return value


def _not_in_table(count: torch.Tensor) -> torch.Tensor:
    return torch.nonzero((count > _TABLE) | (count != count.round()) | (count < 1)).squeeze(1)


def log_nb(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Negative binomial with mean `mu` and inverse dispersion `theta` (variance `mu + mu**2 / theta`).

    Parameters
    ----------
    x
        `n x g` counts, dense or sparse CSR.
    mu
        `n x g` means.
    theta
        `g` values, or `n x g`.

    Returns
    -------
    `n` log-likelihoods.
    """
    with no_autocast(mu):
        return _NegativeBinomial.apply(full(mu), full(theta), *_Counts.of(x))


def log_zinb(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, zi_logits: torch.Tensor) -> torch.Tensor:
    """Zero-inflated negative binomial; `zi_logits` (`n x g`) are the logits of an extra zero.

    Parameters and return value otherwise as in :func:`log_nb`.
    """
    with no_autocast(mu):
        mu, theta, zi_logits = full(mu), full(theta), full(zi_logits)
        log_nb_zero = -theta * torch.log1p(mu / (theta + _EPS))
        counts = _Counts.of(x)
        at_mu = counts.entries(mu)
        entry = (
            counts.entries(log_nb_zero)
            - softplus(counts.entries(zi_logits))
            + counts.value * (torch.log(at_mu + _EPS) - torch.log(counts.entries(theta) + at_mu + _EPS))
            + _LogRisingFactorial.apply(theta, *counts)
            - _log_factorial(counts.value)
        )
        return _Zeros.apply(log_nb_zero, zi_logits, counts.place) + counts.row_sums(entry)


def log_poisson(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Poisson with mean `mu`; shapes as in :func:`log_nb`."""
    with no_autocast(mu):
        mu, counts = full(mu), _Counts.of(x)
        entry = counts.value * torch.log(counts.entries(mu) + _EPS) - _log_factorial(counts.value)
        return counts.row_sums(entry) - mu.sum(dim=-1)


def log_normal(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Normal with mean `mu` and unit variance, constant included; `x` is dense, shapes as in :func:`log_nb`."""
    with no_autocast(mu):
        return -0.5 * (full(x) - full(mu)).square().sum(dim=-1) - 0.5 * math.log(2.0 * math.pi) * x.shape[-1]


class Bernoulli(torch.distributions.Bernoulli):
    """Bernoulli by its logits, for pixels, with what scvi-tools asks of a distribution.

    Values between 0 and 1 are taken, too: their log-likelihood is then the negative cross-entropy.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def get_normalized(self, key: str) -> torch.Tensor:
        """The mean, whatever is asked for."""
        return self.mean


def log_bernoulli(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Bernoulli with the given logits, or negative cross-entropy where `x` lies between 0 and 1; shapes as above."""
    with no_autocast(logits):
        return -binary_cross_entropy_with_logits(full(logits), full(x), reduction="none").sum(dim=-1)
