"""The gate in front of scvi-tools' methods: cells checked as for a prediction, registered in a copy of our own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from trvae_scvi._compat import keep_manager, managers_of
from trvae_scvi._switch import Switch
from trvae_scvi.data._cells import AnnDataCells, put_values
from trvae_scvi.data._columns import check_anndata, check_condition, check_known
from trvae_scvi.data._gene_names import check_var_names
from trvae_scvi.data._schema import Schema
from trvae_scvi.data._setup import check_registered_data
from trvae_scvi.data._values import check_storage, get_values, place_of

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager

    from trvae_scvi.data._model import Model

__all__ = ["adopting", "check_adopted", "checked_copy", "is_checked"]

#: Inside ``with adopting():`` an AnnData that scvi-tools validates becomes the model's own, and is not copied.
adopting = Switch("adopting")

_CHECKED = "_trvae_checked"  # in `uns` of the copies that the gate made
_THREAD = "_trvae_thread"
_KEPT = 4  # such copies that a model remembers for a thread; a method needs two at a time


def check_adopted(model: Model, adata: AnnData) -> None:
    """Check cells that are to be a model's own."""
    check_anndata(adata)
    schema = Schema.of(model.registry_)
    if not adata.is_view:  # upstream writes into it as it goes along
        check_registered_data(adata, schema)
        return
    # of which upstream makes a copy, and has that checked
    check_var_names(adata, schema.var_names)
    check_known("conditions", check_condition(adata, schema.condition_key, new_data=False), schema.conditions)


def is_checked(model: Model, adata: AnnData) -> bool:
    """Whether cells are a copy that was made here for this model."""
    return getattr(adata, "uns", {}).get(_CHECKED) == model.id


def checked_copy(model: Model, adata: AnnData) -> AnnData:
    """A copy of the caller's cells that shares their expression: checked, and registered for a model."""
    check_anndata(adata)
    schema = Schema.of(model.registry_)
    values = get_values(adata, schema.layer)
    check_storage(values, place_of(schema.layer))
    cells = AnnDataCells.checked(adata, schema, model.module.likelihood)
    own = cells.annotation
    manager = cells.registered(own)
    put_values(own, schema.layer, values)  # not before, as registering would read it once more
    own.uns[_CHECKED] = model.id
    own.uns[_THREAD] = threading.get_ident()
    _forget_copies(managers_of(model))
    keep_manager(model, manager)
    return own


def _forget_copies(managers: dict[str, AnnDataManager]) -> None:
    """Let go of copies that earlier calls made, which scvi-tools would keep as long as the process runs."""
    here, running = threading.get_ident(), {thread.ident for thread in threading.enumerate()}
    kept = [(key, manager.adata) for key, manager in list(managers.items())]
    threads = {key: adata.uns[_THREAD] for key, adata in kept if _CHECKED in adata.uns}
    own = [key for key, thread in threads.items() if thread == here]
    for key in [key for key, thread in threads.items() if thread not in running] + own[: 1 - _KEPT]:
        managers.pop(key, None)
