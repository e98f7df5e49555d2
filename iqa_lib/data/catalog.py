"""The datasets this workbook knows, and the one way to read any of them into a table."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from iqa_lib import paths
from iqa_lib.data import near_copies, offline, readers
from iqa_lib.data.readers import Layout, Listing
from iqa_lib.errors import DataError

SPLITS = ("train", "val", "test")


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


CATALOG = {
    "koniq10k": Dataset(
        title="KonIQ-10k",
        scores="MOS",
        images=10073,
        layouts=readers.KONIQ,
        layout="1024x768/ or 512x384/ (*.jpg) with koniq10k_distributions_sets.csv, which holds the official split, or "
        "koniq10k_scores_and_distributions.csv; or koniq_train.json, koniq_test.json with train/, test/ or 1024x768/",
        split="official 7,058/1,000/2,015 (column `set`); otherwise 70/10/20 % by image, ten seeded splits",
        citation="Hosu, Lin, Sziranyi and Saupe: KonIQ-10k. IEEE Transactions on Image Processing 29, 2020",
        licence="photographs from YFCC100M, each under its own Creative Commons licence; for the rest see its page",
        source="http://database.mmsp-kn.de/koniq-10k-database.html",
        download=Download(
            "6545abd7b3a8556cac11cf9ca5a567cb593e3f60",
            "koniq10k.tgz",
            6.35,
            "18f4b664fed41ffdf37dd5cae6921901d86afddd952fdfa3d77eda25cc48370b",
        ),
    ),
    "spaq": Dataset(
        title="SPAQ",
        scores="MOS",
        images=11125,
        layouts=readers.SPAQ,
        layout="TestImage/ (*.jpg) and Annotations/MOS and Image attribute scores.xlsx; or spaq_test.json with images",
        citation="Fang, Zhu, Zeng, Ma and Wang: Perceptual Quality Assessment of Smartphone Photography. CVPR 2020",
        licence="see its page",
        source="https://github.com/h4nwei/SPAQ",
        download=Download(
            "38ae5dc5019b596e953a6f80f7fcf6b009625766",
            "spaq.tgz",
            34.84,
            "54e0cb49dc8359f9293e746d452d8b12ec653056c9b12a4f97798a984c7418f7",
        ),
    ),
    "kadid10k": Dataset(
        title="KADID-10k",
        scores="DMOS (higher is better)",
        score_range=(1.0, 5.0),
        images=10125,
        layouts=readers.KADID,
        layout="images/ (I01_01_01.png …) and dmos.csv; or kadid_test.json with images",
        split="70/10/20 % of the 81 reference images, ten seeded splits",
        citation="Lin, Hosu and Saupe: KADID-10k, A Large-scale Artificially Distorted IQA Database. QoMEX 2019",
        licence="see its page; the references are photographs from Pixabay",
        source="http://database.mmsp-kn.de/kadid-10k-database.html",
        download=Download(
            "d378319b35bc59b83dec155c3afbaf4e85bf3149",
            "kadid10k.tgz",
            3.07,
            "841396f9237e68c8e6614d5dc907a8fd83d4f403cce89ee2c14524406405b14a",
        ),
    ),
    "agiqa3k": Dataset(
        title="AGIQA-3K",
        scores="MOS",
        score_range=(0.0, 5.0),
        images=2982,
        layouts=readers.AGIQA,
        layout="the images (*.jpg), in any subfolder, and data.csv; or agiqa_test.json with images",
        split="70/10/20 % of the 300 prompts, ten seeded splits",
        citation="Li et al.: AGIQA-3K, An Open Database for AI-Generated Image Quality Assessment. IEEE TCSVT 34, 2024",
        licence="see its page",
        source="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
        download=Download(
            "e874459ad97a21e02874115a6090722c1ce19f24",
            "AGIQA-3K.zip",
            0.1,
            "96401d1f9844ef68092c7f6d5681c8ec90b20c33d238fb4d25033133f10084cf",
        ),
    ),
    "livec": Dataset(
        title="LIVE In the Wild",
        scores="MOS",
        images=1162,
        layouts=readers.LIVEC,
        layout="Images/ (*.bmp, *.JPG, trainingImages/) and Data/AllImages_release.mat, Data/AllMOS_release.mat, "
        "Data/AllStdDev_release.mat. The seven images that trained the raters are left out",
        citation="Ghadiyaram and Bovik: Massive Online Crowdsourced Study of Subjective and Objective Picture Quality. "
        "IEEE Transactions on Image Processing 25, 2016",
        licence="free to use, copy and modify; its copyright notice (README.txt) must stay with every copy",
        source="https://live.ece.utexas.edu/research/ChallengeDB/index.html",
        download=Download(
            "e198fc3981f8f4fb2909fb53ce1a9638aef3deaf",
            "live_challenge.tgz",
            0.33,
            "cdd7a6227de40df10cfd5daf8d19894e95200fa0ca5655bbe50fd433d3b31f25",
        ),
    ),
    "live": Dataset(
        title="LIVE",
        scores="realigned DMOS",
        score_range=(115.0, -5.0),  # realignment carries scores over both ends of the raters' 0–100
        images=779,
        layouts=readers.LIVE,
        layout="refimgs/, jp2k/, jpeg/, wn/, gblur/, fastfading/ (*.bmp), dmos_realigned.mat and refnames_all.mat",
        split="70/10/20 % of the 29 reference images, ten seeded splits",
        citation="Sheikh, Sabir and Bovik: A Statistical Evaluation of Recent Full Reference Image Quality Assessment "
        "Algorithms. IEEE Transactions on Image Processing 15, 2006",
        licence="free to use, copy and modify; its copyright notice must stay with every copy",
        source="https://live.ece.utexas.edu/research/quality/subjective.htm",
        download=Download(
            "edd9e29a50cce30557a69a72566b9d0e7b1067ac",
            "live.tgz",
            0.72,
            "0c23e0ba0d503dd7bfc3d5588fc3e94672e381759881e497c41ca814aa4d9d8f",
        ),
    ),
    "csiq": Dataset(
        title="CSIQ",
        scores="DMOS",
        score_range=(1.0, 0.0),
        images=866,
        layouts=readers.CSIQ,
        layout="src_imgs/, dst_imgs/ (awgn/, jpeg/, jpeg2000/, fnoise/, blur/, contrast/; or dst_imgs_all/) and "
        "csiq.DMOS.xlsx or csiq_label.txt",
        split="70/10/20 % of the 30 reference images, ten seeded splits",
        citation="Larson and Chandler: Most Apparent Distortion. Journal of Electronic Imaging 19, 2010",
        licence="see its page",
        source="https://s2.smu.edu/~eclarson/csiq.html",
        download=Download(
            "3a1693ce3aec04ddf5670eb70fe43a58cc709a1c",
            "csiq.tgz",
            0.38,
            "e34c372c98e751c5490dadeb536e37666296b6c4f651df30cc04c0547ffee5b0",
        ),
    ),
    "tid2013": Dataset(
        title="TID2013",
        scores="MOS",
        score_range=(0.0, 9.0),
        images=3000,
        layouts=readers.TID2013,
        layout="distorted_images/, reference_images/ (*.bmp), mos_with_names.txt, and mos_std.txt for the deviations",
        split="70/10/20 % of the 25 reference images, ten seeded splits",
        citation="Ponomarenko et al.: Image database TID2013. Signal Processing: Image Communication 30, 2015",
        licence="see its page",
        source="https://www.ponomarenko.info/tid2013.htm",
        download=Download(
            "1cbf2a1fb8e785166b5258babd37bad4949dd8cb",
            "tid2013.tgz",
            1.23,
            "ac92094b1469ec0dff181a553b8c84302606ba99f81e38652532cadac886d735",
        ),
    ),
    "bid": Dataset(
        title="BID",
        scores="MOS",
        score_range=(0.0, 5.0),
        images=586,
        layouts=readers.BID,
        layout="ImageDatabase/ (DatabaseImage0001.JPG …) and DatabaseGrades.xlsx",
        citation="Ciancio et al.: No-Reference Blur Assessment of Digital Pictures Based on Multifeature Classifiers. "
        "IEEE Transactions on Image Processing 20, 2011",
        licence="see its page",
        source="http://www02.smt.ufrj.br/~eduardo/ImageDatabase.htm",
    ),
    "biq2021": Dataset(
        title="BIQ2021",
        scores="MOS",
        score_range=(0.0, 1.0),
        images=12000,
        layouts=readers.BIQ2021,
        layout="Images/ (*.jpg), Train (Images and MOS).csv and Test (Images and MOS).csv",
        split="official 10,000/2,000; validation is a tenth of the training images, by seed",
        citation="Ahmed and Asif: BIQ2021, A large-scale blind image quality assessment database. "
        "Journal of Electronic Imaging 31, 2022",
        licence="see its page",
        source="https://github.com/nisarahmedrana/BIQ2021",
    ),
} | {
    name: Dataset(
        title=name,
        scores="surrogate score (from VSI, HaarPSI, MDSI)",
        surrogate=True,
        build=build,
        layout="built here when it is first wanted: images/*.png and labels.csv",
        split="fixed, by source",
        citation="built by this workbook from photographs in scikit-image and scikit-learn",
        licence="photographs in the public domain or under Creative Commons, as these packages state",
    )
    for name, build in offline.EMBEDDED.items()
}


def describe(name: str, data_folder: str | Path | None = None) -> Dataset:
    """The catalog's entry, or one made up for labels of one's own."""
    if name in CATALOG:
        return CATALOG[name]
    recognised = _recognise(name, data_folder)
    if recognised:
        return CATALOG[recognised[0]]
    return Dataset(
        Path(name).stem, "MOS", f"your own labels, {name}", split="yours, or 70/10/20 % by reference"
    )


def locate(name: str, data_folder: str | Path | None = None) -> Path | None:
    """The folder in which this dataset of the catalog lies, under whatever name it was unpacked; None if absent.

    Args:
        data_folder: searched with its subfolders and theirs, a folder named like the dataset first; by default
            ``data/`` of this workbook.
    """
    found = _locate(name, data_folder)
    return found and found[0]


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
            (``image,score`` and any of ``split``, ``reference``, ``std``), of pyiqa's meta-information file, of a JSON
            list, or of a folder with one of these in it. A relative path is looked for in ``data_folder`` and in the
            workbook's folder, images relative to the label file.
        score_range: worst and best score of one's own labels; mapped to 0–100.
        data_folder: where datasets lie; by default ``data/`` of this workbook.
        split_seed: which of the ten splits, where no official one exists; and which tenth of the training images is
            for validation, where the official split has none.
        validation: False: no validation part, its images are trained on.
        test_only: for tests across datasets. The official test part, or all images where there is none.

    Raises:
        DataError: the dataset is absent or unknown, or its labels or images are at fault: every fault, in one message.
    """
    table, faults = read_labels(name, score_range, data_folder)
    if faults:
        raise DataError(" | ".join(faults))
    if table["reference"].is_unique:  # photographs as they were taken: none was made of another
        table["reference"] = table["image"].to_numpy()[near_copies.groups(table["path"].tolist())]
    table["split"] = _split(table, split_seed, validation, test_only)
    first = ["image", "path", "score", "split", "reference"]
    table = table[[*first, *(column for column in table if column not in first)]]
    return table[table["split"] != ""].reset_index(drop=True)


def read_labels(
    name: str, score_range: tuple[float, float] = (0.0, 100.0), data_folder: str | Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The table of `load_table` before it is split, with every fault found: a sentence each, with its mend.

    ``split`` is the official one, or absent. Rows at fault are kept: ``score`` or ``path`` is then not to be used.

    Raises:
        DataError: the dataset is absent or unknown, or its label file cannot be read at all.
    """
    if name in CATALOG and CATALOG[name].build:
        folder = _build_when_absent(name, data_folder)
        return _check(readers.read_own(folder / "labels.csv"), folder, (0.0, 100.0))
    if name in CATALOG:
        found = _locate(name, data_folder)
        if not found:
            raise DataError(how_to_get(name, data_folder))
        folder, layout = found
        return _check(layout.read(folder), folder, CATALOG[name].score_range)
    recognised = _recognise(name, data_folder)
    if recognised:
        key, folder, layout = recognised
        return _check(layout.read(folder), folder, CATALOG[key].score_range)
    path = find_own(name, data_folder)
    path = readers.own_label_file(path) if path.is_dir() else path
    return _check(readers.read_own(path), path.parent, score_range)


def how_to_get(name: str, data_folder: str | Path | None = None) -> str:
    """A page on a dataset of the catalog that is not there: what to put where, and where it comes from."""
    dataset, root = CATALOG[name], root_of(data_folder)
    lines = [
        f"{dataset.title} ('{name}') is not in {root}.",
        f"  Put there, in a folder of any name, as its authors publish it: {dataset.layout}.",
        f"  It comes from {dataset.source}",
        f"  Licence: {dataset.licence}.",
    ]
    nearly = [folder for folder in readers.subfolders(root, 2) if _plain(folder.name) == _plain(name)]
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
    part = {
        name: split for split, chunk in zip(SPLITS, np.split(names, bounds), strict=True) for name in chunk
    }
    return [part[r] for r in reference]


def crossing(table: pd.DataFrame) -> pd.Series:
    """Which test images have a near-copy, or a version of the same photograph, among those trained or validated on."""
    elsewhere = table["reference"][table["split"] != "test"]
    return (table["split"] == "test") & table["reference"].isin(elsewhere)


def _split(table: pd.DataFrame, seed: int, validation: bool, test_only: bool) -> pd.Series:
    """Each row's split; "" leaves the row out."""
    official = "split" in table
    if test_only:
        part = table["split"] == "test" if official and (table["split"] == "test").any() else True
        return pd.Series(np.where(part, "test", ""), index=table.index)
    split = (
        table["split"] if official else pd.Series(split_by_reference(table["reference"], seed), table.index)
    )
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
    return Path(data_folder).expanduser().resolve() if data_folder else paths.DATA


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _locate(name: str, data_folder: str | Path | None) -> tuple[Path, Layout | None] | None:
    root = root_of(data_folder)
    if CATALOG[name].build:
        built = [folder / name for folder in (root, paths.DATA) if (folder / name / "labels.csv").is_file()]
        return (built[0], None) if built else None
    candidates = sorted([root, *readers.subfolders(root, 2)], key=lambda f: _plain(f.name) != _plain(name))
    for folder in candidates:
        for layout in CATALOG[name].layouts:
            if layout.fits(folder):
                return folder.resolve(), layout
    return None


def _recognise(path: str, data_folder: str | Path | None = None) -> tuple[str, Path, Layout] | None:
    """A path that leads to a folder in a published layout."""
    folder = next((f for f in _candidates(path, data_folder) if f.is_dir()), None)
    if folder:
        for name, dataset in CATALOG.items():
            for layout in dataset.layouts:
                if layout.fits(folder):
                    return name, folder.resolve(), layout
    return None


def _build_when_absent(name: str, data_folder: str | Path | None) -> Path:
    paths.DATA.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(paths.DATA / f".{name}.lock"):
        if not locate(name, data_folder):
            CATALOG[name].build(paths.DATA / name)
    return locate(name, data_folder)


def _candidates(name: str, data_folder: str | Path | None) -> list[Path]:
    path = Path(name).expanduser()
    folders = dict.fromkeys([root_of(data_folder), paths.DATA, paths.HOME])
    return [path] if path.is_absolute() else [folder / path for folder in folders]


def find_own(name: str, data_folder: str | Path | None) -> Path:
    """The label file, or the folder with one in it, that a path of one's own means.

    Raises:
        DataError: there is none, and no dataset of this name is known.
    """
    candidates = _candidates(name, data_folder)
    for path in candidates:
        if path.is_dir() or (path.is_file() and path.suffix.lower() in readers.OWN_SUFFIXES):
            return path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if Path(name).suffix.lower() in readers.OWN_SUFFIXES:
        raise DataError(
            f"The label file '{name}' does not exist; looked for {' and '.join(map(str, candidates))}."
        )
    near = difflib.get_close_matches(name, CATALOG, n=1)
    raise DataError(
        f"Unknown dataset '{name}'{f', did you mean {near[0]!r}?' if near else '.'} Known: {', '.join(CATALOG)}; or "
        f"give the path of a CSV or JSON file of your own, or of a folder with one in it."
    )


# --- what may be wrong ------------------------------------------------------------------------------------


class _Faults:
    """What is wrong, each kind once: with its first place, how often, and the mend."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sentences: list[str] = []

    def add(self, where: pd.Index, problem: Callable[[str], str], mend: str) -> None:
        """``problem`` is told about the first row; the others are counted."""
        if len(where):
            more = f" ({len(where)} such rows)" if len(where) > 1 else ""
            self.sentences.append(f"{self.folder / where[0]}: {problem(where[0])}{more}. {mend}")


def _check(
    table: pd.DataFrame, folder: Path, score_range: tuple[float, float]
) -> tuple[pd.DataFrame, list[str]]:
    """Map scores to 0–100, find the images, fill in references; and say all that is wrong."""
    faults = _Faults(folder)
    table = table.assign(image=table["image"].astype(str).str.strip())
    table = table.assign(**_mapped(table, score_range, faults), path=_paths(table, folder, faults))
    _look_for_duplicates(table, faults)
    reference = table.get("reference", table["image"]).astype(str).str.strip()
    table["reference"] = reference.mask(reference == "", table["image"])
    if "split" in table:
        _look_at_split(table, faults)
    if "severity" in table:
        table["severity"] = readers.numbers(table["severity"])
    return table.reset_index(drop=True), faults.sentences


def _mapped(table: pd.DataFrame, score_range: tuple[float, float], faults: _Faults) -> dict[str, pd.Series]:
    worst, best = score_range
    scores = readers.numbers(table["score"])
    finite = np.isfinite(scores)
    faults.add(
        table.index[~finite],
        lambda where: f"score '{table['score'][where]}' is not a number",
        "Correct or remove such rows; decimals are written with a point.",
    )
    mapped = (scores - worst) / (best - worst) * 100
    faults.add(
        table.index[finite & ~mapped.between(-1e-9, 100 + 1e-9)],
        lambda where: f"score {table['score'][where]} is outside {worst}–{best}",
        "For labels of your own set the profile key score_range to the worst and best score of their scale.",
    )
    columns = {"score": mapped.clip(0, 100).where(mapped.between(-1e-9, 100 + 1e-9), mapped)}
    if "std" in table:
        columns["std"] = readers.numbers(table["std"]) * 100 / abs(best - worst)
    return columns


def _paths(table: pd.DataFrame, folder: Path, faults: _Faults) -> list[str | None]:
    listing, found, ambiguous, outside, linked = Listing(folder), [], {}, [], []
    root = folder.resolve()
    holds = functools.lru_cache(None)(lambda place: Path(os.path.realpath(place)).is_relative_to(root))
    for where, image in table["image"].items():
        inside = os.path.normpath(image)
        if os.path.isabs(inside) and Path(inside).is_relative_to(folder):
            inside = os.path.relpath(inside, folder)
        if inside.startswith("..") or os.path.isabs(inside):
            outside.append(where)
            found.append(None)
            continue
        try:
            path = listing.find(inside) if image else None
        except DataError as error:
            ambiguous[where] = str(error)
            path = None
        path = path if path is not None and path.is_file() else None
        if path is not None and not holds(path if path.is_symlink() else path.parent):
            linked.append(where)
            path = None
        found.append(path and str(path))
    faults.add(
        table.index[table["image"] == ""],
        lambda where: "names no image",
        "Give its image, or remove the row.",
    )
    faults.add(
        pd.Index(outside),
        lambda where: f"image '{table['image'][where]}' leaves the folder {folder}",
        "Copy it inside, and name it relative to that folder.",
    )
    faults.add(
        pd.Index(linked),
        lambda where: f"image '{table['image'][where]}' is a link that leaves the folder {folder}",
        "Copy the images inside, or use the labels in the folder where they are.",
    )
    faults.add(pd.Index(list(ambiguous)), ambiguous.get, "Give every file a name of its own.")
    known = table["image"].where([path is None for path in found], "").to_numpy()
    at_fault = {*outside, *linked, *ambiguous}
    missing = [i for i, w in zip(known, table.index, strict=True) if i and w not in at_fault]
    if missing:
        shown = ", ".join(f"'{image}'" for image in missing[:5]) + (", …" if len(missing) > 5 else "")
        faults.sentences.append(
            f"{folder}: {len(missing)} of {len(table)} images are missing: {shown} (named in "
            f"{table.index[0].rsplit(',', 1)[0]}). Put them there, or remove their rows."
        )
    return found


def _look_for_duplicates(table: pd.DataFrame, faults: _Faults) -> None:
    first: dict[str, str] = {}
    again = {}
    for where, path in table["path"].dropna().items():
        if path in first:
            again[where] = f"image '{table['image'][where]}' was already in {first[path]}"
        first.setdefault(path, where)
    faults.add(pd.Index(list(again)), again.get, "Keep one row per image.")


def _look_at_split(table: pd.DataFrame, faults: _Faults) -> None:
    names = {"training": "train", "validation": "val"}
    table["split"] = table["split"].astype(str).str.strip().map(lambda name: names.get(name, name))
    known = table["split"].isin(SPLITS)
    faults.add(
        table.index[~known],
        lambda where: f"split '{table['split'][where]}' is not one of {', '.join(SPLITS)}",
        "Correct it, or remove the column to have the images split by reference.",
    )
    home = table["reference"].map(table["split"].where(known).groupby(table["reference"]).first())
    faults.add(
        table.index[known & (table["split"] != home)],
        lambda where: (
            f"reference '{table['reference'][where]}' is in {table['split'][where]} and in {home[where]}"
        ),
        "Bring all images of a reference to one side, or remove the column split.",
    )
