"""Descriptions of conditions that a model is given, checked before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from trvae_scvi.data._condition_features import ConditionFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trvae_scvi.module._options import ModelOptions

__all__ = ["described"]


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
