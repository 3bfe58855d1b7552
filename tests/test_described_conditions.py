"""Conditions that were not measured, predicted from what describes them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_same_cells, make_trained

import trvae_scvi as tv
from trvae_scvi.metrics import comparison_matrix
from trvae_scvi.predict._targets import _warn

SETUP = {"labels_key": "cell_type"}
TRAIN = {"max_epochs": 40, "early_stopping": False}


@pytest.fixture(scope="module")
def simulated():
    return tv.datasets.simulate_conditions(2400, 80, n_conditions=30, seed=1)


@pytest.fixture(scope="module")
def described(simulated):
    return make_trained(simulated.adata, SETUP, TRAIN, condition_features=simulated.features)


@pytest.fixture(scope="module")
def control(simulated):
    return simulated.adata[(simulated.adata.obs["condition"] == "control").to_numpy()].copy()


def unmeasured(simulated):
    return list(simulated.truth.obs["condition"].cat.categories)


def errors(predicted, simulated, control):
    """Squared errors of means under the unmeasured conditions: of a prediction, of no change, of the mean response."""
    measured = simulated.adata[(simulated.adata.obs["condition"] != "control").to_numpy()]
    mean_response = comparison_matrix(measured).mean(axis=0)
    own = comparison_matrix(control).mean(axis=0)
    found = []
    for name in unmeasured(simulated):
        real, guess = (
            comparison_matrix(cells[(cells.obs["condition"] == name).to_numpy()]).mean(axis=0)
            for cells in (simulated.truth, predicted)
        )
        found.append([((values - real) ** 2).mean() for values in (guess, own, mean_response)])
    return np.mean(found, axis=0)


# ---- predictions


def test_unmeasured_conditions_are_predicted_from_their_descriptions(described, simulated, control):
    predicted = described.predict_perturbation(control, target=unmeasured(simulated))
    error, of_no_change, of_mean = errors(predicted, simulated, control)
    assert error < 0.4 * min(of_no_change, of_mean)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse", "bernoulli"])
def test_every_likelihood_takes_descriptions(simulated, control, likelihood):
    adata, own = simulated.adata.copy(), control.copy()
    for cells in (adata, own):
        if likelihood == "mse":
            cells.X = comparison_matrix(cells).astype(np.float32)
        elif likelihood == "bernoulli":
            cells.X = (cells.X.toarray() > 0).astype(np.float32)
    short = {"max_epochs": 15, "early_stopping": False}
    features = {"condition_features": simulated.features}
    model = make_trained(adata, SETUP, short, gene_likelihood=likelihood, **features)
    name = unmeasured(simulated)[0]
    method = "mean" if likelihood == "bernoulli" else "counterfactual"
    predicted = model.predict_perturbation(own, target=name, method=method)
    # against the truth on the scale of the data
    truth = simulated.truth[(simulated.truth.obs["condition"] == name).to_numpy()]
    real = {
        "mse": lambda: comparison_matrix(truth),
        "bernoulli": lambda: (truth.X.toarray() > 0).astype(float),
    }.get(likelihood, lambda: truth.X.toarray())().mean(axis=0)
    before, after = (np.asarray(cells.X.mean(axis=0)).ravel() for cells in (own, predicted))
    assert np.corrcoef(after - before, real - before)[0, 1] > 0.6


def test_size_factors_multiply_the_effect(simulated, control):
    adata, own = simulated.adata.copy(), control.copy()
    for cells in (adata, own):
        cells.obs["size"] = np.asarray(cells.X.sum(axis=1)).ravel() / 50.0
    short = {"max_epochs": 15, "early_stopping": False}
    features = {"condition_features": simulated.features}
    with_them = make_trained(adata, SETUP | {"size_factor_key": "size"}, short, **features)
    predicted = with_them.predict_perturbation(own, target=unmeasured(simulated))
    error, of_no_change, of_mean = errors(predicted, simulated, own)
    assert error < 0.6 * min(of_no_change, of_mean)


def test_the_description_of_the_control_is_the_control(simulated, control):
    """A dose of 0 changes not a single count."""
    table = pd.concat([simulated.features, simulated.features.loc[["control"]].rename({"control": "nothing"})])
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 2}, condition_features=table)
    predicted = model.predict_perturbation(control, target="nothing")
    assert (predicted.X != control.X).nnz == 0
    effect = model.get_perturbation_effect(control, target="nothing", model_error=(0, 0))
    assert (effect["change"] == 0).all()


def test_a_prediction_says_what_it_leans_on(described, simulated, control):
    name = unmeasured(simulated)[0]
    predicted = described.predict_perturbation(control, target=["condition_1", name])
    notes = predicted.uns["trvae"]
    assert notes["target_measured"].tolist() == ["yes", "no"]
    conditions = notes["conditions"].tolist()
    assert conditions == list(described.get_state_registry("batch").categorical_mapping)
    assert notes["weights"][0].tolist() == [float(c == "condition_1") for c in conditions]
    assert notes["weights"].sum(axis=1) == pytest.approx([1.0, 1.0])
    assert notes["explained"][0] == 1.0
    assert 0.5 < notes["explained"][1] < 1.0


def test_a_target_is_predicted_alike_alone_and_among_others(described, simulated, control):
    name = unmeasured(simulated)[0]
    alone = described.predict_perturbation(control, target=name)
    among = described.predict_perturbation(control, target=["condition_1", *reversed(unmeasured(simulated))])
    assert (alone.X != among[(among.obs["condition"] == name).to_numpy()].X).nnz == 0


def test_all_are_the_measured_ones(described, control):
    predicted = described.predict_perturbation(control, target="all")
    assert set(predicted.obs["condition"]) == set(described.adata.obs["condition"])


def test_a_table_changes_no_prediction_for_measured_conditions(simulated, control):
    short = {"max_epochs": 2}
    without = make_trained(simulated.adata, SETUP, short)
    with_it = make_trained(simulated.adata, SETUP, short, condition_features=simulated.features)
    predictions = [model.predict_perturbation(control, target="condition_1") for model in (without, with_it)]
    assert_same_cells(*predictions)
    assert predictions[0].uns["trvae"]["model"] == predictions[1].uns["trvae"]["model"]


def test_intervals_hold_what_the_description_leaves_open(described, simulated, control):
    """The less it explains, the wider they are."""
    half = tv.datasets.simulate_conditions(2400, 80, n_conditions=30, explained=0.3, seed=1)
    widths = {}
    for case, model in (
        ("all", described),
        ("half", make_trained(half.adata, SETUP, {"max_epochs": 15}, condition_features=half.features)),
    ):
        cells = control if case == "all" else half.adata[(half.adata.obs["condition"] == "control").to_numpy()]
        for target in ("condition_1", unmeasured(simulated)[0]):
            table = model.get_perturbation_effect(cells, target=target, model_error=(0, 0))
            widths[case, target] = (table["change_upper"] - table["change_lower"]).mean()
    known, asked = "condition_1", unmeasured(simulated)[0]
    assert widths["all", asked] > 1.03 * widths["all", known]
    assert widths["half", asked] > 1.3 * widths["half", known]


def test_intervals_cover_unmeasured_conditions(described, simulated, control):
    """Changes from one half of the control cells to what becomes of the other half."""
    half = np.arange(control.n_obs) % 2 == 0
    table = described.get_perturbation_effect(control[half], target=unmeasured(simulated), groupby="condition")
    covered = []
    for name, rows in table.groupby("target"):
        truth = simulated.truth[(simulated.truth.obs["condition"] == name).to_numpy()]
        real = comparison_matrix(truth[~half]).mean(axis=0) - comparison_matrix(control[half]).mean(axis=0)
        covered.append(((rows["change_lower"] <= real) & (real <= rows["change_upper"])).mean())
    # a small network trained for a short time
    assert 0.8 < np.mean(covered) < 0.97


def test_a_change_holds_nothing_of_what_the_control_is_off_by(described, simulated, control):
    """Predicted cells do, as others under the target have another sampling noise than the control."""
    names = unmeasured(simulated)
    table = described.get_perturbation_effect(control, target=names, groupby="condition")
    cells, own = described.predict_perturbation(control, target=names), comparison_matrix(control).mean(axis=0)
    of_change, of_cells = [], []
    for name in names:
        # what these very cells do
        truth = simulated.truth[(simulated.truth.obs["condition"] == name).to_numpy()]
        real = comparison_matrix(truth).mean(axis=0) - own
        predicted = comparison_matrix(cells[(cells.obs["condition"] == name).to_numpy()]).mean(axis=0) - own
        of_change.append(((table.loc[table["target"] == name, "change"].to_numpy() - real) ** 2).mean())
        of_cells.append(((predicted - real) ** 2).mean())
    assert np.mean(of_change) < 0.8 * np.mean(of_cells)


def test_other_cells_than_the_model_s_own_are_changed_by_the_change_alone():
    """What the control's means are off by is in its cells, and in no others."""
    simulated = tv.datasets.simulate_conditions(1400, 80, n_conditions=60, n_types=1, seed=5)
    cells, name = simulated.adata, unmeasured(simulated)[0]
    model = make_trained(cells, {}, {"max_epochs": 30}, condition_features=simulated.features)
    own = cells[(cells.obs["condition"] == "control").to_numpy()].copy()
    others = own.copy()
    others.X.data += 1  # cells of other values are other cells
    differences = []
    for given in (own, others):
        predicted = model.predict_perturbation(given, target=name)
        effect = model.get_perturbation_effect(given, target=name, groupby="condition")
        change = comparison_matrix(predicted).mean(axis=0) - comparison_matrix(given).mean(axis=0)
        differences.append(np.abs(effect["change"] - change).max())
    assert differences[0] > 0.05
    assert differences[1] < 1e-4
    # cell by cell, whatever else is asked for
    mixed = own.copy()
    mixed.X[0] = others.X[0]
    first, second, third = (model.predict_perturbation(c, target=name, method="mean").X for c in (own, others, mixed))
    np.testing.assert_allclose(third[1:], first[1:], rtol=1e-4)
    np.testing.assert_allclose(third[0], second[0], rtol=1e-4)
    assert np.abs(second[0] / first[0] - 1).max() > 0.05


# ---- warnings


def test_a_description_like_no_other_warns(simulated, control):
    apart = simulated.features.assign(another=0.0)
    apart.loc["far away"] = [0.0] * (apart.shape[1] - 1) + [5.0]
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 2}, condition_features=apart)
    with pytest.warns(UserWarning, match=r"No measured condition is described like \['far away'\]"):
        model.predict_perturbation(control, target="far away")


def test_descriptions_that_say_nothing_warn(simulated, control):
    shuffled = simulated.features.copy()
    rows = [name for name in shuffled.index if name != "control"]
    shuffled.loc[rows] = np.random.default_rng(0).standard_normal((len(rows), shuffled.shape[1]))
    own = simulated.adata[simulated.adata.obs["condition"].isin(["control", *rows])].copy()
    model = make_trained(own, SETUP, {"max_epochs": 2}, condition_features=shuffled)
    with pytest.warns(UserWarning, match="on average"):
        model.predict_perturbation(control, target=unmeasured(simulated))


def test_little_that_is_explained_warns():
    """A few conditions' descriptions always explain a little, by chance."""
    drugs, table, truth = tv.datasets.simulate_conditions(4000, 250, n_conditions=40, design="doses", seed=1)
    rows = [name for name in drugs.obs["condition"].unique() if name != "control"]
    table.loc[rows] = table.loc[np.random.default_rng(0).permutation(rows)].to_numpy()
    model = make_trained(drugs, SETUP, {"max_epochs": 1}, condition_features=table)
    with pytest.warns(UserWarning, match="on average"):
        predicted = model.predict_perturbation(drugs[:50], target=truth.obs["condition"].iloc[0])
    assert predicted.uns["trvae"]["explained"][0] < 0.1


@pytest.mark.parametrize(
    ("share", "described", "explained", "match"),
    [
        (0.05, [1.0, 0.2], [1.0, 0.2], r"Descriptions explain 5% .* differ by: \['x'\] are"),
        (0.9, [1.0, 0.05], [1.0, 0.05], r"No measured condition is described like \['x'\]"),
        (0.2, [1.0, 0.5], [1.0, 0.05], r"explain less than 10% of what \['x'\] may do"),
    ],
)
def test_each_reason_has_its_warning(share, described, explained, match):
    found = SimpleNamespace(described=np.array(described), explained=np.array(explained))
    with pytest.warns(UserWarning, match=match):
        _warn(["control again", "x"], np.array([[0.0], [1.0]]), found, share)


def test_the_description_of_the_control_does_not_warn(simulated, control):
    shuffled = simulated.features.copy()
    rows = [name for name in shuffled.index if name != "control"]
    shuffled.loc[rows] = np.random.default_rng(0).standard_normal((len(rows), shuffled.shape[1]))
    shuffled.loc["nothing"] = 0.0
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 2}, condition_features=shuffled)
    with pytest.warns(UserWarning, match=r"differ by: \['condition_30'\] are predicted"):
        model.predict_perturbation(control, target=["nothing", "condition_30"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict_perturbation(control, target="nothing")


def test_what_is_known_does_not_warn(described, simulated, control):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described.predict_perturbation(control, target=unmeasured(simulated))


# ---- combinations


@pytest.fixture(scope="module")
def pairs():
    """Cells of pairs, their descriptions without those of pairs that were not measured, the truth and a model."""
    cells, table, truth = tv.datasets.simulate_conditions(2400, 80, n_conditions=28, design="pairs", n_types=1, seed=2)
    known = table.loc[[name for name in table.index if name in set(cells.obs["condition"])]]
    return cells, known, truth, make_trained(cells, {}, TRAIN, condition_features=known)


def test_measured_pairs_inform_others(pairs):
    cells, _, truth, model = pairs
    plain = make_trained(cells, {}, TRAIN)
    control = cells[(cells.obs["condition"] == "control").to_numpy()].copy()
    names = list(truth.obs["condition"].unique())
    real = {name: comparison_matrix(truth[(truth.obs["condition"] == name).to_numpy()]).mean(axis=0) for name in names}
    errors_of = []
    for each in (model, plain):
        predicted = each.predict_combination(control, target=names, control="control")
        means = (comparison_matrix(predicted[(predicted.obs["condition"] == n).to_numpy()]).mean(axis=0) for n in names)
        errors_of.append(np.mean([((mean - real[n]) ** 2).mean() for n, mean in zip(names, means, strict=True)]))
    assert errors_of[0] < 0.9 * errors_of[1]
    assert np.isfinite(predicted.uns["trvae"]["weights"]).all()


def test_a_combination_is_described_by_the_sum_of_its_parts(pairs):
    cells, known, truth, model = pairs
    name = truth.obs["condition"].iloc[0]
    reversed_name = "+".join(reversed(name.split("+")))
    table = pd.DataFrame([known.loc[name.split("+")].sum()], index=[reversed_name])
    mapped = tv.TRVAE.load_query_data(cells[:50].copy(), model, condition_features=table)
    asked = {"source": "control", "method": "mean"}
    by_parts = model.predict_combination(cells, target=name, control="control", **asked)
    directly = mapped.predict_perturbation(cells, target=reversed_name, **asked)
    np.testing.assert_allclose(directly.X, by_parts.X, rtol=1e-4)
    assert 0.0 < by_parts.uns["trvae"]["explained"][0] < 1.0


def test_a_combination_with_what_only_a_query_has_is_the_additive_one(pairs):
    cells, _, truth, model = pairs
    name = truth.obs["condition"].iloc[0]
    query = cells[(cells.obs["condition"] == "gene_1").to_numpy()].copy()
    query.obs["condition"] = "new"
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(max_epochs=1)
    asked = {"control": "control", "source": "control", "method": "mean"}
    both = mapped.predict_combination(cells, target=["gene_2+new", name], **asked)
    explained = both.uns["trvae"]["explained"]
    assert np.isnan(explained[0])
    assert 0.0 < explained[1] < 1.0
    for i, target in enumerate(["gene_2+new", name]):
        alone = mapped.predict_combination(cells, target=target, **asked)
        rows = (both.obs["condition"] == target).to_numpy()
        np.testing.assert_allclose(both[rows].X, alone.X, rtol=1e-4)
        np.testing.assert_allclose(both.uns["trvae"]["weights"][i], alone.uns["trvae"]["weights"][0])


def test_single_effects_are_added_up_where_no_combination_was_measured(pairs):
    """Only combinations tell how far single effects, which are known by themselves, add up."""
    cells, known, truth, _ = pairs
    single = cells[~cells.obs["condition"].str.contains(r"\+").to_numpy()].copy()
    name, short = truth.obs["condition"].iloc[0], {"max_epochs": 2}
    models = [make_trained(single, {}, short), make_trained(single, {}, short, condition_features=known)]
    first, second = (m.predict_combination(single, target=name, control="control", source="control") for m in models)
    assert_same_cells(first, second)


def test_what_a_query_has_does_not_change_combinations_of_others(pairs):
    cells, _, truth, model = pairs
    name = truth.obs["condition"].iloc[0]
    query = cells[cells.obs["condition"].isin(["gene_1", "gene_2"]).to_numpy()].copy()
    query.obs["condition"] = query.obs["condition"].map({"gene_1": "new", "gene_2": f"new+{name.split('+')[0]}"})
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(max_epochs=1)
    asked = {"target": name, "control": "control", "source": "control", "method": "mean"}
    first, second = (m.predict_combination(cells, **asked).X for m in (model, mapped))
    np.testing.assert_allclose(first, second, rtol=1e-4)


def test_factors_that_were_never_alone_are_described_too():
    """A drug and its dose: no dose is without a drug, and yet sums of both are known."""
    names = [f"{drug}+{dose}" for drug in "ABCD" for dose in ("1 nM", "10 nM", "100 nM")]
    simulated = tv.datasets.simulate_conditions(1500, 60, n_conditions=12, n_types=1)
    cells = simulated.adata.copy()
    kept = cells.obs["condition"].isin(["control", *[f"condition_{i}" for i in range(1, 10)]]).to_numpy()
    cells = cells[kept].copy()
    renamed = {f"condition_{i + 1}": name for i, name in enumerate(names)}
    cells.obs["condition"] = cells.obs["condition"].astype(str).replace(renamed)
    table = tv.features.combination_features(names, control="control")
    asked = {"source": "control", "method": "mean"}
    kept_out = cells[(cells.obs["condition"] != "B+10 nM").to_numpy()].copy()
    model = make_trained(kept_out, {}, {"max_epochs": 2}, condition_features=table)
    model.process_["variances"] = np.array([0.1, 0.5, 0.3, 0.1])  # these cells' own do not follow from it
    combined = model.predict_combination(kept_out, target="B+10 nM", control="control", **asked)
    directly = model.predict_perturbation(kept_out, target="B+10 nM", **asked)
    np.testing.assert_allclose(combined.X, directly.X, rtol=1e-4)
    assert "explained" in combined.uns["trvae"]


@pytest.mark.parametrize("n_columns", [3, 40])
def test_descriptions_that_do_not_add_up_leave_combinations_additive(pairs, n_columns):
    cells, known, truth, _ = pairs
    rows = [name for name in known.index if name != "control"]
    other = pd.DataFrame(np.random.default_rng(1).standard_normal((len(rows), n_columns)), index=rows)
    other.loc["control"] = 0.0
    name = truth.obs["condition"].iloc[0]
    short = {"max_epochs": 2}
    models = [make_trained(cells, {}, short), make_trained(cells, {}, short, condition_features=other)]
    first, second = (m.predict_combination(cells, target=name, control="control", source="control") for m in models)
    assert_same_cells(first, second)


# ---- what a table must be


def a_table(adata):
    names = list(adata.obs["condition"].unique())
    table = pd.DataFrame({"x": np.arange(1.0, len(names) + 1), "y": 1.0}, index=names)
    table.loc["control"] = 0.0
    return table


BAD_TABLES = [
    (lambda t: t.to_numpy(), TypeError, "pandas DataFrame with one row for every condition"),
    (lambda t: t.iloc[:0], ValueError, "found shape"),
    (lambda t: t.drop(index="stimulated"), ValueError, r"none for \['stimulated'\]"),
    (lambda t: pd.concat([t, t]), ValueError, "more than once"),
    (lambda t: t.assign(x=[np.nan, 0.0]), ValueError, "finite numbers"),
    (lambda t: t.assign(x=[np.inf, 0.0]), ValueError, "finite numbers"),
    (lambda t: t.assign(x=["a", "b"]), TypeError, r"found others: \['x'\]"),
    (lambda t: t + 1.0, ValueError, "Subtract the control's row"),
    (lambda t: 0.0 * t, ValueError, r"found 2: \["),
    (lambda t: t.rename(index={"control": np.nan}), ValueError, "a missing name"),
    (lambda t: t.set_index("x", append=True), TypeError, "MultiIndex"),
    (lambda t: t.set_axis(["x", "x"], axis=1), ValueError, r"found \['x'\] more than once"),
    (lambda t: t.astype(complex), TypeError, "columns of numbers"),
    (lambda t: t.astype(object), TypeError, "astype\\(float\\)"),
    (lambda t: pd.concat([t, t.iloc[:1].rename(index=lambda _: "all") + 1.0]), ValueError, "cannot be named 'all'"),
]


@pytest.mark.parametrize(("change", "error", "match"), BAD_TABLES)
def test_bad_tables_are_refused_before_training(adata, change, error, match):
    adata = adata.copy()
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises(error, match=match):
        tv.TRVAE(adata, condition_features=change(a_table(adata)))


@pytest.mark.parametrize("options", [{"condition_layer": "first"}])
def test_what_has_no_offsets_takes_no_table(adata, options):
    adata = adata.copy()
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match='condition_layer="output"'):
        tv.TRVAE(adata, condition_features=a_table(adata), **options)


def test_more_columns_than_conditions_and_constant_ones_are_taken(simulated, control):
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        simulated.features.to_numpy() @ rng.standard_normal((simulated.features.shape[1], 10_000)),
        index=simulated.features.index,
    )
    wide["always 0"] = 0.0
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 10}, condition_features=wide)
    predicted = model.predict_perturbation(control, target=unmeasured(simulated))
    error, of_no_change, of_mean = errors(predicted, simulated, control)
    assert error < 0.6 * min(of_no_change, of_mean)


def test_a_table_is_not_changed_and_may_hold_booleans_and_integers(adata):
    adata = adata.copy()
    tv.TRVAE.setup_anndata(adata)
    table = a_table(adata).astype({"x": int, "y": bool})
    before = table.copy()
    tv.TRVAE(adata, condition_features=table)
    pd.testing.assert_frame_equal(table, before)


def test_changing_the_table_afterwards_changes_nothing(simulated, control):
    table, name = simulated.features.copy(), unmeasured(simulated)[0]
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 2}, condition_features=table)
    before = model.predict_perturbation(control, target=name)
    table.loc[name] = 9.0
    assert (model.predict_perturbation(control, target=name).X != before.X).nnz == 0


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1e9, 1e200])
def test_the_unit_of_a_table_does_not_matter(simulated, control, unit):
    short, name = {"max_epochs": 2}, unmeasured(simulated)[0]
    plain, scaled = (
        make_trained(simulated.adata, SETUP, short, condition_features=factor * simulated.features)
        for factor in (1.0, unit)
    )
    effects = [model.get_perturbation_effect(control, target=name)["change"] for model in (plain, scaled)]
    np.testing.assert_allclose(*effects, atol=0.02)


def test_a_column_on_another_scale_warns(simulated):
    adata = simulated.adata.copy()
    tv.TRVAE.setup_anndata(adata)
    with pytest.warns(UserWarning, match="Columns of `condition_features` differ in scale: 'feature_2'"):
        tv.TRVAE(adata, condition_features=simulated.features.assign(feature_2=1000 * simulated.features["feature_2"]))


def test_unknown_targets_name_those_that_can_be_asked_for(described, control):
    with pytest.raises(ValueError, match="among those described alone"):
        described.predict_perturbation(control, target="condition_99")


def test_without_a_table_nothing_else_can_be_asked_for(trained, control):
    with pytest.raises(ValueError, match="found \\['condition_30'\\]"):
        trained.predict_perturbation(trained.adata, target="condition_30")


# ---- models that are kept


def test_a_saved_model_predicts_alike(described, simulated, control, tmp_path):
    described.save(tmp_path / "model")
    loaded = tv.TRVAE.load(tmp_path / "model", False)
    first, second = (m.predict_perturbation(control, target=unmeasured(simulated)[0]) for m in (described, loaded))
    assert_same_cells(first, second)


def test_a_query_keeps_what_the_reference_can_be_asked_for(described, simulated, control):
    name = unmeasured(simulated)[0]
    of_query = simulated.truth[(simulated.truth.obs["condition"] == name).to_numpy()].copy()
    of_query.obs["condition"] = pd.Categorical(["something new"] * of_query.n_obs)
    mapped = tv.TRVAE.load_query_data(anndata.AnnData(of_query.X, of_query.obs, of_query.var), described)
    mapped.train(max_epochs=2)
    first, second = (m.predict_perturbation(control, target=name) for m in (described, mapped))
    assert (first.X != second.X).nnz == 0


def test_a_query_that_trains_all_of_the_network_forgets_how_it_answers_descriptions(described, simulated, control):
    mapped = tv.TRVAE.load_query_data(simulated.adata[:60].copy(), described, unfrozen=True)
    mapped.train(max_epochs=1)
    with pytest.raises(ValueError, match="a query that trains more than what is new"):
        mapped.predict_perturbation(control, target=unmeasured(simulated)[0])


def test_a_query_may_bring_further_descriptions(described, simulated, control):
    name = unmeasured(simulated)[0]
    columns = simulated.features.columns[::-1]  # in another order, with a row that the reference has
    table = simulated.features.loc[["condition_1", name], columns].rename(index={name: "the same"})
    query = simulated.adata[:60].copy()
    mapped = tv.TRVAE.load_query_data(query, described, condition_features=table)
    asked = {"method": "mean", "target": ["the same", name]}
    predicted = mapped.predict_perturbation(control, **asked).X
    np.testing.assert_allclose(*np.split(predicted, 2), rtol=1e-4)
    before = described.predict_perturbation(control, target=name, method="mean")
    np.testing.assert_allclose(predicted[: control.n_obs], before.X, rtol=1e-4)
    with pytest.raises(ValueError, match="the same"):
        described.predict_perturbation(control, target="the same")


BAD_ROWS = [
    (lambda t: t.to_numpy(), TypeError, "pandas DataFrame"),
    (lambda t: t.iloc[:, 1:], ValueError, r"in one of both alone \['feature_1'\]"),
    (lambda t: t.rename(columns={"feature_6": "other"}), ValueError, r"alone \['feature_6', 'other'\]"),
    (lambda t: pd.concat([t, t.iloc[:, :1]], axis=1), ValueError, r"found \['feature_1'\] more than once"),
    (lambda t: t.rename(index={"condition_30": "all"}), ValueError, "cannot be named 'all'"),
    (lambda t: t + 1.0, ValueError, r"found others for \['control', 'condition_1'"),
]


@pytest.mark.parametrize(("change", "error", "match"), BAD_ROWS)
def test_further_descriptions_continue_those_of_the_reference(described, simulated, change, error, match):
    query = simulated.adata[:60].copy()
    with pytest.raises(error, match=match):
        tv.TRVAE.load_query_data(query, described, condition_features=change(simulated.features))


def test_a_reference_without_descriptions_takes_none(trained, adata):
    with pytest.raises(ValueError, match="trained without `condition_features`"):
        tv.TRVAE.load_query_data(adata.copy(), trained, condition_features=a_table(adata))


def test_a_model_that_learned_from_no_cells_of_its_own_says_so(simulated, control):
    model = make_trained(simulated.adata, SETUP, {"max_epochs": 1}, condition_features=simulated.features)
    model.process_ = None
    with pytest.raises(ValueError, match="has not learned how conditions differ"):
        model.predict_perturbation(control, target=unmeasured(simulated)[0])
