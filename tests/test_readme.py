"""The README's code runs as it is written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import pandas as pd
import pytest
import scanpy as sc

import trvae_scvi as tv

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def cells():
    adata = tv.datasets.simulate_perturbation(n_cells=500, n_genes=2050, n_types=3, seed=0).adata
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_1": "NK"})
    adata.obs["n_counts"] = adata.obs["n_genes"] = "the user's own"
    return adata[~((adata.obs["cell_type"] == "NK") & (adata.obs["condition"] == "stimulated"))].copy()


def test_from_data_to_a_prediction_and_a_query(cells, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    query = cells[(cells.obs["cell_type"] == "type_2").to_numpy()].copy()
    query.layers["counts"] = query.X.copy()
    # a condition that the model does not know
    query.obs["condition"] = query.obs["condition"].cat.rename_categories({"stimulated": "another drug"})
    files = {"my_cells.h5ad": cells, "new_donor.h5ad": query}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sc, "read_h5ad", lambda name: files[name].copy())
    monkeypatch.setattr("trvae_scvi.train._training.default_epochs", lambda n_cells: 2)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert set(names["effect"]["group"]) == {"NK"}
    assert names["predicted"].n_obs == (query.obs["condition"] == "control").sum()
    assert names["adata"].obsm["X_trvae"].shape[0] == names["adata"].n_obs
    # columns of the user's stay
    pd.testing.assert_frame_equal(names["adata"].obs[["n_counts", "n_genes"]], cells.obs[["n_counts", "n_genes"]])


def test_links_hold_on_a_package_index():
    """There the page has no folder around it: links are absolute, and what they name is in the repository."""
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    assert not [link for link in links if not link.startswith("https://")]
    homes = {
        "https://raw.githubusercontent.com/trvae-scvi/trvae-scvi/main/": "",
        "https://github.com/trvae-scvi/trvae-scvi/blob/main/": "",
        "https://trvae-scvi.readthedocs.io/en/latest/": "docs/",
    }
    for home, folder in homes.items():
        named = [link.removeprefix(home).split("#")[0] for link in links if link.startswith(home)]
        assert named
        for name in named:
            assert (README.parent / folder / name.replace(".html", ".md")).exists(), name
