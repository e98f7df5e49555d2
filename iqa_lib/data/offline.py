"""Embedded datasets: real photographs and composed scenes, generated faults, scores from full-reference metrics.

The scores are STAND-INS FOR OPINION: a fixed mapping of how far an image is from its undistorted original,
by VSI, HaarPSI and MDSI (piq). No person rated them; every table and figure made from them says so. Those of the
embedded datasets come with the package (`shipped_scores`): computing them took most of the time of building.

``offline-wild`` has a training, a validation and a test part, split by photograph. The others are for
cross-dataset tests: all their rows are "test", and of contents that no training part here has.
"""

import functools
import hashlib
import importlib.resources
import itertools
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib import paths
from iqa_lib.data import distortions as d
from iqa_lib.data.faults import PHONE_SHOTS, VIEW, distort_like, take_with_a_phone
from iqa_lib.data.scenes import compose_scene, part_of_one, shaded_texture
from iqa_lib.errors import DataError
from iqa_lib.progress import Progress

# Every part has natural colour photographs; fixed before the first training.
PHOTOGRAPHS = {
    "train": "astronaut chelsea flower hubble_deep_field retina ihc brick gravel moon cell",
    "val": "motorcycle_left coins grass",
    "test": "china coffee camera rocket",
}
TEST_PHOTOGRAPHS = tuple(PHOTOGRAPHS["test"].split())

COLUMNS = ["image", "score", "split", "reference", "distortion", "severity", "pixels"]


class Variant(NamedTuple):
    """One image of a reference: its file's last part, pixels, kind of distortion, and how much of it."""

    label: str
    image: np.ndarray
    distortion: str
    severity: float


# --- the datasets -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def open_source(name: str) -> np.ndarray:
    """A photograph; ``scene-N``, composed of the training photographs; ``render-N``, of generated textures."""
    kind, _, number = name.partition("-")
    if kind == "scene":
        filling = functools.partial(part_of_one, [read_photograph(part) for part in PHOTOGRAPHS["train"].split()])
    elif kind == "render":
        filling = shaded_texture
    else:
        return read_photograph(name)
    return compose_scene(filling, np.random.default_rng([int(number), zlib.crc32(kind.encode())]))


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of: parts of pictures, and what is done to them."""

    sources: dict[str, Sequence[str]]  # the pictures' names by split
    views: int  # parts of a picture, each at a scale and place of its own
    variants: list[Callable[[np.ndarray, np.random.Generator], Iterable[Variant]]]  # each makes some of a view's images
    seed: int
    open_source: Callable[[str], np.ndarray] = open_source  # from a name to pixels

    def build(self, folder: Path, shipped: bool = True) -> pd.DataFrame:
        """Write ``images/*.png`` and, last, ``labels.csv``; the same recipe gives the same bytes.

        ``shipped``: take the scores that the package has of these very pixels; compute only the others, and say so.
        Returns the rows of ``labels.csv`` with ``pixels``, each image's `address_of`.
        """
        (folder / "images").mkdir(parents=True, exist_ok=True)
        known = shipped_scores() if shipped else {}
        jobs = [
            (split, *job)
            for split, names in self.sources.items()
            for job in itertools.product(names, range(self.views), self.variants)
        ]
        # All views of a picture in one process, which keeps the last two pictures: a scene takes long to compose.
        work = joblib.Parallel(n_jobs=-1, return_as="generator", batch_size=self.views)(
            joblib.delayed(self._build_view)(folder, known, *job) for job in jobs
        )
        bar = Progress(work, total=len(jobs), desc=f"building {folder.name}")
        try:
            table = pd.DataFrame([row for rows in bar for row in rows], columns=COLUMNS)
        except BrokenProcessPool as error:
            raise DataError(
                f"A worker process that builds '{folder.name}' was killed, most likely because the memory was full. "
                f"Start it again with less beside it, or with fewer workers (LOKY_MAX_CPU_COUNT=1)."
            ) from error
        if shipped and (computed := sum(address not in known for address in table["pixels"])):
            print(
                f"{folder.name}: {computed:,} of {len(table):,} scores were computed, for the package has no score of "
                f"these pixels: other settings than its own, another processor, or another NumPy, SciPy, Pillow or "
                f"scikit-image.",
                file=sys.stderr,
            )
        paths.write_atomically(folder / "labels.csv", table.drop(columns="pixels").to_csv(index=False))
        return table

    def _build_view(
        self, folder: Path, known: Mapping[str, float], split: str, name: str, view: int, variants_of: Callable
    ) -> list[tuple]:
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), view])
        reference = cut_view(self.open_source(name), rng)
        variants = list(variants_of(reference, rng))
        addresses = [address_of(reference, variant.image) for variant in variants]
        missing = [(a, v.image) for a, v in zip(addresses, variants, strict=True) if a not in known]
        if missing:  # else without torch and piq, seconds of import in each worker
            import torch

            torch.set_num_threads(1)  # the views are computed in parallel already
            computed = surrogate_scores(reference, [image for _, image in missing])
            known = {**known, **{a: round(score, 2) for (a, _), score in zip(missing, computed, strict=True)}}
        rows = []
        for variant, address in zip(variants, addresses, strict=True):
            file = f"images/{name}-{view}-{variant.label}.png"
            Image.fromarray(variant.image).save(folder / file, compress_level=1)
            severity = round(variant.severity, 3)
            rows.append((file, known[address], split, name, variant.distortion, severity, address))
        return rows


def wild(distorted_per_view: int = 13, views: int = 4, scenes: int = 8) -> Recipe:
    """``offline-wild``: photographs and scenes with one to three faults of a camera, in the order it makes them."""
    sources = {split: names.split() for split, names in PHOTOGRAPHS.items()}
    sources["train"] += [f"scene-{number}" for number in range(scenes)]
    return Recipe(sources, views, [functools.partial(_with_some, "camera", distorted_per_view)], seed=0)


def phone(photographs: Sequence[str] = TEST_PHOTOGRAPHS, per_shot: int = 4, views: int = 2) -> Recipe:
    """``offline-phone``: a smartphone's processing, ``per_shot`` images of each of `PHONE_SHOTS` a view."""
    return Recipe({"test": photographs}, views, [functools.partial(_phone_shots, per_shot)], seed=1)


def lab(photographs: Sequence[str] = TEST_PHOTOGRAPHS, levels: Sequence[int] = (1, 2, 3, 4, 5)) -> Recipe:
    """``offline-lab``: one view of each photograph under every distortion of KADID-10k at every level.

    ``severity`` is the level. As in KADID-10k the references themselves are not among the images. What only
    changes colours leaves the one grey photograph as it is, at 100 points.
    """
    variants = [functools.partial(_at_levels, name, levels) for name in d.DISTORTIONS]
    return Recipe({"test": photographs}, 1, variants, seed=2)


def render(scenes: int = 12, distorted_per_view: int = 13) -> Recipe:
    """``offline-render``: scenes of generated textures with one to three faults of computer graphics."""
    names = [f"render-{number}" for number in range(scenes)]
    return Recipe({"test": names}, 1, [functools.partial(_with_some, "renderer", distorted_per_view)], seed=3)


def _with_some(device: str, count: int, reference: np.ndarray, rng: np.random.Generator) -> Iterator[Variant]:
    yield Variant("00", reference, "none", 0.0)
    for number in range(1, count + 1):
        yield Variant(f"{number:02d}", *distort_like(device, reference, rng))


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


EMBEDDED = {
    "offline-wild": wild(),
    "offline-phone": phone(),
    "offline-lab": lab(),
    "offline-render": render(),
    "offline-wild-tiny": wild(distorted_per_view=3, views=1, scenes=0),
    "offline-phone-tiny": phone(["china"], per_shot=2, views=1),
    "offline-lab-tiny": lab(["coffee"], levels=[5]),
    "offline-render-tiny": render(scenes=1, distorted_per_view=7),
}


# --- the scores that come with the package -----------------------------------------------------------------

# image, pixels (`address_of`), score. An image is listed once for each kind of processor that makes pixels of its own:
# NumPy rounds otherwise with AVX-512 than without, in one image of 17.
SCORES = Path(__file__).with_name("embedded_scores.csv")


def address_of(reference: np.ndarray, image: np.ndarray) -> str:
    """A hash of both images' pixels, all that a score depends on: another library's other pixels have no score."""
    return hashlib.blake2b(reference.tobytes() + image.tobytes(), digest_size=8).hexdigest()


def shipped_scores() -> dict[str, float]:
    """The package's scores of the embedded datasets, by `address_of`."""
    table = _read_scores()
    return dict(zip(table["pixels"], table["score"], strict=True))


def _read_scores() -> pd.DataFrame:
    # as text first: pandas' own reader of numbers may miss the last bit, and an address may look like a number
    return pd.read_csv(SCORES, dtype=str).astype({"score": float})


def renew_scores(write: bool = False, add: bool = False) -> bool:
    """Compute all scores again and print what differs from the package's; whether they agree in the end.

    ``write``: make them the package's; ``add``: compute and write only those of pixels that it has no score of.
    """
    recomputed = recompute_scores(shipped=add)
    differences = compare_scores(recomputed)
    print(*differences, f"{len(differences) or 'none'} of {len(recomputed):,} images differ", sep="\n")
    if write or add:
        print(f"written: {write_scores(recomputed, add)}")
    return write or add or not differences


def recompute_scores(names: Iterable[str] = tuple(EMBEDDED), shipped: bool = False) -> pd.DataFrame:
    """Build datasets in a folder that is deleted after, and compute all scores: ``image``, ``pixels``, ``score``.

    An image of two datasets is listed once. ``shipped``: compute only what the package has no score of.
    """
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            table = EMBEDDED[name].build(Path(folder) / name, shipped)
            table["image"] = [f"{name}/{Path(image).stem}" for image in table["image"]]
            tables.append(table[["image", "pixels", "score"]])
    return pd.concat(tables, ignore_index=True).drop_duplicates("pixels")


def compare_scores(recomputed: pd.DataFrame) -> list[str]:
    """What differs between recomputed scores of all datasets and the package's, a line an image."""
    known, listed = shipped_scores(), set(_read_scores()["image"])
    lines = []
    for image, pixels, score in recomputed.itertuples(index=False):
        if pixels not in known:
            lines.append(f"{image}: {'other pixels than' if image in listed else 'not'} in {SCORES.name}")
        elif known[pixels] != score:
            lines.append(f"{image}: score {known[pixels]:.2f}, here {score:.2f}")
    return lines + [f"{image}: in {SCORES.name} alone" for image in sorted(listed - {*recomputed["image"]})]


def write_scores(recomputed: pd.DataFrame, add: bool = False) -> Path:
    """Make them the package's; ``add``: keep what it has, add those of pixels that it has no score of."""
    table = pd.concat([_read_scores(), recomputed]).drop_duplicates("pixels") if add else recomputed
    paths.write_atomically(SCORES, table.to_csv(index=False, float_format="%.2f"))
    return SCORES


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
