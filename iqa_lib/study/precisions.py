"""What a lower precision costs in accuracy, and what it gains in time: a trained run in float32, bf16 and INT8."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from iqa_lib import metrics
from iqa_lib.data.crops import grid_crops
from iqa_lib.data.images import ImageSet
from iqa_lib.models.export import OnnxScorer
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import Profile, ScoringSettings
from iqa_lib.study import complexity
from iqa_lib.study.complexity import FLOAT_ONNX, INT8_ONNX, Budget, emulated_first, onnx_scorers
from iqa_lib.training.predictor import EVALUATION_BATCH, Crop, Predictor
from iqa_lib.training.runs import Run

CALIBRATION_CROPS = 32  # training crops that INT8's ranges are measured on
ONNX_BATCH = 4  # crops at once: few, as for torch on a processor
PART = 8 * EVALUATION_BATCH  # crops that each precision scores before the next has its turn
FEWEST_IMAGES = 60  # scored in any case: a rank correlation of fewer says little
EMULATED_IMAGES = 60  # at most, where bf16 is emulated

Engine = Callable[[list[Crop]], np.ndarray]  # crops of an image set to their scores


def compare(settings: Profile, run: Run, images: ImageSet) -> pd.DataFrame:
    """A trained run's test SRCC in float32, bf16 and INT8, and how fast it scores in each.

    The test images are scored in one random order, part by part and each precision in turn, until the profile's seconds
    are spent: ``n`` of them, each precision beside float32's scores of the same. bf16 that is emulated computes what a
    processor with bf16 does, but so slowly that few images must do. INT8 is static: its ranges are measured on training
    images, by ONNX Runtime.
    """
    rows = np.random.default_rng(0).permutation(images.rows("test"))
    model, size = run.load_model(), settings.crop_size
    # Not with the run's own settings: of a frozen backbone features would be cached, here all is computed.
    common = {"crop_size": size, "compile": run.settings.compile}
    as_settings = {p: ScoringSettings(**common, precision=p) for p in ("float32", "bf16")}
    engines = {precision: _by_torch(wanted, model, images) for precision, wanted in as_settings.items()}
    onnx = onnx_scorers(model, size, _calibration(settings, images), ONNX_BATCH)
    engines |= {name: _by_onnx(scorer, images, size) for name, scorer in onnx.items()}
    seconds = settings.measuring_seconds * complexity.SHARES["precisions"]
    measure = functools.partial(_scored, images, rows, size)
    scored = emulated_first(engines, lambda name: name == "bf16", measure, seconds, "precisions")
    return _precision_table(scored, images.scores(rows))


def _by_torch(settings: ScoringSettings, model: BlindIQA, images: ImageSet) -> Engine:
    return lambda crops: Predictor(settings, model).predict(images, crops, "")["prediction"].to_numpy()


def _by_onnx(scorer: OnnxScorer, images: ImageSet, size: int) -> Engine:
    return lambda crops: np.concatenate([scorer(few) for few in _for_onnx(images, crops, size)])[: len(crops)]


def _for_onnx(images: ImageSet, crops: list[Crop], size: int) -> Iterator[np.ndarray]:
    """Batches of the one size that the file takes: the last is filled up with its last crop."""
    filled = [*crops, *[crops[-1]] * (-len(crops) % ONNX_BATCH)]
    starts = range(0, len(filled), ONNX_BATCH)
    return (images.crops(filled[start : start + ONNX_BATCH], size).cpu().numpy() for start in starts)


def _scored(
    images: ImageSet, rows: np.ndarray, size: int, engines: dict[str, Engine], budget: Budget, emulated: bool
) -> dict[str, pd.DataFrame]:
    """Each engine's scores of the first ``rows``, as many parts as the budget allows: ``FEWEST_IMAGES`` in any case.

    Of emulated engines one part in any case, and ``EMULATED_IMAGES`` at most. A row an image: ``prediction``,
    ``crops``, and the ``seconds`` that they took.
    """
    rows = rows[:EMULATED_IMAGES] if emulated else rows
    crops_at_once, fewest = (EVALUATION_BATCH, 1) if emulated else (PART, FEWEST_IMAGES)
    images_at_once = max(1, round(crops_at_once * len(rows) / len(grid_crops(images, rows, size))))
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in engines}
    done, last = 0, 0.0  # images; seconds of a part by all engines
    while done < len(rows) and (done < fewest or budget.allows(last)):
        part = rows[done : done + images_at_once]
        crops, before = grid_crops(images, part, size), complexity.clock()
        for name, score in engines.items():
            started = complexity.clock()
            of_images = pd.Series(score(crops)).groupby([crop[0] for crop in crops])
            table = of_images.agg(prediction="mean", crops="size").loc[part]
            parts[name].append(table.assign(seconds=(complexity.clock() - started) / len(part)))
        done, last = done + len(part), complexity.clock() - before
    budget.close()
    return {name: pd.concat(of_engine) for name, of_engine in parts.items()}


def _precision_table(scored: dict[str, pd.DataFrame], scores: np.ndarray) -> pd.DataFrame:
    rows, reference = [], scored["float32"]
    rate = reference["crops"].sum() / reference["seconds"].sum()
    for name, table in scored.items():
        n, crops_per_second = len(table), table["crops"].sum() / table["seconds"].sum()
        predictions, true = table["prediction"].to_numpy(), scores[:n]
        plain = reference["prediction"].to_numpy()[:n]
        enough = n >= min(FEWEST_IMAGES, len(reference))
        srcc, in_float32 = (metrics.srcc(p, true) if enough else np.nan for p in (predictions, plain))
        rows.append(
            {
                "precision": name,
                "n": n,
                "SRCC": srcc,
                "change": srcc - in_float32,
                "largest change of a score": np.abs(predictions - plain).max(),
                "crops/s": crops_per_second,
                "time, share of float32": rate / crops_per_second,
            }
        )
    return pd.DataFrame(rows).round(4)


def _calibration(settings: Profile, images: ImageSet) -> Iterator[np.ndarray]:
    rows = images.rows("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(CALIBRATION_CROPS, len(rows))).astype(int)]
    crops = grid_crops(images, chosen, settings.crop_size)[:CALIBRATION_CROPS]
    return _for_onnx(images, crops, settings.crop_size)


def headline(compared: pd.DataFrame) -> str:
    """What INT8 costs and gains, in a line, from the table of `compare`."""
    table = compared.set_index("precision")
    int8, plain = table.loc[INT8_ONNX], table.loc[FLOAT_ONNX]
    faster = int8["crops/s"] / plain["crops/s"]
    return f"INT8: SRCC {int8['change']:+.3f}, {faster:.1f} times the speed of float32 in the same engine"
