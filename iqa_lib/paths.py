"""Where files are, and how they are written. The checkout by default; the folder named by IQA_HOME where that is set."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from iqa_lib.errors import StorageError

if TYPE_CHECKING:  # slow to import, and the command line asks for paths first
    import pandas as pd

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("IQA_HOME") or CHECKOUT).resolve()
NOTEBOOKS = CHECKOUT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
DATA = HOME / "data"
RUNS = HOME / "runs"
FIGURES = HOME / "figures"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, sync, rename: a reader never sees half a file.

    Raises:
        StorageError: the disk refuses; what was at ``path`` before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk every byte counts
            raise


def stamps(files: Iterable[str | Path]) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change (ns) of each file: a cache of what is in them is good while these stay."""
    return [(str(file), about.st_size, about.st_mtime_ns) for file in files for about in [Path(file).stat()]]


def sync(path: Path) -> None:
    """Wait until the disk has the file's content: after a power cut a name must not stand for nothing."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into a `StorageError` that names the folder and the way out."""
    try:
        yield
    except TimeoutError:  # of a lock that another holds: no fault of the disk
        raise
    except OSError as error:
        raise storage_error(error, folder) from error


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.ENODEV}


def storage_error(error: OSError, folder: Path) -> StorageError:
    """The message for a person whose ``folder`` could not be written."""
    elsewhere = "set IQA_HOME to a folder on another disk"
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            elsewhere += f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB are free here)"
    remedies = {
        "Make room": FULL,
        "Give yourself the right to write there": FORBIDDEN,
        "Was it moved or deleted, or its disk unplugged? Bring it back": GONE,
    }
    remedy = next((text for text, errors in remedies.items() if error.errno in errors), "Look after its disk")
    return StorageError(
        f"{folder} cannot be written: {error.strerror or error}. {remedy}, or {elsewhere}. What was finished before is kept: the "
        f"same command resumes there."
    )


# --- CSV for others to open, in which no text is a formula to a spreadsheet ------------------------------

FORMULA = r"(?='*[=+\-@\t\r\n])"  # also behind apostrophes, so that reading back is exact


def to_csv(table: pd.DataFrame) -> str:
    """Text that would be a formula gets an apostrophe in front, in cells and headings; numbers stay as they are."""
    return table.map(_harmless).rename(columns=_harmless).to_csv(index=False)


def read_csv(file: Path) -> pd.DataFrame:
    """What `to_csv` was given, but for carriage returns."""
    import pandas as pd

    return pd.read_csv(file).map(_as_given).rename(columns=_as_given)


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = re.sub(rf"\A{FORMULA}", "'", cell)
    return text.replace("\r\n", "\n").replace("\r", "\n")  # which alone is put into quotes


def _as_given(cell: object) -> object:
    return re.sub(rf"\A'{FORMULA}", "", cell) if isinstance(cell, str) else cell
