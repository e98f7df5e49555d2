"""KonIQ-10k."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, file_in
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import VOTES, columns_of, numbers, read_delimited


def read_koniq(folder: Path, labels: str = "koniq10k_distributions_sets.csv") -> pd.DataFrame:
    """KonIQ-10k. Both label files give a MOS of 0–100 from z-scores (``MOS`` in one, ``MOS_zscore`` in the other).

    ``SD`` is that of the votes 1–5 in both: times 25 it is on a scale of 100. Votes are shares in one file and
    counts in the other, and counts here.
    """
    path = file_in(folder, labels)
    raw = read_delimited(path)
    if "set" in raw:
        table = columns_of(raw, path, image="image_name", score="MOS", std="SD", split="set")
        sets = {"training": "train", "validation": "val", "test": "test"}
        table["split"] = table["split"].map(lambda name: sets.get(name, name))
    elif "MOS_zscore" in raw:
        table = columns_of(raw, path, image="image_name", score="MOS_zscore", std="SD")
    else:  # an early release: the plain mean of votes 1-5
        table = columns_of(raw, path, image="image_name", score="MOS", std="SD")
        table["score"] = (numbers(table["score"]) - 1) * 25
    table["std"] = numbers(table["std"]) * 25
    votes = columns_of(raw, path, **{c: c for c in [*VOTES, "c_total"]}).apply(numbers)
    if votes[VOTES].to_numpy().max() <= 1 and (votes["c_total"] > 5).all():
        votes[VOTES] = votes[VOTES].mul(votes["c_total"], axis=0).round()
    listing = Listing(folder)
    size = "1024x768" if listing.find("1024x768") or not listing.find("512x384") else "512x384"
    return table.assign(image=size + "/" + table["image"], **votes)


_KONIQ_LISTS = json_layout("koniq", (0, 100), (1, 5))


LAYOUTS = (
    Layout(("koniq10k_distributions_sets.csv",), read_koniq),
    # with both of the reference code's lists there is a split; the next label file has none
    Layout(("koniq_train.json", *_KONIQ_LISTS.marks), _KONIQ_LISTS.read),
    Layout(
        ("koniq10k_scores_and_distributions.csv",),
        functools.partial(read_koniq, labels="koniq10k_scores_and_distributions.csv"),
    ),
    _KONIQ_LISTS,
)
