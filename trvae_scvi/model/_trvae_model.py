"""``TRVAE``: construction, set-up and training. Answers, saving and query mapping live in the mixins."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from scvi.model.base import UnsupervisedTrainingMixin
from scvi.utils import setup_anndata_dsp, unsupported_if_adata_minified

from trvae_scvi._arguments import check_choice
from trvae_scvi._compat import QZM_KEY, QZV_KEY
from trvae_scvi._math._likelihoods import make_likelihood
from trvae_scvi._seeds import current_seed, seeded
from trvae_scvi.data._columns import check_keys
from trvae_scvi.data._registry import own_registry
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._setup import check_new_data, check_registered_data, register, warn_of_new_data
from trvae_scvi.module import TRVAEModule
from trvae_scvi.module._options import ModelOptions
from trvae_scvi.predict._find_levels import finding_levels
from trvae_scvi.train._own_data import check_values
from trvae_scvi.train._plan import TRVAETrainingPlan
from trvae_scvi.train._splitter import TRVAEDataSplitter
from trvae_scvi.train._training import train_model

from ._described import described
from ._inherited_mixin import InheritedMixin
from ._persistence_mixin import PersistenceMixin
from ._perturbation_mixin import PerturbationMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from trvae_scvi.nn import Network

__all__ = ["TRVAE"]


class TRVAE(UnsupervisedTrainingMixin, PerturbationMixin, PersistenceMixin, InheritedMixin):
    """Transfer VAE: predicts cells under a condition in which they were not measured.

    A conditional variational autoencoder whose decoder is regularised by the maximum mean discrepancy
    (MMD) between conditions (Lotfollahi et al., Bioinformatics 36:i610, 2020).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry of a set-up, or of any of scvi-tools' data modules with the condition as its batch, instead of `adata`,
        for a model that is given data later.
    n_hidden
        Width of the hidden layers, or one width for each of `n_layers`, input side first; the decoder mirrors them.
    n_latent
        Dimensions of the latent space.
    n_layers
        Number of hidden layers of encoder and decoder.
    dropout_rate
        Dropout after every hidden layer.
    gene_likelihood
        One of the following:

        * ``"nb"`` - negative binomial counts
        * ``"zinb"`` - zero-inflated negative binomial counts
        * ``"poisson"`` - Poisson counts
        * ``"mse"`` - normal with unit variance, for log-normalised or scaled data
        * ``"bernoulli"`` - for values from 0 to 1, such as the pixels of an image
    dispersion
        ``"gene"`` for one dispersion a gene, ``"gene-batch"`` for one a gene and condition.
    encode_condition
        Whether condition and covariates enter the encoder, too, as in the paper's model. Predictions are about as good
        either way; without, cells of a query lie where their expression puts them, whatever is trained.
    condition_layer
        Where the condition enters the decoder. Into the ``"first"`` layer, as published, or into the
        ``"output"`` layer: there every condition adds to each variable an offset that all cells share, its prior
        learned from the data, and a deviation by the cell's last hidden layer. Covariates always enter the first layer.
    response_scale
        How much responses may differ between cells, with ``condition_layer="output"``: standard deviation of a normal
        prior on the difference of two conditions' weights for the last hidden layer, on the scale of log means.
    condition_features
        A table of numbers with a row for every condition, 0 for the control, and for further ones that were not
        measured but are to be predicted; see "Conditions that were not measured" in the docs.
    normalization
        ``"layer"``, ``"batch"`` or ``None``, after every hidden linear map.
    nonnegative_output
        With ``"mse"``: whether the decoded mean passes a ReLU.
    mmd_on
        Where conditions are matched: in ``"y"``, the decoder's first layer, as published, in ``"z"``, or ``None``.
    mmd_pairs
        ``"all"`` pairs of conditions, or the name of one condition that the others are matched with.
    mmd_kernel
        ``"trvae"``, the 19 published bandwidths, or ``"median"``, five around the median distance. Most published ones
        are constant on distances that occur, so that a weight counts about three times as much with ``"median"``.
    mmd_balance_labels
        Whether to match the conditions label by label in equal shares, so that a difference in their
        composition is not taken for an effect. Needs `labels_key`; ``None`` does it where there is one.
    mmd_weight
        Weight of the mean MMD over pairs. 0 makes a plain conditional VAE.
    kl_weight
        Weight of the KL divergence after its warm-up.
    reconstruction_weight
        Weight of the negative log-likelihood.
    network
        What stands before the encoder's layers and after the decoder's, e.g. :class:`~trvae_scvi.nn.ConvNetwork` for
        images; ``None`` for nothing. With ``condition_layer="output"`` the condition enters the last layer before it.
    extra_payload_autotune
        Set by scvi-tools' autotune where it scores the latent space with scib-metrics.

    Raises
    ------
    TypeError, ValueError
        If an option has the wrong type or an unknown value, label balancing lacks labels, or a count likelihood is
        given anything but counts with at least one in every cell.

    Warns
    -----
    UserWarning
        If a column of `condition_features` rules all distances, or ``"mse"`` gets what looks like counts.

    Notes
    -----
    Initial weights and training follow ``scvi.settings.seed`` (0 where it is not set) and nothing else:
    equal seed, batch size, device and number of threads give equal results.

    In the methods inherited from scvi-tools, "batch" means the condition, but for `batch_size`:

    * `transform_batch` decodes all cells with a condition, or the mean over a list of them. Unlike
      :meth:`predict_perturbation` that is the decoder's mean and keeps nothing of a cell's own counts.
    * `library_size` of :meth:`get_normalized_expression` is 1 by default, which gives shares of a cell's counts;
      ``"latent"`` takes the cell's own total. In :meth:`predict_perturbation` ``None`` does.
    * `batch_correction`, `batchid1` and `batchid2` of :meth:`differential_expression` name conditions to decode with.
      It compares measured cells; a predicted effect is that of :meth:`get_perturbation_effect`.
    * :meth:`get_elbo`, :meth:`get_marginal_ll` and :meth:`get_reconstruction_error` are without MMD and weights, and
      :meth:`get_latent_library_size` needs ``give_mean=False``: the observed total is used.

    Examples
    --------
    The examples of the methods go on from here. Leave `max_epochs` out for a model to rely on.

    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50).adata
    >>> tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    >>> model = tv.TRVAE(adata)
    >>> model.train(max_epochs=2)
    >>> control = adata[adata.obs["condition"] == "control"]
    >>> prediction = model.predict_perturbation(control, target="stimulated")
    >>> prediction.shape, prediction.obs["condition"].unique().tolist()
    ((300, 50), ['stimulated'])
    >>> adata.obsm["X_trvae"] = model.get_latent_representation()
    """

    _module_cls = TRVAEModule
    _data_splitter_cls = TRVAEDataSplitter
    _training_plan_cls = TRVAETrainingPlan
    _LATENT_QZM_KEY, _LATENT_QZV_KEY = QZM_KEY, QZV_KEY

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        n_hidden: int | Sequence[int] = 128,
        n_latent: int = 10,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        gene_likelihood: Literal["nb", "zinb", "poisson", "mse", "bernoulli"] = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        encode_condition: bool = False,
        condition_layer: Literal["output", "first"] = "output",
        response_scale: float = 0.03,
        condition_features: pd.DataFrame | dict[str, Any] | None = None,
        normalization: Literal["layer", "batch"] | None = "layer",
        nonnegative_output: bool = False,
        mmd_on: Literal["y", "z"] | None = "y",
        mmd_pairs: str = "all",
        mmd_kernel: Literal["trvae", "median"] = "median",
        mmd_balance_labels: bool | None = None,
        mmd_weight: float = 10.0,
        kl_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        network: Network | None = None,
        extra_payload_autotune: bool = False,
    ) -> None:
        given = dict(locals())  # before there are others than the arguments
        options = ModelOptions.of_model(given)
        if adata is None and registry is not None:
            registry = {**own_registry(registry), "model_name": type(self).__name__}
        super().__init__(adata, registry if adata is None else None)
        schema = Schema.of(self.registry_)
        conditions = list(schema.conditions)
        check_choice("mmd_pairs", mmd_pairs, ["all", *conditions])
        options = options.balancing(mmd_balance_labels, has_labels=schema.labels_key is not None)
        self.features_ = given["condition_features"] = described(condition_features, options, conditions)
        self.nonnegative_ = gene_likelihood != "mse"
        if self.adata is not None and self.minified_data_type is None:
            self.nonnegative_ = check_values(self.adata, schema.layer, make_likelihood(gene_likelihood))
        self.trvae_scvi_version_ = version("trvae-scvi")
        with seeded(current_seed()):
            self.module = TRVAEModule(
                len(schema.var_names),
                n_batch=len(conditions),
                n_cats_per_cov=[len(names) for names in schema.covariates.values()],
                n_continuous_cov=len(schema.continuous_covariates),
                use_size_factor_key=schema.size_factor_key is not None,
                mmd_reference=None if mmd_pairs == "all" else conditions.index(mmd_pairs),
                **vars(options),
            )
        self.module.minified_data_type = self.minified_data_type
        # `data/_model.py` says what these are
        self.measured_: np.ndarray | None = None
        self.levels_: dict[str, np.ndarray] | None = None
        self.process_: dict[str, Any] | None = None
        self.surgery_: dict[str, bool] | None = None
        self._model_summary_string = (
            f"TRVAE with conditions {conditions}: hidden layers {list(options.hidden_sizes)}, n_latent: {n_latent}, "
            f"gene_likelihood: {gene_likelihood}, mmd_on: {mmd_on}, mmd_weight: {mmd_weight}, kl_weight: {kl_weight}."
        )
        self.init_params_ = self._get_init_params(given)

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        condition_key: str = "condition",
        *,
        layer: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """%(summary)s.

        Parameters
        ----------
        %(param_adata)s
        condition_key
            Column of `adata.obs` with the condition every cell was measured under. It is registered as
            scvi-tools' batch, so that ``transform_batch`` of the inherited methods means the condition.
        %(param_layer)s
        labels_key
            Column with cell types, worth giving where they are known: batches then hold more cells of the
            rare ones, the MMD is balanced over them, and a type not measured under a condition is predicted with
            regard to what others share. Labels never enter encoder or decoder.
        %(param_size_factor_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        **kwargs
            Used by scvi-tools when it repeats a set-up on other data.

        Raises
        ------
        KeyError
            If a column or layer is not there; the message lists those that are.
        TypeError
            If an argument has the wrong type or an unknown name, a continuous covariate is no number, `adata` was
            opened lazily, or its values are a Dask array of sparse chunks.
        ValueError
            If `adata` is a view or empty, variable names repeat, values are NaN, infinite or beyond single precision, a
            column is incomplete or named twice, size factors are not positive, there is one condition only, a condition
            has fewer than three cells or a covariate a category without any (unused categories have none), or the
            column of conditions is that of the labels or a covariate, too.

        Warns
        -----
        UserWarning
            If the values are no counts while a layer or `raw` holds some, names of categories differ only by blanks or
            case or read as if they were missing, or no category of a column connects some of the conditions, so that
            the effects of both cannot be told apart.

        Examples
        --------
        >>> cells = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50).adata
        >>> cells.layers["counts"] = cells.X.copy()
        >>> tv.TRVAE.setup_anndata(cells, "condition", layer="counts", labels_key="cell_type")
        """
        categorical_covariate_keys = check_keys("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check_keys("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())
        arguments, source_registry = setup_method_args["setup_args"], kwargs.pop("source_registry", None)
        if source_registry is not None:
            schema = Schema.of({**source_registry, "setup_args": arguments})
            check_registered_data(adata, schema, extend_categories=kwargs.get("extend_categories", False))
        elif kwargs:
            msg = f"setup_anndata() got unknown arguments {list(kwargs)}; the condition's column is `condition_key`."
            raise TypeError(msg)
        else:
            warn_of_new_data(adata, arguments, check_new_data(adata, arguments))
        cls.register_manager(register(adata, setup_method_args, source_registry=source_registry, **kwargs))

    @unsupported_if_adata_minified
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 512,
        early_stopping: bool = True,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_config: Any = None,
        plan_kwargs: dict[str, Any] | None = None,
        datamodule: pl.LightningDataModule | None = None,
        trainer_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Batches hold equally many cells of every condition. The KL divergence gains weight over the first third of the
        epochs, the learning rate follows one cycle.

        Parameters
        ----------
        max_epochs
            Passes through the training cells. Defaults to 60 for 20,000 cells and in proportion more for fewer (at most
            400), fewer for more (at least 10).
        accelerator, devices
            As for Lightning: ``"cpu"``, ``"gpu"``, ``"mps"``, ``"auto"``.
        train_size, validation_size
            Shares of the cells of every condition. By default 0.9 and the rest, or what the other one leaves; what
            remains of one is a test set.
        shuffle_set_split
            Whether to draw the sets at random, or in the order of the cells.
        load_sparse_tensor
            Whether to move sparse data to the device as such and make them dense there.
        batch_size
            Cells a step, on every device. The MMD is estimated within a batch, so that it should not be small.
        early_stopping
            Whether to stop when the validation loss, the whole objective with its final weights, has not fallen for a
            quarter of `max_epochs`, and to restore the weights with the lowest one. Both count only once the KL warm-up
            is over. `early_stopping_monitor`, `early_stopping_mode` and `early_stopping_warmup_epochs` set other rules
            for both, `early_stopping_patience` and `early_stopping_min_delta` for when to stop.
        datasplitter_kwargs
            Further arguments of :class:`~scvi.dataloaders.DataSplitter`: `external_indexing` and `pin_memory`.
        plan_config, trainer_config
            As upstream: settings that `plan_kwargs` and the trainer's override.
        plan_kwargs
            Arguments of the training plan: `lr`, `weight_decay`, `eps`, `lr_schedule`,
            `n_epochs_kl_warmup`, `max_kl_weight` and those of :class:`~scvi.train.TrainingPlan`.
        datamodule
            Where the cells come from instead of an AnnData: what :meth:`setup_annbatch` gives, or another of
            scvi-tools' data modules, with the registry the model was made with. One that has no `set_split` or
            `set_batch_size` divides and batches its cells itself, whatever is said here; only that of
            :meth:`setup_annbatch` balances conditions. `datasplitter_kwargs` and `load_sparse_tensor` are not used.
        trainer_kwargs
            Further arguments, of :class:`~scvi.train.Trainer`, e.g. `callbacks`, or `ckpt_path` to resume from a
            Lightning checkpoint. Gradients are clipped at a norm of 100 unless `gradient_clip_val` says otherwise.

        Raises
        ------
        TypeError
            If an argument has the wrong type, or `plan_kwargs` or `datasplitter_kwargs` an unknown name.
        ValueError
            If `batch_size` or `max_epochs` is too small, shares of cells are not from 0 to 1 in sum, `precision` or
            `early_stopping_mode` is none of those there are, cells, a registered column or values changed since the
            set-up, early stopping has no validation cells, the data are minified, nothing is left to train, no batch
            was trained on, weights are to be averaged in a frozen model, or several devices are to share the model by
            another strategy than DDP.
        NotImplementedError
            If several devices are to be served by a data module.
        KeyboardInterrupt
            If the user stops training (Ctrl-C, the stop button of a notebook) - after the best weights so far (the
            latest ones without early stopping, and during the warm-up) are restored, and the model is marked as
            trained, so that it can be used, saved or trained further. Before the first epoch ends it stays as it was.

        Warns
        -----
        UserWarning
            If no batch, or a condition or label, had enough cells to estimate the MMD, or if `max_epochs` is below a
            third of the default.

        Notes
        -----
        Several devices need one of Lightning's DDP strategies, see "Several devices" in the docs. Threads of a process
        train one after the other, as torch has one source of random numbers for all of them.

        Examples
        --------
        >>> tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
        >>> model = tv.TRVAE(adata)
        >>> model.train(max_epochs=2, batch_size=256, plan_kwargs={"lr": 1e-3})
        >>> len(model.history["validation_loss"])
        2
        """
        given = dict(locals())
        arguments = {name: value for name, value in given.items() if name not in ("self", "__class__")}
        shown = trainer_kwargs.get("enable_progress_bar", True)
        with finding_levels(self, has_cells=datamodule is None and self.surgery_ is None, progress_bar=shown):
            train_model(self, super().train, self._validate_own_anndata, **arguments)
