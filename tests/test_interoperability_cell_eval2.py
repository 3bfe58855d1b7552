"""Our metrics against those of cell-eval2 and cell-eval that have the same definition, on the same input."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers import make_trained
from scipy import sparse

import trvae_scvi as tv
from trvae_scvi.metrics import _de_tables
from trvae_scvi.metrics._coexpression import correlation_agreement

# what other packages warn about is theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

cell_eval2 = pytest.importorskip("cell_eval2")
import polars as pl  # noqa: E402
from cell_eval2.de_compute import compute_de  # noqa: E402
from cell_eval2.metrics import cells as of_cells  # noqa: E402
from cell_eval2.metrics import de as of_de  # noqa: E402
from cell_eval2.metrics import delta as of_delta  # noqa: E402
from cell_eval2.metrics import direction as of_direction  # noqa: E402
from cell_eval2.metrics.discrimination import discrimination_score  # noqa: E402
from cell_eval2.moments import GroupMoments  # noqa: E402

GENES = np.array([f"g{i:02}" for i in range(40)])
TARGETS = ["A", "B", "C"]
TABLES = {
    "de_wilcoxon_lfc_nmae": _de_tables.nmae_of_tables,
    "de_wilcoxon_direction_fidelity_yield_raw": _de_tables.fidelity_of_tables,
    "de_wilcoxon_direction_reach_raw": _de_tables.reach_of_tables,
    "de_wilcoxon_sig_jaccard": _de_tables.jaccard_of_tables,
}


@pytest.fixture(scope="module")
def panel():
    """Predicted and real cells of eight perturbed genes, and two kinds of control cells: all log-normalised."""
    rng = np.random.default_rng(0)

    def draw(mean, n):
        return tv.metrics.log_normalize(rng.poisson(mean, size=(n, len(GENES))))

    base = rng.uniform(3, 30, size=len(GENES))
    predicted, real = {}, {}
    for i, gene in enumerate(GENES[:8]):
        change, error = np.exp(rng.normal(scale=[[0.4], [0.8]], size=(2, len(GENES))))
        change[i] = 0.1
        predicted[gene], real[gene] = draw(base * change**0.4 * error, 50 + 5 * i), draw(base * change, 80 - 5 * i)
    return predicted, real, draw(base, 90), draw(base, 70)


def bulk(cells, control):
    """The means as cell-eval2 takes them."""
    return np.array([*cells, "control"]), np.stack([x.mean(axis=0, dtype=float) for x in (*cells.values(), control)])


def moments(cells, control):
    groups = [x.astype(float) for x in (*cells.values(), control)]
    sums = np.array([(x**2).sum() for x in groups])
    return GroupMoments(perts=np.array([*cells, "control"]), counts=np.array([len(x) for x in groups]), sumsq=sums)


# ---- functions


@pytest.mark.parametrize(("distance", "theirs"), [("cosine", "cosine"), ("euclidean", "l2")])
@pytest.mark.parametrize("leave_out", [True, False])
def test_discrimination(panel, distance, theirs, leave_out):
    predicted, real, source, control = panel
    # a prediction without any change, and two of the same, make ties
    predicted = {**predicted, "g03": source, "g04": source[::-1], "g05": predicted["g06"]}
    expected = discrimination_score(
        pred_bulk=bulk(predicted, source),
        real_bulk=bulk(real, control),
        control="control",
        distance=theirs,
        rank_denominator="n-1",
        exclude_target_gene=leave_out,
        genes=GENES,
    )
    options = {"leave_out": range(8)} if leave_out else {}
    found = tv.metrics.discrimination(predicted, real, distance=distance, source=source, control=control, **options)
    # only exactly equal distances are ties there, which rounding undoes for means of cells in another order
    compared = found.drop("g04" if distance == "cosine" else [])
    assert compared.to_dict() == pytest.approx({name: expected[name] for name in compared.index}, abs=1e-12)
    assert found.nunique() > 3


def test_unbiased_errors(panel):
    predicted, real, source, control = panel
    options = {"comparator": "lognorm", "control": "control", "real_bulk": bulk(real, control)}
    options |= {"real_moments": moments(real, control)}
    error = of_delta.mse_unbiased_capped(
        pred_bulk=bulk(predicted, source), pred_moments=moments(predicted, source), **options
    )
    effect = of_delta.distance_unbiased(**options)
    capped = 0
    for name in real:
        found = tv.metrics.unbiased_errors(predicted[name], real[name], control)
        assert found == pytest.approx((error[name], effect[name]), abs=1e-10)
        ratio = tv.metrics.unbiased_capped_mse(predicted[name], real[name], control)
        assert ratio == pytest.approx(error[name] / effect[name], abs=1e-6)
        x, y = (cells.astype(float) for cells in (predicted[name], real[name]))
        capped += x.var(axis=0, ddof=1).sum() / len(x) > y.var(axis=0, ddof=1).sum() / len(y)
    assert 0 < capped < len(real)


def test_coexpression(panel):
    predicted, real, _, _ = panel
    for name in real:
        n = min(len(predicted[name]), len(real[name]))
        x, y = (cells[name][:n, 10:35].astype(float) for cells in (predicted, real))
        expected = of_cells.cov_agreement(y, x)["corr"]
        assert correlation_agreement(x, y) == pytest.approx(expected, abs=1e-12)


def draw_table(rng):
    """Changes and p values with ties, without direction, and some that are no numbers."""
    log_fc = rng.choice(
        [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, np.nan, np.inf], len(GENES), p=[0.15] * 3 + [0.1] + [0.2] * 2 + [0.025] * 2
    )
    p_adj = rng.choice([1e-9, 0.001, 0.04, 0.05, 0.3], len(GENES))
    return pd.DataFrame({"log_fc": log_fc, "p": rng.choice([1e-9, 1e-3, 0.1], len(GENES)), "p_adj": p_adj}, index=GENES)


def as_theirs(tables):
    columns = {"log_fc": "log2_fold_change", "p": "p_value"}
    long = pd.concat(tables, names=["target", "feature"]).reset_index().rename(columns=columns)
    # a pandas NaN is no missing value there
    return pl.DataFrame({name: long[name].to_list() for name in long}, strict=False)


def test_metrics_of_tables():
    rng = np.random.default_rng(0)
    predicted, real = ({name: draw_table(rng) for name in GENES[:20]} for _ in "ab")
    for tables in (predicted, real):
        tables["g00"] = tables["g00"].assign(p_adj=1.0)
    real["g01"] = real["g01"].assign(p_adj=[0.01] * 9 + [1.0] * 31)
    tables = {"de_pred": as_theirs(predicted), "de_real": as_theirs(real), "control": "control"}
    expected = {
        "de_wilcoxon_lfc_nmae": of_de.de_lfc_nmae(**tables),
        "de_wilcoxon_direction_fidelity_yield_raw": of_direction.de_direction_fidelity_yield_raw(**tables),
        "de_wilcoxon_direction_reach_raw": of_direction.de_direction_reach(corrected=False, **tables),
        "de_wilcoxon_sig_jaccard": of_de.de_sig_jaccard(**tables),
    }
    for name, metric in TABLES.items():
        # the perturbed gene is not counted there
        found = {gene: metric(predicted[gene].drop(gene), real[gene].drop(gene)) for gene in real}
        assert found == pytest.approx({gene: expected[name].get(gene, np.nan) for gene in real}, abs=1e-12, nan_ok=True)
        assert len(set(found.values())) > 5


def test_discrimination_of_cell_eval(panel):
    pytest.importorskip("cell_eval")
    from cell_eval._types import PerturbationAnndataPair
    from cell_eval.metrics import discrimination_score as older

    predicted, real, source, control = panel
    adatas = {}
    for side, cells in (("pred", {**predicted, "control": source}), ("real", {**real, "control": control})):
        obs = pd.DataFrame({"target": np.repeat(list(cells), [len(x) for x in cells.values()])})
        adatas[side] = ad.AnnData(np.vstack(list(cells.values())), obs.set_index(obs.index.astype(str)))
        adatas[side].var_names = GENES
    pair = PerturbationAnndataPair(**adatas, pert_col="target", control_pert="control")
    for distance, theirs in (("cosine", "cosine"), ("euclidean", "l2")):
        expected = older(pair, metric=theirs, exclude_target_gene=False)
        found = tv.metrics.discrimination(predicted, real, distance=distance, source=source, control=control)
        # divided by the number of targets there, not of the others
        assert ((1 - found) * 7 / 8).to_dict() == pytest.approx({name: 1 - expected[name] for name in real})


# ---- a prediction, from the model to the scores


@pytest.fixture(scope="module")
def sides():
    """Counts of predicted cells with the control cells they started from, and of real cells with other ones."""
    cells = tv.datasets.simulate_perturbation(900, 60, n_types=2, targets=TARGETS, seed=1).adata
    model = make_trained(cells, {"labels_key": "cell_type"}, {"max_epochs": 15})
    is_control = (cells.obs["condition"] == "control").to_numpy()
    control = cells[is_control].copy()
    first = np.arange(control.n_obs) % 2 == 0
    predicted = model.predict_perturbation(control[first].copy(), target=TARGETS)
    # as many real cells as predicted ones: none are drawn then
    order = cells.obs.groupby("condition", observed=True).cumcount().to_numpy()
    real = cells[~is_control & (order < first.sum())]
    parts = {"pred": [predicted, control[first]], "real": [real, control[~first]]}
    joined = {side: ad.concat(two, index_unique="_") for side, two in parts.items()}
    for adata in joined.values():
        adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    return joined


def evaluate(sides, **options):
    table = cell_eval2.compute_metrics(
        sides["pred"],
        sides["real"],
        pert_col="condition",
        control="control",
        control_source="pred",
        target_gene_map={"*": None},  # what was perturbed is no gene
        de={"backend": "scanpy"},
        device="cpu",
        num_threads=1,
        **options,
    )
    return table, pd.DataFrame(table.to_dict(as_series=False)).pivot(index="perturbation", columns="metric")["value"]


def of_conditions(sides, normalize):
    """Cells by condition, predicted and real, on the scale of our metrics."""
    result = []
    for adata in (sides["pred"], sides["real"]):
        values = tv.metrics.log_normalize(adata.X) if normalize else adata.X.toarray()
        result.append({name: values[(adata.obs["condition"] == name).to_numpy()] for name in (*TARGETS, "control")})
    return result


def test_a_prediction_as_counts(sides):
    names = [*TABLES, "pds_cosine", "expr_mse_unbiased_capped_norm", "cell_cov_corr"]
    table, scores = evaluate(sides, metrics=names)
    assert scores.index.tolist() == TARGETS
    overall = dict(zip(*(cell_eval2.aggregate_metrics(table)[name] for name in ("metric", "mean")), strict=True))
    # 1 is no change, and 0 the truth, on both sides of which an unbiased score may lie
    assert -0.1 < overall["expr_mse_unbiased_capped_norm"] < 0.5
    assert overall["pds_cosine"] > 0.5
    pred, real = of_conditions(sides, normalize=True)
    for target in TARGETS:
        found = tv.metrics.coexpression_agreement(pred[target], real[target], real["control"])
        assert found == pytest.approx(scores.loc[target, "cell_cov_corr"], abs=1e-6)
    # the metrics of tables are those of ours on its tables
    options = {"groupby": "condition", "reference": "control", "mean_calc": "arithmetic", "epsilon": 1e-9}
    options |= {"backend": "scanpy", "input_type": "counts", "filter_gene_min_cpm_cell": 5.0}
    tables = {side: pd.DataFrame(compute_de(x, **options).to_dict(as_series=False)) for side, x in sides.items()}
    names = {"log2_fold_change": "log_fc", "p_value": "p"}
    for target in TARGETS:
        pair = [
            tables[side][tables[side]["target"] == target].rename(columns=names).set_index("feature").sort_index()
            for side in ("pred", "real")
        ]
        for name, metric in TABLES.items():
            expected = scores.loc[target, name] if name in scores else np.nan
            assert metric(*pair) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_prediction_as_logarithms(sides):
    logarithms = {side: adata.copy() for side, adata in sides.items()}
    for adata in logarithms.values():
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    names = ["pds_cosine", "expr_mse_unbiased_capped", "expr_distance_unbiased"]
    _, scores = evaluate(logarithms, metrics=names, input_type="lognorm")
    pred, real = of_conditions(logarithms, normalize=False)
    source, control = pred.pop("control"), real.pop("control")
    found = tv.metrics.discrimination(pred, real, distance="cosine", source=source, control=control)
    assert found.to_dict() == pytest.approx(scores["pds_cosine"].to_dict())
    for target in TARGETS:
        error, effect = tv.metrics.unbiased_errors(pred[target], real[target], control)
        assert error == pytest.approx(scores.loc[target, "expr_mse_unbiased_capped"], abs=1e-6)
        assert effect == pytest.approx(scores.loc[target, "expr_distance_unbiased"], abs=1e-6)
