"""Names are drawn as they are: no formula between dollar signs, nothing left out for the character it begins with."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from trvae_scvi import pl
from trvae_scvi.benchmark import write_report

# a formula that matplotlib would fail at, one that it would draw, and a name that it hides in legends
ODD = [r"$\nope$", "a $x$ b", "_hidden"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def cells():
    counts = np.random.default_rng(0).poisson(3.0, size=(30, 3)) + 1.0
    obs = pd.DataFrame({ODD[1]: pd.Categorical(np.repeat(ODD, 10))}, index=[str(i) for i in range(30)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=ODD), obsm={"X_trvae": counts})


@pytest.fixture
def table():
    rows = [(group, method, 0.5 * i) for group in ODD for i, method in enumerate([*ODD, "mean shift"])]
    table = pd.DataFrame(rows, columns=["group", "method", "value"])
    return table.assign(skill=table["value"], genes=ODD[1], metric="mse_means", target="drug", seed=0)


def texts(ax):
    """All texts of the figure once it is drawn, each of which must not be taken for a formula."""
    ax.figure.canvas.draw()
    found = [text for text in ax.figure.findobj(Text) if text.get_visible()]
    assert not [text.get_text() for text in found if "$" in text.get_text() and text.get_parse_math()]
    return [text.get_text() for text in found]


def test_genes(cells):
    effect = pd.DataFrame({"variable": ODD, "change": 1.0, "change_lower": 0.5, "change_upper": 1.5})
    drawn = [pl.reg_mean(cells, cells), pl.response(effect), pl.violin(cells, cells, cells, ODD)[0]]
    for ax in drawn:
        assert set(ODD) <= set(texts(ax))


def test_columns_and_categories(cells):
    ax = pl.latent_umap(cells, keys=ODD[1])[0]
    assert ax.get_title() == ODD[1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == sorted(ODD)
    texts(ax)


def test_groups_methods_and_sets_of_genes(table):
    heatmap, bars = pl.score_heatmap(table, genes=ODD[1]), pl.scores(table, genes=ODD[1], groupby="group")[0]
    for ax in (heatmap, bars):
        assert {*ODD, "mean shift"} <= set(texts(ax))
    assert [text.get_text() for text in bars.get_legend().get_texts()] == [*ODD, "mean shift"]
    assert set(ODD) <= set(texts(pl.scores(table, genes=ODD[1])[0]))


def test_terms_of_the_objective():
    history = {f"{name}_train": pd.DataFrame({"loss": [2.0, 1.0]}) for name in ODD[:2]}
    assert set(ODD[:2]) <= set(texts(pl.training(history)[0]))


def test_methods_with_intervals():
    rows = [(name, 0.5, 0.4, 0.6) for name in ODD]
    ax = pl.skill_intervals(pd.DataFrame(rows, columns=["method", "skill", "lower", "upper"]))
    assert set(ODD) <= set(texts(ax))


def test_report(table, tmp_path):
    references = [
        table[table["method"] == "mean shift"].assign(method=name)
        for name in ("no change", "mean of others", "noise ceiling")
    ]
    table = pd.concat([table, *references], ignore_index=True).assign(
        std=0.1, skill_std=0.1, note=ODD[0], effect_p=0.01
    )
    write_report(table, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ODD)
