"""From checked cells to what a trained network makes of them under targets, a minibatch at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track
from torch import nn

from trvae_scvi._compat import MODULE_KEYS, generative_input, inference_input
from trvae_scvi.data._cells import AnnDataCells, Cells
from trvae_scvi.data._loader_cells import LoaderCells
from trvae_scvi.data._schema import Schema
from trvae_scvi.module._trvae_module import means_only

from ._levels import Levels
from ._own_cells import fingerprints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from anndata import AnnData
    from scipy import sparse

    from trvae_scvi._math._likelihoods import Decoded
    from trvae_scvi.data._model import Model
    from trvae_scvi.module import TRVAEModule

    from ._request import Request

__all__ = ["NOT_TRAINED", "Predictor", "resolved", "with_progress"]

NOT_TRAINED = "The model is not trained: call `model.train()` before asking it for predictions."
_SHORT = 10  # minibatches; fewer need no progress bar
_Step = TypeVar("_Step")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network and what its predictions depend on besides.

    Attributes
    ----------
    module
        The network.
    schema
        What was registered of its cells.
    adata
        The model's own cells, which are taken where none are named.
    nonnegative
        Whether the data know no value below 0.
    measured
        Labels x conditions, whether there were training cells; ``None`` if that is not known.
    decoding
        What cells are decoded with instead, see :meth:`combining`.
    levels
        Of labels under conditions that they were not measured under; ``None`` if there are none.
    shifts, own_shifts
        What is added to the decoder's output under a condition, by its code, `1 x g`, see :meth:`describing`; and what
        instead for cells that the model has learned from.
    own
        Fingerprints of these.
    """

    module: TRVAEModule
    schema: Schema
    adata: AnnData | None
    nonnegative: bool
    measured: np.ndarray | None
    decoding: TRVAEModule | None = None
    levels: Levels | None = None
    shifts: Mapping[int, np.ndarray] = field(default_factory=dict)
    own_shifts: Mapping[int, np.ndarray] = field(default_factory=dict)
    own: np.ndarray | None = None

    @classmethod
    def of(cls, model: Model) -> Predictor:
        """That of a model; a RuntimeError if it is not trained."""
        if not model.is_trained_:
            raise RuntimeError(NOT_TRAINED)
        levels = None if model.levels_ is None else Levels(**model.levels_)
        known = model.adata, model.nonnegative_, model.measured_
        return cls(model.module, Schema.of(model.registry_), *known, levels=levels)

    def cells(
        self,
        adata: AnnData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        source: str | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, Any]] | None = None,
    ) -> Cells:
        """Check the caller's cells, or take the caller's own loader, which excludes all other choices."""
        likelihood = self.module.likelihood
        choices: dict[str, Any] = {"indices": indices, "source": source, "batch_size": batch_size}
        if dataloader is None:
            return AnnDataCells.checked(resolved(adata, self.adata), self.schema, likelihood, **choices)
        given = [name for name, value in {"adata": adata, **choices}.items() if value is not None]
        if given:
            msg = f"Expected `dataloader` without {given}: the loader decides about cells and minibatches."
            raise ValueError(msg)
        return LoaderCells(dataloader, self.schema, likelihood)

    def check(self, request: Request, cells: Cells) -> None:
        """Raise for what cannot be asked of these cells."""
        request.check(self.module.likelihood, cells.minify_type)
        request.changed_inputs(self.schema)

    def blocks(
        self, cells: Cells, targets: Mapping[Any, int], request: Request, streams: Mapping[Any, int] | None = None
    ) -> Iterator[tuple[np.ndarray, dict[Any, np.ndarray | sparse.csr_matrix]]]:
        """Predict cells under targets.

        Parameters
        ----------
        cells
            Where minibatches come from.
        targets
            Codes of the conditions to decode with, by name.
        request
            How to predict, after :meth:`check`.
        streams
            Numbers of the streams of random draws, by target; the codes by default.

        Yields
        ------
        A minibatch's own values, `n x g`, and the predicted ones for every target.
        """
        for x, drawn in self.draws(cells, targets, request, [request.seed], streams):
            yield x, dict(drawn)

    def draws(
        self,
        cells: Cells,
        targets: Mapping[Any, int],
        request: Request,
        seeds: Sequence[int | None],
        streams: Mapping[Any, int] | None = None,
    ) -> Iterator[tuple[np.ndarray, Iterator[tuple[Any, np.ndarray | sparse.csr_matrix]]]]:
        """Predict cells under targets with several seeds, decoding them once; the others are as for :meth:`blocks`.

        Yields
        ------
        A minibatch's own values, `n x g`, and an iterator over targets and seeds, to be used up before the next
        minibatch: the target's name and the predicted values.
        """
        changed = request.changed_inputs(self.schema)
        # a generator for each target: a target is predicted alike, alone or among others
        numbers = targets if streams is None else streams
        rngs = {
            name: [np.random.default_rng(None if seed is None else [seed, numbers[name]]) for seed in seeds]
            for name in targets
        }
        for tensors in cells:
            x = tensors[REGISTRY_KEYS.X_KEY].cpu().numpy()
            given = self._posterior_means(tensors)
            asked = {
                key: changed[key](own) if key in changed and own is not None else own for key, own in given.items()
            }
            source = self._decode(given, None) if request.method == "counterfactual" else None
            sources = tensors[REGISTRY_KEYS.BATCH_KEY].cpu().numpy().ravel()
            decoded = self._decoded_under(targets, asked, x, sources, self._labels_of(cells.latest))
            yield x, self._drawn(x, source, decoded, request.method, rngs)

    def _decoded_under(
        self,
        targets: Mapping[Any, int],
        asked: dict[str, torch.Tensor | None],
        x: np.ndarray,
        sources: np.ndarray,
        labels: np.ndarray | None,
    ) -> Iterator[tuple[Any, Decoded]]:
        """A minibatch decoded under one target after the other."""
        is_own = None if self.own is None else np.isin(fingerprints(x), self.own)[:, None]
        for name, code in targets.items():
            shift = self.shifts.get(code)
            if shift is not None and is_own is not None:
                shift = np.where(is_own, self.own_shifts[code], shift)
            if shift is None and self.levels is not None and labels is not None:
                shift = self.levels.of(labels, sources, code)
            yield name, self._decode(asked, code, shift)

    def _drawn(
        self,
        x: np.ndarray,
        source: Decoded | None,
        decoded: Iterator[tuple[Any, Decoded]],
        method: str,
        rngs: Mapping[Any, Sequence[np.random.Generator]],
    ) -> Iterator[tuple[Any, np.ndarray | sparse.csr_matrix]]:
        """What is predicted of a minibatch from what was decoded of it, once for each generator of a target."""
        likelihood = self.module.likelihood
        for name, of_target in decoded:
            for rng in rngs[name]:
                if source is not None:
                    yield name, likelihood.counterfactual(x, source, of_target, rng, nonnegative=self.nonnegative)
                elif method == "mean":
                    yield name, likelihood.mean(of_target)
                else:
                    yield name, likelihood.sample(of_target, rng)

    def decoded(self, cells: Cells) -> Iterator[tuple[np.ndarray, Decoded]]:
        """Values of a minibatch, `n x g`, and what the network decodes for it under its own conditions."""
        for tensors in cells:
            yield tensors[REGISTRY_KEYS.X_KEY].cpu().numpy(), self._decode(self._posterior_means(tensors), None)

    @torch.inference_mode()
    def first_layer(self, cells: Cells) -> np.ndarray:
        """Activations of the decoder's first layer for cells under their own conditions, `n x d`."""
        outputs = (self.module.generative(**self._posterior_means(tensors)) for tensors in cells)
        return np.concatenate([output["first_layer"].cpu().numpy() for output in outputs])

    @torch.inference_mode()
    def _posterior_means(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        """What the decoder takes of a minibatch, with the posterior means as latent variables."""
        with means_only():
            outputs = self.module.inference(**inference_input(self.module, tensors))
        outputs[MODULE_KEYS.Z_KEY] = outputs[MODULE_KEYS.QZ_KEY].loc
        return generative_input(self.module, tensors, outputs)

    def n_drawn(self, obs: pd.DataFrame, target: Any) -> int:
        """Of how many cells, by their columns, levels decide the prediction under a target."""
        labels, conditions = self._labels_of(obs), pd.Index(self.schema.conditions)
        if self.levels is None or labels is None or target not in conditions:
            return 0
        sources = conditions.get_indexer(obs[self.schema.condition_key])
        return int((self.levels.rows(labels, sources, int(conditions.get_loc(target))) >= 0).sum())

    def _labels_of(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Codes of the labels of a minibatch, -1 for those that are not known; ``None`` if no level depends on them."""
        key = self.schema.labels_key
        if self.levels is None or key not in obs:
            return None
        return pd.Index(self.schema.labels).get_indexer(obs[key])

    @torch.inference_mode()
    def _decode(
        self, given: dict[str, torch.Tensor | None], code: int | None, shift: np.ndarray | None = None
    ) -> Decoded:
        decoding = self.module if self.decoding is None else self.decoding
        moved = None if shift is None else torch.as_tensor(shift, device=next(decoding.parameters()).device)
        outputs = decoding.generative(**given, transform_batch=code, shift=moved)
        return self.module.likelihood.decoded(outputs[MODULE_KEYS.PX_KEY], outputs["theta"])

    def describing(
        self,
        weights: np.ndarray,
        control: int,
        shifts: np.ndarray,
        of_own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Predictor:
        """As :meth:`combining`, the first with given shifts of the output in place of sums of the conditions' offsets.

        Parameters
        ----------
        weights
            Of the conditions there are, `t x s`.
        control
            Code of the condition that shifts are against.
        shifts
            Of the first targets, `at most t x g`, with size factors of the logarithm of the mean.
        of_own
            Other shifts for cells that the model has learned from, and fingerprints of these.
        """
        of_offsets = weights.copy()
        of_offsets[: len(shifts)] = np.eye(weights.shape[1])[control]
        first = len(self.schema.conditions)
        others, own = (shifts[:0], None) if of_own is None else of_own
        by_code, own_by_code = (
            {first + i: row[None] for i, row in enumerate(rows.astype(np.float32))} for rows in (shifts, others)
        )
        return replace(self.combining(weights, of_offsets), shifts=by_code, own_shifts=own_by_code, own=own)

    def combining(self, weights: np.ndarray, of_offsets: np.ndarray | None = None) -> Predictor:
        """The same with further conditions to decode with, weighted sums of those there are.

        Parameters
        ----------
        weights
            Of the conditions there are, `t x s`.
        of_offsets
            Those of their offsets, if they differ.
        """
        module = self.module
        shared = [module.options, *module.parameters()]
        extended = copy.deepcopy(module, {id(part): part for part in shared})
        offsets = [layer.offset for layer in extended.decoder.condition_layers()[:1]]
        for table in extended.condition_tables():
            rows = table.rows
            asked = of_offsets if of_offsets is not None and any(table is offset for offset in offsets) else weights
            own = torch.as_tensor(asked, dtype=rows.dtype, device=rows.device)
            combined = torch.tensordot(own, rows, dims=1)
            table.new = nn.Parameter(combined if table.new is None else torch.cat([table.new.detach(), combined]))
        return replace(self, decoding=extended)


def with_progress(steps: Iterable[_Step], n_steps: int | None) -> Iterable[_Step]:
    """Show a progress bar, unless there are few steps."""
    return track(steps, description="Predicting", disable=n_steps is not None and n_steps < _SHORT, total=n_steps)


def resolved(adata: AnnData | None, own: AnnData | None) -> AnnData:
    """The caller's cells, or the model's own where none are given; a ValueError if it has none."""
    if adata is not None:
        return adata
    if own is None:
        msg = "The model was loaded without data. Pass the cells to predict from as `adata`."
        raise ValueError(msg)
    return own
