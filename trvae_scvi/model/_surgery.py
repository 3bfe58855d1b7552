"""Query mapping: a reference model learns the conditions and covariates of new data. A mixin for the model."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import check_boolean, check_integer, plain_list
from trvae_scvi._compat import (
    MODULE_KEYS,
    registered_categories,
    registered_covariates,
    registered_var_names,
    single_device,
    subset_genes,
)
from trvae_scvi.data._cells import CellsMixin
from trvae_scvi.data._columns import (
    check_anndata,
    check_column,
    check_condition,
    check_not_view,
    check_query_conditions,
    check_same_kind,
)
from trvae_scvi.data._designs import warn_of_similar_names
from trvae_scvi.data._gene_names import check_var_names
from trvae_scvi.data._sampler import current_seed
from trvae_scvi.data._values import check_summary, get_values, place_of, read_once, summarize_values
from trvae_scvi.mapping import align_genes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from anndata import AnnData

__all__ = ["SurgeryMixin"]

logger = logging.getLogger(__name__)

# Arguments of upstream's method that leave no choice here, with the one value that is taken and why.
_WITHOUT_CHOICE = {
    "freeze_dropout": (True, "dropout of what is frozen is always off; unfrozen=True trains with it"),
    "freeze_batchnorm_encoder": (True, "normalisation always stays as in the reference; unfrozen=True frees it"),
    "freeze_batchnorm_decoder": (True, "normalisation always stays as in the reference; unfrozen=True frees it"),
    "freeze_classifier": (True, "the model has no classifier"),
    "transfer_batch": (True, "conditions that the reference knows keep their parameters, new ones get their own"),
    "registry": (None, "the set-up is that of the reference"),
    "datamodule": (None, "a query is read from an AnnData"),
}


class SurgeryMixin(CellsMixin):
    """How :class:`~trvae_scvi.TRVAE` maps new data onto a trained model."""

    if TYPE_CHECKING:
        init_params_: dict[str, Any]
        is_trained_: bool
        nonnegative_: bool
        measured_: np.ndarray | None
        _cells_by_label: Callable[[], np.ndarray | None]
        reference_summary_: dict[str, np.ndarray] | None
        surgery_: dict[str, bool] | None

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike[str] | Self,
        *,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        freeze_expression: bool = True,
        freeze_decoder_first_layer: bool = True,
        match_reference: bool = False,
        **without_choice: Any,
    ) -> Self:
        """Make a model of new data out of a trained reference, without the reference's data.

        Conditions and categories of covariates that the reference does not know get parameters of their own, which
        start at the mean of the reference's. Only these are trained by :meth:`train`: whatever the reference model
        answers for its own conditions and covariates, the new model answers bit by bit alike (for equal batch size,
        threads, device and seed) once it is trained (scArches; Lotfollahi et al., Nat Biotechnol 40:121, 2022).

        Parameters
        ----------
        adata
            New data with the genes of the reference in its order, see :meth:`prepare_query_anndata`, and its columns.
            One condition is enough. The column of labels may be missing or empty; the new model then has none.
        reference_model
            Trained model, or the folder it was saved in.
        inplace_subset_query_vars
            Whether to reduce `adata` itself to the genes of the reference, in its order, first. All must be there.
        accelerator, device
            Where the new model is to be, as for :meth:`load`.
        unfrozen
            Train everything. Nothing then keeps the reference's answers.
        freeze_expression
            Whether the encoder's first layer is kept.
        freeze_decoder_first_layer
            Whether the decoder's first layer is kept.
        match_reference
            Match the new cells with cells of the reference by the MMD, too. The reference must keep some of them, see
            :meth:`store_reference_summary`.
        **without_choice
            Further arguments of upstream's method, such as ``freeze_dropout=True``: taken where they ask for what is
            done anyway, else refused with the reason.

        Returns
        -------
        A model of `adata`. If there is nothing to train, it is ready for use.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        TypeError
            If `reference_model` is no model of this class, nor a path, an argument is unknown, or a column holds
            another kind of values than in the reference (texts, whole numbers ...).
        ValueError
            If the reference is not trained, genes differ, a new condition has fewer than three cells, labels are
            missing for some cells, values do not fit the likelihood, `match_reference` lacks what it needs or could not
            have an effect, or an argument asks for what cannot be chosen.
        KeyError
            If a column or the layer is missing.

        Notes
        -----
        With ``encode_condition=False``, the default, the latent representation does not depend on what is trained here.
        Continuous covariates enter as they are: bring them to the scale they had in the reference. Dropout and
        normalisation are as in evaluation, unless `unfrozen`.

        Examples
        --------
        >>> query = adata[adata.obs["condition"] == "stimulated"].copy()
        >>> query.obs["condition"] = "another drug"
        >>> mapped = tv.TRVAE.load_query_data(query, model)
        >>> mapped.train(max_epochs=1)
        >>> prediction = mapped.predict_perturbation(adata, source="control", target="another drug")
        >>> prediction.obs["condition"].unique().tolist()
        ['another drug']
        """
        _check_without_choice(without_choice)
        flags = {
            "inplace_subset_query_vars": inplace_subset_query_vars,
            "unfrozen": unfrozen,
            "freeze_expression": freeze_expression,
            "freeze_decoder_first_layer": freeze_decoder_first_layer,
            "match_reference": match_reference,
        }
        for name, value in flags.items():
            check_boolean(name, value)
        where = single_device(accelerator, device)
        check_anndata(adata)
        reference = cls._reference(reference_model)
        if match_reference:
            reference._check_matching(adata)
        with read_once():
            model = cls._of_query(adata, reference, subset=inplace_subset_query_vars)
        grown = model.module.adopt(reference.module)
        model.surgery_ = {
            "unfrozen": unfrozen,
            "freeze_expression": freeze_expression,
            "freeze_decoder_first_layer": freeze_decoder_first_layer,
            "match_reference": match_reference,
        }
        model.reference_summary_ = reference.reference_summary_
        counts = model._cells_by_label() if model.registry_["setup_args"]["labels_key"] is not None else None
        model.measured_ = _measured(counts, reference.measured_, trains_all=unfrozen)
        model._apply_surgery()
        if match_reference:
            model._check_matching_has_effect()
        model.is_trained_ = not grown and not any(p.requires_grad for p in model.module.parameters())
        model.module.eval()
        moved: Any = model
        moved.to_device(where)
        return model

    @classmethod
    def _reference(cls, reference_model: str | os.PathLike[str] | Self) -> Self:
        if isinstance(reference_model, str | os.PathLike):
            model_cls: Any = cls
            reference_model = model_cls.load(reference_model, False, accelerator="cpu")
        if not isinstance(reference_model, cls):
            msg = (
                f"Expected `reference_model` to be a {cls.__name__} or the folder of one, found "
                f"{type(reference_model).__name__}."
            )
            raise TypeError(msg)
        if not reference_model.is_trained_:
            msg = "The reference is not trained: call its `train()` first."
            raise ValueError(msg)
        return reference_model

    @classmethod
    def _of_query(cls, adata: AnnData, reference: Self, *, subset: bool) -> Self:
        """A new model of the query with the reference's settings and, so far, weights of its own."""
        registry = dict(reference.registry_)
        arguments = dict(registry["setup_args"])
        settings = dict(reference.init_params_["non_kwargs"])
        labels_key = arguments["labels_key"]
        if labels_key is not None and (labels_key not in adata.obs or adata.obs[labels_key].isna().all()):
            level = logging.WARNING if settings["mmd_balance_labels"] else logging.INFO
            logger.log(level, "The query has no labels in %r: the new model is without labels.", labels_key)
            settings["mmd_balance_labels"] = arguments["labels_key"] = None
            fields = dict(registry["field_registries"])
            fields[REGISTRY_KEYS.LABELS_KEY] = {
                **fields[REGISTRY_KEYS.LABELS_KEY],
                "state_registry": {"categorical_mapping": np.array([0])},
            }
            registry["field_registries"] = fields
        names = registered_var_names(reference.registry_)
        whole = subset and bool(np.isin(names, adata.var_names).all()) and adata.var_names.is_unique
        cls._check_query(adata[:, names] if whole else adata, arguments, reference)
        if whole:
            check_not_view(adata)
            subset_genes(adata, names)
        model_cls: Any = cls
        model_cls.setup_anndata(adata, source_registry=registry, extend_categories=True, **arguments)
        model = model_cls(adata, **settings)
        model.nonnegative_ = reference.nonnegative_
        return model

    @staticmethod
    def _check_query(adata: AnnData, arguments: dict[str, Any], reference: SurgeryMixin) -> None:
        """Raise for what does not fit the reference, before anything is written into `adata`."""
        try:
            check_var_names(adata, registered_var_names(reference.registry_))
        except ValueError as error:
            error.add_note(
                "`TRVAE.prepare_query_anndata(adata, reference_model)` brings them to those of the reference."
            )
            raise
        condition = check_condition(adata, arguments["condition_key"], new_data=False)
        categories = {arguments["condition_key"]: reference._conditions, **registered_covariates(reference.registry_)}
        labels_key = arguments["labels_key"]
        if labels_key is not None:
            categories[labels_key] = registered_categories(reference.registry_, REGISTRY_KEYS.LABELS_KEY)
            _check_labels(adata.obs[labels_key])
        for key, known in categories.items():
            check_same_kind(check_column(adata, "categorical_covariate_keys", key), known)
            warn_of_similar_names(key, [*known, *adata.obs[key].unique()])
        check_query_conditions(condition, reference._conditions)
        summary = summarize_values(get_values(adata, arguments["layer"]))
        likelihood = reference.module.gene_likelihood
        where = f"{place_of(arguments['layer'])} of the query"
        check_summary(summary, where, likelihood, adata, arguments["layer"])
        if likelihood == "mse" and reference.nonnegative_ and summary.minimum < 0:
            msg = (
                "The reference was trained on values of at least 0, the query holds negative ones. Bring them to the "
                "same scale."
            )
            raise ValueError(msg)

    def _check_matching(self, adata: AnnData) -> None:
        """Raise if a reference cannot be matched with these cells."""
        if self.reference_summary_ is None:
            msg = (
                "match_reference=True needs cells of the reference, which this one did not keep. Call "
                "`store_reference_summary()` on it before it is saved."
            )
            raise ValueError(msg)
        labels_key = self.registry_["setup_args"]["labels_key"]
        if self.module.mmd_balance_labels and labels_key in adata.obs:
            known = registered_categories(self.registry_, REGISTRY_KEYS.LABELS_KEY)
            kept = known[np.unique(self.reference_summary_["labels"])]
            if not adata.obs[labels_key].isin(kept).any():
                msg = (
                    f"match_reference=True compares cells of equal label, but `adata.obs[{labels_key!r}]` has none of "
                    f"the reference's {plain_list(kept)}. Use its names, or leave the column out."
                )
                raise ValueError(msg)

    def _check_matching_has_effect(self) -> None:
        """Raise if the MMD depends on nothing that is trained."""
        module = self.module
        before = [module.encoder] if module.mmd_on == "z" else [module.encoder, module.decoder.first]
        trained = any(parameter.requires_grad for part in before for parameter in part.parameters())
        if module.mmd_on is None or module.mmd_weight == 0 or not trained:
            msg = (
                "match_reference=True would have no effect: nothing that is trained lies before the layer on which the "
                f"MMD acts (mmd_on={module.mmd_on!r}). It needs a reference with encode_condition=True, or new "
                "categories of a covariate and mmd_on='y', or `freeze_expression=False`."
            )
            raise ValueError(msg)

    def _apply_surgery(self) -> None:
        """Freeze what the reference brought along; after loading, too."""
        if self.surgery_ is None:
            return
        if not self.surgery_["unfrozen"]:
            self.module.freeze(
                encoder_first_layer=self.surgery_["freeze_expression"],
                decoder_first_layer=self.surgery_["freeze_decoder_first_layer"],
            )
        if self.surgery_["match_reference"] and self.reference_summary_ is not None:
            self.module.kept_cells = {name: torch.as_tensor(v) for name, v in self.reference_summary_.items()}

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike[str] | Self,
        *,
        return_reference_var_names: bool = False,
        inplace: bool = True,
        max_missing: float = 0.2,
    ) -> AnnData | pd.Index | None:
        """Bring new data to the genes of a reference, in its order.

        Genes that the query lacks are set to zero, which claims that they were measured and not seen; a reference on
        genes that both have is better where one can be made. What was done is logged and kept in
        ``adata.uns["gene_alignment"]``. `raw`, `varm` and `varp` are left out, and data on disk are read into memory.

        Parameters
        ----------
        adata
            New data.
        reference_model
            Trained model, or the folder it was saved in.
        return_reference_var_names
            Return the names of the reference's genes and do nothing else.
        inplace
            Whether to change `adata` itself.
        max_missing
            Largest share of the reference's genes that may be missing.

        Returns
        -------
        `None`, a new AnnData with ``inplace=False``, or the names of the genes.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        TypeError
            If `adata` is no AnnData, `reference_model` no model of this class, nor a path, or `max_missing` no number.
        ValueError
            If more genes are missing, names repeat, a view is to be changed in place, or the reference is not trained.

        Examples
        --------
        >>> query = adata[:, 5:].copy()  # lacks five genes
        >>> tv.TRVAE.prepare_query_anndata(query, model)
        >>> query.n_vars, query.uns["gene_alignment"]["missing"].tolist()
        (50, ['gene_1', 'gene_2', 'gene_3', 'gene_4', 'gene_5'])
        """
        reference = cls._reference(reference_model)
        names = pd.Index(registered_var_names(reference.registry_))
        if return_reference_var_names:
            return names
        check_anndata(adata)
        if inplace:
            check_not_view(adata)
        aligned = align_genes(adata, names, max_missing=max_missing)
        if not inplace:
            return aligned
        adata._init_as_actual(aligned)
        return None

    @torch.inference_mode()
    def store_reference_summary(self, n_cells_per_condition: int = 256) -> None:
        """Keep the latent posterior of some training cells, for queries to be matched with.

        Kept with the model and saved with it are posterior mean and variance, condition, covariates and label of
        these cells, no expression values. They describe single cells nonetheless: do not share them where the cells
        themselves could not be shared.

        Parameters
        ----------
        n_cells_per_condition
            Cells of every condition, drawn at random by ``scvi.settings.seed``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        TypeError
            If `n_cells_per_condition` is no integer.
        ValueError
            If the model has no data, or `n_cells_per_condition` is below 2.

        Examples
        --------
        >>> model.store_reference_summary(n_cells_per_condition=20)
        >>> model.reference_summary_["qzm"].shape
        (40, 10)
        """
        check_integer("n_cells_per_condition", n_cells_per_condition, 2)
        cells = self._cells_for_prediction(None, None, None)
        rng = np.random.default_rng(current_seed())
        condition = cells.obs[self._condition_key].to_numpy()
        rows = [rng.permutation(np.flatnonzero(condition == name))[:n_cells_per_condition] for name in self._conditions]
        drawn = cells.take(np.sort(np.concatenate(rows)))
        parts: dict[str, list[np.ndarray]] = {}
        for tensors in self._minibatches(drawn, None, keep_labels=True):
            posterior = self.module.inference(**self.module._get_inference_input(tensors))[MODULE_KEYS.QZ_KEY]
            n = len(posterior.loc)
            values = {
                "qzm": posterior.loc,
                "qzv": posterior.variance,
                "conditions": tensors[REGISTRY_KEYS.BATCH_KEY].squeeze(-1).long(),
                "labels": tensors[REGISTRY_KEYS.LABELS_KEY].squeeze(-1).long(),
                "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY, torch.zeros(n, 0)).long(),
            }
            if REGISTRY_KEYS.CONT_COVS_KEY in tensors:
                values["cont_covs"] = tensors[REGISTRY_KEYS.CONT_COVS_KEY]
            for name, value in values.items():
                parts.setdefault(name, []).append(value.cpu().numpy())
        self.reference_summary_ = {name: np.concatenate(values) for name, values in parts.items()}


def _check_without_choice(arguments: dict[str, Any]) -> None:
    unknown = sorted(set(arguments) - set(_WITHOUT_CHOICE))
    if unknown:
        msg = f"load_query_data() got unknown arguments {unknown}."
        raise TypeError(msg)
    for name, value in arguments.items():
        taken, reason = _WITHOUT_CHOICE[name]
        if value is not taken:
            msg = f"`{name}={value!r}` is not taken: {reason}. Leave `{name}` out."
            raise ValueError(msg)


def _measured(own: np.ndarray | None, theirs: np.ndarray | None, *, trains_all: bool) -> np.ndarray | None:
    """Labels x conditions that were trained on: of the reference's conditions what it had, if it is frozen."""
    if own is None or theirs is None:
        return None
    rows, columns = theirs.shape  # those of the reference are the first ones
    if not trains_all:
        own[:, :columns] = 0
    measured = own > 0
    measured[:rows, :columns] |= theirs
    return measured


def _check_labels(labels: pd.Series) -> None:
    n_missing = int(labels.isna().sum())
    if n_missing:
        msg = (
            f"{n_missing} of {len(labels)} cells have no label in `adata.obs[{labels.name!r}]`. Give them one, such as "
            "'unknown', or remove the column: the query is then mapped without labels."
        )
        raise ValueError(msg)
