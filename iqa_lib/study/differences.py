"""Differences between methods on the same test images, with intervals that allow for other images and other trainings.

`docs/statistics.md` gives the reasons and error rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from iqa_lib import metrics
from iqa_lib.metrics import ALPHA, ROUNDING, Statistic, resampled_together

POWER = 0.80
FEW = 20  # an interval over fewer images or references is rough


class Variance(NamedTuple):
    """An estimate, or many, and its degrees of freedom."""

    value: float
    df: float


def _squared_reach(of_units: Variance, of_runs: Sequence[Variance], alpha: float) -> np.ndarray:
    """Square of the half-width of an interval around a value with these independent variances.

    Satterthwaite's degrees of freedom for the sum lend few runs the certainty of many images, and the interval misses
    too often; Banerjee's (1961) bound, which widens each part by Student's quantile for its own, too rarely. Midway
    between the two it misses about as often as it says (`docs/statistics.md`). Runs together: Welch.
    """

    def student(df: np.ndarray) -> np.ndarray:
        return stats.t.isf(alpha / 2, df) ** 2

    def together(*parts: Variance) -> Variance:
        total, spread = sum(value for value, _ in parts), sum(value**2 / df for value, df in parts)
        return Variance(total, np.divide(np.square(total), spread, out=np.ones_like(total), where=spread > 0))

    of_units = Variance(np.asarray(of_units.value, float), of_units.df)
    runs = together(*(Variance(np.asarray(value, float), df) for value, df in of_runs))
    total, df_total = together(of_units, runs)
    # With as many runs of both the sum is judged together; with fewer of one, which may be the one that scatters, apart.
    equal = len({df for _, df in of_runs}) == 1
    bound = sum(value * student(df) for value, df in (of_units, *([runs] if equal else of_runs)))
    return (total * student(df_total) + bound) / 2


def _mean(variances: Iterable[Variance]) -> Variance:
    """Weighted by degrees of freedom."""
    variances = list(variances)
    df = sum(df for _, df in variances)
    return Variance(sum(value * df for value, df in variances) / max(df, 1), df)


@dataclass(frozen=True)
class Scatter:
    """How far runs of one configuration differ, pooled over configurations: SD, degrees of freedom, whose runs."""

    sd: float
    df: int
    of: str

    @classmethod
    def pooled(cls, srcc_of: Mapping[str, np.ndarray]) -> Scatter | None:
        """From each configuration's numbers, one a run; None where they are too few to say.

        A run without a number (constant predictions) says nothing of how far the others lie apart. A configuration
        that scatters far more than the others (F-test at 1 %, for all of them together) tells of itself alone.
        """
        finite = {label: np.asarray(values)[np.isfinite(values)] for label, values in srcc_of.items()}
        found = {k: Variance(float(np.var(v, ddof=1)), len(v) - 1) for k, v in finite.items() if len(v) > 1}
        while len(found) > 2:
            widest = max(found, key=lambda label: found[label].value)
            others = _mean(v for label, v in found.items() if label != widest)
            if stats.f.sf(found[widest].value, found[widest].df, others.df, scale=others.value) > 0.01 / len(found):
                break
            del found[widest]
        scatter = _mean(found.values())
        if scatter.df < 2:
            return None
        of = next(iter(found)) if len(found) == 1 else f"{len(found)} variants"
        return cls(math.sqrt(scatter.value), scatter.df, f"{scatter.df + len(found)} runs of {of}")


@dataclass(frozen=True)
class Difference:
    """First method minus second on the same test images, each method's runs averaged.

    Attributes:
        of_units: its variance over resampled images, or references where there are ``groups``.
        of_runs: its variance over runs, a part from each method with more than one.
        seeds: runs of each method; inf for one that no training changes, such as a published model.
        scatter: of runs, pooled over the experiment. Of this and their own the one that makes the wider interval counts:
            three runs may agree by chance.
        same_models: the two are one set of trained models that scored in two ways.
        counted: share of the images, or references, that the statistic looks at.
    """

    value: float
    of_units: float
    of_runs: tuple[Variance, ...]
    images: int
    groups: int | None
    seeds: tuple[float, float]
    scatter: Scatter | None = None
    same_models: bool = False
    counted: float = 1.0

    @property
    def units(self) -> tuple[int, str]:
        """How many of what are resampled."""
        return (self.images, "images") if self.groups is None else (self.groups, "references")

    def _estimates(self) -> list[tuple[Variance, ...]]:
        """Of its variance over runs: from its own runs, and from the scatter of the experiment's."""
        found = [self.of_runs] if self.of_runs and min(self.seeds) > 1 else []
        if self.scatter:
            lent = self.scatter.sd**2 * sum(1 / runs for runs in self.seeds)
            found.append((Variance(lent, self.scatter.df),))
        return found or [self.of_runs or (Variance(0.0, 1),)]

    def _of_units(self) -> Variance:
        return Variance(self.of_units, max(1.0, self.units[0] * self.counted - 1))

    def reach(self, alpha: float = ALPHA) -> float:
        """Half the width of an interval that misses the truth in a share ``alpha`` of studies."""
        squared = [_squared_reach(self._of_units(), of_runs, alpha) for of_runs in self._estimates()]
        return math.sqrt(np.max(squared))  # nan where any is

    def interval(self, family: int = 1) -> tuple[float, float]:
        """That holds the truth in 95 % of studies together with the other ``family`` − 1 intervals (Bonferroni)."""
        reach = self.reach(ALPHA / family)
        return self.value - reach, self.value + reach

    @property
    def low(self) -> float:
        return self.interval()[0]

    @property
    def high(self) -> float:
        return self.interval()[1]

    def p(self, family: int = 1) -> float:
        """Two-sided, of no difference; times the number of claims judged together."""
        reach = self.reach()
        if math.isnan(self.value + reach):
            return math.nan
        if reach <= ROUNDING:  # without an error, as between two models of one ranking, the difference is exact
            return float(abs(self.value) <= ROUNDING)
        least = math.log(1e-30)
        if self.reach(math.exp(least)) <= abs(self.value):
            return 0.0
        found = optimize.brentq(lambda log: self.reach(math.exp(log)) - abs(self.value), least, 0.0)
        return min(1.0, family * math.exp(found))

    def detectable(self, family: int = 1) -> float:
        """The true difference that is found with 80 % power among so many claims, as far as this spread shows."""
        reach, error = self._other_studies(ALPHA / family)
        return float(np.quantile(reach - error, POWER)) if reach.any() else math.nan

    def equivalent_within(self, family: int = 1) -> float:
        """The bounds within which methods that are equal are shown to be (TOST) with 80 % power."""
        reach, error = self._other_studies(2 * ALPHA / family)
        return float(np.quantile(reach + abs(error), POWER))

    def _other_studies(self, alpha: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
        """Half-widths and errors of studies like this one; always the same draws."""
        rng, of_units = np.random.default_rng(0), self._of_units()
        of_runs = max(self._estimates(), key=lambda of_runs: _squared_reach(of_units, of_runs, alpha))
        # Of estimates with few degrees of freedom more than half are too small: what half exceed is the likely truth.
        df = sum(df for _, df in of_runs)
        of_runs = [Variance(value * df / stats.chi2.median(df), own) for value, own in of_runs]
        drawn = [Variance(v * rng.chisquare(own, count) / own, own) for v, own in (of_units, *of_runs)]
        error = rng.normal(size=count) * math.sqrt(of_units.value + sum(value for value, _ in of_runs))
        return np.sqrt(_squared_reach(drawn[0], drawn[1:], alpha)), error

    @property
    def knows_runs(self) -> bool:
        """Whether the interval allows for another training of both methods."""
        return self.scatter is not None or min(self.seeds) > 1

    @property
    def covers(self) -> str:
        """Which chances the interval allows for; one run of a method says nothing of its next run."""
        rough = f"; rough, {self.units[0]} {self.units[1]}" if self.units[0] < FEW else ""
        repeated = [name for name, runs in zip(("first", "second"), self.seeds, strict=True) if runs > 1]
        if len(repeated) == 2:
            runs = "and runs"
        elif self.scatter is not None:
            runs = f"and runs (scatter of {self.scatter.of})"
        elif repeated:
            runs = f"and the {repeated[0]} method's runs"
        else:
            runs = f"only ({'one model' if self.same_models else 'one run each'})"
        return f"{self.units[1]} {runs}{rough}"

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p():.3f}"


def compare(
    a_SN: np.ndarray,
    b_SN: np.ndarray,
    score_N: np.ndarray,
    *,
    groups: np.ndarray | None,
    statistic: Statistic = metrics.srcc,
    resamples: int = 1000,
    seed: int = 0,
    same_models: bool = False,
    scatter: Scatter | None = None,
    counted: float = 1.0,
    fixed: tuple[bool, bool] = (False, False),
) -> Difference:
    """Mean over runs of the statistic of ``a`` minus that of ``b``, on the same images.

    The interval comes of two variances: that of the mean difference over resampled images (both methods on the same
    resamples), and that over runs (`Difference.of_runs`), with Welch's degrees of freedom. Runs are not paired: two
    models with one seed are no more alike than with two.

    Args:
        a_SN, b_SN: predictions, (runs, images) or (images,); the two need not have equally many runs.
        groups: (N,) reference of each image, whole references are resampled; None: images are.
        statistic: as for `metrics.bootstrap`.
        same_models: run i of ``a`` and run i of ``b`` are one trained model that scored in two ways. What training
            left to chance then cancels, and what varies from run to run is the difference.
        scatter: of runs, pooled over the experiment.
        counted: share of the images that the statistic looks at: 0.1 for one of the best decile.
        fixed: whether ``a``, and ``b``, is a published model, which another training does not change.

    Raises:
        DataError: arrays of different numbers of images, or an image without a group.
    """
    a, b = np.atleast_2d(np.asarray(a_SN, float)), np.atleast_2d(np.asarray(b_SN, float))
    value_S, resampled_SR, units = resampled_together(
        statistic, np.concatenate([a, b]), score_N, groups=groups, resamples=resamples, seed=seed
    )
    values = np.split(value_S, [len(a)])
    found = Difference(
        value=float(values[0].mean() - values[1].mean()),
        of_units=math.nan,
        of_runs=(),
        images=len(score_N),
        groups=None if groups is None else units,
        seeds=tuple(math.inf if is_fixed else len(of) for of, is_fixed in zip((a, b), fixed, strict=True)),
        scatter=None if same_models else scatter,
        same_models=same_models,
        counted=counted,
    )
    if resampled_SR is None:
        return found
    resampled = np.split(resampled_SR, [len(a)])
    if same_models:
        values, resampled = [values[0] - values[1]], [resampled[0] - resampled[1]]
    of_units, of_runs = _variances(values, resampled, units)
    return replace(found, of_units=of_units, of_runs=of_runs)


def _variances(values: list, resampled: list, units: int) -> tuple[float, tuple[Variance, ...]]:
    """The difference's variance over images, and over the runs of each method that has more than one.

    Of two methods' runs, or of one set of differences. Runs on one test set differ for two reasons: some are better on
    all images, and each is better on some images by chance. Resampling the images measures the second again; to count
    it once, the variance of a method's runs from resample to resample is subtracted from the images' part.
    """
    # A bootstrap variance is that of n units around their own mean: (n − 1)/n too small.
    correction = units / (units - 1)
    of_units = np.var(reduce(np.subtract, [each.mean(axis=0) for each in resampled]), ddof=1) * correction
    of_runs = []
    for value_S, resampled_SR in zip(values, resampled, strict=True):
        runs = len(value_S)
        if runs > 1:
            by_image_SR = resampled_SR - resampled_SR.mean(axis=1, keepdims=True)
            of_units -= by_image_SR.var(axis=0, ddof=1).mean() * correction / runs
            of_runs.append(Variance(float(value_S.var(ddof=1) / runs), runs - 1))
    return float(np.maximum(of_units, 0)), tuple(of_runs)
