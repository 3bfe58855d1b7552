"""One hold-out: cells held out, a method run on the others, its prediction scored beside baselines and ceiling."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_integer
from trvae_scvi.metrics import comparison_matrix, energy_test, skill
from trvae_scvi.metrics._anndata import check_same_genes
from trvae_scvi.metrics._matrix import gene_means
from trvae_scvi.metrics._score import check_metrics
from trvae_scvi.metrics._scorer import DEFAULT_METRICS, Scorer

from ._baseline_methods import BASELINES, baselines_for, expected_change, predicted_cells
from ._changes import change_table
from ._holdout import MIN_CELLS, HoldOut, Truth, hold_out, in_order
from ._parts import Part

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from anndata import AnnData

    from ._baseline_methods import Method
    from ._parts import PartStore

__all__ = [
    "CEILING",
    "TARGET_TRIVIAL",
    "TRIVIAL",
    "Job",
    "Split",
    "compare_predictions",
    "compute",
    "trivial_in",
    "with_skill",
]

#: Predictions that take nothing but averages: the best of them has a skill of 0.
TRIVIAL = ("no change", "mean of others", "mean shift")
#: Those where conditions are hidden from all groups.
TARGET_TRIVIAL = ("no change", "mean response")
#: What the best possible score is called.
CEILING = "noise ceiling"

_N_SPLITS = 10
# of the test whether there is any effect
_N_PERMUTATIONS, _MAX_CELLS = 199, 500


def trivial_in(table: pd.DataFrame) -> tuple[str, ...]:
    """Names of the trivial predictions of a table, which tell whether groups or conditions were hidden."""
    names = set(table["method"])
    return TARGET_TRIVIAL if TARGET_TRIVIAL[-1] in names and TRIVIAL[-1] not in names else TRIVIAL


class Split(NamedTuple):
    """What a method may see, and what its prediction is compared with."""

    holdout: HoldOut
    truth: Truth

    @classmethod
    def of(cls, cells: AnnData, **keys: Any) -> Split:
        """Split cells as :func:`hold_out` does, whose arguments `keys` are."""
        return cls(*hold_out(cells, **keys))

    def matrix(self, cells: AnnData) -> np.ndarray:
        """Cells in the space in which they are compared."""
        return comparison_matrix(cells, counts=self.holdout.counts)

    def scorer(self, **scoring: Any) -> Scorer:
        """Make what scores predictions, with further arguments of :class:`Scorer`."""
        sides = (self.holdout.target, self.truth.real, 4), (self.holdout.source, self.holdout.control, 2)
        for condition, cells, least in sides:
            if cells.n_obs < least:
                msg = f"Expected at least {least} cells under {condition!r} to score predictions, found {cells.n_obs}."
                raise ValueError(msg)
        source = self.matrix(self.holdout.control)
        control = self.matrix(self.truth.control) if self.truth.control.n_obs else None
        return Scorer(
            self.matrix(self.truth.real),
            control,
            None if control is None else source,
            expected=expected_change(self.holdout),
            others=self._other_targets(),
            n_cells=len(source),
            n_splits=_N_SPLITS,
            **scoring,
        )

    def changes(self, predicted: np.ndarray, *, n_top_genes: int = 100) -> pd.DataFrame:
        """Predicted and real changes, against the control cells that were predicted from; see :func:`change_table`."""
        h = self.holdout
        cells = (self.matrix(part) for part in (self.truth.real, h.control))
        return change_table(predicted, *cells, n_top_genes=n_top_genes, var_names=h.control.var_names)

    def _other_targets(self) -> np.ndarray:
        """Means of the group's cells under each other condition, of random halves: splits x conditions x genes."""
        h = self.holdout
        own = h.training[(h.training.obs[h.group_key] == h.group).to_numpy()]
        condition = own.obs[h.condition_key]
        rng = np.random.default_rng(0)
        means = []
        for name in in_order(condition):
            rows = (condition == name).to_numpy()
            if name == h.source or rows.sum() < MIN_CELLS:
                continue
            cells = self.matrix(own[rows])
            halves = (rng.permutation(len(cells))[len(cells) // 2 :] for _ in range(_N_SPLITS))
            means.append([gene_means(cells[half]) for half in halves])
        return np.array(means).reshape(len(means), _N_SPLITS, h.training.n_vars).swapaxes(0, 1)


class Job(NamedTuple):
    """One piece of a run: a method with a seed or, without both, the baselines and the ceiling."""

    group: Hashable
    target: Hashable
    seed: int | None = None
    method: str | None = None


def compute(
    job: Job,
    cells: AnnData,
    keys: Mapping[str, Any],
    scoring: Mapping[str, Any],
    method: Method | None,
    store: PartStore | None,
) -> tuple[Job, Part]:
    """Do one job and keep what comes of it.

    Parameters
    ----------
    job
        Which one.
    cells
        All cells, with the values in `X`.
    keys, scoring
        How to split and score: arguments of :func:`hold_out` and :func:`~trvae_scvi.metrics.score_arrays`.
    method
        The method that the job names; `None` for baselines and ceiling.
    store
        Where to keep it; `None` keeps nothing.

    Returns
    -------
    The job and what came of it.
    """
    try:
        split = Split.of(cells, **keys, group=job.group, target=job.target, seed=job.seed or 0)
        if method is None:
            part = Part(_references(split, split.scorer(**scoring)), None)
        else:
            part = _part(method, split, scoring)
    except Exception as error:
        what = "the baselines" if job.method is None else f"{job.method!r} with seed {job.seed}"
        error.add_note(f"While {job.group!r} was held out under {job.target!r}, for {what}.")
        raise
    if store is not None:
        store.write(part, *job)
    return job, part


def _part(method: Method, split: Split, scoring: Mapping[str, Any]) -> Part:
    """Score a method, and keep the changes that it predicts."""
    predicted, seconds = _predicted(method, split)
    scores = split.scorer(**scoring).score(predicted).assign(seconds=seconds)
    return Part(scores, split.changes(predicted, n_top_genes=scoring["n_top_genes"]))


def _predicted(method: Method, split: Split) -> tuple[np.ndarray, float]:
    """What a method predicts, and how long it takes."""
    start = time.perf_counter()
    predicted = predicted_cells(method, split.holdout)
    return predicted, time.perf_counter() - start


def _scored(scorer: Scorer, method: Method, split: Split) -> pd.DataFrame:
    predicted, seconds = _predicted(method, split)
    return scorer.score(predicted).assign(seconds=seconds)


def _references(split: Split, scorer: Scorer) -> pd.DataFrame:
    """Score the baselines and the noise ceiling."""
    methods = baselines_for(split.holdout.counts)
    frames = [_scored(scorer, method, split).assign(method=name) for name, method in methods.items()]
    controls = [split.matrix(cells) for cells in (split.holdout.control, split.truth.control) if cells.n_obs]
    effect = energy_test(
        split.matrix(split.truth.real), np.vstack(controls), n_permutations=_N_PERMUTATIONS, max_cells=_MAX_CELLS
    )
    table = pd.concat([*frames, scorer.ceiling().assign(method=CEILING)], ignore_index=True)
    return table.assign(effect_p=effect.p_value)


def with_skill(
    frames: Iterable[pd.DataFrame], references: pd.DataFrame, *, trivial: Sequence[str] = TRIVIAL
) -> pd.DataFrame:
    """Put scores of predictions and those of the references together, and give all of them their skill."""
    by_method = dict(list(references.groupby("method", sort=False)))
    ends = {"reference": [by_method[name] for name in trivial], "ceiling": by_method[CEILING]}
    scored = []
    for frame in (*frames, *by_method.values()):
        frame, skills = frame.reset_index(drop=True), skill(frame, **ends)
        if frame["value"].isna().all():  # nothing was predicted, which is no failure
            skills[["skill", "skill_std"]] = np.nan
        # a score without a value says why itself
        notes = frame["note"].fillna("")
        notes = notes.where(notes != "", skills["note"])
        scored.append(frame.assign(skill=skills["skill"], skill_std=skills["skill_std"], note=notes))
    return pd.concat(scored, ignore_index=True)


def compare_predictions(
    predictions: Mapping[str, AnnData],
    holdout: HoldOut,
    truth: Truth,
    *,
    n_top_genes: int = 100,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> pd.DataFrame:
    """Score predictions of a held-out group beside predictions without a network and the noise ceiling.

    Parameters
    ----------
    predictions
        For each method its predicted cells, in ``X``, with the genes of the hold-out in its order; for example from
        `TRVAE.predict_perturbation` of ``holdout.control``, by a model trained on ``holdout.training``. The names are
        others than those of the baselines and the ceiling.
    holdout, truth
        What :func:`~trvae_scvi.benchmark.hold_out` returned.
    n_top_genes
        Number of genes in the second gene set; all genes if there are fewer.
    metrics
        Names out of ``metrics.METRICS``.

    Returns
    -------
    One row for each set of genes and metric, of each method, then of the `BASELINES` and of "noise ceiling", with the
    columns `method`, `genes`, `metric`, `value`, `std`, `skill`, `skill_std` (0 is the best trivial prediction, 1 the
    ceiling; see :func:`~trvae_scvi.metrics.skill`), `note`, and `effect_p`: the p value of
    :func:`~trvae_scvi.metrics.energy_test` between the real cells and the group's control cells. Where it is large
    there is no effect to be predicted that these cells would show.

    Raises
    ------
    TypeError
        If `predictions` is no mapping, or holds anything but AnnData objects.
    ValueError
        If a prediction has other genes than the hold-out, another order of them, fewer than 2 cells, or the name of a
        baseline or of the ceiling, there are fewer than 4 cells to compare with, no other group has both conditions, a
        metric is unknown, or values are not what is compared.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, would_be = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, truth = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> predictions = {"the truth": would_be[holdout.control.obs_names + "-stimulated"]}
    >>> table = tv.benchmark.compare_predictions(predictions, holdout, truth)
    >>> table["method"].unique().tolist()[:2]
    ['the truth', 'no change']
    """
    _check_predictions(predictions, holdout.control)
    check_metrics(metrics)
    check_integer("n_top_genes", n_top_genes, 1)
    split, scoring = Split(holdout, truth), {"n_top_genes": n_top_genes, "metrics": list(metrics)}
    scorer = split.scorer(**scoring)
    frames = [
        scorer.score(comparison_matrix(cells, counts=holdout.counts, name=name)).assign(method=name)
        for name, cells in predictions.items()
    ]
    references = _references(split, scorer)
    table = with_skill(frames, references).assign(effect_p=references["effect_p"].iloc[0])
    return table[["method", "genes", "metric", "value", "std", "skill", "skill_std", "note", "effect_p"]]


def _check_predictions(predictions: Mapping[str, AnnData], control: AnnData) -> None:
    if not isinstance(predictions, Mapping):
        msg = f"Expected `predictions` to map names of methods to AnnData objects, found {type(predictions).__name__}."
        raise TypeError(msg)
    taken = [name for name in predictions if name in (*BASELINES, CEILING)]
    if taken:
        msg = f"Expected names other than those of the baselines and the ceiling, found {taken}. Choose others."
        raise ValueError(msg)
    for name, cells in predictions.items():
        check_same_genes(**{"holdout.control": control, f"predictions[{name!r}]": cells})
