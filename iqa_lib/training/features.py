"""Features of frozen backbones on disk: each crop's once, whichever run, notebook or profile asks for them.

``data/cache/features-<key>/`` belongs to one backbone on one set of pixels: ``rows.f16`` holds what the head reads of a
crop, ``crops.i64`` which crop that is. Both only grow, and both may be deleted at any time. The folders together keep
to `MOST_BYTES`: those not used for longest go first.
"""

import errno
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from iqa_lib import paths

MOST_BYTES = 20_000_000_000
LEFT_FREE = 500_000_000  # bytes of the disk that the cache does not take
ROWS, CROPS = "rows.f16", "crops.i64"
CROP = 5 * 8  # bytes: row of the image table, top, left, flipped, number of its colour jitter


class Features:
    """What the head reads of each of N crops, float16 (N, P), read from disk when asked for."""

    def __init__(self, folder: Path, width: int, places_N: np.ndarray):
        self._rows = np.memmap(folder / ROWS, np.float16, "r").reshape(-1, width)
        self._places_N = places_N

    def __len__(self) -> int:
        return len(self._places_N)

    def __getitem__(self, chosen: slice | np.ndarray) -> Tensor:
        return torch.from_numpy(self._rows[self._places_N[chosen]])


def cached(
    key: tuple, width: int, crops_N5: np.ndarray, compute: Callable[[np.ndarray], Iterable[np.ndarray]]
) -> Features | None:
    """The features of these crops; those not on disk yet are computed, and added batch by batch.

    Args:
        key: all that features depend on beside the crop: pixels, backbone, weights, precision.
        width: numbers per crop.
        compute: numbers of crops (M,) to their features in that order, in batches (B, width) of float16.

    Returns:
        None where the disk has no room or may not be written, which is printed once.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    folder = paths.DATA / "cache" / f"features-{digest}"
    wanted = [crop.tobytes() for crop in np.ascontiguousarray(crops_N5, dtype=np.int64)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            known = _known(folder, 2 * width)
            missing = {crop: number for number, crop in enumerate(wanted) if crop not in known}
            if missing:
                _add(folder, missing, known, 2 * width, compute)
            os.utime(folder)
        _keep_within(MOST_BYTES, folder)
        return Features(folder, width, np.array([known[crop] for crop in wanted]))
    except OSError as error:
        _say_once(folder.parent, error.strerror or str(error))
        return None


def _known(folder: Path, row_bytes: int) -> dict[bytes, int]:
    """Where each crop's row is; cuts off what a killed process, or a damaged disk, left half."""
    with open(folder / ROWS, "a+b") as rows, open(folder / CROPS, "a+b") as crops:
        crops.seek(0)
        listed = crops.read()
        whole = min(rows.seek(0, os.SEEK_END) // row_bytes, len(listed) // CROP)
        if lost := -(-len(listed) // CROP) - whole:
            print(f"{folder} was cut short: {lost} features are computed again.", file=sys.stderr)
        rows.truncate(whole * row_bytes)
        crops.truncate(whole * CROP)
    return {listed[CROP * place : CROP * (place + 1)]: place for place in range(whole)}


def _add(
    folder: Path,
    missing: dict[bytes, int],
    known: dict[bytes, int],
    row_bytes: int,
    compute: Callable[[np.ndarray], Iterable[np.ndarray]],
) -> None:
    if shutil.disk_usage(folder).free < len(missing) * row_bytes + LEFT_FREE:
        raise OSError(errno.ENOSPC, f"{len(missing) * row_bytes / 1e9:.2f} GB are needed, the disk is too full")
    waiting = iter(missing)
    # Appended, not mapped: a full disk then is an error and no SIGBUS.
    with open(folder / ROWS, "ab") as rows, open(folder / CROPS, "ab") as crops:
        for batch in compute(np.array(list(missing.values()))):
            rows.write(batch.tobytes())
            rows.flush()
            for crop in itertools.islice(waiting, len(batch)):
                crops.write(crop)
                known[crop] = len(known)
            crops.flush()
        os.fsync(rows.fileno())


def _keep_within(most: int, in_use: Path) -> None:
    """Delete the features that were not used for longest, never those in use, until the others fit."""
    everything = [path for path in in_use.parent.glob("features-*") if path.suffix != ".lock"]
    sizes = {path: sum(f.stat().st_size for f in [path, *path.glob("*")]) for path in everything}
    total = sum(sizes.values())
    for path in sorted(everything, key=lambda p: p.stat().st_mtime):
        if total > most and path != in_use:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            total -= sizes[path]


@functools.cache
def _say_once(cache: Path, reason: str) -> None:
    print(
        f"No features are kept in {cache} ({reason}): the backbone runs in every epoch, which takes longer.",
        file=sys.stderr,
    )
