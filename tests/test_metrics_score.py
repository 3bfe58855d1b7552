"""Tables of scores against a slow reference that makes every split, every half and every set of genes anew."""

from __future__ import annotations

import inspect

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from trvae_scvi import metrics as m
from trvae_scvi.metrics._scorer import DEFAULT_METRICS, Scorer

OF_FUNCTIONS = [*m.METRICS[:5], *m.METRICS[6:9]]  # those of moments and distances, without the rank
FURTHER = list(m.METRICS[9:])
COLUMNS = ["genes", "metric", "value", "std", "note"]


@pytest.fixture
def counts():
    """Predicted, real, control and source counts of 15 genes, the first 6 of which respond."""
    rng = np.random.default_rng(0)
    means = rng.gamma(3.0, 4.0, size=15)
    responds = np.arange(15) < 6
    sizes = ((2, 30), (3, 35), (1, 51), (1, 40))
    return [rng.poisson(np.where(responds, scale, 1) * means, size=(n, 15)) for scale, n in sizes]


@pytest.fixture
def cells(counts):
    return [m.log_normalize(c) for c in counts]


@pytest.fixture
def expected():
    return np.random.default_rng(1).normal(size=15)


def by_hand(
    pred,
    real,
    control,
    source,
    *,
    expected,
    n_cells=None,
    n_splits=10,
    n_top=4,
    max_cells=500,
    seed=0,
    metrics=OF_FUNCTIONS,
):
    """Scores of a prediction or, with `pred` of None, of the ceiling, by genes and metric: values of each split.

    Every metric twice: with all control cells, for the value, and with random halves of them, for its error.
    """
    rng = np.random.default_rng(seed)
    half = len(real) // 2
    n_cells = len(pred) if pred is not None else n_cells
    n_each = half if n_cells is None else max(min(half, n_cells // 2), 2)
    found = {}
    for _ in range(n_splits):
        order = rng.permutation(len(real))
        mine, compared = real[order[:n_each]], real[order[half:]]
        own = np.random.default_rng(int(rng.integers(2**32)))
        if pred is not None:
            mine = pred[own.permutation(len(pred))[:n_each]]
        halves = [side[rng.permutation(len(side))[: (len(side) + 1) // 2]] for side in (control, source)]
        top = m.responsive_genes(control, compared, n_genes=n_top)
        for label, genes in (("all", np.arange(real.shape[1])), (f"top{n_top}", top)):
            for metric in metrics:
                for which, sides in (("value", (control, source)), ("error", halves)):
                    given = {"control": sides[0], "source": sides[1]}
                    arrays = {name: side[:, genes] for name, side in given.items()} | {"expected": expected[genes]}
                    value = one(metric, mine[:, genes], compared[:, genes], arrays, max_cells)
                    found.setdefault((label, metric, which), []).append(value)
    return found


def one(metric, mine, compared, arrays, max_cells):
    if metric == "energy_distance":
        return m.energy_distance(mine[:max_cells], compared[:max_cells], max_cells=None)
    function = getattr(m, metric)
    more = [arrays[name] for name in inspect.signature(function).parameters if name in arrays]
    return function(mine, compared, *more)


def assert_is(table, found):
    assert table.columns.tolist() == COLUMNS
    for row in table.itertuples():
        values, errors = (found[row.genes, row.metric, which] for which in ("value", "error"))
        assert row.value == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12), row
        assert row.std == pytest.approx(np.std(errors, ddof=1), rel=1e-6, abs=1e-12), row
        assert row.note == ""


# ---- which metrics


def test_names_and_directions():
    assert m.SKILL_METRICS == {
        "mean response": ("mse_means", "partial_pearson"),
        "distribution": ("energy_distance", "mse_stds"),
    }
    assert m.METRICS[:4] == tuple(name for names in m.SKILL_METRICS.values() for name in names)
    assert DEFAULT_METRICS == (*m.METRICS[:4], "pearson_change", "discrimination")
    assert len(set(m.METRICS)) == len(m.METRICS) == 15
    assert list(m.HIGHER_IS_BETTER) == list(m.METRICS)
    assert [name for name, higher in m.HIGHER_IS_BETTER.items() if not higher] == [
        "mse_means", "energy_distance", "mse_stds", "unbiased_capped_mse", "lfc_nmae"
    ]  # fmt: skip


def test_directions_are_those_in_which_a_better_prediction_differs(cells):
    pred, real, control, source = cells
    options = {"n_top_genes": 3, "metrics": m.METRICS[:10], "expected": np.linspace(-1, 1, 15)}
    good = m.score_arrays(real, real, control, source, **options)
    bad = m.score_arrays(2 * source.mean(axis=0) - 0.3 * pred, real, control, source, **options)
    difference = (good["value"] - bad["value"])[:10].set_axis(m.METRICS[:10])
    for name, higher in list(m.HIGHER_IS_BETTER.items())[:10]:
        # Squared correlations do not see that the sign is wrong; for the rank there are no other targets here.
        if not name.startswith(("squared", "discrimination")):
            assert (difference[name] > 0) == higher, name


# ---- values and their errors


@pytest.mark.parametrize(("n_pred", "max_cells", "seed"), [(30, 500, 0), (12, 5, 3), (30, None, 4), (3, 500, 0)])
def test_scores_equal_the_slow_reference(cells, expected, n_pred, max_cells, seed):
    pred, *others = cells
    pred = pred[:n_pred]
    options = {"max_cells": max_cells, "seed": seed, "expected": expected, "n_splits": 4}
    table = m.score_arrays(pred, *others, n_top_genes=4, metrics=OF_FUNCTIONS, **options)
    assert table["genes"].tolist() == ["all"] * 8 + ["top4"] * 8
    assert table["metric"].tolist() == OF_FUNCTIONS * 2
    assert_is(table, by_hand(pred, *others, **options))


@pytest.mark.parametrize(("n_cells", "max_cells", "seed"), [(None, 500, 0), (12, 5, 3), (400, None, 4), (2, 500, 0)])
def test_the_ceiling_equals_the_slow_reference(cells, expected, n_cells, max_cells, seed):
    _, *others = cells
    options = {"max_cells": max_cells, "seed": seed, "expected": expected, "n_splits": 4, "n_cells": n_cells}
    table = m.noise_ceiling(*others, n_top_genes=4, metrics=OF_FUNCTIONS, **options)
    assert table["metric"].tolist() == OF_FUNCTIONS * 2
    assert_is(table, by_hand(None, *others, **options))


def test_the_other_metrics_equal_the_slow_reference_too():
    rng = np.random.default_rng(0)
    means = rng.gamma(3.0, 4.0, size=40)
    factors = np.where(np.arange(40) < 25, rng.gamma(2.0, 1.0, size=40), 1.0)
    program = 1 + rng.gamma(1.0, 0.5, size=(130, 1)) * (np.arange(40) % 3 == 0)
    counts = [rng.poisson(program * means * factor) for factor in (1.2 * factors, factors, 1.0, 1.0)]
    cells = [m.log_normalize(side) for side in counts]
    table = m.score_arrays(*cells, n_top_genes=30, n_splits=2, metrics=FURTHER)
    found = by_hand(*cells, expected=np.zeros(40), n_splits=2, n_top=30, metrics=FURTHER)
    assert table["value"].notna().all()
    assert_is(table, found)


def test_prediction_and_ceiling_are_compared_with_the_same_cells(cells, expected):
    """Cells that are all alike can stand for either: then the values are those of the ceiling, whatever is drawn."""
    _, real, control, source = cells
    real = np.vstack([real[:1]] * 20)  # no half differs from another
    for n_cells in (8, 30):
        options = {"expected": expected, "n_top_genes": 4, "metrics": OF_FUNCTIONS}
        scores = m.score_arrays(np.vstack([real[:1]] * n_cells), real, control, source, **options)
        ceiling = m.noise_ceiling(real, control, source, n_cells=n_cells, **options)
        pd.testing.assert_frame_equal(scores, ceiling)


def test_the_rank_is_that_among_other_targets(cells):
    pred, real, control, source = cells
    rng = np.random.default_rng(2)
    others = real.mean(axis=0) + 0.3 * rng.normal(size=(5, 4, 15))
    scorer = Scorer(
        real, control, source, others=others, n_cells=30, n_top_genes=6, n_splits=5, metrics=("discrimination",)
    )
    assert scorer.ceiling()["value"].min() > 0.5
    table = scorer.score(pred).set_index("genes")
    draw, values = np.random.default_rng(0), {"all": [], "top6": []}
    for split in range(5):
        order = draw.permutation(35)
        own = np.random.default_rng(int(draw.integers(2**32)))
        mine, compared = pred[own.permutation(30)[:15]], real[order[17:]]
        for side in (control, source):
            draw.permutation(len(side))
        for label, genes in (("all", slice(None)), ("top6", m.responsive_genes(control, compared, n_genes=6))):
            means = {"own": compared[:, genes]} | {t: others[split, t : t + 1, genes] for t in range(4)}
            means = {t: np.atleast_2d(mean.reshape(-1, mine[:, genes].shape[1])) for t, mean in means.items()}
            predicted = dict.fromkeys(means, mine[:, genes])
            values[label].append(m.discrimination(predicted, means)["own"])
    for label, found in values.items():
        assert table.loc[label, "value"] == pytest.approx(np.mean(found))
        assert table.loc[label, "std"] == pytest.approx(np.std(found, ddof=1), abs=1e-12)


def test_the_error_is_about_the_scatter_over_samples():
    """Of the mean over many data sets with as many cells each, for a metric with and one without control cells."""
    rng = np.random.default_rng(0)
    base, shift = np.zeros(40), rng.normal(size=40)
    tables = []
    for _ in range(60):
        sides = [
            mean + rng.normal(size=(n, 40)) for mean, n in ((0.7 * shift, 40), (shift, 40), (base, 30), (base, 30))
        ]
        tables.append(m.score_arrays(*sides, metrics=("mse_means", "pearson_change"), n_top_genes=40))
    every = pd.concat(tables).groupby("metric")
    scatter, said = every["value"].std(), every["std"].mean()
    for metric in scatter.index:
        assert 0.6 < said[metric] / scatter[metric] < 1.7, metric


# ---- what has no value


def test_without_control_cells_only_what_needs_none_has_a_value(cells, expected):
    pred, real, control, source = cells
    every = m.score_arrays(pred, real, control, source, expected=expected, n_top_genes=4, metrics=OF_FUNCTIONS)
    for sides in ((), (control, None), (None, source)):
        table = m.score_arrays(pred, real, *sides, expected=expected, n_top_genes=4, metrics=OF_FUNCTIONS)
        assert table[["genes", "metric"]].equals(every[["genes", "metric"]])
        of_all = table[table["genes"] == "all"].set_index("metric")
        needy = ["partial_pearson", "pearson_residual", "pearson_change"]
        assert of_all.index[of_all["value"].isna()].tolist() == [name for name in OF_FUNCTIONS if name in needy]
        there = of_all["value"].dropna()
        assert (of_all.loc[there.index, "note"] == "").all()
        assert of_all["std"].notna().equals(of_all["value"].notna())
        reason = "needs control cells that no prediction started from"
        assert set(of_all.loc[needy, "note"]) == {reason}
        of_top = table[table["genes"] == "top4"]
        assert of_top["value"].isna().all()
        assert set(of_top["note"]) == {reason}


def test_what_is_lacking_is_named(cells):
    table = m.score_arrays(*cells, n_top_genes=4).set_index(["genes", "metric"])
    for genes in ("all", "top4"):
        assert table.loc[(genes, "partial_pearson"), "note"] == "needs the mean response of others"
        assert table.loc[(genes, "discrimination"), "note"] == "needs two other targets or more"
    lacking = table["note"] != ""
    assert lacking.sum() == 4
    assert table.loc[lacking, ["value", "std"]].isna().all(axis=None)
    assert table.loc[~lacking, ["value", "std"]].notna().all(axis=None)


def test_one_other_target_makes_no_rank(cells):
    _, real, control, source = cells
    for n_others, there in ((0, False), (1, False), (2, True)):
        scorer = Scorer(real, control, source, others=np.zeros((10, n_others, 15)), metrics=("discrimination",))
        assert scorer.ceiling()["value"].notna().all() == there


def test_a_constant_prediction_is_named(cells, expected):
    _, real, control, source = cells
    flat = np.full((20, 15), 0.5)
    table = m.score_arrays(flat, real, control, source, expected=expected, n_top_genes=4, metrics=m.METRICS)
    of_means = table[table["metric"] == "squared_pearson_means"]
    assert of_means["value"].isna().all()
    assert set(of_means["note"]) == {"the prediction or the truth is the same for all genes"}
    assert table[table["metric"] == "mse_means"]["value"].notna().all()


def test_splits_without_a_value_are_left_out(cells):
    """Two cells differ, all others are alike: variances exist in the halves that one of the two is in."""
    _, _, control, source = cells
    real = np.tile(np.arange(15.0), (8, 1))
    real[:2] += np.random.default_rng(0).random((2, 15))
    table = m.noise_ceiling(real, control, source, metrics=("squared_pearson_variances",), n_splits=20)
    values, rng = [], np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(8)
        rng.integers(2**32)
        for side in (control, source):
            rng.permutation(len(side))
        values.append(m.squared_pearson_variances(real[order[:4]], real[order[4:]]))
    there = ~np.isnan(values)
    assert 0 < there.sum() < 20
    assert table["value"].iloc[0] == pytest.approx(np.mean(np.array(values)[there]))
    assert table["std"].iloc[0] == pytest.approx(np.std(np.array(values)[there], ddof=1))


def test_a_single_split_has_no_error(cells):
    assert m.score_arrays(*cells, n_splits=1, n_top_genes=4)["std"].isna().all()


# ---- options


def test_metrics_come_in_the_order_asked_for_and_do_not_depend_on_each_other(cells, expected):
    options = {"n_top_genes": 4, "expected": expected}
    every = m.score_arrays(*cells, metrics=m.METRICS, **options).set_index(["genes", "metric"])["value"]
    asked = ["mse_stds", "mse_means"]
    some = m.score_arrays(*cells, metrics=asked, **options)
    assert some["metric"].tolist() == asked * 2
    assert some.set_index(["genes", "metric"])["value"].to_dict() == every[every.index.isin(asked, level=1)].to_dict()
    by_default = m.score_arrays(*cells, **options)
    pd.testing.assert_frame_equal(by_default, m.score_arrays(*cells, metrics=list(DEFAULT_METRICS), **options))


def test_all_genes_are_the_top_genes_if_there_are_fewer(cells):
    pred, real, control, source = cells
    for score in (
        lambda **kwargs: m.score_arrays(pred, real, control, source, **kwargs),
        lambda **kwargs: m.noise_ceiling(real, control, source, n_splits=2, **kwargs),
    ):
        assert score()["genes"].unique().tolist() == ["all", "top15"]
        pd.testing.assert_frame_equal(score(), score(n_top_genes=15))
        with pytest.raises(ValueError, match="`n_top_genes` of at least 1, found 0"):
            score(n_top_genes=0)
    adatas = [ad.AnnData(x) for x in cells]
    pd.testing.assert_frame_equal(m.score_prediction(*adatas, counts=False), m.score_arrays(*cells))


def test_score_prediction_takes_the_options(counts, cells, expected):
    names = [f"g{i}" for i in range(15)]
    adatas = [ad.AnnData(c.astype(np.float32), var=pd.DataFrame(index=names)) for c in counts]
    options = {
        "n_top_genes": 3,
        "metrics": OF_FUNCTIONS,
        "expected": expected,
        "seed": 4,
        "n_splits": 3,
        "max_cells": 5,
    }
    pd.testing.assert_frame_equal(m.score_prediction(*adatas, **options), m.score_arrays(*cells, **options))


def test_sparse_cells_give_the_same(cells):
    pd.testing.assert_frame_equal(
        m.score_arrays(*map(sparse.csr_matrix, cells), n_top_genes=4), m.score_arrays(*cells, n_top_genes=4)
    )


def test_seeds(cells):
    _, *others = cells
    for call in (
        [m.noise_ceiling(*others, n_top_genes=3, n_splits=2, seed=s) for s in (0, 0, 1)],
        [m.score_arrays(*cells, n_top_genes=3, n_splits=2, seed=s) for s in (0, 0, 1)],
    ):
        pd.testing.assert_frame_equal(call[0], call[1])
        assert not np.array_equal(call[0]["value"], call[2]["value"])


def test_input_is_kept(cells):
    kept = [x.copy() for x in cells]
    m.score_arrays(*cells, n_top_genes=3)
    for x, before in zip(cells, kept, strict=True):
        np.testing.assert_array_equal(x, before)


# ---- refusals


def test_unknown_and_repeated_metrics_are_refused(cells):
    _, *others = cells
    with pytest.raises(ValueError, match=r"out of \['mse_means', .*found \['accuracy'\]"):
        m.score_arrays(*cells, n_top_genes=3, metrics=["mse_means", "accuracy"])
    with pytest.raises(ValueError, match=r"each once, found \['mse_means', 'mse_means'\]"):
        m.score_arrays(*cells, n_top_genes=3, metrics=["mse_means", "mse_means"])
    with pytest.raises(ValueError, match="a sequence of metrics, each once, found 'mse_means'"):
        m.score_arrays(*cells, n_top_genes=3, metrics="mse_means")
    with pytest.raises(ValueError, match=r"found \['accuracy'\]"):
        m.noise_ceiling(*others, n_top_genes=3, metrics=["accuracy"])


def test_too_few_cells_are_refused(cells):
    pred, real, control, source = cells
    with pytest.raises(ValueError, match="at least 4 cells in `real`, 2 in each half, found 3"):
        m.noise_ceiling(real[:3], control, source)
    with pytest.raises(ValueError, match="at least 4 cells in `real`, 2 in each half, found 3"):
        m.score_arrays(pred, real[:3], control, source)
    with pytest.raises(ValueError, match="at least 2 cells in `pred`, found 1"):
        m.score_arrays(pred[:1], real, control, source)
    with pytest.raises(ValueError, match="at least 2 cells in `control`, found 1"):
        m.score_arrays(pred, real, control[:1], source)
    with pytest.raises(ValueError, match="`n_cells` of at least 2, found 1"):
        m.noise_ceiling(real, control, source, n_cells=1)


def test_other_numbers_are_refused(cells):
    pred, real, control, source = cells
    with pytest.raises(ValueError, match="`n_splits` of at least 1, found 0"):
        m.noise_ceiling(real, control, source, n_splits=0)
    with pytest.raises(TypeError, match="`n_splits` to be an integer, found 2.5"):
        m.noise_ceiling(real, control, source, n_splits=2.5)
    with pytest.raises(ValueError, match="`max_cells` of at least 2, found 1"):
        m.score_arrays(*cells, max_cells=1)
    with pytest.raises(ValueError, match="a finite number for each of 15 genes in `expected`"):
        m.score_arrays(*cells, expected=np.ones(14))
    with pytest.raises(ValueError, match="`source` 3"):
        m.score_arrays(pred, real, control, source[:, :3])
