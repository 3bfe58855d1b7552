"""The card of a shared model says what was measured, what to expect and what not to do with it."""

from __future__ import annotations

import json

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


def test_it_says_what_was_measured_with_or_without_the_data(cells, model, tmp_path):
    card = tv.benchmark.model_card(model, description="From nowhere.", **ASKED)
    assert "- Conditions (`condition`): `control`, `stimulated`\n" in card
    assert "- Genes: 60 (`gene_1`, " in card and "and 48 more" in card
    assert f"- Cells: {cells.n_obs:,}\n" in card
    assert "\n\n- type_1 under `stimulated`\n\n" in card
    assert "From nowhere." in card
    settings = json.loads(card.split("```json\n")[1].split("\n```")[0])
    assert settings["n_latent"] == 5 and settings["epochs"] == len(model.history_["train_loss"])
    model.save(tmp_path / "model")
    assert (
        tv.benchmark.model_card(tv.TRVAE.load(tmp_path / "model", False), description="From nowhere.", **ASKED) == card
    )


def test_it_does_not_hide_that_nobody_looked(model):
    card = tv.benchmark.model_card(model, **ASKED)
    assert "**Not known.**" in card
    assert "- Any group before somebody has assessed" in card


def test_it_has_verdicts_and_skills(cells, model, table):
    found = tv.benchmark.assess(cells, group="type_1", target="stimulated", table=table, **KEYS)
    card = tv.benchmark.model_card(model, assessments=[found], table=table, **ASKED)
    own = found.expected.loc[found.recommended]
    assert f"| type_1 | stimulated | {found.verdict} | {found.recommended} | {own['skill'] + 0.0:.2f} (" in card
    assert found.message in card
    ceiling = tv.benchmark.summarize(table).set_index("method").loc["noise ceiling", "skill"]
    assert f"| noise ceiling | {ceiling:.2f} (" in card and "(3 hold-outs, " in card
    # no method of that table is this model: its prediction is not what the verdict is about
    assert f"- type_1 under stimulated: “{found.verdict}”, and that of {found.recommended}." in card
    assert "Not known" not in card


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
    object.__setattr__(found, "target", "heat")
    with pytest.raises(ValueError, match="found some of \\['heat'\\]"):
        tv.benchmark.model_card(model, assessments=[found], **ASKED)
    with pytest.raises(ValueError, match="`table` to have targets out of"):
        tv.benchmark.model_card(model, table=table.assign(target="heat"), **ASKED)
    with pytest.raises(KeyError, match="no columns \\['value'\\]"):
        tv.benchmark.model_card(model, table=table.drop(columns="value"), **ASKED)
