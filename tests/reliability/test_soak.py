"""Long use: memory stays flat and nothing fails."""

import contextlib
import ctypes
import gc
import io
import json
import os
import random
import time
from datetime import UTC, datetime

import numpy as np
import psutil
import torch
from elsewhere import finish
from PIL import Image
from skimage import data

from iqa_lib import paths
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.profile import load_profile

SECONDS = float(os.environ.get("IQA_SOAK_SECONDS", "25"))
ACTIONS = 500


def slope(memory_MB, per):
    """MB per so many steps, a line through the second half: caches fill in the first."""
    half = len(memory_MB) // 2
    return float(np.polyfit(np.arange(len(memory_MB) - half), memory_MB[half:], 1)[0]) * per


def used():
    """MB in use; what the allocator keeps for later is given back first."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another allocator than glibc's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6


def drive_the_explorer():
    from iqa_lib.data.images import load_images
    from iqa_lib.explorer.app import Explorer
    from iqa_lib.training.train import train

    settings = load_profile("smoke", epochs=1)
    images = load_images(settings)
    runs = [train(settings.model_copy(update={"method": m}), images) for m in ("smart_iqa", "hyper_iqa")]
    explorer = Explorer(settings, runs, images, synchronous=True)
    explorer.answers.cache.limit = 16 << 20  # full long before the end: what grows after that is a leak
    rng, memory, told = random.Random(0), [], set()

    def choose(control):
        options = [value for _, value in control.options] if isinstance(control.options[0], tuple) else control.options
        control.value = rng.choice(options)

    def upload():
        pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (120, 160, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        file = {"name": f"{rng.random()}.png", "type": "", "size": content.tell(), "last_modified": datetime.now(UTC)}
        explorer.upload.value = ({**file, "content": memoryview(content.getvalue())},)

    actions = [
        *(
            lambda control=control: choose(control)
            for control in (explorer.image, explorer.distortion, explorer.model, explorer.other)
        ),
        lambda: setattr(explorer.level, "value", rng.randint(0, 5)),
        lambda: setattr(explorer.opacity, "value", rng.random()),
        upload,
        explorer.keep.click,
        explorer.clear.click,
    ]
    gc.freeze()  # what was imported, half a second of every collection, is no leak
    for number in range(ACTIONS):
        rng.choice(actions)()
        told.add(explorer.status.value)
        if number % 10 == 0:
            memory.append(used())
    (paths.HOME / "soak.json").write_text(json.dumps({"memory": memory, "told": sorted(told)}))


def test_an_explorer_driven_at_random(record, homes):
    home = homes()
    finish(home, drive_the_explorer, seconds=600)
    soak = json.loads((home / "soak.json").read_text())
    assert all("ready" in status for status in soak["told"]), soak["told"]
    grown = slope(soak["memory"], 10)
    assert grown < 5, soak["memory"]
    record(
        "explorer",
        "random actions on every control, its cache held to 16 MB",
        ACTIONS,
        f"nothing; memory {grown:+.1f} MB per 100 actions",
    )


def score_in_a_loop(model):
    from iqa_lib.scoring.score import load_scorer, score

    scorer, memory = load_scorer(model), []
    photographs = [data.coffee(), data.chelsea(), data.astronaut(), *data.lfw_subset()[:5]]
    images = [Image.fromarray(p if p.dtype == np.uint8 else (p * 255).astype(np.uint8)) for p in photographs]
    first, end = score(images, scorer).tolist(), time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert score(images, scorer).tolist() == first
        memory.append(used())
    (paths.HOME / "soak.json").write_text(json.dumps(memory))


def test_scoring_in_a_loop(record, homes, tmp_path):
    """For IQA_SOAK_SECONDS: 600 for the ten minutes that are asked of a release."""
    torch.manual_seed(0)
    SmartIQA(backbone="swin_test", pretrained=False, image_size=96).save_pretrained(tmp_path / "model")
    home = homes()
    finish(home, score_in_a_loop, str(tmp_path / "model"), seconds=SECONDS + 120)
    memory = json.loads((home / "soak.json").read_text())
    grown = slope(memory, len(memory) / 2)
    assert grown < 3, memory[:: max(1, len(memory) // 20)]
    tried = f"the same 8 photographs for {SECONDS:.0f} s (IQA_SOAK_SECONDS), equal scores each time"
    record("scoring, soak", tried, f"{len(memory):,} rounds", f"nothing; memory {grown:+.1f} MB in the second half")
