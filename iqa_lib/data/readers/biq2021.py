"""BIQ2021."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout
from iqa_lib.data.readers.tables import columns_of, read_delimited


def read_biq(folder: Path, train: Path, test: Path) -> pd.DataFrame:
    parts = []
    for split, labels in (("train", train), ("test", test)):
        table = columns_of(read_delimited(labels), labels, image="Image Name", score="MOS")
        parts.append(table.assign(image="Images/" + table["image"], split=split))
    return pd.concat(parts)


LAYOUTS = (Layout(("Train (Images and MOS).csv", "Test (Images and MOS).csv"), read_biq),)
