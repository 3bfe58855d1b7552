"""What the rooms before it know of a model: a name for it, so that they need not import it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scvi.data import AnnDataManager

    from trvae_scvi.module import TRVAEModule

__all__ = ["Model"]


class Model(Protocol):
    """A :class:`~trvae_scvi.TRVAE`: what scvi-tools' models have, and what ours have besides.

    Attributes
    ----------
    id, module, registry_, summary_stats, init_params_, is_trained_, history, history_, trainer
        As scvi-tools has them.
    nonnegative_
        Whether the data know no value below 0.
    measured_
        Labels x conditions, whether there were training cells; ``None`` if that is not known.
    levels_
        Levels of labels under conditions that they were not measured under; ``None`` if there are none.
    features_
        Descriptions of conditions, as :meth:`~._condition_features.ConditionFeatures.plain` has them; ``None`` without.
    process_
        How alike conditions are by them, see :mod:`~trvae_scvi._math._condition_process`; ``None`` if not learned.
    surgery_
        How it was made out of a reference; ``None`` for one that was not.
    """

    id: str
    module: TRVAEModule
    registry_: dict[str, Any]
    summary_stats: Any
    init_params_: dict[str, Any]
    is_trained_: bool
    history_: Any
    trainer: Any
    nonnegative_: bool
    measured_: np.ndarray | None
    levels_: dict[str, np.ndarray] | None
    features_: dict[str, Any] | None
    process_: dict[str, Any] | None
    surgery_: dict[str, bool] | None

    @property
    def adata(self) -> AnnData | None:
        """Data attached to it."""

    @property
    def adata_manager(self) -> AnnDataManager:
        """Their manager."""

    @property
    def history(self) -> Any:
        """What training logged."""
