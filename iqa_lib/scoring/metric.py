"""The model among other metrics.

Shape suffixes: N images, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iqa_lib.data.crops import grid
from iqa_lib.data.decode import WorkingSize
from iqa_lib.errors import DataError
from iqa_lib.scoring.score import Scorer, Source, faults_of, load_scorer, score_any, with_unit_range


class Metric(nn.Module):
    """The model as one of pyiqa's metrics, and with the methods of torchmetrics.

        metric = Metric()
        metric("photo.jpg"), metric(batch_N3HW)        # (N,) scores, 0–100 as `score`
        metric.update(batch_N3HW); metric.compute()    # mean over all that was seen since `reset`

    Tensors that require a gradient get one: ``-metric(images).mean()`` is a loss. Their pixels are still rounded to 8
    bits, straight through, and reduced by torch in place of Pillow, which moves scores by hundredths of a point.
    It computes in its model's precision, whatever its host is converted to and under any autocast.

    Args:
        model: as `load_scorer`.
    """

    lower_better = False

    def __init__(self, model: str | Path | Scorer | None = None):
        super().__init__()
        scorer = load_scorer(model)
        self.model = copy.deepcopy(scorer.model).requires_grad_(False)
        self.scorer = scorer._replace(model=self.model)
        self.reset()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # a metric does not learn

    def _apply(self, fn, recurse: bool = True) -> Self:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # moves, never converts

    def forward(self, images: Tensor | Source | Iterable[Source]) -> Tensor:
        """Scores (N,), float32.

        Args:
            images: as `score`, of which every one must be readable.

        Raises:
            DataError: a tensor of another shape or range; an image that cannot be read.
        """
        given = isinstance(images, Tensor)
        if given and images.requires_grad and torch.is_grad_enabled() and len(images):
            return self._differentiable(with_unit_range(images))
        table, _ = score_any(images, self.scorer)
        if faults := faults_of(table):
            raise DataError(faults)
        return torch.tensor(table["score"].to_numpy(np.float32), device=images.device if given else None)

    def _differentiable(self, images_N3HW: Tensor) -> Tensor:
        size = self.scorer.settings.crop_size
        wanted = WorkingSize.of_settings(self.scorer.settings).of(*images_N3HW.shape[-2:])
        pixels = images_N3HW * 255
        if pixels.shape[-2:] != wanted:
            pixels = F.interpolate(pixels, wanted, mode="bicubic", antialias=True).clamp(0, 255)
        pixels = pixels + (pixels.round().clamp(0, 255) - pixels).detach()
        scores = [self.scorer.score_crops(pixels[..., y : y + size, x : x + size]) for y, x in grid(*wanted, size)]
        return torch.stack(scores).mean(dim=0).to(images_N3HW.device)

    def interval(self, images: Tensor | Source | Iterable[Source]) -> Tensor:
        """Ends (N, 2) of each score's 90 % interval, float32; without a gradient.

        Raises:
            DataError: as `forward`; the model was not calibrated (`iqa_lib.scoring.certainty.calibrate`).
        """
        table, _ = score_any(images, self.scorer)
        if "low" not in table:
            raise DataError(f"{self.scorer.name} was not calibrated: it has scores, but no intervals.")
        if faults := faults_of(table):
            raise DataError(faults)
        return torch.tensor(table[["low", "high"]].to_numpy(np.float32))

    def update(self, images: Tensor | Source | Iterable[Source]) -> None:
        scores_N = self(images).detach().cpu().double()  # Apple's GPU has no float64
        self._sum, self._seen = self._sum + scores_N.sum().item(), self._seen + len(scores_N)

    def compute(self) -> Tensor:
        """Mean score of all images since `reset`; NaN where there was none."""
        return torch.tensor(self._sum / self._seen if self._seen else float("nan"))

    def reset(self) -> None:
        self._sum, self._seen = 0.0, 0
