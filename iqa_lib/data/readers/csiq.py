"""CSIQ."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iqa_lib.data.readers.files import Layout, Listing
from iqa_lib.data.readers.tables import read_sheet, read_words, whole

CSIQ_KINDS = {"noise": "AWGN", "jpeg": "JPEG", "jpeg 2000": "jpeg2000", "blur": "BLUR"}  # in sheet: in file name


def read_csiq_sheet(folder: Path, labels: Path) -> pd.DataFrame:
    columns = {
        "reference": "image",
        "distortion": "dst_type",
        "severity": "dst_lev",
        "std": "dmos_std",
        "score": "dmos",
    }
    table = read_sheet(labels, "all_by_image", **columns)
    kinds = [str(kind).strip() for kind in table["distortion"]]
    parts = zip(table["reference"].map(whole), kinds, table["severity"].map(whole), strict=True)
    names = [f"{image}.{CSIQ_KINDS.get(kind.lower(), kind)}.{level}.png" for image, kind, level in parts]
    return _described(folder, table[["score", "std"]].assign(image=names))


def read_csiq_text(folder: Path, labels: Path) -> pd.DataFrame:
    """``csiq_label.txt``, the label file that goes with HyperIQA's code: a name and a DMOS a line."""
    table = read_words(labels, 2).set_axis(["image", "score"], axis=1)
    return _described(folder, table.assign(image=table["image"].str.removesuffix(".png") + ".png"))


def _described(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Reference, distortion and severity from an image's name, as in ``1600.AWGN.1.png``; and the folder it lies in."""
    names = table["image"]
    parts = names.str.extract(r"(?P<reference>[^.]*)\.?(?P<distortion>[^.]*)\.?(?P<severity>[^.]*)")
    parts["distortion"] = parts["distortion"].str.lower()
    listing = Listing(folder)
    if listing.find("dst_imgs_all"):  # HyperIQA wants them all in one folder
        place = "dst_imgs_all/"
    elif listing.find("dst_imgs/awgn") or not listing.find(f"dst_imgs/{names.iloc[0]}"):
        place = "dst_imgs/" + parts["distortion"] + "/"
    else:
        place = "dst_imgs/"
    return table.assign(image=place + names, **parts)


LAYOUTS = (Layout(("csiq.DMOS.xlsx",), read_csiq_sheet), Layout(("csiq_label.txt",), read_csiq_text))
