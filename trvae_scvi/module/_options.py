"""What a model can be told about itself, checked as it is said: once, for the module and for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trvae_scvi._arguments import check_boolean, check_choice, check_integer, check_number
from trvae_scvi._math._likelihoods import LIKELIHOODS
from trvae_scvi._math._mmd import MMD_KERNELS
from trvae_scvi.nn import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ModelOptions"]

_CHOICES = {
    "gene_likelihood": tuple(LIKELIHOODS),
    "dispersion": ("gene", "gene-batch"),
    "condition_layer": ("output", "first"),
    "normalization": ("layer", "batch", None),
    "mmd_on": ("y", "z", None),
    "mmd_kernel": MMD_KERNELS,
}
_WEIGHTS = ("mmd_weight", "kl_weight", "reconstruction_weight")
_FLAGS = ("encode_condition", "nonnegative_output", "mmd_balance_labels", "extra_payload_autotune")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of :class:`~trvae_scvi.TRVAEModule`, described in :class:`~trvae_scvi.TRVAE`.

    Parameters
    ----------
    hidden_sizes
        Widths of the hidden layers, input side first; the decoder mirrors them.

    Raises
    ------
    TypeError, ValueError
        If an option has the wrong type or an unknown value.
    """

    hidden_sizes: Sequence[int] = (128, 128)
    n_latent: int = 10
    dropout_rate: float = 0.1
    gene_likelihood: Literal["nb", "zinb", "poisson", "mse", "bernoulli"] = "nb"
    dispersion: Literal["gene", "gene-batch"] = "gene"
    encode_condition: bool = False
    condition_layer: Literal["output", "first"] = "output"
    response_scale: float = 0.03
    normalization: Literal["layer", "batch"] | None = "layer"
    nonnegative_output: bool = False
    mmd_on: Literal["y", "z"] | None = "y"
    mmd_kernel: Literal["trvae", "median"] = "median"
    mmd_balance_labels: bool = False
    mmd_weight: float = 10.0
    kl_weight: float = 1.0
    reconstruction_weight: float = 1.0
    network: Network | None = None
    extra_payload_autotune: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in _FLAGS:
            check_boolean(name, getattr(self, name))
        for name in _WEIGHTS:
            check_number(name, getattr(self, name))
        check_number("response_scale", self.response_scale, positive=True)
        check_number("dropout_rate", self.dropout_rate, below=1.0)
        check_integer("n_latent", self.n_latent, 1)
        if not self.hidden_sizes:
            msg = "Expected `hidden_sizes` to be the width of at least one hidden layer, found none."
            raise ValueError(msg)
        for width in self.hidden_sizes:
            check_integer("n_hidden", width, 1)
        object.__setattr__(self, "hidden_sizes", tuple(int(width) for width in self.hidden_sizes))
        if self.network is not None and not isinstance(self.network, Network):
            msg = f"Expected `network` to be like `trvae_scvi.nn.ConvNetwork`, found a {type(self.network).__name__}."
            raise TypeError(msg)

    @classmethod
    def of_model(
        cls,
        n_hidden: int | Sequence[int],
        n_layers: int,
        mmd_pairs: str,
        mmd_balance_labels: bool | None,
        **others: Any,
    ) -> ModelOptions:
        """The arguments of :class:`~trvae_scvi.TRVAE` as options, without what depends on its data."""
        check_integer("n_layers", n_layers, 1)
        several = np.ndim(n_hidden) == 1
        widths: list[Any] = list(n_hidden) if several else [n_hidden] * n_layers  # type: ignore[arg-type]
        if len(widths) != n_layers:
            msg = f"Expected `n_hidden` to be one width or one for each of n_layers={n_layers}, found {n_hidden!r}."
            raise ValueError(msg)
        balance = False if mmd_balance_labels is None else mmd_balance_labels
        return cls(hidden_sizes=widths, mmd_balance_labels=balance, **others)

    @property
    def matches_conditions(self) -> bool:
        """Whether the objective has an MMD."""
        return self.mmd_on is not None and self.mmd_weight != 0
