"""What the workbook makes of a GPU, in one call of eight minutes: a table of what was measured beside its target.

    python benchmarks/gpu.py                 # on an NVIDIA GPU of 40 GB or more; the parts below, in this order
    python benchmarks/gpu.py train compile   # some of them
    python benchmarks/gpu.py --small         # a trial of the script itself, on any machine: its figures mean nothing

Images are noise of KonIQ-10k's number and size, weights are random, nothing is downloaded. Every line of figures is
also appended to gpu.jsonl in the folder that OUT names. Parts: train (graph, and launched kernel by kernel), evaluate,
compile, plain, tests (all but the slow ones, for as long as the eight minutes last). When they are over, or a part
fails, the table has what was measured until then.
"""

# ruff: noqa: E402 (iqa_lib reads IQA_HOME when it is imported)

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

OUT = Path(os.environ.get("OUT", tempfile.gettempdir()))
os.environ.setdefault("IQA_HOME", str(Path(tempfile.gettempdir()) / "iqa_gpu"))
CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

import numpy as np
import pandas as pd
import torch

from iqa_lib import machine
from iqa_lib.data.crops import ImageSet, random_crops
from iqa_lib.profile import Profile, load_profile
from iqa_lib.study import experiments
from iqa_lib.study.plan import FORWARD_AND_BACKWARD, size_of
from iqa_lib.training import evaluate, predictor
from iqa_lib.training import loop as optimisation
from iqa_lib.training.batches import ImageBatches
from iqa_lib.training.graphs import graphs_of
from iqa_lib.training.loop import Loop, train_epoch
from iqa_lib.training.runs import Run

STARTED, LIMIT = time.monotonic(), 460  # seconds, the table comes after them
TRAINED, TESTED, CROPS = 10_073, 2_015, 20  # images of KonIQ-10k, those of its test split, crops of each
SIZES = {
    "base": "swin_base_patch4_window7_224",
    "small": "swin_small_patch4_window7_224",
    "tiny": "swin_tiny_patch4_window7_224",
    "resnet": "resnet50",
}
SMALL = "--small" in sys.argv
STEPS, ROUNDS = (3, 1) if SMALL else (40, 3)
found: dict[str, float] = {}  # what the last table is made of


class OutOfTime(BaseException):
    """No `Exception`: only `main` handles it."""


def stop(signal_number: int, _) -> None:
    raise OutOfTime(f"stopped by {signal.Signals(signal_number).name} after {time.monotonic() - STARTED:.0f} s")


def say(part: str, **values) -> None:
    line = json.dumps({"part": part} | {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
    if part != "table":
        print(line, flush=True)
    with open(OUT / "gpu.jsonl", "a") as file:
        file.write(line + "\n")


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def settings(size: str, **changes) -> Profile:
    backbone = "swin_test" if SMALL else SIZES[size]
    method = "hyper_iqa" if size == "resnet" else "smart_iqa"
    base = {"profile": "gpu", "dataset": "none.csv", "backbone": backbone, "method": method, "pretrained": False}
    return Profile(
        **base | {"epochs": 10, "train_crops": CROPS, "batch_size": 32, "crop_size": 64 if SMALL else 224} | changes
    )


@functools.cache
def images() -> ImageSet:
    number, (h, w) = 96 if SMALL else TRAINED, (384, 512)
    some = np.random.default_rng(0).integers(0, 256, 64 * h * w * 3, dtype=np.uint8)
    pixels = np.tile(some, -(-number // 64))[: number * h * w * 3]
    scores = np.arange(number) % 101.0
    table = pd.DataFrame({"image": [f"{i}" for i in range(number)], "score": scores, "split": "train"})
    return ImageSet(table, pixels, np.full((number, 2), (h, w)), "noise")


def flop_of(size: str) -> float:
    """Of one crop's forward pass."""
    return size_of(settings(size))[1]


def train_at(size: str, batch: int, way: str) -> None:
    """A row of training: the rate with its data, and that of the same step on one resident batch."""
    optimisation.WORTH_IT = 10**9 if way == "launched" else 0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    of_this = settings(size, batch_size=batch, compile=way == "compile")
    loop = Loop.start(of_this, images())
    crops = random_crops(images(), np.arange(len(images())), 1, of_this.crop_size, np.random.default_rng(0))
    batches, order = ImageBatches(of_this, loop.model, images(), crops, 1), np.arange(batch * STEPS) % len(crops)
    began = now()
    train_epoch(loop, batches, order[: 4 * batch], 1)
    first, rates, waits = now() - began, [], []
    for _ in range(ROUNDS):
        began = now()
        waits.append(train_epoch(loop, batches, order, 1)["data_wait"])
        rates.append(len(order) / (now() - began))
    data, label = (
        batches.read(order[:batch]),
        torch.from_numpy(batches.labels[order[:batch]]).to(loop.accelerator.device),
    )
    bare = []
    for _ in range(ROUNDS):
        began = now()
        for _ in range(STEPS):
            loop.learn(batches, data, label, 1.0)
        bare.append(len(order) / (now() - began))
    rate, name = float(np.median(rates)), f"{way} {size} {batch}"
    flop = FORWARD_AND_BACKWARD * flop_of(size)
    found[name], found[f"bare {name}"] = rate, float(np.median(bare))
    say(
        f"training: {name}",
        crops_per_s=rate,
        rounds=[round(r) for r in rates],
        share_of_bare=rate / found[f"bare {name}"],
        waiting=float(np.median(waits)),
        tflops=rate * flop / 1e12,
        of_the_matrix_rate=rate * flop / found.get("matrix rate", np.nan),
        first_four_steps_s=first,
        recorded=bool(graphs_of(loop.model, loop.accelerator.device)._recorded),
        peak_gb=torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None,
    )


def evaluate_at(batch: int, way: str) -> None:
    predictor.EVALUATION_BATCH = predictor.HEAD_BATCH = batch
    predictor.RECORDED_FROM = 10**9 if way == "launched" else 8
    of_this, rows = settings("base", compile=way == "compile"), np.arange(16 if SMALL else TESTED)
    model = Loop.start(of_this, images()).model
    crops = random_crops(images(), rows, CROPS, of_this.crop_size, np.random.default_rng(0), flip=False)
    warm = crops[: len(crops) // 3]
    evaluate.predict(of_this, model, images(), rows[: len(rows) // 3], "warm-up", warm)
    began = now()
    evaluate.predict(of_this, model, images(), rows, "scoring", crops)
    found[f"evaluation {way} {batch}"] = seconds = now() - began
    flop = len(crops) * flop_of("base")
    say(f"evaluation: {way} {batch}", seconds=seconds, crops_per_s=len(crops) / seconds, tflops=flop / seconds / 1e12)


def of_training() -> None:
    for size, batch, way in (("base", 32, "launched"), ("base", 32, "graph"), ("base", 128, "graph")):
        attempt(train_at, size, batch, way)
    for size, batch in (("small", 32), ("tiny", 32), ("resnet", 96)):
        attempt(train_at, size, batch, "graph")


def of_evaluation() -> None:
    for batch in (128, 256):
        attempt(evaluate_at, batch, "graph")


def of_compiling() -> None:
    attempt(train_at, "base", 32, "compile")
    attempt(evaluate_at, 128, "compile")


def run(part: str, seconds: float, *command: str) -> str:
    """What a command prints, for as many seconds."""
    environment = {k: v for k, v in os.environ.items() if k != "IQA_HOME"}
    with open(OUT / f"gpu-{part}.log", "w+") as log:
        try:
            subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds, env=environment, cwd=CHECKOUT
            )
        except subprocess.TimeoutExpired:
            print(f"{part}: stopped after {seconds:.0f} s", flush=True)
        log.seek(0)
        return log.read()


def of_the_plain_way() -> None:
    backbone = settings("base").backbone
    text = run("plain", 120, sys.executable, "benchmarks/plain.py", backbone, "--rounds", "2", "--steps", "4")
    print(text[-1500:], flush=True)
    if match := re.search(r"training, crops/s\s+plain\s+([\d.]+)", text):
        found["plain"] = float(match[1])


def of_the_tests() -> None:
    left = LIMIT - (time.monotonic() - STARTED)
    if left < 45:
        raise TimeoutError(f"{left:.0f} s are left for the tests")
    chosen = ["tests/training", "tests/models"] if SMALL else ["tests"]
    workers = str(max(2, min(12, (os.cpu_count() or 4) - 2)))
    options = [
        "-q",
        "-rf",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-n",
        workers,
        "--dist",
        "loadfile",
        "-m",
        "not slow",
    ]
    text = run(
        "tests", left, "timeout", "-s", "INT", str(int(left - 15)), sys.executable, "-m", "pytest", *options, *chosen
    )
    print(text[-3000:], flush=True)
    if match := re.search(r"(\d+) passed", text):  # else none began
        found["passed tests"] = float(match[1])
        found["failed tests"] = float(len(re.findall(r"^(?:FAILED|ERROR) ", text, re.M)))


def paper_study(way: str, seeds: int) -> float | None:
    """Hours of the `paper` profile's runs of so many seeds by the rates above: training, and every evaluation."""
    needed = [
        "evaluation graph 128",
        "graph resnet 96",
        f"{way} base 32",
        *(f"graph {s} 32" for s in SIZES if s != "resnet"),
    ]
    if not all(name in found for name in needed):
        return None
    profile, hours, seen = load_profile("paper"), 0.0, set()
    held_out = 6 * (1_007 * profile.epochs + TESTED + 2_225 + 2_000 + 600)  # crops: validation, test, three cross-tests
    scoring = TESTED * CROPS / found["evaluation graph 128"]
    for variant in (v for name in experiments.EXPERIMENTS for v in experiments.variants(profile, name)):
        for seed in experiments.seeds_of(profile, variant)[:seeds]:
            of_this = experiments.settings_of(profile, variant, seed)
            if (folder := Run(of_this, "").folder) not in seen:
                seen.add(folder)
                size = next(size for size in SIZES if size in of_this.backbone)
                rate = found[f"graph {size} {96 if size == 'resnet' else 32}"]
                if size != "resnet":  # a smaller Swin gains by compiling as much as the largest
                    rate *= found[f"{way} base 32"] / found["graph base 32"]
                hours += (7_046 * of_this.train_crops * of_this.epochs / rate + held_out / scoring) / 3600
    print(f"the `paper` study, {way}, {seeds} seeds: {len(seen)} runs, {hours:.2f} h")
    return hours


def table() -> None:
    graph, compiled = found.get("graph base 32"), found.get("compile base 32")
    plain, scored = found.get("plain"), [v for k, v in found.items() if k.startswith("evaluation graph")]
    hours = [attempt(paper_study, way, seeds) for seeds in (1, 3) for way in ("graph", "compile")]
    rows = [
        ("training Swin-B, batch 32, data included, graph, crops/s", graph, ">=", 900),
        ("the same with compile: true, crops/s", compiled, ">=", 1600),
        ("against the plain way, graph", plain and graph and graph / plain, ">=", 13),
        ("against the plain way, compile: true", plain and compiled and compiled / plain, ">=", 24),
        ("share of the same step on a resident batch", graph and graph / found["bare graph base 32"], ">=", 0.95),
        ("evaluation, 2,015 x 20 crops, Swin-B, s", found.get("evaluation graph 128"), "<=", 10),
        ("the same with the best of the batches tried, s", min(scored, default=None), "<=", 10),
        ("the `paper` study of one seed by these figures, graph, h", hours[0], "<=", 3),
        ("the same with compile: true, h", hours[1], "<=", 3),
        ("the same of three seeds, h", hours[3], "<=", 9),
        (f"tests that failed ({found.get('passed tests', 0):.0f} passed)", found.get("failed tests"), "<=", 0),
    ]
    print(f"\n{machine.description()}, {found.get('matrix rate', np.nan) / 1e12:.0f} TFLOP/s of matrices\n")
    print("| what | measured | target | met |\n|---|---|---|---|")
    for what, value, sign, target in rows:
        met = None if value is None else value >= target if sign == ">=" else value <= target
        said = "not measured" if value is None else f"{value:,.2f}"
        print(f"| {what} | {said} | {sign} {target:,} | {'' if met is None else 'yes' if met else 'no'} |")
        say("table", what=what, measured=value, target=f"{sign} {target}", met=met)


def attempt(work, *arguments):
    """One failure must not cost the rest of the call."""
    try:
        return work(*arguments)
    except Exception:
        traceback.print_exc()
        say(f"{work.__name__} {arguments}", error=traceback.format_exc()[-1500:])
    finally:
        gc.collect()
        with contextlib.suppress(Exception):  # of a device that no longer works
            torch.cuda.empty_cache()


def measure_matrices() -> None:
    precision = machine.used_precision("auto")
    say("machine", what=machine.description(), precision=precision)
    found["matrix rate"] = machine.matrix_rate(precision, machine.device())
    say("matrices", tflops=found["matrix rate"] / 1e12)


PARTS = {
    "train": of_training,
    "evaluate": of_evaluation,
    "compile": of_compiling,
    "plain": of_the_plain_way,
    "tests": of_the_tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them where none is named")
    parser.add_argument("--small", action="store_true", help="a trial of this script")
    options = parser.parse_args()
    if not (SMALL or torch.cuda.is_available()):
        raise SystemExit("No GPU is visible to torch here; --small tries the script without one.")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        attempt(measure_matrices)
        for part in options.parts or PARTS:
            began = time.monotonic()
            attempt(PARTS[part])
            print(f"== {part}: {time.monotonic() - began:.0f} s", flush=True)
    except (OutOfTime, KeyboardInterrupt) as reason:
        say("stopped", why=str(reason) or "interrupted")
    signal.alarm(0)
    table()


if __name__ == "__main__":
    main()
