"""Draw the figures of the documentation from the tables in `benchmarks/results/`.

    python benchmarks/figures.py                  # all of them, seconds
    python benchmarks/figures.py --only mapping  # one

Writes PNG files to `docs/_static/`. Nothing is computed but means; `speed.png` is drawn by `speed.py`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from kang import SCORED
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from PIL import Image

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.metrics import SKILL_METRICS

RESULTS = Path(__file__).parent / "results"
DRAWINGS = Path(__file__).parent.parent / "docs" / "_static"
# Okabe & Ito, as in the package's own plots
BLUE, ORANGE, GREEN, SKY, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "0.45"
# a figure is as wide as a column of text and is read on telephones: few inches, large letters
STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
METHODS = {
    "trVAE": "trVAE",
    "trVAE, sampled": "trVAE, sampled",
    "fold change": "fold change",
    "mean shift": "mean shift",
    "trVAE, means": "trVAE, means",
    "no change": "no change",
}
METRICS = {
    "mse_means": "MSE of means",
    "partial_pearson": "partial Pearson of change",
    "energy_distance": "E-distance",
    "mse_stds": "MSE of standard deviations",
}


def read(name: str) -> pd.DataFrame:
    """A table of results."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def mark_scale(ax: Axes) -> None:
    """Say what a skill of 0 and of 1 stands for."""
    for value, name in ((0, "best\ntrivial"), (1, "noise\nceiling")):
        ax.axvline(value, color="black", linewidth=1, linestyle="--", zorder=0)
        ax.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
        )


def name_rows(ax: Axes, names: list[str]) -> None:
    """Rows from top to bottom."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def kang_skill() -> Figure:
    """Headline skill of every method on the scored types."""
    skills = benchmark.holdout_skills(read("contexts_kang"))
    wide = skills.groupby(["method", "group"])["skill"].mean().unstack("group")[SCORED]
    names = [name for name in METHODS if name in wide.index]
    wide = wide.loc[wide.mean(axis=1).loc[names].sort_values(ascending=False, kind="stable").index]
    figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    rows = np.arange(len(wide))
    ax.barh(rows, wide.mean(axis=1), color=[SKY if "trVAE" in name else "0.82" for name in wide.index], height=0.7)
    looks = zip(SCORED, "osD^", (BLUE, RED, GREEN, ORANGE), strict=True)
    for place, (group, marker, colour) in enumerate(looks):
        ax.scatter(wide[group], rows + 0.12 * (place - 1.5), marker=marker, s=34, color=colour, label=group, zorder=3)
    name_rows(ax, [METHODS[name] for name in wide.index])
    mark_scale(ax)
    ax.set(xlim=(-1.02, 1.1), xlabel="headline skill (bar: mean over the types)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, title="type that was hidden", alignment="left")
    return figure


def kang_metrics() -> Figure:
    """Heat maps of methods against the metrics of the headline, averaged over the scored types."""
    table = read("contexts_kang")
    order = [name for name in [*METHODS, "noise ceiling"] if name in set(table["method"])]
    judged = [metric for metrics in SKILL_METRICS.values() for metric in metrics]
    table = table[table["method"].isin(order) & table["metric"].isin(judged)]
    table = table.assign(
        skill=table["skill"].clip(-1, 1),  # as in the headline skill
        method=pd.Categorical(table["method"], order).rename_categories(METHODS),
    ).sort_values("method", kind="stable")
    table = table.assign(group="", method=table["method"].astype(str), metric=table["metric"].map(METRICS))
    figure, axes = plt.subplots(2, 1, figsize=(6, 7.6), layout="constrained")
    for ax, (genes, title) in zip(axes, {"all": "All genes", "top100": "100 responsive genes"}.items(), strict=True):
        tv.pl.score_heatmap(table, genes=genes, ax=ax)
        ax.set_title(title)
        for text in ax.texts:
            text.set_fontsize(11)
        ax.tick_params(labelsize=11)
        ax.images[0].colorbar.remove()
    figure.suptitle("Mean skill over the scored types", fontsize=12)
    axes[0].set_xticks([])
    axes[1].set_xticks(range(len(METRICS)), list(METRICS.values()), rotation=40, ha="right", rotation_mode="anchor")
    return figure


def kang_response() -> Figure:
    """Predicted and real changes of a type whose response was hidden."""
    table = read("kang_response")
    figure, ax = plt.subplots(figsize=(6, 5.2), layout="constrained")
    tv.pl.response(table, n_genes=len(table), ax=ax)
    ax.set_title("NK cells under interferon-beta, never seen in training")
    return figure


def intervals() -> Figure:
    """How often intervals of 90 % held, hold-out by hold-out."""
    table = read("intervals")
    names = list(table["data"].unique())
    rules = {"calibrated": BLUE, "default": ORANGE}
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 4.2), layout="constrained", sharey=True, sharex=True)
    titles = {"all": "all genes", "responsive": "100 responsive genes"}
    for ax, (genes, title) in zip(axes, titles.items(), strict=True):
        for (rule, colour), shift in zip(rules.items(), (-0.15, 0.15), strict=True):
            part = table[(table["genes"] == genes) & (table["rule"] == rule)]
            rows = [names.index(name) + shift for name in part["data"]]
            ax.scatter(100 * part["coverage"], rows, s=12, color=colour, alpha=0.5, linewidth=0)
            means = part.groupby("data")["coverage"].mean()
            places = [names.index(name) + shift for name in means.index]
            ax.scatter(100 * means, places, marker="|", s=160, color=colour, linewidth=2.5, label=rule, zorder=3)
        ax.axvline(90, color="black", linewidth=1, linestyle="--", zorder=0)
        ax.set(title=title, xlabel="genes in their interval (%)")
    name_rows(axes[0], names)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def assessment() -> Figure:
    """Expected and realised skill of trVAE, with intervals of 80 %."""
    table = read("assessment")
    figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    for (name, part), colour in zip(table.groupby("data", sort=False), tv.pl._style.OKABE_ITO, strict=False):
        reach = np.stack([part["expected"] - part["lower"], part["upper"] - part["expected"]])
        ax.errorbar(part["expected"], part["realised"], xerr=reach, fmt="none", ecolor=colour, alpha=0.15)
        ax.scatter(part["expected"], part["realised"], s=22, color=colour, label=name, zorder=3)
    ax.plot([-1, 1], [-1, 1], color="black", linewidth=1, linestyle="--", zorder=0)
    ax.set(xlabel="expected headline skill, with its 80 % interval", ylabel="realised headline skill")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, handletextpad=0.2, fontsize="small")
    return figure


def draw_seeds(
    ax: Axes, values: pd.DataFrame, names: list[str], colour: str, shift: float = 0.0, **kwargs: str
) -> None:
    """A point for each seed, and a line at their mean."""
    for row, name in enumerate(names):
        own = values.loc[values["name"] == name, "skill"]
        ax.scatter(own, [row + shift] * len(own), s=40, color=colour, alpha=0.8, linewidths=0, zorder=3, **kwargs)
        ax.vlines(own.mean(), row + shift - 0.25, row + shift + 0.25, color=colour, linewidth=2)
        kwargs = {**kwargs, "label": "_"}  # named once


def bars(ax: Axes, values: pd.Series, names: dict[str, str], title: str, *, digits: int) -> None:
    """One horizontal bar a method, trVAE in colour."""
    colours = [SKY if "trVAE" in name else "white" if name == "noise ceiling" else "0.82" for name in names]
    edges = ["0.3" if colour == "white" else "none" for colour in colours]
    ax.barh(range(len(names)), values[list(names)], color=colours, edgecolor=edges, height=0.7)
    for row, name in enumerate(names):
        ax.annotate(
            f"{values[name]:.{digits}f}", (values[name], row), xytext=(4, 0), textcoords="offset points", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    ax.set_xlim(0, 1.18 * values[list(names)].max())
    name_rows(ax, list(names.values()))
    ax.set_title(title, loc="left")


def mapping() -> Figure:
    """Labels and predictions of mapped patients."""
    labels = read("mapping_labels").rename(columns={"accuracy": "skill", "method": "name"})
    table = read("mapping_prediction")
    means = table.groupby(["genes", "metric", "method"])["value"].mean()
    figure, axes = plt.subplots(3, 1, figsize=(6, 8.2), height_ratios=[3, 5, 5], layout="constrained")
    order = list(labels["name"].unique())
    draw_seeds(axes[0], labels.assign(skill=100 * labels["skill"]), order, BLUE)
    name_rows(axes[0], [name.replace(", ", ",\n") for name in order])
    axes[0].set_title("Cells with the right label\n(%, a point per seed)", loc="left")
    axes[0].set_xlim(89.5, 92.5)
    axes[0].grid(axis="x", color="0.9")
    order = ["trVAE, condition encoded", "trVAE", "mean shift of the type", "mean shift, patients balanced"]
    names = {name: name.replace(", ", ",\n") for name in order}
    kinds = {
        "pearson_change": "Pearson of change (higher is better)",
        "energy_distance": "E-distance (lower is better)",
    }
    for ax, (metric, title) in zip(axes[1:], kinds.items(), strict=True):
        bars(ax, means["top100", metric], names, f"Prediction, 100 responsive genes:\n{title}", digits=3)
    return figure


def blobs(ax: Axes, rng: np.random.Generator, *, predicted: bool) -> None:
    """Cells of three types under two conditions, those of one type and condition hidden or predicted."""
    centres = {"type A": (0.0, 2.0), "type B": (0.35, 1.0), "type C": (0.0, 0.0)}
    shift = np.array([1.9, 0.22])
    for name, centre in centres.items():
        cells = np.array(centre) + (0.2, 0.13) * rng.standard_normal((45, 2))
        ax.scatter(*cells.T, s=9, color=BLUE, linewidths=0)
        ax.text(centre[0] - 0.62, centre[1], name, ha="right", va="center")
        if name != "type C":
            ax.scatter(*(cells + shift + (0.1, 0.06) * rng.standard_normal((45, 2))).T, s=9, color=RED, linewidths=0)
            continue
        middle = np.array(centre) + shift
        if predicted:
            ax.scatter(*(cells + shift).T, s=11, facecolors="none", edgecolors=RED, linewidths=0.8)
            ends = {"posA": np.array(centre) + (0.55, 0.07), "posB": middle - (0.62, 0.07)}
            ax.add_patch(FancyArrowPatch(**ends, arrowstyle="-|>", mutation_scale=14, color="black"))
            ax.text(middle[0], middle[1] - 0.55, "predicted, cell by cell", ha="center", va="center", color=RED)
        else:
            ax.add_patch(Ellipse(middle, 1.25, 0.75, fill=False, linestyle="--", edgecolor=RED, linewidth=1.5))
            ax.text(*middle, "?", ha="center", va="center", fontsize=20, color=RED)
    ax.text(0.1, 2.62, "control", color=BLUE, ha="center", weight="bold")
    ax.text(2.05, 2.62, "stimulated", color=RED, ha="center", weight="bold")
    ax.set(xlim=(-1.75, 3.0), ylim=(-0.6, 2.95))


def box(ax: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5, height: float = 0.8) -> None:
    """A part of the network."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.04", facecolor=colour, edgecolor="0.3"
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", linespacing=1.15)


def network(ax: Axes) -> None:
    """The path from a cell's counts to its counts under another condition."""
    steps = [
        (3.2, "counts of a cell", "white"),
        (2.15, "encoder: $z$", "0.93"),
        (1.1, "first decoder layer: $y$", "#CDE6F5"),
    ]
    steps += [(0.05, "output layer", "0.93"), (-1.0, "counts under the\nother condition", "white")]
    for y, text, colour in steps:
        box(ax, 0, y, text, colour, width=2.9, height=0.62)
    for (upper, *_), (lower, *_) in zip(steps[:-1], steps[1:], strict=True):
        ends = {"posA": (0, upper - 0.36), "posB": (0, lower + 0.36)}
        ax.add_patch(FancyArrowPatch(**ends, arrowstyle="-|>", mutation_scale=13, color="0.2", shrinkA=0, shrinkB=0))
    grid = np.linspace(-0.9, 0.9, 100)
    for centre, colour in ((-0.16, BLUE), (0.16, RED)):
        density = 0.75 * np.exp(-((grid - centre) ** 2) / 0.1)
        ax.fill_between(grid + 2.75, 1.05, 1.05 + density, color=colour, alpha=0.45, linewidth=0)
    ax.plot([1.5, 1.85], [1.1, 1.1], color="0.4", linewidth=1, linestyle=":")
    ax.text(2.75, 0.98, "MMD: conditions\noverlap here", ha="center", va="top", fontsize="small")
    ax.text(2.75, -0.02, "condition", ha="center", va="center", color=RED, weight="bold")
    ax.add_patch(FancyArrowPatch((2.0, 0.03), (1.5, 0.03), arrowstyle="-|>", mutation_scale=13, color=RED, shrinkB=0))
    ax.set(xlim=(-1.6, 3.9), ylim=(-1.45, 3.65))


def overview() -> Figure:
    """What the package does, and how well on the scored types."""
    values = benchmark.summarize(read("contexts_kang")).set_index("method")["skill"]
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 7.4), layout="constrained")
    titles = ("1  One type was never stimulated", "2  A network learns responses")
    titles += ("3  It predicts the missing cells", "4  Skill on four real cell types")
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title, loc="left", weight="bold", fontsize=12.5)
    for ax in axes.flat[:3]:
        ax.axis("off")
    blobs(axes[0, 0], np.random.default_rng(0), predicted=False)
    network(axes[0, 1])
    blobs(axes[1, 0], np.random.default_rng(0), predicted=True)
    ax, names = axes[1, 1], ["trVAE", "fold change", "mean shift", "no change"]
    ax.barh(names, values[names], color=[SKY, "0.82", "0.82", "0.82"], height=0.65)
    for row, name in enumerate(names):
        inside = abs(values[name]) > 0.2
        ax.text(
            0.5 * values[name] if inside else 0.05,
            row,
            f"{values[name]:z.2f}",
            ha="center" if inside else "left",
            va="center",
        )
    ax.axvline(1, color="black", linestyle="--", linewidth=1)
    ax.text(0.97, 1.5, "noise ceiling", rotation=90, ha="right", va="center")
    ax.axvline(0, color="black", linewidth=1)
    ax.invert_yaxis()
    ax.set(xlim=(-1, 1.05), xlabel="headline skill over hidden types")
    ax.tick_params(axis="y", length=0)
    return figure


FIGURES = {
    "overview": overview,
    "kang_skill": kang_skill,
    "kang_metrics": kang_metrics,
    "kang_response": kang_response,
    "intervals": intervals,
    "assessment": assessment,
    "mapping": mapping,
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure in 256 colours, which takes a third of the space."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=130)
        Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--folder", type=Path, default=DRAWINGS, help="where to write to")
    arguments = parser.parse_args()
    mpl.use("agg")
    for name in arguments.only:
        with mpl.rc_context(STYLE):
            figure = FIGURES[name]()
            save(figure, arguments.folder / f"{name}.png")
            plt.close(figure)


if __name__ == "__main__":
    main()
