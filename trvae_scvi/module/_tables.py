"""Parameters of categories: one row each, with those that a query brings along kept apart."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

__all__ = ["Table", "take_over", "train_new_rows_only", "trains_new_rows_only"]


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
    has_prior
        Whether there is room for the standard deviations of a normal prior, :attr:`scale`.

    Attributes
    ----------
    scale
        Standard deviations of the prior of all rows, infinite as long as there is none.
    """

    new: nn.Parameter | None
    scale: torch.Tensor | None

    def __init__(self, n_rows: int, *shape: int, has_prior: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_rows, *shape))
        self.register_parameter("new", None)
        self.register_buffer("scale", torch.full((n_rows, *shape), torch.inf) if has_prior else None)

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

    def set_prior(self, scale: torch.Tensor) -> None:
        """Give all rows normal priors with these standard deviations."""
        if self.scale is None:
            msg = "This table was made without room for a prior."
            raise RuntimeError(msg)
        self.scale.copy_(scale)

    def penalty(self, codes: torch.Tensor) -> torch.Tensor:
        """Negative log density of the rows of `n` categories under their prior, up to constants; `n` numbers."""
        if self.scale is None:
            return self.weight.new_zeros(len(codes))
        return 0.5 * (self(codes) / self.scale[codes]).square().sum(dim=-1)

    def set_rows(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """Replace all rows; those of `new` become a parameter of their own, if there are any."""
        self.weight = nn.Parameter(old.detach().clone())
        self.new = nn.Parameter(new.detach().clone()) if len(new) else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.scale is not None:  # what was saved before there were priors has none
            state_dict.setdefault(f"{prefix}scale", torch.full_like(self.scale, torch.inf))
        # what is saved decides where the old rows end
        new = state_dict.get(f"{prefix}new")
        if new is not None and self.new is None and len(new) < len(self.weight):
            self.set_rows(self.rows[: -len(new)], self.rows[-len(new) :])
        super()._load_from_state_dict(state_dict, prefix, *args)


def train_new_rows_only(module: nn.Module) -> None:
    """Freeze all of a module but the rows of new categories."""
    module.requires_grad_(False)
    for part in module.modules():
        if isinstance(part, Table) and part.new is not None:
            part.new.requires_grad_(True)


def trains_new_rows_only(module: nn.Module) -> bool:
    """Whether nothing but rows of new categories is trained, if anything is."""
    new = {id(part.new) for part in module.modules() if isinstance(part, Table)}
    return all(id(parameter) in new for parameter in module.parameters() if parameter.requires_grad)


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
        theirs = cast("Table", reference.get_submodule(name))
        old = theirs.rows
        n_new = len(table.weight) - len(old)
        if theirs.scale is not None:
            # what a further condition does is as large as what those did that are known
            table.scale = torch.cat([theirs.scale, _typical(theirs.scale).repeat(n_new, 1)])
        table.set_rows(old, old.mean(dim=0, keepdim=True).repeat(n_new, *(1 for _ in old.shape[1:])))
        state.pop(f"{name}.new", None)
        state |= table.state_dict(prefix=f"{name}.")
    module.load_state_dict(state)
    return any(table.new is not None for table in tables.values())


def _typical(scale: torch.Tensor) -> torch.Tensor:
    """Root mean square over the rows that have a prior, `1 x g`; infinite if none has."""
    known = torch.isfinite(scale)
    n = known.sum(dim=0, keepdim=True)
    squares = torch.where(known, scale, 0.0).square().sum(dim=0, keepdim=True)
    return torch.where(n > 0, squares / n.clamp(min=1), torch.inf).sqrt()
