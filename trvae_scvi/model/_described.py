"""Descriptions of conditions that a model is given, checked before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi.data._condition_features import ConditionFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trvae_scvi.module._options import ModelOptions

__all__ = ["described", "with_new_rows"]

_SHOWN = 5


def described(
    given: pd.DataFrame | dict[str, Any] | None, options: ModelOptions, conditions: Sequence[Any]
) -> dict[str, Any] | None:
    """Plain values of a table, after checking it; those of a model that was saved or is a reference's stay as they are.

    Parameters
    ----------
    given
        The table, or what this function made of it before.
    options
        Of the model.
    conditions
        That were measured.
    """
    if given is None:
        return None
    if options.condition_layer != "output" or options.network is not None:
        msg = (
            "`condition_features` say how alike the offsets are that conditions add to the decoder's output: they need "
            'condition_layer="output" and no `network`.'
        )
        raise ValueError(msg)
    if isinstance(given, dict) and set(given) == {"names", "columns", "values"}:
        saved = pd.DataFrame(given["values"], index=given["names"], columns=given["columns"])
        return ConditionFeatures.of(saved).plain()
    features = ConditionFeatures.of(given)
    features.check(conditions)
    return features.plain()


def with_new_rows(given: pd.DataFrame | None, known: dict[str, Any] | None) -> dict[str, Any] | None:
    """Plain values of a reference's table with those rows of a query's that it has not.

    Raises
    ------
    TypeError, ValueError
        If the query's is no table of numbers, the reference has none, or what both describe differs.

    Warns
    -----
    UserWarning
        If one column rules all distances.
    """
    if given is None:
        return known
    if known is None:
        msg = (
            "The reference was trained without `condition_features` and has not learned how alike conditions are by "
            "them. Leave them out, or train a reference with them."
        )
        raise ValueError(msg)
    theirs, own = ConditionFeatures(**known), ConditionFeatures.of(given)
    differ = sorted(set(own.columns) ^ set(theirs.columns))
    if differ:
        msg = (
            "Expected `condition_features` with the columns of the reference's, found in one of both alone "
            f"{differ[:_SHOWN]}."
        )
        raise ValueError(msg)
    place = [own.columns.index(name) for name in theirs.columns]
    own = ConditionFeatures(own.names, theirs.columns, own.values[:, place])
    both = [name for name in own.names if name in theirs.names]
    same = np.isclose(own.of_conditions(both), theirs.of_conditions(both)).all(axis=1)
    changed = [name for name, is_same in zip(both, same, strict=True) if not is_same]
    if changed:
        msg = (
            f"Expected the reference's descriptions of what it describes, found others for {changed[:_SHOWN]}. Give "
            "other conditions other names."
        )
        raise ValueError(msg)
    new = [name for name in own.names if name not in theirs.names]
    values = np.concatenate([theirs.values, own.of_conditions(new)])
    merged = ConditionFeatures([*theirs.names, *new], theirs.columns, values)
    merged.check_others(theirs.names)
    return merged.plain()
