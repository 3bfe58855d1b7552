"""How far the network is believed in what sets a label apart that was not measured: not at all, half, or in all of it.

    python benchmarks/levels.py

takes hold-outs of the choice data (trains models that `contexts.py` has not left behind), finds the levels of the
hidden label for each share, and compares predicted with real means: three types of Kang et al., also on 1,500 cells,
CroCoNet, a replicate of Papalexi et al., every sixth hold-out of Bodenmiller et al., and simulations. Writes
`benchmarks/results/levels.{csv,md}`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
from contexts import RESULTS, RUNS
from data_sets import DATA_SETS
from kang import markdown
from saved import SavedTRVAE

import trvae_scvi as tv
from trvae_scvi import benchmark
from trvae_scvi.benchmark._pairs import some_pairs
from trvae_scvi.metrics import comparison_matrix, mse_means
from trvae_scvi.predict import _find_levels

SHARES = {"labels alone": 0.0, "half": 0.5, "network alone": 1.0}
CHOICE_TYPES = ("CD4T", "CD8T", "Dendritic")
EVERY_SIXTH = 6  # of Bodenmiller et al.


def cases() -> Iterator[tuple[str, anndata.AnnData, str, str]]:
    """Name, cells, and which group is hidden under which target."""
    kang = DATA_SETS["kang"].read()
    few = np.sort(np.random.default_rng(0).choice(kang.n_obs, 1500, replace=False))
    for name, adata in (("kang", kang), ("kang_1500", kang[few].copy())):
        yield from ((name, adata, group, "stimulated") for group in CHOICE_TYPES)
    for name in ("croconet", "papalexi", "bodenmiller"):
        data = DATA_SETS[name]
        adata = data.read()
        pairs = some_pairs(adata, groups=data.groups, targets=data.targets, **data.keys).pairs
        if name == "papalexi":
            pairs = [pair for pair in pairs if pair[0] == "rep_1"]
        yield from ((name, adata, *pair) for pair in (pairs[::EVERY_SIXTH] if name == "bodenmiller" else pairs))
    for n_cells, n_genes in ((2000, 200), (3000, 300)):
        for seed in range(10, 14):
            adata = tv.datasets.simulate_perturbation(n_cells=n_cells, n_genes=n_genes, seed=seed).adata
            yield f"simulation_{n_cells}_{seed}", adata, adata.obs["cell_type"].iloc[0], "stimulated"


def errors(name: str, adata: anndata.AnnData, group: str, target: str) -> list[dict]:
    """Squared errors of the hidden cells' means, for each share and for the shrunk shift."""
    data = DATA_SETS.get(name.removesuffix("_1500"))
    keys = data.keys if data else {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
    counts = data.counts if data else True
    holdout, truth = benchmark.hold_out(adata, group=group, target=target, counts=counts, **keys)
    settings = {} if counts else {"gene_likelihood": "mse"}
    method = SavedTRVAE(settings, folder=str(RUNS / name / "models"))
    model = method.fit(holdout)
    predictions = {"shrunk shift": benchmark.BASELINES["shrunk shift"](holdout)}
    for share, value in SHARES.items():
        with patch.object(_find_levels, "_OF_NETWORK", value):
            model.levels_ = _find_levels.find_levels(model, progress_bar=False)
        predictions[share] = method.predict(model, holdout)
    real = comparison_matrix(truth.real, counts=counts)
    case = {"data": name.rsplit("_", 1)[0] if data is None else name, "case": name, "group": group, "target": target}
    found = []
    for key, cells in predictions.items():
        values = cells if isinstance(cells, np.ndarray) else comparison_matrix(cells, counts=counts)
        found.append({**case, "method": key, "mse_means": mse_means(values, real)})
    return found


def main() -> None:
    """Measure all cases and write the tables."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    table = pd.DataFrame([row for case in cases() for row in errors(*case)])
    table.to_csv(RESULTS / "levels.csv", index=False, float_format="%.4g")
    wide = table.pivot_table(
        index=["data", "case", "group", "target"], columns="method", values="mse_means", sort=False
    )
    relative = np.log(wide[list(SHARES)].div(wide["shrunk shift"], axis=0)).groupby("data", sort=False)
    shown = np.exp(relative.mean())
    shown.insert(0, "hold-outs", relative.size())
    (RESULTS / "levels.md").write_text(f"{markdown(shown)}\n")
    print(shown.round(2).to_string(), flush=True)


if __name__ == "__main__":
    main()
