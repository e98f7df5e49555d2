"""Which images files, folders and patterns mean."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from iqa_lib import paths
from iqa_lib.data.decode import PHOTOGRAPHS, RAW
from iqa_lib.errors import DataError


def find_images(wanted: Iterable[str | Path]) -> list[Path]:
    """Image files that these files, folders (with all below them) and patterns mean, each once, by name in a folder.

    Raises:
        DataError: one of them means no file.
    """
    found: dict[Path, None] = {}
    for name in wanted:
        path = paths.named(name)
        if not os.fspath(name):  # as a shell has it of a variable that is not set; not the folder that it is in
            matches = []
        elif _may_exist(path):
            matches = [path]
        else:
            matches = sorted(map(Path, {*glob.glob(str(path), recursive=True), *_unreadable_on_the_way(path)}))
        files = [file for match in matches for file in (_images_in(match) if os.path.isdir(match) else [match])]
        if not files:
            kind = f"holds no image ({', '.join(PHOTOGRAPHS)})" if matches else "does not exist"
            raise DataError(f"'{name}' {kind}: name a photograph, a folder, or a pattern such as 'photos/*.jpg'.")
        found |= dict.fromkeys(files)
    return list(found)


def _may_exist(path: Path) -> bool:
    try:
        return bool(os.stat(path))
    except PermissionError:  # its folder may not be read: which is its fault, found when it is opened
        return True
    except (OSError, ValueError):  # longer than any name, or with a null in it
        return False


def _unreadable_on_the_way(pattern: Path) -> list[str]:
    """Folders that a pattern looks into and that may not be read, which `glob` leaves out in silence."""
    looked_into = {folder for above in pattern.parents for folder in glob.glob(str(above), recursive=True)}
    return [folder for folder in looked_into if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK)]


def _images_in(folder: Path) -> list[Path]:
    """Photographs below a folder and below folders that are linked in it; undeveloped raw files, links to
    nothing, pipes and folders that may not be read are among them: they get a fault in place of a score.
    """
    unreadable: list[OSError] = []
    found, suffixes = [], {*PHOTOGRAPHS, *RAW}
    root = os.path.realpath(folder)
    seen = {root}
    for place, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and _is_new(Path(place, name), root, seen)]
        found += [Path(place, f) for f in files if not f.startswith(".") and Path(f).suffix.lower() in suffixes]
    developed = {file.with_suffix("") for file in found if file.suffix.lower() in PHOTOGRAPHS}
    found = [f for f in found if f.suffix.lower() in PHOTOGRAPHS or f.with_suffix("") not in developed]
    return sorted(found + [Path(error.filename) for error in unreadable])


def _is_new(folder: Path, root: str, seen: set[str]) -> bool:
    """Not visited yet by another name; what is linked from inside ``root`` is visited by its own."""
    real = os.path.realpath(folder)
    if real in seen or (folder.is_symlink() and Path(real).is_relative_to(root)):
        return False
    seen.add(real)
    return True
