"""One hold-out: cells held out, a method run on the others, its prediction scored beside baselines and ceiling."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays, skill
from trvae_scvi.metrics._anndata import check_same_genes

from ._baseline_methods import BASELINES, baselines_for, predicted_cells
from ._holdout import HoldOut, hold_out

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from anndata import AnnData

    from ._baseline_methods import Method
    from ._parts import PartStore

__all__ = ["CEILING", "Job", "Split", "compare_predictions", "compute", "with_skill"]

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
        part = _references(split, **scoring) if method is None else split.score(method, **scoring)
    except Exception as error:
        what = "the baselines" if job.method is None else f"{job.method!r} with seed {job.seed}"
        error.add_note(f"While {job.group!r} was held out under {job.target!r}, for {what}.")
        raise
    if store is not None:
        store.write(part, *job)
    return job, part


def _references(split: Split, **scoring: Any) -> pd.DataFrame:
    """Score the baselines and the noise ceiling."""
    methods = baselines_for(split.holdout.counts)
    frames = [split.score(method, **scoring).assign(method=name) for name, method in methods.items()]
    ceiling = noise_ceiling(split.real, split.control, **scoring)
    return pd.concat([*frames, ceiling.assign(method=CEILING)], ignore_index=True)


def with_skill(frames: Iterable[pd.DataFrame], references: pd.DataFrame) -> pd.DataFrame:
    """Put scores of predictions and those of the references together, and give all of them their skill."""
    by_method = dict(list(references.groupby("method", sort=False)))
    ends = {"reference": by_method[REFERENCE], "ceiling": by_method[CEILING]}
    scored = [frame.merge(skill(frame, **ends), on=["genes", "metric"]) for frame in (*frames, *by_method.values())]
    return pd.concat(scored, ignore_index=True)


def compare_predictions(
    predictions: Mapping[str, AnnData],
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable,
    layer: str | None = None,
    counts: bool = True,
    n_top_genes: int = 100,
) -> pd.DataFrame:
    """Score predictions of a held-out group beside predictions without a network and the noise ceiling.

    Parameters
    ----------
    predictions
        For each method its predicted cells, in ``X``, with the genes of `adata` in its order; for example from
        `TRVAE.predict_perturbation`. The names are others than those of the baselines and the ceiling.
    adata
        All measured cells, those held out included; read only to score, and the other groups to build the baselines.
    group_key, group
        Column of `obs` with the groups, and the group that was held out under `target`.
    condition_key, control, target
        Column of `obs` with the conditions, and the names of two of them.
    layer
        The layer of `adata` to read; `None` reads `X`.
    counts
        Whether the values are counts, to be log-normalised.
    n_top_genes
        Number of genes in the second gene set; all genes if there are fewer.

    Returns
    -------
    Ten rows for each method, then for each of :func:`~trvae_scvi.benchmark.baseline_predictions` and for "noise
    ceiling", with the columns `method`, `genes`, `metric`, `value` and `skill` (0 is the mean shift, 1 the ceiling; see
    :func:`~trvae_scvi.metrics.skill`).

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    TypeError
        If `predictions` is no mapping, or holds anything but AnnData objects.
    ValueError
        If a prediction has other genes than `adata`, another order of them, or the name of a baseline or of the
        ceiling, there are no cells of the group under either condition, `control` and `target` are the same, no other
        group has both, or the values are no counts.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> predictions = {"the truth": truth[truth.obs["cell_type"] == "type_1"]}
    >>> table = tv.benchmark.compare_predictions(predictions, adata, **keys, group="type_1", target="stimulated")
    >>> table.columns.tolist(), table["method"].unique().tolist()[:2]
    (['method', 'genes', 'metric', 'value', 'skill'], ['the truth', 'no change'])
    """
    _check_predictions(predictions, adata)
    split = Split.of(
        adata,
        group_key=group_key,
        group=group,
        condition_key=condition_key,
        control=control,
        target=target,
        layer=layer,
        counts=counts,
    )
    matrices = {name: comparison_matrix(cells, counts=counts, name=name) for name, cells in predictions.items()}
    frames = [
        score_arrays(cells, split.real, split.control, n_top_genes=n_top_genes).assign(method=name)
        for name, cells in matrices.items()
    ]
    table = with_skill(frames, _references(split, n_top_genes=n_top_genes))
    return table[["method", "genes", "metric", "value", "skill"]]


def _check_predictions(predictions: Mapping[str, AnnData], adata: AnnData) -> None:
    if not isinstance(predictions, Mapping):
        msg = f"Expected `predictions` to map names of methods to AnnData objects, found {type(predictions).__name__}."
        raise TypeError(msg)
    taken = [name for name in predictions if name in (*BASELINES, CEILING)]
    if taken:
        msg = f"Expected names other than those of the baselines and the ceiling, found {taken}. Choose others."
        raise ValueError(msg)
    for name, cells in predictions.items():
        check_same_genes(**{"adata": adata, f"predictions[{name!r}]": cells})
