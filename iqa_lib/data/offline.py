"""Embedded datasets: real photographs and composed scenes, generated faults, scores from full-reference metrics.

The scores are STAND-INS FOR OPINION: a fixed mapping of how far an image is from its undistorted original,
by VSI, HaarPSI and MDSI (piq). No person rated them; every table and figure made from them says so. Those of the
embedded datasets come with the package (`shipped_scores`): computing them took most of the time of building.

``offline-wild`` has a training, a validation and a test part, split by photograph. The others are for
cross-dataset tests: all their rows are "test", and of contents that no training part here has.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib import paths
from iqa_lib.data import distortions as d
from iqa_lib.data.faults import PHONE_SHOTS, VIEW, distort_like_a_camera, distort_like_a_renderer, take_with_a_phone
from iqa_lib.data.scenes import compose_scene, part_of_one, shaded_texture
from iqa_lib.errors import DataError
from iqa_lib.progress import Progress

VIEWS = 4  # parts of a photograph, each at a scale and place of its own

# Every part has natural colour photographs; fixed before the first training. (skimage unless marked)
PHOTOGRAPHS = {
    "train": "astronaut chelsea flower hubble_deep_field retina ihc brick gravel moon cell",
    "val": "motorcycle_left coins grass",
    "test": "china coffee camera rocket",
}
TEST_PHOTOGRAPHS = tuple(PHOTOGRAPHS["test"].split())


class Variant(NamedTuple):
    """One image of a reference: its file's last part, pixels, kind of distortion, and how much of it."""

    label: str
    image: np.ndarray
    distortion: str
    severity: float


# --- the datasets -----------------------------------------------------------------------------------------


def build_wild(
    folder: Path, distorted_per_view: int = 13, views: int = VIEWS, scenes: int = 8, seed: int = 0, shipped: bool = True
) -> pd.DataFrame:
    """Write ``offline-wild``: photographs with one to three faults of a camera, in the order it makes them.

    Every builder writes ``images/*.png`` and, last, ``labels.csv``; the same seed gives the same bytes.

    Args:
        shipped: take the scores that the package has of these very pixels; compute only the others.

    Returns:
        What ``labels.csv`` has, and ``pixels``, each image's `address_of`.
    """
    sources = {split: names.split() for split, names in PHOTOGRAPHS.items()}
    sources["train"] += [f"scene-{number}" for number in range(scenes)]
    variants = functools.partial(_with_some, distort_like_a_camera, distorted_per_view)
    return build_views(folder, sources, views, _photograph_or_scene, [variants], seed, _known(shipped))


def build_phone(
    folder: Path,
    photographs: Sequence[str] = TEST_PHOTOGRAPHS,
    per_shot: int = 4,
    views: int = 2,
    seed: int = 1,
    shipped: bool = True,
) -> pd.DataFrame:
    """Write ``offline-phone``: a smartphone's processing, ``per_shot`` images of each of `PHONE_SHOTS` a view."""
    variants = functools.partial(_phone_shots, per_shot)
    return build_views(folder, {"test": photographs}, views, read_photograph, [variants], seed, _known(shipped))


def build_lab(
    folder: Path,
    photographs: Sequence[str] = TEST_PHOTOGRAPHS,
    levels: Sequence[int] = (1, 2, 3, 4, 5),
    seed: int = 2,
    shipped: bool = True,
) -> pd.DataFrame:
    """Write ``offline-lab``: one view of each photograph under every distortion of KADID-10k at every level.

    ``severity`` is the level. As in KADID-10k the references themselves are not among the images. What only
    changes colours leaves the one grey photograph as it is, at 100 points.
    """
    variants = [functools.partial(_at_levels, name, levels) for name in d.DISTORTIONS]
    return build_views(folder, {"test": photographs}, 1, read_photograph, variants, seed, _known(shipped))


def build_render(
    folder: Path, scenes: int = 12, views: int = 1, distorted_per_view: int = 13, seed: int = 3, shipped: bool = True
) -> pd.DataFrame:
    """Write ``offline-render``: scenes of generated textures with one to three faults of computer graphics."""
    names = [f"render-{number}" for number in range(scenes)]
    variants = functools.partial(_with_some, distort_like_a_renderer, distorted_per_view)
    return build_views(folder, {"test": names}, views, _rendered_scene, [variants], seed, _known(shipped))


EMBEDDED: dict[str, Callable[..., pd.DataFrame]] = {
    "offline-wild": build_wild,
    "offline-phone": build_phone,
    "offline-lab": build_lab,
    "offline-render": build_render,
    "offline-wild-tiny": functools.partial(build_wild, distorted_per_view=3, views=1, scenes=0),
    "offline-phone-tiny": functools.partial(build_phone, photographs=["china"], per_shot=2, views=1),
    "offline-lab-tiny": functools.partial(build_lab, photographs=["coffee"], levels=[5]),
    "offline-render-tiny": functools.partial(build_render, scenes=1, views=1, distorted_per_view=7),
}


def build_views(
    folder: Path,
    sources: dict[str, Sequence[str]],
    views: int,
    open_source: Callable[[str], np.ndarray],
    parts: list[Callable[[np.ndarray, np.random.Generator], Iterable[Variant]]],
    seed: int,
    known: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Views of each split's sources and their variants; a view's ``parts`` are made in parallel.

    Args:
        known: scores by `address_of` the pixels; what is not among them is computed, and their number printed.

    Returns:
        The labels that it wrote, and the images' addresses as ``pixels``.

    Raises:
        DataError: a worker process was killed.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, name, view, part)
        for split, names in sources.items()
        for name in names
        for view in range(views)
        for part in parts
    ]
    work = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(_build_view)(folder, *job, open_source, seed, known or {}) for job in jobs
    )
    bar = Progress(work, total=len(jobs), desc=f"building {folder.name}")
    try:
        table = pd.DataFrame([row for rows in bar for row in rows])
    except BrokenProcessPool as error:
        raise DataError(
            f"A worker process that builds '{folder.name}' was killed, most likely because the memory was full. Start "
            f"it again with less beside it, or with fewer workers (LOKY_MAX_CPU_COUNT=1)."
        ) from error
    if known is not None and (computed := int((~table["pixels"].isin(list(known))).sum())):
        print(
            f"{folder.name}: {computed:,} of {len(table):,} scores were computed, for the package has no score of these "
            f"pixels: other settings than its own, another processor, or another NumPy, SciPy, Pillow or scikit-image.",
            file=sys.stderr,
        )
    paths.write_atomically(folder / "labels.csv", table.drop(columns="pixels").to_csv(index=False))
    return table


def _build_view(
    folder: Path, split: str, name: str, view: int, part, open_source, seed: int, known: Mapping[str, float]
) -> list[dict]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), view])
    reference = cut_view(open_source(name), rng)
    variants = list(part(reference, rng))
    addresses = [address_of(reference, variant.image) for variant in variants]
    scores = _known_or_computed(reference, [variant.image for variant in variants], addresses, known)
    rows = []
    for variant, address, score in zip(variants, addresses, scores, strict=True):
        file = f"images/{name}-{view}-{variant.label}.png"
        Image.fromarray(variant.image).save(folder / file, compress_level=1)
        rows.append(
            {
                "image": file,
                "score": score,
                "split": split,
                "reference": name,
                "distortion": variant.distortion,
                "severity": round(variant.severity, 3),
                "pixels": address,
            }
        )
    return rows


def _known_or_computed(
    reference: np.ndarray, images: list[np.ndarray], addresses: list[str], known: Mapping[str, float]
) -> list[float]:
    """Scores to two decimals; torch and piq, seconds of import in each worker, only where one is to be computed."""
    missing = [place for place, address in enumerate(addresses) if address not in known]
    scores = [known.get(address) for address in addresses]
    if missing:
        import torch

        torch.set_num_threads(1)  # the views are computed in parallel already
        computed = surrogate_scores(reference, [images[place] for place in missing])
        for place, score in zip(missing, computed, strict=True):
            scores[place] = round(score, 2)
    return scores


def _with_some(distort, count: int, reference: np.ndarray, rng: np.random.Generator) -> Iterator[Variant]:
    yield Variant("00", reference, "none", 0.0)
    for number in range(1, count + 1):
        image, applied = distort(reference, rng)
        kinds, severities = zip(*applied, strict=True)
        yield Variant(f"{number:02d}", image, "+".join(kinds), max(severities))


def _phone_shots(per_shot: int, reference: np.ndarray, rng: np.random.Generator) -> Iterator[Variant]:
    yield Variant("original", reference, "none", 0.0)
    for shot in PHONE_SHOTS:
        for number in range(per_shot):
            severity = (number + rng.uniform(0, 1)) / per_shot  # evenly spread
            yield Variant(f"{shot}-{number}", take_with_a_phone(reference, shot, severity, rng), shot, severity)


def _at_levels(distortion: str, levels, reference: np.ndarray, rng: np.random.Generator) -> Iterator[Variant]:
    seed = int(rng.integers(2**31))  # the same for all distortions of a reference
    for level in levels:
        image = d.distort(reference, distortion, level, seed)
        yield Variant(f"{distortion}-{level}", image, distortion, float(level))


# --- the scores that come with the package -----------------------------------------------------------------

# image, pixels (`address_of`), score. An image is listed once for each kind of processor that makes pixels of its own:
# NumPy rounds otherwise with AVX-512 than without, in one image of 17.
SCORES = "embedded_scores.csv"


def address_of(reference: np.ndarray, image: np.ndarray) -> str:
    """A hash of both images' pixels, all that a score depends on: another library's other pixels have no score."""
    digest = hashlib.blake2b(reference.tobytes(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()


def shipped_scores() -> dict[str, float]:
    """The package's scores of the embedded datasets, by `address_of`."""
    table = _read_scores()
    return dict(zip(table["pixels"], table["score"], strict=True))


def _known(shipped: bool) -> dict[str, float] | None:
    return shipped_scores() if shipped else None


def _read_scores() -> pd.DataFrame:
    # as text first: pandas' own reader of numbers may miss the last bit, and an address may look like a number
    return pd.read_csv(_scores_file(), dtype=str).astype({"score": float})


def _scores_file() -> Path:
    return Path(str(importlib.resources.files("iqa_lib.data") / SCORES))


def recompute_scores(names: Iterable[str] = tuple(EMBEDDED), shipped: bool = False) -> pd.DataFrame:
    """Build datasets in a folder that is deleted after, and compute all scores: ``image``, ``pixels``, ``score``.

    An image that two datasets have, a tiny and its full one, is listed once.

    Args:
        shipped: compute only what the package has no score of.
    """
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            table = EMBEDDED[name](Path(folder) / name, shipped=shipped)
            table["image"] = [f"{name}/{Path(image).stem}" for image in table["image"]]
            tables.append(table[["image", "pixels", "score"]])
    return pd.concat(tables, ignore_index=True).drop_duplicates("pixels")


def compare_scores(recomputed: pd.DataFrame) -> list[str]:
    """What differs between recomputed scores of all datasets and the package's, a line an image."""
    known, listed = shipped_scores(), set(_read_scores()["image"])
    lines = []
    for image, pixels, score in recomputed.itertuples(index=False):
        if pixels not in known:
            lines.append(f"{image}: {'other pixels than' if image in listed else 'not'} in {SCORES}")
        elif known[pixels] != score:
            lines.append(f"{image}: score {known[pixels]:.2f}, here {score:.2f}")
    return lines + [f"{image}: in {SCORES} alone" for image in sorted(listed - {*recomputed["image"]})]


def write_scores(recomputed: pd.DataFrame, add: bool = False) -> Path:
    """Make them the package's; ``add``: keep what it has, add those of pixels that it has no score of."""
    table = pd.concat([_read_scores(), recomputed]).drop_duplicates("pixels") if add else recomputed
    file = _scores_file()
    paths.write_atomically(file, table.to_csv(index=False, float_format="%.2f"))
    return file


# --- originals --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def read_photograph(name: str) -> np.ndarray:
    """A photograph that scikit-image or scikit-learn carries, uint8 H x W x 3."""
    for package, folder in (("skimage", "data"), ("sklearn.datasets", "images")):
        for suffix in (".png", ".jpg"):
            file = importlib.resources.files(package) / folder / f"{name}{suffix}"
            if file.is_file():
                with file.open("rb") as stream:
                    return np.asarray(Image.open(stream).convert("RGB"))
    raise FileNotFoundError(f"Neither scikit-image nor scikit-learn carries the photograph '{name}'.")


@functools.lru_cache(maxsize=2)
def _photograph_or_scene(name: str) -> np.ndarray:
    if not name.startswith("scene-"):
        return read_photograph(name)
    photographs = [read_photograph(part) for part in PHOTOGRAPHS["train"].split()]
    rng = np.random.default_rng([int(name.removeprefix("scene-")), zlib.crc32(b"scene")])
    return compose_scene(functools.partial(part_of_one, photographs), rng)


@functools.lru_cache(maxsize=2)
def _rendered_scene(name: str) -> np.ndarray:
    rng = np.random.default_rng([int(name.removeprefix("render-")), zlib.crc32(b"render")])
    return compose_scene(shaded_texture, rng)


def cut_view(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 4:3 part at a random place, reduced (never enlarged) to 384 x 288."""
    height, width = photograph.shape[:2]
    largest = min(width / VIEW[0], height / VIEW[1])
    scale = rng.uniform(1, largest) if largest > 1 else largest
    w, h = round(VIEW[0] * scale), round(VIEW[1] * scale)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    part = Image.fromarray(photograph[y : y + h, x : x + w])
    return np.asarray(part.resize(VIEW, Image.Resampling.LANCZOS))


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
