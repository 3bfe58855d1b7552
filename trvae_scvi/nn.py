"""Networks for data that are no tables: what stands before the encoder's layers and after the decoder's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

__all__ = ["ConvNetwork", "Network"]


@runtime_checkable
class Network(Protocol):
    """What :class:`~trvae_scvi.TRVAE` takes as its `network`. It is saved with the model, so that it must be picklable.

    Conditions and covariates, the latent space and the decoder's first layer with its MMD stay the model's own.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> isinstance(tv.nn.ConvNetwork((1, 28, 28)), tv.nn.Network)
    True
    """

    def encoder(self, n_input: int) -> tuple[nn.Module, int]:
        """A module from `n x n_input` values to `n x n_features`, and `n_features`; the encoder's layers follow."""
        ...

    def decoder(self, n_output: int) -> tuple[int, nn.Module]:
        """`n_features`, which the decoder's last layer gives, and a module from `... x n_features` to `... x n_output`.

        Its result is the mean for ``"mse"``, and what a softmax or sigmoid follows for other likelihoods.
        """
        ...


@dataclass(frozen=True)
class ConvNetwork:
    """Convolutions before the encoder and transposed ones after the decoder, for images.

    Each level halves height and width with a 4 x 4 convolution of stride 2 and a ReLU; the decoder mirrors them. Train
    it with a lower learning rate than the default, e.g. ``plan_kwargs={"lr": 1e-3}``: at 3e-3 some networks gave the
    mean image whatever they were shown.

    Parameters
    ----------
    shape
        Channels, height and width. The variables of the AnnData are the pixels in this order, the last index fastest
        (``images.reshape(len(images), -1)``).
    channels
        Channels after every level. Height and width must be divisible by ``2 ** len(channels)``.

    Raises
    ------
    ValueError
        If `shape` are not three positive integers, or cannot be halved that often.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> network = tv.nn.ConvNetwork((1, 28, 28))
    >>> network.n_features
    3136
    """

    shape: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 64)

    def __post_init__(self) -> None:
        for name in ("shape", "channels"):
            object.__setattr__(self, name, tuple(int(size) for size in getattr(self, name)))
        if len(self.shape) != 3 or min(*self.shape, *self.channels, 1) < 1 or not self.channels:
            msg = (
                "Expected `shape` to be channels, height and width and `channels` one number for every level, all "
                f"positive, found {self.shape} and {self.channels}."
            )
            raise ValueError(msg)
        factor = 2 ** len(self.channels)
        if any(size % factor for size in self.shape[1:]):
            msg = (
                f"Expected height and width that {factor} divides, for {len(self.channels)} levels, found "
                f"{self.shape[1:]}. Pad the images, or use fewer levels."
            )
            raise ValueError(msg)

    @property
    def n_features(self) -> int:
        """Number of values after the last level."""
        return math.prod(self._smallest)

    @property
    def _smallest(self) -> tuple[int, int, int]:
        height, width = (size // 2 ** len(self.channels) for size in self.shape[1:])
        return self.channels[-1], height, width

    def encoder(self, n_input: int) -> tuple[nn.Module, int]:
        """Convolutions, and the number of values they give."""
        self._check_size(n_input)
        layers: list[nn.Module] = [nn.Unflatten(-1, self.shape)]
        for n_in, n_out in zip((self.shape[0], *self.channels[:-1]), self.channels, strict=True):
            layers += [nn.Conv2d(n_in, n_out, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten()), self.n_features

    def decoder(self, n_output: int) -> tuple[int, nn.Module]:
        """The number of values that the transposed convolutions take, and these."""
        self._check_size(n_output)
        layers: list[nn.Module] = [nn.Unflatten(-1, self._smallest)]
        sizes = (*self.channels[::-1], self.shape[0])
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.ReLU(), nn.ConvTranspose2d(n_in, n_out, kernel_size=4, stride=2, padding=1)]
        return self.n_features, _OverSamples(nn.Sequential(*layers, nn.Flatten()))

    def _check_size(self, n_variables: int) -> None:
        if n_variables != math.prod(self.shape):
            msg = (
                f"Expected {math.prod(self.shape)} variables, the pixels of an image of {self.shape}, found "
                f"{n_variables}."
            )
            raise ValueError(msg)


class _OverSamples(nn.Module):
    """Applies a module for `n x ...` tensors to `n_samples x n x ...`, too."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
