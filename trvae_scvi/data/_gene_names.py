"""Names of genes: checked against those of a model, with a guess at why they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["check_var_names", "naming_hint"]

_MOST = 0.5  # where fewer names are shared, they are of different kinds rather than genes that were not measured
_ENSEMBL = r"^(ENS[A-Z]*)G\d{6,}"


def check_var_names(adata: AnnData, expected: np.ndarray | None = None) -> None:
    """Check the genes: unique and, where a model expects some, these in this order.

    Raises
    ------
    ValueError
        Says which genes are missing or extra, or that only the order differs, and how to mend it.
    """
    var_names = adata.var_names
    if not var_names.is_unique:
        examples = list(dict.fromkeys(var_names[var_names.duplicated()]))[:3]
        msg = f"`adata.var_names` are not unique, e.g. {examples}. Run `adata.var_names_make_unique()` first."
        raise ValueError(msg)
    if expected is None or np.array_equal(var_names.astype(str), np.asarray(expected).astype(str)):
        return
    missing = pd.Index(expected).difference(var_names, sort=False)
    extra = var_names.difference(pd.Index(expected), sort=False)
    if len(missing):
        what = f"{len(missing)} of {len(expected)} genes are missing, e.g. {list(missing[:3])}"
        hint = naming_hint(adata.var, expected)
        mend = hint or "Provide them (zeros are a claim that they were measured and absent)."
    else:
        what = f"there are {len(extra)} further genes, e.g. {list(extra[:3])}" if len(extra) else "their order differs"
        mend = "Select and order them: `adata = adata[:, model.get_var_names()].copy()`."
    msg = f"Expected the {len(expected)} genes the model was trained on, in that order; {what}. {mend}"
    raise ValueError(msg)


def naming_hint(var: pd.DataFrame, expected: pd.Index | np.ndarray) -> str:
    """Why hardly any name agrees with the expected ones, as far as names tell; an empty text where most agree.

    Parameters
    ----------
    var
        Table of the genes at hand, with their names as its index.
    expected
        Names of the genes that are wanted.
    """
    found, wanted = (pd.Series(np.asarray(names).astype(str)) for names in (var.index, expected))
    if _shared(found, wanted) >= _MOST:
        return ""
    looks = f"The names in `adata` look like {found.head(3).tolist()}, the expected ones like {wanted.head(3).tolist()}"
    for column in var.columns:
        if not pd.api.types.is_numeric_dtype(var[column]) and _shared(var[column].astype(str), wanted) >= _MOST:
            return f"{looks}: `adata.var[{column!r}]` has the expected kind. Make those the names of the genes."
    plain = [names.str.replace(r"\.\d+$", "", regex=True) for names in (found, wanted)]
    if _shared(*plain) >= _MOST:
        return f"{looks}: they differ by version suffixes. Remove those on the side that has them."
    kinds = [names.str.extract(_ENSEMBL)[0] for names in (found, wanted)]
    shares = [float(kind.notna().mean()) for kind in kinds]
    if min(shares) < _MOST <= max(shares):
        return f"{looks}: gene symbols on one side, Ensembl identifiers on the other. Use names of the same kind."
    if min(shares) >= _MOST and kinds[0].mode()[0] != kinds[1].mode()[0]:
        return f"{looks}: Ensembl identifiers of another species. Map the genes to their orthologs."
    if _shared(*(names.str.upper() for names in plain)) >= _MOST:
        return f"{looks}: they differ in upper and lower case, as those of human and mouse do. Map them to orthologs."
    return f"{looks}: another species, or names of another kind, are likely. Bring them to the expected names."


def _shared(found: pd.Series, wanted: pd.Series) -> float:
    """Share of the wanted names that were found."""
    return float(wanted.isin(set(found)).mean())
