"""One held-out group: predictions beside those without a network and the noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trvae_scvi.metrics import comparison_matrix, score_arrays
from trvae_scvi.metrics._anndata import check_same_genes

from ._baseline_methods import BASELINES
from ._task import CEILING, Split, references, with_skill

if TYPE_CHECKING:
    from collections.abc import Hashable

    import pandas as pd
    from anndata import AnnData

__all__ = ["compare_predictions"]


def compare_predictions(
    predictions: Mapping[str, AnnData],
    adata: AnnData,
    *,
    group_key: str,
    group: Hashable,
    condition_key: str = "condition",
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
        For each method its predicted cells, in ``X``, with the genes of `adata` in its order; for example from
        `TRVAE.predict_perturbation`. The names are others than those of the baselines and the ceiling.
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
    KeyError
        If a column or the layer is missing.
    TypeError
        If `predictions` is no mapping, or holds anything but AnnData objects.
    ValueError
        If a prediction has other genes than `adata`, another order of them, or the name of a baseline or of the
        ceiling, there are no cells of the group under either condition, `control` and `target` are the same, no other
        group has both, or the values are no counts.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata, truth = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3)
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> predictions = {"the truth": truth[truth.obs["cell_type"] == "type_1"]}
    >>> table = tv.benchmark.compare_predictions(predictions, adata, **keys, group="type_1", target="stimulated")
    >>> table.columns.tolist(), table["method"].unique().tolist()[:2]
    (['method', 'genes', 'metric', 'value', 'skill'], ['the truth', 'no change'])
    """
    _check_predictions(predictions, adata)
    split = Split.of(
        adata,
        group_key=group_key,
        group=group,
        condition_key=condition_key,
        control=control,
        target=target,
        layer=layer,
        counts=counts,
    )
    matrices = {name: comparison_matrix(cells, counts=counts, name=name) for name, cells in predictions.items()}
    frames = [
        score_arrays(cells, split.real, split.control, n_top_genes=n_top_genes).assign(method=name)
        for name, cells in matrices.items()
    ]
    table = with_skill(frames, references(split, n_top_genes=n_top_genes))
    return table[["method", "genes", "metric", "value", "skill"]]


def _check_predictions(predictions: Mapping[str, AnnData], adata: AnnData) -> None:
    if not isinstance(predictions, Mapping):
        msg = f"Expected `predictions` to map names of methods to AnnData objects, found {type(predictions).__name__}."
        raise TypeError(msg)
    taken = [name for name in predictions if name in (*BASELINES, CEILING)]
    if taken:
        msg = f"Expected names other than those of the baselines and the ceiling, found {taken}. Choose others."
        raise ValueError(msg)
    for name, cells in predictions.items():
        check_same_genes(**{"adata": adata, f"predictions[{name!r}]": cells})
