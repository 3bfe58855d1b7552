"""The effect of a condition on every gene, with an interval, from cells that come a few at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from trvae_scvi._arguments import check_number
from trvae_scvi._math._intervals import DEFAULT_MODEL_ERROR, ModelError, margin, standard_error
from trvae_scvi.data._columns import check_column
from trvae_scvi.data._designs import warn

from ._predictor import with_progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy import sparse

    from trvae_scvi.data._cells import Cells

    from ._request import Request
    from ._targets import Targets

__all__ = ["Scale", "model_error_of", "perturbation_effect"]

_TARGET_SUM = 1e4
# what the totals of single precision in a column may lack of a cell's sum
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Scale:
    """What the values of an effect are: of which total counts are taken, or that they are as given.

    Parameters
    ----------
    total
        Counts per cell of the registered genes; ``None`` for values as they are.
    column
        Column of `obs` with the total of a cell, of which counts per `total` are taken instead.
    """

    total: float | None
    column: str | None = None

    @classmethod
    def of(cls, asked: float | str | None, *, counts: bool) -> Scale:
        """Check what was asked for; counts per 10,000 of the registered genes by default."""
        if not counts:
            if asked is not None:
                msg = f"Expected no `normalize_to` with values that are no counts, found {asked!r}. They stay as given."
                raise ValueError(msg)
            return cls(None)
        if isinstance(asked, str):
            return cls(_TARGET_SUM, str(asked))
        if asked is None:
            return cls(_TARGET_SUM)
        check_number("normalize_to", asked, positive=True)
        return cls(float(asked))

    @property
    def name(self) -> str:
        """For the table and its plots."""
        if self.total is None:
            return "values as given"
        genes = "the registered genes" if self.column is None else f"{self.column!r}"
        return f"log1p(counts per {self.total:,.10g} of {genes})"

    def check(self, obs: pd.DataFrame) -> None:
        """Raise unless the column of totals is there and has a number for every cell."""
        if self.column is None:
            return
        if self.column not in obs:
            msg = (
                f"Expected `normalize_to={self.column!r}` to be a number or a column of `obs` with the total counts of "
                f"a cell over all genes, found the columns {list(obs.columns)}."
            )
            raise KeyError(msg)
        self._refuse(~np.isfinite(self._numbers(obs)), obs, "")

    def _numbers(self, obs: pd.DataFrame) -> np.ndarray:
        return pd.to_numeric(obs[self.column], errors="coerce").to_numpy(dtype=float)

    def _refuse(self, wrong: np.ndarray, obs: pd.DataFrame, where: str) -> None:
        if wrong.any():
            found = obs[self.column].iloc[int(np.flatnonzero(wrong)[0])]
            msg = (
                f"Expected {self.column!r} to hold the total counts of a cell over all genes, found {found}{where}. "
                "Take a column such as `total_counts` of `scanpy.pp.calculate_qc_metrics`, made from raw counts."
            )
            raise ValueError(msg)

    def totals(self, given: np.ndarray, latest: pd.DataFrame) -> np.ndarray | None:
        """Totals of a minibatch from its column, checked; ``None`` where every cell's own sum counts."""
        if self.column is None:
            return None
        self.check(latest)
        totals = self._numbers(latest)
        self._refuse(totals < given.sum(axis=1) * (1.0 - _ROUNDING), latest, " where the registered genes have more")
        return totals[:, None]


def perturbation_effect(
    targets: Targets,
    cells: Cells,
    request: Request,
    *,
    groupby: str | None,
    level: float,
    error: ModelError,
    scale: Scale,
    pseudocount: float,
) -> pd.DataFrame:
    """The table of :meth:`~trvae_scvi.TRVAE.get_perturbation_effect`; no more than a minibatch is held."""
    predictor = targets.predictor
    predictor.check(request, cells)
    key = _group_key(cells, groupby, predictor.schema.labels_key)
    factors = error.of_genes(cells.var.index)
    given: dict[Any, _Moments] = {}
    predicted: dict[Any, dict[Any, _Moments]] = {name: {} for name in targets.codes}
    condition_key = predictor.schema.condition_key
    is_known = len(cells.obs) > 0  # of a loader's cells only when all were seen
    if is_known:
        scale.check(cells.obs)
        _warn_of_target_cells(cells.obs[condition_key], targets.codes)
    blocks_of = predictor.blocks(cells, targets.codes, request, targets.streams)
    for x, blocks in with_progress(blocks_of, cells.n_batches):
        groups = np.full(len(x), "all", object) if key is None else _groups(cells.latest, key)
        values = _dense(x)
        totals = scale.totals(values, cells.latest)
        _add(given, groups, values, scale, totals)
        for name, block in blocks.items():
            _add(predicted[name], groups, _dense(block), scale, totals)
    if not is_known:
        _warn_of_target_cells(cells.obs[condition_key], targets.codes)
    frames = []
    for name, by_group in predicted.items():
        for group, moments in by_group.items():
            columns = {"variable": cells.var.index.to_numpy(), "target": name, "group": group}
            sd = targets.sd.get(name, 0.0)
            effect = _effect(given[group], moments, sd, level, error, factors, pseudocount, scale)
            frames.append(pd.DataFrame(columns | effect | {"scale": scale.name}))
    return pd.concat(frames, ignore_index=True)


def model_error_of(asked: ModelError | tuple[float, float] | None, *, counts: bool) -> ModelError:
    """Check the error of a model that was asked for; the calibrated one for counts by default."""
    if asked is None:
        return DEFAULT_MODEL_ERROR if counts else ModelError(0.0, 0.0)
    if not isinstance(asked, ModelError):
        if np.shape(asked) != (2,):
            msg = f"Expected `model_error` to be a ModelError or two numbers, floor and share, found {asked!r}."
            raise ValueError(msg)
        asked = ModelError(*asked)
    for name in ("floor", "share", "spread"):
        check_number(f"model_error.{name}", getattr(asked, name))
    for name in ("factors", "quantiles"):
        values = getattr(asked, name)
        if values is not None and not (np.asarray(values, dtype=float) >= 0).all():
            msg = f"Expected `model_error.{name}` from 0, found {values!r}. Calibrate it anew."
            raise ValueError(msg)
    return asked


def _group_key(cells: Cells, groupby: str | None, labels_key: str | None) -> str | None:
    key = groupby if groupby is not None else labels_key
    if key is None:
        return None
    if groupby is None and key not in cells.obs:
        msg = f"The registered `labels_key={key!r}` is no column of these cells. Name another one with `groupby`."
        raise KeyError(msg)
    check_column(AnnData(obs=cells.obs), "groupby", key)
    return key


def _groups(latest: pd.DataFrame, key: str) -> np.ndarray:
    if key not in latest:
        msg = f"Expected {key!r} in every minibatch of `dataloader`, to group by it; found {list(latest.columns)}."
        raise KeyError(msg)
    return latest[key].to_numpy(dtype=object)


def _warn_of_target_cells(conditions: pd.Series, targets: Iterable[Any]) -> None:
    """Cells that have the target already change by nothing, and pull the mean of their group towards that."""
    n = int(conditions.isin(list(targets)).sum())
    if n:
        warn(
            f"{n} of {len(conditions)} cells were measured under a target already; they count as unchanged. Name the "
            "condition to predict from with `source`, e.g. source='control'."
        )


class _Moments:
    """Mean of values, mean and squared deviations of their logarithms, of cells that come a few at a time."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Any = 0.0
        self.log_mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, values: np.ndarray, logarithms: np.ndarray) -> None:
        """Add `n x g` values (Chan et al. 1983, as sums of squares of single cells would lose digits)."""
        n, total = len(values), self.n + len(values)
        self.mean = self.mean + (values.mean(axis=0) - self.mean) * (n / total)
        mean = logarithms.mean(axis=0)
        difference = mean - self.log_mean
        self.log_mean = self.log_mean + difference * (n / total)
        self._squares = self._squares + ((logarithms - mean) ** 2).sum(axis=0) + difference**2 * (self.n * n / total)
        self.n = total

    def variance(self) -> np.ndarray:
        """Of the logarithms; NaN for a single cell."""
        return np.full(np.shape(self.mean), np.nan) if self.n < 2 else self._squares / (self.n - 1)


def _dense(x: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), dtype=np.float64)


def _add(
    moments: dict[Any, _Moments], groups: np.ndarray, values: np.ndarray, scale: Scale, totals: np.ndarray | None
) -> None:
    """Add cells to the moments of their groups: normalised counts with their log1p, or the values as they are.

    A predicted cell has the total of the cell it was predicted from, as all else of that cell is not predicted.
    """
    logarithms = values
    if scale.total is not None:
        sums = values.sum(axis=1, keepdims=True) if totals is None else totals
        values = values * (scale.total / np.maximum(sums, 1.0))
        logarithms = np.log1p(values)
    for group in pd.unique(groups):
        rows = np.flatnonzero(groups == group)
        moments.setdefault(group, _Moments()).add(values[rows], logarithms[rows])


def _effect(
    given: _Moments,
    predicted: _Moments,
    sd: Any,
    level: float,
    error: ModelError,
    factors: np.ndarray,
    pseudocount: float,
    scale: Scale,
) -> dict[str, Any]:
    """The columns of an effect; `sd` is that of what a condition does that was not measured."""
    log_fc = np.full(np.shape(given.mean), np.nan)
    if scale.total is not None:
        log_fc = np.log2((predicted.mean + pseudocount) / (given.mean + pseudocount))
    change = predicted.log_mean - given.log_mean
    variance = predicted.variance()
    sampling = standard_error(variance, predicted.n, predicted.n)
    half = margin(change, np.sqrt(sampling**2 + sd**2), np.sqrt(variance), error, level, factors)
    return {
        "log_fc": log_fc,
        "change": change,
        "change_lower": change - half,
        "change_upper": change + half,
        "level": level,
    }
