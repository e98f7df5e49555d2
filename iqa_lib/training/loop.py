"""The optimisation of one run: what an epoch changes, and how it learns from a batch."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from iqa_lib import machine
from iqa_lib.data.images import ImageSet, in_order, page_locked
from iqa_lib.errors import RunError
from iqa_lib.models.hypernet import PooledStages
from iqa_lib.models.smart_iqa import BlindIQA, HyperIQA, SmartIQA
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.batches import ImageBatches
from iqa_lib.training.graphs import WORTH_IT, graphs_of, uncompiled
from iqa_lib.training.losses import combined, spoilt_order
from iqa_lib.training.predictor import ahead
from iqa_lib.training.runs import compiled

# Reading a loss waits for the device: on a GPU, where that costs, for many at once.
LOSSES_AT_ONCE = 20 if torch.cuda.is_available() else 1
PAPER_FLOOR = 1e-6  # the reference's cosine ends here, whatever the rate it began with
LOWER_THE_RATE = (
    "Lower learning_rate_backbone and learning_rate_head; the epochs before this one are kept: "
    "run it again to go on from there."
)


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


@dataclass
class Loop:
    """What a training epoch changes, and how."""

    settings: RunSettings
    model: BlindIQA
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator
    rates: list[Tensor] = field(default_factory=list)  # on the GPU, where recorded steps read them
    averaged: AveragedModel | None = None

    @property
    def judged(self) -> BlindIQA:
        """What validation sees and the run keeps."""
        return self.averaged.module if self.averaged else self.model

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
        average = get_ema_multi_avg_fn(settings.averaging)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if settings.averaging else None
        return cls(settings, model, optimizer, schedule, accelerator, averaged=averaged)

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
        return [*trained_state(self.model).values(), *moments]

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
        self._after_step()
        return loss

    def step(self, stages: PooledStages, label_B: Tensor, scale: float) -> Tensor:
        """The loss of one batch, after learning from it; no wait for the device."""
        loss = self._update(stages, label_B, scale)
        self._after_step()
        return loss

    def _after_step(self) -> None:
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)

    def _update(self, stages: PooledStages, label_B: Tensor, scale: float) -> Tensor:
        with machine.autocast(self.settings.precision, self.accelerator.device):
            predicted_B = self.model.score_stages(stages).float()
        predicted_B, copies = predicted_B[: len(label_B)], predicted_B[len(label_B) :]
        loss = combined(self.settings.loss, self.settings.ranking_weight)(predicted_B, label_B) * scale
        if len(copies):
            mild, harsh = copies.chunk(2)
            loss = loss + spoilt_order(mild, harsh)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        with needing_the_others(self.accelerator):
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
    if settings.spoilt_copies:  # which take longer to make than to learn from
        reading = in_order(crops.read, ((share, 3 * len(share) * settings.crop_size**2) for share in shares))
    else:
        reading = ahead(crops.read, shares)
    bar = Progress(reading, desc=f"train: epoch {epoch}/{settings.epochs}", total=len(batches))
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


@contextmanager
def needing_the_others(accelerator: Accelerator) -> Iterator[None]:
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


def trained_state(model: BlindIQA) -> dict[str, Tensor]:
    """The part of the model's state that training changes: all but frozen parameters."""
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in frozen}
