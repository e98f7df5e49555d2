"""A folder of photographs that people rate: which one comes next, what the ratings come to, what there is to learn.

study = Study("photos/")
session = Session(study, "Ann")           # one person, one way of rating
item = session.item()                     # the photograph to show
session.rate(item, 4, seconds=2.1)        # on disk when this returns
"""

from __future__ import annotations

import functools
import io
import threading
import zlib
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib import paths
from iqa_lib.data import catalog, near_copies
from iqa_lib.data.decode import WorkingSize, decode_whole, open_image, quiet_pillow, read_image
from iqa_lib.errors import DataError, ImageError
from iqa_lib.profile import DataSettings
from iqa_lib.rating import learn, scores
from iqa_lib.rating.records import COLUMNS, FOLDER, SCALES, Ratings, Standing, load, photographs_in, read_table
from iqa_lib.scoring.score import Scorer, load_scorer

EVERY = 10  # the last of so many is a repeat
GAP = 8  # ratings at least between the two
AT_RANDOM = 1 / 3  # of the photographs, where the others are chosen
PER_PHOTOGRAPH = 4  # comparisons that it takes part in
SHOWN = {1: 1080, 2: 900}  # px: short side of one photograph on the page, of two
DETAIL = (1400, 900)  # px: what of a photograph is shown at its own size


class Study:
    """A folder of photographs with the ratings of all its raters, in ``ratings/`` in it.

    Args:
        files: the photographs by name, where they are not all those below the folder.
        table: ratings from elsewhere (`of_table`), in place of those in the folder.

    Raises:
        DataError: there is no photograph.
        StorageError: the folder may not be written.
    """

    def __init__(
        self, photographs: str | Path, files: dict[str, Path] | None = None, table: pd.DataFrame | None = None
    ):
        self.folder = paths.named(photographs).absolute()
        self.files = photographs_in(self.folder) if files is None else files
        if table is None:
            paths.require_target(self.folder / FOLDER, folder=True)
        self.faults: dict[str, str] = {}  # why a photograph cannot be shown
        self.seen: learn.Seen | None = None
        self._table = table
        self._references: dict[str, str] = {}  # of each image, where they are known
        self._looking = threading.Lock()

    @classmethod
    def of_table(
        cls, photographs: str | Path, table: str | Path = "", ends: tuple[float, float] | None = None
    ) -> Study:
        """With the ratings of another tool (`records.read_table`); where none is named, with the folder's own."""
        folder = paths.named(photographs).absolute()
        return cls(folder, table=read_table(paths.named(table), folder, ends) if table else None)

    @classmethod
    def stand_in(cls, settings: DataSettings, most: int = 120) -> Study:
        """A dataset's test images and scores in place of a folder and a rater, to see what comes out."""
        of = (settings.dataset, settings.score_range, settings.data_folder, settings.split_seed)
        known = catalog.load_table(*of).query("split == 'test'")  # the default model may have learnt from the others
        known = known.sample(min(most, len(known)), random_state=0).sort_index()
        said = {"rater": settings.dataset, "kind": "slider", "image": known["image"], "value": known["score"]}
        table = pd.DataFrame(said).reindex(columns=COLUMNS).assign(repeat=False, chosen="random")
        study = cls(paths.HOME, dict(zip(known["image"], map(Path, known["path"]), strict=True)), table)
        study._references = dict(zip(known["image"], known["reference"], strict=True))
        return study

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The default model."""
        return load_scorer()

    def look(self) -> learn.Seen:
        """What the default model sees of every photograph; computed at the first call."""
        with self._looking:
            if self.seen is None:
                seen, faults = learn.look(self.scorer, self.files)
                self.faults.update(faults)
                self.seen = seen
            return self.seen

    @property
    def ratings(self) -> pd.DataFrame:
        return load(self.folder) if self._table is None else self._table

    def images(self) -> tuple[pd.DataFrame, scores.Opinions | None]:
        """Scores (0–100) of the rated photographs that are still here; and, not of pairs, all that is known."""
        ratings = self.ratings
        if ratings.empty or (ratings["kind"] != "pair").any():
            opinions = scores.opinions(scores.as_points(ratings))
            found = opinions.images
        else:
            opinions, of_default = None, self.look().score_N
            found = scores.from_pairs(ratings, of_default.mean(), max(of_default.std(), 1.0))
        return found[found["image"].isin(self.files.keys() - self.faults.keys())].reset_index(drop=True), opinions

    def lessons(self) -> Lessons:
        """What there is to learn from.

        Raises:
            DataError: of too few photographs.
        """
        images, _ = self.images()
        seen = self.look()
        images = images[images["image"].isin(seen.names)]
        if len(images) < learn.FEWEST:
            raise DataError(f"{len(images)} photographs are rated; a model can learn from {learn.FEWEST} on.")
        if np.ptp(images["score"]) < 1e-6:
            raise DataError(f"All {len(images)} photographs are rated alike: there is nothing to learn from that.")
        place = {name: row for row, name in enumerate(seen.names)}
        if self._references:
            groups = images["image"].map(self._references).to_numpy()
        else:
            groups = near_copies.groups([str(self.files[name]) for name in images["image"]])
        chosen = self.ratings.query("chosen == 'active' and kind != 'pair'")["image"]
        rows = images["image"].map(place).to_numpy()
        return Lessons(seen, rows, images["score"].to_numpy(), groups, ~images["image"].isin(chosen).to_numpy())

    def ceiling(self) -> float:
        """The SRCC that the noise of these ratings allows, 1 where they do not say."""
        points = scores.as_points(self.ratings)
        found = scores.agreement(points).get("ceiling") if len(points) else None
        return found.value if found is not None and found.value > 0 else 1.0

    def picture(self, name: str, short_side: int) -> bytes:
        """JPEG of a photograph, upright, as it can be shown.

        Raises:
            ImageError: it cannot be read; it is then among the ``faults``.
        """
        try:
            if name not in self.files:
                raise ImageError(name, "is not in the folder any more")
            return _jpeg(self.files[name], short_side)
        except ImageError as error:
            self.faults[name] = error.reason
            raise

    def size(self, name: str) -> list[int]:
        """Width and height of a photograph, upright; raises as `picture`."""
        try:
            with quiet_pillow(), open_image(self.files[name]) as file:
                turned = file.format != "TIFF" and file.getexif().get(0x0112, 1) >= 5
                return list(file.size[:: -1 if turned else 1])
        except OSError as error:  # its picture was read ahead, and then it went
            self.faults[name] = "cannot be read any more"
            raise ImageError(name, self.faults[name]) from error

    def detail(self, name: str, x: float, y: float) -> bytes:
        """JPEG of the part around this place (0–1), pixel by pixel."""
        whole = _whole(self.files[name])
        height, width = whole.shape[:2]
        left = int(np.clip(x * width - DETAIL[0] / 2, 0, max(width - DETAIL[0], 0)))
        top = int(np.clip(y * height - DETAIL[1] / 2, 0, max(height - DETAIL[1], 0)))
        return _encoded(whole[top : top + DETAIL[1], left : left + DETAIL[0]])


class Lessons(NamedTuple):
    """What `learn` takes: rows of the photographs seen, their scores, near-copies, and which were drawn at random."""

    seen: learn.Seen
    rows: np.ndarray
    rating: np.ndarray
    groups: np.ndarray
    tested: np.ndarray


@functools.lru_cache(maxsize=12)
def _jpeg(file: Path, short_side: int) -> bytes:
    with quiet_pillow():
        return _encoded(read_image(file, WorkingSize(short_side, 1)))


@functools.lru_cache(maxsize=1)
def _whole(file: Path) -> np.ndarray:
    with quiet_pillow():
        return decode_whole(file)


def _encoded(pixels_HWC: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels_HWC).save(content, "JPEG", quality=96, subsampling=0)
    return content.getvalue()


class Item(NamedTuple):
    """What is to be rated."""

    images: tuple[str, ...]  # one, or the left and the right one
    repeat: bool
    chosen: str  # random, active
    after: int  # lines of the rater's file: who answers says them


class Session:
    """One person who rates in one way: ``acr`` (1–5), ``slider`` (0–100) or ``pair`` (which of two is better).

    Args:
        choice: ``random``; or ``active``, the photographs of which the model is least sure, but for a third.
        seed: of the order, which is another for each rater.
    """

    def __init__(self, study: Study, rater: str, kind: str = "acr", choice: str = "random", seed: int = 0):
        if kind not in SCALES or choice not in ("random", "active"):
            raise DataError(f"One rates by {', '.join(SCALES)}, chosen random or active; got '{kind}', '{choice}'.")
        self.study, self.kind, self.choice = study, kind, choice
        self.file = Ratings(study.folder, rater)
        self.rater = self.file.rater
        self._seeds = [seed, zlib.crc32(self.rater.casefold().encode())]
        self.order = np.random.default_rng(self._seeds).permutation(sorted(study.files)).tolist()
        self.standing = self.file.standing()

    @property
    def given(self) -> list[dict]:
        return [line for line in self.standing.given if line["kind"] == self.kind]

    @property
    def photographs(self) -> int:
        """How many different ones were rated."""
        return len({name for line in self.given for name in _images(line)})

    @property
    def planned(self) -> int:
        """Ratings in all, repeats included."""
        number = len(self.study.files) - len(self.study.faults)
        number = number * PER_PHOTOGRAPH // 2 if self.kind == "pair" and number > 1 else number
        return max(number + number // (EVERY - 1), len(self.given)) if self.item() else len(self.given)

    def seconds_left(self) -> float:
        """By the median of the latest ratings."""
        latest = [line["seconds"] for line in self.given[-30:]]
        return (self.planned - len(self.given)) * float(np.median(latest or [4.0]))

    def item(self) -> Item | None:
        """What to show now; None where all is rated."""
        return self._item(self.standing)

    def item_after(self, item: Item) -> Item | None:
        """What comes after this one, whatever is said of it."""
        given = [*self.standing.given, self._line(item, 0, 0, 1)]
        return self._item(Standing(given, [], item.after + 1))

    def rate(self, item: Item, value: float, seconds: float = 0.0, zoom: float = 1.0) -> bool:
        """Write it down. False where this was rated already, here or in another window: what is there stands."""
        low, high = SCALES[self.kind]
        if not low <= value <= high or (self.kind == "acr" and value % 1):
            raise DataError(f"A rating is {'a whole number ' * (self.kind == 'acr')}from {low} to {high}; got {value}.")
        return self._added(self._line(item, value, seconds, zoom), item.after)

    def undo(self) -> bool:
        """Take the latest rating back; it is shown again. False where there is none."""
        if not self.standing.given or self.standing.given[-1]["kind"] != self.kind:
            return False
        return self._added({"undo": True, "time": _now()}, self.standing.lines)

    def _added(self, line: dict, after: int) -> bool:
        added = self.file.add(line, after)
        self.standing = self.file.standing()
        return added

    def _line(self, item: Item, value: float, seconds: float, zoom: float) -> dict:
        other = item.images[1] if len(item.images) > 1 else None
        shown = {"rater": self.rater, "kind": self.kind, "image": item.images[0], "other": other, "value": value}
        how = {"seconds": round(seconds, 2), "zoom": round(zoom, 3), "repeat": item.repeat, "chosen": item.chosen}
        return {**shown, **how, "time": _now()}

    # --- which comes next: of the same lines always the same, but for what a model has learnt since ---

    def _item(self, standing: Standing) -> Item | None:
        usable = [name for name in self.order if name not in self.study.faults]
        if standing.again and standing.again[-1]["kind"] == self.kind:
            line = standing.again[-1]
            images = _images(line)
            if set(images) <= set(usable):
                return Item(images, line["repeat"], line["chosen"], standing.lines)
        given = [line for line in standing.given if line["kind"] == self.kind]
        rng = np.random.default_rng([*self._seeds, len(given)])
        if len(given) % EVERY == EVERY - 1 and (again := _to_repeat(given, set(usable), rng)):
            return Item(again, True, "random", standing.lines)
        pick = self._pair if self.kind == "pair" else self._photograph
        images, chosen = pick(usable, [line for line in given if not line["repeat"]], rng)
        return Item(images, False, chosen, standing.lines) if images else None

    def _photograph(self, usable: list[str], given: list[dict], rng: np.random.Generator) -> tuple[tuple, str]:
        rated = {line["image"] for line in given}
        left = [name for name in usable if name not in rated]
        seen = self.study.seen
        if self.choice == "active" and seen is not None and len(given) >= learn.FEWEST and left:
            place = {name: row for row, name in enumerate(seen.names)}
            drawn = set(self.order[: round(AT_RANDOM * len(self.order))])
            at_random = [name for name in left if name in drawn]
            asked = [place[name] for name in left if name not in drawn and name in place]
            if asked and not (at_random and rng.random() < AT_RANDOM):
                known = [place[name] for name in sorted(rated) if name in place]
                return (seen.names[learn.least_sure(seen, known, asked)],), "active"
            left = at_random or left
        return tuple(left[:1]), "random"

    def _pair(self, usable: list[str], given: list[dict], rng: np.random.Generator) -> tuple[tuple, str]:
        """The photograph least compared so far, beside one that it was not compared with; a close one if chosen so."""
        pairs = [frozenset((line["image"], line["other"])) for line in given]
        if len(usable) < 2 or len(pairs) >= len(usable) * PER_PHOTOGRAPH // 2:
            return (), ""
        times = Counter(name for pair in pairs for name in pair)
        one = min(usable, key=lambda name: times[name])
        others = [name for name in usable if name != one and frozenset((one, name)) not in pairs]
        if not others:
            return (), ""
        near, chosen = others, "random"
        if self.choice == "active" and self.study.seen is not None and rng.random() > AT_RANDOM:
            known = dict(zip(self.study.seen.names, self.study.seen.score_N, strict=True))
            near, chosen = sorted(others, key=lambda name: abs(known.get(name, 1e3) - known.get(one, 0)))[:5], "active"
        other = min(near, key=lambda name: (times[name], rng.random()))
        return tuple(rng.permutation([one, other]).tolist()), chosen


def _images(line: dict) -> tuple[str, ...]:
    """The photograph that was rated, or the two that were compared."""
    return tuple(name for name in (line["image"], line["other"]) if name)


def _to_repeat(given: list[dict], usable: set[str], rng: np.random.Generator) -> tuple[str, ...] | None:
    """What was rated some time ago, once; the sides of a pair exchanged."""
    shown = [_images(line) for line in given]
    twice = {frozenset(images) for images, line in zip(shown, given, strict=True) if line["repeat"]}
    old = [images for images in shown[:-GAP] if frozenset(images) not in twice and set(images) <= usable]
    return old[rng.integers(len(old))][::-1] if old else None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
