"""Predictions without a network that need linear algebra: the change in principal components, and its regression.

Pure functions in the space in which predictions are compared (log-normalised).
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trvae_scvi._arguments import check_integer
from trvae_scvi.metrics._matrix import gene_means

from ._baselines import Groups, add_change, check_groups, dense, group_changes

__all__ = ["RIDGE_ALPHAS", "pca_shift", "ridge_shift"]

#: Penalties that :func:`ridge_shift` chooses from. At the largest next to nothing is left but the mean change.
RIDGE_ALPHAS = tuple(10.0 ** np.arange(-2, 7))
_MIN_GROUPS = 3  # with two, each is predicted from one alone: by its change, whatever the penalty


def pca_shift(control: np.ndarray, controls: Groups, targets: Groups, *, n_components: int = 50) -> np.ndarray:
    """Predict the mean change of the other groups as far as it lies in the leading principal components.

    As :func:`~trvae_scvi.benchmark.mean_shift`, but the change is taken between the cells' coordinates in the principal
    components and mapped back. What a control cell has outside the components is kept. The components are those of all
    cells given, the held-out group's control cells included.

    Parameters
    ----------
    control
        `k x d` control cells of the held-out group, dense or sparse.
    controls, targets
        For each other group its cells under control and under the target condition, `n_g x d` and `m_g x d`, dense or
        sparse; the same groups in both. All of them are in memory at once, as dense arrays.
    n_components
        Number of components; all if there are fewer genes or cells.

    Returns
    -------
    A dense array of `k x d` predicted cells, of the floating point type of `control`. Clipped at 0, unless the cells
    given have negative values themselves.

    Raises
    ------
    ValueError
        If there is no other group, the groups of `controls` and `targets` differ, or `n_components` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import pca_shift
    >>> control = np.array([[1.0, 2.0]])
    >>> controls, targets = {"B": np.array([[0.0, 0.0]])}, {"B": np.array([[3.0, 0.0]])}
    >>> pca_shift(control, controls, targets, n_components=2).round(2)
    array([[4., 2.]])
    """
    check_groups(controls, targets)
    axes = _principal_axes(n_components, control, *controls.values(), *targets.values())
    change = group_changes(controls, targets).mean(axis=0)
    return add_change(control, change @ axes.T @ axes, controls, targets)


def ridge_shift(control: np.ndarray, controls: Groups, targets: Groups, *, n_components: int = 50) -> np.ndarray:
    """Predict the group's change from its control mean, by a ridge regression fitted to the other groups.

    The inputs are the groups' mean control cells in the leading principal components, each standardised over the
    groups; the outputs the groups' changes of the mean of every gene, (mean target - mean control). The penalty is the
    one of `RIDGE_ALPHAS` with the smallest squared error when each of the other groups is left out in turn. With fewer
    than three other groups there is nothing to choose it by, and the prediction is that of
    :func:`~trvae_scvi.benchmark.mean_shift`.

    Parameters
    ----------
    control, controls, targets, n_components
        As in :func:`~trvae_scvi.benchmark.pca_shift`.

    Returns
    -------
    A dense array of `k x d` predicted cells, of the floating point type of `control`: the predicted change added to
    every control cell. Clipped at 0, unless the cells given have negative values themselves.

    Raises
    ------
    ValueError
        If there is no other group, the groups of `controls` and `targets` differ, or `n_components` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.benchmark import ridge_shift
    >>> control = np.array([[1.0, 2.0]])
    >>> controls, targets = {"B": np.array([[0.0, 0.0]])}, {"B": np.array([[3.0, 0.0]])}
    >>> ridge_shift(control, controls, targets)  # one other group: its change
    array([[4., 2.]])
    """
    check_groups(controls, targets)
    changes = group_changes(controls, targets)
    change = changes.mean(axis=0)
    if len(changes) >= _MIN_GROUPS:
        axes = _principal_axes(n_components, control, *controls.values(), *targets.values())
        others = np.stack([gene_means(controls[group]) for group in targets])
        own = gene_means(control)
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS)).fit(others @ axes.T, changes)
        change = model.predict([own @ axes.T])[0]
    return add_change(control, change, controls, targets)


def _principal_axes(n_components: int, *cells: np.ndarray) -> np.ndarray:
    """Unit vectors of the leading principal components of cells (`n x d` each), `n_components x d`."""
    check_integer("n_components", n_components, 1)
    together = np.concatenate([dense(part) for part in cells])
    # Large data take the randomised solver, which is seeded so that the same cells give the same prediction.
    return PCA(min(n_components, *together.shape), random_state=0).fit(together).components_
