"""The genes of a query brought into line with those of a reference."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from trvae_scvi._arguments import check_number

from ._columns import check_anndata
from ._gene_names import naming_hint
from ._values import row_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GeneComparison", "align_genes", "compare_genes"]

logger = logging.getLogger(__name__)

_KEY = "gene_alignment"
_SHOWN = 5


class GeneComparison(NamedTuple):
    """Which genes a query and a reference have in common.

    `kept` are in both and `missing` in the reference only, both in the order of the reference; `extra` are in the query
    only, in its order.

    Examples
    --------
    >>> from trvae_scvi.mapping import compare_genes
    >>> kept, missing, extra = compare_genes(["CD4", "ISG15"], ["ISG15", "CD8A"])
    >>> list(kept), list(missing), list(extra)
    (['ISG15'], ['CD8A'], ['CD4'])
    """

    kept: pd.Index
    missing: pd.Index
    extra: pd.Index


def compare_genes(
    query: AnnData | Sequence[str] | np.ndarray | pd.Index, var_names: Sequence[str] | np.ndarray | pd.Index
) -> GeneComparison:
    """Compare the genes of a query with those of a reference, by name.

    Parameters
    ----------
    query
        An AnnData, which is only read, or its `var_names`.
    var_names
        Names of the reference's genes, such as `reference.var_names`.

    Returns
    -------
    A named tuple of the genes that are `kept` (in both), `missing` (in the reference only) and `extra` (in the query
    only).

    Raises
    ------
    TypeError
        If names are no texts.
    ValueError
        If a name appears twice or there is none.

    Examples
    --------
    >>> from trvae_scvi.mapping import compare_genes
    >>> genes = compare_genes(["CD4", "ISG15", "XIST"], ["ISG15", "CD8A", "CD4"])
    >>> list(genes.kept), list(genes.missing), list(genes.extra)
    (['ISG15', 'CD4'], ['CD8A'], ['XIST'])
    """
    of_query = _names(query.var_names if isinstance(query, AnnData) else query, "query")
    of_reference = _names(var_names, "var_names")
    shared = of_reference.isin(of_query)
    return GeneComparison(of_reference[shared], of_reference[~shared], of_query[~of_query.isin(of_reference)])


def align_genes(
    adata: AnnData, var_names: Sequence[str] | np.ndarray | pd.Index, *, max_missing: float = 0.2
) -> AnnData:
    """Give the cells with exactly the genes `var_names`, in that order.

    Genes that `adata` lacks are set to zero in `X` and in every layer. A zero is a claim that the gene was measured and
    not found, which is not so: what is computed from the result takes it at its word. The more a missing gene is
    expressed in the reference, the further it moves the cells. Genes under another name count as missing: harmonise the
    names first.

    Parameters
    ----------
    adata
        Cells. May be a view or backed; not changed. Of backed values, only the genes asked for are kept in memory.
    var_names
        Names of the genes, such as those of a reference.
    max_missing
        Largest acceptable share of `var_names` that `adata` lacks, from 0 to below 1.

    Returns
    -------
    A new AnnData in memory, also if the genes agree already. `X` and the layers keep their dtype; sparse ones are CSR.
    `obs`, `obsm`, `obsp` and `uns` are copies. `var` has missing values for genes that `adata` lacks, and its columns
    of booleans and integers become nullable then. `varm`, `varp` and `raw` are left out. ``uns["gene_alignment"]``
    holds the number of genes `kept`, the names of the `missing` and the number of `extra` ones that were dropped. Genes
    that an earlier call had set to zero count as missing again.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, names are no texts or `max_missing` is no number.
    ValueError
        If too many genes are missing, a name appears twice or there is none, or `max_missing` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from trvae_scvi.mapping import align_genes
    >>> adata = AnnData(np.array([[1.0, 2.0, 3.0]]))
    >>> adata.var_names = ["CD4", "ISG15", "XIST"]
    >>> aligned = align_genes(adata, ["ISG15", "CD8A", "CD4"], max_missing=0.5)
    >>> aligned.X
    array([[2., 0., 1.]])
    >>> aligned.uns["gene_alignment"]["missing"].tolist()
    ['CD8A']
    """
    check_anndata(adata)
    check_number("max_missing", max_missing, below=1)
    found, wanted = _names(adata.var_names, "adata.var_names"), _names(var_names, "var_names")
    genes = compare_genes(found, wanted)
    missing = wanted[wanted.isin(genes.missing) | wanted.isin(_zeros_of_before(adata))]
    _check_missing(adata, wanted, missing, max_missing)
    if len(missing):
        logger.warning(
            "%s of %s genes kept, %s missing and set to zero, %s further genes dropped; missing e.g. %s.",
            f"{len(wanted) - len(missing):,}",
            f"{len(wanted):,}",
            f"{len(missing):,}",
            f"{len(genes.extra):,}",
            list(missing[:_SHOWN]),
        )
    aligned = _with_genes(adata, found.get_indexer(wanted), wanted)
    aligned.uns[_KEY] = {
        "kept": len(wanted) - len(missing),
        "missing": missing.to_numpy(dtype=object),
        "extra": len(genes.extra),
    }
    return aligned


def _names(names: Sequence[str] | np.ndarray | pd.Index, argument: str) -> pd.Index:
    """Names as an index of texts, which equals one of an AnnData whatever its dtype."""
    if isinstance(names, (str, AnnData)):
        msg = f"Expected `{argument}` to be a list of gene names, found {type(names).__name__}."
        raise TypeError(msg)
    values = list(names)
    foreign = [name for name in values if not isinstance(name, str)]
    if foreign:
        msg = f"Expected gene names in `{argument}` that are texts, found {foreign[0]!r}."
        raise TypeError(msg)
    index = pd.Index(values, dtype=object)
    if index.empty:
        msg = f"Expected at least one gene in `{argument}`, found none."
        raise ValueError(msg)
    if not index.is_unique:
        twice = list(index[index.duplicated()].unique())
        msg = (
            f"Expected every gene once in `{argument}`, found {len(twice)} names more than once, such as "
            f"{twice[:_SHOWN]}. Sum or drop their columns; renaming them would hide them from a comparison by name."
        )
        raise ValueError(msg)
    return index


def _zeros_of_before(adata: AnnData) -> list[str]:
    """Names of the genes that an earlier alignment set to zero."""
    report = adata.uns.get(_KEY)
    return list(report.get("missing", ())) if isinstance(report, Mapping) else []


def _check_missing(adata: AnnData, wanted: pd.Index, missing: pd.Index, max_missing: float) -> None:
    if len(missing) / len(wanted) <= max_missing:
        return
    msg = (
        f"Expected at most {max_missing:.1%} of the {len(wanted):,} genes to be missing in `adata`, found "
        f"{len(missing):,} ({len(missing) / len(wanted):.1%}), such as {list(missing[:_SHOWN])}. "
    )
    mend = "Provide these genes, or raise `max_missing` to have them set to zero."
    raise ValueError(msg + (naming_hint(adata.var, wanted) or mend))


def _with_genes(adata: AnnData, positions: np.ndarray, wanted: pd.Index) -> AnnData:
    x = adata.X  # once: a view of a backed object reads it from the file at every access
    # newer versions of anndata list X as the layer None
    layers = {key: _place_columns(adata.layers[key], positions) for key in adata.layers if key is not None}
    return AnnData(
        X=None if x is None else _place_columns(x, positions),
        layers=layers,
        obs=adata.obs.copy(),
        var=_var_of(adata.var, positions, wanted),
        obsm=dict(adata.obsm.copy()),
        obsp=dict(adata.obsp.copy()),
        uns=copy.deepcopy(dict(adata.uns)),
    )


def _var_of(var: pd.DataFrame, positions: np.ndarray, wanted: pd.Index) -> pd.DataFrame:
    """Rows of `var` by position; missing values where that is negative."""
    if (positions < 0).any():
        # else booleans become objects, which no file takes, and integers become floats
        kinds = {"b": "boolean", "i": "Int64", "u": "UInt64"}
        nullable = {key: kinds[dtype.kind] for key, dtype in var.dtypes.items() if getattr(dtype, "kind", "O") in kinds}
        var = var.astype(nullable)
    var = var.reset_index(drop=True).reindex(positions)
    var.index = wanted.rename(None)
    return var


def _place_columns(x: Any, positions: np.ndarray) -> np.ndarray | sparse.csr_matrix | sparse.csr_array:
    """Give a matrix whose column `j` is column ``positions[j]`` of `x`, or zero where that is negative.

    Parameters
    ----------
    x
        `n x g` values: dense, sparse or backed. Of backed ones, only the columns that are asked for are kept in memory.
    positions
        `d` positions below `g`, none of them twice; negative for columns of zeros.

    Returns
    -------
    The `n x d` matrix in new memory and of the same dtype; dense for dense, CSR for any sparse one.
    """
    if isinstance(x, np.ndarray) or sparse.issparse(x):
        return _place(x, positions)
    if getattr(x, "format", None) == "csc":  # backed by columns: cheap to read those, dear to read rows
        present = positions >= 0
        return _place(x[:, positions[present]], np.where(present, np.cumsum(present) - 1, -1))
    # By rows: anndata reads the whole matrix to take columns out of a backed CSR one.
    blocks = [_place(chunk, positions) for chunk in row_chunks(x)]
    return sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def _place(x: Any, positions: np.ndarray) -> Any:
    target = np.flatnonzero(positions >= 0)
    source = positions[target]
    shape = (x.shape[0], len(positions))
    if not sparse.issparse(x):
        out = np.zeros(shape, dtype=x.dtype)
        out[:, target] = x[:, source]
        return out
    taken = x[:, source].tocsr()
    make = sparse.csr_array if isinstance(x, sparse.sparray) else sparse.csr_matrix
    placed = make((taken.data, target[taken.indices], taken.indptr), shape=shape)
    placed.sort_indices()
    return placed
