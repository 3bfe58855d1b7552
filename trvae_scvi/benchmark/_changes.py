"""Predicted and real changes of a held-out group's genes, side by side: what intervals are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_integer
from trvae_scvi._math._intervals import standard_error
from trvae_scvi.metrics import responsive_genes
from trvae_scvi.metrics._matrix import as_matrices, gene_means, gene_variances

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["change_table"]

_LEAST = 4  # real cells: two of each half


def change_table(
    predicted: np.ndarray,
    real: np.ndarray,
    control: np.ndarray,
    *,
    n_top_genes: int = 100,
    var_names: Sequence[str] | pd.Index | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Predicted and real change of every gene of a held-out group.

    One random half of the real cells says which genes respond, the change is that of the other half: genes that were
    chosen for their change in the very cells that it is measured in would be those whose noise is large.
    Both changes are against the same control cells, which leave the difference between the two, all that intervals are
    about, as it is.

    Parameters
    ----------
    predicted, real, control
        Predicted (`n x d`), real (`m x d`, at least 4) and control (`k x d`) cells, log-normalised.
    n_top_genes
        Number of most responsive genes, see :func:`~trvae_scvi.metrics.responsive_genes`; all if there are fewer.
    var_names
        Names of the genes, the index of the table. `None` numbers them.
    seed
        Seeds the halves.

    Returns
    -------
    One row per gene with the columns `change` (predicted mean - control mean), `standard_error` (what the sampling of
    as many cells as were predicted, and of the real ones, adds to the difference of their means), `sd` (standard
    deviation of the predicted cells), `change_real` and `responsive`.

    Raises
    ------
    ValueError
        If there are fewer than 4 real or 2 other cells, `n_top_genes` is below 1, or the cells are no matrices of
        finite values with the same number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> import trvae_scvi as tv
    >>> rng = np.random.default_rng(0)
    >>> predicted, real, control = (rng.normal(mean, size=(30, 20)) for mean in (1, 2, 0))
    >>> changes = tv.benchmark.change_table(predicted, real, control, n_top_genes=5)
    >>> changes.columns.tolist()
    ['change', 'standard_error', 'sd', 'change_real', 'responsive']
    """
    check_integer("n_top_genes", n_top_genes, 1)
    predicted, real, control = as_matrices([predicted, real, control], ["predicted", "real", "control"])
    if len(real) < _LEAST or min(len(predicted), len(control)) < 2:
        msg = (
            f"Expected at least {_LEAST} real cells, to choose genes by some and measure them in others, and 2 of the "
            f"others, found {len(real)}, {len(predicted)} predicted and {len(control)} control cells."
        )
        raise ValueError(msg)
    order = np.random.default_rng(seed).permutation(len(real))
    chosen_by, measured = (real[np.sort(half)] for half in np.array_split(order, 2))
    before = gene_means(control)
    variance = gene_variances(predicted, ddof=1)
    responsive = np.zeros(real.shape[1], dtype=bool)
    responsive[responsive_genes(control, chosen_by, n_genes=min(n_top_genes, real.shape[1]))] = True
    return pd.DataFrame(
        {
            "change": gene_means(predicted) - before,
            "standard_error": standard_error(variance, len(predicted), len(measured)),
            "sd": np.sqrt(variance),
            "change_real": gene_means(measured) - before,
            "responsive": responsive,
        },
        index=None if var_names is None else pd.Index(var_names),
    )
