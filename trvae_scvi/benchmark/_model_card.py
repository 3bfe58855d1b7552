"""A card that tells others what a model was trained on, how well it predicts, and what it must not be used for."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trvae_scvi._arguments import check_choice
from trvae_scvi.data._schema import Schema

from ._assessment import Assessment
from ._summary import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trvae_scvi.model import TRVAE

__all__ = ["model_card"]

_MANY = 12  # names of a list that are written out
_DOCS = "https://trvae-scvi.readthedocs.io/en/latest"

_INTRODUCTION = """\
A trVAE (transfer variational autoencoder, [Lotfollahi et al. 2020](https://doi.org/10.1093/bioinformatics/btaa800)) for
scvi-tools, held by trvae-scvi {version}. It answers what cells would look like under another condition:

```python
import anndata
import huggingface_hub
import trvae_scvi as tv  # pip install trvae-scvi

folder = huggingface_hub.snapshot_download("<repository>")
cells = anndata.read_h5ad("my_cells.h5ad")
tv.TRVAE.prepare_query_anndata(cells, folder)  # its genes, in its order
model = tv.TRVAE.load(folder, False)
predicted = model.predict_perturbation(cells, target={target!r})
```"""

_LIMITS = """\
- Groups that are not in a table above, before somebody has assessed them. A response that is a group's own follows from
  that of others by no method.
- Other genes, and conditions other than those above.
- New replicates: a thousand predicted cells know of as many cells as they were predicted from, and of one model.
  Tests on them have no error rate.
- The fate of single cells: whether cells are distributed as real ones can be checked, a pairing cannot.
- Numbers of cells: what a condition does to the composition of a tissue is not predicted.
- Decisions about patients."""

#: What a verdict leaves out.
_EXCLUDED = {
    "use means only": "the variation of cells; it was right about means only",
    "use the direction only": "the size of changes; it was right about their direction only",
    "do not use": "anything",
    "no effect": "anything: no effect is to be expected, and what is predicted is noise",
}


def model_card(
    model: TRVAE,
    *,
    title: str,
    license: str,
    description: str | None = None,
    assessments: Assessment | Sequence[Assessment] = (),
    table: pd.DataFrame | None = None,
    method: str = "trVAE",
) -> str:
    """Describe a trained model for those it is shared with, as a model card of Hugging Face's hub.

    What was registered and trained is read from the model, with or without its data; how far to trust it is what
    :func:`~trvae_scvi.benchmark.assess` and :func:`~trvae_scvi.benchmark.leave_one_group_out` found for the same data.
    Without these the card says that it is not known.

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
        What :func:`~trvae_scvi.benchmark.assess` found for groups that the model is to be used for.
    table
        What :func:`~trvae_scvi.benchmark.leave_one_group_out` returned.
    method
        The name of models of this kind among the methods of assessments and table.

    Returns
    -------
    The card as Markdown with a head of YAML, for ``huggingface_hub.ModelCard``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    KeyError
        If the table lacks a column.
    TypeError
        If `title` or `license` is no text.
    ValueError
        If one of these is empty, an assessment is of a condition or a label that the model does not know, or the table
        is of no such condition.

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
        msg = "Expected a trained model, found one that is not. Call `train` first: a card says what was learned."
        raise RuntimeError(msg)
    _check_texts(title=title, license=license)
    found = [assessments] if isinstance(assessments, Assessment) else list(assessments)
    schema = Schema.of(model.registry_)
    for one in found:
        check_choice("target of an assessment", str(one.target), [str(name) for name in schema.conditions])
        if one.group_key == schema.labels_key:
            check_choice("group of an assessment", str(one.group), [str(name) for name in schema.labels])
    if table is not None:
        table = _own_rows(table, schema)
    target = found[0].target if found else schema.conditions[-1]
    parts = [
        _head(model, license),
        f"# {_text(title)}",
        _INTRODUCTION.format(
            version=model.trvae_scvi_version_, target=target.item() if isinstance(target, np.generic) else target
        ),
        *([] if description is None else [description]),
        "## Data",
        _data(model, schema),
        "## How far to trust it",
        *_trust(found, table, method),
        "## What it must not be used for",
        "\n".join([*_excluded(found, method), _LIMITS]),
        f"Read [Reading a prediction honestly]({_DOCS}/reading.html) before you use it.",
        "## Settings",
        f"```json\n{json.dumps(_settings(model), indent=2, default=_plain)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if not isinstance(value, str):
            msg = f"Expected `{name}` to be a text, found {value!r}."
            raise TypeError(msg)
        if not value.strip():
            msg = f"Expected a `{name}`, found an empty text."
            raise ValueError(msg)


def _own_rows(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    missing = [name for name in ("group", "target", "method", "genes", "metric", "value") if name not in table]
    if missing:
        msg = f"Expected `table` as `leave_one_group_out` returns it, found no columns {missing}."
        raise KeyError(msg)
    conditions = [str(name) for name in schema.conditions]
    own = table[table["target"].astype(str).isin(conditions)]
    if own.empty:
        msg = f"Expected `table` to have targets out of {conditions}, found {list(table['target'].unique())}."
        raise ValueError(msg)
    return own


def _head(model: TRVAE, license: str) -> str:
    """YAML with the tags that scvi-tools gives its own models."""
    tags = [
        *("biology", "genomics", "single-cell", "perturbation"),
        f"model_cls_name:{type(model).__name__}",
        f"scvi_version:{model.registry_['scvi_version']}",
        f"anndata_version:{version('anndata')}",
    ]
    head = {"license": license, "library_name": "scvi-tools", "tags": tags}
    # JSON is YAML, and quotes what needs it
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"])


def _data(model: TRVAE, schema: Schema) -> str:
    of_query = " of the query, on top of a reference" if model.surgery_ is not None else ""
    # not the summary of the registry: a model can be loaded with other cells than those it was trained on
    indices = [getattr(model, name, None) for name in ("train_indices", "validation_indices")]
    n_cells = sum(len(some) for some in indices if some is not None)
    lines = [
        f"- Training and validation cells: {f'{n_cells:,}' if n_cells else 'not known'}{of_query}",
        f"- Genes: {len(schema.var_names):,} ({_listed(schema.var_names)})",
        f"- Values: {'counts' if model.module.likelihood.models_counts else 'as given, no counts'}"
        + (f", layer {_code(schema.layer)}" if schema.layer else ""),
        f"- Conditions ({_code(schema.condition_key)}): {_listed(schema.conditions)}",
    ]
    if model.features_ is not None:
        unmeasured = [name for name in model.features_["names"] if name not in set(schema.conditions)]
        lines.append(f"- Described, not measured: {_listed(unmeasured)}")
    if schema.labels_key is not None:
        lines.append(f"- Labels ({_code(schema.labels_key)}): {_listed(schema.labels)}")
    lines += [f"- Covariate {_code(name)}: {_listed(values)}" for name, values in schema.covariates.items()]
    lines += [f"- Covariate {_code(name)}: a number" for name in schema.continuous_covariates]
    if schema.labels_key is not None and model.measured_ is not None:
        # predictions for these are checked by nothing that the model has seen
        lacking = [
            f"- {_text(label)} under {_listed(schema.conditions[~row])}"
            for label, row in zip(schema.labels, np.asarray(model.measured_, dtype=bool), strict=True)
            if not row.all()
        ]
        lines += ["", "Not measured, so that a prediction is one in the strict sense:", "", *(lacking or ["- nothing"])]
    return "\n".join(lines)


def _trust(found: Sequence[Assessment], table: pd.DataFrame | None, method: str) -> list[str]:
    if not found and table is None:
        return [
            "**Not known.** Nobody has held out groups that were measured, to see how well they are predicted. Do that "
            f"with `trvae_scvi.benchmark.assess` before you use a prediction: [how]({_DOCS}/evaluation.html)."
        ]
    parts = [
        "The headline skill is 0 for the best trivial prediction in every metric (no change, the other groups' cells, "
        "or their average change) and 1 for a perfect one."
    ]
    if found:
        rows = [
            {
                "group": one.group,
                "target": one.target,
                "verdict on this model": _verdict(one, method),
                "skill to be expected of it": _skill_of(one, method),
                "best method": one.recommended,
                "its skill": _skill_of(one, one.recommended),
                "measured groups": int(one.evidence["n_groups"]),
            }
            for one in found
        ]
        keys = _listed(dict.fromkeys(one.group_key for one in found))
        parts += [f"Assessed from other groups ({keys}) that were measured under the target:", _markdown(rows)]
        parts.append("\n".join(f"- {_text(one.group)}: {_text(one.message)}" for one in found))
    return parts if table is None else [*parts, *_holdouts(table, method)]


def _verdict(found: Assessment, method: str) -> str:
    return found.verdict_for(method) if method in found.expected.index else "not assessed"


def _skill_of(found: Assessment, method: str) -> str:
    if method not in found.expected.index:
        return "-"
    return f"{_interval(found.expected.loc[method])}, {found.level:.0%}"


def _holdouts(table: pd.DataFrame, method: str) -> list[str]:
    """The skill of every method on groups that were measured."""
    summary = summarize(table)
    n, n_empty = len(table[["group", "target"]].drop_duplicates()), int(summary["n_without_room"].iloc[0])
    rows = [
        {
            "method": f"{row['method']} (of this kind)" if row["method"] == method else row["method"],
            "headline skill": "undefined" if n_empty == n else _interval(row),
            "above every trivial prediction": f"{row['above_trivial']:.0%}",
        }
        for _, row in summary.iterrows()
    ]
    said = f"{_listed(dict.fromkeys(table['group']))}, held out one by one ({n} hold-outs, intervals of 90 %)"
    if n_empty:
        said += f"; in {n_empty} of them nothing could be told from the best trivial prediction, which counts as 0"
    return [f"{said}:", _markdown(rows)]


def _interval(row: pd.Series) -> str:
    # + 0.0: no "-0.00"
    skill, lower, upper = (round(float(row[name]), 2) + 0.0 for name in ("skill", "lower", "upper"))
    if np.isnan(skill):
        return "undefined"
    return f"{skill:.2f}" if np.isnan(lower) else f"{skill:.2f} ({lower:.2f} to {upper:.2f})"


def _excluded(found: Sequence[Assessment], method: str) -> list[str]:
    """What the verdicts on this model rule out."""
    if not found:
        return ["- Any group before somebody has assessed how far to trust it."]
    lines = []
    for one in found:
        verdict = _verdict(one, method)
        case = f"{_text(one.group)} under {_text(one.target)}"
        if verdict == "not assessed":
            lines.append(f"- {case}, for anything: this model was not assessed, {_text(one.recommended)} was.")
        elif verdict in _EXCLUDED:
            lines.append(f"- {case}, for {_EXCLUDED[verdict]}.")
    return lines


def _settings(model: TRVAE) -> dict[str, Any]:
    given = {**model.init_params_["non_kwargs"]}
    given.pop("extra_payload_autotune", None)  # of a sweep, not of the model
    if model.features_ is not None:
        given["condition_features"] = [str(name) for name in model.features_["columns"]]
    epochs = len((model.history_ or {}).get("train_loss", ())) or None
    return {**given, "epochs of the query" if model.surgery_ is not None else "epochs": epochs}


def _plain(value: Any) -> Any:
    """Values of NumPy as Python's; of what has no text of its own the name of its class."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return type(value).__qualname__ if type(value).__repr__ is object.__repr__ else repr(value)


def _text(value: object) -> str:
    """A name or sentence on one line."""
    return " ".join(str(value).split())


def _code(value: object) -> str:
    """A name as it is, whatever it holds."""
    text = _text(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _listed(names: Iterable[Any]) -> str:
    shown = [_code(name) for name in names]
    return ", ".join(shown[:_MANY]) + (f" and {len(shown) - _MANY} more" if len(shown) > _MANY else "")


def _markdown(rows: Sequence[dict[str, object]]) -> str:
    lines = [[*rows[0]], ["---"] * len(rows[0])]
    lines += [[_text(value).replace("|", "\\|") for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
