"""A card that tells others what a model was trained on, how well it predicts, and what it must not be used for."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi.data._schema import Schema

from ._summary import summarize

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from trvae_scvi.model import TRVAE

    from ._assessment import Assessment

__all__ = ["model_card"]

# the name of the model's prediction among those that are assessed by default.
_OWN = "trVAE"
_MANY = 12  # names of a list that are written out
_DOCS = "https://trvae-scvi.readthedocs.io/en/latest"

_INTRODUCTION = """\
A trVAE (transfer variational autoencoder, [Lotfollahi et al. 2020](https://doi.org/10.1093/bioinformatics/btaa800)) for
scvi-tools, made with trvae-scvi {version}. It answers what cells would look like under another condition:

```python
from scvi.hub import HubModel
import trvae_scvi  # pip install trvae-scvi

model = HubModel.pull_from_huggingface_hub("<repository>").model
predicted = model.predict_perturbation(cells, target="{target}")  # cells: AnnData with the genes below
```"""

_LIMITS = """\
{by_verdict}
- Groups whose response is their own: it follows from that of others by no method.
- Genes and conditions other than those above.
- New replicates: a thousand predicted cells know of as many cells as they were predicted from, and of one model.
  Tests on them have no error rate.
- The fate of single cells: whether cells are distributed as real ones can be checked, a pairing cannot.
- Numbers of cells: what a condition does to the composition of a tissue is not predicted.
- Decisions about patients."""


def model_card(
    model: TRVAE,
    *,
    title: str,
    license: str,
    description: str | None = None,
    assessments: Sequence[Assessment] = (),
    table: pd.DataFrame | None = None,
) -> str:
    """Describe a trained model for those it is shared with, as a model card of Hugging Face's hub.

    What was registered and trained is read from the model, with or without its data; how far to trust it is what
    :func:`~trvae_scvi.benchmark.assess` and :func:`~trvae_scvi.benchmark.leave_one_group_out` found. Without these the
    card says that it is not known.

    Parameters
    ----------
    model
        Trained.
    title
        Of the card.
    license
        Of the model, as the hub names it, such as ``"cc-by-4.0"``.
    description
        What is not known to the model: tissue, protocol, where the data come from, how to cite them.
    assessments
        What :func:`~trvae_scvi.benchmark.assess` found for groups that were not measured under a target.
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returned for the same data.

    Returns
    -------
    The card as Markdown with a head of YAML, for ``huggingface_hub.ModelCard``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    KeyError
        If the table lacks a column.
    ValueError
        If an assessment is of a condition that the model does not know, or the table is of no such condition.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50).adata
    >>> tv.TRVAE.setup_anndata(adata, labels_key="cell_type")
    >>> model = tv.TRVAE(adata)
    >>> model.train(max_epochs=1)
    >>> card = tv.benchmark.model_card(model, title="Simulated cells", license="cc-by-4.0")
    >>> "## What it must not be used for" in card
    True

    With the model in a folder, `huggingface_hub` installed:

    >>> from scvi.hub import HubMetadata, HubModel  # doctest: +SKIP
    >>> model.save("my_model")  # doctest: +SKIP
    >>> metadata = HubMetadata.from_dir(  # doctest: +SKIP
    ...     "my_model", anndata_version=anndata.__version__, model_parent_module="trvae_scvi"
    ... )
    >>> HubModel("my_model", metadata=metadata, model_card=huggingface_hub.ModelCard(card))  # doctest: +SKIP
    """
    if not model.is_trained:
        msg = (
            "Expected a trained model, found one that is not. Call `train` first: a card says what a model has learned."
        )
        raise RuntimeError(msg)
    schema = Schema.of(model.registry_)
    conditions = [str(name) for name in schema.conditions]
    foreign = sorted({str(found.target) for found in assessments} - set(conditions))
    if foreign:
        msg = f"Expected assessments of the model's conditions, {conditions}, found some of {foreign}."
        raise ValueError(msg)
    if table is not None:
        table = _own_rows(table, conditions)
    target = str(assessments[0].target) if assessments else "<one of the conditions>"
    parts = [
        _head(model, license),
        f"# {title}",
        _INTRODUCTION.format(version=model.trvae_scvi_version_, target=target),
        *([] if description is None else [description]),
        "## Data",
        _data(model, schema),
        "## How far to trust it",
        *_trust(assessments, table),
        "## What it must not be used for",
        _LIMITS.format(by_verdict=_refused(assessments)),
        f"Read [Reading a prediction honestly]({_DOCS}/reading.html) before you use it.",
        "## Settings",
        f"```json\n{json.dumps(_settings(model), indent=2, default=str)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _head(model: TRVAE, license: str) -> str:
    """YAML with the tags that scvi-tools gives its own models."""
    tags = [
        "biology",
        "genomics",
        "single-cell",
        "perturbation",
        f"model_cls_name:{type(model).__name__}",
        f"scvi_version:{model.registry_['scvi_version']}",
        f"anndata_version:{version('anndata')}",
    ]
    head = {"license": license, "library_name": "scvi-tools", "tags": tags}
    # JSON is YAML, and quotes what needs it
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"])


def _data(model: TRVAE, schema: Schema) -> str:
    lines = [
        f"- Cells: {model.summary_stats['n_cells']:,}",
        f"- Genes: {len(schema.var_names):,} ({_listed(schema.var_names)})",
        f"- Values: {'counts' if model.module.likelihood.models_counts else 'as given, no counts'}"
        + (f", layer `{schema.layer}`" if schema.layer else ""),
        f"- Conditions (`{schema.condition_key}`): {_listed(schema.conditions)}",
    ]
    if model.features_ is not None:
        unmeasured = [name for name in model.features_["names"] if name not in set(schema.conditions)]
        lines.append(f"- Described, not measured: {_listed(unmeasured)}")
    if schema.labels_key is not None:
        lines.append(f"- Labels (`{schema.labels_key}`): {_listed(schema.labels)}")
    lines += [f"- Covariate `{name}`: {_listed(values)}" for name, values in schema.covariates.items()]
    lines += [f"- Covariate `{name}`: a number" for name in schema.continuous_covariates]
    if schema.labels_key is not None and model.measured_ is not None:
        # predictions for these are checked by nothing that the model has seen
        lacking = [
            f"- {label} under {_listed(schema.conditions[~row])}"
            for label, row in zip(schema.labels, np.asarray(model.measured_, dtype=bool), strict=True)
            if not row.all()
        ]
        lines += ["", "Not measured, so that a prediction is one in the strict sense:", "", *(lacking or ["- nothing"])]
    return "\n".join(lines)


def _listed(names: Sequence[Any] | np.ndarray) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MANY])
    return shown if len(names) <= _MANY else f"{shown} and {len(names) - _MANY} more"


def _trust(assessments: Sequence[Assessment], table: pd.DataFrame | None) -> list[str]:
    if not assessments and table is None:
        return [
            "**Not known.** Nobody has held out groups that were measured, to see how well they are predicted. Do that "
            f"with `trvae_scvi.benchmark.assess` before you use a prediction: [how]({_DOCS}/evaluation.html)."
        ]
    explained = (
        "The headline skill is 0 for the best trivial prediction in every metric (no change, the other groups' cells, "
        "or their average change) and 1 for a perfect one."
    )
    parts = [explained]
    if assessments:
        rows = [
            {
                "group": found.group,
                "target": found.target,
                "verdict": found.verdict,
                "take": found.recommended,
                "expected skill": _interval(found.expected.loc[found.recommended]),
                "measured groups": int(found.evidence["n_groups"]),
            }
            for found in assessments
        ]
        parts += ["Groups that were not measured:", _markdown(pd.DataFrame(rows))]
        parts += [f"- **{found.group}**: {found.message}" for found in assessments]
    if table is not None:
        summary = summarize(table)
        n = len(table[["group", "target"]].drop_duplicates())
        shown = pd.DataFrame(
            {
                "method": summary["method"],
                "headline skill": [_interval(row) for _, row in summary.iterrows()],
                "above every trivial prediction": [f"{share:.0%}" for share in summary["above_trivial"]],
            }
        )
        parts += [
            f"Groups that were measured, each held out in turn ({n} hold-outs, 90 % intervals):",
            _markdown(shown),
        ]
    return parts


def _interval(row: pd.Series) -> str:
    # + 0.0: no "-0.00"
    skill, lower, upper = (round(float(row[name]), 2) + 0.0 for name in ("skill", "lower", "upper"))
    return f"{skill:.2f} ({lower:.2f} to {upper:.2f})"


def _markdown(table: pd.DataFrame) -> str:
    lines = [[str(name) for name in table.columns], ["---"] * table.shape[1]]
    lines += [[str(value).replace("|", "\\|") for value in row] for row in table.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _refused(assessments: Sequence[Assessment]) -> str:
    """The groups that the verdicts leave to nothing, or to another method, or that there is no verdict."""
    if not assessments:
        return "- Any group before somebody has assessed how far to trust it."
    lines = []
    for found in assessments:
        if found.verdict != "use" or found.recommended != _OWN:
            lines.append(f"- {found.group} under {found.target}: “{found.verdict}”, and that of {found.recommended}.")
    return "\n".join([*lines, "- Groups that are not in the table above, before somebody has assessed them."])


def _settings(model: TRVAE) -> dict[str, Any]:
    given = {**model.init_params_["non_kwargs"]}
    if model.features_ is not None:
        given["condition_features"] = [str(name) for name in model.features_["columns"]]
    history = model.history_ or {}
    return {**given, "epochs": len(history.get("train_loss", ())) or None}


def _own_rows(table: pd.DataFrame, conditions: Sequence[Hashable]) -> pd.DataFrame:
    missing = [name for name in ("group", "target", "method", "genes", "metric", "value") if name not in table]
    if missing:
        msg = f"Expected `table` as `leave_one_group_out` returns it, found no columns {missing}."
        raise KeyError(msg)
    own = table[table["target"].astype(str).isin(conditions)]
    if own.empty:
        msg = f"Expected `table` to have targets out of {list(conditions)}, found {list(table['target'].unique())}."
        raise ValueError(msg)
    return own
