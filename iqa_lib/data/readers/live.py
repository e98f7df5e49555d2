"""LIVE (release 2)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scipy.io

from iqa_lib.data.readers.files import Layout, stem
from iqa_lib.data.readers.tables import apart, entries, read_mat, require_equal_lengths

LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}  # in the order of the labels


def read_live(folder: Path, dmos: Path, refnames: Path) -> pd.DataFrame:
    """With the realigned DMOS. The 203 undistorted copies (``orgs``) are left out."""
    images = [f"{kind}/img{i + 1}.bmp" for kind, count in LIVE_COUNTS.items() for i in range(count)]
    scores, originals = read_mat(dmos, "dmos_new", "orgs")
    (references,) = read_mat(refnames, "refnames_all")
    require_equal_lengths(folder, images=images, scores=scores, originals=originals, references=references)
    table = pd.DataFrame({"image": images, "score": scores}, index=entries(dmos.name, images))
    table["reference"] = [stem(name) for name in references]
    table["distortion"] = [image.split("/")[0] for image in images]
    if "dmos_std" in {name for name, *_ in apart(scipy.io.whosmat, str(dmos))}:
        (table["std"],) = read_mat(dmos, "dmos_std")
    return table[originals == 0]


LAYOUTS = (Layout(("dmos_realigned.mat", "refnames_all.mat"), read_live),)
