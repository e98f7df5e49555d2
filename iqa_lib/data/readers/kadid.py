"""KADID-10k."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.readers.files import Layout, stem
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import columns_of, described_by_names, has_columns, read_delimited


def read_kadid(folder: Path, labels: Path) -> pd.DataFrame:
    """Two names mislead: a higher ``dmos`` is better, and ``var`` holds the standard deviation.

    (30 ratings of mean 4.57 and of standard deviation 0.496 exist, and are 17 fives and 13 fours.)
    """
    raw = read_delimited(labels)
    table = columns_of(raw, labels, image="dist_img", reference="ref_img", score="dmos", std="var")
    described = described_by_names(table["image"], list(DISTORTIONS))
    return table.assign(image="images/" + table["image"], reference=table["reference"].map(stem), **described)


LAYOUTS = (
    Layout(("dmos.csv",), read_kadid, has_columns("dist_img", "ref_img", "dmos")),
    json_layout("kadid", (1, 5), (1, 5), lambda name: stem(name).split("_")[0]),
)
