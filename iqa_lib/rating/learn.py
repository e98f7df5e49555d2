"""What ratings teach the default model, how far to trust it, and what more of them would bring.

The default model's score gets a correction, linear in the score itself and in the means of the backbone's channels: a
Bayesian linear regression of rating less score, which takes milliseconds once each photograph was looked at. How far
the channels count is averaged over `WIDTHS` of their prior, by how well each explains the ratings; that they count for
nothing has odds of its own, so that ratings which teach nothing leave the default model's order as it is.

Shape suffixes: N photographs, F channels, P columns of the regression, S seeds, M sizes, R resamples.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import linalg, optimize, special

from iqa_lib import metrics, paths
from iqa_lib.data.decode import WorkingSize, quiet_pillow, read_image, read_size
from iqa_lib.errors import ImageError
from iqa_lib.models.hypernet import PooledStages
from iqa_lib.scoring import certainty
from iqa_lib.scoring.score import Scorer
from iqa_lib.training.predictor import on_every_core

WIDTHS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # prior variance of the channels' part, in units of the noise's
ODDS = 2.0  # logarithm of: the channels count for nothing, against one width at which they do
OFFSET, SLOPE = 10.0, 0.5  # prior deviations of the parts that change no order, in units of the noise's
CHOOSING_WIDTH = 0.3  # at which it is asked where the model is least sure
FOLDS = 10
FEWEST = 20  # rated photographs to learn from
CURVE_SEEDS, CURVE_FOLDS, CURVE_SIZES, RESAMPLES = 8, 4, 7, 200
EXPONENTS = (0.25, 0.5, 0.75, 1.0)  # of the power law
AT_ONCE = 4  # photographs of a worker


class Seen(NamedTuple):
    """What the default model sees of N photographs."""

    names: list[str]
    score_N: np.ndarray
    means_NF: np.ndarray  # of the channels

    @property
    def design_NP(self) -> np.ndarray:
        """Columns of the regression, each with a prior deviation of 1: offset, slope, channels."""
        standard_NF = (self.means_NF - self.means_NF.mean(axis=0)) / self.deviations[1]
        z_N = (self.score_N - self.score_N.mean()) / self.deviations[0]
        flat_N = np.full(len(z_N), OFFSET)
        return np.column_stack([flat_N, SLOPE * z_N, standard_NF / np.sqrt(standard_NF.shape[1])])

    @property
    def deviations(self) -> tuple[float, np.ndarray]:
        return max(self.score_N.std(), 1e-3), self.means_NF.std(axis=0).clip(certainty.LEAST_DEVIATION)

    def as_linear(self, weights_P: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights and bias of the same on score and channel means as they are."""
        of_score, of_means_F = self.deviations
        slope = SLOPE * weights_P[1] / of_score
        channels_F = weights_P[2:] / of_means_F / np.sqrt(self.means_NF.shape[1])
        bias = OFFSET * weights_P[0] - slope * self.score_N.mean() - channels_F @ self.means_NF.mean(axis=0)
        return np.concatenate([[slope], channels_F]), float(bias)


def channel_means(stages: PooledStages) -> np.ndarray:
    """Of all stages, in their order, as the head's correction takes them (B, F)."""
    return torch.cat([grid_BCGG.mean(dim=(2, 3)) for grid_BCGG in stages.grids], dim=1).cpu().double().numpy()


def look(scorer: Scorer, files: dict[str, Path], stop: threading.Event | None = None) -> tuple[Seen, dict[str, str]]:
    """What the model sees of each file, by its name, and why not of those that cannot be read; kept in the cache."""
    model = certainty.model_hash(scorer.model)
    cache = paths.DATA / "cache" / f"rated-{model}.npz"
    stamps = {name: repr(paths.stamps([file])) for name, file in files.items() if file.is_file()}
    known = _known(cache)
    faults = {name: "cannot be found any more" for name in files.keys() - stamps.keys()}
    todo = [name for name, stamp in stamps.items() if stamp not in known]

    def work(names: list[str]) -> list[tuple[str, np.ndarray | str]]:
        found = []
        for name in names if not (stop and stop.is_set()) else []:
            try:
                picture = read_image(files[name], WorkingSize.of_settings(scorer.settings))
                traits = certainty.look(scorer, [picture], of=channel_means)
                found.append((name, np.concatenate([traits.score_N, traits.features_NF[0]])))
            except ImageError as error:
                found.append((name, error.reason))
        return found

    groups = [todo[start : start + AT_ONCE] for start in range(0, len(todo), AT_ONCE)]
    jobs = ((group, max(int(np.prod(read_size(files[name]))) for name in group)) for group in groups)
    with quiet_pillow():
        for name, row in itertools.chain.from_iterable(on_every_core(work, jobs)):
            if isinstance(row, str):
                faults[name] = row
            else:
                known[stamps[name]] = row
    if todo:
        content = io.BytesIO()
        np.savez(content, stamps=np.array(list(known)), rows=np.array(list(known.values())))
        paths.write_atomically(cache, content.getvalue())
    names = [name for name, stamp in stamps.items() if stamp in known]
    rows = np.array([known[stamps[name]] for name in names]).reshape(len(names), -1)
    return Seen(names, rows[:, 0] if len(names) else np.empty(0), rows[:, 1:]), faults


def _known(cache: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(cache) as found:
            return dict(zip(found["stamps"].tolist(), found["rows"], strict=True))
    except Exception:  # it is not there, or damaged: all can be computed again
        return {}


# --- the regression -----------------------------------------------------------------------------------------


def fit(design_NP: np.ndarray, residual_N: np.ndarray) -> np.ndarray:
    """Weights (P,) of rating less default score, averaged over `WIDTHS`."""
    order_free_NN = np.eye(len(residual_N)) + design_NP[:, :2] @ design_NP[:, :2].T
    channels_NN = design_NP[:, 2:] @ design_NP[:, 2:].T
    evidence, weights = [], []
    for width in WIDTHS:
        factor = linalg.cho_factor(order_free_NN + width * channels_NN)
        dual_N = linalg.cho_solve(factor, residual_N)
        explained = max(residual_N @ dual_N, 1e-9) / len(residual_N)
        fits = -len(residual_N) / 2 * np.log(explained) - np.log(np.diag(factor[0])).sum()
        evidence.append(fits + (0 if width else ODDS))
        prior_P = np.full(design_NP.shape[1], width)
        prior_P[:2] = 1
        weights.append(prior_P * (design_NP.T @ dual_N))
    return special.softmax(evidence) @ np.array(weights)


def held_out(
    seen: Seen, rows: np.ndarray, rating: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """Cross-validated scores of these rows: each by a model that learnt from none of its group."""
    design, score, fold = seen.design_NP[rows], seen.score_N[rows], _folds(groups, folds, seed)
    by_all = score + design @ fit(design, rating - score)
    predicted = by_all.copy()
    for part in np.unique(fold):
        out, rest = fold == part, fold != part
        if rest.any():
            by_rest = score + design @ fit(design[rest], (rating - score)[rest])
            predicted[out] = _on_scale_of(by_all, by_rest)[out]
    return predicted


def _on_scale_of(wanted_N: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    """With the mean and deviation of another model's: no model's order changes, and several can be ranked together."""
    return wanted_N.mean() + (score_N - score_N.mean()) * wanted_N.std() / max(score_N.std(), 1e-9)


def _folds(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    codes = np.unique(groups, return_inverse=True)[1]
    return (np.random.default_rng(seed).permutation(codes.max() + 1) % folds)[codes]


def least_sure(seen: Seen, rated: Sequence[int], candidates: Sequence[int]) -> int:
    """The candidate whose score is least sure after these ratings: far from them all, so that choices are diverse."""
    widths_P = np.concatenate([[1, 1], np.full(seen.means_NF.shape[1], CHOOSING_WIDTH)])
    scaled_NP = seen.design_NP * np.sqrt(widths_P)
    known, asked = scaled_NP[list(rated)], scaled_NP[list(candidates)]
    factor = linalg.cho_factor(np.eye(len(known)) + known @ known.T, lower=True)
    explained = linalg.solve_triangular(factor[0], known @ asked.T, lower=True)
    return int(candidates[np.argmax((asked**2).sum(axis=1) - (explained**2).sum(axis=0))])


# --- how far to trust it ------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """SRCC with the ratings on photographs that the model did not learn from, with 95 % intervals."""

    tuned: metrics.Interval
    default: metrics.Interval
    gain: metrics.Interval
    rated: int  # photographs
    tested: int

    def __str__(self) -> str:
        return (
            f"at {self.rated} rated photographs SRCC {short(self.tuned)} on those it did not learn from; the default "
            f"model {short(self.default)}; gain {change(self.gain)}"
        )


def short(interval: metrics.Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def change(interval: metrics.Interval) -> str:
    value, low, high = (f"{end + 0.0:+.2f}".replace("-", "−").replace("−0.00", "+0.00") for end in interval)
    return f"{value} [{low}, {high}]"


def agreement(
    seen: Seen, rows: np.ndarray, rating: np.ndarray, groups: np.ndarray, tested: np.ndarray | None = None
) -> Agreement:
    """By cross-validation over groups. ``tested``: which rows were drawn at random, where others were chosen."""
    tested = np.ones(len(rows), bool) if tested is None else tested
    tuned = held_out(seen, rows, rating, groups)[tested]
    default, truth = seen.score_N[rows][tested], rating[tested]
    of = metrics.groups_of(groups[tested])
    gain = metrics.bootstrap(
        lambda a, b, y: np.asarray(metrics.srcc(a, y)) - metrics.srcc(b, y), tuned, default, truth, groups=of
    )
    both = [metrics.bootstrap(metrics.srcc, predicted, truth, groups=of) for predicted in (tuned, default)]
    return Agreement(*both, gain, len(rows), int(tested.sum()))


class Curve(NamedTuple):
    """SRCC with the ratings against how many of them were learnt from; R resamples of the photographs."""

    ratings_M: np.ndarray
    srcc_M: np.ndarray
    resampled_MR: np.ndarray
    ceiling: float

    def interval(self) -> np.ndarray:
        """Ends (2, M) of the 95 % intervals."""
        return np.quantile(self.resampled_MR, [metrics.ALPHA / 2, 1 - metrics.ALPHA / 2], axis=1)

    def at(self, ratings: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """SRCC by the power law, and that of each resample (…, R)."""
        laws = [power_law(self.ratings_M, column, self.ceiling) for column in self.resampled_MR.T]
        mean = power_law(self.ratings_M, self.srcc_M, self.ceiling)
        ratings = np.asarray(ratings, float)
        return along(mean, ratings), np.stack([along(law, ratings) for law in laws], axis=-1)

    def gain(self, now: int, later: int) -> metrics.Interval:
        """What going from ``now`` to ``later`` ratings would bring, by the power law; give or take what that is unsure
        of, what the last doubling that was seen varies by, and how far that one is from the law.
        """
        value, resampled = self.at(np.array([now, later]))
        seen_R = self.resampled_MR[-1] - self.resampled_MR[max(len(self.srcc_M) - 3, 0)]
        gain = float(value[1] - value[0])
        off = seen_R.mean() - gain if later == 2 * now else 0.0
        reach = 1.96 * np.sqrt(np.var(resampled[1] - resampled[0]) + np.var(seen_R) + off**2)
        return metrics.Interval(gain, gain - reach, gain + reach)


def curve(
    seen: Seen,
    rows: np.ndarray,
    rating: np.ndarray,
    groups: np.ndarray,
    tested: np.ndarray | None = None,
    ceiling: float = 1.0,
) -> Curve:
    """Over random subsets of several sizes and seeds, each tested on photographs outside; from 0 ratings, the default.

    Resampled are the photographs that are tested.
    """
    tested = np.ones(len(rows), bool) if tested is None else tested
    design, score = seen.design_NP[rows], seen.score_N[rows]
    largest = len(rows) - int(np.ceil(len(rows) / CURVE_FOLDS)) - 1
    halved = (largest / 2 ** (np.arange(CURVE_SIZES) / 2)).astype(int)  # two of these are a doubling
    sizes = np.unique(halved[(halved >= FEWEST // 2) | (np.arange(CURVE_SIZES) < 3)])
    predicted_SMN = np.empty((CURVE_SEEDS, len(sizes), len(rows)))
    for seed in range(CURVE_SEEDS):
        fold, order = _folds(groups, CURVE_FOLDS, seed), np.random.default_rng(seed).permutation(len(rows))
        for part, (number, size) in itertools.product(range(CURVE_FOLDS), enumerate(sizes)):
            learnt, out = order[fold[order] != part][:size], fold == part
            tuned = score + design @ fit(design[learnt], (rating - score)[learnt])
            predicted_SMN[seed, number, out] = _on_scale_of(score, tuned)[out]
    of = metrics.groups_of(groups[tested])
    predicted = [np.broadcast_to(score, predicted_SMN[:, 0].shape), *predicted_SMN.swapaxes(0, 1)]
    options = {"groups": of, "resamples": RESAMPLES, "seed": 0}
    srcc_M, resampled_MR = [], []
    for seeds_SN in predicted:
        value_S, found_SR, _ = metrics.resampled_together(metrics.srcc, seeds_SN[:, tested], rating[tested], **options)
        srcc_M.append(value_S.mean())
        found_SR = np.full((CURVE_SEEDS, RESAMPLES), np.nan) if found_SR is None else found_SR
        # One seed's of each resample: the interval is over photographs and over which of them were rated.
        resampled_MR.append(found_SR[np.arange(RESAMPLES) % CURVE_SEEDS, np.arange(RESAMPLES)])
    return Curve(np.array([0, *sizes]), np.array(srcc_M), np.array(resampled_MR), ceiling)


def power_law(ratings_M: np.ndarray, srcc_M: np.ndarray, ceiling: float = 1.0) -> tuple[float, float, float]:
    """(limit, fall, exponent) of limit − fall · ratings^−exponent, which never falls, to the ceiling at most."""
    from_some = ratings_M > 0
    x, y = ratings_M[from_some].astype(float), srcc_M[from_some]
    if not np.isfinite(y).all():
        return np.nan, np.nan, 1.0
    fits = {}
    for exponent in EXPONENTS:
        columns = np.column_stack([np.ones(len(x)), -(x**-exponent)])
        fits[exponent] = optimize.lsq_linear(columns, y, ([-1, 0], [max(ceiling, -0.99), 10]))
    best = min(fits, key=lambda exponent: fits[exponent].cost)
    return (*fits[best].x.tolist(), best)


def along(law: tuple[float, float, float], ratings: np.ndarray) -> np.ndarray:
    limit, fall, exponent = law
    return limit - fall * ratings**-exponent
