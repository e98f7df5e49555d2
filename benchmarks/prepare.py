"""How fast `data prepare` decodes images of KonIQ-10k's size, in how much memory, and whether the cost is linear.

    python benchmarks/prepare.py                  # 500, 1,000 and 2,000 generated JPEG files of 1024 x 768
    python benchmarks/prepare.py 2000 5000 10073  # up to KonIQ-10k's own number: about 3 GB of files, 6 GB of cache

Each number is prepared by a process of its own, in a temporary folder (TMPDIR chooses the disk) that is removed.
The rate is that of decoding and writing the cache at resolution 384; verifying it again by SHA-256 is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

BACKBONE = "efficientnet_lite0"  # asked for by every profile, not used here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, default=[500, 1000, 2000], help="of images")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in sorted(options.numbers):
            rows.append(run(Path(folder), number))
            print("{images:>6,} images  {seconds:6.1f} s  {rate:6.1f} images/s  peak {peak:5.2f} GB".format(**rows[-1]))
            print(f"               verified in {rows[-1]['verify']:.1f} s; load {os.getloadavg()[0]:.1f}")
    cost = [row["seconds"] / row["images"] for row in rows]
    print(f"cost of an image, most to fewest images: {cost[-1] / cost[0]:.2f} (1 is linear)")


def run(folder: Path, number: int) -> dict[str, float]:
    home = folder / str(number)
    write_images(home / "data" / "images", number)
    child = [sys.executable, __file__, "--measure", "images/labels.csv"]
    environment = {**os.environ, "IQA_HOME": str(home)}
    said = subprocess.run(child, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for path in home.rglob("pixels.u8"):
        path.unlink()
    return json.loads(said.stdout)


def write_images(
    folder: Path, number: int, size: tuple[int, int] = (1024, 768), distinct: int | None = None, held_out: int = 0
) -> None:
    """Clouds with film grain: like photographs they fill about 300 kB as JPEG, at 1024 x 768.

    Args:
        distinct: files; the others are links to them. None: no two are equal.
        held_out: images of validation and of the test, each.
    """
    folder.mkdir(parents=True)
    distinct = min(distinct or number, number)
    rng = np.random.default_rng(0)
    clouds = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(clouds.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)

    def write(i: int) -> None:
        shifted = np.roll(pixels, (i % 768, i // 768 * 7), axis=(0, 1))
        Image.fromarray(shifted).save(folder / f"{i:05}.jpg", quality=85)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(distinct)))
    for i in range(distinct, number):
        os.link(folder / f"{i % distinct:05}.jpg", folder / f"{i:05}.jpg")
    splits = ["val"] * held_out + ["test"] * held_out + ["train"] * (number - 2 * held_out)
    rows = [f"{i:05}.jpg,{i % 101},{split}" for i, split in enumerate(splits)]
    (folder / "labels.csv").write_text("\n".join(["image,score,split", *rows]), encoding="utf-8")


def measure(labels: str) -> dict[str, float]:
    from iqa_lib.data.images import load_images
    from iqa_lib.profile import Profile

    settings = Profile(profile="benchmark", dataset=labels, backbone=BACKBONE, resolution=384)
    started = time.perf_counter()
    images = load_images(settings)
    seconds = time.perf_counter() - started
    load_images(settings, verify=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "images": len(images),
        "seconds": seconds,
        "rate": len(images) / seconds,
        "verify": time.perf_counter() - started - seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
    }


if __name__ == "__main__":
    main()
