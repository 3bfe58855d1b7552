"""One piece of a run: cells held out, a method run on the others, its prediction scored."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays

from ._baseline_methods import BASELINES, predicted_cells
from ._comparison import CEILING
from ._holdout import hold_out

if TYPE_CHECKING:
    from collections.abc import Hashable

    import numpy as np
    from anndata import AnnData

    from ._baseline_methods import Method
    from ._holdout import HoldOut
    from ._parts import PartStore

__all__ = ["Job", "Task", "compute"]


@dataclass(frozen=True)
class Task:
    """What every hold-out of a run has in common."""

    group_key: str
    condition_key: str
    control: Hashable
    counts: bool
    n_hvg: int | None
    n_top_genes: int
    metrics: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Give the fields as values that JSON has."""
        return asdict(self) | {"control": str(self.control), "metrics": list(self.metrics)}

    def split(self, cells: AnnData, job: Job) -> tuple[HoldOut, np.ndarray, np.ndarray]:
        """Give what a method may see, and the cells held out and the control cells as they are compared."""
        holdout, real = hold_out(
            cells,
            group_key=self.group_key,
            group=job.group,
            condition_key=self.condition_key,
            control=self.control,
            target=job.target,
            counts=self.counts,
            n_hvg=self.n_hvg,
            seed=0 if job.seed is None else job.seed,
        )
        return (
            holdout,
            comparison_matrix(real, counts=self.counts),
            comparison_matrix(holdout.control, counts=self.counts),
        )

    def scored(self, method: Method, holdout: HoldOut, real: np.ndarray, control: np.ndarray) -> pd.DataFrame:
        """Run a method and score what it predicts."""
        start = time.perf_counter()
        predicted = predicted_cells(method, holdout)
        seconds = time.perf_counter() - start
        scores = score_arrays(predicted, real, control, n_top_genes=self.n_top_genes, metrics=self.metrics)
        return scores.assign(seconds=seconds)


class Job(NamedTuple):
    """One piece of a run: a method with a seed or, without both, the baselines and the ceiling."""

    group: Hashable
    target: Hashable
    seed: int | None = None
    method: str | None = None


def compute(
    job: Job, cells: AnnData, task: Task, method: Method | None, store: PartStore | None
) -> tuple[Job, pd.DataFrame]:
    """Do one job and keep its table.

    Parameters
    ----------
    job
        Which one.
    cells
        All cells, with the values in `X`.
    task
        How to split and score.
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
        split = task.split(cells, job)
        part = _references(task, *split) if method is None else task.scored(method, *split)
    except Exception as error:
        what = "the baselines" if job.method is None else f"{job.method!r} with seed {job.seed}"
        error.add_note(f"While {job.group!r} was held out under {job.target!r}, for {what}.")
        raise
    if store is not None:
        store.write(part, *job)
    return job, part


def _references(task: Task, holdout: HoldOut, real: np.ndarray, control: np.ndarray) -> pd.DataFrame:
    """Score the baselines and the noise ceiling."""
    frames = [
        task.scored(method, holdout, real, control).assign(method=name)
        for name, method in BASELINES.items()
        if task.counts or name != "fold change"
    ]
    ceiling = noise_ceiling(real, control, n_top_genes=task.n_top_genes, metrics=task.metrics)
    return pd.concat([*frames, ceiling.assign(method=CEILING)], ignore_index=True)
