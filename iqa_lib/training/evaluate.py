"""Scoring a dataset's images: a deterministic grid of crops per image, batched, averaged.

Shape suffixes: B batch, N crops, P packed features.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iqa_lib import machine, paths
from iqa_lib.data.augment import jitter_colours
from iqa_lib.data.crops import grid_crops, random_crops
from iqa_lib.data.images import ImageSet, in_order, page_locked
from iqa_lib.models.backbones import weights_fingerprint
from iqa_lib.models.hypernet import PooledStages, packed_size, pool_stages
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training import features
from iqa_lib.training.features import Features
from iqa_lib.training.graphs import graphs_of, uncompiled
from iqa_lib.training.runs import Run

Crop = tuple[int, int, int, bool]
# Crops through a backbone at once: a core's caches hold the maps of few.
EVALUATION_BATCH = 128 if torch.cuda.is_available() else 4
HEAD_BATCH = max(64, EVALUATION_BATCH)  # through the head alone
RECORDED_FROM = 8  # batches of one shape: recording takes as long as some of them
MOST_WORKERS = 8  # each holds the feature maps of a batch
ALPHAS = ["alpha1", "alpha2", "alpha3", "alpha4"]  # columns of the stage weights
PAPER_TEST_CROPS = 20  # random ones per image, averaged: the reference's test


def evaluation_crops(settings: RunSettings, images: ImageSet, rows: np.ndarray, draw: int = 0) -> list[Crop]:
    """A fixed grid that covers each image; under the ``paper`` protocol 20 random crops, others in each draw."""
    if settings.protocol == "honest":
        return grid_crops(images, rows, settings.crop_size)
    # A frozen backbone's features are cached: the same draw for all epochs.
    return draw_crops(settings, images, rows, PAPER_TEST_CROPS, 0 if settings.freeze_backbone else draw)


def draw_crops(settings: RunSettings, images: ImageSet, rows: np.ndarray, per_image: int, draw: int) -> list[Crop]:
    rng = np.random.default_rng([settings.seed, draw, per_image])
    return random_crops(images, rows, per_image, settings.crop_size, rng, flip=False)


def crop_features(
    settings: RunSettings, model: BlindIQA, images: ImageSet, crops: list[Crop], what: str, colour_jitter: float = 0.0
) -> Features | None:
    """What the head reads of each crop, float16 (N, P), from the frozen backbone (`features.cached`)."""
    key = (
        images.pixels_fingerprint,
        settings.backbone,
        weights_fingerprint(settings.backbone, settings.pretrained) or str(settings.pretrained),
        settings.crop_size,
        machine.used_precision(settings.precision, model.backbone.mean.device),
        colour_jitter,
        settings.seed if settings.pretrained is False else None,
    )
    jitters = np.arange(len(crops)) if colour_jitter else np.full(len(crops), -1)

    def compute(numbers: np.ndarray) -> Iterator[np.ndarray]:
        def read(part: np.ndarray) -> Tensor:
            cut = images.crops([crops[i] for i in part], settings.crop_size)
            return page_locked(jitter_colours(cut, colour_jitter, [(int(i),) for i in part]))

        model.eval()
        parts = np.split(numbers, range(EVALUATION_BATCH, len(numbers), EVALUATION_BATCH))
        batches = through_backbone(settings, model, read, parts)
        for stages in Progress(batches, desc=f"features: {what}", total=len(parts)):
            yield stages.pack().half().cpu().numpy()

    listing = np.column_stack([np.array(crops, dtype=np.int64), jitters])
    return features.cached(key, packed_size(model.backbone.channels), listing, compute)


def maps_of(settings: RunSettings, model: BlindIQA, crops_BCHW: Tensor) -> list[Tensor]:
    """The backbone's four feature maps of uint8 crops, in the profile's precision."""
    device = model.backbone.mean.device
    with machine.autocast(settings.precision, device):
        image = model.backbone.normalize(crops_BCHW.to(device, non_blocking=True))
        return model.backbone(image.contiguous(memory_format=torch.channels_last))


def stages_of(settings: RunSettings, model: BlindIQA, crops_BCHW: Tensor) -> PooledStages:
    """What the head reads of uint8 crops: float32, whatever the backbone's precision."""
    return pool_stages(maps_of(settings, model, crops_BCHW)).float()


def predict(
    settings: RunSettings,
    model: BlindIQA,
    images: ImageSet,
    rows: np.ndarray,
    what: str = "scoring",
    crops: list[Crop] | None = None,
) -> pd.DataFrame:
    """Predicted score (and stage weights ``alpha1``–``alpha4``) of each image: the mean over its crops.

    Args:
        crops: of these rows; a fixed grid that covers each image where this is None.
    """
    crops = crops or grid_crops(images, rows, settings.crop_size)
    table = predict_crops(settings, model, images, crops, what)
    return table.groupby("row").mean().loc[rows].reset_index(drop=True)


def predict_crops(
    settings: RunSettings, model: BlindIQA, images: ImageSet, crops: list[Crop], what: str
) -> pd.DataFrame:
    """As `predict`, of each crop, with the ``row`` of its image."""
    scores, alphas = [], []
    model.eval()
    with torch.inference_mode():
        for stages in stage_batches(settings, model, images, crops, what):
            scores.append(model.score_stages(stages).float())
            if model.last_attention_weights is not None:
                alphas.append(model.last_attention_weights.float())
    table = pd.DataFrame({"row": [c[0] for c in crops], "prediction": torch.cat(scores).double().cpu().numpy()})
    if alphas:
        table[ALPHAS] = torch.cat(alphas).double().cpu().numpy()
    return table


def test_on(run: Run, dataset: str, images: ImageSet) -> pd.DataFrame:
    """A run's predictions on the test images of another dataset; scored once, then read from the run's folder."""
    name = f"test-{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}-{images.fingerprint}.parquet"
    if not (run.folder / name).is_file():
        rows = images.rows("test")
        table = images.table.drop(columns="path")
        table = table.join(predict(run.settings, run.load_model(), images, rows, dataset))
        run.write_table(name, table)
    return run.read_table(name)


def score_random_crops(run: Run, images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """Scores (N, 20) of the paper's random crops of these test images; computed once, then read from the run's folder."""
    path = run.folder / f"random-crops-{len(rows)}.npy"
    if not path.is_file():
        crops = draw_crops(run.settings, images, rows, PAPER_TEST_CROPS, draw=0)
        scored = predict_crops(run.settings, run.load_model(), images, crops, "random crops")["prediction"]
        content = io.BytesIO()
        np.save(content, scored.to_numpy().reshape(len(rows), PAPER_TEST_CROPS))
        paths.write_atomically(path, content.getvalue())
    return np.load(path)


test_on.__test__ = False  # pytest takes the name for a test's


def stage_batches(
    settings: RunSettings, model: BlindIQA, images: ImageSet, crops: list[Crop], what: str
) -> Iterator[PooledStages]:
    """What the head reads of each batch of crops, in order; from the cache where the backbone is frozen."""
    kept = crop_features(settings, model, images, crops, what) if settings.freeze_backbone else None
    batch = EVALUATION_BATCH if kept is None else HEAD_BATCH
    parts = [slice(start, start + batch) for start in range(0, len(crops), batch)]
    if kept is not None:
        for packed in ahead(lambda part: page_locked(kept[part]), parts):
            yield stages_from_cache(packed, model)
    else:
        pooled = through_backbone(settings, model, lambda part: images.crops(crops[part], settings.crop_size), parts)
        while few := list(islice(pooled, HEAD_BATCH // EVALUATION_BATCH)):
            stages = PooledStages.join(few)
            yield stages.as_cached() if settings.freeze_backbone else stages


def through_backbone(
    settings: RunSettings, model: BlindIQA, read: Callable[[Any], Tensor], items: Iterable
) -> Iterator[PooledStages]:
    """`stages_of` the crops ``read`` of each item, in order and without gradients; reading never halts the backbone."""

    def stages(crops_BCHW: Tensor) -> PooledStages:
        with torch.inference_mode():  # each thread has its own
            return stages_of(settings, model, crops_BCHW)

    graphs, on_gpu = graphs_of(model, model.backbone.mean.device), model.backbone.mean.is_cuda

    @torch.inference_mode()
    def replayed(crops_BCHW: Tensor) -> PooledStages:
        whole = len(crops_BCHW) == EVALUATION_BATCH
        # Weights change in place; where they were moved, a graph would read the place that they left.
        key = (settings.precision, crops_BCHW.shape, model.backbone.mean.data_ptr())
        graphs.seen[key] += 1
        if graphs.work and whole and graphs.seen[key] == RECORDED_FROM:
            graphs.record({key: (lambda crops_BCHW: [stages(crops_BCHW).pack()], (crops_BCHW,))}, lambda: None)
        if key in graphs:
            return PooledStages.unpack(*graphs.replay(key, crops_BCHW), model.backbone.channels)
        with uncompiled(settings.compile and on_gpu and not whole):
            return stages(crops_BCHW)

    if graphs.work or on_gpu or settings.compile:  # compiled code is called from one thread
        yield from map(replayed, ahead(read, items))
    else:
        pixels = EVALUATION_BATCH * settings.crop_size**2
        yield from on_every_core(lambda item: stages(read(item)), ((item, pixels) for item in items))


def on_every_core(work: Callable, jobs: Iterable[tuple[Any, int]]) -> Iterator:
    """As `in_order`, each core on an item of its own: they need not wait for one another, as they would on one item."""
    before = torch.get_num_threads()
    cores = joblib.cpu_count() if torch.cuda.is_available() else before
    workers = min(cores, MOST_WORKERS)

    def work_alone(item: Any) -> Any:
        torch.set_num_threads(max(1, cores // workers))  # of this worker
        return work(item)

    try:
        torch.set_num_threads(1)  # of the caller: its threads would spin on the workers' cores
        yield from in_order(work_alone, jobs, workers)
    finally:
        torch.set_num_threads(before)


def ahead(read: Callable[[Any], Any], items: Iterable) -> Iterator:
    """``read`` of each item, in order; a thread reads the next while this one is worked on."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            coming = thread.submit(read, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def stages_from_cache(features_NP: Tensor, model: BlindIQA) -> PooledStages:
    packed = features_NP.to(model.backbone.mean.device, non_blocking=True).float()
    return PooledStages.unpack(packed, model.backbone.channels)


def laplacian_variance(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """The no-training baseline: sharpness as the variance of the Laplacian of the luma."""
    from scipy import ndimage

    luma = (images.image(r).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for r in rows)
    return np.array([ndimage.laplace(y).var() for y in luma])
