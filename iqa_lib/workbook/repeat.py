"""A published study, computed again by somebody who has its data: the same verdicts?"""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.data.images import load_images
from iqa_lib.errors import DataError
from iqa_lib.profile import Profile, load_profile
from iqa_lib.progress import print_table
from iqa_lib.study.claims import NOT_JUDGED, JudgedClaim, PublishedStudy, read_study
from iqa_lib.workbook.publish import judged
from iqa_lib.workbook.report import read_json
from iqa_lib.workbook.runner import run_workbook


def repeat(folder: Path, overrides: dict[str, Any]) -> int:
    """Compute a published study here and compare its verdicts, one by one; 0 where all are the same, otherwise 1.

    Raises StudyError where ``folder`` has no readable study, DataError where the data that it trains on is not here.
    """
    study = read_study(folder)
    file = paths.RUNS / study.profile / "repeat.yaml"
    paths.write_atomically(file, yaml.safe_dump(study.settings.model_dump(mode="json"), sort_keys=False))
    settings = load_profile(str(file), **overrides)
    absent = _compare_data(study, settings)
    if absent:
        overrides = {**overrides, "test_datasets": [name for name in settings.test_datasets if name not in absent]}
    there = [name for name in study.runs if (settings.folder / "store" / name / "result.json").is_file()]
    seconds = sum(study.runs.values()) - sum(study.runs[name] for name in there)
    print(f"{len(there)} of the study's {len(study.runs)} runs are here; the others took {seconds:,.0f} s to train.")
    wanted = [claim for claim in study.claims if claim.verdict != NOT_JUDGED]
    notebooks = sorted({claim.notebook for claim in wanted})
    run_workbook(str(file), overrides, only=notebooks)
    results = {name: read_json(settings.folder / "results" / f"{name}.json") for name in notebooks}
    here = {(claim.experiment, claim.claim): claim for claim in judged(settings, results)}
    answers = [(_answer(claim, found := here.get((claim.experiment, claim.claim))), claim, found) for claim in wanted]
    rows = [
        (answer, claim.claim, f"{claim.number} {claim.verdict}", f"{found.number} {found.verdict}" if found else "–")
        for answer, claim, found in answers
    ]
    print_table((map(escape, row) for row in rows), "answer", "claim", "published", "here")
    counts = Counter(answer for answer, *_ in answers)
    print(", ".join(f"{count} × {answer}" for answer, count in counts.items()))
    return int(counts["same verdict"] < len(wanted))


def _answer(claim: JudgedClaim, found: JudgedClaim | None) -> str:
    if found is None:
        return "not repeated"
    return "same verdict" if found.verdict == claim.verdict else "other verdict"


def _compare_data(study: PublishedStudy, settings: Profile) -> list[str]:
    """Say of each dataset whether it is here and the same; the names of those to test on that are absent."""
    absent = []
    for name in (settings.dataset, *settings.test_datasets):
        known = catalog.CATALOG.get(name)
        if known and not known.build and not catalog.locate(name, settings.data_folder):
            advice = catalog.how_to_get(name, settings.data_folder)
            if name == settings.dataset:
                raise DataError(f"The study on {study.ratings} cannot be repeated without its data.\n{advice}")
            absent.append(name)
            print(f"{advice}\n  Its claims are not repeated.")
            continue
        found = load_images(settings, name, test_only=name != settings.dataset).fingerprint
        if found == study.images.get(name):
            print(f"{name}: here, the same images and scores as published ({found})")
        else:
            print(
                f"{name}: here, but with other images, scores or decoding than published (fingerprint {found}, not "
                f"{study.images.get(name)}): all is trained anew, and verdicts may differ for that"
            )
    return absent
