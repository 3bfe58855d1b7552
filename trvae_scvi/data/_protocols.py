"""What a data module has, and may have, that trains a model: names for what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeGuard

__all__ = [
    "CountsCells",
    "CountsTrainingCells",
    "CountsValidationCells",
    "DataModule",
    "KnowsValues",
    "SetsBatchSize",
    "SetsSplit",
    "TakesReference",
    "is_able",
]

_Ability = TypeVar("_Ability")


class DataModule(Protocol):
    """Serves minibatches in the form of scvi-tools; each is a dictionary of tensors by registry key."""

    #: What the minibatches hold.
    registry: Mapping[str, Any]

    def train_dataloader(self) -> Any:
        """Minibatches to train on."""

    def val_dataloader(self) -> Any:
        """Minibatches to validate with."""


class SetsBatchSize(Protocol):
    """A data module whose batches can be given a size."""

    def set_batch_size(self, batch_size: int) -> None:
        """Set the cells of a training and validation batch."""


class SetsSplit(Protocol):
    """A data module that divides its cells into those to train on, to validate with, and the rest."""

    def set_split(self, train_size: float | None, validation_size: float | None, shuffle_set_split: bool) -> None:
        """Divide the cells anew, at random or in their order."""


class TakesReference(Protocol):
    """A data module with cells of one condition in every batch."""

    #: Code of the condition that all others are compared with, ``None`` for every one with every other.
    mmd_reference: int | None


class KnowsValues(Protocol):
    """A data module that may know what values it serves before it serves them."""

    #: A :class:`~trvae_scvi.data._values.ValueSummary` of all of them; anything else says nothing.
    values: object


class CountsCells(Protocol):
    """A data module that knows how many cells it holds."""

    n_obs: int


class CountsTrainingCells(Protocol):
    """A data module that knows how many of its cells are to train on."""

    n_train: int


class CountsValidationCells(Protocol):
    """A data module that knows how many of its cells are to validate with."""

    n_val: int


def is_able(datamodule: object, ability: type[_Ability]) -> TypeGuard[_Ability]:
    """Whether a data module has what a protocol here names, be it by handing on to another one."""
    names = {*ability.__annotations__, *vars(ability)}
    return all(hasattr(datamodule, name) for name in names if not name.startswith("_"))
