"""Label files of any kind, into tables of which every row says where it comes from."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
from joblib.externals import loky

from iqa_lib.data.readers.files import file_in
from iqa_lib.errors import DataError

VOTES = ["c1", "c2", "c3", "c4", "c5"]
MOST_COLUMNS = 1000
LARGEST_LABELS = 200_000_000  # bytes; those of the largest published dataset have a few million


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not in UTF-8 (byte 0x{content[error.start]:02X}). Save it again as 'CSV UTF-8', "
            f"or convert it: iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"
        ) from error


def read_delimited(path: Path, header: bool = True) -> pd.DataFrame:
    """A CSV of strings, separated by comma, semicolon or tab; empty lines and columns are left out."""
    text = read_text(path)
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    cells = max(line.count(separator) for line in text.split("\n")) + 1
    if cells > MOST_COLUMNS:
        raise DataError(f"{path} has a line of {cells:,} cells: no label file has that many.")
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=0 if header else None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,  # so that a row's number is its line
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable CSV ({reason}). Give every line the same columns.") from error
    table = table.where(table.notna(), "").astype(str).apply(lambda column: column.str.strip())
    table.columns = [str(c).strip() for c in table.columns]
    nameless = [c for c in table if c.startswith("Unnamed:") and (table[c] == "").all()]
    table = table.drop(columns=nameless)
    table.index = [f"{path.name}, line {i + 1 + header}" for i in range(len(table))]
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise DataError(f"{path} has no rows: expected a line per image below the header.")
    return table


def read_sheet(path: Path, columns: Sequence[str], sheet: str | int = 0) -> pd.DataFrame:
    """An Excel sheet from the row on that holds all of ``columns``, whatever stands above and beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
        cells = pd.read_excel(path, sheet_name=sheet, header=None, dtype=object)
    except DataError:
        raise
    except Exception as error:  # a damaged sheet makes openpyxl raise anything
        raise DataError(f"{path} is not a readable Excel file: {error}. Unpack or load it again.") from error
    wanted = [c.casefold() for c in columns]
    for number, row in enumerate(cells.itertuples(index=False)):
        names = [str(cell).strip() for cell in row]
        if set(wanted) <= {name.casefold() for name in names}:
            table = cells.iloc[number + 1 :].copy()
            table.columns = [{c.casefold(): c for c in columns}.get(n.casefold(), n) for n in names]
            table = table.loc[:, [c for c in table.columns if c != "nan"]]
            table.index = [f"{path.name}, row {number + 2 + i}" for i in range(len(table))]
            return table.dropna(how="all", subset=list(columns))
    raise DataError(f"{path}: no row holds the columns {', '.join(columns)}. Is it the published file?")


def read_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file, flat; cells of text become strings."""
    try:
        shapes = apart(scipy.io.whosmat, str(path))
        _refuse_bomb(path, sum(8 * math.prod(shape) for _, shape, _ in shapes))
        content = apart(scipy.io.loadmat, str(path))
    except DataError:
        raise
    except Exception as error:  # a damaged file makes scipy raise anything
        raise DataError(f"{path} is not a readable MATLAB file: {error}. Unpack or load it again.") from error
    absent = [name for name in names if name not in content]
    if absent:
        found = ", ".join(k for k in content if not k.startswith("__"))
        raise DataError(f"{path}: no variable {', '.join(absent)}; it has {found}. Is it the published file?")
    try:
        return [_flat(content[name]) for name in names]
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: {', '.join(names)} should be numbers or texts ({error}). Load it again.") from error


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
        raise TypeError(f"they are {values.dtype}")
    return values.astype(float)


def _refuse_bomb(path: Path, unpacked: int) -> None:
    if unpacked > LARGEST_LABELS:
        raise DataError(
            f"{path} unpacks to {unpacked:,} bytes, more than a label file has ({LARGEST_LABELS:,} are allowed). It is "
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


def has_columns(name: str, *columns: str) -> Callable[[Path], bool]:
    def check(folder: Path) -> bool:
        with open(file_in(folder, name), encoding="utf-8-sig", errors="replace") as file:
            header = {cell.strip().strip('"').casefold() for cell in file.readline().split(",")}
        return set(columns) <= header

    return check


def numbers(texts: pd.Series) -> pd.Series:
    """Floats; what is no number becomes NaN, which `catalog` reports with its row."""
    return pd.to_numeric(texts, errors="coerce").astype(float)


def read_words(path: Path, count: int) -> pd.DataFrame:
    rows, index = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split(None, count - 1)
        if not words:
            continue
        if len(words) != count:
            raise DataError(f"{path}, line {number}: '{line.strip()}' has not {count} words. Is it the published file?")
        rows.append([word.strip() for word in words])
        index.append(f"{path.name}, line {number}")
    if not rows:
        raise DataError(f"{path} is empty. Unpack or load it again.")
    return pd.DataFrame(rows, index=index)


def whole(cell: object) -> str:
    """Excel keeps 1600 as 1600.0."""
    return str(int(cell)) if isinstance(cell, int | float) and cell == int(cell) else str(cell).strip()


def entries(file: str, values: Sequence) -> list[str]:
    return [f"{file}, entry {i}" for i in range(1, len(values) + 1)]


def require_equal_lengths(folder: Path, **lists: Sequence) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(f"{folder}: {counted}; these should be equally many. Unpack the archive again, unchanged.")
