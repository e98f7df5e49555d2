"""Train one run, from its settings to its test result. Reads top to bottom.

A run that dies goes on at the start of the epoch it died in: every random choice of an epoch comes from
(seed, epoch), and all other state is in ``state.pt``.

Under the ``honest`` protocol the validation split chooses the epoch and the test split is scored once, at the end.
Under ``paper`` the test split chooses, on random crops, as in the reference code. ``watch_test`` notes the test split's
agreement after every epoch, for the table of what choosing on it would have gained; nothing here reads it.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from safetensors import SafetensorError
from torch import Tensor

from iqa_lib import machine, metrics, paths
from iqa_lib.data import catalog
from iqa_lib.data.images import ImageSet, load_images, page_locked
from iqa_lib.errors import CheckpointError, RunError
from iqa_lib.models.hypernet import PooledStages
from iqa_lib.models.smart_iqa import BlindIQA, HyperIQA, SmartIQA
from iqa_lib.models.tensors import read_without_running, require_same_tensors
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.batches import FrozenBatches, ImageBatches, training_crops
from iqa_lib.training.evaluate import evaluation_crops, predict
from iqa_lib.training.graphs import WORTH_IT, forget, graphs_of, uncompiled
from iqa_lib.training.losses import combined
from iqa_lib.training.predictor import ahead
from iqa_lib.training.runs import MODEL, STATE, Run, claimed, compiled

# Reading a loss waits for the device: on a GPU, where that costs, for many at once.
LOSSES_AT_ONCE = 20 if torch.cuda.is_available() else 1
PAPER_FLOOR = 1e-6  # the reference's cosine ends here, whatever the rate it began with
LOWER_THE_RATE = (
    "Lower learning_rate_backbone and learning_rate_head; the epochs before this one are kept: "
    "run it again to go on from there."
)
PER_IMAGE_LOSSES = {"l1", "l2"}  # the only ones that may be computed on a part of the batch


def train(settings: RunSettings, images: ImageSet | None = None) -> Run:
    """The run of these settings: read from the store if complete, else trained, or trained to its end.

    Raises:
        DataError: the dataset is unusable or a split is empty.
        WeightsError: the backbone's weights cannot be had.
        RunError: the loss is no longer a number, or another process of this training was killed; the last good
            epoch stays on disk.
        StorageError: the run store cannot be written; so does the last epoch.
    """
    images = images or load_images(settings)
    run = Run(settings, images.fingerprint)
    if run.complete and not (run.folder / STATE).is_file():
        return run
    accelerator = Accelerator()
    if accelerator.num_processes > 1 and (settings.loss not in PER_IMAGE_LOSSES or settings.ranking_weight):
        raise RunError(
            f"loss '{settings.loss}' with ranking_weight {settings.ranking_weight} compares the images of a whole "
            f"batch and cannot be shared by {accelerator.num_processes} processes: start one, or use l1 or l2."
        )
    # Of several processes of one training the first alone claims the run and writes.
    with claimed(run.folder) if accelerator.is_main_process else nullcontext():
        with _needing_the_others(accelerator):
            accelerator.wait_for_everyone()
        if not run.complete:
            _train(run, settings, images, accelerator)
            with _needing_the_others(accelerator):
                accelerator.wait_for_everyone()
        if accelerator.is_main_process:  # also after a process that was killed between its result and this
            (run.folder / STATE).unlink(missing_ok=True)
    return run


def build_model(settings: RunSettings) -> BlindIQA:
    """Before training; raises WeightsError, and CheckpointError where the default model has other parts."""
    start = False if settings.pretrained == "default" else settings.pretrained
    common = {"backbone": settings.backbone, "pretrained": start, "image_size": settings.crop_size}
    if settings.method == "hyper_iqa":
        model = HyperIQA(**common)
    else:
        parts = {key: getattr(settings, key) for key in ("use_attention", "use_multiscale", "use_hyper")}
        model = SmartIQA(**parts, **common)
    if settings.pretrained == "default":
        model.go_on_from_default()
    return model


def _train(run: Run, settings: RunSettings, images: ImageSet, accelerator: Accelerator) -> None:
    started = time.monotonic()
    set_seed(settings.seed)
    torch.use_deterministic_algorithms(accelerator.device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory before it is written
    chooser = "val" if settings.protocol == "honest" else "test"
    if lack := catalog.too_few(images.table, settings.protocol):
        raise RunError(f"Dataset '{settings.dataset}': {lack}")
    train_rows = images.rows("train")
    watched = (chooser, "test") if settings.watch_test and chooser != "test" else (chooser,)

    loop = Loop.start(settings, images, accelerator)
    model, optimizer, schedule = loop.model, loop.optimizer, loop.schedule
    cached = FrozenBatches(settings, model, images, train_rows) if settings.freeze_backbone else None

    epochs: list[dict] = []
    best = {"srcc": -math.inf, "epoch": 0}
    state_file = run.folder / STATE
    if accelerator.is_main_process:
        for half_written in run.folder.glob(".*.tmp"):  # by one that was killed
            half_written.unlink(missing_ok=True)
    if state_file.is_file() and not (run.folder / MODEL).is_file():
        print(
            f"{run.folder}: {MODEL}, the best epoch's weights, is gone: training from the beginning.", file=sys.stderr
        )
    elif state_file.is_file():
        epochs, best = _resume(loop, state_file)

    for epoch in range(len(epochs) + 1, settings.epochs + 1):
        if epoch - best["epoch"] > settings.patience and best["epoch"]:
            break
        # Dropout and drop path of this epoch, another in each process.
        set_seed((settings.seed * 1_000_003 + epoch + 7_919 * accelerator.process_index) % 2**32)
        rng = np.random.default_rng([settings.seed, epoch])
        crops = cached or ImageBatches(
            settings, model, images, training_crops(settings, images, train_rows, rng), epoch
        )
        with machine.freed_memory_kept():
            learnt = train_epoch(loop, crops, rng.permutation(len(crops.labels)), epoch)
        row = {"epoch": epoch, **learnt}
        for split in watched:
            predicted = _predict(settings, model, images, split, epoch)["prediction"]
            for metric in (metrics.srcc, metrics.plcc, metrics.rmse):
                row[f"{split}_{metric.__name__}"] = metric(predicted, images.scores(images.rows(split)))
        row["learning_rate_head"] = schedule.get_last_lr()[-1]
        with _needing_the_others(accelerator):
            (row,) = broadcast_object_list([row])  # what the first process measured decides for all
        epochs.append(row)
        # An undefined SRCC (constant predictions) is worse than any number, but some weights must be kept.
        srcc = row[f"{chooser}_srcc"]
        if epoch == 1 or srcc > best["srcc"]:
            best = {"srcc": srcc if math.isfinite(srcc) else -math.inf, "epoch": epoch}
        if accelerator.is_main_process:
            if best["epoch"] == epoch:
                _save_model(model, run.folder)
            paths.write_atomically(run.folder / "epochs.jsonl", "".join(json.dumps(e) + "\n" for e in epochs))
            save_state(state_file, _trained_state(model), optimizer, schedule, epochs=epochs, best=best)

    if accelerator.is_main_process:
        _finish(run, loop, images, chooser, len(epochs), best["epoch"], started)


@contextmanager
def _needing_the_others(accelerator: Accelerator) -> Iterator[None]:
    """For what only all processes of a training can do: says so when one of them has gone."""
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"Another of the {accelerator.num_processes} processes of this training was killed, failed or is out of "
            f"reach: process {accelerator.process_index} heard no more of it ({reason}). The epochs before this one "
            f"are kept: start the same command again to go on from there."
        ) from error


@dataclass
class Loop:
    """What a training epoch changes, and how."""

    settings: RunSettings
    model: BlindIQA
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator
    rates: list[Tensor] = field(default_factory=list)  # on the GPU, where recorded steps read them

    @classmethod
    def start(cls, settings: RunSettings, images: ImageSet, accelerator: Accelerator | None = None) -> Loop:
        """Before the first step."""
        accelerator, rows = accelerator or Accelerator(), images.rows("train")
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1 and accelerator.is_main_process:
            print(f"{accelerator.num_processes} processes share this training: no CUDA graph.", file=sys.stderr)
        device = accelerator.device
        model = build_model(settings).to(device, memory_format=machine.memory_format(device))
        if settings.compile:
            compiled(model)
        if not settings.freeze_backbone and images.fits(accelerator.device):
            images.keep_on(accelerator.device)
        if settings.protocol == "honest" and settings.pretrained != "default":
            model.head.start_at(float(images.scores(rows).mean()))
        optimizer = _optimizer(model, settings)
        batches = math.ceil(len(rows) * settings.train_crops / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(settings, optimizer, batches))
        return cls(settings, model, optimizer, schedule, accelerator)

    def record(self, crops: ImageBatches, batches: list[np.ndarray]) -> None:
        """On a GPU of its own: batches of these sizes will be learnt from by CUDA graphs (`learn`). Learns nothing."""
        graphs = graphs_of(self.model, self.accelerator.device)
        too_few = len(batches) * self.settings.epochs < WORTH_IT
        if not graphs.work or too_few or self.accelerator.num_processes > 1:
            return
        works = {}
        for chosen in {len(batch): batch for batch in sorted(batches, key=len, reverse=True)}.values():
            data, label_B = crops.read(chosen), torch.from_numpy(crops.labels[chosen])

            def work(data: Tensor, label_B: Tensor) -> list[Tensor]:
                with uncompiled(self._rarely(label_B)):
                    return [self._update(crops.stages(data), label_B, 1.0)]

            if _shapes(data, label_B) not in graphs:
                works[_shapes(data, label_B)] = work, (data, label_B)
        if not works:
            return
        groups, before = self.optimizer.param_groups, [t.clone() for t in self._changing()]
        plain = [{key: group[key] for key in ("lr", "capturable")} for group in groups]
        self.rates = self.rates or [torch.tensor(group["lr"], device=self.accelerator.device) for group in groups]

        def undo() -> None:
            with torch.no_grad():
                for now, then in zip_longest(self._changing(), before):
                    now.zero_() if then is None else now.copy_(then)  # moments begin at zero
            before.clear()

        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group.update(lr=rate, capturable=True)
            graphs.record(works, undo)
        finally:
            for group, options in zip(groups, plain, strict=True):
                group.update(options)

    def _changing(self) -> list[Tensor]:
        """All that a step changes; what its first adds, the optimizer's moments and counts, stands last."""
        moments = [value for of_one in self.optimizer.state.values() for value in of_one.values()]
        return [*_trained_state(self.model).values(), *moments]

    def _rarely(self, label_B: Tensor) -> bool:
        """Whether so small a batch comes but once an epoch, too rarely to be compiled for."""
        return self.settings.compile and label_B.is_cuda and len(label_B) < self.settings.batch_size

    def learn(self, crops: ImageBatches, data: Tensor, label_B: Tensor, scale: float) -> Tensor:
        """As `step`, from a batch as it was read, in one call where it is recorded."""
        graphs, key = graphs_of(self.model, self.accelerator.device), _shapes(data, label_B)
        if key not in graphs:
            with uncompiled(self._rarely(label_B)):
                return self.step(crops.stages(data), label_B, scale)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        (loss,) = graphs.replay(key, data, label_B)
        self.schedule.step()
        return loss

    def step(self, stages: PooledStages, label_B: Tensor, scale: float) -> Tensor:
        """The loss of one batch, after learning from it; no wait for the device."""
        loss = self._update(stages, label_B, scale)
        self.schedule.step()
        return loss

    def _update(self, stages: PooledStages, label_B: Tensor, scale: float) -> Tensor:
        with machine.autocast(self.settings.precision, self.accelerator.device):
            predicted_B = self.model.score_stages(stages)
        loss = combined(self.settings.loss, self.settings.ranking_weight)(predicted_B.float(), label_B) * scale
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        with _needing_the_others(self.accelerator):
            for parameter in learning if self.accelerator.num_processes > 1 else ():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
            loss = self.accelerator.reduce(loss.detach(), "mean")
        self.accelerator.clip_grad_norm_(learning, self.settings.clip_norm)
        self.optimizer.step()
        return loss


def _shapes(*inputs: Tensor) -> tuple:
    return tuple((given.shape, given.dtype) for given in inputs)


def train_epoch(loop: Loop, crops: ImageBatches, order: np.ndarray, epoch: int) -> dict[str, float]:
    """Learn from all ``crops`` in this order; the next batch is cut while the network works on this one.

    Returns:
        ``train_loss``, ``train_seconds`` and ``data_wait``, the share of them spent waiting for a batch.

    Raises:
        RunError: the loss of a batch is no number.
    """
    settings, accelerator, processes = loop.settings, loop.accelerator, loop.accelerator.num_processes
    loop.model.train()
    if settings.freeze_backbone or settings.tuned == "late":
        loop.model.backbone.eval()
    batches = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
    # A batch smaller than the number of processes is worked by all.
    shares = [batch if len(batch) < processes else batch[accelerator.process_index :: processes] for batch in batches]
    loop.record(crops, shares)
    losses, unread, waited, started = [], [], 0.0, time.monotonic()
    bar = Progress(ahead(crops.read, shares), desc=f"train: epoch {epoch}/{settings.epochs}", total=len(batches))
    asked = started
    for number, data in enumerate(bar):
        waited += time.monotonic() - asked
        batch, chosen = batches[number], shares[number]
        label_B = page_locked(torch.from_numpy(crops.labels[chosen])).to(accelerator.device, non_blocking=True)
        # Shares may differ by one image.
        scale = len(chosen) * processes / len(batch) if 1 < processes <= len(batch) else 1.0
        unread.append(loop.learn(crops, data, label_B, scale))
        if len(unread) == LOSSES_AT_ONCE or number == len(batches) - 1:
            losses += torch.stack(unread).tolist()
            unread.clear()
            if len(wrong := np.flatnonzero(~np.isfinite(losses))):
                names = ", ".join(crops.names.iloc[batches[wrong[0]][:3]])
                raise RunError(
                    f"The loss is {losses[wrong[0]]} in epoch {epoch}, batch {wrong[0] + 1} (images {names}, …; "
                    f"learning rates {loop.schedule.get_last_lr()}). {LOWER_THE_RATE}"
                )
            bar.show(loss=float(np.mean(losses[-20:])))
        asked = time.monotonic()
    seconds = asked - started
    return {"train_loss": float(np.mean(losses)), "train_seconds": seconds, "data_wait": waited / seconds}


def _predict(settings: RunSettings, model: BlindIQA, images: ImageSet, split: str, epoch: int) -> pd.DataFrame:
    """Labels and predictions of a split; refused where diverged weights predict no number."""
    rows = images.rows(split)
    scored = predict(settings, model, images, rows, split, evaluation_crops(settings, images, rows, epoch))
    table = images.table.drop(columns="path").iloc[rows].reset_index(drop=True).join(scored)
    wrong = table.loc[~np.isfinite(table["prediction"]), "image"]
    if len(wrong):
        raise RunError(
            f"After the last batch of epoch {epoch}, {len(wrong)} of {len(rows)} predictions of split '{split}' are "
            f"not finite (images {', '.join(wrong[:3])}, …; learning rates began at "
            f"[{settings.learning_rate_backbone}, {settings.learning_rate_head}]). {LOWER_THE_RATE}"
        )
    return table


def _optimizer(model: BlindIQA, settings: RunSettings) -> torch.optim.Optimizer:
    groups = [{"params": list(model.head.parameters()), "lr": settings.learning_rate_head}]
    model.backbone.requires_grad_(False)
    if not settings.freeze_backbone:
        backbone = model.backbone
        learning = [*backbone.parameters()] if settings.tuned == "whole" else backbone.late_parameters()
        groups.insert(0, {"params": [p.requires_grad_() for p in learning], "lr": settings.learning_rate_backbone})
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _schedule(settings: RunSettings, optimizer: torch.optim.Optimizer, batches: int) -> list:
    """Per parameter group: the factor of its learning rate at a step. Warm-up, then cosine to a share of the start.

    Under ``paper`` no warm-up, and every rate ends at 1e-6: the backbone's, which begins lower, rises.
    """
    steps = settings.epochs * batches
    honest = settings.protocol == "honest"
    warmup = max(1, round(settings.warmup * steps)) if honest else 0

    def factor(floor: float, step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    floors = [settings.final_learning_rate if honest else PAPER_FLOOR / g["lr"] for g in optimizer.param_groups]
    return [functools.partial(factor, floor) for floor in floors]


def _resume(loop: Loop, state_file: Path) -> tuple[list[dict], dict]:
    """Bring the loop to where it was interrupted; the epochs so far, and the best of them."""
    remedy = f"Remove the folder {state_file.parent} to train this run from its beginning."
    try:
        state = read_without_running(state_file, remedy)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    try:
        require_same_tensors(state["model"], _trained_state(loop.model), f"'{state_file}'")
        loop.model.load_state_dict(state["model"], strict=False)
        loop.optimizer.load_state_dict(state["optimizer"])
        loop.schedule.load_state_dict(state["schedule"])
        epochs, best = state["epochs"], state["best"]
        if [row["epoch"] for row in epochs] != list(range(1, len(epochs) + 1)) or best["epoch"] > len(epochs):
            raise ValueError(f"it counts the epochs {[row['epoch'] for row in epochs]}")
        return epochs, {"srcc": float(best["srcc"]), "epoch": int(best["epoch"])}
    except Exception as error:  # whatever a strange content makes the optimizer raise
        raise RunError(f"'{state_file}' is not the state of this run ({error}). {remedy}") from error


def _trained_state(model: BlindIQA) -> dict[str, Tensor]:
    """The part of the model's state that training changes: all but frozen parameters."""
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in frozen}


def save_state(path: Path, model: dict[str, Tensor], optimizer, schedule, **progress) -> None:
    states = {"model": model, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    content = io.BytesIO()
    torch.save(states | progress, content)
    paths.write_atomically(path, content.getvalue())


def _save_model(model: BlindIQA, folder: Path) -> None:
    unfinished = folder / ".unfinished"
    with paths.writing_to(folder):
        try:
            model.save_pretrained(unfinished)
        except SafetensorError as error:  # gives the operating system's error in words
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from error
        for name in ("config.json", MODEL):
            paths.sync(unfinished / name)
            (unfinished / name).replace(folder / name)
        shutil.rmtree(unfinished)


def _finish(run: Run, loop: Loop, images: ImageSet, chooser: str, epochs: int, best_epoch: int, started: float) -> None:
    """Write the best epoch's predictions on the held-out splits and what they say, ``result.json`` last."""
    if not (run.folder / MODEL).is_file():
        raise RunError(
            f"{run.folder}: {MODEL}, the weights of epoch {best_epoch}, was deleted while this run trained. "
            f"Run it again: it starts from the beginning."
        )
    device = loop.accelerator.device
    forget(loop.model)
    loop.optimizer.zero_grad()  # gradients lie in the same memory
    # From the weights on disk, so that a run that was killed ends in the same bits as one that was not.
    model = run.load_model().to(device, memory_format=machine.memory_format(device))
    parts = {s: _predict(run.settings, model, images, s, best_epoch) for s in dict.fromkeys((chooser, "test"))}
    curve = metrics.fit_logistic(parts["val"]["prediction"], parts["val"]["score"]) if "val" in parts else None
    parameters = sum(p.numel() for p in model.parameters())
    result = {"best_epoch": best_epoch, "epochs": epochs, "parameters": parameters, "logistic": curve}
    used = machine.used_precision(run.settings.precision, device)
    run.complete_with(pd.concat(parts.values()), result, str(device), time.monotonic() - started, used)
