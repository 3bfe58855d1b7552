"""Methods that train a network: trVAE and others to compare it with, each on the same hold-out.

A method is anything that takes a :class:`~trvae_scvi.benchmark.HoldOut` and gives a prediction. These are dataclasses,
so that they can be sent to other processes and their settings can be read from their `repr`. None changes its hold-out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scvi
import torch
from anndata import AnnData
from packaging.version import Version

from trvae_scvi._arguments import check_choice
from trvae_scvi._math._likelihoods import LIKELIHOODS, METHODS
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.model._trvae_model import TRVAE

from ._holdout import other_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._holdout import HoldOut
    from ._target_baselines import TargetHoldOut

__all__ = [
    "LatentShiftMethod",
    "PertpyScGenMethod",
    "SCVIMethod",
    "TRVAEMethod",
    "TRVAETargetMethod",
    "private",
    "seeded",
]

_HALF = "_half"
_LEAST_PERTPY = Version("1.2")
_NO_BAR: Mapping[str, Any] = {"enable_progress_bar": False}


@dataclass(frozen=True)
class _Network:
    """What the methods have in common: arguments of the model and of its training, without a bar unless asked for."""

    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    train_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def _trained(self, model_class: Any, training: AnnData, defaults: Mapping[str, Any] = _NO_BAR, **more: Any) -> Any:
        model = model_class(training, **more, **self.model_kwargs)
        model.train(**{**defaults, **self.train_kwargs})
        return model


@dataclass(frozen=True)
class _TRVAENetwork(_Network):
    """What the methods that train a :class:`~trvae_scvi.TRVAE` have in common."""

    prediction: Literal["counterfactual", "mean", "sample"] = "counterfactual"
    setup_kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("prediction", self.prediction, METHODS)
        likelihood = LIKELIHOODS.get(self.model_kwargs.get("gene_likelihood", "nb"))
        if likelihood is not None:  # another one the model refuses itself
            likelihood().check_method(self.prediction)  # before a training

    def _fit(self, holdout: HoldOut | TargetHoldOut, **more: Any) -> TRVAE:
        training = private(holdout.training)
        with seeded(holdout.seed):
            TRVAE.setup_anndata(
                training, holdout.condition_key, **{"labels_key": holdout.group_key, **self.setup_kwargs}
            )
            return self._trained(TRVAE, training, **more)

    def _predict(self, model: TRVAE, holdout: HoldOut | TargetHoldOut, target: Any) -> AnnData:
        with seeded(holdout.seed):
            return model.predict_perturbation(holdout.control, target=target, method=self.prediction, seed=holdout.seed)


@dataclass(frozen=True)
class TRVAEMethod(_TRVAENetwork):
    """Train a :class:`~trvae_scvi.TRVAE` without the held-out cells and predict them from the group's control cells.

    The group is registered as the label.

    Parameters
    ----------
    model_kwargs
        Arguments of :class:`~trvae_scvi.TRVAE`. Data that are normalised already need ``{"gene_likelihood": "mse"}``.
    train_kwargs
        Arguments of :meth:`~trvae_scvi.TRVAE.train`.
    prediction
        `method` of :meth:`~trvae_scvi.TRVAE.predict_perturbation`.
    setup_kwargs
        Further arguments of :meth:`~trvae_scvi.TRVAE.setup_anndata`, such as ``{"categorical_covariate_keys":
        ["donor"]}``.

    Raises
    ------
    ValueError
        If `prediction` is unknown, or not for the model's likelihood.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, real = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> method = tv.benchmark.TRVAEMethod({"mmd_on": None}, {"max_epochs": 2})
    >>> model = method.fit(holdout)
    >>> method.predict(model, holdout).shape == holdout.control.shape
    True
    """

    def __call__(self, holdout: HoldOut) -> AnnData:
        """Train and predict; integer counts, or expected counts with ``prediction="mean"``."""
        return self.predict(self.fit(holdout), holdout)

    def fit(self, holdout: HoldOut) -> TRVAE:
        """Train on the cells that are not held out."""
        return self._fit(holdout)

    def predict(self, model: TRVAE, holdout: HoldOut) -> AnnData:
        """Predict the held-out cells with a trained model."""
        return self._predict(model, holdout, holdout.target)


@dataclass(frozen=True)
class TRVAETargetMethod(_TRVAENetwork):
    """Train a :class:`~trvae_scvi.TRVAE` with descriptions, without the targets, and predict these.

    Groups are registered as labels.

    Parameters
    ----------
    model_kwargs, train_kwargs, prediction, setup_kwargs
        As for :class:`~trvae_scvi.benchmark.TRVAEMethod`.

    Raises
    ------
    ValueError
        If `prediction` is unknown, or not for the model's likelihood.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> method = tv.benchmark.TRVAETargetMethod(train_kwargs={"max_epochs": 5})
    >>> method.train_kwargs
    {'max_epochs': 5}
    """

    def __call__(self, holdout: TargetHoldOut) -> dict[Any, AnnData]:
        """Train and predict the control cells under every target."""
        model = self._fit(holdout, condition_features=holdout.features)
        return {target: self._predict(model, holdout, target) for target in holdout.targets}


@dataclass(frozen=True)
class LatentShiftMethod(_Network):
    """Add the other groups' mean change in a latent space to the control cells and decode them, as scGen does.

    The network is that of :class:`~trvae_scvi.TRVAE` without its penalty and without being told the condition, which
    the latent space therefore holds. The change is the mean over the other groups, unweighted, of (mean target - mean
    control) of the posterior means (Lotfollahi, Wolf & Theis 2019, doi:10.1038/s41592-019-0494-8).

    Parameters
    ----------
    model_kwargs
        Arguments of :class:`~trvae_scvi.TRVAE` other than `mmd_on`.
    train_kwargs
        Arguments of :meth:`~trvae_scvi.TRVAE.train`.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, real = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> method = tv.benchmark.LatentShiftMethod(train_kwargs={"max_epochs": 2})
    >>> method(holdout).shape == holdout.control.shape
    True
    """

    def __call__(self, holdout: HoldOut) -> AnnData:
        """Train and predict: the decoder's mean, expected counts at the cells' own totals."""
        training, control = private(holdout.training), private(holdout.control)
        rng = np.random.default_rng(holdout.seed)
        for cells in (training, control):
            # The model takes no single condition: it is given two that say nothing about the cells.
            cells.obs[_HALF] = np.where(rng.permutation(cells.n_obs) % 2, "first", "second")
        with seeded(holdout.seed):
            TRVAE.setup_anndata(training, _HALF)
            model = self._trained(TRVAE, training, mmd_on=None)
            latent = model.get_latent_representation()
            groups = other_groups(holdout).values()
            change = np.mean([latent[under].mean(axis=0) - latent[base].mean(axis=0) for base, under in groups], axis=0)
            decoded = _decode_means(model, control, model.get_latent_representation(control) + change)
        return AnnData(X=decoded, obs=holdout.control.obs.copy(), var=holdout.control.var.copy())


@dataclass(frozen=True)
class SCVIMethod(_Network):
    """Train :class:`scvi.model.SCVI` with the condition as batch and decode the control cells as the target batch.

    Parameters
    ----------
    model_kwargs
        Arguments of :class:`scvi.model.SCVI`.
    train_kwargs
        Arguments of its `train`.

    Examples
    --------
    >>> import trvae_scvi as tv
    >>> adata = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, n_types=3).adata
    >>> keys = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    >>> holdout, real = tv.benchmark.hold_out(adata, **keys, group="type_1", target="stimulated")
    >>> method = tv.benchmark.SCVIMethod(train_kwargs={"max_epochs": 2})
    >>> method(holdout).shape == holdout.control.shape
    True
    """

    def __call__(self, holdout: HoldOut) -> AnnData:
        """Train and predict: the decoder's mean, expected counts at the cells' own totals.

        Raises
        ------
        ValueError
            If the hold-out has no counts.
        """
        if not holdout.counts:
            msg = "SCVI models counts, found values that are normalised already (`counts=False`)."
            raise ValueError(msg)
        training, control = private(holdout.training), private(holdout.control)
        with seeded(holdout.seed):
            scvi.model.SCVI.setup_anndata(training, batch_key=holdout.condition_key)
            model = self._trained(scvi.model.SCVI, training)
            shares = model.get_normalized_expression(control, transform_batch=holdout.target, return_numpy=True)
        return AnnData(X=shares * _totals(control), obs=holdout.control.obs.copy(), var=holdout.control.var.copy())


@dataclass(frozen=True)
class PertpyScGenMethod(_Network):
    """Train scGen as pertpy has it, on log-normalised data. Needs the extra ``benchmark``, with pertpy 1.2 or later.

    pertpy balances groups and conditions by draws that it does not seed: equal seeds give slightly different results.
    The change that it adds is that from all control cells to all target cells, the held-out group's control cells among
    the former, unlike in :class:`LatentShiftMethod`.

    Parameters
    ----------
    model_kwargs
        Arguments of `pertpy.tl.Scgen`.
    train_kwargs
        Arguments of its `train`.

    Examples
    --------
    >>> from trvae_scvi.benchmark import PertpyScGenMethod
    >>> PertpyScGenMethod(train_kwargs={"max_epochs": 100})
    PertpyScGenMethod(model_kwargs={}, train_kwargs={'max_epochs': 100})
    """

    def __call__(self, holdout: HoldOut) -> np.ndarray:
        """Train and predict; clipped at 0 where the hold-out has counts.

        Raises
        ------
        ImportError
            If pertpy, or what its scGen needs, cannot be imported, or it is of a version whose scGen is faulty.
        """
        try:
            import pertpy

            scgen = pertpy.tl.Scgen
        except ImportError as error:
            msg = (
                f"PertpyScGenMethod needs pertpy's scGen, which cannot be imported ({error}). "
                "Run `pip install '.[benchmark]' 'pertpy[scgen]'` in a clone of trvae-scvi."
            )
            raise ImportError(msg) from error
        found = version("pertpy")
        if Version(found) < _LEAST_PERTPY:
            msg = f"Expected pertpy {_LEAST_PERTPY} or later, as scGen of earlier ones is faulty, found {found}. "
            raise ImportError(
                msg + f"Install it with Python 3.12 or later: `pip install 'pertpy[scgen]>={_LEAST_PERTPY}'`."
            )
        training, control = private(holdout.training), private(holdout.control)
        for cells in (training, control):
            cells.X = comparison_matrix(cells, counts=holdout.counts)
        with seeded(holdout.seed):
            scgen.setup_anndata(training, batch_key=holdout.condition_key, labels_key=holdout.group_key)
            model = self._trained(scgen, training, {"seed": holdout.seed})  # there is no bar
            prediction, _ = model.predict(ctrl_key=holdout.source, stim_key=holdout.target, adata_to_predict=control)
        values = np.asarray(prediction.X)
        return np.maximum(values, 0) if holdout.counts else values


def private(cells: AnnData) -> AnnData:
    """Cells with their own annotation, which a set-up may write to, and shared values."""
    return AnnData(X=cells.X, obs=cells.obs.copy(), var=cells.var.copy())


def _totals(cells: AnnData) -> np.ndarray:
    """Total counts of every cell, `n x 1`."""
    return np.asarray(cells.X.sum(axis=1), dtype=np.float32).reshape(-1, 1)


@torch.inference_mode()
def _decode_means(model: TRVAE, cells: AnnData, latent: np.ndarray) -> np.ndarray:
    """Decode latent variables (`n x n_latent`) with the cells' totals and registered conditions to means, `n x d`."""
    conditions = list(model.adata_manager.get_state_registry("batch").categorical_mapping)
    codes = [conditions.index(name) for name in cells.obs[_HALF]]
    decoded = model.module.generative(
        z=torch.as_tensor(latent, dtype=torch.float32),
        library=torch.log(torch.as_tensor(_totals(cells))),
        batch_index=torch.tensor(codes)[:, None],
    )
    return decoded["px"].mean.cpu().numpy()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed scvi-tools, NumPy and torch inside the block, with warnings only; leave all global states as they were."""
    cudnn = torch.backends.cudnn
    with torch.random.fork_rng(), contextlib.ExitStack() as undo:
        for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
            # else several lines for every run, of which there can be hundreds
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        for name in ("XLA_FLAGS", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            if name in os.environ:
                undo.callback(os.environ.update, {name: os.environ[name]})
            else:
                undo.callback(os.environ.pop, name, None)
        for name in ("deterministic", "benchmark"):
            undo.callback(setattr, cudnn, name, getattr(cudnn, name))
        undo.callback(random.setstate, random.getstate())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(setattr, scvi.settings, "seed", scvi.settings.seed)  # undone first: it sets all of the above
        scvi.settings.seed = seed
        yield
