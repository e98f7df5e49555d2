"""LIVE In the Wild."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, file_in
from iqa_lib.data.readers.tables import entries, read_mat, require_equal_lengths


def read_livec(folder: Path, mos: Path, names: Path) -> pd.DataFrame:
    """The first seven entries (``t1.bmp`` …) trained the raters: they are left out."""
    (images,) = read_mat(names, "AllImages_release")
    (scores,) = read_mat(mos, "AllMOS_release")
    (std,) = read_mat(file_in(folder, "Data/AllStdDev_release.mat"), "AllStdDev_release")
    require_equal_lengths(folder / "Data", images=images, scores=scores, deviations=std)
    table = pd.DataFrame({"image": images, "score": scores, "std": std}, index=entries(mos.name, images))
    rated = table[~table["image"].str.fullmatch(r"t\d+\.\w+")]
    return rated.assign(image="Images/" + rated["image"])


LAYOUTS = (Layout(("Data/AllMOS_release.mat", "Data/AllImages_release.mat"), read_livec),)
