"""Batches of training crops: cut from the images in every epoch, or cached features of a frozen backbone."""

import math

import numpy as np
import torch
from torch import Tensor

from iqa_lib.data.augment import jitter_colours, spoilt_pair
from iqa_lib.data.crops import random_crops
from iqa_lib.data.images import ImageSet, page_locked
from iqa_lib.models.hypernet import PooledStages
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.training.predictor import Crop, Predictor

CACHED_EPOCHS = 1_000_000  # the "epoch" whose random crops a frozen backbone's feature cache holds


class ImageBatches:
    """Batches of crops cut from the images, through the backbone in every epoch.

    ``labels`` (N,) are the crops' scores, ``names`` their images. A batch ends with the spoilt copies, which have no
    label: of some of its crops the mild ones, then as many harsh ones.
    """

    def __init__(self, settings: RunSettings, model: BlindIQA, images: ImageSet, crops: list[Crop], epoch: int):
        self.settings, self.images, self.crops, self.epoch = settings, images, crops, epoch
        self.predictor = Predictor(settings, model)
        rows = np.array([crop[0] for crop in crops])
        self.labels, self.names = images.scores(rows), images.table["image"].iloc[rows]

    def read(self, chosen: np.ndarray) -> Tensor:
        """uint8 (B, 3, H, W), where the images are; for any thread."""
        cut = self.images.crops([self.crops[i] for i in chosen], self.settings.crop_size)
        cut = jitter_colours(cut, self.settings.colour_jitter, self.jitter_seeds(chosen))
        spoilt = chosen[: math.ceil(self.settings.spoilt_copies * len(chosen))]
        return page_locked(torch.cat([cut, self.copies(spoilt).to(cut.device)]) if len(spoilt) else cut)

    def copies(self, chosen: np.ndarray) -> Tensor:
        """uint8 (2B, 3, H, W)."""
        squares = self.images.squares([self.crops[i] for i in chosen], self.settings.crop_size)
        pairs = [
            spoilt_pair(square, (self.settings.seed, self.epoch, int(i)))
            for i, square in zip(chosen, squares, strict=True)
        ]
        return torch.from_numpy(np.stack([copy for order in zip(*pairs, strict=True) for copy in order])).permute(
            0, 3, 1, 2
        )

    def jitter_seeds(self, chosen: np.ndarray) -> list[tuple[int, ...]]:
        return [(self.settings.seed, self.epoch, i) for i in chosen]

    def stages(self, cut_BCHW: Tensor) -> PooledStages:
        return self.predictor.stages(cut_BCHW)


class FrozenBatches(ImageBatches):
    """Batches from cached features: the same random crops of every image in each epoch.

    Where no cache can be kept, the frozen backbone computes the same again.
    """

    def __init__(self, settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray):
        crops = training_crops(settings, images, rows, np.random.default_rng(CACHED_EPOCHS))
        super().__init__(settings, model, images, crops, CACHED_EPOCHS)
        self.features = self.predictor.features(images, crops, "training crops", settings.colour_jitter)

    def read(self, chosen: np.ndarray) -> Tensor:
        return super().read(chosen) if self.features is None else page_locked(self.features[chosen])

    def jitter_seeds(self, chosen: np.ndarray) -> list[tuple[int, ...]]:
        return [(int(i),) for i in chosen]

    def stages(self, data: Tensor) -> PooledStages:
        if self.features is not None:
            return self.predictor.unpacked(data)
        with torch.no_grad():
            return super().stages(data).as_cached()


def training_crops(settings: RunSettings, images: ImageSet, rows: np.ndarray, rng: np.random.Generator) -> list:
    return random_crops(
        images, rows, settings.train_crops, settings.crop_size, rng, settings.flip, settings.random_crop
    )
