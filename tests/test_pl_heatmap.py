"""The heat map of skills: the table by hand, and that what is drawn is the table."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from trvae_scvi import benchmark, pl
from trvae_scvi.benchmark import _comparison
from trvae_scvi.pl._heatmap import _REFERENCES, _number_text


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def frame():
    """Four methods, two groups, two metrics, two seeds and two gene sets; the references are not last."""
    skills = {
        "mean shift": [0.0, 0.0, 0.0, 0.0],
        "trVAE": [0.5, -2.5, np.nan, 0.25],
        "noise ceiling": [1.0, 1.0, 1.0, 1.0],
        "linear": [-0.75, 0.5, 1.5, -30.0],
    }
    rows = [
        (group, seed, method, genes, metric, 7.0, skill + (0.25 if seed else -0.25) + (genes == "top5"))
        for method, values in skills.items()
        for (group, metric), skill in zip(
            [("NK", "mse_means"), ("NK", "pearson_change"), ("B", "mse_means"), ("B", "pearson_change")],
            values,
            strict=True,
        )
        for seed in (0, 1)
        for genes in ("all", "top5")
    ]
    return pd.DataFrame(rows, columns=["group", "seed", "method", "genes", "metric", "value", "skill"])


EXPECTED = np.array(
    [[0.5, -2.5, np.nan, 0.25], [-0.75, 0.5, 1.5, -30.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]],
)


def test_score_heatmap_frame_averages_seeds_and_puts_references_last(frame):
    kept = frame.copy()
    table = pl.score_heatmap_frame(frame)
    assert table.index.tolist() == ["trVAE", "linear", "mean shift", "noise ceiling"]
    assert table.index.name == "method"
    assert table.columns.names == ["group", "metric"]
    assert table.columns.tolist() == [
        ("NK", "mse_means"), ("NK", "pearson_change"), ("B", "mse_means"), ("B", "pearson_change"),
    ]  # fmt: skip
    np.testing.assert_allclose(table, EXPECTED)
    np.testing.assert_allclose(pl.score_heatmap_frame(frame, genes="top5"), EXPECTED + 1)
    assert (pl.score_heatmap_frame(frame, value="value") == 7).all(axis=None)
    pd.testing.assert_frame_equal(frame, kept)


def test_score_heatmap_frame_leaves_out_seeds_without_a_value(frame):
    first = (frame["method"] == "trVAE") & (frame["seed"] == 0)
    frame.loc[first, "skill"] = np.nan
    np.testing.assert_allclose(pl.score_heatmap_frame(frame).loc["trVAE"], EXPECTED[0] + 0.25)


def test_score_heatmap_frame_without_some_rows(frame):
    lacking = frame[~((frame["method"] == "linear") & (frame["group"] == "B")) & (frame["method"] != "mean shift")]
    table = pl.score_heatmap_frame(lacking)
    assert table.index.tolist() == ["trVAE", "linear", "noise ceiling"]
    np.testing.assert_allclose(table.loc["linear"], [-0.75, 0.5, np.nan, np.nan])


def test_score_heatmap_frame_leaves_out_metrics_without_a_value(frame):
    empty = frame[frame["metric"] == frame["metric"].iloc[0]].assign(metric="discrimination", skill=np.nan)
    metrics = list(pl.score_heatmap_frame(frame).columns.unique("metric"))
    assert list(pl.score_heatmap_frame(pd.concat([empty, frame])).columns.unique("metric")) == metrics
    assert list(pl.score_heatmap_frame(empty).columns.unique("metric")) == ["discrimination"]


def test_score_heatmap_draws_the_frame_clipped(frame):
    ax = pl.score_heatmap(frame)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array().filled(np.nan), np.clip(EXPECTED, -1, 1))
    assert image.get_clim() == (-1, 1)
    # The middle of a diverging map is neutral, its ends are not the same.
    neutral = image.cmap(0.5)
    assert np.ptp(neutral[:3]) < 0.01
    assert image.cmap(0.0) != image.cmap(1.0)
    assert ax.get_title() == "skill on all genes"


def test_score_heatmap_writes_the_numbers_unclipped(frame):
    ax = pl.score_heatmap(frame)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(0, 0)] == "0.50"
    assert written[(1, 0)] == "-2.50"
    assert written[(3, 1)] == "-30"
    assert (2, 0) not in written
    assert len(written) == 15
    colours = {text.get_position(): text.get_color() for text in ax.texts}
    assert (colours[(0, 2)], colours[(0, 3)], colours[(1, 0)]) == ("black", "white", "white")


def test_score_heatmap_hatches_what_is_undefined(frame):
    ax = pl.score_heatmap(frame)
    (hatched,) = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert hatched.get_bbox().bounds == (1.5, -0.5, 1, 1)
    red, green, blue, _ = ax.images[0].cmap(np.ma.masked)
    assert red == green == blue == pytest.approx(0.88, abs=0.01)
    assert plt.get_cmap("RdBu")(np.ma.masked) != (red, green, blue, 1.0)


def test_score_heatmap_names_rows_columns_and_references(frame):
    ax = pl.score_heatmap(frame)
    ax.figure.canvas.draw()
    methods = ax.get_yticklabels()
    assert [label.get_text() for label in methods] == ["trVAE", "linear", "mean shift", "noise ceiling"]
    assert [label.get_fontweight() for label in methods] == ["normal", "normal", "bold", "bold"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["mse means", "pearson change"] * 2
    (top,) = ax.child_axes
    assert [(x, label.get_text()) for x, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True)] == [
        (0.5, "NK"),
        (2.5, "B"),
    ]
    between_groups, above_references = ax.lines
    assert set(between_groups.get_xdata()) == {1.5}
    assert set(above_references.get_ydata()) == {1.5}
    bar = next(other for other in ax.figure.axes if other is not ax)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["-1", "0: best trivial", "1: noise ceiling"]


def test_score_heatmap_without_references_draws_no_line_for_them(frame):
    ax = pl.score_heatmap(frame[(frame["method"] == "trVAE") & (frame["group"] == "NK")])
    assert not ax.lines
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["normal"]


def large(n_groups, group_name):
    rows = [
        (f"{group_name}{g}", f"method number {m}", "all", metric, -3.33)
        for g in range(n_groups)
        for m in range(15)
        for metric in ("squared_pearson_means", "pearson_change", "mse_means", "energy_distance")
    ]
    return pd.DataFrame(rows, columns=["group", "method", "genes", "metric", "skill"])


def overlaps(texts):
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))


@pytest.mark.parametrize("group_name", ["NK", "a group with a long name "])
def test_score_heatmap_of_many_stays_readable(group_name):
    ax = pl.score_heatmap(large(5, group_name))
    ax.figure.canvas.draw()
    assert len(ax.texts) == 300
    assert not overlaps(ax.texts)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels(), ax.child_axes[0].get_xticklabels()):
        assert not overlaps(labels)
    # A cell is wider than the number in it.
    cell = np.diff(ax.transData.transform([[0, 0], [1, 1]]), axis=0).ravel()
    assert all(text.get_window_extent().width < cell[0] for text in ax.texts)


@pytest.mark.parametrize(
    ("number", "text"),
    [(-0.001, "0.00"), (9.994, "9.99"), (-12.3, "-12"), (-9999.4, "-9999"), (-123456.0, "-1e+05")],
)
def test_numbers_stay_short(number, text):
    assert _number_text(number) == text


def test_score_heatmap_draws_into_given_axes_and_changes_no_setting(frame, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    before = dict(mpl.rcParams)
    _, given = plt.subplots()
    assert pl.score_heatmap(frame, ax=given) is given
    assert len(plt.get_fignums()) == 1
    assert not shown
    pl.score_heatmap(frame, show=True)
    assert shown == [1]
    assert dict(mpl.rcParams) == before


def test_score_heatmap_refuses(frame):
    with pytest.raises(KeyError, match=r"found no \['group'\]. Name a single group with"):
        pl.score_heatmap(frame.drop(columns="group"))
    with pytest.raises(KeyError, match=r"found no \['skills'\]"):
        pl.score_heatmap(frame, value="skills")
    with pytest.raises(ValueError, match=r"genes 'top100', found only \['all', 'top5'\]"):
        pl.score_heatmap(frame, genes="top100")


def test_the_references_are_those_of_the_benchmark():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"condition": np.repeat(["control", "target"], 120), "cell_type": np.tile(np.repeat(["a", "b", "c"], 40), 2)},
        index=[f"cell{i}" for i in range(240)],
    )
    # Group a responds more than the others, which leaves room above the trivial predictions.
    fold = np.where(obs["cell_type"] == "a", 6.0, 2.0) ** (obs["condition"] == "target")
    means = rng.gamma(2.0, 4.0, size=12) * fold.to_numpy()[:, None] ** (np.arange(12) < 6)
    adata = ad.AnnData(rng.poisson(means).astype(np.float32), obs=obs)
    keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    holdout, truth = benchmark.hold_out(adata, **keys, group="a", target="target")
    scores = benchmark.compare_predictions({"own": holdout.control[:9]}, holdout, truth)
    table = pl.score_heatmap_frame(scores.assign(group="a"))
    assert table.index.tolist()[-4:] == ["no change", "mean of others", "mean shift", "noise ceiling"]
    ceiling, trivial = table.loc["noise ceiling"], table.iloc[-4:-1]
    defined = ceiling.notna()
    assert defined.any()
    np.testing.assert_array_equal(ceiling[defined], 1)
    np.testing.assert_array_equal(trivial.loc[:, defined].max(), 0)


def test_every_trivial_prediction_is_a_reference():
    names = {*_comparison.TRIVIAL, *_comparison.TARGET_TRIVIAL, _comparison.CEILING}
    assert set(_REFERENCES) == names
    assert _REFERENCES[-1] == _comparison.CEILING


def test_score_heatmap_sets_all_references_apart(frame):
    trivial = [frame[frame["method"] == "mean shift"].assign(method=name) for name in ("mean of others", "no change")]
    ax = pl.score_heatmap(pd.concat([*trivial, frame]))
    labels = ax.get_yticklabels()
    names = ["trVAE", "linear", "no change", "mean of others", "mean shift", "noise ceiling"]
    assert [label.get_text() for label in labels] == names
    assert [label.get_fontweight() for label in labels] == ["normal"] * 2 + ["bold"] * 4
    assert set(ax.lines[-1].get_ydata()) == {1.5}
