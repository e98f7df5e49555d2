"""Readers: the label files of published datasets, exactly as their authors lay them out, into one kind of table.

A reader takes the dataset's folder and returns a row per image. Columns: ``image`` (path relative to the folder),
``score`` (on the published scale) and, where published, ``std`` (on that scale), ``split``, ``reference``,
``distortion``, ``severity``, and votes ``c1`` … ``c5`` with their sum ``c_total``. The index says where each row
comes from ("dmos.csv, line 7"), so that every complaint can. Readers look at label files and folder listings
and open no image; `catalog` checks what they return. All raise DataError for a label file they cannot read.
"""

from __future__ import annotations

import functools
import io
import json
import math
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import scipy.io
from joblib.externals import loky

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.errors import DataError

VOTES = ["c1", "c2", "c3", "c4", "c5"]
IMAGE_FOLDERS = ("1024x768", "512x384", "images", "testimage")  # likely ones, the larger images first


@dataclass(frozen=True)
class Layout:
    """One published arrangement of files: what it is recognised by, and how it is read."""

    marks: tuple[str, ...]  # files or folders that are there, relative; the case of letters does not count
    read: Callable[[Path], pd.DataFrame]
    check: Callable[[Path], bool] = lambda folder: True  # where the marks are names that others use too

    def fits(self, folder: Path) -> bool:
        listing = Listing(folder)
        try:
            return all(listing.find(mark) for mark in self.marks) and self.check(folder)
        except (OSError, DataError):  # closed to us, or names that differ in case only: not this one
            return False


# --- files by name ----------------------------------------------------------------------------------------


class Listing:
    """The files below a folder by name; each directory is listed once, and only when a name needs it."""

    def __init__(self, root: Path):
        self.root = root
        self._directories: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file or folder of this relative name, in this case or else in the only other case there is.

        Raises:
            DataError: several files differ from the name, and from one another, in case only.
        """
        found = self.root
        for part in PurePosixPath(name).parts:
            if _is_there(found / part):
                found = found / part
                continue
            alike = self._names(found).get(_fold(part), [])
            if len(alike) > 1:
                raise DataError(
                    f"'{name}' may be any of {', '.join(alike)} in {found}: rename it as it is listed"
                )
            if not alike:
                return None
            found = found / alike[0]
        return found

    def _names(self, directory: Path) -> dict[str, list[str]]:
        if directory not in self._directories:
            names: dict[str, list[str]] = {}
            for entry in directory.iterdir() if directory.is_dir() else ():
                names.setdefault(_fold(entry.name), []).append(entry.name)
            self._directories[directory] = names
        return self._directories[directory]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file's
        return False


def _fold(name: str) -> str:
    # Archives made on a Mac spell accented letters as two characters.
    return unicodedata.normalize("NFC", name).casefold()


def subfolders(folder: Path, depth: int) -> list[Path]:
    """Folders down to ``depth`` levels below, nearest first; no hidden ones, and not the workbook's cache."""
    try:
        children = sorted(
            c for c in folder.iterdir() if c.name[0] != "." and c.name != "cache" and c.is_dir()
        )
    except OSError:  # not there, or closed to us
        return []
    return children + [s for c in children if depth > 1 for s in subfolders(c, depth - 1)]


def place(names: Sequence[str], folder: Path, first: Sequence[str] = ()) -> list[str]:
    """Label files often name images by another machine's path: find the one change that makes all of them fit.

    Leading folders that every name shares may be left out, and one subfolder of ``folder`` put in front; the same
    change holds for every name, so two images of one name are never confused. ``first``: subfolders to prefer.
    """
    names = [name.replace("\\", "/").removeprefix("./") for name in names]
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
    ways = [(cut, base) for cut in range(_shared_folders(trial) + 1) for base in bases]
    best = max(ways, key=hits)  # the first of equals
    return [apply(best, name) for name in names] if hits(best) else names


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part]


def _shared_folders(names: list[str]) -> int:
    folders = [_parts(name)[:-1] for name in names]
    shared = 0
    for column in zip(*folders, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def _is_file(listing: Listing, name: str) -> bool:
    try:
        found = listing.find(name)
    except DataError:  # ambiguous: it is there, and whoever reads it is told
        return True
    return found is not None and found.is_file()


# --- label files of any kind ------------------------------------------------------------------------------


def _file(folder: Path, name: str) -> Path:
    found = Listing(folder).find(name)
    if found is None:
        raise DataError(f"{folder}: no file '{name}'. Unpack the whole archive, unchanged.")
    return found


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


MOST_COLUMNS = 1000


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
        raise DataError(
            f"{path} is not a readable CSV ({reason}). Give every line the same columns."
        ) from error
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
        shapes = _apart(scipy.io.whosmat, str(path))
        _refuse_bomb(path, sum(8 * math.prod(shape) for _, shape, _ in shapes))
        content = _apart(scipy.io.loadmat, str(path))
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
        raise DataError(
            f"{path}: {', '.join(names)} should be numbers or texts ({error}). Load it again."
        ) from error


def _apart(read: Callable, path: str) -> object:
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


LARGEST_LABELS = 200_000_000  # bytes; those of the largest published dataset have a few million


def _refuse_bomb(path: Path, unpacked: int) -> None:
    if unpacked > LARGEST_LABELS:
        raise DataError(
            f"{path} unpacks to {unpacked:,} bytes, more than a label file has ({LARGEST_LABELS:,} are allowed). It is "
            f"damaged or not to be trusted."
        )


def _columns(table: pd.DataFrame, path: Path, **wanted: str) -> pd.DataFrame:
    """Columns under our names: ``ours="theirs"``, the case of theirs not counting."""
    theirs = {c.casefold(): c for c in table.columns}
    absent = [column for column in wanted.values() if column.casefold() not in theirs]
    if absent:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, absent))}; it has {', '.join(table.columns)}. "
            f"Is it the published file?"
        )
    return pd.DataFrame({ours: table[theirs[column.casefold()]] for ours, column in wanted.items()})


def _has_columns(name: str, *columns: str) -> Callable[[Path], bool]:
    def check(folder: Path) -> bool:
        with open(_file(folder, name), encoding="utf-8-sig", errors="replace") as file:
            header = {cell.strip().strip('"').casefold() for cell in file.readline().split(",")}
        return set(columns) <= header

    return check


def numbers(texts: pd.Series) -> pd.Series:
    """Floats; what is no number becomes NaN, which `catalog` reports with its row."""
    return pd.to_numeric(texts, errors="coerce").astype(float)


# --- lists of the reference code --------------------------------------------------------------------------


def read_json_list(path: Path) -> pd.DataFrame:
    """A list of ``{"image": …, "score": …}``, the form of HyperIQA's and SMART-IQA's code; more keys are kept."""
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not readable as JSON: {error.msg}.") from error
    except (RecursionError, ValueError) as error:  # a thousand brackets, a number of a thousand digits
        raise DataError(f"{path}: not readable as JSON: {error}.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{path}: expected a list of objects like {{"image": "a.jpg", "score": 50}}.')
    table = pd.DataFrame(
        rows, index=[f"{path.name}, entry {i}" for i in range(1, len(rows) + 1)], dtype=object
    )
    for column in ("image", "score"):
        if column not in table:
            raise DataError(
                f'{path}: its objects have no "{column}"; they have {", ".join(map(str, table))}.'
            )
    return table.where(table.notna(), "")


def read_json_lists(
    folder: Path,
    stem: str,
    published: tuple[float, float],
    short: tuple[float, float],
    reference: Callable[[str], str] | None = None,
) -> pd.DataFrame:
    """``STEM_train.json``, ``STEM_val.json``, ``STEM_test.json``, as many as there are, brought to ``published``.

    Such lists exist on three scales. The largest score tells which: up to 1 it is 0–1, up to 5 it is ``short``,
    above that 0–100. Images lie in ``train/``, ``test/``, ``1024x768/``, ``images/`` or beside the list.
    """
    parts = []
    for split in ("train", "val", "test"):
        path = Listing(folder).find(f"{stem}_{split}.json")
        if path is not None:
            part = read_json_list(path)[["image", "score"]]
            likely = (split, f"{stem}-{split}", f"{stem}_{split}")
            part["image"] = place(part["image"].astype(str).tolist(), folder, likely)
            parts.append(part.assign(split=split))
    table = pd.concat(parts)
    scores = numbers(table["score"])
    top = scores.max()
    worst, best = (0, 1) if top <= 1 else short if top <= 5 else (0, 100)
    table["score"] = published[0] + (scores - worst) / (best - worst) * (published[1] - published[0])
    if reference:
        table["reference"] = [reference(PurePosixPath(image).name) for image in table["image"]]
    return table


# --- published layouts ------------------------------------------------------------------------------------


def read_koniq(folder: Path, labels: str = "koniq10k_distributions_sets.csv") -> pd.DataFrame:
    """KonIQ-10k. Both label files give a MOS of 0–100 from z-scores (``MOS`` in one, ``MOS_zscore`` in the other).

    ``SD`` is that of the votes 1–5 in both: times 25 it is on a scale of 100. Votes are shares in one file and
    counts in the other, and counts here.
    """
    path = _file(folder, labels)
    raw = read_delimited(path)
    if "set" in raw:
        table = _columns(raw, path, image="image_name", score="MOS", std="SD", split="set")
        sets = {"training": "train", "validation": "val", "test": "test"}
        table["split"] = table["split"].map(lambda name: sets.get(name, name))
    elif "MOS_zscore" in raw:
        table = _columns(raw, path, image="image_name", score="MOS_zscore", std="SD")
    else:  # an early release: the plain mean of votes 1-5
        table = _columns(raw, path, image="image_name", score="MOS", std="SD")
        table["score"] = (numbers(table["score"]) - 1) * 25
    table["std"] = numbers(table["std"]) * 25
    votes = _columns(raw, path, **{c: c for c in [*VOTES, "c_total"]}).apply(numbers)
    if votes[VOTES].to_numpy().max() <= 1 and (votes["c_total"] > 5).all():
        votes[VOTES] = votes[VOTES].mul(votes["c_total"], axis=0).round()
    listing = Listing(folder)
    size = "1024x768" if listing.find("1024x768") or not listing.find("512x384") else "512x384"
    return table.assign(image=size + "/" + table["image"], **votes)


def read_spaq(folder: Path, labels: str = "Annotations/MOS and Image attribute scores.xlsx") -> pd.DataFrame:
    table = read_sheet(_file(folder, labels), ["Image name", "MOS"])
    images = "TestImage/" + table["Image name"].astype(str)
    return pd.DataFrame({"image": images, "score": numbers(table["MOS"])})


def read_kadid(folder: Path) -> pd.DataFrame:
    """KADID-10k. Two names mislead: a higher ``dmos`` is better, and ``var`` holds the standard deviation.

    (30 ratings of mean 4.57 and of standard deviation 0.496 exist, and are 17 fives and 13 fours.)
    """
    path = _file(folder, "dmos.csv")
    table = _columns(
        read_delimited(path), path, image="dist_img", reference="ref_img", score="dmos", std="var"
    )
    table["reference"] = table["reference"].map(_stem)
    kinds, names = _numbers_in_name(table["image"]), list(DISTORTIONS)
    table["distortion"] = [names[k - 1] if k and k <= len(names) else "" for k, _ in kinds]
    table["severity"] = [float(level) for _, level in kinds]
    return table.assign(image="images/" + table["image"])


def _numbers_in_name(images: Iterable[str]) -> list[tuple[int, int]]:
    """Distortion and level of ``I01_02_03.png``; zeros where a name is of another form."""
    parts = [_stem(image).split("_")[1:] for image in images]
    return [(int(p[0]), int(p[1])) if len(p) == 2 and "".join(p).isdigit() else (0, 0) for p in parts]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def read_agiqa(folder: Path) -> pd.DataFrame:
    """AGIQA-3K. Images of one prompt, by all generators, count as one source."""
    path = _file(folder, "data.csv")
    table = _columns(
        read_delimited(path), path, image="name", score="mos_quality", std="std_quality", reference="prompt"
    )
    return table.assign(image=place(table["image"].tolist(), folder))


def read_livec(folder: Path) -> pd.DataFrame:
    """LIVE In the Wild. The first seven entries (``t1.bmp`` …) trained the raters: they are left out."""
    (images,) = read_mat(_file(folder, "Data/AllImages_release.mat"), "AllImages_release")
    (scores,) = read_mat(_file(folder, "Data/AllMOS_release.mat"), "AllMOS_release")
    (std,) = read_mat(_file(folder, "Data/AllStdDev_release.mat"), "AllStdDev_release")
    _require_equal_lengths(folder / "Data", images=images, scores=scores, deviations=std)
    table = pd.DataFrame(
        {"image": images, "score": scores, "std": std}, index=_entries("AllMOS_release.mat", images)
    )
    rated = table[~table["image"].str.fullmatch(r"t\d+\.\w+")]
    return rated.assign(image="Images/" + rated["image"])


LIVE_COUNTS = {
    "jp2k": 227,
    "jpeg": 233,
    "wn": 174,
    "gblur": 174,
    "fastfading": 174,
}  # in the order of the labels


def read_live(folder: Path) -> pd.DataFrame:
    """LIVE (release 2) with the realigned DMOS. The 203 undistorted copies (``orgs``) are left out."""
    images = [f"{kind}/img{i + 1}.bmp" for kind, count in LIVE_COUNTS.items() for i in range(count)]
    path = _file(folder, "dmos_realigned.mat")
    scores, originals = read_mat(path, "dmos_new", "orgs")
    (references,) = read_mat(_file(folder, "refnames_all.mat"), "refnames_all")
    _require_equal_lengths(folder, images=images, scores=scores, originals=originals, references=references)
    table = pd.DataFrame(
        {
            "image": images,
            "score": scores,
            "reference": [_stem(name) for name in references],
            "distortion": [image.split("/")[0] for image in images],
        },
        index=_entries(path.name, images),
    )
    if "dmos_std" in {name for name, *_ in _apart(scipy.io.whosmat, str(path))}:
        (table["std"],) = read_mat(path, "dmos_std")
    return table[originals == 0]


CSIQ_KINDS = {
    "noise": "AWGN",
    "jpeg": "JPEG",
    "jpeg 2000": "jpeg2000",
    "blur": "BLUR",
}  # in sheet: in file name


def read_csiq_sheet(folder: Path) -> pd.DataFrame:
    path = _file(folder, "csiq.DMOS.xlsx")
    raw = read_sheet(path, ["image", "dst_type", "dst_lev", "dmos_std", "dmos"], sheet="all_by_image")
    kinds = [CSIQ_KINDS.get(str(kind).strip().lower(), str(kind).strip()) for kind in raw["dst_type"]]
    names = [
        f"{_whole(image)}.{kind}.{_whole(level)}.png"
        for image, kind, level in zip(raw["image"], kinds, raw["dst_lev"], strict=True)
    ]
    return _csiq(folder, names, raw["dmos"]).assign(std=numbers(raw["dmos_std"]))


def read_csiq_text(folder: Path) -> pd.DataFrame:
    """``csiq_label.txt``, the label file that goes with HyperIQA's code: a name and a DMOS a line."""
    raw = _read_words(_file(folder, "csiq_label.txt"), 2)
    names = [name if name.endswith(".png") else f"{name}.png" for name in raw[0]]
    return _csiq(folder, names, raw[1])


def _csiq(folder: Path, names: list[str], scores: pd.Series) -> pd.DataFrame:
    listing = Listing(folder)
    parts = [[*name.split("."), "", ""][:3] for name in names]
    if listing.find("dst_imgs_all"):  # HyperIQA wants them all in one folder
        folders = ["dst_imgs_all"] * len(names)
    elif listing.find("dst_imgs/awgn") or not listing.find(f"dst_imgs/{names[0]}"):
        folders = [f"dst_imgs/{kind.lower()}" for _, kind, _ in parts]
    else:
        folders = ["dst_imgs"] * len(names)
    return pd.DataFrame(
        {
            "image": [f"{a}/{b}" for a, b in zip(folders, names, strict=True)],
            "score": numbers(scores),
            "reference": [reference for reference, _, _ in parts],
            "distortion": [kind.lower() for _, kind, _ in parts],
            "severity": [float(level) if level.isdigit() else np.nan for _, _, level in parts],
        },
        index=scores.index,
    )


TID_DISTORTIONS = [
    "additive-gaussian-noise",
    "color-component-noise",
    "spatially-correlated-noise",
    "masked-noise",
    "high-frequency-noise",
    "impulse-noise",
    "quantization-noise",
    "gaussian-blur",
    "denoising",
    "jpeg",
    "jpeg2000",
    "jpeg-transmission-errors",
    "jpeg2000-transmission-errors",
    "non-eccentricity-pattern-noise",
    "local-blocks",
    "mean-shift",
    "contrast-change",
    "color-saturation",
    "multiplicative-gaussian-noise",
    "comfort-noise",
    "lossy-compression-of-noisy-images",
    "color-quantization-with-dither",
    "chromatic-aberrations",
    "sparse-sampling",
]


def read_tid(folder: Path) -> pd.DataFrame:
    """TID2013. Deviations come from ``mos_std.txt``, in the order of ``mos_with_names.txt``, where it is there."""
    raw = _read_words(_file(folder, "mos_with_names.txt"), 2)
    kinds = _numbers_in_name(raw[1])
    table = pd.DataFrame(
        {
            "image": "distorted_images/" + raw[1],
            "score": numbers(raw[0]),
            "reference": [_stem(name).split("_")[0].lower() for name in raw[1]],
            "distortion": [TID_DISTORTIONS[k - 1] if 0 < k <= 24 else "" for k, _ in kinds],
            "severity": [float(level) for _, level in kinds],
        }
    )
    deviations = Listing(folder).find("mos_std.txt")
    if deviations:
        std = _read_words(deviations, 1)[0]
        _require_equal_lengths(folder, scores=raw, deviations=std)
        table["std"] = numbers(std).to_numpy()
    return table


def _is_tid2013(folder: Path) -> bool:
    # TID2008 has the same file, with 17 kinds of distortion.
    return "_24_" in _file(folder, "mos_with_names.txt").read_text(encoding="utf-8", errors="replace")


def read_bid(folder: Path) -> pd.DataFrame:
    path = _file(folder, "DatabaseGrades.xlsx")
    table = read_sheet(path, ["Image Number", "Average Subjective Grade"])
    table = table.dropna(subset=["Image Number"])  # notes below the table
    names = [f"DatabaseImage{_whole(number):0>4}.JPG" for number in table["Image Number"]]
    read = pd.DataFrame(
        {
            "image": place(names, folder, ["ImageDatabase"]),
            "score": numbers(table["Average Subjective Grade"]),
        },
        index=table.index,
    )
    return read.assign(std=numbers(table["std"])) if "std" in table else read


def read_biq(folder: Path) -> pd.DataFrame:
    parts = []
    for split in ("train", "test"):
        path = _file(folder, f"{split.capitalize()} (Images and MOS).csv")
        table = _columns(read_delimited(path), path, image="Image Name", score="MOS")
        parts.append(table.assign(image="Images/" + table["image"], split=split))
    return pd.concat(parts)


def _whole(cell: object) -> str:
    """Excel keeps 1600 as 1600.0."""
    return str(int(cell)) if isinstance(cell, int | float) and cell == int(cell) else str(cell).strip()


def _read_words(path: Path, count: int) -> pd.DataFrame:
    rows, index = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split(None, count - 1)
        if not words:
            continue
        if len(words) != count:
            raise DataError(
                f"{path}, line {number}: '{line.strip()}' has not {count} words. Is it the published file?"
            )
        rows.append([word.strip() for word in words])
        index.append(f"{path.name}, line {number}")
    if not rows:
        raise DataError(f"{path} is empty. Unpack or load it again.")
    return pd.DataFrame(rows, index=index)


def _entries(file: str, values: Sequence) -> list[str]:
    return [f"{file}, entry {i}" for i in range(1, len(values) + 1)]


def _require_equal_lengths(folder: Path, **lists: Sequence) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(
            f"{folder}: {counted}; these should be equally many. Unpack the archive again, unchanged."
        )


# --- one's own labels -------------------------------------------------------------------------------------

# Our name for a column: the names it goes by in pyiqa's meta-information files and other collections.
ALIASES = {
    "image": ("image", "img_name", "image_name", "img_path", "dist_name", "dist_img", "dis_img_path", "name"),
    "score": ("score", "mos", "dmos"),
    "std": ("std",),
    "split": ("split", "official_split"),
    "reference": ("reference", "ref_name", "ref_img", "ref_img_path"),
    "distortion": ("distortion", "dis_type"),
}
OWN_SUFFIXES = (".csv", ".tsv", ".txt", ".json")


def read_own(path: Path) -> pd.DataFrame:
    """One's own labels: CSV with a header, pyiqa's meta-information file with or without one, or JSON list."""
    table = read_json_list(path) if path.suffix.lower() == ".json" else _read_own_csv(path)
    return table.assign(image=place(table["image"].astype(str).tolist(), path.parent))


def _read_own_csv(path: Path) -> pd.DataFrame:
    table = read_delimited(path)
    if any(_is_number(name) for name in table.columns):
        return _name_by_position(read_delimited(path, header=False), path)
    theirs = {c.casefold(): c for c in table.columns}
    renamed = {}
    for ours, names in ALIASES.items():
        found = [theirs[name] for name in names if name in theirs]
        if found and ours not in table:
            renamed[found[0]] = ours
    table = table.rename(columns=renamed)
    for column in ("image", "score"):
        if column not in table:
            raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.columns)}. Rename yours.")
    return table


def _name_by_position(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """pyiqa without a header: image, score[, std], or reference, image, score[, std]."""
    texts = sum(not _is_number(cell) for cell in table.iloc[0])
    names = {1: ["image", "score", "std"], 2: ["reference", "image", "score", "std"]}.get(texts, [])
    if not texts < table.shape[1] <= len(names):
        raise DataError(
            f"{path}: no header, and its first line is neither image, score, std nor reference, image, score, std. "
            f"Put a line 'image,score' on top."
        )
    return table.set_axis(names[: table.shape[1]], axis=1)


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def own_label_file(folder: Path) -> Path:
    """The one label file in a folder of one's own.

    Raises:
        DataError: there is none, or more than one.
    """
    files = sorted(
        f for f in folder.iterdir() if f.suffix.lower() in OWN_SUFFIXES and f.is_file() and f.name[0] != "."
    )
    files = [f for f in files if f.suffix.lower() != ".txt"] or files  # a README.txt is no rival
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise DataError(
            f"{folder}: expected one label file ({', '.join(OWN_SUFFIXES)}), found {found}. "
            f"Name the file itself as the dataset."
        )
    return files[0]


# --- which layouts a dataset comes in ---------------------------------------------------------------------


def _json_layout(
    stem: str, published: tuple[float, float], short: tuple[float, float], reference=None
) -> Layout:
    read = functools.partial(
        read_json_lists, stem=stem, published=published, short=short, reference=reference
    )
    return Layout((f"{stem}_test.json",), read)


_KONIQ_LISTS = _json_layout("koniq", (0, 100), (1, 5))
KONIQ = (
    Layout(("koniq10k_distributions_sets.csv",), read_koniq),
    # with both of the reference code's lists there is a split; the next label file has none
    Layout(("koniq_train.json", *_KONIQ_LISTS.marks), _KONIQ_LISTS.read),
    Layout(
        ("koniq10k_scores_and_distributions.csv",),
        functools.partial(read_koniq, labels="koniq10k_scores_and_distributions.csv"),
    ),
    _KONIQ_LISTS,
)
SPAQ = (
    Layout(("Annotations/MOS and Image attribute scores.xlsx",), read_spaq),
    Layout(
        ("MOS and Image attribute scores.xlsx",),
        functools.partial(read_spaq, labels="MOS and Image attribute scores.xlsx"),
    ),
    _json_layout("spaq", (0, 100), (1, 5)),
)
KADID = (
    Layout(("dmos.csv",), read_kadid, _has_columns("dmos.csv", "dist_img", "ref_img", "dmos")),
    _json_layout("kadid", (1, 5), (1, 5), lambda name: _stem(name).split("_")[0]),
)
AGIQA = (
    Layout(("data.csv",), read_agiqa, _has_columns("data.csv", "name", "mos_quality")),
    _json_layout("agiqa", (0, 5), (0, 5)),
)
LIVEC = (Layout(("Data/AllMOS_release.mat", "Data/AllImages_release.mat"), read_livec),)
LIVE = (Layout(("dmos_realigned.mat", "refnames_all.mat"), read_live),)
CSIQ = (
    Layout(("csiq.DMOS.xlsx",), read_csiq_sheet),
    Layout(("csiq_label.txt",), read_csiq_text),
)
TID2013 = (Layout(("mos_with_names.txt",), read_tid, _is_tid2013),)
BID = (Layout(("DatabaseGrades.xlsx",), read_bid),)
BIQ2021 = (Layout(("Train (Images and MOS).csv", "Test (Images and MOS).csv"), read_biq),)
