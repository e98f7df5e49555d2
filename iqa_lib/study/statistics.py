"""What differences between methods say of a claim; ``docs/statistics.md`` gives the reasons and error rates.

A difference is judged by its simultaneous interval: 95 % for all claims of a family together (Bonferroni), so that in
at most one study of twenty any interval of the family misses the truth. Both *holds* and *does not hold* are read
from that interval. What cannot vary in the data is never judged: one run each says nothing of the next run.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from iqa_lib import metrics
from iqa_lib.metrics import ALPHA
from iqa_lib.profile import Profile
from iqa_lib.study.differences import FEW, Difference, Scatter, Variance, compare
from iqa_lib.study.experiments import Claim, Elsewhere, Runs, Variant, predictions

SIZE, DIRECTION, HOLDS_NOT, UNTOLD = VERDICTS = (
    "holds in direction and size",
    "holds in direction only",
    "does not hold",
    "cannot be told",
)
OF_INTEREST = 0.005  # smallest difference of SRCC that matters, where a profile names no other
MOST_RUNS = 100  # that are advised


# --- what it says of a claim ------------------------------------------------------------------------------


def verdict(difference: Difference, size: float | None, family: int = 1, of_interest: float = OF_INTEREST) -> str:
    """What these runs say of the claim that the first method beats the second, by ``size`` where the claim has one.

    With L and H the limits of the family's simultaneous interval:

    * ``holds in direction and size``: L > 0, L ≥ size − ``of_interest``, L ≥ size / 2, and H ≥ size.
    * ``holds in direction only``: L > 0; the claim has no size, or the size is not shown.
    * ``does not hold``: H < size − ``of_interest``, where the direction is not shown either; without a size, or with one
      too small to be of interest, H < 0.
    * ``cannot be told``: anything else, an undefined number, or runs whose scatter is unknown.

    A claim of no difference (size 0) is judged by equivalence (TOST): its 90 % interval within ± ``of_interest``.
    """
    low, high = difference.interval(family)
    if not difference.knows_runs or not np.isfinite([low, high, size or 0.0]).all():
        return UNTOLD
    if size == 0:
        if abs(difference.value) + difference.reach(2 * ALPHA / family) <= of_interest:
            return SIZE
        return HOLDS_NOT if low > 0 or high < 0 else UNTOLD
    if low > 0:
        return SIZE if size and low >= max(size - of_interest, size / 2) and high >= size else DIRECTION
    return HOLDS_NOT if high < max((size or 0.0) - of_interest, 0.0) else UNTOLD


def would_decide(difference: Difference, size: float | None, family: int = 1, of_interest: float = OF_INTEREST) -> str:
    """How many runs or images would find the claimed size, or the smallest of interest, with 80 % power.

    As far as the measured spread shows. Empty where nothing can be said.
    """
    target = abs(size or of_interest)
    if not target or not math.isfinite(difference.value + difference.of_units):
        return ""
    repeated = [runs for runs in difference.seeds if math.isfinite(runs)]
    each = " each" * (len(repeated) > 1)
    if not difference.knows_runs:
        return f"at least 3 runs{each}"
    units, what = difference.units

    def decides(runs: int | None, units: int) -> bool:
        study = _with(difference, runs, units)
        return (study.equivalent_within if size == 0 else study.detectable)(family) <= target

    def fewest(enough: Callable[[int], bool], start: int, most: int) -> int | None:
        found = bisect.bisect_left(range(start, most + 1), True, key=enough)
        return start + found if start + found <= most else None

    if decides(None, units):
        return "a difference of that size is mostly found by as many as here"
    runs = fewest(lambda runs: decides(runs, units), max([3, *repeated]), MOST_RUNS)
    more = fewest(partial(decides, None), units + 1, 100 * units)
    if runs or more:
        return " or ".join([f"{runs} runs{each}"] * bool(runs) + [f"{more or 0:,} {what}"] * bool(more))
    runs = max([3, *repeated])
    while runs < MOST_RUNS:
        runs = min(2 * runs, MOST_RUNS)
        if more := fewest(partial(decides, runs), units + 1, 100 * units):
            return f"{runs} runs{each} on {more:,} {what}"
    return f"more than {MOST_RUNS} runs{each} on {100 * units:,} {what}"


def _with(difference: Difference, runs: int | None, units: int) -> Difference:
    """As if it had been measured with so many runs of each method (None: its own) and images or references."""
    changes = {"of_units": difference.of_units * difference.units[0] / units}
    changes["images" if difference.groups is None else "groups"] = units
    if runs:
        known, scatter = min(difference.seeds) > 1, difference.scatter
        own = [Variance(of.value * (of.df + 1) / runs, runs - 1) for of in difference.of_runs if known]
        changes |= {"of_runs": tuple(own), "seeds": tuple(runs if math.isfinite(s) else s for s in difference.seeds)}
        changes["scatter"] = scatter and replace(scatter, df=max(scatter.df, 2 * (runs - 1)))
    return replace(difference, **changes)


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
                "claim": f"{sentence} by {size:.4g}" if size else sentence,
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
    count = test["reference"].nunique()
    what = "images" if metrics.groups_of(test["reference"]) is None else "references"
    return f"{count} {what}" + " (rough)" * (count < FEW)


def compare_scores(
    settings: Profile, runs: Runs, variants: Sequence[Variant] = (), elsewhere: Elsewhere | None = None
) -> pd.DataFrame:
    """A row per variant: seeds, mean SRCC with its interval over images or references, SD over seeds, PLCC, parameters.

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
            fixed=tuple(not runs[label][0].trained for label in (claim.first, claim.second)),
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
