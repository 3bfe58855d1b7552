"""Tables that describe conditions."""

from __future__ import annotations

import numpy as np
import pytest

from trvae_scvi.features import combination_features, dose_features


def test_combinations_are_their_factors():
    table = combination_features(["B+A", "A", "B+ctrl"], control="ctrl")
    assert table.index.tolist() == ["ctrl", "B+A", "A", "B+ctrl"]
    assert table.columns.tolist() == ["A", "B"]
    assert table.to_numpy().tolist() == [[0, 0], [1, 1], [1, 0], [0, 1]]


def test_the_control_stays_where_it_is_listed():
    assert combination_features(["A", "ctrl"], control="ctrl").index.tolist() == ["ctrl", "A"]


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ("A+B", TypeError, "Write"),
        (["A", 1], TypeError, "as texts"),
        (["A", "A"], ValueError, "once"),
        (["A+A"], ValueError, "every factor once"),
    ],
)
def test_combinations_that_cannot_be(names, error, match):
    with pytest.raises(error, match=match):
        combination_features(names, control="ctrl")


def test_doses_are_logarithms_that_start_at_nothing():
    table = dose_features(["c", "1", "10", "1000"], [0, 1, 10, 1000])
    assert table["dose"].tolist() == pytest.approx(np.log1p([0, 1, 10, 1000]).tolist())


def test_doses_have_the_scale_of_their_drug():
    table = dose_features(["c", "x low", "x high", "y"], [0, 0.01, 1, 500], drugs=["", "x", "x", "y"])
    assert table.columns.tolist() == ["x", "y"]
    assert table.loc["x low"].tolist() == pytest.approx([np.log(2), 0])
    assert table.loc["y"].tolist() == pytest.approx([0, np.log(2)])
    assert not table.loc["c"].any()


@pytest.mark.parametrize(
    ("names", "doses", "match"),
    [
        (["a"], [1, 2], "found 1 names"),
        (["a", "a"], [1, 2], "1 of them different"),
        (["a", "b"], [1, -2], "others for \\['b'\\]"),
        (["a", "b"], [1, np.nan], "others for \\['b'\\]"),
    ],
)
def test_doses_that_cannot_be(names, doses, match):
    with pytest.raises(ValueError, match=match):
        dose_features(names, doses)


def test_doses_need_a_drug_and_a_list_of_names():
    with pytest.raises(ValueError, match=r"found none for \['a'\]"):
        dose_features(["c", "a"], [0, 1], drugs=["", np.nan])
    with pytest.raises(TypeError, match="Write"):
        dose_features("ab", [0, 1])


def test_a_table_of_doses_continues_another_one():
    """As that of a reference, whose scale starts at its own smallest dose."""
    first = dose_features(["c", "1", "30", "y"], [0, 1, 30, 500], drugs=["", "x", "x", "y"])
    more = dose_features(["30.0"], [30], drugs=["x"], smallest={"x": 1, "y": 500})
    assert more.loc["30.0", "x"] == first.loc["30", "x"]
    assert dose_features(["a"], [30], smallest=1.0).loc["a", "dose"] == first.loc["30", "x"]


@pytest.mark.parametrize(
    ("smallest", "error", "match"),
    [(0.0, ValueError, "smallest"), ("1", TypeError, "smallest"), ({"y": 1.0}, ValueError, "none for 'x'")],
)
def test_a_scale_has_to_be_one(smallest, error, match):
    with pytest.raises(error, match=match):
        dose_features(["c", "a"], [0, 1], drugs=["", "x"], smallest=smallest)
