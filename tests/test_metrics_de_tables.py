"""What two tables of differential expression agree in: by hand, and against slow references on random tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trvae_scvi.metrics._de_tables import fidelity_of_tables, jaccard_of_tables, nmae_of_tables, reach_of_tables

METRICS = [nmae_of_tables, fidelity_of_tables, reach_of_tables, jaccard_of_tables]


def table(log_fc, p_adj, p=None):
    p_adj = np.asarray(p_adj, dtype=float)
    return pd.DataFrame({"log_fc": np.asarray(log_fc, dtype=float), "p": p_adj if p is None else p, "p_adj": p_adj})


def draw(seed, n=60):
    """Two tables with ties, with changes of 0 and with p values that are as often significant as not."""
    rng = np.random.default_rng(seed)
    return [table(rng.integers(-3, 4, n), rng.choice([1e-9, 0.001, 0.04, 0.05, 0.3], n), rng.random(n)) for _ in "ab"]


def slow_reach(predicted, real, floor):
    genes = [g for g in real.index if real["p_adj"][g] < 0.05]
    genes.sort(key=lambda g: (predicted["p_adj"][g], predicted["p"][g], -abs(predicted["log_fc"][g])))
    best = depth = right = 0
    for gene in genes:
        if real["log_fc"][gene] == 0:
            continue
        depth += 1
        right += real["log_fc"][gene] * predicted["log_fc"][gene] > 0
        if right / depth >= floor:
            best = depth
    return best / len(genes)


@pytest.mark.parametrize("seed", range(20))
def test_they_equal_slow_references(seed):
    predicted, real = draw(seed)
    called, significant = (set(t.index[t["p_adj"] < 0.05]) for t in (predicted, real))
    right = {g for g in real.index if real["log_fc"][g] * predicted["log_fc"][g] > 0}
    scored = {g for g in called if real["log_fc"][g] != 0}
    assert jaccard_of_tables(predicted, real) == len(called & significant) / len(called | significant)
    assert fidelity_of_tables(predicted, real) == len(right & called) / max(len(scored), len(significant))
    for floor in (0.5, 0.9, 1.0):
        assert reach_of_tables(predicted, real, min_purity=floor) == pytest.approx(slow_reach(predicted, real, floor))
    rows = sorted(significant)
    error = (predicted["log_fc"] - real["log_fc"])[rows].abs().mean()
    assert nmae_of_tables(predicted, real) == pytest.approx(error / real["log_fc"][rows].abs().mean())


def test_a_table_agrees_with_itself():
    real = table([1.0, -2.0, 3.0] * 5, [0.01] * 10 + [0.5] * 5)
    assert [metric(real, real) for metric in METRICS] == [0, 1, 1, 1]
    nothing = table([0.0] * 15, [1.0] * 15)
    assert [metric(nothing, real) for metric in METRICS] == [1, 0, 0, 0]
    opposite = real.assign(log_fc=-real["log_fc"])
    assert [metric(opposite, real) for metric in METRICS] == [2, 0, 0, 1]


def test_calling_too_much_costs():
    real = table([1.0] * 20, [0.01] * 10 + [0.5] * 10)
    everything = table([1.0] * 20, [0.01] * 20)
    assert fidelity_of_tables(everything, real) == 1  # all signs are right, those of the other genes too
    assert jaccard_of_tables(everything, real) == 0.5
    wrong = table([1.0] * 10 + [-1.0] * 10, [0.01] * 20)
    assert fidelity_of_tables(wrong, real) == 0.5
    few = table([1.0] * 20, [0.01] * 5 + [0.5] * 15)
    assert fidelity_of_tables(few, real) == 0.5


def test_nothing_to_find():
    nothing = table([0.1] * 12, [0.9] * 12)
    called = table([0.1] * 12, [0.01] * 12)
    assert [metric(nothing, nothing) for metric in METRICS] == pytest.approx([np.nan, np.nan, np.nan, 1], nan_ok=True)
    assert [metric(called, nothing) for metric in METRICS] == pytest.approx([np.nan, 1, np.nan, 0], nan_ok=True)


def test_nmae_wants_ten_genes():
    nine, ten = (table([1.0] * 12, [0.01] * n + [0.9] * (12 - n)) for n in (9, 10))
    assert np.isnan(nmae_of_tables(nine, nine))
    assert nmae_of_tables(ten, ten) == 0
    assert nmae_of_tables(nine, nine, min_genes=9) == 0
    without = ten.assign(log_fc=0.0)
    assert np.isnan(nmae_of_tables(ten, without))


def test_what_is_no_number_earns_nothing():
    real = table([1.0] * 12, [0.01] * 12)
    for value in (np.nan, np.inf):
        predicted = real.assign(log_fc=[value] * 6 + [1.0] * 6)
        assert nmae_of_tables(predicted, real) == 0.5
    predicted = real.assign(log_fc=[np.nan] * 6 + [1.0] * 6)
    assert fidelity_of_tables(predicted, real) == 0.5
    assert jaccard_of_tables(predicted, real) == 0.5
    # called first they would spoil every prefix; a change of no number is not called
    assert reach_of_tables(predicted, real) == 0.5
    assert reach_of_tables(predicted.assign(p_adj=[1e-9] * 6 + [0.2] * 6), real) == 0.5
    # of equal p values, a change of no number is the last
    assert reach_of_tables(predicted.assign(p=1.0, p_adj=1.0), real) == 0.5
    # wrong directions without a p value are the last
    wrong = table([-1.0] * 6 + [1.0] * 6, [np.nan] * 6 + [0.9] * 6)
    assert reach_of_tables(wrong, real) == 0.5
    assert reach_of_tables(wrong.assign(p_adj=1.0), real) == 0.5
    # a gene that is found nowhere but here has an infinite ratio, which has a direction
    infinite = real.assign(log_fc=np.inf)
    assert fidelity_of_tables(infinite, infinite) == reach_of_tables(infinite, infinite) == 1


def test_reach_recovers_after_a_wrong_head():
    real = table([1.0] * 20, [0.01] * 20)
    predicted = table([-1.0] + [1.0] * 19, np.linspace(0.001, 0.02, 20))
    assert reach_of_tables(predicted, real) == 1
    assert reach_of_tables(predicted, real, min_purity=0.96) == 0
    assert reach_of_tables(predicted.iloc[:9], real.iloc[:9]) == 0


def test_they_refuse_other_tables():
    real = table([1.0, 2.0], [0.1, 0.2])
    for metric in METRICS:
        with pytest.raises(ValueError, match="the same genes"):
            metric(real.iloc[:1], real)
        with pytest.raises(ValueError, match="the same genes"):
            metric(real.iloc[::-1], real)
        with pytest.raises(ValueError, match="each once"):
            metric(real.set_axis([0, 0]), real.set_axis([0, 0]))
        with pytest.raises(KeyError, match="no .*'p'"):
            metric(real.drop(columns="p"), real)
        with pytest.raises(ValueError, match="`alpha` above 0 and at most 1, found 0"):
            metric(real, real, alpha=0)
    with pytest.raises(ValueError, match="`min_genes` of at least 1"):
        nmae_of_tables(real, real, min_genes=0)
    with pytest.raises(ValueError, match="`min_purity` above 0"):
        reach_of_tables(real, real, min_purity=0)
