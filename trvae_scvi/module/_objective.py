"""What training minimises beside likelihood and KL divergence: match of the conditions, prior of the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS

from trvae_scvi._math._linear import sum_of_squares
from trvae_scvi._math._mmd import mmd

if TYPE_CHECKING:
    import torch

    from ._networks import Decoder
    from ._options import ModelOptions

__all__ = ["discrepancy", "response_prior"]


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


def response_prior(decoder: Decoder, *, scale: float, n_obs: int | None) -> torch.Tensor:
    """Each training cell's share of the responses' negative log density under their prior, up to a constant.

    Parameters
    ----------
    decoder
        Has the responses.
    scale
        Standard deviation of the difference of two conditions' responses.
    n_obs
        Number of training cells.
    """
    if n_obs is None:
        msg = "Expected `n_obs`, the number of training cells, with whole_objective=True; found None."
        raise ValueError(msg)
    zero = decoder.first.linear.bias.new_zeros(())
    squares = sum((sum_of_squares(response) for response in decoder.responses()), zero)
    # two conditions then differ by a normal with standard deviation `scale`
    return squares / scale**2 / n_obs
