"""TID2013."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, stem
from iqa_lib.data.readers.tables import described_by_names, read_words, require_equal_lengths

TID_DISTORTIONS = """
additive-gaussian-noise color-component-noise spatially-correlated-noise masked-noise high-frequency-noise
impulse-noise quantization-noise gaussian-blur denoising jpeg jpeg2000 jpeg-transmission-errors
jpeg2000-transmission-errors non-eccentricity-pattern-noise local-blocks mean-shift contrast-change
color-saturation multiplicative-gaussian-noise comfort-noise lossy-compression-of-noisy-images
color-quantization-with-dither chromatic-aberrations sparse-sampling
"""


def read_tid(folder: Path, labels: Path) -> pd.DataFrame:
    """Deviations come from ``mos_std.txt``, in the order of ``mos_with_names.txt``, where it is there."""
    table = read_words(labels, 2).set_axis(["score", "image"], axis=1)
    names = table["image"]
    references = [stem(name).split("_")[0].lower() for name in names]
    described = described_by_names(names, TID_DISTORTIONS.split())
    table = table.assign(image="distorted_images/" + names, reference=references, **described)
    deviations = Listing(folder).find("mos_std.txt")
    if deviations:
        std = read_words(deviations, 1)[0].to_numpy()
        require_equal_lengths(folder, scores=table, deviations=std)
        table["std"] = std
    return table


def _is_tid2013(labels: Path) -> bool:
    # TID2008 has the same file, with 17 kinds of distortion.
    return "_24_" in labels.read_text(encoding="utf-8", errors="replace")


LAYOUTS = (Layout(("mos_with_names.txt",), read_tid, _is_tid2013),)
