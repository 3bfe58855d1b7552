r"""Log-likelihoods of one cell's counts or values, summed over genes.

Pure functions on tensors: `n` cells, `g` genes. They equal the sums of the ``log_prob`` of scvi-tools'
distributions, but evaluate the expensive ``lgamma`` only where a count is not zero:
:math:`\log\Gamma(0 + \theta) - \log\Gamma(\theta) = 0`.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import softplus

__all__ = ["log_nb", "log_normal", "log_poisson", "log_zinb"]

_EPS = 1e-8  # scvi-tools' guard against log(0)


def log_nb(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Negative binomial with mean `mu` and inverse dispersion `theta` (variance `mu + mu**2 / theta`).

    Parameters
    ----------
    x, mu
        `n x g` counts and means.
    theta
        `g` values, or `n x g`.

    Returns
    -------
    `n` log-likelihoods.
    """
    log_theta = torch.log(theta + _EPS)
    log_total = torch.log(theta + mu + _EPS)
    dense = (theta * (log_theta - log_total)).sum(dim=-1)
    row, column = x.nonzero(as_tuple=True)
    count = x[row, column]
    entry_theta = theta[column] if theta.dim() == 1 else theta[row, column]
    entry = (
        count * (torch.log(mu[row, column] + _EPS) - log_total[row, column])
        + torch.lgamma(count + entry_theta)
        - torch.lgamma(entry_theta)
        - torch.lgamma(count + 1.0)
    )
    return dense.index_add(0, row, entry)


def log_zinb(x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, zi_logits: torch.Tensor) -> torch.Tensor:
    """Zero-inflated negative binomial; `zi_logits` (`n x g`) are the logits of an extra zero.

    Parameters and return value otherwise as in :func:`log_nb`.
    """
    log_theta = torch.log(theta + _EPS)
    log_total = torch.log(theta + mu + _EPS)
    log_nb_zero = theta * (log_theta - log_total)
    # log(pi + (1 - pi) NB(0)) at zeros, log(1 - pi) + log NB(x) elsewhere
    at_zero = softplus(log_nb_zero - zi_logits) - softplus(-zi_logits)
    row, column = x.nonzero(as_tuple=True)
    count = x[row, column]
    entry_theta = theta[column] if theta.dim() == 1 else theta[row, column]
    entry = (
        -softplus(zi_logits[row, column])
        + log_nb_zero[row, column]
        + count * (torch.log(mu[row, column] + _EPS) - log_total[row, column])
        + torch.lgamma(count + entry_theta)
        - torch.lgamma(entry_theta)
        - torch.lgamma(count + 1.0)
    )
    return at_zero.masked_fill(x != 0, 0.0).sum(dim=-1).index_add(0, row, entry)


def log_poisson(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Poisson with mean `mu`; shapes as in :func:`log_nb`."""
    row, column = x.nonzero(as_tuple=True)
    count = x[row, column]
    entry = count * torch.log(mu[row, column] + _EPS) - torch.lgamma(count + 1.0)
    return (-mu.sum(dim=-1)).index_add(0, row, entry)


def log_normal(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Normal with mean `mu` and unit variance, constant included; shapes as in :func:`log_nb`."""
    return -0.5 * (x - mu).square().sum(dim=-1) - 0.5 * math.log(2.0 * math.pi) * x.shape[-1]
