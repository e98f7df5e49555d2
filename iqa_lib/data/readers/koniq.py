"""KonIQ-10k."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import VOTES, columns_of, numbers, read_delimited


def read_koniq(folder: Path, labels: Path) -> pd.DataFrame:
    """Both label files give a MOS of 0–100 from z-scores (``MOS`` in one, ``MOS_zscore`` in the other).

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


_KONIQ_LISTS = json_layout("koniq", (0, 100), (1, 5))


LAYOUTS = (
    Layout(("koniq10k_distributions_sets.csv",), read_koniq),
    # with both of the reference code's lists there is a split; the next label file has none
    Layout(("koniq_train.json", *_KONIQ_LISTS.marks), _KONIQ_LISTS.reader),
    Layout(("koniq10k_scores_and_distributions.csv",), read_koniq),
    _KONIQ_LISTS,
)
