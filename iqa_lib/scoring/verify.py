"""Tables of scores, later: does the model still say the same, and how are they cited?"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib import paths
from iqa_lib.data.catalog import CATALOG
from iqa_lib.errors import CheckpointError, DataError
from iqa_lib.scoring.score import VERSIONS, load_scorer, passport, score_all

SAMPLE = 30  # rows, drawn
SAME = 1e-3  # points; another grouping or processor adds in another order
METHODS = {
    "smartiqa": "Chen: SMART-IQA",
    "su2020hyperiqa": (
        "Su, Yan, Zhu, Zhang, Ge, Sun and Zhang: Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive "
        "Hyper Network. CVPR 2020"
    ),
}
CONFORMAL = (
    "Lei, G'Sell, Rinaldo, Tibshirani and Wasserman: Distribution-Free Predictive Inference for Regression. Journal of "
    "the American Statistical Association 113, 2018"
)


def read_scores(file: Path) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """A table that `score` wrote, as CSV or JSON, and each passport in it, most rows first.

    Raises DataError: it is no such table.
    """
    try:
        as_json = file.suffix.lower() == ".json"
        table = pd.DataFrame(json.loads(file.read_text("utf-8"))) if as_json else paths.read_csv(file)
        made_by = table["scored_by"].dropna().value_counts().index
        table[["image", "score"]].astype({"image": str, "score": float})
        passports = [dict(part.split("=", 1) for part in text.split("; ")) for text in made_by]
        if not passports or not {"model", "name", *VERSIONS} <= passports[0].keys():
            raise ValueError("has no model and versions in its column scored_by")
    except Exception as error:  # a missing file, a strange text and a missing column make readers raise anything
        reason = f"has no column {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise DataError(
            f"'{file}' {reason}: expected is a table that `score` wrote (image, score, scored_by)."
        ) from error
    return table, passports


def verify(file: Path, model: str | None) -> tuple[bool, str]:
    """Whether the scores of some rows are still the same, and what differs.

    Args:
        model: as `load_scorer`; where it is None the one that the table names.
    """
    table, passports = read_scores(file)
    if len(passports) > 1:
        names = "; ".join(f"{p['name']} ({p['model']})" for p in passports)
        raise DataError(
            f"'{file}' holds scores of {len(passports)} makings ({names}): verify each in a table of its own."
        )
    (then,) = passports
    try:
        scorer = load_scorer(model or (None if then["name"] == "SmartIQA.default()" else then["name"]))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} The table is by '{then['name']}' ({then['model']}): --model says where it is."
        ) from error
    scored = table[table["score"].notna()]
    drawn = scored.sample(min(SAMPLE, len(scored)), random_state=0).reset_index(drop=True)
    again = score_all(scorer, [_find(name, file.parent) for name in drawn["image"]], len(drawn))
    now = dict(part.split("=", 1) for part in passport(scorer).split("; "))
    changes = [f"{key}: {then.get(key)} then, {now[key]} now" for key in now if now[key] != then.get(key)]
    gone, altered = again["fault"] != "", (again["fault"] == "") & (again["pixels"] != drawn["pixels"])
    lines = [f"file: {image} {fault}" for image, fault in zip(drawn["image"][gone], again["fault"][gone], strict=True)]
    if altered.any():
        lines.append(f"file: {altered.sum()} of {len(drawn)} decode to other pixels, {_some(drawn['image'][altered])}")
    apart = (again["score"] - drawn["score"]).abs()
    moved = apart > SAME
    if moved.any():
        worst = apart.idxmax()
        lines.append(
            f"size: {moved.sum()} of {len(drawn)} scores differ, by {apart[moved].median():.3g} points (median), at "
            f"most {apart[worst]:.3g}: {drawn['image'][worst]}, {drawn['score'][worst]:.4f} then, "
            f"{again['score'][worst]:.4f} now"
        )
    about = f"{len(drawn)} of {len(scored):,} scores computed again"
    if not lines and now["model"] == then["model"]:
        also = f" though these differ: {', '.join(changes)}" if changes else ""
        return True, f"same: {about}, apart by {np.nanmax(apart, initial=0):.2g} points at most{also}."
    return False, "\n".join([f"different: {about}.", *changes, *lines])


def _find(name: str, beside: Path) -> Path:
    """The file of a row: from the current folder, or from the table's."""
    path = paths.named(name)
    return path if path.exists() or not (beside / path).exists() else beside / path


def _some(names: pd.Series) -> str:
    return ", ".join(names.head(3)) + (", …" if len(names) > 3 else "")


def cite(file: Path) -> str:
    """The sentence for a paper, and BibTeX of program, methods and data."""
    table, passports = read_scores(file)
    sentences, entries = [], dict(METHODS)
    for p in passports:
        number = int((table["scored_by"].str.contains(p["model"], regex=False) & table["score"].notna()).sum())
        data = CATALOG.get(p["data"])
        data = data if data and not data.build else None  # nobody published the embedded ones
        trained = f", trained on {data.title} [{p['data']}]" if data else ""
        sentences.append(
            f"The quality of {number:,} images was scored without reference (0-100, higher is better) by SMART-IQA "
            f"[smartiqa], after HyperIQA [su2020hyperiqa]{trained}: model {p['name']}, SHA-256 {p['model']}…, of the "
            f"SMART-IQA workbook {p['smart-iqa-workbook']} [workbook], in {p['precision']}, on square crops of "
            f"{p['crop']} px of images reduced to a short side of at most {p['resolution']} px (torch {p['torch']}, "
            f"Pillow {p['pillow']})."
        )
        if data:
            entries[p["data"]] = data.citation
        if "low" in table:
            sentences.append("Intervals are 90 % split-conformal [lei2018conformal].")
            entries["lei2018conformal"] = CONFORMAL
    version = passports[0]["smart-iqa-workbook"]
    software = (
        "@software{workbook,\n  author = {{The SMART-IQA workbook's authors}},\n  title = {SMART-IQA workbook},\n"
        f"  version = {{{version}}}\n}}"
    )
    bibtex = [software, *(_bibtex(key, text) for key, text in entries.items())]
    return "\n\n".join([textwrap.fill(" ".join(dict.fromkeys(sentences)), 100), *bibtex])


def _bibtex(key: str, citation: str) -> str:
    """Of 'Authors: Title. Where, year', as the catalog has it."""
    authors, _, work = citation.partition(": ")
    title, _, where = work.partition(". ")
    year = re.search(r"(\d{4})$", where)
    names = re.sub(r" et al\.", " and others", authors).replace(", ", " and ")
    fields = {
        "author": names,
        "title": f"{{{title}}}",
        "howpublished": where[: -len(year[1])].rstrip(", ") if year else where,
        "year": year and year[1],
    }
    return f"@misc{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value) + "\n}"
