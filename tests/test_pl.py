"""The plots: what they draw, not how it looks."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text
from scipy import sparse, stats
from sklearn.metrics import r2_score

from trvae_scvi import pl
from trvae_scvi.metrics import log_normalize
from trvae_scvi.pl._labels import label_points


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adatas():
    """Predicted and real counts of the same genes."""
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, 4.0, size=9)
    var = pd.DataFrame(index=[f"g{i}" for i in range(9)])
    return [
        ad.AnnData(sparse.csr_matrix(rng.poisson(means * factor, size=(n, 9)).astype(np.float32)), var=var.copy())
        for factor, n in ((np.linspace(1, 2, 9), 30), (1.0, 20))
    ]


@pytest.fixture
def score_frame():
    """Two methods, two metrics, two groups, two gene sets; every value tells where it belongs."""
    rows = [
        (method, group, genes, metric, 100 * i + 10 * j + k + (0.5 if genes == "top5" else 0.0))
        for i, metric in enumerate(["mse_means", "pearson_change"])
        for j, group in enumerate(["NK", "B"])
        for k, method in enumerate(["trVAE", "mean shift"])
        for genes in ("all", "top5")
    ]
    return pd.DataFrame(rows, columns=["method", "group", "genes", "metric", "value"])


@pytest.fixture
def effect():
    return pd.DataFrame(
        {
            "variable": ["a", "b", "c", "d", "e"],
            "change": [0.5, -2.0, 1.0, np.nan, 0.1],
            "change_lower": [0.2, -2.5, 1.2, np.nan, -0.1],
            "change_upper": [0.7, -1.0, 1.6, np.nan, 0.3],
        }
    )


# ---- regression


@pytest.mark.parametrize(("statistic", "reduce"), [("mean", np.mean), ("variance", np.var)])
def test_regression_frame(adatas, statistic, reduce):
    pred, real = adatas
    frame = pl.regression_frame(pred, real, statistic=statistic)
    assert frame.columns.tolist() == ["real", "predicted", "residual"]
    assert frame.index.tolist() == real.var_names.tolist()
    np.testing.assert_allclose(frame["real"], reduce(log_normalize(real.X).astype(float), axis=0), rtol=1e-12)
    np.testing.assert_allclose(frame["predicted"], reduce(log_normalize(pred.X).astype(float), axis=0), rtol=1e-12)
    np.testing.assert_array_equal(frame["residual"], frame["predicted"] - frame["real"])


def test_regression_frame_of_a_layer_and_of_values_as_they_are(adatas):
    pred, real = adatas
    expected = pl.regression_frame(pred, real, statistic="mean")
    for a in adatas:
        a.layers["log"] = log_normalize(a.X)
        a.layers["raw"] = a.X.copy()
        a.X = None
    views = pred[:], real[:]
    pd.testing.assert_frame_equal(pl.regression_frame(*views, statistic="mean", layer="raw"), expected)
    pd.testing.assert_frame_equal(pl.regression_frame(*views, statistic="mean", layer="log", counts=False), expected)


def test_regression_frame_refuses(adatas):
    pred, real = adatas
    with pytest.raises(ValueError, match=r"out of \['mean', 'variance'\], found 'std'"):
        pl.regression_frame(pred, real, statistic="std")
    with pytest.raises(ValueError, match="same order"):
        pl.regression_frame(pred[:, ::-1], real, statistic="mean")
    with pytest.raises(KeyError, match="layer 'counts' in `real`"):
        pl.regression_frame(pred, real, statistic="mean", layer="counts")


def test_regression_fit_tells_the_two_apart():
    frame = pd.DataFrame({"real": [1.0, 2.0, 4.0], "predicted": [3.0, 4.0, 9.0]})
    fit = pl.regression_fit(frame)
    assert fit["squared_pearson"] == pytest.approx(stats.pearsonr(frame["real"], frame["predicted"]).statistic ** 2)
    assert fit["coefficient_of_determination"] == pytest.approx(r2_score(frame["real"], frame["predicted"]))
    # By hand: residuals 2 2 5 against deviations -4/3 -1/3 5/3 of the real values.
    assert fit["coefficient_of_determination"] == pytest.approx(1 - 33 / (42 / 9))
    assert fit["squared_pearson"] > 0.9


def test_regression_fit_without_finite_values():
    for column in ("real", "predicted"):
        frame = pd.DataFrame({"real": [1.0, 2.0, 3.0], "predicted": [1.0, 2.0, 4.0]})
        frame.loc[1, column] = np.inf
        assert pl.regression_fit(frame).isna().all()


def test_regression_fit_of_constants():
    flat, varied = [1.0, 1.0], [0.0, 1.0]
    assert pl.regression_fit(pd.DataFrame({"real": flat, "predicted": varied})).isna().all()
    fit = pl.regression_fit(pd.DataFrame({"real": varied, "predicted": flat}))
    assert np.isnan(fit["squared_pearson"])
    assert fit["coefficient_of_determination"] == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="at least 2 genes, found 1"):
        pl.regression_fit(pd.DataFrame({"real": [1.0], "predicted": [1.0]}))
    with pytest.raises(KeyError, match="'real' and 'predicted'"):
        pl.regression_fit(pd.DataFrame({"x": varied}))


@pytest.mark.parametrize(("plot", "statistic"), [(pl.reg_mean, "mean"), (pl.reg_var, "variance")])
def test_reg_draws_the_frame(adatas, plot, statistic):
    frame = pl.regression_frame(*adatas, statistic=statistic)
    fit = pl.regression_fit(frame)
    ax = plot(*adatas, n_labels=3)
    assert isinstance(ax, Axes)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), frame[["real", "predicted"]])
    (line,) = ax.lines
    assert (line.get_xy1(), line.get_slope()) == ((0, 0), 1)
    *labels, numbers = sorted(ax.texts, key=lambda text: not text.get_text().startswith("g"))
    furthest = frame["residual"].abs().nlargest(3).index
    assert {text.get_text() for text in labels} == set(furthest)
    for text in labels:
        assert text.xy == pytest.approx(tuple(frame.loc[text.get_text(), ["real", "predicted"]]))
    assert numbers.get_text() == (
        f"squared Pearson correlation {fit['squared_pearson']:.3f}\n"
        f"coefficient of determination {fit['coefficient_of_determination']:.3f}"
    )
    assert ax.get_xlabel() == f"real gene {statistic} (log1p counts per 10,000)"
    assert ax.get_ylabel() == f"predicted gene {statistic} (log1p counts per 10,000)"


def test_labels_cover_neither_each_other_nor_other_points():
    figure, ax = plt.subplots()
    points = 1000 * np.array([[0.5, 0.5], [0.501, 0.5], [0.5, 0.501], [0.502, 0.502], [0.9, 0.1]])
    rng = np.random.default_rng(0)
    others = np.vstack([points, 1000 * np.column_stack([rng.uniform(0.505, 0.55, 30), rng.uniform(0.49, 0.52, 30)])])
    # Limits far from those of an empty figure: they have to be known before a place is looked for.
    ax.scatter(*others.T)
    names = ["IFIT1", "IFIT2", "IFITM3", "ISG15", "LONG-NAME1"]
    label_points(ax, points, names, others)
    figure.canvas.draw()
    assert [text.xy for text in ax.texts] == [tuple(point) for point in points]
    # Annotation boxes with a line include the point: compare the texts only.
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    at = ax.transData.transform(others)
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert not any(box.contains(*point) for point in at)


def test_labels_without_room_are_written_all_the_same():
    _, ax = plt.subplots()
    points = np.full((80, 2), 0.5)
    label_points(ax, points, ["IFIT1"] * 80, points)
    assert len(ax.texts) == 80


def test_reg_options(adatas):
    _, ax = plt.subplots()
    assert pl.reg_mean(*adatas, n_labels=0, counts=False, ax=ax) is ax
    assert len(ax.texts) == 1
    assert "values as given" in ax.get_xlabel()
    assert len(pl.reg_mean(*adatas, n_labels=99).texts) == 10
    with pytest.raises(ValueError, match="`n_labels` of at least 0, found -1"):
        pl.reg_mean(*adatas, n_labels=-1)


# ---- scores


def test_score_table_averages_what_is_not_kept_apart(score_frame):
    table = pl.score_table(score_frame)
    assert table.columns.tolist() == ["metric", "method", "value", "std", "n"]
    assert table[["metric", "method"]].to_numpy().tolist() == [
        ["mse_means", "trVAE"], ["mse_means", "mean shift"],
        ["pearson_change", "trVAE"], ["pearson_change", "mean shift"],
    ]  # fmt: skip
    assert table["value"].tolist() == [5.0, 6.0, 105.0, 106.0]
    np.testing.assert_allclose(table["std"], np.std([0, 10], ddof=1))
    assert table["n"].tolist() == [2] * 4
    apart = pl.score_table(score_frame, genes="top5", groupby="group")
    assert apart["value"].tolist() == [0.5, 1.5, 10.5, 11.5, 100.5, 101.5, 110.5, 111.5]
    assert apart["std"].isna().all()


def test_the_spread_of_a_single_row_is_its_own(score_frame):
    frame = score_frame.assign(std=np.arange(len(score_frame)) + 1.0)
    # Of two rows of which one has no value, the other one is alone.
    frame.loc[(frame["method"] == "mean shift") & (frame["group"] == "NK"), "value"] = np.nan
    rows = frame[frame["genes"] == "all"].set_index(["metric", "group", "method"])
    table = pl.score_table(frame).set_index(["metric", "method"])
    for metric in ("mse_means", "pearson_change"):
        assert table.loc[(metric, "trVAE"), "std"] == pytest.approx(np.std([0, 10], ddof=1))
        assert table.loc[(metric, "mean shift"), "std"] == rows.loc[(metric, "B", "mean shift"), "std"]
    apart = pl.score_table(frame, groupby="group").set_index(["metric", "group", "method"])
    there = apart["value"].notna()
    assert there.sum() == 6
    pd.testing.assert_series_equal(apart.loc[there, "std"], rows["std"].reindex(apart.index[there]))
    assert apart.loc[~there, "std"].isna().all()


def test_score_table_refuses(score_frame):
    with pytest.raises(KeyError, match=r"found no \['method'\]"):
        pl.score_table(score_frame.drop(columns="method"))
    with pytest.raises(KeyError, match=r"found no \['donor'\]"):
        pl.scores(score_frame, groupby="donor")
    with pytest.raises(ValueError, match=r"genes 'top100', found only \['all', 'top5'\]"):
        pl.score_table(score_frame, genes="top100")


def bars(ax):
    """Centre, height and colour of every bar, by method."""
    return {
        container.get_label(): [(bar.get_x() + bar.get_width() / 2, bar.get_height(), to_hex(bar.get_facecolor()))
                                for bar in container]
        for container in ax.containers if hasattr(container, "patches")
    }  # fmt: skip


def test_scores_draw_one_panel_per_metric(score_frame):
    axes = pl.scores(score_frame[score_frame["group"] == "NK"])
    assert axes.shape == (2,)
    assert [ax.get_title() for ax in axes] == ["mse means\n(lower is better)", "pearson change\n(higher is better)"]
    for ax, base in zip(axes, (0, 100), strict=True):
        drawn = bars(ax)
        assert [(x, y) for x, y, _ in drawn["trVAE"]] == [pytest.approx((0, base))]
        assert [(x, y) for x, y, _ in drawn["mean shift"]] == [pytest.approx((1, base + 1))]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["trVAE", "mean shift"]
        assert drawn["trVAE"][0][2] != drawn["mean shift"][0][2]


def test_scores_of_groups_side_by_side(score_frame):
    # A method that lacks a group must not shift the others' bars.
    lacking = score_frame[~((score_frame["group"] == "NK") & (score_frame["method"] == "mean shift"))]
    axes = pl.scores(lacking, groupby="group")
    drawn = bars(axes[0])
    assert [(x, y) for x, y, _ in drawn["trVAE"]] == [pytest.approx((-0.2, 0)), pytest.approx((0.8, 10))]
    assert [(x, y) for x, y, _ in drawn["mean shift"]] == [pytest.approx((1.2, 11))]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["NK", "B"]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["trVAE", "mean shift"]


def test_scores_show_the_spread_of_several_rows(score_frame):
    axes = pl.scores(score_frame)
    std = np.std([0, 10], ddof=1)
    segments = [line.get_segments()[0] for line in axes[0].collections]
    np.testing.assert_allclose(segments, [[[0, 5 - std], [0, 5 + std]], [[1, 6 - std], [1, 6 + std]]])
    assert not pl.scores(score_frame, groupby="group")[0].collections
    assert len(axes[0].bar_label(axes[0].containers[0])) == 1  # the bars come first


def test_scores_show_the_spread_that_a_single_row_brings(score_frame):
    one = score_frame[(score_frame["group"] == "B") & (score_frame["genes"] == "all")]
    one = one[one["metric"] == "mse_means"].assign(std=[0.5, np.nan])
    (ax,) = pl.scores(one)
    (line,) = ax.collections
    np.testing.assert_allclose(line.get_segments(), [[[0, 9.5], [0, 10.5]]])


def test_scores_draw_into_given_axes(score_frame):
    _, given = plt.subplots(1, 2)
    result = pl.scores(score_frame, ax=given)
    assert list(result) == list(given)
    _, single = plt.subplots()
    assert pl.scores(score_frame[score_frame["metric"] == "mse_means"], ax=single)[0] is single
    with pytest.raises(ValueError, match="found 1 for .*Pass 2 or none"):
        pl.scores(score_frame, ax=single)


def test_metrics_without_a_value_have_no_panel(score_frame):
    one = score_frame[score_frame["metric"] == score_frame["metric"].iloc[0]]
    axes = pl.scores(pd.concat([one, one.assign(metric="discrimination", value=np.nan)]))
    assert [ax.get_title().split("\n")[0] for ax in axes] == [one["metric"].iloc[0].replace("_", " ")]
    with pytest.raises(ValueError, match="nothing but NaN"):
        pl.scores(one.assign(value=np.nan))


def test_more_methods_than_colours_stay_distinguishable():
    frame = pd.DataFrame({"method": [f"m{i}" for i in range(9)], "genes": "all", "metric": "custom", "value": 1.0})
    (ax,) = pl.scores(frame)
    looks = [(to_hex(c[0].get_facecolor()), c[0].get_hatch() or "") for c in ax.containers]
    assert len(set(looks)) == 9
    assert ax.get_title() == "custom"


# ---- response


def test_response_frame_picks_the_largest_changes_in_both_directions(effect):
    kept = effect.copy()
    assert pl.response_frame(effect, n_genes=3)["variable"].tolist() == ["c", "a", "b"]
    assert pl.response_frame(effect, n_genes=2)["variable"].tolist() == ["c", "b"]
    assert pl.response_frame(effect)["variable"].tolist() == ["c", "a", "e", "b"]
    # where one direction has too few, the other one fills up
    assert pl.response_frame(effect[effect["change"] != -2.0], n_genes=2)["variable"].tolist() == ["c", "a"]
    many = pd.DataFrame({"variable": list("uvwxyz"), "change": [-3.0, -2.0, -1.0, -4.0, 0.0, 0.5]})
    many = many.assign(change_lower=many["change"], change_upper=many["change"])
    assert pl.response_frame(many, n_genes=4)["variable"].tolist() == ["z", "v", "u", "x"]
    pd.testing.assert_frame_equal(effect, kept)


def test_response_draws_bars_intervals_and_real_changes(effect):
    ax = pl.response(effect.assign(change_real=[0.4, -1.5, 0.9, 0.0, 0.0]), n_genes=3)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.5, -2.0]
    intervals, markers = ax.collections
    # That of "c" does not contain the change: it is drawn where it is.
    assert [(s[0][0], s[1][0], s[0][1]) for s in intervals.get_segments()] == [
        (1.2, 1.6, 0),
        (0.2, 0.7, 1),
        (-2.5, -1.0, 2),
    ]
    np.testing.assert_array_equal(markers.get_offsets(), [[0.9, 0], [0.4, 1], [-1.5, 2]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["c", "a", "b"]
    assert ax.yaxis_inverted()
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"predicted", "interval", "real"}


def test_response_without_real_changes(effect):
    _, ax = plt.subplots()
    assert pl.response(effect, ax=ax) is ax
    assert len(ax.collections) == 1
    assert ax.get_xlabel() == "change of the mean of log1p(counts\nper 10,000)"
    assert pl.response(effect.assign(scale="values as given")).get_xlabel() == "change of the mean of values as\ngiven"


def test_response_of_several_groups_has_a_panel_each(effect):
    several = pd.concat([effect.assign(group=group, target="drug", level=0.9) for group in ("B", "NK_$1$")])
    axes = pl.response(several, n_genes=2)
    assert [ax.get_title() for ax in axes] == ["B under drug", "NK_$1$ under drug"]
    assert [[tick.get_text() for tick in ax.get_yticklabels()] for ax in axes] == [["c", "b"]] * 2
    assert "90% interval" in {text.get_text() for text in axes[0].get_legend().get_texts()}
    _, given = plt.subplots(1, 2)
    assert pl.response(several, ax=given)[1] is given[1]
    with pytest.raises(ValueError, match="one axes per group and target"):
        pl.response(several, ax=given[0])


def test_response_refuses(effect):
    with pytest.raises(KeyError, match=r"found no \['change_upper'\]"):
        pl.response(effect.drop(columns="change_upper"))
    with pytest.raises(ValueError, match="several for 'a'. Select one target"):
        pl.response(pd.concat([effect, effect]))
    with pytest.raises(ValueError, match="`n_genes` of at least 1, found 0"):
        pl.response(effect, n_genes=0)


# ---- conventions


@pytest.mark.parametrize("name", ["reg_mean", "reg_var", "scores", "response"])
def test_plots_show_only_when_asked_and_change_no_setting(name, adatas, score_frame, effect, monkeypatch):
    arguments = {"reg_mean": adatas, "reg_var": adatas, "scores": [score_frame], "response": [effect]}[name]
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    before = dict(mpl.rcParams)
    getattr(pl, name)(*arguments)
    getattr(pl, name)(*arguments, show=False)
    assert not shown
    getattr(pl, name)(*arguments, show=True)
    assert shown == [1]
    assert dict(mpl.rcParams) == before
    assert len(plt.get_fignums()) == 3
