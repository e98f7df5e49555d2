"""Changes to training crops, and copies of them that look worse."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from iqa_lib.data.distortions import DISTORTIONS, distort

# Some people like these, mildly done; and of two of them the level in the middle is the picture itself.
NO_HARM = ("saturation-lab", "brighten", "darken", "mean-shift", "high-sharpen", "contrast-change")
HARMFUL = [kind for kind in DISTORTIONS if kind not in NO_HARM]
LEVELS = 5


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


def spoilt_pair(crop_HWC: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A mild copy of a uint8 crop, maybe the crop itself, and one spoilt harder by the same distortion of KADID-10k."""
    rng = np.random.default_rng(seed)
    kind, mild = rng.choice(HARMFUL), int(rng.integers(LEVELS))
    harsh = int(rng.integers(mild + 1, LEVELS + 1))
    noise = int(rng.integers(2**31))
    return tuple(distort(crop_HWC, kind, level, noise) if level else crop_HWC for level in (mild, harsh))
