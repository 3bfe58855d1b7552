"""The card of a shared model says what was measured, what to expect and what not to do with it."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers import make_trained

import trvae_scvi as tv

KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
ASKED = {"title": "Simulated cells", "license": "cc-by-4.0"}


@pytest.fixture(scope="module")
def cells():
    adata = tv.datasets.simulate_perturbation(n_cells=1200, n_genes=60, n_types=4).adata
    hidden = (adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "stimulated")
    return adata[~hidden].copy()


@pytest.fixture(scope="module")
def model(cells):
    return make_trained(cells.copy(), {"labels_key": "cell_type"})


@pytest.fixture(scope="module")
def table(cells):
    return tv.benchmark.leave_one_group_out(cells, **KEYS, methods={}, progress_bar=False)


def table_rows(card):
    """The cells of all tables of a card."""
    return [line[2:-2].split(" | ") for line in card.splitlines() if line.startswith("| ")]


def test_it_says_what_was_measured_with_or_without_the_data(cells, model, tmp_path):
    card = tv.benchmark.model_card(model, description="From nowhere.", **ASKED)
    assert "- Conditions (`condition`): `control`, `stimulated`\n" in card
    assert "- Genes: 60 (`gene_1`, " in card and "and 48 more" in card
    assert f"- Training and validation cells: {cells.n_obs:,}\n" in card
    assert "\n\n- type_1 under `stimulated`\n\n" in card
    assert "From nowhere." in card
    settings = json.loads(card.split("```json\n")[1].split("\n```")[0])
    assert settings["n_latent"] == 5 and settings["epochs"] == len(model.history_["train_loss"])
    model.save(tmp_path / "model")
    for given in (False, cells[:100].copy()):  # the cells it is loaded with are not those it was trained on
        shared = tv.TRVAE.load(tmp_path / "model", given)
        assert tv.benchmark.model_card(shared, description="From nowhere.", **ASKED) == card


def test_it_does_not_hide_that_nobody_looked(model):
    card = tv.benchmark.model_card(model, **ASKED)
    assert "**Not known.**" in card
    assert "- Any group before somebody has assessed" in card


def test_a_model_that_was_not_assessed_gets_no_verdict(cells, model, table):
    found = tv.benchmark.assess(cells, group="type_1", target="stimulated", table=table, **KEYS)
    card = tv.benchmark.model_card(model, assessments=found, table=table, **ASKED)
    row = table_rows(card)[2]
    assert row[:4] == ["type_1", "stimulated", "not assessed", "-"] and row[4] == found.recommended
    assert f"- type_1 under stimulated, for anything: this model was not assessed, {found.recommended} was." in card
    assert found.message in card and "Not known" not in card
    summary = tv.benchmark.summarize(table).set_index("method")
    ceiling = summary.loc["noise ceiling"]
    assert ["noise ceiling", f"{ceiling['skill']:.2f} ({ceiling['lower']:.2f} to {ceiling['upper']:.2f})"] in [
        row[:2] for row in table_rows(card)
    ]
    assert "`type_2`, `type_3`, `type_4`, held out one by one (3 hold-outs, " in card
    assert (f"in {summary['n_without_room'].iloc[0]} of them nothing" in card) == bool(ceiling["n_without_room"])


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("use", None),
        ("use means only", "for the variation of cells"),
        ("use the direction only", "for the size of changes"),
        ("do not use", "for anything."),
        ("no effect", "for anything: no effect"),
    ],
)
def test_what_a_verdict_excludes(cells, model, table, verdict, said):
    found = tv.benchmark.assess(cells, group="type_1", target="stimulated", table=table, **KEYS)
    found = dataclasses.replace(found, verdict=verdict, level=0.5)
    card = tv.benchmark.model_card(model, assessments=[found], method=found.recommended, **ASKED)
    own = found.expected.loc[found.recommended].round(2) + 0.0
    skill = f"{own['skill']:.2f} ({own['lower']:.2f} to {own['upper']:.2f}), 50%"
    assert table_rows(card)[2][2:6] == [verdict, skill, found.recommended, skill]
    excluded = [line for line in card.splitlines() if line.startswith("- type_1 under stimulated, ")]
    assert not excluded if said is None else said in excluded[0]


def test_where_nothing_can_be_told_no_skill_is_claimed(model, table):
    """A ceiling at the best trivial prediction, in every hold-out."""
    card = tv.benchmark.model_card(model, table=table.assign(skill=np.nan), **ASKED)
    assert "in 3 of them nothing could be told" in card
    assert {row[1] for row in table_rows(card)[2:]} == {"undefined"}


def test_its_code_runs(cells, model, tmp_path, monkeypatch):
    model.save(tmp_path / "repository")
    cells.write_h5ad(tmp_path / "my_cells.h5ad")
    (code,) = re.findall(r"```python\n(.*?)```", tv.benchmark.model_card(model, **ASKED), flags=re.DOTALL)
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name: str(tmp_path / "repository"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "card", "exec"), names)
    assert (names["predicted"].obs["condition"] == "stimulated").all()


def test_names_are_written_as_they_are(cells):
    """Numbers as conditions, and labels with what Markdown would take for its own."""
    adata = cells.copy()
    adata.obs["condition"] = (adata.obs["condition"] == "stimulated").astype(int).astype("category")
    odd = 'a|b\n`c` "d"'
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_1": odd})
    model = make_trained(adata, {"labels_key": "cell_type"})
    keys = {**KEYS, "control": 0}
    found = tv.benchmark.assess(adata, group=odd, target=1, methods={}, progress_bar=False, **keys)
    card = tv.benchmark.model_card(model, assessments=[found], title="x\ny", license="cc0-1.0")
    assert "# x y\n" in card
    assert "predict_perturbation(cells, target=1)" in card
    assert '- Labels (`cell_type`): `` a|b `c` "d" ``, `type_2`' in card
    assert '| a\\|b `c` "d" | 1 | not assessed |' in card


def test_a_query_is_told_from_its_reference(cells, model):
    query = cells[::12].copy()
    query.obs["condition"] = query.obs["condition"].astype(str).replace("stimulated", "heat").astype("category")
    as_it_is = tv.TRVAE.load_query_data(cells[::12].copy(), model)
    assert "- Training and validation cells: not known of the query" in tv.benchmark.model_card(as_it_is, **ASKED)
    mapped = tv.TRVAE.load_query_data(query, model)
    mapped.train(max_epochs=2, enable_progress_bar=False)
    card = tv.benchmark.model_card(mapped, **ASKED)
    assert f"- Training and validation cells: {query.n_obs} of the query, on top of a reference\n" in card
    assert '"epochs of the query": 2' in card


def test_settings_are_json(cells):
    adata = cells.copy()
    model = make_trained(adata, kl_weight=np.float32(0.5), n_hidden=np.array([16, 8]), n_layers=2)
    settings = json.loads(tv.benchmark.model_card(model, **ASKED).split("```json\n")[1].split("\n```")[0])
    assert settings["kl_weight"] == 0.5 and settings["n_hidden"] == [16, 8]


def test_the_hub_takes_it(model, table):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    read = huggingface_hub.ModelCard(tv.benchmark.model_card(model, table=table, **ASKED))
    assert read.data.license == "cc-by-4.0"
    assert {"model_cls_name:TRVAE", "perturbation"} <= set(read.data.tags)


def test_conditions_that_are_described_are_named():
    adata, features, _ = tv.datasets.simulate_conditions(n_cells=900, n_genes=50, n_conditions=12)
    tv.TRVAE.setup_anndata(adata)
    model = tv.TRVAE(adata, condition_features=features)
    model.train(max_epochs=1, enable_progress_bar=False)
    card = tv.benchmark.model_card(model, **ASKED)
    unmeasured = [name for name in features.index if name not in set(adata.obs["condition"])]
    assert f"- Described, not measured: {', '.join(f'`{name}`' for name in unmeasured)}\n" in card
    assert '"feature_1"' in card


def test_it_refuses(adata, cells, model, table):
    tv.TRVAE.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="Call `train` first"):
        tv.benchmark.model_card(tv.TRVAE(adata), **ASKED)
    found = tv.benchmark.assess(cells, group="type_1", target="stimulated", table=table, **KEYS)
    with pytest.raises(ValueError, match="target of an assessment.*found 'heat'"):
        tv.benchmark.model_card(model, assessments=dataclasses.replace(found, target="heat"), **ASKED)
    with pytest.raises(ValueError, match="group of an assessment.*found 'martian'"):
        tv.benchmark.model_card(model, assessments=dataclasses.replace(found, group="martian"), **ASKED)
    with pytest.raises(ValueError, match="`table` to have targets out of"):
        tv.benchmark.model_card(model, table=table.assign(target="heat"), **ASKED)
    with pytest.raises(KeyError, match="no columns \\['value'\\]"):
        tv.benchmark.model_card(model, table=table.drop(columns="value"), **ASKED)
    with pytest.raises(TypeError, match="`license` to be a text"):
        tv.benchmark.model_card(model, title="Cells", license=None)
    with pytest.raises(ValueError, match="Expected a `title`"):
        tv.benchmark.model_card(model, title=" ", license="cc0-1.0")
