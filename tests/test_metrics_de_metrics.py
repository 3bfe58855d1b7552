"""Differential expression of predicted and real cells, each against control cells of its own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from trvae_scvi import metrics as m
from trvae_scvi.metrics import _de_tables
from trvae_scvi.metrics._de_metrics import change_tables

METRICS = {name: getattr(m, name) for name in ("lfc_nmae", "direction_fidelity", "direction_reach", "de_jaccard")}
OF_TABLES = ["nmae_of_tables", "fidelity_of_tables", "reach_of_tables", "jaccard_of_tables"]


@pytest.fixture(scope="module")
def cells():
    """Predicted and real cells of which 12 of 40 genes respond, half of them in a wrong direction when predicted."""
    rng = np.random.default_rng(0)
    change, predicted = np.zeros((2, 40))
    change[:12] = np.repeat([6, -4], 6)
    predicted[:24] = np.repeat([6, 4, -4], [6, 6, 12])
    draws = [rng.poisson(8 + shift, size=(80, 40)) for shift in (predicted, change, 0, 0)]
    return [m.log_normalize(x) for x in draws]


def test_they_are_those_of_the_tables(cells):
    pred, real, source, control = cells
    tables = m.de_table(pred, source), m.de_table(real, control)
    for metric, name in zip(METRICS.values(), OF_TABLES, strict=True):
        expected = getattr(_de_tables, name)(*tables)
        assert metric(*cells) == expected
        assert metric(*(sparse.csr_matrix(x) for x in cells)) == expected
        for option in ({"method": "t-test"}, {"alpha": 1e-6}):
            expected = getattr(_de_tables, name)(
                *(
                    m.de_table(*pair, method=option.get("method", "wilcoxon"))
                    for pair in ((pred, source), (real, control))
                ),
                alpha=option.get("alpha", 0.05),
            )
            assert metric(*cells, **option) == expected


def test_order_of_predictions(cells):
    _, real, source, control = cells
    again = m.log_normalize(np.expm1(real)[np.random.default_rng(0).permutation(80)])
    for name, metric in METRICS.items():
        truth, wrong, nothing = (metric(x, real, source, control) for x in (again, cells[0], source))
        best = 0 if name == "lfc_nmae" else 1
        assert nothing == 1 - best
        assert truth == pytest.approx(best, abs=0.3)
        assert abs(truth - best) < abs(wrong - best)


def test_a_change_within_rounding_is_none(cells):
    _, real, source, control = cells
    shuffled = source[::-1].astype(float) + 1e-12
    assert m.direction_reach(shuffled, real, source, control, method="t-test") == 0
    predicted, _ = change_tables(shuffled, real, source, control)
    assert (predicted["log_fc"] == 0).all()


def test_controls_are_not_shared(cells):
    pred, real, source, control = cells
    predicted, actual = change_tables(pred, real, source, control)
    np.testing.assert_allclose(predicted["log_fc"], pred.mean(axis=0) - source.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(actual["log_fc"], real.mean(axis=0) - control.mean(axis=0), atol=1e-5)


def test_the_whole_table(cells):
    _, real, _, control = cells
    table = m.de_table(real, control)
    assert table.index.tolist() == list(range(40))
    np.testing.assert_allclose(table["p_adj"], stats.false_discovery_control(table["p"]))
    few = m.de_genes(real, control)
    assert 5 < len(few) < 40
    assert few.equals(table.loc[table["p_adj"] < 0.05, few.columns.tolist()])
    p = stats.ttest_ind(real, control, equal_var=False).pvalue
    np.testing.assert_allclose(m.de_table(real, control, method="t-test")["p"], p, rtol=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_they_refuse(cells, name):
    pred, real, source, control = cells
    with pytest.raises(ValueError, match="`source` 39"):
        METRICS[name](pred, real, source[:, :39], control)
    with pytest.raises(ValueError, match="at least 2 cells"):
        METRICS[name](pred, real, source[:1], control)
    with pytest.raises(ValueError, match="Expected a `method`"):
        METRICS[name](*cells, method="t")
    with pytest.raises(ValueError, match="Expected `alpha`"):
        METRICS[name](*cells, alpha=0)
