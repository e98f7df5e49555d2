"""Where files are, and how they are written.

In the checkout, or for an installed package in the current folder; in the folder named by IQA_HOME where that is set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import threading
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
STUDY = CHECKOUT / "docs" / "study"  # the published study
if INSTALLED:
    if HOME.name == "notebooks" and (HOME / "profiles").is_dir():  # of a notebook that was opened by hand
        HOME = HOME.parent
    os.environ["IQA_HOME"] = str(HOME)  # for kernels, which work in another folder
    own = HOME / "notebooks"  # by `python -m iqa_lib notebooks`
    NOTEBOOKS = own if own.is_dir() else Path(__file__).resolve().with_name("notebooks")
    STUDY = Path(__file__).resolve().with_name("published_study")
PROFILES = NOTEBOOKS / "profiles"
DATA = HOME / "data"
RUNS = HOME / "runs"
FIGURES = HOME / "figures"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, sync, rename: a reader never sees half a file. What is no regular file is written
    to as it is, a link's target is replaced, and permissions stay.

    Raises:
        StorageError: the disk refuses; what was at ``path`` before is still there.
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with writing_to(path if is_stream(path) else path.parent):
        if is_standard_output(path):
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
            return
        if is_stream(path):
            with contextlib.suppress(BrokenPipeError), open(path, "ab") as stream:  # who reads may have enough
                stream.write(content)
            return
        path = Path(os.path.realpath(path))
        # Of another length than the name's, which may be the longest that there is.
        temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_ident()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            sync(temporary)
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk every byte counts
            raise


STREAMS = [Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")]


def is_stream(path: Path) -> bool:
    """A pipe, a device, /dev/stdout: written to as it is; nothing can lie beside it or take its place."""
    return path.absolute().parent in STREAMS or (path.exists() and not path.is_file() and not path.is_dir())


def is_standard_output(path: Path) -> bool:
    """By any of its names: -, /dev/stdout, /proc/self/fd/1, a link to one of these, the file that it was sent to."""
    try:
        return str(path) == "-" or os.path.samestat(path.stat(), os.fstat(1))
    except OSError:  # nothing is there, or standard output is closed
        return False


LONGEST_NAME = 230  # bytes: file systems take 255, and hidden files beside it have longer names


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def require_target(path: Path, folder: bool = False) -> None:
    """Refuses a file (or folder) that cannot be written, before the work whose result it is to hold.

    Raises:
        StorageError: something else is there, or it may not be written.
    """
    if max(len(os.fsencode(part)) for part in path.absolute().parts) > LONGEST_NAME:
        raise StorageError(f"'{path}' is too long a name, of more than {LONGEST_NAME} bytes. Name another place.")
    if not folder and (is_standard_output(path) or is_stream(path)):
        return
    real = Path(os.path.realpath(path))
    if real.exists() and real.is_dir() != folder:
        raise StorageError(f"'{path}' is {'no folder: name one' if folder else 'a folder: name a file in it'}.")
    place = existing(real if folder else real.parent)
    if real.is_symlink() or not place.is_dir():
        reason = "is a link to itself" if real.is_symlink() else f"cannot be: {place} is no folder"
    else:
        closed = [p for p in (place, real) if p.exists() and not os.access(p, os.W_OK | os.X_OK * p.is_dir())]
        reason = f"may not be written: {closed[0]} is closed to you" if closed else ""
    if reason:
        way_out = "Set IQA_HOME to another folder" if path == HOME else "Name another place"
        raise StorageError(f"'{path}' {reason}. {way_out}.")


LONE_BYTES = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


def printable(name: str | Path) -> str:
    """A file's name as valid text: bytes that are no UTF-8 become ``\\udcXX``, and `named` finds the file again."""
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def named(name: str | bytes | os.PathLike) -> Path:
    """The file of a name, as it is or as `printable` wrote it."""
    path = Path(os.path.expanduser(os.fsdecode(name)))  # Path's refuses what only looks like somebody's home: ~1.jpg
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
    except (TimeoutError, BrokenPipeError):  # a lock that another holds, a reader that has enough: no fault of the disk
        raise
    except OSError as error:
        raise storage_error(error, folder) from error


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.ENODEV}


def storage_error(error: OSError, folder: Path) -> StorageError:
    """The message for a person whose ``folder`` could not be written."""
    inside = Path(os.path.abspath(folder)).is_relative_to(HOME)
    elsewhere = "set IQA_HOME to a folder on another disk" if inside else "name another place"
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
        f"{folder} cannot be written: {error.strerror or error}. {remedy}, or {elsewhere}. What was finished before is "
        f"kept: the same command resumes there."
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
