"""The baselines as methods, which take a hold-out and give a prediction, and all of them at once on an AnnData."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from anndata import AnnData

from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.metrics._anndata import check_same_genes
from trvae_scvi.metrics._matrix import as_matrix

from ._baselines import fold_change, group_changes, mean_of_others, mean_shift, no_change, shrunk_shift
from ._holdout import HoldOut, check_columns, check_two_conditions, only_values, other_groups, rows_under
from ._linear_baselines import pca_shift, ridge_shift

__all__ = ["BASELINES", "Method", "baseline_predictions", "baselines_for", "expected_change", "predicted_cells"]

#: What predicts held-out cells: takes a hold-out, gives an AnnData on the scale of the hold-out's values (counts,
#: expected counts, or values that are normalised already), or an array in the space in which predictions are compared.
Method: TypeAlias = Callable[[HoldOut], AnnData | np.ndarray]


def _no_change(holdout: HoldOut) -> np.ndarray:
    return no_change(_own(holdout))


def _mean_of_others(holdout: HoldOut) -> np.ndarray:
    return mean_of_others(_others(holdout, holdout.counts)[1])


def _shifted(shift: Callable[..., np.ndarray], holdout: HoldOut) -> np.ndarray:
    return shift(_own(holdout), *_others(holdout, holdout.counts))


def _fold_change(holdout: HoldOut) -> AnnData:
    if not holdout.counts:
        msg = "Expected counts to change by a factor, found values that are normalised already (`counts=False`)."
        raise ValueError(msg)
    own = comparison_matrix(holdout.control, counts=False, name="control")
    # Always the same draw: a baseline is one prediction, whatever the seeds of what it is compared with.
    predicted = fold_change(own, *_others(holdout, False), seed=0)
    return AnnData(X=predicted, obs=holdout.control.obs.copy(), var=holdout.control.var.copy())


#: Predictions without a network by name, in the order of the tables. "fold change" is for counts only.
BASELINES: Mapping[str, Method] = MappingProxyType(
    {
        "no change": _no_change,
        "mean of others": _mean_of_others,
        "mean shift": partial(_shifted, mean_shift),
        "shrunk shift": partial(_shifted, shrunk_shift),
        "PCA shift": partial(_shifted, pca_shift),
        "ridge": partial(_shifted, ridge_shift),
        "fold change": _fold_change,
    }
)


def baseline_predictions(
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable,
    layer: str | None = None,
    counts: bool = True,
) -> dict[str, np.ndarray]:
    """Predict a group's cells under a target condition with every baseline, from the other groups' change.

    The cells to be predicted (`group` under `target`) are never read, whether they are in `adata` or not.

    Parameters
    ----------
    adata
        Cells of several groups under the control and the target condition. May be a view; not changed.
    group_key, condition_key
        Columns of `adata.obs` with the group (cell type, donor ...) and the condition.
    group
        The group to predict. The others count where they have cells under both conditions.
    control, target
        The two conditions.
    layer
        The layer to read; `None` reads `X`.
    counts
        Whether the values are counts, to be log-normalised. `False` takes them as they are.

    Returns
    -------
    For every name in `BASELINES` an array of predicted cells with the genes of `adata`: log1p of counts per 10,000, or
    on the data's own scale with `counts=False`, without "fold change" then. All but "mean of others" have one row per
    control cell of the group, in its order.

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    ValueError
        If `control` and `target` are the same, the group has no control cells, no other group has both conditions, or
        the values are no counts.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> predicted = tv.benchmark.baseline_predictions(adata, **keys, group="type_1", target="stimulated")
    >>> list(predicted)
    ['no change', 'mean of others', 'mean shift', 'shrunk shift', 'PCA shift', 'ridge', 'fold change']
    """
    check_columns(adata[:0], group_key, condition_key)  # whether complete or not: no group is made of missing values
    check_two_conditions(control, target)
    own = rows_under(adata.obs, group_key, group, condition_key, control)
    # The held-out cells may stay: no baseline reads cells of the group but its control cells.
    cells = only_values(adata, layer)
    holdout = HoldOut(cells, cells[own], group_key, group, condition_key, control, target, counts)
    return {name: predicted_cells(method, holdout) for name, method in baselines_for(counts).items()}


def baselines_for(counts: bool) -> dict[str, Method]:
    """The baselines that take such values: all of them counts, "fold change" nothing else."""
    return {name: method for name, method in BASELINES.items() if counts or method is not _fold_change}


def expected_change(holdout: HoldOut) -> np.ndarray:
    """The other groups' mean change of every gene, each group with the same weight (`d`)."""
    return group_changes(*_others(holdout, holdout.counts)).mean(axis=0)


def predicted_cells(method: Method, holdout: HoldOut) -> np.ndarray:
    """Run a method and bring its prediction into the space in which it is compared.

    Parameters
    ----------
    method
        What predicts.
    holdout
        What it is given.

    Returns
    -------
    `n x d` predicted cells.

    Raises
    ------
    TypeError
        If the method gives neither an AnnData nor an array.
    ValueError
        If the prediction is no matrix of finite values, has other genes than the hold-out or, with counts, negative
        values.
    """
    return as_compared(method(holdout), holdout.control, counts=holdout.counts)


def as_compared(prediction: object, control: AnnData, *, counts: bool) -> np.ndarray:
    """Bring a prediction into the space in which it is compared; see :func:`predicted_cells` for what is raised."""
    if isinstance(prediction, AnnData):
        check_same_genes(control=control, prediction=prediction)
        return comparison_matrix(prediction, counts=counts, name="prediction")
    if not isinstance(prediction, np.ndarray):
        msg = f"Expected a prediction as AnnData or array, found {type(prediction).__name__}."
        raise TypeError(msg)
    cells = as_matrix(prediction, "prediction")
    if cells.shape[1] != control.n_vars:
        msg = f"Expected a prediction of {control.n_vars} genes, found {cells.shape[1]}."
        raise ValueError(msg)
    return cells


def _own(holdout: HoldOut) -> np.ndarray:
    return comparison_matrix(holdout.control, counts=holdout.counts, name="control")


def _others(holdout: HoldOut, log_normalize: bool) -> tuple[_Cells, _Cells]:
    """The other groups' control cells, and their target cells."""
    groups = other_groups(holdout)
    controls, targets = ({name: masks[side] for name, masks in groups.items()} for side in (0, 1))
    return _Cells(holdout.training, controls, log_normalize), _Cells(holdout.training, targets, log_normalize)


class _Cells(Mapping[Hashable, np.ndarray]):
    """The cells of each group as dense arrays, made when they are asked for: only one group is dense at a time."""

    def __init__(self, adata: AnnData, rows: Mapping[Hashable, np.ndarray], log_normalize: bool) -> None:
        self._adata, self._rows, self._log_normalize = adata, rows, log_normalize

    def __getitem__(self, group: Hashable) -> np.ndarray:
        return comparison_matrix(self._adata[self._rows[group]], counts=self._log_normalize)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
