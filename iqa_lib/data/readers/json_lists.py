"""Lists of the reference code: ``STEM_train.json``, ``STEM_val.json``, ``STEM_test.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, place
from iqa_lib.data.readers.tables import columns_of, entries, is_image, numbers, read_text
from iqa_lib.errors import DataError
from iqa_lib.paths import printable


def read_json_list(path: Path) -> pd.DataFrame:
    """A list of objects, such as ``{"image": …, "score": …}`` of HyperIQA's and SMART-IQA's code; or image: score."""
    try:
        rows = json.loads(read_text(path), object_pairs_hook=_printable)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not readable as JSON: {error.msg}.") from error
    except (RecursionError, ValueError) as error:  # a thousand brackets, a number of a thousand digits
        raise DataError(f"{path}: not readable as JSON: {error}.") from error
    if isinstance(rows, list) and any(isinstance(row, dict) and "annotations" in row for row in rows):
        rows = [row for task in rows for row in _annotations(task)]
        questions = sorted({row.pop("question") for row in rows})
        if len(questions) > 1:
            raise DataError(
                f"{path}: its annotations answer several questions ({', '.join(questions)}). Export those of one."
            )
    if isinstance(rows, dict) and all(map(is_image, rows)):
        rows = [{"image": image, "score": score} for image, score in rows.items()]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{path}: expected a list of objects like {{"image": "a.jpg", "score": 50}}.')
    table = pd.DataFrame(rows, index=entries(path.name, rows), dtype=object)
    return table.where(table.notna(), "")


def _annotations(task: dict) -> list[dict]:
    """Of a task of Label Studio's export a row per rating: image, score, rater."""
    texts = [text for text in task.get("data", {}).values() if isinstance(text, str)]
    image = next(filter(is_image, texts), texts[0] if texts else "")
    rows = []
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):  # the rater skipped it
            continue
        by = annotation.get("completed_by", "")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        for result in annotation.get("result", []):
            for kind, value in result.get("value", {}).items():
                if kind in ("rating", "number", "choices"):
                    value = value[0] if isinstance(value, list) else value
                    question = str(result.get("from_name", ""))
                    rows.append({"image": image, "score": value, "rater": str(by), "question": question})
    return rows


def _printable(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Python writes names that are not UTF-8 as halves of characters, which no other text may have."""
    return {printable(key): printable(value) if isinstance(value, str) else value for key, value in pairs}


def json_layout(
    stem: str, published: tuple[float, float], short: tuple[float, float], reference: Callable[[str], str] | None = None
) -> Layout:
    """``STEM_train.json``, ``STEM_val.json``, ``STEM_test.json``, as many as there are, brought to ``published``.

    Such lists exist on three scales. The largest score shows which: up to 1 it is 0–1, up to 5 it is ``short``,
    above that 0–100. Images lie in ``train/``, ``test/``, ``1024x768/``, ``images/`` or beside the list.
    """

    def read(folder: Path, *_: Path) -> pd.DataFrame:
        parts = []
        for split in ("train", "val", "test"):
            path = Listing(folder).find(f"{stem}_{split}.json")
            if path is not None:
                part = columns_of(read_json_list(path), path, image="image", score="score")
                likely = (split, f"{stem}-{split}", f"{stem}_{split}")
                names = part["image"].astype(str).tolist()
                parts.append(part.assign(image=place(names, folder, likely) or names, split=split))
        table = pd.concat(parts)
        scores = numbers(table["score"])
        top = scores.max()
        worst, best = (0, 1) if top <= 1 else short if top <= 5 else (0, 100)
        table["score"] = published[0] + (scores - worst) / (best - worst) * (published[1] - published[0])
        if reference:
            table["reference"] = table["image"].map(reference)
        return table

    return Layout((f"{stem}_test.json",), read)
