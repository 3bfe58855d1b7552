"""Cells that a loader of the caller's gives."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from operator import length_hint
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from trvae_scvi._arguments import plain_list
from trvae_scvi._math._summaries import summarize_tensor

from ._values import check_summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trvae_scvi._math._likelihoods import Likelihood

    from ._schema import Schema

__all__ = ["LoaderCells"]


class LoaderCells:
    """Cells of the caller's loader, whose minibatches are checked before they are used.

    Parameters
    ----------
    loader
        Yields dictionaries of tensors with scvi-tools' keys.
    schema
        Of the model.
    likelihood
        What their values must be.

    Raises
    ------
    TypeError
        If `loader` cannot be iterated, or yields something else.
    """

    minify_type: str | None = None
    batch_size = None
    earlier_source_key: str | None = None

    def __init__(self, loader: Iterable[Mapping[str, Any]], schema: Schema, likelihood: Likelihood) -> None:
        if not hasattr(loader, "__iter__") or isinstance(loader, Mapping):
            msg = f"Expected `dataloader` to be an iterable of minibatches, found {type(loader).__name__}."
            raise TypeError(msg)
        self.var = pd.DataFrame(index=pd.Index([str(name) for name in schema.var_names]))
        self.repeatable = not isinstance(loader, Iterator)
        self.n_batches = length_hint(loader, 0) or None
        self._loader, self._likelihood = loader, likelihood
        self._continuous = schema.continuous_covariates
        self._numeric = {REGISTRY_KEYS.CONT_COVS_KEY: len(self._continuous)} if self._continuous else {}
        if schema.size_factor_key is not None:
            self._numeric[REGISTRY_KEYS.SIZE_FACTOR_KEY] = 1
        self._categories: dict[str, dict[str, np.ndarray]] = {
            REGISTRY_KEYS.BATCH_KEY: {schema.condition_key: np.asarray(schema.conditions)}
        }
        if schema.labels_key is not None:
            self._categories[REGISTRY_KEYS.LABELS_KEY] = {schema.labels_key: np.asarray(schema.labels)}
        if schema.covariates:
            self._categories[REGISTRY_KEYS.CAT_COVS_KEY] = schema.covariates
        # one growing buffer a column: small arrays kept between minibatches would leave holes that none of theirs fits
        self._columns: dict[str, array[Any]] = {}
        self._latest: dict[str, np.ndarray] = {}

    @property
    def obs(self) -> pd.DataFrame:
        """Decoded columns of the cells that were iterated over last."""
        return self._decoded({name: np.array(values) for name, values in self._columns.items()})

    @property
    def latest(self) -> pd.DataFrame:
        """Those of the minibatch given last."""
        return self._decoded(self._latest)

    def _decoded(self, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
        known = {name: values for group in self._categories.values() for name, values in group.items()}
        if not columns:
            return pd.DataFrame(columns=[*known, *self._continuous], index=pd.Index([], dtype=str))
        obs = pd.DataFrame(
            {
                name: pd.Categorical.from_codes(values, known[name]) if name in known else values
                for name, values in columns.items()
            }
        )
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
        check_summary(summarize_tensor(x), where, self._likelihood)
        checked, columns = {REGISTRY_KEYS.X_KEY: x}, dict[str, np.ndarray]()
        for key, known in self._categories.items():
            if key == REGISTRY_KEYS.LABELS_KEY and tensors.get(key) is None:
                continue  # never fed to the network
            codes = _table(tensors, key, where, (len(x), len(known)))
            for column, (name, categories) in zip(codes.T, known.items(), strict=True):
                columns[name] = _codes(column, categories, f"{name!r} (key {key!r} of {where})")
            checked[key] = codes.long()
        for key, n_columns in self._numeric.items():
            numbers = checked[key] = _table(tensors, key, where, (len(x), n_columns))
            if not torch.isfinite(numbers).all():
                msg = f"Key {key!r} of {where} holds NaN or infinite values. Remove or replace them first."
                raise ValueError(msg)
            if key == REGISTRY_KEYS.SIZE_FACTOR_KEY and (numbers <= 0).any():
                msg = f"Expected positive size factors, found {numbers.min()} in {where}."
                raise ValueError(msg)
        for i, name in enumerate(self._continuous):
            columns[name] = checked[REGISTRY_KEYS.CONT_COVS_KEY][:, i].cpu().numpy()
        if self._columns and columns.keys() != self._columns.keys():
            earlier = list(self._columns)
            msg = f"Expected the columns {earlier} of earlier minibatches, found {list(columns)} in {where}."
            raise ValueError(msg)
        self._latest = columns
        for name, values in columns.items():
            self._columns.setdefault(name, array(values.dtype.char)).frombytes(values.tobytes())
        return checked


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
