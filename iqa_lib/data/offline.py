"""Embedded datasets: real photographs, generated camera faults, and scores from full-reference metrics.

The scores are STAND-INS FOR OPINION: a fixed mapping of how far an image is from its undistorted original,
by VSI, HaarPSI and MDSI (piq). No person rated them; every table and figure made from them says so.
"""

from __future__ import annotations

import importlib.resources
import zlib
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib import paths
from iqa_lib.data import distortions as d
from iqa_lib.progress import Progress

VIEW = (384, 288)  # width and height in px of every image
VIEWS = 4  # parts of a photograph, each at a scale and place of its own
KINDS_AT_ONCE = {1: 0.5, 2: 0.35, 3: 0.15}  # how many faults, and how often

# Every part has natural colour photographs; fixed before the first training. (skimage unless marked)
PHOTOGRAPHS = {
    "train": "astronaut chelsea flower hubble_deep_field retina ihc brick gravel moon cell",
    "val": "motorcycle_left coins grass",
    "test": "china coffee camera rocket",
}


def build_wild(folder: Path, distorted_per_view: int = 13, views: int = VIEWS, seed: int = 0) -> None:
    """Write ``offline-wild``: ``images/*.png`` and, last, ``labels.csv``. Same seed, same bytes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, name, view)
        for split, names in PHOTOGRAPHS.items()
        for name in names.split()
        for view in range(views)
    ]
    work = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(_build_view)(folder, *job, distorted_per_view, seed) for job in jobs
    )
    rows = [row for rows in Progress(work, total=len(jobs), desc=f"building {folder.name}") for row in rows]
    paths.write_atomically(folder / "labels.csv", pd.DataFrame(rows).to_csv(index=False))


def _build_view(folder: Path, split: str, name: str, view: int, distorted: int, seed: int) -> list[dict]:
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), view])
    reference = cut_view(read_photograph(name), rng)
    images, faults = [reference], [[]]
    for _ in range(distorted):
        image, applied = distort_like_a_camera(reference, rng)
        images.append(image)
        faults.append(applied)
    rows = []
    for number, (image, applied, score) in enumerate(
        zip(images, faults, surrogate_scores(reference, images), strict=True)
    ):
        file = f"images/{name}-{view}-{number:02d}.png"
        Image.fromarray(image).save(folder / file, compress_level=1)
        rows.append(
            {
                "image": file,
                "score": round(score, 2),
                "split": split,
                "reference": name,
                "distortion": "+".join(kind for kind, _ in applied) or "none",
                "severity": round(max((s for _, s in applied), default=0.0), 3),
            }
        )
    return rows


def read_photograph(name: str) -> np.ndarray:
    """A photograph that scikit-image or scikit-learn carries, uint8 H x W x 3."""
    for package, folder in (("skimage", "data"), ("sklearn.datasets", "images")):
        for suffix in (".png", ".jpg"):
            file = importlib.resources.files(package) / folder / f"{name}{suffix}"
            if file.is_file():
                with file.open("rb") as stream:
                    return np.asarray(Image.open(stream).convert("RGB"))
    raise FileNotFoundError(f"Neither scikit-image nor scikit-learn carries the photograph '{name}'.")


def cut_view(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 4:3 part at a random place, reduced (never enlarged) to 384 x 288."""
    height, width = photograph.shape[:2]
    largest = min(width / VIEW[0], height / VIEW[1])
    scale = rng.uniform(1, largest) if largest > 1 else largest
    w, h = round(VIEW[0] * scale), round(VIEW[1] * scale)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    part = Image.fromarray(photograph[y : y + h, x : x + w])
    return np.asarray(part.resize(VIEW, Image.Resampling.LANCZOS))


def distort_like_a_camera(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """One to three faults in the order a camera makes them; returns the image and (kind, severity 0-1)."""
    count = rng.choice(list(KINDS_AT_ONCE), p=list(KINDS_AT_ONCE.values()))
    chosen = sorted(rng.choice(len(FAULTS), size=count, replace=False))
    applied = []
    for kind in (list(FAULTS)[i] for i in chosen):
        severity = rng.uniform(0, 1)
        image = FAULTS[kind](image, severity, rng)
        applied.append((kind, severity))
    return image, applied


def _between(mild: float, severe: float, severity: float) -> float:
    """Geometric: equal steps of severity look about equally large."""
    return mild * (severe / mild) ** severity


def _exposure(image, severity, rng):
    change = d.brighten if rng.random() < 0.5 else d.darken
    return change(image, _between(0.05, 0.8, severity))


def _colour_cast(image, severity, rng):
    gains = 1 + _between(0.03, 0.4, severity) * rng.uniform(0.5, 1) * np.array([1, 0, -1]) * rng.choice(
        [-1, 1]
    )
    return np.clip(np.round(image * gains), 0, 255).astype(np.uint8)


def _resampling(image, severity, rng):
    factor = _between(1.3, 6, severity)
    small = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(reduced.resize(image.shape[1::-1], Image.Resampling.BICUBIC))


FAULTS = {
    "defocus": lambda image, s, rng: d.lens_blur(image, _between(0.6, 6, s)),
    "motion-blur": lambda image, s, rng: d.motion_blur(image, _between(2, 20, s), rng.uniform(0, 180)),
    "exposure": _exposure,
    "contrast": lambda image, s, rng: d.change_contrast(image, -_between(0.08, 0.6, s)),
    "colour-cast": _colour_cast,
    "noise": lambda image, s, rng: d.white_noise(image, _between(0.0004, 0.02, s), rng),
    "resampling": _resampling,
    "jpeg2000": lambda image, s, rng: d.jpeg2000(image, _between(12, 250, s)),
    "jpeg": lambda image, s, rng: d.jpeg(image, _between(70, 5, s)),
}


def surrogate_scores(reference: np.ndarray, images: list[np.ndarray]) -> list[float]:
    """0-100, higher is better: mean of VSI, HaarPSI and MDSI, each stretched linearly to 0-100 and clipped.

    Ranges: VSI 0.85-1, HaarPSI 0.2-1, MDSI 0.55-0 (MDSI is lower for better images).
    """
    import piq
    import torch

    def tensor(batch):
        return torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255

    distorted = tensor(images)
    original = tensor([reference]).expand_as(distorted)
    options = {"data_range": 1.0, "reduction": "none"}
    parts = [
        (piq.vsi(distorted, original, **options) - 0.85) / 0.15,
        (piq.haarpsi(distorted, original, **options) - 0.2) / 0.8,
        1 - piq.mdsi(distorted, original, **options) / 0.55,
    ]
    return (100 * torch.stack(parts).clamp(0, 1).mean(dim=0)).tolist()
