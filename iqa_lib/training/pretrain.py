"""Pretrain a backbone of this project's own, from pictures and computed targets alone. Reads top to bottom.

Two tasks at once, from the same degraded crop: the features of an ImageNet-trained EfficientNet-Lite, stage by
stage (distillation), and quality: a full-reference score, how severe the faults are, and of which kinds.

An interrupted pretraining resumes at the start of its epoch; the same seed gives the same weights.

Shape suffixes: B batch, C channels, H height, W width, K kinds of distortion.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors.torch import save
from torch import Tensor, nn

from iqa_lib import machine, metrics, paths
from iqa_lib.data.crops import random_crops
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.data.offline import VIEW
from iqa_lib.data.pictures import PACKAGES_FOLDER, build
from iqa_lib.models.backbones import Backbone
from iqa_lib.models.hybrid import HybridSwin
from iqa_lib.models.tensors import read_without_running
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.predictor import ahead
from iqa_lib.training.runs import MODEL, STATE, claimed, environment
from iqa_lib.training.train import save_state

TEACHER = "tf_efficientnet_lite0"
CROP = 192
BATCH = 32
LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.02
WEIGHTS = {"score": 2.0, "severity": 1.0, "kinds": 2.0, "features": 1.0}  # of the terms of the loss


class Lessons(nn.Module):
    """The backbone that learns, and what reads its stages during pretraining only."""

    def __init__(self, backbone: Backbone, teacher_channels: list[int], kinds: int):
        super().__init__()
        self.backbone = backbone
        self.project = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
            for ours, theirs in zip(backbone.channels, teacher_channels, strict=True)
        )
        width = sum(backbone.channels)
        self.read = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 2 + kinds))

    def forward(self, image_BCHW: Tensor, taught: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The teacher's maps as this backbone predicts them; logits (B, 2 + K) of score, severity and kinds.

        ``taught`` are the teacher's maps: those of a hybrid's own convolutions, so it continues from them.
        """
        net = self.backbone.net
        maps = net.attend(taught) if isinstance(net, HybridSwin) else self.backbone(image_BCHW)
        means = torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1)
        return [project(m) for project, m in zip(self.project, maps, strict=True)], self.read(means.float())


def make_weights(backbone: str, epochs: int, seed: int, pictures: str | None) -> Path:
    """Build the training set and pretrain; each step resumes where it was stopped. The weights' file."""
    labels = build(paths.DATA / "pretraining", Path(pictures) if pictures else PACKAGES_FOLDER)
    return pretrain(backbone, labels, epochs, seed) / MODEL


def pretrain(backbone: str, labels: Path, epochs: int, seed: int = 0) -> Path:
    """The folder with the finished ``model.safetensors`` (float16); trained, or trained to its end, where absent.

    ``labels``: of the training set, made by `iqa_lib.data.pictures.build`.
    """
    images = load_images(settings_for(backbone, labels))
    folder = paths.RUNS / "pretraining" / f"{backbone}-s{seed}-{epochs}-{images.fingerprint}"
    with claimed(folder):
        if not (folder / MODEL).is_file():
            _pretrain(backbone, images, folder, epochs, seed)
        (folder / STATE).unlink(missing_ok=True)  # also after one killed between its result and this
    return folder


def settings_for(backbone: str, labels: Path) -> RunSettings:
    """How the training set is decoded."""
    return RunSettings(
        profile="pretraining", dataset=str(labels), backbone=backbone, resolution=VIEW[1], crop_size=CROP
    )


def _pretrain(name: str, images: ImageSet, folder: Path, epochs: int, seed: int) -> None:
    started = time.monotonic()
    set_seed(seed)
    device = machine.device()
    targets = Targets(images)
    teacher = Backbone(TEACHER, image_size=CROP).to(device, memory_format=torch.channels_last).eval()
    student = Backbone(name, pretrained=False, image_size=CROP)
    if isinstance(student.net, HybridSwin):
        student.net.convolutions.load_state_dict(teacher.net.state_dict())
        student.net.convolutions.requires_grad_(False)
    model = Lessons(student, teacher.channels, len(targets.kinds)).to(device, memory_format=torch.channels_last)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    rows = images.rows("train")
    steps = epochs * math.ceil(len(rows) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    state_file, done = folder / STATE, []
    if state_file.is_file():
        state = read_without_running(state_file, f"Remove {state_file} to train from the beginning.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["epochs"]
    for epoch in range(len(done) + 1, epochs + 1):
        set_seed((seed * 1_000_003 + epoch) % 2**32)
        rng = np.random.default_rng([seed, epoch])
        crops = random_crops(images, rng.permutation(rows), 1, CROP, rng)
        batches = [crops[start : start + BATCH] for start in range(0, len(crops), BATCH)]
        bar = Progress(
            ahead(lambda batch: images.crops(batch, CROP), batches),
            desc=f"pretrain {name}: epoch {epoch}/{epochs}",
            total=len(batches),
        )
        model.train()
        found: list[dict[str, float]] = []
        with machine.freed_memory_kept():
            for batch, cut in zip(batches, bar, strict=False):
                wanted = targets.of([crop[0] for crop in batch]).to(device)
                losses = _losses(model, teacher, cut.to(device), wanted)
                optimizer.zero_grad()
                sum(WEIGHTS[lesson] * loss for lesson, loss in losses.items()).backward()
                nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()
                schedule.step()
                found.append({lesson: loss.item() for lesson, loss in losses.items()})
                bar.show(**{lesson: np.mean([t[lesson] for t in found[-20:]]) for lesson in losses})
        done.append(
            {"epoch": epoch, **{lesson: float(np.mean([t[lesson] for t in found])) for lesson in found[0]}}
            | _validate(model, teacher, images)
        )
        paths.write_atomically(folder / "epochs.jsonl", "".join(json.dumps(row) + "\n" for row in done))
        save_state(state_file, model.state_dict(), optimizer, schedule, epochs=done)
    facts = environment(str(device), time.monotonic() - started, machine.used_precision("auto", device))
    facts |= {"backbone": name, "seed": seed, "crops": len(rows) * epochs, "data": images.fingerprint}
    paths.write_atomically(folder / "environment.json", json.dumps(facts, indent=1))
    # Last: it makes the pretraining complete.
    shipped = {key: value.half().cpu().contiguous() for key, value in student.weights().items()}
    paths.write_atomically(folder / MODEL, save(shipped))


class Targets:
    """The targets of each image: score and severity (0–1), and which of `kinds` of distortion it has."""

    def __init__(self, images: ImageSet):
        kinds = images.table["distortion"].str.split("+")
        self.kinds = sorted({kind for of_image in kinds for kind in of_image} - {"none"})
        has = np.array([[kind in of_image for kind in self.kinds] for of_image in kinds], np.float32)
        numbers = images.table[["score", "severity"]].to_numpy(np.float32) / (100, 1)
        self._table = torch.from_numpy(np.hstack([numbers, has]).astype(np.float32))

    def of(self, rows: list[int]) -> Tensor:
        """(B, 2 + K), in the order of `Lessons`' logits."""
        return self._table[rows]


def _losses(model: Lessons, teacher: Backbone, crops_BCHW: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    with machine.autocast("auto", crops_BCHW.device):
        image = teacher.normalize(crops_BCHW).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            taught = teacher(image)
        found, logits = model(image, taught)
    apart = [_relative_error(ours.float(), theirs.float()) for ours, theirs in zip(found, taught, strict=True)]
    guessed = logits[:, :2].sigmoid()
    return {
        "score": F.l1_loss(guessed[:, 0], wanted[:, 0]),
        "severity": F.l1_loss(guessed[:, 1], wanted[:, 1]),
        "kinds": F.binary_cross_entropy_with_logits(logits[:, 2:], wanted[:, 2:]),
        "features": torch.stack(apart).mean(),
    }


def _relative_error(ours_BCHW: Tensor, theirs_BCHW: Tensor) -> Tensor:
    """Mean square error, as a share of the variance of each channel of the teacher's."""
    variance = theirs_BCHW.var(dim=(0, 2, 3), keepdim=True) + 1e-4
    return ((ours_BCHW - theirs_BCHW) ** 2 / variance).mean()


@torch.inference_mode()
def _validate(model: Lessons, teacher: Backbone, images: ImageSet) -> dict[str, float]:
    """Agreement with the full-reference scores on the centres of pictures that are not trained on."""
    rows = images.rows("val")
    centres = random_crops(images, rows, 1, CROP, np.random.default_rng(0), flip=False, random_place=False)
    parts = [images.crops(centres[start : start + BATCH], CROP) for start in range(0, len(rows), BATCH)]
    model.eval()
    device = model.backbone.mean.device
    guessed = []
    for part in parts:
        with machine.autocast("auto", device):
            image = teacher.normalize(part.to(device)).contiguous(memory_format=torch.channels_last)
            guessed.append(model(image, teacher(image))[1][:, 0].float().cpu().numpy())
    return {"validation_srcc": metrics.srcc(np.concatenate(guessed), images.scores(rows))}
