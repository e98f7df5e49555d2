"""Labels as a reader found them, checked: every fault in a sentence that says where it is and what to do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib.data.readers.files import Listing
from iqa_lib.data.readers.tables import numbers
from iqa_lib.errors import DataError

SPLITS = ("train", "val", "test")


class _Faults:
    """What is wrong, each kind once: with its first place, how often, and the remedy."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sentences: list[str] = []

    def add(self, where: pd.Index, problem: Callable[[str], str], remedy: str) -> None:
        """``problem`` describes the first row; the others are counted."""
        if len(where):
            more = f" ({len(where)} such rows)" if len(where) > 1 else ""
            self.sentences.append(f"{self.folder / where[0]}: {problem(where[0])}{more}. {remedy}")


def checked(table: pd.DataFrame, folder: Path, score_range: tuple[float, float]) -> tuple[pd.DataFrame, list[str]]:
    """Map scores to 0–100, find the images, fill in references; and say all that is wrong."""
    faults = _Faults(folder)
    table = table.assign(image=table["image"].astype(str).str.strip())
    table = table.assign(**_mapped(table, score_range, faults), path=_paths(table, folder, faults))
    _look_for_duplicates(table, faults)
    reference = table.get("reference", table["image"]).astype(str).str.strip()
    table["reference"] = reference.mask(reference == "", table["image"])
    if "split" in table:
        _look_at_split(table, faults)
    if "severity" in table:
        table["severity"] = numbers(table["severity"])
    return table.reset_index(drop=True), faults.sentences


def _mapped(table: pd.DataFrame, score_range: tuple[float, float], faults: _Faults) -> dict[str, pd.Series]:
    worst, best = score_range
    scores = numbers(table["score"])
    finite = np.isfinite(scores)
    faults.add(
        table.index[~finite],
        lambda where: f"score '{table['score'][where]}' is not a number",
        "Correct or remove such rows; decimals are written with a point.",
    )
    mapped = (scores - worst) / (best - worst) * 100
    faults.add(
        table.index[finite & ~mapped.between(-1e-9, 100 + 1e-9)],
        lambda where: f"score {table['score'][where]} is outside {worst}–{best}",
        "For labels of your own set the profile key score_range to the worst and best score of their scale.",
    )
    columns = {"score": mapped.clip(0, 100).where(mapped.between(-1e-9, 100 + 1e-9), mapped)}
    if "std" in table:
        columns["std"] = numbers(table["std"]) * 100 / abs(best - worst)
    return columns


def _paths(table: pd.DataFrame, folder: Path, faults: _Faults) -> list[str | None]:
    listing, found, ambiguous, outside, linked = Listing(folder), [], {}, [], []
    root = folder.resolve()
    holds = functools.lru_cache(None)(lambda place: Path(os.path.realpath(place)).is_relative_to(root))
    for where, image in table["image"].items():
        inside = os.path.normpath(image)
        if os.path.isabs(inside) and Path(inside).is_relative_to(folder):
            inside = os.path.relpath(inside, folder)
        if inside.startswith("..") or os.path.isabs(inside):
            outside.append(where)
            found.append(None)
            continue
        try:
            path = listing.find(inside) if image else None
        except DataError as error:
            ambiguous[where] = str(error)
            path = None
        path = path if path is not None and path.is_file() else None
        if path is not None and not holds(path if path.is_symlink() else path.parent):
            linked.append(where)
            path = None
        found.append(path and str(path))
    faults.add(table.index[table["image"] == ""], lambda where: "names no image", "Give its image, or remove the row.")
    faults.add(
        pd.Index(outside),
        lambda where: f"image '{table['image'][where]}' leaves the folder {folder}",
        "Copy it inside, and name it relative to that folder.",
    )
    faults.add(
        pd.Index(linked),
        lambda where: f"image '{table['image'][where]}' is a link that leaves the folder {folder}",
        "Copy the images inside, or use the labels in the folder where they are.",
    )
    faults.add(pd.Index(list(ambiguous)), ambiguous.get, "Give every file a name of its own.")
    known = table["image"].where([path is None for path in found], "").to_numpy()
    at_fault = {*outside, *linked, *ambiguous}
    missing = [i for i, w in zip(known, table.index, strict=True) if i and w not in at_fault]
    if missing:
        shown = ", ".join(f"'{image}'" for image in missing[:5]) + (", …" if len(missing) > 5 else "")
        faults.sentences.append(
            f"{folder}: {len(missing)} of {len(table)} images are missing: {shown} (named in "
            f"{table.index[0].rsplit(',', 1)[0]}). Put them there, or remove their rows."
        )
    return found


def _look_for_duplicates(table: pd.DataFrame, faults: _Faults) -> None:
    first: dict[str, str] = {}
    again = {}
    for where, path in table["path"].dropna().items():
        if path in first:
            again[where] = f"image '{table['image'][where]}' was already in {first[path]}"
        first.setdefault(path, where)
    faults.add(pd.Index(list(again)), again.get, "Keep one row per image.")


def _look_at_split(table: pd.DataFrame, faults: _Faults) -> None:
    names = {"training": "train", "validation": "val"}
    table["split"] = table["split"].astype(str).str.strip().map(lambda name: names.get(name, name))
    known = table["split"].isin(SPLITS)
    faults.add(
        table.index[~known],
        lambda where: f"split '{table['split'][where]}' is not one of {', '.join(SPLITS)}",
        "Correct it, or remove the column to have the images split by reference.",
    )
    home = table["reference"].map(table["split"].where(known).groupby(table["reference"]).first())
    faults.add(
        table.index[known & (table["split"] != home)],
        lambda where: f"reference '{table['reference'][where]}' is in {table['split'][where]} and in {home[where]}",
        "Bring all images of a reference to one side, or remove the column split.",
    )
