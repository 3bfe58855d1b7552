"""At least single precision, whatever autocast says: sums of thousands of terms have no digits left in half of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

__all__ = ["backward_without_autocast", "full", "no_autocast"]

_Backward = TypeVar("_Backward", bound=Callable[..., Any])


def full(x: torch.Tensor) -> torch.Tensor:
    """The tensor in single precision, if it is in a lower one."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: torch.Tensor) -> torch.autocast:
    """A context in which operations on the device of `x` keep its precision."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def backward_without_autocast(backward: _Backward) -> _Backward:
    """The `backward` of a function with one output, for when it is called under autocast."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, grad_output: torch.Tensor) -> Any:
        with no_autocast(grad_output):
            return backward(ctx, grad_output)

    return cast("_Backward", wrapped)
