"""Combinations of factors that were seen apart but never together."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from trvae_scvi._arguments import check_choice, plain_list
from trvae_scvi.data._condition_features import ConditionFeatures

from ._learn_process import LearnedProcess
from ._predictor import Predictor
from ._request import as_list
from ._targets import Targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trvae_scvi.data._model import Model

__all__ = ["combination_weights", "combined_targets", "factors_of"]

_TOLERANCE = 1e-6
_LEAST_COMBINATIONS = 3
_LEAST_DESCRIBED = 0.5  # share of what conditions differ by


def combined_targets(model: Model, target: str | Sequence[str], *, control: str | None, separator: str) -> Targets:
    """Combinations of factors as targets, see :meth:`~trvae_scvi.TRVAE.predict_combination`."""
    predictor = Predictor.of(model)
    known = list(predictor.schema.conditions)
    conditions = [str(name) for name in known]
    if control is not None:
        check_choice("control", control, known)
        control = str(control)
    names = as_list(target)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        msg = f"Expected `target` to be the name of a combination or a list of different ones, found {target!r}."
        raise ValueError(msg)
    weights = np.stack([combination_weights(conditions, name, control, separator) for name in names])
    codes = {name: len(conditions) + i for i, name in enumerate(names)}
    # a draw depends on what is combined, not on what else is asked for or known
    factors = {name: factors_of(name, control, separator) for name in names}
    streams = {name: _stream(own) for name, own in factors.items()}
    learned = LearnedProcess.of(model)
    rows: dict[str, np.ndarray] = {}
    if learned is not None and model.features_ is not None:
        codes_of = [*learned.codes, learned.control]
        table = ConditionFeatures(**model.features_).of_conditions([known[code] for code in codes_of])
        sets = [factors_of(conditions[code], control, separator) for code in codes_of]
        if learned.process.share_described >= _LEAST_DESCRIBED:
            rows = _sums_of_parts(table, sets, factors)
    added = {name: own for name, own in zip(names, weights, strict=True) if name not in rows}
    if learned is not None and rows:
        return Targets.described(predictor, learned, codes, streams, rows, added=added)
    notes = {"conditions": np.array(conditions), "weights": weights}
    return Targets(predictor.combining(weights), codes, streams, {}, notes)


def _sums_of_parts(
    table: np.ndarray, sets: Sequence[frozenset[str]], asked: Mapping[str, frozenset[str]]
) -> dict[str, np.ndarray]:
    """Descriptions of combinations as sums of a part for each factor; none for those that are better left alone.

    That is where descriptions do not add up, or tell less than the factors do, so that what adds up is not linear in
    them; where hardly any combination was measured, as only these tell how far single effects, each known by itself,
    add up; and for factors that nothing was learned from, as those that only a query has.
    """
    if sum(len(present) > 1 for present in sets) < _LEAST_COMBINATIONS:
        return {}
    factors = sorted(frozenset().union(*sets))
    design = np.array([[float(factor in present) for factor in factors] for present in sets])
    inverse = np.linalg.pinv(design)
    adds_up = np.abs(design @ inverse @ table - table).max() <= _TOLERANCE * np.abs(table).max()
    if not adds_up or np.linalg.matrix_rank(table) < np.linalg.matrix_rank(design):
        return {}
    found = {}
    for name, wanted in asked.items():
        own = np.array([float(factor in wanted) for factor in factors])
        if wanted <= set(factors) and np.abs(own @ inverse @ design - own).max() <= _TOLERANCE:
            found[name] = own @ inverse @ table
    return found


def combination_weights(conditions: Sequence[str], target: str, control: str | None, separator: str) -> np.ndarray:
    """Weights of the measured conditions in the additive prediction of a combination.

    Least squares of smallest norm for one term a factor and a constant; every measured condition counts the same.

    Parameters
    ----------
    conditions
        Names of the measured conditions.
    target
        Name of the combination.
    control
        Name of the condition without factors, if there is one.
    separator
        What stands between factors.

    Returns
    -------
    As many numbers as conditions, which sum to 1.

    Raises
    ------
    ValueError
        If a factor of the target was never measured, or only together with others, or if the target was measured.
    """
    sets = [factors_of(name, control, separator) for name in conditions]
    wanted = factors_of(target, control, separator)
    if wanted in sets:
        msg = f"{target!r} was measured, as {conditions[sets.index(wanted)]!r}: ask `predict_perturbation` for it."
        raise ValueError(msg)
    factors = sorted(frozenset().union(*sets))
    unknown = sorted(wanted - set(factors))
    if unknown:
        msg = f"Expected `target` to combine measured factors {plain_list(factors)}, found {unknown} in {target!r}."
        raise ValueError(msg)
    design = np.array([[1.0, *(factor in present for factor in factors)] for present in sets])
    asked = np.array([1.0, *(factor in wanted for factor in factors)])
    weights = np.linalg.pinv(design).T @ asked
    if np.abs(design.T @ weights - asked).max() > _TOLERANCE:
        hint = "" if control is not None else " If one of them has no factor, name it as `control`."
        msg = f"The measured conditions do not tell apart what each of {sorted(wanted)} does, so {target!r} cannot be "
        raise ValueError(f"{msg}predicted from them.{hint}")
    return weights


def factors_of(name: str, control: str | None, separator: str) -> frozenset[str]:
    """The factors that the name of a condition lists; the control's own name is none, alone or beside others.

    Raises
    ------
    ValueError
        If there is no separator, or a factor is listed twice, which is not the same as once.
    """
    if not isinstance(separator, str) or not separator:
        msg = f"Expected `separator` to be a text that stands between factors, found {separator!r}."
        raise (ValueError if separator == "" else TypeError)(msg)
    if name == control:
        return frozenset()
    listed = [factor for part in name.split(separator) if (factor := part.strip()) not in ("", control)]
    if len(set(listed)) < len(listed):
        msg = f"Expected every factor once, found {name!r}. Name a factor that was applied twice in its own way."
        raise ValueError(msg)
    return frozenset(listed)


def _stream(factors: frozenset[str]) -> int:
    """A number for a set of factors, the same everywhere."""
    return zlib.crc32("\0".join(sorted(factors)).encode())
