"""The generative model, as a scvi-tools module. Knows tensors, not AnnData."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseMinifiedModeModuleClass, LossOutput, auto_move_data
from torch import nn
from torch.distributions import kl_divergence

from trvae_scvi._compat import MODULE_KEYS
from trvae_scvi._math._likelihoods import Outputs, make_likelihood
from trvae_scvi._math._precision import no_autocast
from trvae_scvi._switch import Switch

from ._networks import Decoder, Encoder
from ._objective import condition_prior, discrepancy
from ._options import ModelOptions
from ._tables import Table, take_over, train_new_rows_only

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TRVAEModule", "means_only"]

#: Inside ``with means_only():`` inference draws nothing: another thread may be training, with the same random numbers.
means_only = Switch("means_only")

_OPTIONS = frozenset(field.name for field in dataclasses.fields(ModelOptions))


class TRVAEModule(BaseMinifiedModeModuleClass):
    r"""Conditional VAE with an MMD penalty between conditions.

    .. math::

        z \sim q(z \mid x, s), \quad y = g_1(z, s), \quad x \sim p(x \mid g_2(y))

        \mathcal{L} = \overline{-\eta \log p(x \mid z, s) + \alpha\, \mathrm{KL}(q \,\|\, N(0, I))}
        + \beta\, \overline{\mathrm{MMD}(\{y_s\}, \{y_t\})}
        + \overline{(\textstyle\sum_g d_{sg}^2 / 2 \tau_{sg}^2 + \|U_s\|^2 / \rho^2) / n_s}

    with :math:`\eta, \alpha, \beta` the `reconstruction_weight`, `kl_weight` and `mmd_weight`
    (Lotfollahi et al. 2020). The last term is a normal prior on the offsets d and responses U of the output layer,
    :math:`\tau` learned from the conditions' means before training, :math:`\rho` the `response_scale` and
    :math:`n_s` the number of training cells of condition s; with ``condition_layer="first"``, as published, it is
    absent. The condition is scvi-tools' batch.

    Parameters
    ----------
    n_input, n_batch
        Numbers of variables and of conditions.
    n_cats_per_cov
        Numbers of categories of further categorical covariates.
    n_continuous_cov
        Number of continuous covariates.
    use_size_factor_key
        Whether means are scaled by given size factors (softplus output) instead of the observed
        library size (softmax output).
    mmd_reference
        Code of the condition to compare every other with, ``None`` for all pairs.
    **options
        Those of :class:`~trvae_scvi.TRVAE` but for the ones above, with `hidden_sizes`, the widths of the hidden layers
        from the input on, in place of `n_hidden` and `n_layers`. They can be read as attributes, and those of the
        objective set.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown, has the wrong type or a value that it does not take.

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
        use_size_factor_key: bool = False,
        mmd_reference: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = given = ModelOptions(**options)
        self.likelihood = make_likelihood(given.gene_likelihood, nonnegative_output=given.nonnegative_output)
        self.use_size_factor_key = use_size_factor_key
        self.mmd_reference = mmd_reference
        self.n_batch = n_batch
        n_categories = (n_batch, *n_cats_per_cov)
        self.encoder = Encoder(n_input, given, n_categories=n_categories, n_continuous=n_continuous_cov)
        self.decoder = Decoder(
            n_input,
            given,
            n_categories=n_categories,
            n_continuous=n_continuous_cov,
            zero_inflation=self.likelihood.has_zero_inflation,
        )
        self.log_theta: nn.Parameter | Table | None = None
        if self.likelihood.has_dispersion:
            by_gene = given.dispersion == "gene"
            self.log_theta = nn.Parameter(torch.zeros(n_input)) if by_gene else Table(n_batch, n_input)
        self.register_buffer("n_cells", torch.zeros(n_batch), persistent=False)  # of the conditions, 0: not known
        self.is_frozen = False

    def __getattr__(self, name: str) -> Any:
        # scvi-tools reads some options as attributes of the module
        if name in _OPTIONS and "options" in self.__dict__:
            return getattr(self.options, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OPTIONS and "options" in self.__dict__:
            name, value = "options", dataclasses.replace(self.options, **{name: value})
        super().__setattr__(name, value)

    def adopt(self, reference: TRVAEModule) -> bool:
        """Take over all parameters of a module with at most as many categories; return whether some are new here."""
        for own, theirs in zip(self.decoder.condition_layers(), reference.decoder.condition_layers(), strict=True):
            own.use(type(theirs.response))
        return take_over(self, reference)

    @property
    def takes_sparse(self) -> bool:
        """Whether minibatches may be sparse."""
        return self.likelihood.models_counts and self.options.network is None

    def condition_tables(self) -> list[Table]:
        """The tables of the decoder and the dispersion with a row for every condition."""
        own = [self.log_theta] if isinstance(self.log_theta, Table) else []
        return [*self.decoder.condition_tables(), *own]

    def freeze(self, *, encoder_first_layer: bool = True, decoder_first_layer: bool = True) -> None:
        """Leave only rows of new categories to training, and the first layers if asked.

        Frozen parameters never get a gradient, so that no optimizer can move them; normalisation and dropout stay as
        they are in evaluation.
        """
        self.is_frozen = True
        train_new_rows_only(self)
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
        codes = self._codes(batch_index, cat_covs) if self.options.encode_condition else []
        mean, variance = self.encoder(torch.log1p(x) if self.likelihood.models_counts else x, codes, cont_covs)
        ones = x.new_ones(x.shape[1], 1, layout=torch.strided)
        with no_autocast(x):
            total = x @ ones if self.likelihood.models_counts else torch.ones_like(x[:, :1])  # also of a sparse x
        return self._sampled(mean, variance, total, n_samples)

    @auto_move_data
    def _cached_inference(
        self, qzm: torch.Tensor, qzv: torch.Tensor, observed_lib_size: torch.Tensor, n_samples: int = 1
    ) -> dict[str, Any]:
        total = observed_lib_size if self.likelihood.models_counts else torch.ones_like(observed_lib_size)
        return self._sampled(qzm, qzv, total, n_samples)

    @staticmethod
    def _sampled(mean: torch.Tensor, variance: torch.Tensor, total: torch.Tensor, n_samples: int) -> dict[str, Any]:
        qz = torch.distributions.Normal(mean, variance.sqrt())
        library = torch.log(total)
        if n_samples == 1:
            z = mean if means_only else qz.rsample()
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
        shift: torch.Tensor | None = None,
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
        shift
            What to add to the decoder's output, with size factors to the logarithm of its mean, `n x n_input`.

        Returns
        -------
        ``px`` and ``pz``, distributions; ``first_layer``, the activations `y`; ``theta`` in the shape it is stored in.
        """
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * transform_batch
        codes = self._codes(batch_index, cat_covs)
        if shift is not None and size_factor is not None and self.use_size_factor_key:
            size_factor, shift = size_factor * shift.exp(), None  # no logarithm of a mean is decoded
        y, output, zi_logits = self.decoder(z, codes, cont_covs, shift)
        theta = None
        if self.log_theta is not None:
            theta = torch.exp(self.log_theta(codes[0]) if isinstance(self.log_theta, Table) else self.log_theta)
        outputs = Outputs(output, library, size_factor if self.use_size_factor_key else None, theta, zi_logits)
        return {
            MODULE_KEYS.PX_KEY: self.likelihood.distribution(outputs),
            MODULE_KEYS.PZ_KEY: torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z)),
            "first_layer": y,
            "theta": theta,
        }

    def _log_likelihood(self, x: torch.Tensor, generative_outputs: dict[str, Any]) -> torch.Tensor:
        """Of every cell, `n`, or `n_samples x n` for several samples of `z`, which are so many more cells."""
        px, theta = generative_outputs[MODULE_KEYS.PX_KEY], generative_outputs["theta"]
        shape = generative_outputs["first_layer"].shape[:-1]
        if len(shape) > 1:
            x = (x.to_dense() if x.layout == torch.sparse_csr else x).repeat(shape[0], 1)
            theta = theta if theta is None or theta.dim() == 1 else theta.repeat(shape[0], 1)
        return self.likelihood.log_prob(x, px, theta).view(shape)

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
            Number of training cells, for priors of conditions of which it is not known; the training plan passes it.
        whole_objective
            Whether to give what training minimises, with the prior of what conditions do, which is no matter of the
            cells that an answer is about. The training plan asks for it, for training and validation cells.
        kl_weight
            Weight of the KL divergence in the loss. The training plan passes the value its warm-up has
            reached, which ends at the module's `kl_weight`.
        """
        reconstruction = -self._log_likelihood(tensors[REGISTRY_KEYS.X_KEY], generative_outputs)
        kl = kl_divergence(inference_outputs[MODULE_KEYS.QZ_KEY], torch.distributions.Normal(0.0, 1.0)).sum(dim=-1)
        z, y = inference_outputs[MODULE_KEYS.Z_KEY], generative_outputs["first_layer"]
        mmd = discrepancy(self.options, z, y, tensors, reference=self.mmd_reference)
        cells = self.options.reconstruction_weight * reconstruction + kl_weight * kl
        prior = mmd.new_zeros(())
        if whole_objective:
            scale = self.options.response_scale
            prior = condition_prior(self.decoder, tensors, scale=scale, n_cells=self.n_cells, n_obs=n_obs)
        extra_metrics = {"mmd": mmd, "condition_prior": prior}
        if self.options.extra_payload_autotune:
            extra_metrics |= {
                "z": inference_outputs[MODULE_KEYS.Z_KEY],
                "batch": tensors[REGISTRY_KEYS.BATCH_KEY],
                "labels": tensors[REGISTRY_KEYS.LABELS_KEY],
            }
        return LossOutput(
            loss=cells.mean() + self.options.mmd_weight * mmd + prior,
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
        """Posterior predictive draws on the CPU: `n x n_input`, or `n x n_input x n_samples` for several samples."""
        asked: dict[str, Any] = {"inference_kwargs": {"n_samples": n_samples}, "generative_kwargs": generative_kwargs}
        _, generative_outputs = self.forward(tensors, compute_loss=False, **asked)
        samples = self.likelihood.draw(generative_outputs[MODULE_KEYS.PX_KEY])
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
        log_likelihood = torch.logsumexp(torch.cat(log_weights), dim=0) - math.log(n_mc_samples)
        return log_likelihood.mean().item() if return_mean else log_likelihood.cpu()
