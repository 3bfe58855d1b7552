"""What a table of scores says on the whole: one line a method with its uncertainty, and which metrics tell anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from trvae_scvi._arguments import check_integer, check_number
from trvae_scvi.metrics import HIGHER_IS_BETTER, SKILL_METRICS

from ._comparison import CEILING, TRIVIAL

__all__ = ["holdout_skills", "metric_ranges", "summarize"]

_HOLDOUT = ["group", "target"]
# ahead by less than this, a prediction is not above another one: the two may be the same but for rounding
_MORE = 0.01


def summarize(table: pd.DataFrame, *, level: float = 0.9, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One line a method: its headline skill over all hold-outs, and how uncertain that is.

    Parameters
    ----------
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returns.
    level
        Probability of the interval.
    n_bootstrap
        Number of replicates: groups are drawn with replacement, the same ones for all methods, and every skill is moved
        by what the numbers of its cells leave open. As few groups vary less in a bootstrap than their mean does, what
        drawing them does to it is widened such that normally distributed groups get Student's t interval (after
        Hesterberg 2015, doi:10.1080/00031305.2015.1089789, who widens the level instead of the deviations).
    seed
        Seeds them.

    Returns
    -------
    One row per method, in the order of the table, with the columns

    ``method``
        Its name.
    ``skill``
        Mean over the groups of its :func:`~trvae_scvi.metrics.headline_skill`, over targets and seeds first. Where it
        has no value, for lack of room above the trivial predictions, it counts as 0: as good as these.
    ``lower``, ``upper``
        The interval: where the mean over other groups, and other cells, of this kind may lie. With one group it is for
        other cells alone.
    ``mean_response``, ``distribution``
        The two parts, of which the headline skill of a hold-out is the lower one, averaged in the same way.
    ``rank``
        Mean :func:`~trvae_scvi.metrics.discrimination` on all genes, 0.5 without any; NaN with fewer than 3 targets.
    ``above_trivial``
        Share of hold-outs and seeds in which its headline skill is above that of every trivial prediction, by more than
        0.01. These are below 0 themselves, as no single one of them is the best in every metric.
    ``n_holdouts``, ``n_without_room``
        Number of hold-outs, and of those in which the noise ceiling itself has no skill: nothing could be seen to be
        better than the best trivial prediction.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If a number is none.
    ValueError
        If the table is empty or a number is out of its range.

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
    check_integer("n_bootstrap", n_bootstrap, 2)
    skills = holdout_skills(table)
    counted = ["skill", *_columns(), "skill_std"]
    skills[counted] = skills[counted].where(skills["skill"].notna(), 0.0).fillna(dict.fromkeys(_columns(), 0.0))
    trivial = skills[skills["method"].isin(TRIVIAL)].groupby(_HOLDOUT, sort=False)["skill"].max()
    best = skills.join(trivial.rename("best"), on=_HOLDOUT)["best"]
    skills["above_trivial"] = (skills["skill"] > best + _MORE).astype(float)
    ranks = table[(table["metric"] == "discrimination") & (table["genes"] == "all")]
    by_group = skills.groupby(["method", "group"], sort=False, observed=True)
    columns = ["skill", *_columns()]
    means = by_group[columns].mean().groupby("method", sort=False)[columns].mean()
    tail = (1 - level) / 2
    drawn = _replicates(skills, n_bootstrap, tail, np.random.default_rng(seed))
    bounds = drawn.quantile([tail, 1 - tail], axis=1).T.set_axis(["lower", "upper"], axis=1)
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
    summary["n_without_room"] = int(ceiling["skill"].isna().sum())
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
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returns.

    Returns
    -------
    One row per set of genes and metric with the columns `genes`, `metric`, then means over the hold-outs:

    ``no_change``, ``mean_shift``, ``ceiling``
        Their scores.
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
    kept = table[table["method"].isin([*TRIVIAL, CEILING])]
    wide = kept.pivot_table(index=keys, columns="method", values=["value", "std"], sort=False, dropna=False)
    value, std = wide["value"], wide["std"]
    sign = np.where(value.index.get_level_values("metric").map(HIGHER_IS_BETTER), 1.0, -1.0)
    whole = sign * (value[CEILING] - value["no change"])
    best = value[list(TRIVIAL)].mul(sign, axis=0).max(axis=1)
    reach = (whole / np.hypot(std[CEILING], std["no change"])).replace([np.inf, -np.inf], np.nan)
    covered = ((best - sign * value["no change"]) / whole).where(reach >= 2)
    frame = pd.DataFrame(
        {
            "no_change": value["no change"],
            "mean_shift": value["mean shift"],
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


def _replicates(skills: pd.DataFrame, n_replicates: int, tail: float, rng: np.random.Generator) -> pd.DataFrame:
    """Bootstrap the mean over groups: methods x replicates."""
    keys = ["method", "group"]
    means = skills.groupby(keys, sort=False, observed=True)["skill"].mean().unstack("group")
    # errors of the numbers of cells, which the seeds of one hold-out share and its targets in part: taken as shared
    errors = skills.groupby(keys, sort=False, observed=True)["skill_std"].mean().unstack("group").reindex_like(means)
    means = means.reindex(skills["method"].unique())
    value, error = means.to_numpy(), errors.reindex(means.index).fillna(0.0).to_numpy()
    middle = np.nanmean(value, axis=1)
    widened = _student_factor((~np.isnan(value)).sum(axis=1), tail)
    drawn = {}
    for replicate in range(n_replicates):
        which = rng.integers(value.shape[1], size=value.shape[1])
        noise = rng.standard_normal(value.shape[1])
        moved = np.clip(value[:, which] + error[:, which] * noise, -1, 1)
        of_groups = np.nanmean(value[:, which], axis=1)
        replaced = middle + widened * (of_groups - middle) + np.nanmean(moved, axis=1) - of_groups
        drawn[replicate] = np.clip(replaced, -1, 1)
    return pd.DataFrame(drawn, index=means.index)


def _student_factor(n: np.ndarray, tail: float) -> np.ndarray:
    """How much further Student's t quantile of the mean of n is than the normal one of its bootstrap; 1 for one."""
    several = np.maximum(n, 2)
    factor = np.sqrt(several / (several - 1)) * stdtrit(several - 1, 1 - tail) / ndtri(1 - tail)
    return np.where(n > 1, factor, 1.0)
