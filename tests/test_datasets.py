from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi.datasets import _public


def test_shape_of_the_simulation():
    adata, truth = tv.datasets.simulate_perturbation(501, 50, n_types=4, targets=["a", "b"], seed=3)
    assert adata.shape == (501, 50)
    assert adata.obs["condition"].value_counts().to_dict() == {"control": 167, "a": 167, "b": 167}
    assert set(adata.obs["cell_type"]) == {f"type_{i}" for i in range(1, 5)}
    assert adata.obs_names.is_unique
    assert sparse.issparse(adata.X)
    assert (adata.X.data % 1 == 0).all()
    control = adata[adata.obs["condition"] == "control"]
    assert truth.n_obs == 2 * control.n_obs
    for target in ("a", "b"):
        of_target = truth[truth.obs["condition"] == target]
        assert list(of_target.obs_names) == [f"{name}-{target}" for name in control.obs_names]
        np.testing.assert_array_equal(of_target.obs["cell_type"], control.obs["cell_type"])


def test_simulation_follows_its_seed():
    first, second = (tv.datasets.simulate_perturbation(400, 50, n_types=3, seed=4) for _ in range(2))
    assert (first.adata.X != second.adata.X).nnz == 0
    assert (first.truth.X != second.truth.X).nnz == 0
    other = tv.datasets.simulate_perturbation(400, 50, n_types=3, seed=5)
    assert (first.adata.X != other.adata.X).nnz > 0


@pytest.fixture(scope="module")
def large():
    return tv.datasets.simulate_perturbation(8000, 60, n_types=3, seed=2)


def of_type(adata, condition, name):
    return adata[((adata.obs["condition"] == condition) & (adata.obs["cell_type"] == name)).to_numpy()]


def test_truth_has_the_law_of_the_stimulated_cells(large):
    """Coupled draw, counterfactual mean and stimulated cells agree in the mean, the draws in the variance, too."""
    adata, truth = large
    for name in ("type_1", "type_2", "type_3"):
        real = of_type(adata, "stimulated", name).X.toarray()
        counterfactual = of_type(truth, "stimulated", name)
        drawn, mean = counterfactual.X.toarray(), counterfactual.layers["mean"]
        error = np.sqrt(real.var(0) / len(real) + drawn.var(0) / len(drawn))
        assert (np.abs(real.mean(0) - drawn.mean(0)) < 5 * error + 1e-3).all()
        assert (np.abs(mean.mean(0) - drawn.mean(0)) < 5 * error + 1e-3).all()
        expressed = real.mean(0) > 1
        ratio = drawn.var(0)[expressed] / real.var(0)[expressed]
        assert np.exp(np.abs(np.log(np.median(ratio)))) < 1.15


def test_the_draw_is_coupled_to_the_cell(large):
    adata, truth = large
    given = of_type(adata, "control", "type_1").X.toarray()
    drawn = of_type(truth, "stimulated", "type_1").X.toarray()
    correlations = [np.corrcoef(given[:, g], drawn[:, g])[0, 1] for g in np.flatnonzero(given.mean(0) > 2)]
    shuffled = drawn[np.random.default_rng(0).permutation(len(drawn))]
    chance = [np.corrcoef(given[:, g], shuffled[:, g])[0, 1] for g in np.flatnonzero(given.mean(0) > 2)]
    assert np.median(correlations) > 0.5 > np.median(chance) + 0.3


def responses(simulation):
    adata, truth = simulation
    rows = []
    for name in sorted(adata.obs["cell_type"].unique()):
        control = np.asarray(of_type(adata, "control", name).X.mean(axis=0)).ravel()
        rows.append(np.log(of_type(truth, "stimulated", name).layers["mean"].mean(0) / np.maximum(control, 1e-2)))
    return np.array(rows)


def test_responses_are_neither_equal_nor_unrelated_unless_asked():
    # four types: as many as rows of effects that all types share
    shared = responses(tv.datasets.simulate_perturbation(4000, 300, n_types=4))
    specific = responses(tv.datasets.simulate_perturbation(4000, 300, n_types=4, type_specific=True))
    above = np.triu_indices(4, 1)
    assert 0.4 < np.corrcoef(shared)[above].mean() < 0.97
    assert np.corrcoef(specific)[above].mean() < 0.3


def test_composition_differs_between_conditions(large):
    shares = large.adata.obs.groupby("condition", observed=True)["cell_type"].value_counts(normalize=True).unstack()
    assert (shares.loc["control"] - shares.loc["stimulated"]).abs().max() > 0.02


@pytest.mark.parametrize("arguments", [{"n_types": 1}, {"n_genes": 5}, {"n_cells": 50}, {"targets": []}])
def test_simulation_refuses(arguments):
    with pytest.raises(ValueError, match="Expected at least 2 types"):
        tv.datasets.simulate_perturbation(**arguments)


@pytest.mark.parametrize(
    ("targets", "error", "match"),
    [
        ("drug", TypeError, r"found the text 'drug'. Write \['drug'\]"),
        (["a", "a"], ValueError, r"different `targets`, none of them 'control', found \['a', 'a'\]"),
        (["a", "control"], ValueError, r"found \['a', 'control'\]"),
    ],
)
def test_simulation_refuses_targets(targets, error, match):
    with pytest.raises(error, match=match):
        tv.datasets.simulate_perturbation(targets=targets)


def published(shape, columns):
    obs = pd.DataFrame({name: np.resize(values, shape[0]) for name, values in columns.items()})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(sparse.csr_matrix(shape, dtype=np.float32), obs=obs)


LOADERS = {
    "kang_2018": (
        (24_673, 15_706),
        {"label": ["ctrl", "stim"], "cell_type": ["NK"], "replicate": ["p1"], "tsne1": [0]},
    ),
    "haber_2017": (
        (9_842, 15_215),
        {
            "condition": ["Control", "Hpoly.Day3", "Hpoly.Day10", "Salmonella"],
            "cell_label": ["Tuft"],
            "batch": ["b"],
        },
    ),
}


@pytest.mark.parametrize("name", list(LOADERS))
def test_public_data_are_checked_and_renamed(name, monkeypatch, tmp_path):
    """The download is replaced by a file of the published layout."""
    shape, columns = LOADERS[name]
    path = tmp_path / "file.h5ad"
    asked = []
    monkeypatch.setattr(_public.pooch, "retrieve", lambda url, **_: asked.append(url) or str(path))
    published(shape, columns).write_h5ad(path)
    adata = getattr(tv.datasets, name)()
    assert adata.shape == shape
    assert {"condition", "cell_type"} <= set(adata.obs)
    if name == "kang_2018":
        assert set(adata.obs["condition"]) == {"control", "stimulated"}
        assert set(adata.obs) == {"condition", "cell_type", "patient"}
    assert asked[0].startswith("https://exampledata.scverse.org/pertpy/")
    published((10, 3), columns).write_h5ad(path)
    with pytest.raises(ValueError, match="Expected .* cells"):
        getattr(tv.datasets, name)()
    published(shape, {**columns, next(iter(columns)): ["other"]}).write_h5ad(path)
    with pytest.raises(ValueError, match="found .*other"):
        getattr(tv.datasets, name)()


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_download_that_fails_says_what_to_do(name, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(_public.pooch, "retrieve", refuse)
    with pytest.raises(OSError, match=r"download https://.* into .*no route.*put the file there by hand"):
        getattr(tv.datasets, name)()


# ---- conditions that are described


@pytest.mark.parametrize("design", ["features", "doses", "pairs"])
def test_described_conditions_and_their_truth(design):
    adata, features, truth = tv.datasets.simulate_conditions(1500, 60, n_conditions=20, design=design, seed=3)
    measured, apart = (set(cells.obs["condition"].unique()) for cells in (adata, truth))
    assert "control" in measured
    assert not measured & apart
    assert set(features.index) == measured | apart
    assert len(features) == 21
    assert not features.loc["control"].any()
    n_control = (adata.obs["condition"] == "control").sum()
    assert truth.n_obs == len(apart) * n_control
    again = tv.datasets.simulate_conditions(1500, 60, n_conditions=20, design=design, seed=3)
    assert (again.adata.X != adata.X).nnz == 0


def effects_of(simulated):
    """Logarithms of the counterfactual fold changes of all unmeasured conditions, `t x g`."""
    truth, names = simulated.truth, list(simulated.truth.obs["condition"].cat.categories)
    means = np.array([truth[(truth.obs["condition"] == name).to_numpy()].layers["mean"].mean(axis=0) for name in names])
    return names, np.log(means)


@pytest.mark.parametrize("explained", [0.0, 0.5, 1.0])
def test_descriptions_explain_what_is_said(explained):
    simulated = tv.datasets.simulate_conditions(5000, 200, n_conditions=400, explained=explained, seed=1)
    names, effects = effects_of(simulated)
    table = simulated.features.loc[names].to_numpy()
    responds = effects.std(axis=0) > 0.01
    assert 0.1 < responds.mean() < 0.3
    centred, design = (values - values.mean(axis=0) for values in (effects[:, responds], table))
    left = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    # six columns of 100 explain 6 % by chance
    assert 1 - (left**2).sum() / (centred**2).sum() == pytest.approx(explained + 0.06 * (1 - explained), abs=0.04)


def test_doses_of_a_drug_have_one_direction():
    simulated = tv.datasets.simulate_conditions(1500, 60, n_conditions=20, design="doses")
    names, _ = effects_of(simulated)
    assert names == ["drug_1 10 nM", "drug_3 10 nM"]
    assert simulated.features.columns.tolist() == [f"drug_{i}" for i in range(1, 5)]
    of_first = simulated.features["drug_1"]
    assert (of_first[of_first > 0].diff().dropna() > 0).all()


@pytest.mark.parametrize(
    "change", [{"n_conditions": 5}, {"explained": 1.5}, {"n_cells": 100}, {"design": "nothing"}, {"n_types": 0}]
)
def test_described_conditions_that_cannot_be(change):
    with pytest.raises(ValueError, match=r"Expected|expected"):
        tv.datasets.simulate_conditions(**{"n_cells": 900, "n_genes": 50, "n_conditions": 12, **change})
