"""How sure a score is: a 90 % interval for each image, whether it is unlike all that the model knows, and a percentile.

Intervals are normalised split-conformal (Lei et al., JASA 113, 2018): images that chose nothing say how many times the
expected error the true one stays below in nine of ten cases. What error to expect is a regression on the score, the
spread of the crops' scores and the distance to the training images. That distance is Mahalanobis' (covariance after
Ledoit and Wolf) between means and log standard deviations of the backbone's channels at stride 16. Drawings, plots and
screenshots are near photographs there, but flat: most of their neighbouring pixels are equal.

Shape suffixes: C crops, N images, F features, K columns of the regression.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV
from torch import nn

from iqa_lib import paths
from iqa_lib.data.crops import grid
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import CheckpointError
from iqa_lib.models.hypernet import PooledStages
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.predictor import EVALUATION_BATCH, Predictor, batched, on_every_core
from iqa_lib.training.train import train

FILE = "certainty.safetensors"  # beside a model's weights
MISSED = 0.1  # share of intervals without the true score
FALSE_ALARMS = 0.009, 0.004  # of distance and of flatness
MOST_KNOWN = 10_000  # training images, drawn, that say what the model knows
LEAST_DEVIATION = 0.01  # of a channel that hardly varies among training images
FEWEST_FOR_SCALE = 30  # validation images; of fewer all intervals are as wide


class Traits(NamedTuple):
    """What is looked at of N images."""

    score_N: np.ndarray
    spread_N: np.ndarray  # SD of the scores of an image's crops
    features_NF: np.ndarray
    flat_N: np.ndarray  # share of neighbouring pixels that are equal

    @classmethod
    def of(cls, counts: Sequence[int], score_C: np.ndarray, features_CF: np.ndarray, flat_N: Sequence[float]) -> Traits:
        """Of images of so many crops each, from all their crops in order."""
        owner_C, count_N = np.repeat(np.arange(len(counts)), counts), np.array(counts)
        score_N = np.bincount(owner_C, score_C) / count_N
        variance_N = np.bincount(owner_C, (score_C - score_N[owner_C]) ** 2) / count_N
        features_NF = np.add.reduceat(features_CF, np.cumsum(count_N) - count_N) / count_N[:, None]
        return cls(score_N, np.sqrt(variance_N), features_NF, np.array(flat_N))


def features(stages: PooledStages) -> np.ndarray:
    """Mean and log standard deviation over the grid of each channel at stride 16 (B, F).

    Of all stages the one that best tells rendered scenes and blown-up thumbnails from photographs.
    """
    grid_BCGG = stages.grids[2]
    mean_BC, deviation_BC = grid_BCGG.mean(dim=(2, 3)), (grid_BCGG.std(dim=(2, 3)) + 0.05).log()
    return torch.cat([mean_BC, deviation_BC], dim=1).float().cpu().double().numpy()


def flatness(picture_HWC: np.ndarray) -> float:
    """Share of pixels that are equal to the one below, or beside, whichever is more."""
    equal = [picture_HWC[1:] == picture_HWC[:-1], picture_HWC[:, 1:] == picture_HWC[:, :-1]]
    return max(float((e[..., 0] & e[..., 1] & e[..., 2]).mean()) for e in equal)


def look(
    scorer: Predictor,
    pictures: Sequence[np.ndarray],
    closely: bool = True,
    of: Callable[[PooledStages], np.ndarray] = features,
) -> Traits:
    """Traits of pictures (H, W, 3) at working size, features as ``of`` has them; scores alone where not ``closely``."""
    counts, scores, seen = [], [], []

    def cuts() -> Iterator[np.ndarray]:
        size = scorer.settings.crop_size
        for picture in pictures:
            corners = grid(*picture.shape[:2], size)
            counts.append(len(corners))
            yield from (picture[y : y + size, x : x + size] for y, x in corners)

    with torch.inference_mode():
        for crops_BCKK in batched(cuts()):
            score_B, stages = scorer.score_and_stages(crops_BCKK)
            scores.append(score_B.cpu().double().numpy())
            seen.append(of(stages) if closely else np.empty((len(score_B), 0)))
    flat_N = [flatness(picture) if closely else 0.0 for picture in pictures]
    return Traits.of(counts, np.concatenate(scores), np.concatenate(seen), flat_N)


class Certainty(NamedTuple):
    """What is known of a model's errors and of the images that it knows."""

    centre_F: np.ndarray
    whiten_FF: np.ndarray  # features less the centre, times this, have the length of their distance
    limits: np.ndarray  # of distance and of flatness
    ratings: np.ndarray  # equally spaced quantiles, 0–100 %, of people's scores
    rated: np.ndarray  # how many photographs they are of
    slopes_K: np.ndarray = np.zeros(5)  # of the log of the expected error
    bounds: np.ndarray = np.zeros(2)  # between which that is taken
    quantile: np.ndarray = np.array(np.inf)  # half an interval over the expected error; infinite: too few images say it
    data: str = ""  # what these images are of, by its name in the catalog

    def distance(self, features_NF: np.ndarray) -> np.ndarray:
        return np.linalg.norm((features_NF - self.centre_F).astype(np.float32) @ self.whiten_FF, axis=1)

    def expected_error(self, traits: Traits) -> np.ndarray:
        """(N,), up to a factor."""
        columns_NK = _columns(traits, self.distance(traits.features_NF))
        return np.exp(np.clip(columns_NK @ self.slopes_K, *self.bounds))

    def half_width(self, traits: Traits) -> np.ndarray:
        """Of each 90 % interval, points; NaN where too few images were there to say."""
        widths_N = self.quantile * self.expected_error(traits)
        return np.where(np.isfinite(widths_N), widths_N, np.nan)

    def unlike(self, traits: Traits) -> np.ndarray:
        """Whether each image is unlike all that the model knows."""
        distance_limit, flat_limit = self.limits
        return (self.distance(traits.features_NF) > distance_limit) | (traits.flat_N > flat_limit)

    def better_than(self, score_N: np.ndarray) -> np.ndarray:
        """Share of the rated photographs, in %, that people scored lower."""
        return np.interp(score_N, self.ratings, np.linspace(0, 100, len(self.ratings)))

    def save(self, folder: Path, model: nn.Module) -> Path:
        arrays = {name: np.array(getattr(self, name), order="C") for name in ARRAYS}
        arrays["whiten_FF"] = arrays["whiten_FF"].astype(np.float16)  # to which it was rounded
        content = safetensors.numpy.save(arrays, {"model": model_hash(model), "data": self.data})
        paths.write_atomically(folder / FILE, content)
        return folder / FILE


ARRAYS = [name for name in Certainty._fields if name != "data"]


def of_model(folder: Path, model: nn.Module) -> Certainty | None:
    """What `Certainty.save` wrote beside this model's weights, where it did.

    Raises CheckpointError: the file is damaged, or another model's.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = f"Calibrate the model again, or remove {path}: it then scores without intervals."
    try:
        with safetensors.safe_open(path, framework="np") as file:
            of, data = file.metadata()["model"], file.metadata()["data"]
            found = Certainty(**{name: file.get_tensor(name) for name in ARRAYS}, data=data)
            found = found._replace(whiten_FF=found.whiten_FF.astype(np.float32))
    except Exception as error:  # a damaged header makes the reader raise anything
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:200]}). {remedy}") from error
    if of != model_hash(model):
        raise CheckpointError(f"{path} is of the model {of}, the weights beside it are {model_hash(model)}. {remedy}")
    return found


def model_hash(model: nn.Module) -> str:
    """Of the weights; the same wherever they are."""
    content = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


# --- calibration ------------------------------------------------------------------------------------------


def calibrate(scorer: Predictor, images: ImageSet, data: str = "") -> Certainty:
    """From training images what the model knows, from validation what error to expect, from test images the quantile.

    The latter must not have chosen anything about the model: where a test set must stay untouched, pass images whose
    split ``test`` is another part that was held out. ``data`` is their name, for citations.
    """
    rows = [images.rows(split) for split in ("train", "val", "test")]
    rows[0] = np.sort(np.random.default_rng(0).permutation(rows[0])[:MOST_KNOWN])
    parts = [_traits(scorer, images, part) for part in rows]
    ratings = images.scores(np.arange(len(images)))
    return fit(*parts, *(images.scores(part) for part in rows[1:]), ratings)._replace(data=data)


def fit(
    train: Traits, val: Traits, test: Traits, val_score: np.ndarray, test_score: np.ndarray, ratings: np.ndarray
) -> Certainty:
    """As `calibrate`, from the traits of three sets of images, people's scores of two and of any number."""
    centre_F = train.features_NF.mean(axis=0)
    deviation_F = train.features_NF.std(axis=0).clip(LEAST_DEVIATION)
    covariance_FF, _ = ledoit_wolf((train.features_NF - centre_F) / deviation_F)
    whiten_FF = (np.linalg.cholesky(np.linalg.inv(covariance_FF)) / deviation_F[:, None]).astype(np.float16)
    quantiles = np.quantile(ratings, np.linspace(0, 1, 201))
    found = Certainty(centre_F, whiten_FF.astype(np.float32), np.full(2, np.inf), quantiles, np.array(len(ratings)))

    cues = [np.stack([found.distance(part.features_NF), part.flat_N]) for part in (val, test)]
    limits = [
        min(conformal_quantile(values, share), values.max())
        for values, share in zip(np.hstack(cues), FALSE_ALARMS, strict=True)
    ]
    slopes_K, bounds = _fit_scale(_columns(val, cues[0][0]), np.abs(val.score_N - val_score))
    found = found._replace(limits=np.array(limits), slopes_K=slopes_K, bounds=bounds)
    errors_N = np.abs(test.score_N - test_score) / found.expected_error(test)
    return found._replace(quantile=np.array(conformal_quantile(errors_N, MISSED)))


def calibrate_run(settings: RunSettings) -> str:
    """Calibrate the run of these settings, which is trained where it is missing; what came of it in a sentence."""
    images = load_images(settings)
    if not len(images.rows("val")):
        return "No 90 % intervals: they take validation images, of which the paper's protocol has none."
    run = train(settings, images)
    scorer = Predictor(settings, run.load_model(), run.folder.name)
    found = calibrate(scorer, images, Path(settings.dataset).stem)
    found.save(run.folder, scorer.model)
    if np.isfinite(found.quantile):
        return f"Calibrated on {len(images.rows('test'))} test images: scores come with a 90 % interval."
    return f"No 90 % intervals: that takes 9 test images, there are {len(images.rows('test'))}."


def _traits(scorer: Predictor, images: ImageSet, rows: np.ndarray) -> Traits:
    groups = np.split(rows, range(EVALUATION_BATCH, len(rows), EVALUATION_BATCH))
    jobs = ((group, 0) for group in groups)
    seen = on_every_core(lambda group: look(scorer, [images.image(row) for row in group]), jobs)
    parts = list(Progress(seen, desc="calibrating", total=len(groups)))
    return Traits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _columns(traits: Traits, distance_N: np.ndarray) -> np.ndarray:
    """What the log of the expected error is linear in (N, K)."""
    s = traits.score_N / 100
    return np.stack([np.ones(len(s)), s, s**2, np.log1p(distance_N), np.log1p(traits.spread_N)], axis=1)


def _fit_scale(columns_NK: np.ndarray, error_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (K,) of the log of the error, and the range that it then has on these images."""
    if len(error_N) < FEWEST_FOR_SCALE:
        return np.zeros(columns_NK.shape[1]), np.zeros(2)
    deviation_K = columns_NK.std(axis=0)
    # One that hardly varies says nothing: the crops' spread where nearly all images are one crop.
    deviation_K[np.ptp(np.quantile(columns_NK, [0.05, 0.95], axis=0), axis=0) < 1e-9] = np.inf
    typical = np.log(error_N + np.median(error_N) / 10 + 1e-6)  # no single lucky score counts much
    fitted = RidgeCV(np.logspace(-1, 5, 25)).fit(columns_NK / deviation_K, typical)
    slopes_K = fitted.coef_ / deviation_K
    slopes_K[0] = fitted.intercept_
    return slopes_K, np.quantile(columns_NK @ slopes_K, [0.01, 0.99])


def conformal_quantile(values: np.ndarray, missed: float) -> float:
    """What a new value, exchangeable with these n, exceeds with probability ``missed`` at most; infinite for few."""
    rank = math.ceil((len(values) + 1) * (1 - missed) - 1e-9)
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf
