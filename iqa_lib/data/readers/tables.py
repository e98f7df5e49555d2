"""Label files of any kind, into tables of which every row says where it comes from."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import itertools
import math
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from joblib.externals import loky
from PIL import Image

from iqa_lib.data.readers.files import OLDER_ENCODINGS, in_older_encoding, subfolders
from iqa_lib.errors import DataError
from iqa_lib.paths import printable

VOTES = ["c1", "c2", "c3", "c4", "c5"]
MOST_COLUMNS = 1000
NO_TEXT = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"\x1f\x8b", b"%PDF", b"{\\rtf")  # how workbooks and archives begin
LARGEST_LABELS = 200_000_000  # bytes; those of the largest published dataset have a few million
SEPARATORS = {"commas": ",", "semicolons": ";", "tabs": "\t", "bars": "|", "white space": None}  # None: of any kind
NUMBER = re.compile(r"[-+]?\d*[.,]?\d+(e[-+]?\d+)?", re.IGNORECASE)


def read_text(path: Path) -> str:
    """A text file in UTF-8, UTF-16, or whichever older encoding spells the names of files around it."""
    return decoded(path)[0]


def decoded(path: Path) -> tuple[str, str]:
    """The text of a file, with ``\\n`` at the end of each line, and its encoding."""
    _refuse_bomb(path, path.stat().st_size)
    content = path.read_bytes()
    if content.startswith(NO_TEXT):
        raise DataError(f"{path} is a workbook or archive under another name: open it, and save it as 'CSV UTF-8'.")
    encoding = _encoding(content, path.parent)
    try:
        text = content.decode(encoding).replace("\ufeff", "")  # also of files that were joined
        return re.sub("\r\n?", "\n", text), encoding
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not in {encoding.upper()} (byte 0x{content[error.start]:02X}). Save it again as "
            f"'CSV UTF-8'."
        ) from error


def _encoding(content: bytes, folder: Path) -> str:
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if 0 in content[:2]:  # UTF-16 without a mark: of ASCII every second byte is 0
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    with contextlib.suppress(UnicodeDecodeError):
        content.decode("utf-8-sig")
        return "utf-8-sig"
    # Too short for statistics to guess well; but what a label file spells are names of files, and these are here.
    found = (file.name for place in (folder, *subfolders(folder, 2)) for file in place.glob("*"))
    names = list(itertools.islice((name for name in found if not name.isascii()), 20))
    texts = {encoding: _composed(content.decode(encoding, "replace")) for encoding in OLDER_ENCODINGS}

    def spelt(encoding: str) -> tuple[int, bool]:
        read = sum(_composed(in_older_encoding(name, encoding)) in texts[encoding] for name in names)
        return read, read > 0 and "\ufffd" not in texts[encoding]

    return max(texts, key=spelt)  # the first of equals


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def is_image(name: object) -> bool:
    """By its suffix."""
    return os.path.splitext(str(name))[1].lower() in Image.registered_extensions()


def separator_of(text: str) -> str:
    """The key of `SEPARATORS` under which most of the first lines hold an image's name and a number."""
    lines = list(itertools.islice((line for line in text.split("\n") if line.strip()), 50))

    def fitting(name: str) -> tuple[int, int]:
        rows = [[cell.strip(' "') for cell in line.split(SEPARATORS[name])] for line in lines]
        found = sum(any(map(is_image, row)) and any(map(NUMBER.fullmatch, row)) for row in rows)
        if SEPARATORS[name] is None:  # the last resort, and none where names have spaces
            return found if len(set(map(len, rows))) == 1 else 0, 0
        return found, len(rows[0]) if rows else 0

    return max(SEPARATORS, key=fitting)


def read_cells(path: Path, text: str, separator: str) -> pd.DataFrame:
    """All cells as strings, columns numbered from 0; the index says where each row is. Empty lines are left out."""
    sep = SEPARATORS[separator]
    width = max(len(line.split()) if sep is None else line.count(sep) + 1 for line in text.split("\n"))
    if width > MOST_COLUMNS:
        raise DataError(f"{path} has a line of {width:,} cells: no label file has that many.")
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=sep or r"\s+",
            header=None,
            names=range(width),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,  # so that a row's number is its line
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable CSV ({reason}). Give every line the same columns.") from error
    return trimmed(cells, f"{path.name}, line ")


def trimmed(cells: pd.DataFrame, where: str) -> pd.DataFrame:
    cells = cells.where(cells.notna(), "").astype(str).apply(lambda column: column.str.strip())
    cells.index = [f"{printable(where)}{number}" for number in range(1, len(cells) + 1)]
    return cells[(cells != "").any(axis=1)]


def read_delimited(path: Path) -> pd.DataFrame:
    """A published CSV: strings, under the header of its first line."""
    text = read_text(path)
    table = headed(read_cells(path, text, separator_of(text)), path)
    _refuse_twice(path, table.columns)
    return table


def headed(cells: pd.DataFrame, path: Path, header: int = 0) -> pd.DataFrame:
    """The rows below row ``header``, under its names; columns without name and content are left out.

    Raises:
        DataError: there are no rows, or cells beside those that have a name.
    """
    if len(cells) <= header + 1:
        known = "it is empty" if cells.empty else "it has no rows"
        raise DataError(f"{path} is not a readable CSV ({known}): expected a line per image below the header.")
    names, rows = cells.iloc[header], cells.iloc[header + 1 :]
    beyond = rows.loc[:, names[names != ""].index.max() + 1 :] if (names != "").any() else rows.iloc[:, :0]
    wide = beyond.index[(beyond != "").any(axis=1)]
    if len(wide):
        more = f" ({len(wide)} such rows)" if len(wide) > 1 else ""
        raise DataError(
            f"{path.parent / wide[0]} is not readable: it has more cells than the header{more}. Give every line the "
            f"same columns: a text with a comma stands in quotes; where commas are decimal, separate by semicolons."
        )
    used = [c for c in cells if names[c] or (rows[c] != "").any()]
    return rows[used].set_axis([names[c] or f"Unnamed: {c}" for c in used], axis=1)


def read_sheet(path: Path, sheet: str | int = 0, **wanted: str) -> pd.DataFrame:
    """Columns of an Excel sheet, as `columns_of` gives them and ``std`` where it is; whatever stands above them."""
    cells = read_sheets(path, sheet)
    ours = {theirs.casefold(): ours for ours, theirs in wanted.items()}
    for number, row in enumerate(cells.itertuples(index=False), 1):
        names = [str(cell).strip() for cell in row]
        if ours.keys() <= {name.casefold() for name in names}:
            names = [ours.get(name.casefold(), name) for name in names]
            _refuse_twice(path, [name for name in names if name in (*wanted, "std")])
            table = cells.iloc[number:].set_axis(names, axis=1)
            table.index = [f"{path.name}, row {number + i}" for i in range(1, len(table) + 1)]
            return table.loc[:, table.columns.isin([*wanted, "std"])].dropna(how="all", subset=list(wanted))
    raise DataError(f"{path}: no row holds the columns {', '.join(wanted.values())}. Is it the published file?")


def _refuse_twice(path: Path, columns: Sequence[str]) -> None:
    if twice := sorted({str(name) for name in columns if list(columns).count(name) > 1}):
        raise DataError(f"{path}: several columns are named '{twice[0]}'. Keep one of them.")


def read_sheets(path: Path, sheet: str | int | None) -> Any:
    """The cells of an Excel sheet; of None all sheets, by name."""
    with _reading(path, "Excel"):
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
        return pd.read_excel(path, sheet_name=sheet, header=None, dtype=object)


def read_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file, flat; cells of text become strings."""
    with _reading(path, "MATLAB"):
        shapes = apart(scipy.io.whosmat, str(path))
        _refuse_bomb(path, sum(8 * math.prod(shape) for _, shape, _ in shapes))
        content = apart(scipy.io.loadmat, str(path))
        absent = [name for name in names if name not in content]
        if absent:
            found = ", ".join(k for k in content if not k.startswith("__"))
            raise DataError(f"{path}: no variable {', '.join(absent)}; it has {found}. Is it the published file?")
        return [_flat(content[name]) for name in names]


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged file makes openpyxl and scipy raise anything
        raise DataError(
            f"{path} is not a readable {kind} file: {error}. Unpack or load it again; if it is yours, save it "
            f"as 'CSV UTF-8'."
        ) from error


def apart(read: Callable, path: str) -> object:
    """In a process of its own: scipy's reader of MATLAB files is brought down by damaged ones, and all with it."""
    try:
        return _other_process().submit(read, path).result()
    except BrokenProcessPool as error:
        _other_process.cache_clear()
        raise ValueError("its content makes the reader fail") from error


@functools.cache
def _other_process() -> loky.ProcessPoolExecutor:
    # Not loky's reusable one, which is joblib's too.
    return loky.ProcessPoolExecutor(max_workers=1, timeout=60)


def _flat(values: np.ndarray) -> np.ndarray:
    values = values.ravel()
    if values.dtype == object:
        return np.array([str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in values], dtype=object)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"a variable should be numbers or texts, and is {values.dtype}")
    return values.astype(float)


def _refuse_bomb(path: Path, unpacked: int) -> None:
    if unpacked > LARGEST_LABELS:
        raise DataError(
            f"{path} holds {unpacked:,} bytes, more than a label file has ({LARGEST_LABELS:,} are allowed). It is "
            f"damaged or not to be trusted."
        )


def columns_of(table: pd.DataFrame, path: Path, **wanted: str) -> pd.DataFrame:
    """Columns under our names: ``ours="theirs"``, the case of theirs not counting."""
    theirs = {c.casefold(): c for c in table.columns}
    absent = [column for column in wanted.values() if column.casefold() not in theirs]
    if absent:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, absent))}; it has {', '.join(table.columns)}. "
            f"Is it the published file?"
        )
    return pd.DataFrame({ours: table[theirs[column.casefold()]] for ours, column in wanted.items()})


def has_columns(*columns: str) -> Callable[[Path], bool]:
    def check(path: Path) -> bool:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            header = {cell.strip().strip('"').casefold() for cell in file.readline().split(",")}
        return set(columns) <= header

    return check


def numbers(texts: pd.Series) -> pd.Series:
    """Floats; what is no number becomes NaN, which `catalog` reports with its row."""
    return pd.to_numeric(texts, errors="coerce").astype(float)


def read_words(path: Path, count: int) -> pd.DataFrame:
    """A table of ``count`` words a line; empty lines are left out."""
    lines = enumerate(map(str.strip, read_text(path).splitlines()), 1)
    rows = {f"{path.name}, line {number}": line.split(None, count - 1) for number, line in lines if line}
    if not rows:
        raise DataError(f"{path} is empty. Unpack or load it again.")
    for where, words in rows.items():
        if len(words) != count:
            said = " ".join(words)
            raise DataError(f"{path.parent / where}: '{said}' has not {count} words. Is it the published file?")
    return pd.DataFrame.from_dict(rows, orient="index")


def whole(cell: object) -> str:
    """Excel keeps 1600 as 1600.0."""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def entries(file: str, values: Sequence) -> list[str]:
    return [f"{printable(file)}, entry {i}" for i in range(1, len(values) + 1)]


def require_equal_lengths(folder: Path, **lists: Sequence) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(f"{folder}: {counted}; these should be equally many. Unpack the archive again, unchanged.")
