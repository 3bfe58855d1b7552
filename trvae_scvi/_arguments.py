"""Checks of single arguments: a value of the right type, within its range, among the choices."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["check_boolean", "check_choice", "check_finite", "check_integer", "check_number", "plain_list"]


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    try:
        known = value in choices
    except ValueError:  # an array, which compares with each of its entries
        known = False
    if not known:
        msg = f"Expected `{name}` to be one of {plain_list(choices)}, found {value!r}."
        raise ValueError(msg)


def plain_list(values: Iterable[object]) -> list[object]:
    """Values for a message, as Python's own types."""
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def check_boolean(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is ``True`` or ``False``."""
    if not isinstance(value, bool | np.bool_):
        msg = f"Expected `{name}` to be True or False, found {value!r}."
        raise TypeError(msg)


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raise a TypeError unless `value` is an integer, a ValueError if it is below `minimum`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        msg = f"Expected `{name}` to be an integer, found {value!r}."
        raise TypeError(msg)
    if value < minimum:
        msg = f"Expected `{name}` of at least {minimum}, found {value}."
        raise ValueError(msg)


def check_number(
    name: str, value: object, *, positive: bool = False, below: float = np.inf, at_most: float = np.inf
) -> None:
    """Raise a TypeError unless `value` is a real number, a ValueError unless 0 <= (or <) value < below, <= at_most."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"Expected `{name}` to be a number, found {value!r}."
        raise TypeError(msg)
    if not (0.0 <= float(value) < below and value <= at_most) or (positive and value == 0):
        low = "above 0" if positive else "of at least 0"
        high = f"below {below}" if np.isinf(at_most) else f"at most {at_most}"
        msg = f"Expected `{name}` {low} and {high}, found {value}."
        raise ValueError(msg)


def check_finite(name: str, value: object) -> None:
    """Raise a TypeError unless `value` is a real number, a ValueError if it is NaN or infinite."""
    if not isinstance(value, Real) or isinstance(value, bool):
        msg = f"Expected `{name}` to be a number, found {value!r}."
        raise TypeError(msg)
    if not np.isfinite(float(value)):
        msg = f"Expected `{name}` to be finite, found {value}."
        raise ValueError(msg)
