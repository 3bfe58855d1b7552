"""Training curves: the tidy table of what training logged and one panel per term of the objective."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from ._panels import panel_axes, unique_names
from ._style import AS_IS, OKABE_ITO, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["training", "training_frame"]

_COLOURS = {"train": OKABE_ITO[0], "validation": OKABE_ITO[5]}
# scvi-tools puts the set first for the loss and last for everything else.
_KEY = re.compile(r"(?:(?P<first>train|validation)_)?(?P<term>.+?)(?:_(?P<last>train|validation))?(?:_epoch)?")


def training_frame(model_or_history: Any, *, keys: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Every term that training logged by epoch, on the training and on the validation cells.

    Parameters
    ----------
    model_or_history
        A trained model of scvi-tools, or its `history`: for each name (`train_loss`, `validation_loss`, `mmd_train`,
        `mmd_validation`, `kl_weight`, ...) a data frame with one column, indexed by epoch. Not changed.
    keys
        Names of terms without the set: `"loss"`, `"reconstruction_loss"`, `"kl_local"`, `"mmd"`, `"kl_weight"`.
        `None` takes every term that is not 0 throughout.

    Returns
    -------
    One row per term, set and epoch, in this order, with the columns `term`, `set` (`"train"` or `"validation"`),
    `epoch` and `value`. A term without a set, such as `kl_weight`, counts as `"train"`. What was logged by step is left
    out. Epochs are those of the history, which, after a second call of `train`, numbers on from the rows logged before,
    so that they are too low for what was not logged in every epoch.

    Raises
    ------
    ValueError
        If there is no history, it has nothing by epoch or nothing but 0, or a term is unknown or asked for twice.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> history = {f"loss_{name}": pd.DataFrame({"loss": [9.0, 5.0]}) for name in ("train", "validation")}
    >>> tv.pl.training_frame(history)[["term", "set", "epoch", "value"]].values.tolist()[:2]
    [['loss', 'train', 0, 9.0], ['loss', 'train', 1, 5.0]]

    A trained model does as well, as in ``tv.pl.training_frame(model)``.
    """
    table = _by_epoch(model_or_history)
    known = list(table["term"].unique())
    terms = list(table.loc[table["value"] != 0, "term"].unique()) if keys is None else unique_names(keys, "keys")
    unknown = [term for term in terms if term not in known]
    if unknown or not terms:
        found = unknown if unknown else "None, and all of them 0 throughout"
        msg = f"Expected `keys` out of {known}, found {found}."
        raise ValueError(msg)
    parts = [table[(table["term"] == term) & (table["set"] == name)] for term in terms for name in _COLOURS]
    return pd.concat(parts, ignore_index=True)


def _by_epoch(model_or_history: Any) -> pd.DataFrame:
    """The rows of the table in the order of the history."""
    history = getattr(model_or_history, "history", model_or_history)
    tables = isinstance(history, Mapping) and all(isinstance(values, pd.DataFrame) for values in history.values())
    if not tables or not history:
        msg = f"Expected a trained model or its history, found the history {history!r}. Call `train` first."
        raise ValueError(msg)
    logged = [_series(name, values) for name, values in history.items() if not _is_by_step(name, values)]
    if not logged:
        msg = f"Expected terms logged by epoch, found only {list(history)}."
        raise ValueError(msg)
    return pd.concat(logged, ignore_index=True)


def _is_by_step(name: str, values: pd.DataFrame) -> bool:
    return values.index.name == "step" or name.endswith("_step")


def _series(name: str, values: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table from one entry of the history."""
    found = _KEY.fullmatch(name)
    if found is None:
        msg = f"Expected names such as 'train_loss' or 'mmd_validation' in the history, found {name!r}."
        raise ValueError(msg)
    return pd.DataFrame(
        {
            "term": found["term"],
            "set": found["first"] or found["last"] or "train",
            "epoch": values.index.to_numpy(),
            "value": values.iloc[:, 0].to_numpy(dtype=float),  # scvi-tools' columns hold objects
        }
    )


def training(
    model_or_history: Any,
    *,
    keys: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
) -> np.ndarray:
    """Training curves, one panel per term, the training and the validation cells in each.

    Parameters
    ----------
    model_or_history
        A trained model of scvi-tools, or its `history`. Not changed.
    keys
        Names of terms without the set: `"loss"`, `"reconstruction_loss"`, `"kl_local"`, `"mmd"`, `"kl_weight"`.
        `None` takes every term that is not 0 throughout.
    ax
        Where to draw: as many axes as there are terms. `None` makes a new figure.
    show
        Whether to call :func:`matplotlib.pyplot.show`. `None` does not.

    Returns
    -------
    One-dimensional array of axes, one per term and in their order.

    Raises
    ------
    ValueError
        If there is no history, it has nothing by epoch or nothing but 0, a term is unknown or asked for twice, or the
        number of axes is not that of the terms.

    Examples
    --------
    >>> import pandas as pd
    >>> import trvae_scvi as tv
    >>> history = {f"loss_{name}": pd.DataFrame({"loss": [9.0, 5.0]}) for name in ("train", "validation")}
    >>> axes = tv.pl.training(history)  # or of a trained model
    >>> [ax.get_title() for ax in axes]
    ['loss']
    """
    frame = training_frame(model_or_history, keys=keys)
    terms = list(frame["term"].unique())
    axes = panel_axes(ax, terms, kind="term", size=(3.0, 2.4), n_columns=3)
    for panel, term in zip(axes, terms, strict=True):
        _draw_panel(panel, frame[frame["term"] == term])
        panel.set_title(term.replace("_", " "), fontsize="medium", **AS_IS)
        panel.set_xlabel("epoch")
    # Not every term has both sets.
    max(axes, key=lambda panel: len(panel.lines)).legend(frameon=False, fontsize="small")
    return shown(axes, show)


def _draw_panel(ax: Axes, rows: pd.DataFrame) -> None:
    for name, colour in _COLOURS.items():
        own = rows[rows["set"] == name]
        if own.empty:
            continue
        # A line through one point is invisible.
        ax.plot(own["epoch"], own["value"], color=colour, marker="o" if len(own) == 1 else None, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
