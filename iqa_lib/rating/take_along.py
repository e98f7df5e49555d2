"""What a person leaves with: sentences and a figure that say how far to trust it, and one folder with her model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from iqa_lib import paths
from iqa_lib.errors import DataError
from iqa_lib.models.backbones import DEFAULT
from iqa_lib.models.export import export_model
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.paths import to_csv
from iqa_lib.profile import RunSettings, load_profile
from iqa_lib.rating import learn, scores
from iqa_lib.rating.records import FOLDER
from iqa_lib.rating.session import Lessons, Study
from iqa_lib.scoring import certainty
from iqa_lib.scoring.score import load_scorer, passport
from iqa_lib.study import figures

# Beside the photographs
LABELS = "ratings.csv"  # what `finetune` reads
COLUMNS = ["image", "score", "low", "high", "ratings"]  # of it
MODEL = f"{FOLDER}/model"


@dataclass(frozen=True)
class Report:
    """How far to trust a model of these ratings."""

    lessons: Lessons
    agreement: learn.Agreement
    curve: learn.Curve
    lines: list[str]

    def table(self) -> pd.DataFrame:
        low, high = self.curve.interval()
        columns = {"ratings": self.curve.ratings_M, "SRCC": self.curve.srcc_M, "95 % low": low, "95 % high": high}
        return pd.DataFrame(columns)

    def figure(self) -> Figure:
        known = self.curve.ratings_M[1:]
        ahead = np.geomspace(known[0], 4 * known[-1], 40)
        law, resampled = self.curve.at(ahead)
        ends = np.quantile(resampled, [0.025, 0.975], axis=-1)
        forecast = pd.DataFrame({"ratings": ahead, "SRCC": law, "95 % low": ends[0], "95 % high": ends[1]})
        return figures.rating_curve(self.table(), forecast, self.curve.ceiling).figure


def report(study: Study) -> Report:
    """Trains, tests and forecasts.

    Raises:
        DataError: too few photographs are rated.
    """
    lessons, ceiling = study.lessons(), study.ceiling()
    found = learn.agreement(*lessons)
    curve = learn.curve(*lessons, ceiling)
    more = curve.gain(found.rated, 2 * found.rated)
    ratings = study.ratings
    pairs = ratings["kind"] == "pair"
    used = ratings if pairs.all() else ratings[~pairs]
    beside = f" ({len(ratings) - len(used)} comparisons are not used beside them)" * (len(used) < len(ratings))
    gone = used.loc[~used["image"].isin(study.files), "image"].nunique()
    beside += f"; {gone} more are not in the folder any more" * (gone > 0)
    lines = [
        f"{len(used)} ratings by {used['rater'].nunique()} of {found.rated} photographs{beside}.",
        f"{str(found)[0].upper()}{str(found)[1:]}.",
        f"{found.rated} more photographs rated bring about {learn.change(more)}.",
    ]
    points = scores.as_points(ratings)
    if len(points):
        agree = {name: interval for name, interval in scores.agreement(points).items() if np.isfinite(interval).all()}
        told = {
            "with oneself": "a rater agrees with herself at SRCC {}",
            "halves of the panel": "two such panels agree at SRCC {}",
            "one rater": "one rater's ICC is {}",
            "the panel": "the panel's {}",
            "ceiling": "a perfect model of these scores would reach about {}",
        }
        said = [text.format(learn.short(agree[name])) for name, text in told.items() if name in agree]
        lines += [f"The ratings themselves: {'; '.join(said)}."] if said else []
        of_raters = scores.opinions(points).raters
        left_out = of_raters.loc[of_raters["left out"].eq(True), "rater"]
        why = "for they do not agree with the others, or rate everything alike"
        lines += [f"Left out, {why}: {', '.join(left_out)}."] if len(left_out) else []
    if found.default.high < 0:
        lines.append("The default model agrees the wrong way round: is the scale upside down? Say `ends`, worst first.")
    return Report(lessons, found, curve, lines)


def tuned(lessons: Lessons) -> SmartIQA:
    """The default model with the correction that these ratings teach."""
    seen, rows, rating, _, _ = lessons
    weight, bias = seen.as_linear(learn.fit(seen.design_NP[rows], rating - seen.score_N[rows]))
    settings = json.loads((DEFAULT / "config.json").read_text(encoding="utf-8"))
    model = SmartIQA(**{**settings, "use_correction": True}).eval()
    model.load_state_dict(SmartIQA.default().state_dict(), strict=False)  # all but the correction
    with torch.no_grad():
        model.head.correction.weight.copy_(torch.tensor(weight[None]))
        model.head.correction.bias.fill_(bias)
    return model


def save(study: Study, report: Report) -> Path:
    """``ratings/model``: for `score --model`, `from_pretrained` and, as ONNX, other engines; with intervals and a card.

    And `LABELS` beside the photographs.

    Raises:
        DataError: a file of that name is there that was not made here.
    """
    folder, labels = study.folder / MODEL, study.folder / LABELS
    if labels.is_file() and not _made_here(labels):
        raise DataError(f"{labels} is there already and was not made here: rename it, or move it elsewhere.")
    images, _ = study.images()
    table = images[COLUMNS].assign(**{name: images[name].clip(0, 100).round(3) for name in COLUMNS[1:4]})
    paths.write_atomically(labels, to_csv(table))
    model, settings = tuned(report.lessons), study.scorer.settings
    with paths.writing_to(folder):
        model.save_pretrained(folder)
        if study.scorer.certainty:
            of_ratings(study.scorer.certainty, report.lessons).save(folder, model)
    scorer = load_scorer(folder)
    card = [f"# {study.folder.name}: a metric of these ratings", "", *(f"{line}\n" for line in report.lines)]
    card += ["| ratings | SRCC | 95 % low | 95 % high |", "|---|---|---|---|"]
    card += [f"| {row[0]:.0f} | {row[1]:.3f} | {row[2]:.3f} | {row[3]:.3f} |" for row in report.table().to_numpy()]
    card += [
        "",
        "SRCC on photographs outside of those learnt from; 0 ratings: the default model. Scores go from 0 to 100, the "
        "worst and the best of the raters' scale, and for photographs beyond those rated a little further. It judges "
        "photographs like these, as these raters do; of others it knows what the default model knows.",
        "",
        f"Made by: `{passport(scorer)}`",
        "",
        f'`python -m iqa_lib score PHOTO --model "{folder}"` · `SmartIQA.from_pretrained("{folder}")` · `model.onnx` '
        f"says in its metadata (`prepare`) what to do before and after",
        "",
    ]
    paths.write_atomically(folder / "README.md", "\n".join(card))
    export_model(model, folder / "model.onnx", settings.resolution, settings.crop_size)  # last, for it takes longest
    return folder


def _made_here(labels: Path) -> bool:
    header, _, _ = labels.read_text(encoding="utf-8-sig", errors="replace").partition("\n")
    return header.rstrip("\r") == ",".join(COLUMNS)


def of_ratings(known: certainty.Certainty, lessons: Lessons) -> certainty.Certainty:
    """The default model's knowledge of photographs, with these ratings' errors: intervals of one width for all.

    Their width is that of cross-validated errors, as the cross-conformal predictors' of Vovk (2015).
    """
    seen, rows, rating, groups, tested = lessons
    errors = np.abs(learn.held_out(seen, rows, rating, groups) - rating)[tested]
    quantile = certainty.conformal_quantile(errors, certainty.MISSED)
    return known._replace(
        ratings=np.quantile(rating, np.linspace(0, 1, 201)),
        rated=np.array(len(rating)),
        slopes_K=np.zeros(len(known.slopes_K)),
        bounds=np.zeros(2),
        quantile=np.array(quantile),
        data="ratings of one's own",
    )


class Saved:
    """A saved model as the explorer takes runs: this one, or the default (``folder`` None)."""

    def __init__(self, folder: Path | None, label: str, settings: RunSettings):
        self.folder, self.label = folder or DEFAULT, label
        self.settings, self.backbone = settings, settings.backbone

    def load_model(self) -> SmartIQA:
        return load_scorer(self.folder).model


def for_explorer(study: Study) -> tuple[RunSettings, list[Saved]]:
    """Settings with the rated photographs as images, and the saved model and the default as runs."""
    settings = load_profile("finetune", profile="rated", dataset=str(study.folder / LABELS))
    return settings, [Saved(study.folder / MODEL, "yours", settings), Saved(None, "default", settings)]


def rated_so_far(study: Study) -> Figure:
    """What there is before a model can learn from it."""
    rated = study.ratings["image"].nunique()
    axis = figures.axes_or_new(None, 5, 1.6)
    axis.barh(
        ["rated", "needed to learn", "photographs"], [rated, learn.FEWEST, len(study.files)], color=figures.COLOURS[0]
    )
    return axis.figure
