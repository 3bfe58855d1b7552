"""The methods of scvi-tools' mixins: one gate in front of all of them, and what some of them need besides."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.model.base import BaseMinifiedModeModelClass, RNASeqMixin, VAEMixin

from trvae_scvi._arguments import check_integer
from trvae_scvi._compat import StateRegistry
from trvae_scvi.data._cells import positions_of
from trvae_scvi.data._columns import check_column
from trvae_scvi.data._registry import setup_arguments
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._values import get_values
from trvae_scvi.module._trvae_module import means_only
from trvae_scvi.predict._predictor import NOT_TRAINED, resolved
from trvae_scvi.train._datamodule import setup_annbatch

from ._gate import adopting, check_adopted, checked_copy, is_checked
from ._upstream_arguments import check_genes, check_groups, check_takes_obsm

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData

    from trvae_scvi.data._collection_module import CollectionDataModule

__all__ = ["InheritedMixin"]


class InheritedMixin(RNASeqMixin, VAEMixin, BaseMinifiedModeModelClass):
    """Answers that :class:`~trvae_scvi.TRVAE` has from scvi-tools.

    They all ask `_validate_anndata` for their cells. It gives a copy of our own that shares the expression: checked as
    for a prediction, so that the same cells are refused with the same words; registered anew, whatever was registered
    or written into the caller's meanwhile; with labels that need not be those of the training cells, as they are never
    fed to the network.
    """

    def _check_if_trained(self, warn: bool = True, message: str = NOT_TRAINED) -> None:
        super()._check_if_trained(warn=warn, message=message)

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        adata = resolved(adata, self.adata)
        if adopting:
            check_adopted(self, adata)
            return super()._validate_anndata(adata, copy_if_view=copy_if_view)
        if is_checked(self, adata):
            return adata
        self._check_if_trained(warn=False)
        return checked_copy(self, adata)

    def _validate_own_anndata(self) -> None:
        """Check that the model's data still are what was registered."""
        with adopting():
            self._validate_anndata()

    def _make_data_loader(
        self,
        adata: AnnData,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if batch_size is not None:
            check_integer("batch_size", batch_size, 1)
        rows = None if indices is None else positions_of(indices, adata.obs_names)
        if rows is not None and len(rows) == 0:
            msg = "No cell to answer for: `indices` is empty."
            raise ValueError(msg)
        kwargs.setdefault("generator", torch.Generator())  # the global one may be that of a training in another thread
        return super()._make_data_loader(adata, indices=rows, batch_size=batch_size, **kwargs)

    @classmethod
    def setup_annbatch(
        cls,
        collection_path: str | os.PathLike[str],
        paths: Sequence[str | os.PathLike[str]] | None = None,
        condition_key: str = "condition",
        *,
        layer: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        rebuild: bool = False,
        shuffle: bool = True,
        chunk_size: int = 256,
        preload_nchunks: int = 32,
    ) -> CollectionDataModule:
        """Set up training from cells on disk, of which only a few thousand are in memory at a time.

        The cells of `paths` are written to an annbatch collection, shuffled, or one that is there is opened. Needs the
        extra ``trvae-scvi[annbatch]`` and Python 3.12.

        Parameters
        ----------
        collection_path
            Folder of the collection, ending in ``.zarr``.
        paths
            Files to make it of: h5ad files or zarr stores with the same genes in the same order. ``None`` opens the
            collection that is there, one made by annbatch itself included.
        condition_key, layer, labels_key, categorical_covariate_keys, continuous_covariate_keys
            As in :meth:`setup_anndata`.
        rebuild
            Whether to replace a collection that is there.
        shuffle
            Whether to write the cells in random order. Cells are read in runs of `chunk_size`, so that in a collection
            in the order of its files a batch holds what few runs hold.
        chunk_size
            Cells read in one piece, at most; the pieces are drawn at random.
        preload_nchunks
            Pieces in memory at a time. Batches are made of their cells, balanced by condition and label as in
            :meth:`train` on an AnnData, but as far as these are among them: of a condition with one cell in a thousand
            every batch holds the few that are in memory.

        Returns
        -------
        A data module for ``TRVAE(registry=datamodule.registry)`` and :meth:`train`.

        Raises
        ------
        ImportError
            If annbatch is missing.
        FileExistsError, FileNotFoundError
            If there is a collection and neither is `paths` left out nor `rebuild` set, `collection_path` is something
            else, or there is none and no `paths` are given.
        KeyError, TypeError, ValueError
            As :meth:`setup_anndata`, or if genes differ between files.

        Warns
        -----
        UserWarning
            Of names and designs, as :meth:`setup_anndata`.

        Examples
        --------
        >>> files = ["atlas_1.h5ad", "atlas_2.h5ad"]
        >>> dm = tv.TRVAE.setup_annbatch("atlas.zarr", files, labels_key="cell_type")  # doctest: +SKIP
        >>> model = tv.TRVAE(registry=dm.registry)  # doctest: +SKIP
        >>> model.train(datamodule=dm)  # doctest: +SKIP
        >>> latent = model.get_latent_representation(dataloader=dm.inference_dataloader())  # doctest: +SKIP
        """
        columns = setup_arguments(
            condition_key,
            layer=layer,
            labels_key=labels_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
        )
        reading = {"chunk_size": chunk_size, "preload_nchunks": preload_nchunks}
        return setup_annbatch(collection_path, paths, columns, rebuild=rebuild, shuffle=shuffle, **reading)

    def get_state_registry(self, registry_key: str) -> Any:
        """What was registered under one of :data:`scvi.REGISTRY_KEYS`.

        Examples
        --------
        >>> model.get_state_registry("batch").categorical_mapping.tolist()
        ['control', 'stimulated']
        """
        return StateRegistry(self.registry_["field_registries"][registry_key]["state_registry"])

    @property
    def adata(self) -> AnnData | None:
        """Data attached to the model."""
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        with adopting():
            BaseMinifiedModeModelClass.adata.fset(self, adata)

    def minify_adata(self, *args: Any, **kwargs: Any) -> None:
        """Replace the model's data by their latent posterior.

        Arguments are those of :meth:`scvi.model.base.BaseMinifiedModeModelClass.minify_adata`.

        Examples
        --------
        >>> cells = adata.copy()
        >>> tv.TRVAE.setup_anndata(cells)
        >>> small = tv.TRVAE(cells)
        >>> small.train(max_epochs=1)
        >>> cells.obsm["mean"], cells.obsm["variance"] = small.get_latent_representation(return_dist=True)
        >>> small.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="variance")
        >>> small.minified_data_type
        'latent_posterior_parameters'
        """
        with adopting():
            super().minify_adata(*args, **kwargs)

    def differential_abundance(self, adata: AnnData | None = None, *args: Any, **kwargs: Any) -> Any:
        """Log probability of every cell among those of each sample.

        Arguments are those of :meth:`scvi.model.base.VAEMixin.differential_abundance`. The result is in
        ``obsm["da_log_probs"]`` of `adata_sub`, of `adata` without it, or of the model's own data.

        Examples
        --------
        >>> model.differential_abundance(sample_key="condition")
        >>> adata.obsm["da_log_probs"].columns.tolist()
        ['control', 'stimulated']
        """
        kwargs = _bound(super().differential_abundance, adata, *args, **kwargs).arguments
        if adata is None and self.adata is None and kwargs.get("dataloader") is not None:
            return super().differential_abundance(**kwargs)
        asked = [resolved(adata, self.adata)] + ([kwargs["adata_sub"]] if kwargs.get("adata_sub") is not None else [])
        check_takes_obsm(asked[-1])
        own = [self._validate_anndata(cells) for cells in asked]
        kwargs |= dict(zip(("adata", "adata_sub"), own, strict=False))
        for cells in own:
            check_column(cells, "sample_key", kwargs.get("sample_key"))
        result = super().differential_abundance(**kwargs)
        table = own[-1].obsm["da_log_probs"]
        asked[-1].obsm["da_log_probs"] = table.set_axis(table.columns.astype(str), axis=1)  # no file takes other names
        return result

    def get_latent_representation(self, *args: Any, **kwargs: Any) -> Any:
        """Latent variables of every cell.

        Arguments and result are those of :meth:`scvi.model.base.VAEMixin.get_latent_representation`.

        Examples
        --------
        >>> model.get_latent_representation(control).shape
        (300, 10)
        """
        given = _bound(super().get_latent_representation, *args, **kwargs).arguments
        needs_draws = not (given.get("give_mean", True) or given.get("return_dist", False))
        with contextlib.nullcontext() if needs_draws else means_only():
            return super().get_latent_representation(*args, **kwargs)

    def differential_expression(self, adata: AnnData | None = None, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Differential expression of measured cells, decoded.

        Arguments and result are those of :meth:`scvi.model.base.RNASeqMixin.differential_expression`.

        Raises
        ------
        KeyError
            If there is no column `groupby`.
        ValueError
            If a group has no cell, or statistics of the values are asked for (`all_stats`) that lie on disk.

        Warns
        -----
        UserWarning
            If cells without a value in `groupby` are compared with, among all others.

        Examples
        --------
        >>> table = model.differential_expression(groupby="cell_type", group1="type_1", silent=True)
        >>> table["comparison"].unique().tolist()
        ['type_1 vs Rest']
        """
        given = _bound(super().differential_expression, adata, *args, **kwargs).arguments
        if given.get("dataloader") is None:
            own = self._validate_anndata(adata)
            check_groups(own, given, get_values(own, Schema.of(self.registry_).layer))
            adata = own
        return super().differential_expression(adata, *args, **kwargs)

    def get_normalized_expression(self, *args: Any, **kwargs: Any) -> Any:
        """Decoded expression.

        Arguments and result are those of :meth:`scvi.model.base.RNASeqMixin.get_normalized_expression`. Genes of
        `gene_list` are given in the order of the data.

        Raises
        ------
        ValueError
            If `gene_list` names genes that are not there.

        Examples
        --------
        >>> model.get_normalized_expression(control, gene_list=["gene_2", "gene_1"]).columns.tolist()
        ['gene_1', 'gene_2']
        """
        given = _bound(super().get_normalized_expression, *args, **kwargs)
        check_genes(given.arguments, Schema.of(self.registry_).var_names)
        return super().get_normalized_expression(*given.args, **given.kwargs)

    def posterior_predictive_sample(self, *args: Any, **kwargs: Any) -> Any:
        """Draws from the posterior predictive distribution.

        Arguments and result are those of :meth:`scvi.model.base.RNASeqMixin.posterior_predictive_sample`.

        Raises
        ------
        ValueError
            If `gene_list` names genes that are not there.

        Examples
        --------
        >>> model.posterior_predictive_sample(control, gene_list=["gene_1"]).shape
        (300, 1)
        """
        given = _bound(super().posterior_predictive_sample, *args, **kwargs)
        check_genes(given.arguments, Schema.of(self.registry_).var_names)
        return super().posterior_predictive_sample(*given.args, **given.kwargs)

    @torch.inference_mode()
    def get_aggregated_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> torch.distributions.Distribution:
        """Mixture of the latent posteriors of some cells.

        As :meth:`scvi.model.base.VAEMixin.get_aggregated_posterior`, but in every version with the standard deviations
        of the posteriors; scvi-tools 1.4 takes their variances for them.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.
        dof
            Degrees of freedom of Student's t distribution; ``None`` for normal ones.

        Examples
        --------
        >>> model.get_aggregated_posterior(control, indices=[0, 1, 2]).sample((4,)).shape
        torch.Size([4, 10])
        """
        moments = self.get_latent_representation(adata, indices=indices, batch_size=batch_size, return_dist=True)
        mean, variance = (torch.as_tensor(values, device=self.device) for values in moments)
        law = functools.partial(torch.distributions.StudentT, dof) if dof is not None else torch.distributions.Normal
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=torch.ones(len(mean), device=self.device)),
            torch.distributions.Independent(law(mean, variance.sqrt()), 1),
        )

    def get_likelihood_parameters(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Estimates of the decoded likelihood's parameters, for ``"nb"`` and ``"zinb"``.

        Arguments and result are those of :meth:`scvi.model.base.RNASeqMixin.get_likelihood_parameters`.

        Raises
        ------
        NotImplementedError
            With another `gene_likelihood`.

        Examples
        --------
        >>> parameters = model.get_likelihood_parameters(control)
        >>> sorted(parameters), parameters["mean"].shape
        (['dispersions', 'mean'], (300, 50))
        """
        self._needs_dispersion("get_likelihood_parameters")
        return super().get_likelihood_parameters(*args, **kwargs)

    def get_feature_correlation_matrix(self, *args: Any, **kwargs: Any) -> Any:
        """Correlation of genes in draws from the decoded likelihood, for ``"nb"`` and ``"zinb"``.

        Arguments and result are those of :meth:`scvi.model.base.RNASeqMixin.get_feature_correlation_matrix`;
        `transform_batch` is a condition.

        Raises
        ------
        NotImplementedError
            With another `gene_likelihood`.

        Examples
        --------
        >>> model.get_feature_correlation_matrix(control, n_samples=2, transform_batch="stimulated").shape
        (50, 50)
        """
        self._needs_dispersion("get_feature_correlation_matrix")
        return super().get_feature_correlation_matrix(*args, **kwargs)

    def _needs_dispersion(self, method: str) -> None:
        likelihood = self.module.likelihood
        if not likelihood.has_dispersion:
            msg = f"{method} needs gene_likelihood 'nb' or 'zinb', the model has {likelihood.name!r}."
            raise NotImplementedError(msg)


def _bound(method: Callable[..., Any], *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Arguments by the names that a method of this version of scvi-tools gives them."""
    return inspect.signature(method).bind_partial(*args, **kwargs)
