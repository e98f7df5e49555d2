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
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import color, restoration

from iqa_lib import paths
from iqa_lib.data import distortions as d
from iqa_lib.errors import DataError
from iqa_lib.progress import Progress

VIEW = (384, 288)  # width and height in px of every image
VIEWS = 4  # parts of a photograph, each at a scale and place of its own
KINDS_AT_ONCE = {1: 0.5, 2: 0.35, 3: 0.15}  # how many faults, and how often
SCENE = (960, 720)  # width and height in px of a composed scene

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
    folder: Path,
    distorted_per_view: int = 13,
    views: int = VIEWS,
    scenes: int = 8,
    seed: int = 0,
    shipped: bool = True,
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
    """Write ``offline-phone``: a telephone's processing, ``per_shot`` images of each of `PHONE_SHOTS` a view."""
    variants = functools.partial(_phone_shots, per_shot)
    return build_views(
        folder, {"test": photographs}, views, read_photograph, [variants], seed, _known(shipped)
    )


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
    folder: Path,
    scenes: int = 12,
    views: int = 1,
    distorted_per_view: int = 13,
    seed: int = 3,
    shipped: bool = True,
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
        known: scores by `address_of` the pixels; what is not among them is computed, and how many, told.

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
            yield Variant(
                f"{shot}-{number}", take_with_a_phone(reference, shot, severity, rng), shot, severity
            )


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
    return compose_scene(_shaded_texture, rng)


def compose_scene(
    filling: Callable[[tuple[int, int], np.random.Generator], np.ndarray],
    rng: np.random.Generator,
    leaves: int = 300,
) -> np.ndarray:
    """A dead-leaves scene: overlapping shapes, each filled by ``filling((width, height), rng)``, 960 x 720.

    Sizes follow the power law that gives such scenes the scale invariance of natural images (Lee, Mumford and
    Huang, IJCV 2001).
    """
    scene = Image.fromarray(filling(SCENE, rng))
    for radius in sorted(_leaf_radii(rng, leaves), reverse=True):
        leaf = Image.new("L", (4 * radius, 4 * radius))
        corners = rng.integers(3, 9)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        outline = [(2 * radius * (1 + np.cos(a)), 2 * radius * (1 + np.sin(a))) for a in angles]
        if rng.random() < 0.5:
            ImageDraw.Draw(leaf).ellipse((0, 0, 4 * radius - 1, 4 * radius - 1), fill=255)
        else:
            ImageDraw.Draw(leaf).polygon(outline, fill=255)
        mask = leaf.resize((2 * radius, 2 * radius), Image.Resampling.LANCZOS)  # smooth edges
        place = (int(rng.integers(-radius, SCENE[0])), int(rng.integers(-radius, SCENE[1])))
        scene.paste(Image.fromarray(filling(mask.size, rng)), place, mask)
    return np.asarray(scene)


def _leaf_radii(rng: np.random.Generator, count: int, smallest: int = 20, largest: int = 200) -> list[int]:
    """Radii with density r^-3 between the two, by inverting its distribution."""
    u = rng.uniform(0, 1, count)
    return np.round((smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5).astype(int).tolist()


def part_of_one(photographs: list[np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of a random photograph at its own sharpness, mirrored where it is too small, or turned."""
    pixels = photographs[rng.integers(len(photographs))]
    pixels = np.rot90(pixels, int(rng.integers(4)))
    short = [max(0, want - have) for want, have in zip(size[::-1], pixels.shape[:2], strict=True)]
    if any(short):
        pixels = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric")
    y = rng.integers(0, pixels.shape[0] - size[1] + 1)
    x = rng.integers(0, pixels.shape[1] - size[0] + 1)
    return np.ascontiguousarray(pixels[y : y + size[1], x : x + size[0]])


def _shaded_texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A generated texture between two colours, lit from a random side."""
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    colours = color.hsv2rgb(rng.uniform((0, 0, 0.1), (1, 0.7, 1), (2, 3)))
    texture = kind(size, rng)[..., None] * (colours[1] - colours[0]) + colours[0]
    light = 1 + rng.uniform(0, 0.35) * _ramp(size, rng.uniform(0, 2 * np.pi))
    return d.to_uint8(texture * light[..., None])


def _ramp(size: tuple[int, int], angle: float) -> np.ndarray:
    """A plane through 0 at the middle, -1 to 1 along its longer direction, height x width."""
    x, y = (np.linspace(-1, 1, side) for side in size)
    plane = np.cos(angle) * x + np.sin(angle) * y[:, None]
    return plane / np.abs(plane).max()


def _cloud(size, rng):
    """Noise whose amplitude falls as a power of frequency, stone to mist."""
    fy, fx = np.fft.fftfreq(size[1])[:, None], np.fft.rfftfreq(size[0])
    frequency = np.maximum(np.hypot(fx, fy), 1 / max(size))
    spectrum = np.fft.rfft2(rng.standard_normal(size[::-1])) * frequency ** -rng.uniform(0.6, 2)
    noise = np.fft.irfft2(spectrum, s=size[::-1])
    return np.clip(0.5 + 0.2 * (noise - noise.mean()) / noise.std(), 0, 1)


def _gradient(size, rng):
    return (1 + _ramp(size, rng.uniform(0, 2 * np.pi))) / 2


def _stripes(size, rng):
    """Parallel waves, soft to hard-edged, a period of 6 to 40 px."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    return np.clip(0.5 + rng.uniform(0.5, 3) * wave, 0, 1)


def _tiles(size, rng):
    """A wall of square tiles of differing brightness between joints."""
    side = int(rng.integers(12, 48))
    y, x = np.indices(size[::-1])
    brightness = rng.uniform(0.3, 1, (size[1] // side + 1, size[0] // side + 1))
    joint = np.minimum(x % side, y % side) < max(side // 12, 1)
    return np.where(joint, 0, brightness[y // side, x // side])


def _cells(size, rng):
    """Nearest-point (Voronoi) cells of differing brightness, like cracked ground or scales."""
    count = max(4, size[0] * size[1] // int(rng.integers(200, 2000)))
    seeds = np.ones(size[::-1], bool)
    at = rng.integers(0, size[1], count), rng.integers(0, size[0], count)
    seeds[at] = False
    distance, (ny, nx) = ndimage.distance_transform_edt(seeds, return_indices=True)
    return rng.uniform(0.2, 1, size[::-1])[ny, nx] * (1 - 0.6 * distance / max(distance.max(), 1))


def _writing(size, rng):
    """Lines of random letters."""
    page = Image.new("L", size)
    height = int(rng.integers(9, 26))
    font, letters = ImageFont.load_default(height), np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for top in range(0, size[1], round(1.3 * height)):
        ImageDraw.Draw(page).text((0, top), "".join(rng.choice(letters, size[0] // 3)), 255, font)
    return np.asarray(page) / 255


TEXTURES = (_cloud, _cloud, _gradient, _stripes, _tiles, _cells, _writing)


def cut_view(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 4:3 part at a random place, reduced (never enlarged) to 384 x 288."""
    height, width = photograph.shape[:2]
    largest = min(width / VIEW[0], height / VIEW[1])
    scale = rng.uniform(1, largest) if largest > 1 else largest
    w, h = round(VIEW[0] * scale), round(VIEW[1] * scale)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    part = Image.fromarray(photograph[y : y + h, x : x + w])
    return np.asarray(part.resize(VIEW, Image.Resampling.LANCZOS))


# --- faults: functions of image, severity 0-1 and generator -----------------------------------------------


def distort_like_a_camera(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """One to three of `CAMERA_FAULTS`, in their order; returns the image and (kind, severity 0-1) of each."""
    return _apply_some(CAMERA_FAULTS, image, rng)


def distort_like_a_renderer(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """One to three of `RENDER_FAULTS`, otherwise as `distort_like_a_camera`."""
    return _apply_some(RENDER_FAULTS, image, rng)


def _apply_some(faults, image, rng):
    count = rng.choice(list(KINDS_AT_ONCE), p=list(KINDS_AT_ONCE.values()))
    chosen = sorted(rng.choice(len(faults), size=count, replace=False))
    applied = []
    for kind in (list(faults)[i] for i in chosen):
        severity = rng.uniform(0, 1)
        image = faults[kind](image, severity, rng)
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


def _resample(image, factor, down, up):
    """Reduce by ``factor`` and enlarge again, by two of Pillow's methods."""
    small = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return np.asarray(Image.fromarray(image).resize(small, down).resize(image.shape[1::-1], up))


NEAREST, BOX, BILINEAR, BICUBIC = (Image.Resampling[n] for n in ("NEAREST", "BOX", "BILINEAR", "BICUBIC"))

CAMERA_FAULTS = {
    "defocus": lambda image, s, rng: d.lens_blur(image, _between(0.6, 6, s)),
    "motion-blur": lambda image, s, rng: d.motion_blur(image, _between(2, 20, s), rng.uniform(0, 180)),
    "exposure": _exposure,
    "contrast": lambda image, s, rng: d.change_contrast(image, -_between(0.08, 0.6, s)),
    "colour-cast": _colour_cast,
    "noise": lambda image, s, rng: d.white_noise(image, _between(0.0004, 0.02, s), rng),
    "resampling": lambda image, s, rng: _resample(image, _between(1.3, 6, s), BILINEAR, BICUBIC),
    "jpeg2000": lambda image, s, rng: d.jpeg2000(image, _between(12, 250, s)),
    "jpeg": lambda image, s, rng: d.jpeg(image, _between(70, 5, s)),
}


def _sensor_noise(image, severity, rng):
    """Shot and read noise in linear light, as if exposed too little, in blotches as demosaicing leaves them."""
    linear = (image / 255.0) ** 2.2
    photons = _between(2000, 25, severity)  # of a white pixel
    noise = rng.standard_normal(image.shape) * np.sqrt(linear / photons + (3 / photons) ** 2)
    noisy = linear + ndimage.gaussian_filter(noise, (0.6, 0.6, 0)) * 1.5
    return d.to_uint8(np.clip(noisy, 0, 1) ** (1 / 2.2))


def _smear(image, severity, rng):
    """Denoise by total variation (Chambolle 2004), colour most: fine texture turns to paint."""
    lab = color.rgb2lab(image)
    weight = _between(0.5, 12, severity)
    lab[..., 0] = restoration.denoise_tv_chambolle(lab[..., 0], weight, max_num_iter=40)
    lab[..., 1:] = ndimage.gaussian_filter(lab[..., 1:], (weight / 3, weight / 3, 0), mode="nearest")
    return d.to_uint8(d.lab_to_unit(lab))


def _tone_map(image, severity, rng):
    """Flatten the coarse light and lift detail and colour, as "HDR" does; halos stand along dark outlines."""
    lab = color.rgb2lab(image)
    coarse = ndimage.gaussian_filter(lab[..., 0], 12, mode="nearest")
    detail = lab[..., 0] - coarse
    flat = coarse + _between(0.05, 0.7, severity) * (60 - coarse)
    lab[..., 0] = np.clip(flat + (1 + _between(0.1, 1, severity)) * detail, 0, 100)
    lab[..., 1:] *= 1 + _between(0.05, 0.8, severity)
    return d.to_uint8(d.lab_to_unit(lab))


def _halo_sharpen(image, severity, rng):
    """Unsharp masking at 1.2 px, the narrow bright and dark outlines of a telephone."""
    unit = image / 255.0
    blurred = ndimage.gaussian_filter(unit, (1.2, 1.2, 0), mode="nearest")
    return d.to_uint8(unit + _between(0.15, 3, severity) * (unit - blurred))


def _compress(image, severity, rng):
    return d.jpeg(image, _between(85, 10, severity))


def _shake(image, severity, rng):
    return d.motion_blur(image, _between(1.2, 7, severity), rng.uniform(0, 180))


def _digital_zoom(image, severity, rng):
    return _resample(image, _between(1.2, 4, severity), BILINEAR, BICUBIC)


def _forward(image, severity, rng):
    """As a messenger passes it on: reduced, compressed hard, enlarged with its blocks."""
    factor = _between(1.05, 2.5, severity)
    small = Image.fromarray(image).resize([round(side / factor) for side in VIEW], BILINEAR)
    sent = d.jpeg(np.asarray(small), _between(80, 8, severity))
    return np.asarray(Image.fromarray(sent).resize(VIEW, BILINEAR))


# What a telephone does to a picture, in order, by the kind of shot.
PHONE_SHOTS = {
    "daylight": (_tone_map, _halo_sharpen, _compress),
    "low-light": (_shake, _sensor_noise, _smear, _halo_sharpen, _compress),
    "digital-zoom": (_digital_zoom, _smear, _halo_sharpen, _compress),
    "messenger": (_halo_sharpen, _forward),
}


def take_with_a_phone(image: np.ndarray, shot: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """All steps of one of `PHONE_SHOTS`, each about as strong as ``severity`` (0-1) says."""
    for step in PHONE_SHOTS[shot]:
        image = step(image, np.clip(severity + rng.uniform(-0.15, 0.15), 0, 1), rng)
    return image


def _colour_drift(image, severity, rng):
    """Turn all hues and the grey point, as a wrong colour space or white point does."""
    lab = color.rgb2lab(image)
    angle = np.radians(_between(6, 80, severity)) * rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lab[..., 1:] = lab[..., 1:] @ turn + _between(1, 12, severity) * turn[0]
    return d.to_uint8(d.lab_to_unit(lab))


def _melt(image, severity, rng):
    """Warp smoothly by a few px, as image generators deform what should be straight."""
    shifts = ndimage.gaussian_filter(rng.standard_normal((2, *image.shape[:2])), (0, 8, 8))
    places = np.indices(image.shape[:2]) + _between(0.4, 6, severity) * shifts / shifts.std()
    channels = [ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=-1)


def _few_samples(image, severity, rng):
    """The grain of a path tracer stopped too soon, and its fireflies: single pixels far too bright."""
    grainy = d.multiplicative_noise(image, _between(0.003, 0.15, severity), rng)
    fireflies = rng.random(image.shape[:2]) < _between(0.0002, 0.01, severity)
    grainy[fireflies] = 255
    return grainy


# What goes wrong in rendering, generating and delivering, in that order.
RENDER_FAULTS = {
    "melting": _melt,
    "few-samples": _few_samples,
    "aliasing": lambda image, s, rng: _resample(image, _between(1.2, 4, s), NEAREST, BILINEAR),
    "blocky-upscaling": lambda image, s, rng: _resample(image, _between(1.4, 7, s), BOX, NEAREST),
    "oversharpening": lambda image, s, rng: d.sharpen(image, _between(0.5, 10, s)),
    "colour-drift": _colour_drift,
    "oversaturation": lambda image, s, rng: d.saturate_lab(image, _between(1.3, 5, s)),
    "banding": lambda image, s, rng: d.quantize(image, _between(24, 4, s)),
    "streaming": lambda image, s, rng: d.recompress(image, "WEBP", quality=round(_between(60, 1, s))),
}


# --- scores -----------------------------------------------------------------------------------------------


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
