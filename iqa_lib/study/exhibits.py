"""Every experiment's tables, verdicts and figure again, from stored runs alone: what ``10_paper_figures`` shows.

The notebooks take the same steps one by one, where a reader can change them.
"""

import pandas as pd

from iqa_lib.data.images import load_images
from iqa_lib.errors import RunError
from iqa_lib.study import experiments, figures, tables
from iqa_lib.study.experiments import EXPERIMENTS
from iqa_lib.study.page import Page
from iqa_lib.study.published import published_methods
from iqa_lib.study.statistics import compare_scores, count_verdicts, judge

FIGURES = {
    "ablation": ("ablation_bars", figures.bars_of_variants),
    "model_sizes": ("model_sizes_curve", figures.sizes_curve),
    "learning_rate": ("learning_rate_curve", figures.learning_rate_curve),
    "loss": ("loss_bars", figures.bars_of_variants),
    "augmentation": ("augmentation_bars", figures.bars_of_variants),
}


def rebuild(page: Page) -> pd.DataFrame:
    """All exhibits from the run store, training nothing; which experiments were there, which lack runs."""
    lines = []
    for name in EXPERIMENTS:
        try:
            lines.append((name, "rebuilt", count_verdicts(_show(page, name))))
        except RunError as error:
            lines.append((name, str(error), "–"))
    return pd.DataFrame(lines, columns=["experiment", "state", "verdicts"])


def _show(page: Page, name: str) -> pd.DataFrame:
    """One experiment's exhibits; returns its verdicts, empty where nothing is claimed."""
    settings = page.settings
    variants = experiments.variants(settings, name)
    runs = page.uses_all(experiments.train_all(settings, variants, train_missing=False))
    lacking = [v.label for v in variants if len(runs.get(v.label, [])) < len(experiments.seeds_of(settings, v))]
    if lacking:
        raise RunError(
            f"Experiment '{name}' lacks runs of {', '.join(lacking)} in {settings.folder / 'store'}. Train: "
            f"python -m iqa_lib train --profile {settings.profile} --experiment {name}"
        )
    verdicts = pd.DataFrame()
    match name:
        case "training":
            ((run,),) = runs.values()
            page.show(figures.training_curves(run.epochs, run.result["best_epoch"]), "training_curves")
            page.show(tables.epochs_beside_paper(run), "training_log")
            page.show(tables.hyper_parameters(settings), "hyper_parameters")
        case "protocol":
            page.show(tables.protocols(settings, *runs.values(), load_images(settings)), "protocols")
        case "main":
            name = "sota"
            methods, reasons = published_methods(settings, load_images(settings))
            runs = page.uses_all(runs | {method: [run] for method, run in methods.items()})
            page.show(tables.beside_cited(compare_scores(settings, runs), methods, reasons), "sota_table")
            verdicts = judge(settings, runs, tables.claims_of_methods(variants, methods))
        case "cross_dataset":
            others = tables.elsewhere(settings)
            scores = tables.cross_dataset(settings, runs, others)
            page.show(scores, "cross_dataset")
            page.show(figures.cross_dataset_heatmap(scores), "cross_dataset_heatmap")
            verdicts = judge(settings, runs, experiments.across(settings, variants, others))
        case _:
            scores = compare_scores(settings, runs, variants)
            page.show(scores, name)
            if name in FIGURES:
                file, draw = FIGURES[name]
                page.show(draw(scores, runs), file)
            verdicts = judge(settings, runs, EXPERIMENTS[name].claims(settings, variants))
    page.show(verdicts, f"{name}_verdicts")
    return verdicts
