"""What a study would cost, before any of it is trained."""

import functools
from collections.abc import Callable

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from iqa_lib.data import catalog
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import DataError
from iqa_lib.profile import DataSettings, Profile
from iqa_lib.study import experiments
from iqa_lib.training.loop import build_model
from iqa_lib.training.runs import Run

# FLOP/s that training is assumed to sustain in bf16: a little over 10 % of a data-centre card's peak
GPU_RATE = 60e12
FORWARD_AND_BACKWARD = 3  # times the forward pass's arithmetic


@functools.lru_cache
def size_of(settings: Profile) -> tuple[int, float]:
    """Parameters, and FLOP of one crop's forward pass (two per multiply-accumulate); weights are not loaded."""
    model = build_model(settings.model_copy(update={"pretrained": False})).eval()
    crop = torch.zeros(1, 3, settings.crop_size, settings.crop_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(crop)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def plan(settings: Profile, names: list[str], only: list[str] | None = None) -> pd.DataFrame:
    """A row per run of these experiments: what it changes, parameters, estimated GPU hours, and whether it is there.

    Runs that an earlier row lists already cost nothing. Without the dataset the published number of images counts.
    """
    images_of, seen, lines = functools.cache(load_images), set(), []
    for name in names:
        for variant in experiments.variants(settings, name, only):
            parameters, hours, fingerprint = _cost(experiments.settings_of(settings, variant, 0), images_of)
            changes = ", ".join(f"{k}={v}" for k, v in variant.changes.items()) or "the profile as it is"
            for seed in experiments.seeds_of(settings, variant):
                run = Run(experiments.settings_of(settings, variant, seed), fingerprint)
                state = "done" if run.complete else "shared" if run.folder in seen else "missing"
                seen.add(run.folder)
                lines.append(
                    {
                        "experiment": name,
                        "run": variant.label,
                        "seed": seed,
                        "changes": changes,
                        "parameters (M)": round(parameters / 1e6, 2),
                        "GPU hours (estimate)": 0.0 if state != "missing" else round(hours, 2),
                        "state": state,
                    }
                )
    return pd.DataFrame(lines)


def _cost(wanted: Profile, images_of: Callable[[DataSettings], ImageSet]) -> tuple[int, float, str]:
    """Of one run with any seed: parameters, hours, and the data's fingerprint, empty where they are absent."""
    try:
        images = images_of(wanted.data)
        trained_on, fingerprint = len(images.rows("train")), images.fingerprint
    except DataError:
        published = catalog.describe(wanted.dataset, wanted.data_folder).images
        trained_on, fingerprint = round(0.7 * (published or 0)), ""
    parameters, flop = size_of(wanted)
    passes = 1 if wanted.freeze_backbone else FORWARD_AND_BACKWARD * wanted.epochs
    return parameters, trained_on * wanted.train_crops * passes * flop / GPU_RATE / 3600, fingerprint


def print_plan(settings: Profile, names: list[str], only: list[str] | None = None) -> None:
    table = plan(settings, names, only)
    print(table.to_string(index=False))
    runs = table["state"].value_counts().reindex(["missing", "shared", "done"], fill_value=0)
    print(
        f"\n{runs['missing']} runs are missing, {table['GPU hours (estimate)'].sum():.1f} GPU hours at an assumed "
        f"{GPU_RATE / 1e12:.0f} TFLOP/s; {runs['shared']} shared with another, {runs['done']} done."
    )
