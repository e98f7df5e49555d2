"""What a model costs: arithmetic, time and memory, measured on this machine beside the paper's column.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iqa_lib import machine, metrics
from iqa_lib.data.crops import ImageSet, grid_crops
from iqa_lib.errors import RunError
from iqa_lib.models.export import OnnxScorer, to_int8, to_onnx
from iqa_lib.models.smart_iqa import BlindIQA, compile_backbone
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress
from iqa_lib.study import experiments, statistics, tables
from iqa_lib.study.plan import size_of
from iqa_lib.training.evaluate import EVALUATION_BATCH, Crop, stages_of, through_backbone
from iqa_lib.training.runs import Run
from iqa_lib.training.train import ImageBatches, Loop, build_model, train_epoch, training_crops

BATCHES = (1, 2, 4, 8, 16, 32, 64)
RATED_BATCHES = (1, 8)
# Of the profile's `measuring_seconds`. Building, exporting and quantising models comes on top.
SHARES = {"costs": 0.4, "precisions": 0.4, "growth": 0.2}
SETTLED = 0.02  # a median's standard error, as a share of it, at which no more is measured
FEWEST = 7  # measurements that a standard error is believed of
EMULATED = 3  # measurements where bf16 is emulated: enough to see by what factor it is slower
EMULATED_SHARE = 0.2  # of the seconds, for it
FLOAT_ONNX, INT8_ONNX = "float32, ONNX Runtime", "INT8, ONNX Runtime"
CALIBRATION_CROPS = 32  # training crops that INT8's ranges are measured on
ONNX_BATCH = 4  # crops at once: few, as for torch on a processor

# In `precisions`
PART = 8 * EVALUATION_BATCH  # crops that each precision scores before the next has its turn
FEWEST_IMAGES = 60  # that are scored whatever it takes: a rank correlation of fewer says little
EMULATED_IMAGES = 60  # at most, where bf16 is emulated

EPOCHS = 3  # of each size in `growth`, where the seconds suffice

clock = time.perf_counter


class Budget:
    """Seconds that may be spent on measuring, and a bar that shows them go."""

    def __init__(self, seconds: float, what: str):
        self.seconds, self._started = seconds, clock()
        self._bar, self._shown = iter(Progress(range(math.ceil(seconds)), desc=what)), 0

    @property
    def spent(self) -> float:
        return clock() - self._started

    def allows(self, seconds: float) -> bool:
        """Whether so much of it is left."""
        while self._shown < min(self.spent, self.seconds):
            next(self._bar, None)
            self._shown += 1
        return self.spent + seconds <= self.seconds

    def close(self) -> None:
        """Nothing more is measured: else the bar would wait on the screen."""
        self._bar.close()


def in_turn(
    jobs: dict[Hashable, Callable[[], object]], budget: Budget, at_most: dict[Hashable, int] | None = None
) -> dict[Hashable, list[float]]:
    """Seconds of each job, each once in every round, so that all have the same share of a busy machine's moods.

    A job is done when its median has settled, or when its next time would go beyond the budget; each is measured once.

    Args:
        at_most: how often, by job, where that is limited.
    """
    times: dict[Hashable, list[float]] = {job: [] for job in jobs}
    waiting = list(jobs)
    while waiting:
        for job in list(waiting):
            found, most = times[job], (at_most or {}).get(job, math.inf)
            if found and (
                len(found) >= most or uncertainty(found) <= SETTLED or not budget.allows(found[-1])
            ):
                waiting.remove(job)
            else:
                found.append(_seconds(jobs[job]))
    budget.close()
    return times


def uncertainty(times: list[float]) -> float:
    """The median's standard error as a share of it, from the quartiles: an outlier more or less does not count.

    NaN where there are too few measurements to say.
    """
    if len(times) < FEWEST:
        return math.nan
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    deviation = (high - low) / 1.349  # as of a normal distribution, like the next factor
    return 1.253 * deviation / math.sqrt(len(times)) / median


def _seconds(call: Callable[[], object]) -> float:
    started = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


# --- arithmetic and time of one crop ----------------------------------------------------------------------


def models(settings: Profile) -> dict[str, Profile]:
    """Settings of the profile's sizes, its controls and its HyperIQA, by name: one model for each backbone.

    The backbone is what takes the time: HyperIQA's and SMART-IQA's arithmetic on the same one differ by 4 %.
    """
    found: dict[str, Profile] = {}
    for variant in experiments.variants(settings, "model_sizes"):
        wanted = experiments.settings_of(settings, variant, settings.seed)
        if wanted.backbone not in {known.backbone for known in found.values()}:
            found[variant.label] = wanted
    hyper_iqa = experiments.variants(settings, "main", only=["HyperIQA"])[0]
    if settings.backbone_hyper_iqa not in {known.backbone for known in found.values()}:
        found = {hyper_iqa.label: experiments.settings_of(settings, hyper_iqa, settings.seed), **found}
    return found


def costs(settings: Profile, full: bool = False) -> pd.DataFrame:
    """Parameters, multiply–accumulates and time of one crop, per model and precision; the paper's column beside.

    Weights are random: they cost the same. Latency is the median over ``n`` single crops with its quartiles and its
    standard error in percent; ``settled`` says whether that got down to `SETTLED`, the rate's too, before the profile's
    seconds were spent. The rate is that of the best batch. bf16 that is emulated is measured on single crops alone.

    Args:
        full: measure also ONNX Runtime, INT8 and `torch.compile`, up to two minutes more per model; in all seconds of
            the profile, not in a share.
    """
    emulated = _bf16_is_emulated()
    print(f"`precision: auto` computes in {machine.used_precision('auto')} on this machine.", file=sys.stderr)
    chosen, ways, slow = models(settings), {}, {}
    for label, of_model in Progress(chosen.items(), desc="models"):
        for precision, score in _engines(of_model, _random(of_model), full):
            if emulated and precision.startswith("bf16"):
                slow[label, precision, 1] = _on_noise(score, 1, of_model.crop_size)
                continue
            for batch in RATED_BATCHES:
                ways[label, precision, batch] = job = _on_noise(score, batch, of_model.crop_size)
                job()  # the first time is another: memory is got, code compiled
    seconds = settings.measuring_seconds * (1 if full else SHARES["costs"])
    for_slow = EMULATED_SHARE * seconds if slow else 0.0
    times = in_turn(ways, Budget(seconds - for_slow, "times"))
    if slow:
        times |= in_turn(slow, Budget(for_slow, "bf16, emulated"), dict.fromkeys(slow, EMULATED))
    return _cost_table(chosen, times)


def _bf16_is_emulated() -> bool:
    """The warning of it is for those who did not ask for bf16; here it is measured, and the table shows the factor."""
    with warnings.catch_warnings(action="ignore"):
        machine.used_precision("bf16")  # it warns once
    return not machine.native_bf16(machine.device())


def _cost_table(chosen: dict[str, Profile], times: dict[Hashable, list[float]]) -> pd.DataFrame:
    published = tables.paper("complexity").set_index("model")
    rows = []
    # bf16, measured later where it is emulated, stays below its model's float32
    ways = sorted({(label, way): None for label, way, _ in times}, key=lambda of: list(chosen).index(of[0]))
    for label, precision in ways:
        parameters, flop = size_of(chosen[label])
        name = "HyperIQA (ResNet-50)" if label == "HyperIQA" else label
        paper = published.loc[name] if name in published.index else {}
        as_published = precision == "float32"
        rows.append(
            {
                "model": label,
                "backbone": chosen[label].backbone,
                "precision": precision,
                "parameters (M)": parameters / 1e6,
                "GMAC": flop / 2e9,
                **_time_of(
                    {b: found for (of, way, b), found in times.items() if (of, way) == (label, precision)}
                ),
                "paper: GMAC": paper.get("flops_g", np.nan),
                "paper: latency (ms)": (
                    paper.get("latency_ms_rtx5090_fp32_batch1", np.nan) if as_published else np.nan
                ),
            }
        )
    return pd.DataFrame(rows).round(3)


def _time_of(times: dict[int, list[float]]) -> dict[str, float | str]:
    """Latency of one crop in ms, how sure it is, and the rate at the best batch, from the seconds of each batch."""
    low, median, high = np.quantile(times[1], (0.25, 0.5, 0.75)) * 1e3
    rates = {batch: batch / np.median(found) for batch, found in times.items()}
    best = max(rates, key=rates.get)
    return {
        "latency (ms)": median,
        "25 %": low,
        "75 %": high,
        "n": len(times[1]),
        "standard error (%)": 100 * uncertainty(times[1]),
        "settled": "yes" if all(uncertainty(found) <= SETTLED for found in times.values()) else "no",
        "crops/s": rates[best],
        "at batch": best,
    }


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


def _on_noise(score: Callable[[Tensor], object], batch: int, size: int) -> Callable[[], object]:
    crops = torch.randint(0, 256, _shape(batch, size), dtype=torch.uint8).to(machine.device())
    return lambda: score(crops)


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

    The test images are scored in one random order, part by part and each precision in turn, until the profile's seconds
    are spent: ``n`` of them, each precision beside float32's scores of the same. bf16 that is emulated computes what a
    processor with bf16 does, but so slowly that few images must do. INT8 is static: its ranges are measured on training
    images, by ONNX Runtime.
    """
    rows = np.random.default_rng(0).permutation(images.rows("test"))
    model, seconds = run.load_model(), settings.measuring_seconds * SHARES["precisions"]
    emulated, slow = _bf16_is_emulated(), {}
    whole = run.settings.model_copy(update={"freeze_backbone": False})
    engines = {
        p: _by_torch(whole.model_copy(update={"precision": p}), model, images) for p in ("float32", "bf16")
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = to_onnx(model, Path(folder) / "model.onnx", settings.crop_size, ONNX_BATCH)
        engines[FLOAT_ONNX] = _by_onnx(OnnxScorer(plain), images, settings.crop_size)
        int8 = to_int8(plain, Path(folder) / "8", _calibration(settings, images))
        engines[INT8_ONNX] = _by_onnx(OnnxScorer(int8), images, settings.crop_size)
    if emulated:
        budget, few = Budget(EMULATED_SHARE * seconds, "bf16, emulated"), rows[:EMULATED_IMAGES]
        slow = _scored({"bf16": engines.pop("bf16")}, whole, images, few, EVALUATION_BATCH, 0, budget)
        seconds -= budget.spent
    scored = _scored(engines, whole, images, rows, PART, FEWEST_IMAGES, Budget(seconds, "precisions"))
    order = sorted([*scored, *slow], key=["float32", "bf16", FLOAT_ONNX, INT8_ONNX].index)
    return _precision_table({name: (scored | slow)[name] for name in order}, images.scores(rows))


Engine = Callable[[list[Crop]], np.ndarray]  # crops of an image set to their scores


def _by_torch(settings: Profile, model: BlindIQA, images: ImageSet) -> Engine:
    def score(crops: list[Crop]) -> np.ndarray:
        stages = through_backbone(
            settings,
            model,
            lambda batch: images.crops(batch, settings.crop_size),
            _batches(crops, EVALUATION_BATCH),
        )
        with torch.inference_mode():
            return torch.cat([model.score_stages(few).float() for few in stages]).double().cpu().numpy()

    return score


def _by_onnx(scorer: OnnxScorer, images: ImageSet, size: int) -> Engine:
    return lambda crops: np.concatenate([scorer(few) for few in _for_onnx(images, crops, size)])[: len(crops)]


def _for_onnx(images: ImageSet, crops: list[Crop], size: int) -> Iterator[np.ndarray]:
    """Batches of the one size that the file takes: the last is filled up with its last crop."""
    filled = [*crops, *[crops[-1]] * (-len(crops) % ONNX_BATCH)]
    return (images.crops(batch, size).cpu().numpy() for batch in _batches(filled, ONNX_BATCH))


def _batches(crops: list[Crop], size: int) -> list[list[Crop]]:
    return [crops[start : start + size] for start in range(0, len(crops), size)]


class Scored(NamedTuple):
    """What one precision made of the first images, and how fast."""

    predictions: np.ndarray
    crops: int
    seconds: float


def _scored(
    engines: dict[str, Engine],
    settings: Profile,
    images: ImageSet,
    rows: np.ndarray,
    crops_at_once: int,
    fewest: int,
    budget: Budget,
) -> dict[str, Scored]:
    """Scores of the first ``rows`` by each engine: all while the budget lasts, ``fewest`` in any case, one part at least."""
    crops = grid_crops(images, rows, settings.crop_size)
    images_at_once = max(1, round(crops_at_once * len(rows) / len(crops)))
    found = {name: Scored(np.array([]), 0, 0.0) for name in engines}
    last, done = 0.0, 0  # seconds of a part by all engines; images
    while done < len(rows) and (done < max(fewest, 1) or budget.allows(last)):
        part = rows[done : done + images_at_once]
        crops, last = grid_crops(images, part, settings.crop_size), 0.0
        for name, score in engines.items():
            started = clock()
            scores = pd.Series(score(crops)).groupby([crop[0] for crop in crops]).mean().loc[part]
            seconds, before = clock() - started, found[name]
            found[name] = Scored(
                np.concatenate([before.predictions, scores]),
                before.crops + len(crops),
                before.seconds + seconds,
            )
            last += seconds
        done += len(part)
    budget.close()
    return found


def _precision_table(scored: dict[str, Scored], scores: np.ndarray) -> pd.DataFrame:
    rows = []
    reference = scored["float32"]
    for name, (predictions, crops, seconds) in scored.items():
        n = len(predictions)
        plain, true = reference.predictions[:n], scores[:n]
        says_something = n >= min(FEWEST_IMAGES, len(reference.predictions))
        srcc = metrics.srcc(predictions, true) if says_something else np.nan
        rows.append(
            {
                "precision": name,
                "n": n,
                "SRCC": srcc,
                "change": srcc - metrics.srcc(plain, true) if says_something else np.nan,
                "largest change of a score": np.abs(predictions - plain).max(),
                "crops/s": crops / seconds,
                "time, share of float32": seconds / crops / (reference.seconds / reference.crops),
            }
        )
    return pd.DataFrame(rows).round(4)


def _calibration(settings: Profile, images: ImageSet) -> Iterator[np.ndarray]:
    rows = images.rows("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(CALIBRATION_CROPS, len(rows))).astype(int)]
    crops = grid_crops(images, chosen, settings.crop_size)[:CALIBRATION_CROPS]
    return _for_onnx(images, crops, settings.crop_size)


# --- accuracy beside cost, and growth ---------------------------------------------------------------------


def stored_runs(settings: Profile) -> dict[str, list[Run]]:
    """The runs of each model that are in the store, by name; nothing is trained."""
    return experiments.results(
        settings, "main", only=["HyperIQA"], train_missing=False
    ) | experiments.results(settings, "model_sizes", train_missing=False)


def accuracy_beside_cost(settings: Profile, runs: dict[str, list[Run]], table: pd.DataFrame) -> pd.DataFrame:
    """Test SRCC of these runs (`stored_runs`) beside their backbones' cost in ``table`` (`costs`)."""
    kept = ["n", "seeds", "SRCC", "95 % low", "95 % high"]
    in_float32 = table.loc[table["precision"] == "float32", ["backbone", "GMAC", "latency (ms)", "crops/s"]]
    if not runs:
        return pd.DataFrame(columns=["model", *in_float32, *kept])
    accuracy = statistics.compare_scores(settings, runs).rename(columns={"variant": "model"})
    accuracy = accuracy[["model", "backbone", *kept]]
    return accuracy.merge(in_float32, on="backbone")[["model", *in_float32, *kept]]


def growth(settings: Profile, numbers: tuple[int, ...] = (125, 250, 500, 1000)) -> pd.DataFrame:
    """Seconds of a training epoch over more and more images, and over more and more crops of each; medians of ``n``.

    A Swin of 0.8 M parameters on 32 px: what grows is the workbook's own work beside it as much as the network's.
    The largest sizes are left out where the profile's seconds are too few for them; two are always measured.
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
    budget = Budget(settings.measuring_seconds * SHARES["growth"], "growth")
    first = numbers[0]
    _epoch_of(small, first, 1)()  # the first epoch of all is slower
    smallest = _seconds(_epoch_of(small, first, 1))
    sizes = numbers[:2]
    for number in numbers[2:]:
        taken = [*sizes, number]
        if budget.allows(smallest * (2 * sum(taken) / first - 1)):
            sizes = tuple(taken)
    points = {
        "images": [(number, 1) for number in sizes],
        "crops per image": [(first, number // first) for number in sizes],
    }
    jobs = {point: _epoch_of(small, *point) for series in points.values() for point in series}
    times = in_turn(jobs, budget, dict.fromkeys(jobs, EPOCHS))
    return pd.DataFrame(
        [
            {
                "what grows": what,
                "images": images,
                "crops per image": crops,
                "crops": images * crops,
                "seconds": np.median(times[images, crops]),
                "n": len(times[images, crops]),
            }
            for what, series in points.items()
            for images, crops in series
        ]
    ).round(3)


def _epoch_of(settings: Profile, number: int, crops: int) -> Callable[[], object]:
    images = noise_images(number, 64)
    loop = Loop.start(settings.model_copy(update={"train_crops": crops}), images)
    return lambda: epoch_seconds(loop, images)


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
