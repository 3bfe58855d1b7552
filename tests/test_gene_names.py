"""Names of genes that do not fit say why, as far as names tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import trvae_scvi as tv
from trvae_scvi.data._gene_names import naming_hint

SYMBOLS = [f"ISG{i}" for i in range(40)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(40)]
MOUSE = [f"ENSMUSG{i:011d}" for i in range(40)]


@pytest.mark.parametrize(
    ("found", "expected", "hint"),
    [
        (ENSEMBL, SYMBOLS, "gene symbols on one side, Ensembl identifiers on the other"),
        (SYMBOLS, ENSEMBL, "gene symbols on one side, Ensembl identifiers on the other"),
        (MOUSE, ENSEMBL, "Ensembl identifiers of another species"),
        ([f"{name}.7" for name in ENSEMBL], ENSEMBL, "version suffixes"),
        ([name.capitalize() for name in SYMBOLS], SYMBOLS, "upper and lower case, as those of human and mouse"),
        ([f"gene{i}" for i in range(40)], SYMBOLS, "another species, or names of another kind"),
        (SYMBOLS[:25], SYMBOLS, None),
        (SYMBOLS, SYMBOLS, None),
    ],
)
def test_hint(found, expected, hint):
    said = naming_hint(pd.DataFrame(index=found), np.array(expected))
    assert said == "" if hint is None else hint in said


def test_a_column_with_the_right_names_is_found():
    var = pd.DataFrame({"n_cells": 3, "feature_name": pd.Categorical(SYMBOLS)}, index=ENSEMBL)
    assert "`adata.var['feature_name']` has the expected kind" in naming_hint(var, np.array(SYMBOLS))


def test_it_is_said_wherever_genes_are_compared(trained, small):
    cells = small.adata.copy()
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    for refused in (
        lambda a: trained.predict_perturbation(a, target="stimulated"),
        trained.get_latent_representation,
        lambda a: tv.TRVAE.load_query_data(a, trained),
        lambda a: tv.TRVAE.prepare_query_anndata(a, trained),
    ):
        with pytest.raises(ValueError, match="names of another kind|Ensembl identifiers on the other"):
            refused(cells)
