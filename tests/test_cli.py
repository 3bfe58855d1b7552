from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_same_cells
from typer.testing import CliRunner

import trvae_scvi as tv
from trvae_scvi.cli import app
from trvae_scvi.metrics import headline_skill

runner = CliRunner()


@pytest.fixture
def file(adata, tmp_path):
    path = tmp_path / "data.h5ad"
    adata.obs = adata.obs.rename(columns={"condition": "drug", "cell_type": "kind"})
    adata.write_h5ad(path)
    return path


def run(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)  # else there is a traceback
    return " ".join(result.output.split())


def test_help_explains_every_command():
    text = run("--help")
    for command in ("demo", "train", "predict", "evaluate", "assess"):
        assert command in text
        assert len(run(command, "--help")) > 200


def test_help_does_not_ask_for_counts_where_others_are_taken():
    for command in ("train", "predict", "evaluate", "assess"):
        arguments = run(command, "--help").split("Options")[0]
        assert ".h5ad file with the cells" in arguments
        assert "counts" not in arguments


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "report"
    return folder, run("demo", "--out", folder)


def test_demo(demo):
    """The main job, with default settings, on the data that ship with the package."""
    folder, text = demo
    for name in ("mean.png", "variance.png", "response.png", "scores.png"):
        assert (folder / name).stat().st_size > 5_000
    scores = pd.read_csv(folder / "scores.csv")
    assert scores.columns.tolist() == [
        *("method", "genes", "metric", "value", "std", "skill", "skill_std", "note", "effect_p")
    ]
    values = scores.set_index(["genes", "metric", "method"])["value"].unstack()
    for baseline in ("no change", "mean of others"):
        for genes in ("all", "top100"):
            assert values.loc[(genes, "mse_means"), "trVAE"] < values.loc[(genes, "mse_means"), baseline]
            assert values.loc[(genes, "energy_distance"), "trVAE"] < values.loc[(genes, "energy_distance"), baseline]
    assert values.loc[("all", "mse_means"), "true counterfactual"] < values.loc[("all", "mse_means"), "trVAE"]
    # The headline comes first, one line a method; the cells as they would be are about as good as the ceiling.
    assert text.index("headline skill") < text.index("all genes") < text.index("top100 genes")
    headline = {name: headline_skill(rows) for name, rows in scores.groupby("method")}
    assert headline["noise ceiling"] == pytest.approx(1)
    assert headline["true counterfactual"] > 0.7
    assert max(headline[name] for name in ("no change", "mean of others", "mean shift")) <= 0 < headline["trVAE"]
    assert f"{headline['trVAE']:.2f}" in text[text.index("headline skill") : text.index("all genes")]
    prediction = anndata.read_h5ad(folder / "prediction.h5ad")
    assert (prediction.X.data % 1 == 0).all()
    assert {"variable", "change"} <= set(pd.read_csv(folder / "effect.csv").columns)


def test_train_then_predict(file, tmp_path):
    model, out = tmp_path / "model", tmp_path / "prediction.h5ad"
    common = ["--condition-key", "drug", "--max-epochs", 2]
    holdout = ["--cell-type-key", "kind", "--holdout", "type_2"]
    run("train", file, "--out", model, *common, *holdout, "--target", "stimulated")
    data = anndata.read_h5ad(file)
    trained = tv.TRVAE.load(model, data)
    held_out = ((data.obs["kind"] == "type_2") & (data.obs["drug"] == "stimulated")).sum()
    used = sum(len(part) for part in (trained.train_indices, trained.validation_indices, trained.test_indices))
    assert used == data.n_obs - held_out
    cells = ["--source", "control", "--cell-type-key", "kind", "--cell-type", "type_2"]
    text = run("predict", file, "--model", model, "--target", "stimulated", *cells, "--out", out)
    data[:, ::-1].copy().write_h5ad(tmp_path / "reversed.h5ad")  # the same genes in another order
    again = ["--target", "stimulated", *cells, "--out", tmp_path / "r.h5ad"]
    run("predict", tmp_path / "reversed.h5ad", "--model", model, *again)
    prediction = anndata.read_h5ad(out)
    assert (prediction.X != anndata.read_h5ad(tmp_path / "r.h5ad").X).nnz == 0
    assert prediction.n_obs == ((data.obs["kind"] == "type_2") & (data.obs["drug"] == "control")).sum()
    assert f"{prediction.n_obs} predicted cells" in text
    again = ["predict", file, "--model", model, "--target", "stimulated", "--method", "mean", "--out"]
    assert "is there already. Name another file with --out." in run(*again, out, code=1)
    assert anndata.read_h5ad(out).uns["trvae"]["scale"] == "counts"
    run(*again, tmp_path / "mean.h5ad")
    assert anndata.read_h5ad(tmp_path / "mean.h5ad").uns["trvae"]["scale"] == "expected counts"


@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_evaluate(file, tmp_path, likelihood):
    if likelihood == "mse":
        data = anndata.read_h5ad(file)
        data.X = np.log1p(data.X.toarray())
        data.write_h5ad(file)
    report = tmp_path / "report"
    keys = ["--condition-key", "drug", "--cell-type-key", "kind", "--max-epochs", 2, "--gene-likelihood", likelihood]
    text = run("evaluate", file, "--holdout", "type_1", "--target", "stimulated", "--out", report, *keys)
    assert "type_1 under stimulated" in text
    scores = pd.read_csv(report / "scores.csv")
    methods = {
        "trVAE",
        "no change",
        "mean of others",
        "mean shift",
        "shrunk shift",
        "PCA shift",
        "ridge",
        "noise ceiling",
    }
    if likelihood == "nb":
        methods.add("fold change")
    assert set(scores["method"]) == methods
    assert scores["method"].iloc[0] == "trVAE"
    # With one target there is no rank, which the table says; everything else has a value.
    lacking = scores["metric"] == "discrimination"
    assert scores.loc[~lacking, ["value", "std"]].notna().all(axis=None)
    assert scores.loc[lacking, "value"].isna().all()
    assert set(scores.loc[lacking, "note"]) == {"needs two other targets or more"}
    assert text.index("headline skill") < text.index("all genes")


def test_assess_says_what_python_does(file, tmp_path):
    out = tmp_path / "assessment"
    keys = ["--condition-key", "drug", "--cell-type-key", "kind", "--max-epochs", 2, "--out", out]
    text = run("assess", file, "--cell-type", "type_1", "--target", "stimulated", *keys)
    found = tv.benchmark.assess(
        anndata.read_h5ad(file),
        group="type_1",
        group_key="kind",
        condition_key="drug",
        control="control",
        target="stimulated",
        methods={"trVAE": tv.benchmark.TRVAEMethod(train_kwargs={"max_epochs": 2})},
        progress_bar=False,
    )
    assert " ".join(found.message.split()) in text
    expected = pd.read_csv(out / "expected.csv", index_col=0)
    pd.testing.assert_frame_equal(expected, found.expected, check_exact=False, rtol=1e-4)
    assert (out / "verdict.txt").read_text().splitlines() == [found.verdict, found.message]
    assert (out / "report.html").exists()


def test_a_quick_assessment_trains_half_as_long(file, tmp_path, monkeypatch):
    monkeypatch.setattr("trvae_scvi.train._training.default_epochs", lambda n_cells: 4)
    asked = ["assess", file, "--cell-type", "type_1", "--target", "stimulated", "--condition-key", "drug"]
    asked += ["--cell-type-key", "kind"]
    run(*asked, "--quick", "--out", tmp_path / "quick")
    run(*asked, "--max-epochs", 2, "--out", tmp_path / "two")
    first, second = (pd.read_csv(tmp_path / name / "expected.csv") for name in ("quick", "two"))
    pd.testing.assert_frame_equal(first, second)
    assert "--quick and --max-epochs both" in run(*asked, "--quick", "--max-epochs", 2, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["assess", "--cell-type", "type_9", "--target", "stimulated"], "Column 'cell_type' not found"),
        (
            ["assess", "--cell-type", "type_9", "--target", "stimulated", "--cell-type-key", "kind"],
            "No cell has kind 'type_9'",
        ),
        (
            [
                "assess",
                "--cell-type",
                "type_1",
                "--target",
                "nope",
                "--cell-type-key",
                "kind",
                "--condition-key",
                "drug",
            ],
            "No cell has drug 'nope'",
        ),
        (
            ["evaluate", "--holdout", "type_9", "--target", "stimulated", "--cell-type-key", "kind"],
            "No cell has kind 'type_9'",
        ),
        (
            [
                "evaluate",
                "--holdout",
                "type_1",
                "--target",
                "nope",
                "--cell-type-key",
                "kind",
                "--condition-key",
                "drug",
            ],
            "No cell has drug 'nope'",
        ),
        (["evaluate", "--holdout", "type_1", "--target", "stimulated"], "Column 'cell_type' not found"),
        (["evaluate", "--holdout", "type_1", "--target", "control", "--cell-type-key", "kind"], "are both 'control'"),
        (["train", "--out", "m"], "condition_key='condition'"),
        (["train", "--out", "m", "--condition-key", "drug", "--holdout", "type_1"], "go together"),
        (["train", "--out", ".", "--condition-key", "drug"], "there already"),
        (["train", "--out", "m", "--condition-key", "drug", "--layer", "nope"], "Layer 'nope'"),
        (["predict", "--model", ".", "--target", "stimulated"], "with a file 'model.pt', found none in"),
    ],
)
def test_errors_are_messages(file, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    text = run(command, file, *rest, code=1)
    assert message in text
    assert "Traceback" not in text


def test_unknown_choices_are_refused(file):
    text = run("train", file, "--out", "m", "--gene-likelihood", "normal", code=2)
    assert "'normal' is not one of" in text


def test_raw_holds_the_counts(file, tmp_path):
    """Files in the style of CELLxGENE: normalised X of some genes, counts of all in raw."""
    data = anndata.read_h5ad(file)
    normalised = data[:, :50].copy()
    normalised.X = np.log1p(normalised.X.toarray())
    normalised.raw = data
    normalised.write_h5ad(file)
    keys = ["--use-raw", "--condition-key", "drug", "--cell-type-key", "kind", "--max-epochs", 1]
    model, out = tmp_path / "model", tmp_path / "p.h5ad"
    assert f"--model {model} --use-raw --target" in run("train", file, "--out", model, *keys)
    run("predict", file, "--use-raw", "--model", model, "--target", "stimulated", "--out", out)
    prediction = anndata.read_h5ad(out)
    assert list(prediction.var_names) == list(data.var_names)
    assert (prediction.X.data % 1 == 0).all()
    run("evaluate", file, "--holdout", "type_1", "--target", "stimulated", "--out", tmp_path / "r", *keys)
    assert set(pd.read_csv(tmp_path / "r" / "effect.csv")["variable"]) == set(data.var_names)
    assert "exclude each other" in run("train", file, "--out", tmp_path / "m", "--layer", "counts", *keys, code=1)


def test_counts_that_lie_elsewhere_are_pointed_to_by_options(file, tmp_path):
    data = anndata.read_h5ad(file)
    data.layers["raw counts"] = data.X.copy()
    data.raw = data
    data.X = np.log1p(data.X.toarray())
    data.write_h5ad(file)
    keys = ["--out", tmp_path / "m", "--condition-key", "drug", "--max-epochs", 1]
    text = run("train", file, *keys, code=1)
    assert "found fractional values in `adata.X`. There are some: pass" in text
    assert "--layer 'raw counts' or --use-raw" in text
    assert "setup_anndata" not in text
    assert "Saved" in run("train", file, *keys, "--layer", "raw counts")


def test_no_raw(file, tmp_path):
    text = run("train", file, "--out", tmp_path / "m", "--condition-key", "drug", "--use-raw", code=1)
    assert "has no raw values" in text


def test_zarr_in_and_out(file, tmp_path):
    data = anndata.read_h5ad(file)
    data.write_zarr(tmp_path / "data.zarr")
    run("train", tmp_path / "data.zarr", "--out", tmp_path / "model", "--condition-key", "drug", "--max-epochs", 1)
    common = ["--model", tmp_path / "model", "--source", "control", "--target", "stimulated", "--out"]
    run("predict", tmp_path / "data.zarr", *common, tmp_path / "new" / "p.zarr")
    run("predict", file, *common, tmp_path / "p.h5ad")
    stored = anndata.read_zarr(tmp_path / "new" / "p.zarr")
    assert_same_cells(stored, anndata.read_h5ad(tmp_path / "p.h5ad"))


def test_conditions_may_be_numbers(file, tmp_path):
    data = anndata.read_h5ad(file)
    data.obs["drug"] = (data.obs["drug"] == "stimulated").astype(int)
    data.write_h5ad(file)
    keys = ["--condition-key", "drug", "--cell-type-key", "kind", "--max-epochs", 2]
    run("evaluate", file, "--holdout", "type_1", "--target", "1", "--control", "0", "--out", tmp_path / "r", *keys)
    run("train", file, "--out", tmp_path / "m", *keys)
    out = tmp_path / "new" / "p.h5ad"
    run("predict", file, "--model", tmp_path / "m", "--target", "1", "--source", "0", "--out", out)
    assert set(anndata.read_h5ad(out).obs["drug"]) == {1}


def test_what_is_no_h5ad(tmp_path):
    path = tmp_path / "data.h5ad"
    path.write_text("no")
    assert "cannot be read as .h5ad file" in run("train", path, "--out", tmp_path / "m", code=1)


def test_missing_file():
    assert "does not exist" in run("train", "nowhere.h5ad", "--out", "m", code=2)


KEYS = ["--condition-key", "drug", "--cell-type-key", "kind"]


def test_variable_genes_are_chosen_without_hidden_cells(file, tmp_path):
    model, out = tmp_path / "model", tmp_path / "prediction.h5ad"
    asked = ["--condition-key", "drug", "--target", "stimulated", "--n-hvg", 10, "--max-epochs", 2]
    run("train", file, "--cell-type-key", "kind", "--holdout", "type_2", *asked, "--out", model)
    data = anndata.read_h5ad(file)
    holdout, _ = tv.benchmark.hold_out(
        data,
        group_key="kind",
        condition_key="drug",
        group="type_2",
        control="control",
        target="stimulated",
        n_hvg=10,
        control_share=0,
    )
    trained = tv.TRVAE.load(model, data[:, holdout.training.var_names].copy())
    assert trained.summary_stats["n_vars"] == 10
    # a file with all genes is predicted on those that the model knows
    effect = tmp_path / "effect.csv"
    predict = ["predict", file, "--model", model, "--target", "stimulated", "--source", "control"]
    predict += ["--cell-type-key", "kind", "--cell-type", "type_2"]
    run(*predict, "--out", out, "--effect", effect)
    prediction = anndata.read_h5ad(out)
    assert list(prediction.var_names) == list(holdout.training.var_names)
    table = pd.read_csv(effect)
    own = data[(data.obs["kind"] == "type_2") & (data.obs["drug"] == "control"), prediction.var_names].copy()
    expected = trained.get_perturbation_effect(own, target="stimulated")
    np.testing.assert_allclose(table["change"], expected["change"], rtol=1e-5, atol=1e-6)
    assert "is there already. Name another file with --effect." in run(
        *predict, "--out", tmp_path / "other.h5ad", "--effect", effect, code=1
    )
    assert "--effect x.txt ends in none of .csv" in run(
        *predict, "--out", tmp_path / "other.h5ad", "--effect", "x.txt", code=1
    )


def test_evaluate_is_what_python_does(file, tmp_path):
    """Genes, covariates and seed included."""
    out = tmp_path / "report"
    asked = [*KEYS, "--holdout", "type_1", "--target", "stimulated", "--n-hvg", 12, "--covariate", "donor", "--seed", 3]
    text = run("evaluate", file, *asked, "--max-epochs", 2, "--out", out)
    scores = pd.read_csv(out / "scores.csv")
    method = tv.benchmark.TRVAEMethod(
        train_kwargs={"max_epochs": 2}, setup_kwargs={"categorical_covariate_keys": ["donor"]}
    )
    table = tv.benchmark.leave_one_group_out(
        anndata.read_h5ad(file),
        group_key="kind",
        condition_key="drug",
        control="control",
        methods={"trVAE": method},
        groups=["type_1"],
        targets=["stimulated"],
        seeds=[3],
        n_hvg=12,
        progress_bar=False,
    )
    kept = scores[scores["method"] == "trVAE"].set_index(["genes", "metric"])["value"]
    expected = table[table["method"] == "trVAE"].set_index(["genes", "metric"])["value"]
    np.testing.assert_allclose(kept.reindex(expected.index), expected, rtol=1e-4, atol=1e-6)
    assert "change_real" in pd.read_csv(out / "effect.csv")
    assert "↓" in text


def test_evaluate_all_groups(file, tmp_path):
    out = tmp_path / "report"
    text = run("evaluate", file, *KEYS, "--all-groups", "--target", "stimulated", "--max-epochs", 2, "--out", out)
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["group"]) == {"type_1", "type_2", "type_3"}
    summary = tv.benchmark.summarize(scores).set_index("method")
    assert f"{summary.loc['trVAE', 'skill']:z.2f}" in text
    assert (out / "report.html").exists()
    for arguments in ([], ["--all-groups", "--holdout", "type_1"]):
        assert "either --holdout or --all-groups" in run(
            "evaluate", file, *KEYS, *arguments, "--target", "stimulated", code=1
        )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--covariate", "batch"], "Column 'batch' not found in obs"),
        (["--n-hvg", 1], "--n-hvg 1 leaves a single gene"),
    ],
)
def test_options_are_checked_before_training(file, tmp_path, option, message):
    asked = ["--holdout", "type_1", "--target", "stimulated", *KEYS, *option]
    assert message in run("evaluate", file, *asked, "--out", tmp_path / "report", code=1)
    assert message in run("train", file, "--condition-key", "drug", *option, "--out", tmp_path / "model", code=1)


def test_undefined_skills_say_why(file, tmp_path):
    data = anndata.read_h5ad(file)
    rng = np.random.default_rng(0)
    data = data[data.obs["drug"] == "control"].copy()
    data.obs["drug"] = rng.choice(["control", "stimulated"], data.n_obs)
    data.write_h5ad(file)
    text = run("evaluate", file, *KEYS, "--holdout", "type_1", "--target", "stimulated", "--max-epochs", 2,
               "--out", tmp_path / "report")  # fmt: skip
    assert "undefined" in text
    assert "Undefined: " in text


def test_quick_demo(tmp_path, recwarn):
    text = run("demo", "--quick", "--max-epochs", 2, "--out", tmp_path / "report")
    assert not [w for w in recwarn if "less than a third" in str(w.message)]  # it was asked for
    assert "discrimination" not in text  # of a single target, so that it has no value
    assert "Simulated 2400 cells x 200 genes" in text
    assert (tmp_path / "report" / "scores.csv").exists()
