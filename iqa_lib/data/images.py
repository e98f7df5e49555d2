"""Decode every image once into one memory-mapped uint8 file; after that a crop is a slice.

Shape suffixes: B batch, C channels, H height, W width, P all pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.data.decode import WorkingSize, quiet_pillow, read_image, read_size
from iqa_lib.errors import DataError
from iqa_lib.profile import DataSettings, Profile
from iqa_lib.progress import Progress

COPIED_AT_ONCE = 1 << 26  # bytes of pixels on their way to a device


class ImageSet:
    """A dataset's labels and decoded images.

    Attributes:
        table: one row per image (`catalog.load_table`).
        fingerprint: hash of all pixels, scores and splits: same fingerprint, same data.
        pixels_fingerprint: of the pixels alone.
    """

    def __init__(
        self, table: pd.DataFrame, pixels: np.ndarray, sizes: np.ndarray, fingerprint: str, pixels_fingerprint: str = ""
    ):
        self.table = table
        self.fingerprint = fingerprint
        self.pixels_fingerprint = pixels_fingerprint or fingerprint
        self._pixels = pixels
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])
        self._resident_P3: Tensor | None = None

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int) -> np.ndarray:
        """uint8 H x W x 3, without a copy."""
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(*self._sizes[index], 3)

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.table["split"] == split)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self.table["score"].to_numpy(np.float32)[rows]

    def share_of_one_crop(self, size: int) -> float:
        """Share of the images that are exactly one crop of this size: there cropping has nothing to choose."""
        return float((self._sizes == size).all(axis=1).mean())

    def crops(self, wanted: list[tuple[int, int, int, bool]], size: int) -> Tensor:
        """Cut (row, top, left, flipped) squares: uint8 (B, 3, size, size), in page-locked memory or on the device."""
        if self._resident_P3 is not None:
            return self._crops_on_device(np.array(wanted, dtype=np.int64), size)
        return page_locked(torch.from_numpy(np.stack(self.squares(wanted, size)))).permute(0, 3, 1, 2)

    def squares(self, wanted: list[tuple[int, int, int, bool]], size: int) -> list[np.ndarray]:
        """As `crops`: uint8 (size, size, 3) each, views of the decoded images."""
        return [self.image(row)[y : y + size, x : x + size][:, :: -1 if flip else 1] for row, y, x, flip in wanted]

    def _crops_on_device(self, wanted_B4: np.ndarray, size: int) -> Tensor:
        row_B, top_B, left_B, flipped_B = wanted_B4.T
        width_B = self._sizes[row_B, 1]
        corner_B = self._starts[row_B] // 3 + top_B * width_B + left_B + flipped_B * (size - 1)
        places = page_locked(torch.from_numpy(np.stack([corner_B, width_B, 1 - 2 * flipped_B])))
        corner, down, right = places.to(self._resident_P3.device, non_blocking=True)[:, :, None, None]
        along = torch.arange(size, device=self._resident_P3.device)
        return self._resident_P3[corner + down * along[:, None] + right * along].permute(0, 3, 1, 2)

    def fits(self, device: torch.device) -> bool:
        """Whether this is a GPU, half of whose free memory holds all pixels."""
        return device.type == "cuda" and 2 * self._pixels.nbytes < torch.cuda.mem_get_info(device)[0]

    def keep_on(self, device: torch.device) -> None:
        """Copy all pixels to the device: crops are cut there from now on, the same to the bit."""
        if self._resident_P3 is not None and self._resident_P3.device == device:
            return
        resident = torch.empty(len(self._pixels), dtype=torch.uint8, device=device)
        for start in range(0, len(resident), COPIED_AT_ONCE):
            part = slice(start, start + COPIED_AT_ONCE)
            resident[part] = torch.from_numpy(np.array(self._pixels[part]))
        self._resident_P3 = resident.view(-1, 3)


def page_locked(tensor: Tensor) -> Tensor:
    """Where there is a GPU: in memory that is copied to it without anyone waiting."""
    return tensor.pin_memory() if torch.cuda.is_available() and tensor.device.type == "cpu" else tensor


def load_images(
    settings: DataSettings, dataset: str | None = None, test_only: bool = False, verify: bool = False
) -> ImageSet:
    """A dataset of the profile, decoded; from the cache in ``data/cache`` where it was decoded before.

    Aspect ratio is kept: a short side above ``resolution`` is reduced to it, one below ``crop_size``
    enlarged to that. Under the ``paper`` protocol every image becomes 4:3 portrait instead, whatever it was.

    Args:
        dataset: one of the profile's ``test_datasets``; its ``dataset`` where this is None.
        test_only: the images to test on, none for training (`catalog.load_table`).
        verify: read the whole cache and compare its SHA-256; without, only its length is compared.

    Raises:
        StorageError: the cache cannot be written.
        DataError: as `catalog.load_table`, when the disk is too small, and for images that cannot be decoded,
            all of them named.
    """
    name = dataset or settings.dataset
    table = catalog.load_table(
        name,
        settings.score_range,
        settings.data_folder,
        settings.split_seed,
        validation=settings.protocol == "honest",
        test_only=test_only,
    )
    title = catalog.describe(name, settings.data_folder).title
    folder = decode_to_cache(table["path"].tolist(), title, settings, verify)
    index = json.loads((folder / INDEX).read_text())
    pixels = np.memmap(folder / PIXELS, dtype=np.uint8, mode="r")
    labels = table[["image", "score", "split"]].to_csv(index=False)
    fingerprint = hashlib.sha256((index["sha256"] + labels).encode()).hexdigest()[:16]
    return ImageSet(table, pixels, np.array(index["sizes"]), fingerprint, index["sha256"])


def load_all(settings: Profile) -> dict[str, ImageSet]:
    """The profile's dataset and, to test on, each of its ``test_datasets``; by name.

    Raises:
        DataError: as `load_images`.
    """
    own = {settings.dataset: load_images(settings)}
    return own | {name: load_images(settings, name, test_only=True) for name in settings.test_datasets}


# --- the cache: all images of a table, one after the other, in one file ---

PIXELS, INDEX, JOURNAL = "pixels.u8", "index.json", "journal.csv"
FORMAT = 4  # goes into the cache's name: raise it whenever `decode` gives other pixels than before
PIXELS_IN_FLIGHT = 120_000_000  # decoded at the same time, at 4 to 9 bytes each: this bounds the memory


def decode_to_cache(files: list[str], title: str, settings: DataSettings, verify: bool) -> Path:
    """The folder with these images decoded at working size; decodes what is not there yet.

    A run that was killed goes on where it stopped: ``journal.csv`` has a line (height, width, CRC-32) for every
    image in ``pixels.u8``, and only what agrees with it is kept. ``index.json`` is written last.
    """
    size = WorkingSize.of_settings(settings)
    state = (FORMAT, paths.stamps(files), size.resolution, size.crop_size, *["portrait"] * size.portrait)
    key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    folder = paths.DATA / "cache" / "-".join([*re.findall(r"[\w.]+", title), key])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if folder.is_dir() and (damage := _find_damage(folder, verify)):
            print(f"The cache {folder} is damaged ({damage}); decoding its images again.", file=sys.stderr)
            shutil.rmtree(folder)
        if not folder.is_dir():
            _decode_all(files, size, folder)
    return folder


def _find_damage(folder: Path, verify: bool) -> str | None:
    try:
        index = json.loads((folder / INDEX).read_text())
        expected = sum(height * width * 3 for height, width in index["sizes"])
        found = (folder / PIXELS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{INDEX} or {PIXELS} is unreadable: {error}"
    if found != expected:
        return f"{PIXELS} has {found:,} bytes instead of {expected:,}"
    if verify and sha256_of(folder / PIXELS, "verifying the cache") != index["sha256"]:
        return f"{PIXELS} does not agree with its SHA-256"
    return None


def sha256_of(path: Path, what: str, block: int = 1 << 24) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks under a bar called ``what``."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for _ in Progress(range(math.ceil(path.stat().st_size / block)), desc=what):
            digest.update(file.read(block))
    return digest.hexdigest()


def _decode_all(files: list[str], size: WorkingSize, folder: Path) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    sizes, digest = _resume(unfinished)
    done, faults = len(sizes), []
    sources = read_sizes(files[done:])
    results = [size.of(*source) for source in sources]
    what = f"Decoding {len(sources)} images to {size.resolution} px"
    require_space(folder.parent, sum(height * width * 3 for height, width in results), what)
    costs = [max(h * w, height * width) for (h, w), (height, width) in zip(sources, results, strict=True)]
    decoded = in_order(partial(_try_decode, size), zip(files[done:], costs, strict=True))
    bar = f"decoding images ({done} were)" if done else "decoding images"
    with (
        paths.writing_to(folder.parent),
        open(unfinished / PIXELS, "ab") as pixels,
        open(unfinished / JOURNAL, "ab") as journal,
        quiet_pillow(),
    ):
        for image in Progress(decoded, desc=bar, total=len(sources)):
            if isinstance(image, DataError):
                faults.append(str(image))
            elif not faults:  # once one is broken, the others are only tried
                sizes.append(image.shape[:2])
                digest.update(image)
                pixels.write(image)
                pixels.flush()
                journal.write(b"%d,%d,%d\n" % (*image.shape[:2], zlib.crc32(image)))
                journal.flush()
        os.fsync(pixels.fileno())
    if faults:
        shutil.rmtree(unfinished)
        raise DataError(f"{len(faults)} images cannot be used: {' | '.join(faults)}")
    paths.write_atomically(unfinished / INDEX, json.dumps({"sha256": digest.hexdigest(), "sizes": sizes}))
    unfinished.rename(folder)
    (folder / JOURNAL).unlink()


def read_sizes(files: list[str]) -> list[tuple[int, int]]:
    """(height, width) in the files' headers; (0, 0) where `decode` will refuse."""
    with quiet_pillow(), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        return list(Progress(pool.map(read_size, files), desc="measuring images", total=len(files)))


def _resume(unfinished: Path) -> tuple[list[tuple[int, int]], Any]:
    """Sizes and running SHA-256 of the images that an earlier run left whole; cuts off what is not."""
    sizes, digest, lines, end = [], hashlib.sha256(), 0, 0
    with open(unfinished / JOURNAL, "a+b") as journal, open(unfinished / PIXELS, "a+b") as pixels:
        journal.seek(0)
        pixels.seek(0)
        for line in journal:
            fields = re.fullmatch(rb"(\d+),(\d+),(\d+)\n", line)
            height, width, crc = map(int, fields.groups()) if fields else (0, 0, 0)
            image = pixels.read(height * width * 3)
            if not image or len(image) < height * width * 3 or zlib.crc32(image) != crc:
                break
            sizes.append((height, width))
            digest.update(image)
            lines, end = lines + len(line), end + len(image)
        journal.truncate(lines)
        pixels.truncate(end)
    return sizes, digest


def _try_decode(size: WorkingSize, path: str) -> np.ndarray | DataError:
    try:
        return read_image(path, size)
    except DataError as error:
        return error


def in_order(function: Callable, jobs: Iterable[tuple[Any, int]], workers: int | None = None) -> Iterator:
    """``function`` of each item, in order, from one thread a core or ``workers``; Pillow and torch release the GIL.

    No more than `PIXELS_IN_FLIGHT` and a few items per core are held at once.

    Args:
        jobs: items, each with its cost in pixels.
    """
    workers = workers or joblib.cpu_count()
    waiting, held = deque(), 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item, cost in jobs:
                while waiting and (held + cost > PIXELS_IN_FLIGHT or len(waiting) >= 4 * workers):
                    first, its_cost = waiting.popleft()
                    yield first.result()
                    held -= its_cost
                waiting.append((pool.submit(function, item), cost))
                held += cost
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        DataError: fewer than ``needed`` bytes are free where ``folder`` lies.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{what} needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free ({needed:,} and "
            f"{free:,} bytes). Make room, or set IQA_HOME to a folder on a larger disk."
        )
