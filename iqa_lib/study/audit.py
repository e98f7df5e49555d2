"""What a reviewer asks of a split: is the test's content new, who chose the epoch, which differences can n show?"""

import hashlib
import re
from collections.abc import Sequence
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

EPOCH = re.compile(r"epoch\W*_*(\d+)", re.IGNORECASE)
ROUNDED = 0.0005  # SRCC is published to three digits
ASSUMED = 0.9  # SRCC where none is known
# Correlation of errors: of two models on one image, and of one model on two images of one reference. Between backbones
# of the demo the first was 0.7 to 0.8, on its test sets the second 0.2 to 0.5.
BETWEEN_MODELS, WITHIN_REFERENCE = 0.8, 0.3


def audit(name: str, srcc: float | None = None, claims: Sequence[float] = ()) -> Report:
    """Faults and notes of a split: a list of images, or a dataset, as `catalog.read_labels` names it.

    ``srcc`` is published for the test images, differences of SRCC as large as ``claims`` are said to be found on them.

    Raises:
        DataError: the list cannot be read, has too few test images, or lacks what its columns of predictions need.
    """
    if not all(0 < number < 1 for number in (*claims, ASSUMED if srcc is None else srcc)):
        raise DataError("--srcc and --claims take numbers between 0 and 1, and of a difference no sign.")
    table, _ = catalog.read_labels(name, scored=False)  # its faults do not matter: images may be absent
    if "split" not in table:
        raise DataError(f"{name}: no column 'split'. Add one that says of each image {', '.join(SPLITS)}.")
    for row in table[~table["split"].isin(SPLITS)].itertuples():
        raise DataError(f"{name}: split '{row.split}' of {row.image} is none of {', '.join(SPLITS)}. Correct it.")
    for row in table[table.duplicated(["image", "split"])].itertuples():
        many = "Keep one; predictions of several epochs stand side by side, in columns epoch1, epoch2, …"
        raise DataError(f"{name}: {row.image} has several rows in '{row.split}'. {many}")
    if (tested := (table["split"] == "test").sum()) < 3:
        raise DataError(f"{name}: {tested} images have split 'test'; at least 3 are needed.")
    place = catalog.place_of(name)
    report = Report(name, place.parent if place and place.is_file() else place, len(table))
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
    if len(here) < len(table):
        report.notes.append(f"Equal files and near-copies were looked for among {len(here):,} images, which are here.")


def _look_at_epochs(report: Report, table: pd.DataFrame, srcc: float | None) -> pd.Series | None:
    """Reports how the epoch was chosen. Returns predictions: those published, or of the epoch that should be."""
    order = {column: int(found[1]) for column in table if (found := EPOCH.fullmatch(column))}
    epochs = sorted(order, key=order.get)
    given = table[[*epochs, *table.columns.intersection(["prediction"])]].apply(numbers)
    if given.empty:
        return None
    test, val = table["split"] == "test", (table["split"] == "val") & given.notna().any(axis=1)
    lacking = given.assign(score=table["score"])[test | val].isna().stack()
    if lacking.any():
        row, column = lacking.idxmax()
        raise DataError(
            f"{report.name}: {table['image'][row]} has no number as {column}; predictions need the score too."
        )
    if not epochs:
        return given["prediction"]
    on_test, on_val = (
        pd.Series({e: abs(metrics.srcc(given[e][at], table["score"][at])) for e in epochs}).fillna(0)
        for at in (test, val)
    )
    best, chosen, which = on_test.idxmax(), epochs[-1], "the last"
    if on_val.any():
        chosen, which = on_val.idxmax(), "which validation chooses"
    text = (
        f"{best} is the best of {len(epochs)} on test, with SRCC {on_test[best]:.3f}; {chosen}, {which}, has "
        f"{on_test[chosen]:.3f}, {on_test[best] - on_test[chosen]:.3f} less."
    )
    as_best = best != chosen and "prediction" in given and np.allclose(given["prediction"][test], given[best][test])
    if as_best or (srcc and abs(srcc - on_test[best]) <= ROUNDED < abs(srcc - on_test[chosen])):
        report.faults.append(f"What is published is the best epoch on test. {text}")
    elif not on_val.any():
        report.faults.append(f"No validation image has predictions, so the test alone can choose the epoch. {text}")
    else:
        report.notes.append(text)
    return given.get("prediction", given[chosen])


def _look_at_n(report: Report, table: pd.DataFrame, predicted: pd.Series | None, srcc: float | None, claims) -> None:
    test, rng = table[table["split"] == "test"], np.random.default_rng(0)
    groups, (reference_N, references) = metrics.groups_of(test["reference"]), pd.factorize(test["reference"])
    score_N = test["score"] if test["score"].notna().all() else rng.normal(size=len(test))
    level, source = srcc or ASSUMED, "published" if srcc else "assumed: --srcc names another"
    if predicted is not None:
        level, source = abs(metrics.srcc(predicted[test.index], score_N)), "measured"
    # Two models of that SRCC: normal, with errors that correlate as is said above.
    normal_N, r = stats.norm.ppf((stats.rankdata(score_N) - 0.5) / len(test)), 2 * np.sin(np.pi * level / 6)
    error_3N = WITHIN_REFERENCE**0.5 * rng.normal(size=(3, len(references)))[:, reference_N]
    error_3N += (1 - WITHIN_REFERENCE) ** 0.5 * rng.normal(size=(3, len(test)))
    error_2N = BETWEEN_MODELS**0.5 * error_3N[0] + (1 - BETWEEN_MODELS) ** 0.5 * error_3N[1:]
    models = r * normal_N + (1 - r**2) ** 0.5 * error_2N
    measured = models[0] if predicted is None else predicted[test.index]
    _, low, high = metrics.bootstrap(metrics.srcc, measured, score_N, groups=groups)
    difference = compare(*models, score_N, groups=groups, fixed=(True, True))
    (units, what), smallest = difference.units, difference.detectable(len(claims) or 1)
    counts = ", ".join(f"{(table['split'] == split).sum():,} {split}" for split in SPLITS)
    report.notes += [
        f"{counts}; n is the test's {units:,} {what}{', too few for more than rough numbers' if units < FEW else ''}.",
        f"An SRCC of {level:.3f} ({source}) is known to ± {metrics.in_words((high - low) / 2)} (95 %).",
        f"Between two models a difference of {metrics.in_words(smallest)} is found with 80 % power, if their errors "
        f"correlate {BETWEEN_MODELS} and training adds no scatter.",
    ]
    if not (table["split"] == "val").any():
        report.notes.append("No image is for validation: ask on which images epochs and settings were chosen.")
    for claim in claims:
        if not claim >= smallest:
            wanted = would_decide(difference, claim, len(claims))
            report.faults.append(
                f"A difference of {claim:g} is claimed; {units:,} {what} find {metrics.in_words(smallest)} with 80 % "
                f"power{f', and this one would be found by {wanted}' if wanted else ''}."
            )
