"""Ratings on disk the moment they are given: a file a rater, a line a rating; no line is ever changed.

To undo is a line too. A line counts from its end of line on: what a killed process left half was never answered for,
and is cut off before the next one. Whoever writes says after how many lines: a press that is sent twice, or from a
second window, finds more of them and adds nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import pandas as pd

from iqa_lib import paths
from iqa_lib.data.readers.own import plain_name, read_own
from iqa_lib.data.readers.tables import numbers
from iqa_lib.errors import DataError, WorkbookError
from iqa_lib.scoring.found import find_images

FOLDER = "ratings"  # below the photographs
SCALES = {"acr": (1, 5), "slider": (0, 100), "pair": (0, 1)}  # worst and best; of a pair 1: the right one is better
COLUMNS = ["rater", "kind", "image", "other", "value", "seconds", "zoom", "repeat", "chosen", "time"]
LONGEST_RATER, LONGEST_NAME = 40, 200  # letters of a rater's name, bytes of the file's
UNSAID = {"other": None, "seconds": 0.0, "zoom": 1.0, "repeat": False, "chosen": "random", "time": ""}  # of a line
NOTHING = {"", "-", "nan", "na", "n/a", "none", "null", "anonymous"}  # what stands in a table for no answer
FEWEST_COPIES = 5
ASKED = {"ratingtype", "question", "fromname", "attribute", "criterion"}  # columns that say what was rated
WORDS = {"bad": 1, "poor": 2, "fair": 3, "good": 4, "excellent": 5}  # of ITU-T P.910
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts in front of a file's name


class Standing(NamedTuple):
    """What a rater's lines come to."""

    given: list[dict]  # ratings that were not undone, in order
    again: list[dict]  # undone and not given again yet, the latest last
    lines: int


class Ratings:
    """The file of one rater, for any number of windows and processes at once."""

    def __init__(self, photographs: Path, rater: str):
        self.rater = " ".join(rater.split())
        if not 0 < len(self.rater) <= LONGEST_RATER:
            raise WorkbookError(f"A rater's name has 1 to {LONGEST_RATER} letters; got '{rater[:80]}'.")
        name = urllib.parse.quote(self.rater.casefold(), safe=" ")
        if len(name) > LONGEST_NAME:
            raise WorkbookError(f"'{self.rater}' is too long for the name of a file: choose a shorter name.")
        self.file = photographs / FOLDER / f"{name}.jsonl"

    def standing(self) -> Standing:
        return _standing(self.file, _lines(self.file, self._content()))

    def add(self, line: dict, after: int) -> bool:
        """Append it and wait for the disk; False, and nothing is done, where there are not ``after`` lines.

        Raises:
            StorageError: the disk refuses; the line is then not there.
        """
        with paths.writing_to(self.file.parent):
            is_new = not self.file.exists()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.file.with_name(f".{self.file.name}.lock")), open(self.file, "a+b") as file:
                file.seek(0)
                whole = file.read()
                whole = whole[: whole.rfind(b"\n") + 1]
                if whole.count(b"\n") != after:
                    return False
                file.truncate(len(whole))
                try:
                    file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(len(whole))
                    raise
            if is_new:
                _sync_folder(self.file.parent)
        return True

    def _content(self) -> bytes:
        return self.file.read_bytes() if self.file.is_file() else b""


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lines(file: Path, content: bytes) -> list[dict]:
    lines = []
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            lines.append(dict(json.loads(text)))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: is no rating ({error}). Something else has written to it: copy the file, "
                f"remove that line, and go on."
            ) from error
    return lines


def _standing(file: Path, lines: list[dict]) -> Standing:
    given, again = [], []
    for number, line in enumerate(lines, 1):
        try:
            if "undo" in line:
                again.append(given.pop())
                continue
            low, high = SCALES[line["kind"]]
            if not low <= float(line["value"]) <= high or not isinstance(line["image"], str):
                raise ValueError(f"{line['value']} is outside {low}–{high}")
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{file}, line {number}: {error!r}. Remove that line, or restore the file.") from error
        line = {**UNSAID, **line}
        if again and shown(again[-1]) == shown(line):
            again.pop()
        given.append(line)
    return Standing(given, again, len(lines))


def shown(line: dict) -> tuple:
    """What was on show when this was rated."""
    return line["kind"], line["image"], line["other"], bool(line["repeat"])


def load(photographs: Path) -> pd.DataFrame:
    """The ratings that stand, of all raters: `COLUMNS`, images by their names relative to ``photographs``.

    Raises:
        DataError: a line is no rating.
    """
    rows = []
    for file in sorted((photographs / FOLDER).glob("*.jsonl")):
        given = _standing(file, _lines(file, file.read_bytes())).given
        rows += [{**line, "rater": given[0]["rater"]} for line in given]  # "Ann" and "ann" are one, with one file
    return pd.DataFrame(rows, columns=COLUMNS)


def photographs_in(folder: Path) -> dict[str, Path]:
    """The photographs below a folder by their names relative to it, but for what is in its ``ratings/``.

    Raises:
        DataError: it is no folder, or there is none.
    """
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder: name the one that holds your photographs.")
    found = [file for file in find_images([folder]) if file.relative_to(folder).parts[0] != FOLDER]
    return {paths.printable(file.relative_to(folder).as_posix()): file for file in found}


# --- ratings of other tools -----------------------------------------------------------------------------------


def read_table(path: Path, photographs: Path, ends: tuple[float, float] | None = None) -> pd.DataFrame:
    """As `load`, from a table of another tool: a row for each rater and image, or a column for each rater.

    Label Studio's exports, AVRate's, PyBossa's and the like: columns are found by name or content, as for `finetune`.
    What was inferred and what was left out is printed.

    Args:
        ends: worst and best of its scale, where its values do not say it; of DMOS the larger one first.

    Raises:
        DataError: it can be read in two ways, or names none of these photographs.
    """
    if not path.is_file():
        raise DataError(f"'{path}' is no file: name the table that holds the ratings.")
    table = read_own(path)
    remarks = table.attrs["reading"]
    if "rater" not in table:
        raise DataError(
            f"{path} can be read in two ways: as one person's ratings, or as means of several. It has no column "
            f"'rater'. Add one with the person's name; means need no such page: python -m iqa_lib finetune {path}"
        )
    for column in table:
        if plain_name(column) in ASKED and len(kinds := table[column].unique()) > 1:
            raise DataError(
                f"{path}: its column '{column}' says that different things were rated ({', '.join(map(str, kinds))}). "
                f"Keep the rows of one."
            )
    text = table["score"].astype(str).str.strip().str.casefold()
    if (empty := text.isin(NOTHING)).any():
        remarks.append(f"without {empty.sum()} rows that hold no rating, such as {table.index[empty][0]}")
        table, text = table[~empty], text[~empty]
    if table.empty:
        raise DataError(f"{path} holds no rating.")
    rater = table["rater"].astype(str).str.strip()
    if (nobody := rater.str.casefold().isin(NOTHING)).any():
        raise DataError(
            f"{path.parent / table.index[nobody][0]}: no rater is named, and different people must not be taken for "
            f"one. Put what tells them apart (an address, a session) into the column 'rater'."
        )
    value = numbers(text.map(lambda word: WORDS.get(word, word)))
    if not np.isfinite(value).all():
        where = table.index[~np.isfinite(value)][0]
        raise DataError(f"{path.parent / where}: rating '{table['score'][where]}' is not a number; correct the row.")
    if ends is None:
        ends = (1, 5) if text.isin(WORDS).all() else _ends_of(value, path, remarks)
    low, high = ends
    if low == high:
        raise DataError(f"The worst and the best of a scale differ; got ends=({low:g}, {high:g}).")
    points = 100 * (value - low) / (high - low)
    if not points.between(0, 100).all():
        where = points.index[~points.between(0, 100)][0]
        raise DataError(
            f"{path.parent / where}: rating {value[where]:g} is outside of {low:g}–{high:g}. Say the worst and the "
            f"best of the scale: ends=(0, 10)."
        )
    names = _matched(table["image"].astype(str).tolist(), photographs)
    found = pd.DataFrame({"rater": rater, "kind": "slider", "image": names, "value": points})
    if (unknown := found["image"].isna()).all():
        raise DataError(f"{path}: none of its images is in {photographs}, such as '{table['image'].iloc[0]}'.")
    if unknown.any():
        first = table["image"][unknown].iloc[0]
        remarks.append(f"without {unknown.sum()} ratings of images that are not in {photographs}, such as '{first}'")
    found = found[~unknown]
    before = found.groupby(["rater", "image"])["value"].transform("first")
    again = found.duplicated(["rater", "image"])
    if again.sum() >= FEWEST_COPIES and (before == found["value"]).all():
        remarks.append(f"{again.sum()} rows that say once more what another says, each counted once")
        found = found[~again]
    print(f"{path}: {low:g} as the worst, {high:g} as the best; {'; '.join(remarks)}".rstrip("; "))
    return found.reindex(columns=COLUMNS).assign(repeat=False, chosen="random").reset_index(drop=True)


def _ends_of(value: pd.Series, path: Path, remarks: list[str]) -> tuple[float, float]:
    if any(remark.startswith("score from") and "dmos" in remark.casefold() for remark in remarks):
        raise DataError(
            f"{path}: its scores are called DMOS, of which the lower is usually the better. Say the worst and the "
            f"best: ends=(100, 0), or ends=(0, 100) where higher is better."
        )
    if value.between(1, 5).all() and (value % 1 == 0).all() and value.nunique() > 1:
        return 1, 5
    if value.between(0, 100).all() and value.max() > 50:
        return 0, 100
    raise DataError(
        f"{path}: its ratings go from {value.min():g} to {value.max():g}, which may be of several scales (0–1, 1–5, "
        f"0–10, 0–100, …). Say the worst and the best: ends=(1, 10)."
    )


def _matched(names: list[str], photographs: Path) -> list[str | None]:
    """The photographs that these are: by the longest end of a path that fits one of them alone.

    Then without regard to capitals, without what Label Studio puts in front, without endings.
    """
    known = photographs_in(photographs)
    kinds = [lambda name: name, str.casefold, lambda name: re.sub(r"\.\w+$", "", name.casefold())]
    by_end: list[dict[str, str | None]] = [{} for _ in kinds]
    for (kind, places), name in itertools.product(zip(kinds, by_end, strict=True), known):
        for end in _ends(kind(name)):
            places[end] = None if end in places else name  # of two that end alike neither
    found = []
    for name in names:
        plain = urllib.parse.unquote(name).replace("\\", "/")
        plain = plain.rpartition("=")[2] if "?" in plain else plain  # of an address
        offered = [plain, UPLOADED.sub("", plain.rpartition("/")[2])]
        fits = (
            places.get(end)
            for kind, places in zip(kinds, by_end, strict=True)
            for one in offered
            for end in _ends(kind(one))
        )
        found.append(plain if plain in known else next(filter(None, fits), None))
    return found


def _ends(path: str) -> list[str]:
    """``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
