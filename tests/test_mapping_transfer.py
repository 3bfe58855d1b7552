"""Label transfer against a vote counted by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy.spatial import distance

from trvae_scvi.mapping import transfer_labels


def cells(embedding, labels=None, prefix="cell"):
    embedding = np.asarray(embedding)
    adata = AnnData(obs=pd.DataFrame(index=[f"{prefix}{i}" for i in range(len(embedding))]), shape=(len(embedding), 0))
    adata.obsm["X_trvae"] = embedding
    if labels is not None:
        adata.obs["cell_type"] = labels
    return adata


@pytest.fixture
def clouds():
    """Query and reference of three overlapping types in four dimensions."""
    rng = np.random.default_rng(0)
    types = rng.integers(0, 3, 150)
    centres = 1.5 * rng.normal(size=(3, 4))
    labels = pd.Categorical.from_codes(types[50:], ["T", "B", "NK"])
    return (
        cells(centres[types[:50]] + rng.normal(size=(50, 4)), prefix="query"),
        cells(centres[types[50:]] + rng.normal(size=(100, 4)), labels),
    )


def brute_force(query, reference, n_neighbors):
    labels = np.asarray(reference.obs["cell_type"].astype(str))
    rows = []
    for row in distance.cdist(query.obsm["X_trvae"], reference.obsm["X_trvae"]):
        nearest = sorted(range(len(row)), key=lambda i: row[i])[:n_neighbors]
        width = sorted(row)[:n_neighbors]
        middle = (width[(n_neighbors - 1) // 2] + width[n_neighbors // 2]) / 2
        votes = {}
        for i in nearest:
            votes[labels[i]] = votes.get(labels[i], 0.0) + np.exp(-(row[i] ** 2) / (2 * middle**2))
        winner = max(votes, key=votes.get)
        rows.append((winner, 1 - votes[winner] / sum(votes.values())))
    return pd.DataFrame(rows, index=query.obs_names, columns=["label", "uncertainty"])


# ---- the vote


@pytest.mark.parametrize("n_neighbors", [1, 4, 15, 100])
def test_transfer_equals_brute_force(clouds, n_neighbors):
    result = transfer_labels(*clouds, labels_key="cell_type", n_neighbors=n_neighbors)
    expected = brute_force(*clouds, n_neighbors)
    assert result["label"].tolist() == expected["label"].tolist()
    assert expected["label"].nunique() > 1
    np.testing.assert_allclose(result["uncertainty"], expected["uncertainty"], atol=1e-12)
    assert list(result.columns) == ["label", "uncertainty"]


def test_weights_by_hand():
    reference = cells([[1.0], [2.0], [3.0], [50.0]], ["T", "T", "B", "B"])
    result = transfer_labels(cells([[0.0]]), reference, labels_key="cell_type", n_neighbors=3)
    t, b = np.exp(-1 / 8) + np.exp(-4 / 8), np.exp(-9 / 8)
    assert result["label"].tolist() == ["T"]
    assert result["uncertainty"].item() == pytest.approx(b / (t + b), rel=1e-12)


def test_near_cells_outvote_more_of_far_ones():
    reference = cells([[0.1], [0.1], [4.0], [4.0], [4.0]], ["T", "T", "B", "B", "B"])
    close = transfer_labels(cells([[0.0]]), reference, labels_key="cell_type", n_neighbors=5)
    assert close["label"].item() == "T"  # 2 against 3 exp(-1/2) = 1.8


def test_unit_and_offset_of_the_embedding_do_not_matter(clouds):
    query, reference = clouds
    plain = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=20)
    for scale, offset in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e6)):
        for adata in (query, reference):
            adata.obsm["other"] = adata.obsm["X_trvae"] * scale + offset
        other = transfer_labels(query, reference, labels_key="cell_type", use_rep="other", n_neighbors=20)
        assert other["label"].equals(plain["label"])
        np.testing.assert_allclose(other["uncertainty"], plain["uncertainty"], atol=1e-6)


def test_agreeing_neighbours_leave_no_uncertainty():
    rng = np.random.default_rng(0)
    reference = cells(rng.normal(size=(40, 3)), ["T"] * 40)
    result = transfer_labels(cells(rng.normal(size=(9, 3))), reference, labels_key="cell_type", n_neighbors=13)
    assert (result["uncertainty"] == 0).all()


def test_neighbours_at_no_distance_outvote_all_others():
    # at a large offset, dot products would place these apart
    reference = cells(1e4 / 3 + np.array([[0.0, 0.0]] * 3 + [[1.0, 0.0]] * 2), ["T", "T", "B", "B", "B"])
    query = cells(np.full((1, 2), 1e4 / 3))
    result = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=5)
    assert result["label"].tolist() == ["T"]
    assert result["uncertainty"].item() == pytest.approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 4, 1, 5, 2]])
def test_ties_go_to_the_first_category_whatever_the_order_of_the_cells(order):
    places = np.array([[0.1], [0.3], [0.7], [-0.1], [-0.3], [-0.7]])[order]
    for categories in (["T", "B"], ["B", "T"]):
        labels = pd.Categorical(np.array(list("TTTBBB"))[order], categories=categories)
        result = transfer_labels(cells([[0.0]]), cells(places, labels), labels_key="cell_type", n_neighbors=6)
        assert result["label"].item() == categories[0]
        assert result["uncertainty"].item() == pytest.approx(0.5, abs=1e-12)


# ---- the table


def test_labels_keep_the_categories_of_the_reference(clouds):
    query, reference = clouds
    kind = pd.CategoricalDtype(["NK", "unseen", "T", "B"], ordered=True)
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(kind)
    result = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=5)
    assert result["label"].dtype == kind
    assert result.index.equals(query.obs_names)
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(str)
    plain = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=5)
    assert plain["label"].cat.categories.tolist() == ["B", "NK", "T"]
    assert plain["label"].astype(str).equals(result["label"].astype(str))


def test_many_labels_are_told_apart():
    labels = [f"type{i:03}" for i in range(300)]  # more than the smallest integers hold
    embedding = np.arange(300.0)[:, None]
    result = transfer_labels(cells(embedding + 0.1), cells(embedding, labels), labels_key="cell_type", n_neighbors=1)
    assert result["label"].tolist() == labels


def test_views_and_backed_objects_give_the_same_and_nothing_changes(clouds, tmp_path):
    query, reference = clouds
    expected = transfer_labels(query[5:25].copy(), reference[::2].copy(), labels_key="cell_type", n_neighbors=7)
    before = query.copy(), reference.copy()
    views = transfer_labels(query[5:25], reference[::2], labels_key="cell_type", n_neighbors=7)
    pd.testing.assert_frame_equal(views, expected)
    for now, old in zip(clouds, before, strict=True):
        pd.testing.assert_frame_equal(now.obs, old.obs)
        np.testing.assert_array_equal(now.obsm["X_trvae"], old.obsm["X_trvae"])
        assert set(now.obsm) == set(old.obsm)
        assert not now.uns
    with_genes = [AnnData(np.ones((a.n_obs, 2)), obs=a.obs, obsm=dict(a.obsm)) for a in (query[5:25], reference[::2])]
    for name, adata in zip(("q", "r"), with_genes, strict=True):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    backed = [read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("q", "r")]
    on_disk = transfer_labels(*backed, labels_key="cell_type", n_neighbors=7)
    assert on_disk["label"].astype(str).tolist() == expected["label"].astype(str).tolist()
    np.testing.assert_allclose(on_disk["uncertainty"], expected["uncertainty"])
    assert all(adata.isbacked for adata in backed)
    for adata in backed:
        adata.file.close()


def test_single_precision_and_tables_are_taken_as_embeddings(clouds):
    query, reference = clouds
    expected = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=7)
    query.obsm["X_trvae"] = query.obsm["X_trvae"].astype(np.float32)
    reference.obsm["X_trvae"] = pd.DataFrame(reference.obsm["X_trvae"], index=reference.obs_names)
    other = transfer_labels(query, reference, labels_key="cell_type", n_neighbors=7)
    assert other["label"].equals(expected["label"])
    np.testing.assert_allclose(other["uncertainty"], expected["uncertainty"], atol=1e-4)


# ---- errors


def test_missing_labels_are_refused(clouds):
    query, reference = clouds
    reference.obs.loc[reference.obs_names[:3], "cell_type"] = np.nan
    with pytest.raises(ValueError, match="none for 3 of 100"):
        transfer_labels(query, reference, labels_key="cell_type")
    complete = reference[reference.obs["cell_type"].notna()]
    assert len(transfer_labels(query, complete, labels_key="cell_type")) == 50


def test_unknown_or_several_columns_are_refused(clouds):
    with pytest.raises(KeyError, match="'celltype' in `reference.obs`.*cell_type"):
        transfer_labels(*clouds, labels_key="celltype")
    with pytest.raises(TypeError, match="one column"):
        transfer_labels(*clouds, labels_key=["cell_type"])


@pytest.mark.parametrize(("n_neighbors", "error"), [(0, ValueError), (101, ValueError), (2.5, TypeError)])
def test_impossible_numbers_of_neighbours_are_refused(clouds, n_neighbors, error):
    with pytest.raises(error, match=f"found {n_neighbors}"):
        transfer_labels(*clouds, labels_key="cell_type", n_neighbors=n_neighbors)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(clouds, side, value):
    clouds[side].obsm["X_trvae"][[2, 4], 1] = value
    name = ("query", "reference")[side]
    with pytest.raises(ValueError, match=rf"`{name}.obsm\['X_trvae'\]`, found NaN or infinity in 2 of"):
        transfer_labels(*clouds, labels_key="cell_type")


@pytest.mark.parametrize("side", [0, 1])
def test_missing_embeddings_are_refused(clouds, side):
    clouds[side].obsm["X_pca"] = clouds[side].obsm.pop("X_trvae")
    name = ("query", "reference")[side]
    with pytest.raises(KeyError, match=rf"`{name}.obsm`, found \['X_pca'\].*get_latent_representation"):
        transfer_labels(*clouds, labels_key="cell_type")


def test_embeddings_of_other_width_are_refused(clouds):
    query, reference = clouds
    query.obsm["X_trvae"] = query.obsm["X_trvae"][:, :3]
    with pytest.raises(ValueError, match="found 3 dimensions in `query` and 4 in `reference`"):
        transfer_labels(query, reference, labels_key="cell_type")


def test_what_is_no_matrix_or_no_anndata_is_refused(clouds):
    query, reference = clouds
    with pytest.raises(TypeError, match="`query` to be an AnnData, found ndarray"):
        transfer_labels(query.obsm["X_trvae"], reference, labels_key="cell_type")
    with pytest.raises(ValueError, match=r"found shape \(0, 4\)"):
        transfer_labels(query[:0], reference, labels_key="cell_type")
