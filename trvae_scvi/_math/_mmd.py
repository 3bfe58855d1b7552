r"""Maximum mean discrepancy between groups of a minibatch.

Pure functions on tensors. With a kernel :math:`k` and samples :math:`P, Q`, "MMD" means the squared
discrepancy as the biased V-statistic of Gretton et al. (JMLR 13:723, 2012, eq. 5),

.. math:: \mathrm{MMD}(P, Q) = \overline{k(p, p')} + \overline{k(q, q')} - 2\,\overline{k(p, q)},

with the diagonal terms :math:`k(p, p) = 1` included.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

from ._precision import full, no_autocast

__all__ = ["MIN_CELLS", "MMD_KERNELS", "TRVAE_BANDWIDTHS", "kernel_and_slope", "mmd", "squared_distances"]

MMD_KERNELS = ("trvae", "median")

#: Variances of the published kernel (Lotfollahi et al. 2020, released code).
TRVAE_BANDWIDTHS = (
    (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 15.0)
    + (20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6)
)  # fmt: skip
_MEDIAN_STEPS = 5  # bandwidths median * 2**(-2, ..., 2)
MIN_CELLS = 8  # of a condition in a batch; with fewer the estimate is noise
_MIN_EXPONENT = -80.0  # 1e-35; where exp underflows it takes ten times as long


def squared_distances(x: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances between the rows of `x`, an `n x d` tensor, as an `n x n` tensor.

    The matrix product leaves rounding noise of about 1e-7 times the squared distance to the origin on
    every entry, which the narrow kernels amplify (in float32 the gradient of the published kernel is
    then wrong by up to 370 %). Hence `x` is centred first and the diagonal is set to exact zero.
    """
    centred = x - x.mean(dim=0, keepdim=True).detach()
    norms = centred.square().sum(dim=1)
    distances = norms[:, None] + norms[None, :] - 2.0 * centred @ centred.T
    diagonal = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
    return distances.clamp_min(0.0).masked_fill(diagonal, 0.0)


def kernel_and_slope(distances: torch.Tensor, kernel: Literal["trvae", "median"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of radial kernels `exp(-d / (2 v))` over variances `v`, and its derivative by `d`, elementwise.

    Parameters
    ----------
    distances
        `n x n` tensor of squared distances.
    kernel
        ``"trvae"`` takes the 19 published variances, ``"median"`` the median of the off-diagonal
        squared distances times 1/4, 1/2, 1, 2 and 4 (a constant for the gradient).
    """
    total, slope = torch.zeros_like(distances), torch.zeros_like(distances)
    if kernel == "trvae":
        values = torch.empty_like(distances)
        for v in TRVAE_BANDWIDTHS:
            torch.mul(distances, -0.5 / v, out=values).clamp_(min=_MIN_EXPONENT).exp_()
            total += values
            slope.add_(values, alpha=-0.5 / v)
        n_kernels = len(TRVAE_BANDWIDTHS)
    else:
        n = distances.shape[0]
        rows, columns = torch.triu_indices(n, n, 1, device=distances.device)
        median = distances[rows, columns].median().clamp_min(torch.finfo(distances.dtype).tiny)
        n_kernels = _MEDIAN_STEPS
        # The widest kernel once; every narrower one is the square of the one before.
        exponent = -0.5 / (median * 2.0 ** (n_kernels // 2))
        values = torch.exp(distances * exponent)
        for step in range(n_kernels):
            total += values
            slope.add_(values, alpha=2.0**step)
            values.square_()
        slope *= exponent
    return total.div_(n_kernels), slope.div_(n_kernels)


class _WeightedKernelSum(torch.autograd.Function):
    """`sum_ij A_ij k(x_i, x_j)` for a symmetric matrix A.

    Automatic differentiation would keep a matrix for every bandwidth and pass over each of them again. The gradient,
    `4 sum_j A_ij k'(d_ij) (x_i - x_j)`, takes one more matrix and is had along with the value.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, coefficients: torch.Tensor, kernel: Literal["trvae", "median"]
    ) -> torch.Tensor:
        values, slope = kernel_and_slope(squared_distances(x), kernel)
        if ctx.needs_input_grad[0]:
            centred = x - x.mean(dim=0, keepdim=True)
            pull = slope.mul_(coefficients).fill_diagonal_(0.0)
            ctx.save_for_backward(4.0 * (pull.sum(dim=1, keepdim=True) * centred - pull @ centred))
        return (coefficients * values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


def mmd(
    x: torch.Tensor,
    groups: torch.Tensor,
    *,
    kernel: Literal["trvae", "median"] = "trvae",
    reference: int | None = None,
    labels: torch.Tensor | None = None,
    min_cells: int = MIN_CELLS,
) -> torch.Tensor:
    """Mean squared MMD over pairs of groups.

    One Gram matrix serves all pairs, so that the cost does not depend on the number of groups.
    Computed in float32 (float64 for float64 input), whatever autocast says.

    Parameters
    ----------
    x
        `n x d` tensor of activations.
    groups
        Group code of every row, `n` integers.
    kernel
        See :func:`kernel_and_slope`.
    reference
        Code of a group to compare every other with. ``None`` compares all pairs.
    labels
        Label codes, `n` integers. If given, a pair counts only labels with at least two rows in both
        groups; each such label has the same total weight in both groups, spread evenly over its rows.
    min_cells
        Pairs with fewer rows on a side are left out.

    Returns
    -------
    A scalar tensor; zero, without gradient, where no pair is left.
    """
    with no_autocast(x):
        x = full(x)
        present, codes = torch.unique(groups, return_inverse=True)
        first, second = _pairs(present, reference)
        counts = torch.bincount(codes, minlength=len(present))
        enough = (counts[first] >= min_cells) & (counts[second] >= min_cells)
        first, second = first[enough], second[enough]
        if len(first) == 0:
            return x.new_zeros(())
        shares = x.new_ones(len(first), 1)
        if labels is not None:
            _, label_codes = torch.unique(labels, return_inverse=True)
            first, second, shares = _shared_labels(codes, label_codes, first, second, shares)
            if len(first) == 0:
                return x.new_zeros(())
            codes = codes * shares.shape[1] + label_codes
        weights = _block_weights(first, second, shares, len(present))
        counts = torch.bincount(codes, minlength=len(weights)).clamp_min(1).to(x.dtype)
        weights = weights / counts / counts[:, None]
        return _WeightedKernelSum.apply(x, weights[codes][:, codes], kernel)


def _pairs(present: torch.Tensor, reference: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.triu_indices(len(present), len(present), 1, device=present.device)
    if reference is None:
        return first, second
    keep = (present[first] == reference) | (present[second] == reference)
    return first[keep], second[keep]


def _shared_labels(
    codes: torch.Tensor, labels: torch.Tensor, first: torch.Tensor, second: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pairs that share labels, and the shares of the labels in each of them, pairs x labels."""
    n_labels = int(labels.max()) + 1
    counts = torch.bincount(codes * n_labels + labels, minlength=(int(codes.max()) + 1) * n_labels)
    counts = counts.reshape(-1, n_labels)
    shared = ((counts[first] >= 2) & (counts[second] >= 2)).to(like.dtype)
    usable = shared.sum(dim=1) > 0
    first, second, shared = first[usable], second[usable], shared[usable]
    return first, second, shared / shared.sum(dim=1, keepdim=True)


def _block_weights(first: torch.Tensor, second: torch.Tensor, shares: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Weights of the mean kernel between blocks (group and label) in the mean MMD over pairs, blocks x blocks."""
    n_pairs, n_labels = shares.shape
    outer = shares[:, :, None] * shares[:, None, :] / n_pairs
    within = shares.new_zeros(n_groups, n_labels, n_labels).index_add_(
        0, torch.cat([first, second]), outer.repeat(2, 1, 1)
    )
    weights = shares.new_zeros(n_groups, n_groups, n_labels, n_labels)
    weights[first, second] = -outer
    weights[second, first] = -outer
    weights[torch.arange(n_groups), torch.arange(n_groups)] = within
    return weights.transpose(1, 2).reshape(n_groups * n_labels, n_groups * n_labels)
