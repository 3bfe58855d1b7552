r"""Maximum mean discrepancy between groups of a minibatch.

Pure functions on tensors. With a kernel :math:`k` and samples :math:`P, Q`, "MMD" means the squared
discrepancy as the biased V-statistic of Gretton et al. (JMLR 13:723, 2012, eq. 5),

.. math:: \mathrm{MMD}(P, Q) = \overline{k(p, p')} + \overline{k(q, q')} - 2\,\overline{k(p, q)},

with the diagonal terms :math:`k(p, p) = 1` included.
"""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["MMD_KERNELS", "TRVAE_BANDWIDTHS", "kernel_matrix", "mmd", "squared_distances"]

MMD_KERNELS = ("trvae", "median")

#: Variances of the published kernel (Lotfollahi et al. 2020, released code).
TRVAE_BANDWIDTHS = (
    (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 15.0)
    + (20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6)
)  # fmt: skip
_MEDIAN_STEPS = 5  # bandwidths median * 2**(-2, ..., 2)


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


def kernel_matrix(distances: torch.Tensor, kernel: Literal["trvae", "median"]) -> torch.Tensor:
    """Mean of radial kernels `exp(-d / (2 v))` over variances `v`, elementwise on squared distances.

    Parameters
    ----------
    distances
        `n x n` tensor of squared distances.
    kernel
        ``"trvae"`` takes the 19 published variances, ``"median"`` the median of the off-diagonal
        squared distances times 1/4, 1/2, 1, 2 and 4 (a constant for the gradient).
    """
    if kernel == "trvae":
        total = torch.zeros_like(distances)
        for v in TRVAE_BANDWIDTHS:
            total = total + torch.exp(distances * (-0.5 / v))
        return total / len(TRVAE_BANDWIDTHS)
    n = distances.shape[0]
    rows, columns = torch.triu_indices(n, n, 1, device=distances.device)
    median = distances.detach()[rows, columns].median().clamp_min(torch.finfo(distances.dtype).tiny)
    # The widest kernel once; every narrower one is the square of the one before.
    values = torch.exp(distances * (-0.5 / (median * 2.0 ** (_MEDIAN_STEPS // 2))))
    total = values
    for _ in range(_MEDIAN_STEPS - 1):
        values = values.square()
        total = total + values
    return total / _MEDIAN_STEPS


def mmd(
    x: torch.Tensor,
    groups: torch.Tensor,
    *,
    kernel: Literal["trvae", "median"] = "trvae",
    reference: int | None = None,
    labels: torch.Tensor | None = None,
    first_fixed: int | None = None,
    min_cells: int = 8,
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
        See :func:`kernel_matrix`.
    reference
        Code of a group to compare every other with. ``None`` compares all pairs.
    labels
        Label codes, `n` integers. If given, a pair counts only labels with at least two rows in both
        groups; each such label has the same total weight in both groups, spread evenly over its rows.
    first_fixed
        Groups with this code or a higher one are compared with those below, not with each other.
    min_cells
        Pairs with fewer rows on a side are left out.

    Returns
    -------
    A scalar tensor; zero, without gradient, where no pair is left.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        present, codes = torch.unique(groups, return_inverse=True)
        first, second = _pairs(present, reference, first_fixed)
        counts = torch.bincount(codes, minlength=len(present))
        enough = (counts[first] >= min_cells) & (counts[second] >= min_cells)
        first, second = first[enough], second[enough]
        if len(first) == 0:
            return x.new_zeros(())
        gram = kernel_matrix(squared_distances(x), kernel)
        if labels is None:
            return _unweighted(gram, codes, len(present), first, second)
        return _label_balanced(gram, codes, len(present), labels, first, second)


def _pairs(present: torch.Tensor, reference: int | None, first_fixed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.triu_indices(len(present), len(present), 1, device=present.device)
    keep = torch.ones_like(first, dtype=torch.bool)
    if reference is not None:
        keep &= (present[first] == reference) | (present[second] == reference)
    if first_fixed is not None:  # codes ascend: the first of a pair is the lower one
        across = (present[first] < first_fixed) & (present[second] >= first_fixed)
        keep = (keep & (present[second] < first_fixed)) | across
    return first[keep], second[keep]


def _block_means(gram: torch.Tensor, codes: torch.Tensor, n_codes: int) -> torch.Tensor:
    """Means of the Gram matrix over the blocks that `codes` make; empty blocks are zero."""
    weights = torch.nn.functional.one_hot(codes, n_codes).to(gram.dtype)
    weights = weights / weights.sum(dim=0).clamp_min(1.0)
    return weights.T @ gram @ weights


def _unweighted(
    gram: torch.Tensor, codes: torch.Tensor, n_groups: int, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    means = _block_means(gram, codes, n_groups)
    within = means.diagonal()
    return (within[first] + within[second] - 2.0 * means[first, second]).mean()


def _label_balanced(
    gram: torch.Tensor,
    codes: torch.Tensor,
    n_groups: int,
    labels: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
) -> torch.Tensor:
    present, label_codes = torch.unique(labels, return_inverse=True)
    n_labels = len(present)
    blocks = codes * n_labels + label_codes
    counts = torch.bincount(blocks, minlength=n_groups * n_labels).reshape(n_groups, n_labels)
    shared = ((counts[first] >= 2) & (counts[second] >= 2)).to(gram.dtype)  # pairs x labels
    usable = shared.sum(dim=1) > 0
    if not usable.any():
        return gram.new_zeros(())
    first, second, shared = first[usable], second[usable], shared[usable]
    weights = shared / shared.sum(dim=1, keepdim=True)
    means = _block_means(gram, blocks, n_groups * n_labels).reshape(n_groups, n_labels, n_groups, n_labels)

    def weighted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.einsum("pl,plm,pm->p", weights, means[a, :, b, :], weights)

    return (weighted(first, first) + weighted(second, second) - 2.0 * weighted(first, second)).mean()
