"""What a model costs: arithmetic, time and memory, measured on this machine beside the paper's column.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils import benchmark

from iqa_lib import machine, metrics
from iqa_lib.data.crops import ImageSet, grid_crops
from iqa_lib.errors import RunError
from iqa_lib.models.export import OnnxScorer, to_int8, to_onnx
from iqa_lib.models.smart_iqa import BlindIQA, compile_backbone
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress
from iqa_lib.study import exhibits as study
from iqa_lib.study import experiments, tables
from iqa_lib.study.plan import size_of
from iqa_lib.training.evaluate import EVALUATION_BATCH, predict, stages_of
from iqa_lib.training.runs import Run
from iqa_lib.training.train import ImageBatches, Loop, build_model, train_epoch, training_crops

BATCHES = (1, 2, 4, 8, 16, 32, 64)
RATED_BATCHES = (1, 8)
ROUNDS = 3
SHORTEST_RUN = 0.15  # seconds that a time is measured for in each round, at the least
FLOAT_ONNX, INT8_ONNX = "float32, ONNX Runtime", "INT8, ONNX Runtime"
CALIBRATION_CROPS = 64  # training crops that INT8's ranges are measured on


def models(settings: Profile) -> dict[str, Profile]:
    """Settings of the profile's sizes and of its HyperIQA, by name."""
    main = [v for v in experiments.variants(settings, "main") if v.label == "HyperIQA"]
    chosen = [*main, *experiments.variants(settings, "model_sizes")]
    return {v.label: experiments.settings_of(settings, v, settings.seed) for v in chosen}


def costs(settings: Profile, full: bool = False) -> pd.DataFrame:
    """Parameters, multiply–accumulates and time of one crop, per model and precision; the paper's column beside.

    Weights are random: they cost the same. Latency is the median over single crops and its quartiles; the rate is
    that of the best batch.

    Args:
        full: measure also ONNX Runtime, INT8 and `torch.compile`, up to two minutes more per model.
    """
    published = tables.paper("complexity").set_index("model")
    rows = []
    for label, of_model in Progress(models(settings).items(), desc="latency"):
        parameters, flop = size_of(of_model)
        model = _random(of_model)
        name = "HyperIQA (ResNet-50)" if label == "HyperIQA" else label
        paper = published.loc[name] if name in published.index else {}
        for precision, measured in _times(dict(_engines(of_model, model, full)), of_model.crop_size).items():
            row = {
                "model": label,
                "backbone": of_model.backbone,
                "precision": precision,
                "parameters (M)": parameters / 1e6,
                "GMAC": flop / 2e9,
            }
            row |= measured
            as_published = precision == "float32"
            row["paper: GMAC"] = paper.get("flops_g", np.nan)
            row["paper: latency (ms)"] = (
                paper.get("latency_ms_rtx5090_fp32_batch1", np.nan) if as_published else np.nan
            )
            rows.append(row)
    return pd.DataFrame(rows).round(3)


def _random(settings: Profile) -> BlindIQA:
    torch.manual_seed(settings.seed)
    model = build_model(settings.model_copy(update={"pretrained": False})).eval()
    return model.to(machine.device(), memory_format=torch.channels_last)


def _engines(settings: Profile, model: BlindIQA, full: bool) -> Iterator[tuple[str, Callable]]:
    """Name and function (crops to scores) of each way to run a model."""
    as_settings = {p: settings.model_copy(update={"precision": p}) for p in ("float32", "bf16")}
    for precision, wanted in as_settings.items():
        yield precision, _scorer(wanted, model)
    if not full:
        return
    try:
        for precision, wanted in as_settings.items():
            yield f"{precision}, compiled", _scorer(wanted, compile_backbone(_random(settings)))
    except RunError as error:
        print(f"Not measured compiled: {error}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        plain = to_onnx(model, Path(folder) / "model.onnx", settings.crop_size)
        yield FLOAT_ONNX, _on_cpu(OnnxScorer(plain))
        noise = np.random.default_rng(0).integers(0, 256, _shape(8, settings.crop_size), dtype=np.uint8)
        yield INT8_ONNX, _on_cpu(OnnxScorer(to_int8(plain, Path(folder) / "int8.onnx", [noise])))


def _shape(batch: int, size: int) -> tuple[int, int, int, int]:
    return batch, 3, size, size


def _scorer(settings: Profile, model: BlindIQA) -> Callable[[Tensor], Tensor]:
    def score(crops_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.score_stages(stages_of(settings, model, crops_BCHW))

    return score


def _on_cpu(scorer: OnnxScorer) -> Callable[[Tensor], np.ndarray]:
    return lambda crops_BCHW: scorer(crops_BCHW.cpu().numpy())


def _times(ways: dict[str, Callable], size: int) -> dict[str, dict[str, float]]:
    """Latency of one crop in ms with its quartiles, and crops per second at the best batch; the ways in turn."""
    times: dict[tuple[str, int], list[float]] = {(way, batch): [] for way in ways for batch in RATED_BATCHES}
    for _ in range(ROUNDS):
        for (way, batch), found in times.items():
            found += _measure(ways[way], batch, size)
    table = {}
    for way in ways:
        rates = {batch: batch / np.median(times[way, batch]) for batch in RATED_BATCHES}
        best = max(rates, key=rates.get)
        low, median, high = np.quantile(times[way, 1], (0.25, 0.5, 0.75)) * 1e3
        table[way] = {
            "latency (ms)": median,
            "25 %": low,
            "75 %": high,
            "crops/s": rates[best],
            "at batch": best,
        }
    return table


def _measure(score: Callable, batch: int, size: int) -> list[float]:
    crops = torch.randint(0, 256, _shape(batch, size), dtype=torch.uint8).to(machine.device())
    score(crops)
    timer = benchmark.Timer(
        "score(crops)", globals={"score": score, "crops": crops}, num_threads=torch.get_num_threads()
    )
    return timer.blocked_autorange(min_run_time=SHORTEST_RUN).times


# --- memory and time per batch size -----------------------------------------------------------------------


def batch_sizes(settings: Profile, largest: int = BATCHES[-1]) -> pd.DataFrame:
    """Peak memory and rate of scoring and of training with each batch size, per model.

    Each model works in a process of its own, from small to large batches, so that the peak is that of the batch;
    a batch that does not fit ends the column. Memory is what the process takes (on a GPU: what torch allocates)
    beyond the model itself.

    Raises:
        RunError: a process was killed, as it is where batches do not fit into a machine without a GPU.
    """
    rows = []
    jobs = [(label, s, training) for label, s in models(settings).items() for training in (False, True)]
    for label, of_model, training in Progress(jobs, desc="memory"):
        work = "training" if training else "scoring"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            try:
                measured = child.submit(_batches_of, of_model, training, largest).result()
            except BrokenProcessPool as error:
                raise RunError(
                    f"The process that measured {label} ({work}) was killed, most likely because the memory was full: "
                    f"measure smaller batches, --largest-batch {largest // 2}."
                ) from error
        rows += [{"model": label, "backbone": of_model.backbone, "work": work, **row} for row in measured]
    return pd.DataFrame(rows).round(3)


def _batches_of(settings: Profile, training: bool, largest: int) -> list[dict[str, float]]:
    model = _random(settings).train(training)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    before, rows = _peak_memory(), []
    with machine.freed_memory_kept() if training else nullcontext():  # as `train` does
        for batch in (b for b in BATCHES if b <= largest):
            crops = torch.randint(0, 256, _shape(batch, settings.crop_size), dtype=torch.uint8)
            try:
                seconds = [_one_batch(settings, model, optimizer, crops, training) for _ in range(2)][-1]
            except torch.OutOfMemoryError:
                break
            rows.append({"batch": batch, "memory (GB)": _peak_memory() - before, "crops/s": batch / seconds})
    return rows


def _one_batch(settings: Profile, model: BlindIQA, optimizer, crops_BCHW: Tensor, training: bool) -> float:
    started = time.perf_counter()
    with torch.set_grad_enabled(training):
        loss = model.score_stages(stages_of(settings, model, crops_BCHW)).mean()
    if training:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.item()  # waits for the device
    return time.perf_counter() - started


def _peak_memory() -> float:
    """GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux keeps getrusage's peak from the parent process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


# --- what a lower precision costs in accuracy -------------------------------------------------------------


def precisions(settings: Profile, run: Run, images: ImageSet) -> pd.DataFrame:
    """A trained run's test SRCC in float32, bf16 and INT8, and how fast it scores in each.

    INT8 is static: its ranges are measured on training images, by ONNX Runtime.
    """
    rows = images.rows("test")
    crops = grid_crops(images, rows, settings.crop_size)
    model, score = run.load_model(), images.scores(rows)
    whole = run.settings.model_copy(update={"freeze_backbone": False})
    predicted, seconds = {}, {}
    for precision in ("float32", "bf16"):
        started = time.perf_counter()
        wanted = whole.model_copy(update={"precision": precision})
        predicted[precision] = predict(wanted, model, images, rows, precision, crops)["prediction"].to_numpy()
        seconds[precision] = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        plain = to_onnx(model, Path(folder) / "model.onnx", settings.crop_size)
        ranges = _calibration(settings, images)
        engines = {
            FLOAT_ONNX: plain,
            INT8_ONNX: to_int8(plain, Path(folder) / "8", ranges),
        }
        for name, file in engines.items():
            scorer, started = OnnxScorer(file), time.perf_counter()
            parts = [
                scorer(images.crops(crops[i : i + EVALUATION_BATCH], settings.crop_size).cpu().numpy())
                for i in Progress(range(0, len(crops), EVALUATION_BATCH), desc=name)
            ]
            table = pd.DataFrame({"row": [c[0] for c in crops], "prediction": np.concatenate(parts)})
            predicted[name] = table.groupby("row")["prediction"].mean().loc[rows].to_numpy()
            seconds[name] = time.perf_counter() - started
    return pd.DataFrame(
        {
            "precision": predicted.keys(),
            "n": len(rows),
            "SRCC": [metrics.srcc(p, score) for p in predicted.values()],
            "change": [
                metrics.srcc(p, score) - metrics.srcc(predicted["float32"], score) for p in predicted.values()
            ],
            "largest change of a score": [np.abs(p - predicted["float32"]).max() for p in predicted.values()],
            "crops/s": [len(crops) / s for s in seconds.values()],
            "time, share of float32": [s / seconds["float32"] for s in seconds.values()],
        }
    ).round(4)


def _calibration(settings: Profile, images: ImageSet) -> list[np.ndarray]:
    rows = images.rows("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(CALIBRATION_CROPS, len(rows))).astype(int)]
    crops = grid_crops(images, chosen, settings.crop_size)[:CALIBRATION_CROPS]
    return [images.crops(crops[i : i + 8], settings.crop_size).cpu().numpy() for i in range(0, len(crops), 8)]


# --- accuracy beside cost, and growth ---------------------------------------------------------------------


def accuracy_beside_cost(settings: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """Test SRCC of the stored runs of each model (not trained here) beside its cost in ``table`` (`costs`)."""
    runs = experiments.results(settings, "model_sizes", train_missing=False)
    runs |= experiments.results(settings, "main", only=["HyperIQA"], train_missing=False)
    if not runs:
        return pd.DataFrame()
    kept = ["variant", "n", "seeds", "SRCC", "95 % low", "95 % high"]
    in_float32 = table[table["precision"] == "float32"]
    return in_float32.merge(
        study.measured(settings, runs)[kept].rename(columns={"variant": "model"}), on="model"
    )[["model", "backbone", "GMAC", "latency (ms)", "crops/s", *kept[1:]]]


def growth(settings: Profile, numbers: tuple[int, ...] = (250, 500, 1000, 2000)) -> pd.DataFrame:
    """Seconds of a training epoch over more and more images, and over more and more crops of each.

    A Swin of 0.8 M parameters on 32 px: what grows is the workbook's own work beside it as much as the network's.
    """
    small = settings.model_copy(
        update={
            "backbone": "swin_test",
            "method": "smart_iqa",
            "pretrained": False,
            "freeze_backbone": False,
            "crop_size": 32,
            "batch_size": 32,
            "train_crops": 1,
        }
    )
    wanted = [("images", n, 1) for n in numbers] + [("crops per image", numbers[0], c) for c in (1, 2, 4, 8)]
    rows = []
    epoch_seconds(Loop.start(small, noise_images(64, 64)), noise_images(64, 64))  # warm-up
    for what, number, crops in Progress(wanted, desc="growth"):
        images = noise_images(number, 64)
        of_size = small.model_copy(update={"train_crops": crops})
        loop = Loop.start(of_size, images)
        rows.append(
            {
                "what grows": what,
                "images": number,
                "crops per image": crops,
                "crops": number * crops,
                "seconds": epoch_seconds(loop, images),
            }
        )
    return pd.DataFrame(rows).round(3)


def epoch_seconds(loop: Loop, images: ImageSet) -> float:
    rng = np.random.default_rng(0)
    crops = training_crops(loop.settings, images, images.rows("train"), rng)
    batches = ImageBatches(loop.settings, loop.model, images, crops, 1)
    return train_epoch(loop, batches, rng.permutation(len(crops)), 1)["train_seconds"]


def noise_images(number: int, side: int) -> ImageSet:
    """Square images of noise with scores, all for training."""
    pixels = np.random.default_rng(0).integers(0, 256, number * side * side * 3, dtype=np.uint8)
    table = pd.DataFrame(
        {"image": [f"{i}" for i in range(number)], "score": np.arange(number) % 101, "split": "train"}
    )
    return ImageSet(table, pixels, np.full((number, 2), side), "noise")


def headline(precisions: pd.DataFrame) -> str:
    """What INT8 costs and gains, in a line."""
    table = precisions.set_index("precision")
    int8, plain = table.loc[INT8_ONNX], table.loc[FLOAT_ONNX]
    return (
        f"INT8: SRCC {int8['change']:+.3f}, {int8['crops/s'] / plain['crops/s']:.1f} times the speed of float32 "
        f"in the same engine"
    )
