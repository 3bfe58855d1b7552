"""``TRVAE``: set-up and construction. Training, answers, query mapping and loading live in the mixins."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)
from scvi.model.base import BaseMinifiedModeModelClass
from scvi.utils import setup_anndata_dsp

from trvae_scvi._arguments import check_boolean, check_choice, check_integer, check_number
from trvae_scvi._compat import (
    DataManager,
    get_minify_type,
    registered_categories,
    registered_covariate_counts,
    registered_covariates,
    registered_var_names,
)
from trvae_scvi._math._mmd import MIN_CELLS, MMD_KERNELS
from trvae_scvi.data._columns import (
    check_anndata,
    check_condition,
    check_covariates,
    check_keys,
    check_known_conditions,
    check_known_covariate,
    check_known_labels,
    check_not_condition,
    check_not_view,
)
from trvae_scvi.data._designs import warn, warn_of_few_cells, warn_of_nesting, warn_of_similar_names
from trvae_scvi.data._gene_names import check_var_names
from trvae_scvi.data._sampler import seeded
from trvae_scvi.data._values import (
    check_finite_values,
    check_storage,
    check_summary,
    counts_elsewhere,
    get_values,
    place_of,
    summarize_values,
)
from trvae_scvi.module._networks import CONDITION_LAYERS, NORMALIZATIONS
from trvae_scvi.module._trvae_module import DISPERSIONS, GENE_LIKELIHOODS, MMD_LOCATIONS, TRVAEModule
from trvae_scvi.nn import Network
from trvae_scvi.predict._combination import CombinationMixin
from trvae_scvi.predict._effect import EffectMixin
from trvae_scvi.train._datamodule import DataModuleMixin
from trvae_scvi.train._training import TrainingMixin

from ._inherited import InheritedMixin
from ._loading import LoadingMixin
from ._surgery import SurgeryMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scvi.data import AnnDataManager
    from scvi.data.fields import BaseAnnDataField

__all__ = ["TRVAE"]


class TRVAE(
    CombinationMixin,
    EffectMixin,
    SurgeryMixin,
    LoadingMixin,
    InheritedMixin,
    TrainingMixin,
    DataModuleMixin,
    BaseMinifiedModeModelClass,
):
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
        Width of the hidden layers, or one width for each of `n_layers`, input side first; the decoder
        mirrors them.
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
        Whether condition and covariates enter the encoder, too, and not only the decoder, as in the paper's
        model. Predictions are about as good either way; without, cells of a query lie where their expression
        puts them, whatever is trained.
    condition_layer
        Where the condition enters the decoder. Into the ``"first"`` layer, as published, or into the
        ``"output"`` layer: there every condition adds to each variable an offset that all cells share, and a
        deviation that depends on the cell's last hidden layer. Covariates always enter the first layer.
    response_scale
        How much responses may differ between cells, with ``condition_layer="output"``: standard deviation
        of a normal prior on the difference of two conditions' weights for the last hidden layer, on the
        scale of log means. Towards 0 a condition does the same to all cells.
    normalization
        ``"layer"``, ``"batch"`` or ``None``, after every hidden linear map.
    nonnegative_output
        With ``"mse"``: whether the decoded mean passes a ReLU.
    mmd_on
        Where conditions are matched: ``"y"``, the decoder's first layer, as published; ``"z"``, the
        sampled latent space; ``None``, nowhere.
    mmd_pairs
        ``"all"`` pairs of conditions, or the name of one condition that the others are matched with.
    mmd_kernel
        ``"trvae"``, the 19 published bandwidths, or ``"median"``, five around the median distance. Most of
        the published ones are constant on the distances that occur, so that a weight counts about three
        times as much with ``"median"``.
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

    Notes
    -----
    Initial weights and training follow ``scvi.settings.seed`` (0 where it is not set) and nothing else:
    equal seed, batch size, device and number of threads give equal results.

    In the methods inherited from scvi-tools, "batch" means the condition, but for `batch_size`, the number of cells
    that are computed at once:

    * `transform_batch` decodes all cells with a condition, or the mean over a list of them. Unlike
      :meth:`predict_perturbation` that is the decoder's mean and keeps nothing of a cell's own counts.
    * `library_size` of :meth:`get_normalized_expression` is 1 by default, which gives shares of a cell's counts;
      ``"latent"`` takes the cell's own total. In :meth:`predict_perturbation` ``None`` does.
    * `batch_correction`, `batchid1` and `batchid2` of :meth:`differential_expression` name conditions to decode with.
      It compares measured cells; for the predicted effect of a condition there is :meth:`get_perturbation_effect`.
    * :meth:`get_elbo`, :meth:`get_marginal_ll` and :meth:`get_reconstruction_error` are those of the likelihood,
      without the MMD and the weights of the objective.
    * :meth:`get_latent_library_size` needs ``give_mean=False``: the observed total is used, none is inferred.

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
    _LATENT_QZM_KEY = "trvae_latent_qzm"
    _LATENT_QZV_KEY = "trvae_latent_qzv"

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
        check_choice("gene_likelihood", gene_likelihood, GENE_LIKELIHOODS)
        check_choice("dispersion", dispersion, DISPERSIONS)
        check_choice("condition_layer", condition_layer, CONDITION_LAYERS)
        check_number("response_scale", response_scale, positive=True)
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_choice("mmd_on", mmd_on, MMD_LOCATIONS)
        check_choice("mmd_kernel", mmd_kernel, MMD_KERNELS)
        if network is not None and not isinstance(network, Network):
            msg = f"Expected `network` to be like `trvae_scvi.nn.ConvNetwork`, found a {type(network).__name__}."
            raise TypeError(msg)
        hidden_sizes = _hidden_sizes(n_hidden, n_layers)
        check_integer("n_latent", n_latent, 1)
        check_number("dropout_rate", dropout_rate, below=1.0)
        check_number("mmd_weight", mmd_weight)
        check_number("kl_weight", kl_weight)
        check_number("reconstruction_weight", reconstruction_weight)
        check_boolean("encode_condition", encode_condition)
        check_boolean("nonnegative_output", nonnegative_output)
        if mmd_balance_labels is not None:
            check_boolean("mmd_balance_labels", mmd_balance_labels)
        super().__init__(adata, self._own_registry(registry) if adata is None else None)
        conditions = list(registered_categories(self.registry_, REGISTRY_KEYS.BATCH_KEY))
        if mmd_pairs != "all":
            check_choice("mmd_pairs", mmd_pairs, ["all", *conditions])
        has_labels = self.registry_["setup_args"]["labels_key"] is not None
        if mmd_balance_labels and not has_labels:
            msg = "mmd_balance_labels=True needs labels: name their column with `setup_anndata(adata, labels_key=...)`."
            raise ValueError(msg)
        #: Whether the registered data have no negative value; counterfactuals with "mse" are clipped accordingly.
        self.nonnegative_ = self._check_expression(gene_likelihood)
        #: How the model was made out of a reference; ``None`` for one that was not.
        self.surgery_: dict[str, bool] | None = None
        #: Latent posterior of some training cells, see :meth:`store_reference_summary`.
        self.reference_summary_: dict[str, np.ndarray] | None = None
        #: Version of trvae-scvi the model was made with.
        self.trvae_scvi_version_ = version("trvae-scvi")
        with seeded():
            self.module = TRVAEModule(
                int(self.summary_stats.n_vars),
                n_batch=len(conditions),
                n_cats_per_cov=registered_covariate_counts(self.registry_),
                n_continuous_cov=int(self.summary_stats.get("n_extra_continuous_covs", 0)),
                hidden_sizes=hidden_sizes,
                n_latent=n_latent,
                dropout_rate=dropout_rate,
                gene_likelihood=gene_likelihood,
                dispersion=dispersion,
                encode_condition=encode_condition,
                condition_layer=condition_layer,
                response_scale=response_scale,
                normalization=normalization,
                nonnegative_output=nonnegative_output,
                use_size_factor_key=self.registry_["setup_args"]["size_factor_key"] is not None,
                mmd_on=mmd_on,
                mmd_reference=None if mmd_pairs == "all" else conditions.index(mmd_pairs),
                mmd_kernel=mmd_kernel,
                mmd_balance_labels=has_labels if mmd_balance_labels is None else mmd_balance_labels,
                mmd_weight=mmd_weight,
                kl_weight=kl_weight,
                reconstruction_weight=reconstruction_weight,
                network=network,
                extra_payload_autotune=extra_payload_autotune,
            )
        self.module.minified_data_type = self.minified_data_type
        #: Labels x conditions, whether there were training cells; ``None`` without labels or where it is not known.
        self.measured_: np.ndarray | None = None
        self._model_summary_string = (
            f"TRVAE with conditions {conditions}: hidden layers {list(hidden_sizes)}, n_latent: {n_latent}, "
            f"gene_likelihood: {gene_likelihood}, dispersion: {dispersion}, mmd_on: {mmd_on}, "
            f"mmd_weight: {mmd_weight}, kl_weight: {kl_weight}."
        )
        # last, as scvi-tools saves the constructor's arguments from these locals
        self.init_params_ = self._get_init_params(locals())

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
            rare ones, and the MMD is balanced over them. Labels never enter encoder or decoder.
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
        cls.register_manager(cls._build_manager(adata, setup_method_args, **kwargs))

    @classmethod
    def _build_manager(
        cls,
        adata: AnnData,
        setup_method_args: dict[str, Any],
        *,
        source_registry: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AnnDataManager:
        """Check `adata` and register its fields, as those of `source_registry` if that is given."""
        if source_registry is None and kwargs:
            msg = f"setup_anndata() got unknown arguments {list(kwargs)}; the condition's column is `condition_key`."
            raise TypeError(msg)
        arguments = setup_method_args["setup_args"]
        known = None
        if source_registry is not None and not kwargs.get("extend_categories", False):
            known = registered_categories(source_registry, REGISTRY_KEYS.BATCH_KEY)
        cls._check_data(adata, source_registry, known, **arguments)
        manager = DataManager(fields=cls._fields(adata, arguments), setup_method_args=setup_method_args)
        with warnings.catch_warnings():
            if source_registry is not None:  # what is registered again is not trained on, or frozen
                warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            manager.register_fields(adata, source_registry=source_registry, **kwargs)
        return manager

    @staticmethod
    def _check_data(
        adata: AnnData,
        source_registry: dict[str, Any] | None,
        known_conditions: np.ndarray | None,
        *,
        condition_key: str,
        layer: str | None,
        **columns: Any,
    ) -> None:
        check_anndata(adata)
        check_not_view(adata)
        new_data = source_registry is None
        check_var_names(adata, None if source_registry is None else registered_var_names(source_registry))
        condition = check_condition(adata, condition_key, new_data=new_data)
        if known_conditions is not None:
            check_known_conditions(condition, known_conditions)
        check_covariates(adata, **columns, new_data=new_data)
        if new_data:
            check_not_condition(condition_key, columns)
        if source_registry is not None and known_conditions is not None:
            for key, known in registered_covariates(source_registry).items():
                check_known_covariate(adata.obs[key], known)
            if columns["labels_key"] is not None:
                labels = registered_categories(source_registry, REGISTRY_KEYS.LABELS_KEY)
                check_known_labels(adata.obs[columns["labels_key"]], labels)
        values = get_values(adata, layer)
        check_storage(values, place_of(layer))
        summary = summarize_values(values)
        check_finite_values(summary, place_of(layer))
        if not new_data:
            return
        elsewhere = counts_elsewhere(adata, layer, summary)
        if elsewhere is not None:
            warn(elsewhere)
        named = [columns["labels_key"]] if columns["labels_key"] is not None else []
        named += list(columns["categorical_covariate_keys"] or ())
        for key in dict.fromkeys([condition_key, *named]):
            warn_of_similar_names(key, adata.obs[key].unique())
        warn_of_nesting(adata.obs, condition_key, named)

    @classmethod
    def _fields(cls, adata: AnnData, arguments: dict[str, Any]) -> list[BaseAnnDataField]:
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, arguments["layer"], is_count_data=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, arguments["condition_key"]),
            CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, arguments["labels_key"]),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, arguments["size_factor_key"], required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, arguments["categorical_covariate_keys"]),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, arguments["continuous_covariate_keys"]),
        ]
        minify_type = get_minify_type(adata)
        return fields if minify_type is None else fields + cls._get_fields_for_adata_minification(minify_type)

    def _check_expression(self, gene_likelihood: str, remark: str = "") -> bool:
        """Check that values and likelihood fit; return whether no value is negative."""
        if self.adata is None or self.minified_data_type is not None:
            return gene_likelihood != "mse"
        layer = self.registry_["setup_args"]["layer"]
        where = place_of(layer)
        summary = summarize_values(get_values(self.adata, layer))
        check_summary(summary, where + remark, gene_likelihood, self.adata, layer)
        if gene_likelihood == "mse" and summary.integer and summary.minimum >= 0:
            warnings.warn(
                f"{where} looks like raw counts, but gene_likelihood='mse' models log-normalised or scaled values. "
                "Use 'nb' for counts, or normalise first.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        return summary.minimum >= 0

    def _note_measured(self, *, was_trained: bool) -> None:
        """Take down under which conditions labels had training cells, in this training and in earlier ones."""
        counts = self._cells_by_label()
        if counts is None or self.registry_["setup_args"]["labels_key"] is None:
            return
        if not was_trained:
            self.measured_ = counts > 0
        elif self.measured_ is not None:  # else what earlier trainings had is not known
            self.measured_ = self.measured_ | (counts > 0)

    def _warn_of_few_cells(self) -> None:
        module, counts = self.module, self._cells_by_label()
        if counts is None or module.mmd_on is None or not module.mmd_weight:
            return
        labels, conditions = (
            list(registered_categories(self.registry_, key))
            for key in (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.BATCH_KEY)
        )
        warn_of_few_cells(counts, labels, conditions, MIN_CELLS, by_label=module.mmd_balance_labels)

    def _cells_by_label(self) -> np.ndarray | None:
        """Numbers of cells, labels x conditions; ``None`` without data."""
        if self.adata is None:
            return None
        keys = (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.BATCH_KEY)
        counts = np.zeros([len(registered_categories(self.registry_, key)) for key in keys], dtype=np.int64)
        np.add.at(counts, tuple(np.asarray(self.adata_manager.get_from_registry(key)).ravel() for key in keys), 1)
        return counts


def _hidden_sizes(n_hidden: int | Sequence[int], n_layers: int) -> tuple[int, ...]:
    check_integer("n_layers", n_layers, 1)
    several = np.ndim(n_hidden) == 1
    widths: list[Any] = list(n_hidden) if several else [n_hidden] * n_layers  # type: ignore[arg-type]
    if len(widths) != n_layers:
        msg = f"Expected `n_hidden` to be one width or one for each of n_layers={n_layers}, found {n_hidden!r}."
        raise ValueError(msg)
    for width in widths:
        check_integer("n_hidden", width, 1)
    return tuple(int(width) for width in widths)
