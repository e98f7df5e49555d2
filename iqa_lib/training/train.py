"""Train one run, from its settings to its test result. Reads top to bottom.

A run that dies goes on at the start of the epoch it died in: every random choice of an epoch comes from
(seed, epoch), and all other state is in ``state.pt``.

Under the ``honest`` protocol the validation split chooses the epoch and the test split is scored once, at the end.
Under ``paper`` the test split chooses, on random crops, as in the reference code. ``watch_test`` notes the test split's
agreement after every epoch, for the table of what choosing on it would have gained; nothing here reads it.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import sys
import time
from contextlib import nullcontext
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
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import CheckpointError, RunError
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.models.tensors import read_without_running, require_same_tensors
from iqa_lib.profile import RunSettings
from iqa_lib.training.batches import FrozenBatches, ImageBatches, training_crops
from iqa_lib.training.evaluate import evaluation_crops, predict
from iqa_lib.training.graphs import forget
from iqa_lib.training.loop import LOWER_THE_RATE, Loop, needing_the_others, train_epoch, trained_state
from iqa_lib.training.runs import MODEL, STATE, Run, claimed

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
        with needing_the_others(accelerator):
            accelerator.wait_for_everyone()
        if not run.complete:
            _train(run, settings, images, accelerator)
            with needing_the_others(accelerator):
                accelerator.wait_for_everyone()
    if accelerator.is_main_process:  # last, so that one that was killed before leaves neither state nor claim behind
        (run.folder / STATE).unlink(missing_ok=True)
    return run


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
            predicted = _predict(settings, loop.judged, images, split, epoch)["prediction"]
            for metric in (metrics.srcc, metrics.plcc, metrics.rmse):
                row[f"{split}_{metric.__name__}"] = metric(predicted, images.scores(images.rows(split)))
        row["learning_rate_head"] = schedule.get_last_lr()[-1]
        with needing_the_others(accelerator):
            (row,) = broadcast_object_list([row])  # what the first process measured decides for all
        epochs.append(row)
        # An undefined SRCC (constant predictions) is worse than any number, but some weights must be kept.
        srcc = row[f"{chooser}_srcc"]
        if epoch == 1 or srcc > best["srcc"]:
            best = {"srcc": srcc if math.isfinite(srcc) else -math.inf, "epoch": epoch}
        if accelerator.is_main_process:
            if best["epoch"] == epoch:
                _save_model(loop.judged, run.folder)
            paths.write_atomically(run.folder / "epochs.jsonl", "".join(json.dumps(e) + "\n" for e in epochs))
            averaged = {"averaged": loop.averaged.state_dict()} if loop.averaged else {}
            save_state(state_file, trained_state(model), optimizer, schedule, epochs=epochs, best=best, **averaged)

    if accelerator.is_main_process:
        _finish(run, loop, images, chooser, len(epochs), best["epoch"], started)


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


def _resume(loop: Loop, state_file: Path) -> tuple[list[dict], dict]:
    """Bring the loop to where it was interrupted; the epochs so far, and the best of them."""
    remedy = f"Remove the folder {state_file.parent} to train this run from its beginning."
    try:
        state = read_without_running(state_file, remedy)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    try:
        require_same_tensors(state["model"], trained_state(loop.model), f"'{state_file}'")
        loop.model.load_state_dict(state["model"], strict=False)
        loop.optimizer.load_state_dict(state["optimizer"])
        loop.schedule.load_state_dict(state["schedule"])
        if loop.averaged:
            loop.averaged.load_state_dict(state["averaged"])
        epochs, best = state["epochs"], state["best"]
        if [row["epoch"] for row in epochs] != list(range(1, len(epochs) + 1)) or best["epoch"] > len(epochs):
            raise ValueError(f"it counts the epochs {[row['epoch'] for row in epochs]}")
        return epochs, {"srcc": float(best["srcc"]), "epoch": int(best["epoch"])}
    except Exception as error:  # whatever a strange content makes the optimizer raise
        raise RunError(f"'{state_file}' is not the state of this run ({error}). {remedy}") from error


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
    forget(loop.judged)
    loop.optimizer.zero_grad()  # gradients lie in the same memory
    # From the weights on disk, so that a run that was killed ends in the same bits as one that was not.
    model = run.load_model().to(device, memory_format=machine.memory_format(device))
    parts = {s: _predict(run.settings, model, images, s, best_epoch) for s in dict.fromkeys((chooser, "test"))}
    curve = metrics.fit_logistic(parts["val"]["prediction"], parts["val"]["score"]) if "val" in parts else None
    parameters = sum(p.numel() for p in model.parameters())
    result = {"best_epoch": best_epoch, "epochs": epochs, "parameters": parameters, "logistic": curve}
    used = machine.used_precision(run.settings.precision, device)
    run.complete_with(pd.concat(parts.values()), result, str(device), time.monotonic() - started, used)
