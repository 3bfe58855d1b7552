"""What conditions are described by: a table of numbers, one row for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi._arguments import plain_list

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConditionFeatures"]

_SHOWN = 5


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
        if names.hasnans or not names.is_unique:
            twice = plain_list(names[names.duplicated()].unique())[:_SHOWN]
            found = f"{twice} more than once" if twice else "a missing name"
            msg = f"Expected every condition once in the index of `condition_features`, found {found}."
            raise ValueError(msg)
        kinds = [pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype) for dtype in table.dtypes]
        foreign = [str(name) for name, is_number in zip(table.columns, kinds, strict=True) if not is_number]
        if foreign:
            msg = (
                f"Expected columns of numbers in `condition_features`, found others: {foreign[:_SHOWN]}. "
                "`pandas.get_dummies` turns categories into columns of 0 and 1."
            )
            raise TypeError(msg)
        values = table.to_numpy(dtype=np.float64, na_value=np.nan)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            rows = plain_list(names[~finite])[:_SHOWN]
            msg = f"Expected finite numbers in `condition_features`, found others for {rows}. Fill them in."
            raise ValueError(msg)
        return cls(plain_list(names), [str(name) for name in table.columns], values)

    def check(self, conditions: Sequence[Any]) -> None:
        """Raise a ValueError unless all conditions are described, and exactly one of them by 0 alone: the control."""
        missing = [name for name in plain_list(conditions) if name not in self.names]
        if missing:
            msg = (
                f"Expected a row of `condition_features` for every condition, found none for {missing[:_SHOWN]}. "
                f"Its index has {self.names[:_SHOWN]}."
            )
            raise ValueError(msg)
        origin = [name for name in plain_list(conditions) if not self.of_conditions([name]).any()]
        if len(origin) != 1:
            found = f"{len(origin)}: {origin[:_SHOWN]}" if origin else "none"
            msg = (
                "Expected one condition whose `condition_features` are all 0, the control that descriptions are "
                f"relative to, found {found}. Subtract the control's row from all, and give others what tells them "
                "apart."
            )
            raise ValueError(msg)

    def of_conditions(self, names: Sequence[Any]) -> np.ndarray:
        """Rows of these conditions."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.values[[place[name] for name in names]]

    def plain(self) -> dict[str, Any]:
        """Values that any version of pandas reads."""
        return {"names": self.names, "columns": self.columns, "values": self.values}
