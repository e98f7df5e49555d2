"""What the explorer computes: each answer once, kept in a cache of bounded size.

Nothing here knows widgets. Shape suffixes: C channels, H height, W width, S stages (4).
"""

import functools
import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from iqa_lib.data.decode import RAW, decode
from iqa_lib.data.distortions import distort
from iqa_lib.errors import DataError, ImageError
from iqa_lib.explorer import drawing
from iqa_lib.explorer.request import Picture, Request, Score
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.scoring import certainty
from iqa_lib.scoring.certainty import Certainty
from iqa_lib.study import maps
from iqa_lib.training.predictor import ALPHAS, Predictor
from iqa_lib.training.runs import Run

T = TypeVar("T")
CACHE_BYTES = 256_000_000
STRIDE, MOST_CROPS = 48, 400  # of the quality map; a panorama gets a coarser one


class Cache:
    """The most recently used values, up to a number of bytes in arrays; for one thread at a time."""

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit, self.bytes, self.made = limit, 0, 0
        self._values: OrderedDict[tuple, tuple[Any, int]] = OrderedDict()  # each with its size

    def get(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The value of this key; made where it is not there."""
        if key not in self._values:
            value = make()
            size = getattr(value, "nbytes", 0) + 200  # a score is a few numbers
            self._values[key] = value, size
            self.bytes += size
            self.made += 1
        self._values.move_to_end(key)
        while self.bytes > self.limit and len(self._values) > 1:
            self.bytes -= self._values.popitem(last=False)[1][1]
        return self._values[key][0]

    def clear(self) -> None:
        self._values.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)


class Answers:
    """Scores and maps by the models of ``runs`` (`labelled`), each loaded at its first request.

    ``before_pass`` is called before each pass of a backbone; an exception from it ends the computation.
    """

    def __init__(self, runs: dict[str, Run], before_pass: Callable[[], None]):
        self.cache = Cache()
        self._runs, self._before_pass = runs, before_pass
        self._models: dict[str, BlindIQA] = {}
        self._sureness: dict[str, Callable | None] = {}  # of each model that was loaded

    def distorted(self, request: Request, level: int) -> np.ndarray:
        """The request's picture (H, W, C) at this level."""
        if not level:
            return request.picture.pixels_HWC
        key = ("image", request.picture.digest, request.distortion, level)
        return self.cache.get(key, lambda: distort(request.picture.pixels_HWC, request.distortion, level))

    def get(self, what: Callable[..., T], request: Request, model: str, level: int | None = None) -> T:
        """``what`` is `score`, `activations` or `quality`, of the request's picture at its own or another level."""
        level = request.level if level is None else level
        key = (what, request.picture.digest, request.distortion if level else None, level, model)
        settings = self._runs[model].settings
        return self.cache.get(key, lambda: what(settings, self._model(model), self.distorted(request, level)))

    def sureness(self, request: Request, model: str) -> tuple[float, bool] | None:
        """As `sureness` below, of the request's picture; None of a model that was not calibrated."""
        self._model(model)
        what = self._sureness[model]
        return what and self.get(what, request, model)

    def _model(self, label: str) -> BlindIQA:
        if label not in self._models:
            self._models[label] = model = self._runs[label].load_model()
            known = certainty.of_model(self._runs[label].folder, model)
            self._sureness[label] = known and functools.partial(sureness, known=known)
            model.backbone.register_forward_pre_hook(lambda *_: self._before_pass())
        return self._models[label]


def score(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray) -> Score:
    crops = maps.score_crops(settings, model, image_HWC)
    alphas = tuple(crops[ALPHAS].mean()) if ALPHAS[0] in crops else None
    return Score(float(crops["score"].mean()), alphas)


def sureness(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, known: Certainty) -> tuple[float, bool]:
    """Half the score's 90 % interval, NaN where too few images say it, and whether the image is unlike all known."""
    traits = certainty.look(Predictor(settings, model), [image_HWC])
    return known.half_width(traits).item(), known.unlike(traits).item()


def activations(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray) -> np.ndarray:
    """Mean absolute activation (S, H, W) of the stages, at the size of a drawn cell."""
    activation_SHW = maps.examine(settings, model, image_HWC).activation_SHW
    return np.stack([drawing.shrink(map_HW, drawing.CELL) for map_HW in activation_SHW])


def quality(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray) -> np.ndarray:
    """Local quality (H, W), 0–100, at the size of the drawn overlay."""
    window = min(96, settings.crop_size)
    height, width = image_HWC.shape[:2]
    stride = min(window, max(STRIDE, round((height * width / MOST_CROPS) ** 0.5)))
    return drawing.shrink(maps.quality_map(settings, model, image_HWC, stride, window), drawing.PHOTO)


def labelled(runs: list[Run]) -> dict[str, Run]:
    """Runs under a name for people, each once; names that would be equal get the end of the folder's."""
    labels: dict[str, Run] = {}
    for run in {run.folder: run for run in runs}.values():
        method = {"smart_iqa": "SMART-IQA", "hyper_iqa": "HyperIQA"}[run.settings.method]
        backbone = run.backbone.split(".")[0].removeprefix("tf_")
        label = getattr(run, "label", f"{method}, {backbone}, seed {run.settings.seed}")
        labels[f"{label}, {run.folder.name[-4:]}" if label in labels else label] = run
    return labels


def read_upload(name: str, content: bytes, settings: RunSettings) -> Picture:
    """An uploaded file at the profile's working size; DataError, with the file's own name, where it is no image."""
    with tempfile.TemporaryDirectory() as folder:
        ending = Path(name).suffix.lower()
        path = Path(folder) / f"upload{ending if ending in RAW else ''}"  # never a name that came from outside
        path.write_bytes(content)
        try:
            pixels_HWC = decode(path, settings.resolution, settings.crop_size)
        except ImageError as error:
            raise DataError(f"“{name}” {error.reason}. The image before it stays.") from error
    return Picture(name, pixels_HWC, digest(pixels_HWC), None)


def digest(image_HWC: np.ndarray) -> str:
    return hashlib.sha256(repr(image_HWC.shape).encode() + image_HWC.tobytes()).hexdigest()[:20]
