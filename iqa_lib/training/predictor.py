"""The loop from images to scores: evaluation, scoring, maps and measurements of cost all go through it.

Shape suffixes: B batch, C channels, K side of a crop, N crops, P packed features.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iqa_lib import machine
from iqa_lib.data.augment import jitter_colours
from iqa_lib.data.images import ImageSet, in_order, page_locked
from iqa_lib.models.backbones import weights_fingerprint
from iqa_lib.models.hypernet import PooledStages, packed_size, pool_stages
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings, ScoringSettings
from iqa_lib.progress import Progress
from iqa_lib.training import features
from iqa_lib.training.features import Features
from iqa_lib.training.graphs import graphs_of, uncompiled

Crop = tuple[int, int, int, bool]
# Crops through a backbone at once: a core's caches hold the maps of few.
EVALUATION_BATCH = 128 if torch.cuda.is_available() else 4
HEAD_BATCH = max(64, EVALUATION_BATCH)  # through the head alone
RECORDED_FROM = 8  # batches of one shape: recording takes as long as some of them
MOST_WORKERS = 8  # each holds the feature maps of a batch
ALPHAS = ["alpha1", "alpha2", "alpha3", "alpha4"]  # columns of the stage weights


class Predictor(NamedTuple):
    """A model and how its images are prepared. Crops are uint8 RGB, scores 0–100, higher is better."""

    settings: ScoringSettings  # `RunSettings` of a run with a frozen backbone: its features are cached
    model: BlindIQA
    name: str = ""
    certainty: Any = None  # `iqa_lib.scoring.certainty.Certainty` of a model that was calibrated

    # --- a batch ---

    def maps(self, crops_BCKK: Tensor) -> list[Tensor]:
        """The backbone's four feature maps, in the settings' precision."""
        device = self.model.backbone.mean.device
        with machine.autocast(self.settings.precision, device):
            image = self.model.backbone.normalize(crops_BCKK.to(device, non_blocking=True))
            return self.model.backbone(image.contiguous(memory_format=machine.memory_format(device)))

    def stages(self, crops_BCKK: Tensor) -> PooledStages:
        """What the head reads: float32, whatever the backbone's precision."""
        return pool_stages(self.maps(crops_BCKK)).float()

    def score_crops(self, crops_BCKK: Tensor) -> Tensor:
        """Scores (B,), float32; for any thread, with a gradient where the crops require one."""
        return self.score_and_stages(crops_BCKK)[0]

    def score_and_stages(self, crops_BCKK: Tensor) -> tuple[Tensor, PooledStages]:
        """As `score_crops`, and what the head read."""
        with torch.autocast(self.model.backbone.mean.device.type, enabled=False):  # a caller's own
            stages = self.stages(crops_BCKK)
            if self.settings.freeze_backbone:  # trained and evaluated on cached features, which are float16
                stages = stages.as_cached()
            return self.model.head(stages)[0].float(), stages

    # --- many ---

    def table(self, stages: Iterable[PooledStages]) -> pd.DataFrame:
        """A row per crop of these batches, in order: ``prediction`` and, with attention, `ALPHAS`."""
        scores, alphas = [], []
        self.model.eval()
        with torch.inference_mode():
            for batch in stages:
                scores.append(self.model.score_stages(batch).float())
                if self.model.last_attention_weights is not None:
                    alphas.append(self.model.last_attention_weights.float())
        table = pd.DataFrame({"prediction": torch.cat(scores).cpu().double().numpy()})
        if alphas:
            table[ALPHAS] = torch.cat(alphas).cpu().double().numpy()
        return table

    def predict(self, images: ImageSet, crops: list[Crop], what: str) -> pd.DataFrame:
        """As `table`, of crops of an image set, with the ``row`` of each one's image; ``what`` names the bar."""
        table = self.table(self.stage_batches(images, crops, what))
        table.insert(0, "row", [crop[0] for crop in crops])
        return table

    def stage_batches(self, images: ImageSet, crops: list[Crop], what: str) -> Iterator[PooledStages]:
        """What the head reads of each batch of crops, in order; from the cache where the backbone is frozen."""
        frozen, size = self.settings.freeze_backbone, self.settings.crop_size
        cached = self.features(images, crops, what) if frozen else None
        batch = EVALUATION_BATCH if cached is None else HEAD_BATCH
        parts = [slice(start, start + batch) for start in range(0, len(crops), batch)]
        if cached is not None:
            yield from map(self.unpacked, ahead(lambda part: page_locked(cached[part]), parts))
            return
        pooled = self.through_backbone(lambda part: images.crops(crops[part], size), parts)
        while few := list(islice(pooled, HEAD_BATCH // EVALUATION_BATCH)):
            stages = PooledStages.join(few)
            yield stages.as_cached() if frozen else stages

    def features(self, images: ImageSet, crops: list[Crop], what: str, colour_jitter: float = 0.0) -> Features | None:
        """What the head reads of each crop, float16 (N, P), from the frozen backbone (`features.cached`)."""
        settings: RunSettings = self.settings
        key = (
            images.pixels_fingerprint,
            settings.backbone,
            weights_fingerprint(settings.backbone, settings.pretrained) or str(settings.pretrained),
            settings.crop_size,
            machine.used_precision(settings.precision, self.model.backbone.mean.device),
            colour_jitter,
            settings.seed if settings.pretrained is False else None,
        )
        jitters = np.arange(len(crops)) if colour_jitter else np.full(len(crops), -1)

        def compute(numbers: np.ndarray) -> Iterator[np.ndarray]:
            def read(part: np.ndarray) -> Tensor:
                cut = images.crops([crops[i] for i in part], settings.crop_size)
                return page_locked(jitter_colours(cut, colour_jitter, [(int(i),) for i in part]))

            self.model.eval()
            parts = np.split(numbers, range(EVALUATION_BATCH, len(numbers), EVALUATION_BATCH))
            batches = self.with_rounded_weights().through_backbone(read, parts)
            for stages in Progress(batches, desc=f"features: {what}", total=len(parts)):
                yield stages.pack().half().cpu().numpy()

        listing = np.column_stack([np.array(crops, dtype=np.int64), jitters])
        return features.cached(key, packed_size(self.model.backbone.channels), listing, compute)

    def with_rounded_weights(self) -> "Predictor":
        """Where a processor computes in bf16: on a copy of the frozen backbone, rounded once (`Backbone.rounded`)."""
        device = self.model.backbone.mean.device
        used = machine.used_precision(self.settings.precision, device)
        if device.type != "cpu" or used != "bf16" or self.settings.compile:
            return self
        return self._replace(model=BlindIQA(self.model.backbone.rounded(), self.model.head))

    def unpacked(self, features_NP: Tensor) -> PooledStages:
        packed = features_NP.to(self.model.backbone.mean.device, non_blocking=True).float()
        return PooledStages.unpack(packed, self.model.backbone.channels)

    def through_backbone(self, read: Callable[[Any], Tensor], items: Iterable) -> Iterator[PooledStages]:
        """`stages` of the crops ``read`` of each item, in order, no gradients; reading never halts the backbone."""

        def stages(crops_BCKK: Tensor) -> PooledStages:
            with torch.inference_mode():  # each thread has its own
                return self.stages(crops_BCKK)

        device = self.model.backbone.mean.device
        graphs = graphs_of(self.model, device)

        @torch.inference_mode()
        def replayed(crops_BCKK: Tensor) -> PooledStages:
            whole = len(crops_BCKK) == EVALUATION_BATCH
            # Weights change in place; where they were moved, a graph would read the place that they left.
            key = (self.settings.precision, crops_BCKK.shape, self.model.backbone.mean.data_ptr())
            graphs.seen[key] += 1
            if graphs.work and whole and graphs.seen[key] == RECORDED_FROM:
                graphs.record({key: (lambda crops_BCKK: [stages(crops_BCKK).pack()], (crops_BCKK,))}, lambda: None)
            if key in graphs:
                return PooledStages.unpack(*graphs.replay(key, crops_BCKK), self.model.backbone.channels)
            with uncompiled(self.settings.compile and device.type == "cuda" and not whole):
                return stages(crops_BCKK)

        if graphs.work or device.type != "cpu" or self.settings.compile:  # compiled code is called from one thread
            yield from map(replayed, ahead(read, items))
        else:
            pixels = EVALUATION_BATCH * self.settings.crop_size**2
            yield from on_every_core(lambda item: stages(read(item)), ((item, pixels) for item in items))


def batched(cuts: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """Batches (B, 3, K, K) of as many squares (K, K, 3) as a backbone takes at once."""
    waiting = iter(cuts)
    while part := list(islice(waiting, EVALUATION_BATCH)):
        yield torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2)


def on_every_core(work: Callable, jobs: Iterable[tuple[Any, int]]) -> Iterator:
    """As `in_order`, each core on an item of its own: they need not wait for one another, as they would on one item."""
    before = torch.get_num_threads()
    cores = joblib.cpu_count() if torch.cuda.is_available() else before
    workers = 1 if machine.device().type == "mps" else min(cores, MOST_WORKERS)  # whose commands one thread gives

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
