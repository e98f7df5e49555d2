"""Ratings on disk the moment they are given: a file a rater, a line a rating; no line is ever changed.

To undo is a line too. A line counts from its end of line on: what a killed process left half was never answered for,
and is cut off before the next one. Whoever writes says after how many lines: a press that is sent twice, or from a
second window, finds more of them and adds nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import filelock
import pandas as pd

from iqa_lib import paths
from iqa_lib.errors import DataError, WorkbookError

FOLDER = "ratings"  # below the photographs
SCALES = {"acr": (1, 5), "slider": (0, 100), "pair": (0, 1)}  # worst and best; of a pair 1: the right one is better
COLUMNS = ["rater", "kind", "image", "other", "value", "seconds", "zoom", "repeat", "chosen", "time"]
LONGEST_RATER = 40


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
