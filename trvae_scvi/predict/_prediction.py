"""A prediction as an AnnData: its values from the predictor, in memory or on disk, and what it is described by."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from trvae_scvi._arguments import plain_list

from ._annotation import check_writable, fingerprint, free_source_key, predicted_obs, target_measured
from ._predictor import with_progress
from ._store import DiskStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from scipy import sparse

    from trvae_scvi.data._cells import Cells

    from ._predictor import Predictor
    from ._request import Request

__all__ = ["predict_cells"]


def predict_cells(
    predictor: Predictor,
    cells: Cells,
    targets: dict[Any, int],
    request: Request,
    *,
    streams: Mapping[Any, int] | None = None,
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> AnnData:
    """Predict all cells under every target.

    Parameters
    ----------
    predictor, cells, request
        What predicts, from what and how.
    targets
        Codes of the targets in the predictor's module.
    streams
        Numbers of the streams of random draws, by target; the codes by default.
    out
        File to write to, as :func:`~._store.check_out` gave it.
    notes
        What is to be in ``uns["trvae"]`` besides.
    """
    predictor.check(request, cells)
    # a file is written in the order of its rows
    passes = [targets] if out is None else [{name: code} for name, code in targets.items()]
    if len(passes) > 1 and not cells.repeatable:
        msg = (
            f"Expected a `dataloader` that can be iterated over {len(passes)} times, once for every target, for "
            "`out`; found an iterator. Pass the loader itself, or one target."
        )
        raise ValueError(msg)
    obs: dict[Any, pd.DataFrame] = {}

    def steps() -> Iterator[Mapping[Any, np.ndarray | sparse.csr_matrix]]:
        for some in passes:
            for _, predicted in predictor.blocks(cells, some, request, streams):
                yield predicted
            obs.update(dict.fromkeys(some, cells.obs))

    n_steps = None if cells.n_batches is None else cells.n_batches * len(passes)
    with _store(predictor, cells, list(targets), request, out) as store:
        for predicted in with_progress(steps(), n_steps):
            for name, block in predicted.items():
                store.append(name, block)
        annotation = _annotation(predictor, obs, cells, request)
        annotation.uns["trvae"] |= notes or {}
        return store.finish(annotation)


def _store(
    predictor: Predictor, cells: Cells, targets: list[Any], request: Request, out: Path | None
) -> MemoryStore | DiskStore:
    layer = predictor.schema.layer
    if out is None:
        return MemoryStore(layer)
    known = cells.obs
    check_writable(known)
    annotation = _annotation(predictor, dict.fromkeys(targets, known), cells, request)
    n_entries = None if known.empty else annotation.n_obs * annotation.n_vars
    return DiskStore(out, layer, annotation, n_entries)


def _annotation(predictor: Predictor, obs: Mapping[Any, pd.DataFrame], cells: Cells, request: Request) -> AnnData:
    """All of a prediction but its values, from the cells' own columns for every target."""
    schema, likelihood = predictor.schema, predictor.module.likelihood
    covariates = request.own_covariates
    source_key = free_source_key(schema, next(iter(obs.values())).columns, cells.earlier_source_key)
    prediction = AnnData(obs=predicted_obs(obs, schema, source_key, covariates), var=cells.var.copy())
    measured = [target_measured(own, schema, name, predictor.measured) for name, own in obs.items()]
    sources = pd.unique(pd.concat([own[schema.condition_key] for own in obs.values()]))
    weights = dict(predictor.module.state_dict())
    if predictor.levels is not None:
        weights["levels"] = torch.as_tensor(predictor.levels.offsets)
    prediction.uns["trvae"] = {
        "method": request.method,
        "scale": likelihood.scale_of(request.method),
        "source": np.array([str(name) for name in sources]),
        "source_key": source_key,
        "target": np.array([str(name) for name in obs]),
        "target_measured": np.array(measured),
        "n_drawn_to_other_labels": np.array([predictor.n_drawn(own, name) for name, own in obs.items()]),
        "library_size": "own" if request.library_size is None else float(request.library_size),
        "covariates": dict(zip(covariates, plain_list(covariates.values()), strict=True)),
        "seed": "none" if request.seed is None else int(request.seed),
        "batch_size": "of the dataloader" if cells.batch_size is None else cells.batch_size,
        "device": str(next(iter(weights.values())).device),
        "model": fingerprint(weights, schema.conditions, schema.var_names, [likelihood.name]),
        "version": version("trvae-scvi"),
    }
    return prediction
