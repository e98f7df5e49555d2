"""Comparisons of methods and what they say of a claim; ``docs/statistics.md`` gives the reasons and error rates.

A difference is judged by its simultaneous interval: 95 % for all claims of a family together (Bonferroni), so that in
at most one study of twenty any interval of the family misses the truth. Both *holds* and *does not hold* are read
from that interval. What cannot vary in the data is never judged: one run each says nothing of the next run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd
from scipy import optimize, stats

from iqa_lib import metrics
from iqa_lib.metrics import ALPHA, ROUNDING, Statistic, resampled_together
from iqa_lib.profile import Profile
from iqa_lib.study.experiments import Claim, Elsewhere, Runs, Variant, predictions

POWER = 0.80
SIZE, DIRECTION, HOLDS_NOT, UNTOLD = VERDICTS = (
    "holds in direction and size",
    "holds in direction only",
    "does not hold",
    "cannot be told",
)
OF_INTEREST = 0.005  # smallest difference of SRCC that matters, where a profile names no other
FEW_REFERENCES = 20  # an interval over fewer is rough: it covers the truth 91 % of the time with 4


# --- one difference ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scatter:
    """How far runs of one configuration differ, pooled over configurations: SD, degrees of freedom, whose runs."""

    sd: float
    df: int
    of: str

    @classmethod
    def pooled(cls, srcc_of: Mapping[str, np.ndarray]) -> Scatter | None:
        """From each configuration's numbers, one a run; None where they are too few to say."""
        repeated = {label: values for label, values in srcc_of.items() if len(values) > 1}
        df = sum(len(values) - 1 for values in repeated.values())
        if df < 2:
            return None
        squares = sum(np.var(values, ddof=1) * (len(values) - 1) for values in repeated.values())
        of = next(iter(repeated)) if len(repeated) == 1 else f"{len(repeated)} variants"
        return cls(math.sqrt(squares / df), df, of)


@dataclass(frozen=True)
class Difference:
    """First method minus second on the same test images, each method's runs averaged.

    Attributes:
        of_units: its variance over resampled images, or references where there are ``groups``.
        of_runs: estimates of its variance over runs, each with its degrees of freedom: from these two methods' runs,
            and from all of the experiment. The one that makes the wider interval counts: three runs may agree by
            chance.
        seeds: runs of each method.
        same_models: the two are one set of trained models that scored in two ways.
    """

    value: float
    of_units: float
    of_runs: tuple[tuple[float, int], ...]
    images: int
    groups: int | None
    seeds: tuple[int, int]
    scatter: Scatter | None = None
    same_models: bool = False

    @property
    def units(self) -> tuple[int, str]:
        """How many of what are resampled."""
        return (self.images, "images") if self.groups is None else (self.groups, "references")

    def spreads(self) -> list[tuple[float, float]]:
        """Standard error and Satterthwaite's degrees of freedom, by each estimate of the variance over runs."""
        if math.isnan(self.of_units):  # one image or reference, or one score for all
            return [(math.nan, math.nan)]
        found = []
        for of_runs, freedom in self.of_runs or [(0.0, 1)]:
            total = self.of_units + of_runs
            parts = self.of_units**2 / (self.units[0] - 1) + of_runs**2 / freedom
            found.append((math.sqrt(total), total**2 / parts if total > ROUNDING**2 else 1.0))
        return found

    def interval(self, family: int = 1) -> tuple[float, float]:
        """That holds the truth in 95 % of studies together with the other ``family`` − 1 intervals (Bonferroni)."""
        reach = max(0 if e <= ROUNDING else e * _reach(df, family) for e, df in self.spreads())
        return self.value - reach, self.value + reach

    @property
    def low(self) -> float:
        return self.interval()[0]

    @property
    def high(self) -> float:
        return self.interval()[1]

    def p(self, family: int = 1) -> float:
        """Two-sided, of no difference; times the number of claims judged together."""
        if math.isnan(self.value + self.of_units):
            return math.nan
        found = [
            # Without an error, as between two models of one ranking, the difference is exact.
            2 * stats.t.sf(abs(self.value) / e, df) if e > ROUNDING else abs(self.value) <= ROUNDING
            for e, df in self.spreads()
        ]
        return min(1.0, family * float(max(found)))

    def detectable(self, family: int = 1) -> float:
        """The true difference that is found with 80 % power among so many claims, as far as this spread shows."""
        return max(e * _shift(df, family) if e > ROUNDING else math.nan for e, df in self.spreads())

    @property
    def knows_runs(self) -> bool:
        """Whether the interval allows for another training of both methods."""
        return self.same_models or self.scatter is not None or min(self.seeds) > 1

    @property
    def covers(self) -> str:
        """Which chances the interval allows for; one run of a method says nothing of its next run."""
        rough = f"; rough, {self.groups} references" if (self.groups or math.inf) < FEW_REFERENCES else ""
        repeated = [name for name, runs in zip(("first", "second"), self.seeds, strict=True) if runs > 1]
        if len(repeated) == 2:
            runs = "and runs"
        elif self.scatter is not None:
            runs = f"and runs (scatter of {self.scatter.of}'s {self.scatter.df + 1} runs)"
        elif repeated:
            runs = f"and the {repeated[0]} method's runs"
        else:
            runs = f"only ({'one model' if self.same_models else 'one run each'})"
        return f"{self.units[1]} {runs}{rough}"

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p():.3f}"


def _reach(df: float, family: int) -> float:
    return float(stats.t.ppf(1 - ALPHA / 2 / family, df))


def _shift(df: float, family: int) -> float:
    """The true difference, in standard errors, that a two-sided t-test finds with the stated power."""
    reach = _reach(df, family)
    return float(optimize.brentq(lambda shift: stats.nct.sf(reach, df, shift) - POWER, 0.1, 2 * reach + 3))


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
) -> Difference:
    """Mean over runs of the statistic of ``a`` minus that of ``b``, on the same images.

    The interval is Student's, around the sum of two variances: that of the mean difference over resampled images
    (both methods on the same resamples), and that over runs (`Difference.of_runs`), with Satterthwaite's degrees of
    freedom. Runs are not paired: two models with one seed are no more alike than with two.

    Args:
        a_SN, b_SN: predictions, (runs, images) or (images,); the two need not have equally many runs.
        groups: (N,) reference of each image, whole references are resampled; None: images are.
        statistic: as for `metrics.bootstrap`.
        same_models: run i of ``a`` and run i of ``b`` are one trained model that scored in two ways. What training
            left to chance then cancels, and what varies from run to run is the difference.
        scatter: of runs, pooled over the experiment.

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
        seeds=(len(a), len(b)),
        scatter=None if same_models else scatter,
        same_models=same_models,
    )
    if resampled_SR is None:
        return found
    resampled = np.split(resampled_SR, [len(a)])
    if same_models:
        values, resampled = [values[0] - values[1]], [resampled[0] - resampled[1]]
    of_units, own = _variances(values, resampled, units)
    of_runs = [own] if own[1] else []
    if found.scatter:
        # A method with one run has no spread of its own.
        of_runs = of_runs if min(found.seeds) > 1 else []
        of_runs.append((scatter.sd**2 * sum(1 / runs for runs in found.seeds), scatter.df))
    return replace(found, of_units=of_units, of_runs=tuple(of_runs))


def _variances(values: list, resampled: list, units: int) -> tuple[float, tuple[float, int]]:
    """The difference's variance over images, and over runs with its degrees of freedom, 0 where runs are single.

    Of two methods' runs, or of one set of differences. Runs on one test set differ for two reasons: some are better on
    all images, and each is better on some images by chance. Resampling the images measures the second again; to count
    it once, the variance of a method's runs from resample to resample is subtracted from the images' part.
    """
    # A bootstrap variance is that of n units around their own mean: (n − 1)/n too small.
    correction = units / (units - 1)
    of_units = np.var(reduce(np.subtract, [each.mean(axis=0) for each in resampled]), ddof=1) * correction
    of_runs, freedom = 0.0, 0
    for value_S, resampled_SR in zip(values, resampled, strict=True):
        runs = len(value_S)
        if runs > 1:
            by_image_SR = resampled_SR - resampled_SR.mean(axis=1, keepdims=True)
            of_units -= by_image_SR.var(axis=0, ddof=1).mean() * correction / runs
            of_runs += float(value_S.var(ddof=1) / runs)
            freedom += runs - 1
    return float(np.maximum(of_units, 0)), (of_runs, freedom)


# --- what it says of a claim ------------------------------------------------------------------------------


def verdict(difference: Difference, size: float | None, family: int = 1, of_interest: float = OF_INTEREST) -> str:
    """What these runs say of the claim that the first method beats the second, by ``size`` where the claim has one.

    With L and H the limits of the family's simultaneous interval:

    * ``holds in direction and size``: L > 0 and L ≥ size − ``of_interest``.
    * ``holds in direction only``: L > 0; the claim has no size, or the size is not shown.
    * ``does not hold``: H < size, where the direction is not shown either; without a size, H < 0.
    * ``cannot be told``: anything else, an undefined number, or runs whose scatter is unknown.

    A claim of no difference (size 0) is judged by equivalence (TOST): its 90 % interval within ± ``of_interest``.
    """
    low, high = difference.interval(family)
    if not difference.knows_runs or not np.isfinite([low, high, size or 0.0]).all():
        return UNTOLD
    if size == 0:
        inner = max(e * float(stats.t.ppf(1 - ALPHA / family, df)) for e, df in difference.spreads())
        if abs(difference.value) + inner <= of_interest:
            return SIZE
        return HOLDS_NOT if low > 0 or high < 0 else UNTOLD
    if low > 0:
        return SIZE if size is not None and low >= size - of_interest else DIRECTION
    return HOLDS_NOT if high < (size or 0.0) else UNTOLD


def would_decide(difference: Difference, size: float | None, family: int = 1, of_interest: float = OF_INTEREST) -> str:
    """How many runs or images would find the claimed size, or the smallest of interest, with 80 % power.

    As far as the measured spread shows; normal quantiles, for with so many runs Student's are near them. Empty where
    nothing can be said.
    """
    if math.isnan(difference.value):
        return ""
    if not difference.knows_runs:
        return "3 runs each"
    target = max(abs(size or 0.0), of_interest)
    wanted = (target / (stats.norm.ppf(1 - ALPHA / 2 / family) + stats.norm.ppf(POWER))) ** 2
    of_units, runs = difference.of_units, max(difference.seeds)
    of_runs = max((variance for variance, _ in difference.of_runs), default=0.0)
    units, what = difference.units
    if not target or not np.isfinite(of_units + of_runs):
        return ""
    ways = []
    if of_runs and wanted > of_units:
        ways.append(f"{max(runs + 1, math.ceil(runs * of_runs / (wanted - of_units)))} runs each")
    if of_units and wanted > of_runs:
        ways.append(f"{max(units + 1, math.ceil(units * of_units / (wanted - of_runs))):,} {what}")
    if not ways:
        more_runs = math.ceil(2 * runs * of_runs / wanted)
        ways.append(f"{more_runs} runs each on {math.ceil(2 * units * of_units / wanted):,} {what}")
    return " or ".join(ways)


def verdict_table(
    claims: Sequence[tuple[str, float | None, Difference]],
    measured: str = "measured ΔSRCC",
    claimed: str = "paper: ΔSRCC",
    of_interest: float = OF_INTEREST,
) -> pd.DataFrame:
    """The verdicts on a family of claims, each (sentence, size or None, difference); a row each."""
    family = sum(math.isfinite(d.value) for _, _, d in claims) or 1
    lines = []
    for sentence, size, d in claims:
        found = verdict(d, size, family, of_interest)
        low, high = d.interval(family)
        lines.append(
            {
                "claim": sentence,
                claimed: math.nan if size is None else size,
                measured: d.value,
                "95 % low": low,
                "95 % high": high,
                "p (adjusted)": d.p(family),
                "smallest detectable": d.detectable(family),
                "interval covers": d.covers,
                "verdict": found,
                "would decide it": would_decide(d, size, family, of_interest) if found == UNTOLD else "",
            }
        )
    return pd.DataFrame(lines).round(4)


# --- runs -------------------------------------------------------------------------------------------------


def units_of(test: pd.DataFrame) -> str:
    """What an interval over this test set resamples, in words."""
    if metrics.groups_of(test["reference"]) is None:
        return f"{len(test)} images"
    count = test["reference"].nunique()
    return f"{count} references" + " (rough)" * (count < FEW_REFERENCES)


def compare_scores(
    settings: Profile, runs: Runs, variants: Sequence[Variant] = (), elsewhere: Elsewhere | None = None
) -> pd.DataFrame:
    """A row per variant: seeds, mean SRCC with its interval over images, SD over seeds, PLCC, parameters.

    The paper's numbers stand beside it for those of ``variants`` that name a row of its tables.
    """
    lines = []
    for label, of_variant in runs.items():
        predicted_SN, test = predictions(of_variant, elsewhere)
        score = test["score"].to_numpy()
        srcc_S = metrics.srcc(predicted_SN, score)
        interval = metrics.bootstrap(
            lambda predicted, score: np.mean(metrics.srcc(predicted, score), axis=0),
            predicted_SN,
            score,
            groups=metrics.groups_of(test["reference"]),
            resamples=settings.bootstrap_samples,
        )
        lines.append(
            {
                "variant": label,
                "backbone": of_variant[0].backbone,
                "seeds": len(of_variant),
                "n": len(test),
                "SRCC": interval.value,
                "95 % low": interval.low,
                "95 % high": interval.high,
                "interval over": units_of(test),
                "SD over seeds": srcc_S.std(ddof=1) if len(srcc_S) > 1 else np.nan,
                "PLCC": np.mean(metrics.plcc(predicted_SN, score)),
                "parameters (M)": of_variant[0].result["parameters"] / 1e6,
            }
        )
    table = pd.DataFrame(lines).round(4)
    for key in ("role", "factor"):
        values = {v.label: getattr(v, key) for v in variants}
        if len({*values.values()} - {None, "baseline"}) > 1:  # the rows differ in it
            table.insert(1, key, table["variant"].map(values))
    published = {v.label: v.published for v in variants}
    for title in dict.fromkeys(title for numbers in published.values() for title in numbers):
        table[f"paper: {title}"] = [published.get(v, {}).get(title, np.nan) for v in table["variant"]]
    return table


def judge(settings: Profile, runs: Runs, claims: Sequence[Claim]) -> pd.DataFrame:
    """Each claim beside the measured paired difference, its simultaneous interval and the verdict (`verdict_table`).

    Claims on runs that are not among ``runs`` are left out. The scatter of runs is pooled over all variants; it stands
    for that of a variant with one run.
    """
    claims = [claim for claim in claims if claim.first in runs and claim.second in runs]
    places = {claim.elsewhere for claim in claims}
    tested = {where: {label: predictions(found, where) for label, found in runs.items()} for where in places}
    scatters = {
        where: Scatter.pooled(
            {label: metrics.srcc(predicted_SN, test["score"]) for label, (predicted_SN, test) in of.items()}
        )
        for where, of in tested.items()
    }
    compared = []
    for claim in claims:
        (first_SN, test), (second_SN, _) = (tested[claim.elsewhere][label] for label in (claim.first, claim.second))
        difference = compare(
            first_SN,
            second_SN,
            test["score"],
            groups=metrics.groups_of(test["reference"]),
            resamples=settings.bootstrap_samples,
            scatter=scatters[claim.elsewhere],
        )
        compared.append((claim.text, claim.size, difference))
    return verdict_table(compared, of_interest=settings.of_interest) if compared else pd.DataFrame()


def conclude(verdicts: pd.DataFrame) -> str:
    """The verdicts in sentences, the decided ones with their numbers."""
    sentences = []
    for kind in VERDICTS if len(verdicts) else ():
        rows = verdicts[verdicts["verdict"] == kind]
        if len(rows) and kind == UNTOLD:
            sentences.append(f"Cannot be told from these runs: {'; '.join(rows['claim'])}.")
        elif len(rows):
            measured = rows.filter(like="measured").iloc[:, 0]
            limits = zip(rows["claim"], measured, rows["95 % low"], rows["95 % high"], strict=True)
            numbers = [f"{claim} ({value:+.3f}, {low:+.3f} to {high:+.3f})" for claim, value, low, high in limits]
            sentences.append(f"{kind[0].upper()}{kind[1:]}: {'; '.join(numbers)}.")
    return " ".join(sentences) or "No claim to judge."


def count_verdicts(verdicts: pd.DataFrame) -> str:
    """How many claims hold, do not, or cannot be told."""
    counts = verdicts["verdict"].value_counts() if len(verdicts) else {}
    return ", ".join(f"{counts[kind]} × {kind}" for kind in VERDICTS if kind in counts) or "no claim to judge"
