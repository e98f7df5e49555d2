"""BID."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, file_in, place
from iqa_lib.data.readers.tables import numbers, read_sheet, whole


def read_bid(folder: Path) -> pd.DataFrame:
    path = file_in(folder, "DatabaseGrades.xlsx")
    table = read_sheet(path, ["Image Number", "Average Subjective Grade"])
    table = table.dropna(subset=["Image Number"])  # notes below the table
    names = [f"DatabaseImage{whole(number):0>4}.JPG" for number in table["Image Number"]]
    read = pd.DataFrame(
        {"image": place(names, folder, ["ImageDatabase"]), "score": numbers(table["Average Subjective Grade"])},
        index=table.index,
    )
    return read.assign(std=numbers(table["std"])) if "std" in table else read


LAYOUTS = (Layout(("DatabaseGrades.xlsx",), read_bid),)
