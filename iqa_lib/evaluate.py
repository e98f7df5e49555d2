"""Scoring a dataset's images: a deterministic grid of crops per image, batched, averaged.

Shape suffixes: B batch, N crops, P packed features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import filelock
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iqa_lib import paths
from iqa_lib.data.crops import ImageSet, grid_crops
from iqa_lib.models.hypernet import PooledStages, packed_size
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress

Crop = tuple[int, int, int, bool]
EVALUATION_BATCH = 64


def crop_features(
    settings: Profile, model: BlindIQA, images: ImageSet, crops: list[Crop], what: str
) -> np.memmap:
    """What the head reads of each crop, float16 (N, P), from the frozen backbone; computed once, then read.

    The file's name is a hash of data, crops and backbone, so every run that shares them shares the file.
    """
    key = (
        images.fingerprint,
        settings.backbone,
        str(settings.pretrained),
        settings.crop_size,
        settings.precision,
    )
    if settings.pretrained is False:
        key += (settings.seed,)
    listing = np.array(crops, dtype=np.int64)
    digest = hashlib.sha256(json.dumps(key).encode() + listing.tobytes()).hexdigest()[:20]
    path = paths.DATA / "cache" / f"features-{digest}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.is_file():
            _compute_features(settings, model, images, crops, path, what)
    return np.load(path, mmap_mode="r")


def _compute_features(settings, model, images, crops, path, what) -> None:
    temporary = path.with_suffix(".unfinished.npy")
    shape = (len(crops), packed_size(model.backbone.channels))
    file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
    model.eval()
    starts = range(0, len(crops), EVALUATION_BATCH)
    for start in Progress(starts, desc=f"features: {what}"):
        chunk = crops[start : start + EVALUATION_BATCH]
        with torch.inference_mode():
            packed = stages_of(settings, model, images.crops(chunk, settings.crop_size)).pack()
        file[start : start + len(chunk)] = packed.float().cpu().numpy()
    file.flush()
    temporary.replace(path)


def stages_of(settings: Profile, model: BlindIQA, crops_BCHW: Tensor) -> PooledStages:
    """Backbone and pooling for uint8 crops, in the profile's precision."""
    device = model.backbone.mean.device
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        image = model.backbone.normalize(crops_BCHW.to(device))
        return model.stages(image.contiguous(memory_format=torch.channels_last))


def predict(
    settings: Profile, model: BlindIQA, images: ImageSet, rows: np.ndarray, what: str = "scoring"
) -> pd.DataFrame:
    """Predicted score (and stage weights ``alpha1``–``alpha4``) of each image: the mean over its grid of crops."""
    crops = grid_crops(images, rows, settings.crop_size)
    scores, alphas = [], []
    model.eval()
    with torch.inference_mode():
        for stages in _stage_batches(settings, model, images, crops, what):
            scores.append(model.score_stages(stages).float().cpu())
            if model.last_attention_weights is not None:
                alphas.append(model.last_attention_weights.float().cpu())
    table = pd.DataFrame({"row": [c[0] for c in crops], "prediction": torch.cat(scores).double().numpy()})
    if alphas:
        names = [f"alpha{s + 1}" for s in range(alphas[0].shape[1])]
        table[names] = torch.cat(alphas).double().numpy()
    return table.groupby("row").mean().loc[rows].reset_index(drop=True)


def _stage_batches(settings, model, images, crops, what) -> Iterator[PooledStages]:
    features = crop_features(settings, model, images, crops, what) if settings.freeze_backbone else None
    for start in range(0, len(crops), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        if features is None:
            yield stages_of(settings, model, images.crops(crops[part], settings.crop_size))
        else:
            yield stages_from_cache(features[part], model)


def stages_from_cache(features_NP: np.ndarray, model: BlindIQA) -> PooledStages:
    packed = torch.from_numpy(features_NP.astype(np.float32)).to(model.backbone.mean.device)
    return PooledStages.unpack(packed, model.backbone.channels)


def laplacian_variance(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """The no-training baseline: sharpness as the variance of the Laplacian of the luma."""
    from scipy import ndimage

    luma = (images.image(r).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for r in rows)
    return np.array([ndimage.laplace(y).var() for y in luma])
