"""One held-out group: predictions beside those without a network and the noise ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from trvae_scvi.metrics import comparison_matrix, noise_ceiling, score_arrays, skill

from ._baseline_methods import baseline_predictions

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from anndata import AnnData

__all__ = ["CEILING", "REFERENCE", "compare_predictions", "with_skill"]

#: The prediction whose skill is 0, and what the best possible score is called.
REFERENCE = "mean shift"
CEILING = "noise ceiling"


def compare_predictions(
    predictions: Mapping[str, AnnData],
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str,
    control: Hashable,
    target: Hashable,
    layer: str | None = None,
    counts: bool = True,
    n_top_genes: int = 100,
) -> pd.DataFrame:
    """Score predictions of a held-out group beside predictions without a network and the noise ceiling.

    Parameters
    ----------
    predictions
        For each method its predicted cells, in ``X``; for example from `TRVAE.predict_perturbation`.
    adata
        All measured cells, those held out included; read only to score, and the other groups to build the baselines.
    group_key, group
        Column of `obs` with the groups, and the group that was held out under `target`.
    condition_key, control, target
        Column of `obs` with the conditions, and the names of two of them.
    layer
        The layer of `adata` to read; `None` reads `X`.
    counts
        Whether the values are counts, to be log-normalised.
    n_top_genes
        Number of genes in the second gene set; all genes if there are fewer.

    Returns
    -------
    Ten rows for each method, then for each of :func:`~trvae_scvi.benchmark.baseline_predictions` and for "noise
    ceiling", with the columns `method`, `genes`, `metric`, `value` and `skill` (0 is the mean shift, 1 the ceiling; see
    :func:`~trvae_scvi.metrics.skill`).

    Raises
    ------
    ValueError
        If there are no cells of the group under either condition, no other group has both, or the values are no counts.
    """
    of_group = adata.obs[group_key].isin([group]).to_numpy()
    real, given = (
        comparison_matrix(
            adata[of_group & adata.obs[condition_key].isin([name]).to_numpy()], layer=layer, counts=counts
        )
        for name in (target, control)
    )
    matrices = {name: comparison_matrix(cells, counts=counts, name=name) for name, cells in predictions.items()}
    matrices |= baseline_predictions(
        adata,
        group_key=group_key,
        group=group,
        condition_key=condition_key,
        control=control,
        target=target,
        layer=layer,
        counts=counts,
    )
    n_top_genes = min(n_top_genes, real.shape[1])
    scores = {name: score_arrays(cells, real, given, n_top_genes=n_top_genes) for name, cells in matrices.items()}
    ceiling = noise_ceiling(real, given, n_top_genes=n_top_genes)
    frames = [with_skill(frame, scores[REFERENCE], ceiling).assign(method=name) for name, frame in scores.items()]
    frames.append(with_skill(ceiling, scores[REFERENCE], ceiling).assign(method=CEILING))
    return pd.concat(frames, ignore_index=True)[["method", "genes", "metric", "value", "skill"]]


def with_skill(scores: pd.DataFrame, reference: pd.DataFrame, ceiling: pd.DataFrame) -> pd.DataFrame:
    """Return one prediction's scores with the column `skill`; all three as :func:`~trvae_scvi.metrics.skill` takes."""
    skills = skill(scores, reference=reference, ceiling=ceiling)
    return scores.merge(skills, on=["genes", "metric"], validate="1:1")
