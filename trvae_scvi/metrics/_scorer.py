"""The metrics by name, and the splits of real cells that predictions and the noise ceiling are scored on.

A prediction is compared with one random half of the real cells, and the other half stands for a perfect prediction: of
the same size, measured from the same control cells, compared with the same cells on the same genes. A perfect
prediction is then one more sample of what that half is a sample of, so that its expected score is the ceiling's,
whatever the metric and however few the cells.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._array import BY_SAMPLE
from ._coexpression import coexpression_agreement
from ._de import responsive_genes
from ._de_metrics import BY_SAMPLE as DE_BY_SAMPLE
from ._discrimination import rank_among
from ._distance import energy_of_samples
from ._sample import Sample
from ._unbiased import unbiased_capped_mse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["DEFAULT_METRICS", "HIGHER_IS_BETTER", "METRICS", "SKILL_METRICS", "Scorer"]

_FUNCTIONS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        **BY_SAMPLE,
        **DE_BY_SAMPLE,
        "energy_distance": energy_of_samples,
        "discrimination": rank_among,
        "unbiased_capped_mse": lambda pred, real, control: unbiased_capped_mse(pred.cells, real.cells, control.cells),
        "coexpression_agreement": lambda pred, real, control: coexpression_agreement(
            pred.cells, real.cells, control.cells
        ),
    }
)

#: The metrics of the headline skill by what they judge: the mean response, and how cells are distributed.
SKILL_METRICS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"mean response": ("mse_means", "partial_pearson"), "distribution": ("energy_distance", "mse_stds")}
)

#: All metrics that can be computed on a set of genes.
METRICS: tuple[str, ...] = (
    *(name for names in SKILL_METRICS.values() for name in names),
    *("pearson_change", "discrimination", "pearson_residual", "squared_pearson_means", "squared_pearson_variances"),
    *("unbiased_capped_mse", "coexpression_agreement", *DE_BY_SAMPLE),
)

#: The metrics that are computed by default.
DEFAULT_METRICS: tuple[str, ...] = METRICS[:6]

#: Columns of the tables.
COLUMNS = ["genes", "metric", "value", "std", "note"]

_LOWER_IS_BETTER = ("mse_means", "mse_stds", "energy_distance", "unbiased_capped_mse", "lfc_nmae")

#: Whether a higher value is the better one.
HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType({name: name not in _LOWER_IS_BETTER for name in METRICS})

_NEEDS = {
    "control": "control cells that no prediction started from",
    "source": "control cells that no prediction started from",
    "expected": "the mean response of others",
    "others": "two other targets or more",
}


# why a metric can be undefined that is given all it needs
_FEW = "fewer predicted cells than control cells, so that the score has more noise than the ceiling"
_CONSTANT = "the prediction or the truth is the same for all genes"
_UNDEFINED = {
    "unbiased_capped_mse": "no real effect that could be told from noise",
    "coexpression_agreement": "too few cells, or genes that vary, for correlations",
    "lfc_nmae": "too few really significant genes",
    "direction_fidelity": "no significant genes",
    "direction_reach": "no really significant genes",
}


@dataclass(frozen=True)
class _Comparison:
    """What predictions are compared with in one split, on one set of genes."""

    genes: Any
    given: Mapping[str, Any]
    # the same with random halves of the control cells, which tells how uncertain these make a score
    varied: Mapping[str, Any]


class Scorer:
    """Scores predictions of one held-out group, all against the same halves of its real cells.

    Parameters
    ----------
    real
        Real target cells (`m x d`, at least 4).
    control
        Control cells that no prediction started from (`l x d`). `None`: what needs them has no value.
    source
        Control cells that predictions start from (`k x d`). `None` is as above.
    expected
        Mean response of others (`d`), for :func:`~trvae_scvi.metrics.partial_pearson`.
    others
        Means of other targets (`n_splits x t x d`), for the rank among them.
    n_cells
        Number of predicted cells. `None` does not limit the half that stands for a perfect prediction.
    n_top_genes, n_splits, max_cells, seed, metrics
        As in :func:`~trvae_scvi.metrics.score_arrays`.
    """

    def __init__(
        self,
        real: np.ndarray,
        control: np.ndarray | None,
        source: np.ndarray | None,
        *,
        expected: np.ndarray | None = None,
        others: np.ndarray | None = None,
        n_cells: int | None = None,
        n_top_genes: int = 100,
        n_splits: int = 10,
        max_cells: int | None = 500,
        seed: int | None = 0,
        metrics: Sequence[str] = DEFAULT_METRICS,
    ) -> None:
        self._metrics, self._max_cells = tuple(metrics), max_cells
        half = len(real) // 2
        self._n_cells, self._n_each = n_cells, half if n_cells is None else max(min(half, n_cells // 2), 2)
        n_top_genes = min(n_top_genes, real.shape[1])
        self._comparisons: dict[str, list[_Comparison]] = {"all": [], f"top{n_top_genes}": []}
        self._perfect: list[Sample] = []
        self._seeds: list[int] = []
        sides = {} if control is None or source is None else {"control": control, "source": source}
        rng = np.random.default_rng(seed)
        for split in range(n_splits):
            order = rng.permutation(len(real))
            self._perfect.append(self._sample(real[order[: self._n_each]]))
            self._seeds.append(int(rng.integers(2**32)))
            fixed: dict[str, Any] = {"real": self._sample(real[order[half:]]), "expected": expected}
            fixed["others"] = None if others is None or others.shape[1] < 2 else others[split]
            given = fixed | {name: Sample(cells) for name, cells in sides.items()}
            varied = fixed | {name: Sample(_drawn(cells, (len(cells) + 1) // 2, rng)) for name, cells in sides.items()}
            all_genes, top = self._comparisons.values()
            all_genes.append(_Comparison(slice(None), given, varied))
            if control is not None and source is not None:
                genes = responsive_genes(control, fixed["real"].cells, n_genes=n_top_genes)
                top.append(_Comparison(genes, _on(given, genes), _on(varied, genes)))

    def score(self, pred: np.ndarray) -> pd.DataFrame:
        """Score predicted cells (`n x d`).

        Each split takes as many as stand for a perfect prediction, but no more than half of them: all of them could be
        chosen such that they have less noise together than cells drawn at random.
        """
        if len(pred) < 2:
            msg = f"Expected at least 2 predicted cells for distances between them, found {len(pred)}."
            raise ValueError(msg)
        n_each = max(min(self._n_each, len(pred) // 2), 2)
        seeded = (np.random.default_rng(seed) for seed in self._seeds)
        table = self._table([self._sample(_drawn(pred, n_each, rng)) for rng in seeded])
        few = self._n_cells is not None and n_each < self._n_each
        return table.assign(note=table["note"].where((table["note"] != "") | (not few), _FEW))

    def ceiling(self) -> pd.DataFrame:
        """Score the halves that stand for a perfect prediction."""
        return self._table(self._perfect)

    def _sample(self, cells: np.ndarray) -> Sample:
        return Sample(cells, self._max_cells)

    def _table(self, predicted: Sequence[Sample]) -> pd.DataFrame:
        rows = []
        for genes, comparisons in self._comparisons.items():
            sides = [
                pred if genes == "all" else pred.on(c.genes) for pred, c in zip(predicted, comparisons, strict=False)
            ]
            for metric in self._metrics:
                why = _UNDEFINED.get(metric, _CONSTANT)
                rows.append((genes, metric, *_score(_FUNCTIONS[metric], why, sides, comparisons)))
        return pd.DataFrame(rows, columns=COLUMNS)


def _score(
    function: Callable[..., float], undefined: str, predicted: Sequence[Sample], comparisons: Sequence[_Comparison]
) -> tuple[float, float, str]:
    """Mean and standard deviation of a metric over the splits, or why it has none."""
    takes = [name for name in inspect.signature(function).parameters if name != "pred"]
    if not comparisons:
        return np.nan, np.nan, f"needs {_NEEDS['control']}"
    lacking = [name for name in takes if comparisons[0].given.get(name) is None]
    if lacking:
        return np.nan, np.nan, f"needs {_NEEDS[lacking[0]]}"

    def values(which: str) -> np.ndarray:
        pairs = zip(predicted, (getattr(c, which) for c in comparisons), strict=True)
        found = np.array([function(pred, *(given[name] for name in takes)) for pred, given in pairs])
        return found[~np.isnan(found)]

    found = values("given")
    if not len(found):
        return np.nan, np.nan, undefined
    varied = values("varied") if "control" in takes else found
    return float(found.mean()), float(varied.std(ddof=1)) if len(varied) > 1 else np.nan, ""


def _on(given: Mapping[str, Any], genes: np.ndarray) -> dict[str, Any]:
    """Restrict all that is compared with to some genes."""
    return {
        name: value.on(genes) if isinstance(value, Sample) else None if value is None else value[..., genes]
        for name, value in given.items()
    }


def _drawn(cells: np.ndarray, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draw so many rows without replacement, or all if there are no more, in random order."""
    return cells[rng.permutation(len(cells))[:n_cells]]
