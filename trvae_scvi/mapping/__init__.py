"""What surrounds the mapping of new cells onto a reference: their genes before it, labels and a score after it.

The functions take AnnData objects and change none. Nothing in here knows the model: any embedding in `obsm` will do, as
long as query and reference were embedded by the same one.
"""

from __future__ import annotations

from trvae_scvi.data._genes import GeneComparison, align_genes, compare_genes

from ._label_transfer import transfer_labels
from ._mapping_score import mapping_score

__all__ = ["GeneComparison", "align_genes", "compare_genes", "mapping_score", "transfer_labels"]
