"""What the explorer is asked, and what it answered so far. Shape suffixes: C channels, H height, W width."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.study.figures import COLOURS

MODEL_COLOURS = [to_hex(COLOURS[0]), to_hex(COLOURS[1])]  # blue and orange: apart for every kind of eye
GLYPHS = "●■"  # and apart without colour


class Mark(NamedTuple):
    """A model's place on the scale: 0 or 1, its name, its score."""

    place: int
    name: str
    score: float

    @property
    def colour(self) -> str:
        return MODEL_COLOURS[self.place]

    @property
    def glyph(self) -> str:
        return GLYPHS[self.place]


class Picture(NamedTuple):
    """An image to look at; ``digest`` stands for its pixels in the cache."""

    name: str
    pixels_HWC: np.ndarray  # uint8 RGB
    digest: str
    known: float | None  # its score in the dataset, 0–100


class Score(NamedTuple):
    """A model's answer: 0–100, and the weights of the four stages where it has any."""

    value: float
    alphas: tuple[float, ...] | None


@dataclass(eq=False)
class Request:
    """What the controls ask for, and the answers so far, in the order of ``models``."""

    picture: Picture
    distortion: str | None
    level: int  # 0: the picture as it is
    models: tuple[str, ...]
    opacity: float  # of the quality map, 0–1
    pixels_HWC: np.ndarray | None = None  # distorted
    scores: list[Score] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)  # scores at levels 0 to 5; without distortion at 0 alone
    maps: list[np.ndarray] = field(default_factory=list)  # local quality (H, W), 0–100, at display size

    def marks(self) -> list[Mark]:
        """Of the models that have a score by now."""
        scored = zip(self.models, self.scores, strict=False)
        return [Mark(place, model, score.value) for place, (model, score) in enumerate(scored)]

    def title(self) -> str:
        if not self.level:
            return self.picture.name
        known = DISTORTIONS[self.distortion]
        strength = f"{known.parameter} {known.levels[self.level - 1]:g}"
        return f"{self.picture.name}\n{self.distortion}, level {self.level} ({strength})"
