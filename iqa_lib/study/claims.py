"""The claims of a published study (``docs/study/claims.json``), judged on people's ratings for those who have none.

`iqa_lib.workbook.publish` writes them; a page whose own images cannot tell shows them beside its own numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from iqa_lib import paths
from iqa_lib.data.catalog import describe
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import StudyError
from iqa_lib.models.backbones import stands_in, what_it_is
from iqa_lib.profile import Profile
from iqa_lib.study import experiments
from iqa_lib.study.experiments import Variant, paper
from iqa_lib.study.statistics import DIRECTION, HOLDS_NOT, UNTOLD, VERDICTS

FILE = "claims.json"
NOT_JUDGED = "not judged"
PAPERS_RERUN = 0.0037  # SRCC between two trainings of the reference code with one seed


class JudgedClaim(BaseModel):
    """A claim of the paper, the paper's number, ours with its simultaneous 95 % interval, and the verdict."""

    model_config = ConfigDict(extra="forbid")

    notebook: str
    experiment: str  # whose table of verdicts has it
    claim: str
    paper: float | None
    measured: float | None
    low: float | None
    high: float | None
    smallest_detectable: float | None
    verdict: Literal[*VERDICTS, NOT_JUDGED]
    remark: str  # why the two may differ, or what would decide it, or why it was not judged

    @property
    def number(self) -> str:
        return "–" if self.measured is None else f"{self.measured:+.4f} [{_signed(self.low)}, {_signed(self.high)}]"


class PublishedStudy(BaseModel):
    """What was run on which images, by what, and what it says of each claim."""

    model_config = ConfigDict(extra="forbid")

    about: str  # the numbers: data, kind of scores, stand-ins
    settings: Profile
    images: dict[str, str]  # fingerprint of each dataset
    test_images: dict[str, int]
    runs: dict[str, float]  # seconds of training, by the run's name in the store
    commits: list[str]
    versions: dict[str, str]
    machines: list[str]
    date: str
    claims: list[JudgedClaim]

    @property
    def profile(self) -> str:
        return self.settings.profile

    @property
    def ratings(self) -> str:
        """Data and kind of scores, as ``BIQ2021, MOS``."""
        return self.about.split(";")[0]


def read_study(folder: Path) -> PublishedStudy:
    """Raises StudyError: there is none, or it is damaged."""
    file = folder / FILE
    try:
        return PublishedStudy.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise StudyError(
            f"No published study in {folder}: {FILE} is absent. Name the folder that `python -m iqa_lib run --publish "
            f"FOLDER` wrote; the project's own is docs/study."
        ) from None
    except (OSError, ValidationError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        where = " → ".join(map(str, faults[0]["loc"]))
        raise StudyError(
            f"{file} is damaged{f' at {where}' if where else ''} ({faults[0]['msg']}). Bring it back (git checkout "
            f"{file.name}, or install again), or publish the study again."
        ) from error


def beside_published(table: pd.DataFrame, name: str, profile: str) -> pd.DataFrame:
    """Verdicts with those of the published study on people's ratings beside what cannot be told here.

    Other tables, and this study's own, as they are.
    """
    if "verdict" not in table or not (paths.STUDY / FILE).is_file():
        return table
    study = read_study(paths.STUDY)
    known = {c.claim: f"{c.number}: {c.verdict}" for c in study.claims if f"{c.experiment}_verdicts" == name}
    beside = table["claim"].where(table["verdict"] == UNTOLD).map(known)
    if study.profile == profile or describe(study.settings.dataset, None).surrogate or beside.isna().all():
        return table
    return table.assign(**{f"published study ({study.ratings})": beside.fillna("")})


def of_table(settings: Profile, notebook: str, name: str, verdicts: pd.DataFrame) -> list[JudgedClaim]:
    """The rows of a notebook's table of verdicts, such as ``ablation_verdicts``."""
    experiment = name.removesuffix("_verdicts")
    measured, published = (next(c for c in verdicts if c.startswith(kind)) for kind in ("measured", "paper"))
    found = []
    for row in verdicts.astype(object).where(verdicts.notna(), None).to_dict("records"):
        decides = row.get("would decide it") or ""
        if row["verdict"] in (DIRECTION, HOLDS_NOT):
            remark = may_differ(settings, experiment, row["claim"], row[published])
        else:
            remark = f"would decide it: {decides}" if decides else ""
        found.append(
            JudgedClaim(
                notebook=notebook,
                experiment=experiment,
                claim=row["claim"],
                paper=row[published],
                measured=row[measured],
                low=row["95 % low"],
                high=row["95 % high"],
                smallest_detectable=row["smallest detectable"],
                verdict=row["verdict"],
                remark=remark,
            )
        )
    return found


def may_differ(settings: Profile, experiment: str, claim: str, size: float | None) -> str:
    """Why this claim's number may differ from the paper's, beside what holds for all: its data and protocol."""
    base = settings.backbone_base or settings.backbone
    sizes = {"Swin-T": settings.backbone_tiny, "Swin-S": settings.backbone_small, "Swin-B": base}
    reasons = {
        f"HyperIQA on {settings.backbone_hyper_iqa}, not ResNet-50": "HyperIQA" in claim
        and not settings.backbone_hyper_iqa.startswith("resnet50"),
        f"SMART-IQA on {what_it_is(base).rstrip(',')}, not Swin-B": experiment in ("sota", "ablation", "cross_dataset")
        and stands_in(base),
        "; ".join(f"{ours} for {theirs}" for theirs, ours in sizes.items()): experiment == "model_sizes"
        and stands_in(base),
        "of a frozen backbone only the head's rate changes": experiment == "learning_rate" and settings.freeze_backbone,
        "of a frozen backbone only the head learns by the loss": experiment == "loss" and settings.freeze_backbone,
        "three images there, all test images here": experiment == "attention",
        f"the paper's own SRCC moves by {PAPERS_RERUN} from one training to the next": bool(size)
        and experiment != "attention"
        and abs(size) < PAPERS_RERUN,
    }
    return "; ".join(reason for reason, counts in reasons.items() if counts)


def not_judged(settings: Profile, images: ImageSet) -> Iterator[JudgedClaim]:
    """The paper's claims that a study by this profile says nothing of, and why."""
    tested = {describe(name, settings.data_folder).title for name in (settings.dataset, *settings.test_datasets)}
    published = paper("cross_dataset")  # of which the experiment `main` has KonIQ-10k
    for row in published[~published["dataset"].isin([*tested, "KonIQ-10k"])].itertuples():
        both = {"SMART-IQA": row.smart_srcc, "HyperIQA": row.hyperiqa_srcc}
        claim = experiments.beats(*(Variant(name, published={"SRCC": srcc}) for name, srcc in both.items()))
        yield _not_judged("cross_dataset", f"{claim.text} on {row.dataset}", claim.size, "the data are not among ours")
    sizes = paper("complexity").set_index("model")["srcc"].dropna()
    ours = {v.paper for v in experiments.model_sizes(settings)}
    for smaller, larger in itertools.pairwise(sizes.index):
        if not {smaller, larger} <= ours:
            claim = f"{larger} beats {smaller}"
            yield _not_judged("model_sizes", claim, sizes[larger] - sizes[smaller], "the profile names no such sizes")
    variants = experiments.augmentation(settings)
    without_choice = experiments.crops_are_whole_images(settings, images)
    judged = {v.paper for v in variants if not (without_choice and "random_crop" in v.changes)}
    for row in paper("augmentation").itertuples():
        if row.change not in judged:
            why = "every crop is the whole image" if "crop" in row.change else "there is no smaller size to try"
            yield _not_judged("augmentation", f"to {row.change} matters", abs(row.srcc_delta_koniq10k), why)


def _not_judged(experiment: str, sentence: str, size: float, why: str) -> JudgedClaim:
    numbers = dict.fromkeys(["measured", "low", "high", "smallest_detectable"])
    about = {"notebook": "", "experiment": experiment, "claim": f"{sentence} by {size:.4g}", "paper": size}
    return JudgedClaim(**about, **numbers, verdict=NOT_JUDGED, remark=why)


def _signed(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:+.4f}"
