"""What the experiments say: tables, comparisons with verdicts, and figures, each made from stored runs.

Notebooks show an exhibit after its experiment; ``10_paper_figures`` shows them all and trains nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iqa_lib import metrics
from iqa_lib.data.catalog import describe
from iqa_lib.data.crops import ImageSet, load_images
from iqa_lib.errors import RunError
from iqa_lib.models.backbones import stands_in, what_it_is
from iqa_lib.profile import Profile
from iqa_lib.study import experiments, figures, tables
from iqa_lib.study.page import Page, styled
from iqa_lib.study.published import published_methods
from iqa_lib.training.evaluate import score_random_crops, test_on
from iqa_lib.training.runs import Run, StoredRun

Runs = dict[str, list[StoredRun]]


# --- predictions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elsewhere:
    """Another dataset than the one trained on, to test on."""

    name: str
    images: ImageSet


def predictions(runs: list[StoredRun], elsewhere: Elsewhere | None = None) -> tuple[np.ndarray, pd.DataFrame]:
    """Predictions (seeds, images) of a variant on its test split, or on another dataset; and the images' labels."""
    parts = [test_on(run, elsewhere.name, elsewhere.images) if elsewhere else run.test for run in runs]
    return np.stack([part["prediction"].to_numpy() for part in parts]), parts[0]


def groups_of(test: pd.DataFrame) -> np.ndarray | None:
    """References to resample whole, where several images share one."""
    return test["reference"].to_numpy() if test["reference"].nunique() < len(test) else None


# --- tables -----------------------------------------------------------------------------------------------


def measured(settings: Profile, runs: Runs, elsewhere: Elsewhere | None = None) -> pd.DataFrame:
    """A row per variant: seeds, mean SRCC with its interval over images, SD over seeds, PLCC, parameters."""
    lines = []
    for label, of_variant in runs.items():
        predicted_SN, test = predictions(of_variant, elsewhere)
        score = test["score"].to_numpy()
        srcc_S = np.atleast_1d(metrics.srcc(predicted_SN, score))
        interval = metrics.bootstrap(
            lambda *samples: np.mean([metrics.srcc(p, samples[-1]) for p in samples[:-1]], axis=0),
            *predicted_SN,
            score,
            groups=groups_of(test),
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
                "SD over seeds": srcc_S.std(ddof=1) if len(srcc_S) > 1 else np.nan,
                "PLCC": np.mean(metrics.plcc(predicted_SN, score)),
                "parameters (M)": of_variant[0].result["parameters"] / 1e6,
            }
        )
    return pd.DataFrame(lines).round(4)


SRCC, PLCC = (
    {"srcc": "SRCC"},
    {"plcc": "PLCC"},
)  # columns of the paper's tables, and what they are called here


def beside_paper(
    settings: Profile, runs: Runs, experiment: str, name: str, key: str, columns: dict[str, str]
) -> pd.DataFrame:
    """`measured`, with columns of the paper's table ``name``, whose rows are named in its column ``key``."""
    table = measured(settings, runs)
    published = tables.paper(name)
    published = published.set_index(published[key].astype(str))
    named = {v.label: v.paper for v in experiments.variants(settings, experiment)}
    for column, title in columns.items():
        table[f"paper: {title}"] = [
            published[column].get(named[label], np.nan) if named[label] else np.nan
            for label in table["variant"]
        ]
    return table


@dataclass(frozen=True)
class Claim:
    """That ``first`` beats ``second`` by ``size`` (SRCC), as the paper says; size None: only that it beats it."""

    text: str
    first: str
    second: str
    size: float | None = None
    direction: int = 1
    elsewhere: Elsewhere | None = None  # where it is judged, if not at home


def judged(settings: Profile, runs: Runs, claims: list[Claim]) -> pd.DataFrame:
    """Each claim beside the measured paired difference, its p-value after Holm over all of them, and the verdict."""
    claims = [claim for claim in claims if claim.first in runs and claim.second in runs]
    differences = []
    for claim in claims:
        first_SN, test = predictions(runs[claim.first], claim.elsewhere)
        second_SN, _ = predictions(runs[claim.second], claim.elsewhere)
        differences.append(
            metrics.compare(
                first_SN,
                second_SN,
                test["score"].to_numpy(),
                groups=groups_of(test),
                resamples=settings.bootstrap_samples,
            )
        )
    adjusted = metrics.holm(np.array([d.p for d in differences]))
    lines = [
        {
            "claim": claim.text,
            "paper: ΔSRCC": claim.size,
            "measured ΔSRCC": d.value,
            **tables.tested(d, p),
            "verdict": metrics.verdict(d, claim.size, p, claim.direction),
        }
        for claim, d, p in zip(claims, differences, adjusted, strict=True)
    ]
    return pd.DataFrame(lines).round(4)


def _beats(first: experiments.Variant, second: experiments.Variant, published: dict[str, float]) -> Claim:
    """By how much the paper says so, where it has both."""
    both = {first.paper, second.paper} <= published.keys()
    size = published[first.paper] - published[second.paper] if both else None
    return Claim(f"{first.label} beats {second.label}", first.label, second.label, size)


def _steps(settings: Profile, experiment: str, published: dict[str, float]) -> list[Claim]:
    """Each variant against the one before it."""
    chosen = experiments.variants(settings, experiment)
    return [_beats(after, before, published) for before, after in itertools.pairwise(chosen)]


def _published(name: str, key: str, column: str = "srcc") -> dict[str, float]:
    table = tables.paper(name)
    return dict(zip(table[key].astype(str), table[column].astype(float), strict=True))


# --- experiments: table, verdicts, figure -----------------------------------------------------------------

Exhibits = dict[str, tuple[pd.DataFrame | Figure, str]]


def training(settings: Profile, runs: Runs) -> Exhibits:
    (run,) = next(iter(runs.values()))
    return {
        "training_curves": (
            figures.training_curves(run.epochs, run.result["best_epoch"]),
            f"Training of {run.backbone}",
        ),
        "training_log": (
            tables.epochs_beside_paper(run),
            "Epochs of this run, beside the paper's log of SMART-Base on KonIQ-10k",
        ),
        "hyper_parameters": (
            tables.hyper_parameters(settings),
            "Settings of this profile, beside those of the reference code",
        ),
    }


def main_result(settings: Profile, runs: Runs) -> Exhibits:
    scored, reasons = published_methods(settings, load_images(settings))
    runs = runs | {name: [method] for name, method in scored.items()}
    published = tables.paper("sota_koniq10k").set_index("method")
    rows = {_plain_name(method): method for method in published.index}
    named = {"SMART-IQA": "SMART-Base"} | {
        name: rows.get(_plain_name(name)) for name in ["HyperIQA", *scored]
    }

    table = measured(settings, runs).rename(columns={"variant": "method"})
    table["remark"] = ["measured here" + ", pyiqa's weights" * (name in scored) for name in table["method"]]
    for column, title in (SRCC | PLCC).items():
        table[f"paper: {title}"] = table["method"].map(named).map(published[column])
    failed = pd.DataFrame({"method": reasons.keys(), "remark": reasons.values()})
    cited = published.drop([row for row in named.values() if row]).reset_index()
    cited = cited.rename(columns={"srcc": "paper: SRCC", "plcc": "paper: PLCC"}).drop(columns="family")
    cited["remark"] = "cited from the paper (KonIQ-10k), not measured"

    srcc = published["srcc"]
    others = {name: named[name] for name in ["HyperIQA", *scored]}
    claims = [
        Claim(f"SMART-IQA beats {name}", "SMART-IQA", name, srcc["SMART-Base"] - srcc[row] if row else None)
        for name, row in others.items()
    ]
    whole = pd.concat([table.drop(columns="parameters (M)"), failed, cited], ignore_index=True)
    return {
        "sota_table": (
            whole.astype({"seeds": "Int64", "n": "Int64"}),
            "Measured here and cited from the paper's Table I; PLCC without a mapping",
        ),
        "sota_verdicts": (judged(settings, runs, claims), "The methods compared, judged"),
    }


def _plain_name(method: str) -> str:
    return method.lower().replace("-", "")


def ablation(settings: Profile, runs: Runs) -> Exhibits:
    published = _published("ablation_koniq10k", "configuration")
    table = beside_paper(settings, runs, "ablation", "ablation_koniq10k", "configuration", SRCC | PLCC)
    first, *_, last = experiments.variants(settings, "ablation")
    whole = judged(settings, runs, [Claim("the whole gain", last.label, first.label)])
    for title, is_gain in (("SRCC", whole["verdict"][0] == metrics.HOLDS), ("paper: SRCC", True)):
        gain = table[title].diff()
        # A share of what may be no gain at all would be noise in per cent.
        table[f"{title}: share of the gain"] = (gain / gain.sum()).round(3) if is_gain else np.nan
    steps = ["", *(f"{gain:+.3f}".replace("-", "−") for gain in table["SRCC"].diff()[1:])]
    return {
        "ablation": (
            table,
            "Ablation: each row adds a part; its share of the gain from the first row to the last, where that "
            "gain is significant",
        ),
        "ablation_verdicts": (
            judged(settings, runs, _steps(settings, "ablation", published)),
            "The ablation's claims, judged",
        ),
        "ablation_bars": (
            figures.bars_of_variants(table, _points(runs), steps),
            "Ablation; right: the measured step from the row above",
        ),
    }


def fixed_regressor(settings: Profile, runs: Runs) -> Exhibits:
    claim = Claim("the hyper-network beats a fixed regressor", "hyper-network", "fixed regressor", 0.012)
    return {
        "fixed_regressor": (measured(settings, runs), "A fixed regressor in place of the hyper-network"),
        "fixed_regressor_verdicts": (judged(settings, runs, [claim]), "The hyper-network's worth, judged"),
    }


def model_sizes(settings: Profile, runs: Runs) -> Exhibits:
    columns = SRCC | {"params_m": "parameters (M)"}
    table = beside_paper(settings, runs, "model_sizes", "complexity", "model", columns)
    claims = _steps(settings, "model_sizes", _published("complexity", "model"))
    return {
        "model_sizes": (table, "Model sizes"),
        "model_sizes_verdicts": (
            judged(settings, runs, [c for c in claims if "control" not in c.text]),
            "The model sizes, judged",
        ),
        "model_sizes_curve": (figures.sizes_curve(table), "SRCC against the number of parameters"),
    }


def learning_rate(settings: Profile, runs: Runs) -> Exhibits:
    table = beside_paper(settings, runs, "learning_rate", "learning_rate", "lr_backbone", SRCC)
    table["factor"] = table["variant"].str.removeprefix("× ").astype(float)
    published = _published("learning_rate", "lr_backbone")
    chosen = {v.label: v for v in experiments.variants(settings, "learning_rate")}
    unchanged = chosen.pop("× 1")
    claims = [_beats(unchanged, other, published) for other in chosen.values()]
    return {
        "learning_rate": (table, "Learning rates, all multiplied by one factor"),
        "learning_rate_verdicts": (judged(settings, runs, claims), "The learning rates, judged"),
        "learning_rate_curve": (figures.learning_rate_curve(table), "SRCC against the learning rate"),
    }


def loss(settings: Profile, runs: Runs) -> Exhibits:
    table = beside_paper(settings, runs, "loss", "loss_functions", "loss", SRCC | PLCC)
    published = _published("loss_functions", "loss")
    first, *others = experiments.variants(settings, "loss")
    claims = [_beats(first, other, published) for other in others]
    return {
        "loss": (table, "Losses; the paper's “SRCC loss” is 1 − PLCC of the batch"),
        "loss_verdicts": (judged(settings, runs, claims), "The losses, judged against L1"),
        "loss_bars": (figures.bars_of_variants(table, _points(runs)), "Losses"),
    }


def augmentation(settings: Profile, runs: Runs) -> Exhibits:
    table = measured(settings, runs)
    effect = dict(
        zip(*(tables.paper("augmentation")[c] for c in ("change", "srcc_delta_koniq10k")), strict=True)
    )
    first, *others = experiments.variants(settings, "augmentation")
    # The paper gives "add flip: +0.002" and for the others what the change costs: both as first minus other.
    size = {other.label: abs(float(effect[other.paper])) if other.paper else None for other in others}
    whole = _crops_are_whole_images(settings, load_images(settings))
    judgeable = [other for other in others if not (whole and "random_crop" in other.changes)]
    claims = [Claim(f"{first.label} beats {o.label}", first.label, o.label, size[o.label]) for o in judgeable]
    remark = ": at the profile's size “without random crop” changes nothing" if whole else ""
    return {
        "augmentation": (table, f"Augmentation and resolution{remark}"),
        "augmentation_verdicts": (judged(settings, runs, claims), "Augmentation, judged"),
        "augmentation_bars": (figures.bars_of_variants(table, _points(runs)), "Augmentation and resolution"),
    }


def cross_dataset(settings: Profile, runs: Runs) -> Exhibits:
    published = tables.paper("cross_dataset").set_index("dataset")
    lines, claims = [], []
    for name in (settings.dataset, *settings.test_datasets):
        elsewhere = None
        if name != settings.dataset:
            elsewhere = Elsewhere(name, load_images(settings, name, test_only=True))
        known = describe(name, settings.data_folder)
        row = published.loc[known.title] if known.title in published.index else None
        table = measured(settings, runs, elsewhere).assign(dataset=name, scores=known.scores)
        sizes = {"HyperIQA": "hyperiqa_srcc", "SMART-IQA": "smart_srcc"}
        table["paper: SRCC"] = [np.nan if row is None else row[sizes[v]] for v in table["variant"]]
        lines.append(table)
        size = None if row is None else row["smart_srcc"] - row["hyperiqa_srcc"]
        direction = -1 if size and size < 0 else 1
        text = f"SMART-IQA beats HyperIQA on {name}"
        claims.append(Claim(text, "SMART-IQA", "HyperIQA", size, direction, elsewhere))
    table = pd.concat(lines, ignore_index=True)
    judgement = judged(settings, runs, claims)
    return {
        "cross_dataset": (table, f"Trained on {settings.dataset}, tested there and elsewhere"),
        "cross_dataset_verdicts": (judgement, "Across datasets, judged"),
        "cross_dataset_heatmap": (figures.cross_dataset_heatmap(table), "SRCC on every dataset"),
    }


def _crops_are_whole_images(settings: Profile, images: ImageSet) -> bool:
    """Nearly all of them: then random crops, in training or at test, are no choice at all."""
    return images.share_of_one_crop(settings.crop_size) > 0.99


def protocol(settings: Profile, runs: Runs) -> Exhibits:
    images = load_images(settings)
    of_runs = [difference_of_protocols(settings, run, images) for run in next(iter(runs.values()))]
    table = pd.concat(of_runs).groupby("what is reported", sort=False, as_index=False)
    table = table.agg(
        n=("n", "first"),
        SRCC=("SRCC", "mean"),
        change=("change", "mean"),
        lowest=("change", "min"),
        highest=("change", "max"),
    )
    remark = "; every crop is the whole image, so random ones change nothing here"
    return {
        "protocols": (
            table.assign(seeds=len(of_runs)).round(4),
            "What the same weights are worth under each way of reporting; change against the honest one "
            f"on the same n images, its mean, lowest and highest over seeds{remark * _crops_are_whole_images(settings, images)}",
        )
    }


def _points(runs: Runs) -> dict[str, np.ndarray]:
    """Each variant's test SRCC, one per seed."""
    return {label: np.array([run.srcc for run in group]) for label, group in runs.items()}


STUDIES: dict[str, Callable[[Profile, Runs], Exhibits]] = {
    "training": training,
    "main": main_result,
    "ablation": ablation,
    "fixed_regressor": fixed_regressor,
    "model_sizes": model_sizes,
    "learning_rate": learning_rate,
    "loss": loss,
    "augmentation": augmentation,
    "protocol": protocol,
    "cross_dataset": cross_dataset,
}


# --- for notebooks ----------------------------------------------------------------------------------------


def label(settings: Profile) -> str:
    """What a caption must say of these numbers: data, kind of scores, protocol, and stand-ins."""
    dataset = describe(settings.dataset)
    parts = [f"{dataset.title}, {dataset.scores}"]
    if settings.freeze_backbone:
        parts.append("frozen backbone")
    base = settings.backbone_base or settings.backbone
    if stands_in(base):
        parts.append(f"stand-in backbones ({what_it_is(base)} for Swin)")
    if settings.protocol == "paper":
        parts.append("PAPER'S PROTOCOL: epoch chosen on the test set")
    return "; ".join(parts)


def show(page: Page, experiment: str, train_missing: bool = True) -> dict[str, pd.DataFrame]:
    """Train what is missing, save and display every exhibit of an experiment; returns its tables.

    A table without rows (no claim to judge) is left out.

    Raises:
        RunError: runs are missing and ``train_missing`` is False.
    """
    from IPython.display import display

    settings = page.settings
    runs = page.uses_all(experiments.results(settings, experiment, train_missing=train_missing))
    chosen = experiments.variants(settings, experiment)
    lacking = [v.label for v in chosen if len(runs.get(v.label, [])) < len(v.seeds or settings.seeds)]
    if lacking:
        raise RunError(
            f"Experiment '{experiment}' lacks runs of {', '.join(lacking)} in {settings.folder / 'store'}. Train: "
            f"python -m iqa_lib train --profile {settings.profile} --experiment {experiment}"
        )
    found = {}
    if experiment == "main":
        for method in published_methods(settings, load_images(settings))[0].values():
            page.uses(method)
    for name, (content, caption) in STUDIES[experiment](settings, runs).items():
        if isinstance(content, pd.DataFrame) and content.empty:
            continue
        if isinstance(content, pd.DataFrame):
            caption = " ".join([f"{caption}.", *_legend(content), f"{label(settings)}."])
            found[name] = page.save(content, name, caption)
            display(styled(content, caption))
        else:
            display(page.save(content, name, f"{caption}. {label(settings)}."))
    return found


def _legend(table: pd.DataFrame) -> list[str]:
    """What a caption must say of intervals and verdicts in a table that has them."""
    if "SD over seeds" in table:
        return ["Intervals: 95 %, over test images (references where several share one), not over seeds."]
    if "verdict" in table:
        return ["p after Holm; smallest detectable: with 80 % power."]
    return []


def rebuild(page: Page) -> pd.DataFrame:
    """Every exhibit again from the run store, training nothing; which experiments were there, which lack runs."""
    lines = []
    for experiment in STUDIES:
        try:
            found = show(page, experiment, train_missing=False)
            lines.append({"experiment": experiment, "state": "rebuilt", "verdicts": count_verdicts(found)})
        except RunError as error:
            lines.append({"experiment": experiment, "state": str(error), "verdicts": "–"})
    return pd.DataFrame(lines)


def count_verdicts(found: dict[str, pd.DataFrame]) -> str:
    """One line for the notebook's result: how many claims hold, do not, or cannot be told."""
    verdicts = [v for table in found.values() if "verdict" in table for v in table["verdict"]]
    counts = pd.Series(verdicts).value_counts()
    return ", ".join(f"{count} × {verdict}" for verdict, count in counts.items()) or "no claim to judge"


def difference_of_protocols(settings: Profile, run: Run, images: ImageSet, draws: int = 400) -> pd.DataFrame:
    """From one run: how much choosing the epoch on the test set, and random test crops, change the number.

    Random crops are 20 of each of ``random_crop_images`` test images, as the reference code scores them, and compared
    with the grid on the same images. What other draws would have given is estimated by halves of these 20: the mean of
    10 of 20 lies as far from the mean of all as that lies from the mean of infinitely many.
    """
    test, epochs = run.test, run.epochs
    number = min(settings.random_crop_images or len(test), len(test))
    rng = np.random.default_rng(settings.seed)
    few = np.sort(rng.permutation(len(test))[:number])
    scored_NP = score_random_crops(run, images, images.rows("test")[few])
    score = test["score"].to_numpy()[few]
    drawn = metrics.srcc(scored_NP.mean(1), score)
    halves = [
        metrics.srcc(rng.permuted(scored_NP, axis=1)[:, : scored_NP.shape[1] // 2].mean(1), score)
        for _ in range(draws)
    ]
    luck = np.quantile(halves, 1 - 1 / 20) - np.mean(halves)  # of the best of 20
    everywhere, here = run.srcc, metrics.srcc(test["prediction"].to_numpy()[few], score)
    reported = {
        "epoch chosen on validation, grid of crops (honest)": (len(test), everywhere, everywhere),
        "epoch chosen on the test set": (len(test), epochs["test_srcc"].max(), everywhere),
        "20 random crops": (number, drawn, here),
        "20 random crops, best of 20 draws": (number, drawn + luck, here),
    }
    table = pd.DataFrame(reported.values(), columns=["n", "SRCC", "honest"])
    table.insert(0, "what is reported", list(reported))
    return table.assign(change=table["SRCC"] - table["honest"])
