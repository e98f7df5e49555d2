"""CSIQ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing, file_in
from iqa_lib.data.readers.tables import numbers, read_sheet, read_words, whole

CSIQ_KINDS = {"noise": "AWGN", "jpeg": "JPEG", "jpeg 2000": "jpeg2000", "blur": "BLUR"}  # in sheet: in file name


def read_csiq_sheet(folder: Path) -> pd.DataFrame:
    path = file_in(folder, "csiq.DMOS.xlsx")
    raw = read_sheet(path, ["image", "dst_type", "dst_lev", "dmos_std", "dmos"], sheet="all_by_image")
    kinds = [CSIQ_KINDS.get(str(kind).strip().lower(), str(kind).strip()) for kind in raw["dst_type"]]
    names = [
        f"{whole(image)}.{kind}.{whole(level)}.png"
        for image, kind, level in zip(raw["image"], kinds, raw["dst_lev"], strict=True)
    ]
    return _csiq(folder, names, raw["dmos"]).assign(std=numbers(raw["dmos_std"]))


def read_csiq_text(folder: Path) -> pd.DataFrame:
    """``csiq_label.txt``, the label file that goes with HyperIQA's code: a name and a DMOS a line."""
    raw = read_words(file_in(folder, "csiq_label.txt"), 2)
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


LAYOUTS = (Layout(("csiq.DMOS.xlsx",), read_csiq_sheet), Layout(("csiq_label.txt",), read_csiq_text))
