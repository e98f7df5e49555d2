"""Where files are, and how they are written.

In the checkout, or for an installed package in the current folder; in the folder named by IQA_HOME where that is set.
"""

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
INSTALLED = not (CHECKOUT / "pyproject.toml").is_file()
HOME = Path(os.environ.get("IQA_HOME") or (Path.cwd() if INSTALLED else CHECKOUT)).resolve()
NOTEBOOKS = CHECKOUT / "notebooks"
if INSTALLED:
    if HOME.name == "notebooks" and (HOME / "profiles").is_dir():  # of a notebook that was opened by hand
        HOME = HOME.parent
    os.environ["IQA_HOME"] = str(HOME)  # for kernels, which work in another folder
    own = HOME / "notebooks"  # by `python -m iqa_lib notebooks`
    NOTEBOOKS = own if own.is_dir() else Path(__file__).resolve().with_name("notebooks")
PROFILES = NOTEBOOKS / "profiles"
DATA = HOME / "data"
RUNS = HOME / "runs"
FIGURES = HOME / "figures"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, sync, rename: a reader never sees half a file. A link's target is replaced.

    Raises:
        StorageError: the disk refuses; what was at ``path`` before is still there.
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with writing_to(path.parent):
        if is_stream(path):
            with open(path, "ab") as stream:
                stream.write(content)
            return
        path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk every byte counts
            raise


STREAMS = [Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")]


def is_stream(path: Path) -> bool:
    """A pipe, a device, /dev/stdout: written to as it is; nothing can lie beside it or take its place."""
    return path.absolute().parent in STREAMS or (path.exists() and not path.is_file() and not path.is_dir())


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def require_target(path: Path, folder: bool = False) -> None:
    """Refuses a file (or folder) that cannot be written, before the work whose result it is to hold.

    Raises:
        StorageError: something else is there, or the folder may not be written.
    """
    if is_stream(path):
        return
    if path.exists() and path.is_dir() != folder:
        raise StorageError(f"'{path}' is {'a file: name a folder' if folder else 'a folder: name a file in it'}.")
    real = Path(os.path.realpath(path))
    there = existing(real if folder else real.parent)
    if not there.is_dir():
        raise storage_error(OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), there)
    if not os.access(there, os.W_OK | os.X_OK):
        raise storage_error(OSError(errno.EACCES, os.strerror(errno.EACCES)), there)


LONE_BYTES = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


def printable(name: str | Path) -> str:
    """A file's name as valid text: bytes that are no UTF-8 become ``\\udcXX``, and `named` finds the file again."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def named(name: str | Path) -> Path:
    """The file of a name, as it is or as `printable` wrote it."""
    path = Path(name).expanduser()
    original = LONE_BYTES.sub(lambda found: chr(int(found[1], 16)), str(path))
    return Path(original) if original != str(path) and not os.path.lexists(path) else path


def stamps(files: Iterable[str | Path]) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change (ns) of each file: a cache of what is in them is good while these stay."""
    return [(str(file), about.st_size, about.st_mtime_ns) for file in files for about in [Path(file).stat()]]


def sync(path: Path) -> None:
    """Wait until the disk has the file's content: after a power cut a name must not stand for nothing."""
    with open(path, "rb+") as file:  # Windows syncs only what may be written
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
