"""Discrimination of changes: cosine distances, controls of their own, and genes that are left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cosine, euclidean

from trvae_scvi import metrics as m

FUNCTIONS = {"cosine": cosine, "euclidean": euclidean}


@pytest.fixture
def cells():
    """Predicted and real cells of six targets with a common shift and changes of their own, and two controls."""
    rng = np.random.default_rng(0)
    means = 1 + rng.normal(size=(6, 9))
    real = {f"t{i}": mean + 0.1 * rng.normal(size=(10 + i, 9)) for i, mean in enumerate(means)}
    predicted = {f"t{i}": mean + rng.normal(size=9) + 0.1 * rng.normal(size=(6, 9)) for i, mean in enumerate(means)}
    return predicted, real, {"source": rng.normal(size=(7, 9)), "control": rng.normal(size=(8, 9))}


def by_loop(predicted, real, controls, function, genes):
    result = {}
    x, y = (controls[name].mean(axis=0)[genes] for name in ("source", "control"))
    for target, cells in predicted.items():
        change = cells.mean(axis=0)[genes] - x
        distances = {other: function(change, real[other].mean(axis=0)[genes] - y) for other in real}
        others = [distances[other] for other in real if other != target]
        result[target] = np.mean([(distances[target] < d) + 0.5 * (distances[target] == d) for d in others])
    return result


@pytest.mark.parametrize("distance", FUNCTIONS)
@pytest.mark.parametrize("leave_out", [[], [0, 3, 3, 8]])
def test_it_equals_a_loop(cells, distance, leave_out):
    predicted, real, controls = cells
    genes = [gene for gene in range(9) if gene not in leave_out]
    expected = by_loop(predicted, real, controls, FUNCTIONS[distance], genes)
    found = m.discrimination(predicted, real, distance=distance, leave_out=leave_out, **controls)
    assert found.to_dict() == pytest.approx(expected)
    assert found.nunique() > 1
    as_sparse = {name: sparse.csr_matrix(x) for name, x in controls.items()}
    assert m.discrimination(predicted, real, distance=distance, leave_out=np.array(leave_out, int), **as_sparse).equals(
        found
    )


def test_the_cosine_does_not_see_sizes_and_the_euclidean_distance_does(cells):
    predicted, real, controls = cells
    source = controls["source"].mean(axis=0)
    larger = {name: source + 30 * (x - source) for name, x in predicted.items()}
    options = {"distance": "cosine", **controls}
    assert m.discrimination(larger, real, **options).equals(m.discrimination(predicted, real, **options))
    assert not m.discrimination(larger, real).equals(m.discrimination(predicted, real))


def test_no_change_is_as_far_from_all(cells):
    _, real, controls = cells
    nothing = dict.fromkeys(real, controls["source"][::-1])
    assert (m.discrimination(nothing, real, distance="cosine", **controls) == 0.5).all()


def test_a_perturbed_gene_gives_the_target_away():
    rng = np.random.default_rng(0)
    control = rng.normal(size=(20, 30))
    own = 5 * np.eye(30)[:6]
    real = {i: control - own[i] + rng.normal(size=30) for i in range(6)}
    knows_nothing_else = {i: control - own[i] for i in range(6)}
    options = {"distance": "cosine", "source": control, "control": control}
    assert m.discrimination(knows_nothing_else, real, **options).mean() > 0.9
    # without these genes nothing is predicted
    assert (m.discrimination(knows_nothing_else, real, leave_out=range(6), **options) == 0.5).all()


def test_columns_are_left_out_of_means_too(cells):
    predicted, real, _ = cells
    found = m.discrimination(predicted, real, leave_out=[2, 5])
    fewer = ({name: np.delete(x, [2, 5], axis=1) for name, x in part.items()} for part in (predicted, real))
    assert found.equals(m.discrimination(*fewer))


def test_it_refuses(cells):
    predicted, real, controls = cells
    with pytest.raises(ValueError, match=r"out of \['euclidean', 'cosine'\], found 'l1'"):
        m.discrimination(predicted, real, distance="l1")
    with pytest.raises(ValueError, match=r"found no \['source', 'control'\]"):
        m.discrimination(predicted, real, distance="cosine")
    with pytest.raises(ValueError, match=r"found no \['control'\]"):
        m.discrimination(predicted, real, source=controls["source"])
    with pytest.raises(ValueError, match="the 9 genes of the targets in `control`, found 8"):
        m.discrimination(predicted, real, source=controls["source"], control=controls["control"][:, :8])
    for wrong in ([0.5], ["t1"], [[1]], [True] * 9):
        with pytest.raises(ValueError, match="column positions in `leave_out`"):
            m.discrimination(predicted, real, leave_out=wrong)
    with pytest.raises(ValueError, match="from 0 to 8 in `leave_out`, found -1 to 2"):
        m.discrimination(predicted, real, leave_out=[-1, 2])
    with pytest.raises(ValueError, match="found all of them"):
        m.discrimination(predicted, real, leave_out=range(9))
