"""Predictions of a condition that nobody measured, from the others' changes and what describes them: no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.metrics._matrix import gene_means

from ._holdout import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import pandas as pd
    from anndata import AnnData

__all__ = ["TARGET_BASELINES", "TargetHoldOut", "changes_of"]

_NEAREST = 3
_PENALTIES = 10.0 ** np.arange(-3.0, 4.0)


@dataclass(frozen=True, eq=False)
class TargetHoldOut:
    """What a method is given to predict conditions of which it has seen no cell.

    Attributes
    ----------
    training
        All cells but those under the targets, less the control cells set aside. Values in ``X``.
    control
        The control cells to predict from; they are in `training`, too.
    condition_key
        Column of `obs` with the conditions.
    group_key
        Column of `obs` with groups of cells; `None` if there are none.
    source
        Condition of `control`.
    targets
        Conditions to predict.
    features
        Descriptions of all conditions, the targets among them; 0 for the control.
    counts
        Whether ``X`` holds counts.
    seed
        Seed of everything random in a method.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, features, _ = tv.datasets.simulate_conditions(n_cells=900, n_genes=50, n_conditions=12)
    >>> def unchanged(holdout):
    ...     return {target: holdout.control for target in holdout.targets}
    >>> table = tv.benchmark.leave_one_target_out(
    ...     adata,
    ...     condition_features=features,
    ...     control="control",
    ...     targets=["condition_1"],
    ...     methods={"unchanged": unchanged},
    ...     progress_bar=False,
    ... )
    >>> table["method"].iloc[0]
    'unchanged'
    """

    training: AnnData
    control: AnnData
    condition_key: str
    group_key: str | None
    source: Hashable
    targets: list[Any]
    features: pd.DataFrame
    counts: bool = True
    seed: int = 0


def changes_of(holdout: TargetHoldOut, rows: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Measured conditions with cells among some rows of the training cells, and their changes of means, `s x d`."""
    condition = holdout.training.obs[holdout.condition_key]

    def mean(name: Hashable) -> np.ndarray:
        cells = holdout.training[rows & (condition == name).to_numpy()]
        return gene_means(comparison_matrix(cells, counts=holdout.counts))

    numbers = condition[rows].value_counts()
    present = [name for name in holdout.features.index if numbers.get(name, 0) > 0 and name != holdout.source]
    # every condition has the same weight, so that one of a few cells would add mostly noise
    enough = [name for name in present if numbers[name] >= MIN_CELLS]
    measured = enough if len(enough) > 1 else present
    base = mean(holdout.source)
    return measured, np.stack([mean(name) - base for name in measured])


def _no_change(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.zeros(changes.shape[1])


def _mean_response(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return changes.mean(axis=0)


def _nearest(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    order = np.argsort(((table - asked) ** 2).sum(axis=1), kind="stable")
    return changes[order[:_NEAREST]].mean(axis=0)


def _linear(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(table).T @ asked @ changes


def _ridge(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """From the mean response or from no change, with a penalty: what predicts left-out conditions best."""
    centred = table - table.mean(axis=0), changes - changes.mean(axis=0), asked - table.mean(axis=0)
    fits = [
        *(_penalised(table, changes, asked, penalty, 0.0) for penalty in _PENALTIES),
        *(_penalised(*centred, penalty, 1.0 / len(table)) for penalty in _PENALTIES),
    ]
    best = int(np.argmin([error for error, _ in fits]))
    return fits[best][1] + (changes.mean(axis=0) if best >= len(_PENALTIES) else 0.0)


def _penalised(
    table: np.ndarray, changes: np.ndarray, asked: np.ndarray, penalty: float, of_mean: float
) -> tuple[float, np.ndarray]:
    """Squared error of conditions left out in turn, and the prediction; `of_mean` is their share in a fitted mean."""
    gram = table @ table.T
    unit = float(np.trace(gram)) / len(gram) or 1.0
    inverse = np.linalg.inv(gram + penalty * unit * np.eye(len(gram)))
    hat = gram @ inverse
    errors = (changes - hat @ changes) / np.maximum(1.0 - np.diag(hat) - of_mean, 1e-6)[:, None]
    return float((errors**2).mean()), asked @ table.T @ inverse @ changes


def _interpolation(table: np.ndarray, changes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Between the next smaller and the next larger dose of the same drug, 0 being one; the largest one beyond it."""
    column = int(np.argmax(np.abs(asked)))
    alike = np.flatnonzero((table[:, column] != 0) & (np.delete(table, column, axis=1) == 0).all(axis=1))
    if not len(alike) or np.count_nonzero(asked) > 1:
        return np.full(changes.shape[1], np.nan)
    places = np.concatenate([[0.0], table[alike, column]])
    values = np.vstack([np.zeros(changes.shape[1]), changes[alike]])
    order = np.argsort(places, kind="stable")
    right = int(np.clip(np.searchsorted(places[order], asked[column]), 1, len(places) - 1))
    low, high = order[right - 1], order[right]
    share = np.clip((asked[column] - places[low]) / (places[high] - places[low]), 0.0, 1.0)
    return (1.0 - share) * values[low] + share * values[high]


#: Changes under a condition that was not measured (`d`) by name, in the order of the tables: functions of descriptions
#: (`s x p`) and changes (`s x d`) of the measured conditions and of the description asked for (`p`). "linear" is the
#: additive prediction of combinations, "interpolation" has a value where conditions are doses of one drug each.
TARGET_BASELINES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "no change": _no_change,
    "mean response": _mean_response,
    "nearest conditions": _nearest,
    "linear": _linear,
    "ridge": _ridge,
    "interpolation": _interpolation,
}
