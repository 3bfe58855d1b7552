"""What is asked of a prediction: checked, and turned into codes and inputs of the decoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trvae_scvi._arguments import check_choice, check_finite, check_integer, check_number, plain_list
from trvae_scvi._compat import ADATA_MINIFY_TYPE, MODULE_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trvae_scvi._math._likelihoods import Likelihood
    from trvae_scvi.data._schema import Schema

__all__ = ["Request", "as_list", "target_codes"]

_SHOWN = 10


@dataclass(frozen=True)
class Request:
    """What is asked of a prediction, as in :meth:`~trvae_scvi.TRVAE.predict_perturbation`.

    Attributes
    ----------
    method
        How to predict.
    library_size
        Total counts of the predicted cells; ``None`` keeps their own.
    covariates
        Values of covariates to decode with, by column.
    seed
        Of the draws; ``None`` for fresh ones.
    """

    method: str = "counterfactual"
    library_size: float | None = None
    covariates: Mapping[str, Any] | None = None
    seed: int | None = 0

    def check(self, likelihood: Likelihood, minify_type: str | None) -> None:
        """Raise unless these cells can be asked for it."""
        if self.seed is not None:
            check_integer("seed", self.seed, 0)
        if self.library_size is not None:
            check_number("library_size", self.library_size, positive=True, below=1e12)
            if not likelihood.models_counts:
                msg = f"`library_size` has no meaning with gene_likelihood={likelihood.name!r}."
                raise ValueError(msg)
        likelihood.check_method(self.method)
        if self.method == "counterfactual" and minify_type == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            msg = (
                "method='counterfactual' changes the cells' own counts, which minified data lack. Use "
                "predict_perturbation(method='mean'), or "
                f"minify with minified_data_type={ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS!r}."
            )
            raise ValueError(msg)

    def changed_inputs(self, schema: Schema) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """How the decoder's inputs differ from the cells' own, by name; raises for covariates that do not fit."""
        changed: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        if self.library_size is not None:
            size = float(self.library_size)
            changed[MODULE_KEYS.LIBRARY_KEY] = functools.partial(torch.full_like, fill_value=float(np.log(size)))
            changed[MODULE_KEYS.SIZE_FACTOR_KEY] = functools.partial(torch.full_like, fill_value=size)
        categories, continuous = schema.covariates, schema.continuous_covariates
        covariates = self.own_covariates
        unknown = [name for name in covariates if name not in categories and name not in continuous]
        if unknown:
            msg = (
                f"Expected `covariates` among the registered {[*categories, *continuous]}, found {unknown}. The "
                "condition is set by `target`; covariates are registered with `setup_anndata`."
            )
            raise ValueError(msg)
        codes, numbers = {}, {}
        for name, value in covariates.items():
            if np.ndim(value):
                msg = f"Expected one value for covariate {name!r}, found a {type(value).__name__} of {len(value)}."
                raise TypeError(msg)
            if name in categories:
                check_choice(f"covariates[{name!r}]", value, list(categories[name]))
                codes[list(categories).index(name)] = list(categories[name]).index(value)
            else:
                check_finite(f"covariates[{name!r}]", value)
                numbers[continuous.index(name)] = float(value)
        for key, values in ((MODULE_KEYS.CAT_COVS_KEY, codes), (MODULE_KEYS.CONT_COVS_KEY, numbers)):
            if values:
                changed[key] = functools.partial(_with_columns, values=values)
        return changed

    @property
    def own_covariates(self) -> Mapping[str, Any]:
        """The covariates asked for, none by default."""
        covariates = {} if self.covariates is None else self.covariates
        if not isinstance(covariates, Mapping):
            msg = f"Expected `covariates` to map columns to values, found {covariates!r}."
            raise TypeError(msg)
        return covariates


def target_codes(
    target: str | Sequence[str], conditions: Sequence[Any] | np.ndarray, described: Sequence[Any] = ()
) -> dict[Any, int]:
    """The targets asked for, with their codes; raises for unknown ones, and for one that is there twice.

    Parameters
    ----------
    target
        A target, several, or ``"all"`` conditions.
    conditions
        Those that were measured.
    described
        Others that can be asked for, whose codes follow.
    """
    measured = list(conditions)
    known = [*measured, *described]
    names = measured if isinstance(target, str) and target == "all" and "all" not in known else as_list(target)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        asked = plain_list(unknown or names)
        more = f" and {len(described) - _SHOWN} more" if len(described) > _SHOWN else ""
        others = f", or among those described alone, {plain_list(described)[:_SHOWN]}{more}" if len(described) else ""
        msg = f"Expected `target` among the conditions {plain_list(measured)} (or 'all'){others}, found {asked}."
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"Expected `target` to be a condition or a list of different ones, found {plain_list(names)}."
        raise ValueError(msg)
    return {name: known.index(name) for name in names}


def as_list(names: Any) -> list[Any]:
    """Several names as a list, one name as a list of it."""
    return [names] if isinstance(names, str) or not hasattr(names, "__iter__") else list(names)


def _with_columns(table: torch.Tensor, *, values: Mapping[int, float]) -> torch.Tensor:
    table = table.clone()
    for column, value in values.items():
        table[:, column] = value
    return table
