"""What a reviewer asks of a split: is the test's content new, who chose the epoch, which differences can n show?"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from iqa_lib import metrics
from iqa_lib.data import catalog, near_copies
from iqa_lib.data.check import Report
from iqa_lib.data.labels import SPLITS, few
from iqa_lib.data.readers.tables import numbers
from iqa_lib.errors import DataError
from iqa_lib.paths import stamps
from iqa_lib.study.differences import FEW, compare
from iqa_lib.study.statistics import would_decide

ASSUMED, ROUNDED = 0.9, 0.0005  # SRCC where none is known, and how exactly it is published
# Correlation of two models' errors on an image (of the demo's backbones 0.7 to 0.8), and of a model's on two images of
# a reference (on the demo's test sets 0.2 to 0.5): so pairs of models are drawn.
BETWEEN_MODELS, WITHIN_REFERENCE, DRAWS, RESAMPLES = 0.8, 0.3, 10, 300


def audit(name: str, srcc: float | None = None, claims: Sequence[float] = ()) -> Report:
    """Faults and notes of a list of images, or of a dataset, that `catalog.read_labels` names; DataError if unreadable.

    ``srcc`` is published for the test images, differences of SRCC as large as ``claims`` are said to be found on them.
    """
    if not all(0 < number < 1 for number in (*claims, ASSUMED if srcc is None else srcc)):
        raise DataError("--srcc and --claims take numbers between 0 and 1, and of a difference no sign.")
    table, _ = catalog.read_labels(name, scored=False)  # its faults do not matter: images may be absent
    if "split" not in table:
        raise DataError(f"{name}: no column 'split'. Add one that says of each image {', '.join(SPLITS)}.")
    for row in table[~table["split"].isin(SPLITS)].itertuples():
        raise DataError(f"{name}: split '{row.split}' of {row.image} is none of {', '.join(SPLITS)}. Correct it.")
    for row in table[table.duplicated(["image", "split"])].itertuples():
        raise DataError(f"{name}: {row.image} is in {row.split} twice. Keep one row; epochs are columns: epoch1, …")
    if (table["split"] == "test").sum() < 3:
        raise DataError(f"{name}: fewer than 3 images have split 'test', and nothing can be said of them.")
    report = Report(Path(name).name, catalog.place_of(name), len(table))
    _look_for_shared_content(report, table)
    _look_at_n(report, table, _look_at_epochs(report, table, srcc), srcc, claims)
    return report


def _look_for_shared_content(report: Report, table: pd.DataFrame) -> None:
    here, test, known = table[table["path"].notna()], table["split"] == "test", pd.Series(False, table.index)
    size = pd.Series([size for _, size, _ in stamps(here["path"])], here.index)
    equal = here["path"][size.duplicated(keep=False)].map(lambda p: hashlib.sha256(Path(p).read_bytes()).hexdigest())
    alike = here["image"].iloc[near_copies.groups(list(here["path"]))].set_axis(here.index) if len(here) else equal
    contents = {"also": table["image"], "of one reference with": table["reference"]}
    for relation, content in {**contents, "equal in every byte to": equal, "near-copies of": alike}.items():
        content = content.reindex(table.index).fillna(table["image"])
        found = catalog.crossing(table.assign(reference=content)) & ~known
        known |= found
        if found.any():
            other = table["image"][~test].groupby(content[~test]).first()
            pairs = few((f"{image} and {other[content[i]]}" for i, image in table["image"][found].items()), 3)
            report.faults.append(
                f"{found.sum():,} of {test.sum():,} test images ({found.sum() / test.sum():.1%}) are {relation} images "
                f"trained or validated on: {pairs}. Ask for results without them, or for a split by content."
            )
    if table["reference"].is_unique:
        report.notes.append("Every image is a reference of its own: as it is, or for want of a column 'reference'.")
    report.notes.append(f"{len(here):,} images are here; only among them were equal files and near-copies looked for.")


def _look_at_epochs(report: Report, table: pd.DataFrame, srcc: float | None) -> pd.Series | None:
    """Reports how the epoch was chosen. Returns predictions: those published, or of the epoch that should be."""
    epochs = [column for column in table if re.fullmatch(r"epoch[\W_]*\d+", column, re.IGNORECASE)]
    given = table[[*epochs, *table.columns.intersection(["prediction"])]].apply(numbers)
    if given.empty:
        return None
    score, test, val = table["score"], table["split"] == "test", table["split"] == "val"
    val &= given[epochs].notna().any(axis=1)
    judged = given[test], given.loc[val, epochs]
    lacking = pd.concat([part.assign(score=score).isna().stack() for part in judged if len(part)])
    if lacking.any():
        image, column = table["image"][lacking.idxmax()[0]], lacking.idxmax()[1]
        raise DataError(f"{report.name}: {image} has no number as {column}, without which predictions are not judged.")
    if not epochs:
        return given["prediction"]
    test_E, val_E = (part[epochs].apply(lambda p: abs(metrics.srcc(p, score[p.index]))).fillna(0) for part in judged)
    best, chosen, why, fault = test_E.idxmax(), val_E.idxmax(), "which validation chooses", ""
    if not val_E.any():
        chosen, why, fault = epochs[-1], "the last", "No predictions on validation images: only the test can choose. "
    as_best = best != chosen and "prediction" in given and np.allclose(given["prediction"][test], given[best][test])
    if as_best or (srcc and abs(srcc - test_E[best]) <= ROUNDED < abs(srcc - test_E[chosen])):
        fault = "What is published is the best epoch on test. "
    (report.faults if fault else report.notes).append(
        f"{fault}{best} is the best of {len(epochs)} on test, with SRCC {test_E[best]:.3f}; {chosen}, {why}, has "
        f"{test_E[chosen]:.3f}, {test_E[best] - test_E[chosen]:.3f} less."
    )
    return given.get("prediction", given[chosen])


def _look_at_n(report: Report, table: pd.DataFrame, predicted: pd.Series | None, srcc: float | None, claims) -> None:
    test, rng = table[table["split"] == "test"], np.random.default_rng(0)
    groups, (reference_N, references) = metrics.groups_of(test["reference"]), pd.factorize(test["reference"])
    score_N = test["score"] if test["score"].notna().all() else rng.normal(size=len(test))
    level, source = srcc or ASSUMED, "published" if srcc else "assumed: --srcc names another"
    if predicted is not None:
        level, source = abs(metrics.srcc(predicted[test.index], score_N)), "measured"
    normal_N, r = stats.norm.ppf((stats.rankdata(score_N) - 0.5) / len(test)), 2 * np.sin(np.pi * level / 6)
    error_D3N = WITHIN_REFERENCE**0.5 * rng.normal(size=(DRAWS, 3, len(references)))[..., reference_N]
    error_D3N += (1 - WITHIN_REFERENCE) ** 0.5 * rng.normal(size=(DRAWS, 3, len(test)))
    error_D2N = BETWEEN_MODELS**0.5 * error_D3N[:, :1] + (1 - BETWEEN_MODELS) ** 0.5 * error_D3N[:, 1:]
    drawn_D2N = r * normal_N + (1 - r**2) ** 0.5 * error_D2N
    of_one = drawn_D2N[:, 0] if predicted is None else [predicted[test.index]]
    intervals = [metrics.bootstrap(metrics.srcc, a, score_N, groups=groups, resamples=RESAMPLES) for a in of_one]
    reach = np.mean([(high - low) / 2 for _, low, high in intervals])
    found = [compare(*ab, score_N, groups=groups, fixed=(True, True), resamples=RESAMPLES) for ab in drawn_D2N]
    difference = replace(found[0], of_units=np.mean([each.of_units for each in found]))
    (units, what), smallest = difference.units, difference.detectable(len(claims) or 1)
    counts = ", ".join(f"{(table['split'] == split).sum():,} {split}" for split in SPLITS)
    report.notes += [
        f"{counts}{'; ask on which images epochs and settings were chosen' * (', 0 val,' in counts)}.",
        f"n is {units:,}, the {what} of the test{', too few for more than rough numbers' if units < FEW else ''}.",
        f"An SRCC of {metrics.in_words(level)} ({source}) is known to ± {metrics.in_words(reach)} (95 %).",
        f"Between two models a difference of {metrics.in_words(smallest)} is found with 80 % power, if their errors "
        f"correlate {BETWEEN_MODELS} and training adds no scatter.",
    ]
    for claim in (claim for claim in claims if not claim >= smallest):
        needed = would_decide(difference, claim, len(claims)) or "no number of them"
        report.faults.append(f"A difference of {claim:g} is claimed, smaller than that; {needed} would find it.")
