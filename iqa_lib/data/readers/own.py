"""One's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib.data.readers.files import place
from iqa_lib.data.readers.json_lists import read_json_list
from iqa_lib.data.readers.tables import numbers, read_delimited
from iqa_lib.errors import DataError

# Our name for a column: the names it goes by in pyiqa's meta-information files and other collections.
ALIASES = {
    "image": ("image", "img_name", "image_name", "img_path", "dist_name", "dist_img", "dis_img_path", "name"),
    "score": ("score", "mos", "dmos"),
    "std": ("std",),
    "split": ("split", "official_split"),
    "reference": ("reference", "ref_name", "ref_img", "ref_img_path"),
    "distortion": ("distortion", "dis_type"),
}
OWN_SUFFIXES = (".csv", ".tsv", ".txt", ".json")


def read_own(path: Path) -> pd.DataFrame:
    """One's own labels: CSV with a header, pyiqa's meta-information file with or without one, or JSON list."""
    table = read_json_list(path) if path.suffix.lower() == ".json" else _read_own_csv(path)
    return table.assign(image=place(table["image"].astype(str).tolist(), path.parent))


def _read_own_csv(path: Path) -> pd.DataFrame:
    table = read_delimited(path)
    if _numeric(table.columns).any():
        return _name_by_position(read_delimited(path, header=False), path)
    theirs = {c.casefold(): c for c in table.columns}
    for ours, names in ALIASES.items():
        found = [theirs[name] for name in names if name in theirs]
        if found and ours not in table:
            table = table.rename(columns={found[0]: ours})
    for column in ("image", "score"):
        if column not in table:
            raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.columns)}. Rename yours.")
    return table


def _name_by_position(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """pyiqa without a header: image, score[, std], or reference, image, score[, std]."""
    texts = (~_numeric(table.iloc[0])).sum()
    names = {1: ["image", "score", "std"], 2: ["reference", "image", "score", "std"]}.get(texts, [])
    if not texts < table.shape[1] <= len(names):
        raise DataError(
            f"{path}: no header, and its first line is neither image, score, std nor reference, image, score, std. "
            f"Put a line 'image,score' on top."
        )
    return table.set_axis(names[: table.shape[1]], axis=1)


def _numeric(texts: Sequence[str]) -> np.ndarray:
    return np.isfinite(numbers(pd.Series(texts, dtype=str)))


def own_label_file(folder: Path) -> Path:
    """The one label file in a folder of one's own.

    Raises:
        DataError: there is none, or more than one.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in OWN_SUFFIXES and f.is_file() and f.name[0] != ".")
    files = [f for f in files if f.suffix.lower() != ".txt"] or files  # a README.txt is no rival
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise DataError(
            f"{folder}: expected one label file ({', '.join(OWN_SUFFIXES)}), found {found}. "
            f"Name the file itself as the dataset."
        )
    return files[0]
