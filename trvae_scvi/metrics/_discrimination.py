"""Whether predictions for several targets can be told apart: each one's rank among all real targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import distance

from ._array import NO_CHANGE
from ._matrix import as_matrices, gene_means

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ._sample import Sample

__all__ = ["discrimination", "rank_among"]


def discrimination(predicted: Mapping[Hashable, Any], real: Mapping[Hashable, Any]) -> pd.Series:
    """Rank of every target's own real mean among all real means, by Euclidean distance from its predicted mean.

    1 - (real means that are closer than its own + half of those as close) / (targets - 1). Scores that take one target
    at a time do not see that a model predicts the same for all of them; this one does: such a model scores 0.5 on
    average over the targets.

    Parameters
    ----------
    predicted
        For every target, as a rule a condition or perturbation, its predicted cells (`n x d`, log-normalised).
    real
        For the same targets, their real cells (`m x d`) on the same scale.

    Returns
    -------
    For every target, in the order of `predicted`, a number from 0 (all others are closer) to 1 (its own is the
    closest). Distances within rounding (1e-9) of each other are ties. All NaN for fewer than 3 targets.

    Raises
    ------
    ValueError
        If the targets differ, or the arrays are no matrices of finite values with the same number of genes.

    Examples
    --------
    >>> from trvae_scvi.metrics import discrimination
    >>> real = {"a": [[0.0, 0.0]], "b": [[4.0, 0.0]], "c": [[0.0, 9.0]]}
    >>> discrimination({"a": [[1.0, 0.0]], "b": [[1.0, 0.0]], "c": [[0.0, 8.0]]}, real).to_dict()
    {'a': 1.0, 'b': 0.5, 'c': 1.0}
    """
    targets = list(predicted)
    if set(targets) != set(real):
        lacking, foreign = [t for t in targets if t not in real], [t for t in real if t not in predicted]
        msg = (
            f"Expected the same targets in `predicted` and `real`, found {lacking} only predicted and {foreign} only "
            "real. Leave these out."
        )
        raise ValueError(msg)
    index = pd.Index(targets, name="target", tupleize_cols=False)
    if len(targets) < 3:
        return pd.Series(np.nan, index=index, name="discrimination")
    cells = as_matrices(
        [*(predicted[t] for t in targets), *(real[t] for t in targets)],
        [*(f"predicted[{t!r}]" for t in targets), *(f"real[{t!r}]" for t in targets)],
    )
    means = np.stack([gene_means(matrix) for matrix in cells])
    distances = distance.cdist(means[: len(targets)], means[len(targets) :])
    further = distances - np.diagonal(distances)[:, None]
    closer = (further < -NO_CHANGE).sum(axis=1)
    ties = (np.abs(further) <= NO_CHANGE).sum(axis=1) - 1  # less the target itself
    return pd.Series(1 - (closer + ties / 2) / (len(targets) - 1), index=index, name="discrimination")


def rank_among(pred: Sample, real: Sample, others: np.ndarray) -> float:
    """Rank of the real mean among those of other targets (`t x d`) by distance from the predicted mean, from 0 to 1."""
    own, *apart = np.linalg.norm(np.vstack([real.mean, others]) - pred.mean, axis=1)
    further = np.array(apart) - own
    return float(np.mean((further > NO_CHANGE) + 0.5 * (np.abs(further) <= NO_CHANGE)))
