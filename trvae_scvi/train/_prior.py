"""What is learned of conditions before the network is trained: how strongly each acts on every gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from trvae_scvi._math._offset_prior import OffsetPrior, fit_offset_prior
from trvae_scvi.data._group_means import output_rates, shares_beyond_cell_types
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._strata import codes_of, comparable, together

if TYPE_CHECKING:
    from trvae_scvi.data._model import Model

__all__ = ["count_cells", "learn_prior"]


def count_cells(model: Model) -> None:
    """Tell the network how many cells of each condition there are, over which the conditions' priors are spread."""
    codes = codes_of(model.adata_manager, REGISTRY_KEYS.BATCH_KEY)
    n_cells = model.module.n_cells
    n_cells.copy_(torch.as_tensor(np.bincount(codes, minlength=len(n_cells))))


@torch.no_grad()
def learn_prior(model: Model) -> None:
    """Give the conditions' offsets the prior that the means of the conditions speak for.

    The prior of :mod:`~trvae_scvi._math._offset_prior` has one scale for every condition and gene: near 0 where the
    means of a condition differ from the others' as they would by chance. Labels are compared with themselves, and so
    are categories of covariates where the design allows, so that other shares of them are not taken for an effect. The
    offsets start at the posterior means; without labels at the share of these that other shares of cell types would not
    explain. Networks that decode something else than genes have no such prior.
    """
    module, schema = model.module, Schema.of(model.registry_)
    layers = module.decoder.condition_layers()
    if not layers or module.options.network is not None:
        return
    labels, taken = comparable(model)
    n_conditions = len(schema.conditions)
    found = _fitted(model, together(labels, taken), n_conditions)
    alone = found.part != np.argmax(np.bincount(found.part[found.part >= 0], minlength=1))
    if taken.any() and alone.any():
        # conditions that have no covariate in common with the others are compared whatever they have
        among_labels = _fitted(model, labels, n_conditions)
        found.effect[alone], found.scale[alone] = among_labels.effect[alone], among_labels.scale[alone]
    for layer in layers:
        layer.offset.set_prior(torch.as_tensor(found.scale))
    start = found.effect
    if schema.labels_key is None:
        start = start * shares_beyond_cell_types(model.adata_manager, module.likelihood, n_conditions)[:, None]
    layers[0].offset.weight.copy_(torch.as_tensor(start))
    if module.likelihood.models_counts and module.use_size_factor_key:
        # multiples of size factors may be any number, which steps of the optimiser would not reach
        layers[0].shared.bias.copy_(torch.as_tensor(found.level))


def _fitted(model: Model, strata: np.ndarray, n_conditions: int) -> OffsetPrior:
    shape = n_conditions, int(strata.max()) + 1
    return fit_offset_prior(output_rates(model.adata_manager, model.module.likelihood, strata, shape))
