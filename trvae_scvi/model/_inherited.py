"""The methods of scvi-tools' mixins: one gate in front of all of them, and what two of them need besides. A mixin."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseMinifiedModeModelClass, RNASeqMixin, VAEMixin

from trvae_scvi._arguments import check_integer, plain_list
from trvae_scvi._compat import SETUP_COLUMNS, StateRegistry, registered_categories, registered_var_names
from trvae_scvi.data._cells import NOT_TRAINED, CellsMixin, positions_of
from trvae_scvi.data._columns import check_column
from trvae_scvi.data._designs import warn
from trvae_scvi.data._registry import adopting, is_adopting
from trvae_scvi.data._values import check_storage, get_values, place_of
from trvae_scvi.module._trvae_module import means_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

__all__ = ["InheritedMixin"]

_CHECKED = "_trvae_checked"  # in `uns` of the copies that the gate made
_THREAD = "_trvae_thread"
_LABELS = "_trvae_labels"
# What a set-up copies of `obs`, and the argument that names it.
_COLUMNS = {
    REGISTRY_KEYS.BATCH_KEY: "condition_key",
    REGISTRY_KEYS.LABELS_KEY: "labels_key",
    REGISTRY_KEYS.CAT_COVS_KEY: "categorical_covariate_keys",
    REGISTRY_KEYS.CONT_COVS_KEY: "continuous_covariate_keys",
}
_KEPT = 4  # such copies that a model remembers for a thread; a method needs two at a time


class InheritedMixin(CellsMixin, RNASeqMixin, VAEMixin, BaseMinifiedModeModelClass):
    """Answers that :class:`~trvae_scvi.TRVAE` has from scvi-tools.

    They all ask `_validate_anndata` for their cells. It gives a copy of our own that shares the expression: checked as
    for a prediction, so that the same cells are refused with the same words; registered anew, whatever was registered
    or written into the caller's meanwhile; with labels that need not be those of the training cells, as they are never
    fed to the network.
    """

    def _check_if_trained(self, warn: bool = True, message: str = NOT_TRAINED) -> None:
        super()._check_if_trained(warn=warn, message=message)

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        if is_adopting():
            adata = self._resolve(adata)
            self._check_cells(adata)
            if not adata.is_view:  # upstream writes into it as it goes along
                arguments = self.registry_["setup_args"]
                self._check_data(adata, self.registry_, self._conditions, **arguments)
            return super()._validate_anndata(adata, copy_if_view=copy_if_view)
        adata = self._resolve(adata)
        if getattr(adata, "uns", {}).get(_CHECKED) == self.id:
            return adata
        return self._checked_copy(adata)

    def _checked_copy(self, adata: AnnData) -> AnnData:
        self._needs_training()
        self._check_cells(adata)
        check_storage(get_values(adata, self._layer), place_of(self._layer))
        cells = self._chosen(adata, np.arange(adata.n_obs))
        self._check_expression_of(cells)
        own = cells.annotation
        registry, arguments = self.registry_, dict(self.registry_["setup_args"])
        if self._labels_key is not None:
            own.obs[_LABELS] = registered_categories(registry, REGISTRY_KEYS.LABELS_KEY)[0]
            arguments["labels_key"] = _LABELS
        setup = {"model_name": registry["model_name"], "setup_args": arguments}
        manager = self._build_manager(own, setup, source_registry=registry)
        # not before, as registering would read it once more
        if self._layer is None:
            own.X = get_values(adata, None)
        else:
            own.layers[self._layer] = get_values(adata, self._layer)
        own.uns[_CHECKED] = self.id
        own.uns[_THREAD] = threading.get_ident()
        self._forget_copies()
        self._register_manager_for_instance(manager)
        return own

    def _check_own_cells(self) -> None:
        """Raise if the model's own data are no longer those that were set up."""
        adata = self._resolve(None)
        n_before = int(self.summary_stats["n_cells"])
        if adata.n_obs != n_before:
            msg = (
                f"`adata` had {n_before} cells when it was set up and has {adata.n_obs} now. Call `setup_anndata` "
                "again and make the model anew."
            )
            raise ValueError(msg)
        gone = [column for column in SETUP_COLUMNS if column not in adata.obs]
        if gone:
            msg = f"The columns {gone} that `setup_anndata` wrote into `adata.obs` are gone. Call it again."
            raise ValueError(msg)

    def _check_own_columns(self) -> None:
        """Raise if what is trained on is not what the registered columns say, of data that were just validated."""
        adata, own = self._resolve(None), self.adata_manager
        again = self._manager(self._chosen(adata, np.arange(adata.n_obs)), keep_labels=True)
        arguments = self.registry_["setup_args"]
        for key, argument in _COLUMNS.items():
            if key not in own.data_registry:
                continue
            registered, found = (np.asarray(manager.get_from_registry(key)) for manager in (own, again))
            if not np.array_equal(registered.ravel(), found.ravel()):
                msg = (
                    f"The column of `{argument}={arguments[argument]!r}` changed since `setup_anndata`, which training "
                    "would not notice. Call `setup_anndata` again and make the model anew."
                )
                raise ValueError(msg)

    def _forget_copies(self) -> None:
        """Let go of copies that earlier calls made, which scvi-tools would keep as long as the process runs."""
        managers = self._per_instance_manager_store.get(self.id, {})
        here, running = threading.get_ident(), {thread.ident for thread in threading.enumerate()}
        kept = [(key, manager.adata) for key, manager in list(managers.items())]
        threads = {key: adata.uns[_THREAD] for key, adata in kept if _CHECKED in adata.uns}
        own = [key for key, thread in threads.items() if thread == here]
        for key in [key for key, thread in threads.items() if thread not in running] + own[: 1 - _KEPT]:
            managers.pop(key, None)

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
        asked = self._resolve(adata)
        taker = asked if kwargs.get("adata_sub") is None else kwargs["adata_sub"]
        if getattr(taker, "is_view", False) and taker.isbacked:
            msg = "The result goes into `obsm`, which a view of data on disk cannot take. Load it: `adata.to_memory()`."
            raise ValueError(msg)
        kwargs["adata"] = own = self._validate_anndata(asked)
        if kwargs.get("adata_sub") is not None:
            asked = kwargs["adata_sub"]
            kwargs["adata_sub"] = own = self._validate_anndata(asked)
        key: Any = kwargs.get("sample_key")
        check_column(own, "sample_key", key)
        result = super().differential_abundance(**kwargs)
        table = own.obsm["da_log_probs"]
        asked.obsm["da_log_probs"] = table.set_axis(table.columns.astype(str), axis=1)  # no file takes other names
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
            self._check_groups(own, given)
            adata = own
        return super().differential_expression(adata, *args, **kwargs)

    def _check_groups(self, own: AnnData, given: dict[str, Any]) -> None:
        on_disk = isinstance(get_values(own, self._layer), h5py.Dataset | zarr.Array | CSRDataset | CSCDataset)
        if given.get("all_stats", True) and on_disk:
            msg = "all_stats=True needs the values in memory: load them with `to_memory()`, or pass all_stats=False."
            raise ValueError(msg)
        if given.get("idx1") is not None:
            return
        key = given.get("groupby")
        if not isinstance(key, str) or key not in own.obs:
            msg = f"`groupby={key!r}` not found in `adata.obs`; its columns are {list(own.obs.columns)}."
            raise KeyError(msg)
        if isinstance(own.obs[key], pd.DataFrame):
            msg = f"`adata.obs` has several columns {key!r}. Rename or remove all but one."
            raise ValueError(msg)
        there = own.obs[key].dropna().unique()
        first, second = (_listed(given.get(name)) for name in ("group1", "group2"))
        if not first:  # upstream takes all of these
            first = own.obs[key].astype("category").cat.categories.tolist()
        unknown = [group for group in first + second if group not in set(there)]
        if unknown or not len(there):
            found = plain_list(unknown) or "none"
            msg = f"Expected groups of `adata.obs[{key!r}]`, {plain_list(there)}, found {found}."
            raise ValueError(msg)
        n_missing = int(own.obs[key].isna().sum())
        if n_missing and given.get("group2") is None:
            warn(f"{n_missing} cells have no value in `adata.obs[{key!r}]`; they are among the rest compared with.")

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
        self._check_genes(given.arguments)
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
        self._check_genes(given.arguments)
        return super().posterior_predictive_sample(*given.args, **given.kwargs)

    def _check_genes(self, given: dict[str, Any]) -> None:
        asked = given.get("gene_list")
        if asked is None:
            return
        if not isinstance(asked, str):
            given["gene_list"] = asked = list(asked)
        known = {str(name) for name in registered_var_names(self.registry_)}
        unknown = [] if isinstance(asked, str) else [name for name in asked if name not in known]
        if unknown or isinstance(asked, str):
            msg = f"Expected `gene_list` to be a list of genes of the model, found {plain_list(unknown) or asked!r}."
            raise ValueError(msg)

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
        if self.module.gene_likelihood not in ("nb", "zinb"):
            msg = f"{method} needs gene_likelihood 'nb' or 'zinb', the model has {self.module.gene_likelihood!r}."
            raise NotImplementedError(msg)


def _bound(method: Callable[..., Any], *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Arguments by the names that a method of this version of scvi-tools gives them."""
    return inspect.signature(method).bind_partial(*args, **kwargs)


def _listed(groups: Any) -> list[Any]:
    if groups is None:
        return []
    return list(groups) if isinstance(groups, Iterable) and not isinstance(groups, str) else [groups]
