"""A table of scores as one HTML page that can be sent around: tables, figures, what was skipped, how it was made."""

from __future__ import annotations

import base64
import html
import io
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from trvae_scvi import pl
from trvae_scvi._files import write_text
from trvae_scvi.metrics import SKILL_METRICS

from ._expectation import expected_skills, lacking_scores, n_changed, verdict_of
from ._summary import holdout_skills, metric_ranges, summarize

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


__all__ = ["wide_table", "write_report"]

_KEYS = ["group", "target", "seed", "method", "genes", "metric"]
_COLUMNS = [*_KEYS, "value", "std", "skill", "skill_std", "note", "effect_p"]
_PACKAGES = ("trvae-scvi", "scvi-tools", "torch", "anndata", "scanpy", "scikit-learn", "numpy", "pandas")
_UNDEFINED = "undefined"
_ALPHA = 0.05
_ON_RANGES = """
The range is the distance of no change from the ceiling in standard errors: a metric below 2 sees no effect on these
data. The saturation is the share of that distance that the best trivial prediction has covered already: near 100 %
nothing is left to tell predictions apart by. Both are medians over the hold-outs. The metrics of the headline are those
of the package, whatever the data.
"""
_ON_EXPECTATIONS = """
What these groups let expect of one more of their kind that was not measured under the target, with an interval of 80 %:
the verdict of the method with the highest expected skill, see `benchmark.assess`. It cannot know of what would set that
group apart.
"""
_LEVEL = 0.8
_SKILL_FORMAT = "z.2f"  # z: no minus before a zero
_GROUPS_PER_FIGURE = 6
_STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.45; margin: 0 auto; max-width: 70rem; padding: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; }
tbody th { text-align: left; }
img { height: auto; max-width: 100%; }
"""
_EXPLANATION = """
Each group was held out under one condition, predicted from its control cells, and scored against the cells held out. A
skill of 0 is as good as the best of three trivial predictions in that metric (no change, the other groups' cells, or
their average change added to the control cells), so that none of them is above 0; 1 is as good as a perfect prediction:
one half of the real cells in the place of the prediction, scored against the other half as predictions are. Changes are
against control cells that were set aside, which no method saw. The headline skill of a hold-out is the lower of two
parts, the mean response and the distribution of cells; here it is averaged over groups, with an interval of 90 % of
the mean over all groups of this kind; a number after ± is the standard error that the numbers of cells leave. The rank
is that of the own real mean among those of all targets, by distance from the prediction: 1 is the nearest, and 0.5
chance if all have as many cells.
"""
_HEADLINE = {
    "skill": "headline skill",
    "interval": "interval",
    "mean_response": "mean response",
    "distribution": "distribution",
    "rank": "rank among targets",
    "above_trivial": "above every trivial prediction",
}


def write_report(
    table: pd.DataFrame, path: str | os.PathLike[str], *, title: str = "Held-out groups: how good are the predictions?"
) -> None:
    """Write a table of scores as one HTML page without external resources.

    Parameters
    ----------
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returns. Skipped hold-outs and settings are those of its
        ``attrs``, where they are.
    path
        The file to write; its folder is made if need be.
    title
        Heading of the page.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table is empty.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> table = tv.benchmark.leave_one_group_out(
    ...     adata, **keys, methods={}, groups=["type_1"], metrics=["mse_means"], progress_bar=False
    ... )
    >>> tv.benchmark.write_report(table, "report.html")
    """
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing or table.empty:
        msg = f"Expected rows with the columns {_COLUMNS}, found {len(table)} rows without {missing}."
        raise (KeyError if missing else ValueError)(msg)
    summary, several, expected = summarize(table), table["target"].nunique() > 1, _expectations(table)
    held_out = table["group"].astype(str) + (" under " + table["target"].astype(str) if several else "")
    table = table.assign(group=held_out)
    sections = [f"<h1>{html.escape(title)}</h1>", "<h2>Headline</h2>", _html(_headline(summary))]
    sections += [_effects(table), f"<p>{_EXPLANATION.strip()}</p>", _interval_figure(summary)]
    sections += ["<h2>Headline skill by hold-out</h2>", _html(_by_holdout(table))]
    sections += ["<h2>What to expect of another group</h2>", f"<p>{_ON_EXPECTATIONS.strip()}</p>", expected]
    sections += ["<h2>Which metrics can be trusted here</h2>", f"<p>{_ON_RANGES.strip()}</p>", _html(_ranges(table))]
    sections += [
        "<h2>What has no value or another limit, and why</h2>",
        _notes(table),
        "<h2>Figures</h2>",
        *_figures(table),
    ]
    for (group, genes), rows in table.groupby(["group", "genes"], sort=False):
        sections.append(f"<h2>{html.escape(f'{group}: {genes} genes')}</h2>")
        sections += ["<h3>Scores</h3>", _html(wide_table(rows, "value", ".3g", errors="std"))]
        sections += ["<h3>Skills</h3>", _html(wide_table(rows, "skill", _SKILL_FORMAT, errors="skill_std"))]
    sections += ["<h2>Skipped hold-outs</h2>", _skipped(table.attrs.get("skipped"))]
    sections += ["<h2>Settings</h2>", _listed(table.attrs.get("settings", {}))]
    versions = {name: version(name) for name in _PACKAGES}
    sections += ["<h2>Versions</h2>", _listed({"Python": platform.python_version(), **versions})]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _page(title, "\n".join(sections)))


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _headline(summary: pd.DataFrame) -> pd.DataFrame:
    """One line a method."""
    shown = summary.set_index("method")
    bounds = shown[["lower", "upper"]].to_numpy()
    shown["interval"] = [f"{_number(low)} to {_number(high)}" if low <= high else _UNDEFINED for low, high in bounds]
    for name in ("skill", "mean_response", "distribution", "rank"):
        shown[name] = shown[name].map(_number)
    shown["above_trivial"] = shown["above_trivial"].map("{:.0%}".format) + " of " + shown["n_holdouts"].astype(str)
    shown = shown[list(_HEADLINE)].rename(columns=_HEADLINE)
    return shown.drop(columns="rank among targets") if summary["rank"].isna().all() else shown


def _effects(table: pd.DataFrame) -> str:
    """In how many hold-outs there is an effect at all."""
    effects = table.drop_duplicates(["group", "target"])["effect_p"]
    return (
        f"<p>The condition changes the real cells in {(effects < _ALPHA).sum()} of {len(effects)} hold-outs "
        f"(permutation test of the E-distance, p below {_ALPHA}); where it does not, nothing is to be predicted.</p>"
    )


def _expectations(table: pd.DataFrame) -> str:
    """One line a target that two groups or more were held out under."""
    lacking = lacking_scores(table)
    if lacking:
        return f"<p>Not computed: {html.escape(', '.join(lacking))}, which a verdict needs.</p>"
    rows = []
    for target, own in table.groupby("target", sort=False):
        n_groups = own["group"].nunique()
        if n_groups < 2:
            continue
        expected = expected_skills(own, _LEVEL)
        verdict, method = verdict_of(expected, n_changed(own), n_groups)
        best = expected.loc[method]
        rows.append(
            {
                "target": target,
                "verdict": verdict,
                "method": method,
                "expected skill": f"{_number(best['skill'])} ({_number(best['lower'])} to {_number(best['upper'])})",
                "groups": n_groups,
            }
        )
    if not rows:
        return "<p>Two groups or more under the same target are needed to say.</p>"
    return _html(pd.DataFrame(rows).set_index("target"))


def _by_holdout(table: pd.DataFrame) -> pd.DataFrame:
    """Methods against hold-outs: the headline skill, averaged over seeds."""
    skills = holdout_skills(table)
    wide = skills.groupby(["method", "group"], sort=False)[["skill", "skill_std"]].mean().unstack("group")
    order = [list(table[name].unique()) for name in ("method", "group")]
    value, std = (wide[name].reindex(index=order[0], columns=order[1]) for name in ("skill", "skill_std"))
    return value.combine(std, lambda v, s: pd.Series(map(_with_spread, v, s, [_SKILL_FORMAT] * len(v)), index=v.index))


def _ranges(table: pd.DataFrame) -> pd.DataFrame:
    """Every metric's range and saturation, and whether it counts for the headline."""
    ranges = metric_ranges(table)
    shown = ranges[["genes", "metric"]].replace({"metric": {"_": " "}}, regex=True)
    for name in ("no_change", "mean_shift", "ceiling"):
        shown[name.replace("_", " ")] = [_number(value, ".3g") for value in ranges[name]]
    shown["range (standard errors)"] = [_number(value, ".1f") for value in ranges["range"]]
    shown["saturation"] = [_number(value, ".0%") for value in ranges["saturation"]]
    judged = [metric for metrics in SKILL_METRICS.values() for metric in metrics]
    shown["in the headline"] = ["yes" if metric in judged else "" for metric in ranges["metric"]]
    return shown.set_index("genes")


def _notes(table: pd.DataFrame) -> str:
    """Every reason, the metrics and the number of hold-outs that it holds for."""
    noted = table[table["note"].astype(object).fillna("") != ""]
    if noted.empty:
        return "<p>Everything that was computed has a value.</p>"
    keys = ["note", "genes", "metric"]
    counted = noted.drop_duplicates([*keys, "group", "target"]).groupby(keys, sort=False).size()
    shown = counted.rename("hold-outs").reset_index().replace({"metric": {"_": " "}}, regex=True)
    return _html(shown.rename(columns={"note": "reason"}).set_index("reason"))


def wide_table(rows: pd.DataFrame, name: str, number: str, *, errors: str | None = None) -> pd.DataFrame:
    """Methods against metrics: means over seeds, with mean standard errors if asked for, written as `number` says."""
    columns = {"value": rows[name], "spread": np.nan if errors is None else rows[errors]}
    means = rows[["method", "metric"]].assign(**columns).groupby(["method", "metric"], sort=False).mean()
    texts = [_with_spread(value, spread, number) for value, spread in means.to_numpy()]
    wide = pd.Series(texts, index=means.index, dtype=object).unstack("metric")
    wide = wide.reindex(index=rows["method"].unique(), columns=rows["metric"].unique())
    return wide.rename(columns=lambda metric: metric.replace("_", " "))


def _number(value: float, number: str = _SKILL_FORMAT) -> str:
    return _UNDEFINED if np.isnan(value) else f"{value:{number}}"


def _with_spread(value: float, spread: float, number: str) -> str:
    return _number(value, number) + ("" if np.isnan(value) or np.isnan(spread) else f" ± {spread:{number}}")


def _html(frame: pd.DataFrame) -> str:
    frame = frame.rename_axis(index=None, columns=None)
    return f'<div class="wide">{frame.to_html(border=0, escape=True)}</div>'


def _listed(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li>{html.escape(str(name))}: <code>{html.escape(str(value))}</code></li>" for name, value in values.items()
    )
    return f"<ul>{items}</ul>" if items else "<p>Not recorded.</p>"


def _skipped(skipped: list[Mapping[str, Any]] | None) -> str:
    if skipped is None:
        return "<p>Not recorded.</p>"
    return _html(pd.DataFrame(skipped).set_index("group")) if skipped else "<p>None.</p>"


def _interval_figure(summary: pd.DataFrame) -> str:
    figure = Figure(figsize=(7.5, 1 + 0.3 * len(summary)), layout="constrained")
    pl.skill_intervals(summary, ax=figure.subplots())
    return _image(figure, "Headline skill of every method, with its interval")


def _figures(table: pd.DataFrame) -> list[str]:
    """Heat maps of skills and bars of scores for every set of genes, without metrics that have no value at all."""
    valued = table.groupby(["genes", "metric"])["value"].transform("count") > 0
    table = table[valued] if valued.any() else table
    figures, groups = [], list(table["group"].unique())
    for genes, rows in table.groupby("genes", sort=False):
        n_metrics, n_methods = rows["metric"].nunique(), rows["method"].nunique()
        for start in range(0, len(groups), _GROUPS_PER_FIGURE):
            shown = groups[start : start + _GROUPS_PER_FIGURE]
            heatmap = Figure(figsize=(3.5 + 0.45 * len(shown) * n_metrics, 2.5 + 0.3 * n_methods), layout="constrained")
            pl.score_heatmap(rows[rows["group"].isin(shown)], genes=genes, ax=heatmap.subplots())
            figures.append(_image(heatmap, f"Skills on {genes} genes by method, group and metric"))
        bars = Figure(figsize=(3 * n_metrics, 3.6), layout="constrained")
        pl.scores(rows, genes=genes, ax=bars.subplots(1, n_metrics, squeeze=False)[0])
        figures.append(_image(bars, f"Scores on {genes} genes: mean and standard deviation over groups and seeds"))
    return figures


def _image(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
