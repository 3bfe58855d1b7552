"""Simulated conditions that are described by numbers, some of them not measured, with a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_choice, check_integer, check_number
from trvae_scvi.features import combination_features, dose_features

from ._simulation import CONTROL, Effects, cells_under, draw_population

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SimulatedConditions", "simulate_conditions"]

_N_FEATURES = 6
_RESPONSE_SHARE, _RESPONSE_SD = 0.2, 0.8
_DOSES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_INTERACTIONS = 0.2  # share of the variance of what pairs do


class SimulatedConditions(NamedTuple):
    """What :func:`~trvae_scvi.datasets.simulate_conditions` returns.

    Attributes
    ----------
    adata
        Cells of the control and of the measured conditions.
    features
        Descriptions of all conditions, those that were not measured among them.
    truth
        Every control cell under every condition that was not measured, as
        :func:`~trvae_scvi.datasets.simulate_perturbation` has it.

    Examples
    --------
    >>> from trvae_scvi.datasets import simulate_conditions
    >>> simulated = simulate_conditions(n_cells=900, n_genes=50, n_conditions=12)
    >>> simulated.adata.obs["condition"].nunique(), simulated.features.shape, simulated.truth.obs["condition"].nunique()
    (10, (13, 6), 3)
    """

    adata: AnnData
    features: pd.DataFrame
    truth: AnnData


def simulate_conditions(
    n_cells: int = 6000,
    n_genes: int = 500,
    *,
    n_conditions: int = 80,
    design: Literal["features", "doses", "pairs"] = "features",
    explained: float = 1.0,
    n_types: int = 3,
    seed: int = 0,
) -> SimulatedConditions:
    r"""Simulate cells under conditions that are described by numbers, some of which are not measured.

    Types respond alike. A condition multiplies the means of one gene in five, the same for all conditions, by
    :math:`\exp(e_{sg})`, with

    * ``"features"``: :math:`e_{sg} = \phi_s^\top b_g` for six normal features, and something of its own. The last
      quarter of the conditions is not measured;
    * ``"doses"``: drugs at five doses each, :math:`e_{sg} = b_g\, x / (x + x_{50})` with an :math:`x_{50}` of the
      drug's own. The middle dose of every other drug is not measured;
    * ``"pairs"``: the sum of two factors' effects, and an interaction of a fifth of the variance. All factors alone,
      and two thirds of the pairs, are measured.

    Parameters
    ----------
    n_cells
        Number of cells, about the same in every condition that is measured.
    n_genes
        Number of genes.
    n_conditions
        Number of conditions beside the control.
    design
        What conditions are.
    explained
        Share of the variance of effects that follows from the description, with ``design="features"``.
    n_types
        Number of cell types.
    seed
        Seed of everything random.

    Returns
    -------
    Cells, descriptions, and the truth for the conditions that were not measured.

    Raises
    ------
    ValueError
        If there are fewer than 10 conditions, 10 genes or 10 cells for every condition, or `explained` is not from 0 to
        1.

    Examples
    --------
    >>> from trvae_scvi.datasets import simulate_conditions
    >>> adata, features, truth = simulate_conditions(n_cells=900, n_genes=50, n_conditions=12, design="pairs")
    >>> features.columns.tolist()
    ['gene_1', 'gene_2', 'gene_3', 'gene_4', 'gene_5']
    """
    check_choice("design", design, ["features", "doses", "pairs"])
    check_number("explained", explained)
    for name, value, least in (("n_conditions", n_conditions, 10), ("n_genes", n_genes, 10), ("n_types", n_types, 1)):
        check_integer(name, value, least)
    if explained > 1 or n_cells < 10 * (n_conditions + 1):
        msg = (
            "Expected `explained` from 0 to 1 and 10 cells for every condition, found "
            f"explained={explained}, n_cells={n_cells}, n_conditions={n_conditions}."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    population = draw_population(rng, n_types, n_genes)
    responds = rng.random(n_genes) < _RESPONSE_SHARE
    draw = {"features": _of_features, "doses": _of_doses, "pairs": _of_pairs}[design]
    features, change, apart = draw(rng, n_conditions, n_genes, explained)
    names = features.index[1:]
    effects = {
        name: Effects(np.tile(_RESPONSE_SD * responds * row, (n_types, 1)), np.zeros_like(population.loadings))
        for name, row in zip(names, change, strict=True)
    }
    measured = [name for name in names if name not in apart]
    adata, truth = cells_under(rng, population, effects, n_cells, measured, apart)
    return SimulatedConditions(adata, features, truth)


def _of_features(
    rng: np.random.Generator, n_conditions: int, n_genes: int, explained: float
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Descriptions, effects of all conditions but the control on all genes, and who is not measured."""
    names = [f"condition_{i + 1}" for i in range(n_conditions)]
    values = rng.standard_normal((n_conditions, _N_FEATURES))
    described = values @ rng.standard_normal((_N_FEATURES, n_genes)) / np.sqrt(_N_FEATURES)
    own = rng.standard_normal((n_conditions, n_genes))
    change = np.sqrt(explained) * described + np.sqrt(1.0 - explained) * own
    columns = [f"feature_{i + 1}" for i in range(_N_FEATURES)]
    table = pd.DataFrame(np.vstack([np.zeros(_N_FEATURES), values]), index=[CONTROL, *names], columns=columns)
    return table, change, names[-(n_conditions // 4) :]


def _of_doses(
    rng: np.random.Generator, n_conditions: int, n_genes: int, _: float
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    drugs = [f"drug_{i // len(_DOSES) + 1}" for i in range(n_conditions)]
    doses = [_DOSES[i % len(_DOSES)] for i in range(n_conditions)]
    names = [f"{drug} {dose:g} nM" for drug, dose in zip(drugs, doses, strict=True)]
    of_drug = {drug: (rng.standard_normal(n_genes), 10.0 ** rng.uniform(0.0, 2.0)) for drug in dict.fromkeys(drugs)}
    change = [of_drug[drug][0] * dose / (dose + of_drug[drug][1]) for drug, dose in zip(drugs, doses, strict=True)]
    middle = [name for name, dose in zip(names, doses, strict=True) if dose == _DOSES[2]]
    table = dose_features([CONTROL, *names], [0.0, *doses], drugs=[CONTROL, *drugs])
    return table, np.array(change), middle[::2]


def _of_pairs(
    rng: np.random.Generator, n_conditions: int, n_genes: int, _: float
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    n_factors = next(n for n in range(2, n_conditions) if n * (n + 1) // 2 >= n_conditions)
    factors = [f"gene_{i + 1}" for i in range(n_factors)]
    possible = [f"{a}+{b}" for i, a in enumerate(factors) for b in factors[i + 1 :]]
    pairs = [possible[i] for i in rng.permutation(len(possible))[: n_conditions - n_factors]]
    table = combination_features([*factors, *pairs], control=CONTROL)
    single = rng.standard_normal((n_factors, n_genes))
    order = [factors.index(name) for name in table.columns]
    change = table.to_numpy()[1:] @ single[order]
    between = rng.standard_normal((len(pairs), n_genes))
    change[n_factors:] = np.sqrt(1.0 - _INTERACTIONS) * change[n_factors:] + np.sqrt(2.0 * _INTERACTIONS) * between
    return table, change, pairs[: len(pairs) // 3]
