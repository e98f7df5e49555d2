"""Agreement between predicted and human scores, its intervals, and the labels' own noise.

The four statistics take arrays (…, N) of N images and reduce the last axis, so that a thousand resamples are one
call. Undefined is nan, never 0 or 1: constant predictions, fewer than three images, a nan among the values.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from iqa_lib.errors import DataError

ALPHA = 0.05
UNDEFINED = "undefined"  # how a number that does not exist is written
ROUNDING = 1e-12  # spreads below this are rounding, not spread
_BLOCK = 1_000_000  # values resampled at a time: bounds the memory, not the result

Statistic = Callable[[np.ndarray, np.ndarray], "float | np.ndarray"]


# ------------------------------------------------------------------------------------------------ statistics


def srcc(predicted: np.ndarray, score: np.ndarray) -> float | np.ndarray:
    """Spearman's rank correlation, −1 to 1, ties at their mean rank; nan where one side is constant."""
    return _correlation(stats.rankdata(predicted, axis=-1), stats.rankdata(score, axis=-1))


def plcc(predicted: np.ndarray, score: np.ndarray) -> float | np.ndarray:
    """Pearson's linear correlation of the raw predictions, −1 to 1; nan where one side is constant."""
    return _correlation(predicted, score)


def krcc(predicted: np.ndarray, score: np.ndarray) -> float | np.ndarray:
    """Kendall's τ-b, −1 to 1; nan where one side is constant."""
    return _plain(_kendall(predicted, score))


def rmse(predicted: np.ndarray, score: np.ndarray) -> float | np.ndarray:
    """Root mean squared error in points of the 0–100 scale."""
    return _plain(np.sqrt(np.mean((np.asarray(predicted, float) - np.asarray(score, float)) ** 2, axis=-1)))


def _correlation(x: np.ndarray, y: np.ndarray) -> float | np.ndarray:
    x, y = np.asarray(x, float), np.asarray(y, float)
    if min(x.shape[-1], y.shape[-1]) < 3:
        return _plain(np.full(np.broadcast_shapes(x.shape[:-1], y.shape[:-1]), np.nan))
    with np.errstate(invalid="ignore"):
        return _plain(np.clip(np.einsum("...n,...n->...", _standard(x), _standard(y)), -1, 1))


def _standard(x: np.ndarray) -> np.ndarray:
    """Centred and of length 1 along the last axis; nan where constant up to rounding."""
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    length = np.sqrt(np.einsum("...n,...n->...", centred, centred))[..., None]
    constant = length <= 1e-13 * np.sqrt(x.shape[-1]) * np.abs(mean)
    return centred / np.where(constant, np.nan, length)


@np.vectorize(signature="(n),(n)->()", otypes=[float])
def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return stats.kendalltau(x, y).statistic


def in_words(value: float, form: str = ".3f") -> str:
    """A number for people to read; one that does not exist is called undefined."""
    return UNDEFINED if np.isnan(value) else f"{value:{form}}"


def _plain(value: np.ndarray) -> float | np.ndarray:
    return float(value) if np.ndim(value) == 0 else value


# --------------------------------------------------------------------------------------------------- mapping


def logistic(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    """The 4-parameter logistic of VQEG (2000): from ``bottom`` to ``top`` around ``middle``."""
    return bottom + (top - bottom) * special.expit((x - middle) / np.abs(width))


def fit_logistic(predicted: np.ndarray, score: np.ndarray) -> tuple[float, ...] | None:
    """Parameters of `logistic` that map predictions to scores.

    None where the images do not determine a rising curve: fewer than six, a value that is not finite, no
    convergence, no finite covariance, a falling fit, a step (5 % to 95 % within a third of the predictions'
    standard deviation), or a curve no better than the mean score (F-test at 5 %).
    """
    predicted, score = np.asarray(predicted, float), np.asarray(score, float)
    if len(score) < 6 or not np.isfinite([predicted, score]).all() or np.ptp(predicted) == 0 or np.ptp(score) == 0:
        return None
    start = (np.max(score), np.min(score), np.mean(predicted), np.std(predicted))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", optimize.OptimizeWarning)
            parameters, covariance = optimize.curve_fit(logistic, predicted, score, p0=start, maxfev=10_000)
    except RuntimeError:
        return None
    top, bottom, _, width = parameters
    step = 2 * np.log(19) * np.abs(width) < np.std(predicted) / 3
    rising = np.isfinite([*parameters, *covariance.flat]).all() and top > bottom and not step
    if not rising or not _better_than_mean(logistic(predicted, *parameters), score, len(parameters)):
        return None
    return tuple(parameters.tolist())


def _better_than_mean(fitted: np.ndarray, score: np.ndarray, parameters: int) -> bool:
    left = np.sum((score - fitted) ** 2)
    explained = np.sum((score - score.mean()) ** 2) - left
    of_curve, of_rest = parameters - 1, len(score) - parameters
    return bool(stats.f.sf(explained / of_curve, of_curve, of_rest, scale=max(left / of_rest, ROUNDING)) < ALPHA)


# ------------------------------------------------------------------------------------------------- intervals


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return UNDEFINED
        limits = f"{self.low:.3f}, {self.high:.3f}" if np.isfinite([self.low, self.high]).all() else UNDEFINED
        return f"{self.value:.3f} [{limits}]"


def bootstrap(
    statistic: Statistic, *samples: np.ndarray, groups: np.ndarray | None, resamples: int = 1000, seed: int = 0
) -> Interval:
    """A statistic of paired samples (N,) with its 95 % interval over resampled images.

    The limits are percentiles, taken further out for small samples: expanded percentile interval, Hesterberg
    (2015), *What teachers should know about the bootstrap*, section 5.3. Plain percentiles hold the truth too
    rarely when few references are resampled: 88 % of the time with 4, 93 % with 20, against 95 % for these.
    With 4 references the limits are all but the extremes over the resamples: wide, and no better than rough.
    RMSE, and PLCC where a few images lie far out, come to 93 % with 100 images.

    Where a resample leaves the statistic undefined (predictions nearly constant), so is the interval: nan.

    Args:
        statistic: takes arrays (…, N), reduces the last axis, as `srcc` and the others here do;
            ``np.vectorize(f, signature="(n),(n)->()")`` makes one of any other function.
        groups: (N,) label of each image's reference, whole references are resampled; None: images are. To be said in
            every call: over images that share references, nominal 95 % intervals cover 66 to 79 %.

    Raises:
        DataError: samples or groups of different lengths, or an image without a group.
    """
    value, resampled, units = resampled_together(statistic, *samples, groups=groups, resamples=resamples, seed=seed)
    if resampled is None:
        return Interval(float(value), np.nan, np.nan)
    reach = stats.t.ppf(1 - ALPHA / 2, units - 1) * np.sqrt(units / (units - 1))
    low, high = np.quantile(resampled, stats.norm.cdf([-reach, reach]))
    return Interval(float(value), float(low), float(high))


def groups_of(reference_N: Sequence[str]) -> np.ndarray | None:
    """What to resample of these images: whole references where several images share one, else None."""
    reference_N = np.asarray(reference_N)
    return reference_N if len(set(reference_N)) < len(reference_N) else None


def resampled_together(
    statistic: Statistic, *samples: np.ndarray, groups: np.ndarray | None, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The statistic of samples (…, N), that of each resample (…, resamples), and the number of units resampled.

    Arguments and errors as for `bootstrap`. None in place of the resamples where the statistic is undefined or there
    is but one unit.
    """
    samples = tuple(np.asarray(sample, float) for sample in samples)
    codes, units = _units(groups, *samples)
    value = np.asarray(statistic(*samples), float)
    if not np.isfinite(value).all() or units < 2:
        return value, None, units
    values = [statistic(*(s[..., rows] for s in samples)) for rows in _draws(samples, codes, resamples, seed)]
    if np.shape(values[0])[-1:] == () or sum(np.shape(v)[-1] for v in values) != resamples:
        raise TypeError(
            "A statistic must take arrays (…, N) and reduce the last axis; wrap one that takes single "
            'samples in np.vectorize(f, signature="(n),(n)->()").'
        )
    return value, np.concatenate(values, axis=-1), units


def _units(groups: np.ndarray | None, *samples: np.ndarray) -> tuple[np.ndarray | None, int]:
    """The group number of each image (None without groups) and how many units there are to resample."""
    lengths = [sample.shape[-1] for sample in samples] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) > 1:
        raise DataError(
            f"Predictions, scores and groups belong to {', '.join(map(str, lengths))} images; "
            "they must be those of the same images, in the same order."
        )
    if groups is None:
        return None, lengths[0]
    codes, labels = pd.factorize(np.asarray(groups), use_na_sentinel=True)
    if (codes < 0).any():
        raise DataError(
            f"Image {int(np.argmax(codes < 0))} (from 0) has no group; name the reference of every image, "
            "or leave the groups out where the set has no references."
        )
    return codes, len(labels)


def _draws(samples, codes, resamples, seed) -> Iterator[np.ndarray]:
    """Blocks (resamples, images) of the images drawn with replacement: whole groups where codes are given."""
    rng = np.random.default_rng(seed)
    images = samples[-1].shape[-1]
    at_a_time = max(1, _BLOCK // images)
    members = [] if codes is None else np.split(np.argsort(codes, kind="stable"), np.bincount(codes).cumsum()[:-1])
    units = len(members) or images
    for first in range(0, resamples, at_a_time):
        picks = rng.integers(units, size=(min(at_a_time, resamples - first), units))
        if codes is None:
            yield picks
            continue
        drawn = sorted((np.concatenate([members[g] for g in pick]) for pick in picks), key=len)
        for _, same_length in itertools.groupby(drawn, key=len):
            yield np.stack(list(same_length))


def report(
    predicted: np.ndarray,
    score: np.ndarray,
    logistic_from: tuple[float, ...] | None,
    *,
    groups: np.ndarray | None,
    resamples: int = 1000,
) -> dict[str, Interval]:
    """SRCC, PLCC (raw and after the given logistic), KRCC and RMSE, each with its interval.

    Args:
        logistic_from: parameters of `fit_logistic`, fitted on other images than these (validation).
        groups: as for `bootstrap`.
    """
    predicted, score = np.asarray(predicted, float), np.asarray(score, float)
    wanted = {name: (f, predicted) for name, f in {"SRCC": srcc, "PLCC": plcc, "KRCC": krcc, "RMSE": rmse}.items()}
    if logistic_from is not None:
        mapped = logistic(predicted, *logistic_from)
        wanted["PLCC after logistic (fitted on validation)"] = (plcc, mapped)
        wanted["RMSE after logistic (fitted on validation)"] = (rmse, mapped)
    return {
        name: bootstrap(statistic, values, score, resamples=resamples, groups=groups)
        for name, (statistic, values) in wanted.items()
    }


# ----------------------------------------------------------------------------------------------- label noise


class Ceiling(NamedTuple):
    """The SRCC that the labels' noise allows."""

    split_half: float  # of the mean votes of two halves of the raters
    panel_agreement: float  # of two full panels, by Spearman–Brown
    perfect_model: float  # of the true quality with one panel: the root, for two panels disagree by the noise of both


def label_noise_ceiling(counts_NV: np.ndarray, repeats: int = 50, seed: int = 0) -> Ceiling:
    """How far panels agree with one another, and how far a perfect model could agree with one.

    Of plain mean votes. Labels that are z-scored by rater before the mean is taken hold a little less noise.

    Args:
        counts_NV: (N images, V levels) how many raters gave each level 1 … V; numbers of votes, not shares.
        repeats: random splits to average over.

    Raises:
        DataError: shares instead of counts, or an image with fewer than two votes.
    """
    counts = _votes(counts_NV, at_least=2)
    half = _srcc_of_split(counts, counts.sum(axis=1) // 2, repeats, seed)
    agreement = 2 * half / (1 + half)
    return Ceiling(half, agreement, float(np.sqrt(max(agreement, 0))))


def srcc_of_k_raters(counts_NV: np.ndarray, k: int, repeats: int = 50, seed: int = 0) -> float:
    """SRCC of the mean vote of ``k`` random raters per image with the mean vote of the others.

    Arguments and errors as for `label_noise_ceiling`; every image needs more than ``k`` ≥ 1 votes.
    """
    if k < 1:
        raise DataError(f"The mean of k = {k} raters was requested; k counts raters, from 1.")
    counts = _votes(counts_NV, at_least=k + 1)
    return _srcc_of_split(counts, np.full(len(counts), k), repeats, seed)


def equivalent_raters(correlation: float, counts_NV: np.ndarray, repeats: int = 50, seed: int = 0) -> float:
    """How many other raters' mean would agree with this panel's as well as a model's SRCC does.

    The panel's reliability is the square of the limit of a perfect model; from it comes that of one rater, and of k
    (Spearman–Brown). Their mean agrees with the panel as √(reliability of k) × limit.

    0 for SRCC ≤ 0, inf from the limit of a perfect model on, nan where the panel agrees on nothing.
    Arguments and errors as for `label_noise_ceiling`.
    """
    if not correlation > 0:
        return 0.0 if correlation <= 0 else np.nan
    limit = label_noise_ceiling(counts_NV, repeats, seed).perfect_model
    if not limit > 0:
        return np.nan
    panel = np.median(np.sum(counts_NV, axis=1))
    of_one = limit**2 / (panel - (panel - 1) * limit**2)
    of_k = (correlation / limit) ** 2
    return float(of_k * (1 - of_one) / (of_one * (1 - of_k))) if of_k < 1 else np.inf


def _votes(counts_NV: np.ndarray, at_least: int) -> np.ndarray:
    counts = np.asarray(counts_NV, float)
    if counts.ndim != 2 or not np.array_equal(counts, np.rint(counts)) or (counts < 0).any():
        raise DataError(
            "Vote histograms must be an array (images, levels) of whole numbers of votes; "
            "multiply published shares by the number of votes and round."
        )
    too_few = counts.sum(axis=1) < at_least
    if too_few.any():
        row = int(np.argmax(too_few))
        raise DataError(
            f"Image {row} (from 0) has {counts[row].sum():.0f} votes; {at_least} are needed. "
            "Leave such images out or ask for fewer raters."
        )
    return counts.astype(int)


def _srcc_of_split(counts_NV: np.ndarray, k_N: np.ndarray, repeats: int, seed: int) -> float:
    """Mean SRCC, over random splits, of the mean of ``k`` votes per image and the mean of the others."""
    drawn_RNV = _draw_votes(counts_NV, k_N, repeats, np.random.default_rng(seed))
    level_V = np.arange(1, counts_NV.shape[1] + 1)
    mean_RN = drawn_RNV @ level_V / k_N
    others_RN = (counts_NV - drawn_RNV) @ level_V / (counts_NV.sum(axis=1) - k_N)
    return float(np.mean(srcc(mean_RN, others_RN)))


def _draw_votes(counts_NV: np.ndarray, k_N: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """(repeats, N, V) votes drawn without replacement: multivariate hypergeometric, level by level.

    numpy's own takes one histogram at a time; drawing each level from what is left is the same distribution.
    """
    drawn = np.zeros((repeats, *counts_NV.shape), int)
    missing = np.broadcast_to(k_N, (repeats, len(counts_NV)))
    left = counts_NV.sum(axis=1)
    for level, count in enumerate(counts_NV.T):
        left = left - count
        drawn[..., level] = rng.hypergeometric(count, left, missing)
        missing = missing - drawn[..., level]
    return drawn
