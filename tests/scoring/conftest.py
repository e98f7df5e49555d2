"""The model that these tests score with."""

import pytest
import torch

from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.scoring.score import load_scorer

CROP = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model: tiny, random."""
    torch.manual_seed(0)
    saved = tmp_path_factory.mktemp("models") / "tiny"
    SmartIQA(backbone="swin_test", pretrained=False, image_size=CROP).save_pretrained(saved)
    return saved


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(folder)
