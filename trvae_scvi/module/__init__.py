"""The network and its objective. Knows tensors, not AnnData."""

from ._trvae_module import TRVAEModule

__all__ = ["TRVAEModule"]
