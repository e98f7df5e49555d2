"""Looking inside a trained model: activation maps, local quality, and what each part adds to a score.

Every function takes a run's settings and model (``run.settings``, ``run.load_model()``), SMART-IQA or
HyperIQA with any backbone. An image is cut into square crops as for scoring, so it may have any shape.

Shape suffixes: B batch, C channels, H height, W width, K side of a square, L layers, S stages (4).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage

from iqa_lib.data.crops import grid, grid_crops
from iqa_lib.data.distortions import distort
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import ExplainError
from iqa_lib.models.backbones import STRIDES
from iqa_lib.models.hypernet import pool_stages
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import ScoringSettings
from iqa_lib.progress import Progress
from iqa_lib.training.predictor import EVALUATION_BATCH, Predictor, batched

Corner = tuple[int, int]  # top, left in px


class Examination(NamedTuple):
    """What one pass over an image shows."""

    score: float  # 0–100, as `evaluate.predict` gives it
    crops: pd.DataFrame  # the crops it is the mean of: top, left (px), score and, with attention, ALPHAS
    activation_SHW: np.ndarray  # mean absolute activation of each stage, at image coordinates


def examine(settings: ScoringSettings, model: BlindIQA, image_HWC: np.ndarray) -> Examination:
    """Score, stage weights and activation maps (paper, Appendix D) from one pass of the backbone.

    Crops overlap; where they do, a map is the mean of theirs, weighted by the distance from a crop's side.

    Args:
        image_HWC: uint8 RGB, no side shorter than ``settings.crop_size``, else ExplainError; `decode.decode` reads
            files in that form.
    """
    size = settings.crop_size
    shape = _checked_shape(image_HWC, size)
    # Overlap by half leaves room to blend without a crop's sides, where padding shows.
    scored, blended = grid(*shape, size), _overlapping_grid(*shape, size, size - size // 2)
    corners, read = list(dict.fromkeys(scored + blended)), []
    predictor = Predictor(settings, model)

    def activations() -> Iterator[np.ndarray]:
        """Of each crop (S, K, K): the mean over channels, bilinear from cells to the pixels they cover."""
        model.eval()
        for crops_BCKK in batched(image_HWC[_square(corner, size)] for corner in corners):
            with torch.inference_mode():
                maps = predictor.maps(crops_BCKK)
                read.append(pool_stages(maps).float())
                means = (m.float().abs().mean(dim=1, keepdim=True) for m in maps)
                layers = [F.interpolate(m, (size, size), mode="bilinear") for m in means]
            yield from torch.cat(layers, 1).cpu().numpy()

    squares = ((corner, seen) for corner, seen in zip(corners, activations(), strict=True) if corner in blended)
    activation_SHW = _blend(squares, size, shape, layers=len(STRIDES), margin=STRIDES[-1] // 2)
    crops = _beside(corners, predictor.table(read)).iloc[: len(scored)]
    return Examination(float(crops["score"].mean()), crops, activation_SHW)


def score_crops(
    settings: ScoringSettings, model: BlindIQA, image_HWC: np.ndarray, corners: list[Corner] | None = None
) -> pd.DataFrame:
    """One row per crop: top, left (px), score (0–100) and, with attention, the stage weights ``ALPHAS``.

    ``corners`` of the crops: by default the grid whose mean score is the image's. ExplainError as `examine`.
    """
    size = settings.crop_size
    shape = _checked_shape(image_HWC, size)
    corners = corners or grid(*shape, size)
    crops = (image_HWC[_square(corner, size)] for corner in corners)
    return _beside(corners, _table(settings, model, crops))


def quality_map(
    settings: ScoringSettings, model: BlindIQA, image_HWC: np.ndarray, stride: int = 32, window: int = 96
) -> np.ndarray:
    """Local quality (H, W), 0–100: scores of small overlapping crops, placed back.

    Each pixel is the mean of the crops over it, weighted by how near it is to their middle. Crops smaller than
    those of training score a little differently: read differences off the map, and the score off `examine`.

    Args:
        stride: largest step between crops in px; half the step costs four times the crops.
        window: side of the crops in px, up to ``settings.crop_size``: smaller finds smaller faults. A backbone
            of fixed input size sees them mirrored to that size, at the cost of whole crops.
    """
    shape = _checked_shape(image_HWC, settings.crop_size)
    window = min(window, settings.crop_size)
    corners = _overlapping_grid(*shape, window, stride)
    missing = (model.backbone.input_size or window) - window
    mirrored = ((0, missing), (0, missing), (0, 0))
    crops = (np.pad(image_HWC[_square(corner, window)], mirrored, mode="symmetric") for corner in corners)
    scores = _table(settings, model, crops)["prediction"]
    return _blend(zip(corners, scores, strict=True), window, shape)[0]


def occlusion(
    settings: ScoringSettings, model: BlindIQA, image_HWC: np.ndarray, patch: int = 144, stride: int | None = None
) -> np.ndarray:
    """What each part adds to the score (H, W), in points: how far the score falls when the part is blurred.

    Above 0: detail there that the model rewards. Below 0: a fault there that blurring hides. Each pixel is
    the mean of the patches over it. After Zeiler and Fergus (ECCV 2014), with blur instead of grey, so that
    no new edge is mistaken for a fault.

    Args:
        patch: side of the blurred square in px, or the image's short side if that is less.
        stride: largest step between patches in px; half a patch by default.
    """
    size = settings.crop_size
    shape = _checked_shape(image_HWC, size)
    patch = min(patch, *shape)
    blurred = ndimage.gaussian_filter(image_HWC, (patch / 8, patch / 8, 0), mode="nearest")
    crops = score_crops(settings, model, image_HWC)
    patches = _overlapping_grid(*shape, patch, patch // 2 if stride is None else stride)
    jobs = [
        (crop, (y, x))
        for y, x in patches
        for crop in crops.itertuples()
        if -patch < y - crop.top < size and -patch < x - crop.left < size  # they overlap
    ]

    def blurred_crop(crop: tuple, place: Corner) -> np.ndarray:
        changed, there = image_HWC.copy(), _square(place, patch)
        changed[there] = blurred[there]
        return changed[_square((crop.top, crop.left), size)]

    scores = _table(settings, model, (blurred_crop(*job) for job in jobs))["prediction"]
    fall = dict.fromkeys(patches, 0.0)
    for (crop, place), score in zip(jobs, scores, strict=True):
        fall[place] += (crop.score - score) / len(crops)
    return _blend(fall.items(), patch, shape)[0]


def under_distortion(
    settings: ScoringSettings, model: BlindIQA, image_HWC: np.ndarray, name: str
) -> list[tuple[np.ndarray, Examination]]:
    """The image itself and under the five levels of a KADID-10k distortion, each with its examination."""
    shown = [image_HWC, *(distort(image_HWC, name, level) for level in range(1, 6))]
    return [(image, examine(settings, model, image)) for image in shown]


def spoil_quarter(image_HWC: np.ndarray, name: str, level: int, quarter: int = 3, seed: int = 0) -> np.ndarray:
    """The image with a KADID-10k distortion in one quarter: 0 upper left, 1 upper right, 2 and 3 below them."""
    changed, (height, width) = image_HWC.copy(), image_HWC.shape[:2]
    rows = slice(0, height // 2) if quarter < 2 else slice(height // 2, height)
    columns = slice(0, width // 2) if quarter % 2 == 0 else slice(width // 2, width)
    changed[rows, columns] = distort(image_HWC, name, level, seed)[rows, columns]
    return changed


def stage_statistics(settings: ScoringSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray) -> pd.DataFrame:
    """Per image and stage: ``activation`` (its mean) and ``unevenness`` (its SD over places / its mean).

    Activation is the mean absolute value over channels (paper, Appendix D); columns ``row``, ``stage`` 1–4.
    """
    crops, tables = grid_crops(images, rows, settings.crop_size), []
    model.eval()
    parts = [crops[start : start + EVALUATION_BATCH] for start in range(0, len(crops), EVALUATION_BATCH)]
    for part in Progress(parts, desc="stage statistics"):
        with torch.inference_mode():
            maps = Predictor(settings, model).maps(images.crops(part, settings.crop_size))
        for stage, activation_BN in enumerate((m.float().abs().mean(dim=1).flatten(1) for m in maps), 1):
            mean_B = activation_BN.mean(dim=1)
            uneven_B = activation_BN.std(dim=1, correction=0) / mean_B.clamp_min(1e-12)
            columns = {"activation": mean_B.cpu().double(), "unevenness": uneven_B.cpu().double()}
            tables.append(pd.DataFrame({"row": [crop[0] for crop in part], "stage": stage, **columns}))
    return pd.concat(tables).groupby(["row", "stage"], as_index=False).mean()


# --- crops of one image -----------------------------------------------------------------------------------


def _checked_shape(image_HWC: np.ndarray, crop_size: int) -> tuple[int, int]:
    """Height and width; ExplainError where it is no image that can be scored."""
    shape, dtype = getattr(image_HWC, "shape", ()), getattr(image_HWC, "dtype", type(image_HWC).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < crop_size:
        raise ExplainError(
            f"Expected an RGB image of uint8, height x width x 3, both at least {crop_size} px; got {dtype} of "
            f"shape {shape}. iqa_lib.data.decode.decode reads any image file in that form."
        )
    return shape[:2]


def _table(settings: ScoringSettings, model: BlindIQA, crops: Iterable[np.ndarray]) -> pd.DataFrame:
    predictor = Predictor(settings, model)
    return predictor.table(map(predictor.stages, batched(crops)))


def _beside(corners: list[Corner], table: pd.DataFrame) -> pd.DataFrame:
    places = pd.DataFrame(corners, columns=["top", "left"])
    return places.join(table.rename(columns={"prediction": "score"}))


def _square(corner: Corner, size: int) -> tuple[slice, slice]:
    return tuple(slice(start, start + size) for start in corner)


def _overlapping_grid(height: int, width: int, size: int, stride: int) -> list[Corner]:
    """Evenly spaced corners of squares from side to side, ``stride`` px apart at most."""
    if not 1 <= stride <= size:
        raise ExplainError(f"stride is {stride} px; 1 to {size} (the side of the squares) leaves no gaps.")
    return grid(height, width, size, stride)


def _blend(
    squares: Iterable[tuple[Corner, float | np.ndarray]], size: int, shape: tuple[int, int], layers=1, margin=0
) -> np.ndarray:
    """The weighted mean (L, H, W) of squares laid over an image, each with its value: one, or (L, K, K).

    A square counts most in its middle, and hardly along its inner sides, up to ``margin`` px from them.
    """
    sum_LHW, weight_HW = np.zeros((layers, *shape)), np.zeros(shape)
    for corner, value in squares:
        falls = [_fall(*along, size, margin) for along in zip(corner, shape, strict=True)]
        there, weight_KK = _square(corner, size), np.outer(*falls)
        sum_LHW[:, *there] += weight_KK * value
        weight_HW[there] += weight_KK
    return (sum_LHW / weight_HW).astype(np.float32)


def _fall(start: int, length: int, size: int, margin: int) -> np.ndarray:
    """Weights along a square: the distance from its sides, except from those that are the image's own."""
    middle = np.arange(size) + 0.5
    before = middle if start > 0 else np.inf
    after = size - middle if start + size < length else np.inf
    return np.clip(np.minimum(before, after) - margin, 1e-6, size) * np.ones(size)
