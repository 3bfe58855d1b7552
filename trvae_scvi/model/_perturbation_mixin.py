"""Answers to "what if": predicted cells, effects, combinations, and the layer that is regularised. A mixin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scvi.model.base import BaseModelClass

from trvae_scvi._arguments import check_number
from trvae_scvi.predict._combination import combined_targets
from trvae_scvi.predict._effect import Scale, model_error_of, perturbation_effect
from trvae_scvi.predict._prediction import predict_cells
from trvae_scvi.predict._predictor import Predictor
from trvae_scvi.predict._request import Request
from trvae_scvi.predict._store import check_out
from trvae_scvi.predict._targets import Targets

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    import torch
    from anndata import AnnData

    from trvae_scvi._math._intervals import ModelError

__all__ = ["PerturbationMixin"]


class PerturbationMixin(BaseModelClass):
    """Predictions of :class:`~trvae_scvi.TRVAE`."""

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        *,
        target: str | Sequence[str],
        source: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        method: Literal["counterfactual", "mean", "sample"] = "counterfactual",
        library_size: float | None = None,
        covariates: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = 0,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> AnnData:
        r"""What these cells would look like under another condition.

        Cells are encoded with the condition they were measured under (posterior mean) and decoded with
        the target (Lotfollahi et al. 2020). The three methods differ in what is made of the decoded
        distribution. Where the cells' label is registered and was not measured under the target, the mean of the label
        is drawn towards what labels share and labels like it do; see "Labels that were not measured" in the user guide.

        Parameters
        ----------
        adata
            Cells to start from, with the genes the model was trained on; a view will do. Neither it nor
            its data are changed. ``None`` takes the AnnData the model was made with. Of one whose values are on disk
            (opened with ``backed="r"``, or made with :func:`anndata.io.sparse_dataset`), a view of one included, no
            more than a minibatch is read at a time, after one pass in pieces that checks the values.
        target
            Condition to predict, a list of different conditions, or ``"all"`` that were measured. One that was not has
            to be described by `condition_features`: ``uns["trvae"]`` then also holds the `weights` of the measured
            `conditions` and the share of the prior variance that they have `explained`.
        source
            Use only the cells of this condition. ``None`` uses all, each with its own condition.
        indices
            Cells of `adata` to use: positions or a boolean mask.
        method
            One of the following:

            * ``"counterfactual"`` - change of every cell's own counts: what the model does not explain is kept, and
              counts are thinned or added by what the condition changes. For fixed means it is distributed as the
              decoded likelihood. With ``"mse"`` the difference of the decoded means is added. Not for ``"bernoulli"``.
            * ``"mean"`` - the decoder's mean, as published. It has none of the variance of real cells.
            * ``"sample"`` - a draw from the decoded likelihood. Not for ``gene_likelihood="mse"``.
        library_size
            Total counts (size factor, if one was registered) of the predicted cells. ``None`` keeps
            every cell's own.
        covariates
            Values of registered covariates to predict with, by column, e.g. ``{"donor": "a"}``. The others keep every
            cell's own; cells are always encoded with their own.
        batch_size
            Cells decoded at once. Defaults to ``scvi.settings.batch_size``.
        seed
            Seed of the draws; ``None`` for fresh ones. Another seed is another draw. Equal results need
            equal `batch_size`, too.
        dataloader
            Minibatches to predict from, instead of `adata`, `source`, `indices` and `batch_size`, as scvi-tools' data
            modules yield them: dictionaries of tensors by :data:`scvi.REGISTRY_KEYS` with the expression (dense or
            sparse), the codes of the conditions and all that was registered; labels may be left out. With several
            targets and `out` it is iterated over once for every target, so that an iterator will not do.
        out
            File to write the prediction to, ending in ``.h5ad`` or ``.zarr``, for predictions that do not fit into
            memory; no more than a few minibatches are held. It appears under this name when it is complete. Cells are
            encoded once for every target.

        Returns
        -------
        AnnData with one row for every cell and target, target by target. With `out`, its values stay on disk: it is
        backed by an h5ad file (:func:`anndata.read_h5ad`), or holds on-disk arrays of the zarr store;
        :meth:`~anndata.AnnData.to_memory` loads it, or the rows that were selected from it.

        ``X`` (and the registered layer)
            Integer counts as a sparse matrix for ``"counterfactual"`` and ``"sample"``, expected counts
            for ``"mean"``; the scale of the input for ``gene_likelihood="mse"``.
        ``obs``
            That of the cells, with the target in the condition column and the condition they were measured under in
            ``"<condition_key>_source"`` (with a number behind it where the cells have such a column of their own).
            Names end in ``-<target>``. Those of a `dataloader` are numbered and have condition, labels and covariates.
        ``uns["trvae"]``
            What decides the numbers: `method`, `library_size`, `covariates`, `seed`, `batch_size`, `device`, a
            fingerprint of the `model` and the `version` of the package; and what they are: their `scale`, `source` and
            `target` conditions, the `source_key`, and in `target_measured`, for every target, whether the cells' labels
            were measured under it in training (``"yes"``, ``"no"``, ``"some"`` of them, or ``"unknown"``), and in
            `n_drawn_to_other_labels` of how many cells what labels share decided, too.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If the column of the condition or of a covariate, the layer, or a key of a minibatch is not there.
        TypeError
            If an argument, or what `dataloader` yields, has the wrong type, or a column has no text as its name, which
            no file takes as `out`.
        ValueError
            For an unknown target, source or covariate, a target that is there twice, no cell of the source, other genes
            than in training, cells without counts, a method that the likelihood or minified data cannot serve,
            `dataloader` beside what it replaces, codes that were not registered, or another suffix of `out`.
        FileExistsError
            If there is a file of the name `out`, or an unfinished one; nothing is written over.
        FileNotFoundError
            If the folder of `out` is missing.

        Warns
        -----
        UserWarning
            If descriptions tell so little of a condition that was not measured that it is predicted to do what the
            measured ones do on average.

        Examples
        --------
        >>> prediction = model.predict_perturbation(adata, source="control", target="stimulated", method="mean")
        >>> prediction.obs.columns.tolist()
        ['condition', 'condition_source', 'cell_type']
        >>> prediction.uns["trvae"]["scale"]
        'expected counts'

        Atlases stay on disk:

        >>> atlas = anndata.read_h5ad("atlas.h5ad", backed="r")  # doctest: +SKIP
        >>> prediction = model.predict_perturbation(
        ...     atlas, target="all", out="prediction.h5ad", batch_size=1024
        ... )  # doctest: +SKIP
        """
        path = None if out is None else check_out(out)
        asked = Targets.of(self, target)
        predictor = asked.predictor
        cells = predictor.cells(adata, indices=indices, source=source, batch_size=batch_size, dataloader=dataloader)
        request = Request(method, library_size, covariates, seed)
        return predict_cells(predictor, cells, asked.codes, request, streams=asked.streams, out=path, notes=asked.notes)

    def get_perturbation_effect(
        self,
        adata: AnnData | None = None,
        *,
        target: str | Sequence[str],
        source: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        groupby: str | None = None,
        level: float = 0.9,
        model_error: ModelError | tuple[float, float] | None = None,
        normalize_to: float | str | None = None,
        pseudocount: float = 1.0,
        covariates: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = 0,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
    ) -> pd.DataFrame:
        r"""Predicted change of every gene, by counterfactual prediction.

        The interval is a prediction interval for the change that a real sample of as many cells as were
        predicted from would show:

        .. math:: \bar p - \bar c \pm q \sqrt{2 s_p^2 / n + \phi^2 (a^2 + b^2 (\bar p - \bar c)^2 + c^2 s_p^2)}

        with the means of predicted and given cells, the variance of the predicted ones, and the model's error. By
        default that is :math:`a = 0.006`, :math:`b = 0.37`, :math:`c = 0`, :math:`\phi = 1` and a normal quantile `q`,
        found on three types and 2,000 genes of one data set. On your data, and gene by gene,
        :func:`~trvae_scvi.benchmark.calibrate_intervals` finds them from the groups whose response was measured.

        Of a condition that was not measured the variance that its description leaves open is added under the root, and
        the change is that of the condition alone: :meth:`predict_perturbation` also takes back what the means of the
        measured control cells are expected to be off by, as far as all other conditions tell.

        Parameters
        ----------
        adata, target, source, indices, covariates, batch_size, seed, dataloader
            As in :meth:`predict_perturbation`. With `covariates` the change is that of condition and covariates
            together: predicted cells have these values, the given ones that they are compared with keep their own.
        groupby
            Column of `obs` whose groups are reported apart. Defaults to the registered labels, and to one
            group ``"all"`` without any.
        level
            Probability of the interval.
        model_error
            What :func:`~trvae_scvi.benchmark.calibrate_intervals` returned, or `(floor, share)` of a
            :class:`~trvae_scvi.benchmark.ModelError`, on the scale of `change`. ``None`` takes the default for counts
            and ``(0, 0)``, which leaves the sampling of cells, with ``gene_likelihood="mse"``, whose scale is unknown.
        normalize_to
            Scale of the counts. A number: counts per that many of the registered genes, ``None`` 10,000. A column of
            `obs` with the total of every cell over *all* genes: counts per 10,000 of these, as in tables of data that
            were normalised before genes were selected; predicted cells keep the totals of the given ones.
            `model_error` applies as it is.
        pseudocount
            Added to both means of normalised counts before their ratio is taken.

        Returns
        -------
        One row for every gene, target and group, with the columns

        ``variable``, ``target``, ``group``
            Gene, condition and group of cells.
        ``log_fc``
            log2 ratio of mean counts per 10,000 of the registered genes, or as `normalize_to` has it, each plus
            `pseudocount`; NaN with ``gene_likelihood="mse"``.
        ``change``
            Difference of means of log1p of these counts; of means of the input scale with ``"mse"``. With a part of the
            genes registered, a gene has a larger share of these counts than of all of a cell's.
        ``change_lower``, ``change_upper``, ``level``
            The interval and its probability. NaN for groups of one cell.
        ``scale``
            In words, what the means in ``change`` are of.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If the column of groups, totals, the condition or of a covariate, or the layer is not there, or
            `model_error` is of other genes.
        TypeError
            If an argument has the wrong type.
        ValueError
            If a column is incomplete, `level` is not between 0 and 1, `pseudocount` or `normalize_to` is not positive,
            totals are below the sum of the registered genes, values are no counts but to be normalised, `model_error`
            is neither a ModelError nor two numbers from 0, ``gene_likelihood="bernoulli"``, or for what
            :meth:`predict_perturbation` refuses.

        Warns
        -----
        UserWarning
            If some of the cells were measured under a target: they count as unchanged in their group's mean. As
            :meth:`predict_perturbation` does.

        Examples
        --------
        >>> effect = model.get_perturbation_effect(control, target="stimulated", groupby="cell_type")
        >>> effect.columns.tolist()
        ['variable', 'target', 'group', 'log_fc', 'change', 'change_lower', 'change_upper', 'level', 'scale']
        >>> len(effect) == control.n_vars * control.obs["cell_type"].nunique()
        True
        """
        check_number("level", level, positive=True, below=1.0)
        check_number("pseudocount", pseudocount, positive=True)
        targets = Targets.of(self, target, as_change=True)
        predictor = targets.predictor
        if "counterfactual" in predictor.module.likelihood.refused:
            msg = "gene_likelihood='bernoulli' has no effects: compare means of `predict_perturbation(method='mean')`."
            raise ValueError(msg)
        counts = predictor.module.likelihood.models_counts
        error, scale = model_error_of(model_error, counts=counts), Scale.of(normalize_to, counts=counts)
        cells = predictor.cells(adata, indices=indices, source=source, batch_size=batch_size, dataloader=dataloader)
        return perturbation_effect(
            targets,
            cells,
            Request(covariates=covariates, seed=seed),
            groupby=groupby,
            level=level,
            error=error,
            scale=scale,
            pseudocount=pseudocount,
        )

    def predict_combination(
        self,
        adata: AnnData | None = None,
        *,
        target: str | Sequence[str],
        control: str | None = None,
        separator: str = "+",
        source: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        method: Literal["counterfactual", "mean", "sample"] = "counterfactual",
        library_size: float | None = None,
        covariates: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = 0,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> AnnData:
        r"""What these cells would look like under a combination that was not measured.

        Every condition is taken as the set of factors its name lists: ``"KLF1+MAP2K6"``, or ``"drug A+10 nM"`` for
        columns that were joined. A condition's parameters :math:`e_s` are taken as the sum of one term for each of its
        factors and one that all conditions share; those of the combination are the sum that fits the measured
        conditions best, a weighted sum :math:`\sum_s w_s e_s` of theirs. With A, B and the control alone that is
        :math:`e_A + e_B - e_\mathrm{control}`. It acts on the scale on which conditions enter the decoder, for counts
        the logarithm of the expected counts: an effect beyond that, synergy or antagonism, is not predicted.

        Where three combinations or more were measured, and `condition_features` are sums of a part for every factor, as
        those of :func:`~trvae_scvi.features.combination_features` are, and explain half of what conditions differ by,
        the combination is predicted from the sum of its parts' descriptions instead: measured combinations then tell
        how far effects add up.

        Parameters
        ----------
        target
            Combination of factors, or a list of different ones.
        control
            The condition without any factor; in the names of others (``"KLF1+ctrl"``) it counts for nothing. Needed
            where factors are absent or present (perturbations), not where each takes one of several values (drug and
            dose).
        separator
            What stands between the factors in the names of conditions.
        adata, source, indices, method, library_size, covariates, batch_size, seed, dataloader, out
            As in :meth:`predict_perturbation`.

        Returns
        -------
        As from :meth:`predict_perturbation`. ``uns["trvae"]`` also holds `weights`, targets by `conditions`, and by
        descriptions the share of the prior variance `explained`.

        Raises
        ------
        RuntimeError, KeyError, TypeError
            As :meth:`predict_perturbation`.
        ValueError
            If the measured conditions do not tell the factors of a combination apart, it was measured itself, or a
            factor is listed twice, and for what :meth:`predict_perturbation` refuses.

        Warns
        -----
        UserWarning
            If descriptions are used and tell little of what the combination does.

        Examples
        --------
        >>> cells = tv.datasets.simulate_perturbation(n_cells=600, n_genes=50, targets=("A", "B")).adata
        >>> tv.TRVAE.setup_anndata(cells)
        >>> model = tv.TRVAE(cells)
        >>> model.train(max_epochs=1)
        >>> both = model.predict_combination(target="A+B", control="control", source="control")
        >>> both.uns["trvae"]["conditions"].tolist(), both.uns["trvae"]["weights"].round(2).tolist()
        (['A', 'B', 'control'], [[1.0, 1.0, -1.0]])
        """
        path = None if out is None else check_out(out)
        asked = combined_targets(self, target, control=control, separator=separator)
        predictor = asked.predictor
        cells = predictor.cells(adata, indices=indices, source=source, batch_size=batch_size, dataloader=dataloader)
        request = Request(method, library_size, covariates, seed)
        return predict_cells(predictor, cells, asked.codes, request, streams=asked.streams, out=path, notes=asked.notes)

    def get_mmd_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
    ) -> np.ndarray:
        """Activations `y` of the decoder's first layer, where trVAE's penalty acts.

        Each cell is decoded with its own condition at its posterior mean.

        Parameters
        ----------
        adata, indices, batch_size, dataloader
            As in :meth:`predict_perturbation`.

        Returns
        -------
        Array of shape ``(n_obs, n)``, `n` the width of the decoder's first layer, the last of `n_hidden`.

        Raises
        ------
        RuntimeError, KeyError, TypeError, ValueError
            As :meth:`predict_perturbation`.

        Examples
        --------
        >>> model.get_mmd_representation(control).shape
        (300, 128)
        """
        predictor = Predictor.of(self)
        cells = predictor.cells(adata, indices=indices, batch_size=batch_size, dataloader=dataloader)
        return predictor.first_layer(cells)
