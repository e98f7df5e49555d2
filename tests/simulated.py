"""Studies with a known truth, to see whether statistics are right as often as they say.

``python tests/simulated.py`` measures the error rates that docs/statistics.md shows, and writes them there.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

from iqa_lib import metrics
from iqa_lib.study.differences import Scatter, compare
from iqa_lib.study.statistics import DIRECTION, HOLDS_NOT, SIZE, verdict


def normal(rng, images, references=None, rows=()):
    """Standard normal values (…, images); 30 % of the variance common to each reference's images, if any."""
    values = rng.normal(size=(*rows, images))
    if references is None:
        return values
    of_reference = rng.normal(size=(*rows, references))[..., np.arange(images) * references // images]
    return np.sqrt(0.3) * of_reference + np.sqrt(0.7) * values


def spearman_of(r):
    """SRCC of two normal variables of correlation r."""
    return 6 / np.pi * np.arcsin(np.asarray(r) / 2)


def pearson_of(srcc):
    return 2 * np.sin(np.pi / 6 * np.asarray(srcc))


def study(rng, true, runs, statistic=metrics.srcc, images=100, references=None, run_sd=0.0):
    """Scores, and each method's predictions by ``runs`` runs whose expected statistic in all images is ``true``.

    Each run's own is ``true`` plus N(0, run_sd), of one SD for all or one each. Half of the error is common to all
    methods (images hard for everyone), 30 % to the runs of one method.
    """
    score, hard = normal(rng, images, references, rows=(2,))
    methods = []
    for of_method, count, sd in zip(true, runs, np.broadcast_to(run_sd, len(runs)), strict=True):
        of_run = np.minimum(rng.normal(of_method, sd, size=(count, 1)), 0.999)
        r = pearson_of(of_run) if statistic is metrics.srcc else of_run
        own = normal(rng, images, references)
        error = np.sqrt(0.5) * hard + np.sqrt(0.3) * own
        error = error + np.sqrt(0.2) * normal(rng, images, references, rows=(count,))
        methods.append(r * score + np.sqrt(1 - r**2) * error)
    return score, methods


def by_reference(images, references):
    return None if references is None else np.arange(images) * references // images


def share(happened):
    return float(np.mean(list(happened)))


# --- the table of docs/statistics.md ----------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
MARK = "<!-- written by: python tests/simulated.py -->"


def covered(images, references, repeats, rng, groups=True, r=0.85):
    """How often the interval of SRCC holds the true one."""
    true, codes = spearman_of(r), by_reference(images, references)

    def once():
        score, error = normal(rng, images, references, rows=(2,))
        predicted = r * score + np.sqrt(1 - r**2) * error
        found = metrics.bootstrap(metrics.srcc, predicted, score, groups=codes if groups else None, resamples=300)
        return found.low <= true <= found.high

    return share(once() for _ in range(repeats))


def differences(rng, true, seeds, repeats, references=None, images=200, run_sd=0.0):
    """Those found in studies of two methods, by PLCC, whose expectation in this simulation is exact."""
    for _ in range(repeats):
        score, (a, b) = study(rng, true, seeds, metrics.plcc, images=images, references=references, run_sd=run_sd)
        codes = by_reference(images, references)
        scatter = Scatter.pooled({"first": metrics.plcc(a, score)}) if seeds[1] == 1 else None
        yield compare(a, b, score, groups=codes, statistic=metrics.plcc, resamples=150, scatter=scatter)


def families(rng, family, run_sd, repeats, first=3, others=3, wider=1.0):
    """Share of studies of equal methods with a false "holds" of +0.0025, and with a false "does not hold".

    The first method has ``first`` runs and is compared with each of the others, whose runs scatter ``wider`` times
    as far.
    """
    holds, refuted = [], []
    for _ in range(repeats):
        sd = np.array([run_sd, *[run_sd * wider] * family])
        score, methods = study(
            rng, [0.87] * (family + 1), [first] + [others] * family, metrics.plcc, images=600, run_sd=sd
        )
        scatter = Scatter.pooled({str(i): metrics.plcc(m, score) for i, m in enumerate(methods)})
        found = [
            compare(methods[0], other, score, groups=None, statistic=metrics.plcc, resamples=100, scatter=scatter)
            for other in methods[1:]
        ]
        holds.append(any(verdict(d, 0.0025, family) in (SIZE, DIRECTION) for d in found))
        refuted.append(any(verdict(d, None, family) == HOLDS_NOT for d in found))
    return share(holds), share(refuted)


def rates(repeats):
    """Rows of the table: what, measured, wanted."""
    rng = np.random.default_rng(0)
    sets = {"200 images": (200, None), "16 × 125": (2000, 16), "80 × 4": (320, 80), "4 × 56": (224, 4)}
    for name, (images, references) in sets.items():
        wanted = "93–97 %" if references != 4 else "stated: rough"
        yield f"interval of SRCC, {name}", f"{covered(images, references, repeats, rng):.1%}", wanted
    plain = covered(2000, 16, repeats // 2, rng, groups=False)
    yield ("the same over images where references are shared, 16 × 125", f"{plain:.1%}", "why it is not offered")
    for name, options in {
        "images": {},
        "16 references": {"references": 16, "images": 320},
        "SD over runs 0.01": {"run_sd": 0.01},
    }.items():
        found = [d.low <= 0.03 <= d.high for d in differences(rng, [0.87, 0.84], (3, 3), repeats, **options)]
        yield f"interval of a difference, 3 runs each, {name}", f"{share(found):.1%}", "93–97 %"
    shapes = {(3, 3): "3 runs each", (3, 1): "3 runs of the first, 1 of each other"}
    for (seeds, shape), family, run_sd in itertools.product(shapes.items(), (1, 4, 6), (0.005, 0.02)):
        holds, refuted = families(rng, family, run_sd, repeats, *seeds)
        yield (
            f"methods equal, {shape}, {family} claims, SD over runs {run_sd}: any false “holds” / “does not hold”",
            f"{holds:.1%} / {refuted:.1%}",
            "≤ 5 % each",
        )
    holds, refuted = families(rng, 4, 0.005, repeats, 3, 1, wider=4)
    yield (
        "the same, 4 claims, SD over runs 0.005 of the first and 0.02 of the others, of which one run each is known",
        f"{holds:.1%} / {refuted:.1%}",
        "stated: no procedure can know",
    )
    for (seeds, shape), family in itertools.product(shapes.items(), (1, 4, 6)):
        sizes = [d.detectable(family) for d in differences(rng, [0.90, 0.86], seeds, 100, run_sd=0.005)]
        planted = [0.88 + np.median(sizes) / 2, 0.88 - np.median(sizes) / 2]
        found = [d.p(family) < 0.05 and d.value > 0 for d in differences(rng, planted, seeds, repeats, run_sd=0.005)]
        yield (
            f"power at the smallest detectable difference, {shape}, {family} claims",
            f"{share(found):.1%}",
            "75–85 %",
        )
    for raters in (9, 20, 100):
        limit, reached = limit_and_truth(raters)
        yield f"limit of a perfect model, {raters} raters", f"{limit:.3f}; truth {reached:.3f}", "within 0.01"
    yield from of_the_published_study(repeats)


def of_the_published_study(repeats):
    """The same rows with the test sets of docs/study, its numbers of runs and about their scatter; fewer studies."""
    rng, repeats = np.random.default_rng(1), repeats // 3
    for name, images, references in (("BIQ2021, 2,000 images", 2000, 1981), ("LIVE In the Wild, 1,162", 1162, 1160)):
        what = f"docs/study ({repeats} studies): interval of SRCC, {name}"
        yield what, f"{covered(images, references, repeats, rng):.1%}", "93–97 %"
        for runs, run_sd in itertools.product((3, 5), (0.002, 0.006)):
            sets = {"images": images, "references": references, "run_sd": run_sd}
            found = [d.low <= 0.03 <= d.high for d in differences(rng, [0.87, 0.84], (runs, runs), repeats, **sets)]
            what = f"docs/study: interval of a difference, {runs} runs each, SD over runs {run_sd}, {name}"
            yield what, f"{share(found):.1%}", "93–97 %"


def limit_and_truth(raters):
    """On the field's five levels, each rater's error as large as the spread of the images."""
    rng = np.random.default_rng(raters)
    quality = rng.normal(3, 0.9, size=2000)
    votes = np.clip((quality[:, None] + rng.normal(0, 0.9, size=(2000, raters))).round(), 1, 5).astype(int)
    counts = np.stack([(votes == level).sum(axis=1) for level in range(1, 6)], axis=1)
    limit = metrics.label_noise_ceiling(counts, repeats=10).perfect_model
    return limit, metrics.srcc(quality, votes.mean(axis=1))


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    lines = ["| what | measured | wanted |", "|---|---|---|"]
    for row in rates(repeats):
        print(*row, sep=" | ", flush=True)
        lines.append(f"| {' | '.join(row)} |")
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(
        f"{before}{MARK}\n{repeats:,} studies a row, seed 0.\n\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )
