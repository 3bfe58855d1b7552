"""Whether predictions for several targets can be told apart: each one's rank among all real targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from ._array import NO_CHANGE
from ._matrix import as_matrices, as_matrix, gene_means

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from ._sample import Sample

__all__ = ["discrimination", "rank_among"]

Distance: TypeAlias = Literal["euclidean", "cosine"]


def discrimination(
    predicted: Mapping[Hashable, Any],
    real: Mapping[Hashable, Any],
    *,
    distance: Distance = "euclidean",
    source: Any = None,
    control: Any = None,
    leave_out: Sequence[int] | np.ndarray = (),
) -> pd.Series:
    """Rank of every target's own real mean among all real means, by the distance from its predicted mean.

    1 - (real means that are closer than its own + half of those as close) / (targets - 1). Scores that take one target
    at a time do not see that a model predicts the same for all of them; this one does: such a model scores 0.5 on
    average over the targets. Euclidean distances between means make it the centroid accuracy of Systema (Viñas Torné et
    al. 2025, doi:10.1038/s41587-025-02777-8), but for ties; cosine distances between changes `pds_cosine`, the
    perturbation discrimination score of cell-eval2.

    Parameters
    ----------
    predicted
        For every target, as a rule a condition or perturbation, its predicted cells (`n x d`, log-normalised).
    real
        For the same targets, their real cells (`m x d`) on the same scale.
    distance
        ``"euclidean"``, or ``"cosine"`` (1 - cosine), which sees the direction of a change and not its size. A change
        of no gene (by more than rounding, 1e-9) has no direction: its cosine with any other is 0.
    source, control
        The control cells that the predictions started from and other ones (`k x d` each). With these, changes are
        compared instead of means: predicted mean - mean of `source`, real mean - mean of `control`. The cosine needs
        them, as it depends on the origin.
    leave_out
        Columns that are not compared: where genes were perturbed, those of all of them. A gene that was switched off
        tells the targets apart without any knowledge of the response.

    Returns
    -------
    For every target, in the order of `predicted`, a number from 0 (all others are closer) to 1 (its own is the
    closest). Distances within rounding (1e-9) of each other are ties. All NaN for fewer than 3 targets.

    Raises
    ------
    TypeError
        If cells are an AnnData: pass a matrix of them.
    ValueError
        If the targets differ, `distance` is unknown, one of `source` and `control` is missing where it is needed,
        `leave_out` are no column positions or all of them, or the arrays are no matrices of finite values with the same
        number of genes.

    Notes
    -----
    Depends on the targets: among more similar ones all scores are lower. Blind to any error that leaves the ranks as
    they are, such as the size of all changes, and thus no measure of accuracy.

    Examples
    --------
    >>> from trvae_scvi.metrics import discrimination
    >>> real = {"a": [[0.0, 0.0]], "b": [[4.0, 0.0]], "c": [[0.0, 9.0]]}
    >>> predicted = {"a": [[1.0, 0.0]], "b": [[1.0, 0.0]], "c": [[0.0, 8.0]]}
    >>> discrimination(predicted, real).to_dict()
    {'a': 1.0, 'b': 0.5, 'c': 1.0}
    >>> discrimination(predicted, real, distance="cosine", source=[[2.0, 1.0]], control=[[2.0, 2.0]]).to_dict()
    {'a': 1.0, 'b': 0.5, 'c': 1.0}
    """
    if distance not in get_args(Distance):
        msg = f"Expected a `distance` out of {list(get_args(Distance))}, found {distance!r}."
        raise ValueError(msg)
    _check_targets(predicted, real)
    _check_controls(source, control, distance)
    targets = list(predicted)
    index = pd.Index(targets, name="target", tupleize_cols=False)
    if len(targets) < 3:
        return pd.Series(np.nan, index=index, name="discrimination")
    x, y = _means(predicted, real, targets)
    if source is not None:
        x, y = x - _mean(source, "source", x), y - _mean(control, "control", x)
    kept = _kept_columns(leave_out, x.shape[1])
    distances = _distances(x[:, kept], y[:, kept], distance)
    further = distances - np.diagonal(distances)[:, None]
    closer = (further < -NO_CHANGE).sum(axis=1)
    ties = (np.abs(further) <= NO_CHANGE).sum(axis=1) - 1  # less the target itself
    return pd.Series(1 - (closer + ties / 2) / (len(targets) - 1), index=index, name="discrimination")


def _check_targets(predicted: Mapping[Hashable, Any], real: Mapping[Hashable, Any]) -> None:
    if set(predicted) != set(real):
        lacking, foreign = [t for t in predicted if t not in real], [t for t in real if t not in predicted]
        msg = (
            f"Expected the same targets in `predicted` and `real`, found {lacking} only predicted and {foreign} only "
            "real. Leave these out."
        )
        raise ValueError(msg)


def _check_controls(source: Any, control: Any, distance: Distance) -> None:
    missing = [name for name, cells in (("source", source), ("control", control)) if cells is None]
    if len(missing) == 1 or (missing and distance == "cosine"):
        msg = (
            f"Expected both `source` and `control` for the {distance} distance of changes, found no {missing}. Give "
            "the control cells that the predictions started from and other ones."
        )
        raise ValueError(msg)


def _means(
    predicted: Mapping[Hashable, Any], real: Mapping[Hashable, Any], targets: list[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and real means, targets x genes each."""
    cells = as_matrices(
        [*(predicted[t] for t in targets), *(real[t] for t in targets)],
        [*(f"predicted[{t!r}]" for t in targets), *(f"real[{t!r}]" for t in targets)],
    )
    means = np.stack([gene_means(matrix) for matrix in cells])
    return means[: len(targets)], means[len(targets) :]


def _mean(cells: Any, name: str, means: np.ndarray) -> np.ndarray:
    dense = as_matrix(cells, name)
    if dense.shape[1] != means.shape[1]:
        msg = f"Expected the {means.shape[1]} genes of the targets in `{name}`, found {dense.shape[1]}."
        raise ValueError(msg)
    return gene_means(dense)


def _kept_columns(leave_out: Sequence[int] | np.ndarray, n_genes: int) -> np.ndarray:
    columns = np.asarray(leave_out)
    kept = np.ones(n_genes, dtype=bool)
    if not columns.size:
        return kept
    if columns.ndim != 1 or not np.issubdtype(columns.dtype, np.integer):
        msg = (
            f"Expected column positions in `leave_out`, found {columns.ravel()[:3].tolist()}. Translate names with "
            "`Index.get_indexer`."
        )
        raise ValueError(msg)
    if not 0 <= columns.min() <= columns.max() < n_genes:
        msg = f"Expected positions from 0 to {n_genes - 1} in `leave_out`, found {columns.min()} to {columns.max()}."
        raise ValueError(msg)
    kept[columns] = False
    if not kept.any():
        msg = f"Expected `leave_out` to keep at least one of the {n_genes} genes, found all of them."
        raise ValueError(msg)
    return kept


def _distances(x: np.ndarray, y: np.ndarray, distance: Distance) -> np.ndarray:
    if distance == "euclidean":
        return cdist(x, y)
    units = []
    for changes in (x, y):
        length = np.linalg.norm(changes, axis=1, keepdims=True)
        none = np.abs(changes).max(axis=1, keepdims=True) <= NO_CHANGE
        units.append(changes / np.where(none, 1.0, length))
    return 1 - units[0] @ units[1].T


def rank_among(pred: Sample, real: Sample, others: np.ndarray) -> float:
    """Rank of the real mean among those of other targets (`t x d`) by distance from the predicted mean, from 0 to 1."""
    own, *apart = np.linalg.norm(np.vstack([real.mean, others]) - pred.mean, axis=1)
    further = np.array(apart) - own
    return float(np.mean((further > NO_CHANGE) + 0.5 * (np.abs(further) <= NO_CHANGE)))
