"""Tables: data frames ready to show and to save, the paper's numbers beside the measured ones."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from iqa_lib import metrics
from iqa_lib.data.catalog import crossing, describe
from iqa_lib.data.images import ImageSet, load_images, read_sizes
from iqa_lib.data.readers.tables import VOTES
from iqa_lib.profile import Profile
from iqa_lib.study import experiments, statistics
from iqa_lib.study.experiments import Elsewhere, Runs, Variant, paper
from iqa_lib.training.evaluate import laplacian_variance, score_random_crops
from iqa_lib.training.runs import Run, StoredRun


def datasets(sets: dict[str, ImageSet]) -> pd.DataFrame:
    """Per dataset and split: images, references, scores, rating noise, and the files' sizes in pixels."""
    lines = []
    for name, images in sets.items():
        sizes = np.array(read_sizes(images.table["path"].tolist()))
        for split, part in images.table.groupby("split", sort=False):
            height, width = sizes[part.index].T
            score = part["score"].agg(["mean", "std", "min", "max"]).round(1)
            lines.append(
                {
                    "dataset": name,
                    "split": split,
                    "images": len(part),
                    "references": part["reference"].nunique(),
                    "mean score": score["mean"],
                    "SD": score["std"],
                    "lowest": score["min"],
                    "highest": score["max"],
                    "median SD of ratings": round(part["std"].median(), 1) if "std" in part else None,
                    "median width × height": f"{np.median(width):.0f} × {np.median(height):.0f}",
                    "smallest and largest side": f"{sizes[part.index].min()}–{sizes[part.index].max()}",
                }
            )
    return pd.DataFrame(lines)


def agreement_of_raters(sets: dict[str, ImageSet], counts=(1, 2, 4, 9, 13, 20)) -> pd.DataFrame:
    """Test images of the sets with published votes: SRCC of the mean of k raters with the others' mean.

    Up to half of the smallest panel. The last rows of a set: half the panel with the other half, two full panels, and a
    perfect model with the panel.
    """
    lines = []
    for name, images in sets.items():
        votes = _votes(images.table.iloc[images.rows("test")])
        if votes is not None:
            panel, ceiling = int(np.median(votes.sum(axis=1))), metrics.label_noise_ceiling(votes)
            smallest = votes.sum(axis=1).min()
            found = [("raters", k, metrics.srcc_of_k_raters(votes, k)) for k in counts if 2 * k <= smallest]
            found += [
                ("raters", panel // 2, ceiling.split_half),
                ("panel agreement", panel, ceiling.panel_agreement),
                ("limit of a perfect model", panel, ceiling.perfect_model),
            ]
            lines += [{"dataset": name, "whose": whose, "raters": k, "SRCC": srcc} for whose, k, srcc in found]
    return pd.DataFrame(lines, columns=["dataset", "whose", "raters", "SRCC"]).round(4)


def _votes(table: pd.DataFrame) -> np.ndarray | None:
    """(images, levels) of those with two votes and more; None where no three of them have as many."""
    votes = table[VOTES].to_numpy(float) if set(VOTES) <= set(table) else np.zeros((0, len(VOTES)))
    votes = votes[votes.sum(axis=1) >= 2]
    return votes if len(votes) >= 3 else None


def epochs_beside_paper(run: Run) -> pd.DataFrame:
    """This run's epochs beside the paper's log of SMART-Base on KonIQ-10k, which chose on its test set.

    Under the honest protocol without the test set's columns: nothing is to be chosen by them.
    """
    unwanted = ["learning_rate_head"]
    if run.settings.protocol == "honest":
        unwanted += [c for c in run.epochs if c.startswith("test_")]
    log = paper("training_log_base").set_index("epoch").add_prefix("paper (KonIQ-10k, Swin-B): ")
    return run.epochs.drop(columns=unwanted).round(4).merge(log, how="left", left_on="epoch", right_index=True)


def hyper_parameters(settings: Profile) -> pd.DataFrame:
    """The profile's settings beside those of the reference code."""
    table = paper("hyper_parameters").astype(object).fillna("–")
    ours = {
        "schedule": f"warm-up {settings.warmup:.0%}, cosine to {settings.final_learning_rate:g} of the start",
        "epoch chosen on": "validation split",
        "crops at test": "a grid that covers the image",
        "runs per configuration": len(settings.seeds),
    }
    if settings.protocol == "paper":
        ours |= table.set_index("setting").iloc[:, 1].loc[["schedule", "epoch chosen on", "crops at test"]]
    if settings.freeze_backbone:
        ours["learning rate, backbone"] = "frozen"
    mine = [ours.get(row.setting) or _written(getattr(settings, row.key)) for row in table.itertuples()]
    table.insert(1, f"profile {settings.profile}", mine)
    return table.drop(columns="key").astype(str)


def _written(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def result_on_test(run: Run, images: ImageSet, resamples: int) -> pd.DataFrame:
    """Each metric with its 95 % interval, the model beside the no-training baseline.

    Where votes are published, how many raters' mean agrees with the others as well as the model does.
    """
    test, rows = run.test, images.rows("test")
    measured = run.measure(resamples)

    def srcc(predicted: ArrayLike, part: pd.DataFrame) -> metrics.Interval:
        groups = metrics.groups_of(part["reference"])
        return metrics.bootstrap(metrics.srcc, predicted, part["score"], groups=groups, resamples=resamples)

    lines = [("trained", name, *found) for name, found in measured.items()]
    untrained = srcc(laplacian_variance(images, rows), test)
    lines.append(("variance of the Laplacian (no training)", "SRCC", *untrained))
    votes = _votes(test)
    if votes is not None:
        raters = [metrics.equivalent_raters(limit, votes) for limit in measured["SRCC"]]
        lines.insert(1, ("trained", "raters whose mean agrees as well", *raters))
    apart = ~crossing(images.table).to_numpy()[rows]
    if not apart.all():
        what = f"SRCC without the {(~apart).sum()} test images that have a near-copy in training"
        lines.insert(1, ("trained", what, *srcc(test.loc[apart, "prediction"], test[apart])))
    if not any("logistic" in name for name in measured):
        lines.append(("trained", "after the logistic: validation determines no rising curve", *[np.nan] * 3))
    table = pd.DataFrame(lines, columns=["model", "metric", "value", "95 % low", "95 % high"])
    without = table["metric"].str.startswith("SRCC without")
    over = np.where(without, statistics.units_of(test[apart]), statistics.units_of(test))
    return table.round(4).assign(**{"interval over": over})


def beside_cited(table: pd.DataFrame, pyiqas: dict[str, StoredRun], reasons: dict[str, str]) -> pd.DataFrame:
    """The methods measured here over those that the paper's Table I cites; a remark says which is which.

    ``table``: `statistics.compare_scores` of our runs and pyiqa's; ``reasons``: of `published.published_methods`.
    """
    cited = _cited()
    rows = {method: _plain(method) for method in table["variant"]} | {"SMART-IQA": "smartbase"}
    table = table.drop(columns="parameters (M)").rename(columns={"variant": "method"})
    for column in ("paper: SRCC", "paper: PLCC"):
        table[column] = table["method"].map(rows).map(cited[column])
    table["remark"] = ["measured here" + ", pyiqa's weights" * (m in pyiqas) for m in table["method"]]
    failed = pd.DataFrame({"method": reasons.keys(), "remark": reasons.values()})
    others = cited.drop(index=list(rows.values()), errors="ignore")
    others = others.assign(remark="cited from the paper (KonIQ-10k), not measured")
    whole = pd.concat([table, failed, others], ignore_index=True)
    return whole.astype({"seeds": "Int64", "n": "Int64"})


def claims_of_methods(variants: list[Variant], pyiqas: dict[str, StoredRun]) -> list[experiments.Claim]:
    """SMART-IQA beats HyperIQA and each of pyiqa's methods, by what the paper's Table I says where it has them."""
    hyper_iqa, smart = variants
    srcc = _cited()["paper: SRCC"]
    others = [Variant(m, published={"SRCC": srcc[_plain(m)]} if _plain(m) in srcc else {}) for m in pyiqas]
    return [experiments.beats(smart, other) for other in (hyper_iqa, *others)]


def _cited() -> pd.DataFrame:
    """The paper's Table I; a row's label is the method's name in plain letters."""
    cited = paper("sota_koniq10k").drop(columns="family").rename(columns={"srcc": "paper: SRCC", "plcc": "paper: PLCC"})
    return cited.set_index(cited["method"].map(_plain))


def _plain(method: str) -> str:
    return method.lower().replace("-", "")


def elsewhere(settings: Profile) -> list[Elsewhere]:
    """The profile's other datasets: all of their images, or their official test part."""
    return [Elsewhere(name, load_images(settings, name, test_only=True)) for name in settings.test_datasets]


def cross_dataset(settings: Profile, runs: Runs, others: list[Elsewhere]) -> pd.DataFrame:
    """`statistics.compare_scores` at home and on every other dataset, the paper's SRCC beside."""
    lines = []
    for name, on, srcc in experiments.everywhere(settings, others):
        table = statistics.compare_scores(settings, runs, elsewhere=on)
        scores = describe(name, settings.data_folder).scores
        lines.append(table.assign(**{"paper: SRCC": table["variant"].map(srcc)}, dataset=name, scores=scores))
    return pd.concat(lines, ignore_index=True)


BEST_OF = 5  # trainings, in `protocols`


def protocols(settings: Profile, watching: list[Run], all_seeds: list[Run], images: ImageSet) -> pd.DataFrame:
    """What the same weights give under each way of reporting, and the best of several trainings against their mean.

    Args:
        watching: runs that noted the test split's agreement after every epoch. Intervals over them: Student's t.
        all_seeds: how far the SRCC of trainings scatters; taken as normal, its SD with the interval of chi squared.
    """
    of_runs = pd.concat([_ways_of_reporting(settings, run, images) for run in watching])
    if experiments.crops_are_whole_images(settings, images):
        of_runs["what is reported"] = of_runs["what is reported"].str.replace("crops", "crops (each the whole image)")
    table = of_runs.groupby("what is reported", sort=False, as_index=False).agg(
        n=("n", "first"), SRCC=("SRCC", "mean"), change=("change", "mean"), error=("change", "sem")
    )
    reach = table.pop("error") * stats.t.isf(metrics.ALPHA / 2, len(watching) - 1)
    table = table.assign(**{"95 % low": table["change"] - reach, "95 % high": table["change"] + reach})
    srcc = pd.Series([run.srcc for run in all_seeds])
    df = len(srcc) - 1
    gain = srcc.std() * stats.norm.expect(lambda x: BEST_OF * x * stats.norm.cdf(x) ** (BEST_OF - 1))
    low, high = gain * np.sqrt(df / stats.chi2.isf([metrics.ALPHA / 2, 1 - metrics.ALPHA / 2], df))
    table.loc[len(table)] = [f"best of {BEST_OF} trainings", table["n"][0], srcc.mean() + gain, gain, low, high]
    table["runs"] = [len(watching)] * (len(table) - 1) + [len(srcc)]
    return table.round(4)


def _ways_of_reporting(settings: Profile, run: Run, images: ImageSet, draws: int = 400) -> pd.DataFrame:
    """From one run: how much choosing the epoch on the test set, and random test crops, change the number.

    Random crops are 20 of each of ``random_crop_images`` test images, as the reference code scores them, and compared
    with the grid on the same images. What other draws would have given is estimated by halves of these 20: the mean of
    10 of 20 lies as far from the mean of all as that lies from the mean of infinitely many.
    """
    test = run.test
    number = min(settings.random_crop_images or len(test), len(test))
    rng = np.random.default_rng(settings.seed)
    few = np.sort(rng.permutation(len(test))[:number])
    scored_NP = score_random_crops(run, images, images.rows("test")[few])
    score = test["score"].to_numpy()[few]
    drawn = metrics.srcc(scored_NP.mean(1), score)
    half = scored_NP.shape[1] // 2
    halves = [metrics.srcc(rng.permuted(scored_NP, axis=1)[:, :half].mean(1), score) for _ in range(draws)]
    gain = np.reshape(halves, (-1, 20)).max(axis=1).mean() - np.mean(halves)  # of the best of 20
    everywhere = metrics.srcc(test["prediction"], test["score"])
    here = metrics.srcc(test["prediction"].to_numpy()[few], score)
    reported = [
        ("epoch chosen on validation, grid of crops (honest)", len(test), everywhere, everywhere),
        ("epoch chosen on the test set", len(test), run.epochs["test_srcc"].max(), everywhere),
        ("20 random crops", number, drawn, here),
        ("20 random crops, best of 20 draws", number, drawn + gain, here),
    ]
    table = pd.DataFrame(reported, columns=["what is reported", "n", "SRCC", "honest"])
    return table.assign(change=table["SRCC"] - table["honest"])


def worst(test: pd.DataFrame, count: int) -> pd.DataFrame:
    """The test images with the largest errors, largest first."""
    table = test.assign(error=test["prediction"] - test["score"])
    columns = [c for c in ("image", "score", "prediction", "error", "distortion", "severity") if c in table]
    return table.loc[table["error"].abs().nlargest(count).index, columns].round(2).reset_index(drop=True)


def activation_by_level(series: dict[str, list]) -> pd.DataFrame:
    """Mean activation of each stage at each level, from `explain.under_distortion` by distortion."""
    return pd.DataFrame(
        {"distortion": name, "level": level, "stage": stage, "activation": float(activation.mean())}
        for name, shown in series.items()
        for level, (_, seen) in enumerate(shown)
        for stage, activation in enumerate(seen.activation_SHW, 1)
    )
