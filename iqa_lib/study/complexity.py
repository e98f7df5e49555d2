"""What a model costs: arithmetic, time and memory, measured on this machine beside the paper's column.

Shape suffixes: B batch, C channels, H height, W width.
"""

import math
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor

from iqa_lib import machine, paths
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import RunError
from iqa_lib.models.export import OnnxScorer, to_int8, to_onnx
from iqa_lib.models.smart_iqa import BlindIQA, compile_backbone
from iqa_lib.profile import Profile, ScoringSettings
from iqa_lib.progress import Progress
from iqa_lib.study import experiments, statistics
from iqa_lib.study.plan import FORWARD_AND_BACKWARD, size_of
from iqa_lib.training.batches import ImageBatches, training_crops
from iqa_lib.training.graphs import WORTH_IT
from iqa_lib.training.loop import Loop, build_model, train_epoch
from iqa_lib.training.predictor import Predictor
from iqa_lib.training.runs import Run

BATCHES = (1, 2, 4, 8, 16, 32, 64)
RATED_BATCHES = (1, 8)  # of a rate; emulated bf16 is measured on single crops alone
# Of the profile's `measuring_seconds`. Building, exporting and quantising models comes on top.
SHARES = {"costs": 0.4, "precisions": 0.4, "growth": 0.2}
SETTLED = 0.02  # a median's standard error, as a share of it, at which measuring stops
FEWEST = 7  # measurements from which a standard error is computed
EMULATED = 3  # measurements where bf16 is emulated: enough to see by what factor it is slower
EMULATED_SHARE = 0.2  # of the seconds, for it
FLOAT_ONNX, INT8_ONNX = "float32, ONNX Runtime", "INT8, ONNX Runtime"
EPOCHS = 3  # of each size in `growth`, if the seconds suffice

clock = time.perf_counter


# --- time -------------------------------------------------------------------------------------------------


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
    jobs: dict[Hashable, Callable[[], object]], budget: Budget, at_most: float = math.inf
) -> dict[Hashable, list[float]]:
    """Seconds of each job, each once in every round: a busy moment of the machine slows all jobs alike.

    Measured on a busy machine: two equal jobs differ by at most 1.5 % so. By torch.utils.benchmark's
    ``adaptive_autorange``, one after the other, they differ by up to 15 % and take a hundred times as long.

    A job is done when its median has settled, after ``at_most`` times, or when its next time would go beyond the
    budget; each is measured once.
    """
    times: dict[Hashable, list[float]] = {job: [] for job in jobs}
    waiting = list(jobs)
    while waiting:
        for job in list(waiting):
            found = times[job]
            settled = len(found) >= at_most or uncertainty(found) <= SETTLED
            if found and (settled or not budget.allows(found[-1])):
                waiting.remove(job)
            else:
                found.append(_seconds(jobs[job]))
    budget.close()
    return times


def uncertainty(times: list[float]) -> float:
    """The median's standard error as a share of it, from the quartiles: single outliers do not count.

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
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return clock() - started


def _bf16_is_emulated() -> bool:
    """The warning of it is for those who did not ask for bf16; here it is measured, and the table shows the factor."""
    with warnings.catch_warnings(action="ignore"):
        machine.used_precision("bf16")  # it warns once
    return not machine.native_bf16(machine.device())


def emulated_first(
    jobs: dict[Any, Callable], of_bf16: Callable[[Any], bool], measure: Callable, seconds: float, what: str
) -> dict:
    """``measure`` of all jobs, by job and in their order; bf16 that this machine emulates has a share of the seconds.

    ``of_bf16`` says whether a job's name is one of bf16; ``measure`` gets jobs, a `Budget`, and whether they are
    emulated and so to be measured only briefly.
    """
    slow = {name: job for name, job in jobs.items() if _bf16_is_emulated() and of_bf16(name)}
    found = {}
    if slow:
        budget = Budget(EMULATED_SHARE * seconds, "bf16, emulated")
        found = measure(slow, budget, True)
        seconds -= budget.spent
    found |= measure({name: jobs[name] for name in jobs if name not in slow}, Budget(seconds, what), False)
    return {name: found[name] for name in jobs}


# --- arithmetic and time of one crop ----------------------------------------------------------------------


def models(settings: Profile) -> dict[str, Profile]:
    """Settings of the profile's sizes, its controls and its HyperIQA, by name: one model for each backbone.

    The backbone is what takes the time: HyperIQA's and SMART-IQA's arithmetic on the same one differ by 4 %.
    """
    (hyper_iqa,) = experiments.variants(settings, "main", only=["HyperIQA"])
    chosen = [*experiments.variants(settings, "model_sizes"), hyper_iqa]
    of = {variant.label: experiments.settings_of(settings, variant, settings.seed) for variant in chosen}
    first = {of[label].backbone: label for label in reversed(of)}.values()
    return {label: of[label] for label in (hyper_iqa.label, *of) if label in first}


def costs(settings: Profile, full: bool = False) -> pd.DataFrame:
    """Parameters, multiply–accumulates and time of one crop, per model and precision; the paper's column beside.

    Weights are random: they cost the same. Latency is the median over ``n`` single crops with its quartiles and its
    standard error in percent; ``settled`` says whether that got down to `SETTLED`, the rate's too, before the profile's
    seconds were spent. The rate is that of the best batch. bf16 that is emulated is measured on single crops alone.

    Args:
        full: measure also ONNX Runtime, INT8 and `torch.compile`, up to two minutes more per model; in all seconds of
            the profile, not in a share.
    """
    print(f"`precision: auto` computes in {machine.used_precision('auto')} on this machine.", file=sys.stderr)
    chosen, jobs = models(settings), {}
    for label, of_model in Progress(chosen.items(), desc="models"):
        for precision, score in _engines(of_model, _random(of_model), full):
            single = precision.startswith("bf16") and _bf16_is_emulated()
            for batch in RATED_BATCHES[: 1 if single else None]:
                crops = _noise(batch, of_model.crop_size).to(machine.device())
                jobs[label, precision, batch] = partial(score, crops)
                if not single:
                    score(crops)  # the first time is slower: memory is allocated, code compiled

    def measure(some: dict, budget: Budget, emulated: bool) -> dict:
        return in_turn(some, budget, EMULATED if emulated else math.inf)

    seconds = settings.measuring_seconds * (1 if full else SHARES["costs"])
    times = emulated_first(jobs, lambda job: job[1].startswith("bf16"), measure, seconds, "times")
    return _cost_table(chosen, times)


def _cost_table(chosen: dict[str, Profile], times: dict[tuple, list[float]]) -> pd.DataFrame:
    rows = []
    for label, precision in dict.fromkeys((label, way) for label, way, _ in times):
        parameters, flop = size_of(chosen[label])
        of_batch = {b: found for (of, way, b), found in times.items() if (of, way) == (label, precision)}
        low, median, high = np.quantile(of_batch[1], (0.25, 0.5, 0.75)) * 1e3
        rates = {batch: batch / np.median(found) for batch, found in of_batch.items()}
        best = max(rates, key=rates.get)
        rows.append(
            {
                "model": label,
                "backbone": chosen[label].backbone,
                "precision": precision,
                "parameters (M)": parameters / 1e6,
                "GMAC": flop / 2e9,
                "latency (ms)": median,
                "25 %": low,
                "75 %": high,
                "n": len(of_batch[1]),
                "standard error (%)": 100 * uncertainty(of_batch[1]),
                "settled": "yes" if all(uncertainty(found) <= SETTLED for found in of_batch.values()) else "no",
                "crops/s": rates[best],
                "at batch": best,
            }
        )
    table = pd.DataFrame(rows)
    published = experiments.paper("complexity").set_index("model").rename({"HyperIQA (ResNet-50)": "HyperIQA"})
    table["paper: GMAC"] = table["model"].map(published["flops_g"])
    latency = table["model"].map(published["latency_ms_rtx5090_fp32_batch1"])
    table["paper: latency (ms)"] = latency.where(table["precision"] == "float32")
    return table.round(3)


def _random(settings: Profile) -> BlindIQA:
    torch.manual_seed(settings.seed)
    model = build_model(settings.model_copy(update={"pretrained": False})).eval()
    return model.to(machine.device(), memory_format=machine.memory_format(machine.device()))


def _engines(settings: Profile, model: BlindIQA, full: bool) -> Iterator[tuple[str, Callable]]:
    """Name and function (crops to scores) of each way to run a model."""
    as_settings = {p: ScoringSettings(crop_size=settings.crop_size, precision=p) for p in ("float32", "bf16")}
    for precision, wanted in as_settings.items():
        yield precision, _scorer(wanted, model)
    if not full:
        return
    try:
        for precision, wanted in as_settings.items():
            yield f"{precision}, compiled", _scorer(wanted, compile_backbone(_random(settings)))
    except RunError as error:
        print(f"Not measured compiled: {error}", file=sys.stderr)
    noise = _noise(8, settings.crop_size).numpy()
    for name, scorer in onnx_scorers(model, settings.crop_size, [noise]).items():
        yield name, lambda crops_BCHW, scorer=scorer: scorer(crops_BCHW.cpu().numpy())


def onnx_scorers(
    model: BlindIQA, size: int, calibration: Iterable[np.ndarray], batch: int | None = None
) -> dict[str, OnnxScorer]:
    """The model by ONNX Runtime in float32 and in INT8, its ranges measured on these crops (`to_onnx`, `to_int8`)."""
    with tempfile.TemporaryDirectory() as folder:
        plain = to_onnx(model, Path(folder) / "model.onnx", size, batch)
        int8 = to_int8(plain, Path(folder) / "int8.onnx", calibration)
        return {FLOAT_ONNX: OnnxScorer(plain), INT8_ONNX: OnnxScorer(int8)}


def _noise(batch: int, size: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def _scorer(settings: ScoringSettings, model: BlindIQA) -> Callable[[Tensor], Tensor]:
    return torch.inference_mode()(Predictor(settings, model).score_crops)


# --- memory and time per batch size -----------------------------------------------------------------------


def batch_sizes(settings: Profile, largest: int = BATCHES[-1]) -> pd.DataFrame:
    """Peak memory and rate of scoring and of training with each batch size, per model.

    Each model works in a process of its own, from small to large batches, so that the peak is that of the batch;
    a batch that does not fit ends the column. Memory is what the process takes (on a GPU: what torch allocates)
    beyond the model itself; beside the rate, its share of this machine's rate of multiplying large matrices. RunError
    where a process was killed, as it is where the memory of a CPU is too small.
    """
    rows = []
    jobs = [(label, s, work) for label, s in models(settings).items() for work in ("scoring", "training")]
    for label, of_model, work in Progress(jobs, desc="memory"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            try:
                measured = child.submit(_batches_of, of_model, work == "training", largest).result()
            except BrokenProcessPool as error:
                raise RunError(
                    f"The process that measured {label} ({work}) was killed, most likely because the memory was full: "
                    f"measure smaller batches, --largest-batch {largest // 2}."
                ) from error
        flop = size_of(of_model)[1] * (FORWARD_AND_BACKWARD if work == "training" else 1)
        percent = 100 * flop / machine.matrix_rate(machine.used_precision(of_model.precision), machine.device())
        for row in measured:
            share = {"of the matrix rate (%)": percent * row["crops/s"]}
            rows.append({"model": label, "backbone": of_model.backbone, "work": work, **row, **share})
    return pd.DataFrame(rows).round(3)


def _batches_of(settings: Profile, training: bool, largest: int) -> list[dict[str, float]]:
    whole = {"pretrained": False, "freeze_backbone": False, "batch_size": 1, "epochs": WORTH_IT}
    settings, images = settings.model_copy(update=whole), noise_images(largest, settings.crop_size)
    loop = Loop.start(settings, images)
    model = loop.model.train(training)
    batches = ImageBatches(settings, model, images, [(row, 0, 0, False) for row in range(largest)], 1)
    before, rows, score = _peak_memory(), [], _scorer(settings, model)

    def one_batch(chosen: np.ndarray) -> None:
        data, label_B = batches.read(chosen), torch.from_numpy(batches.labels[chosen]).to(machine.device())
        if training:
            loop.record(batches, [chosen])
        result = loop.learn(batches, data, label_B, 1.0) if training else score(data)
        result.sum().item()  # waits for the device

    with machine.freed_memory_kept() if training else nullcontext():  # as `train` does
        for batch in (b for b in BATCHES if b <= largest):
            try:
                seconds = [_seconds(partial(one_batch, np.arange(batch))) for _ in range(2)][-1]
            except torch.OutOfMemoryError:
                break
            rows.append({"batch": batch, "memory (GB)": _peak_memory() - before, "crops/s": batch / seconds})
    return rows


def _peak_memory() -> float:
    """GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux keeps getrusage's peak from the parent process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e6
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


# --- accuracy beside cost, and growth ---------------------------------------------------------------------


def stored_runs(settings: Profile) -> dict[str, list[Run]]:
    """The runs of each model that are in the store, by name; nothing is trained."""
    hyper_iqa = experiments.results(settings, "main", only=["HyperIQA"], train_missing=False)
    return hyper_iqa | experiments.results(settings, "model_sizes", train_missing=False)


def accuracy_beside_cost(settings: Profile, runs: dict[str, list[Run]], table: pd.DataFrame) -> pd.DataFrame:
    """Test SRCC of these runs (`stored_runs`) beside their backbones' cost in ``table`` (`costs`)."""
    kept = ["n", "seeds", "SRCC", "95 % low", "95 % high", "interval over"]
    in_float32 = table.loc[table["precision"] == "float32", ["backbone", "GMAC", "latency (ms)", "crops/s"]]
    columns = ["model", *in_float32, *kept]
    if not runs:
        return pd.DataFrame(columns=columns)
    accuracy = statistics.compare_scores(settings, runs).rename(columns={"variant": "model"})
    return accuracy.merge(in_float32, on="backbone")[columns]


def growth(settings: Profile, numbers: tuple[int, ...] = (125, 250, 500, 1000)) -> pd.DataFrame:
    """Seconds of a training epoch over more and more images, and over more and more crops of each; medians of ``n``.

    A Swin of 0.8 M parameters on 32 px: what grows is the workbook's own work beside it as much as the network's.
    The largest sizes are left out where the profile's seconds are too few for them; two are always measured.
    """
    tiny = {"backbone": "swin_test", "method": "smart_iqa", "pretrained": False, "freeze_backbone": False}
    small = settings.model_copy(update={**tiny, "crop_size": 32, "batch_size": 32, "train_crops": 1})
    budget = Budget(settings.measuring_seconds * SHARES["growth"], "growth")
    first = numbers[0]
    _epoch_of(small, first, 1)()  # the first epoch of all is slower
    smallest = _seconds(_epoch_of(small, first, 1))
    sizes = numbers[:2]
    for number in numbers[2:]:
        if budget.allows(smallest * (2 * sum([*sizes, number]) / first - 1)):
            sizes = (*sizes, number)
    points = [("images", number, 1) for number in sizes]
    points += [("crops per image", first, number // first) for number in sizes]
    jobs = {(images, crops): _epoch_of(small, images, crops) for _, images, crops in points}
    times = in_turn(jobs, budget, EPOCHS)
    table = pd.DataFrame(points, columns=["what grows", "images", "crops per image"])
    table["crops"] = table["images"] * table["crops per image"]
    found = [times[images, crops] for _, images, crops in points]
    return table.assign(seconds=[np.median(each) for each in found], n=[len(each) for each in found]).round(3)


def _epoch_of(settings: Profile, number: int, crops_per_image: int) -> Callable[[], object]:
    images = noise_images(number, 64)
    loop = Loop.start(settings.model_copy(update={"train_crops": crops_per_image}), images)

    def epoch() -> None:
        rng = np.random.default_rng(0)
        crops = training_crops(loop.settings, images, images.rows("train"), rng)
        batches = ImageBatches(loop.settings, loop.model, images, crops, 1)
        train_epoch(loop, batches, rng.permutation(len(crops)), 1)

    return epoch


def noise_images(number: int, side: int) -> ImageSet:
    """Square images of noise with scores, all for training."""
    pixels = np.random.default_rng(0).integers(0, 256, number * side * side * 3, dtype=np.uint8)
    table = pd.DataFrame({"image": [f"{i}" for i in range(number)], "score": np.arange(number) % 101, "split": "train"})
    return ImageSet(table, pixels, np.full((number, 2), side), "noise")


def bench(settings: Profile, largest_batch: int) -> int:
    """Print time and memory of the profile's models, then time the plain way; its exit code."""
    print(f"{settings.profile} on {machine.description()}")
    for table in (costs(settings, full=True), batch_sizes(settings, largest_batch)):
        print(f"\n{table.to_string(index=False)}\n", flush=True)
    plain = paths.CHECKOUT / "benchmarks" / "plain.py"
    if not plain.is_file():
        print("Against the plain way: measured by benchmarks/plain.py of a checkout; this is an installed package.")
        return 0
    return subprocess.run([sys.executable, plain, settings.backbone]).returncode
