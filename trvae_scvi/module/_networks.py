"""Encoder and decoder: how conditions and covariates enter, and the decoder's named first layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from trvae_scvi._math._linear import sparse_linear
from trvae_scvi._math._precision import full

from ._responses import OwnResponses, SharedResponses
from ._tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._options import ModelOptions

__all__ = ["ConditionLinear", "CovariateLinear", "Decoder", "Encoder"]

_VARIANCE_FLOOR = 1e-4
_CENTRE_RATE = 0.01  # share of the centre that a minibatch makes up, after the first hundred
#: Up to so many conditions, responses of their own cost less than shared ones.
MOST_OWN_RESPONSES = 16


class CovariateLinear(nn.Module):
    """Linear layer to which covariates add: `W x + b + sum_k C_k[code_k] + V c`.

    The same function as a linear layer on `x` with one-hot covariates appended, but each category is a
    table row of its own: a new category is a new row and leaves the results of the old ones bit-equal.

    Parameters
    ----------
    n_in, n_out
        Widths.
    n_categories
        Number of categories of every categorical covariate.
    n_continuous
        Number of continuous covariates.
    """

    def __init__(self, n_in: int, n_out: int, *, n_categories: Sequence[int] = (), n_continuous: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.tables = nn.ModuleList(Table(n, n_out) for n in n_categories)
        self.continuous = nn.Linear(n_continuous, n_out, bias=False) if n_continuous else None
        # as if the covariates were further inputs of the linear layer
        bound = 1.0 / math.sqrt(n_in + sum(n_categories) + n_continuous)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, x: torch.Tensor, codes: Sequence[torch.Tensor] = (), continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map `... x n x n_in` to `... x n x n_out`; every entry of `codes` holds `n` integers.

        `x` may be a sparse `n x n_in` tensor in the CSR layout.
        """
        is_sparse = x.layout == torch.sparse_csr
        hidden = sparse_linear(x, self.linear.weight, self.linear.bias) if is_sparse else self.linear(x)
        for table, code in zip(self.tables, codes, strict=True):
            hidden = hidden + table(code)
        if self.continuous is not None:
            hidden = hidden + self.continuous(continuous)
        return hidden


class ConditionLinear(nn.Module):
    r"""Linear layer with a deviation of its own for every condition: `W h + b + d_s + U_s (h - c)`.

    What the conditions share is in `W` and `b`. `d_s` is what a condition does to every cell alike, `U_s` what it does
    to some cells and not to others: `c` is the mean of `h` over the training cells, so that neither can stand for the
    other. The module's objective keeps both as small as the data allow: where they do not say that a condition does
    anything, it does nothing, and where they do not say that a response differs between cells, it does not, also for
    cells whose response was never seen. Of few conditions each has a `U_s` of its own; many make theirs of the same
    parts, so that time and memory do not grow with their number.

    Parameters
    ----------
    n_in, n_out
        Widths.
    n_conditions
        Number of conditions; their deviations start at zero.

    Attributes
    ----------
    offset, response
        Table of `d_s`, and what makes the `U_s`.
    centre
        `c`.
    """

    centre: torch.Tensor
    n_seen: torch.Tensor

    def __init__(self, n_in: int, n_out: int, *, n_conditions: int) -> None:
        super().__init__()
        self.shared = nn.Linear(n_in, n_out)
        self.offset = Table(n_conditions, n_out, has_prior=True)
        kind = OwnResponses if n_conditions <= MOST_OWN_RESPONSES else SharedResponses
        self.response: OwnResponses | SharedResponses = kind(n_conditions, n_in, n_out)
        self.register_buffer("centre", torch.zeros(n_in))
        self.register_buffer("n_seen", torch.zeros(()))

    def use(self, kind: type[OwnResponses | SharedResponses]) -> None:
        """Make the responses of this kind, anew where they are of the other one."""
        if not isinstance(self.response, kind):
            n_out, n_in = self.shared.weight.shape
            self.response = kind(len(self.offset.rows), n_in, n_out)

    def tables(self) -> list[Table]:
        """Those with a row for every condition."""
        return [self.offset, self.response.table]

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Map `... x n x n_in` to `... x n x n_out`; `condition` holds `n` codes."""
        if self.training:
            self._follow(hidden.detach())
        return self.response.respond(hidden, condition, self.shared, self.offset, self.centre)

    def _follow(self, hidden: torch.Tensor) -> None:
        """Move the centre towards the mean of a minibatch."""
        rate = torch.clamp(1.0 / (1.0 + self.n_seen), min=_CENTRE_RATE)
        self.centre.lerp_(full(hidden).flatten(0, -2).mean(dim=0), rate)
        self.n_seen += 1.0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # what was saved before there was a centre was trained without
        for name, buffer in self.named_buffers(recurse=False):
            state_dict.setdefault(f"{prefix}{name}", torch.zeros_like(buffer))
        # what is saved decides: a query adds conditions and keeps the kind, and once every condition had its own
        self.use(SharedResponses if f"{prefix}response.basis.weight" in state_dict else OwnResponses)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Tail(nn.Module):
    """Normalisation and activation."""

    def __init__(self, width: int, options: ModelOptions) -> None:
        super().__init__()
        self.norm: nn.Module
        if options.normalization == "layer":
            # no affine parameters: nothing of a frozen reference can drift when a query is trained
            self.norm = nn.LayerNorm(width, elementwise_affine=False)
        elif options.normalization == "batch":
            self.norm = nn.BatchNorm1d(width)
        else:
            self.norm = nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if isinstance(self.norm, nn.BatchNorm1d) and hidden.dim() == 3:
            flat = self.norm(hidden.flatten(0, 1))
            return torch.relu(flat).unflatten(0, hidden.shape[:2])
        return torch.relu(self.norm(hidden))


def _hidden(sizes: Sequence[int], options: ModelOptions) -> nn.Sequential:
    """The hidden layers after the first one."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), _Tail(n_out, options), nn.Dropout(options.dropout_rate)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Maps expression (and covariates) to mean and variance of a diagonal normal posterior.

    Parameters
    ----------
    n_input
        Width of the input.
    options
        Those of the model.
    n_categories, n_continuous
        Covariates, which enter the first layer with `encode_condition`, see :class:`CovariateLinear`.
    """

    def __init__(self, n_input: int, options: ModelOptions, *, n_categories: Sequence[int], n_continuous: int) -> None:
        super().__init__()
        self.trunk: nn.Module | None = None
        if options.network is not None:
            self.trunk, n_input = options.network.encoder(n_input)
        if not options.encode_condition:
            n_categories, n_continuous = (), 0
        sizes = options.hidden_sizes
        self.first = CovariateLinear(n_input, sizes[0], n_categories=n_categories, n_continuous=n_continuous)
        self.first_tail = _Tail(sizes[0], options)
        self.dropout = nn.Dropout(options.dropout_rate)
        self.hidden = _hidden(sizes, options)
        self.mean = nn.Linear(sizes[-1], options.n_latent)
        self.log_variance = nn.Linear(sizes[-1], options.n_latent)

    def forward(
        self, x: torch.Tensor, codes: Sequence[torch.Tensor], continuous: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance, both `n x n_latent`."""
        x = x if self.trunk is None else self.trunk(x)
        hidden = self.hidden(self.dropout(self.first_tail(self.first(x, codes, continuous))))
        # what is made of them, and of the decoder's outputs, is no work for low precision
        return full(self.mean(hidden)), torch.exp(full(self.log_variance(hidden))) + _VARIANCE_FLOOR


class Decoder(nn.Module):
    """Maps latent variables and covariates to the parameters of the likelihood.

    ``first_layer`` gives `y`, on which trVAE's penalty acts; ``forward`` gives `y` and the outputs.

    Parameters
    ----------
    n_output
        Width of the output.
    options
        Those of the model. The condition enters, by `condition_layer`, with the other covariates into the ``"first"``
        layer, see :class:`CovariateLinear`, or into the ``"output"`` layer, see :class:`ConditionLinear`.
    n_categories, n_continuous
        Covariates, the condition first among the categorical ones.
    zero_inflation
        Whether to give logits of extra zeros, too.
    """

    def __init__(
        self,
        n_output: int,
        options: ModelOptions,
        *,
        n_categories: Sequence[int],
        n_continuous: int,
        zero_inflation: bool,
    ) -> None:
        super().__init__()
        self.condition_layer = options.condition_layer
        sizes = options.hidden_sizes[::-1]  # the first one is the width of `y`
        in_first = n_categories if self.condition_layer == "first" else n_categories[1:]
        self.first = CovariateLinear(options.n_latent, sizes[0], n_categories=in_first, n_continuous=n_continuous)
        self.first_tail = _Tail(sizes[0], options)
        self.dropout = nn.Dropout(options.dropout_rate)
        self.hidden = _hidden(sizes, options)
        self.head: nn.Module | None = None
        n_features = n_output
        if options.network is not None:
            n_features, self.head = options.network.decoder(n_output)
        self.output = self._output_layer(sizes[-1], n_features, n_categories[0])
        self.zero_inflation = self._output_layer(sizes[-1], n_output, n_categories[0]) if zero_inflation else None

    def _output_layer(self, n_in: int, n_out: int, n_conditions: int) -> nn.Module:
        if self.condition_layer == "first":
            return nn.Linear(n_in, n_out)
        return ConditionLinear(n_in, n_out, n_conditions=n_conditions)

    def condition_tables(self) -> list[Table]:
        """The tables with a row for every condition."""
        if self.condition_layer == "first":
            return [cast("Table", self.first.tables[0])]
        return [table for layer in self.condition_layers() for table in layer.tables()]

    def condition_layers(self) -> list[ConditionLinear]:
        """The layers to which conditions add."""
        return [layer for layer in (self.output, self.zero_inflation) if isinstance(layer, ConditionLinear)]

    def first_layer(
        self, z: torch.Tensor, codes: Sequence[torch.Tensor], continuous: torch.Tensor | None
    ) -> torch.Tensor:
        """The activations `y`: linear map, normalisation, activation; before dropout."""
        return self.first_tail(self.first(z, codes if self.condition_layer == "first" else codes[1:], continuous))

    def forward(
        self,
        z: torch.Tensor,
        codes: Sequence[torch.Tensor],
        continuous: torch.Tensor | None,
        shift: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return `y`, the raw output, to which `shift` is added, and the zero-inflation logits (``None`` without)."""
        y = self.first_layer(z, codes, continuous)
        hidden = self.hidden(self.dropout(y))
        own = () if self.condition_layer == "first" else (codes[0],)
        logits = self.zero_inflation(hidden, *own) if self.zero_inflation is not None else None
        output = self.output(hidden, *own)
        output = full(output if self.head is None else self.head(output))
        output = output if shift is None else output + shift
        return y, output, None if logits is None else full(logits)
