"""The report: one page that stands by itself, with every number, skipped hold-out and setting, names escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from trvae_scvi.benchmark import leave_one_group_out, write_report
from trvae_scvi.datasets import simulate_perturbation

GROUPS = ["B <cells> & co", 'the "rest"']
METHODS = ["<script>alert(1)</script>", "mean shift", "noise ceiling"]
VOID = {"meta", "img", "br"}


def make_table(groups=GROUPS, targets=("drug",), seeds=(0, 1)):
    rows = [
        (
            group,
            target,
            seed,
            method,
            genes,
            metric,
            0.25 * seed + 0.125 * i,
            np.nan if metric == "mse_means" else seed - i,
        )
        for group in groups
        for target in targets
        for i, method in enumerate(METHODS)
        for seed in (seeds if i == 0 else seeds[:1])
        for genes in ("all", "top5")
        for metric in ("mse_means", "pearson_change")
    ]
    return pd.DataFrame(rows, columns=["group", "target", "seed", "method", "genes", "metric", "value", "skill"])


class Page(HTMLParser):
    """Text, tables (rows of cells), images and attributes of a page; fails on tags that do not match."""

    def __init__(self, source):
        super().__init__()
        self.open, self.texts, self.tables, self.images, self.tags = [], [], [], [], set()
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        assert not {"href", "action"} & set(attributes)
        if tag == "img":
            self.images.append(attributes["src"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, number):
        header, *rows = self.tables[number]
        return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture
def written(tmp_path):
    def write(table, **arguments):
        path = tmp_path / "made" / "report.html"
        write_report(table, path, **arguments)
        return path.read_text(encoding="utf-8")

    return write


def test_page_stands_by_itself(written):
    source = written(make_table())
    page = Page(source)
    assert not {"script", "link", "iframe"} & page.tags
    assert not re.search(r"https?://|url\(|@import", source)
    assert len(page.images) == 4
    for image in page.images:
        head, data = image.split(",", 1)
        assert head == "data:image/png;base64"
        assert imread(io.BytesIO(base64.b64decode(data))).shape[0] > 100
    assert 'name="viewport"' in source


def test_names_are_escaped_and_shown(written):
    table = make_table()
    table.attrs["skipped"] = [{"group": "<i>", "target": "drug", "reason": "3 < 10 cells"}]
    table.attrs["settings"] = {"control": "<b>control</b>"}
    source = written(table, title="A & <title>")
    text = "".join(Page(source).texts)
    for name in (*GROUPS, *METHODS, "A & <title>", "3 < 10 cells", "<i>", "<b>control</b>"):
        assert name in text
    assert "<script>" not in source
    assert "<b>" not in source


def test_tables_hold_means_and_deviations_over_seeds(written):
    page = Page(written(make_table()))
    # The mean skill, then scores and skills for each group and set of genes.
    assert len(page.tables) == 1 + 2 * 2 * 2
    deviation = np.std([0, 1], ddof=1)
    assert page.table(0)[METHODS[0]] == {
        "mean of all": "0.50", GROUPS[0]: f"0.50 ± {deviation:.2f}", GROUPS[1]: f"0.50 ± {deviation:.2f}"
    }  # fmt: skip
    assert page.table(0)["noise ceiling"][GROUPS[0]] == "-1.00"  # skills of -2 are clipped
    scores, skills = page.table(1), page.table(2)
    assert scores[METHODS[0]]["mse means"] == f"0.125 ± {np.std([0, 0.25], ddof=1):.3g}"
    assert scores["mean shift"]["mse means"] == "0.125"
    assert skills["mean shift"] == {"mse means": "undefined", "pearson change": "-1.00"}
    assert list(skills) == METHODS


def test_targets_are_told_apart(written):
    page = Page(written(make_table(groups=["B"], targets=("drug", "other"))))
    assert list(page.table(0)["mean shift"]) == ["mean of all", "B under drug", "B under other"]


def test_many_groups_are_drawn_in_several_figures(written):
    page = Page(written(make_table(groups=[f"group {i}" for i in range(7)])))
    assert len(page.images) == 2 * (2 + 1)


def test_undefined_everywhere(written):
    table = make_table().assign(skill=np.nan)
    page = Page(written(table))
    assert set(page.table(0)["mean shift"].values()) == {"undefined"}


def test_skipped_and_settings(written):
    table = make_table()
    text = "".join(Page(written(table)).texts)
    assert text.count("Not recorded.") == 2
    table.attrs = {"skipped": [], "settings": {"n_hvg": 2000}}
    page = Page(written(table))
    text = " ".join("".join(page.texts).split())
    assert "None." in text
    assert "n_hvg: 2000" in text
    assert "scvi-tools: " in text


def test_report_of_a_run(tmp_path):
    adata = simulate_perturbation(240, 20, n_types=3, seed=1).adata
    table = leave_one_group_out(
        adata,
        group_key="cell_type",
        control="control",
        methods={"copy <>": lambda holdout: holdout.control},
        groups=["type_1"],
        n_top_genes=5,
        out=tmp_path,
        progress_bar=False,
    )
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert list(page.table(1)) == list(table["method"].unique())
    assert "group_key: cell_type" in " ".join("".join(page.texts).split())


def test_refuses_other_tables(tmp_path):
    with pytest.raises(KeyError, match=r"rows without \['seed', 'skill'\]"):
        write_report(make_table().drop(columns=["seed", "skill"]), tmp_path / "report.html")
    with pytest.raises(ValueError, match="found 0 rows"):
        write_report(make_table().iloc[:0], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
