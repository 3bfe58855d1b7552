"""Where the minibatches of a prediction come from: an AnnData, in memory or on disk, or the caller's loader."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterator, Mapping
from operator import length_hint
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata.abc import CSCDataset
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from trvae_scvi._arguments import plain_list
from trvae_scvi._compat import (
    get_minify_type,
    registered_categories,
    registered_continuous_covariates,
    registered_covariates,
    registered_var_names,
)

from ._values import check_summary, summarize_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from scvi.data import AnnDataManager

__all__ = ["CellMinibatches", "Expression", "LoaderMinibatches"]


class Expression:
    """Rows of a matrix, dense or sparse, in memory or on disk; reads what is asked for and no more.

    Parameters
    ----------
    values
        The whole matrix.
    rows
        Positions of the rows, in any order, repeated ones included.
    columns
        Positions of the columns; ``None`` for all.

    Warns
    -----
    UserWarning
        If the matrix is on disk column by column, of which no row can be read alone: it is loaded.
    """

    def __init__(self, values: Any, rows: np.ndarray, columns: np.ndarray | None = None) -> None:
        if isinstance(values, CSCDataset):
            warnings.warn(
                "The expression on disk is stored gene by gene (CSC), so that no cell can be read alone: all of it is "
                "loaded. Write it cell by cell, with `.tocsr()`, to read it in pieces.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
            values = values.to_memory()
        self._values = values.tocsr() if sparse.issparse(values) else values
        self._rows = rows
        self._columns = columns

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self._rows), self._values.shape[1] if self._columns is None else len(self._columns)

    def take(self, rows: np.ndarray) -> Expression:
        """Some of the rows, not yet read."""
        return Expression(self._values, self._rows[rows], self._columns)

    def __getitem__(self, asked: slice | list[int] | np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """Read rows into memory."""
        rows = self._rows[asked]
        # what is on disk can be read in rising order only, and fastest in one piece
        rising, order = np.unique(rows, return_inverse=True)
        in_one_piece = rising[-1] - rising[0] + 1 == len(rising)
        block = self._values[slice(rising[0], rising[-1] + 1) if in_one_piece else rising]
        if hasattr(block, "compute"):  # dask
            block = block.compute()
        block = sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)
        if not np.array_equal(rising, rows):
            block = block[order]
        return block if self._columns is None else block[:, self._columns]


class _Rows(Dataset):
    """Minibatches by lists of positions: expression of our own reading, all else by scvi-tools."""

    def __init__(self, manager: AnnDataManager, expression: Expression) -> None:
        keys = [key for key in manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        self._others = manager.create_torch_dataset(data_and_attributes=keys)
        self._expression = expression

    def __len__(self) -> int:
        return self._expression.shape[0]

    def __getitem__(self, rows: list[int]) -> dict[str, np.ndarray]:
        block = self._expression[rows]
        dense = block if isinstance(block, np.ndarray) else block.toarray()
        return {REGISTRY_KEYS.X_KEY: dense.astype(np.float32, copy=False), **self._others[rows]}


class CellMinibatches:
    """Minibatches of the cells of an AnnData, in order.

    Parameters
    ----------
    annotation
        All about the cells but their expression.
    manager
        Of a registered copy of `annotation`.
    expression
        Their expression.
    batch_size
        Cells a minibatch.
    """

    def __init__(self, annotation: AnnData, manager: AnnDataManager, expression: Expression, batch_size: int) -> None:
        self.obs = annotation.obs
        self.var = annotation.var
        self.minify_type = get_minify_type(annotation)
        self.repeatable = True
        self.batch_size: int | None = batch_size
        self.earlier_source_key: str | None = annotation.uns.get("trvae")
        dataset = _Rows(manager, expression)
        self._loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False),
            num_workers=settings.dl_num_workers,
            generator=torch.Generator(),  # else a loader draws from the global one, which others may be training with
            persistent_workers=settings.dl_persistent_workers,
        )
        self.n_batches: int | None = len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self._loader)


class LoaderMinibatches:
    """Minibatches of the caller's loader, each checked before it is used.

    Parameters
    ----------
    loader
        Yields dictionaries of tensors with scvi-tools' keys.
    registry
        Of the model.
    condition_key, labels_key
        Names of the columns for the decoded conditions and labels.
    gene_likelihood
        Decides what is checked: counts with at least one in every cell, finite values for ``"mse"``, values from 0 to 1
        for ``"bernoulli"``.
    needs_size_factor
        Whether the model was made with size factors.

    Raises
    ------
    TypeError
        If `loader` cannot be iterated, or yields something else.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, Any]],
        registry: dict[str, Any],
        *,
        condition_key: str,
        labels_key: str | None,
        gene_likelihood: str,
        needs_size_factor: bool,
    ) -> None:
        if not hasattr(loader, "__iter__") or isinstance(loader, Mapping):
            msg = f"Expected `dataloader` to be an iterable of minibatches, found {type(loader).__name__}."
            raise TypeError(msg)
        self.var = pd.DataFrame(index=pd.Index([str(name) for name in registered_var_names(registry)]))
        self.minify_type = None
        self.batch_size = None
        self.earlier_source_key = None
        self.repeatable = not isinstance(loader, Iterator)
        self.n_batches = length_hint(loader, 0) or None
        self._loader = loader
        self._gene_likelihood = gene_likelihood
        self._needs_size_factor = needs_size_factor
        self._categories = {REGISTRY_KEYS.BATCH_KEY: {condition_key: _categories(registry, REGISTRY_KEYS.BATCH_KEY)}}
        if labels_key is not None:
            labels = _categories(registry, REGISTRY_KEYS.LABELS_KEY)
            self._categories[REGISTRY_KEYS.LABELS_KEY] = {labels_key: labels}
        covariates = registered_covariates(registry)
        if covariates:
            self._categories[REGISTRY_KEYS.CAT_COVS_KEY] = covariates
        self._continuous = registered_continuous_covariates(registry)
        # one growing buffer a column: small arrays kept between minibatches would leave holes that none of theirs fits
        self._columns: dict[str, array[Any]] = {}

    @property
    def obs(self) -> pd.DataFrame:
        """Decoded columns of the cells that were iterated over last."""
        known = {name: values for columns in self._categories.values() for name, values in columns.items()}
        if not self._columns:
            return pd.DataFrame(columns=[*known, *self._continuous], index=pd.Index([], dtype=str))
        columns: dict[str, Any] = {}
        for name, values in self._columns.items():
            numbers = np.array(values)
            columns[name] = pd.Categorical.from_codes(numbers, known[name]) if name in known else numbers
        obs = pd.DataFrame(columns)
        return obs.set_axis(obs.index.astype(str))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self._columns = {}
        for number, tensors in enumerate(self._loader):
            yield self._checked(tensors, f"minibatch {number} of `dataloader`")
        if not self._columns:
            msg = "No cell to predict from: `dataloader` gave no minibatch."
            raise ValueError(msg)

    def _checked(self, tensors: Mapping[str, Any], where: str) -> dict[str, torch.Tensor]:
        """What the model needs of a minibatch; its columns are put on record."""
        if not isinstance(tensors, Mapping):
            msg = f"Expected a dictionary of tensors, found a {type(tensors).__name__} as {where}."
            raise TypeError(msg)
        x = _table(tensors, REGISTRY_KEYS.X_KEY, where, (None, len(self.var)))
        check_summary(summarize_tensor(x), where, self._gene_likelihood)
        checked, columns = {REGISTRY_KEYS.X_KEY: x}, dict[str, np.ndarray]()
        for key, known in self._categories.items():
            if key == REGISTRY_KEYS.LABELS_KEY and tensors.get(key) is None:
                continue  # never fed to the network
            codes = _table(tensors, key, where, (len(x), len(known)))
            for column, (name, categories) in zip(codes.T, known.items(), strict=True):
                columns[name] = _codes(column, categories, f"{name!r} (key {key!r} of {where})")
            checked[key] = codes.long()
        numeric = {REGISTRY_KEYS.CONT_COVS_KEY: len(self._continuous)} if self._continuous else {}
        if self._needs_size_factor:
            numeric[REGISTRY_KEYS.SIZE_FACTOR_KEY] = 1
        for key, n_columns in numeric.items():
            checked[key] = _table(tensors, key, where, (len(x), n_columns))
            if not torch.isfinite(checked[key]).all():
                msg = f"Key {key!r} of {where} holds NaN or infinite values. Remove or replace them first."
                raise ValueError(msg)
        if self._needs_size_factor and (checked[REGISTRY_KEYS.SIZE_FACTOR_KEY] <= 0).any():
            msg = f"Expected positive size factors, found {checked[REGISTRY_KEYS.SIZE_FACTOR_KEY].min()} in {where}."
            raise ValueError(msg)
        for i, name in enumerate(self._continuous):
            columns[name] = checked[REGISTRY_KEYS.CONT_COVS_KEY][:, i].cpu().numpy()
        for name, numbers in columns.items():
            self._columns.setdefault(name, array(numbers.dtype.char)).frombytes(numbers.tobytes())
        return checked


def _categories(registry: dict[str, Any], key: str) -> np.ndarray:
    return np.asarray(registered_categories(registry, key))


def _table(tensors: Mapping[str, Any], key: str, where: str, shape: tuple[int | None, int]) -> torch.Tensor:
    """A dense two-dimensional tensor of single precision, after checking that it is there and fits."""
    values = tensors.get(key)
    if values is None:
        msg = f"Expected key {key!r} in {where}, found {list(tensors)}."
        raise KeyError(msg)
    if not isinstance(values, torch.Tensor):
        msg = f"Expected a tensor for key {key!r} of {where}, found {type(values).__name__}."
        raise TypeError(msg)
    values = (values if values.layout == torch.strided else values.to_dense()).float()
    if values.ndim == 1 and shape[1] == 1:
        values = values[:, None]
    n_rows, n_columns = shape
    if values.ndim != 2 or values.shape[1] != n_columns or n_rows not in (None, len(values)):
        expected = f"{'n' if n_rows is None else n_rows} x {n_columns}"
        msg = f"Expected {expected} values for key {key!r} of {where}, found {' x '.join(map(str, values.shape))}."
        raise ValueError(msg)
    return values


def _codes(codes: torch.Tensor, categories: np.ndarray, what: str) -> np.ndarray:
    """Codes as integers, after checking that there are such categories."""
    numbers = codes.cpu().numpy()
    wrong = numbers[~np.isin(numbers, np.arange(len(categories)))]
    if len(wrong):
        msg = (
            f"Expected codes from 0 to {len(categories) - 1} for {what}, found {wrong[0]:g}. They are positions among "
            f"the registered categories, which begin with {plain_list(categories[:5])}."
        )
        raise ValueError(msg)
    return numbers.astype(np.int32)
