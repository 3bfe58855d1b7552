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
from trvae_scvi.metrics import mean_skill

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


__all__ = ["wide_table", "write_report"]

_COLUMNS = ["group", "target", "seed", "method", "genes", "metric", "value", "skill"]
_PACKAGES = ("trvae-scvi", "scvi-tools", "torch", "anndata", "scanpy", "scikit-learn", "numpy", "pandas")
_UNDEFINED = "undefined"
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
Each group was held out under one condition, predicted from its control cells, and scored against the cells held out.
A skill of 0 is as good as the mean shift (the other groups' average change), 1 as good as the noise ceiling (one half
of the real cells scored against the other half); it is undefined where these two are too close to tell them apart. The
mean skill averages the default metrics on all sets of genes, each clipped to [-1, 1]. Numbers are means over seeds ±
standard deviation; baselines and ceiling do not depend on the seed. Predicted and real change are against the same
control cells: where these are few and effects are weak, their noise alone makes the two correlate.
"""


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
    several = table["target"].nunique() > 1
    held_out = table["group"].astype(str) + (" under " + table["target"].astype(str) if several else "")
    table = table.assign(group=held_out)
    sections = [f"<h1>{html.escape(title)}</h1>", f"<p>{_EXPLANATION.strip()}</p>"]
    sections += ["<h2>Mean skill</h2>", _html(_mean_skills(table)), *_figures(table)]
    for (group, genes), rows in table.groupby(["group", "genes"], sort=False):
        sections.append(f"<h2>{html.escape(f'{group}: {genes} genes')}</h2>")
        sections += ["<h3>Scores</h3>", _html(wide_table(rows, "value", ".3g"))]
        sections += ["<h3>Skills</h3>", _html(wide_table(rows, "skill", _SKILL_FORMAT))]
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


def _mean_skills(table: pd.DataFrame) -> pd.DataFrame:
    """Methods against groups, and their mean over the groups: one number per seed first, then over the seeds."""
    per_seed = table.groupby(["method", "group", "seed"], sort=False)[["metric", "skill"]].apply(mean_skill)
    by_group = per_seed.groupby(["method", "group"], sort=False)
    overall = by_group.mean().groupby("method", sort=False).mean()
    groups = _wide(by_group, table, "group", _SKILL_FORMAT)
    shown = _shown(overall, overall * np.nan, _SKILL_FORMAT)
    return pd.concat([shown.rename("mean of all").reindex(groups.index), groups], axis=1)


def wide_table(rows: pd.DataFrame, name: str, number: str) -> pd.DataFrame:
    """Methods against metrics, each cell the mean over seeds and their standard deviation, written as `number` says."""
    wide = _wide(rows.groupby(["method", "metric"], sort=False)[name], rows, "metric", number)
    return wide.rename(columns=lambda metric: metric.replace("_", " "))


def _wide(cells: pd.api.typing.SeriesGroupBy, rows: pd.DataFrame, column: str, number: str) -> pd.DataFrame:
    wide = _shown(cells.mean(), cells.std(), number).unstack(column)
    return wide.reindex(index=rows["method"].unique(), columns=rows[column].unique())


def _shown(mean: pd.Series, std: pd.Series, number: str) -> pd.Series:
    """Write means, and standard deviations where there are any, in a number format."""
    texts = [
        _UNDEFINED if np.isnan(value) else f"{value:{number}}" + ("" if np.isnan(spread) else f" ± {spread:{number}}")
        for value, spread in zip(mean, std, strict=True)
    ]
    return pd.Series(texts, index=mean.index, dtype=object)


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


def _figures(table: pd.DataFrame) -> list[str]:
    """Heat maps of skills and bars of scores for every set of genes."""
    groups, n_metrics, n_methods = list(table["group"].unique()), table["metric"].nunique(), table["method"].nunique()
    figures = []
    for genes in table["genes"].unique():
        for start in range(0, len(groups), _GROUPS_PER_FIGURE):
            shown = groups[start : start + _GROUPS_PER_FIGURE]
            heatmap = Figure(figsize=(3.5 + 0.45 * len(shown) * n_metrics, 2.5 + 0.3 * n_methods), layout="constrained")
            pl.score_heatmap(table[table["group"].isin(shown)], genes=genes, ax=heatmap.subplots())
            figures.append(_image(heatmap, f"Skills on {genes} genes by method, group and metric"))
        bars = Figure(figsize=(3 * n_metrics, 3.6), layout="constrained")
        pl.scores(table, genes=genes, ax=bars.subplots(1, n_metrics, squeeze=False)[0])
        figures.append(_image(bars, f"Scores on {genes} genes: mean and standard deviation over groups and seeds"))
    return figures


def _image(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
