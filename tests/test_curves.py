"""Shifts of the decoder's output that make changes of means."""

from __future__ import annotations

import numpy as np

from trvae_scvi.predict._curves import _SHIFTS, shifts_for


def curves_of(levels):
    """Of genes whose log1p at these levels is all there is."""
    return np.log1p(levels * np.exp(_SHIFTS)[:, None]) - np.log1p(levels)


def test_shifts_make_the_changes_that_are_wanted():
    levels = np.array([0.5, 3.0, 50.0])
    changes = np.array([[0.3, -0.7, 0.0], [-0.1, 0.5, 1.2]])
    shifts, made = shifts_for(changes, curves_of(levels), None)
    np.testing.assert_allclose(np.log1p(levels * np.exp(shifts)) - np.log1p(levels), changes, atol=0.02)
    np.testing.assert_allclose(made, changes, atol=1e-6)
    assert shifts[0, 2] == 0.0


def test_a_shift_is_the_change_where_there_are_no_curves():
    changes = np.array([[0.3, -0.7]])
    assert all((found == changes).all() for found in shifts_for(changes, None, None))


def test_changes_that_cannot_be_had_together_cost_the_genes_with_the_most_counts():
    shares = np.array([0.5, 0.3, *np.full(20, 0.01)])
    changes = np.full((1, 22), 0.3)  # of all genes up: there are no more counts than there are
    shifts, made = shifts_for(changes, curves_of(1e4 * shares), shares)
    assert abs((shares * np.exp(shifts)).sum() - 1.0) < 0.002
    assert made[0, :2].max() < 0.2
    np.testing.assert_allclose(made[0, 2:], 0.3, atol=0.03)
