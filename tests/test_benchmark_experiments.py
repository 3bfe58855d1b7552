"""Which group to measure next, and how many cells of it."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest

import trvae_scvi as tv
from trvae_scvi.benchmark import cells_needed, rank_experiments

KEYS = {"group_key": "group", "control": "ctrl", "target": "drug", "counts": False}
#: Two families of three groups, and one group apart; a's are nearer to one another than b's.
PLACES = {"a1": 0.0, "a2": 0.5, "a3": 1.0, "b1": 20.0, "b2": 21.0, "b3": 22.0, "far": 60.0}


def cells(measured=(), n=40, seed=0, n_of=None, effect=1.0):
    """Normalised values of groups under control, and of some under the drug."""
    rng = np.random.default_rng(seed)
    frames = []
    for name, place in PLACES.items():
        for condition in ("ctrl", "drug"):
            if condition == "drug" and name not in measured:
                continue
            size = (n_of or {}).get(name, n)
            shift = effect if condition == "drug" else 0.0
            frames.append((name, condition, place + shift + rng.normal(size=(size, 30))))
    obs = pd.DataFrame(
        {
            "group": [name for name, _, x in frames for _ in x],
            "condition": [condition for _, condition, x in frames for _ in x],
        }
    )
    return ad.AnnData(np.vstack([x for *_, x in frames]), obs=obs.set_axis(obs.index.astype(str)))


def test_one_of_each_family_comes_first():
    order = rank_experiments(cells(), **{**KEYS, "target": None})
    first = order["group"].tolist()[:3]
    assert {name[0] for name in first} == {"a", "b", "f"}
    assert first[0] in ("a3", "b1", "b2")  # what most are near to
    assert order["unknown_before"].iloc[0] == pytest.approx(1.0)
    assert pd.isna(order["nearest"].iloc[0])
    np.testing.assert_array_equal(order["unknown_before"].iloc[1:], order["unknown"].iloc[:-1])
    assert order["unknown"].is_monotonic_decreasing


def test_what_was_measured_is_not_measured_again():
    order = rank_experiments(cells(measured=["a2", "far"]), **KEYS)
    assert set(order["group"]) == set(PLACES) - {"a2", "far"}
    assert order["group"].iloc[0].startswith("b")
    assert order["nearest"].iloc[0] == "a2"
    assert order["unknown_before"].iloc[0] < 1.0


def test_unknown_by_hand():
    """Two groups infinitely apart share a third of the variance."""
    data = cells(n=10_000)
    data = data[data.obs["group"].isin(["a1", "far"])]
    order = rank_experiments(data, **{**KEYS, "target": None})
    # the median distance is that of the two: exp(-1/2) of the second third
    shared = (1.0 + np.exp(-0.5)) / 3.0
    assert order["unknown"].iloc[0] == pytest.approx((1.0 - shared**2) / 2.0, abs=0.01)
    assert order["unknown"].iloc[1] == pytest.approx(0.0, abs=0.01)


def test_few_cells_tell_less():
    few = rank_experiments(cells(n_of={"b2": 10}, n=400), **{**KEYS, "target": None})
    many = rank_experiments(cells(n=400), **{**KEYS, "target": None})
    assert few["unknown"].iloc[-1] > many["unknown"].iloc[-1]


def test_candidates_alone_are_ranked():
    order = rank_experiments(cells(), **{**KEYS, "target": None}, candidates=["far", "a1"])
    assert set(order["group"]) == {"far", "a1"}


def test_the_order_of_the_rows_does_not_matter():
    data = cells(measured=["a2"])
    shuffled = data[np.random.default_rng(0).permutation(data.n_obs)].copy()
    pd.testing.assert_frame_equal(rank_experiments(data, **KEYS), rank_experiments(shuffled, **KEYS))


def test_more_cells_are_needed_for_a_weaker_effect():
    strong, weak = (cells_needed(cells(measured=["a1", "b1"], n=330, effect=effect), **KEYS) for effect in (0.5, 0.15))
    assert set(strong["group"]) == {"a1", "b1"}
    assert strong["n_cells"].unique().tolist() == [10, 20, 40, 80, 160]
    assert strong["needed"].max() < weak["needed"].min()
    at_needed = strong[strong["n_cells"] == strong["needed"]]
    assert (at_needed["power"] >= 0.8).all()
    more = cells_needed(cells(measured=["a1", "b1"], n=330, effect=0.15), **KEYS, power=0.3)
    assert more["needed"].min() < weak["needed"].min()


def test_nothing_is_never_seen():
    table = cells_needed(cells(measured=["a1"], n=330, effect=0.0), **KEYS)
    assert table["needed"].isna().all()
    assert table["power"].max() <= 0.25


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"target": "durg"}, ValueError, "`target`"),
        ({"control": "drug"}, ValueError, "two conditions"),
        ({"group_key": "kind"}, KeyError, "group_key='kind'"),
        ({"counts": True}, ValueError, "Expected counts"),
        ({"candidates": ["c"]}, ValueError, "`candidates`"),
        ({"candidates": ["a1"]}, ValueError, "not measured, found 'a1'"),
        ({"candidates": ["b1", "b1"]}, ValueError, "none twice"),
    ],
)
def test_ranking_refuses(change, error, match):
    with pytest.raises(error, match=match):
        rank_experiments(cells(measured=["a1"]), **{**KEYS, **change})


def test_a_candidate_needs_control_cells():
    with pytest.raises(ValueError, match="found 4 of 'b1'"):
        rank_experiments(cells(measured=["a1"], n_of={"b1": 4}), **KEYS, candidates=["b1"])


def test_cells_needed_refuses():
    with pytest.raises(ValueError, match="found none"):
        cells_needed(cells(measured=["a1"], n_of={"a1": 5}), **KEYS)
    with pytest.raises(ValueError, match="`power`"):
        cells_needed(cells(measured=["a1"]), **KEYS, power=2)


def test_the_curve_is_the_table():
    order = rank_experiments(cells(measured=["a2"]), **KEYS)
    ax = tv.pl.experiments(order)
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [order["unknown_before"].iloc[0], *order["unknown"]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["now", *order["group"]]
    with pytest.raises(KeyError, match="rank_experiments"):
        tv.pl.experiments(order.drop(columns="unknown"))


def test_nothing_of_the_callers_is_changed():
    data = cells(measured=["a1"], n=60)
    before = data.copy()
    rank_experiments(data, **KEYS)
    cells_needed(data, **KEYS)
    np.testing.assert_array_equal(data.X, before.X)
    pd.testing.assert_frame_equal(data.obs, before.obs)


def test_many_measured_cells_tell_more_than_few():
    few, many = (cells(measured=["a2"], n=n) for n in (12, 400))
    keep = np.array([name.startswith("a2") for name in few.obs["group"]]) & (few.obs["condition"] == "drug").to_numpy()
    controls = many[(many.obs["condition"] == "ctrl").to_numpy()]
    measured = many[((many.obs["group"] == "a2") & (many.obs["condition"] == "drug")).to_numpy()]
    assert keep.sum() == 12
    unknown = [
        rank_experiments(ad.concat([controls, part], index_unique="-"), **KEYS)["unknown_before"].iloc[0]
        for part in (few[keep], measured)
    ]
    assert unknown[0] > unknown[1]
