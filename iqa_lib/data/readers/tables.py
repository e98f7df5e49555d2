"""Label files of any kind, into tables of which every row says where it comes from."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
from joblib.externals import loky

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
    _refuse_twice(path, table.columns)
    nameless = [c for c in table if c.startswith("Unnamed:") and (table[c] == "").all()]
    table = table.drop(columns=nameless)
    table.index = [f"{path.name}, line {i + 1 + header}" for i in range(len(table))]
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise DataError(f"{path} has no rows: expected a line per image below the header.")
    return table


def read_sheet(path: Path, sheet: str | int = 0, **wanted: str) -> pd.DataFrame:
    """Columns of an Excel sheet, as `columns_of` gives them and ``std`` where there is one; whatever stands above them."""
    with _reading(path, "Excel"):
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
        cells = pd.read_excel(path, sheet_name=sheet, header=None, dtype=object)
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
        raise DataError(f"{path} is not a readable {kind} file: {error}. Unpack or load it again.") from error


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
    return [f"{file}, entry {i}" for i in range(1, len(values) + 1)]


def require_equal_lengths(folder: Path, **lists: Sequence) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(f"{folder}: {counted}; these should be equally many. Unpack the archive again, unchanged.")
