"""Tables that describe conditions, for :class:`~trvae_scvi.TRVAE`: combinations, doses and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._arguments import check_number, plain_list
from .predict._combination import factors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["combination_features", "dose_features"]


def combination_features(names: Sequence[str], *, control: str, separator: str = "+") -> pd.DataFrame:
    """Describe combinations by the factors that their names list.

    Parameters
    ----------
    names
        Conditions, measured or not, such as ``"KLF1+MAP2K6"``.
    control
        The condition without any factor; in the names of others it counts for nothing.
    separator
        What stands between factors.

    Returns
    -------
    A row for every condition, the control among them, and a column for every factor, with 1 where it is in.

    Raises
    ------
    TypeError
        If `names` is a text instead of a list of them, or names are no texts.
    ValueError
        If a name is there twice, or lists a factor twice.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> tv.features.combination_features(["A", "B", "A+B"], control="ctrl").loc["A+B"].tolist()
    [1.0, 1.0]
    """
    if isinstance(names, str):
        msg = f"Expected `names` to be a list of conditions, found the text {names!r}. Write [{names!r}]."
        raise TypeError(msg)
    names = list(names)
    foreign = [name for name in [control, *names] if not isinstance(name, str)]
    if foreign:
        msg = f"Expected names of conditions as texts, found {plain_list(foreign)}."
        raise TypeError(msg)
    known = list(dict.fromkeys([control, *names]))
    if len(known) < len(names) + (control not in names):
        msg = f"Expected every condition once, found {names}."
        raise ValueError(msg)
    sets = {name: factors_of(name, control, separator) for name in known}
    factors = sorted(frozenset().union(*sets.values()))
    rows = [[float(factor in present) for factor in factors] for present in sets.values()]
    return pd.DataFrame(rows, index=pd.Index(known), columns=factors)


def dose_features(
    names: Sequence[str],
    doses: Sequence[float] | np.ndarray,
    *,
    drugs: Sequence[str] | None = None,
    smallest: float | Mapping[str, float] | None = None,
) -> pd.DataFrame:
    r"""Describe conditions by a dose or a time, on a logarithmic scale that starts at 0.

    The feature is :math:`\log(1 + x / x_0)` with :math:`x_0` the smallest dose above 0 of the same drug, so that a dose
    of 0 is the control exactly and doses far apart are as far apart as their logarithms.

    Parameters
    ----------
    names
        Conditions, measured or not.
    doses
        Dose or time of every condition, from 0 on; 0 for the control.
    drugs
        Drug of every condition; that of the control does not matter. ``None``: one for all.
    smallest
        :math:`x_0`, one number or one for every drug, where it is not the smallest of `doses`: a table that continues
        another one, such as that of a reference, needs the other one's.

    Returns
    -------
    A row for every condition and a column for every drug, 0 for the others.

    Raises
    ------
    TypeError
        If `names` is a text instead of a list of them.
    ValueError
        If lengths differ, a name is there twice, a dose is negative or not finite, or has no drug, or `smallest` is not
        positive or lacks a drug.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> table = tv.features.dose_features(["control", "1 nM", "10 nM"], [0, 1, 10])
    >>> table["dose"].round(2).tolist()
    [0.0, 0.69, 2.4]
    """
    if isinstance(names, str):
        msg = f"Expected `names` to be a list of conditions, found the text {names!r}. Write [{names!r}]."
        raise TypeError(msg)
    names, values = list(names), np.asarray(doses, dtype=np.float64)
    of_drug = ["dose"] * len(names) if drugs is None else list(drugs)
    if values.shape != (len(names),) or len(of_drug) != len(names) or len(set(names)) < len(names):
        msg = (
            f"Expected different names and a dose and a drug for each, found {len(names)} names, {len(set(names))} of "
            f"them different, {values.size} doses and {len(of_drug)} drugs."
        )
        raise ValueError(msg)
    if not np.isfinite(values).all() or (values < 0).any():
        found = [name for name, value in zip(names, values, strict=True) if not (np.isfinite(value) and value >= 0)]
        msg = f"Expected doses from 0 on, found others for {plain_list(found)}."
        raise ValueError(msg)
    nameless = [name for name, drug, value in zip(names, of_drug, values, strict=True) if value > 0 and pd.isna(drug)]
    if nameless:
        msg = f"Expected a drug for every dose above 0, found none for {plain_list(nameless)}."
        raise ValueError(msg)
    columns = list(dict.fromkeys(drug for drug, value in zip(of_drug, values, strict=True) if value > 0))
    table = pd.DataFrame(0.0, index=pd.Index(names), columns=columns)
    for drug in columns:
        rows = np.array([name == drug for name in of_drug]) & (values > 0)
        table.loc[rows, drug] = np.log1p(values[rows] / _unit(smallest, drug, values[rows]))
    return table


def _unit(smallest: float | Mapping[str, float] | None, drug: str, doses: np.ndarray) -> float:
    """The dose that a drug's others are relative to."""
    if smallest is None:
        return float(doses.min())
    if isinstance(smallest, Mapping) and drug not in smallest:
        msg = f"Expected `smallest` to have a dose for every drug, found none for {drug!r}."
        raise ValueError(msg)
    found = smallest[drug] if isinstance(smallest, Mapping) else smallest
    check_number("smallest", found, positive=True)
    return float(found)
