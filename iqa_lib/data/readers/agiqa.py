"""AGIQA-3K."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, place
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import columns_of, has_columns, read_delimited


def read_agiqa(folder: Path, labels: Path) -> pd.DataFrame:
    """Images of one prompt, by all generators, count as one source."""
    raw = read_delimited(labels)
    table = columns_of(raw, labels, image="name", score="mos_quality", std="std_quality", reference="prompt")
    return table.assign(image=place(table["image"].tolist(), folder))


LAYOUTS = (Layout(("data.csv",), read_agiqa, has_columns("name", "mos_quality")), json_layout("agiqa", (0, 5), (0, 5)))
