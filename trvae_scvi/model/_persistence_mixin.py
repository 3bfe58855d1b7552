"""Models to folders and back, and out of other models: of scArches, and of a reference. A mixin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd
from scvi.model.base import BaseMinifiedModeModelClass

from trvae_scvi._compat import keep_datamodule, replace_anndata, single_device
from trvae_scvi.data._columns import check_anndata, check_not_view
from trvae_scvi.data._genes import align_genes
from trvae_scvi.data._registry import make_registry, setup_arguments
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._values import read_once
from trvae_scvi.train._datamodule import check_datamodule

from ._gate import adopting
from ._query import apply_surgery, check_surgery, query_model
from ._saving import complete_folder, history_from_plain, open_saved, warn_of_newer
from ._scarches import read_scarches

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning.pytorch import LightningDataModule

__all__ = ["PersistenceMixin"]


class PersistenceMixin(BaseMinifiedModeModelClass):
    """How :class:`~trvae_scvi.TRVAE` is saved and loaded, and made out of another model."""

    def save(
        self,
        dir_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the model in a folder, which appears when it is complete.

        A file with the versions that wrote the model lies beside it.

        Parameters
        ----------
        dir_path
            The folder.
        prefix
            Begins the names of the files.
        overwrite
            Whether to replace a model that is there.
        save_anndata
            Whether to save the model's data, too.
        save_kwargs
            Arguments of :func:`torch.save`.
        **kwargs
            Further arguments of :meth:`scvi.model.base.BaseModelClass.save`.

        Raises
        ------
        ValueError
            If the folder is there and `overwrite` is not set, it is a file, `prefix` names a folder, or the folder
            holds an ``adata.h5ad`` with other cells than the model's, which :meth:`load` would take for its own.

        Examples
        --------
        >>> model.save("my_model", overwrite=True)
        """
        with complete_folder(self, dir_path, prefix or "", overwrite=overwrite, save_anndata=save_anndata) as folder:
            super().save(folder, prefix, save_anndata=save_anndata, save_kwargs=save_kwargs, **kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | Literal[False] | None = None,
        *,
        datamodule: LightningDataModule | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model saved with :meth:`save`.

        Only load files you trust: like all of scvi-tools' saves they are pickles, which can run code.

        Parameters
        ----------
        dir_path
            Folder it was saved in.
        adata
            Data with the same genes in the same order; ``None`` takes those saved with the model, ``False`` none.
        datamodule
            Data module that the model is to go on with; it is checked as :meth:`train` does.
        **kwargs
            Further arguments of :meth:`scvi.model.base.BaseModelClass.load`.

        Returns
        -------
        The model, ready to predict if it was trained when it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no model in the folder.
        TypeError
            If `datamodule` is none of scvi-tools' data modules.
        ValueError
            If genes are missing, added or in another order, a condition is unknown, scArches saved the folder, or the
            file cannot be opened; then the message says which versions wrote it.

        Warns
        -----
        UserWarning
            If a newer version of this package wrote the model.

        Examples
        --------
        >>> model.save("my_model", overwrite=True)
        >>> loaded = tv.TRVAE.load("my_model")  # without data: pass cells to predict from
        >>> loaded.predict_perturbation(control, target="stimulated").shape
        (300, 50)
        """
        if datamodule is not None and adata is None:
            adata = False
        with open_saved(dir_path, kwargs), adopting(), read_once():
            model = super().load(os.fspath(dir_path), adata, **kwargs)
        model.history_ = history_from_plain(model.history_)
        apply_surgery(model)
        if datamodule is not None:
            # upstream would build the model anew with it, which ours has no need of
            check_datamodule(datamodule, model.registry_, model.module)
            keep_datamodule(model, datamodule)
        warn_of_newer(model.trvae_scvi_version_)
        return model

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
        condition_features: pd.DataFrame | None = None,
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
        condition_features
            Descriptions of further conditions that were not measured and are to be predicted, with the columns of the
            reference's. How alike conditions are stays as the reference has learned it.
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
            missing for some cells, values do not fit the likelihood, `condition_features` do not continue those of the
            reference, or an argument asks for what cannot be chosen.
        KeyError
            If a column or the layer is missing.

        Warns
        -----
        UserWarning
            If a newer version of this package wrote the reference, or as :class:`~trvae_scvi.TRVAE` does.

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
        surgery = {
            "unfrozen": unfrozen,
            "freeze_expression": freeze_expression,
            "freeze_decoder_first_layer": freeze_decoder_first_layer,
        }
        check_surgery(surgery | {"inplace_subset_query_vars": inplace_subset_query_vars}, without_choice)
        where = single_device(accelerator, device)
        check_anndata(adata)
        reference = cls._reference(reference_model)
        with read_once():
            model = query_model(
                cls, adata, reference, surgery, subset=inplace_subset_query_vars, features=condition_features
            )
        model.to_device(where)
        return model

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
        names = pd.Index(Schema.of(cls._reference(reference_model).registry_).var_names)
        if return_reference_var_names:
            return names
        check_anndata(adata)
        if inplace:
            check_not_view(adata)
        aligned = align_genes(adata, names, max_missing=max_missing)
        if not inplace:
            return aligned
        replace_anndata(adata, aligned)
        return None

    @classmethod
    def _reference(cls, reference_model: str | os.PathLike[str] | Self) -> Self:
        """The reference, from its folder if need be; raises unless it is a trained model of this class."""
        if isinstance(reference_model, str | os.PathLike):
            reference_model = cls.load(reference_model, False, accelerator="cpu")
        if not isinstance(reference_model, cls):
            found = type(reference_model).__name__
            msg = f"Expected `reference_model` to be a {cls.__name__} or the folder of one, found {found}."
            raise TypeError(msg)
        if not reference_model.is_trained_:
            msg = "The reference is not trained: call its `train()` first."
            raise ValueError(msg)
        return reference_model

    @classmethod
    def from_scarches(cls, path: str | os.PathLike[str], adata: AnnData, *, layer: str | None = None) -> Self:
        """Read a trVAE model saved by scArches 0.5 or 0.6.

        Posterior means and variances and the decoder's means, zero inflation and dispersions are those of scArches. No
        pickled code is executed: the weights are read as tensors only, and settings that ask for anything but plain
        values are refused.

        Parameters
        ----------
        path
            Folder that scArches' ``save`` wrote, with ``model_params.pt``, ``attr.pkl`` and ``var_names.csv``.
        adata
            Cells with the model's genes in its order, and its column of conditions with some or all of its conditions.
        layer
            Layer with the values, counts for ``"nb"`` and ``"zinb"``; ``None`` is ``X``.

        Returns
        -------
        A model of `adata` that can predict, be saved, and be the reference of a query.

        Raises
        ------
        FileNotFoundError
            If the folder or one of its files is not there.
        TypeError
            If `adata` is no AnnData.
        KeyError
            If the column of conditions or the layer is missing.
        ValueError
            If genes or conditions are not those of the model, or its files are damaged, ask for code, or describe what
            cannot be represented.

        Notes
        -----
        In further training the objective differs a little: scArches adds the MMD up over pairs of conditions where ours
        is the mean, and does not save the weight of its KL divergence, which is 1 here.

        Examples
        --------
        >>> model = tv.TRVAE.from_scarches("scarches_model", adata)  # doctest: +SKIP
        >>> prediction = model.predict_perturbation(adata, source="control", target="stimulated")  # doctest: +SKIP
        """
        check_anndata(adata)
        saved = read_scarches(path)
        registry = make_registry(
            setup_arguments(saved.condition_key),
            var_names=saved.var_names,
            categories={saved.condition_key: saved.conditions},
            n_obs=adata.n_obs,
        )
        cls.setup_anndata(adata, saved.condition_key, layer=layer, source_registry=registry)
        model = cls(adata, **saved.arguments)
        model.module.load_state_dict(saved.state_dict)
        model.module.eval()
        model.is_trained_ = saved.is_trained
        return model
