"""Which group to measure next under a condition, and how many of its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_choice, check_number
from trvae_scvi.metrics import comparison_matrix, energy_test
from trvae_scvi.metrics._matrix import gene_means, gene_variances

from ._holdout import MIN_CELLS, check_columns, check_two_conditions, in_order, only_values
from ._runner import check_values

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from anndata import AnnData

__all__ = ["cells_needed", "group_distances", "rank_experiments"]

# Numbers of cells that are tried, of each condition.
_SIZES = (10, 20, 40, 80, 160, 320)
_ALPHA, _N_PERMUTATIONS, _N_DRAWS = 0.05, 99, 20


def rank_experiments(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable | None,
    candidates: Sequence[Hashable] | None = None,
    layer: str | None = None,
    counts: bool = True,
) -> pd.DataFrame:
    r"""Put groups in the order in which to measure them under a condition, to predict the others best.

    Responses are taken as a Gaussian process over the groups' mean control cells: one part that all groups share, one
    that is alike in groups that are alike, and one of each group's own, with the same variance a priori. Group by
    group, the next one is that which leaves least variance in the groups that are still not measured (Seo et al. 2000,
    doi:10.1109/IJCNN.2000.861310). Which cells were measured under the target counts, their values do not: the order
    is known before the first experiment.

    Parameters
    ----------
    adata
        Cells under control of all groups, and those under the target that there are. Not changed.
    group_key, condition_key, control, layer, counts
        As for :func:`~trvae_scvi.benchmark.leave_one_group_out`.
    target
        The condition; `None` if no cell was measured under it.
    candidates
        Groups that can be measured. `None` takes all with at least 10 control cells and fewer than 10 cells under the
        target.

    Returns
    -------
    One row per candidate, in the order in which to measure them, with the columns

    ``group``
        Its name.
    ``unknown_before``, ``unknown``
        Share of the variance of responses that is not known before and after it was measured, mean over all groups.
    ``nearest``
        The measured group that is most alike; missing without any.

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    ValueError
        If a group has fewer than 10 control cells, or was measured, a name is unknown, there are fewer than two groups
        in all, no candidate, or the values are no counts.

    Notes
    -----
    A candidate with few control cells is taken to have as few under the target: it tells less of the others.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=1200, n_genes=50, n_types=5).adata
    >>> controls = adata[(adata.obs["condition"] == "control") | (adata.obs["cell_type"] == "type_1")]
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> order = tv.benchmark.rank_experiments(controls, **keys, target="stimulated")
    >>> len(order), bool(order["unknown"].is_monotonic_decreasing)
    (4, True)
    """
    cells = _checked(adata, group_key, condition_key, control, target, layer, counts)
    n = pd.crosstab(cells.obs[group_key], cells.obs[condition_key])
    n_control, n_target = n[control], 0 * n[control] if target is None else n[target]
    groups = [name for name in in_order(cells.obs[group_key]) if n_control[name] >= MIN_CELLS]
    measured = [name for name in groups if n_target[name] >= MIN_CELLS]
    asked = [name for name in groups if name not in measured] if candidates is None else list(candidates)
    _check_candidates(asked, groups, measured, n_control)
    is_control = (cells.obs[condition_key] == control).to_numpy()
    controls = {
        name: comparison_matrix(cells[is_control & (cells.obs[group_key] == name).to_numpy()], counts=counts)
        for name in groups
    }
    n_cells = [n_target[name] if name in measured else n_control[name] for name in groups]
    covariance, noise, distance = _prior(list(controls.values()), np.array(n_cells))
    place = {name: i for i, name in enumerate(groups)}
    known, left = [place[name] for name in measured], [place[name] for name in asked]
    before, rows = _unknown(covariance, noise, known), []
    while left:
        after = {i: _unknown(covariance, noise, [*known, i]) for i in left}
        chosen = min(after, key=after.__getitem__)
        nearest = groups[min(known, key=lambda i: distance[chosen, i])] if known else None
        rows.append((groups[chosen], before, after[chosen], nearest))
        before = after[chosen]
        known.append(chosen)
        left.remove(chosen)
    return pd.DataFrame(rows, columns=["group", "unknown_before", "unknown", "nearest"])


def cells_needed(
    adata: AnnData,
    *,
    group_key: str,
    condition_key: str = "condition",
    control: Hashable,
    target: Hashable,
    power: float = 0.8,
    layer: str | None = None,
    counts: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """How many cells of a group it takes to see that a condition does anything, from the groups that were measured.

    Of every measured group 10, 20, 40, ... 320 cells under control and as many under the target are drawn, 20 times,
    and told apart by :func:`~trvae_scvi.metrics.energy_test`, as `effect_p` of a benchmark is. At most half of a
    group's cells are drawn at a time, as draws of nearly all of them would be the same ones.

    Parameters
    ----------
    adata
        Cells of at least one group under both conditions. Not changed.
    group_key, condition_key, control, layer, counts
        As for :func:`~trvae_scvi.benchmark.leave_one_group_out`.
    target
        The condition.
    power
        Share of the draws in which the effect is to be seen (p below 0.05).
    seed
        Seeds the draws.

    Returns
    -------
    One row per measured group and number of cells, with the columns `group`, `n_cells` (of each condition), `power`,
    and `needed`: the smallest number from which on the power is reached, NaN where none that was tried reaches it.

    Raises
    ------
    KeyError
        If a column or the layer is missing.
    ValueError
        If no group has 20 cells under both conditions, a name is unknown, `power` is not between 0 and 1, or the values
        are no counts.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=2).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> table = tv.benchmark.cells_needed(adata, **keys, target="stimulated")
    >>> table.columns.tolist()
    ['group', 'n_cells', 'power', 'needed']
    """
    check_number("power", power, positive=True, below=1.0)
    cells = _checked(adata, group_key, condition_key, control, target, layer, counts)
    frames = []
    for name in in_order(cells.obs[group_key]):
        of_group = cells[(cells.obs[group_key] == name).to_numpy()]
        pair = [of_group[(of_group.obs[condition_key] == side).to_numpy()] for side in (control, target)]
        if min(side.n_obs for side in pair) < 2 * _SIZES[0]:
            continue
        before, after = (comparison_matrix(side, counts=counts) for side in pair)
        found = _powers(before, after, np.random.default_rng(seed))
        reached = np.logical_and.accumulate((found["power"] >= power).to_numpy()[::-1])[::-1]
        needed = float(found["n_cells"][reached].min()) if reached.any() else float("nan")
        frames.append(found.assign(group=name, needed=needed))
    if not frames:
        msg = f"Expected a group with {2 * _SIZES[0]} cells under {control!r} and under {target!r}, found none."
        raise ValueError(msg)
    return pd.concat(frames, ignore_index=True)[["group", "n_cells", "power", "needed"]]


def _checked(
    adata: AnnData,
    group_key: str,
    condition_key: str,
    control: Hashable,
    target: Hashable | None,
    layer: str | None,
    counts: bool,
) -> AnnData:
    """The cells under control and target, with their values in `X`."""
    check_columns(adata, group_key, condition_key)
    check_two_conditions(control, target)
    asked = {"control": control} if target is None else {"control": control, "target": target}
    for name, condition in asked.items():
        check_choice(name, condition, in_order(adata.obs[condition_key]))
    cells = only_values(adata[adata.obs[condition_key].isin(list(asked.values())).to_numpy()], layer)
    check_values(cells, counts)
    return cells


def _check_candidates(asked: list[Any], groups: list[Hashable], measured: list[Hashable], n_control: pd.Series) -> None:
    for name in asked:
        check_choice("candidates", name, list(n_control.index))
        if name not in groups:
            msg = f"Expected candidates with {MIN_CELLS} control cells, found {n_control[name]} of {name!r}."
            raise ValueError(msg)
        if name in measured:
            msg = f"Expected candidates that were not measured, found {name!r}. Leave it out."
            raise ValueError(msg)
    if len(set(asked)) < len(asked) or not asked or len(groups) < 2:
        msg = (
            f"Expected candidates, none twice, and two groups or more with {MIN_CELLS} control cells, found {asked} of "
            f"{groups}, of which {measured} were measured."
        )
        raise ValueError(msg)


def group_distances(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of the groups' means, `k x k`, and by how much sampling moves each mean, `k`.

    Without what sampling adds: a group of few cells would lie far from all others.
    """
    means = np.stack([gene_means(cells) for cells in groups])
    noise = np.array([gene_variances(cells, ddof=1).sum() / len(cells) for cells in groups])
    squared = ((means[:, None] - means) ** 2).sum(axis=2) - noise[:, None] - noise
    return np.maximum(squared, 0.0), noise


def _prior(controls: Sequence[np.ndarray], n_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of responses between groups, `k x k`, variance of what is measured, `k`, and distances, `k x k`."""
    squared, noise = group_distances(controls)
    np.fill_diagonal(squared, 0.0)
    pairs = squared[np.triu_indices(len(controls), 1)]
    length = np.median(pairs)
    alike = np.exp(-0.5 * squared / length) if length > 0 else np.ones_like(squared)
    sampling = noise * np.array([len(cells) for cells in controls]) / n_cells
    # responses are taken to be as large as the differences between groups
    between = max(float(pairs.mean()) / 2.0, 1e-12)
    return (1.0 + alike + np.eye(len(controls))) / 3.0, sampling / between, np.sqrt(squared)


def _unknown(covariance: np.ndarray, noise: np.ndarray, known: list[int]) -> float:
    """Mean over the groups of the variance that is left when some are measured."""
    if not known:
        return float(np.diag(covariance).mean())
    across = covariance[:, known]
    own = covariance[np.ix_(known, known)] + np.diag(noise[known])
    left = np.diag(covariance) - (across * np.linalg.solve(own, across.T).T).sum(axis=1)
    return float(left.mean())


def _powers(control: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """In which share of the draws of so many cells the two are told apart."""
    rows = []
    for size in _SIZES:
        if 2 * size > min(len(control), len(target)):
            break
        seen = 0
        for draw in range(_N_DRAWS):
            pair = (cells[rng.choice(len(cells), size, replace=False)] for cells in (control, target))
            seen += energy_test(*pair, n_permutations=_N_PERMUTATIONS, max_cells=None, seed=draw).p_value < _ALPHA
        rows.append((size, seen / _N_DRAWS))
    return pd.DataFrame(rows, columns=["n_cells", "power"])
