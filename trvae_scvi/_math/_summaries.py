"""What the checks need to know of expression values: a few numbers that one pass over a matrix or a tensor gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ValueSummary", "are_whole", "summarize_tensor"]

_ROUNDING = 1e-6  # relative; single precision keeps seven digits
_MAX_ROUNDING = 0.01
_LARGEST = float(np.finfo(np.float32).max)  # the network computes in single precision


class ValueSummary(NamedTuple):
    """What the checks need to know of an expression matrix."""

    finite: bool
    minimum: float
    integer: bool  # but for rounding
    n_empty_rows: int
    maximum: float

    @property
    def are_counts(self) -> bool:
        """Whether all values are whole numbers from 0."""
        return self.finite and self.integer and self.minimum >= 0

    @classmethod
    def joined(cls, parts: Sequence[ValueSummary]) -> ValueSummary:
        """That of several matrices below each other."""
        finite, minimum, integer, n_empty, maximum = zip(*parts, strict=True)
        return cls(all(finite), float(min(minimum)), all(integer), sum(n_empty), float(max(maximum)))

    def check_finite(self, where: str) -> None:
        """Raise a ValueError for NaN, infinite values, and those that single precision cannot hold."""
        if not self.finite:
            msg = f"{where} holds NaN or infinite values. Remove or replace them first."
            raise ValueError(msg)
        largest = max(abs(self.minimum), abs(self.maximum))
        if largest > _LARGEST:
            msg = (
                f"{where} holds values up to {largest:.3g}, more than the single precision that the network computes "
                "in can hold (3.4e38). Bring them to a smaller scale."
            )
            raise ValueError(msg)


def are_whole(values: np.ndarray) -> bool:
    """Whether finite values are whole numbers but for rounding."""
    whole = np.rint(values)
    different = whole != values
    if not different.any():
        return True
    values, whole = values[different].astype(np.float64), whole[different].astype(np.float64)
    tolerance = np.minimum(_ROUNDING * np.maximum(np.abs(values), 1.0), _MAX_ROUNDING)
    return bool((np.abs(values - whole) <= tolerance).all())


def summarize_tensor(x: torch.Tensor) -> ValueSummary:
    """The summary of a dense minibatch, `n x g`, on any device."""
    if x.numel() == 0:
        return ValueSummary(True, 0.0, True, len(x), 0.0)
    x = x if x.dtype.is_floating_point else x.float()
    whole = (x - x.round()).abs() <= (_ROUNDING * x.abs().clamp_min(1.0)).clamp_max(_MAX_ROUNDING)
    # in one piece, as every number that leaves the device waits for all before it
    numbers = [torch.isfinite(x).all(), x.min(), whole.all(), (x != 0).any(dim=1).logical_not().sum(), x.max()]
    finite, minimum, integer, n_empty, maximum = torch.stack([number.to(x.dtype) for number in numbers]).tolist()
    return ValueSummary(bool(finite), minimum, bool(finite and integer), int(n_empty), maximum)
