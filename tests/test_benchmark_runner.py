"""The hold-out runner: its table, resuming from a folder, what is skipped, several processes, refusals."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from trvae_scvi import benchmark
from trvae_scvi.benchmark import BASELINES, TRVAEMethod, compare_predictions, hold_out, leave_one_group_out
from trvae_scvi.benchmark._comparison import TRIVIAL
from trvae_scvi.datasets import simulate_perturbation
from trvae_scvi.metrics import METRICS, headline_skill, log_normalize, noise_ceiling, score_arrays, skill
from trvae_scvi.metrics._scorer import DEFAULT_METRICS, Scorer

KEYS = {"group_key": "cell_type", "control": "control"}
FAST = {**KEYS, "n_top_genes": 5, "metrics": ["mse_means", "pearson_change"], "progress_bar": False}
COLUMNS = [
    "group", "target", "seed", "method", "genes", "metric", "value", "std", "skill", "skill_std", "note", "effect_p",
    "seconds",
]  # fmt: skip
REFERENCES = [*BASELINES, "noise ceiling"]


@pytest.fixture(scope="module")
def adata():
    return simulate_perturbation(240, 20, n_types=3, targets=("drug", "other"), seed=1).adata


@pytest.fixture(autouse=True)
def _short_report(monkeypatch):
    """The page has its own tests; drawing it takes longer than all the rest."""
    monkeypatch.setattr(benchmark._runner, "write_report", lambda table, path: path.write_text(f"{len(table)} rows"))


@dataclass
class Noisy:
    """Adds seeded noise to the control cells and counts its calls."""

    size: float = 1.0
    fails_at: int = -1

    def __post_init__(self):
        self.calls = []

    def __call__(self, holdout):
        self.calls.append((holdout.group, holdout.target, holdout.seed))
        if len(self.calls) == self.fails_at:
            msg = "as asked for"
            raise RuntimeError(msg)
        values = log_normalize(holdout.control.X)
        return values + self.size * np.random.default_rng(holdout.seed).random(values.shape)

    def __repr__(self):
        return f"Noisy({self.size})"


def run(adata, noisy, **arguments):
    return leave_one_group_out(adata, methods={"noisy": noisy}, **{**FAST, **arguments})


def without_time(table):
    return table.drop(columns="seconds")


# ---- the table


def test_table_is_tidy_and_complete(adata):
    noisy = Noisy()
    table = run(adata, noisy, seeds=(4, 2))
    assert list(table.columns) == COLUMNS
    pairs = [(f"type_{i}", target) for i in (1, 2, 3) for target in ("drug", "other")]
    assert noisy.calls == [(*pair, seed) for pair in pairs for seed in (4, 2)]
    keys = table.groupby(["group", "target", "seed", "method", "genes", "metric"]).size()
    assert (keys == 1).all()
    assert len(table) == 6 * (2 + len(REFERENCES)) * 2 * 2
    of_pair = table[(table["group"] == "type_2") & (table["target"] == "other")]
    assert list(of_pair["method"].unique()) == ["noisy", *REFERENCES]
    assert set(of_pair["genes"]) == {"all", "top5"}
    assert set(of_pair.loc[of_pair["method"].isin(REFERENCES), "seed"]) == {4}
    assert (of_pair.loc[of_pair["method"] != "noise ceiling", "seconds"] >= 0).all()
    assert of_pair.loc[of_pair["method"] == "noise ceiling", "seconds"].isna().all()


def test_table_agrees_with_compare_predictions():
    adata = simulate_perturbation(1200, 30, n_types=3, targets=("drug", "other"), seed=1).adata

    def method(holdout):
        return holdout.control

    table = leave_one_group_out(
        adata, methods={"copy": method}, groups=["type_2"], targets=["drug"], n_top_genes=5, progress_bar=False, **KEYS
    )
    holdout, truth = hold_out(adata, **KEYS, group="type_2", target="drug")
    expected = compare_predictions({"copy": holdout.control}, holdout, truth, n_top_genes=5)
    assert expected.columns.tolist() == [
        "method", "genes", "metric", "value", "std", "skill", "skill_std", "note", "effect_p"
    ]  # fmt: skip
    assert set(table["metric"]) == set(DEFAULT_METRICS)
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    by_method = {name: headline_skill(rows) for name, rows in table.groupby("method")}
    assert max(by_method[name] for name in TRIVIAL) <= 0
    assert by_method["noise ceiling"] == pytest.approx(1)
    assert by_method["copy"] < 0
    # As many cells as there are, in the order in which they are: the same halves, drawn alike.
    values = {name: rows["value"].to_numpy() for name, rows in table.groupby("method")}
    np.testing.assert_array_equal(values["copy"], values["no change"])


def test_scores_are_those_of_the_arrays():
    """Against the metrics' own table of what the hold-out sets apart; the skill against the best trivial one."""
    adata = simulate_perturbation(600, 20, n_types=3, targets=("drug",), seed=1).adata
    pair = {**KEYS, "group": "type_2", "target": "drug"}
    metrics = [name for name in METRICS if name != "discrimination"]
    holdout, truth = hold_out(adata, **pair)
    noisy = log_normalize(holdout.control.X) + np.random.default_rng(0).random(holdout.control.shape)
    prediction = ad.AnnData(np.expm1(noisy), var=holdout.control.var)
    found = compare_predictions({"noisy": prediction}, holdout, truth, n_top_genes=5, metrics=metrics)
    logs = [log_normalize(cells.X) for cells in (truth.real, truth.control, holdout.control)]
    changes = []
    for other in ("type_1", "type_3"):
        cells = [adata[(adata.obs["cell_type"] == other) & (adata.obs["condition"] == c)] for c in ("drug", "control")]
        changes.append(np.subtract(*(log_normalize(c.X).mean(axis=0, dtype=float) for c in cells)))
    options = {"expected": np.mean(changes, axis=0), "n_top_genes": 5, "metrics": metrics}
    predicted = benchmark.baseline_predictions(holdout.training, **pair)
    predicted["noisy"] = log_normalize(prediction.X)
    tables = {name: score_arrays(cells, *logs, **options) for name, cells in predicted.items()}
    # A prediction of other numbers of cells than the control's, which the ceiling is made for, may differ.
    same = [name for name, cells in predicted.items() if len(cells) == holdout.control.n_obs]
    assert set(predicted) - set(same) == {"mean of others"}
    tables["noise ceiling"] = noise_ceiling(*logs, n_cells=holdout.control.n_obs, **options)
    by_method = {name: rows.reset_index(drop=True) for name, rows in found.groupby("method")}
    for name in (*same, "noise ceiling"):
        columns = ["genes", "metric", "value", "std"]
        pd.testing.assert_frame_equal(by_method[name][columns], tables[name][columns], rtol=1e-4)
    trivial = [by_method[name] for name in TRIVIAL]
    expected = skill(by_method["noisy"], reference=trivial, ceiling=by_method["noise ceiling"])
    pd.testing.assert_frame_equal(by_method["noisy"][["skill", "skill_std"]], expected[["skill", "skill_std"]])


def test_the_rank_is_among_all_other_targets():
    adata = simulate_perturbation(1200, 30, n_types=3, targets=("x", "y", "z"), seed=1).adata
    run_of = {**FAST, "metrics": ["discrimination"], "groups": ["type_1"]}
    ranks = leave_one_group_out(adata, methods={}, **run_of)
    assert ranks["value"].notna().all()
    assert (ranks.loc[ranks["method"] == "noise ceiling", "value"] > 0.9).all()
    few = leave_one_group_out(adata[adata.obs["condition"] != "z"], methods={}, **run_of)
    assert few["value"].isna().all()
    assert set(few["note"]) == {"needs two other targets or more"}


def test_too_few_control_cells_leave_the_reason():
    adata = simulate_perturbation(900, 30, n_types=3, targets=("drug",), seed=1).adata
    own = ((adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "control")).to_numpy()
    table = run(adata[~own | (np.cumsum(own) <= 19)], Noisy(), groups=["type_1"])
    lacking = (table["metric"] == "pearson_change") | (table["genes"] == "top5")
    assert table.loc[lacking, ["value", "std", "skill"]].isna().all(axis=None)
    assert set(table.loc[lacking, "note"]) == {"needs control cells that no prediction started from"}
    assert table.loc[~lacking, "value"].notna().all()


def test_compare_predictions_refuses_other_genes_and_taken_names(adata):
    holdout, truth = hold_out(adata, **KEYS, group="type_1", target="drug")
    own = holdout.control
    with pytest.raises(ValueError, match=r"`predictions\['x'\]` and `holdout.control` in the same order"):
        compare_predictions({"ok": own, "x": own[:, ::-1]}, holdout, truth)
    renamed = own.copy()
    renamed.var_names = [f"other_{name}" for name in own.var_names]
    with pytest.raises(ValueError, match=r"the same genes in `predictions\['x'\]` and `holdout.control`"):
        compare_predictions({"x": renamed}, holdout, truth)
    for name in ("mean shift", "noise ceiling"):
        with pytest.raises(ValueError, match=rf"other than those of the baselines .* found \['{name}'\]"):
            compare_predictions({name: own}, holdout, truth)
    with pytest.raises(TypeError, match="map names of methods to AnnData objects, found AnnData"):
        compare_predictions(own, holdout, truth)
    with pytest.raises(ValueError, match=r"found \['accuracy'\]"):
        compare_predictions({"x": own}, holdout, truth, metrics=["accuracy"])
    with pytest.raises(ValueError, match="`n_top_genes` of at least 1"):
        compare_predictions({"x": own}, holdout, truth, n_top_genes=0)
    assert compare_predictions({"x": own}, holdout, truth)["method"].iloc[0] == "x"


def test_few_cells_are_refused_by_name(adata):
    holdout, truth = hold_out(adata, **KEYS, group="type_1", target="drug")
    with pytest.raises(ValueError, match="at least 2 predicted cells.*found 1"):
        compare_predictions({"x": holdout.control[:1]}, holdout, truth)
    with pytest.raises(ValueError, match="at least 4 cells under 'drug'.*found 3"):
        compare_predictions({"x": holdout.control}, holdout, truth._replace(real=truth.real[:3]))
    few = replace(holdout, control=holdout.control[:1])
    with pytest.raises(ValueError, match="at least 2 cells under 'control'.*found 1"):
        compare_predictions({"x": holdout.control}, few, truth)


def test_counts_and_log_normalised_predictions_are_scored_alike(adata):
    methods = {
        "counts": lambda holdout: holdout.control,
        "array": lambda holdout: log_normalize(holdout.control.X),
    }
    table = leave_one_group_out(adata, methods=methods, groups=["type_1"], **FAST)
    values = {name: rows["value"].to_numpy() for name, rows in table.groupby("method")}
    np.testing.assert_array_equal(values["counts"], values["array"])


def test_trvae_is_the_default(adata, monkeypatch):
    seen = []

    def call(self, holdout):
        seen.append((self, holdout.group))
        return holdout.control

    monkeypatch.setattr(TRVAEMethod, "__call__", call)
    table = leave_one_group_out(adata, groups=["type_3"], targets=["drug"], **FAST)
    assert seen == [(TRVAEMethod(), "type_3")]
    assert "trVAE" in set(table["method"])


def test_trvae_runs_through(adata):
    method = TRVAEMethod({"n_hidden": 8}, {"max_epochs": 1, "accelerator": "cpu"})
    table = leave_one_group_out(adata, methods={"trVAE": method}, groups=["type_1"], targets=["drug"], n_hvg=15, **FAST)
    assert table["value"].notna().all()


def test_scores_are_on_variable_genes_normalised_over_them(adata):
    seen = {}

    def method(holdout):
        seen["genes"] = list(holdout.control.var_names)
        return holdout.control

    table = leave_one_group_out(
        adata, methods={"copy": method}, groups=["type_1"], targets=["drug"], n_hvg=8, **{**FAST, "n_top_genes": 100}
    )
    assert len(seen["genes"]) == 8
    assert set(table["genes"]) == {"all", "top8"}
    pair = {"group": "type_1", "condition_key": "condition", "target": "drug"}
    holdout, truth = hold_out(adata, **KEYS, **pair, n_hvg=8)
    logs = [log_normalize(cells.X) for cells in (holdout.control, truth.real, truth.control, holdout.control)]
    expected = score_arrays(*logs, metrics=["mse_means"])["value"].iloc[0]
    value = table.set_index(["method", "genes", "metric"]).loc[("copy", "all", "mse_means"), "value"]
    assert value == pytest.approx(expected)


def test_values_that_are_normalised_already(adata):
    normalised = adata.copy()
    normalised.X = log_normalize(adata.X) - 1
    raw = run(adata, Noisy(), groups=["type_1"])
    table = run(normalised, lambda holdout: holdout.control, groups=["type_1"], counts=False)
    assert "fold change" not in set(table["method"])
    change = [t[(t["method"] == "mean of others") & (t["metric"] == "mse_means")]["value"] for t in (raw, table)]
    np.testing.assert_allclose(change[0], change[1], rtol=1e-4)


def test_layers_and_views_are_read_and_left_alone(adata):
    layered = adata.copy()
    layered.layers["counts"] = layered.X
    layered.X = np.full(adata.shape, -1.0)
    kept = layered.copy()
    table = run(layered[:], Noisy(), layer="counts", groups=["type_1"])
    pd.testing.assert_frame_equal(without_time(table), without_time(run(adata, Noisy(), groups=["type_1"])))
    pd.testing.assert_frame_equal(layered.obs, kept.obs)
    assert list(layered.uns) == list(kept.uns)


@pytest.mark.parametrize("dense", [True, False])
def test_data_on_disk_are_read(adata, tmp_path, dense):
    stored = adata.copy()
    stored.X = adata.X.toarray() if dense else adata.X
    stored.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    table = run(backed, Noisy(), groups=["type_1"])
    pd.testing.assert_frame_equal(without_time(table), without_time(run(adata, Noisy(), groups=["type_1"])))


def test_every_metric_can_be_asked_for(adata):
    table = run(adata, Noisy(), groups=["type_1"], targets=["drug"], metrics=METRICS)
    assert list(table["metric"].unique()) == list(METRICS)
    empty = table[table["value"].isna()]
    assert set(zip(empty["metric"], empty["note"], strict=True)) <= {
        ("discrimination", "needs two other targets or more"),  # among two targets there are no ranks
        ("coexpression_agreement", "too few cells, or genes that vary, for correlations"),
        ("lfc_nmae", "too few really significant genes"),
        ("direction_reach", "no really significant genes"),
        ("direction_fidelity", "no significant genes"),
    }
    assert set(empty["metric"]) >= {"discrimination", "coexpression_agreement"}
    valued = table[table["genes"] == "all"].dropna(subset="value")["metric"].unique()
    assert set(METRICS[:5]) | {"unbiased_capped_mse", "de_jaccard"} <= set(valued)


# ---- a folder


def test_finished_pieces_are_not_computed_again(adata, tmp_path):
    table = run(adata, Noisy(), out=tmp_path, seeds=(0, 1))
    again = Noisy()
    resumed = run(adata, again, out=tmp_path, seeds=(0, 1))
    assert again.calls == []
    pd.testing.assert_frame_equal(resumed, table, check_exact=True)
    in_memory = run(adata, Noisy(), seeds=(0, 1))
    pd.testing.assert_frame_equal(without_time(in_memory), without_time(table), check_exact=True)
    assert resumed.attrs == table.attrs
    stored = pd.read_csv(tmp_path / "scores.csv")
    stored["note"] = stored["note"].astype(object).fillna("").astype(table["note"].dtype)
    pd.testing.assert_frame_equal(stored, table, rtol=1e-12)
    assert (tmp_path / "report.html").read_text() == f"{len(table)} rows"


@pytest.mark.parametrize("metrics", [["mse_means"], ["discrimination"], ["mse_means", "discrimination"]])
def test_notes_survive_a_folder(adata, tmp_path, metrics):
    """Where none, all or some of the rows of a piece have one."""
    arguments = {"groups": ["type_1"], "targets": ["drug"], "metrics": metrics}
    table = run(adata, Noisy(), **arguments)
    for _ in range(2):
        pd.testing.assert_frame_equal(without_time(run(adata, Noisy(), out=tmp_path, **arguments)), without_time(table))
    lacking = table["metric"] == "discrimination"
    assert set(table.loc[lacking, "note"]) <= {"needs two other targets or more"}
    assert (table.loc[lacking, "note"] != "").all()
    store = benchmark._parts.PartStore(tmp_path / "other", {"methods": {}})
    store.write(benchmark._parts.Part(table.drop(columns=["group", "target"]), None), "x")
    notes = store.read("x").scores["note"].fillna("")
    assert notes.tolist() == table["note"].tolist()


@pytest.mark.parametrize("kind", ["double", "integers", "unsorted", "dense"])
def test_the_same_values_stored_otherwise_are_the_same_data(adata, tmp_path, kind):
    run(adata, Noisy(), out=tmp_path, groups=["type_1"])
    stored, again = adata.copy(), Noisy()
    x = sparse.csr_matrix(adata.X)
    if kind == "unsorted":
        first = slice(*x.indptr[:2])
        for part in (x.data, x.indices):
            part[first] = part[first][::-1].copy()
        x.has_sorted_indices = False
    dtype = {"double": np.float64, "integers": np.int32}.get(kind, x.dtype)
    stored.X = x.toarray() if kind == "dense" else x.astype(dtype)
    run(stored, again, out=tmp_path, groups=["type_1"], metrics=np.array(FAST["metrics"]))
    assert again.calls == []


def test_settings_of_something_else_are_not_written_over(adata, tmp_path):
    foreign = '{"a": 1}'
    (tmp_path / "settings.json").write_text(foreign)
    with pytest.raises(ValueError, match="to be of this run, found .* nothing there"):
        run(adata, Noisy(), out=tmp_path)
    assert (tmp_path / "settings.json").read_text() == foreign


def test_an_interrupted_run_goes_on(adata, tmp_path):
    failing = Noisy(fails_at=4)
    with pytest.raises(RuntimeError, match="as asked for") as error:
        run(adata, failing, out=tmp_path)
    assert error.value.__notes__ == ["While 'type_2' was held out under 'other', for 'noisy' with seed 0."]
    assert not list(tmp_path.glob("**/*unfinished*"))
    rest = Noisy()
    table = run(adata, rest, out=tmp_path)
    assert rest.calls == [("type_2", "other", 0), ("type_3", "drug", 0), ("type_3", "other", 0)]
    pd.testing.assert_frame_equal(without_time(table), without_time(run(adata, Noisy())), check_exact=True)


def test_an_unfinished_piece_counts_for_nothing(adata, tmp_path):
    run(adata, Noisy(), out=tmp_path)
    piece = next((tmp_path / "parts").glob("type_1_drug_0_noisy*.csv"))
    piece.rename(piece.with_name(piece.name + ".1.unfinished"))
    again = Noisy()
    run(adata, again, out=tmp_path)
    assert again.calls == [("type_1", "drug", 0)]


def test_groups_seeds_and_methods_can_be_added(adata, tmp_path, monkeypatch):
    first = run(adata, Noisy(), out=tmp_path, groups=["type_1"])
    scored = []
    original = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda *a, **k: scored.append(1) or original(*a, **k))
    second, noisier = Noisy(), Noisy(2.0)
    arguments = {"methods": {"noisy": second, "noisier": noisier}, "out": tmp_path, "seeds": (0, 1), **FAST}
    table = leave_one_group_out(adata, groups=["type_1", "type_2"], **arguments)
    assert second.calls == [("type_1", t, 1) for t in ("drug", "other")] + [
        ("type_2", t, s) for t in ("drug", "other") for s in (0, 1)
    ]
    assert len(scored) == 6 + 8 + 2 * len(BASELINES)
    kept = table[(table["group"] == "type_1") & (table["seed"] == 0) & (table["method"] != "noisier")]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), first)
    assert set(json.loads((tmp_path / "settings.json").read_text())["methods"]) == {"noisy", "noisier"}


def other_counts(adata):
    other = adata.copy()
    other.X = adata.X.copy()
    other.X.data[0] += 1
    return other


def renamed(adata):
    other = adata.copy()
    other.obs_names = [f"x{name}" for name in adata.obs_names]
    return other


def swapped(adata):
    other = adata.copy()
    other.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_1": "type_2", "type_2": "type_1"})
    return other


@pytest.mark.parametrize(
    ("change", "arguments", "match"),
    [
        (other_counts, {}, r"found values '\w+' there and '\w+' now\. Name another folder"),
        (renamed, {}, "found obs_names '"),
        (swapped, {}, r"found obs\['cell_type'\] '"),
        (None, {"n_top_genes": 6}, "found n_top_genes 5 there and 6 now"),
        (None, {"n_hvg": 10}, "found n_hvg None there and 10 now"),
        (None, {"metrics": ["mse_means"]}, r"found metrics \['mse_means', 'pearson_change'\] there"),
        (None, {"control": "other"}, "found control 'control' there and 'other' now"),
        (None, {"methods": {"noisy": Noisy(3.0)}}, r"method 'noisy' Noisy\(1.0\) there and Noisy\(3.0\) now"),
    ],
)
def test_a_folder_of_another_run_is_refused(adata, tmp_path, change, arguments, match):
    run(adata, Noisy(), out=tmp_path, groups=["type_1"])
    before = {path: path.read_text() for path in tmp_path.glob("**/*.*")}
    other = Noisy()
    arguments = {"methods": {"noisy": other}, "groups": ["type_1"], "out": tmp_path, **FAST, **arguments}
    with pytest.raises(ValueError, match=match):
        leave_one_group_out(adata if change is None else change(adata), **arguments)
    assert other.calls == []
    assert {path: path.read_text() for path in tmp_path.glob("**/*.*")} == before


def test_functions_are_known_by_name_not_by_address(adata, tmp_path):
    def make():
        def method(holdout):
            return holdout.control

        return method

    run(adata, make(), out=tmp_path, groups=["type_1"])
    run(adata, make(), out=tmp_path, groups=["type_1"])
    described = json.loads((tmp_path / "settings.json").read_text())["methods"]["noisy"]
    assert "make.<locals>.method" in described
    assert "0x" not in described


def test_names_that_differ_in_odd_characters_are_kept_apart(adata, tmp_path):
    odd = adata.copy()
    odd.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(
        {"type_1": "T/1", "type_2": "T:1", "type_3": "../T"}
    )
    table = run(odd, Noisy(), out=tmp_path / "run")
    again = Noisy()
    pd.testing.assert_frame_equal(run(odd, again, out=tmp_path / "run"), table, check_exact=True)
    assert again.calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 12


def test_numbers_as_groups_and_conditions(adata, tmp_path):
    numbers = adata.copy()
    numbers.obs["cell_type"] = adata.obs["cell_type"].str[-1].astype(int).to_numpy()
    numbers.obs["condition"] = adata.obs["condition"].map({"control": 0, "drug": 6, "other": 24}).astype(int).to_numpy()
    table = run(numbers, Noisy(), control=0, out=tmp_path)
    assert set(table["group"]) == {1, 2, 3}
    assert set(table["target"]) == {6, 24}
    np.testing.assert_array_equal(table["value"], run(adata, Noisy())["value"])


def test_a_folder_that_is_a_file(adata, tmp_path):
    (tmp_path / "file").touch()
    noisy = Noisy()
    with pytest.raises(OSError, match="file"):
        run(adata, noisy, out=tmp_path / "file")
    assert noisy.calls == []


# ---- skipped hold-outs


@pytest.fixture
def sparse_design(adata):
    """Of type_1 9 cells under drug, of type_3 none under other."""
    rows = np.ones(adata.n_obs, dtype=bool)
    of = {key: np.flatnonzero((adata.obs["cell_type"] == key[0]) & (adata.obs["condition"] == key[1])) for key in (
        ("type_1", "drug"), ("type_3", "other"))}  # fmt: skip
    rows[of["type_1", "drug"][9:]] = False
    rows[of["type_3", "other"]] = False
    return adata[rows].copy()


def test_skipped_hold_outs_are_reported(sparse_design, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = run(sparse_design, Noisy(), out=tmp_path)
    expected = [
        {"group": "type_1", "target": "drug", "reason": "9 cells under 'drug', fewer than 10"},
        {"group": "type_3", "target": "other", "reason": "0 cells under 'other', fewer than 10"},
    ]
    assert table.attrs["skipped"] == expected
    assert pd.read_csv(tmp_path / "skipped.csv").to_dict("records") == expected
    assert "Skipped 2 hold-outs: type_1 under drug: 9 cells" in caplog.text
    assert set(table.groupby(["group", "target"]).groups) == {
        ("type_1", "other"), ("type_2", "drug"), ("type_2", "other"), ("type_3", "drug")
    }  # fmt: skip


def test_nothing_to_hold_out(sparse_design):
    with pytest.raises(ValueError, match="can be held out, found none .type_1 under drug: 9 cells"):
        run(sparse_design, Noisy(), groups=["type_1"], targets=["drug"])


# ---- processes


def test_two_processes_give_what_one_gives(adata, tmp_path):
    def method(holdout):  # local: it travels by value to processes that cannot import this file
        return log_normalize(holdout.control.X) + np.random.default_rng(holdout.seed).random(holdout.control.shape)

    arguments = {
        "methods": {"local": method},
        "targets": ["drug"],
        "groups": ["type_1", "type_2"],
        "seeds": (0, 1),
        **FAST,
    }
    one = leave_one_group_out(adata, **arguments)
    two = leave_one_group_out(adata, **arguments, n_jobs=2, out=tmp_path)
    pd.testing.assert_frame_equal(without_time(one), without_time(two), rtol=1e-9)
    assert len(list((tmp_path / "parts").glob("*.csv"))) == 2 + 4


# ---- refusals


class Never:
    """A method that must not be run."""

    def __call__(self, holdout):
        pytest.fail("ran before the arguments were checked")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"group_key": "kind"}, KeyError, "group_key='kind'"),
        ({"condition_key": "kind"}, KeyError, "condition_key='kind'"),
        ({"layer": "nope"}, KeyError, "Layer 'nope'"),
        ({"control": "nope"}, ValueError, "`control` out of"),
        ({"groups": ["nope"]}, ValueError, "`groups` out of"),
        ({"targets": ["nope"]}, ValueError, "`targets` out of"),
        ({"methods": {"ridge": Never()}}, ValueError, "other than those of the baselines, found 'ridge'"),
        ({"methods": {"noise ceiling": Never()}}, ValueError, "found 'noise ceiling'"),
        ({"methods": {"word": "trVAE"}}, TypeError, "names to callables, found 'word': 'trVAE'"),
        ({"methods": {1: Never()}}, TypeError, "found 1"),
        ({"seeds": ()}, ValueError, "`seeds` to hold at least one value"),
        ({"seeds": (1, 1)}, ValueError, r"none twice, found \[1, 1\]"),
        ({"seeds": (-1,)}, ValueError, "`seeds` of at least 0"),
        ({"seeds": (0.5,)}, TypeError, "`seeds` to be an integer"),
        ({"metrics": ["accuracy"]}, ValueError, "found 'accuracy'"),
        ({"metrics": []}, ValueError, "`metrics` to hold at least one value"),
        ({"n_hvg": 21}, ValueError, r"at most the number of genes \(20\), found 21"),
        ({"n_hvg": 1}, ValueError, "`n_hvg` of at least 2"),
        ({"n_top_genes": 0}, ValueError, "`n_top_genes` of at least 1"),
    ],
)
def test_arguments_are_checked_first(adata, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        leave_one_group_out(adata, **{"methods": {"never": Never()}, "out": tmp_path / "run", **FAST, **change})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: x + 0.5, "Expected counts .whole numbers from 0., found other values"),
        (lambda x: x - 1, "Expected counts"),
        (lambda x: np.where(np.arange(len(x))[:, None] == 3, 0, x), "found 1 cells without any"),
        (lambda x: np.where(x == x.max(), np.nan, x), "Expected finite values"),
    ],
)
def test_values_are_checked_first(adata, spoil, match):
    other = ad.AnnData(spoil(adata.X.toarray()), obs=adata.obs, var=adata.var)
    with pytest.raises(ValueError, match=match):
        run(other, Never())


def test_missing_groups_are_refused(adata):
    other = adata.copy()
    other.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(adata.n_obs) > 2)
    with pytest.raises(ValueError, match="missing for 3 of 240 cells"):
        run(other, Never())


@pytest.mark.parametrize(
    ("prediction", "error", "match"),
    [
        (np.ones((4, 3)), ValueError, "a prediction of 20 genes, found 3"),
        (np.full((4, 20), np.nan), ValueError, "finite values in `prediction`"),
        ([[1.0] * 20] * 4, TypeError, "as AnnData or array, found list"),
        (ad.AnnData(np.ones((4, 20))), ValueError, "same genes in `prediction`"),
    ],
)
def test_predictions_are_checked(adata, prediction, error, match):
    with pytest.raises(error, match=match):
        run(adata, lambda holdout: prediction, groups=["type_1"])


def test_other_values_with_the_same_sum_are_other_data(adata, tmp_path):
    run(adata, Noisy(), out=tmp_path)
    other = adata.copy()
    other.X = adata.X[np.random.default_rng(0).permutation(adata.n_obs)]
    with pytest.raises(ValueError, match="values"):
        run(other, Noisy(), out=tmp_path)
