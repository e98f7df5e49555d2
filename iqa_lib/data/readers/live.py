"""LIVE (release 2)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scipy.io

from iqa_lib.data.readers.files import Layout, file_in, stem
from iqa_lib.data.readers.tables import apart, entries, read_mat, require_equal_lengths

LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}  # in the order of the labels


def read_live(folder: Path) -> pd.DataFrame:
    """LIVE (release 2) with the realigned DMOS. The 203 undistorted copies (``orgs``) are left out."""
    images = [f"{kind}/img{i + 1}.bmp" for kind, count in LIVE_COUNTS.items() for i in range(count)]
    path = file_in(folder, "dmos_realigned.mat")
    scores, originals = read_mat(path, "dmos_new", "orgs")
    (references,) = read_mat(file_in(folder, "refnames_all.mat"), "refnames_all")
    require_equal_lengths(folder, images=images, scores=scores, originals=originals, references=references)
    table = pd.DataFrame(
        {
            "image": images,
            "score": scores,
            "reference": [stem(name) for name in references],
            "distortion": [image.split("/")[0] for image in images],
        },
        index=entries(path.name, images),
    )
    if "dmos_std" in {name for name, *_ in apart(scipy.io.whosmat, str(path))}:
        (table["std"],) = read_mat(path, "dmos_std")
    return table[originals == 0]


LAYOUTS = (Layout(("dmos_realigned.mat", "refnames_all.mat"), read_live),)
