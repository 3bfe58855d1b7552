"""Skills by hand: the scale, where there is room for one, what fails, and the headline."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trvae_scvi import metrics as m

NO_ROOM = "no room above the best trivial prediction that noise would let be seen"
DIRECTIONS = [("pearson_change", 1.0), ("mse_means", -1.0)]


def tidy(std=0.0, **values):
    rows = [("all", metric, value, std) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["genes", "metric", "value", "std"])


def single(metric, value, std=0.0):
    return tidy(std, **{metric: value})


# ---- the scale


def test_by_hand_whatever_direction_and_order():
    scores = tidy(energy_distance=0.5, pearson_change=0.7, mse_means=3.0)
    reference = tidy(pearson_change=0.6, mse_means=2.0, energy_distance=1.0, squared_pearson_means=0.1)
    ceiling = tidy(mse_means=0.0, pearson_change=1.0, energy_distance=-0.25)
    result = m.skill(scores, reference=reference, ceiling=ceiling)
    assert result.columns.tolist() == ["genes", "metric", "skill", "skill_std", "note"]
    assert result["metric"].tolist() == ["energy_distance", "pearson_change", "mse_means"]
    np.testing.assert_allclose(result["skill"], [0.4, 0.25, -0.5])
    assert result["note"].tolist() == [""] * 3


@pytest.mark.parametrize(("metric", "sign"), DIRECTIONS)
def test_the_error_is_that_of_three_independent_scores(metric, sign):
    """Against a simulation, where the errors are small against the room."""
    rng = np.random.default_rng(0)
    stds = np.array([0.02, 0.03, 0.04])
    for of_prediction in (0.2, 0.5, 0.9):
        values = np.array([of_prediction, 0.0, 1.0]) * sign
        score, reference, ceiling = (single(metric, v, s) for v, s in zip(values, stds, strict=True))
        drawn = values[:, None] + stds[:, None] * rng.normal(size=(3, 20_000))
        found = m.skill(score, reference=reference, ceiling=ceiling)
        scatter = np.std((drawn[0] - drawn[1]) / (drawn[2] - drawn[1]))
        assert found["skill"].item() == pytest.approx(of_prediction)
        assert found["skill_std"].item() == pytest.approx(scatter, rel=0.05)


def test_outside_of_the_scale_the_error_is_that_at_its_end():
    score, reference, ceiling = single("mse_means", 9.0, 0.3), single("mse_means", 2.0, 0.4), single("mse_means", 0.0)
    found = m.skill(score, reference=reference, ceiling=ceiling)
    assert found["skill"].item() == -3.5
    assert found["skill_std"].item() == pytest.approx(np.hypot(0.3, 0.4) / 2)
    better = m.skill(single("mse_means", -1.0, 0.3), reference=reference, ceiling=single("mse_means", 0.0, 0.4))
    assert better["skill"].item() == 1.5
    assert better["skill_std"].item() == pytest.approx(np.hypot(0.3, 0.4) / 2)


# ---- several references


@pytest.mark.parametrize(("metric", "sign"), DIRECTIONS)
def test_the_best_of_several_references_counts_in_each_metric(metric, sign):
    references = [tidy(**{metric: sign * value}) for value in (0.1, 0.4, np.nan, 0.3)]
    result = m.skill(single(metric, sign * 0.7), reference=references, ceiling=single(metric, sign * 1.0))
    assert result["skill"].item() == pytest.approx(0.5)
    for table in references[:2] + references[3:]:
        assert m.skill(table, reference=references, ceiling=single(metric, sign * 1.0))["skill"].item() <= 0
    one = m.skill(single(metric, sign * 0.7), reference=references[1], ceiling=single(metric, sign * 1.0))
    pd.testing.assert_frame_equal(one, result)


def test_each_metric_has_its_own_best_reference_with_its_own_error():
    first = pd.concat([single("mse_means", 1.0, 0.5), single("pearson_change", 0.0, 0.01)])
    second = pd.concat([single("mse_means", 3.0, 0.01), single("pearson_change", 0.5, 0.3)])
    ceiling, scores = tidy(mse_means=0.0, pearson_change=1.0), tidy(mse_means=0.5, pearson_change=0.75)
    found = m.skill(scores, reference=[first, second], ceiling=ceiling).set_index("metric")
    # The gap of the error 1.0 is two errors wide, that of the correlation, .5, is less than two of .3.
    assert found.loc["mse_means", "skill"] == 0.5
    assert np.isnan(found.loc["pearson_change", "skill"])


# ---- room


@pytest.mark.parametrize(("metric", "sign"), DIRECTIONS)
@pytest.mark.parametrize(
    ("of_ceiling", "of_reference", "room"),
    [(0.15, 0.2, True), (0.1501, 0.2, False), (0.15, 0.2001, False), (0.0, 0.2499, True), (0.2499, 0.0, True),
     (0.2501, 0.0, False), (np.nan, np.nan, True), (np.nan, 0.2501, False)],
)  # fmt: skip
def test_room_is_two_standard_errors_of_the_difference(metric, sign, of_ceiling, of_reference, room):
    # The gap is 0.5; .15 and .2 make a standard error of .25.
    reference = single(metric, 0.25 * sign, of_reference)
    ceiling = single(metric, 0.75 * sign, of_ceiling)
    found = m.skill(single(metric, 0.5 * sign, 0.01), reference=reference, ceiling=ceiling)
    np.testing.assert_allclose(found["skill"], [0.5 if room else np.nan])
    assert found["note"].item() == ("" if room else NO_ROOM)


@pytest.mark.parametrize(
    ("metric", "reference", "ceiling"),
    [("pearson_change", 0.9, 0.8), ("mse_means", 0.1, 0.2), ("energy_distance", 1.0, 1.0)],
)
def test_there_is_none_where_the_ceiling_is_not_better(metric, reference, ceiling):
    at_reference = single(metric, reference)
    result = m.skill(at_reference, reference=at_reference, ceiling=single(metric, ceiling))
    assert result["skill"].isna().all()
    assert result["note"].tolist() == [NO_ROOM]
    assert np.isnan(m.headline_skill(result))


@pytest.mark.parametrize(("metric", "sign"), DIRECTIONS)
@pytest.mark.parametrize(
    ("loss", "error", "fails"),
    [
        (0.501, 0.0, True),
        (0.499, 0.0, False),
        (0.7, 0.0, True),
        (0.7, 0.4, False),
        (1.0, 0.4, True),
        (-3.0, 0.0, False),
    ],
)
def test_without_room_what_is_clearly_worse_fails(metric, sign, loss, error, fails):
    """The room needed is .5, twice hypot(.15, .2); a prediction with an error of .4 needs 2 hypot(.4, .2) = .894."""
    reference, ceiling = single(metric, 0.5 * sign, 0.2), single(metric, 0.6 * sign, 0.15)
    found = m.skill(single(metric, (0.5 - loss) * sign, error), reference=reference, ceiling=ceiling)
    np.testing.assert_array_equal(found["skill"], [-1.0 if fails else np.nan])
    assert found["note"].item() == NO_ROOM


@pytest.mark.parametrize(("metric", "sign"), DIRECTIONS)
def test_nothing_fails_where_a_perfect_prediction_would(metric, sign):
    reference, ceiling = single(metric, 0.5 * sign, 0.1), single(metric, 0.1 * sign, 0.1)
    for value in (0.1, -3.0):
        found = m.skill(single(metric, value * sign, 0.1), reference=reference, ceiling=ceiling)
        assert np.isnan(found["skill"].item())
        assert found["note"].item() == NO_ROOM


def test_what_is_no_correlation_has_no_skill_without_a_value():
    names = ("coexpression_agreement", "direction_fidelity", "pearson_change")
    own, reference, ceiling = (tidy(**dict.fromkeys(names, value)) for value in (np.nan, 0.2, 0.8))
    found = m.skill(own, reference=reference, ceiling=ceiling).set_index("metric")["skill"]
    assert found[["coexpression_agreement", "direction_fidelity"]].isna().all()
    assert found["pearson_change"] == pytest.approx(-1 / 3)


def test_errors_and_notes_are_matched_by_genes_and_metric():
    names = {"pearson_change": 0.5, "mse_means": 0.5}
    reference, score = tidy(**names), tidy(pearson_change=0.75, mse_means=0.25)
    ceiling = tidy(mse_means=0.0, pearson_change=1.0).assign(std=[1.0, 0.0], note=["of mse", ""])
    found = m.skill(score, reference=reference, ceiling=ceiling).set_index("metric")
    assert found.loc["pearson_change", "skill"] == pytest.approx(0.5)
    assert np.isnan(found.loc["mse_means", "skill"])
    assert found["note"].to_dict() == {"pearson_change": "", "mse_means": "of mse"}


# ---- without a value


def test_an_undefined_correlation_of_the_prediction_counts_as_zero():
    reference, ceiling = tidy(squared_pearson_variances=0.8), tidy(squared_pearson_variances=0.9)
    result = m.skill(tidy(squared_pearson_variances=np.nan), reference=reference, ceiling=ceiling)
    np.testing.assert_allclose(result["skill"], [-8.0])
    assert np.isfinite(result["skill_std"]).all()


def test_without_a_reference_or_a_ceiling_there_is_no_skill_and_the_note_says_why():
    good, none = single("pearson_change", 0.5), single("pearson_change", np.nan, np.nan)
    why = none.assign(note="needs control cells")
    for reference, ceiling in ((why, good), (good, why), (why, why), ([why, why], good)):
        found = m.skill(none, reference=reference, ceiling=ceiling)
        assert found["skill"].isna().all()
        assert found["note"].tolist() == ["needs control cells"]


def test_missing_notes_are_none():
    score, ceiling = single("mse_means", 0.5).assign(note=np.nan), single("mse_means", 0.0).assign(note=None)
    found = m.skill(score, reference=single("mse_means", 1.0), ceiling=ceiling)
    assert found["note"].tolist() == [""]
    assert found["skill"].item() == 0.5


# ---- tables of real scores


def test_references_and_ceiling_are_the_ends_of_the_scale():
    rng = np.random.default_rng(1)
    base, shift = rng.gamma(2.0, size=12), rng.normal(size=12)
    sizes = ((0.8, 30), (1.0, 40), (0.0, 40), (0.0, 40))
    pred, real, control, source = (base + w * shift + rng.normal(size=(n, 12)) for w, n in sizes)
    options = {"n_top_genes": 4, "expected": rng.normal(size=12), "metrics": m.METRICS}
    references = [m.score_arrays(cells, real, control, source, **options) for cells in (source, source + 0.1, control)]
    ceiling = m.noise_ceiling(real, control, source, n_cells=40, **options)
    of_ceiling = m.skill(ceiling, reference=references, ceiling=ceiling)["skill"]
    assert of_ceiling.notna().sum() >= 8
    np.testing.assert_allclose(of_ceiling.dropna(), 1)
    best = pd.concat([m.skill(t, reference=references, ceiling=ceiling)["skill"] for t in references], axis=1).max(
        axis=1
    )
    np.testing.assert_array_equal(best[of_ceiling.notna()], 0)
    scored = m.skill(m.score_arrays(pred, real, control, source, **options), reference=references, ceiling=ceiling)
    assert 0 < m.headline_skill(scored) < 1.5


# ---- refusals


def test_tables_that_are_not_tidy_are_refused():
    good = tidy(mse_means=1.0)
    with pytest.raises(ValueError, match=r"in `reference` too, found none for \[\('all', 'mse_means'\)\]"):
        m.skill(good, reference=tidy(pearson_change=1.0), ceiling=good)
    with pytest.raises(ValueError, match=r"in `reference` too, found none for \[\('all', 'mse_means'\)\]"):
        m.skill(good, reference=[good, tidy(pearson_change=1.0)], ceiling=good)
    with pytest.raises(ValueError, match="several for .*'mse_means'"):
        m.skill(pd.concat([good, good]), reference=good, ceiling=good)
    with pytest.raises(KeyError, match=r"in `ceiling`, found no \['genes'\]"):
        m.skill(good, reference=good, ceiling=good.drop(columns="genes"))
    with pytest.raises(KeyError, match=r"in `scores`, found no \['std'\]"):
        m.skill(good.drop(columns="std"), reference=good, ceiling=good)
    with pytest.raises(ValueError, match=r"found \['accuracy'\]"):
        m.skill(tidy(accuracy=1.0), reference=good, ceiling=good)


# ---- the headline


def skills(**values):
    rows = [(metric, value) for metric, of in values.items() for value in np.atleast_1d(of)]
    return pd.DataFrame(rows, columns=["metric", "skill"])


def test_the_headline_is_the_lower_of_two_means_of_clipped_skills():
    mean_response = {"mse_means": [0.9, -7.0], "partial_pearson": [0.5, 3.0]}  # .9 -1 .5 1: 0.35
    distribution = {"energy_distance": [0.2, 0.6], "mse_stds": [0.8, np.nan]}  # .2 .6 .8
    table = skills(**mean_response, **distribution)
    assert m.headline_skill(table) == pytest.approx(0.35)
    assert m.headline_skill(skills(mse_means=0.9, **distribution)) == pytest.approx(1.6 / 3)
    assert table["skill"].iloc[1] == -7.0


def test_other_metrics_do_not_count():
    judged = {"mse_means": 0.5, "mse_stds": 0.75}
    others = dict.fromkeys(m.METRICS[4:], -1.0)
    assert m.headline_skill(skills(**judged, **others)) == 0.5
    assert np.isnan(m.headline_skill(skills(**others)))


def test_a_part_without_a_value_leaves_the_other_one():
    assert m.headline_skill(skills(mse_means=np.nan, energy_distance=0.5)) == 0.5
    assert m.headline_skill(skills(mse_means=0.25)) == 0.25
    assert np.isnan(m.headline_skill(skills(mse_means=np.nan, energy_distance=np.nan)))


def test_the_headline_needs_its_columns():
    with pytest.raises(KeyError, match=r"found no \['skill'\]. Pass the result of `skill`"):
        m.headline_skill(tidy(mse_means=1.0))
    with pytest.raises(KeyError, match=r"found no \['metric'\]"):
        m.headline_skill(pd.DataFrame({"skill": [0.5]}))
