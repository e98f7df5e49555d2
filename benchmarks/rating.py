"""What ratings of one's own bring on top of the default model, measured with simulated raters.

    python benchmarks/rating.py --data-folder FOLDER              # BIQ2021's official test list in FOLDER: half an hour
    python benchmarks/rating.py --data-folder FOLDER --seeds 3    # a first look

The photographs are 2,000 that the default model never saw. Of each seed a half is held out; of the other half a
simulated person rates some on five points: BIQ2021's mean opinion, with or without a taste of her own (darker, or more
colourful, is better), plus the inconsistency of one person. SRCC is with her opinion without that inconsistency. The
photographs that she rates are drawn at random, or chosen where the model is least sure, after the first 20. Then: how
often the intervals that 12_rate shows hold the truth. Writes rating.csv, and rating.pdf and .png, into figures/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from default_model import prepared
from scipy import stats

from iqa_lib import metrics, paths
from iqa_lib.data.decode import decode
from iqa_lib.data.images import load_images
from iqa_lib.paths import to_csv
from iqa_lib.progress import Progress
from iqa_lib.rating import learn
from iqa_lib.scoring.score import load_scorer
from iqa_lib.study.figures import COLOURS

SIZES = (20, 50, 100, 200, 400)
LARGER = (700, 1000)  # at random alone
TASTE = 10.0  # points of 100 per standard deviation
INCONSISTENCY = 12.0  # points of 100, of one person
NOW, LATER = 100, 200  # ratings, for the forecast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-folder")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    scorer = load_scorer()
    images = load_images(prepared(scorer, "biq2021", options.data_folder), test_only=True)
    table = images.table.iloc[images.rows("test")].reset_index(drop=True)
    seen, faults = learn.look(
        scorer, {name: Path(file) for name, file in zip(table["image"], table["path"], strict=True)}
    )
    if faults:
        raise SystemExit(f"Of {len(table)} images {len(faults)} cannot be read.")
    opinion = table["score"].to_numpy(float)
    groups = table["reference"].to_numpy(str)
    raters = {"mean opinion": opinion}
    raters |= {name: opinion + TASTE * taste for name, taste in tastes(table["path"]).items()}
    rows, trusted = [], []
    for name, truth in raters.items():
        for seed in Progress(range(options.seeds), desc=name, total=options.seeds):
            found, of_trust = one(seen, truth, groups, seed)
            rows += [{"rater": name, "seed": seed, **row} for row in found]
            trusted.append({"rater": name, **of_trust})
    report(pd.DataFrame(rows), pd.DataFrame(trusted))


def tastes(files: pd.Series) -> dict[str, np.ndarray]:
    """How dark and how colourful each photograph is, standardised."""
    found = []
    for file in Progress(files, desc="tastes", total=len(files)):
        pixels = decode(file, 64, 64).astype(float)
        found.append((-pixels.mean(), np.ptp(pixels, axis=-1).mean()))
    values = np.array(found)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return {"likes dark": values[:, 0], "likes colour": values[:, 1]}


def one(seen: learn.Seen, truth: np.ndarray, groups: np.ndarray, seed: int) -> tuple[list[dict], dict]:
    """One person, one half held out: SRCC by number of ratings and choice; and whether intervals hold."""
    rng = np.random.default_rng(seed)
    said = np.rint((truth + rng.normal(0, INCONSISTENCY, len(truth))) / 25).clip(0, 4) * 25
    half = learn._folds(groups, 2, seed)
    test, pool = np.flatnonzero(half == 0), rng.permutation(np.flatnonzero(half == 1))

    def tuned(rated: np.ndarray) -> np.ndarray:
        return seen.score_N[test] + seen.design_NP[test] @ learn.fit(
            seen.design_NP[rated], (said - seen.score_N)[rated]
        )

    default = metrics.srcc(seen.score_N[test], truth[test])
    chosen = list(pool[: SIZES[0]])
    while len(chosen) < SIZES[-1]:
        chosen.append(learn.least_sure(seen, chosen, np.setdiff1d(pool, chosen)))
    found = []
    for choice, order, sizes in (("random", pool, SIZES + LARGER), ("active", np.array(chosen), SIZES)):
        for size in sizes:
            srcc = metrics.srcc(tuned(order[: min(size, len(order))]), truth[test])
            found.append({"choice": choice, "ratings": size, "SRCC": srcc, "default": default})
    now = pool[:NOW]
    shown = learn.agreement(seen, now, said[now], groups[now])
    forecast = learn.curve(seen, now, said[now], groups[now]).gain(NOW, LATER)
    real = [metrics.srcc(tuned(pool[:size]), said[test]) for size in (NOW, LATER)]
    default_gain = real[0] - metrics.srcc(seen.score_N[test], said[test])
    return found, {
        "SRCC held": shown.tuned.low <= real[0] <= shown.tuned.high,
        "gain held": shown.gain.low <= default_gain <= shown.gain.high,
        "forecast held": forecast.low <= real[1] - real[0] <= forecast.high,
        "SRCC too high by": shown.tuned.value - real[0],
        "forecast too high by": forecast.value - (real[1] - real[0]),
    }


def report(table: pd.DataFrame, trusted: pd.DataFrame) -> None:
    table["gain"] = table["SRCC"] - table["default"]
    lines = []
    for (rater, choice, ratings), part in table.groupby(["rater", "choice", "ratings"], sort=False):
        mean, reach = part["gain"].mean(), half_width(part["gain"])
        means = {"SRCC": part["SRCC"].mean(), "default": part["default"].mean()}
        lines.append({"rater": rater, "choice": choice, "ratings": ratings, **means, "gain": mean, "±": reach})
    summary = pd.DataFrame(lines)
    print(summary.round(4).to_string(index=False))
    wide = table.pivot(index=["rater", "ratings", "seed"], columns="choice", values="SRCC").dropna()
    more = (wide["active"] - wide["random"]).rename("active − random").groupby(["rater", "ratings"], sort=False)
    print(more.agg(["mean", half_width]).round(4).to_string())
    print(f"\nIntervals of 12_rate at {NOW} ratings, nominal 95 %:")
    print(trusted.groupby("rater", sort=False).mean().round(3).to_string())
    target = paths.FIGURES / "rating.csv"
    paths.write_atomically(target, to_csv(summary))
    figure, axes = plt.subplots(1, summary["rater"].nunique(), figsize=(9, 3), layout="constrained")
    for axis, (rater, part) in zip(np.atleast_1d(axes), summary.groupby("rater", sort=False), strict=True):
        for (choice, line), colour in zip(part.groupby("choice", sort=False), COLOURS, strict=False):
            axis.errorbar(
                line["ratings"], line["SRCC"], line["±"], label=choice, color=colour, marker="o", ms=4, capsize=2
            )
        axis.axhline(part["default"].mean(), color=COLOURS[7], ls="--", label="default model")
        axis.set(xscale="log", xlabel="ratings", ylabel="SRCC, held out", title=rater)
    np.atleast_1d(axes)[0].legend(frameon=False)
    for suffix in (".pdf", ".png"):
        figure.savefig(target.with_suffix(suffix), dpi=200)
    print(target)


def half_width(values: pd.Series) -> float:
    """Of the 95 % interval of the mean over seeds."""
    return stats.t.ppf(0.975, max(len(values) - 1, 1)) * values.std() / np.sqrt(len(values))


if __name__ == "__main__":
    main()
