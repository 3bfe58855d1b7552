"""Cells are told from others by their values."""

from __future__ import annotations

import numpy as np

from trvae_scvi.predict._own_cells import fingerprints


def test_equal_cells_have_equal_numbers_and_others_have_not():
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (5000, 50)).astype(np.float32)
    _, first = np.unique(x, axis=0, return_inverse=True)
    found = fingerprints(x)
    assert found.dtype == np.uint64
    _, second = np.unique(found, return_inverse=True)
    same = first.ravel()[:, None] == first.ravel()
    np.testing.assert_array_equal(same, second.ravel()[:, None] == second.ravel())


def test_a_number_is_of_the_cell_alone_and_of_values_in_single_precision():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.testing.assert_array_equal(fingerprints(x[2:3]), fingerprints(x)[2:3])
    np.testing.assert_array_equal(fingerprints(x.astype(np.float64)), fingerprints(x))
    np.testing.assert_array_equal(
        fingerprints(-np.zeros((1, 3), np.float32)), fingerprints(np.zeros((1, 3), np.float32))
    )
    assert fingerprints(x[:, ::-1])[0] != fingerprints(x)[0]
    # as saved by other versions of NumPy
    assert fingerprints(np.array([[1.0, 2.0]])).tolist() == [16_895_322_179_997_007_872]
