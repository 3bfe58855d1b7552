"""The rank of each target's own real mean, by hand and against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from trvae_scvi import metrics as m


@pytest.fixture
def targets():
    """Predicted and real cells of five targets with their own means."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(5, 8))
    real = {f"t{i}": mean + 0.1 * rng.normal(size=(10 + i, 8)) for i, mean in enumerate(means)}
    predicted = {f"t{i}": mean + 3 * rng.normal(size=8) + 0.1 * rng.normal(size=(6, 8)) for i, mean in enumerate(means)}
    return predicted, real


def by_loop(predicted, real):
    result = {}
    for target, cells in predicted.items():
        own = np.linalg.norm(cells.mean(axis=0) - real[target].mean(axis=0))
        others = [np.linalg.norm(cells.mean(axis=0) - real[t].mean(axis=0)) for t in real if t != target]
        result[target] = np.mean([(own < d) + 0.5 * (own == d) for d in others])
    return result


def test_it_equals_a_loop_over_pairs(targets):
    predicted, real = targets
    found = m.discrimination(predicted, real)
    assert found.to_dict() == pytest.approx(by_loop(predicted, real))
    assert 0 < found.min() < found.max() <= 1
    assert found.name == "discrimination"
    assert found.index.name == "target"


def test_best_and_worst(targets):
    _, real = targets
    assert (m.discrimination(real, real) == 1).all()
    line = {name: np.full((2, 1), value) for name, value in {"a": 0.0, "b": 1.0, "c": 10.0}.items()}
    swapped = {"a": line["c"], "b": line["b"], "c": line["a"]}
    assert m.discrimination(swapped, line).to_dict() == {"a": 0.0, "b": 1.0, "c": 0.0}


def test_the_same_prediction_for_every_target_scores_one_half_on_average(targets):
    predicted, real = targets
    same = dict.fromkeys(real, predicted["t0"])
    assert m.discrimination(same, real).mean() == pytest.approx(0.5)


def test_ties_count_half_whatever_the_rounding():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(50, 4))
    # The same cells in another order: their means differ by rounding only.
    real = {"a": cells, "b": cells[rng.permutation(50)], "c": cells + 5}
    assert m.discrimination(real, real).to_dict() == {"a": 0.75, "b": 0.75, "c": 1.0}


def test_order_and_form_do_not_matter(targets):
    predicted, real = targets
    expected = m.discrimination(predicted, real)
    backwards = {name: sparse.csr_matrix(real[name]) for name in reversed(real)}
    assert m.discrimination(predicted, backwards).equals(expected)
    found = m.discrimination(dict(reversed(predicted.items())), real)
    assert found.index.tolist() == ["t4", "t3", "t2", "t1", "t0"]
    assert found.to_dict() == expected.to_dict()


def test_names_may_be_tuples(targets):
    predicted, real = ({(name, 1): cells for name, cells in mapping.items()} for mapping in targets)
    assert m.discrimination(predicted, real).to_dict() == pytest.approx(by_loop(predicted, real))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_targets_are_undefined(targets, n):
    few = [{name: mapping[name] for name in list(mapping)[:n]} for mapping in targets]
    found = m.discrimination(*few)
    assert len(found) == n
    assert found.isna().all()


def test_it_refuses_other_targets_and_genes(targets):
    predicted, real = targets
    renamed = {("x" if name == "t1" else name): cells for name, cells in real.items()}
    with pytest.raises(ValueError, match=r"found \['t1'\] only predicted and \['x'\] only real"):
        m.discrimination(predicted, renamed)
    with pytest.raises(ValueError, match=r"`real\['t1'\]` 7"):
        m.discrimination(predicted, {**real, "t1": real["t1"][:, :7]})
