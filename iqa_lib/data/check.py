"""What is known, what is there, and everything that is wrong with it."""

import hashlib
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from iqa_lib.data import catalog, decode, images, near_copies
from iqa_lib.data.labels import few
from iqa_lib.errors import DataError
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress, shown


@dataclass
class Report:
    """A dataset's state. Faults stop training or falsify its result; notes do neither."""

    name: str
    folder: Path | None = None
    images: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> int:
        """Prints it; the exit code."""
        print(shown(f"{self.name}: {self.images:,} labelled images in {self.folder or 'no folder'}"))
        for number, fault in enumerate(self.faults, 1):
            print(shown(f"fault {number}: {fault}"))
        for note in self.notes:
            print(shown(f"note: {note}"))
        print(f"{len(self.faults) or 'no'} fault{'' if len(self.faults) == 1 else 's'}")
        return int(bool(self.faults))


def overview(data_folder: str | None = None) -> pd.DataFrame:
    """A row per dataset of the catalog: name, published number of images, what is there, how to get the rest."""
    rows = []
    for name, dataset in catalog.CATALOG.items():
        folder = catalog.locate(name, data_folder)
        rows.append(
            {
                "dataset": name,
                "title": dataset.title,
                "images": f"{dataset.images:,}" if dataset.images else "",
                "present": _count_present(name, data_folder) if folder else "no",
                "where, or how to get it": str(folder or _how_to_get(name, dataset)),
            }
        )
    return pd.DataFrame(rows)


def _count_present(name: str, data_folder: str | None) -> str:
    try:
        table, faults = catalog.read_labels(name, data_folder=data_folder)
    except DataError:
        return f"at fault: data check {name}"
    count = f"{table['path'].notna().sum():,} images"
    return f"{count}, at fault: data check {name}" if faults else count


def _how_to_get(name: str, dataset: catalog.Dataset) -> str:
    if dataset.build:
        return "built when it is first wanted"
    if dataset.download:
        return f"data download {name} ({dataset.download.gigabytes:g} GB)"
    return f"from {dataset.source}"


def check(name: str, settings: Profile) -> Report:
    """Read all labels, decode every image of a dataset (as `catalog.load_table` names it) and collect all faults.

    Its sizes matter less where it is one of ``test_datasets``.
    """
    place = catalog.place_of(name, settings.data_folder)
    report = Report(name, place.parent if place and place.is_file() else place)
    try:
        table, faults = catalog.read_labels(name, settings.score_range, settings.data_folder)
        report.notes += catalog.reading_of(table)
        report.faults += faults
    except DataError as error:
        report.faults.append(str(error))
        table = pd.DataFrame(columns=["image", "path", "score", "reference"])
    labelled = table[table["path"].notna()].drop_duplicates("path")
    report.images = len(labelled)
    published = catalog.describe(name, settings.data_folder).images
    if published and report.images and report.images != published:
        report.faults.append(
            f"{report.folder}: {report.images:,} labelled images, published are {published:,}. Unpack the whole "
            f"archive again; use what is there only if a part is intended."
        )
    if not (published or report.faults or name in settings.test_datasets):
        lack = catalog.too_few(
            catalog.divided(table, settings.split_seed, settings.protocol == "honest"), settings.protocol
        )
        report.faults += [lack] if lack else []
    _look_at_scores(report, table)
    _look_at_case(report, labelled)
    unlabelled = _without_row(labelled, report.folder)
    others = report.notes if published else report.faults
    if unlabelled and report.images:
        others.append(
            f"{len(unlabelled)} images have no row: {few(Path(f).name for f in unlabelled)}. They are not used; "
            f"add rows for those that should be."
        )
    if labelled["reference"].is_unique and report.images:
        _look_at_near_copies(report, labelled)
    _look_at_images(report, labelled["path"].tolist() or unlabelled, others)
    return report


def _look_at_scores(report: Report, table: pd.DataFrame) -> None:
    scores = table["score"].dropna()
    if len(scores) > 1 and scores.min() >= 0 and scores.max() <= 100 and scores.max() - scores.min() < 20:
        report.notes.append(
            f"The scores fill {scores.min():.0f} to {scores.max():.0f} of 0–100 only. If their scale is another, set "
            f"the profile key score_range to its worst and best score."
        )


def _look_at_case(report: Report, table: pd.DataFrame) -> None:
    pairs = [(Path(image).name, Path(path).name) for image, path in zip(table["image"], table["path"], strict=True)]
    other = [f"'{x}' is {y}" for x, y in pairs if x != y and x.casefold() == y.casefold()]
    if other:
        report.notes.append(
            f"{len(other)} names differ from their files in the case of letters: {few(other)}. They are read all the "
            f"same; for other programs rename the files."
        )


def _look_at_near_copies(report: Report, labelled: pd.DataFrame) -> None:
    first = near_copies.groups(labelled["path"].tolist())
    copies = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return
    names = labelled["image"].to_numpy()
    alike = few(f"{names[i]} ≈ {names[first[i]]}" for i in copies)
    text = f"{len(copies)} images are near-copies of another: {alike}. They count as one photograph"
    if "split" in labelled:
        split = labelled["split"].to_numpy()
        apart = (split[copies] != split[first[copies]]).sum()
        if apart:
            text += f"; {apart} are on both sides of the official split: results are given with and without them"
    report.notes.append(f"{text}.")


def _without_row(labelled: pd.DataFrame, folder: Path | None) -> list[str]:
    """Image files beside the labelled ones, or anywhere in the folder where none is; references left out."""
    known = set(labelled["path"])
    references = {str(name).casefold() for name in labelled["reference"]}
    if len(labelled):
        beside = {Path(path).parent for path in known}
        candidates = [file for place in sorted(beside) for file in sorted(place.iterdir())]
    else:
        candidates = sorted(folder.rglob("*")) if folder else []
    suffixes = Image.registered_extensions()
    return [
        str(file)
        for file in candidates
        if file.suffix.lower() in suffixes
        and str(file) not in known
        and not {file.stem.casefold(), file.name.casefold()} & references
    ]


def _examine(path: str) -> tuple[tuple[bytes, tuple[int, int]], list[str]] | DataError:
    """What identifies an image, its SHA-256 and size; and what is unusual about its file."""
    try:
        image = decode.decode_whole(path)
        with decode.open_image(path) as file:
            named = Image.registered_extensions().get(Path(path).suffix.lower())
            remarks = [f"of mode {file.mode}"] if file.mode not in ("RGB", "L") else []
            if named and named != file.format and {named, file.format} != {"JPEG", "MPO"}:
                remarks.append(f"{file.format} files named {Path(path).suffix}")
            if decode.to_srgb(file)[0] is not decode.as_it_is:
                remarks.append("of other colours than sRGB, by their profile")
            if file.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                remarks.append("turned by their EXIF orientation")
    except DataError as error:
        return error
    return (hashlib.sha256(image).digest(), image.shape[:2]), remarks


def _look_at_images(report: Report, files: list[str], others: list[str]) -> None:
    costs = [height * width for height, width in images.read_sizes(files)]
    alike, remarks = defaultdict(list), Counter()
    with decode.quiet_pillow():
        examined = images.in_order(_examine, zip(files, costs, strict=True))
        for path, found in zip(files, Progress(examined, desc="opening images", total=len(files)), strict=True):
            if isinstance(found, DataError):
                report.faults.append(str(found))
            else:
                alike[found[0]].append(Path(path).name)
                remarks.update(found[1])
    same = [names for names in alike.values() if len(names) > 1]
    if same:
        others.append(
            f"{len(same)} images are there more than once under several names: "
            f"{few(' = '.join(names) for names in same)}. Keep one row of each, or give them one reference, so that "
            f"none is on two sides of the split."
        )
    report.notes += [f"{count} images are {remark}; they are converted." for remark, count in remarks.items()]
    if alike:
        sizes = [size for _, size in alike]
        small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
        report.notes.append(f"Image sizes: {small[1]}×{small[0]} to {large[1]}×{large[0]} pixels.")
