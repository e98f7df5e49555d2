"""Ratings on disk the moment they are given: a file a rater, a line a rating; no line is ever changed.

To undo is a line too. A line counts from its end of line on: what a killed process left half was never answered for,
and is cut off before the next one. Whoever writes says after how many lines: a press that is sent twice, or from a
second window, finds more of them and adds nothing.
"""

from __future__ import annotations

import contextlib
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
from iqa_lib.data.readers.own import read_own
from iqa_lib.data.readers.tables import numbers
from iqa_lib.errors import DataError, WorkbookError
from iqa_lib.scoring.found import find_images

FOLDER = "ratings"  # below the photographs
SCALES = {"acr": (1, 5), "slider": (0, 100), "pair": (0, 1)}  # worst and best; of a pair 1: the right one is better
COLUMNS = ["rater", "kind", "image", "other", "value", "seconds", "zoom", "repeat", "chosen", "time"]
LONGEST_RATER = 40
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
        if again and shown(again[-1]) == shown(line):
            again.pop()
        given.append(line)
    return Standing(given, again, len(lines))


def shown(line: dict) -> tuple:
    """What was on show when this was rated."""
    return line["kind"], line["image"], line.get("other"), bool(line.get("repeat"))


def load(photographs: Path) -> pd.DataFrame:
    """The ratings that stand, of all raters: `COLUMNS`, images by their names relative to ``photographs``.

    Raises:
        DataError: a line is no rating.
    """
    rows = []
    for file in sorted((photographs / FOLDER).glob("*.jsonl")):
        rows += _standing(file, _lines(file, file.read_bytes())).given
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

    Args:
        ends: worst and best of its scale, where its values do not say it.

    Raises:
        DataError: it can be read in two ways, or names none of these photographs.
    """
    table = read_own(path)
    if "rater" not in table:
        raise DataError(
            f"{path} can be read in two ways: as one person's ratings, or as means of several. It has no column "
            f"'rater'. Add one with the person's name; means need no such page: python -m iqa_lib finetune {path}"
        )
    value = numbers(table["score"].map(lambda text: WORDS.get(str(text).strip().casefold(), text)))
    if not np.isfinite(value).all():
        where = table.index[~np.isfinite(value)][0]
        raise DataError(f"{path.parent / where}: rating '{table['score'][where]}' is not a number; correct the row.")
    low, high = ends or _ends_of(value, path)
    points = 100 * (value - low) / (high - low)
    if not points.between(0, 100).all():
        where = points.index[~points.between(0, 100)][0]
        raise DataError(
            f"{path.parent / where}: rating {value[where]:g} is outside of {low:g}–{high:g}; name the ends."
        )
    names = _matched(table["image"].astype(str).tolist(), photographs)
    found = pd.DataFrame({"rater": table["rater"].astype(str), "kind": "slider", "image": names, "value": points})
    unknown = found["image"].isna()
    if unknown.any():
        first = table["image"][unknown].iloc[0]
        if unknown.all():
            raise DataError(f"{path}: none of its images is in {photographs}, such as '{first}'.")
        print(f"{path}: {unknown.sum()} of {len(found)} ratings are of images not in {photographs}, such as '{first}'.")
    return found[~unknown].reindex(columns=COLUMNS).assign(repeat=False, chosen="random").reset_index(drop=True)


def _ends_of(value: pd.Series, path: Path) -> tuple[float, float]:
    if value.between(1, 5).all() and (value % 1 == 0).all() and value.nunique() > 1:
        return 1, 5
    if value.between(0, 100).all() and value.max() > 10:
        return 0, 100
    raise DataError(
        f"{path}: its ratings go from {value.min():g} to {value.max():g}, which may be of several scales (0–1, 1–5, "
        f"0–10, 0–100, …). Say the worst and the best: ends=(1, 10)."
    )


def _matched(names: list[str], photographs: Path) -> list[str | None]:
    """The names in the folder of these, by path or by file name alone; of uploads without what was put in front."""
    known = list(photographs_in(photographs))
    last: dict[str, str | None] = {}
    for name in known:
        file = name.rpartition("/")[2]
        last[file] = None if file in last else name  # of two files of one name neither
    found = []
    for name in names:
        plain = urllib.parse.unquote(name).replace("\\", "/")
        file = plain.rpartition("/")[2].rpartition("=")[2]
        found.append(plain if plain in known else last.get(file) or last.get(UPLOADED.sub("", file)))
    return found
