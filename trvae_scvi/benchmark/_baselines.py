"""Predictions without a network: what a model has to beat.

Pure functions on the cells of each group, in the space in which predictions are compared (log-normalised), except
`fold_change`, which works on counts. None of them is given a cell of the group that is held out under the target
condition. Those that need linear algebra are in `_linear_baselines`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from trvae_scvi._arguments import check_integer, check_number
from trvae_scvi._math._counterfactual import counterfactual_nb
from trvae_scvi.metrics._matrix import gene_means

__all__ = [
    "Groups",
    "add_change",
    "check_groups",
    "dense",
    "fold_change",
    "group_changes",
    "mean_of_others",
    "mean_shift",
    "no_change",
    "shrunk_shift",
]

#: For each group its cells (`n_g x d`), dense or sparse.
Groups: TypeAlias = Mapping[Hashable, np.ndarray]

_TARGET_SUM = 1e4


def no_change(control: np.ndarray) -> np.ndarray:
    """Predict that the condition changes nothing: the control cells themselves.

    Parameters
    ----------
    control
        `k x d` control cells of the held-out group, dense or sparse.

    Returns
    -------
    A dense copy of `control`.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import no_change
    >>> no_change(np.array([[1.0, 2.0]]))
    array([[1., 2.]])
    """
    return np.array(dense(control))


def mean_of_others(targets: Groups, *, max_cells: int = 400) -> np.ndarray:
    """Predict that the held-out group looks like the other groups under the target condition.

    Parameters
    ----------
    targets
        For each other group its `m_g x d` cells under the target condition, dense or sparse.
    max_cells
        The first so many cells of each group are taken, so that a large group does not outweigh the others.

    Returns
    -------
    The cells taken, dense and in the order of the mapping: `sum_g min(m_g, max_cells) x d`.

    Raises
    ------
    ValueError
        If there is no other group or `max_cells` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import mean_of_others
    >>> mean_of_others({"B": np.array([[3.0, 0.0]]), "T": np.array([[5.0, 1.0]])})
    array([[3., 0.],
           [5., 1.]])
    """
    check_groups(targets, targets)
    check_integer("max_cells", max_cells, 1)
    # Copied group by group: a slice would keep all cells of each group in memory until the end.
    return np.concatenate([np.array(dense(targets[group][:max_cells])) for group in targets])


def mean_shift(control: np.ndarray, controls: Groups, targets: Groups) -> np.ndarray:
    """Predict the mean change of the other groups, added to every control cell.

    The change is the unweighted mean over the groups of (mean target - mean control): a large group does not outweigh
    the others. The result is clipped at 0, unless the cells given have negative values themselves.

    Parameters
    ----------
    control
        `k x d` control cells of the held-out group, dense or sparse.
    controls, targets
        For each other group its cells under control and under the target condition, `n_g x d` and `m_g x d`, dense or
        sparse; the same groups in both.

    Returns
    -------
    A dense array of `k x d` predicted cells, of the floating point type of `control`.

    Raises
    ------
    ValueError
        If there is no other group, or the groups of `controls` and `targets` differ.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import mean_shift
    >>> control = np.array([[1.0, 2.0]])
    >>> controls, targets = {"B": np.array([[0.0, 0.0]])}, {"B": np.array([[3.0, 0.0]])}
    >>> mean_shift(control, controls, targets)
    array([[4., 2.]])
    """
    check_groups(controls, targets)
    return add_change(control, group_changes(controls, targets).mean(axis=0), controls, targets)


def shrunk_shift(control: np.ndarray, controls: Groups, targets: Groups) -> np.ndarray:
    """Predict the mean change of the other groups, shrunk as far as they disagree, added to every control cell.

    With `m` the unweighted mean over n groups of (mean target - mean control) of every gene and `s2` its variance over
    the groups, the change is `f m` with `f = t2 / (t2 + mean(s2) / n)` and `t2 = max(mean(m^2) - mean(s2) / n, 0)`,
    means over genes: the empirical Bayes estimate for a group that was not seen, if what groups have in common is drawn
    from one normal distribution and what each has of its own from another. `f` is near 1 where all groups respond
    alike and 0 where nothing happens. A single group does not tell how far groups agree: its change is taken as it is.

    Parameters
    ----------
    control, controls, targets
        As for :func:`mean_shift`.

    Returns
    -------
    A dense array of `k x d` predicted cells, of the floating point type of `control`.

    Raises
    ------
    ValueError
        If there is no other group, or the groups of `controls` and `targets` differ.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import shrunk_shift
    >>> control, alike = np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])
    >>> shrunk_shift(control, {"B": alike, "T": alike}, {"B": alike + [3.0, 0.0], "T": alike + [3.0, 0.0]})
    array([[4., 2.]])
    >>> shrunk_shift(control, {"B": alike, "T": alike}, {"B": alike + [3.0, 0.0], "T": alike - [3.0, 0.0]})
    array([[1., 2.]])
    """
    check_groups(controls, targets)
    changes = group_changes(controls, targets)
    change, n = changes.mean(axis=0), len(changes)
    if n > 1:
        noise = changes.var(axis=0, ddof=1).mean() / n
        signal = max((change**2).mean() - noise, 0.0)
        change = change * (signal / (signal + noise) if signal > 0 else 0.0)
    return add_change(control, change, controls, targets)


def fold_change(
    control: np.ndarray,
    controls: Groups,
    targets: Groups,
    *,
    pseudocount: float = 0.05,
    theta: float = 2.0,
    seed: int | None = 0,
) -> np.ndarray:
    """Predict the other groups' fold change of every gene, by thinning each control cell's counts or adding to them.

    The fold change is the geometric mean over the groups, unweighted, of (mean target + `pseudocount`) / (mean control
    + `pseudocount`), means of counts per 10,000. Counts are changed as
    :func:`~trvae_scvi.TRVAE.predict_perturbation` does, for negative binomial counts whose mean is the gene's mean
    proportion among the control cells times the cell's total.

    Parameters
    ----------
    control
        `k x d` counts of the control cells of the held-out group, dense or sparse.
    controls, targets
        For each other group the counts of its cells under control and under the target condition, `n_g x d` and
        `m_g x d`, dense or sparse; the same groups in both.
    pseudocount
        Added to both means, in counts per 10,000.
    theta
        Inverse dispersion of every gene.
    seed
        Seed of the draws; `None` is unseeded.

    Returns
    -------
    A dense array of `k x d` predicted counts of the type of `control`.

    Raises
    ------
    ValueError
        If there is no other group, the groups of `controls` and `targets` differ, the control cells' values are no
        counts, or `theta` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import fold_change
    >>> control = np.array([[40.0, 60.0], [50.0, 50.0]])
    >>> controls, targets = {"B": np.array([[50.0, 50.0]])}, {"B": np.array([[0.0, 100.0]])}
    >>> predicted = fold_change(control, controls, targets)
    >>> bool((predicted[:, 0] < control[:, 0]).all()), bool((predicted[:, 1] > control[:, 1]).all())
    (True, True)
    """
    check_groups(controls, targets)
    check_number("theta", theta, positive=True)
    control = dense(control)
    if (control < 0).any() or (np.rint(control) != control).any():
        msg = "Expected counts (whole numbers from 0) in `control`, found other values. Pass counts, not normalised."
        raise ValueError(msg)
    log_ratios = [
        np.log(_proportions(targets[group]) * _TARGET_SUM + pseudocount)
        - np.log(_proportions(controls[group]) * _TARGET_SUM + pseudocount)
        for group in targets
    ]
    mu = _proportions(control) * control.sum(axis=1, keepdims=True, dtype=np.float64)
    fold, thetas = np.exp(np.mean(log_ratios, axis=0)), np.full(control.shape[1], theta)
    return counterfactual_nb(control, mu, mu * fold, thetas, thetas, np.random.default_rng(seed))


def group_changes(controls: Groups, targets: Groups) -> np.ndarray:
    """Change of the mean from control to target in every group, `groups x d`, in the order of `targets`."""
    return np.stack([gene_means(targets[group]) - gene_means(controls[group]) for group in targets])


def add_change(control: np.ndarray, change: np.ndarray, controls: Groups, targets: Groups) -> np.ndarray:
    """Add a change (`d`) to every control cell (`k x d`); clip at 0 unless one of the cells given is below."""
    shifted = dense(control) + change.astype(np.result_type(control, np.float32))
    given = (control, *controls.values(), *targets.values())
    return shifted if any(cells.min() < 0 for cells in given) else np.clip(shifted, 0, None)


def dense(cells: Any) -> np.ndarray:
    """Cells as an array, in new memory if they are sparse."""
    return cells.toarray() if sparse.issparse(cells) else cells


def check_groups(controls: Groups, targets: Groups) -> None:
    """Raise a ValueError unless there is a group in `targets`, and the same groups are in `controls`."""
    if not targets:
        msg = "Expected at least one other group in `targets`, found none."
        raise ValueError(msg)
    if set(controls) != set(targets):
        msg = f"Expected the same groups in `controls` and `targets`, found {list(controls)} and {list(targets)}."
        raise ValueError(msg)


def _proportions(counts: np.ndarray) -> np.ndarray:
    """Mean over cells of each gene's share of the cell's counts (`n x d` to `d`); an empty cell's shares are 0."""
    counts = dense(counts)
    totals = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return (counts / np.where(totals == 0, 1.0, totals)).mean(axis=0, dtype=np.float64)
