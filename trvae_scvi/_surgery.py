"""Query mapping: a reference model learns the conditions and covariates of new data. A mixin for the model."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from ._batches import current_seed
from ._cells import CellsMixin
from ._compat import MODULE_KEYS, registered_categories, registered_covariates, registered_var_names
from ._validation import (
    check_anndata,
    check_column,
    check_condition,
    check_integer,
    check_not_view,
    check_query_conditions,
    check_same_kind,
    check_summary,
    check_var_names,
    get_values,
    plain_list,
    summarize_values,
)
from .mapping import align_genes

if TYPE_CHECKING:
    from typing import Self

    from anndata import AnnData

__all__ = ["SurgeryMixin"]

logger = logging.getLogger(__name__)


class SurgeryMixin(CellsMixin):
    """How :class:`~trvae_scvi.TRVAE` maps new data onto a trained model."""

    if TYPE_CHECKING:
        init_params_: dict[str, Any]
        is_trained_: bool
        nonnegative_: bool
        reference_summary_: dict[str, np.ndarray] | None
        surgery_: dict[str, bool] | None

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike[str] | Self,
        *,
        unfrozen: bool = False,
        freeze_expression: bool = True,
        freeze_decoder_first_layer: bool = True,
        match_reference: bool = False,
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
            One condition is enough. The column of labels may be missing; the new model then has none.
        reference_model
            Trained model, or the folder it was saved in.
        unfrozen
            Train everything. Nothing then keeps the reference's answers.
        freeze_expression
            Whether the encoder's first layer is kept.
        freeze_decoder_first_layer
            Whether the decoder's first layer is kept.
        match_reference
            Match the new cells with cells of the reference by the MMD, too. The reference must keep some of them, see
            :meth:`store_reference_summary`.

        Returns
        -------
        A model of `adata`. If there is nothing to train, it is ready for use.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        TypeError
            If `reference_model` is no model of this class, nor a path, or a column holds another kind of values than in
            the reference (texts, whole numbers ...).
        ValueError
            If the reference is not trained, genes differ, a new condition has fewer than three cells, values do
            not fit the likelihood, or `match_reference` lacks what it needs or could not have an effect.
        KeyError
            If a column or the layer is missing.

        Notes
        -----
        With ``encode_condition=False``, the default, the latent representation does not depend on what is trained here.
        Continuous covariates enter as they are: bring them to the scale they had in the reference. Dropout and
        normalisation are as in evaluation, unless `unfrozen`. The model is made on the CPU and moved by :meth:`train`.

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
        check_anndata(adata)
        reference = cls._reference(reference_model)
        if match_reference:
            reference._check_matching(adata)
        model = cls._of_query(adata, reference)
        grown = model.module.adopt(reference.module)
        model.surgery_ = {
            "unfrozen": unfrozen,
            "freeze_expression": freeze_expression,
            "freeze_decoder_first_layer": freeze_decoder_first_layer,
            "match_reference": match_reference,
        }
        model.reference_summary_ = reference.reference_summary_
        model._apply_surgery()
        if match_reference:
            model._check_matching_has_effect()
        model.is_trained_ = not grown and not any(p.requires_grad for p in model.module.parameters())
        model.module.eval()
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
    def _of_query(cls, adata: AnnData, reference: Self) -> Self:
        """A new model of the query with the reference's settings and, so far, weights of its own."""
        registry = dict(reference.registry_)
        arguments = dict(registry["setup_args"])
        settings = dict(reference.init_params_["non_kwargs"])
        labels_key = arguments["labels_key"]
        if labels_key is not None and labels_key not in adata.obs:
            level = logging.WARNING if settings["mmd_balance_labels"] else logging.INFO
            logger.log(level, "The query has no column %r: the new model is without labels.", labels_key)
            settings["mmd_balance_labels"] = arguments["labels_key"] = None
            fields = dict(registry["field_registries"])
            fields[REGISTRY_KEYS.LABELS_KEY] = {
                **fields[REGISTRY_KEYS.LABELS_KEY],
                "state_registry": {"categorical_mapping": np.array([0])},
            }
            registry["field_registries"] = fields
        cls._check_query(adata, arguments, reference)
        model_cls: Any = cls
        model_cls.setup_anndata(adata, source_registry=registry, extend_categories=True, **arguments)
        model = model_cls(adata, **settings)
        model.nonnegative_ = reference.nonnegative_
        return model

    @staticmethod
    def _check_query(adata: AnnData, arguments: dict[str, Any], reference: SurgeryMixin) -> None:
        """Raise for what does not fit the reference, before anything is written into `adata`."""
        try:
            check_var_names(adata.var_names, registered_var_names(reference.registry_))
        except ValueError as error:
            error.add_note(
                "`TRVAE.prepare_query_anndata(adata, reference_model)` brings them to those of the reference."
            )
            raise
        condition = check_condition(adata, arguments["condition_key"], new_data=False)
        categories = {arguments["condition_key"]: reference._conditions, **registered_covariates(reference.registry_)}
        if arguments["labels_key"] is not None:
            categories[arguments["labels_key"]] = registered_categories(reference.registry_, REGISTRY_KEYS.LABELS_KEY)
        for key, known in categories.items():
            check_same_kind(check_column(adata, "categorical_covariate_keys", key), known)
        check_query_conditions(condition, reference._conditions)
        summary = summarize_values(get_values(adata, arguments["layer"]))
        likelihood = reference.module.gene_likelihood
        check_summary(summary, "the query", likelihood)
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
