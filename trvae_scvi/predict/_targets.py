"""What is asked for by name: conditions that were measured, and those that are described alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trvae_scvi._arguments import plain_list
from trvae_scvi.data._condition_features import ConditionFeatures
from trvae_scvi.data._designs import warn

from ._curves import shifts_for
from ._learn_process import LearnedProcess
from ._predictor import Predictor
from ._request import target_codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trvae_scvi._math._condition_process import Unmeasured
    from trvae_scvi.data._model import Model

__all__ = ["Targets"]

_LEAST_EXPLAINED = 0.1


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of a prediction, and what predicts them.

    Attributes
    ----------
    predictor
        Of measured conditions and of these.
    codes
        Codes to decode with, by name.
    streams
        Numbers of the streams of random draws, by name; they do not hang on what else is asked for.
    sd
        Of changes of means around the expected ones, `g`, for conditions that were not measured, by name.
    notes
        What a prediction is to say of them; nothing if all were measured.
    """

    predictor: Predictor
    codes: dict[Any, int]
    streams: dict[Any, int]
    sd: dict[Any, np.ndarray]
    notes: dict[str, Any]

    @classmethod
    def of(cls, model: Model, target: str | Sequence[str], *, as_change: bool = False) -> Targets:
        """Check the names asked for; a RuntimeError if the model is not trained, a ValueError for unknown targets.

        Predicted cells are to be like other cells under the target, so that those which the model has learned from also
        lose what the control's means are expected to be off by. That is no part of what a condition changes, which
        `as_change` asks for.
        """
        predictor = Predictor.of(model)
        conditions = list(predictor.schema.conditions)
        features = None if model.features_ is None else ConditionFeatures(**model.features_)
        others = [] if features is None else [name for name in features.names if name not in conditions]
        codes = target_codes(target, conditions, others)
        asked = [name for name, code in codes.items() if code >= len(conditions)]
        if features is None or not asked:
            return cls(predictor, codes, codes, {}, {})
        learned = LearnedProcess.of(model)
        if learned is None:
            msg = (
                f"{plain_list(asked)} were not measured, and the model has not learned how conditions differ by their "
                "descriptions: its training was cut short or from a data module, no label connects the control with "
                "other conditions, or it is of a query that trains more than what is new. Call `train()` again, on an "
                "AnnData, or map the query without `unfrozen` and the like."
            )
            raise ValueError(msg)
        streams = {name: zlib.crc32(str(name).encode()) if name in asked else code for name, code in codes.items()}
        rows = dict(zip(asked, features.of_conditions(asked), strict=True))
        return cls.described(predictor, learned, codes, streams, rows, as_change=as_change)

    @classmethod
    def described(
        cls,
        predictor: Predictor,
        learned: LearnedProcess,
        codes: Mapping[Any, int],
        streams: Mapping[Any, int],
        rows: Mapping[Any, np.ndarray],
        *,
        added: Mapping[Any, np.ndarray] | None = None,
        as_change: bool = False,
    ) -> Targets:
        """Targets by their descriptions (`rows`), as weighted sums of measured ones (`added`), and measured ones."""
        conditions = list(predictor.schema.conditions)
        added = {} if added is None else added
        asked, table, n_described = [*rows, *added], np.stack(list(rows.values())), len(rows)
        found = learned.process.predict(table)
        _warn(list(rows), table, found, learned.process.share_described)
        shifts, made = shifts_for(found.effect, learned.curves, learned.shares)
        sd = np.hypot(found.sd, made - found.effect)  # what cannot be had is not known to be otherwise
        of_own = None
        if not as_change:
            off = np.where(table.any(axis=1, keepdims=True), found.of_control, 0.0)
            of_own = shifts_for(found.effect + off, learned.curves, learned.shares)[0], learned.cells
        weights = np.zeros((len(asked), len(conditions)))
        weights[:n_described, learned.codes] = found.weights
        weights[:n_described, learned.control] = 1.0 - found.weights.sum(axis=1)
        weights[n_described:] = np.array(list(added.values())).reshape(len(added), len(conditions))
        place = {name: i for i, name in enumerate(asked)}
        own = [weights[place[name]] if name in place else np.eye(len(conditions))[codes[name]] for name in codes]
        explained = dict(zip(rows, found.explained.tolist(), strict=True)) | dict.fromkeys(added, np.nan)
        return cls(
            predictor.describing(weights, learned.control, shifts, of_own),
            {name: len(conditions) + place[name] if name in place else code for name, code in codes.items()},
            dict(streams),
            dict(zip(rows, sd, strict=True)),
            {
                "conditions": np.array([str(name) for name in conditions]),
                "weights": np.stack(own),
                "explained": np.array([explained.get(name, 1.0) for name in codes]),
            },
        )


def _warn(asked: list[Any], table: np.ndarray, found: Unmeasured, share: float) -> None:
    """Of what can only be the mean response; what is described as the control is known to be that."""
    names = plain_list(asked)
    other = [name for name, row in zip(names, table, strict=True) if row.any()]
    alone, little = (
        [name for name, value in zip(names, values, strict=True) if value < _LEAST_EXPLAINED]
        for values in (found.described, found.explained)
    )
    average = "do no more than measured conditions do on average."
    if share < _LEAST_EXPLAINED and other:
        tells = f"Descriptions explain {share:.0%} of what the measured conditions differ by"
        warn(f"{tells}: {other} are predicted to {average}")
    elif alone:
        warn(f"No measured condition is described like {alone}: they are predicted to {average}")
    elif little:
        warn(
            f"Measured conditions explain less than {_LEAST_EXPLAINED:.0%} of what {little} may do: they are predicted "
            f"to {average}"
        )
