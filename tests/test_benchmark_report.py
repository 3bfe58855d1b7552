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

from trvae_scvi.benchmark import holdout_skills, leave_one_group_out, summarize, write_report
from trvae_scvi.datasets import simulate_perturbation

GROUPS = ["B <cells> & co", 'the "rest"']
METHODS = ["<script>alert(1)</script>", "no change", "mean of others", "mean shift", "noise ceiling"]
OWN = METHODS[0]
VOID = {"meta", "img", "br"}
REASON = "needs <two> & more"


def make_table(groups=GROUPS, targets=("drug",), seeds=(0, 1), metrics=("mse_means", "pearson_change")):
    """Skills of mse_means are 0.75 and 0.25 for the two seeds of the method, 0 for the trivial ones, 1 for the ceiling.

    The correlation has no skill, for the reason named, but for the trivial predictions.
    """
    skills = {OWN: 0.75, "no change": -2.5, "mean of others": -0.5, "mean shift": 0.0, "noise ceiling": 1.0}
    rows = []
    for group in groups:
        for target in targets:
            for i, (method, skill) in enumerate(skills.items()):
                for seed in seeds if method == OWN else seeds[:1]:
                    for genes in ("all", "top5"):
                        for metric in metrics:
                            value = skill - 0.5 * seed
                            lacking = metric != "mse_means" and method in (OWN, "noise ceiling")
                            scored = (0.25 * seed + 0.125 * i, 0.0625, np.nan if lacking else value, 0.25)
                            rows.append((group, target, seed, method, genes, metric, *scored, REASON * lacking))
    columns = ["group", "target", "seed", "method", "genes", "metric", "value", "std", "skill", "skill_std", "note"]
    return pd.DataFrame(rows, columns=columns).assign(effect_p=0.005)


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


def headings(source):
    return re.findall(r"<h2>(.*?)</h2>", source)


def test_page_stands_by_itself(written):
    source = written(make_table())
    page = Page(source)
    assert not {"script", "link", "iframe"} & page.tags
    assert not re.search(r"https?://|url\(|@import", source)
    assert len(page.images) == 1 + 2 * 2
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
    for name in (*GROUPS, *METHODS, REASON, "A & <title>", "3 < 10 cells", "<i>", "<b>control</b>"):
        assert name in text
    assert "<script>" not in source
    assert "<b>" not in source
    assert "<two>" not in source


def test_the_headline_comes_first(written):
    source = written(make_table())
    page = Page(source)
    assert headings(source)[:6] == [
        "Headline",
        "Headline skill by hold-out",
        "What to expect of another group",
        "Which metrics can be trusted here",
        "What has no value or another limit, and why",
        "Figures",
    ]
    assert source.index("<table") < source.index("<img")
    headline = page.table(0)
    assert list(headline) == METHODS
    summary = summarize(make_table()).set_index("method")
    for method, shown in headline.items():
        row = summary.loc[method]
        assert shown == {
            "headline skill": f"{row['skill']:z.2f}",
            "interval": f"{row['lower']:z.2f} to {row['upper']:z.2f}",
            "mean response": f"{row['mean_response']:z.2f}",
            "distribution": "undefined",
            "above every trivial prediction": f"{row['above_trivial']:.0%} of 2",
        }
    # The seeds' 0.75 and 0.25, and what is below -1 counts as -1.
    assert headline[OWN]["headline skill"] == "0.50"
    assert headline["no change"]["headline skill"] == "-1.00"


def test_ranks_are_shown_where_there_are_some(written):
    table = make_table(metrics=("mse_means", "discrimination"))
    assert Page(written(table)).table(0)["mean shift"]["rank among targets"] == "0.38"
    table.loc[table["metric"] == "discrimination", "value"] = np.nan
    assert "rank among targets" not in Page(written(table)).table(0)["mean shift"]


def test_every_hold_out_has_its_headline_skill(written):
    table = make_table()
    table.loc[(table["group"] == GROUPS[0]) & (table["method"] == OWN), "skill"] -= 0.25
    by_holdout = Page(written(table)).table(1)
    assert list(by_holdout) == METHODS
    # of seeds with 0.5 and 0, and with 0.75 and 0.25, where clipping at 1 takes some of the error away
    assert by_holdout[OWN] == {GROUPS[0]: "0.25 ± 0.25", GROUPS[1]: "0.50 ± 0.23"}
    assert by_holdout["no change"] == dict.fromkeys(GROUPS, "-1.00 ± 0.00")


def test_ranges_of_metrics(written):
    table = make_table()
    header, *rows = Page(written(table)).tables[2]
    assert header == [
        "", "metric", "no change", "mean shift", "ceiling", "range (standard errors)", "saturation", "in the headline"
    ]  # fmt: skip
    # The ceiling is worse in the error (0.5, no change 0.125) by 0.375, which is better in the correlation.
    reach = 0.375 / np.hypot(0.0625, 0.0625)
    assert rows[0] == ["all", "mse means", "0.125", "0.375", "0.5", f"{-reach:.1f}", "undefined", "yes"]
    assert rows[1] == ["all", "pearson change", "0.125", "0.375", "0.5", f"{reach:.1f}", "67%", ""]
    assert [row[0] for row in rows] == ["all", "all", "top5", "top5"]


def test_reasons_are_counted(written):
    table = make_table()
    header, *rows = Page(written(table)).tables[3]
    assert header == ["", "genes", "metric", "hold-outs"]
    assert rows == [[REASON, "all", "pearson change", "2"], [REASON, "top5", "pearson change", "2"]]
    for nothing in ("", np.nan):
        text = "".join(Page(written(table.assign(note=nothing))).texts)
        assert "Everything that was computed has a value." in text


def test_tables_hold_means_over_seeds_and_mean_errors(written):
    page = Page(written(make_table()))
    # Headline, hold-outs, ranges and reasons, then scores and skills for each group and set of genes.
    assert len(page.tables) == 4 + 2 * 2 * 2
    scores, skills = page.table(4), page.table(5)
    assert scores[OWN]["mse means"] == "0.125 ± 0.0625"
    assert scores["mean of others"]["mse means"] == "0.25 ± 0.0625"
    assert skills[OWN] == {"mse means": "0.50 ± 0.25", "pearson change": "undefined"}
    assert skills["no change"] == {"mse means": "-2.50 ± 0.25", "pearson change": "-2.50 ± 0.25"}
    assert list(skills) == METHODS


def test_targets_are_told_apart(written):
    page = Page(written(make_table(groups=["B"], targets=("drug", "other"))))
    assert list(page.table(1)["mean shift"]) == ["B under drug", "B under other"]
    # One group, whatever the targets: there is nothing to draw other groups from.
    assert page.table(0)[OWN]["above every trivial prediction"] == "100% of 2"


def test_many_groups_are_drawn_in_several_figures(written):
    page = Page(written(make_table(groups=[f"group {i}" for i in range(7)])))
    assert len(page.images) == 1 + 2 * (2 + 1)


def test_undefined_everywhere(written):
    table = make_table().assign(skill=np.nan, skill_std=np.nan)
    page = Page(written(table))
    assert set(page.table(1)["mean shift"].values()) == {"undefined"}
    # On the whole, no room to be better counts as no better.
    assert page.table(0)["mean shift"]["headline skill"] == "0.00"
    assert page.table(0)["mean shift"]["interval"] == "undefined"


@pytest.mark.parametrize("metric", ["pearson_change", "mse_means"])
def test_a_single_metric(written, metric):
    page = Page(written(make_table(metrics=(metric,))))
    assert list(page.table(0)) == METHODS


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
    for number in (0, 1, -2, -1):
        assert list(page.table(number)) == list(table["method"].unique())
    assert "group_key: cell_type" in " ".join("".join(page.texts).split())


def test_refuses_other_tables(tmp_path):
    with pytest.raises(KeyError, match=r"rows without \['seed', 'note'\]"):
        write_report(make_table().drop(columns=["seed", "note"]), tmp_path / "report.html")
    with pytest.raises(ValueError, match="found 0 rows"):
        write_report(make_table().iloc[:0], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_what_another_group_may_expect(tmp_path):
    adata = simulate_perturbation(n_cells=1200, n_genes=60, n_types=4, seed=0).adata
    keys = {"group_key": "cell_type", "control": "control", "methods": {}, "progress_bar": False}
    table = leave_one_group_out(adata, **keys)
    write_report(table, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    shown = next(rows for rows in page.tables if "verdict" in rows[0])
    line = dict(zip(shown[0], shown[1], strict=True))
    assert line["verdict"] == "use"
    assert line["groups"] == "4"
    expected = holdout_skills(table[table["method"] == line["method"]])["skill"].fillna(0.0).mean()
    assert line["expected skill"].startswith(f"{expected:.2f} (")


def test_no_verdict_without_its_metrics(written):
    assert "Not computed: energy_distance, which a verdict needs." in written(make_table())
