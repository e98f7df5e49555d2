"""Files by name below a folder, and the published arrangements of them."""

from __future__ import annotations

import functools
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from iqa_lib.errors import DataError
from iqa_lib.paths import printable

OLDER_ENCODINGS = ("cp1252", "gb18030", "shift_jis", "big5", "euc_kr", "cp1251", "cp1250", "mac_roman", "utf-8")
IMAGE_FOLDERS = ("1024x768", "512x384", "images", "testimage")  # likely ones, the larger images first


@dataclass(frozen=True)
class Layout:
    """One published arrangement of files: what it is recognised by, and how it is read."""

    marks: tuple[str, ...]  # files that are there, relative; the case of letters does not count
    reader: Callable[..., pd.DataFrame]  # of the folder and of each of these files
    check: Callable[[Path], bool] = lambda file: True  # of the first, where others use its name too

    def fits(self, folder: Path) -> bool:
        listing = Listing(folder)
        try:
            return all(listing.find(mark) for mark in self.marks) and self.check(listing.find(self.marks[0]))
        except (OSError, DataError):  # closed to us, or names that differ in case only: not this one
            return False

    def read(self, folder: Path, root: Path) -> tuple[pd.DataFrame, Path]:
        """The labels, and the folder that their images are relative to: this, or the one around it below ``root``."""
        table = self.reader(folder, *(file_in(folder, mark) for mark in self.marks))
        names = table["image"].fillna("").astype(str).tolist()
        for home in (folder, folder.parent):  # archives unpacked side by side have a folder each
            images = place(names, home) if home == folder or root in home.parents else []
            if images:
                return table.assign(image=images), home
        return table, folder


class Listing:
    """The files below a folder by name; each directory is listed once, and only when a name needs it."""

    def __init__(self, root: Path):
        self.root = root
        self._names = functools.cache(_names_in)

    def find(self, name: str) -> Path | None:
        """The file or folder of this relative name, in this case or else in the only other case there is.

        Raises:
            DataError: several files differ from the name, and from one another, in case only.
        """
        found = self.root
        for part in PurePosixPath(name).parts:
            if os.path.exists(found / part):  # a Path's own method raises for a name longer than any file's
                found = found / part
                continue
            alike = self._names(found).get(_fold(part), [])
            if len(alike) > 1:
                raise DataError(f"'{name}' may be any of {', '.join(alike)} in {found}: rename it as it is listed")
            if not alike:
                return None
            found = found / alike[0]
        return found


def _names_in(directory: Path) -> dict[str, list[str]]:
    """The names of its entries, by what they have in common where they differ in case only or are not UTF-8."""
    names = defaultdict(list)
    for entry in os.listdir(directory) if directory.is_dir() else ():
        spelt = [printable(entry), *(in_older_encoding(entry, encoding) for encoding in OLDER_ENCODINGS)]
        for common in {_fold(name) for name in ([entry] if entry.isascii() else spelt)}:
            names[common].append(entry)
    return names


def in_older_encoding(name: str, encoding: str) -> str:
    """A name that is not UTF-8 as systems of that encoding spell it; others as they are."""
    return name if printable(name) == name else os.fsencode(name).decode(encoding, "replace")


def _fold(name: str) -> str:
    # Archives made on a Mac spell accented letters as two characters.
    return unicodedata.normalize("NFC", name).casefold()


def subfolders(folder: Path, depth: int) -> list[Path]:
    """Folders down to ``depth`` levels below, nearest first; no hidden ones, and not the workbook's cache."""
    try:
        children = sorted(c for c in folder.iterdir() if c.name[0] != "." and c.name != "cache" and c.is_dir())
    except OSError:  # not there, or closed to us
        return []
    return children + [s for c in children if depth > 1 for s in subfolders(c, depth - 1)]


def place(names: Sequence[str], folder: Path, first: Sequence[str] = ()) -> list[str]:
    """Label files often name images by another machine's path: find the one change that makes all of them fit.

    Leading folders that every name shares may be left out, and one subfolder of ``folder`` put in front; the same
    change holds for every name, so two images of one name are never confused. ``first``: subfolders to prefer.
    """
    names = [re.sub(r"\\(?!ud[89a-f])", "/", name).removeprefix("./") for name in names]  # not those of `printable`
    listing = Listing(folder)
    trial = [name for name in names[:: max(1, len(names) // 20)] if name and ".." not in name]
    prefer = [*map(_fold, first), *IMAGE_FOLDERS]

    def rank(base: Path) -> int:
        return prefer.index(_fold(base.name)) if _fold(base.name) in prefer else len(prefer)

    def apply(way: tuple[int, str], name: str) -> str:
        cut, base = way
        return "/".join([*_parts(base), *_parts(name)[cut:]])

    def hits(way: tuple[int, str]) -> int:
        return sum(_is_file(listing, apply(way, name)) for name in trial)

    if not first and hits((0, "")):  # some fit as they are: those that do not are missing
        return names
    bases = [s.relative_to(folder).as_posix() for s in sorted(subfolders(folder, 2), key=rank)]
    bases = [*bases, ""] if first else ["", *bases]
    levels = zip(*(_parts(name)[:-1] for name in trial), strict=False)
    shared = list(itertools.takewhile(lambda folders: len(set(folders)) == 1, levels))
    ways = [(cut, base) for cut in range(len(shared) + 1) for base in bases]
    best = max(ways, key=hits)  # the first of equals
    return [apply(best, name) for name in names] if hits(best) else []


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part]


def _is_file(listing: Listing, name: str) -> bool:
    try:
        found = listing.find(name)
    except DataError:  # ambiguous: it is there, and whoever reads it gets the message
        return True
    return found is not None and found.is_file()


def file_in(folder: Path, name: str) -> Path:
    found = Listing(folder).find(name)
    if found is None:
        raise DataError(f"{folder}: no file '{name}'. Unpack the whole archive, unchanged.")
    return found


def stem(name: str) -> str:
    return PurePosixPath(name).stem
