"""The workbook against the plain way that this method is run today, timed alternately in one run.

    python benchmarks/plain.py                                     # Swin-T, batch 32, 224 px crops
    python benchmarks/plain.py swin_base_patch4_window7_224 --rounds 5

The plain way: float32, one item per crop, its image decoded and resized for it, no workers, the target network as a
grouped convolution per image, evaluation crop by crop, in a process of its own with torch's own settings. Both work on
the same generated JPEG files of 1024 x 768, from random weights. The bare model is the workbook's training step on one
batch that is there already.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from prepare import write_images
from torch import Tensor, nn
from torchvision.transforms import functional as T

IMAGES, EVALUATED, CROPS = 64, 8, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backbone", nargs="?", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--rounds", type=int, default=3, help="of each pair")
    parser.add_argument("--steps", type=int, default=4, help="training steps a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["IQA_HOME"] = home  # before iqa_lib is imported
        write_images(Path(home) / "data" / "images", IMAGES)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from iqa_lib import machine
    from iqa_lib.data.images import load_images
    from iqa_lib.profile import Profile
    from iqa_lib.training.batches import FrozenBatches, ImageBatches, training_crops
    from iqa_lib.training.evaluate import predict
    from iqa_lib.training.loop import Loop, train_epoch

    settings = Profile(
        profile="benchmark",
        dataset="images/labels.csv",
        backbone=options.backbone,
        pretrained=False,
        precision="auto",
        train_crops=1,
        epochs=1_000,
    )
    images = load_images(settings)
    rows = np.arange(len(images))
    files, scores = images.table["path"].tolist(), images.scores(rows)
    print(f"{options.backbone} on {machine.description()}; load {os.getloadavg()[0]:.1f} before")

    wanted = options.steps * settings.batch_size
    crops = training_crops(settings, images, rows, np.random.default_rng(0)) * (wanted // IMAGES + 1)
    ours = Loop.start(settings, images)
    batches = ImageBatches(settings, ours.model, images, crops, 1)
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"  # of the plain way's process: this one has read it
    plain = ProcessPoolExecutor(1, get_context("spawn"), start_plain, (files, scores, settings))
    # one batch, read beforehand
    cut, label = batches.read(np.arange(settings.batch_size)), batches.labels[: settings.batch_size]
    label = torch.from_numpy(label).to(ours.accelerator.device)
    waits = []

    def plainly(work: str, number: int) -> None:
        plain.submit(in_plain_process, work, number).result()

    def train_ours() -> None:
        waits.append(train_epoch(ours, batches, np.arange(wanted), 1)["data_wait"])

    def train_bare() -> None:
        ours.model.train()
        for _ in range(options.steps):
            ours.learn(batches, cut, label, 1.0).item()

    with machine.freed_memory_kept():  # as over an epoch
        pair = alternately(
            options.rounds, {"plain": lambda: plainly("train", wanted), "workbook": train_ours, "bare": train_bare}
        )
    report("training, crops/s", pair, wanted, "plain", "workbook")
    print(
        f"{'':34} data included, {ratio(pair, 'bare', 'workbook'):.1%} of the bare model's speed; "
        f"{statistics.median(waits):.2%} of the time waiting for data"
    )

    few = rows[:EVALUATED]
    covering = [(row, y, x, False) for row in few for y, x in random_corners(images, row, settings.crop_size)]
    whole = settings.model_copy(update={"freeze_backbone": False})
    pair = alternately(
        options.rounds,
        {
            "plain": lambda: plainly("evaluate", len(few)),
            "workbook": lambda: predict(whole, ours.model, images, few, "scoring", covering),
        },
    )
    report(f"evaluation at {CROPS} crops, images/s", pair, len(few), "plain", "workbook")
    plain.shutdown()

    frozen = settings.model_copy(update={"freeze_backbone": True})
    head = Loop.start(frozen, images)
    running = ImageBatches(frozen, head.model, images, crops[:IMAGES], 1)
    cached = FrozenBatches(frozen, head.model, images, rows)
    many = np.tile(np.arange(IMAGES), 5)  # so that the fast one is timed for long enough
    pair = alternately(
        options.rounds,
        {
            "running": lambda: train_epoch(head, running, np.arange(IMAGES), 1),
            "cached": lambda: train_epoch(head, cached, many, 1),
        },
    )
    pair["cached"] = [seconds / 5 for seconds in pair["cached"]]
    report("head only, crops/s", pair, IMAGES, "running", "cached")
    print(f"load {os.getloadavg()[0]:.1f} after")


def alternately(rounds: int, ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that does not count."""
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of how much faster the second is, each round's own pair compared."""
    return statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def report(what: str, seconds: dict[str, list[float]], items: int, slow: str, fast: str) -> None:
    rates = {name: items / statistics.median(seconds[name]) for name in (slow, fast)}
    each = ", ".join(f"{s / f:.1f}" for s, f in zip(seconds[slow], seconds[fast], strict=True))
    print(
        f"{what:34} {slow} {rates[slow]:8.2f}   {fast} {rates[fast]:8.2f}   x {ratio(seconds, slow, fast):.1f} ({each})"
    )


# --- the plain way ----------------------------------------------------------------------------------------


class PlainTraining:
    """As the reference scripts do it: a data set of crops, a loader without workers, a loop."""

    def __init__(self, model: nn.Module, files: list[str], scores: np.ndarray, settings):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.files, self.scores, self.settings = model.to(self.device), files, scores, settings
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def item(self, number: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.files[number]) as file:
            image = T.resize(file.convert("RGB"), [384, 512])
        size = self.settings.crop_size
        image = T.crop(image, random.randint(0, 384 - size), random.randint(0, 512 - size), size, size)
        tensor = T.normalize(T.to_tensor(image), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return tensor, torch.tensor(self.scores[number])

    def train(self, crops: int) -> None:
        self.model.train()
        size = self.settings.batch_size
        for start in range(0, crops, size):
            items = [self.item(i % len(self.files)) for i in range(start, start + size)]
            image, label = (torch.stack(part).to(self.device) for part in zip(*items, strict=True))
            with plain_target_network():
                loss = (self.model(image) - label).abs().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()

    def evaluate(self, images: int) -> None:
        self.model.eval()
        with torch.no_grad(), plain_target_network():
            for number in range(images):
                for _ in range(CROPS):
                    self.model(self.item(number)[0].unsqueeze(0).to(self.device)).item()


def start_plain(files: list[str], scores: np.ndarray, settings) -> None:
    from iqa_lib.training.loop import build_model

    global plain_way  # of this process
    plain_way = PlainTraining(build_model(settings), files, scores, settings)


def in_plain_process(work: str, number: int) -> None:
    getattr(plain_way, work)(number)


def plain_target_network():
    return mock.patch("iqa_lib.models.hypernet.target_network", grouped)


def grouped(vector_BV: Tensor, layers: list[tuple[Tensor, Tensor]], dropout: nn.Module) -> Tensor:
    """Each image's own network as one group of a convolution over the batch, as HyperIQA's code has it."""
    images = len(vector_BV)
    x = vector_BV.reshape(1, -1, 1, 1)
    for depth, (weight, bias) in enumerate(layers):
        weight = weight.reshape(images * weight.shape[1], weight.shape[2], 1, 1)
        x = F.conv2d(x, weight, bias.reshape(-1), groups=images)
        if depth < len(layers) - 1:
            x = torch.sigmoid(x)
        if depth < len(layers) - 2:
            x = dropout(x)
    return x.flatten()


def random_corners(images, row: int, size: int) -> list[tuple[int, int]]:
    height, width = images.image(row).shape[:2]
    rng = np.random.default_rng(int(row))
    return [(int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))) for _ in range(CROPS)]


if __name__ == "__main__":
    main()
