"""What a table of scores says on the whole: one line a method with its uncertainty, and which metrics tell anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from trvae_scvi._arguments import check_number
from trvae_scvi.metrics import HIGHER_IS_BETTER, SKILL_METRICS

from ._comparison import CEILING, TRIVIAL, trivial_in

__all__ = ["holdout_skills", "metric_ranges", "summarize"]

_HOLDOUT = ["group", "target"]
# ahead by less than this, a prediction is not above another one: the two may be the same but for rounding
_MORE = 0.01


def summarize(table: pd.DataFrame, *, level: float = 0.9) -> pd.DataFrame:
    """One line a method: its headline skill over all hold-outs, and how uncertain that is.

    Parameters
    ----------
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returns, or
        :func:`~trvae_scvi.benchmark.leave_one_target_out`: what is said here of groups then holds for targets, and the
        other way round.
    level
        Probability of the interval.

    Returns
    -------
    One row per method, in the order of the table, with the columns

    ``method``
        Its name.
    ``skill``
        Mean over the groups of its :func:`~trvae_scvi.metrics.headline_skill`, over targets and seeds first. Where it
        has no value, for lack of room above the trivial predictions, it counts as 0: as good as these.
    ``lower``, ``upper``
        The interval of the mean over all groups of this kind: Student's t, from how far these differ; no narrower than
        what the numbers of their cells leave open, which is all there is with a single group. Cut off at -1 and 1. NaN
        where fewer than two of several groups have room above the trivial predictions. For one more group, rather than
        the mean of many, see :func:`~trvae_scvi.benchmark.assess`.
    ``mean_response``, ``distribution``
        The two parts, of which the headline skill of a hold-out is the lower one, averaged in the same way.
    ``rank``
        Mean :func:`~trvae_scvi.metrics.discrimination` on all genes, 0.5 without any; NaN with fewer than 3 targets.
    ``above_trivial``
        Share of hold-outs and seeds in which its headline skill is above that of every trivial prediction, by more than
        0.01; not without a skill. These are below 0 themselves, as no single one is the best in every metric.
    ``n_holdouts``, ``n_without_room``
        Number of hold-outs, and of those in which the noise ceiling itself has no skill above 0: nothing could be seen
        to be better than the best trivial prediction.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If `level` is not a number.
    ValueError
        If the table is empty or `level` is not between 0 and 1.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=2000, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> table = tv.benchmark.leave_one_group_out(adata, **keys, methods={}, progress_bar=False)
    >>> summary = tv.benchmark.summarize(table).set_index("method")
    >>> float(summary.loc["noise ceiling", "skill"]), bool(summary.loc["mean shift", "skill"] <= 0)
    (1.0, True)
    """
    check_number("level", level, positive=True, below=1.0)
    skills = holdout_skills(table)
    counted = ["skill", *_columns(), "skill_std"]
    skills["has_room"] = skills["skill"].notna()
    skills[counted] = skills[counted].where(skills["has_room"], 0.0).fillna(dict.fromkeys(_columns(), 0.0))
    trivial_names = trivial_in(table)
    trivial = skills[skills["method"].isin(trivial_names)].groupby(_HOLDOUT, sort=False)["skill"].max()
    unit = "group" if trivial_names is TRIVIAL else "target"  # of which there may be others
    best = skills.join(trivial.rename("best"), on=_HOLDOUT)["best"]
    skills["above_trivial"] = (skills["has_room"] & (skills["skill"] > best + _MORE)).astype(float)
    ranks = table[(table["metric"] == "discrimination") & (table["genes"] == "all")]
    columns = ["skill", *_columns(), "skill_std", "has_room"]
    # errors of the numbers of cells, which the seeds of one hold-out share and its targets in part: taken as shared
    by_unit = skills.groupby(["method", unit], sort=False, observed=True)[columns].mean()
    means = by_unit.groupby("method", sort=False).mean()
    bounds = _bounds(by_unit, level)
    summary = means[["skill"]].join(bounds).join(means[_columns()])
    # what was not computed is not 0
    absent = [
        name
        for name, metrics in zip(_columns(), SKILL_METRICS.values(), strict=True)
        if not table["metric"].isin(metrics).any()
    ]
    summary[absent] = np.nan
    if len(absent) == len(_columns()):
        summary[["skill", "lower", "upper"]] = np.nan
    summary["rank"] = ranks.groupby("method", sort=False)["value"].mean().reindex(summary.index)
    summary["above_trivial"] = skills.groupby("method", sort=False)["above_trivial"].mean()
    ceiling = holdout_skills(table[table["method"] == CEILING])
    summary["n_without_room"] = int((~(ceiling["skill"] > 0)).sum())
    summary["n_holdouts"] = skills.drop_duplicates(["method", *_HOLDOUT]).groupby("method", sort=False).size()
    return summary.reset_index()


def holdout_skills(table: pd.DataFrame) -> pd.DataFrame:
    """The headline skill of every method in every hold-out.

    Parameters
    ----------
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returns.

    Returns
    -------
    One row per method, hold-out and seed with the columns `method`, `group`, `target`, `seed`, `skill`, `mean_response`
    and `distribution` (see :func:`~trvae_scvi.metrics.headline_skill`) and `skill_std`: the standard error that the
    numbers of cells leave in the clipped skills, as if all metrics erred alike, which makes it rather too large than
    too small. Skills far outside of [-1, 1] add none, whatever their own error.

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
    >>> table = tv.benchmark.leave_one_group_out(adata, **keys, methods={}, progress_bar=False)
    >>> len(tv.benchmark.holdout_skills(table)) == 3 * table["method"].nunique()
    True
    """
    keys = ["method", *_HOLDOUT, "seed"]
    missing = [name for name in (*keys, "metric", "skill", "skill_std") if name not in table.columns]
    if missing or table.empty:
        msg = f"Expected a table of `leave_one_group_out`, found {len(table)} rows without the columns {missing}."
        raise (KeyError if missing else ValueError)(msg)
    errors = _clipped_error(table["skill"].to_numpy(dtype=float), table["skill_std"].to_numpy(dtype=float))
    clipped = table.assign(skill=table["skill"].clip(-1, 1), skill_std=errors)
    index = table.set_index(keys).index.unique()
    parts = {
        family: clipped[clipped["metric"].isin(metrics)]
        .groupby(keys, sort=False, observed=True)[["skill", "skill_std"]]
        .mean()
        .reindex(index)
        for family, metrics in SKILL_METRICS.items()
    }
    values, errors = (
        pd.DataFrame({family: means[name] for family, means in parts.items()}) for name in ("skill", "skill_std")
    )
    lower = (values.iloc[:, 0] <= values.iloc[:, 1]) | values.iloc[:, 1].isna()
    std = errors.iloc[:, 0].where(lower, errors.iloc[:, 1])
    found = values.set_axis(_columns(), axis=1).assign(skill=values.min(axis=1), skill_std=std)
    return found.reset_index()[[*keys, "skill", *_columns(), "skill_std"]]


def metric_ranges(table: pd.DataFrame) -> pd.DataFrame:
    """Which metrics tell a good prediction from none on these data, and which of them trivial predictions exhaust.

    Parameters
    ----------
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` or
        :func:`~trvae_scvi.benchmark.leave_one_target_out` returns.

    Returns
    -------
    One row per set of genes and metric with the columns `genes`, `metric`, then means over the hold-outs:

    ``no_change``, ``mean_shift``, ``ceiling``
        Their scores; where conditions were hidden, the mean response's in the place of the mean shift's.
    ``range``
        Distance of no change from the ceiling in standard errors of that distance, median over the hold-outs: below 2
        the metric sees no effect.
    ``saturation``
        Share of that distance which the best trivial prediction has covered already, median over the hold-outs with a
        range of at least 2: at 1 there is nothing left to tell predictions apart by.

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
    >>> table = tv.benchmark.leave_one_group_out(adata, **keys, methods={}, progress_bar=False)
    >>> tv.benchmark.metric_ranges(table).columns.tolist()[2:]
    ['no_change', 'mean_shift', 'ceiling', 'range', 'saturation']
    """
    keys = ["genes", "metric", *_HOLDOUT]
    missing = [name for name in ("method", *keys, "value", "std") if name not in table.columns]
    if missing or table.empty:
        msg = f"Expected a table of `leave_one_group_out`, found {len(table)} rows without the columns {missing}."
        raise (KeyError if missing else ValueError)(msg)
    trivial = list(trivial_in(table))
    kept = table[table["method"].isin([*trivial, CEILING])]
    wide = kept.pivot_table(index=keys, columns="method", values=["value", "std"], sort=False, dropna=False)
    value, std = wide["value"], wide["std"]
    sign = np.where(value.index.get_level_values("metric").map(HIGHER_IS_BETTER), 1.0, -1.0)
    whole = sign * (value[CEILING] - value["no change"])
    best = value[trivial].mul(sign, axis=0).max(axis=1)
    reach = (whole / np.hypot(std[CEILING], std["no change"])).replace([np.inf, -np.inf], np.nan)
    covered = ((best - sign * value["no change"]) / whole).where(reach >= 2)
    frame = pd.DataFrame(
        {
            "no_change": value["no change"],
            "mean_shift": value[trivial[-1]],
            "ceiling": value[CEILING],
            "range": reach,
            "saturation": covered,
        }
    ).groupby(["genes", "metric"], sort=False)
    means, medians = frame[["no_change", "mean_shift", "ceiling"]].mean(), frame[["range", "saturation"]].median()
    return means.join(medians).reset_index()


def _columns() -> list[str]:
    """Names of the two parts of the headline skill as columns."""
    return [family.replace(" ", "_") for family in SKILL_METRICS]


def _clipped_error(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Standard deviation of normal variables after they were clipped to [-1, 1], as skills are."""
    # beside the width of [-1, 1] numbers this large count by their ratio alone
    beyond = np.fmax(1.0, np.fmax(np.abs(mean), std) / 1e3)
    mean, std = mean / beyond, std / beyond
    scale = np.where(std > 0, std, 1.0)
    low, high = (-1 - mean) / scale, (1 - mean) / scale
    below, above = ndtr(low), ndtr(-high)
    inside = 1 - below - above
    at_low, at_high = (np.exp(-(end**2) / 2) / np.sqrt(2 * np.pi) for end in (low, high))
    first = mean * inside + scale * (at_low - at_high) + above - below
    second = (mean**2 + scale**2) * inside + 2 * mean * scale * (at_low - at_high) + above + below
    second += scale**2 * (low * at_low - high * at_high)
    return np.where(std > 0, np.sqrt(np.maximum(second - first**2, 0.0)), std)


def _bounds(by_unit: pd.DataFrame, level: float) -> pd.DataFrame:
    """Ends of the interval of every method's mean over units, of which there is one row each."""
    by_method = by_unit.groupby("method", sort=False)
    n, tail = by_method.size(), (1 + level) / 2
    of_units = stdtrit(np.maximum(n - 1, 1), tail) * by_method["skill"].std(ddof=1) / np.sqrt(n)
    of_cells = ndtri(tail) * np.sqrt((by_unit["skill_std"] ** 2).groupby("method", sort=False).sum()) / n
    half = np.fmax(of_units, of_cells)  # the units differ by their cells, too: both together would count these twice
    half = half.where((by_unit["has_room"] > 0).groupby("method", sort=False).sum() >= np.minimum(n, 2))
    mean = by_method["skill"].mean()
    return pd.DataFrame({"lower": (mean - half).clip(-1, 1), "upper": (mean + half).clip(-1, 1)})
