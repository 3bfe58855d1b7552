"""Curves by dose: the table, and that what is drawn is the table."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import make_trained

import trvae_scvi as tv
from trvae_scvi.metrics import comparison_matrix

DOSES = {"drug_1 0.1 nM": 0.1, "drug_1 1 nM": 1, "drug_1 10 nM": 10, "drug_1 100 nM": 100, "drug_1 1000 nM": 1000}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def simulated():
    return tv.datasets.simulate_conditions(1800, 50, n_conditions=15, design="doses")


@pytest.fixture(scope="module")
def model(simulated):
    more = simulated.features.copy()
    more.loc["drug_1 much more"] = more.loc["drug_1 1000 nM"] * 2
    return make_trained(simulated.adata, None, {"max_epochs": 10}, condition_features=more)


def test_the_table_has_predicted_and_measured_changes(model, simulated):
    frame = tv.pl.dose_response_frame(
        model, None, ["gene_3", "gene_1"], doses={"control": 0, **DOSES}, source="control"
    )
    assert frame["gene"].tolist() == ["gene_3"] * 5 + ["gene_1"] * 5
    assert frame["dose"].tolist() == [0.1, 1, 10, 100, 1000] * 2
    assert frame["is_measured"].tolist() == [True, True, False, True, True] * 2
    assert (frame["change_lower"] < frame["change"]).all()
    effect = model.get_perturbation_effect(source="control", target="drug_1 1 nM", groupby="condition")
    of_gene = effect.set_index("variable").loc["gene_3"]
    row = frame[(frame["gene"] == "gene_3") & (frame["dose"] == 1)].iloc[0]
    assert row["change"] == pytest.approx(of_gene["change"])
    means = [
        comparison_matrix(simulated.adata[(simulated.adata.obs["condition"] == name).to_numpy()]).mean(
            axis=0, dtype=float
        )[2]
        for name in ("drug_1 1 nM", "control")
    ]
    assert row["observed"] == pytest.approx(means[0] - means[1])
    assert frame.loc[~frame["is_measured"], "observed"].isna().all()


def test_the_plot_draws_the_table(model):
    frame = tv.pl.dose_response_frame(model, None, "gene_1", doses=DOSES, source="control")
    (ax,) = tv.pl.dose_response(model, None, "gene_1", doses=DOSES, source="control")
    curve, unmeasured, measured = ax.lines[:3]
    np.testing.assert_allclose(curve.get_xdata(), [0, *frame["dose"]])
    np.testing.assert_allclose(curve.get_ydata(), [0, *frame["change"]])
    assert unmeasured.get_xdata().tolist() == [10]
    np.testing.assert_allclose(measured.get_ydata(), frame["observed"])
    assert ax.get_xscale() == "symlog"
    ax.figure.canvas.draw()


def test_the_axis_begins_at_no_dose_and_its_ticks_have_room(model):
    (ax,) = tv.pl.dose_response(model, None, "gene_1", doses=DOSES, source="control")
    assert ax.get_xlim() == (0.0, 1250.0)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.1", "10", "1000"]
    (ax,) = tv.pl.dose_response(model, None, "gene_1", doses=dict(list(DOSES.items())[1:4]), source="control")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "10", "100"]


def test_doses_beyond_the_measured_ones_warn(model):
    with pytest.warns(UserWarning, match=r"\['drug_1 much more'\] are described by larger doses"):
        tv.pl.dose_response_frame(model, None, "gene_1", doses={**DOSES, "drug_1 much more": 1e6}, source="control")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"genes": "gene_99"}, "found \\['gene_99'\\]"),
        ({"doses": {}}, "Expected `doses`"),
        ({"doses": {"control": 0}}, "Expected `doses`"),
        ({"doses": {"drug_1 1 nM": -1}}, "found \\['drug_1 1 nM'\\]"),
        ({"doses": {"drug_9 1 nM": 1}}, "found \\['drug_9 1 nM'\\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, change, match):
    with pytest.raises(ValueError, match=match):
        tv.pl.dose_response_frame(model, None, **{"genes": "gene_1", "doses": DOSES, "source": "control", **change})
