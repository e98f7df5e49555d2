"""Datasets of images as cameras took them or generators made them: each layout, in the order to be tried."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, file_in
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import (
    VOTES,
    columns_of,
    entries,
    has_columns,
    numbers,
    read_delimited,
    read_mat,
    read_sheet,
    require_equal_lengths,
    whole,
)


def read_koniq(folder: Path, labels: Path) -> pd.DataFrame:
    """KonIQ-10k. Both label files give a MOS of 0–100 from z-scores (``MOS`` in one, ``MOS_zscore`` in the other).

    ``SD`` is that of the votes 1–5 in both: times 25 it is on a scale of 100. Votes are shares in one file and
    counts in the other, and counts here.
    """
    raw = read_delimited(labels)
    votes = [*VOTES, "c_total"]
    wanted = {"image": "image_name", "score": "MOS", "std": "SD", **{c: c for c in votes}}
    if "set" in raw:
        wanted["split"] = "set"
    elif "MOS_zscore" in raw:
        wanted["score"] = "MOS_zscore"
    table = columns_of(raw, labels, **wanted)
    if not {"set", "MOS_zscore"} & set(raw):  # an early release: the plain mean of votes 1-5
        table["score"] = (numbers(table["score"]) - 1) * 25
    table["std"] = numbers(table["std"]) * 25
    table[votes] = table[votes].apply(numbers)
    if table[VOTES].to_numpy().max() <= 1 and (table["c_total"] > 5).all():
        table[VOTES] = table[VOTES].mul(table["c_total"], axis=0).round()
    listing = Listing(folder)
    size = "1024x768" if listing.find("1024x768") or not listing.find("512x384") else "512x384"
    return table.assign(image=size + "/" + table["image"])


def read_spaq(folder: Path, labels: Path) -> pd.DataFrame:
    table = read_sheet(labels, image="Image name", score="MOS")
    return table.assign(image="TestImage/" + table["image"].astype(str))


def read_agiqa(folder: Path, labels: Path) -> pd.DataFrame:
    """AGIQA-3K. Images of one prompt, by all generators, count as one source."""
    raw = read_delimited(labels)
    return columns_of(raw, labels, image="name", score="mos_quality", std="std_quality", reference="prompt")


def read_livec(folder: Path, mos: Path, names: Path) -> pd.DataFrame:
    """LIVE In the Wild. The first seven entries (``t1.bmp`` …) trained the raters: they are left out."""
    (images,) = read_mat(names, "AllImages_release")
    (scores,) = read_mat(mos, "AllMOS_release")
    (std,) = read_mat(file_in(folder, "Data/AllStdDev_release.mat"), "AllStdDev_release")
    require_equal_lengths(folder / "Data", images=images, scores=scores, deviations=std)
    table = pd.DataFrame({"image": images, "score": scores, "std": std}, index=entries(mos.name, images))
    rated = table[~table["image"].str.fullmatch(r"t\d+\.\w+")]
    return rated.assign(image="Images/" + rated["image"])


def read_bid(folder: Path, grades: Path) -> pd.DataFrame:
    table = read_sheet(grades, image="Image Number", score="Average Subjective Grade")
    table = table.dropna(subset=["image"])  # notes below the table
    names = [f"ImageDatabase/DatabaseImage{whole(number):0>4}.JPG" for number in table["image"]]
    return table.assign(image=names)


def read_biq(folder: Path, train: Path, test: Path) -> pd.DataFrame:
    parts = []
    for split, labels in (("train", train), ("test", test)):
        table = columns_of(read_delimited(labels), labels, image="Image Name", score="MOS")
        parts.append(table.assign(image="Images/" + table["image"], split=split))
    return pd.concat(parts)


SPAQ_SHEET = "MOS and Image attribute scores.xlsx"
KONIQ_LISTS = json_layout("koniq", (0, 100), (1, 5))
LAYOUTS = {
    "koniq10k": (
        Layout(("koniq10k_distributions_sets.csv",), read_koniq),
        # with both of the reference code's lists there is a split; the next label file has none
        Layout(("koniq_train.json", *KONIQ_LISTS.marks), KONIQ_LISTS.reader),
        Layout(("koniq10k_scores_and_distributions.csv",), read_koniq),
        KONIQ_LISTS,
    ),
    "spaq": (
        Layout((f"Annotations/{SPAQ_SHEET}",), read_spaq),
        Layout((SPAQ_SHEET,), read_spaq),
        json_layout("spaq", (0, 100), (1, 5)),
    ),
    "agiqa3k": (
        Layout(("data.csv",), read_agiqa, has_columns("name", "mos_quality")),
        json_layout("agiqa", (0, 5), (0, 5)),
    ),
    "livec": (Layout(("Data/AllMOS_release.mat", "Data/AllImages_release.mat"), read_livec),),
    "bid": (Layout(("DatabaseGrades.xlsx",), read_bid),),
    "biq2021": (Layout(("Train (Images and MOS).csv", "Test (Images and MOS).csv"), read_biq),),
}
