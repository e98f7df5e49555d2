"""What a study would cost, before any of it is trained."""

from __future__ import annotations

import functools

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from iqa_lib import experiments
from iqa_lib.data import catalog
from iqa_lib.errors import DataError
from iqa_lib.profile import Profile
from iqa_lib.runs import Run
from iqa_lib.train import build_model

GPU_RATE = (
    60e12  # FLOP/s that training is assumed to sustain in bf16: a good tenth of a data-centre card's peak
)
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
    images = experiments.Images(settings)
    known = catalog.describe(settings.dataset, settings.data_folder).images
    seen, lines = set(), []
    for name in names:
        for variant in experiments.variants(settings, name):
            if only and variant.label not in only:
                continue
            for seed in settings.seeds:
                wanted = experiments.settings_of(settings, variant, seed)
                try:
                    data = images.of(wanted)
                    trained_on, fingerprint = len(data.rows("train")), data.fingerprint
                except DataError:
                    trained_on, fingerprint = round(0.7 * (known or 0)), ""
                run = Run(wanted, fingerprint)
                shared = run.folder in seen
                seen.add(run.folder)
                parameters, flop = size_of(wanted.model_copy(update={"seed": 0}))
                passes = FORWARD_AND_BACKWARD * wanted.epochs if not wanted.freeze_backbone else 1
                hours = trained_on * wanted.train_crops * passes * flop / GPU_RATE / 3600
                changes = ", ".join(f"{k}={v}" for k, v in variant.changes.items()) or "the profile as it is"
                state = "done" if run.complete else "shared" if shared else "missing"
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


def print_plan(settings: Profile, names: list[str], only: list[str] | None = None) -> None:
    table = plan(settings, names, only)
    print(table.to_string(index=False))
    missing = table[table["state"] == "missing"]
    print(
        f"\n{len(missing)} runs are missing, {missing['GPU hours (estimate)'].sum():.1f} GPU hours at an assumed "
        f"{GPU_RATE / 1e12:.0f} TFLOP/s; {(table['state'] == 'shared').sum()} shared with another, "
        f"{(table['state'] == 'done').sum()} done."
    )
