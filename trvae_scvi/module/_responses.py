"""How a condition's effect differs between cells: one matrix for every condition, its own or made of shared parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from trvae_scvi._math._linear import grouped_linear, sum_of_squares

from ._tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OwnResponses", "SharedResponses"]

_RANK = 64


class OwnResponses(Table):
    """Matrices `U_s`, each a parameter of its own; they start at zero.

    Parameters
    ----------
    n_conditions
        Number of matrices.
    n_in, n_out
        Their shape.
    """

    def __init__(self, n_conditions: int, n_in: int, n_out: int) -> None:
        super().__init__(n_conditions, n_in, n_out)

    @property
    def table(self) -> Table:
        """What every condition has of its own."""
        return self

    def respond(
        self, hidden: torch.Tensor, codes: torch.Tensor, shared: nn.Linear, offset: Table, centre: torch.Tensor
    ) -> torch.Tensor:
        """`W h + b + d_s + U_s (h - c)`: `... x n x n_out` for `... x n x n_in` and `n` codes."""
        offsets, responses = ((table.weight, table.new) for table in (offset, self))
        return grouped_linear(hidden, codes, shared.weight, shared.bias, offsets, responses, centre)

    def sum_of_squares(self, weights: torch.Tensor) -> torch.Tensor:
        """Of all entries, those of a condition weighted with one of `weights`; frozen conditions are left out."""
        total = self.weight.new_zeros(())
        for rows, own in _trained(self, weights):
            total = total + sum_of_squares(rows, own)
        return total


class SharedResponses(nn.Module):
    """Matrices `U_s = A diag(e_s) B`: features `B h` and effects `A` of each that conditions share, with weights `e_s`.

    The parameters of a condition are as many as there are features, and the cost is that of a wider layer, however many
    conditions there are. Sums of matrices are those of their weights. The weights start at zero.

    Parameters
    ----------
    n_conditions
        Number of matrices.
    n_in, n_out
        Their shape.
    """

    def __init__(self, n_conditions: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.features = nn.Linear(n_in, _RANK, bias=False)
        self.basis = nn.Linear(_RANK, n_out, bias=False)
        self.table = Table(n_conditions, _RANK)

    def respond(
        self, hidden: torch.Tensor, codes: torch.Tensor, shared: nn.Linear, offset: Table, centre: torch.Tensor
    ) -> torch.Tensor:
        """As for :class:`OwnResponses`, in one product for all conditions."""
        weighted = self.features(hidden - centre) * self.table(codes)
        both = torch.cat((shared.weight, self.basis.weight), dim=1)
        result = nn.functional.linear(torch.cat((hidden, weighted), dim=-1), both, shared.bias)
        result += offset(codes)  # in place: this is as large as all that is decoded
        return result

    def sum_of_squares(self, weights: torch.Tensor) -> torch.Tensor:
        """As for :class:`OwnResponses`, without the matrices."""
        a, b = self.basis.weight, self.features.weight
        products = (a.t() @ a) * (b @ b.t())
        total = a.new_zeros(())
        for rows, own in _trained(self.table, weights):
            total = total + ((rows @ products) * rows).sum(dim=-1) @ own
        return total


def _trained(table: Table, weights: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows that are trained, and their weights."""
    n_old = len(table.weight)
    for rows, own in ((table.weight, weights[:n_old]), (table.new, weights[n_old:])):
        if rows is not None and rows.requires_grad:
            yield rows, own
