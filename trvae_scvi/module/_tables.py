"""Parameters of categories: one row each, with those that a query brings along kept apart."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

__all__ = ["Table", "take_over"]


class Table(nn.Module):
    """Rows of parameters, one for each category.

    Categories that a query brings along are rows of a second parameter, :attr:`new`. It can be trained alone: what the
    first one gives for the old categories cannot change by a bit, whatever the optimizer does.

    Parameters
    ----------
    n_rows
        Number of categories.
    shape
        Shape of a row.
    """

    new: nn.Parameter | None

    def __init__(self, n_rows: int, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_rows, *shape))
        self.register_parameter("new", None)

    @property
    def rows(self) -> torch.Tensor:
        """All rows, without a gradient."""
        return (self.weight if self.new is None else torch.cat((self.weight, self.new))).detach()

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """The rows of `n` categories, for rows that are vectors."""
        if self.new is None:
            return nn.functional.embedding(codes, self.weight)
        n_old = len(self.weight)
        old = nn.functional.embedding(codes.clamp(max=n_old - 1), self.weight)
        new = nn.functional.embedding((codes - n_old).clamp(min=0), self.new)
        return torch.where((codes >= n_old).unsqueeze(-1), new, old)

    def set_rows(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """Replace all rows; those of `new` become a parameter of their own, if there are any."""
        self.weight = nn.Parameter(old.detach().clone())
        self.new = nn.Parameter(new.detach().clone()) if len(new) else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # what is saved decides where the old rows end
        new = state_dict.get(f"{prefix}new")
        if new is not None and self.new is None and len(new) < len(self.weight):
            self.set_rows(self.rows[: -len(new)], self.rows[-len(new) :])
        super()._load_from_state_dict(state_dict, prefix, *args)


def take_over(module: nn.Module, reference: nn.Module) -> bool:
    """Give a module all parameters of a reference; rows of categories it has not start at the mean of its own.

    Parameters
    ----------
    module, reference
        Of the same architecture; the reference's categories are the first ones of the module.

    Returns
    -------
    Whether there are new rows.
    """
    state = reference.state_dict()
    tables = {name: part for name, part in module.named_modules() if isinstance(part, Table)}
    for name, table in tables.items():
        old = cast("Table", reference.get_submodule(name)).rows
        n_new = len(table.weight) - len(old)
        table.set_rows(old, old.mean(dim=0, keepdim=True).repeat(n_new, *(1 for _ in old.shape[1:])))
        state.pop(f"{name}.new", None)
        state |= table.state_dict(prefix=f"{name}.")
    module.load_state_dict(state)
    return any(table.new is not None for table in tables.values())
