"""The mapping score against brute force, and that it is calibrated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import stats
from scipy.spatial import distance

from trvae_scvi.mapping import mapping_score


def cells(embedding, prefix="cell"):
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(len(embedding))])
    return AnnData(np.ones((len(embedding), 1)), obs=obs, obsm={"X_trvae": np.asarray(embedding)})


def mean_distance(rows, n_neighbors):
    return np.sort(rows, axis=1)[:, :n_neighbors].mean(axis=1)


def strangeness(x, n_neighbors):
    """Mean distance of every cell to its nearest others."""
    distances = distance.cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    return mean_distance(distances, n_neighbors)


@pytest.mark.parametrize("n_neighbors", [1, 6, 39])
def test_score_equals_brute_force(n_neighbors):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), 1.5 * rng.normal(size=(25, 3))
    within, across = strangeness(x, n_neighbors), mean_distance(distance.cdist(y, x), n_neighbors)
    expected = [(1 + sum(w >= a for w in within)) / 41 for a in across]
    scores = mapping_score(cells(y, "query"), cells(x), n_neighbors=n_neighbors)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert len(set(expected)) > 5
    assert scores.name == "mapping_score"
    assert scores.index.tolist() == [f"query{i}" for i in range(25)]


def test_score_by_hand():
    # nearest others within the reference: 1, 1, 2, 4
    reference = cells(np.array([[0.0], [1.0], [3.0], [7.0]]))
    query = cells(np.array([[0.5], [5.0], [9.5], [100.0], [0.0]]))
    scores = mapping_score(query, reference, n_neighbors=1)  # at distances 0.5, 2, 2.5, 93, 0
    assert scores.tolist() == [1.0, 3 / 5, 2 / 5, 1 / 5, 1.0]


def test_reference_cells_at_the_same_place_count_each_other_but_not_themselves():
    reference = cells(np.array([[0.0], [0.0], [5.0]]))  # 0, 0, 5
    scores = mapping_score(cells(np.array([[0.0], [1.0], [6.0]])), reference, n_neighbors=1)
    assert scores.tolist() == [1.0, 2 / 4, 2 / 4]


@pytest.mark.parametrize("n_dims", [2, 10])
def test_score_of_held_out_cells_is_uniform(n_dims):
    rng = np.random.default_rng(n_dims)
    scores = []
    for _ in range(300):  # a fresh reference for every cell: otherwise the scores depend on each other
        x = rng.normal(size=(201, n_dims))
        scores.append(mapping_score(cells(x[:1]), cells(x[1:]), n_neighbors=5).item())
    assert stats.kstest(scores, "uniform").pvalue > 0.05


def test_query_cells_within_the_reference_score_too_well():
    x = np.random.default_rng(0).normal(size=(200, 2))
    assert mapping_score(cells(x), cells(x), n_neighbors=5).mean() > 0.55


def test_score_of_held_out_cells_is_uniform_within_one_large_reference():
    rng = np.random.default_rng(1)
    types = 6 * rng.normal(size=(4, 5))
    x = types[rng.integers(0, 4, 4500)] + rng.normal(size=(4500, 5))
    scores = mapping_score(cells(x[:500]), cells(x[500:]), n_neighbors=15)
    assert stats.kstest(scores, "uniform").statistic < 1.36 / np.sqrt(500)  # the 5 % point
    assert scores.mean() == pytest.approx(0.5, abs=0.04)


def test_score_is_never_below_that_of_a_query_cell_which_joined_the_reference():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 2)), 1.3 * rng.normal(size=(40, 2))
    scores = mapping_score(cells(y), cells(x), n_neighbors=8)
    exact = []
    for cell in y:
        a = strangeness(np.vstack([x, cell]), 8)
        exact.append((a >= a[-1]).mean())
    difference = scores.to_numpy() - exact
    assert (difference >= -1e-12).all()
    assert 0 < difference.mean() < 8 / 60


def test_cells_far_off_score_least_and_more_the_nearer_they_are():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(500, 4)), rng.normal(size=(100, 4))
    far = mapping_score(cells(y + 50), cells(x), n_neighbors=10)
    assert (far == 1 / 501).all()
    medians = [mapping_score(cells(y + shift), cells(x), n_neighbors=10).median() for shift in (0, 0.7, 1.5, 3)]
    assert medians[0] > medians[1] > medians[2] > medians[3]


def test_score_does_not_see_cells_on_the_wrong_type():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 3)) + np.repeat([[0, 0, 0], [20, 0, 0]], 200, axis=0)
    wrong = rng.normal(size=(100, 3)) + [20, 0, 0]  # of the first type, mapped onto the second
    assert mapping_score(cells(wrong), cells(x), n_neighbors=10).median() > 0.4


def test_sparse_types_score_lower_than_dense_ones_however_well_mapped():
    rng = np.random.default_rng(7)
    spread = np.repeat([0.2, 2.0], 300)[:, None]
    x, y = (spread * rng.normal(size=(600, 3)) + 20 * (spread > 1) for _ in range(2))
    scores = mapping_score(cells(y), cells(x), n_neighbors=10)
    assert scores[:300].min() > 0.45
    assert scores[300:].median() == pytest.approx(0.25, abs=0.05)
    assert scores.median() == pytest.approx(0.5, abs=0.05)


def test_a_group_smaller_than_the_number_of_neighbours_is_no_part_of_the_reference():
    rng = np.random.default_rng(5)
    x = np.vstack([rng.normal(size=(500, 2)), 0.1 * rng.normal(size=(8, 2)) + 30])
    query = cells(0.1 * rng.normal(size=(20, 2)) + 30)
    assert mapping_score(query, cells(x), n_neighbors=5).median() > 0.1
    assert mapping_score(query, cells(x), n_neighbors=15).max() < 0.05


def test_views_and_backed_objects_give_the_same_and_nothing_changes(tmp_path):
    rng = np.random.default_rng(6)
    query, reference = cells(rng.normal(size=(30, 3)), "query"), cells(rng.normal(size=(60, 3)))
    expected = mapping_score(query[3:20].copy(), reference[::2].copy(), n_neighbors=4)
    before = [adata.obsm["X_trvae"].copy() for adata in (query, reference)]
    pd.testing.assert_series_equal(mapping_score(query[3:20], reference[::2], n_neighbors=4), expected)
    for adata, old in zip((query, reference), before, strict=True):
        np.testing.assert_array_equal(adata.obsm["X_trvae"], old)
        assert list(adata.obsm) == ["X_trvae"]
        assert adata.obs.empty
    reference.write_h5ad(tmp_path / "reference.h5ad")
    backed = read_h5ad(tmp_path / "reference.h5ad", backed="r")
    pd.testing.assert_series_equal(mapping_score(query[3:20], backed[::2], n_neighbors=4), expected)
    assert backed.isbacked
    backed.file.close()


def test_at_least_one_other_reference_cell_per_neighbour_is_needed():
    x = np.random.default_rng(0).normal(size=(10, 2))
    assert len(mapping_score(cells(x), cells(x), n_neighbors=9)) == 10
    with pytest.raises(ValueError, match="at most 9, .*once a cell itself is left out, found 10"):
        mapping_score(cells(x), cells(x), n_neighbors=10)
    with pytest.raises(ValueError, match="at most 0, "):
        mapping_score(cells(x), cells(x[:1]), n_neighbors=1)


def test_unfit_embeddings_are_refused():
    x = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.raises(KeyError, match="'X_scvi' in `query.obsm`"):
        mapping_score(cells(x), cells(x), use_rep="X_scvi")
    with pytest.raises(ValueError, match="found 1 dimensions in `query` and 2"):
        mapping_score(cells(x[:, :1]), cells(x))
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 60"):
        mapping_score(cells(x), cells(x))
