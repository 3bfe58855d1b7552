"""From cells to draws: what a prediction can be asked for, what the network decodes and what is made of it. A mixin."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import check_choice, check_finite, check_integer, check_number
from trvae_scvi._compat import ADATA_MINIFY_TYPE, MODULE_KEYS, registered_continuous_covariates, registered_covariates
from trvae_scvi._math._counterfactual import (
    counterfactual_nb,
    counterfactual_normal,
    counterfactual_poisson,
    counterfactual_zinb,
)
from trvae_scvi._math._draws import bounded_theta, draw_nb, draw_poisson
from trvae_scvi.data._cells import CellsMixin
from trvae_scvi.module._trvae_module import means_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["METHODS", "Decoded", "DecodingMixin", "Options"]

METHODS = ("counterfactual", "mean", "sample")


class Decoded(NamedTuple):
    """Parameters of the likelihood for a minibatch, `n x g` arrays (theta may be `g`)."""

    mu: np.ndarray
    theta: np.ndarray | None
    pi: np.ndarray | None


class Options(NamedTuple):
    """What a prediction can be asked for, as in :meth:`~trvae_scvi.TRVAE.predict_perturbation`."""

    method: str
    library_size: float | None
    covariates: Mapping[str, Any]
    seed: int | None


class DecodingMixin(CellsMixin):
    """What :class:`~trvae_scvi.TRVAE` decodes for a minibatch."""

    if TYPE_CHECKING:
        nonnegative_: bool

    def _check_options(self, options: Options, minify_type: str | None) -> None:
        method, library_size = options.method, options.library_size
        check_choice("method", method, METHODS)
        if options.seed is not None:
            check_integer("seed", options.seed, 0)
        if library_size is not None:
            check_number("library_size", library_size, positive=True, below=1e12)
            if not self.module.models_counts:
                msg = f"`library_size` has no meaning with gene_likelihood={self.module.gene_likelihood!r}."
                raise ValueError(msg)
        if method == "sample" and self.module.gene_likelihood == "mse":
            msg = "method='sample' needs a count likelihood; with gene_likelihood='mse' use 'counterfactual' or 'mean'."
            raise ValueError(msg)
        if method == "counterfactual" and self.module.gene_likelihood == "bernoulli":
            msg = "method='counterfactual' is not defined for gene_likelihood='bernoulli'; use 'mean' or 'sample'."
            raise ValueError(msg)
        if method == "counterfactual" and minify_type == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            msg = (
                "method='counterfactual' changes the cells' own counts, which minified data lack. Use "
                "predict_perturbation(method='mean'), or "
                f"minify with minified_data_type={ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS!r}."
            )
            raise ValueError(msg)

    def _changed_inputs(self, options: Options) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
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
            msg = (
                f"Expected `covariates` among the registered {[*categories, *continuous]}, found {unknown}. The "
                "condition is set by `target`; covariates are registered with `setup_anndata`."
            )
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

    @torch.inference_mode()
    def _posterior_mean_input(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        with means_only():
            inference_outputs = self.module.inference(**self.module._get_inference_input(tensors))
        inference_outputs[MODULE_KEYS.Z_KEY] = inference_outputs[MODULE_KEYS.QZ_KEY].loc
        return self.module._get_generative_input(tensors, inference_outputs)

    def _blocks(
        self,
        tensors: dict[str, torch.Tensor],
        codes: Mapping[Any, int],
        module: TRVAEModule,
        options: Options,
        changed: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
        rngs: Mapping[Any, np.random.Generator],
    ) -> dict[Any, np.ndarray | sparse.csr_matrix]:
        """A minibatch under targets, by their codes in `module`."""
        given = self._posterior_mean_input(tensors)
        asked = {key: changed[key](own) if key in changed and own is not None else own for key, own in given.items()}
        if options.method != "counterfactual":
            decoded = {name: self._decode(module, asked, code) for name, code in codes.items()}
            drawn = _mean if options.method == "mean" else self._sampler
            return {name: drawn(of_target, rngs[name]) for name, of_target in decoded.items()}
        x = tensors[REGISTRY_KEYS.X_KEY].cpu().numpy()
        source = self._decode(module, given, None)
        return {
            name: self._counterfactual(x, source, self._decode(module, asked, code), rngs[name])
            for name, code in codes.items()
        }

    def _decode(
        self, module: TRVAEModule, generative_input: dict[str, torch.Tensor | None], code: int | None
    ) -> Decoded:
        with torch.inference_mode():
            outputs = module.generative(**generative_input, transform_batch=code)
        px, theta = outputs[MODULE_KEYS.PX_KEY], outputs["theta"]
        pi = px.zi_probs.cpu().numpy() if module.gene_likelihood == "zinb" else None
        mu = px.loc if module.gene_likelihood == "mse" else px.get_normalized("mu")
        return Decoded(mu.cpu().numpy(), None if theta is None else theta.cpu().numpy(), pi)

    @property
    def _sampler(self) -> Callable[[Decoded, np.random.Generator], sparse.csr_matrix]:
        return _sample_pixels if self.module.gene_likelihood == "bernoulli" else _sample

    def _counterfactual(
        self, x: np.ndarray, source: Decoded, target: Decoded, rng: np.random.Generator
    ) -> np.ndarray | sparse.csr_matrix:
        if self.module.gene_likelihood == "mse":
            return counterfactual_normal(x, source.mu, target.mu, nonnegative=self.nonnegative_)
        if source.theta is None or target.theta is None:
            counts = counterfactual_poisson(x, source.mu, target.mu, rng)
        elif source.pi is None or target.pi is None:
            counts = counterfactual_nb(x, source.mu, target.mu, source.theta, target.theta, rng)
        else:
            counts = counterfactual_zinb(x, source.mu, target.mu, source.theta, target.theta, source.pi, target.pi, rng)
        at = np.flatnonzero(counts != 0)
        return _matrix(at, np.take(counts, at), counts.shape)


def _with_columns(table: torch.Tensor, *, values: Mapping[int, float]) -> torch.Tensor:
    table = table.clone()
    for column, value in values.items():
        table[:, column] = value
    return table


def _mean(decoded: Decoded, rng: np.random.Generator) -> np.ndarray:
    return decoded.mu if decoded.pi is None else (1.0 - decoded.pi) * decoded.mu


def _sample_pixels(decoded: Decoded, rng: np.random.Generator) -> sparse.csr_matrix:
    at = np.flatnonzero(rng.random(decoded.mu.shape, dtype=np.float32) < decoded.mu)
    return _matrix(at, np.ones(len(at)), decoded.mu.shape)


def _sample(decoded: Decoded, rng: np.random.Generator) -> sparse.csr_matrix:
    mu = decoded.mu
    if decoded.theta is None:
        at, counts = draw_poisson(mu, rng)
    else:
        theta = bounded_theta(decoded.theta)
        with np.errstate(over="ignore"):
            odds = mu / theta
        at, counts = draw_nb(theta, odds, rng)
    if decoded.pi is not None:
        kept = rng.random(len(at)) >= decoded.pi.flat[at]
        at, counts = at[kept], counts[kept]
    return _matrix(at, counts, mu.shape)


def _matrix(at: np.ndarray, counts: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A sparse matrix of counts by their increasing positions in the flattened one."""
    n, g = shape
    starts = np.searchsorted(at, np.arange(n + 1) * g)
    parts = counts.astype(np.float32), (at % g).astype(np.int32), starts.astype(np.int32)
    return sparse.csr_matrix(parts, shape=shape)
