"""KADID-10k."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.readers.files import Layout, file_in, numbers_in_name, stem
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import columns_of, has_columns, read_delimited


def read_kadid(folder: Path) -> pd.DataFrame:
    """KADID-10k. Two names mislead: a higher ``dmos`` is better, and ``var`` holds the standard deviation.

    (30 ratings of mean 4.57 and of standard deviation 0.496 exist, and are 17 fives and 13 fours.)
    """
    path = file_in(folder, "dmos.csv")
    table = columns_of(read_delimited(path), path, image="dist_img", reference="ref_img", score="dmos", std="var")
    table["reference"] = table["reference"].map(stem)
    kinds, names = numbers_in_name(table["image"]), list(DISTORTIONS)
    table["distortion"] = [names[k - 1] if k and k <= len(names) else "" for k, _ in kinds]
    table["severity"] = [float(level) for _, level in kinds]
    return table.assign(image="images/" + table["image"])


LAYOUTS = (
    Layout(("dmos.csv",), read_kadid, has_columns("dmos.csv", "dist_img", "ref_img", "dmos")),
    json_layout("kadid", (1, 5), (1, 5), lambda name: stem(name).split("_")[0]),
)
