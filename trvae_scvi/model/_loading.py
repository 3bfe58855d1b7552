"""Saved models: our own and those of scArches. A mixin for the model."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from anndata.io import read_elem
from packaging.version import Version
from scvi import settings
from scvi.model.base import BaseModelClass

from trvae_scvi._compat import latest_registry
from trvae_scvi.data._columns import check_anndata
from trvae_scvi.data._registry import adopting
from trvae_scvi.data._values import read_once

from ._saving import differing_versions, history_from_plain, history_to_plain, write_versions
from ._scarches import read_scarches

if TYPE_CHECKING:
    from typing import Self

    from lightning.pytorch import LightningDataModule

__all__ = ["LoadingMixin"]

_MIN_CELLS = 3  # of every condition, for a set-up


class LoadingMixin(BaseModelClass):
    """How :class:`~trvae_scvi.TRVAE` goes to disk and comes back."""

    if TYPE_CHECKING:
        history_: Any

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
        target = Path(dir_path).resolve()  # which has a name and a parent, also if it was given as "."
        if prefix is not None and Path(prefix).name != prefix:
            msg = f"Expected `prefix` to begin the names of files, found {prefix!r}."
            raise ValueError(msg)
        if target.exists() and not target.is_dir():
            msg = f"{os.fspath(dir_path)!r} is a file. Name a folder."
            raise ValueError(msg)
        if target.exists() and not overwrite:
            msg = f"{os.fspath(dir_path)!r} already exists. Name another folder, or replace it with overwrite=True."
            raise ValueError(msg)
        if not save_anndata:
            self._check_cells_beside(target / f"{prefix or ''}adata.h5ad")
        target.parent.mkdir(parents=True, exist_ok=True)
        history = self.history_
        place = target if target.exists() else target.parent  # a disk renames only within itself
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{target.name}.") as parent:
            unfinished = Path(parent) / "model"
            self.history_ = history_to_plain(history)
            try:
                super().save(
                    os.fspath(unfinished), prefix, save_anndata=save_anndata, save_kwargs=save_kwargs, **kwargs
                )
            finally:
                self.history_ = history
            write_versions(unfinished, prefix or "")
            if not target.exists():
                unfinished.rename(target)
                return
            for file in unfinished.iterdir():
                os.replace(file, target / file.name)

    def _check_cells_beside(self, file: Path) -> None:
        """Raise for cells in the folder that would be taken for those of the model."""
        if not file.exists():
            return
        with h5py.File(file, "r") as saved:
            names = read_elem(saved["obs"]).index
        same = len(names) == self.summary_stats["n_cells"] if self.adata is None else names.equals(self.adata.obs_names)
        if not same:
            msg = (
                f"{os.fspath(file)!r} holds other cells than the model's, and `load` would take them for its own. Save "
                "the model's with save_anndata=True, remove the file, or name another folder."
            )
            raise ValueError(msg)

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

        Examples
        --------
        >>> model.save("my_model", overwrite=True)
        >>> loaded = tv.TRVAE.load("my_model")  # without data: pass cells to predict from
        >>> loaded.predict_perturbation(control, target="stimulated").shape
        (300, 50)
        """
        if (Path(dir_path) / "attr.pkl").exists() and (Path(dir_path) / "model_params.pt").exists():
            msg = (
                f"{os.fspath(dir_path)!r} was saved by scArches or an early scvi-tools. Read trVAE models of scArches "
            )
            raise ValueError(msg + "with `TRVAE.from_scarches(path, adata)`.")
        file = Path(dir_path) / f"{kwargs.get('prefix') or ''}model.pt"
        if not file.exists() and kwargs.get("backup_url") is None:
            folder = os.fspath(dir_path)
            msg = f"Expected a folder that `save` wrote, with a file {file.name!r}, found none in {folder!r}."
            raise FileNotFoundError(msg)
        if datamodule is not None and adata is None:
            adata = False
        with adopting(), read_once():
            model: Any = cls._loaded(Path(dir_path), file, adata, kwargs)
        model.history_ = history_from_plain(model.history_)
        model._apply_surgery()
        if datamodule is not None:
            # upstream would build the model anew with it, which ours has no need of
            model._check_datamodule(datamodule)
            model._datamodule = datamodule
        made_with, installed = model.trvae_scvi_version_, version("trvae-scvi")
        if Version(made_with).release > Version(installed).release:
            warnings.warn(
                f"The model was made with trvae-scvi {made_with}, newer than the installed {installed}.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        return model

    @classmethod
    def _loaded(cls, folder: Path, file: Path, adata: AnnData | Literal[False] | None, kwargs: dict[str, Any]) -> Any:
        try:
            return super().load(os.fspath(folder), adata, **kwargs)
        except Exception as error:  # whatever the reason, is it the file?
            try:
                torch.load(file, map_location="cpu", weights_only=False)
            except Exception as unreadable:  # a pickle can raise nearly all there are
                versions = differing_versions(folder, kwargs.get("prefix") or "")
                msg = (
                    f"{os.fspath(file)!r} could not be opened: {versions}. It is damaged, or needs those versions. "
                    f"({type(unreadable).__name__}: {unreadable})"
                )
                raise ValueError(msg) from unreadable
            raise error

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
        # a registry with the saved codes, whatever conditions `adata` holds: from a few blank cells of each
        names = np.repeat(np.array(saved.conditions, dtype=object), _MIN_CELLS)
        blank = AnnData(
            np.ones((len(names), len(saved.var_names)), dtype=np.float32),
            obs=pd.DataFrame(
                {saved.condition_key: pd.Categorical(names, categories=saved.conditions)},
                index=np.arange(len(names)).astype(str),
            ),
            var=pd.DataFrame(index=saved.var_names),
        )
        model_cls: Any = cls
        model_cls.setup_anndata(blank, saved.condition_key)
        registry = latest_registry(cls, blank)
        model_cls.setup_anndata(adata, saved.condition_key, layer=layer, source_registry=registry)
        model = model_cls(adata, **saved.arguments)
        model.module.load_state_dict(saved.state_dict)
        model.module.eval()
        model.is_trained_ = saved.is_trained
        return model
