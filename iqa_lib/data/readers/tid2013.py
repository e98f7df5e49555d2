"""TID2013."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, file_in, numbers_in_name, stem
from iqa_lib.data.readers.tables import numbers, read_words, require_equal_lengths

TID_DISTORTIONS = [
    "additive-gaussian-noise",
    "color-component-noise",
    "spatially-correlated-noise",
    "masked-noise",
    "high-frequency-noise",
    "impulse-noise",
    "quantization-noise",
    "gaussian-blur",
    "denoising",
    "jpeg",
    "jpeg2000",
    "jpeg-transmission-errors",
    "jpeg2000-transmission-errors",
    "non-eccentricity-pattern-noise",
    "local-blocks",
    "mean-shift",
    "contrast-change",
    "color-saturation",
    "multiplicative-gaussian-noise",
    "comfort-noise",
    "lossy-compression-of-noisy-images",
    "color-quantization-with-dither",
    "chromatic-aberrations",
    "sparse-sampling",
]


def read_tid(folder: Path) -> pd.DataFrame:
    """TID2013. Deviations come from ``mos_std.txt``, in the order of ``mos_with_names.txt``, where it is there."""
    raw = read_words(file_in(folder, "mos_with_names.txt"), 2)
    kinds = numbers_in_name(raw[1])
    table = pd.DataFrame(
        {
            "image": "distorted_images/" + raw[1],
            "score": numbers(raw[0]),
            "reference": [stem(name).split("_")[0].lower() for name in raw[1]],
            "distortion": [TID_DISTORTIONS[k - 1] if 0 < k <= 24 else "" for k, _ in kinds],
            "severity": [float(level) for _, level in kinds],
        }
    )
    deviations = Listing(folder).find("mos_std.txt")
    if deviations:
        std = read_words(deviations, 1)[0]
        require_equal_lengths(folder, scores=raw, deviations=std)
        table["std"] = numbers(std).to_numpy()
    return table


def _is_tid2013(folder: Path) -> bool:
    # TID2008 has the same file, with 17 kinds of distortion.
    return "_24_" in file_in(folder, "mos_with_names.txt").read_text(encoding="utf-8", errors="replace")


LAYOUTS = (Layout(("mos_with_names.txt",), read_tid, _is_tid2013),)
