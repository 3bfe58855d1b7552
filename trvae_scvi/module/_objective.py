"""What training minimises beside likelihood and KL divergence: match of the conditions, prior of what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from trvae_scvi._math._mmd import mmd

if TYPE_CHECKING:
    from ._networks import Decoder
    from ._options import ModelOptions

__all__ = ["condition_prior", "discrepancy"]


def discrepancy(
    options: ModelOptions,
    z: torch.Tensor,
    y: torch.Tensor,
    tensors: dict[str, torch.Tensor],
    *,
    reference: int | None,
) -> torch.Tensor:
    """Mean squared MMD between the conditions of a minibatch, a scalar; zero where none is asked for.

    Parameters
    ----------
    options
        Say on which layer, with which kernel, and whether label by label.
    z, y
        `n x d` latent variables and activations of the decoder's first layer; several samples of them are not matched.
    tensors
        The minibatch, with the codes of conditions and labels.
    reference
        Code of a condition to compare every other with, ``None`` for all pairs.
    """
    if not options.matches_conditions or z.dim() == 3:
        return z.new_zeros(())
    conditions = tensors[REGISTRY_KEYS.BATCH_KEY].squeeze(-1).long()
    labels = tensors[REGISTRY_KEYS.LABELS_KEY].squeeze(-1).long() if options.mmd_balance_labels else None
    x = y if options.mmd_on == "y" else z
    return mmd(x, conditions, kernel=options.mmd_kernel, reference=reference, labels=labels)


def condition_prior(
    decoder: Decoder,
    tensors: dict[str, torch.Tensor],
    *,
    scale: float,
    n_cells: torch.Tensor,
    n_obs: int | None,
) -> torch.Tensor:
    """A minibatch's share of the negative log density of what conditions do under its prior, up to constants.

    Every cell bears an equal part of its condition's, so that over all training cells it counts once for every
    condition, however often a minibatch draws its cells.

    Parameters
    ----------
    decoder
        Has offsets and responses.
    tensors
        The minibatch, with the codes of conditions.
    scale
        Standard deviation of the difference of two conditions' responses.
    n_cells
        Numbers of training cells of the conditions; 0 where they are not known.
    n_obs
        Number of training cells.
    """
    if n_obs is None:
        msg = "Expected `n_obs`, the number of training cells, with whole_objective=True; found None."
        raise ValueError(msg)
    prior = decoder.first.linear.bias.new_zeros(())
    conditions = tensors[REGISTRY_KEYS.BATCH_KEY].squeeze(-1).long()
    share = torch.bincount(conditions, minlength=len(n_cells)) / len(conditions)
    weights = torch.where(n_cells > 0, share / n_cells.clamp(min=1.0), 1.0 / n_obs).to(prior.dtype)
    present = torch.unique(conditions)
    for layer in decoder.condition_layers():
        prior = prior + layer.offset.penalty(present) @ weights[present]
        # two conditions then differ by a normal with standard deviation `scale`
        prior = prior + layer.response.sum_of_squares(weights) / scale**2
    return prior
