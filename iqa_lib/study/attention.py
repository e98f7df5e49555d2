"""Stage weights of SMART-IQA over a set of images, and the controls that they are compared with.

Every function takes a run's settings and model (``run.settings``, ``run.load_model()``), and raises
ExplainError where the model has no attention. Shape suffixes: S stages (4), N crops.
"""

import copy
import itertools
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import stats

from iqa_lib import metrics
from iqa_lib.data.crops import grid_crops
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import ExplainError
from iqa_lib.models.hypernet import StageAttention
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.study import statistics
from iqa_lib.study.experiments import paper
from iqa_lib.training.evaluate import predict
from iqa_lib.training.predictor import ALPHAS, Predictor

NEARLY_ALL = 0.9  # more weight than this on one stage


def entropy(table: pd.DataFrame) -> np.ndarray:
    """Spread of the stage weights ``ALPHAS`` in each row, in bits: 0 all on one stage, 2 uniform."""
    return stats.entropy(table[ALPHAS].to_numpy(), base=2, axis=1)


def require_attention(model: BlindIQA) -> None:
    """Raises ExplainError where there are no stage weights to look at."""
    if model.head.attention is None:
        raise ExplainError(
            f"This {type(model).__name__} has no stage weights: HyperIQA, and SMART-IQA without use_attention "
            f"and use_multiscale, have no attention. Choose a run of method smart_iqa with both on."
        )


def stage_weights(settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray) -> pd.DataFrame:
    """Stage weights of every crop of these images: ``row`` of the image table and ``ALPHAS``."""
    require_attention(model)
    crops = grid_crops(images, rows, settings.crop_size)
    return Predictor(settings, model).predict(images, crops, "stage weights")[["row", *ALPHAS]]


def untrained_control(settings: RunSettings, model: BlindIQA, images: ImageSet, test: pd.DataFrame) -> pd.DataFrame:
    """``ALPHAS`` of each test image (``run.test``) with an attention as before training, beside ``score``.

    Another one for each seed: what an untrained attention does is a matter of luck, too.
    """
    control = _with_untrained_attention(model, settings.seed)
    table = predict(settings, control, images, images.rows("test"), "untrained attention")
    return table[ALPHAS].assign(score=test["score"])


def _with_untrained_attention(model: BlindIQA, seed: int) -> BlindIQA:
    """A copy of the model; all but its attention stays."""
    require_attention(model)
    control = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control.head.attention = StageAttention(model.backbone.channels[3])
    return control.to(model.backbone.mean.device).eval()


def score_with_other_weights(
    settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray
) -> pd.DataFrame:
    """Predicted scores of these images, one column for each way to set the stage weights.

    ``as learned``; ``mean of all`` (every crop gets the mean weights); ``uniform`` (1/4 each); ``shuffled``
    (each crop gets the weights of a random crop of all images); ``stage 1 only`` to ``stage 4 only``; and
    ``untrained`` (the attention as before training). The rest of the model is the same throughout.
    """
    learned = stage_weights(settings, model, images, rows)
    untrained = stage_weights(settings, _with_untrained_attention(model, settings.seed), images, rows)
    learned_NS = learned[ALPHAS].to_numpy()
    everywhere = np.ones((len(learned), 1))
    ways = {
        "as learned": learned_NS,
        "mean of all": everywhere * learned_NS.mean(axis=0),
        "uniform": np.full_like(learned_NS, 1 / len(ALPHAS)),
        "shuffled": np.random.default_rng(settings.seed).permutation(learned_NS),
        **{f"stage {s} only": everywhere * row for s, row in enumerate(np.eye(len(ALPHAS)), 1)},
        "untrained": untrained[ALPHAS].to_numpy(),
    }
    crops, done, scores = grid_crops(images, rows, settings.crop_size), 0, {way: [] for way in ways}
    with torch.inference_mode():
        for pooled in Predictor(settings, model).stage_batches(images, crops, "scores with other weights"):
            part = slice(done, done := done + len(pooled.cells[0]))
            for way, alpha_NS in ways.items():
                alpha_BS = torch.tensor(alpha_NS[part]).to(pooled.cells[0])
                scores[way].append(model.score_stages(pooled, alpha_BS).float().cpu())
    table = pd.DataFrame({way: torch.cat(parts).double().numpy() for way, parts in scores.items()})
    return table.groupby(learned["row"]).mean().loc[rows].reset_index(drop=True)


# --- tables ---------------------------------------------------------------------------------------------


def attention_against_score(
    test: pd.DataFrame, control: pd.DataFrame, groups: np.ndarray | None, resamples: int
) -> pd.DataFrame:
    """How the spread of the weights and each stage's weight go with the score, an untrained attention beside.

    ``test`` and ``control`` hold ``score`` and `ALPHAS` of the same images.
    """
    untrained, lines = _quantities(control), []
    for quantity, measured in _quantities(test).items():
        line = {"quantity": quantity, "mean": measured.mean(), "SD": measured.std(ddof=0)}
        for prefix, values, table in (("", measured, test), ("untrained: ", untrained[quantity], control)):
            interval = metrics.bootstrap(metrics.srcc, values, table["score"], groups=groups, resamples=resamples)
            names = ("SRCC with score", "95 % low", "95 % high")
            line |= {prefix + name: value for name, value in zip(names, interval, strict=True)}
        lines.append(line | {"untrained: SD": untrained[quantity].std(ddof=0)})
    return pd.DataFrame(lines).round(4)


def _quantities(table: pd.DataFrame) -> pd.DataFrame:
    weights = table[ALPHAS].set_axis([f"weight of stage {stage}" for stage in range(1, 5)], axis=1)
    return pd.concat([pd.Series(entropy(table), table.index, name="entropy (bits)"), weights], axis=1)


def attention_by(test: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Per group of images: n, mean score, mean weights, mean entropy, share with nearly all on one stage."""
    data = test.assign(entropy=entropy(test), focused=test[ALPHAS].max(axis=1) > NEARLY_ALL)
    grouped = data.groupby(by)
    means = grouped[["score", *ALPHAS, "entropy", "focused"]].mean()
    means.insert(0, "n", grouped.size())
    return means.rename(columns={"focused": f"share > {NEARLY_ALL} on one stage"}).round(4).reset_index()


def deciles(score: pd.Series) -> pd.Series:
    """Each image's decile by rank, 1 the lowest scores."""
    return np.ceil(score.rank(method="first", pct=True) * 10).astype(int).rename("decile of scores")


def focused_share(tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Share of images with nearly all weight on one stage: all, and by third of the scores; and which stage."""
    lines = []
    for name, test in tests.items():
        focused = test[ALPHAS].max(axis=1) > NEARLY_ALL
        third = pd.qcut(test["score"].rank(method="first"), 3, labels=["lowest", "middle", "highest"])
        by_third = {f"{t} third": focused[third == t].mean() for t in third.cat.categories}
        stage = test.loc[focused, ALPHAS].to_numpy().argmax(axis=1) + 1
        most = f"stage {np.bincount(stage).argmax()}" if len(stage) else "none"
        lines.append({"run": name, "all": focused.mean(), **by_third, "mostly on": most, "n": len(test)})
    return pd.DataFrame(lines).round(4)


def attention_stability(crops: pd.DataFrame, tests: list[pd.DataFrame]) -> pd.DataFrame:
    """How far weights vary between an image's crops, between images, and between training seeds.

    ``crops`` as `stage_weights` gives it; ``tests`` are the same test images, one table per seed.
    """
    grouped = _quantities(crops).groupby(crops["row"].to_numpy())
    within, between = grouped.var(ddof=0).mean(), grouped.mean().var(ddof=0)
    pairs = itertools.combinations([_quantities(test).T for test in tests], 2)
    table = pd.DataFrame(
        {
            "SD between crops of an image": within**0.5,
            "SD between images": between**0.5,
            "share of variance within images": within / (within + between),
            "SRCC between seeds (mean of pairs)": np.mean([metrics.srcc(a, b) for a, b in pairs] or [np.nan], axis=0),
            "seeds": len(tests),
        }
    )
    return table.rename_axis("quantity").reset_index().round(4)


def scores_with_other_weights(
    scores: list[pd.DataFrame], score: np.ndarray, groups: np.ndarray | None, resamples: int
) -> pd.DataFrame:
    """SRCC for each way to set the stage weights and its paired difference to the learned ones.

    ``scores`` as `score_with_other_weights` gives them, one table per seed.
    """
    ways = {way: _of_all_seeds(scores, way) for way in scores[0]}
    compare = partial(statistics.compare, groups=groups, resamples=resamples, same_models=True)
    claims = [(way, None, compare(ways[way], ways["as learned"], score)) for way in ways if way != "as learned"]
    table = pd.DataFrame(
        {
            "weights": list(ways),
            "SRCC": [metrics.srcc(predicted_SN, score).mean() for predicted_SN in ways.values()],
            "RMSE": [metrics.rmse(predicted_SN, score).mean() for predicted_SN in ways.values()],
            "n": len(score),
            "seeds": len(scores),
        }
    )
    differences = statistics.verdict_table(claims, "difference of SRCC").rename(columns={"claim": "weights"})
    unwanted = ["paper: ΔSRCC", "verdict", "would decide it"]
    return table.merge(differences.drop(columns=unwanted), on="weights", how="left").round(4)


def _of_all_seeds(tables: list[pd.DataFrame], column: str) -> np.ndarray:
    return np.stack([table[column].to_numpy() for table in tables])


def attention_verdicts(
    tests: list[pd.DataFrame],
    controls: list[pd.DataFrame],
    scores: list[pd.DataFrame],
    groups: np.ndarray | None,
    resamples: int,
) -> pd.DataFrame:
    """The paper's claims on attention, each as a difference that can be tested on all test images.

    Args:
        tests, controls: score and weights of the same test images, trained and with the attention as before training;
            one table per seed.
        scores: as `score_with_other_weights` gives them, one per seed.
    """
    stage3_SN = _of_all_seeds(tests, "alpha3")
    entropy_SN, untrained_SN = (np.stack([entropy(t) for t in found]) for found in (tests, controls))
    seen = paper("attention_examples").set_index("quality")
    spread = pd.Series(entropy(seen.set_axis(["mos", "predicted", *ALPHAS], axis=1)), seen.index)
    learned, constant, shuffled = (_of_all_seeds(scores, way) for way in ("as learned", "mean of all", "shuffled"))
    score = tests[0]["score"].to_numpy()
    compare = partial(statistics.compare, score_N=score, groups=groups, resamples=resamples, same_models=True)
    decile = partial(compare, counted=0.1)
    claims = [
        (
            f"High quality puts nearly all weight on stage 3: its mean in the best decile, less {NEARLY_ALL:g}",
            seen.loc["high", "stage3"] - NEARLY_ALL,
            decile(stage3_SN, np.full_like(stage3_SN, NEARLY_ALL), statistic=_best_decile),
        ),
        (
            "Training spreads the weight of low quality: entropy of the worst decile less that of the best, bits, "
            "trained less untrained",
            spread["low"] - spread["high"],
            decile(entropy_SN, untrained_SN, statistic=lambda x, s: _best_decile(x, -s) - _best_decile(x, s)),
        ),
        (
            "The model uses its attention: SRCC less that with the mean weights for every image",
            None,
            compare(learned, constant),
        ),
        (
            "Each image needs its own weights: SRCC less that with another crop's weights",
            None,
            compare(learned, shuffled),
        ),
    ]
    unsized = [(claim, None, difference) for claim, _, difference in claims]
    table = statistics.verdict_table(unsized, "measured", "paper (3 images)", of_interest=0)
    table["paper (3 images)"] = [size for _, size, _ in claims]
    return table.drop(columns="would decide it").round(4)


def _best_decile(value: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Mean of ``value`` over the decile of images with the highest score; the last axis is that of images."""
    best = score >= np.quantile(score, 0.9, axis=-1, keepdims=True)
    return (value * best).sum(axis=-1) / best.sum(axis=-1)
