"""The datasets this workbook knows, and the one way to read any of them into a table."""

import difflib
import importlib.resources
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import yaml
from pydantic.dataclasses import dataclass

from iqa_lib import paths
from iqa_lib.data import near_copies, offline
from iqa_lib.data.labels import SPLITS, checked
from iqa_lib.data.readers import authentic, synthetic
from iqa_lib.data.readers.files import Layout, subfolders
from iqa_lib.data.readers.own import OWN_SUFFIXES, own_label_file, read_own
from iqa_lib.errors import DataError
from iqa_lib.profile import DataSettings
from iqa_lib.progress import shown


@dataclass(frozen=True)
class Download:
    """One archive in a dataset repository on the Hugging Face Hub, with the SHA-256 that the Hub publishes for it."""

    revision: str
    file: str
    gigabytes: float
    sha256: str
    repository: str = "chaofengc/IQA-PyTorch-Datasets"  # pyiqa's collection


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before a byte of it is read."""

    title: str
    scores: str  # what the numbers are, for axis labels
    citation: str
    score_range: tuple[float, float] = (0.0, 100.0)  # worst and best as published; DMOS falls
    images: int | None = None  # in the whole set, without references
    layouts: tuple[Layout, ...] = ()  # tried in this order
    layout: str = ""  # what to put into its folder, for people
    split: str = "70/10/20 % by image, ten seeded splits"
    licence: str = ""
    source: str = ""  # its public page
    surrogate: bool = False  # True: no person gave the scores
    build: Callable[[Path], None] | None = None  # embedded: writes it into a folder
    download: Download | None = None  # where a public address with a checksum has it


_PUBLISHED = yaml.safe_load((importlib.resources.files("iqa_lib.data") / "catalog.yaml").read_text(encoding="utf-8"))
_LAYOUTS = authentic.LAYOUTS | synthetic.LAYOUTS
CATALOG = {name: Dataset(**facts, layouts=_LAYOUTS[name]) for name, facts in _PUBLISHED.items()} | {
    name: Dataset(
        title=name,
        scores="surrogate score (from VSI, HaarPSI, MDSI)",
        surrogate=True,
        build=recipe.build,
        layout="built here when it is first wanted: images/*.png and labels.csv",
        split="fixed, by source",
        citation="built by this workbook from photographs in scikit-image and scikit-learn",
        licence="photographs in the public domain or under Creative Commons, as these packages state",
    )
    for name, recipe in offline.EMBEDDED.items()
}


def describe(name: str, data_folder: str | Path | None) -> Dataset:
    """The catalog's entry, or one for the user's own labels."""
    if name in CATALOG:
        return CATALOG[name]
    found = _published(name, data_folder)
    if found:
        return CATALOG[found[0]]
    return Dataset(Path(name).stem, "MOS", f"your own labels, {name}", split="yours, or 70/10/20 % by reference")


def locate(name: str, data_folder: str | Path | None = None) -> Path | None:
    """The folder of a dataset of the catalog, whatever its name; None if absent.

    Searched are ``data_folder`` (None: `paths.DATA`), its subfolders and theirs, one named like the dataset first.
    """
    if CATALOG[name].build:
        folders = [root_of(data_folder) / name, paths.DATA / name]
        return next((folder for folder in folders if (folder / "labels.csv").is_file()), None)
    found = _published(name, data_folder)
    return found and found[1]


def place_of(name: str, data_folder: str | Path | None = None) -> Path | None:
    """Where a dataset lies: the folder of the catalog's, the label file or folder of one's own; None if absent."""
    if name in CATALOG:
        return locate(name, data_folder)
    try:
        return find_own(name, data_folder)
    except DataError:
        return None


def load_table(
    name: str,
    score_range: tuple[float, float] = (0.0, 100.0),
    data_folder: str | Path | None = None,
    split_seed: int = 0,
    validation: bool = True,
    test_only: bool = False,
) -> pd.DataFrame:
    """One row per image: ``image``, ``path`` (absolute), ``score`` (0–100, higher is better), ``split``, ``reference``.

    ``reference`` names the photograph that an image was made of; where each was taken by itself, the first of its
    near-copies. No reference is on two sides of a split made here; an official split may have some (`crossing`).
    Where published, also ``std`` and votes ``c1`` … ``c5``, ``c_total`` (counts), ``distortion``, ``severity``.
    ``std`` is on the scale of 0–100 too.

    Args:
        name: a name in ``CATALOG`` (embedded ones are built when absent); or labels of one's own: the path of a CSV
            (``image,score`` and any of ``split``, ``reference``, ``std``, ``rater``), of pyiqa's meta-information file,
            of an Excel sheet, of JSON, or of a folder with one of these in it. A relative path is looked for in
            ``data_folder`` and in the workbook's folder, images relative to the label file.
        score_range: worst and best score of one's own labels; mapped to 0–100.
        data_folder: where datasets lie; by default ``data/`` of this workbook.
        split_seed: which of the ten splits, where no official one exists; and which 10 % of the training images are
            for validation, where the official split has none.
        validation: False: no validation part, its images are trained on.
        test_only: for tests across datasets. The official test part, or all images where there is none.

    Raises:
        DataError: the dataset is absent or unknown, or its labels or images are at fault: every fault, in one message.
    """
    table, faults = read_labels(name, score_range, data_folder)
    reading = reading_of(table)
    if faults:
        raise DataError(" | ".join([*faults, *reading]))
    for sentence in reading:
        print(shown(f"{name}: {sentence}"), file=sys.stderr)
    table = divided(table, split_seed, validation, test_only)
    first = ["image", "path", "score", "split", "reference"]
    table = table[[*first, *(column for column in table if column not in first)]]
    return table[table["split"] != ""].reset_index(drop=True)


def read_labels(
    name: str,
    score_range: tuple[float, float] = (0.0, 100.0),
    data_folder: str | Path | None = None,
    scored: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """The table of `load_table` before it is split, and every fault found: a sentence each, with its remedy.

    ``split`` is the official one, or absent. Rows with faults are kept: do not use their ``score`` or ``path``.
    ``scored`` is `read_own`'s.
    Raises DataError where the dataset is absent or unknown, or its label file cannot be read at all.
    """
    if name in CATALOG and CATALOG[name].build:
        folder = _built(name, data_folder)
        return checked(read_own(folder / "labels.csv"), folder, CATALOG[name].score_range)
    found = _published(name, data_folder)
    if found:
        key, folder, layout = found
        return checked(*layout.read(folder, root_of(data_folder).resolve()), CATALOG[key].score_range)
    if name in CATALOG:
        raise DataError(how_to_get(name, data_folder))
    path = find_own(name, data_folder)
    path = own_label_file(path) if path.is_dir() else path
    table = read_own(path, scored)
    if path.is_symlink() and not any(os.path.exists(path.parent / image) for image in table["image"]):
        path = path.resolve()  # a link to labels on another disk, whose images are there too
        table = read_own(path, scored)
    return checked(table, path.parent, score_range)


def reading_of(table: pd.DataFrame) -> list[str]:
    """In a sentence, how labels were read that do not say it plainly themselves."""
    remarks = table.attrs.get("reading")
    return [f"Read {'; '.join(remarks)}."] if remarks else []


def how_to_get(name: str, data_folder: str | Path | None = None) -> str:
    """A page on a dataset of the catalog that is not there: what to put where, and where it comes from."""
    dataset, root = CATALOG[name], root_of(data_folder)
    lines = [
        f"{dataset.title} ('{name}') is not in {root}.",
        f"  Put there, in a folder of any name, as its authors publish it: {dataset.layout}.",
        f"  It comes from {dataset.source}",
        f"  Licence: {dataset.licence}.",
    ]
    nearly = [folder for folder in subfolders(root, 2) if _plain(folder.name) == _plain(name)]
    if nearly:
        wanted = " or ".join(" and ".join(layout.marks) for layout in dataset.layouts)
        lines.append(f"  {nearly[0]} is there, but without {wanted}.")
    lines.append("  Datasets elsewhere: set the profile key data_folder to the folder that holds them.")
    return "\n".join(lines)


def to_published(name: str, score: Any, score_range: tuple[float, float] = (0.0, 100.0)) -> Any:
    """Scores of 0–100, numbers or arrays, on the scale of the dataset's authors, or on one's own ``score_range``."""
    worst, best = CATALOG[name].score_range if name in CATALOG else score_range
    return worst + np.asarray(score, dtype=float) / 100 * (best - worst)


def split_by_reference(reference: pd.Series, seed: int = 0) -> list[str]:
    """70 % train, 10 % validation, 20 % test of the references, so no content is on two sides."""
    names = np.random.default_rng(seed).permutation(sorted(set(reference)))
    bounds = np.round(np.array([0.7, 0.8]) * len(names)).astype(int)
    part = {name: split for split, chunk in zip(SPLITS, np.split(names, bounds), strict=True) for name in chunk}
    return [part[r] for r in reference]


def crossing(table: pd.DataFrame) -> pd.Series:
    """Which test images have a near-copy, or a version of the same photograph, among those trained or validated on."""
    elsewhere = table["reference"][table["split"] != "test"]
    return (table["split"] == "test") & table["reference"].isin(elsewhere)


def divided(table: pd.DataFrame, seed: int, validation: bool, test_only: bool = False) -> pd.DataFrame:
    """The table with each image's ``split``, "" where it is left out; near-copies have one ``reference``."""
    table = table.copy()
    if table["reference"].is_unique:  # photographs as they were taken: none was made of another
        table["reference"] = table["image"].to_numpy()[near_copies.groups(table["path"].tolist())]
    table["split"] = _split(table, seed, validation, test_only)
    return table


def too_few(table: pd.DataFrame, protocol: str) -> str | None:
    """What is to be done where a split of `load_table` has not the three images that training needs."""
    counts = {split: int((table["split"] == split).sum()) for split in SPLITS if split != "val" or protocol == "honest"}
    if min(counts.values()) >= 3:
        return None
    return (
        f"{len(table)} images give {', '.join(f'{count} in split {split!r}' for split, count in counts.items())}; at "
        f"least 3 needed in each. Label more (30 photographs are enough); or write a column 'split' of "
        f"{', '.join(counts)}, and, to cross-validate, train again with others in 'test', under another name."
    )


def require_enough(settings: DataSettings) -> None:
    """Before anything is trained.

    Raises:
        DataError: as `load_table`, and for too few images.
    """
    honest = settings.protocol == "honest"
    table = load_table(settings.dataset, settings.score_range, settings.data_folder, settings.split_seed, honest)
    if lack := too_few(table, settings.protocol):
        raise DataError(f"{settings.dataset}: {lack}")


def _split(table: pd.DataFrame, seed: int, validation: bool, test_only: bool) -> pd.Series:
    """Each row's split; "" leaves the row out."""
    official = "split" in table
    if test_only:
        part = table["split"] == "test" if official and (table["split"] == "test").any() else True
        return pd.Series(np.where(part, "test", ""), index=table.index)
    split = table["split"] if official else pd.Series(split_by_reference(table["reference"], seed), table.index)
    if not validation:
        return split.replace("val", "train")
    if (split == "val").any() or not (split == "train").any():
        return split
    trained = sorted(set(table["reference"][split == "train"]))
    count = round(len(trained) / 10)
    held_out = np.random.default_rng(seed).permutation(trained)[:count]
    return split.mask((split == "train") & table["reference"].isin(held_out), "val")


# --- where it lies ----------------------------------------------------------------------------------------


def root_of(data_folder: str | Path | None) -> Path:
    """The folder that holds the datasets: the one named, or ``data/`` of this workbook."""
    return paths.named(data_folder).resolve() if data_folder else paths.DATA


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _published(name: str, data_folder: str | Path | None) -> tuple[str, Path, Layout] | None:
    """The dataset of this name, or the one of the catalog at this path: its name, folder and layout."""
    if name in CATALOG:
        root = root_of(data_folder)
        keys = [name]
        folders = sorted([root, *subfolders(root, 2)], key=lambda folder: _plain(folder.name) != _plain(name))
    else:
        keys, folders = CATALOG, [path for path in _candidates(name, data_folder) if path.is_dir()][:1]
    fitting = (
        (key, folder.resolve(), layout)
        for folder in folders
        for key in keys
        for layout in CATALOG[key].layouts
        if layout.fits(folder)
    )
    return next(fitting, None)


def _built(name: str, data_folder: str | Path | None) -> Path:
    """The folder of an embedded dataset, which is built where it is absent."""
    paths.DATA.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(paths.DATA / f".{name}.lock"):
        if not locate(name, data_folder):
            CATALOG[name].build(paths.DATA / name)
    return locate(name, data_folder)


def _candidates(name: str, data_folder: str | Path | None) -> list[Path]:
    folders = dict.fromkeys([root_of(data_folder), paths.DATA, paths.HOME])
    return [paths.named(folder / os.path.expanduser(name)) for folder in folders]


def find_own(name: str, data_folder: str | Path | None) -> Path:
    """The label file, or the folder with one in it, that a path of one's own means; DataError where there is none."""
    candidates = _candidates(name, data_folder)
    for path in candidates:
        if path.is_dir() or (path.is_file() and path.suffix.lower() in OWN_SUFFIXES):
            return path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if Path(name).suffix.lower() in OWN_SUFFIXES:
        raise DataError(f"The label file '{name}' does not exist; looked for {' and '.join(map(str, candidates))}.")
    if there := [path for path in candidates if path.is_file()]:
        raise DataError(f"{there[0]} is no label file ({', '.join(OWN_SUFFIXES)}). Save it as 'CSV UTF-8'.")
    near = difflib.get_close_matches(name, CATALOG, n=1)
    raise DataError(
        f"Unknown dataset '{name}'{f', did you mean {near[0]!r}?' if near else '.'} Known: {', '.join(CATALOG)}; or "
        f"give the path of a CSV, Excel or JSON file of your own, or of a folder with one in it."
    )
