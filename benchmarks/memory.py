"""The memory that training takes on as many images as KonIQ-10k has, and whether it grows from epoch to epoch.

    python benchmarks/memory.py                                   # 10,073 images of 512 x 384, minutes
    python benchmarks/memory.py --images 500 --epochs 3           # a quick look
    python benchmarks/memory.py --backbone swin_tiny_patch4_window7_224 --crop 224

Few generated JPEG files are linked under many names, decoded by the workbook into its cache (6 GB, in a temporary
folder that is removed; TMPDIR chooses the disk) and trained on, 60 of them for validation and 60 for testing.

Counted is private memory, ``RssAnon`` of Linux: what the process alone holds and cannot be taken from it. The cache is
a memory-mapped file; its pages (``RssFile``, beside it) belong to the system's file cache, which takes them back when
memory is short. "Beyond the model" is the peak less what the process held after one training step of one batch.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prepare import write_images

DISTINCT = 64  # JPEG files
HELD_OUT = 60  # images of validation and of the test, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_073)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--backbone", default="swin_test")
    parser.add_argument("--crop", type=int, default=64, help="side in px")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["IQA_HOME"] = home  # before iqa_lib is imported
        write_images(Path(home) / "data" / "images", options.images, (512, 384), DISTINCT, HELD_OUT)
        report(options)


def report(options: argparse.Namespace) -> None:
    from iqa_lib import machine
    from iqa_lib.data.images import load_images
    from iqa_lib.profile import Profile
    from iqa_lib.study.complexity import noise_images
    from iqa_lib.training.batches import ImageBatches
    from iqa_lib.training.loop import Loop, train_epoch
    from iqa_lib.training.runs import Run
    from iqa_lib.training.train import train

    settings = Profile(
        profile="benchmark",
        dataset="images/labels.csv",
        backbone=options.backbone,
        pretrained=False,
        resolution=384,
        crop_size=options.crop,
        train_crops=1,
        epochs=options.epochs,
        patience=options.epochs,
    )
    print(f"{options.backbone}, crops of {options.crop} px, batch {settings.batch_size}, on {machine.description()}")
    started = time.monotonic()
    decoding = Samples(lambda: load_images(settings))
    images = decoding.result
    print(f"{len(images):,} images decoded in {time.monotonic() - started:.0f} s: {decoding}")

    one_batch = noise_images(settings.batch_size, options.crop)
    loop = Loop.start(settings, one_batch)
    crops = [(row, 0, 0, False) for row in range(settings.batch_size)]
    with machine.freed_memory_kept():  # as in training
        train_epoch(loop, ImageBatches(settings, loop.model, one_batch, crops, 1), np.arange(len(crops)), 1)
        model_alone = memory()[PRIVATE]
    print(f"the model and one training step: {model_alone / 1e3:.2f} GB private, the libraries included")
    del loop

    log = Run(settings, images.fingerprint).folder / "epochs.jsonl"
    started = time.monotonic()
    training = Samples(lambda: train(settings, images), lambda: finished_epochs(log))
    print(f"training, {options.epochs} epochs in {time.monotonic() - started:.0f} s: {training}")
    medians = [np.median(values) for phase, values in training.private.items() if phase < options.epochs]
    told = ", ".join(f"{value / 1e3:.3f}" for value in medians)
    slope = np.polyfit(np.arange(1, len(medians)), medians[1:], 1)[0]
    print(f"private memory, GB, median of each epoch: {told}; {slope:+.1f} MB an epoch from the second on")
    print(f"beyond the model: {(training.peak - model_alone) / 1e3:.2f} GB at the peak")


def finished_epochs(log: Path) -> int:
    return log.read_text().count("\n") if log.is_file() else 0


PRIVATE, OF_FILES = "RssAnon", "RssFile"


def memory() -> dict[str, float]:
    """What this process holds in MB, by kind."""
    status = Path("/proc/self/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1e3 for name in (PRIVATE, OF_FILES)}


class Samples:
    """Private memory while something is done, every tenth of a second, by phase.

    Attributes:
        private: MB, by the number of the phase.
        result: of what was done.
    """

    def __init__(self, work: Callable[[], object], phase: Callable[[], int] = lambda: 0):
        self.private: dict[int, list[float]] = defaultdict(list)
        self.of_files = 0.0
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                now = memory()
                self.private[phase()].append(now[PRIVATE])
                self.of_files = max(self.of_files, now[OF_FILES])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.result = work()
        finally:
            done.set()
            watcher.join()

    @property
    def peak(self) -> float:
        """MB."""
        return max(max(values) for values in self.private.values())

    def __str__(self) -> str:
        return f"peak {self.peak / 1e3:.2f} GB private, {self.of_files / 1e3:.2f} GB of files"


if __name__ == "__main__":
    main()
