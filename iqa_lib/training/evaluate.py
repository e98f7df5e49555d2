"""Which crops a protocol scores, and an image's score: the mean over its crops."""

import hashlib
import io
import re

import numpy as np
import pandas as pd

from iqa_lib import paths
from iqa_lib.data.crops import grid_crops, random_crops
from iqa_lib.data.images import ImageSet
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.training.predictor import Crop, Predictor
from iqa_lib.training.runs import Run

PAPER_TEST_CROPS = 20  # random ones per image, averaged: the reference's test


def evaluation_crops(settings: RunSettings, images: ImageSet, rows: np.ndarray, draw: int = 0) -> list[Crop]:
    """A fixed grid that covers each image; under the ``paper`` protocol 20 random crops, others in each draw."""
    if settings.protocol == "honest":
        return grid_crops(images, rows, settings.crop_size)
    # A frozen backbone's features are cached: the same draw for all epochs.
    return draw_crops(settings, images, rows, PAPER_TEST_CROPS, 0 if settings.freeze_backbone else draw)


def draw_crops(settings: RunSettings, images: ImageSet, rows: np.ndarray, per_image: int, draw: int) -> list[Crop]:
    rng = np.random.default_rng([settings.seed, draw, per_image])
    return random_crops(images, rows, per_image, settings.crop_size, rng, flip=False)


def predict(
    settings: RunSettings,
    model: BlindIQA,
    images: ImageSet,
    rows: np.ndarray,
    what: str = "scoring",
    crops: list[Crop] | None = None,
) -> pd.DataFrame:
    """``prediction`` (and stage weights ``alpha1``–``alpha4``) of each image: the mean over ``crops`` or its grid."""
    crops = crops or grid_crops(images, rows, settings.crop_size)
    table = Predictor(settings, model).predict(images, crops, what)
    return table.groupby("row").mean().loc[rows].reset_index(drop=True)


def test_on(run: Run, dataset: str, images: ImageSet) -> pd.DataFrame:
    """A run's predictions on the test images of another dataset; scored once, then read from the run's folder."""
    name = f"test-{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}-{images.fingerprint}.parquet"
    if not (run.folder / name).is_file():
        rows = images.rows("test")
        table = images.table.drop(columns="path")
        table = table.join(predict(run.settings, run.load_model(), images, rows, dataset))
        run.write_table(name, table)
    return run.read_table(name)


test_on.__test__ = False  # pytest takes the name for a test's


def score_random_crops(run: Run, images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """Scores (N, 20) of the paper's random crops of these test images; computed once, then read from its folder."""
    path = run.folder / f"random-crops-{len(rows)}-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.npy"
    if not path.is_file():
        crops = draw_crops(run.settings, images, rows, PAPER_TEST_CROPS, draw=0)
        scored = Predictor(run.settings, run.load_model()).predict(images, crops, "random crops")["prediction"]
        content = io.BytesIO()
        np.save(content, scored.to_numpy().reshape(len(rows), PAPER_TEST_CROPS))
        paths.write_atomically(path, content.getvalue())
    return np.load(path)


def laplacian_variance(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """The no-training baseline: sharpness as the variance of the Laplacian of the luma."""
    from scipy import ndimage

    luma = (images.image(r).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for r in rows)
    return np.array([ndimage.laplace(y).var() for y in luma])
