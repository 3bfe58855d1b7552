"""The measures of the benchmark on digits, on strokes whose width is known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIDE = 28


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    """The benchmark, with a file of generated digits: two shapes, in three widths."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 40), ("t10k", 20)):
        digits, places = np.arange(n) % 2, rng.integers(8, 18, n)
        arrays[f"{part}_labels"] = digits
        for style, width in (("plain", 4), ("thin", 2), ("thick", 6)):
            images = np.stack(
                [bar(width, place, lying=digit == 1) for digit, place in zip(digits, places, strict=True)]
            )
            arrays[f"{part}_{style}"] = (images * 255).astype(np.uint8)
    np.savez(tmp_path / "mnist_morpho_20k.npz", **arrays)
    monkeypatch.setenv("TRVAE_SCVI_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("mnist")
    for name in ("mnist", "kang"):
        sys.modules.pop(name, None)


def bar(width, place, *, lying=False):
    image = np.zeros((SIDE, SIDE))
    image[4:24, place : place + width] = 1.0
    return image.T if lying else image


@pytest.mark.parametrize("lying", [False, True])
def test_the_width_of_a_stroke_is_that_of_a_bar(mnist, lying):
    widths = [2, 3, 4, 6]
    images = np.stack([bar(width, 10, lying=lying).ravel() for width in widths])
    # its ends and the edge between two pixels cost a fraction of a pixel
    np.testing.assert_allclose(mnist.thickness(images), widths, atol=0.4)


def test_the_width_does_not_depend_on_the_place(mnist):
    found = mnist.thickness(np.stack([bar(3, place).ravel() for place in (5, 10, 18)]))
    np.testing.assert_allclose(found, found[0])


def test_an_empty_or_a_faint_image_has_no_stroke(mnist):
    np.testing.assert_array_equal(mnist.thickness(np.stack([np.zeros(SIDE**2), 0.4 * bar(4, 10).ravel()])), 0.0)


def test_styles_are_seen_of_the_styled_digits_only(mnist):
    training = mnist.Digits("train").training([1])
    counts = training.obs.groupby(["condition", "digit"]).size().to_dict()
    assert counts == {("plain", "0"): 20, ("plain", "1"): 20, ("thick", "1"): 20, ("thin", "1"): 20}


def test_the_shift_is_the_change_of_the_mean_image_of_the_styled_digits(mnist):
    digits = mnist.Digits("train")
    rows = digits.labels == 1
    expected = digits.images["thick"][rows].mean(axis=0) - digits.images["plain"][rows].mean(axis=0)
    np.testing.assert_allclose(digits.shift([1], "thick"), expected, atol=1e-6)


def test_real_images_have_no_error_and_the_unchanged_ones_have(mnist):
    digits = mnist.Digits("t10k")
    rows = digits.first([0, 1], 8)

    def reads_only_zeros(images):
        return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    def table(images):
        scores = mnist.score(images[rows], digits, rows, "thick", reads_only_zeros)
        return scores.set_index(["digit", "metric"])["value"]

    same, unchanged = table(digits.images["thick"]), table(digits.images["plain"])
    assert same[0, "MSE"] == same[0, "MAE"] == same[0, "width, Wasserstein"] == 0.0
    assert same[0, "digit kept"] == 1.0
    assert same[1, "digit kept"] == 0.0
    assert unchanged[0, "MSE"] == pytest.approx(20 * 2 / SIDE**2)  # two columns of a bar of twenty pixels
    assert unchanged[0, "width, difference"] == pytest.approx(-2.0, abs=0.3)
    assert unchanged[0, "energy distance"] > same[0, "energy distance"]
