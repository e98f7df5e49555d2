"""BID."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, place
from iqa_lib.data.readers.tables import read_sheet, whole


def read_bid(folder: Path, grades: Path) -> pd.DataFrame:
    table = read_sheet(grades, image="Image Number", score="Average Subjective Grade")
    table = table.dropna(subset=["image"])  # notes below the table
    names = [f"DatabaseImage{whole(number):0>4}.JPG" for number in table["image"]]
    return table.assign(image=place(names, folder, ["ImageDatabase"]))


LAYOUTS = (Layout(("DatabaseGrades.xlsx",), read_bid),)
