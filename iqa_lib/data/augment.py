"""Changes to training crops."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def jitter_colours(crops_BCHW: Tensor, strength: float, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Change brightness, contrast and saturation of each uint8 crop by a random factor of 1 ± ``strength``.

    On pixels: the reference code did it after normalisation, which destroys the picture (its test SRCC fell from 0.924
    to 0.828). ``seeds``: one per crop; the same seed gives the same factors.
    """
    if not strength:
        return crops_BCHW
    crops_BCHW = crops_BCHW.contiguous()
    for crop, seed in zip(crops_BCHW, seeds, strict=True):
        factors = np.random.default_rng(seed).uniform(1 - strength, 1 + strength, 3)
        for change, factor in zip((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True):
            crop.copy_(change(crop, float(factor)))
    return crops_BCHW
