"""Answers: counterfactual cells, also under combinations of conditions, and the regularised layer. A mixin."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.utils import track

from trvae_scvi._arguments import plain_list
from trvae_scvi._compat import (
    registered_categories,
    registered_continuous_covariates,
    registered_covariates,
    registered_var_names,
)

from ._annotation import check_writable, fingerprint, free_source_key, predicted_obs, target_measured
from ._decoding import METHODS, DecodingMixin, Options
from ._store import DiskStore, MemoryStore, check_out

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from trvae_scvi.data._minibatches import CellMinibatches, LoaderMinibatches
    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["METHODS", "PredictionMixin"]

_SCALES = {"counterfactual": "counts", "sample": "counts", "mean": "expected counts"}
_SHORT = 10  # minibatches; fewer need no progress bar


class PredictionMixin(DecodingMixin):
    """Predictions of :class:`~trvae_scvi.TRVAE`."""

    if TYPE_CHECKING:
        measured_: np.ndarray | None
        device: torch.device

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        *,
        target: str | Sequence[str],
        source: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        method: Literal["counterfactual", "mean", "sample"] = "counterfactual",
        library_size: float | None = None,
        covariates: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = 0,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> AnnData:
        r"""What these cells would look like under another condition.

        Cells are encoded with the condition they were measured under (posterior mean) and decoded with
        the target (Lotfollahi et al. 2020). The three methods differ in what is made of the decoded
        distribution.

        Parameters
        ----------
        adata
            Cells to start from, with the genes the model was trained on; a view will do. Neither it nor
            its data are changed. ``None`` takes the AnnData the model was made with. Of one whose values are on disk
            (opened with ``backed="r"``, or made with :func:`anndata.io.sparse_dataset`), a view of one included, no
            more than a minibatch is read at a time, after one pass in pieces that checks the values.
        target
            Condition to predict, a list of different conditions, or ``"all"``.
        source
            Use only the cells of this condition. ``None`` uses all, each with its own condition.
        indices
            Cells of `adata` to use: positions or a boolean mask.
        method
            One of the following:

            * ``"counterfactual"`` - change of every cell's own counts: what the model does not explain
              of a cell is kept, and counts are thinned or added by what the condition changes. For fixed
              means it is distributed as the decoded likelihood. With ``gene_likelihood="mse"`` the
              difference of the decoded means is added.
            * ``"mean"`` - the decoder's mean, as published. It has none of the variance of real cells.
            * ``"sample"`` - a draw from the decoded likelihood. Not for ``gene_likelihood="mse"``.
        library_size
            Total counts (size factor, if one was registered) of the predicted cells. ``None`` keeps
            every cell's own.
        covariates
            Values of registered covariates to predict with, by column, e.g. ``{"donor": "a"}``. The others keep every
            cell's own; cells are always encoded with their own.
        batch_size
            Cells decoded at once. Defaults to ``scvi.settings.batch_size``.
        seed
            Seed of the draws; ``None`` for fresh ones. Another seed is another draw. Equal results need
            equal `batch_size`, too.
        dataloader
            Minibatches to predict from, instead of `adata`, `source`, `indices` and `batch_size`, as scvi-tools' data
            modules yield them: dictionaries of tensors by :data:`scvi.REGISTRY_KEYS` with the expression (dense or
            sparse), the codes of the conditions and all that was registered; labels may be left out. With several
            targets and `out` it is iterated over once for every target, so that an iterator will not do.
        out
            File to write the prediction to, ending in ``.h5ad`` or ``.zarr``, for predictions that do not fit into
            memory; no more than a few minibatches are held. It appears under this name when it is complete. Cells are
            encoded once for every target.

        Returns
        -------
        AnnData with one row for every cell and target, target by target. With `out`, its values stay on disk: it is
        backed by an h5ad file (:func:`anndata.read_h5ad`), or holds on-disk arrays of the zarr store;
        :meth:`~anndata.AnnData.to_memory` loads it, or the rows that were selected from it.

        ``X`` (and the registered layer)
            Integer counts as a sparse matrix for ``"counterfactual"`` and ``"sample"``, expected counts
            for ``"mean"``; the scale of the input for ``gene_likelihood="mse"``.
        ``obs``
            That of the cells, with the target in the condition column and the condition they were
            measured under in ``"<condition_key>_source"`` (with a number behind it where the cells have such a column
            of their own). Names end in ``-<target>``. Of the cells of a
            `dataloader` it has condition, labels and covariates, by name; they are numbered from 0.
        ``uns["trvae"]``
            What decides the numbers: `method`, `library_size`, `covariates`, `seed`, `batch_size`, `device`, a
            fingerprint of the `model` and the `version` of the package; and what they are: their `scale`, `source` and
            `target` conditions, the `source_key`, and in `target_measured`, for every target, whether the cells' labels
            were measured under it in training (``"yes"``, ``"no"``, ``"some"`` of them, or ``"unknown"``).

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If the column of the condition or of a covariate, the layer, or a key of a minibatch is not there.
        TypeError
            If an argument, or what `dataloader` yields, has the wrong type, or a column has no text as its name, which
            no file takes as `out`.
        ValueError
            For an unknown target, source or covariate, a target that is there twice, no cell of the source, other genes
            than in training, cells without counts, a method that the likelihood or minified data cannot serve,
            `dataloader` beside what it replaces, codes that were not registered, or another suffix of `out`.
        FileExistsError
            If there is a file of the name `out`, or an unfinished one; nothing is written over.
        FileNotFoundError
            If the folder of `out` is missing.

        Examples
        --------
        >>> prediction = model.predict_perturbation(adata, source="control", target="stimulated", method="mean")
        >>> prediction.obs.columns.tolist()
        ['condition', 'condition_source', 'cell_type']
        >>> prediction.uns["trvae"]["scale"]
        'expected counts'

        Atlases stay on disk:

        >>> atlas = anndata.read_h5ad("atlas.h5ad", backed="r")  # doctest: +SKIP
        >>> prediction = model.predict_perturbation(
        ...     atlas, target="all", out="prediction.h5ad", batch_size=1024
        ... )  # doctest: +SKIP
        """
        path = None if out is None else check_out(out)
        targets = self._target_codes(target)
        options = Options(method, library_size, {} if covariates is None else covariates, seed)
        minibatches = self._minibatches_of(adata, indices, source, batch_size, dataloader)
        return self._predict(minibatches, targets, self.module, options, out=path)

    @torch.inference_mode()
    def get_mmd_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
    ) -> np.ndarray:
        """Activations `y` of the decoder's first layer, where trVAE's penalty acts.

        Each cell is decoded with its own condition at its posterior mean.

        Parameters
        ----------
        adata, indices, batch_size, dataloader
            As in :meth:`predict_perturbation`.

        Returns
        -------
        Array of shape ``(n_obs, n)``, `n` the width of the decoder's first layer, the last of `n_hidden`.

        Raises
        ------
        RuntimeError, KeyError, TypeError, ValueError
            As :meth:`predict_perturbation`.

        Examples
        --------
        >>> model.get_mmd_representation(control).shape
        (300, 128)
        """
        activations = []
        for tensors in self._minibatches_of(adata, indices, None, batch_size, dataloader):
            generative_input = self._posterior_mean_input(tensors)
            activations.append(self.module.generative(**generative_input)["first_layer"].cpu().numpy())
        return np.concatenate(activations)

    def _target_codes(self, target: str | Sequence[str]) -> dict[str, int]:
        known = list(self._conditions)
        if isinstance(target, str) and target == "all" and "all" not in known:
            names = known
        else:
            names = [target] if isinstance(target, str) or not hasattr(target, "__iter__") else list(target)
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            asked = plain_list(unknown or names)
            msg = f"Expected `target` among the conditions {plain_list(known)} (or 'all'), found {asked}."
            raise ValueError(msg)
        if len(set(names)) < len(names):
            msg = f"Expected `target` to be a condition or a list of different ones, found {plain_list(names)}."
            raise ValueError(msg)
        return {name: known.index(name) for name in names}

    def _predict(
        self,
        source: CellMinibatches | LoaderMinibatches,
        targets: dict[Any, int],
        module: TRVAEModule,
        options: Options,
        streams: Mapping[Any, int] | None = None,
        out: Path | None = None,
    ) -> AnnData:
        """Predict all cells under every target, whose codes are those of `module`; `streams` number random draws."""
        self._check_options(options, source.minify_type)
        changed = self._changed_inputs(options)
        # a generator for each target: a target is predicted alike, alone or among others
        seed = options.seed
        numbers = targets if streams is None else streams
        rngs = {name: np.random.default_rng(None if seed is None else [seed, numbers[name]]) for name in targets}
        # a file is written in the order of its rows
        passes = [list(targets)] if out is None else [[name] for name in targets]
        if len(passes) > 1 and not source.repeatable:
            msg = (
                f"Expected a `dataloader` that can be iterated over {len(passes)} times, once for every target, for "
                "`out`; found an iterator. Pass the loader itself, or one target."
            )
            raise ValueError(msg)
        obs: dict[Any, pd.DataFrame] = {}
        with self._store(source, list(targets), options, out) as store:
            total = None if source.n_batches is None else source.n_batches * len(passes)
            short = total is not None and total < _SHORT
            steps = track(_steps(source, passes, obs), description="Predicting", disable=short, total=total)
            for names, tensors in steps:
                codes = {name: targets[name] for name in names}
                for name, block in self._blocks(tensors, codes, module, options, changed, rngs).items():
                    store.append(name, block)
            return store.finish(self._annotation(obs, source, options))

    def _store(
        self,
        source: CellMinibatches | LoaderMinibatches,
        targets: list[Any],
        options: Options,
        out: Path | None,
    ) -> MemoryStore | DiskStore:
        if out is None:
            return MemoryStore(self._layer)
        known = source.obs
        check_writable(known)
        annotation = self._annotation(dict.fromkeys(targets, known), source, options)
        n_entries = None if known.empty else annotation.n_obs * annotation.n_vars
        return DiskStore(out, self._layer, annotation, n_entries)

    def _annotation(
        self, obs: Mapping[Any, pd.DataFrame], source: CellMinibatches | LoaderMinibatches, options: Options
    ) -> AnnData:
        """All of a prediction but its values, from the cells' own columns for every target."""
        key, labels_key = self._condition_key, self._labels_key
        own = next(iter(obs.values()))
        registered = [key, labels_key, *registered_covariates(self.registry_)]
        registered += registered_continuous_covariates(self.registry_)
        source_key = free_source_key(key, own.columns, registered, source.earlier_source_key)
        conditions, labels = (
            list(registered_categories(self.registry_, k)) for k in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
        )
        categories: dict[str, Any] = {key: conditions, **registered_covariates(self.registry_)}
        table = predicted_obs(obs, key, source_key, categories, options.covariates)
        prediction = AnnData(obs=table, var=source.var.copy())
        measured = [
            target_measured(cells, labels_key, labels, conditions, name, self.measured_) for name, cells in obs.items()
        ]
        weights, genes = self.module.state_dict(), registered_var_names(self.registry_)
        prediction.uns["trvae"] = {
            "method": options.method,
            "scale": _SCALES[options.method] if self.module.models_counts else "input",
            "source": np.array([str(name) for name in pd.unique(pd.concat([cells[key] for cells in obs.values()]))]),
            "source_key": source_key,
            "target": np.array([str(name) for name in obs]),
            "target_measured": np.array(measured),
            "library_size": "own" if options.library_size is None else float(options.library_size),
            "covariates": {name: _plain(value) for name, value in options.covariates.items()},
            "seed": "none" if options.seed is None else int(options.seed),
            "batch_size": "of the dataloader" if source.batch_size is None else source.batch_size,
            "device": str(self.device),
            "model": fingerprint(weights, conditions, genes, [self.module.gene_likelihood]),
            "version": version("trvae-scvi"),
        }
        return prediction


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _steps(
    source: CellMinibatches | LoaderMinibatches, passes: list[list[Any]], obs: dict[Any, pd.DataFrame]
) -> Iterator[tuple[list[Any], dict[str, torch.Tensor]]]:
    """All minibatches for the targets of each pass; `obs` gets the cells of a pass at its end."""
    for names in passes:
        for tensors in source:
            yield names, tensors
        obs |= dict.fromkeys(names, source.obs)
