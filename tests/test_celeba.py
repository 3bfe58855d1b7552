"""The benchmark on a user's own CelebA, end to end on a few generated images of the same layout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Image = pytest.importorskip("PIL.Image")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
N_IMAGES = 120


@pytest.fixture
def celeba(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("celeba")
    for name in ("celeba", "mnist", "kang"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """Images of the size of the aligned ones: men are dark, whoever smiles has a bright stripe."""
    rng = np.random.default_rng(0)
    (tmp_path / "img_align_celeba").mkdir()
    male, smiling = (np.where(rng.random(N_IMAGES) < 0.5, 1, -1) for _ in range(2))
    names = [f"{i + 1:06d}.jpg" for i in range(N_IMAGES)]
    for name, is_male, smiles in zip(names, male, smiling, strict=True):
        pixels = np.full((218, 178, 3), 60 if is_male == 1 else 120, dtype=np.uint8)
        pixels[:, :, 0] += np.uint8(rng.integers(0, 40))
        if smiles == 1:
            pixels[140:160, 50:130] = 230
        Image.fromarray(pixels).save(tmp_path / "img_align_celeba" / name)
    rows = "\n".join(f"{n}  {a:2d} {b:2d} -1" for n, a, b in zip(names, male, smiling, strict=True))
    (tmp_path / "list_attr_celeba.txt").write_text(f"{N_IMAGES}\nMale Smiling Young \n{rows}\n")
    return tmp_path


def write_partition(folder, n=N_IMAGES):
    lines = [f"{i + 1:06d}.jpg {0 if i < 80 else 1 if i < 85 else 2}" for i in range(n)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def test_images_are_read_channel_by_channel(celeba, folder):
    pixels = celeba.read_image(folder / "img_align_celeba" / "000001.jpg", 16)
    assert pixels.shape == (3 * 16 * 16,)
    assert pixels.dtype == np.float32
    assert 0.0 <= pixels.min() <= pixels.max() <= 1.0
    red, green, blue = pixels.reshape(3, 16, 16)
    assert red[0, 0] >= green[0, 0] - 0.02
    assert green[0, 0] == pytest.approx(blue[0, 0], abs=0.02)


def test_no_smiling_woman_is_trained_on(celeba, folder):
    write_partition(folder)
    table = celeba.read_attributes(folder)
    training, given, real = celeba.split(table, 1000, 1000)
    held_out = (training["sex"] == "woman") & (training["condition"] == "smiling")
    assert not held_out.any()
    assert set(training["part"]) == {0}
    for part, condition in ((given, "not smiling"), (real, "smiling")):
        assert set(part["part"]) == {2}
        assert set(part["sex"]) == {"woman"}
        assert set(part["condition"]) == {condition}
    assert len(celeba.split(table, 20, 5)[0]) == 20
    assert len(celeba.split(table, 20, 5)[2]) == 5


def test_without_a_partition_some_images_are_for_testing(celeba, folder):
    share = (celeba.read_attributes(folder)["part"] == 2).mean()
    assert 0.02 < share < 0.25
    write_partition(folder, N_IMAGES - 7)
    with pytest.raises(ValueError, match="lacks 7 of the 120 images"):
        celeba.read_attributes(folder)


def test_end_to_end(celeba, folder):
    write_partition(folder)
    out = folder / "out"
    arguments = [str(folder), "--out", str(out), "--side", "16", "--max-epochs", "2", "--batch-size", "16"]
    celeba.main(arguments)
    table = pd.read_csv(out / "celeba.csv", index_col=0)
    assert list(table.index) == ["no change", "mean shift", "trVAE", "trVAE, weight 0"]
    assert np.isfinite(table).all(axis=None)
    # the stripe is the same for men and women
    assert table.loc["mean shift", "MSE of the mean image"] < table.loc["no change", "MSE of the mean image"]
    with Image.open(out / "celeba.png") as picture:
        assert picture.size[1] == 4 * 16
    trained = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert len(trained) == 2
    stamp = (out / trained[0] / "model.pt").stat().st_mtime_ns
    celeba.main(arguments)  # finds the models
    assert (out / trained[0] / "model.pt").stat().st_mtime_ns == stamp
