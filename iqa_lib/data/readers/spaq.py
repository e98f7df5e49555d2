"""SPAQ."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, file_in
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import numbers, read_sheet


def read_spaq(folder: Path, labels: str = "Annotations/MOS and Image attribute scores.xlsx") -> pd.DataFrame:
    table = read_sheet(file_in(folder, labels), ["Image name", "MOS"])
    images = "TestImage/" + table["Image name"].astype(str)
    return pd.DataFrame({"image": images, "score": numbers(table["MOS"])})


LAYOUTS = (
    Layout(("Annotations/MOS and Image attribute scores.xlsx",), read_spaq),
    Layout(
        ("MOS and Image attribute scores.xlsx",),
        functools.partial(read_spaq, labels="MOS and Image attribute scores.xlsx"),
    ),
    json_layout("spaq", (0, 100), (1, 5)),
)
