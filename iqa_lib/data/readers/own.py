"""One's own labels: columns are found by their names or, where nobody knows these, by what is in them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import place, subfolders
from iqa_lib.data.readers.json_lists import read_json_list
from iqa_lib.data.readers.tables import (
    NUMBER,
    VOTES,
    decoded,
    headed,
    is_image,
    numbers,
    read_cells,
    read_sheets,
    separator_of,
    trimmed,
    whole,
)
from iqa_lib.errors import DataError

# Our name for a column: the names it goes by in pyiqa's meta-information files, other collections and spreadsheets.
ALIASES = {
    "image": "image imgname imagename imgpath imagepath distname distimg disimgpath imagefile imagefilename filename "
    "filepath file img imageid photo picture path name stimulus stimulusname pvs taskimage taskrunimage",
    "score": "score mos dmos rating quality elo vote taskruninfo meanopinionscore meanscore meanrating moszscore",
    "std": "std sd stddev stdev standarddeviation mosstd stdmos",
    "split": "split officialsplit",
    "reference": "reference refname refimg refimgpath referenceimage",
    "distortion": "distortion distype distortiontype",
    "severity": "severity",
    "rater": "rater raterid user userid subject subjectid observer observerid worker workerid participant "
    "participantid annotator annotatorid username taskrunuserid completedby",
}
KNOWN = {name: ours for ours, names in ALIASES.items() for name in names.split()}
ONE_RATERS = re.compile(rf"({ALIASES['rater'].replace(' ', '|')}|[rsp])\d+")
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_WORDS |= {"test": "test", "testing": "test"}
OWN_SUFFIXES = (".csv", ".tsv", ".json", ".xlsx", ".txt")
LOOKED_AT = 200  # rows, to see what a column holds


def read_own(path: Path, scored: bool = True) -> pd.DataFrame:
    """A table with at least ``image`` and ``score``; ``attrs["reading"]`` has what the file did not say plainly.

    Not ``scored``: a list without a column of scores will do, and has empty ones here.

    Raises:
        DataError: the file cannot be read, or can be read in two ways.
    """
    remarks: list[str] = []
    suffix = path.suffix.lower()
    if suffix == ".json":
        table = read_json_list(path).map(whole)
    else:
        cells = _cells_of_sheet(path, remarks) if suffix == ".xlsx" else _cells_of_text(path, remarks)
        header = _header(cells)
        if header is None:
            table = cells.loc[:, (cells != "").any()]
            table = table.set_axis([""] * table.shape[1], axis=1)
            remarks.append("without a header")
        else:
            table = headed(cells, path, header)
    table = _named(table, path, remarks, scored)
    names = table["image"].tolist()
    if not any(map(is_image, names)) and (named := _with_endings(names, path.parent)) != names:
        names = named
        remarks.append(f"images with their endings, as in '{names[0]}'")
    table = table.assign(image=place(names, path.parent) or names)
    table.attrs["reading"] = remarks
    return table


def _with_endings(names: list[str], folder: Path) -> list[str]:
    """Names that lack the endings of their files, with these; but for one that several files have."""
    files = defaultdict(set)
    for file in (file for inside in (folder, *subfolders(folder, 2)) for file in inside.glob("*.*")):
        if is_image(file.name):
            files[file.stem].add(file.suffix)
    endings = (files.get(name.replace("\\", "/").rpartition("/")[2], ()) for name in names)
    return [name + next(iter(found)) if len(found) == 1 else name for name, found in zip(names, endings, strict=True)]


def _cells_of_text(path: Path, remarks: list[str]) -> pd.DataFrame:
    text, encoding = decoded(path)
    separator = separator_of(text)
    if encoding != "utf-8-sig":
        remarks.append(f"in {encoding.upper()}")
    if separator in ("bars", "white space"):
        remarks.append(f"separated by {separator}")
    return read_cells(path, text, separator)


def _cells_of_sheet(path: Path, remarks: list[str]) -> pd.DataFrame:
    """Of the first sheet with images in it."""
    sheets = {name: sheet for name, sheet in read_sheets(path, None).items() if not sheet.empty}
    if not sheets:
        raise DataError(f"{path} has no rows: expected a row per image below the header.")
    name = max(sheets, key=lambda name: sheets[name].head(LOOKED_AT).map(is_image).any(axis=None))
    if len(sheets) > 1:
        remarks.append(f"from the sheet '{name}'")
    return trimmed(sheets[name].where(sheets[name].notna(), "").map(whole), f"{path.name}, row ")


def _header(cells: pd.DataFrame) -> int | None:
    """Which row it is: the first that names a column for images, or else the first of all if it has no image in it."""
    for number, row in enumerate(cells.head(20).itertuples(index=False)):
        if any(map(is_image, row)):
            return None if number == 0 else 0
        if sum(cell != "" for cell in row) > 1 and "image" in (KNOWN.get(plain_name(cell)) for cell in row):
            return number
    return None if len(cells) and any(map(NUMBER.fullmatch, cells.iloc[0])) else 0


def plain_name(name: str) -> str:
    """Of a column: letters and digits alone, small."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _content(column: pd.Series) -> str:
    """What most of its cells are."""
    seen = column[column != ""].head(LOOKED_AT)
    for kind, test in {
        "image": is_image,
        "number": NUMBER.fullmatch,
        "split": lambda word: word.casefold() in SPLIT_WORDS,
    }.items():
        if sum(map(bool, map(test, seen))) * 2 > len(seen):
            return kind
    return "text"


def _named(table: pd.DataFrame, path: Path, remarks: list[str], scored: bool) -> pd.DataFrame:
    """The columns under our names, found by theirs and then by content; those without any name by content alone."""
    names = list(table)
    plain = [plain_name(name) for name in names]
    holds = [_content(table.iloc[:, c]) for c in range(len(names))]
    unknown = [c for c, name in enumerate(names) if plain[c] not in KNOWN and not name.startswith("Unnamed: ")]

    def called(ours: str) -> list[int]:
        return [c for alias in ALIASES[ours].split() for c, name in enumerate(plain) if name == alias]

    def holding(kind: str, columns: list[int]) -> list[int]:
        return [c for c in columns if holds[c] == kind]

    def shown(columns: Iterable[int]) -> str:
        return ", ".join(
            f"'{names[c]}'" if names.count(names[c]) == 1 and names[c] else f"column {c + 1}" for c in columns
        )

    chosen = {ours: called(ours)[:1] for ours in ALIASES}
    chosen["split"] = chosen["split"] or holding("split", unknown)[:1]
    images = holding("image", called("image"))
    images = [c for c in images if plain[c] == plain[images[0]]] or holding("image", unknown) or chosen["image"]
    images = [c for c in images if c == images[0] or not table.iloc[:, c].equals(table.iloc[:, images[0]])]
    scores = [c for c in called("score") if plain[c] == "score"] or called("score")
    if scores or scored:
        scores = (holding("number", scores) or scores) if scores else holding("number", unknown)
    scores = [c for c in scores if c == scores[0] or not table.iloc[:, c].equals(table.iloc[:, scores[0]])]
    raters = [c for c in unknown if ONE_RATERS.fullmatch(plain[c])]
    if not any(names):
        images = sorted(images or holding("text", unknown), key=lambda c: table.iloc[:, c].nunique())
        if len(images) == 2:  # as in pyiqa's files
            chosen["reference"], images = images[:1], images[1:]
        if len(scores) == 2:
            scores, chosen["std"] = scores[:1], scores[1:]
    chosen |= {"image": images, "score": raters if len(raters) > 1 and not called("score") else scores}
    for ours in ("image", "score"):
        columns = chosen[ours]
        if len(columns) == 1 or (ours == "score" and columns == raters and (raters or not scored)):
            continue
        if not any(names):
            raise DataError(
                f"{path}: no header, and no telling which column is the {ours}. Put a line 'image,score' on top."
            )
        if not columns:
            raise DataError(f"{path}: no column '{ours}'; it has {', '.join(names)}. Rename yours.")
        raise DataError(
            f"{path} can be read in {len(columns)} ways: its {ours} may be {shown(columns)}. Call one '{ours}'; the "
            f"original of a distorted image is called 'reference', and columns of one rater each rater1, rater2, …"
        )
    told = {ours: cs for ours, cs in chosen.items() if cs and [names[c] for c in cs] != [ours]}
    remarks += [f"{ours} from {shown(columns)}" for ours, columns in told.items()]
    used = {c for columns in chosen.values() for c in columns}
    rest = [c for c, name in enumerate(names) if c not in used and name not in ("", *chosen)]
    if left_out := sorted({*range(len(names))} - used - {c for c in rest if names[c] in (*VOTES, "c_total")}):
        remarks.append(f"without {shown(left_out)}")
    first = {ours: table.iloc[:, columns[0]] for ours, columns in chosen.items() if columns}
    first.setdefault("score", "")
    named = pd.DataFrame(first | {names[c]: table.iloc[:, c] for c in rest})
    if len(chosen["score"]) > 1:
        named = _row_per_rating(named, {names[c]: table.iloc[:, c] for c in raters})
    if "split" in named:
        named["split"] = named["split"].map(lambda word: SPLIT_WORDS.get(word.casefold(), word))
    for column in named.columns.intersection(["score", "std"]):
        named[column] = _with_points(named[column], path, remarks)
    if set(VOTES) <= set(named):
        counts = named[VOTES].apply(numbers)
        if not (counts.fillna(0) % 1 == 0).all(axis=None):
            remarks.append("without c1 to c5, which are no counts of votes")
            return named.drop(columns=VOTES)
        named[VOTES] = counts.fillna(0)
    return named


def _row_per_rating(table: pd.DataFrame, ratings: dict[str, pd.Series]) -> pd.DataFrame:
    """A row for each rater and image; for an image that nobody rated one without score."""
    given = pd.DataFrame(ratings)
    given.iloc[:, 0] = given.iloc[:, 0].where((given != "").any(axis=1), "none")
    rows = [
        table.assign(score=given[name], rater=name).rename(lambda where, name=name: f"{where} ({name})")
        for name in given
    ]
    table = pd.concat(rows)
    return table[table["score"] != ""]


def _with_points(column: pd.Series, path: Path, remarks: list[str]) -> pd.Series:
    """Decimal commas become points."""
    commas = column.str.fullmatch(r"[-+]?\d+,\d+")
    if not commas.any():
        return column
    if column[commas].str.fullmatch(r"[-+]?\d{1,3},\d{3}").all():
        first = column[commas].iloc[0]
        raise DataError(
            f"{path.parent / column[commas].index[0]}: '{first}' can be read in two ways, {first.replace(',', '.')} or "
            f"{first.replace(',', '')}. Write decimals with a point, thousands without a mark."
        )
    remarks.append(f"decimal commas of {column.name} as points")
    return column.mask(commas, column.str.replace(",", "."))


def own_label_file(folder: Path) -> Path:
    """The one label file in a folder of one's own.

    Raises:
        DataError: there is none, or more than one.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in OWN_SUFFIXES and f.is_file() and f.name[0] != ".")
    for no_rival in (".txt", ".xlsx"):  # a README.txt, the survey's own book
        files = [f for f in files if f.suffix.lower() != no_rival] or files
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise DataError(
            f"{folder}: expected one label file ({', '.join(OWN_SUFFIXES)}), found {found}. "
            f"Name the file itself as the dataset."
        )
    return files[0]
