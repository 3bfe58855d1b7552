"""The generative model and its objective, as a scvi-tools module. Knows tensors, not AnnData."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from scvi.module.base import BaseMinifiedModeModuleClass, LossOutput, auto_move_data
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from trvae_scvi._compat import MODULE_KEYS
from trvae_scvi._math._linear import sum_of_squares
from trvae_scvi._math._log_likelihoods import Bernoulli, log_bernoulli, log_nb, log_normal, log_poisson, log_zinb
from trvae_scvi._math._mmd import mmd
from trvae_scvi._math._precision import no_autocast

from ._networks import ConditionLinear, Decoder, Encoder, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trvae_scvi.nn import Network

__all__ = ["COUNT_LIKELIHOODS", "DISPERSIONS", "GENE_LIKELIHOODS", "MMD_LOCATIONS", "TRVAEModule", "means_only"]

COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")
GENE_LIKELIHOODS = (*COUNT_LIKELIHOODS, "mse", "bernoulli")
DISPERSIONS = ("gene", "gene-batch")
MMD_LOCATIONS = ("y", "z", None)
_KEPT_CELLS = 512  # of a reference, in every batch of a query that is matched with it
_KEPT_CELLS_PER_CONDITION = 32
_MEANS_ONLY: ContextVar[bool] = ContextVar("means_only", default=False)
_MAX_POISSON_RATE = 1e8  # torch's sampler misbehaves beyond


@contextlib.contextmanager
def means_only() -> Iterator[None]:
    """Inside the block inference draws nothing: other threads may be training, with the same random numbers."""
    token = _MEANS_ONLY.set(True)
    try:
        yield
    finally:
        _MEANS_ONLY.reset(token)


class TRVAEModule(BaseMinifiedModeModuleClass):
    r"""Conditional VAE with an MMD penalty between conditions.

    .. math::

        z \sim q(z \mid x, s), \quad y = g_1(z, s), \quad x \sim p(x \mid g_2(y))

        \mathcal{L} = \overline{-\eta \log p(x \mid z, s) + \alpha\, \mathrm{KL}(q \,\|\, N(0, I))}
        + \beta\, \overline{\mathrm{MMD}(\{y_s\}, \{y_t\})} + \frac{1}{N} \sum_s \frac{\|U_s\|^2}{\rho^2}

    with :math:`\eta, \alpha, \beta` the `reconstruction_weight`, `kl_weight` and `mmd_weight`
    (Lotfollahi et al. 2020). The last term is a normal prior on the responses of the output layer,
    :math:`\rho` the `response_scale` and N the number of training cells; with ``condition_layer="first"``, as
    published, it is absent. The condition is scvi-tools' batch. Parameters that are not listed are those of
    :class:`~trvae_scvi.TRVAE`.

    Parameters
    ----------
    n_input, n_batch
        Numbers of variables and of conditions.
    n_cats_per_cov
        Numbers of categories of further categorical covariates.
    n_continuous_cov
        Number of continuous covariates.
    hidden_sizes
        Widths of the hidden layers, input side first; the decoder mirrors them.
    use_size_factor_key
        Whether means are scaled by given size factors (softplus output) instead of the observed
        library size (softmax output).
    mmd_reference
        Code of the condition to compare every other with, ``None`` for all pairs.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> module = tv.TRVAEModule(50, n_batch=2, n_latent=5)
    >>> module.gene_likelihood, module.mmd_on
    ('nb', 'y')
    """

    def __init__(
        self,
        n_input: int,
        *,
        n_batch: int,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous_cov: int = 0,
        hidden_sizes: Sequence[int] = (128, 128),
        n_latent: int = 10,
        dropout_rate: float = 0.1,
        gene_likelihood: Literal["nb", "zinb", "poisson", "mse", "bernoulli"] = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        encode_condition: bool = False,
        condition_layer: Literal["output", "first"] = "output",
        response_scale: float = 0.03,
        normalization: Literal["layer", "batch"] | None = "layer",
        nonnegative_output: bool = False,
        use_size_factor_key: bool = False,
        mmd_on: Literal["y", "z"] | None = "y",
        mmd_reference: int | None = None,
        mmd_kernel: Literal["trvae", "median"] = "median",
        mmd_balance_labels: bool = False,
        mmd_weight: float = 10.0,
        kl_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        network: Network | None = None,
        extra_payload_autotune: bool = False,
    ) -> None:
        super().__init__()
        self.gene_likelihood = gene_likelihood
        self.dispersion = dispersion
        self.encode_condition = encode_condition
        self.response_scale = response_scale
        self.nonnegative_output = nonnegative_output
        self.use_size_factor_key = use_size_factor_key
        self.mmd_on = mmd_on
        self.mmd_reference = mmd_reference
        self.mmd_kernel = mmd_kernel
        self.mmd_balance_labels = mmd_balance_labels
        self.mmd_weight = mmd_weight
        self.kl_weight = kl_weight
        self.reconstruction_weight = reconstruction_weight
        self.extra_payload_autotune = extra_payload_autotune

        self.n_batch = n_batch
        n_categories = (n_batch, *n_cats_per_cov)
        self.takes_sparse = gene_likelihood in COUNT_LIKELIHOODS and network is None
        shared: dict[str, Any] = {
            "dropout_rate": dropout_rate,
            "normalization": normalization,
            "network": network,
        }
        self.encoder = Encoder(
            n_input,
            n_latent,
            hidden_sizes=hidden_sizes,
            n_categories=n_categories if encode_condition else (),
            n_continuous=n_continuous_cov if encode_condition else 0,
            **shared,
        )
        self.decoder = Decoder(
            n_latent,
            n_input,
            hidden_sizes=hidden_sizes[::-1],
            n_categories=n_categories,
            n_continuous=n_continuous_cov,
            condition_layer=condition_layer,
            zero_inflation=gene_likelihood == "zinb",
            **shared,
        )
        if gene_likelihood in ("nb", "zinb"):
            self.log_theta = nn.Parameter(torch.zeros(n_input)) if dispersion == "gene" else Table(n_batch, n_input)
        self.is_frozen = False
        self.kept_cells: dict[str, torch.Tensor] = {}  # of a reference, to match a query with

    def adopt(self, reference: TRVAEModule) -> bool:
        """Take over all of a reference's parameters; rows of categories it has not start at the mean of its own.

        Parameters
        ----------
        reference
            A module of the same architecture with at most as many categories; theirs are the first ones here.

        Returns
        -------
        Whether there are new rows.
        """
        grown = False
        state = reference.state_dict()
        tables = {name: module for name, module in self.named_modules() if isinstance(module, Table)}
        for name, table in tables.items():
            old = cast("Table", reference.get_submodule(name)).rows
            n_new = len(table.weight) - len(old)
            table.set_rows(old, old.mean(dim=0, keepdim=True).repeat(n_new, *(1 for _ in old.shape[1:])))
            state.pop(f"{name}.new", None)
            state[f"{name}.weight"] = old
            if table.new is not None:
                state[f"{name}.new"] = table.new.detach()
                grown = True
        self.load_state_dict(state)
        return grown

    @property
    def models_counts(self) -> bool:
        """Whether the likelihood is one of counts, whose sum is the library size."""
        return self.gene_likelihood in COUNT_LIKELIHOODS

    def condition_tables(self) -> list[Table]:
        """The tables of the decoder and the dispersion with a row for every condition."""
        decoder = self.decoder
        if decoder.condition_layer == "first":
            tables = [cast("Table", decoder.first.tables[0])]
        else:
            layers = (decoder.output, decoder.zero_inflation)
            tables = [
                t for layer in layers if isinstance(layer, ConditionLinear) for t in (layer.offset, layer.response)
            ]
        log_theta = getattr(self, "log_theta", None)
        return [*tables, log_theta] if isinstance(log_theta, Table) else tables

    def freeze(self, *, encoder_first_layer: bool = True, decoder_first_layer: bool = True) -> None:
        """Leave only rows of new categories to training, and the first layers if asked.

        Frozen parameters never get a gradient, so that no optimizer can move them; normalisation and dropout stay as
        they are in evaluation.
        """
        self.is_frozen = True
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Table) and module.new is not None:
                module.new.requires_grad_(True)
        for layer, frozen in ((self.encoder.first, encoder_first_layer), (self.decoder.first, decoder_first_layer)):
            layer.linear.requires_grad_(not frozen)
            if layer.continuous is not None:
                layer.continuous.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TRVAEModule:
        """Set the training mode; frozen modules stay in evaluation."""
        super().train(mode)
        if self.is_frozen:
            for module in (self.encoder, self.decoder):
                module.train(False)
        return self

    def _get_inference_input(
        self, tensors: dict[str, torch.Tensor], full_forward_pass: bool = False
    ) -> dict[str, torch.Tensor | None]:
        # what the minibatch holds decides, so that a minified model still reads full data
        if not full_forward_pass and REGISTRY_KEYS.LATENT_QZM_KEY in tensors:
            return {
                MODULE_KEYS.QZM_KEY: tensors[REGISTRY_KEYS.LATENT_QZM_KEY],
                MODULE_KEYS.QZV_KEY: tensors[REGISTRY_KEYS.LATENT_QZV_KEY],
                REGISTRY_KEYS.OBSERVED_LIB_SIZE: tensors[REGISTRY_KEYS.OBSERVED_LIB_SIZE],
            }
        return {
            MODULE_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY],
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
            MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        }

    def _get_generative_input(
        self, tensors: dict[str, torch.Tensor], inference_outputs: dict[str, Any]
    ) -> dict[str, torch.Tensor | None]:
        return {
            MODULE_KEYS.Z_KEY: inference_outputs[MODULE_KEYS.Z_KEY],
            MODULE_KEYS.LIBRARY_KEY: inference_outputs[MODULE_KEYS.LIBRARY_KEY],
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
            MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            MODULE_KEYS.SIZE_FACTOR_KEY: tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
        }

    @staticmethod
    def _codes(batch_index: torch.Tensor, cat_covs: torch.Tensor | None) -> list[torch.Tensor]:
        columns = [batch_index] if cat_covs is None else [batch_index, *cat_covs.split(1, dim=1)]
        return [column.squeeze(-1).long() for column in columns]

    @auto_move_data
    def _regular_inference(
        self,
        x: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        n_samples: int = 1,
    ) -> dict[str, Any]:
        codes = self._codes(batch_index, cat_covs) if self.encode_condition else []
        encoder_input = torch.log1p(x) if self.models_counts else x
        mean, variance = self.encoder(encoder_input, codes, cont_covs)
        ones = x.new_ones(x.shape[1], 1, layout=torch.strided)
        with no_autocast(x):
            total = x @ ones if self.models_counts else torch.ones_like(x[:, :1])  # also of a sparse x
        return self._sampled(mean, variance, total, n_samples)

    @auto_move_data
    def _cached_inference(
        self, qzm: torch.Tensor, qzv: torch.Tensor, observed_lib_size: torch.Tensor, n_samples: int = 1
    ) -> dict[str, Any]:
        total = observed_lib_size if self.models_counts else torch.ones_like(observed_lib_size)
        return self._sampled(qzm, qzv, total, n_samples)

    @staticmethod
    def _sampled(mean: torch.Tensor, variance: torch.Tensor, total: torch.Tensor, n_samples: int) -> dict[str, Any]:
        qz = torch.distributions.Normal(mean, variance.sqrt())
        library = torch.log(total)
        if n_samples == 1:
            z = mean if _MEANS_ONLY.get() else qz.rsample()
        else:
            z = qz.rsample((n_samples,))
            library = library.expand(n_samples, *library.shape)
        return {
            MODULE_KEYS.Z_KEY: z,
            MODULE_KEYS.QZ_KEY: qz,
            MODULE_KEYS.QL_KEY: None,
            MODULE_KEYS.LIBRARY_KEY: library,
        }

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        transform_batch: torch.Tensor | int | None = None,
    ) -> dict[str, Any]:
        """Decode latent variables.

        Parameters
        ----------
        z
            `n x n_latent` latent variables, or `n_samples x n x n_latent`.
        library
            Natural logarithm of the total counts, `n x 1`.
        batch_index
            Condition codes, `n x 1`.
        cont_covs, cat_covs
            Values of the continuous, codes of the categorical covariates.
        size_factor
            Size factors, `n x 1`, instead of the library size.
        transform_batch
            Condition code to decode all cells with.

        Returns
        -------
        ``px`` and ``pz``, distributions; ``first_layer``, the activations `y`; ``theta`` with the shape
        in which it is stored.
        """
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * transform_batch
        codes = self._codes(batch_index, cat_covs)
        y, output, zi_logits = self.decoder(z, codes, cont_covs)
        theta = None
        if self.gene_likelihood in ("nb", "zinb"):
            theta = torch.exp(self.log_theta(codes[0]) if isinstance(self.log_theta, Table) else self.log_theta)
        return {
            MODULE_KEYS.PX_KEY: self._likelihood(output, theta, zi_logits, library, size_factor),
            MODULE_KEYS.PZ_KEY: torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z)),
            "first_layer": y,
            "theta": theta,
        }

    def _likelihood(
        self,
        output: torch.Tensor,
        theta: torch.Tensor | None,
        zi_logits: torch.Tensor | None,
        library: torch.Tensor,
        size_factor: torch.Tensor | None,
    ) -> torch.distributions.Distribution:
        if self.gene_likelihood == "mse":
            mean = torch.relu(output) if self.nonnegative_output else output
            return Normal(mean, torch.ones_like(mean), normal_mu=mean)
        if self.gene_likelihood == "bernoulli":
            return Bernoulli(output)
        if self.use_size_factor_key and size_factor is not None:
            scale = softplus(output)
            mu = scale * size_factor
        else:
            scale = torch.softmax(output, dim=-1)
            mu = scale * torch.exp(library)
        if self.gene_likelihood == "poisson":
            return Poisson(mu, scale=scale)
        if self.gene_likelihood == "zinb":
            return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits, scale=scale)
        return NegativeBinomial(mu=mu, theta=theta, scale=scale)

    def _log_likelihood(self, x: torch.Tensor, generative_outputs: dict[str, Any]) -> torch.Tensor:
        """Of every cell, `n`, or `n_samples x n` for several samples of `z`, which are so many more cells."""
        px, theta = generative_outputs[MODULE_KEYS.PX_KEY], generative_outputs["theta"]
        shape = generative_outputs["first_layer"].shape[:-1]
        if len(shape) > 1:
            x = (x.to_dense() if x.layout == torch.sparse_csr else x).repeat(shape[0], 1)
            theta = theta if theta is None or theta.dim() == 1 else theta.repeat(shape[0], 1)
        if self.gene_likelihood == "nb":
            value = log_nb(x, px.mu.flatten(0, -2), theta)
        elif self.gene_likelihood == "zinb":
            value = log_zinb(x, px.mu.flatten(0, -2), theta, px.zi_logits.flatten(0, -2))
        elif self.gene_likelihood == "poisson":
            value = log_poisson(x, px.rate.flatten(0, -2))
        elif self.gene_likelihood == "bernoulli":
            value = log_bernoulli(x, px.logits.flatten(0, -2))
        else:
            value = log_normal(x, px.loc.flatten(0, -2))
        return value.view(shape)

    def _mmd(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        *,
        with_kept_cells: bool,
    ) -> torch.Tensor:
        z, y = inference_outputs[MODULE_KEYS.Z_KEY], generative_outputs["first_layer"]
        if self.mmd_on is None or self.mmd_weight == 0.0 or z.dim() == 3:
            return z.new_zeros(())
        x = y if self.mmd_on == "y" else z
        conditions = tensors[REGISTRY_KEYS.BATCH_KEY].squeeze(-1).long()
        labels = tensors[REGISTRY_KEYS.LABELS_KEY].squeeze(-1).long() if self.mmd_balance_labels else None
        fixed = None
        if self.kept_cells and with_kept_cells:
            fixed = self.n_batch
            cells = self._draw_kept_cells()
            x = torch.cat([x, cells["y" if self.mmd_on == "y" else "z"]])
            conditions = torch.cat([conditions, cells["conditions"] + fixed])
            labels = None if labels is None else torch.cat([labels, cells["labels"]])
        return mmd(
            x, conditions, kernel=self.mmd_kernel, reference=self.mmd_reference, labels=labels, first_fixed=fixed
        )

    def _draw_kept_cells(self) -> dict[str, torch.Tensor]:
        """Some of the kept reference cells at random, as many of each of some conditions, with a new draw of `z`."""
        device = self.decoder.first.linear.weight.device
        kept = self.kept_cells
        codes = torch.unique(kept["conditions"])
        drawn = codes[torch.randperm(len(codes))[: _KEPT_CELLS // _KEPT_CELLS_PER_CONDITION]]
        share = _KEPT_CELLS // len(drawn)
        of_each = [torch.nonzero(kept["conditions"] == code).squeeze(1) for code in drawn]
        rows = torch.cat([own[torch.randperm(len(own))[:share]] for own in of_each])
        cells = {name: values[rows].to(device) for name, values in kept.items()}
        mean, variance = cells["qzm"], cells["qzv"]
        cells["z"] = mean + variance.sqrt() * torch.randn_like(mean)
        categories = [cells["conditions"], *cells["cat_covs"].unbind(dim=1)]
        cells["y"] = self.decoder.first_layer(cells["z"], categories, cells.get("cont_covs"))
        return cells

    def _response_prior(self, n_obs: int | None) -> torch.Tensor:
        """Each training cell's share of the responses' negative log density under their prior, up to a constant."""
        if n_obs is None:
            msg = "Expected `n_obs`, the number of training cells, with whole_objective=True; found None."
            raise ValueError(msg)
        zero = self.decoder.first.linear.bias.new_zeros(())
        squares = sum((sum_of_squares(response) for response in self.decoder.responses()), zero)
        # two conditions then differ by a normal with standard deviation `response_scale`
        return squares / self.response_scale**2 / n_obs

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
        n_obs: int | None = None,
        whole_objective: bool = False,
    ) -> LossOutput:
        """The objective, and its terms per cell.

        Parameters
        ----------
        n_obs
            Number of training cells, over which the prior of the responses is spread; the training plan passes it.
        whole_objective
            Whether to give what training minimises, with the prior of the responses and, for a query, the match with
            kept reference cells. The training plan asks for it, for training and validation cells. An answer about
            cells has neither: the prior is no matter of theirs, and which cells are drawn is random.
        kl_weight
            Weight of the KL divergence in the loss. The training plan passes the value its warm-up has
            reached, which ends at the module's `kl_weight`.
        """
        reconstruction = -self._log_likelihood(tensors[REGISTRY_KEYS.X_KEY], generative_outputs)
        kl = kl_divergence(inference_outputs[MODULE_KEYS.QZ_KEY], torch.distributions.Normal(0.0, 1.0)).sum(dim=-1)
        discrepancy = self._mmd(tensors, inference_outputs, generative_outputs, with_kept_cells=whole_objective)
        cells = self.reconstruction_weight * reconstruction + kl_weight * kl
        prior = self._response_prior(n_obs) if whole_objective else discrepancy.new_zeros(())
        extra_metrics = {"mmd": discrepancy, "response_prior": prior}
        if self.extra_payload_autotune:
            extra_metrics |= {
                "z": inference_outputs[MODULE_KEYS.Z_KEY],
                "batch": tensors[REGISTRY_KEYS.BATCH_KEY],
                "labels": tensors[REGISTRY_KEYS.LABELS_KEY],
            }
        return LossOutput(
            loss=cells.mean() + self.mmd_weight * discrepancy + prior,
            reconstruction_loss=reconstruction,
            kl_local=kl,
            extra_metrics=extra_metrics,
            n_obs_minibatch=kl.shape[0],
        )

    @torch.inference_mode()
    def sample(
        self,
        tensors: dict[str, torch.Tensor],
        n_samples: int = 1,
        generative_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Draw from the posterior predictive distribution.

        Returns
        -------
        Tensor on the CPU, `n x n_input`, or `n x n_input x n_samples` for several samples.
        """
        _, generative_outputs = self.forward(
            tensors,
            inference_kwargs={"n_samples": n_samples},
            generative_kwargs=generative_kwargs,
            compute_loss=False,
        )
        px = generative_outputs[MODULE_KEYS.PX_KEY]
        if self.gene_likelihood == "poisson":
            px = Poisson(px.rate.clamp(max=_MAX_POISSON_RATE).cpu())  # MPS has no Poisson sampler
        samples = px.sample()
        return (samples.permute(1, 2, 0) if n_samples > 1 else samples).cpu()

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self,
        tensors: dict[str, torch.Tensor],
        n_mc_samples: int,
        return_mean: bool = False,
        n_mc_samples_per_pass: int = 1,
    ) -> torch.Tensor | float:
        r"""Importance-sampled :math:`\log p(x \mid s)` of every cell, with the posterior as the proposal.

        Parameters
        ----------
        n_mc_samples
            Number of draws of `z`.
        return_mean
            Give the mean over cells, a float, instead of one value a cell.
        n_mc_samples_per_pass
            Draws held in memory at once.
        """
        log_weights = []
        for start in range(0, n_mc_samples, n_mc_samples_per_pass):
            n_samples = min(n_mc_samples_per_pass, n_mc_samples - start)
            inference_outputs, generative_outputs = self.forward(
                tensors,
                inference_kwargs={"n_samples": n_samples},
                get_inference_input_kwargs={"full_forward_pass": True},
                compute_loss=False,
            )
            qz, z = inference_outputs[MODULE_KEYS.QZ_KEY], inference_outputs[MODULE_KEYS.Z_KEY]
            log_pz = generative_outputs[MODULE_KEYS.PZ_KEY].log_prob(z).sum(dim=-1)
            log_px = self._log_likelihood(tensors[REGISTRY_KEYS.X_KEY], generative_outputs)
            log_weights.append((log_pz + log_px - qz.log_prob(z).sum(dim=-1)).reshape(n_samples, -1))
        log_likelihood = torch.logsumexp(torch.cat(log_weights), dim=0) - torch.log(torch.tensor(float(n_mc_samples)))
        return log_likelihood.mean().item() if return_mean else log_likelihood.cpu()
