"""One hold-out: cells held out, a method run on the others, its prediction scored beside baselines and ceiling."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays, skill

from ._baseline_methods import baselines_for, predicted_cells
from ._holdout import HoldOut, hold_out

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from anndata import AnnData

    from ._baseline_methods import Method
    from ._parts import PartStore

__all__ = ["CEILING", "REFERENCE", "Job", "Split", "compute", "references", "with_skill"]

#: The prediction whose skill is 0, and what the best possible score is called.
REFERENCE = "mean shift"
CEILING = "noise ceiling"


class Split(NamedTuple):
    """What a method may see, and the cells held out and the control cells as they are compared."""

    holdout: HoldOut
    real: np.ndarray
    control: np.ndarray

    @classmethod
    def of(cls, cells: AnnData, **keys: Any) -> Split:
        """Split cells as :func:`hold_out` does, whose arguments `keys` are."""
        holdout, real = hold_out(cells, **keys)
        return cls(holdout, *(comparison_matrix(part, counts=holdout.counts) for part in (real, holdout.control)))

    def score(self, method: Method, **scoring: Any) -> pd.DataFrame:
        """Run a method and score what it predicts, with arguments of :func:`~trvae_scvi.metrics.score_arrays`."""
        start = time.perf_counter()
        predicted = predicted_cells(method, self.holdout)
        seconds = time.perf_counter() - start
        return score_arrays(predicted, self.real, self.control, **scoring).assign(seconds=seconds)


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
) -> tuple[Job, pd.DataFrame]:
    """Do one job and keep its table.

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
        Where to keep the table; `None` keeps none.

    Returns
    -------
    The job and its table, with the columns `genes`, `metric`, `value` and `seconds`; for baselines and ceiling also
    `method` and `std`, the ceiling's.
    """
    try:
        split = Split.of(cells, **keys, group=job.group, target=job.target, seed=job.seed or 0)
        part = references(split, **scoring) if method is None else split.score(method, **scoring)
    except Exception as error:
        what = "the baselines" if job.method is None else f"{job.method!r} with seed {job.seed}"
        error.add_note(f"While {job.group!r} was held out under {job.target!r}, for {what}.")
        raise
    if store is not None:
        store.write(part, *job)
    return job, part


def references(split: Split, **scoring: Any) -> pd.DataFrame:
    """Score the baselines and the noise ceiling."""
    methods = baselines_for(split.holdout.counts)
    frames = [split.score(method, **scoring).assign(method=name) for name, method in methods.items()]
    ceiling = noise_ceiling(split.real, split.control, **scoring)
    return pd.concat([*frames, ceiling.assign(method=CEILING)], ignore_index=True)


def with_skill(frames: Iterable[pd.DataFrame], references: pd.DataFrame) -> pd.DataFrame:
    """Put scores of predictions and those of :func:`references` together, and give all of them their skill."""
    by_method = dict(list(references.groupby("method", sort=False)))
    skills = [
        frame.merge(
            skill(frame, reference=by_method[REFERENCE], ceiling=by_method[CEILING]),
            on=["genes", "metric"],
            validate="1:1",
        )
        for frame in (*frames, *by_method.values())
    ]
    return pd.concat(skills, ignore_index=True)
