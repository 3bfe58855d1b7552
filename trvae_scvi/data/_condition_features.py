"""What conditions are described by: a table of numbers, one row for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi._arguments import plain_list

from ._designs import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConditionFeatures"]

_SHOWN = 5
_UNEQUAL = 20


@dataclass(frozen=True, eq=False)
class ConditionFeatures:
    """Numeric descriptions of conditions, measured or not.

    Attributes
    ----------
    names
        Of the conditions.
    columns
        Of the table.
    values
        Conditions x columns.
    """

    names: list[Any]
    columns: list[str]
    values: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> ConditionFeatures:
        """Check a table; a TypeError or ValueError says what is wrong with it."""
        if not isinstance(table, pd.DataFrame):
            msg = (
                "Expected `condition_features` to be a pandas DataFrame with one row for every condition, found "
                f"{type(table).__name__}."
            )
            raise TypeError(msg)
        if 0 in table.shape:
            msg = f"Expected `condition_features` with a row and a column at least, found shape {table.shape}."
            raise ValueError(msg)
        names = table.index
        if isinstance(names, pd.MultiIndex):
            msg = "Expected names of conditions as index of `condition_features`, found a MultiIndex. Join its levels."
            raise TypeError(msg)
        if names.hasnans or not names.is_unique:
            twice = plain_list(names[names.duplicated()].unique())[:_SHOWN]
            found = f"{twice} more than once" if twice else "a missing name"
            msg = f"Expected every condition once in the index of `condition_features`, found {found}."
            raise ValueError(msg)
        columns = pd.Index([str(name) for name in table.columns])
        if not columns.is_unique:
            twice = list(columns[columns.duplicated()].unique())[:_SHOWN]
            msg = f"Expected every column of `condition_features` once, found {twice} more than once. Rename them."
            raise ValueError(msg)
        types = pd.api.types
        kinds = [types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind) for kind in table.dtypes]
        foreign = [str(name) for name, is_number in zip(table.columns, kinds, strict=True) if not is_number]
        if foreign:
            msg = (
                f"Expected columns of numbers in `condition_features`, found others: {foreign[:_SHOWN]}. "
                "`table.astype(float)` makes numbers of texts, `pandas.get_dummies` columns of 0 and 1 of categories."
            )
            raise TypeError(msg)
        values = np.array(table.to_numpy(dtype=np.float64, na_value=np.nan))  # the caller's own table may change
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            rows = plain_list(names[~finite])[:_SHOWN]
            msg = f"Expected finite numbers in `condition_features`, found others for {rows}. Fill them in."
            raise ValueError(msg)
        return cls(plain_list(names), list(columns), values)

    def check(self, conditions: Sequence[Any]) -> None:
        """Raise a ValueError unless all conditions are described, and exactly one of them by 0 alone: the control.

        Warns where one column rules all distances.
        """
        self.check_others(conditions)
        known = set(self.names)
        missing = [name for name in plain_list(conditions) if name not in known]
        if missing:
            msg = (
                f"Expected a row of `condition_features` for every condition, found none for {missing[:_SHOWN]}. "
                f"Its index has {self.names[:_SHOWN]}."
            )
            raise ValueError(msg)
        names = plain_list(conditions)
        origin = [name for name, row in zip(names, self.of_conditions(names), strict=True) if not row.any()]
        if len(origin) != 1:
            found = f"{len(origin)}: {origin[:_SHOWN]}" if origin else "none"
            msg = (
                "Expected one condition whose `condition_features` are all 0, the control that descriptions are "
                f"relative to, found {found}. Subtract the control's row from all, and give others what sets them "
                "apart."
            )
            raise ValueError(msg)

    def check_others(self, conditions: Sequence[Any]) -> None:
        """Raise a ValueError for a name that no unmeasured condition can have; warn where a column rules distances."""
        if "all" in self.names and "all" not in list(conditions):
            msg = (
                "A condition that was not measured cannot be named 'all', which asks for all measured ones. Rename it."
            )
            raise ValueError(msg)
        self._warn_of_scales()

    def _warn_of_scales(self) -> None:
        largest = np.abs(self.values).max()
        if not largest:
            return
        scales = np.sqrt(((self.values / largest) ** 2).mean(axis=0))
        scales = scales[scales > 0]
        if len(scales) > 1 and scales.max() > _UNEQUAL * np.median(scales):
            column = self.columns[int(np.argmax(np.abs(self.values).max(axis=0)))]
            warn(
                f"Columns of `condition_features` differ in scale: {column!r} is over {_UNEQUAL} times as large as "
                "most others and rules how alike conditions are. Bring them to one scale, or take logarithms of doses "
                "with `features.dose_features`."
            )

    def of_conditions(self, names: Sequence[Any]) -> np.ndarray:
        """Rows of these conditions."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.values[np.array([place[name] for name in names], dtype=np.intp)]

    def plain(self) -> dict[str, Any]:
        """Values that any version of pandas reads."""
        return {"names": self.names, "columns": self.columns, "values": self.values}
