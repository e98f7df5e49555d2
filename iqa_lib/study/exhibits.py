"""Every experiment's tables, verdicts and figure again, from stored runs alone: what ``10_paper_figures`` shows.

The notebooks take the same steps one by one, where a reader can change them.
"""

from __future__ import annotations

import pandas as pd

from iqa_lib.data.images import load_images
from iqa_lib.errors import RunError
from iqa_lib.study import experiments, figures, statistics, tables
from iqa_lib.study.experiments import EXPERIMENTS, Runs, Variant
from iqa_lib.study.page import Page
from iqa_lib.study.published import published_methods


def rebuild(page: Page) -> pd.DataFrame:
    """All exhibits from the run store, training nothing; which experiments were there, which lack runs."""
    lines = []
    for name in EXPERIMENTS:
        try:
            verdicts = _of(page, name)
            state = ("rebuilt", statistics.count_verdicts(*verdicts))
        except RunError as error:
            state = (str(error), "–")
        lines.append({"experiment": name, "state": state[0], "verdicts": state[1]})
    return pd.DataFrame(lines)


def _of(page: Page, name: str) -> list[pd.DataFrame]:
    """One experiment's exhibits; returns its verdicts."""
    settings = page.settings
    variants = experiments.variants(settings, name)
    runs = page.uses_all(experiments.train_all(settings, variants, train_missing=False))
    lacking = [v.label for v in variants if len(runs.get(v.label, [])) < len(experiments.seeds_of(settings, v))]
    if lacking:
        raise RunError(
            f"Experiment '{name}' lacks runs of {', '.join(lacking)} in {settings.folder / 'store'}. Train: "
            f"python -m iqa_lib train --profile {settings.profile} --experiment {name}"
        )
    return {"training": training, "main": main_result, "protocol": protocol, "cross_dataset": cross_dataset}.get(
        name, compared
    )(page, name, variants, runs)


def compared(page: Page, name: str, variants: list[Variant], runs: Runs) -> list[pd.DataFrame]:
    experiment = EXPERIMENTS[name]
    scores = statistics.compare_scores(page.settings, runs, variants)
    page.show(scores, name, experiment.caption)
    verdicts = statistics.judge(page.settings, runs, experiment.claims(page.settings, variants))
    page.show(verdicts, f"{name}_verdicts", f"{experiment.caption}: verdicts")
    if experiment.figure:
        ending, function, caption = experiment.figure
        page.show(getattr(figures, function)(scores, runs), f"{name}_{ending}", caption)
    return [verdicts]


def training(page: Page, name: str, variants: list[Variant], runs: Runs) -> list[pd.DataFrame]:
    (run,) = next(iter(runs.values()))
    page.show(
        figures.training_curves(run.epochs, run.result["best_epoch"]), "training_curves", f"Training of {run.backbone}"
    )
    page.show(
        tables.epochs_beside_paper(run),
        "training_log",
        "Epochs of this run, beside the paper's log of SMART-Base on KonIQ-10k",
    )
    page.show(
        tables.hyper_parameters(page.settings),
        "hyper_parameters",
        "Settings of this profile, beside those of the reference code",
    )
    return []


def main_result(page: Page, name: str, variants: list[Variant], runs: Runs) -> list[pd.DataFrame]:
    methods, reasons = published_methods(page.settings, load_images(page.settings))
    runs = page.uses_all(runs | {method: [run] for method, run in methods.items()})
    scores = statistics.compare_scores(page.settings, runs)
    page.show(
        tables.beside_cited(scores, methods, reasons),
        "sota_table",
        "Measured here and cited from the paper's Table I; PLCC without a mapping",
    )
    verdicts = statistics.judge(page.settings, runs, tables.claims_of_methods(variants, methods))
    page.show(verdicts, "sota_verdicts", "The methods compared: verdicts")
    return [verdicts]


def protocol(page: Page, name: str, variants: list[Variant], runs: Runs) -> list[pd.DataFrame]:
    images = load_images(page.settings)
    whole = experiments.crops_are_whole_images(page.settings, images)
    page.show(
        tables.protocols(page.settings, next(iter(runs.values())), images),
        "protocols",
        "The same weights under each way of reporting; change against the honest one on the same n images, "
        "its mean, lowest and highest over seeds"
        + "; every crop is the whole image, so random ones change nothing here"
        * whole,
    )
    return []


def cross_dataset(page: Page, name: str, variants: list[Variant], runs: Runs) -> list[pd.DataFrame]:
    others = tables.elsewhere(page.settings)
    table = tables.cross_dataset(page.settings, runs, others)
    page.show(table, "cross_dataset", f"Trained on {page.settings.dataset}, tested there and elsewhere")
    verdicts = statistics.judge(page.settings, runs, experiments.across(page.settings, variants, others))
    page.show(verdicts, "cross_dataset_verdicts", "Across datasets: verdicts")
    page.show(figures.cross_dataset_heatmap(table), "cross_dataset_heatmap", "SRCC on every dataset")
    return [verdicts]
