"""Genes of a query against those of a reference: what is kept, filled and reported."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from trvae_scvi.data import _values
from trvae_scvi.mapping import align_genes, compare_genes

GENES = ["g0", "g1", "g2", "g3", "g4", "g5"]
WANTED = ["g4", "new1", "g0", "g3", "new2", "g1"]
KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "csr_array": sparse.csr_array}


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def make(kind="csr", dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (12, 6)).astype(dtype)
    obs = pd.DataFrame({"type": pd.Categorical(list("abc") * 4)}, index=[f"cell{i}" for i in range(12)])
    adata = AnnData(KINDS[kind](x), obs=obs, layers={"counts": KINDS[kind](10 * x)})
    adata.var_names = GENES
    adata.var["symbol"] = [f"S{i}" for i in range(6)]
    adata.var["variable"] = [True, False] * 3
    adata.var["n_cells"] = np.arange(6)
    adata.obsm["X_pca"] = rng.normal(size=(12, 2))
    adata.obsp["distances"] = sparse.csr_matrix(rng.random((12, 12)))
    adata.varm["loadings"] = rng.normal(size=(6, 2))
    adata.uns["nested"] = {"values": np.arange(3)}
    return adata


def expected_values(x, genes=GENES, wanted=WANTED):
    """Zeros for what is missing, through pandas."""
    return pd.DataFrame(dense(x), columns=genes).reindex(columns=wanted, fill_value=0).to_numpy()


# ---- comparison


def test_comparison_keeps_the_order_of_each_side():
    genes = compare_genes(["x", "b", "a", "w"], ["c", "a", "d", "b"])
    assert [list(names) for names in genes] == [["a", "b"], ["c", "d"], ["x", "w"]]
    assert genes._fields == ("kept", "missing", "extra")


def test_comparison_takes_anndata_and_every_kind_of_names():
    adata = make()
    for query in (adata, adata[:3], adata.var_names, np.array(GENES)):
        for wanted in (WANTED, np.array(WANTED), pd.Index(WANTED), pd.Index(WANTED, dtype=object)):
            genes = compare_genes(query, wanted)
            assert list(genes.kept) == ["g4", "g0", "g3", "g1"]
            assert list(genes.missing) == ["new1", "new2"]
            assert list(genes.extra) == ["g2", "g5"]


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (["a", "b", "a"], ValueError, r"found 1 names more than once, such as \['a'\]"),
        ([], ValueError, "at least one gene"),
        (["a", 3], TypeError, "texts, found 3"),
        (["a", np.nan], TypeError, "texts, found nan"),
        ("gene", TypeError, "list of gene names, found str"),
    ],
)
def test_unfit_names_are_refused_on_either_side(names, error, match):
    with pytest.raises(error, match=match):
        compare_genes(["a", "b"], names)
    with pytest.raises(error, match=match):
        compare_genes(names, ["a", "b"])


# ---- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_values_are_reordered_and_filled(kind, dtype):
    adata = make(kind, dtype)
    aligned = align_genes(adata, WANTED, max_missing=0.5)
    assert (list(aligned.var_names), list(aligned.obs_names)) == (WANTED, list(adata.obs_names))
    for new, old in ((aligned.X, adata.X), (aligned.layers["counts"], adata.layers["counts"])):
        np.testing.assert_array_equal(dense(new), expected_values(old))
        assert new.dtype == dtype
        if kind == "dense":
            assert type(new) is np.ndarray
        else:
            assert new.format == "csr"
            assert isinstance(new, sparse.sparray) == (kind == "csr_array")
            new.check_format(full_check=True)
            assert new.has_sorted_indices


@pytest.mark.parametrize("kind", KINDS)
def test_views_give_what_copies_give(kind):
    adata = make(kind)
    view = adata[[7, 2, 5], ["g5", "g3", "g0"]]
    aligned = align_genes(view, ["g0", "new", "g5"], max_missing=0.4)
    expected = expected_values(adata.X, wanted=["g0", "new", "g5"])[[7, 2, 5]]
    np.testing.assert_array_equal(dense(aligned.X), expected)
    np.testing.assert_array_equal(dense(aligned.layers["counts"]), 10 * expected)
    np.testing.assert_array_equal(aligned.obsm["X_pca"], adata.obsm["X_pca"][[7, 2, 5]])
    np.testing.assert_array_equal(dense(aligned.obsp["distances"]), dense(view.copy().obsp["distances"]))
    assert view.is_view and not aligned.is_view


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_backed_objects_are_read_in_pieces(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_values, "_ROWS", 5)  # 12 cells: three pieces
    adata = make(kind)
    adata.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    for query, rows in ((backed, slice(None)), (backed[[7, 2, 5]], [7, 2, 5])):
        aligned = align_genes(query, WANTED, max_missing=0.5)
        assert not aligned.isbacked
        np.testing.assert_array_equal(dense(aligned.X), expected_values(adata.X)[rows])
        np.testing.assert_array_equal(dense(aligned.layers["counts"]), expected_values(adata.layers["counts"])[rows])
        assert aligned.X.dtype == np.float32
    assert backed.isbacked
    backed.file.close()


def test_backed_sparse_values_are_never_read_as_a_whole(tmp_path, monkeypatch):
    for kind in ("csr", "csc"):
        make(kind).write_h5ad(tmp_path / f"{kind}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{kind}.h5ad", backed="r")

        with monkeypatch.context() as patch:
            patch.setattr(type(backed.X), "to_memory", None)
            with pytest.raises(TypeError):
                backed.X[:, [1, 0]] if kind == "csr" else backed.X[[1, 0]]
            assert align_genes(backed, WANTED, max_missing=0.5).shape == (12, 6)
        backed.file.close()


def test_only_a_layer_is_enough():
    adata = make()
    without = AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.layers["counts"]})
    aligned = align_genes(without, WANTED, max_missing=0.5)
    assert aligned.X is None
    np.testing.assert_array_equal(dense(aligned.layers["counts"]), expected_values(adata.layers["counts"]))


# ---- everything else


def test_annotations_are_copied_and_the_callers_object_stays_as_it_was():
    adata = make()
    before = adata.copy()
    aligned = align_genes(adata, WANTED, max_missing=0.5)
    pd.testing.assert_frame_equal(aligned.obs, adata.obs)
    np.testing.assert_array_equal(aligned.obsm["X_pca"], adata.obsm["X_pca"])
    np.testing.assert_array_equal(aligned.uns["nested"]["values"], [0, 1, 2])
    assert not aligned.varm
    aligned.X.data[:] = 99
    aligned.layers["counts"].data[:] = 99
    aligned.obs["type"] = "x"
    aligned.obsm["X_pca"][:] = 0
    aligned.obsp["distances"].data[:] = 0
    aligned.uns["nested"]["values"][:] = 9
    aligned.var["n_cells"] = 0
    for attribute, key in (("layers", "counts"), ("obsm", "X_pca"), ("obsp", "distances"), ("varm", "loadings")):
        now, old = (getattr(a, attribute)[key] for a in (adata, before))
        np.testing.assert_array_equal(dense(now), dense(old))
    np.testing.assert_array_equal(dense(adata.X), dense(before.X))
    np.testing.assert_array_equal(adata.uns["nested"]["values"], [0, 1, 2])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert "gene_alignment" not in adata.uns


@pytest.mark.parametrize("kind", KINDS)
def test_agreeing_genes_still_give_a_new_object(kind, caplog):
    adata = make(kind)
    aligned = align_genes(adata, GENES)
    assert aligned is not adata
    np.testing.assert_array_equal(dense(aligned.X), dense(adata.X))
    pd.testing.assert_frame_equal(aligned.var, adata.var, check_index_type=False)
    assert aligned.var["variable"].dtype == bool
    (aligned.X if kind == "dense" else aligned.X.data)[:] = -1
    assert dense(adata.X).min() >= 0
    assert aligned.uns["gene_alignment"]["missing"].tolist() == []
    assert not caplog.records


def test_missing_genes_have_missing_annotations():
    var = align_genes(make(), WANTED, max_missing=0.5).var
    assert var["symbol"].isna().tolist() == [False, True, False, False, True, False]
    assert var["symbol"].dropna().tolist() == ["S4", "S0", "S3", "S1"]
    assert var["variable"].dtype == "boolean"
    assert var["variable"].dropna().tolist() == [True, True, False, False]
    assert var["n_cells"].dropna().tolist() == [4, 0, 3, 1]
    assert var["n_cells"].isna().sum() == 2


# ---- report


def test_report_and_log_say_what_was_done(caplog):
    with caplog.at_level(logging.WARNING):
        aligned = align_genes(make(), WANTED, max_missing=0.5)
    report = aligned.uns["gene_alignment"]
    assert (report["kept"], report["missing"].tolist(), report["extra"]) == (4, ["new1", "new2"], 2)
    assert caplog.messages == [
        "4 of 6 genes kept, 2 missing and set to zero, 2 further genes dropped; missing e.g. ['new1', 'new2']."
    ]


def test_only_dropped_genes_are_no_warning(caplog):
    aligned = align_genes(make(), ["g3", "g0"])
    assert aligned.uns["gene_alignment"]["extra"] == 4
    assert not caplog.records


def test_genes_that_were_filled_before_stay_missing_in_the_report():
    once = align_genes(make(), WANTED, max_missing=0.5)
    twice = align_genes(once, ["new1", "g4", "g0", "g1"], max_missing=0.25)
    assert twice.uns["gene_alignment"]["missing"].tolist() == ["new1"]
    assert twice.uns["gene_alignment"]["kept"] == 3
    np.testing.assert_array_equal(dense(twice.X), expected_values(make().X, wanted=["new1", "g4", "g0", "g1"]))
    with pytest.raises(ValueError, match=r"found 2 \(33.3%\)"):
        align_genes(once, WANTED)


@pytest.mark.parametrize("wanted", [WANTED, GENES[::-1]])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_result_can_be_written_and_read(form, wanted, tmp_path):
    aligned = align_genes(make(), wanted, max_missing=0.5)
    path = tmp_path / f"aligned.{form}"
    getattr(aligned, f"write_{form}")(path)
    read = getattr(ad, f"read_{form}")(path)
    assert list(read.var_names) == wanted
    np.testing.assert_array_equal(dense(read.X), dense(aligned.X))
    report = read.uns["gene_alignment"]
    assert list(report["missing"]) == [name for name in wanted if name not in GENES]
    assert (int(report["kept"]), int(report["extra"])) == ((4, 2) if wanted == WANTED else (6, 0))
    assert read.var["variable"].isna().sum() == len(report["missing"])
    again = align_genes(read, wanted, max_missing=0.5)
    assert list(again.uns["gene_alignment"]["missing"]) == list(report["missing"])


# ---- refusals


def test_too_many_missing_genes_are_refused():
    with pytest.raises(ValueError, match=r"at most 20.0% of the 6 genes.*found 2 \(33.3%\), such as \['new1', "):
        align_genes(make(), WANTED)
    with pytest.raises(ValueError, match="or raise `max_missing`"):
        align_genes(make(), [*GENES, "new"], max_missing=0)


@pytest.mark.parametrize("n_missing", range(100))
def test_the_largest_acceptable_share_is_acceptable(n_missing):
    adata = AnnData(np.ones((1, 100), dtype=np.float32))
    adata.var_names = [f"g{i}" for i in range(100)]
    wanted = [f"g{i}" for i in range(n_missing, 100 + n_missing)]
    assert len(align_genes(adata, wanted, max_missing=n_missing / 100).uns["gene_alignment"]["missing"]) == n_missing
    if n_missing:
        with pytest.raises(ValueError, match=f"found {n_missing} "):
            align_genes(adata, wanted, max_missing=(n_missing - 1) / 100)


def test_names_of_another_kind_are_pointed_out():
    identifiers = [f"ENSG{i:011}" for i in range(8)]
    with pytest.raises(ValueError, match=r"found 8 \(100.0%\).*look like \['g0', .*Ensembl"):
        align_genes(make(), identifiers)
    with pytest.raises(ValueError, match="100.0%.*Ensembl"):
        align_genes(make(), identifiers, max_missing=0.99)


def test_names_that_appear_twice_are_refused():
    adata = make()
    with pytest.raises(ValueError, match="once in `var_names`.*'g1'"):
        align_genes(adata, ["g1", "g0", "g1"])
    adata.var_names = ["g0", "g1", "g2", "g2", "g4", "g5"]
    with pytest.raises(ValueError, match="once in `adata.var_names`.*'g2'"):
        align_genes(adata, ["g0", "g1"])


@pytest.mark.parametrize(("max_missing", "error"), [(1, ValueError), (-0.1, ValueError), ("a", TypeError)])
def test_impossible_shares_are_refused(max_missing, error):
    with pytest.raises(error, match="`max_missing`"):
        align_genes(make(), GENES, max_missing=max_missing)


def test_what_is_no_anndata_is_refused():
    with pytest.raises(TypeError, match="AnnData, found ndarray"):
        align_genes(np.ones((2, 2)), GENES)
    with pytest.raises(TypeError, match="`var_names` to be a list of gene names, found AnnData"):
        align_genes(make(), make())
