"""The paper's experiments as data: each a list of variants, and what each changes in the profile.

A variant's run is trained once for every seed of the profile, whichever experiments share it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from iqa_lib.data.crops import ImageSet, load_images
from iqa_lib.data.offline import EMBEDDED
from iqa_lib.errors import ProfileError
from iqa_lib.profile import DataSettings, Profile
from iqa_lib.training.runs import Run


@dataclass(frozen=True)
class Variant:
    """One configuration of an experiment; ``paper`` names its row in the paper's table, where it has one."""

    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    paper: str | None = None
    seeds: tuple[int, ...] | None = None  # None: those of the profile


def variants(settings: Profile, experiment: str, only: Iterable[str] | None = None) -> list[Variant]:
    """The configurations of one of ``EXPERIMENTS`` under this profile.

    Args:
        only: labels of those wanted; all where None.

    Raises:
        ProfileError: no such experiment, or no such label in it.
    """
    if experiment not in EXPERIMENTS:
        near = difflib.get_close_matches(experiment, EXPERIMENTS, n=1)
        hint = f", did you mean '{near[0]}'?" if near else "."
        raise ProfileError(f"No experiment '{experiment}'{hint} Known: {', '.join(EXPERIMENTS)}.")
    chosen = EXPERIMENTS[experiment](settings)
    if unknown := set(only or ()) - {v.label for v in chosen}:
        known = ", ".join(f"'{v.label}'" for v in chosen)
        raise ProfileError(f"Experiment '{experiment}' has no run '{sorted(unknown)[0]}'. Known: {known}.")
    return [v for v in chosen if not only or v.label in only]


def _base(settings: Profile) -> dict[str, Any]:
    return {"backbone": settings.backbone_base or settings.backbone}


# Su et al., CVPR 2020, as their code trains it; its step schedule is not offered.
HYPER_IQA_RECIPE = {
    "learning_rate_backbone": 2e-5,
    "learning_rate_head": 2e-4,
    "weight_decay": 5e-4,
    "batch_size": 96,
    "epochs": 16,
    "train_crops": 25,
}


def _hyper_iqa(settings: Profile) -> Variant:
    changes = {"method": "hyper_iqa", "backbone": settings.backbone_hyper_iqa}
    if settings.hyper_iqa_recipe == "published":
        changes |= HYPER_IQA_RECIPE
    return Variant("HyperIQA", changes, "HyperIQA (ResNet-50)")


def _training(settings: Profile) -> list[Variant]:
    return [Variant("the profile's run", seeds=(settings.seed,))]


def _main(settings: Profile) -> list[Variant]:
    return [_hyper_iqa(settings), Variant("SMART-IQA", _base(settings), "SMART-Base")]


def _ablation(settings: Profile) -> list[Variant]:
    base = _base(settings)
    alone = {"use_multiscale": False, "use_attention": False}
    return [
        _hyper_iqa(settings),
        Variant("stronger backbone alone", base | alone, "Swin-Base backbone only"),
        Variant("+ AFA", base | {"use_attention": False}, "+ AFA"),
        Variant("+ attention (full)", base, "+ Attention (full)"),
    ]


def _fixed_regressor(settings: Profile) -> list[Variant]:
    base = _base(settings)
    return [Variant("fixed regressor", base | {"use_hyper": False}), Variant("hyper-network", base)]


def _sizes(settings: Profile) -> list[Variant]:
    sizes = {
        "SMART-Tiny": settings.backbone_tiny,
        "SMART-Small": settings.backbone_small,
        "SMART-Base": settings.backbone_base or settings.backbone,
    }
    named = [Variant(name, {"backbone": backbone}, name) for name, backbone in sizes.items() if backbone]
    controls = [Variant(f"control: {name}", {"backbone": name}) for name in settings.backbone_controls]
    return [*named, *controls]


# The paper varies the backbone's rate and keeps the head's at ten times it: both by the same factor.
LEARNING_RATES = {5e-6: 10, 3e-6: 6, 1e-6: 2, 5e-7: 1, 1e-7: 0.2}


def _learning_rates(settings: Profile) -> list[Variant]:
    def scaled(factor: float) -> dict[str, Any]:
        if factor == 1:
            return {}
        keys = ("learning_rate_backbone", "learning_rate_head")
        return {key: getattr(settings, key) * factor for key in keys}

    return [
        Variant(f"× {factor:g}", scaled(factor), paper=str(rate))
        for rate, factor in sorted(LEARNING_RATES.items(), key=lambda item: item[1])
    ]


def _losses(settings: Profile) -> list[Variant]:
    names = {
        "l1": ("L1", "L1 (MAE)"),
        "l2": ("L2", "L2 (MSE)"),
        "plcc": ("PLCC (the paper's “SRCC loss”)", "SRCC loss"),
        "srcc": ("soft-rank SRCC", None),
        "pairwise_rank": ("pairwise rank", "Pairwise ranking"),
        "pairwise_fidelity": ("pairwise fidelity", "Pairwise fidelity"),
    }
    plain = [Variant(label, {"loss": loss}, paper) for loss, (label, paper) in names.items()]
    return [*plain, Variant("L1 + margin ranking, α = 1", {"loss": "l1", "ranking_weight": 1.0})]


def _augmentation(settings: Profile) -> list[Variant]:
    found = [
        Variant("as the profile"),
        Variant("without flip", {"flip": False}, "add horizontal flip"),
        Variant("without random crop", {"random_crop": False}, "remove random crop"),
        Variant("colour jitter ± 20 %", {"colour_jitter": 0.2}, "add color jitter"),
    ]
    if settings.dataset in EMBEDDED:  # their images are smaller than every resolution that is tried
        return found
    # The paper's three quarters; where crops would not fit, four thirds.
    share = 3 / 4 if settings.resolution * 3 / 4 >= settings.crop_size else 4 / 3
    other = round(settings.resolution * share)
    published = "resize to 384x288 instead of 512x384" if share < 1 else None
    return [*found, Variant(f"resolution {other}", {"resolution": other}, published)]


def _protocol(settings: Profile) -> list[Variant]:
    return [Variant("as the profile", {"watch_test": True})]


EXPERIMENTS = {
    "training": _training,
    "main": _main,
    "ablation": _ablation,
    "fixed_regressor": _fixed_regressor,
    "model_sizes": _sizes,
    "learning_rate": _learning_rates,
    "loss": _losses,
    "augmentation": _augmentation,
    "protocol": _protocol,
    "cross_dataset": _main,
}


def settings_of(settings: Profile, variant: Variant, seed: int) -> Profile:
    return settings.model_copy(update={**variant.changes, "seed": seed})


class Images:
    """The images of a study's variants, loaded once for all that ask for the same."""

    def __init__(self):
        self._sets: dict[DataSettings, ImageSet] = {}

    def of(self, settings: DataSettings) -> ImageSet:
        if settings.data not in self._sets:
            self._sets[settings.data] = load_images(settings)
        return self._sets[settings.data]


def results(
    settings: Profile,
    experiment: str,
    only: Iterable[str] | None = None,
    train_missing: bool = True,
) -> dict[str, list[Run]]:
    """Each variant's runs, one per seed; trains what is missing.

    Args:
        only: as for `variants`.
        train_missing: False: leave out what is not in the store.

    Raises:
        ProfileError: unknown experiment or variant.
    """
    from iqa_lib.training.train import train

    chosen = variants(settings, experiment, only)
    images = Images()
    found: dict[str, list[Run]] = {}
    for variant in chosen:
        for seed in variant.seeds or settings.seeds:
            wanted = settings_of(settings, variant, seed)
            data = images.of(wanted)
            run = Run(wanted, data.fingerprint)
            if run.complete or train_missing:
                found.setdefault(variant.label, []).append(train(wanted, data))
    return found
