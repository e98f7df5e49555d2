"""Scoring photographs: as fast as the bare model on crops that are there already? And twice the same bytes?

    python benchmarks/scoring.py                   # 1,000 photographs, about ten minutes on two cores
    python benchmarks/scoring.py --photos 60       # a trial

JPEG files (quality 88, with film grain) of the sizes in `SIZES`, cut from the photographs in scikit-image and
scikit-learn. They are worked part by part, and for each part three ways are timed in turn: `score_all` on the files;
`score_all` on the same pictures decoded beforehand; and the bare model on one batch of crops that lies in memory, for
as many crops as the part has. The bare model runs as anyone would run it, each batch on all cores, and as the workers
of `score_all` do, a batch per core: shares are of the faster one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from iqa_lib.data.crops import grid
from iqa_lib.data.decode import WorkingSize, read_image
from iqa_lib.scoring import score as scoring
from iqa_lib.training.predictor import EVALUATION_BATCH

# Width, height, share: what lies in folders of web pictures and shared photographs; one in ten a phone's original.
SIZES = [
    ((640, 480), 0.20),
    ((800, 533), 0.10),
    ((1024, 768), 0.25),
    ((1200, 800), 0.10),
    ((1280, 720), 0.10),
    ((1600, 1200), 0.10),
    ((2048, 1536), 0.05),
    ((4000, 3000), 0.10),
]
PORTRAIT = 4  # every fourth stands upright
PART = 250  # photographs timed at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), options.photos)
        pixels = [size[0] * size[1] * share / 1e6 for size, share in SIZES]
        print(f"{len(files):,} JPEG files, {sum(pixels):.1f} megapixels in the mean, {os.cpu_count()} cores")
        compare(files)
        print("two runs, the same bytes:", same_bytes(Path(folder)))


def write_photographs(folder: Path, number: int) -> list[Path]:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    sources = [getattr(data, name)() for name in names] + load_sample_images().images
    sizes, shares = zip(*SIZES, strict=True)
    chosen = np.random.default_rng(0).choice(len(sizes), number, p=shares)

    def write(place: int) -> Path:
        rng = np.random.default_rng(place)
        width, height = sizes[chosen[place]]
        source = Image.fromarray(sources[rng.integers(len(sources))])
        part = rng.uniform(0.6, 0.9) * min(source.width / width, source.height / height)
        left = rng.uniform(0, source.width - part * width)
        top = rng.uniform(0, source.height - part * height)
        box = (left, top, left + part * width, top + part * height)
        photo = np.asarray(source.resize((width, height), Image.Resampling.BICUBIC, box)).astype(np.float32)
        grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(2, 6)
        photo = (photo + grain).clip(0, 255).astype(np.uint8)
        photo = photo if place % PORTRAIT else np.ascontiguousarray(np.rot90(photo))
        file = folder / f"{place:05}.jpg"
        Image.fromarray(photo).save(file, quality=88)
        return file

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(write, range(number)))


def compare(files: list[Path]) -> None:
    scorer = scoring.load_scorer()
    size = scorer.settings.crop_size
    batch = torch.randint(0, 256, (EVALUATION_BATCH, 3, size, size), dtype=torch.uint8)
    parts = [files[start : start + PART] for start in range(0, len(files), PART)]
    seconds: dict[str, list[float]] = {}
    measure(scorer, parts[0][: 2 * EVALUATION_BATCH], batch)  # warm-up
    print(f"{scorer.name}, {size} px crops, torch {torch.__version__}; load {os.getloadavg()[0]:.1f} before")
    for part in parts:
        for way, taken in measure(scorer, part, batch).items():
            seconds.setdefault(way, []).append(taken)
    bare = min((sum(seconds[way]), way) for way in seconds if way.startswith("bare"))[1]
    for way, taken in seconds.items():
        shares = [b / t for b, t in zip(seconds[bare], taken, strict=True)]
        print(
            f"{way:32} {len(files) / sum(taken):7.2f} photographs/s   {sum(seconds[bare]) / sum(taken):6.1%} of the "
            f"bare model (parts: {min(shares):.1%} to {max(shares):.1%}, median {statistics.median(shares):.1%})"
        )
    print(f"load {os.getloadavg()[0]:.1f} after")


def measure(scorer: scoring.Scorer, part: list[Path], batch: torch.Tensor) -> dict[str, float]:
    """Seconds of each way for these photographs."""
    working_size = WorkingSize.of_settings(scorer.settings)
    decoded = [read_image(file, working_size) for file in part]
    crops = sum(len(grid(*image.shape[:2], scorer.settings.crop_size)) for image in decoded)
    batches = range(round(crops / len(batch)))
    cores = torch.get_num_threads()

    def bare(threads: int) -> Callable[[int], None]:
        def run(_: int) -> None:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                scorer.score_crops(batch)

        return run

    def side_by_side() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(bare(1), batches))
        torch.set_num_threads(cores)

    asked = crops / (len(batch) * len(batches))  # of the crops that the bare model takes
    return {
        "from files": timed(lambda: scoring.score_all(scorer, part, len(part))),
        "decoded beforehand": timed(lambda: scoring.score_all(scorer, decoded, len(part))),
        "bare model, a batch on all cores": asked * timed(lambda: list(map(bare(cores), batches))),
        "bare model, a batch per core": asked * timed(side_by_side),
    }


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def same_bytes(folder: Path) -> bool:
    """Whether the command, run twice, writes the same table."""
    tables = [folder / "first.csv", folder / "second.csv"]
    for table in tables:
        command = [sys.executable, "-m", "iqa_lib", "score", str(folder), "--csv", str(table)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return tables[0].read_bytes() == tables[1].read_bytes()


if __name__ == "__main__":
    main()
