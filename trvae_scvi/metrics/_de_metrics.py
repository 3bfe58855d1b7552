"""Whether a prediction finds the genes that respond, their directions and their changes: functions on cells.

Predicted and real change have controls of their own, as a shared one makes even unrelated changes agree (Nicol et al.
2026, doi:10.64898/2026.05.07.723486). The arithmetic is in `_de_tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._array import NO_CHANGE
from ._de import DEMethod, de_table
from ._de_tables import fidelity_of_tables, jaccard_of_tables, nmae_of_tables, reach_of_tables
from ._matrix import as_matrices

if TYPE_CHECKING:
    import pandas as pd

    from ._sample import Sample

__all__ = ["BY_SAMPLE", "change_tables", "de_jaccard", "direction_fidelity", "direction_reach", "lfc_nmae"]


def lfc_nmae(
    pred: Any,
    real: Any,
    source: Any,
    control: Any,
    *,
    method: DEMethod = "wilcoxon",
    alpha: float = 0.05,
    min_genes: int = 10,
) -> float:
    """Error of the predicted log fold change relative to the real one, over really significant genes.

    ``sum |predicted - real| / sum |real|``, `de_wilcoxon_lfc_nmae` of cell-eval2. The log fold change is that of
    :func:`~trvae_scvi.metrics.de_genes`, a difference of mean log-normalised values; that package's is a ratio of mean
    counts per million. It also corrects Wilcoxon's test for ties and leaves out genes that are rare in control, so that
    all metrics of DE genes agree with its own on the same tables, not on the same cells.

    Parameters
    ----------
    pred
        Predicted cells (`n x d`, at least 2), log-normalised.
    real
        Real target cells (`m x d`, at least 2).
    source
        The control cells that the prediction started from (at least 2): those of the predicted change.
    control
        Other control cells (`k x d`, at least 2): those of the real change.
    method, alpha
        For the test of the real cells, as in :func:`~trvae_scvi.metrics.de_genes`.
    min_genes
        Fewer significant genes than this give NaN: a ratio over a few that just passed is noise.

    Returns
    -------
    A number from 0, the best; predicting no change scores 1, and overshooting more.

    Raises
    ------
    ValueError
        If a side has fewer than 2 cells, an argument is out of its range, or the arrays are no matrices of finite
        values with the same number of genes.

    Notes
    -----
    Blind to false calls: changes of genes that do not really respond cost nothing. The chosen genes are those that
    appear to change the most, so that real changes are overestimated, and shrunken predictions lose more than they
    should. Targets with few significant genes are left out, the hard ones.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import lfc_nmae
    >>> rng = np.random.default_rng(0)
    >>> source, control = rng.normal(5, size=(2, 90, 12))
    >>> real = rng.normal(7, size=(90, 12))
    >>> lfc_nmae(source, real, source, control), round(lfc_nmae(source + 1, real, source, control), 1)
    (1.0, 0.5)
    """
    return nmae_of_tables(*change_tables(pred, real, source, control, method=method), alpha=alpha, min_genes=min_genes)


def direction_fidelity(
    pred: Any, real: Any, source: Any, control: Any, *, method: DEMethod = "wilcoxon", alpha: float = 0.05
) -> float:
    """Share of right directions among the genes that are called, or that should have been if those are more.

    ``predicted significant genes with the real sign / max(predicted significant genes, really significant genes)``:
    calling too many costs as does calling too few. `de_wilcoxon_direction_fidelity_yield_raw` of cell-eval2.

    Parameters
    ----------
    pred, real, source, control, method, alpha
        As in :func:`lfc_nmae`; the test is of the predicted cells, too.

    Returns
    -------
    A number from 0 to 1, the best. No calls score 0. NaN if nothing is significant in either. A change within rounding
    (1e-9) has no direction: real ones are left out, predicted ones are wrong.

    Raises
    ------
    ValueError
        As :func:`lfc_nmae`.

    Notes
    -----
    Whether a called gene is really significant does not matter, only its sign. Where most genes change in one
    direction, guessing it is right more often than in half of the cases. The calls depend on the number of predicted
    cells: compare predictions of as many.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import direction_fidelity
    >>> rng = np.random.default_rng(0)
    >>> source, control = rng.normal(5, size=(2, 90, 4))
    >>> real = rng.normal([7, 7, 3, 3], size=(90, 4))
    >>> direction_fidelity(source + [2, 2, 2, 0], real, source, control)  # two right, one wrong, one not called
    0.5
    """
    return fidelity_of_tables(*change_tables(pred, real, source, control, method=method), alpha=alpha)


def direction_reach(
    pred: Any,
    real: Any,
    source: Any,
    control: Any,
    *,
    method: DEMethod = "wilcoxon",
    alpha: float = 0.05,
    min_purity: float = 0.9,
) -> float:
    """How deep the predicted ranking of genes goes before too many directions are wrong.

    The really significant genes, ranked by the prediction (adjusted p value, then p value, then absolute change): the
    length of the longest prefix with at least 90 % right directions, over their number.
    `de_wilcoxon_direction_reach_raw` of cell-eval2.

    Parameters
    ----------
    pred, real, source, control, method, alpha
        As in :func:`lfc_nmae`; the test is of the predicted cells, too.
    min_purity
        Share of right directions that a prefix needs.

    Returns
    -------
    A number from 0 to 1, the best. NaN if no gene is really significant. A change within rounding (1e-9) has no
    direction: a predicted one is wrong, so that no change scores 0.

    Raises
    ------
    ValueError
        As :func:`lfc_nmae`.

    Notes
    -----
    Decided at the head of the ranking: one gene whose direction is known anyway, placed first, is worth one over the
    number of genes, which is much where few respond. Does not see calls of genes that do not respond, nor how large a
    change is. With fewer than ten genes, no wrong direction is allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import direction_reach
    >>> rng = np.random.default_rng(0)
    >>> source, control = rng.normal(5, size=(2, 90, 4))
    >>> real = rng.normal([7, 7, 3, 3], size=(90, 4))
    >>> direction_reach(source + [3, 2, 1, 0], real, source, control)  # the third of the ranking is wrong
    0.5
    """
    tables = change_tables(pred, real, source, control, method=method)
    return reach_of_tables(*tables, alpha=alpha, min_purity=min_purity)


def de_jaccard(
    pred: Any, real: Any, source: Any, control: Any, *, method: DEMethod = "wilcoxon", alpha: float = 0.05
) -> float:
    """Overlap of the genes that are significant in the prediction and of those that really are.

    Those in both over those in at least one, Jaccard's index: genes that are missed cost, and so do genes called
    wrongly. `de_wilcoxon_sig_jaccard` of cell-eval2.

    Parameters
    ----------
    pred, real, source, control, method, alpha
        As in :func:`lfc_nmae`; the test is of the predicted cells, too.

    Returns
    -------
    A number from 0 to 1, the best. By convention 1 if nothing is significant in either.

    Raises
    ------
    ValueError
        As :func:`lfc_nmae`.

    Notes
    -----
    Blind to directions. Depends on the number of cells on either side: replicates with few cells agree little. Where
    nearly all genes respond, calling all of them scores high; where hardly any does, so does calling none.

    Examples
    --------
    >>> import numpy as np
    >>> from trvae_scvi.metrics import de_jaccard
    >>> rng = np.random.default_rng(0)
    >>> source, control = rng.normal(5, size=(2, 90, 4))
    >>> real = rng.normal([7, 7, 5, 5], size=(90, 4))
    >>> de_jaccard(source + [2, 0, 2, 0], real, source, control) == 1 / 3
    True
    """
    return jaccard_of_tables(*change_tables(pred, real, source, control, method=method), alpha=alpha)


def change_tables(
    pred: Any, real: Any, source: Any, control: Any, *, method: DEMethod = "wilcoxon"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test the predicted cells against `source` and the real ones against `control`.

    Returns the two tables of :func:`~trvae_scvi.metrics.de_table`; changes within rounding are exactly 0 in them.
    """
    pred, real, source, control = as_matrices([pred, real, source, control], ["pred", "real", "source", "control"])
    return _change_table(pred, source, method), _change_table(real, control, method)


def _change_table(cells: np.ndarray, control: np.ndarray, method: DEMethod = "wilcoxon") -> pd.DataFrame:
    table = de_table(cells, control, method=method)
    table["log_fc"] = np.where(np.abs(table["log_fc"]) <= NO_CHANGE, 0.0, table["log_fc"])
    return table


def _of_samples(function: Callable[..., float]) -> Callable[..., float]:
    """The metric on samples, each of which is tested once for all of these metrics."""

    def metric(pred: Sample, real: Sample, source: Sample, control: Sample) -> float:
        return function(pred.against(source, _change_table), real.against(control, _change_table))

    return metric


#: The same on samples, by name.
BY_SAMPLE: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "lfc_nmae": _of_samples(nmae_of_tables),
        "direction_fidelity": _of_samples(fidelity_of_tables),
        "direction_reach": _of_samples(reach_of_tables),
        "de_jaccard": _of_samples(jaccard_of_tables),
    }
)
