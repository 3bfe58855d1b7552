"""Simulated perturbation data with a known truth. They ship with the package and need no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CONTROL", "Effects", "SimulatedPerturbation", "cells_under", "draw_population", "simulate_perturbation"]

CONTROL = "control"

# The shape of the data. With six types and four programmes, hardly active within a type, a type's response could not
# be learned from the others (as many types to learn from as unknowns), and a model and the mean shift tied: there are
# more types now, fewer programmes, and these vary within types as well. Not to be changed with a model's score in view.
_N_PROGRAMMES = 3
_MEDIAN_LIBRARY = 800.0
_LIBRARY_SD = 0.35
_BASE_SD = 1.5  # of log gene means
_TYPE_SD = 0.4  # of what sets a type apart beyond the programmes
_LOADING_SHARE, _LOADING_SD = 0.15, 1.2
_COMMON_SHARE, _COMMON_MEAN, _COMMON_SD = 0.08, 0.4, 0.5
_RESPONSE_SHARE, _RESPONSE_MEAN, _RESPONSE_SD = 0.1, 0.8, 0.8
_ACTIVITY_SD = 0.3  # between cells of a type
_COMPOSITION = 5.0  # Dirichlet concentration of the type proportions of a condition


class SimulatedPerturbation(NamedTuple):
    """What :func:`~trvae_scvi.datasets.simulate_perturbation` returns.

    Attributes
    ----------
    adata
        Cells as an experiment would show them: every cell in one condition.
    truth
        Every control cell under every target: ``X`` holds one draw coupled to the counts of the cell,
        ``layers["mean"]`` the counterfactual mean. Names are ``<cell>-<target>``.

    Examples
    --------
    >>> from trvae_scvi.datasets import simulate_perturbation
    >>> simulated = simulate_perturbation(n_cells=600, n_genes=50)
    >>> simulated.adata.shape, simulated.truth.shape
    ((600, 50), (300, 50))
    """

    adata: AnnData
    truth: AnnData


class _Population(NamedTuple):
    """Parameters behind the cells; `g` genes, `k` programmes."""

    base: np.ndarray  # types x g, log proportions up to a constant
    loadings: np.ndarray  # k x g, what an active programme does to control cells
    activities: np.ndarray  # types x k, mean activities
    theta: np.ndarray  # g


class Effects(NamedTuple):
    """Log fold changes under a target, by a cell's type and by its programmes."""

    by_type: np.ndarray  # types x g
    by_programme: np.ndarray  # k x g, for every unit of activity

    def fold_changes(self, types: np.ndarray, activities: np.ndarray) -> np.ndarray:
        return np.exp(self.by_type[types] + activities @ self.by_programme)


def simulate_perturbation(
    n_cells: int = 8000,
    n_genes: int = 600,
    *,
    n_types: int = 8,
    targets: Sequence[str] = ("stimulated",),
    type_specific: bool = False,
    seed: int = 0,
) -> SimulatedPerturbation:
    r"""Simulate unpaired cells of several types under a control and further conditions.

    A cell has a type, a library size and activities :math:`a` of programmes that all types share to
    differing degrees and that show in the expression of control cells. Its counts are negative binomial
    with mean :math:`\mu_g`. A condition multiplies the mean by

    .. math:: \exp\Bigl(e_{0g} + \sum_k e_{kg}\, a_k\Bigr),

    so that a type's response is neither the same as another's nor unknowable from the others. The
    composition of types differs between conditions.

    Parameters
    ----------
    n_cells
        Number of cells, about the same in every condition.
    n_genes
        Number of genes.
    n_types
        Number of cell types, ``"type_1"``, ``"type_2"``, ...
    targets
        List of the names of the conditions beside ``"control"``, each once.
    type_specific
        Draw every type's response by itself. The response of a type that was held out is then **not
        predictable** from the other types, by any method.
    seed
        Seed of everything random.

    Returns
    -------
    The cells (counts in ``X``, ``obs`` with `condition` and `cell_type`) and the truth.

    Raises
    ------
    TypeError
        If `targets` is a text instead of a list of them.
    ValueError
        If there are fewer than 2 types, 10 genes, one target or 10 cells for every type and condition, or a target is
        there twice or named ``"control"``.

    Examples
    --------
    >>> from trvae_scvi.datasets import simulate_perturbation
    >>> adata, truth = simulate_perturbation(n_cells=600, n_genes=50)
    >>> sorted(adata.obs["condition"].unique())
    ['control', 'stimulated']
    """
    targets = _checked_targets(targets)
    if n_types < 2 or n_genes < 10 or n_cells < 10 * n_types * (len(targets) + 1) or not targets:
        msg = (
            "Expected at least 2 types, 10 genes, one target and 10 cells for every type and condition, found "
            f"n_types={n_types}, n_genes={n_genes}, targets={targets}, n_cells={n_cells}."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    population = draw_population(rng, n_types, n_genes)
    effects = {name: _draw_effects(rng, n_types, n_genes, type_specific=type_specific) for name in targets}
    return SimulatedPerturbation(*cells_under(rng, population, effects, n_cells, targets, targets))


def cells_under(
    rng: np.random.Generator,
    population: _Population,
    effects: Mapping[str, Effects],
    n_cells: int,
    measured: Sequence[str],
    asked: Sequence[str],
) -> tuple[AnnData, AnnData]:
    """Cells of the control and of measured conditions, and every control cell under those that are asked for."""
    n_types = len(population.base)
    cells, truths = [], []
    for i, name in enumerate([CONTROL, *measured]):
        n = n_cells // (len(measured) + 1) + (i < n_cells % (len(measured) + 1))
        types = _draw_types(rng, n, n_types)
        activities = population.activities[types] + _ACTIVITY_SD * rng.standard_normal((n, _N_PROGRAMMES))
        mu = _control_means(rng, population, types, activities)
        fold = 1.0 if name == CONTROL else effects[name].fold_changes(types, activities)
        rate = rng.gamma(population.theta, mu * fold / population.theta)
        counts = rng.poisson(rate)
        names = [f"{name}_{j}" for j in range(n)]
        cells.append(_annotated(counts, name, types, names))
        if name == CONTROL:
            for target in asked:
                fold = effects[target].fold_changes(types, activities)
                coupled = _coupled(rng, counts, rate, fold)
                truth = _annotated(coupled, target, types, [f"{cell}-{target}" for cell in names])
                truth.layers["mean"] = (mu * fold).astype(np.float32)
                truths.append(truth)
    return _concatenated(cells), _concatenated(truths)


def _checked_targets(targets: Sequence[str]) -> list[str]:
    if isinstance(targets, str):
        msg = f"Expected `targets` to be a list of conditions, found the text {targets!r}. Write [{targets!r}]."
        raise TypeError(msg)
    names = list(targets)
    if len(set(names)) < len(names) or CONTROL in names:
        msg = f"Expected different `targets`, none of them {CONTROL!r}, found {names}."
        raise ValueError(msg)
    return names


def draw_population(rng: np.random.Generator, n_types: int, n_genes: int) -> _Population:
    base = _BASE_SD * rng.standard_normal(n_genes) + _TYPE_SD * rng.standard_normal((n_types, n_genes))
    loaded = rng.random((_N_PROGRAMMES, n_genes)) < _LOADING_SHARE
    loadings = loaded * np.abs(_LOADING_SD * rng.standard_normal((_N_PROGRAMMES, n_genes)))
    activities = rng.random((n_types, _N_PROGRAMMES))
    return _Population(base, loadings, activities, rng.gamma(4.0, 1.5, n_genes) + 0.5)


def _draw_effects(rng: np.random.Generator, n_types: int, n_genes: int, *, type_specific: bool) -> Effects:
    """Effects that types share, in common and by programme, or those drawn for every type by itself."""
    if type_specific:
        responds = rng.random((n_types, n_genes)) < _COMMON_SHARE + _RESPONSE_SHARE
        size = _RESPONSE_MEAN + _RESPONSE_SD * rng.standard_normal((n_types, n_genes))
        return Effects(responds * size, np.zeros((_N_PROGRAMMES, n_genes)))
    common = (rng.random(n_genes) < _COMMON_SHARE) * (_COMMON_MEAN + _COMMON_SD * rng.standard_normal(n_genes))
    responds = rng.random((_N_PROGRAMMES, n_genes)) < _RESPONSE_SHARE
    size = _RESPONSE_MEAN + _RESPONSE_SD * rng.standard_normal((_N_PROGRAMMES, n_genes))
    return Effects(np.tile(common, (n_types, 1)), responds * size)


def _draw_types(rng: np.random.Generator, n: int, n_types: int) -> np.ndarray:
    proportions = 0.5 / n_types + 0.5 * rng.dirichlet(np.full(n_types, _COMPOSITION))
    return rng.choice(n_types, n, p=proportions)


def _control_means(
    rng: np.random.Generator, population: _Population, types: np.ndarray, activities: np.ndarray
) -> np.ndarray:
    logits = population.base[types] + activities @ population.loadings
    proportions = np.exp(logits - logits.max(axis=1, keepdims=True))
    library = _MEDIAN_LIBRARY * np.exp(_LIBRARY_SD * rng.standard_normal((len(types), 1)))
    return library * proportions / proportions.sum(axis=1, keepdims=True)


def _coupled(rng: np.random.Generator, counts: np.ndarray, rate: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Counts under the target for the same rates: thinned, or with Poisson counts added."""
    thinned = rng.binomial(counts, np.minimum(fold, 1.0))
    return thinned + rng.poisson(rate * np.maximum(fold - 1.0, 0.0))


def _annotated(counts: np.ndarray, condition: str, types: np.ndarray, names: list[str]) -> AnnData:
    obs = pd.DataFrame(
        {"condition": condition, "cell_type": [f"type_{t + 1}" for t in types]}, index=pd.Index(names, dtype=str)
    )
    genes = pd.DataFrame(index=pd.Index([f"gene_{g + 1}" for g in range(counts.shape[1])], dtype=str))
    return AnnData(X=sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=genes)


def _concatenated(parts: list[AnnData]) -> AnnData:
    whole = anndata.concat(parts)
    for column in whole.obs:
        whole.obs[column] = pd.Categorical(whole.obs[column])
    return whole
