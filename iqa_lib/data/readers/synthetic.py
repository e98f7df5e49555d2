"""Datasets of references and their distortions: each layout, in the order to be tried."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scipy.io

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.readers.files import Layout, Listing, stem
from iqa_lib.data.readers.json_lists import json_layout
from iqa_lib.data.readers.tables import (
    apart,
    columns_of,
    entries,
    has_columns,
    numbers,
    read_delimited,
    read_mat,
    read_sheet,
    read_words,
    require_equal_lengths,
    whole,
)

TID_DISTORTIONS = """
additive-gaussian-noise color-component-noise spatially-correlated-noise masked-noise high-frequency-noise
impulse-noise quantization-noise gaussian-blur denoising jpeg jpeg2000 jpeg-transmission-errors
jpeg2000-transmission-errors non-eccentricity-pattern-noise local-blocks mean-shift contrast-change
color-saturation multiplicative-gaussian-noise comfort-noise lossy-compression-of-noisy-images
color-quantization-with-dither chromatic-aberrations sparse-sampling
"""
CSIQ_KINDS = {"noise": "AWGN", "jpeg": "JPEG", "jpeg 2000": "jpeg2000", "blur": "BLUR"}  # in sheet: in file name
LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}  # in the order of the labels


def read_kadid(folder: Path, labels: Path) -> pd.DataFrame:
    """KADID-10k. Two names mislead: a higher ``dmos`` is better, and ``var`` holds the standard deviation.

    (30 ratings of mean 4.57 and of standard deviation 0.496 exist, and are 17 fives and 13 fours.)
    """
    raw = read_delimited(labels)
    table = columns_of(raw, labels, image="dist_img", reference="ref_img", score="dmos", std="var")
    described = _described_by_numbers(table["image"], list(DISTORTIONS))
    return table.assign(image="images/" + table["image"], reference=table["reference"].map(stem), **described)


def read_tid(folder: Path, labels: Path) -> pd.DataFrame:
    """TID2013. Deviations come from ``mos_std.txt``, in the order of ``mos_with_names.txt``, where it is there."""
    table = read_words(labels, 2).set_axis(["score", "image"], axis=1)
    names = table["image"]
    references = [stem(name).split("_")[0].lower() for name in names]
    described = _described_by_numbers(names, TID_DISTORTIONS.split())
    table = table.assign(image="distorted_images/" + names, reference=references, **described)
    deviations = Listing(folder).find("mos_std.txt")
    if deviations:
        std = read_words(deviations, 1)[0].to_numpy()
        require_equal_lengths(folder, scores=table, deviations=std)
        table["std"] = std
    return table


def _described_by_numbers(images: pd.Series, kinds: list[str]) -> dict[str, pd.Series]:
    """``distortion`` and ``severity`` of images named like ``I01_02_03.png``; "" and 0 for names of another form."""
    found = images.str.extract(r"_(\d+)_(\d+)\.\w+$").apply(numbers)
    return {"distortion": found[0].map(dict(enumerate(kinds, 1))).fillna(""), "severity": found[1].fillna(0)}


def _is_tid2013(labels: Path) -> bool:
    # TID2008 has the same file, with 17 kinds of distortion.
    return "_24_" in labels.read_text(encoding="utf-8", errors="replace")


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
    return _csiq(folder, table.assign(image=names))


def read_csiq_text(folder: Path, labels: Path) -> pd.DataFrame:
    """``csiq_label.txt``, the label file that goes with HyperIQA's code: a name and a DMOS a line."""
    table = read_words(labels, 2).set_axis(["image", "score"], axis=1)
    return _csiq(folder, table.assign(image=table["image"].str.removesuffix(".png") + ".png"))


def _csiq(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """CSIQ. Reference, distortion and severity from a name such as ``1600.AWGN.1.png``; and the folder it lies in."""
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


def read_live(folder: Path, dmos: Path, refnames: Path) -> pd.DataFrame:
    """LIVE (release 2) with the realigned DMOS. The 203 undistorted copies (``orgs``) are left out."""
    images = [f"{kind}/img{i + 1}.bmp" for kind, count in LIVE_COUNTS.items() for i in range(count)]
    scores, originals = read_mat(dmos, "dmos_new", "orgs")
    (references,) = read_mat(refnames, "refnames_all")
    require_equal_lengths(folder, images=images, scores=scores, originals=originals, references=references)
    table = pd.DataFrame({"image": images, "score": scores}, index=entries(dmos.name, images))
    table["reference"] = [stem(name) for name in references]
    table["distortion"] = [image.split("/")[0] for image in images]
    if "dmos_std" in {name for name, *_ in apart(scipy.io.whosmat, str(dmos))}:
        (table["std"],) = read_mat(dmos, "dmos_std")
    return table[originals == 0]


LAYOUTS = {
    "kadid10k": (
        Layout(("dmos.csv",), read_kadid, has_columns("dist_img", "ref_img", "dmos")),
        json_layout("kadid", (1, 5), (1, 5), lambda name: stem(name).split("_")[0]),
    ),
    "live": (Layout(("dmos_realigned.mat", "refnames_all.mat"), read_live),),
    "csiq": (Layout(("csiq.DMOS.xlsx",), read_csiq_sheet), Layout(("csiq_label.txt",), read_csiq_text)),
    "tid2013": (Layout(("mos_with_names.txt",), read_tid, _is_tid2013),),
}
