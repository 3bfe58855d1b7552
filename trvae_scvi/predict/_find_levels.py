"""Levels of labels under conditions that they were not measured under: how far the network is believed there.

For cells of a label that was never measured under the target, the network says how the response depends on the cell's
state; the means of the other labels say how far labels respond alike at all, and how much of what a label is known for
will last (:mod:`~trvae_scvi._math._mixed_model`), and whether labels that are alike respond alike
(:mod:`~trvae_scvi._math._kriging`). The network and the last count for half each of what sets the label apart, the
network for less by one share in K, with K labels measured under the target: from a single one nothing can be learned.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse
from scvi.utils import track

from trvae_scvi._math._kriging import deviation_of_new_label
from trvae_scvi._math._mixed_model import GroupMeans, MixedModel, fit_mixed_model
from trvae_scvi._math._two_way import connected
from trvae_scvi.data._cells import AnnDataCells
from trvae_scvi.data._group_means import label_means, logarithms
from trvae_scvi.data._strata import cells_by_label, comparable, fit_into_memory

from ._learn_process import learn_process
from ._levels import Levels
from ._predictor import Predictor, resolved
from ._request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from trvae_scvi._math._likelihoods import Likelihood
    from trvae_scvi.data._model import Model
    from trvae_scvi.data._schema import Schema

__all__ = ["find_levels", "finding_levels"]

_MIN_CELLS = 10  # of a label, for its own mean to be worth anything
_CELLS = 8192, 128  # predicted to find a level: of few labels and conditions, and of many
_ALL_CELLS = 60_000  # predicted to find all levels, unless these are so many that the least for each is more
_MOST_LEVELS = 1000
_MOST_DRAWS = 32
_STEPS = 2
_SHORT = 20  # for a progress bar
_GAINS = 0.2, 1.5
_LARGEST_STEP = 1.0  # on a scale of logarithms
_OF_NETWORK = 0.5  # of what sets a label apart, the rest is left to labels that are like it
_SCALE = 0.5  # standard deviation of the prior of an offset, on that scale, too


class _Missing(NamedTuple):
    """A label, a condition to predict it from, and those it was not measured under."""

    label: int
    source: int
    targets: list[int]


@contextlib.contextmanager
def finding_levels(model: Model, *, has_cells: bool, progress_bar: bool) -> Iterator[None]:
    """Train inside the block, and learn from the model's cells afterwards if it has some, also if the user ended it.

    That is the levels, and how alike conditions are by their descriptions.
    """
    is_interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        is_interrupted = True
    if has_cells and model.is_trained_:
        model.levels_ = find_levels(model, progress_bar=progress_bar)
        model.process_ = learn_process(model)
    if is_interrupted:
        raise KeyboardInterrupt


def find_levels(model: Model, *, progress_bar: bool = True) -> dict[str, np.ndarray] | None:
    """The levels of all labels of a trained model's own cells that were not measured under some condition.

    Returns
    -------
    The arguments of :class:`~._levels.Levels`, plain values that can be saved; ``None`` if there are no labels, none is
    missing, or the network decodes something else than genes.
    """
    predictor = replace(Predictor.of(model), levels=None)
    schema, module = predictor.schema, predictor.module
    if schema.labels_key is None or module.options.network is not None:
        return None
    # a pass over the cells is made only where something is missing
    missing = list(_missing(cells_by_label(model.adata_manager, schema).T))
    if not missing:
        return None
    shape = len(schema.conditions), len(schema.labels)
    if not fit_into_memory(*shape, len(schema.var_names)):  # the prior said so already
        return None
    of_cells = comparable(model)[1]
    groups = label_means(model.adata_manager, module.likelihood, of_cells, shape)
    fit = fit_mixed_model(groups)
    n_cells = int(np.clip(_ALL_CELLS / sum(len(each.targets) for each in missing), _CELLS[1], _CELLS[0]))
    steps = track(missing, description="Labels not measured", disable=not progress_bar or len(missing) < _SHORT)
    levels = [_levels_of(each, model, predictor, fit, groups, n_cells) for each in steps]
    return {"triples": np.concatenate([_triples(each) for each in missing]), "offsets": np.concatenate(levels)}


def _missing(n: np.ndarray) -> Iterator[_Missing]:
    """What may be asked for; `n` are numbers of cells, conditions x labels.

    A condition may be what others are predicted from that labels connect with it: of the rest nothing is known of what
    they share. Where these are too many, those with the most cells, of which the control is one.
    """
    part = connected(n > 1)[0]
    asked = (n == 0) & (part >= 0)[:, None] & (n >= _MIN_CELLS).any(axis=0)
    n_sources = max(1, _MOST_LEVELS // max(1, int(asked.sum())))
    sources = np.sort(np.argsort(-np.where(part >= 0, n.sum(axis=1), -1), kind="stable")[:n_sources])
    for label in np.flatnonzero(asked.any(axis=0)):
        for source in sources[(n[sources, label] >= _MIN_CELLS) & (part[sources] >= 0)]:
            targets = np.flatnonzero(asked[:, label] & (part == part[source])).tolist()
            if targets:
                yield _Missing(int(label), int(source), targets)


def _triples(missing: _Missing) -> np.ndarray:
    return np.array([(missing.label, missing.source, target) for target in missing.targets])


def _levels_of(
    missing: _Missing, model: Model, predictor: Predictor, fit: MixedModel, groups: GroupMeans, n_cells: int
) -> np.ndarray:
    """Offsets with which a label's cells get the mean that is wanted under every target, `targets x g`."""
    schema = predictor.schema
    label, source, targets = missing
    rng = np.random.default_rng(0)
    adata = resolved(None, model.adata)
    cells = AnnDataCells(adata, _drawn(adata.obs, schema, missing, n_cells, rng), schema)
    method = "mean" if "counterfactual" in predictor.module.likelihood.refused else "counterfactual"
    # few cells are changed several times, so that what is found is not about one draw, where there are any
    n_draws = min(-(-n_cells // len(cells.obs)), _MOST_DRAWS) if predictor.module.likelihood.models_counts else 1
    request = Request(method=method, seed=0)
    offsets = np.zeros((len(targets), groups.mean.shape[-1]), dtype=np.float32)
    own, reached, slope = _measure(predictor, cells, targets, request, n_draws)
    error = np.maximum(groups.error[source, label], 1e-12)
    wanted = own + _wanted_change(missing, fit, groups, reached - own)
    # of values on any scale, in units of what cells differ by
    unit = (
        1.0 if predictor.module.likelihood.name != "mse" else float(np.sqrt(np.median(error * groups.n[source, label])))
    )
    spread, largest = _SCALE * unit, _LARGEST_STEP * unit
    gain, best, least = np.ones((len(targets), 1)), offsets, np.full(len(targets), np.inf)
    for turn in range(_STEPS + 1):
        misfit = ((wanted - reached) ** 2 / error + offsets**2 / spread**2).sum(axis=1)
        best = np.where((misfit < least)[:, None], offsets, best)
        least = np.minimum(misfit, least)
        if turn == _STEPS:
            break
        # the posterior mode, as a mean of few cells or counts is no reason to move a gene far
        precision = (gain * slope) ** 2 / error + 1.0 / spread**2
        step = (gain * slope * (wanted - reached) / error - offsets / spread**2) / precision
        step = np.clip(step, -largest, largest).astype(np.float32)
        offsets = offsets + step
        before, expected = reached, step * slope
        levels = replace(predictor, levels=Levels(_triples(missing), offsets))
        _, reached, slope = _measure(levels, cells, targets, request, n_draws)
        if turn == 0:
            # the slope is that of counts; extra zeros, for one, let means grow by less. Later steps are no larger than
            # what one draw differs from another
            found = ((reached - before) * expected).sum(axis=1) / np.maximum((expected**2).sum(axis=1), 1e-12)
            gain = np.clip(found, *_GAINS)[:, None]
    return best


def _wanted_change(missing: _Missing, fit: MixedModel, groups: GroupMeans, of_network: np.ndarray) -> np.ndarray:
    """What the label's mean is to change by under every target, `targets x g`; `of_network` is what it changes by."""
    label, source, targets = missing
    lasting = fit.baseline[label] + fit.effect[source] - groups.mean[source, label]
    shared = fit.effect[targets] - fit.effect[source]
    share = 1.0 / np.maximum(fit.n_labels[targets], 1.0)[:, None]
    apart = (1.0 - share) * (of_network - shared)
    for row, target in enumerate(targets):
        known = np.flatnonzero((groups.n[source] > 1) & (groups.n[target] > 1))
        if len(known) > 1:  # else labels tell nothing
            deviation = _deviation(label, source, target, known, fit, groups)
            apart[row] = _OF_NETWORK * apart[row] + (1.0 - _OF_NETWORK) * deviation
    return lasting + shared + apart


def _deviation(
    label: int, source: int, target: int, known: np.ndarray, fit: MixedModel, groups: GroupMeans
) -> np.ndarray:
    """What labels known under both tell of what the target does to this one only, `g`."""
    return deviation_of_new_label(
        groups.mean[target, known] - groups.mean[source, known],
        groups.error[target, known] + groups.error[source, known],
        fit.effect[target] - fit.effect[source],
        fit.between[target] + fit.between[source],
        groups.mean[source, [*known, label]],
    )


def _drawn(obs: pd.DataFrame, schema: Schema, missing: _Missing, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of cells of the label under its source, all or some."""
    of_label = (obs[schema.labels_key] == schema.labels[missing.label]).to_numpy()
    rows = np.flatnonzero(of_label & (obs[schema.condition_key] == schema.conditions[missing.source]).to_numpy())
    return np.sort(rng.permutation(rows)[:n_cells])


def _measure(
    predictor: Predictor, cells: AnnDataCells, targets: list[int], request: Request, n_draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of the cells and of what is predicted of them, and by how much these grow with the decoder's output."""
    likelihood = predictor.module.likelihood
    own: np.ndarray = np.zeros(cells.expression.shape[1])
    reached, slope = ({target: np.zeros(len(own)) for target in targets} for _ in range(2))
    n = cells.expression.shape[0]
    for x, drawn in predictor.draws(cells, {target: target for target in targets}, request, range(n_draws)):
        own = own + _sums(x, likelihood)[0]
        for target, predicted in drawn:
            sums, growth = _sums(predicted, likelihood)
            reached[target] += sums
            slope[target] += growth
    means = [np.stack(list(sums.values())) / (n * n_draws) for sums in (reached, slope)]
    return own / n, means[0], means[1]


def _sums(x: Any, likelihood: Likelihood) -> tuple[np.ndarray, np.ndarray]:
    """Sums over cells of the values on the scale of changes, and of their growth with the decoder's output."""
    if not likelihood.models_counts:
        x = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)
        growth = x * (1.0 - x) if likelihood.name == "bernoulli" else np.ones_like(x)
        return x.sum(axis=0), growth.sum(axis=0)
    x = sparse.csr_matrix(x, dtype=np.float64)
    values = logarithms(x)
    growth = values.copy()
    per_count = np.expm1(values.data) / np.maximum(x.data, 1e-12)
    # what one count less would take away, for every count there is
    growth.data = x.data * (values.data - np.log1p(np.maximum(np.expm1(values.data) - per_count, 0.0)))
    return np.asarray(values.sum(axis=0)).ravel(), np.asarray(growth.sum(axis=0)).ravel()
