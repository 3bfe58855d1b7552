"""Answers: counterfactual cells, also under combinations of conditions, and the regularised layer. A mixin."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.utils import track

from ._cells import CellsMixin
from ._compat import (
    ADATA_MINIFY_TYPE,
    MODULE_KEYS,
    get_minify_type,
    registered_continuous_covariates,
    registered_covariates,
)
from ._counterfactual import counterfactual_nb, counterfactual_normal, counterfactual_poisson, counterfactual_zinb
from ._validation import check_choice, check_finite, check_number, plain_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._module import TRVAEModule

__all__ = ["METHODS", "PredictionMixin"]

METHODS = ("counterfactual", "mean", "sample")
_SCALES = {"counterfactual": "counts", "sample": "counts", "mean": "expected counts"}
_SHORT = 10  # minibatches; fewer need no progress bar


class _Decoded(NamedTuple):
    """Parameters of the likelihood for a minibatch, `n x g` arrays (theta may be `g`)."""

    mu: np.ndarray
    theta: np.ndarray | None
    pi: np.ndarray | None


class _Options(NamedTuple):
    """What a prediction can be asked for, as in :meth:`PredictionMixin.predict_perturbation`."""

    method: str
    library_size: float | None
    covariates: Mapping[str, Any]
    batch_size: int | None
    seed: int | None


class PredictionMixin(CellsMixin):
    """Predictions of :class:`~trvae_scvi.TRVAE`."""

    if TYPE_CHECKING:
        nonnegative_: bool

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
    ) -> AnnData:
        r"""What these cells would look like under another condition.

        Cells are encoded with the condition they were measured under (posterior mean) and decoded with
        the target (Lotfollahi et al. 2020). The three methods differ in what is made of the decoded
        distribution.

        Parameters
        ----------
        adata
            Cells to start from, with the genes the model was trained on; a view will do. Neither it nor
            its data are changed. ``None`` takes the AnnData the model was made with.
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

        Returns
        -------
        AnnData with one row for every cell and target, target by target.

        ``X`` (and the registered layer)
            Integer counts as a sparse matrix for ``"counterfactual"`` and ``"sample"``, expected counts
            for ``"mean"``; the scale of the input for ``gene_likelihood="mse"``.
        ``obs``
            That of the cells, with the target in the condition column and the condition they were
            measured under in ``"<condition_key>_source"``. Names end in ``-<target>``.
        ``uns["trvae"]``
            Method, scale, sources, targets, seed and version.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If the column of the condition or of a covariate, or the layer, is not there.
        TypeError
            If an argument has the wrong type.
        ValueError
            For an unknown target, source or covariate, no cell of the source, other genes than in training, cells
            without counts, or a method that the likelihood or minified data cannot serve.

        Examples
        --------
        >>> nk = (adata.obs["cell_type"] == "NK") & (adata.obs["condition"] == "control")
        >>> prediction = model.predict_perturbation(adata[nk], target="stimulated")
        """
        cells = self._cells_for_prediction(adata, indices, source)
        options = _Options(method, library_size, {} if covariates is None else covariates, batch_size, seed)
        return self._predict(cells, self._target_codes(target), self.module, options)

    @torch.inference_mode()
    def get_mmd_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Activations `y` of the decoder's first layer, where trVAE's penalty acts.

        Each cell is decoded with its own condition at its posterior mean.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`predict_perturbation`.

        Returns
        -------
        Array of shape ``(n_obs, n)``, `n` the width of the decoder's first layer, the last of `n_hidden`.

        Raises
        ------
        RuntimeError, KeyError, ValueError
            As :meth:`predict_perturbation`.
        """
        cells = self._cells_for_prediction(adata, indices, None)
        activations = []
        for tensors in self._minibatches(cells, batch_size):
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
        return {name: known.index(name) for name in names}

    def _check_options(self, options: _Options, cells: AnnData) -> None:
        method, library_size = options.method, options.library_size
        check_choice("method", method, METHODS)
        if library_size is not None:
            check_number("library_size", library_size, positive=True, below=1e12)
            if self.module.gene_likelihood == "mse":
                msg = "`library_size` has no meaning with gene_likelihood='mse'."
                raise ValueError(msg)
        if method == "sample" and self.module.gene_likelihood == "mse":
            msg = "method='sample' needs a count likelihood; with gene_likelihood='mse' use 'counterfactual' or 'mean'."
            raise ValueError(msg)
        if method == "counterfactual" and get_minify_type(cells) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            msg = (
                "method='counterfactual' changes the cells' own counts, which minified data lack. Use "
                "predict_perturbation(method='mean'), or "
                f"minify with minified_data_type={ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS!r}."
            )
            raise ValueError(msg)

    @torch.inference_mode()
    def _posterior_mean_input(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        inference_outputs = self.module.inference(**self.module._get_inference_input(tensors))
        inference_outputs[MODULE_KEYS.Z_KEY] = inference_outputs[MODULE_KEYS.QZ_KEY].loc
        return self.module._get_generative_input(tensors, inference_outputs)

    def _predict(
        self,
        cells: AnnData,
        targets: dict[str, int],
        module: TRVAEModule,
        options: _Options,
        streams: Mapping[str, int] | None = None,
    ) -> AnnData:
        """Predict all cells under every target, whose codes are those of `module`; `streams` number random draws."""
        self._check_options(options, cells)
        changed = self._changed_inputs(options)
        # a generator for each target: a target is predicted alike, alone or among others
        seed = options.seed
        numbers = (targets if streams is None else streams).values()
        rngs = [np.random.default_rng(None if seed is None else [seed, number]) for number in numbers]
        blocks: list[list[np.ndarray | sparse.csr_matrix]] = [[] for _ in targets]
        minibatches = self._minibatches(cells, options.batch_size)
        for tensors in track(minibatches, description="Predicting", disable=len(minibatches) < _SHORT):
            given = self._posterior_mean_input(tensors)
            source = self._decode(module, given, None)
            asked = {
                key: changed[key](own) if key in changed and own is not None else own for key, own in given.items()
            }
            for block, code, rng in zip(blocks, targets.values(), rngs, strict=True):
                x = tensors[REGISTRY_KEYS.X_KEY].numpy()
                drawn = self._draw(x, source, self._decode(module, asked, code), options.method, rng)
                integers = options.method != "mean" and self.module.gene_likelihood != "mse"
                block.append(sparse.csr_matrix(drawn) if integers else drawn)
        return self._assemble(cells, targets, blocks, options)

    def _changed_inputs(self, options: _Options) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """How the decoder's inputs differ from the cells' own, by name."""
        changed: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        if options.library_size is not None:
            size = float(options.library_size)
            changed[MODULE_KEYS.LIBRARY_KEY] = functools.partial(torch.full_like, fill_value=float(np.log(size)))
            changed[MODULE_KEYS.SIZE_FACTOR_KEY] = functools.partial(torch.full_like, fill_value=size)
        categories = registered_covariates(self.registry_)
        continuous = registered_continuous_covariates(self.registry_)
        if not isinstance(options.covariates, Mapping):
            msg = f"Expected `covariates` to map columns to values, found {options.covariates!r}."
            raise TypeError(msg)
        unknown = [name for name in options.covariates if name not in categories and name not in continuous]
        if unknown:
            msg = f"Expected `covariates` among the registered {[*categories, *continuous]}, found {unknown}."
            raise ValueError(msg)
        codes, numbers = {}, {}
        for name, value in options.covariates.items():
            if np.ndim(value):
                msg = f"Expected one value for covariate {name!r}, found a {type(value).__name__} of {len(value)}."
                raise TypeError(msg)
            if name in categories:
                check_choice(f"covariates[{name!r}]", value, list(categories[name]))
                codes[list(categories).index(name)] = list(categories[name]).index(value)
            else:
                check_finite(f"covariates[{name!r}]", value)
                numbers[continuous.index(name)] = float(value)
        for key, values in ((MODULE_KEYS.CAT_COVS_KEY, codes), (MODULE_KEYS.CONT_COVS_KEY, numbers)):
            if values:
                changed[key] = functools.partial(_with_columns, values=values)
        return changed

    def _decode(
        self, module: TRVAEModule, generative_input: dict[str, torch.Tensor | None], code: int | None
    ) -> _Decoded:
        with torch.inference_mode():
            outputs = module.generative(**generative_input, transform_batch=code)
        px, theta = outputs[MODULE_KEYS.PX_KEY], outputs["theta"]
        pi = px.zi_probs.cpu().numpy() if module.gene_likelihood == "zinb" else None
        mu = px.loc if module.gene_likelihood == "mse" else px.get_normalized("mu")
        return _Decoded(mu.cpu().numpy(), None if theta is None else theta.cpu().numpy(), pi)

    def _draw(
        self, x: np.ndarray, source: _Decoded, target: _Decoded, method: str, rng: np.random.Generator
    ) -> np.ndarray:
        if method == "mean":
            return target.mu if target.pi is None else (1.0 - target.pi) * target.mu
        if method == "sample":
            return _sample(target, rng).astype(np.float32)
        if self.module.gene_likelihood == "mse":
            return counterfactual_normal(x, source.mu, target.mu, nonnegative=self.nonnegative_)
        if source.theta is None or target.theta is None:
            return counterfactual_poisson(x, source.mu, target.mu, rng)
        if source.pi is None or target.pi is None:
            return counterfactual_nb(x, source.mu, target.mu, source.theta, target.theta, rng)
        return counterfactual_zinb(x, source.mu, target.mu, source.theta, target.theta, source.pi, target.pi, rng)

    def _assemble(
        self,
        cells: AnnData,
        targets: dict[str, int],
        blocks: list[list[np.ndarray | sparse.csr_matrix]],
        options: _Options,
    ) -> AnnData:
        batches = [batch for block in blocks for batch in block]
        x = sparse.vstack(batches, format="csr") if sparse.issparse(batches[0]) else np.concatenate(batches)
        source = cells.obs[self._condition_key]
        parts = []
        for name in targets:
            own = [self._condition_key, f"{self._condition_key}_source"]
            obs = cells.obs.drop(columns=own, errors="ignore")
            obs.insert(0, self._condition_key, name)
            obs.insert(1, f"{self._condition_key}_source", source.to_numpy())
            for column, value in options.covariates.items():
                obs[column] = value
            parts.append(obs.set_axis(cells.obs_names.astype(str) + f"-{name}"))
        obs = pd.concat(parts)
        for column in (self._condition_key, f"{self._condition_key}_source"):
            obs[column] = pd.Categorical(obs[column])
        prediction = AnnData(X=x, obs=obs, var=cells.var.copy())
        if self._layer is not None:
            prediction.layers[self._layer] = x.copy()
        scale = "input" if self.module.gene_likelihood == "mse" else _SCALES[options.method]
        prediction.uns["trvae"] = {
            "method": options.method,
            "scale": scale,
            "source": np.array([str(name) for name in pd.unique(source)]),
            "target": np.array([str(name) for name in targets]),
            "seed": "none" if options.seed is None else int(options.seed),
            "version": version("trvae-scvi"),
        }
        return prediction


def _with_columns(table: torch.Tensor, *, values: Mapping[int, float]) -> torch.Tensor:
    table = table.clone()
    for column, value in values.items():
        table[:, column] = value
    return table


def _sample(decoded: _Decoded, rng: np.random.Generator) -> np.ndarray:
    mu = np.maximum(decoded.mu.astype(np.float64), 1e-30)
    if decoded.theta is None:
        return rng.poisson(mu)
    theta = np.broadcast_to(decoded.theta, mu.shape).astype(np.float64)
    drawn = rng.negative_binomial(theta, theta / (theta + mu))
    return drawn if decoded.pi is None else drawn * (rng.random(mu.shape) >= decoded.pi)
