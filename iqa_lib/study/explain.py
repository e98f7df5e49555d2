"""Looking inside a trained model: stage weights, activation maps, local quality, what adds to a score.

Every function takes a run's settings and model (``run.settings``, ``run.load_model()``), SMART-IQA or
HyperIQA with any backbone. An image is cut into square crops as for scoring, so it may have any shape.

Shape suffixes: B batch, C channels, H height, W width, S stages (4), N crops.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from torch import Tensor

from iqa_lib.data.crops import ImageSet, grid, grid_crops
from iqa_lib.data.distortions import distort
from iqa_lib.errors import ExplainError
from iqa_lib.models.backbones import STRIDES
from iqa_lib.models.hypernet import StageAttention, pool_stages
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.evaluate import ALPHAS, EVALUATION_BATCH, maps_of, stage_batches, stages_of

NEARLY_ALL = 0.9  # more weight than this on one stage
Corner = tuple[int, int]  # top, left in px


class Examination(NamedTuple):
    """What one pass over an image shows."""

    score: float  # 0–100, as `evaluate.predict` gives it
    crops: pd.DataFrame  # the crops it is the mean of: top, left (px), score and, with attention, ALPHAS
    activation_SHW: np.ndarray  # mean absolute activation of each stage, at image coordinates


def examine(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray) -> Examination:
    """Score, stage weights and activation maps (paper, Appendix D) from one pass of the backbone.

    Crops overlap; where they do, a map is the mean of theirs, weighted by the distance from a crop's side.

    Args:
        image_HWC: uint8 RGB, no side shorter than ``settings.crop_size``; `crops.decode` reads files so.

    Raises:
        ExplainError: the image is of another type or too small.
    """
    size = settings.crop_size
    _require_image(image_HWC, size)
    height, width = image_HWC.shape[:2]
    scored, blended = grid(height, width, size), _overlapping_grid(height, width, size)
    tables, canvas = [], _Canvas(len(STRIDES), height, width)
    for corners, maps, table in _look(settings, model, image_HWC, list(dict.fromkeys(scored + blended))):
        tables.append(table)
        for corner, activation_SHW in zip(corners, _mean_absolute(maps, size), strict=True):
            if corner in blended:
                canvas.add(corner, activation_SHW, margin=STRIDES[-1] // 2)
    crops = pd.concat(tables).set_index(["top", "left"]).loc[scored].reset_index()
    return Examination(float(crops["score"].mean()), crops, canvas.mean())


def score_crops(
    settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, corners: list[Corner] | None = None
) -> pd.DataFrame:
    """One row per crop: top, left (px), score (0–100) and, with attention, the stage weights ``ALPHAS``.

    Args:
        corners: of the crops; by default the grid whose mean score is the image's.

    Raises:
        ExplainError: as `examine`.
    """
    _require_image(image_HWC, settings.crop_size)
    corners = corners or grid(*image_HWC.shape[:2], settings.crop_size)
    return pd.concat([table for _, _, table in _look(settings, model, image_HWC, corners)], ignore_index=True)


def attention(settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray) -> pd.DataFrame:
    """Stage weights of each crop of the grid: top, left (px), ``ALPHAS``; their mean is the image's.

    Raises:
        ExplainError: the model has no attention, or as `examine`.
    """
    require_attention(model)
    return score_crops(settings, model, image_HWC)[["top", "left", *ALPHAS]]


def quality_map(
    settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, stride: int = 32, window: int = 96
) -> np.ndarray:
    """Local quality (H, W), 0–100: scores of small overlapping crops, placed back.

    Each pixel is the mean of the crops over it, weighted by how near it is to their middle. Crops smaller than
    those of training score a little differently: read differences off the map, and the score off `examine`.

    Args:
        stride: largest step between crops in px; half the step costs four times the crops.
        window: side of the crops in px, up to ``settings.crop_size``: smaller finds smaller faults. A backbone
            of fixed input size sees them mirrored to that size, at the cost of whole crops.

    Raises:
        ExplainError: as `examine`, or the stride leaves gaps.
    """
    _require_image(image_HWC, settings.crop_size)
    height, width = image_HWC.shape[:2]
    window = min(window, settings.crop_size)
    canvas = _Canvas(1, height, width)
    for part in _batches(_dense_grid(height, width, window, stride)):
        crops = [_mirrored(_cut(image_HWC, corner, window), model.backbone.input_size) for corner in part]
        for corner, score in zip(part, _score(settings, model, np.stack(crops)), strict=True):
            canvas.add(corner, np.full((1, window, window), score, np.float32))
    return canvas.mean()[0]


def occlusion(
    settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, patch: int = 144, stride: int | None = None
) -> np.ndarray:
    """What each part adds to the score (H, W), in points: how far the score falls when the part is blurred.

    Above 0: detail there that the model rewards. Below 0: a fault there that blurring hides. Each pixel is
    the mean of the patches over it. After Zeiler and Fergus (ECCV 2014), with blur instead of grey, so that
    no new edge is mistaken for a fault.

    Args:
        patch: side of the blurred square in px, or the image's short side if that is less.
        stride: largest step between patches in px; half a patch by default.

    Raises:
        ExplainError: as `examine`, or the stride leaves gaps.
    """
    size = settings.crop_size
    _require_image(image_HWC, size)
    height, width = image_HWC.shape[:2]
    patch = min(patch, height, width)
    blurred = ndimage.gaussian_filter(image_HWC, (patch / 8, patch / 8, 0), mode="nearest")
    crops = score_crops(settings, model, image_HWC)
    patches = _dense_grid(height, width, patch, patch // 2 if stride is None else stride)
    jobs = [(c, p) for p in patches for c in crops.itertuples() if _overlap((c.top, c.left), size, p, patch)]
    fall = dict.fromkeys(patches, 0.0)
    for part in _batches(jobs):
        changed = [_replace(image_HWC, blurred, p, patch, (c.top, c.left), size) for c, p in part]
        for (crop, place), score in zip(part, _score(settings, model, np.stack(changed)), strict=True):
            fall[place] += (crop.score - score) / len(crops)
    canvas = _Canvas(1, height, width)
    for place, points in fall.items():
        canvas.add(place, np.full((1, patch, patch), points, np.float32))
    return canvas.mean()[0]


def under_distortion(
    settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, name: str, seed: int = 0
) -> list[tuple[np.ndarray, Examination]]:
    """The image itself and under the five levels of a KADID-10k distortion, each with its examination."""
    shown = [image_HWC, *(distort(image_HWC, name, level, seed) for level in range(1, 6))]
    return [(image, examine(settings, model, image)) for image in shown]


def spoil_quarter(
    image_HWC: np.ndarray, name: str, level: int, quarter: int = 3, seed: int = 0
) -> np.ndarray:
    """The image with a KADID-10k distortion in one quarter: 0 upper left, 1 upper right, 2 and 3 below them."""
    spoilt, (height, width) = image_HWC.copy(), image_HWC.shape[:2]
    rows = slice(0, height // 2) if quarter < 2 else slice(height // 2, height)
    columns = slice(0, width // 2) if quarter % 2 == 0 else slice(width // 2, width)
    spoilt[rows, columns] = distort(image_HWC, name, level, seed)[rows, columns]
    return spoilt


# --- a set of images --------------------------------------------------------------------------------------


def stage_weights(settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray) -> pd.DataFrame:
    """Stage weights of every crop of these images: ``row`` of the image table and ``ALPHAS``.

    Raises:
        ExplainError: the model has no attention.
    """
    require_attention(model)
    model.eval()
    crops = grid_crops(images, rows, settings.crop_size)
    with torch.inference_mode():
        stages = stage_batches(settings, model, images, crops, "stage weights")
        alpha_NS = torch.cat([model.head.attention(s.cells[3].flatten(1)).float().cpu() for s in stages])
    table = pd.DataFrame(alpha_NS.double().numpy(), columns=ALPHAS)
    table.insert(0, "row", [crop[0] for crop in crops])
    return table


def with_untrained_attention(model: BlindIQA, seed: int = 0) -> BlindIQA:
    """A copy of the model whose attention is as before training; all else stays.

    Raises:
        ExplainError: the model has no attention.
    """
    require_attention(model)
    control = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control.head.attention = StageAttention(model.backbone.channels[3])
    return control.to(model.backbone.mean.device).eval()


def score_with_other_weights(
    settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """Predicted scores of these images, one column for each way to set the stage weights.

    ``as learned``; ``mean of all`` (every crop gets the mean weights); ``uniform`` (1/4 each); ``shuffled``
    (each crop gets the weights of a random crop of all images); ``stage 1 only`` to ``stage 4 only``; and
    ``untrained`` (the attention as before training). The rest of the model is the same throughout.

    Raises:
        ExplainError: the model has no attention.
    """
    learned = stage_weights(settings, model, images, rows)
    untrained = stage_weights(settings, with_untrained_attention(model, seed), images, rows)
    ways = _weights_to_try(learned[ALPHAS].to_numpy(), untrained[ALPHAS].to_numpy(), seed)
    crops, done, scores = grid_crops(images, rows, settings.crop_size), 0, {way: [] for way in ways}
    with torch.inference_mode():
        for stages in stage_batches(settings, model, images, crops, "scores with other weights"):
            part = slice(done, done := done + len(stages.cells[0]))
            for way, alpha_NS in ways.items():
                alpha_BS = torch.tensor(alpha_NS[part]).to(stages.cells[0])
                scores[way].append(model.score_stages(stages, alpha_BS).float().cpu())
    table = pd.DataFrame({way: torch.cat(parts).double().numpy() for way, parts in scores.items()})
    return table.groupby(learned["row"]).mean().loc[rows].reset_index(drop=True)


def stage_statistics(
    settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray
) -> pd.DataFrame:
    """Per image and stage: ``activation`` (its mean) and ``unevenness`` (its SD over places / its mean).

    Activation is the mean absolute value over channels (paper, Appendix D); columns ``row``, ``stage`` 1–4.
    """
    crops, lines = grid_crops(images, rows, settings.crop_size), []
    model.eval()
    for part in Progress(list(_batches(crops)), desc="stage statistics"):
        with torch.inference_mode():
            maps = maps_of(settings, model, images.crops(part, settings.crop_size))
        for stage, activation_BN in enumerate((m.float().abs().mean(dim=1).flatten(1) for m in maps), 1):
            mean_B = activation_BN.mean(dim=1)
            uneven_B = activation_BN.std(dim=1, correction=0) / mean_B.clamp_min(1e-12)
            lines += [
                {"row": crop[0], "stage": stage, "activation": float(mean), "unevenness": float(uneven)}
                for crop, mean, uneven in zip(part, mean_B, uneven_B, strict=True)
            ]
    return pd.DataFrame(lines).groupby(["row", "stage"], as_index=False).mean()


def entropy(table: pd.DataFrame) -> np.ndarray:
    """Spread of the stage weights ``ALPHAS`` in each row, in bits: 0 all on one stage, 2 uniform."""
    return stats.entropy(table[ALPHAS].to_numpy(), base=2, axis=1)


def require_attention(model: BlindIQA) -> None:
    """Raises ExplainError where there are no stage weights to look at."""
    if model.head.attention is None:
        raise ExplainError(
            f"This {type(model).__name__} has no stage weights: HyperIQA, and SMART-IQA without use_attention "
            f"and use_multiscale, have no attention. Choose a run of method smart_iqa with both on."
        )


# --- what they share --------------------------------------------------------------------------------------


def _require_image(image_HWC: np.ndarray, crop_size: int) -> None:
    shape, dtype = getattr(image_HWC, "shape", ()), getattr(image_HWC, "dtype", type(image_HWC).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < crop_size:
        raise ExplainError(
            f"Expected an RGB image of uint8, height x width x 3, both at least {crop_size} px; got {dtype} of "
            f"shape {shape}. iqa_lib.data.crops.decode reads any image file in that form."
        )


def _look(
    settings: RunSettings, model: BlindIQA, image_HWC: np.ndarray, corners: list[Corner]
) -> Iterator[tuple[list[Corner], list[Tensor], pd.DataFrame]]:
    """For each batch of crops: their corners, feature maps, and table of score and stage weights."""
    model.eval()
    for part in _batches(corners):
        cut = np.stack([_cut(image_HWC, corner, settings.crop_size) for corner in part])
        with torch.inference_mode():
            maps = maps_of(settings, model, torch.from_numpy(cut).permute(0, 3, 1, 2))
            score_B = model.score_stages(pool_stages(maps).float())
        table = pd.DataFrame(part, columns=["top", "left"]).assign(score=score_B.double().cpu().numpy())
        if model.last_attention_weights is not None:
            table[ALPHAS] = model.last_attention_weights.double().cpu().numpy()
        yield part, maps, table


def _cut(image_HWC: np.ndarray, corner: Corner, size: int) -> np.ndarray:
    top, left = corner
    return image_HWC[top : top + size, left : left + size]


def _mirrored(crop_HWC: np.ndarray, size: int | None) -> np.ndarray:
    """The crop continued by its own mirror image, to the right and down, until it is of this size."""
    missing = 0 if size is None else size - len(crop_HWC)
    return np.pad(crop_HWC, ((0, missing), (0, missing), (0, 0)), mode="symmetric")


def _score(settings: RunSettings, model: BlindIQA, crops_BHWC: np.ndarray) -> list[float]:
    model.eval()
    with torch.inference_mode():
        stages = stages_of(settings, model, torch.from_numpy(crops_BHWC).permute(0, 3, 1, 2))
        return model.score_stages(stages).tolist()


def _batches(items: list) -> Iterator[list]:
    return (items[i : i + EVALUATION_BATCH] for i in range(0, len(items), EVALUATION_BATCH))


def _mean_absolute(maps: list[Tensor], size: int) -> np.ndarray:
    """(B, S, size, size): mean over channels, then bilinear from cells to the pixels they cover."""
    activations = [m.float().abs().mean(dim=1, keepdim=True) for m in maps]
    enlarged = [F.interpolate(a, (size, size), mode="bilinear", align_corners=False) for a in activations]
    return torch.cat(enlarged, dim=1).cpu().numpy()


def _overlapping_grid(height: int, width: int, size: int) -> list[Corner]:
    """The fewest crops that overlap by half: room to leave out a crop's sides, where padding tells, and blend."""
    return _even_grid(height, width, size, size - size // 2)


def _dense_grid(height: int, width: int, size: int, stride: int) -> list[Corner]:
    if not 1 <= stride <= size:
        raise ExplainError(f"stride is {stride} px; 1 to {size} (the side of the squares) leaves no gaps.")
    return _even_grid(height, width, size, stride)


def _even_grid(height: int, width: int, size: int, stride: int) -> list[Corner]:
    """Evenly spaced corners from side to side, ``stride`` px apart at most."""

    def along(length: int) -> list[int]:
        steps = math.ceil((length - size) / stride)
        return np.linspace(0, length - size, steps + 1).round().astype(int).tolist()

    return [(y, x) for y in along(height) for x in along(width)]


class _Canvas:
    """The weighted mean of squares laid over an image; a square counts most in its middle."""

    def __init__(self, layers: int, height: int, width: int):
        self._sum = np.zeros((layers, height, width))
        self._weight = np.zeros((height, width))

    def add(self, corner: Corner, square_LKK: np.ndarray, margin: int = 0) -> None:
        """``margin``: px along a square's sides, those at the image's own apart, that hardly count."""
        size = square_LKK.shape[-1]
        there = tuple(slice(start, start + size) for start in corner)
        falls = [_fall(*along, size, margin) for along in zip(corner, self._weight.shape, strict=True)]
        weight = np.outer(*falls)
        self._sum[:, *there] += weight * square_LKK
        self._weight[there] += weight

    def mean(self) -> np.ndarray:
        return (self._sum / self._weight).astype(np.float32)


def _fall(start: int, length: int, size: int, margin: int) -> np.ndarray:
    """Weights along a square: the distance from its sides, save from those that are the image's own."""
    middle = np.arange(size) + 0.5
    before = middle if start > 0 else np.inf
    after = size - middle if start + size < length else np.inf
    return np.clip(np.minimum(before, after) - margin, 1e-6, size) * np.ones(size)


def _overlap(crop: Corner, crop_size: int, place: Corner, patch: int) -> bool:
    return all(p < c + crop_size and c < p + patch for c, p in zip(crop, place, strict=True))


def _replace(image, by, place: Corner, patch: int, crop: Corner, size: int) -> np.ndarray:
    """The crop of the image, with the part of the patch that lies in it taken from ``by``."""
    here = tuple(slice(c, c + size) for c in crop)
    inside = tuple(slice(max(p - c, 0), p - c + patch) for c, p in zip(crop, place, strict=True))
    changed = image[here].copy()
    changed[inside] = by[here][inside]
    return changed


def _weights_to_try(learned_NS: np.ndarray, untrained_NS: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Stage weights of N crops for each column of `score_with_other_weights`."""
    everywhere = np.ones((len(learned_NS), 1))
    only = {f"stage {s + 1} only": everywhere * row for s, row in enumerate(np.eye(len(ALPHAS)))}
    return {
        "as learned": learned_NS,
        "mean of all": everywhere * learned_NS.mean(axis=0),
        "uniform": everywhere * np.full(len(ALPHAS), 1 / len(ALPHAS)),
        "shuffled": np.random.default_rng(seed).permutation(learned_NS),
        **only,
        "untrained": untrained_NS,
    }
