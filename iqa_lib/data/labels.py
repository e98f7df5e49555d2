"""Labels as a reader found them, checked: every fault in a sentence that says where it is and what to do."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib.data.readers.files import Listing
from iqa_lib.data.readers.tables import numbers
from iqa_lib.errors import DataError

SPLITS = ("train", "val", "test")
Faults = dict[str, dict[str, str]]  # of each remedy: the rows that need it, and what is wrong with them


def checked(table: pd.DataFrame, folder: Path, score_range: tuple[float, float]) -> tuple[pd.DataFrame, list[str]]:
    """Map scores to 0–100, find the images, fill in references; and say all that is wrong.

    Every kind of fault is said once: with its first row, how many there are, and the remedy.

    Raises:
        DataError: there are no rows.
    """
    if table.empty:
        raise DataError(f"{folder}: its labels have no rows. Unpack or load them again.")
    faults: Faults = defaultdict(dict)
    table = table.assign(image=table["image"].fillna("").astype(str).str.strip())
    table = table.assign(**_mapped(table, score_range, faults))
    table["path"], missing = _paths(table, folder, faults)
    reference = table.get("reference", table["image"]).fillna("").astype(str).str.strip()
    table["reference"] = reference.mask(reference == "", table["image"])
    if "split" in table:
        _look_at_split(table, faults)
    if "severity" in table:
        table["severity"] = numbers(table["severity"])
    named_in, images = table.index[0].rsplit(",", 1)[0], table["image"].nunique()
    table = _one_row_per_image(table, faults)
    sentences = []
    for remedy, rows in faults.items():
        where, problem = next(iter(rows.items()))
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        sentences.append(f"{folder / where}: {problem}{more}. {remedy}")
    if missing:
        shown = few(f"'{image}'" for image in missing)
        sentences.append(
            f"{folder}: {len(missing)} of {images} images are missing: {shown} (named in {named_in}). Put them there, "
            f"or remove their rows."
        )
    return table.reset_index(drop=True), sentences


def few(texts: Iterable[str], count: int = 5) -> str:
    """The first of them, for a sentence."""
    texts = list(texts)
    return ", ".join(texts[:count]) + (", …" if len(texts) > count else "")


def _mapped(table: pd.DataFrame, score_range: tuple[float, float], faults: Faults) -> dict[str, pd.Series]:
    worst, best = score_range
    scores = numbers(table["score"])
    finite = np.isfinite(scores)
    for where, score in table["score"][~finite].items():
        problem = f"score '{score}' is not a number"
        faults["Correct or remove such rows; decimals are written with a point."][where] = problem
    mapped = (scores - worst) / (best - worst) * 100
    inside = mapped.between(-1e-9, 100 + 1e-9)
    for where, score in table["score"][finite & ~inside].items():
        remedy = "For labels of your own set the profile key score_range to the worst and best score of their scale."
        faults[remedy][where] = f"score {score} is outside {worst}–{best}"
    columns = {"score": mapped.clip(0, 100).where(inside, mapped)}
    if "std" in table:
        columns["std"] = numbers(table["std"]) * 100 / abs(best - worst)
    return columns


def _paths(table: pd.DataFrame, folder: Path, faults: Faults) -> tuple[pd.Series, list[str]]:
    """The images' files, NaN where none is to be used; and the images that are nowhere."""
    listing, found, missing = Listing(folder), {}, []
    for where, image in table["image"].items():
        inside = os.path.normpath(image)
        if os.path.isabs(inside) and Path(inside).is_relative_to(folder):
            inside = os.path.relpath(inside, folder)
        if not image:
            faults["Give its image, or remove the row."][where] = "names no image"
            continue
        if inside.startswith("..") or os.path.isabs(inside):
            problem = f"image '{image}' leaves the folder {folder}"
            faults["Copy it inside, and name it relative to that folder."][where] = problem
            continue
        try:
            path = listing.find(inside)
        except DataError as error:
            faults["Give every file a name of its own."][where] = str(error)
            continue
        if path is None or not path.is_file():
            missing.append(image)
        else:
            found[where] = str(path)
    return pd.Series(found, table.index, dtype=object), list(dict.fromkeys(missing))


def _one_row_per_image(table: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Several rows of an image, each one rater's, become their mean, ``std`` and ``standard_error``; others faults."""
    paths = table["path"].dropna()
    again, images = paths.duplicated(), paths.nunique()
    if not again.any():
        return table
    by_image = table.groupby(table["path"].fillna(table.index.to_series()), sort=False)
    several = by_image.size() > 1
    alike = by_image["image"].nunique().max() > 1 or by_image["score"].nunique().max() < 2  # no rater's doing
    if "rater" not in table and (several.sum() * 2 <= images or alike):
        first = {path: where for where, path in paths[::-1].items()}
        for where, path in paths[again].items():
            problem = f"image '{table['image'][where]}' was already in {first[path]}"
            faults["Keep one row per image; or, where each row is one rater's, say whose in a column 'rater'."][
                where
            ] = problem
        return table
    ratings = by_image["score"].agg(["mean", "std", "count", "sem"])
    merged = table[~table.index.isin(again.index[again])]
    place = merged["path"].fillna(merged.index.to_series())
    columns = {"score": "mean", "std": "std", "standard_error": "sem"}
    merged = merged.assign(**{ours: place.map(ratings[theirs]) for ours, theirs in columns.items()})
    merged.attrs["reading"] = [
        *merged.attrs.get("reading", []),
        f"with up to {ratings['count'].max()} rows of one image as one rater's each: their mean is the score, with a "
        f"standard error of {ratings['sem'].mean():.1f} (of 100) on average",
    ]
    return merged.drop(columns="rater", errors="ignore")


def _look_at_split(table: pd.DataFrame, faults: Faults) -> None:
    table["split"] = table["split"].astype(str).str.strip().replace({"training": "train", "validation": "val"})
    known = table["split"].isin(SPLITS)
    for where, split in table["split"][~known].items():
        remedy = "Correct it, or remove the column to have the images split by reference."
        faults[remedy][where] = f"split '{split}' is not one of {', '.join(SPLITS)}"
    home = table["reference"].map(table["split"].where(known).groupby(table["reference"]).first())
    for where, row in table[known & (table["split"] != home)].iterrows():
        problem = f"reference '{row['reference']}' is in {row['split']} and in {home[where]}"
        faults["Bring all images of a reference to one side, or remove the column split."][where] = problem
