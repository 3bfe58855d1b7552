"""A perfect prediction has skill 1 in every metric with any number of cells, and no attack has a headline above 0."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from trvae_scvi import benchmark
from trvae_scvi.metrics import METRICS, headline_skill, log_normalize, pearson_change, skill
from trvae_scvi.metrics._scorer import Scorer

N_GENES, N_GROUPS, N_TARGETS = 120, 4, 3
FAST = METRICS[:5] + METRICS[6:9]  # without the rank, which has no room where the mean shift is the first
SLOW = ("lfc_nmae", "direction_fidelity", "direction_reach", "de_jaccard", "coexpression_agreement")


class World:
    """Counts of a known law: groups that respond in common and each in its own way, to several targets."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.base = rng.normal(0, 1.2, N_GENES) + rng.normal(0, 0.6, (N_GROUPS, N_GENES))
        common = rng.normal(0, 2.0, (N_TARGETS, N_GENES)) * (rng.random((N_TARGETS, N_GENES)) < 0.3)
        shape = (N_GROUPS, N_TARGETS, N_GENES)
        own = rng.normal(0, 1.5, shape) * (rng.random(shape) < 0.4)
        self.response = common * rng.uniform(0.6, 1.1, (N_GROUPS, N_TARGETS, 1)) + own
        self.theta = np.exp(rng.normal(0.7, 0.5, N_GENES))
        # genes that vary together over cells: one program, of other genes under each condition
        self.program = rng.normal(0, 0.5, (N_TARGETS + 1, N_GENES)) * (rng.random((N_TARGETS + 1, N_GENES)) < 0.5)

    def counts(self, group: int, target: int | None, n_cells: int) -> np.ndarray:
        scale = 4 * N_GENES / np.exp(self.base[group]).sum()
        mean = scale * np.exp(self.base[group] + (0 if target is None else self.response[group, target]))
        mean = mean * np.exp(self.rng.normal(size=(n_cells, 1)) * self.program[-1 if target is None else target])
        size = self.rng.lognormal(0, 0.3, (n_cells, 1))
        return self.rng.poisson(self.rng.gamma(self.theta, mean / self.theta * size)).astype(np.float32)

    def cells(self, *what: int | None) -> np.ndarray:
        return log_normalize(self.counts(*what))

    def adata(self, n_cells: int) -> AnnData:
        names = [None, *range(N_TARGETS)]
        blocks = [(group, target, self.counts(group, target, n_cells)) for group in range(N_GROUPS) for target in names]
        obs = pd.DataFrame(
            {
                "group": np.repeat([f"group {group}" for group, *_ in blocks], n_cells),
                "condition": np.repeat(["control" if t is None else f"target {t}" for _, t, _ in blocks], n_cells),
            }
        )
        obs.index = obs.index.astype(str)
        return AnnData(np.concatenate([counts for *_, counts in blocks]), obs=obs)


def perfect_skills(n_cells: int, seed: int, *, n_trivial: int = 3, **scoring) -> pd.DataFrame:
    """Skills of draws from the true law, beside the first of the trivial predictions."""
    world = World(seed)
    aside = max(round(0.3 * n_cells), 20)
    real = world.cells(0, 0, n_cells)
    source, control = world.cells(0, None, n_cells - aside), world.cells(0, None, aside)
    controls, targets = ({g: world.cells(g, t, 300) for g in range(1, N_GROUPS)} for t in (None, 0))
    expected = np.mean([targets[g].mean(axis=0) - controls[g].mean(axis=0) for g in controls], axis=0)
    scorer = Scorer(real, control, source, expected=expected, n_cells=len(source), n_top_genes=40, **scoring)
    trivial = [benchmark.no_change(source), benchmark.mean_of_others(targets)]
    trivial.append(benchmark.mean_shift(source, controls, targets))
    ends = {"reference": [scorer.score(cells) for cells in trivial[:n_trivial]], "ceiling": scorer.ceiling()}
    return skill(scorer.score(world.cells(0, 0, len(source))), **ends).assign(seed=seed)


@pytest.mark.parametrize(("n_cells", "n_seeds"), [(60, 80), (200, 20), (2000, 4)])
def test_draws_from_the_true_law_have_skill_1_in_every_metric(n_cells, n_seeds):
    table = pd.concat([perfect_skills(n_cells, seed, metrics=FAST) for seed in range(n_seeds)])
    of_metric = table.groupby(["genes", "metric"])["skill"]
    assert of_metric.count().min() >= 0.7 * n_seeds  # there is room to tell, or the mean would be one of a selection
    assert of_metric.mean().to_dict() == pytest.approx(dict.fromkeys(of_metric.groups, 1.0), abs=0.05)
    headline = table.groupby("seed")[["metric", "skill"]].apply(headline_skill)
    assert headline.mean() == pytest.approx(1.0, abs=0.05)


def test_the_same_holds_for_metrics_of_tests_and_of_coexpression():
    scoring = {"metrics": SLOW, "n_splits": 3, "n_trivial": 1}
    table = pd.concat([perfect_skills(300, seed, **scoring) for seed in range(8)])
    of_metric = table[table["genes"] == "all"].groupby("metric")["skill"]
    assert of_metric.count().min() >= 6
    assert of_metric.mean().to_dict() == pytest.approx(dict.fromkeys(SLOW, 1.0), abs=0.05)


def attacks(world: World, holdout, truth, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Predictions that know nothing, or one thing too much, as log-normalised cells."""
    control, shifted = predictions["no change"], predictions["mean shift"]
    real, n_cells, rng = log_normalize(truth.real.X), len(control), np.random.default_rng(0)
    spiked = shifted.copy()
    spiked[:, rng.choice(N_GENES, 3, replace=False)] += 6
    own = holdout.training[(holdout.training.obs["group"] == holdout.group).to_numpy()]
    return {
        "no change": control,
        "mean shift": shifted,
        "mean of others": predictions["mean of others"],
        "variance inflated": np.clip(shifted.mean(axis=0) + 2 * (shifted - shifted.mean(axis=0)), 0, None),
        "variance deflated": shifted.mean(axis=0) + 0.3 * (shifted - shifted.mean(axis=0)),
        "spiked genes": spiked,
        "control noise": world.cells(0, None, n_cells),
        "control cells drawn again": control[rng.integers(n_cells, size=n_cells)],
        "truth of another target": log_normalize(own[(own.obs["condition"] == "target 1").to_numpy()].X),
        "mean of half of the real cells": np.tile(real[: len(real) // 2].mean(axis=0), (n_cells, 1)),
        "mean of the real cells": np.tile(real.mean(axis=0), (n_cells, 1)),
    }


@pytest.mark.parametrize("n_cells", [60, 200])
@pytest.mark.parametrize("seed", range(3))
def test_no_attack_has_a_headline_skill_above_0(n_cells, seed):
    world = World(seed)
    keys = {"group_key": "group", "group": "group 0", "condition_key": "condition", "control": "control"}
    adata = world.adata(n_cells)
    holdout, truth = benchmark.hold_out(adata, **keys, target="target 0")
    seen = {name: method(holdout) for name, method in benchmark.BASELINES.items() if name != "fold change"}
    tried = attacks(world, holdout, truth, seen) | {"perfect": world.cells(0, 0, holdout.control.n_obs)}
    assert len(tried) == 12
    as_counts = {f"attack: {name}": to_adata(cells, holdout.control) for name, cells in tried.items()}
    table = benchmark.compare_predictions(as_counts, holdout, truth, n_top_genes=40)
    found = table.groupby("method", sort=False)[["metric", "skill"]].apply(headline_skill)
    perfect = found.pop("attack: perfect")
    assert found.pop("noise ceiling") == 1.0
    assert perfect == pytest.approx(1.0, abs=0.2)  # one draw; its mean over draws is tested above
    found = found[[name for name in found.index if name.startswith("attack")]]
    assert found.max() <= 1e-9, found.to_string()


@pytest.mark.parametrize("share", [6, 3, 2, 1])
def test_cells_chosen_to_have_no_noise_gain_nothing_by_it(share):
    """Few cells with exactly the moments of all control cells know no more than these, where effects are weak."""
    gained = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        effect = 0.15 * rng.normal(size=(2, 150))
        base = rng.normal(size=(2, 150))
        source, control, real = (
            rng.normal(base[0] + add, size=(n, 150)) for add, n in ((0, 28), (0, 20), (effect[0], 40))
        )
        expected = effect.mean(axis=0)
        scorer = Scorer(real, control, source, expected=expected, n_cells=28, n_top_genes=50)
        trivial = [scorer.score(source), scorer.score(source + expected)]
        few = source[: max(len(source) // share, 4)]
        few = (few - few.mean(axis=0)) / few.std(axis=0) * source.std(axis=0) + source.mean(axis=0)
        skills = skill(scorer.score(few), reference=trivial, ceiling=scorer.ceiling())
        gained.append(headline_skill(skills))
        assert (scorer.score(few)["note"] != "").all() == (share > 1)
    valued = [value for value in gained if not np.isnan(value)]
    assert not valued or np.mean(valued) <= 0


def test_the_order_of_predicted_cells_does_not_matter():
    rng = np.random.default_rng(0)
    cells = np.concatenate([rng.normal(size=(300, 20)), rng.normal(3, 1, size=(300, 20))])
    scorer = Scorer(rng.permutation(cells), None, None, n_cells=2000, max_cells=100, metrics=("energy_distance",))
    assert scorer.score(cells)["value"].iloc[0] == pytest.approx(0, abs=0.3)


def to_adata(cells: np.ndarray, control: AnnData) -> AnnData:
    """Counts whose log-normalised values are the cells given: as many counts per 10,000 in every cell."""
    counts = np.expm1(np.clip(cells, 0, None).astype(np.float64))
    return AnnData(counts, var=control.var.copy())


def test_the_same_cells_twice_would_reward_predictions_of_noise():
    """Why control cells are set aside: against its own source, a prediction of nothing correlates with the change."""
    shared, apart = [], []
    for seed in range(30):
        world = World(seed)
        control, aside, real = (world.cells(0, None, 40) for _ in range(3))  # no effect
        # moves cells towards what is usual for them: away from the noise of the control cells it was given
        predicted = control + 0.5 * (world.cells(0, None, 2000).mean(axis=0) - control.mean(axis=0))
        shared.append(pearson_change(predicted, real, control, control))
        apart.append(pearson_change(predicted, real, control, aside))
    assert np.mean(shared) > 0.4
    assert abs(np.mean(apart)) < 0.1
