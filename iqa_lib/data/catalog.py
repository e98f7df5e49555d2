"""The datasets this workbook knows, and the one way to read any of them into a table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from iqa_lib import paths
from iqa_lib.data import offline
from iqa_lib.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before a byte of it is read."""

    title: str
    build: Callable[[Path], None] | None
    scores: str  # what the numbers are, for axis labels
    surrogate: bool  # True: no person gave them
    citation: str


CATALOG = {
    name: Dataset(
        title=name,
        build=functools.partial(offline.build_wild, **size),
        scores="surrogate score (from VSI, HaarPSI, MDSI)",
        surrogate=True,
        citation="built by this workbook from photographs in scikit-image and scikit-learn",
    )
    for name, size in {"offline-wild": {}, "offline-wild-tiny": {"distorted_per_view": 3, "views": 1}}.items()
}


def describe(name: str) -> Dataset:
    """The catalog's entry, or one made up for a CSV of one's own."""
    if name in CATALOG:
        return CATALOG[name]
    return Dataset(Path(name).stem, None, "MOS", False, f"your own labels, {name}")


def load_table(name: str, score_range: tuple[float, float] = (0.0, 100.0)) -> pd.DataFrame:
    """One row per image: ``image``, ``path``, ``score`` (0–100, higher is better), ``split``, ``reference``.

    Args:
        name: a name in ``CATALOG`` (embedded ones are built when absent), or the path of a CSV with columns
            ``image,score`` and any of ``split`` (train, val, test) and ``reference``; images relative to it.
        score_range: worst and best score of one's own CSV; mapped to 0–100.

    Raises:
        DataError: unknown name, missing column, score that is no number, image that is absent.
    """
    if name in CATALOG:
        labels = paths.DATA / name / "labels.csv"
        with filelock.FileLock(_lock_file(name)):
            if not labels.is_file():
                CATALOG[name].build(labels.parent)
        return read_csv(labels)
    if not name.endswith(".csv"):
        raise DataError(
            f"Unknown dataset '{name}'. Known: {', '.join(CATALOG)}; or give the path of a CSV file."
        )
    return read_csv(_find(name), score_range)


def _lock_file(name: str) -> Path:
    paths.DATA.mkdir(parents=True, exist_ok=True)
    return paths.DATA / f".{name}.lock"


def _find(name: str) -> Path:
    candidates = [Path(name)] if Path(name).is_absolute() else [paths.DATA / name, paths.HOME / name]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"The label file '{name}' does not exist; looked for {' and '.join(map(str, candidates))}."
    )


def read_csv(path: Path, score_range: tuple[float, float] = (0.0, 100.0)) -> pd.DataFrame:
    """See `load_table`."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not a readable CSV in UTF-8: {error}") from error
    for column in ("image", "score"):
        if column not in table:
            raise DataError(f"{path}: no column '{column}'; it has {', '.join(table.columns)}. Rename yours.")
    table["score"] = _to_0_100(table["score"], score_range, path)
    table["path"] = [_inside(path.parent, image, path, row) for row, image in enumerate(table["image"], 2)]
    _require_images(table, path)
    table["reference"] = table.get("reference", table["image"])
    if "split" not in table:
        table["split"] = split_by_reference(table["reference"])
    wrong = table.index[~table["split"].isin(SPLITS)]
    if len(wrong):
        raise DataError(
            f"{path}, line {wrong[0] + 2}: split '{table['split'][wrong[0]]}' is not one of "
            f"{', '.join(SPLITS)}."
        )
    if "severity" in table:
        table["severity"] = table["severity"].astype(float)
    return table


def _to_0_100(texts: pd.Series, score_range: tuple[float, float], path: Path) -> pd.Series:
    scores = pd.to_numeric(texts, errors="coerce")
    bad = scores.index[~np.isfinite(scores)]
    if len(bad):
        raise DataError(
            f"{path}, line {bad[0] + 2}: score '{texts[bad[0]]}' is not a number ({len(bad)} such rows). "
            f"Correct or remove them."
        )
    worst, best = score_range
    mapped = (scores - worst) / (best - worst) * 100
    outside = mapped.index[(mapped < -1e-9) | (mapped > 100 + 1e-9)]
    if len(outside):
        raise DataError(
            f"{path}, line {outside[0] + 2}: score {texts[outside[0]]} is outside {worst}–{best}. "
            f"Set the profile key score_range to the worst and best score of your scale."
        )
    return mapped


def _inside(folder: Path, image: str, path: Path, line: int) -> str:
    target = (folder / image).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise DataError(f"{path}, line {line}: image '{image}' leaves the folder {folder}. Copy it inside.")
    return str(target)


def _require_images(table: pd.DataFrame, path: Path) -> None:
    absent = [
        image for image, file in zip(table["image"], table["path"], strict=True) if not Path(file).is_file()
    ]
    if absent:
        raise DataError(
            f"{path}: {len(absent)} of {len(table)} images are missing, the first is '{absent[0]}'. "
            f"Put them under {path.parent} or remove their rows."
        )


def split_by_reference(reference: pd.Series, seed: int = 0) -> list[str]:
    """70 % train, 10 % validation, 20 % test of the references, so no content is on two sides."""
    names = np.random.default_rng(seed).permutation(sorted(set(reference)))
    bounds = np.round(np.array([0.7, 0.8]) * len(names)).astype(int)
    part = {
        name: split for split, chunk in zip(SPLITS, np.split(names, bounds), strict=True) for name in chunk
    }
    return [part[r] for r in reference]
