"""Combinations of factors that were seen apart but never together. A mixin for the model."""

from __future__ import annotations

import copy
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from trvae_scvi._arguments import check_choice, plain_list

from ._decoding import Options
from ._prediction import PredictionMixin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from trvae_scvi.module._trvae_module import TRVAEModule

__all__ = ["CombinationMixin", "combination_weights"]

_TOLERANCE = 1e-6


class CombinationMixin(PredictionMixin):
    """Combinations that :class:`~trvae_scvi.TRVAE` predicts."""

    def predict_combination(
        self,
        adata: AnnData | None = None,
        *,
        target: str | Sequence[str],
        control: str | None = None,
        separator: str = "+",
        source: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        method: Literal["counterfactual", "mean", "sample"] = "counterfactual",
        library_size: float | None = None,
        covariates: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = 0,
    ) -> AnnData:
        r"""What these cells would look like under a combination that was not measured.

        Every condition is taken as the set of factors its name lists: ``"KLF1+MAP2K6"``, or ``"drug A+10 nM"`` for
        columns that were joined. A condition's parameters :math:`e_s` are taken as the sum of one term for each of its
        factors and one that all conditions share; those of the combination are the sum that fits the measured
        conditions best, a weighted sum :math:`\sum_s w_s e_s` of theirs. With A, B and the control alone that is
        :math:`e_A + e_B - e_\mathrm{control}`. It acts on the scale on which conditions enter the decoder, for counts
        the logarithm of the expected counts: an effect beyond that, synergy or antagonism, is not predicted.

        Parameters
        ----------
        target
            Combination of factors, or a list of different ones.
        control
            The condition without any factor; in the names of others (``"KLF1+ctrl"``) it counts for nothing. Needed
            where factors are absent or present (perturbations), not where each takes one of several values (drug and
            dose).
        separator
            What stands between the factors in the names of conditions.
        adata, source, indices, method, library_size, covariates, batch_size, seed
            As in :meth:`predict_perturbation`.

        Returns
        -------
        As from :meth:`predict_perturbation`. ``uns["trvae"]`` also holds `weights`, targets by `conditions`.

        Raises
        ------
        RuntimeError, KeyError, TypeError
            As :meth:`predict_perturbation`.
        ValueError
            If the measured conditions do not tell the factors of a combination apart, it was measured itself, or a
            factor is listed twice, and for what :meth:`predict_perturbation` refuses.

        Examples
        --------
        >>> cells = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, targets=("A", "B")).adata
        >>> tv.TRVAE.setup_anndata(cells)
        >>> model = tv.TRVAE(cells)
        >>> model.train(max_epochs=1)
        >>> both = model.predict_combination(target="A+B", control="control", source="control")
        >>> both.uns["trvae"]["conditions"].tolist(), both.uns["trvae"]["weights"].round(2).tolist()
        (['A', 'B', 'control'], [[1.0, 1.0, -1.0]])
        """
        minibatches = self._minibatches_of(adata, indices, source, batch_size, None)
        conditions = [str(name) for name in self._conditions]
        if control is not None:
            check_choice("control", control, list(self._conditions))
            control = str(control)
        names: list[Any] = [target] if isinstance(target, str) or not hasattr(target, "__iter__") else list(target)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            msg = f"Expected `target` to be the name of a combination or a list of different ones, found {target!r}."
            raise ValueError(msg)
        weights = np.stack([combination_weights(conditions, name, control, separator) for name in names])
        codes = {name: len(conditions) + i for i, name in enumerate(names)}
        # a draw depends on what is combined, not on what else is asked for or known
        streams = {name: _stream(factors_of(name, control, separator)) for name in names}
        options = Options(method, library_size, {} if covariates is None else covariates, seed)
        prediction = self._predict(minibatches, codes, _with_conditions(self.module, weights), options, streams)
        prediction.uns["trvae"] |= {"conditions": np.array(conditions), "weights": weights}
        return prediction


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


def _with_conditions(module: TRVAEModule, weights: np.ndarray) -> TRVAEModule:
    """A copy of the module with further conditions, weighted sums of its own; all other parameters are shared."""
    extended = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    for table in extended.condition_tables():
        rows = table.rows
        own = torch.as_tensor(weights, dtype=rows.dtype, device=rows.device)
        combined = torch.tensordot(own, rows, dims=1)
        table.new = nn.Parameter(combined if table.new is None else torch.cat([table.new.detach(), combined]))
    return extended
