"""What to expect of a prediction for a group that was not measured, from the groups that were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_choice, check_number
from trvae_scvi.metrics import comparison_matrix

from ._expectation import expected_skills, lacking_scores, n_changed, verdict_of, verdict_on
from ._experiments import group_distances
from ._holdout import MIN_CELLS, check_columns, check_two_conditions, in_order, only_values
from ._interval_calibration import fit_model_error
from ._runner import held_out

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Mapping, Sequence

    from anndata import AnnData

    from trvae_scvi._math._intervals import ModelError

    from ._baseline_methods import Method

__all__ = ["Assessment", "assess"]

_FAR = 2.0  # distance from the nearest measured group, in median distances of these from theirs


@dataclass(frozen=True, eq=False)
class Assessment:
    """What :func:`~trvae_scvi.benchmark.assess` finds.

    Attributes
    ----------
    group
        Whose cells are to be predicted.
    target
        Under which condition.
    group_key
        Column of `obs` with the groups.
    verdict
        One of `VERDICTS`.
    message
        The same as a sentence, with its reasons.
    recommended
        Method with the highest expected skill, the simplest of those that are level. Where that is of no use, the one
        with the best means or direction, if there is one.
    expected
        One row a method, with the headline `skill` to be expected and its interval (`lower`, `upper`), its parts
        `mean_response` and `distribution`, and what was predicted of the change of means (`share_of_means`), of that of
        distributions (`share_of_cells`, by E-distance) and of its `direction` (correlation of changes): shares of what
        the noise ceiling reaches, over all measured groups, and for the direction in the group where it is least
        (`direction_least`). NaN where the ceiling is not better than no change by two standard errors.
    evidence
        Numbers of measured groups (`n_groups`), of those that the target changes (`n_changed`) and of the group's
        control cells (`n_cells`), and the `distance` of its mean control cell from the nearest measured group's, in
        median distances of measured groups from their nearest.
    model_errors
        For each of the methods the `model_error` of `TRVAE.get_perturbation_effect`, from the same measured groups, as
        :func:`~trvae_scvi.benchmark.calibrate_intervals` finds it. Empty if a table was given.
    level
        Probability of the intervals.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=1500, n_genes=100, n_types=4).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control", "target": "stimulated"}
    >>> found = tv.benchmark.assess(adata, group="type_1", methods={}, progress_bar=False, **keys)
    >>> found.verdict, int(found.evidence["n_groups"])
    ('use', 3)
    """

    group: Hashable
    target: Hashable
    group_key: str
    verdict: str
    message: str
    recommended: str
    expected: pd.DataFrame
    evidence: pd.Series
    model_errors: Mapping[str, ModelError] = field(default_factory=dict, repr=False)
    level: float = 0.8

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.expected.round(2).to_string()}"

    def verdict_for(self, method: str) -> str:
        """The verdict on one of the methods of `expected`, which need not be the recommended one."""
        check_choice("method", method, self.expected.index)
        counted = [int(self.evidence[name]) for name in ("n_changed", "n_groups")]
        return self.verdict if method == self.recommended else verdict_on(self.expected.loc[method], *counted)

    def add_to(self, prediction: AnnData, *, method: str = "trVAE") -> None:
        """Write the verdict into a prediction, as ``uns["trvae"]["assessment"]``, where it stays with the cells.

        Parameters
        ----------
        prediction
            What :meth:`~trvae_scvi.TRVAE.predict_perturbation` returned for the group under the target; changed.
        method
            The method that made it, one of `expected`. `verdict` is about it, `message` about the recommended one.

        Raises
        ------
        ValueError
            If it is no such prediction, a view, of another or more than one target, of other groups' cells, too, or the
            method was not assessed.

        Examples
        --------
        >>> prediction = model.predict_perturbation(nk, target="stimulated")  # doctest: +SKIP
        >>> found.add_to(prediction)  # doctest: +SKIP
        >>> prediction.uns["trvae"]["assessment"]["verdict"]  # doctest: +SKIP
        'use'
        """
        check_choice("method", method, self.expected.index)
        if prediction.is_view:
            msg = "Expected a prediction of its own, found a view of another object. Call `.copy()` first."
            raise ValueError(msg)
        targets = [str(name) for name in prediction.uns.get("trvae", {}).get("target", [])]
        if targets != [str(self.target)]:
            msg = f"Expected a prediction of {self.target!r} by `TRVAE.predict_perturbation`, found one of {targets}."
            raise ValueError(msg)
        groups = prediction.obs[self.group_key].unique() if self.group_key in prediction.obs else [self.group]
        if {str(group) for group in groups} != {str(self.group)}:
            msg = f"Expected cells of {self.group!r} alone in `obs[{self.group_key!r}]`, found {list(groups)}."
            raise ValueError(msg)
        own = self.expected.loc[method]
        prediction.uns["trvae"]["assessment"] = {
            "group": str(self.group),
            "target": str(self.target),
            "method": method,
            "verdict": self.verdict_for(method),
            "recommended": self.recommended,
            "message": self.message,
            **{name: float(own[name]) for name in ("skill", "lower", "upper")},
            "n_groups": int(self.evidence["n_groups"]),
        }


def assess(
    adata: AnnData,
    *,
    group: Hashable,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable,
    methods: Mapping[str, Method] | None = None,
    table: pd.DataFrame | None = None,
    level: float = 0.8,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    counts: bool = True,
    n_hvg: int | None = None,
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress_bar: bool = True,
) -> Assessment:
    """How good a prediction for a group will be that was not measured under a condition, and which one to take.

    Every other group that *was* measured under the target is held out in turn, predicted and scored
    (:func:`~trvae_scvi.benchmark.leave_one_group_out`). If the group is one of their kind, its skill is a further draw
    from theirs: the expected one is their mean, and the interval is that of Student's t distribution for one more of
    them. No cell of the group under the target takes part, whether there are any or not.

    Parameters
    ----------
    adata
        Cells under control and other conditions. Not changed.
    group
        The group to be predicted, with control cells.
    group_key, condition_key, control, layer, counts, n_hvg, methods, seeds, out, n_jobs, progress_bar
        As for :func:`~trvae_scvi.benchmark.leave_one_group_out`.
    target
        The condition to be predicted.
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returned for these data, instead of running it; its rows
        of `group` and of other targets are not read. If the group was measured under the target, methods saw these
        cells when they predicted other groups: leave `table` out for an assessment without them.
    level
        Probability of the intervals.

    Returns
    -------
    Verdict, recommended method, what to expect of each, and the evidence. In turn, the verdict is

    ``"no effect"``
        if the target changes fewer than half of the measured groups, as far as their numbers of cells show (E-distance
        permutation test, p below 0.05);
    ``"use"``
        if the recommended method predicted half of the change of means, and half of the change of distributions;
    ``"use means only"``
        if only the first;
    ``"use the direction only"``
        if its correlation of changes is 0.3 of the noise ceiling's at least;
    ``"do not use"``
        otherwise. With three measured groups or more, another method may then predict half of the change of means, or
        such a correlation in each group: it is recommended for means, or for the direction, only.

    Raises
    ------
    KeyError
        If a column, the layer, or a column of `table` is missing.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the group has fewer than 10 control cells, fewer than two other groups were measured, a name is unknown,
        `level` is not between 0 and 1, or for what :func:`~trvae_scvi.benchmark.leave_one_group_out` refuses.

    Warns
    -----
    UserWarning
        If fewer than five groups were measured: intervals of genes rest on too few.

    Notes
    -----
    With few measured groups the intervals are wide, with two of them hardly narrower than from -1 to 1: groups that
    agree by chance say little. They do not know of what sets the group apart; `distance` above 2 is a warning. The
    recommended method was the best of several in these groups, so that a little less is to be expected of it than of
    one that was chosen beforehand.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=1500, n_genes=100, n_types=4).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control", "target": "stimulated"}
    >>> found = tv.benchmark.assess(adata, group="type_1", methods={}, progress_bar=False, **keys)
    >>> found.expected.columns.tolist()[:3]
    ['skill', 'lower', 'upper']
    """
    check_number("level", level, positive=True, below=1.0)
    measured = _measured(adata, group, group_key, condition_key, control, target)
    is_hidden = _rows(adata, {group_key: group, condition_key: target})
    errors: dict[str, ModelError] = {}
    if table is None:
        run = held_out(
            adata[~is_hidden],
            group_key=group_key,
            condition_key=condition_key,
            control=control,
            methods=methods,
            groups=measured,
            targets=[target],
            seeds=seeds,
            layer=layer,
            counts=counts,
            n_hvg=n_hvg,
            out=out,
            n_jobs=n_jobs,
            progress_bar=progress_bar,
        )
        table = run.table
        errors = {
            name: fit_model_error(list(changes.values()), groups=[group for group, _, _ in changes])
            for name, changes in run.changes.items()
        }
    else:
        table = _own_rows(table, measured, target)
    expected = expected_skills(table, level)
    controls = only_values(adata[_rows(adata, {condition_key: control})], layer)
    evidence = pd.Series(
        {
            "n_groups": table["group"].nunique(),
            "n_changed": n_changed(table),
            "n_cells": int((controls.obs[group_key] == group).sum()),
            "distance": _distance(controls, counts, group_key, group, measured),
        }
    )
    verdict, recommended = verdict_of(expected, int(evidence["n_changed"]), int(evidence["n_groups"]))
    message = _message(verdict, recommended, expected.loc[recommended], evidence, group, target, level)
    return Assessment(group, target, group_key, verdict, message, recommended, expected, evidence, errors, level)


def _rows(adata: AnnData, values: Mapping[str, Hashable]) -> np.ndarray:
    return np.logical_and.reduce([adata.obs[key].isin([value]).to_numpy() for key, value in values.items()])


def _measured(
    adata: AnnData, group: Hashable, group_key: str, condition_key: str, control: Hashable, target: Hashable
) -> list[Hashable]:
    """Other groups with enough cells under both conditions."""
    check_columns(adata, group_key, condition_key)
    check_two_conditions(control, target)
    groups = in_order(adata.obs[group_key])
    for name, value, known in (
        ("group", group, groups),
        ("control", control, in_order(adata.obs[condition_key])),
        ("target", target, in_order(adata.obs[condition_key])),
    ):
        check_choice(name, value, known)

    def n_cells(name: Hashable, condition: Hashable) -> int:
        return int(_rows(adata, {group_key: name, condition_key: condition}).sum())

    if n_cells(group, control) < MIN_CELLS:
        msg = (
            f"Expected at least {MIN_CELLS} cells of {group!r} under {control!r} to predict from, found "
            f"{n_cells(group, control)}."
        )
        raise ValueError(msg)
    others = [name for name in groups if name != group]
    found = [name for name in others if min(n_cells(name, control), n_cells(name, target)) >= MIN_CELLS]
    if len(found) < 2:
        msg = (
            f"Expected two other groups or more with {MIN_CELLS} cells under {control!r} and under {target!r}, to hold "
            f"out one and learn from another, found {found}. Nothing tells how good a prediction will be."
        )
        raise ValueError(msg)
    return found


def _own_rows(table: pd.DataFrame, measured: Sequence[Hashable], target: Hashable) -> pd.DataFrame:
    missing = [
        name for name in ("group", "target", "method", "genes", "metric", "value", "effect_p") if name not in table
    ]
    if missing:
        msg = f"Expected `table` as `leave_one_group_out` returns it, found no columns {missing}."
        raise KeyError(msg)
    lacking = lacking_scores(table)
    if lacking:
        msg = (
            f"Expected scores of {lacking} in `table`, found none. Run `leave_one_group_out` with its default metrics."
        )
        raise ValueError(msg)
    # a table that was read from a file has texts
    own = table[table["group"].astype(str).isin(map(str, measured)) & (table["target"].astype(str) == str(target))]
    if own["group"].nunique() < 2:
        msg = (
            f"Expected `table` to have two groups or more out of {list(measured)} held out under {target!r}, found "
            f"{own['group'].unique().tolist()}."
        )
        raise ValueError(msg)
    return own


def _distance(controls: AnnData, counts: bool, group_key: str, group: Hashable, measured: Sequence[Hashable]) -> float:
    """From the nearest measured group, in median distances of these from their nearest."""
    cells = [
        comparison_matrix(controls[(controls.obs[group_key] == name).to_numpy()], counts=counts)
        for name in (group, *measured)
    ]
    squared, noise = group_distances(cells)
    np.fill_diagonal(squared, np.inf)
    # groups that are no further apart than noise puts them are not told from one another
    typical = max(float(np.median(squared[1:, 1:].min(axis=1))), float(np.median(noise[1:])))
    return float(np.sqrt(squared[0, 1:].min() / typical)) if typical > 0 else float("nan")


def _share(value: float) -> str:
    return "an unknown share" if np.isnan(value) else f"{value:.0%}" if value > 0 else "nothing"


def _message(
    verdict: str,
    recommended: str,
    best: pd.Series,
    evidence: pd.Series,
    group: Hashable,
    target: Hashable,
    level: float,
) -> str:
    n, n_changed = int(evidence["n_groups"]), int(evidence["n_changed"])
    if verdict == "no effect":
        seen = f"expect no effect on {group} that so many cells would show (`cells_needed` says how many would)."
        said = f"{target} changes {n_changed} of {n} measured groups beyond noise: {seen}"
    elif np.isnan(best["share_of_means"]):
        said = (
            f"Do not use a prediction of {group}: {target} changes {n_changed} of {n} measured groups, but their means "
            "by no more than noise, so that none could be seen to be right."
        )
    else:
        what = {
            "use": f"Use {recommended}",
            "use means only": f"Use {recommended}, for means only",
            "use the direction only": f"Use {recommended}, for the direction of changes only",
            "do not use": f"Do not use a prediction of {group}; the best is {recommended}",
        }[verdict]
        said = (
            f"{what}: in {n} measured groups it predicted {_share(best['share_of_means'])} of the change of means and "
            f"{_share(best['share_of_cells'])} of that of distributions, and its headline skill is expected to be "
            f"{best['skill']:.2f} here ({level:.0%}: {best['lower']:.2f} to {best['upper']:.2f})."
        )
    if evidence["distance"] > _FAR:
        said += (
            f" The control cells of {group} lie {evidence['distance']:.1f} times as far from those of the nearest "
            "measured group as these do from one another: less is to be expected."
        )
    return said
