"""What a model can be told about itself, checked as it is said: once, for the module and for the model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trvae_scvi._arguments import check_boolean, check_choice, check_integer, check_number
from trvae_scvi._math._likelihoods import LIKELIHOODS
from trvae_scvi._math._mmd import MMD_KERNELS
from trvae_scvi.nn import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        if np.ndim(self.hidden_sizes) != 1 or not len(self.hidden_sizes):
            msg = f"Expected `hidden_sizes` to be the widths of one hidden layer or more, found {self.hidden_sizes!r}."
            raise ValueError(msg)
        for width in self.hidden_sizes:
            check_integer("n_hidden", width, 1)
        object.__setattr__(self, "hidden_sizes", tuple(int(width) for width in self.hidden_sizes))
        if self.network is not None and not isinstance(self.network, Network):
            msg = f"Expected `network` to be like `trvae_scvi.nn.ConvNetwork`, found a {type(self.network).__name__}."
            raise TypeError(msg)

    @classmethod
    def of_model(cls, given: Mapping[str, Any]) -> ModelOptions:
        """The options among the arguments of :class:`~trvae_scvi.TRVAE`, without what depends on its data."""
        n_hidden, n_layers = given["n_hidden"], given["n_layers"]
        check_integer("n_layers", n_layers, 1)
        widths = list(n_hidden) if np.ndim(n_hidden) == 1 else [n_hidden] * n_layers
        if len(widths) != n_layers:
            msg = f"Expected `n_hidden` to be one width or one for each of n_layers={n_layers}, found {n_hidden!r}."
            raise ValueError(msg)
        own = {field.name: given[field.name] for field in fields(cls) if field.name in given}
        if given["mmd_balance_labels"] is None:
            own["mmd_balance_labels"] = False
        return cls(**own, hidden_sizes=widths)

    def balancing(self, asked: bool | None, *, has_labels: bool) -> ModelOptions:
        """The same with labels balanced as a model was asked to; ``None`` does it where there are labels."""
        if asked and not has_labels:
            msg = "mmd_balance_labels=True needs labels: name their column with `setup_anndata(adata, labels_key=...)`."
            raise ValueError(msg)
        return replace(self, mmd_balance_labels=has_labels if asked is None else asked)

    @property
    def matches_conditions(self) -> bool:
        """Whether the objective has an MMD."""
        return self.mmd_on is not None and self.mmd_weight != 0
