"""Which metrics a table holds, and the skills of all of them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trvae_scvi import metrics as m

DRAWN = {"energy_distance", "mmd_rbf", "wasserstein_genes"}
AGAINST_CONTROL = {"pearson_change", "cosine_change", "direction_accuracy", "de_recall"}


@pytest.fixture
def counts():
    """Predicted, real and control counts of 15 genes, the first 6 of which respond."""
    rng = np.random.default_rng(0)
    means = rng.gamma(3.0, 4.0, size=15)
    responds = np.arange(15) < 6
    return [rng.poisson(np.where(responds, scale, 1) * means, size=(n, 15)) for scale, n in ((2, 40), (3, 35), (1, 50))]


@pytest.fixture
def cells(counts):
    return [m.log_normalize(c) for c in counts]


def tidy(**values):
    return pd.DataFrame(
        [("all", metric, value) for metric, value in values.items()], columns=["genes", "metric", "value"]
    )


# ---- which metrics


def test_names_and_directions():
    assert m.METRICS[:5] == m.SKILL_METRICS
    assert len(set(m.METRICS)) == len(m.METRICS) == 14
    assert set(m.METRICS) - set(m.HIGHER_IS_BETTER) == {"variance_ratio"}
    assert list(m.HIGHER_IS_BETTER) == [name for name in m.METRICS if name != "variance_ratio"]


def test_directions_are_those_in_which_a_better_prediction_differs(cells):
    pred, real, control = cells
    good = m.score_arrays(real[::2], real[1::2], control, n_top_genes=3, metrics=m.METRICS)
    bad = m.score_arrays(2 * control.mean(axis=0) - 0.3 * pred, real, control, n_top_genes=3, metrics=m.METRICS)
    difference = (good["value"] - bad["value"])[:14].set_axis(m.METRICS)
    for name, higher in m.HIGHER_IS_BETTER.items():
        # Squared correlations do not see that the sign is wrong.
        if not name.startswith("squared"):
            assert (difference[name] > 0) == higher, name


def test_score_arrays_holds_every_metric_on_both_gene_sets(cells):
    frame = m.score_arrays(*cells, n_top_genes=4, max_cells=20, seed=3, metrics=m.METRICS)
    assert frame["metric"].tolist() == list(m.METRICS) * 2
    top = m.responsive_genes(cells[2], cells[1], n_genes=4)
    values = frame.set_index(["genes", "metric"])["value"]
    for label, genes in (("all", slice(None)), ("top4", top)):
        pred, real, control = (matrix[:, genes] for matrix in cells)
        for name in m.METRICS:
            options = {"max_cells": 20, "seed": 3} if name in DRAWN else {}
            arguments = (pred, real, control) if name in AGAINST_CONTROL else (pred, real)
            assert values[label, name] == getattr(m, name)(*arguments, **options), name
    assert values.notna().all()


def test_metrics_come_in_the_order_asked_for_and_do_not_depend_on_each_other(cells):
    every = m.score_arrays(*cells, n_top_genes=4, metrics=m.METRICS).set_index(["genes", "metric"])["value"]
    asked = ["de_recall", "mse_means"]
    some = m.score_arrays(*cells, n_top_genes=4, metrics=asked)
    assert some["metric"].tolist() == asked * 2
    assert some.set_index(["genes", "metric"])["value"].to_dict() == every[every.index.isin(asked, level=1)].to_dict()
    by_default = m.score_arrays(*cells, n_top_genes=4)
    pd.testing.assert_frame_equal(by_default, m.score_arrays(*cells, n_top_genes=4, metrics=list(m.SKILL_METRICS)))


def test_noise_ceiling_of_every_metric_is_the_mean_over_random_halves(cells):
    _, real, control = cells
    frame = m.noise_ceiling(real, control, n_top_genes=3, n_splits=3, seed=5, metrics=("variance_ratio", "de_recall"))
    assert frame[["genes", "metric"]].to_numpy().tolist() == [
        ["all", "variance_ratio"],
        ["all", "de_recall"],
        ["top3", "variance_ratio"],
        ["top3", "de_recall"],
    ]
    top = m.responsive_genes(control, real, n_genes=3)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(3):
        order = rng.permutation(35)
        half, other = real[order[:17]], real[order[17:]]
        values.append((m.variance_ratio(half, other), m.de_recall(half[:, top], other[:, top], control[:, top])))
    np.testing.assert_allclose(frame["value"].iloc[[0, 3]], np.mean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(frame["std"].iloc[[0, 3]], np.std(values, axis=0, ddof=1), rtol=1e-9, atol=1e-15)


def test_a_table_of_more_metrics_has_the_same_ceiling(cells):
    _, real, control = cells
    few = m.noise_ceiling(real, control, n_top_genes=3, n_splits=2)
    many = m.noise_ceiling(real, control, n_top_genes=3, n_splits=2, metrics=m.METRICS)
    kept = many[many["metric"].isin(m.SKILL_METRICS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, kept)


def test_score_prediction_takes_the_metrics(counts, cells):
    names = [f"g{i}" for i in range(15)]
    adatas = [ad.AnnData(c.astype(np.float32), var=pd.DataFrame(index=names)) for c in counts]
    asked = ("wasserstein_genes", "direction_accuracy")
    expected = m.score_arrays(*cells, n_top_genes=3, metrics=asked)
    pd.testing.assert_frame_equal(m.score_prediction(*adatas, n_top_genes=3, metrics=asked), expected)


def test_unknown_and_repeated_metrics_are_refused(cells):
    _, real, control = cells
    with pytest.raises(ValueError, match=r"out of \['squared_pearson_means', .*found \['accuracy'\]"):
        m.score_arrays(*cells, n_top_genes=3, metrics=["mse_means", "accuracy"])
    with pytest.raises(ValueError, match=r"each once, found \['mse_means', 'mse_means'\]"):
        m.score_arrays(*cells, n_top_genes=3, metrics=["mse_means", "mse_means"])
    with pytest.raises(ValueError, match="a sequence of metrics, each once, found 'mse_means'"):
        m.score_arrays(*cells, n_top_genes=3, metrics="mse_means")
    with pytest.raises(ValueError, match=r"found \['accuracy'\]"):
        m.noise_ceiling(real, control, n_top_genes=3, metrics=["accuracy"])


# ---- skill


@pytest.mark.parametrize(("std", "expected"), [(0.1, 0.5), (0.0999, 0.5), (0.1001, np.nan), (np.nan, 0.5)])
def test_skill_is_undefined_where_the_gap_is_within_three_standard_deviations(std, expected):
    # The gap is 0.3, in the direction of the metric.
    for metric, values in {"pearson_change": (0.5, 0.65, 0.8), "mse_means": (0.5, 0.35, 0.2)}.items():
        reference, score, best = (tidy(**{metric: value}) for value in values)
        found = m.skill(score, reference=reference, ceiling=best.assign(std=std * (1 - 1e-12)))
        np.testing.assert_allclose(found["skill"], [expected])
        # Without the column nothing is known of the noise.
        np.testing.assert_allclose(m.skill(score, reference=reference, ceiling=best)["skill"], [0.5])


def test_skill_is_undefined_where_the_ceiling_is_clearly_worse():
    reference, ceiling = tidy(pearson_change=0.9), tidy(pearson_change=0.1).assign(std=1e-3)
    assert m.skill(reference, reference=reference, ceiling=ceiling)["skill"].isna().all()


def test_the_standard_deviation_is_matched_by_genes_and_metric():
    names = {"pearson_change": 0.5, "mse_means": 0.5}
    reference, score = tidy(**names), tidy(pearson_change=0.75, mse_means=0.25)
    ceiling = tidy(mse_means=0.0, pearson_change=1.0).assign(std=[1.0, 0.0])
    found = m.skill(score, reference=reference, ceiling=ceiling).set_index("metric")["skill"]
    assert found["pearson_change"] == pytest.approx(0.5)
    assert np.isnan(found["mse_means"])


def test_a_metric_without_direction_has_no_skill():
    tables = [tidy(variance_ratio=value, r2_means=value) for value in (0.5, 0.0, 1.0)]
    found = m.skill(tables[0], reference=tables[1], ceiling=tables[2]).set_index("metric")["skill"]
    assert np.isnan(found["variance_ratio"])
    assert found["r2_means"] == 0.5


def test_mean_skill_is_that_of_the_skill_metrics_alone(cells):
    pred, real, control = cells
    values = {}
    for metrics in (m.SKILL_METRICS, m.METRICS):
        reference = m.score_arrays(control, real, control, n_top_genes=4, metrics=metrics)
        ceiling = m.noise_ceiling(real, control, n_top_genes=4, metrics=metrics)
        table = m.skill(
            m.score_arrays(pred, real, control, n_top_genes=4, metrics=metrics), reference=reference, ceiling=ceiling
        )
        values[metrics] = m.mean_skill(table)
        others = table.loc[~table["metric"].isin(m.SKILL_METRICS), "skill"]
    assert values[m.SKILL_METRICS] == values[m.METRICS]
    assert others.notna().any()
    assert -1 < values[m.METRICS] < 1


def test_mean_skill_of_other_metrics_alone_is_undefined():
    assert np.isnan(m.mean_skill(pd.DataFrame({"metric": ["r2_means"], "skill": [0.5]})))
    assert m.mean_skill(pd.DataFrame({"skill": [0.5]})) == 0.5
