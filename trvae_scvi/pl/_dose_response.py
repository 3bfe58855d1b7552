"""Changes of single genes by dose or time: the table, and the curves with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi.data._designs import warn
from trvae_scvi.metrics._anndata import comparison_matrix
from trvae_scvi.metrics._matrix import gene_means

from ._panels import panel_axes, unique_names
from ._style import AS_IS, OKABE_ITO, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

    from trvae_scvi.model import TRVAE

__all__ = ["dose_response", "dose_response_frame"]

_COLUMNS = ["gene", "condition", "dose", "change", "change_lower", "change_upper", "is_measured", "observed"]
_MOST_TICKS = 4


def dose_response_frame(
    model: TRVAE,
    adata: AnnData | None,
    genes: str | Sequence[str],
    *,
    doses: Mapping[str, float],
    source: str,
    level: float = 0.9,
) -> pd.DataFrame:
    """Predicted changes of single genes at several doses or times, with intervals, and those measured.

    Parameters
    ----------
    model
        A trained model. Doses that were not measured need its `condition_features`.
    adata
        Cells to predict from, of which those of `source` are taken; `None` takes the model's own.
    genes
        Names of genes.
    doses
        Dose or time of every condition to show, `source` left out or with 0.
    source
        Condition to predict from, of dose 0.
    level
        Probability of the intervals, see :meth:`~trvae_scvi.TRVAE.get_perturbation_effect`.

    Returns
    -------
    One row per gene and condition, in the order of genes and doses, with the columns `gene`, `condition`, `dose`,
    `change`, `change_lower`, `change_upper` (of mean log1p of counts per 10,000; of the values with
    ``gene_likelihood="mse"``), `is_measured`, and `observed`: the difference between the means of the model's own cells
    under the condition and under `source`, NaN where there are none.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If `doses` is no mapping.
    ValueError
        If a gene or a condition is unknown, a dose is negative or not finite, or none is above 0.

    Warns
    -----
    UserWarning
        If conditions are described by larger doses than all measured ones.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> cells, features, _ = tv.datasets.simulate_conditions(n_cells=900, n_genes=50, n_conditions=10, design="doses")
    >>> tv.TRVAE.setup_anndata(cells)
    >>> model = tv.TRVAE(cells, condition_features=features)
    >>> model.train(max_epochs=2)
    >>> doses = {"drug_1 1 nM": 1, "drug_1 10 nM": 10, "drug_1 100 nM": 100}
    >>> frame = tv.pl.dose_response_frame(model, None, "gene_1", doses=doses, source="control")
    >>> frame["is_measured"].tolist()
    [True, False, True]
    """
    names = unique_names(genes, "genes")
    if not isinstance(doses, Mapping):
        msg = f"Expected `doses` to map conditions to doses, found a {type(doses).__name__}."
        raise TypeError(msg)
    values = {condition: float(dose) for condition, dose in doses.items() if condition != source}
    wrong = [condition for condition, dose in values.items() if not (np.isfinite(dose) and dose >= 0)]
    if wrong or not any(dose > 0 for dose in values.values()):
        msg = f"Expected `doses` to map conditions to doses from 0 on, found {wrong or dict(doses)}."
        raise ValueError(msg)
    effect = model.get_perturbation_effect(
        adata, target=list(values), source=source, groupby=model.registry_["setup_args"]["condition_key"], level=level
    )
    unknown = [name for name in names if name not in set(effect["variable"])]
    if unknown:
        msg = f"Expected `genes` out of the model's (such as {effect['variable'].iloc[:3].tolist()}), found {unknown}."
        raise ValueError(msg)
    observed = _observed(model, list(values), source)
    measured = set(model.get_state_registry("batch").categorical_mapping)
    _warn_of_extrapolation(model, list(values), measured)
    table = effect[effect["variable"].isin(names)].rename(columns={"variable": "gene", "target": "condition"})
    table["dose"] = table["condition"].map(values).astype(float)
    table["is_measured"] = table["condition"].isin(measured)
    keys = zip(table["condition"], table["gene"], strict=True)
    table["observed"] = [
        observed[condition].get(gene, np.nan) if condition in observed else np.nan for condition, gene in keys
    ]
    table["gene"] = pd.Categorical(table["gene"], names)
    return table.sort_values(["gene", "dose"], kind="stable")[_COLUMNS].astype({"gene": str}).reset_index(drop=True)


def _observed(model: TRVAE, conditions: Sequence[str], source: str) -> dict[str, pd.Series]:
    """Changes of means of the model's own cells, by condition."""
    adata = model.adata
    if adata is None:
        return {}
    arguments = model.registry_["setup_args"]
    own = adata.obs[arguments["condition_key"]]

    def means(condition: str) -> np.ndarray:
        cells = adata[(own == condition).to_numpy()]
        counts = model.module.likelihood.models_counts
        return gene_means(comparison_matrix(cells, layer=arguments["layer"], counts=counts))

    there = [condition for condition in conditions if (own == condition).any()]
    if not there or not (own == source).any():
        return {}
    base = means(source)
    return {condition: pd.Series(means(condition) - base, index=adata.var_names) for condition in there}


def _warn_of_extrapolation(model: TRVAE, conditions: Sequence[str], measured: set[str]) -> None:
    """Of conditions that are described by more of something than any that was measured."""
    if model.features_ is None or model.process_ is None:
        return
    table = pd.DataFrame(model.features_["values"], index=model.features_["names"])
    names = model.get_state_registry("batch").categorical_mapping
    known = table.loc[[names[code] for code in model.process_["codes"]]]  # a query's own tell nothing of others
    beyond = [name for name in conditions if name not in measured and (table.loc[name] > known.max()).any()]
    if beyond:
        warn(f"{beyond} are described by larger doses than all measured conditions: nothing tells what happens there.")


def dose_response(
    model: TRVAE,
    adata: AnnData | None,
    genes: str | Sequence[str],
    *,
    doses: Mapping[str, float],
    source: str,
    level: float = 0.9,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
) -> np.ndarray:
    """Curves of single genes by dose or time, one panel per gene: predicted changes with intervals, measured as dots.

    Parameters
    ----------
    model, adata, genes, doses, source, level
        As in :func:`~trvae_scvi.pl.dose_response_frame`.
    ax
        Where to draw: as many axes as there are genes. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    One-dimensional array of axes, one per gene and in their order.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As :func:`~trvae_scvi.pl.dose_response_frame`, or if the number of axes is not that of the genes.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> cells, features, _ = tv.datasets.simulate_conditions(n_cells=900, n_genes=50, n_conditions=10, design="doses")
    >>> tv.TRVAE.setup_anndata(cells)
    >>> model = tv.TRVAE(cells, condition_features=features)
    >>> model.train(max_epochs=2)
    >>> doses = {"drug_1 1 nM": 1, "drug_1 10 nM": 10, "drug_1 100 nM": 100}
    >>> axes = tv.pl.dose_response(model, None, ["gene_1", "gene_2"], doses=doses, source="control")
    >>> axes[0].get_xlabel()
    'dose'
    """
    frame = dose_response_frame(model, adata, genes, doses=doses, source=source, level=level)
    names = unique_names(genes, "genes")
    axes = panel_axes(ax, names, kind="gene", size=(2.6, 2.4), n_columns=4)
    for panel, name in zip(axes, names, strict=True):
        _draw_panel(panel, frame[frame["gene"] == name])
        panel.set_title(name, fontsize="medium", **AS_IS)
        panel.set_xlabel("dose", fontsize="small")
        panel.set_ylabel("change of the mean", fontsize="small")
    return shown(axes, show)


def _draw_panel(ax: Any, rows: pd.DataFrame) -> None:
    least = rows.loc[rows["dose"] > 0, "dose"].min()
    at = np.concatenate([[0.0], rows["dose"]])
    lines = {name: np.concatenate([[0.0], rows[name]]) for name in ("change", "change_lower", "change_upper")}
    ax.fill_between(at, lines["change_lower"], lines["change_upper"], color=OKABE_ITO[4], alpha=0.25, linewidth=0)
    ax.plot(at, lines["change"], color=OKABE_ITO[4], linewidth=1.4)
    unmeasured = rows[~rows["is_measured"]]
    ax.plot(unmeasured["dose"], unmeasured["change"], "o", mfc="white", mec=OKABE_ITO[4], ms=4, label="not measured")
    ax.plot(rows["dose"], rows["observed"], "o", color=OKABE_ITO[5], ms=4, label="measured")
    ax.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xscale("symlog", linthresh=least)
    ax.set_xlim(0.0, 1.25 * rows["dose"].max())
    ticks = _ticks(rows["dose"].to_numpy())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.tick_params(labelsize="small")


def _ticks(doses: np.ndarray) -> np.ndarray:
    """The doses themselves if they are few, otherwise powers of ten, as many as have room; and 0."""
    found = np.unique(doses[doses > 0])
    if len(found) > _MOST_TICKS:
        powers = np.arange(np.ceil(np.log10(found[0])), np.floor(np.log10(found[-1])) + 1)
        found = 10.0 ** powers[:: -(-len(powers) // _MOST_TICKS)] if len(powers) > 1 else found[[0, -1]]
    return np.concatenate([[0.0], found])
