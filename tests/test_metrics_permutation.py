"""The permutation test: its statistic, its p value by all splits, and that it holds its level."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import sparse

from trvae_scvi import metrics as m


def test_the_statistic_is_the_energy_distance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)), rng.normal(0.3, size=(50, 6))
    for options in ({}, {"max_cells": 40}, {"max_cells": 60, "seed": 4}, {"max_cells": None}):
        found = m.energy_test(x, y, n_permutations=3, **options)
        assert found.statistic == pytest.approx(m.energy_distance(x, y, **options), abs=1e-12)
    assert found == m.energy_test(sparse.csr_matrix(x), y, n_permutations=3, max_cells=None)


def test_the_p_value_is_near_that_of_all_splits():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(5, 2)), rng.normal(0.7, size=(4, 2))
    both = np.vstack([x, y])
    observed = m.energy_distance(x, y)
    splits = [list(rows) for rows in combinations(range(9), 5)]
    further = [m.energy_distance(both[rows], np.delete(both, rows, axis=0)) >= observed - 1e-9 for rows in splits]
    exact = np.mean(further)
    assert 0.02 < exact < 0.9
    assert m.energy_test(x, y, n_permutations=5000).p_value == pytest.approx(exact, abs=0.02)


def test_splits_as_far_apart_count():
    # every split of these is the observed one or its mirror image
    x, y = [[0.0], [0.0]], [[1.0], [1.0]]
    p = m.energy_test(x, y, n_permutations=2000).p_value
    assert p == pytest.approx(1 / 3, abs=0.04)
    assert m.energy_test(x, x, n_permutations=10).p_value == 1


def test_it_holds_its_level_and_has_power():
    rng = np.random.default_rng(0)
    null, shifted = [], []
    for seed in range(200):
        x, y = rng.gamma(2, size=(12, 3)), rng.gamma(2, size=(9, 3))
        null.append(m.energy_test(x, y, n_permutations=99, seed=seed).p_value)
        shifted.append(m.energy_test(x, y + 2, n_permutations=99, seed=seed).p_value)
    assert 0.01 < np.mean(np.array(null) <= 0.05) < 0.1
    assert 0.4 < np.mean(null) < 0.6
    assert np.mean(np.array(shifted) <= 0.05) > 0.9


def test_the_smallest_p_value_and_seeds():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(9, size=(20, 2))
    assert m.energy_test(x, y, n_permutations=199).p_value == 1 / 200
    x, y = rng.normal(size=(30, 2)), rng.normal(0.2, size=(20, 2))
    assert m.energy_test(x, y, n_permutations=200) == m.energy_test(x, y, n_permutations=200)
    p_values = {m.energy_test(x, y, n_permutations=200, seed=seed).p_value for seed in (0, 1, 2, None)}
    assert len(p_values) > 1


def test_it_refuses():
    with pytest.raises(ValueError, match="`n_permutations` of at least 1, found 0"):
        m.energy_test([[0], [1]], [[0], [1]], n_permutations=0)
    with pytest.raises(ValueError, match="at least 2 cells in `y`"):
        m.energy_test([[0], [1]], [[0]])
