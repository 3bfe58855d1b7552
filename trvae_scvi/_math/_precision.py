"""At least single precision, whatever autocast says: sums of thousands of terms have no digits left in half of it."""

from __future__ import annotations

import torch

__all__ = ["full", "no_autocast"]


def full(x: torch.Tensor) -> torch.Tensor:
    """The tensor in single precision, if it is in a lower one."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: torch.Tensor) -> torch.autocast:
    """A context in which operations on the device of `x` keep its precision."""
    return torch.autocast(device_type=x.device.type, enabled=False)
