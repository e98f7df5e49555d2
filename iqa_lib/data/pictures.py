"""The pictures that this project's own backbone learns from, and the training set made of them.

Freely licensed wallpapers (``iqa_lib/pretraining_pictures.csv`` has author and licence of each), the training
photographs of the embedded datasets, and scenes composed of both. Never a picture that the embedded datasets
validate or test on, and none that people rated.
"""

import functools
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib import paths
from iqa_lib.data import distortions, faults, offline, scenes
from iqa_lib.data.decode import quiet_pillow
from iqa_lib.data.offline import Variant
from iqa_lib.errors import DataError

LIST = "pretraining_pictures.csv"
PACKAGES_FOLDER = Path("/usr/share")  # where Debian's packages put them
HELD_OUT = {"val": 3, "test": 2}  # wallpapers, to measure generalisation
SCENES, SEED = 40, 7
VIEWS = {"wallpaper": 14, "photograph": 6, "scene": 5}
PER_VIEW = {"camera": 5, "kadid": 4, "phone": 1, "renderer": 1}  # distorted images of each view, by pipeline
SOURCES_AT_ONCE = 8  # an interrupted build loses at most these
_name = "wallpaper-{:02d}".format  # of a wallpaper, by its place in the list


def listed() -> pd.DataFrame:
    """The wallpapers: Debian ``package``, ``file`` below /usr/share, ``author``, ``licence``; and our ``name``."""
    table = pd.read_csv(resources.files("iqa_lib.data") / LIST)
    return table.assign(name=[_name(place) for place in range(len(table))])


def build(folder: Path, pictures: Path = PACKAGES_FOLDER) -> Path:
    """Write images and surrogate scores to ``folder/labels.csv``; resumes where an earlier call was stopped.

    ``pictures``: the folder with the listed files; DataError where some are missing.
    """
    wallpapers = listed()
    missing = wallpapers[[not (pictures / file).is_file() for file in wallpapers["file"]]]
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(wallpapers)} pictures are not in {pictures}, such as {missing['file'].iloc[0]}. "
            f"On Debian 12: apt-get install --no-install-recommends {' '.join(missing['package'].unique())}; elsewhere "
            f"unpack these packages and name the folder: --pictures FOLDER/usr/share."
        )
    open_source = functools.partial(_open, tuple(str(pictures / file) for file in wallpapers["file"]))
    sources = {
        "wallpaper": wallpapers["name"].tolist(),
        "photograph": offline.PHOTOGRAPHS["train"].split(),
        "scene": [f"scene-{number}" for number in range(SCENES)],
    }
    for kind, names in sources.items():
        for start in range(0, len(names), SOURCES_AT_ONCE):
            part = folder / f"{kind}-{start:02d}"
            if not (part / "labels.csv").is_file():
                sources = {"train": names[start : start + SOURCES_AT_ONCE]}
                recipe = offline.Recipe(sources, VIEWS[kind], [_variants], SEED, open_source)
                recipe.build(part, shipped=False)
    tables = []
    for file in sorted(folder.glob("*-*/labels.csv")):
        table = pd.read_csv(file)
        tables.append(table.assign(image=f"{file.parent.name}/" + table["image"]))
    table = pd.concat(tables)
    table["split"] = table["reference"].map(_held_out(len(wallpapers))).fillna(table["split"])
    paths.write_atomically(folder / "labels.csv", table.to_csv(index=False))
    return folder / "labels.csv"


def _held_out(wallpapers: int) -> dict[str, str]:
    """Name and split of the wallpapers that nothing is trained on, spread over the list."""
    splits = [split for split, count in HELD_OUT.items() for _ in range(count)]
    places = range(0, wallpapers, wallpapers // len(splits))
    return dict(zip(map(_name, places), splits, strict=False))


@functools.lru_cache(maxsize=6)
def _open(wallpapers: tuple[str, ...], name: str) -> np.ndarray:
    kind, _, number = name.partition("-")
    if kind == "wallpaper":
        with quiet_pillow(), Image.open(wallpapers[int(number)]) as file:
            file.thumbnail((2560, 2560), Image.Resampling.LANCZOS)
            return np.asarray(file.convert("RGB"))
    if kind == "scene":
        return _scene(wallpapers, int(number))
    return offline.read_photograph(name)


def _scene(wallpapers: tuple[str, ...], number: int) -> np.ndarray:
    """A dead-leaves scene (`scenes.compose_scene`) of parts of six pictures that are trained on."""
    rng = np.random.default_rng([number, zlib.crc32(b"pretraining scene")])
    held_out = _held_out(len(wallpapers))
    names = [name for name in map(_name, range(len(wallpapers))) if name not in held_out]
    names += offline.PHOTOGRAPHS["train"].split()
    chosen = [_open(wallpapers, name) for name in rng.choice(names, 6, replace=False)]
    return scenes.compose_scene(functools.partial(scenes.part_of_one, chosen), rng)


def _variants(reference: np.ndarray, rng: np.random.Generator) -> Iterator[Variant]:
    yield Variant("original", reference, "none", 0.0)
    for label in ("camera", "renderer"):
        for number in range(PER_VIEW[label]):
            yield Variant(f"{label}-{number}", *faults.distort_like(label, reference, rng))
    for number in range(PER_VIEW["kadid"]):
        kind, level = str(rng.choice(list(distortions.DISTORTIONS))), int(rng.integers(1, 6))
        image = distortions.distort(reference, kind, level, int(rng.integers(2**31)))
        yield Variant(f"kadid-{number}", image, kind, level / 5)
    for number in range(PER_VIEW["phone"]):
        shot, severity = str(rng.choice(list(faults.PHONE_SHOTS))), rng.uniform()
        yield Variant(f"phone-{number}", faults.take_with_a_phone(reference, shot, severity, rng), shot, severity)
