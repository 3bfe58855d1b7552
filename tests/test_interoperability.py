"""Our cells in other tools: pertpy, cell-eval, scib-metrics, scanpy and MuData."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from helpers import assert_same_cells, make_trained
from scipy.spatial.distance import pdist

import trvae_scvi as tv

# what other packages warn about is theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TARGETS = ["A", "B"]


@pytest.fixture(scope="module")
def cells():
    """Real cells of two perturbations and the control; tests must not change them."""
    return tv.datasets.simulate_perturbation(600, 60, n_types=2, targets=TARGETS, seed=1).adata


@pytest.fixture(scope="module")
def model(cells):
    return make_trained(cells, {"labels_key": "cell_type"}, {"max_epochs": 15})


@pytest.fixture(scope="module")
def kinds(cells, model):
    """Counts of real cells, of the same perturbations predicted and as if nothing had changed, and the control."""
    control = cells[cells.obs["condition"] == "control"].copy()
    unchanged = {}
    for target in TARGETS:
        unchanged[target] = control.copy()
        unchanged[target].obs["condition"] = target
    return {
        "real": cells[cells.obs["condition"] != "control"].copy(),
        "predicted": model.predict_perturbation(control, target=TARGETS),
        "no change": ad.concat(unchanged, index_unique="-"),
        "control": control,
    }


def log_normalized(parts, **concat):
    """One object of several, which stay as they are, as log1p(counts per 10,000)."""
    joined = ad.concat(parts, index_unique="_", **concat)
    sc.pp.normalize_total(joined, target_sum=1e4)
    sc.pp.log1p(joined)
    return joined


def test_pertpy_measures_the_energy_distance_that_we_do(kinds):
    pertpy = pytest.importorskip("pertpy")
    joined = log_normalized({kind: kinds[kind] for kind in ("real", "predicted", "control")}, label="kind")
    joined.obsm["expression"] = joined.X.toarray()
    distance = pertpy.tools.Distance("edistance", obsm_key="expression")
    table = distance.pairwise(joined, groupby="kind", show_progressbar=False, n_jobs=1)
    assert set(table.index) == {"real", "predicted", "control"}
    x, y = (joined.obsm["expression"][(joined.obs["kind"] == kind).to_numpy()] for kind in ("real", "predicted"))
    ours = tv.metrics.energy_distance(x, y, max_cells=None)
    # pertpy compares every cell with itself, too
    itself = pdist(x).mean() / len(x) + pdist(y).mean() / len(y)
    assert itself > 0.1 * ours
    assert table.loc["real", "predicted"] == pytest.approx(ours + itself, rel=1e-4)
    assert table.loc["real", "predicted"] < table.loc["real", "control"]


def test_cell_eval_scores_predicted_cells(kinds, tmp_path):
    cell_eval = pytest.importorskip("cell_eval")
    scores = {}
    for name in ("real", "predicted", "no change"):
        evaluator = cell_eval.MetricsEvaluator(
            adata_pred=log_normalized([kinds[name], kinds["control"]]),
            adata_real=log_normalized([kinds["real"], kinds["control"]]),
            control_pert="control",
            pert_col="condition",
            num_threads=1,
            outdir=str(tmp_path / name),
        )
        results, _ = evaluator.compute(profile="minimal")
        scores[name] = results.to_pandas().set_index("perturbation")
        assert (tmp_path / name / "results.csv").exists()
        assert (tmp_path / name / "pred_de.csv").exists()
        assert sorted(scores[name].index) == TARGETS
    perfect, ours, nothing = scores.values()
    assert (perfect[["pearson_delta", "discrimination_score_l1", "overlap_at_N"]].to_numpy() > 0.999).all()
    assert (perfect["mse"] == 0).all()
    assert (ours["mse"] > 0).all() and (ours["mse"] < nothing["mse"]).all()
    assert (ours["pearson_delta"] > 0).all() and (ours["pearson_delta"] < 1).all()
    # the scale on which cell-eval compares them is that of our own metrics
    for target in TARGETS:
        real, predicted = (kinds[kind][(kinds[kind].obs["condition"] == target).to_numpy()] for kind in list(kinds)[:2])
        cells = [tv.metrics.comparison_matrix(adata) for adata in (predicted, real, kinds["control"])]
        assert ours.loc[target, "mse"] == pytest.approx(tv.metrics.mse_means(*cells[:2]), rel=1e-3)
        # it has the same control cells on both sides
        same = tv.metrics.pearson_change(*cells, cells[2])
        assert ours.loc[target, "pearson_delta"] == pytest.approx(same, rel=1e-3)


def test_scib_metrics_score_the_latent_space(cells, model):
    benchmark = pytest.importorskip("scib_metrics.benchmark")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    def exact(x, k):
        distances, indices = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
        return NeighborsResults(indices=indices, distances=distances)

    joined = log_normalized([cells])
    joined.obsm["X_trvae"] = model.get_latent_representation(cells)
    sc.pp.pca(joined, n_comps=5)
    only_bio = dict.fromkeys(benchmark.BioConservation.__dataclass_fields__, False) | {"silhouette_label": True}
    only_batch = dict.fromkeys(benchmark.BatchCorrection.__dataclass_fields__, False) | {"graph_connectivity": True}
    benchmarker = benchmark.Benchmarker(
        joined,
        batch_key="condition",
        label_key="cell_type",
        embedding_obsm_keys=["X_pca", "X_trvae"],
        pre_integrated_embedding_obsm_key="X_pca",
        bio_conservation_metrics=benchmark.BioConservation(**only_bio),
        batch_correction_metrics=benchmark.BatchCorrection(**only_batch),
        progress_bar=False,
    )
    benchmarker.prepare(neighbor_computer=exact)
    benchmarker.benchmark()
    table = benchmarker.get_results().loc[["X_pca", "X_trvae"], ["Silhouette label", "Graph connectivity", "Total"]]
    values = table.to_numpy(dtype=float)
    assert ((values > 0) & (values <= 1)).all()
    # types lie apart in the latent space: a silhouette of 0.5 is none on this scale
    assert table.loc["X_trvae", "Silhouette label"] > 0.5
    assert not np.allclose(values[0], values[1])


def test_scanpy_on_predicted_cells(kinds, model, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("a plot was shown"))
    parts = {kind: kinds[kind] for kind in ("predicted", "control")}
    parts["predicted"] = parts["predicted"][(parts["predicted"].obs["condition"] == "A").to_numpy()]
    counts = ad.concat(parts, label="kind", index_unique="_")
    joined = log_normalized(parts, label="kind")
    joined.obsm["X_trvae"] = model.get_latent_representation(counts)
    assert joined.obsm["X_trvae"].shape == (joined.n_obs, 5)

    sc.pp.neighbors(joined, use_rep="X_trvae", n_neighbors=10)
    sc.tl.umap(joined, maxiter=20)
    assert np.isfinite(joined.obsm["X_umap"]).all()
    axes = sc.pl.umap(joined, color=["kind", "cell_type"], show=False)
    assert [axis.get_title() for axis in axes] == ["kind", "cell_type"]

    sc.tl.rank_genes_groups(joined, "kind", groups=["predicted"], reference="control")
    ranked = sc.get.rank_genes_groups_df(joined, "predicted").set_index("names")
    effect = model.get_perturbation_effect(kinds["control"], target="A", groupby="condition").set_index("variable")
    means = joined.to_df().groupby(joined.obs["kind"], observed=True).mean()
    change = means.loc["predicted"] - means.loc["control"]
    np.testing.assert_allclose(effect["change"].reindex(change.index), change, atol=1e-4)
    assert (np.sign(ranked["logfoldchanges"]) == np.sign(change.reindex(ranked.index))).all()
    sc.pl.rank_genes_groups_heatmap(joined, n_genes=3, show=False)
    plt.close("all")


def test_a_modality_of_mudata(cells, tmp_path):
    mudata = pytest.importorskip("mudata")
    other = ad.AnnData(np.random.default_rng(0).random((500, 4), np.float32), obs=cells.obs[["cell_type"]].iloc[:500])
    other.var_names = [f"protein_{i}" for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData({"rna": cells.copy(), "protein": other})
        rna = mdata["rna"]
        tv.TRVAE.setup_anndata(rna, labels_key="cell_type")
        model = tv.TRVAE(rna, n_hidden=16, n_latent=4)
        model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
        before = rna.copy()
        # of the modality, of a part of it, and of a part of the MuData
        whole = model.predict_perturbation(mdata["rna"], source="control", target="A")
        control = rna.obs_names[(rna.obs["condition"] == "control").to_numpy()]
        assert_same_cells(model.predict_perturbation(rna[control], target="A"), whole)
        part = mdata[control]
        assert part.is_view and part["rna"].is_view
        assert_same_cells(model.predict_perturbation(part["rna"], target="A"), whole)
        assert_same_cells(rna, before)
        assert_same_cells(mdata["protein"], other)
        # cells of a view are registered after a copy, as for any AnnData
        with pytest.raises(ValueError, match="is a view"):
            tv.TRVAE.setup_anndata(part["rna"], labels_key="cell_type")

        rna.obsm["X_trvae"] = model.get_latent_representation()
        mdata.mod["predicted"] = whole
        mdata.update()
        assert mdata.n_obs == cells.n_obs + whole.n_obs
        mdata.write(tmp_path / "cells.h5mu")
        back = mudata.read_h5mu(tmp_path / "cells.h5mu")
    for name in ("rna", "protein", "predicted"):
        assert_same_cells(back[name], mdata[name])
    # what was read is enough to go on
    assert_same_cells(model.predict_perturbation(back["rna"], source="control", target="A"), whole)
