"""What is learned, after training, of how alike conditions are by their descriptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trvae_scvi._math._condition_process import ConditionProcess, Effects, fit_condition_process
from trvae_scvi._math._mixed_model import fit_mixed_model
from trvae_scvi._math._two_way import connected
from trvae_scvi.data._cells import AnnDataCells
from trvae_scvi.data._condition_features import ConditionFeatures
from trvae_scvi.data._group_means import label_means, one_count
from trvae_scvi.data._strata import comparable, fit_into_memory

from ._curves import response_curves
from ._own_cells import fingerprints_of
from ._predictor import Predictor, resolved

if TYPE_CHECKING:
    from trvae_scvi._math._mixed_model import GroupMeans
    from trvae_scvi.data._model import Model

__all__ = ["LearnedProcess", "learn_process"]

_CELLS = 500  # of the control, to see how means grow
_LEAST_COUNTS = 3.0  # of a gene under a condition, for it to tell how alike conditions are


@dataclass(frozen=True, eq=False)
class LearnedProcess:
    """What :func:`learn_process` stores of a model.

    Attributes
    ----------
    process
        How alike conditions are.
    codes, control
        Codes of its conditions, and of the control.
    curves, shares
        What :func:`~._curves.shifts_for` takes.
    cells
        Fingerprints of the control cells that changes are against.
    """

    process: ConditionProcess
    codes: np.ndarray
    control: int
    curves: np.ndarray | None
    shares: np.ndarray | None
    cells: np.ndarray

    @classmethod
    def of(cls, model: Model) -> LearnedProcess | None:
        """That of a model; ``None`` if it has learned none."""
        if model.process_ is None:
            return None
        plain = dict(model.process_)
        own = {name: plain.pop(name) for name in ("codes", "control", "curves", "shares", "cells")}
        return cls(ConditionProcess(**plain), **own)


def learn_process(model: Model) -> dict[str, Any] | None:
    """Learn how far the changes of means follow from descriptions, if a model was given some.

    Changes are those of the linear mixed model (:mod:`~trvae_scvi._math._mixed_model`), before they are drawn to 0: how
    alike conditions are is told from estimates without a bias whose noise is known.

    Returns
    -------
    Plain values that can be saved, of which :class:`LearnedProcess` is made. ``None`` without descriptions, or where
    nothing can be compared with the control.
    """
    if model.features_ is None:
        return None
    predictor = Predictor.of(model)
    schema, likelihood = predictor.schema, predictor.module.likelihood
    shape = len(schema.conditions), max(len(schema.labels), 1)
    if not fit_into_memory(*shape, len(schema.var_names)):
        return None
    features = ConditionFeatures(**model.features_).of_conditions(list(schema.conditions))
    control = int(np.flatnonzero(~features.any(axis=1))[0])
    groups = label_means(model.adata_manager, likelihood, comparable(model)[1], shape)
    part = connected(groups.n > 1)[0]
    codes = np.flatnonzero((part == part[control]) & (part >= 0))
    codes = codes[codes != control]
    if not len(codes):
        return None
    fit = fit_mixed_model(groups)
    least = _LEAST_COUNTS * one_count(model.adata_manager) if likelihood.models_counts else -np.inf
    effects = Effects(
        fit.estimate[codes] - fit.estimate[control],
        fit.noise[codes],
        fit.noise[control],
        _totals(groups)[codes].mean(axis=0) >= least,
    )
    process = fit_condition_process(features[codes], effects)
    adata = resolved(None, model.adata)
    rows = np.flatnonzero((adata.obs[schema.condition_key] == schema.conditions[control]).to_numpy())
    some = np.sort(np.random.default_rng(0).permutation(rows)[:_CELLS])
    curves = response_curves(predictor, AnnDataCells(adata, some, schema))
    cells = fingerprints_of(AnnDataCells(adata, rows, schema))
    return {"codes": codes, "control": control, "cells": cells, **curves, **vars(process)}


def _totals(groups: GroupMeans) -> np.ndarray:
    """Sums over the cells of every condition, `s x g`."""
    return (groups.n[..., None] * groups.mean).sum(axis=1)
