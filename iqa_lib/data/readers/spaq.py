"""SPAQ."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import read_sheet

SHEET = "MOS and Image attribute scores.xlsx"


def read_spaq(folder: Path, labels: Path) -> pd.DataFrame:
    table = read_sheet(labels, image="Image name", score="MOS")
    return table.assign(image="TestImage/" + table["image"].astype(str))


LAYOUTS = (
    Layout((f"Annotations/{SHEET}",), read_spaq),
    Layout((SHEET,), read_spaq),
    json_layout("spaq", (0, 100), (1, 5)),
)
