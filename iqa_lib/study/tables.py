"""Tables: data frames ready to show and to save, the paper's numbers beside the measured ones."""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from iqa_lib import metrics
from iqa_lib.data.crops import ImageSet, read_sizes
from iqa_lib.profile import Profile
from iqa_lib.study import attention as explain
from iqa_lib.training.evaluate import laplacian_variance
from iqa_lib.training.runs import Run


def paper(name: str) -> pd.DataFrame:
    """A table of the SMART-IQA paper, such as ``training_log_base``; reference only, never a result."""
    return pd.read_csv(importlib.resources.files("iqa_lib.study") / "paper" / f"{name}.csv")


def datasets(sets: dict[str, ImageSet]) -> pd.DataFrame:
    """Per dataset and split: images, references, scores, rating noise, and the files' sizes in pixels."""
    lines = []
    for name, images in sets.items():
        sizes = np.array(read_sizes(images.table["path"].tolist()))
        for split, part in images.table.groupby("split", sort=False):
            height, width = sizes[part.index].T
            noise = part.get("std", pd.Series(dtype=float))
            lines.append(
                {
                    "dataset": name,
                    "split": split,
                    "images": len(part),
                    "references": part["reference"].nunique(),
                    "mean score": part["score"].mean().round(1),
                    "SD": part["score"].std().round(1),
                    "lowest": part["score"].min().round(1),
                    "highest": part["score"].max().round(1),
                    "median SD of ratings": round(noise.median(), 1) if len(noise) else None,
                    "median width × height": f"{np.median(width):.0f} × {np.median(height):.0f}",
                    "smallest and largest side": f"{sizes[part.index].min()}–{sizes[part.index].max()}",
                }
            )
    return pd.DataFrame(lines)


VOTES = [f"c{level}" for level in range(1, 6)]


def agreement_of_raters(sets: dict[str, ImageSet], counts=(1, 2, 4, 9, 13, 20)) -> pd.DataFrame:
    """Test images of the sets with published votes: SRCC of the mean of k raters with the others' mean.

    Two last rows per set: half the panel with the other half, and two full panels (Spearman–Brown), the ceiling
    of any model's SRCC with these labels.
    """
    lines = []
    for name, images in sets.items():
        if set(VOTES) <= set(images.table):
            votes = images.table.loc[images.rows("test"), VOTES].to_numpy()
            for k in counts:
                lines.append({"dataset": name, "raters": k, "SRCC": metrics.srcc_of_k_raters(votes, k)})
            ceiling = metrics.label_noise_ceiling(votes)
            panel = int(np.median(votes.sum(axis=1)))
            lines.append({"dataset": name, "raters": panel // 2, "SRCC": ceiling[0]})
            lines.append({"dataset": name, "raters": panel, "SRCC": ceiling[1]})
    return pd.DataFrame(lines, columns=["dataset", "raters", "SRCC"]).round(4)


def epochs_beside_paper(run: Run) -> pd.DataFrame:
    """This run's epochs beside the paper's log of SMART-Base on KonIQ-10k, which chose on its test set.

    Under the honest protocol without the test set's columns: nothing is to be chosen by them.
    """
    unwanted = ["learning_rate_head"]
    if run.settings.protocol == "honest":
        unwanted += [c for c in run.epochs if c.startswith("test_")]
    log = paper("training_log_base").set_index("epoch").add_prefix("paper (KonIQ-10k, Swin-B): ")
    return (
        run.epochs.drop(columns=unwanted).round(4).merge(log, how="left", left_on="epoch", right_index=True)
    )


def hyper_parameters(settings: Profile) -> pd.DataFrame:
    """The profile's settings beside those of the reference code."""
    table = paper("hyper_parameters").astype(object).where(lambda t: t.notna(), "–")
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
    mine = [
        ours[row.setting] if row.setting in ours else _written(getattr(settings, row.key))
        for row in table[["setting", "key"]].itertuples()
    ]
    table.insert(1, f"profile {settings.profile}", mine)
    return table.drop(columns="key").astype(str)


def _written(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def result_on_test(run: Run, images: ImageSet, resamples: int) -> pd.DataFrame:
    """Each metric with its 95 % interval, the model beside the no-training baseline."""
    rows = images.rows("test")
    baseline = metrics.bootstrap(
        lambda x, y: abs(metrics.srcc(x, y)),
        laplacian_variance(images, rows),
        images.scores(rows),
        resamples=resamples,
    )
    lines = [
        {"model": "trained", "metric": name, **interval._asdict()}
        for name, interval in run.measure(resamples).items()
    ]
    lines.append({"model": "variance of the Laplacian (no training)", "metric": "SRCC", **baseline._asdict()})
    table = pd.DataFrame(lines).round(4)
    return table.rename(columns={"low": "95 % low", "high": "95 % high"})


def worst(test: pd.DataFrame, count: int) -> pd.DataFrame:
    """The test images with the largest errors, largest first."""
    table = test.assign(error=test["prediction"] - test["score"])
    columns = [c for c in ("image", "score", "prediction", "error", "distortion", "severity") if c in table]
    return table.loc[table["error"].abs().nlargest(count).index, columns].round(2).reset_index(drop=True)


# --- attention --------------------------------------------------------------------------------------------


def attention_against_score(
    test: pd.DataFrame, control: pd.DataFrame, groups: np.ndarray | None, resamples: int
) -> pd.DataFrame:
    """How the spread of the weights and each stage's weight go with the score, an untrained attention beside.

    ``test`` and ``control`` hold ``score`` and `explain.ALPHAS` of the same images.
    """
    lines = []
    for quantity, weigh in _attention_quantities().items():
        line = {"quantity": quantity, "mean": weigh(test).mean(), "SD": weigh(test).std()}
        for prefix, table in (("", test), ("untrained: ", control)):
            measured = metrics.bootstrap(
                metrics.srcc, weigh(table), table["score"], groups=groups, resamples=resamples
            )
            names = ("SRCC with score", "95 % low", "95 % high")
            line |= {prefix + name: value for name, value in zip(names, measured, strict=True)}
        lines.append(line | {"untrained: SD": weigh(control).std()})
    return pd.DataFrame(lines).round(4)


def _attention_quantities() -> dict[str, Callable[[pd.DataFrame], np.ndarray]]:
    weights = {
        f"weight of stage {s}": lambda t, c=c: t[c].to_numpy() for s, c in enumerate(explain.ALPHAS, 1)
    }
    return {"entropy (bits)": explain.entropy, **weights}


def attention_by(test: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Per group of images: n, mean score, mean weights, mean entropy, share with nearly all on one stage."""
    data = test.assign(
        entropy=explain.entropy(test), focused=test[explain.ALPHAS].max(axis=1) > explain.NEARLY_ALL
    )
    grouped = data.groupby(by)
    means = grouped[["score", *explain.ALPHAS, "entropy", "focused"]].mean()
    means.insert(0, "n", grouped.size())
    return (
        means.rename(columns={"focused": f"share > {explain.NEARLY_ALL} on one stage"}).round(4).reset_index()
    )


def tenths(score: pd.Series) -> pd.Series:
    """Each image's tenth by rank, 1 the lowest scores."""
    return np.ceil(score.rank(method="first", pct=True) * 10).astype(int).rename("tenth of scores")


def focused_share(tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Share of images with nearly all weight on one stage: all, and by third of the scores; and which stage."""
    lines = []
    for name, test in tests.items():
        focused = test[explain.ALPHAS].max(axis=1) > explain.NEARLY_ALL
        third = pd.qcut(test["score"].rank(method="first"), 3, labels=["lowest", "middle", "highest"])
        by_third = {f"{t} third": focused[third == t].mean() for t in third.cat.categories}
        stage = test.loc[focused, explain.ALPHAS].to_numpy().argmax(axis=1) + 1
        most = f"stage {np.bincount(stage).argmax()}" if len(stage) else "none"
        lines.append({"run": name, "all": focused.mean(), **by_third, "mostly on": most, "n": len(test)})
    return pd.DataFrame(lines).round(4)


def attention_stability(crops: pd.DataFrame, tests: list[pd.DataFrame]) -> pd.DataFrame:
    """How far weights vary between an image's crops, between images, and between training seeds.

    ``crops`` as `explain.stage_weights` gives it; ``tests`` are the same test images, one table per seed.
    """
    lines = []
    for quantity, weigh in _attention_quantities().items():
        grouped = pd.Series(weigh(crops)).groupby(crops["row"].to_numpy())
        within, between = grouped.var(ddof=0).mean(), grouped.mean().var(ddof=0)
        pairs = [metrics.srcc(weigh(a), weigh(b)) for a, b in itertools.combinations(tests, 2)]
        lines.append(
            {
                "quantity": quantity,
                "SD between crops of an image": within**0.5,
                "SD between images": between**0.5,
                "share of variance within images": within / (within + between),
                "SRCC between seeds (mean of pairs)": np.mean(pairs) if pairs else np.nan,
                "seeds": len(tests),
            }
        )
    return pd.DataFrame(lines).round(4)


def scores_with_other_weights(
    scores: list[pd.DataFrame], score: np.ndarray, groups: np.ndarray | None, resamples: int
) -> pd.DataFrame:
    """SRCC for each way to set the stage weights and its paired difference to the learned ones.

    ``scores`` as `explain.score_with_other_weights` gives them, one table per seed.
    """
    learned_SN = _of_all_seeds(scores, "as learned")
    ways = {way: _of_all_seeds(scores, way) for way in scores[0]}
    others = [way for way in ways if way != "as learned"]
    compared = [
        metrics.compare(ways[w], learned_SN, score, groups, resamples=resamples, same_models=True)
        for w in others
    ]
    lines = [
        {
            "weights": w,
            "SRCC": metrics.srcc(ways[w], score).mean(),
            "RMSE": metrics.rmse(ways[w], score).mean(),
            "n": len(score),
            "seeds": len(scores),
        }
        for w in ways
    ]
    differences = [
        {"weights": way, "difference of SRCC": d.value, **tested(d, p)}
        for way, d, p in zip(others, compared, metrics.holm([d.p for d in compared]), strict=True)
    ]
    return pd.DataFrame(lines).merge(pd.DataFrame(differences), on="weights", how="left").round(4)


def tested(difference: metrics.Difference, p_adjusted: float) -> dict[str, float | str]:
    """The columns by which every table tells how sure a difference is."""
    return {
        "95 % low": difference.low,
        "95 % high": difference.high,
        "p (Holm)": p_adjusted,
        "smallest detectable": difference.smallest_detectable,
        "interval covers": difference.covers,
    }


def _of_all_seeds(tables: list[pd.DataFrame], column: str) -> np.ndarray:
    return np.stack([table[column].to_numpy() for table in tables])


def attention_verdicts(
    tests: list[pd.DataFrame], scores: list[pd.DataFrame], groups: np.ndarray | None, resamples: int
) -> pd.DataFrame:
    """The paper's claims on attention, each as a difference that can be tested on all test images."""
    score = tests[0]["score"].to_numpy()
    stage3_SN = _of_all_seeds(tests, "alpha3")
    entropy_SN = np.stack([explain.entropy(test) for test in tests])
    seen = paper("attention_examples").set_index("quality")
    spread = pd.Series(
        explain.entropy(seen.set_axis(["mos", "predicted", *explain.ALPHAS], axis=1)), seen.index
    )
    learned, constant, shuffled = (
        _of_all_seeds(scores, way) for way in ("as learned", "mean of all", "shuffled")
    )
    claims = [
        (
            f"High quality puts nearly all weight on stage 3: its mean in the best tenth, less {explain.NEARLY_ALL}",
            seen.loc["high", "stage3"] - explain.NEARLY_ALL,
            (stage3_SN, np.full_like(stage3_SN, explain.NEARLY_ALL), _best_tenth),
        ),
        (
            "Low quality spreads its weight: entropy of the worst tenth less that of the best, bits",
            spread["low"] - spread["high"],
            (entropy_SN, np.zeros_like(entropy_SN), lambda x, s: _best_tenth(x, -s) - _best_tenth(x, s)),
        ),
        (
            "The model uses its attention: SRCC less that with the mean weights for every image",
            np.nan,
            (learned, constant, metrics.srcc),
        ),
        (
            "Each image needs its own weights: SRCC less that with another crop's weights",
            np.nan,
            (learned, shuffled, metrics.srcc),
        ),
    ]
    compared = [
        metrics.compare(a, b, score, groups, statistic, resamples, same_models=True)
        for _, _, (a, b, statistic) in claims
    ]
    adjusted = metrics.holm([d.p for d in compared])
    return pd.DataFrame(
        {
            "claim": claim,
            "paper (3 images)": published,
            "measured": d.value,
            **tested(d, p),
            "verdict": metrics.verdict(d, None, p, direction=1),
        }
        for (claim, published, _), d, p in zip(claims, compared, adjusted, strict=True)
    ).round(4)


def _best_tenth(value: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Mean of ``value`` over the tenth of images with the highest score; the last axis is that of images."""
    best = score >= np.quantile(score, 0.9, axis=-1, keepdims=True)
    return (value * best).sum(axis=-1) / best.sum(axis=-1)


def activation_by_level(series: dict[str, list]) -> pd.DataFrame:
    """Mean activation of each stage at each level, from `explain.under_distortion` by distortion."""
    return pd.DataFrame(
        {"distortion": name, "level": level, "stage": stage, "activation": float(activation.mean())}
        for name, shown in series.items()
        for level, (_, seen) in enumerate(shown)
        for stage, activation in enumerate(seen.activation_SHW, 1)
    )
