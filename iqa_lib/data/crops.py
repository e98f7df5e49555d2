"""Decode every image once into one memory-mapped uint8 file; after that a crop is a slice.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.errors import DataError
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress


class ImageSet:
    """A dataset's labels and decoded images.

    Attributes:
        table: one row per image (`catalog.load_table`).
        fingerprint: hash of all pixels, scores and splits: same fingerprint, same data.
    """

    def __init__(self, table: pd.DataFrame, pixels: np.ndarray, sizes: np.ndarray, fingerprint: str):
        self.table = table
        self.fingerprint = fingerprint
        self._pixels = pixels
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int) -> np.ndarray:
        """uint8 H x W x 3, without a copy."""
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(*self._sizes[index], 3)

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.table["split"] == split)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self.table["score"].to_numpy(np.float32)[rows]

    def crops(self, wanted: list[tuple[int, int, int, bool]], size: int) -> Tensor:
        """Cut (row, top, left, flipped) squares: uint8 (B, 3, size, size)."""
        cut = [
            self.image(row)[y : y + size, x : x + size][:, :: -1 if flip else 1] for row, y, x, flip in wanted
        ]
        return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


def load_images(settings: Profile) -> ImageSet:
    """The profile's dataset, decoded; from the cache in ``data/cache`` where it was decoded before.

    Aspect ratio is kept: a short side above ``resolution`` is reduced to it, one below ``crop_size``
    enlarged to that.

    Raises:
        DataError: as `catalog.load_table`, and for images that cannot be decoded, all of them named.
    """
    table = catalog.load_table(settings.dataset, settings.score_range)
    stat = [(p, s.st_size, s.st_mtime_ns) for p in table["path"] for s in [Path(p).stat()]]
    key = hashlib.sha256(repr((stat, settings.resolution, settings.crop_size)).encode()).hexdigest()[:16]
    folder = paths.DATA / "cache" / f"{catalog.describe(settings.dataset).title}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _decode_all(table, settings.resolution, settings.crop_size, folder)
    index = json.loads((folder / "index.json").read_text())
    pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r")
    labels = table[["image", "score", "split"]].to_csv(index=False)
    fingerprint = hashlib.sha256((index["sha256"] + labels).encode()).hexdigest()[:16]
    return ImageSet(table, pixels, np.array(index["sizes"]), fingerprint)


def _decode_all(table: pd.DataFrame, resolution: int, crop_size: int, folder: Path) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    digest, sizes, faults = hashlib.sha256(), [], []
    with open(unfinished / "pixels.u8", "wb") as file:
        for path in Progress(table["path"].tolist(), desc="decoding images"):
            try:
                image = decode(path, resolution, crop_size)
            except DataError as error:
                faults.append(str(error))
                continue
            sizes.append(image.shape[:2])
            digest.update(image.tobytes())
            file.write(image.tobytes())
    if faults:
        raise DataError(f"{len(faults)} images cannot be used: {' | '.join(faults[:10])}")
    paths.write_atomically(
        unfinished / "index.json", json.dumps({"sha256": digest.hexdigest(), "sizes": sizes})
    )
    unfinished.rename(folder)


def decode(path: str | Path, resolution: int, crop_size: int) -> np.ndarray:
    """Read any image file as upright RGB, uint8 H x W x 3, at working size.

    Raises:
        DataError: the file is no image or is damaged.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded ({error}); replace the file or remove its row.") from error
    short = min(image.size)
    wanted = min(short, resolution) if short >= crop_size else crop_size
    if wanted != short:
        size = [max(crop_size, round(side * wanted / short)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def grid(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Evenly spaced (top, left) corners of the fewest crops that cover the whole image."""

    def along(length: int) -> list[int]:
        count = math.ceil(length / size)
        return np.linspace(0, length - size, count).round().astype(int).tolist()

    return [(y, x) for y in along(height) for x in along(width)]


def grid_crops(images: ImageSet, rows: np.ndarray, size: int) -> list[tuple[int, int, int, bool]]:
    """All evaluation crops of these images, image by image."""
    return [(r, y, x, False) for r in rows for y, x in grid(*images.image(r).shape[:2], size)]


def random_crops(
    images: ImageSet, rows: np.ndarray, per_image: int, size: int, rng: np.random.Generator
) -> list[tuple[int, int, int, bool]]:
    """``per_image`` random squares of each image, each flipped or not, image by image."""
    crops = []
    for row in np.repeat(rows, per_image):
        height, width = images.image(row).shape[:2]
        y, x = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
        crops.append((row, int(y), int(x), bool(rng.integers(2))))
    return crops
