"""Stage weights of SMART-IQA over a set of images, and the controls that they are compared with.

Every function takes a run's settings and model (``run.settings``, ``run.load_model()``), and raises
ExplainError where the model has no attention. Shape suffixes: S stages (4), N crops.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from scipy import stats

from iqa_lib.data.crops import ImageSet, grid_crops
from iqa_lib.errors import ExplainError
from iqa_lib.models.hypernet import StageAttention
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import RunSettings
from iqa_lib.training.evaluate import ALPHAS, predict, predict_crops, stage_batches

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
    return predict_crops(settings, model, images, crops, "stage weights")[["row", *ALPHAS]]


def untrained_control(
    settings: RunSettings, model: BlindIQA, images: ImageSet, test: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """``ALPHAS`` of each test image (``run.test``) with an attention as before training, beside ``score``."""
    control = _with_untrained_attention(model, seed)
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
    settings: RunSettings, model: BlindIQA, images: ImageSet, rows: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """Predicted scores of these images, one column for each way to set the stage weights.

    ``as learned``; ``mean of all`` (every crop gets the mean weights); ``uniform`` (1/4 each); ``shuffled``
    (each crop gets the weights of a random crop of all images); ``stage 1 only`` to ``stage 4 only``; and
    ``untrained`` (the attention as before training). The rest of the model is the same throughout.
    """
    learned = stage_weights(settings, model, images, rows)
    untrained = stage_weights(settings, _with_untrained_attention(model, seed), images, rows)
    learned_NS, stages = learned[ALPHAS].to_numpy(), len(ALPHAS)
    everywhere = np.ones((len(learned), 1))
    ways = {
        "as learned": learned_NS,
        "mean of all": everywhere * learned_NS.mean(axis=0),
        "uniform": everywhere * np.full(stages, 1 / stages),
        "shuffled": np.random.default_rng(seed).permutation(learned_NS),
        **{f"stage {s + 1} only": everywhere * row for s, row in enumerate(np.eye(stages))},
        "untrained": untrained[ALPHAS].to_numpy(),
    }
    crops, done, scores = grid_crops(images, rows, settings.crop_size), 0, {way: [] for way in ways}
    with torch.inference_mode():
        for pooled in stage_batches(settings, model, images, crops, "scores with other weights"):
            part = slice(done, done := done + len(pooled.cells[0]))
            for way, alpha_NS in ways.items():
                alpha_BS = torch.tensor(alpha_NS[part]).to(pooled.cells[0])
                scores[way].append(model.score_stages(pooled, alpha_BS).float().cpu())
    table = pd.DataFrame({way: torch.cat(parts).double().numpy() for way, parts in scores.items()})
    return table.groupby(learned["row"]).mean().loc[rows].reset_index(drop=True)
