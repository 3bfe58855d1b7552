"""What is learned of conditions before the network is trained: how strongly each acts on every gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from trvae_scvi._math._mixed_model import fit_mixed_model
from trvae_scvi.data._group_means import are_too_many, output_means, shares_beyond_cell_types
from trvae_scvi.data._schema import Schema

if TYPE_CHECKING:
    from trvae_scvi.data._model import Model

__all__ = ["count_cells", "learn_prior"]

_SCALES = (1e-4, 10.0)  # of the prior's standard deviations, which single precision must be able to square


def count_cells(model: Model) -> None:
    """Tell the network how many cells of each condition there are, over which the conditions' priors are spread."""
    codes = np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
    n_cells = model.module.n_cells
    n_cells.copy_(torch.as_tensor(np.bincount(codes, minlength=len(n_cells))))


@torch.no_grad()
def learn_prior(model: Model) -> None:
    """Give the conditions' offsets the prior that the means of the conditions speak for.

    The prior of :mod:`~trvae_scvi._math._mixed_model` has one scale for every condition and gene: near 0 where the
    means of a condition differ from the others' as they would by chance. Labels are compared with themselves, so that
    other shares of cell types are not taken for an effect, and the offsets start at the posterior means. Without labels
    they start at the share of these that other shares of cell types would not explain. Networks that decode something
    else than genes have no such prior.
    """
    module, schema = model.module, Schema.of(model.registry_)
    layers = module.decoder.condition_layers()
    if not layers or module.options.network is not None:
        return
    n_conditions, n_labels = len(schema.conditions), len(schema.labels)
    too_many = are_too_many(n_conditions, n_labels, len(schema.var_names))
    shape = n_conditions, 1 if too_many else n_labels
    found = fit_mixed_model(output_means(model.adata_manager, module.likelihood, shape), labels_differ=False)
    scale = torch.as_tensor(np.clip(np.sqrt(found.prior_variance), *_SCALES))
    for layer in layers:
        layer.offset.set_prior(scale)
    start = found.effect
    if schema.labels_key is None:
        start = start * shares_beyond_cell_types(model.adata_manager, module.likelihood, n_conditions)[:, None]
    layers[0].offset.weight.copy_(torch.as_tensor(start))
