"""Smiling women, predicted from women who do not smile: the second image benchmark of trVAE's paper.

    python benchmarks/celeba.py FOLDER

reads a copy of CelebA that you have: `img_align_celeba/*.jpg`, `list_attr_celeba.txt` and, where it is there,
`list_eval_partition.txt` (without it a tenth of the images, at random, is the test set). The condition is smiling or
not; the model is trained on 50,000 images without any smiling woman. From women of the test set who do not smile it
predicts smiling ones, which are compared with those that are, beside no change and the mean shift of the men.

This was run on generated images only: CelebA may not be passed on, and none of our results are of it. The settings are
those that `mnist.py` chose for digits. Needs Pillow. Writes `celeba.{csv,md,png}` into `benchmarks/runs/celeba`, or
`--out`, with the trained models.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scvi
from kang import HERE, markdown
from mnist import SETTINGS, TRAINING
from PIL import Image

import trvae_scvi as tv

SIDE = 64
CROP = 160  # of the 178 x 218 pixels of an aligned image, around its centre
CHANNELS = (32, 64, 128, 256)
N_SCORED = 1000
N_SHOWN = 8
NETWORKS: dict[str, dict[str, Any]] = {"trVAE": {}, "trVAE, weight 0": {"mmd_on": None}}


def read_attributes(folder: Path) -> pd.DataFrame:
    """File, condition, sex and part (0 training, 1 validation, 2 test) of every image."""
    attributes = pd.read_csv(folder / "list_attr_celeba.txt", sep=r"\s+", skiprows=1)
    table = pd.DataFrame(
        {
            "condition": np.where(attributes["Smiling"] == 1, "smiling", "not smiling"),
            "sex": np.where(attributes["Male"] == 1, "man", "woman"),
        },
        index=attributes.index.astype(str),
    )
    partition = folder / "list_eval_partition.txt"
    if partition.exists():
        parts = pd.read_csv(partition, sep=r"\s+", header=None, index_col=0)[1]
        table["part"] = parts.reindex(table.index)
        if table["part"].isna().any():
            msg = f"{partition} lacks {int(table['part'].isna().sum())} of the {len(table)} images."
            raise ValueError(msg)
    else:
        table["part"] = np.where(np.random.default_rng(0).random(len(table)) < 0.1, 2, 0)
    return table


def read_image(path: Path, side: int) -> np.ndarray:
    """Pixels of a centre crop from 0 to 1, channel by channel."""
    with Image.open(path) as image:
        width, height = image.size
        half = min(CROP, width, height) // 2
        box = (width // 2 - half, height // 2 - half, width // 2 + half, height // 2 + half)
        pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box))
    return pixels.transpose(2, 0, 1).reshape(-1).astype(np.float32) / np.float32(255)


def read_images(folder: Path, table: pd.DataFrame, side: int) -> anndata.AnnData:
    """The images of some rows of the table."""
    pixels = np.empty((len(table), 3 * side * side), dtype=np.float32)
    for row, name in enumerate(table.index):
        pixels[row] = read_image(folder / "img_align_celeba" / name, side)
    return anndata.AnnData(pixels, obs=table)


def split(table: pd.DataFrame, n_images: int, n_scored: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Images to train on, women of the test set who do not smile, and those who do."""
    table = table.sample(frac=1.0, random_state=0)
    is_woman, smiles, is_test = table["sex"] == "woman", table["condition"] == "smiling", table["part"] == 2
    training = table[(table["part"] == 0) & ~(is_woman & smiles)].head(n_images)
    given, real = (table[is_test & is_woman & chosen].head(n_scored) for chosen in (~smiles, smiles))
    return training, given, real


def mean_shift(training: anndata.AnnData) -> np.ndarray:
    """What smiling changes in the mean image of the men."""
    men = training[(training.obs["sex"] == "man").to_numpy()]
    smiles = (men.obs["condition"] == "smiling").to_numpy()
    return men.X[smiles].mean(axis=0) - men.X[~smiles].mean(axis=0)


def predict(training: anndata.AnnData, given: anndata.AnnData, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Smiling women by method."""
    found = {"no change": given.X, "mean shift": np.clip(given.X + mean_shift(training), 0.0, 1.0)}
    side = arguments.side
    network = tv.nn.ConvNetwork((3, side, side), channels=CHANNELS)
    tv.TRVAE.setup_anndata(training, labels_key="sex")
    for name, options in NETWORKS.items():
        path = arguments.out / f"{name}, {len(training)} images, {arguments.max_epochs} epochs, seed {arguments.seed}"
        if not (path / "model.pt").exists():
            model = tv.TRVAE(training, **{**SETTINGS, "network": network, "n_latent": 64, **options})
            model.train(**{**TRAINING, "max_epochs": arguments.max_epochs, "batch_size": arguments.batch_size})
            model.save(path, overwrite=True)
        model = tv.TRVAE.load(path, training)
        found[name] = model.predict_perturbation(given, target="smiling", method="mean").X
    return found


def score(found: dict[str, np.ndarray], real: np.ndarray) -> pd.DataFrame:
    """Predicted against real smiling women, who are other women."""
    rows = {
        name: {
            "MSE of the mean image": float(np.square(x.mean(axis=0) - real.mean(axis=0)).mean()),
            "energy distance": tv.metrics.energy_distance(x, real),
        }
        for name, x in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "method"
    return table


def draw(found: dict[str, np.ndarray], path: Path, side: int) -> None:
    """Some women, a row for each method."""
    grid = [x[:N_SHOWN].reshape(-1, 3, side, side).transpose(2, 0, 3, 1).reshape(side, -1, 3) for x in found.values()]
    Image.fromarray((np.concatenate(grid) * 255).round().astype(np.uint8)).save(path)


def main(argv: list[str] | None = None) -> None:
    """Train, predict, and write the table and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "celeba")
    parser.add_argument("--n-images", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels, a multiple of 16")
    parser.add_argument("--max-epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.seed = arguments.seed
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = split(read_attributes(arguments.folder), arguments.n_images, N_SCORED)
    training, given, real = (read_images(arguments.folder, part, arguments.side) for part in parts)
    found = predict(training, given, arguments)
    table = score(found, real.X)
    path = arguments.out / "celeba.csv"
    table.to_csv(path, float_format="%.5g")
    title = f"# Smiling women, {len(training)} training images, {given.n_obs} predicted, {real.n_obs} real"
    path.with_suffix(".md").write_text(f"{title}\n\n{markdown(table)}\n")
    draw(found, path.with_suffix(".png"), arguments.side)
    print(table.round(4).to_string(), flush=True)


if __name__ == "__main__":
    main()
