"""Cells that a model has learned from, told from others by their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

if TYPE_CHECKING:
    from trvae_scvi.data._cells import Cells

__all__ = ["fingerprints", "fingerprints_of"]


def fingerprints_of(cells: Cells) -> np.ndarray:
    """Sorted fingerprints of all cells."""
    return np.unique(np.concatenate([fingerprints(tensors[REGISTRY_KEYS.X_KEY].cpu().numpy()) for tensors in cells]))


def fingerprints(x: np.ndarray) -> np.ndarray:
    """One number for every row, `n`: equal for equal values in single precision, and hardly ever for others."""
    bits = np.ascontiguousarray(x + np.float32(0.0), dtype=np.float32).view(np.uint32)  # no zero with a sign
    return (bits.astype(np.uint64) * _factors(x.shape[1])).sum(axis=1)  # modulo 2^64


def _factors(n: int) -> np.ndarray:
    """As many numbers as genes, the same everywhere (SplitMix64; Steele et al. 2014, doi:10.1145/2714064.2660195)."""
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))
