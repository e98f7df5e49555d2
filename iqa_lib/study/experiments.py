"""The paper's experiments as data: each a list of variants, what each changes in the profile, and what is claimed.

A variant's run is trained once for every seed of the profile, whichever experiments share it.
"""

import difflib
import functools
import importlib.resources
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from iqa_lib.data.catalog import describe
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.data.offline import EMBEDDED
from iqa_lib.errors import ProfileError
from iqa_lib.profile import Profile
from iqa_lib.training.evaluate import test_on
from iqa_lib.training.runs import Run, StoredRun

Runs = dict[str, list[StoredRun]]  # a variant's runs, one per seed, by its label


@dataclass(frozen=True)
class Variant:
    """One configuration of an experiment."""

    label: str
    changes: dict[str, Any] = field(default_factory=dict)  # to the profile
    # A baseline is what others are compared with; it is trained with ``baseline_seeds``, too.
    role: Literal["baseline", "step", "control"] = "step"
    factor: float | None = None  # by which a number is multiplied, where that is what is varied
    paper: str | None = None  # its row in the paper's table
    published: dict[str, float] = field(default_factory=dict)  # the paper's numbers for it, by the name of our column
    seeds: tuple[int, ...] | None = None  # None: those of the profile
    ablated: bool = False  # a part of the method taken away or put back: with ``ablation_seeds``, too


@dataclass(frozen=True)
class Elsewhere:
    """Another dataset than the one trained on, to test on."""

    name: str
    images: ImageSet


@dataclass(frozen=True)
class Claim:
    """That ``first`` beats ``second`` by ``size`` (SRCC; 0: equals it); size None: only that it beats it."""

    text: str
    first: str
    second: str
    size: float | None = None
    elsewhere: Elsewhere | None = None  # where it is judged, if not at home


def beats(first: Variant, second: Variant, size: float | None = None, on: Elsewhere | None = None) -> Claim:
    """The claim that the paper's numbers make of two variants, or that ``size`` does: its sentence follows the sign."""
    if size is None and {"SRCC"} <= first.published.keys() & second.published.keys():
        size = round(first.published["SRCC"] - second.published["SRCC"], 6)
    if size is not None and size < 0:
        first, second, size = second, first, -size
    where = f" on {on.name}" if on else ""
    verb = "equals" if size == 0 else "beats"
    return Claim(f"{first.label} {verb} {second.label}{where}", first.label, second.label, size, on)


def paper(name: str) -> pd.DataFrame:
    """A table of the SMART-IQA paper, such as ``training_log_base``; reference only, never a result."""
    return pd.read_csv(importlib.resources.files("iqa_lib.study") / "paper" / f"{name}.csv")


def _beside(variants: Iterable[Variant], table: str, key: str, **columns: str) -> list[Variant]:
    """With the numbers of the paper's table whose rows are named in its column ``key``; ``columns``: theirs to ours."""
    published = paper(table).astype({key: str}).set_index(key)[list(columns)].rename(columns=columns)
    numbers = {row: of_row.dropna().to_dict() for row, of_row in published.iterrows()}
    return [replace(v, published=numbers.get(v.paper, {})) for v in variants]


# --- variants ---------------------------------------------------------------------------------------------


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


def _hyper_iqa(settings: Profile, row: str) -> Variant:
    recipe = HYPER_IQA_RECIPE if settings.hyper_iqa_recipe == "published" else {}
    changes = {"method": "hyper_iqa", "backbone": settings.backbone_hyper_iqa} | recipe
    return Variant("HyperIQA", changes, paper=row, ablated=True)


def main(settings: Profile) -> list[Variant]:
    smart = Variant("SMART-IQA", _base(settings), "baseline", paper="SMART-Base", ablated=True)
    rows = [_hyper_iqa(settings, "HyperIQA"), smart]
    return _beside(rows, "sota_koniq10k", "method", srcc="SRCC", plcc="PLCC")


def ablation(settings: Profile) -> list[Variant]:
    base = _base(settings)
    alone = {"use_multiscale": False, "use_attention": False}
    rows = [
        _hyper_iqa(settings, "HyperIQA (ResNet-50)"),
        Variant("stronger backbone alone", base | alone, paper="Swin-Base backbone only", ablated=True),
        Variant("+ AFA", base | {"use_attention": False}, paper="+ AFA", ablated=True),
        Variant("+ attention (full)", base, "baseline", paper="+ Attention (full)", ablated=True),
    ]
    return _beside(rows, "ablation_koniq10k", "configuration", srcc="SRCC", plcc="PLCC")


def fixed_regressor(settings: Profile) -> list[Variant]:
    base = _base(settings)
    fixed = Variant("fixed regressor", base | {"use_hyper": False}, ablated=True)
    return [fixed, Variant("hyper-network", base, "baseline", ablated=True)]


def model_sizes(settings: Profile) -> list[Variant]:
    base = settings.backbone_base or settings.backbone
    sizes = {"SMART-Tiny": settings.backbone_tiny, "SMART-Small": settings.backbone_small, "SMART-Base": base}
    named = [
        Variant(name, {"backbone": backbone}, "baseline" if backbone == base else "step", paper=name)
        for name, backbone in sizes.items()
        if backbone
    ]
    controls = [Variant(f"control: {name}", {"backbone": name}, "control") for name in settings.backbone_controls]
    return _beside([*named, *controls], "complexity", "model", srcc="SRCC", params_m="parameters (M)")


# The paper varies the backbone's rate and keeps the head's at ten times it: both by the same factor.
LEARNING_RATES = {1e-7: 0.2, 5e-7: 1, 1e-6: 2, 3e-6: 6, 5e-6: 10}


def learning_rate(settings: Profile) -> list[Variant]:
    rows = []
    for rate, factor in LEARNING_RATES.items():
        rates = {key: getattr(settings, key) * factor for key in ("learning_rate_backbone", "learning_rate_head")}
        changes, role = ({}, "baseline") if factor == 1 else (rates, "step")
        rows.append(Variant(f"× {factor:g}", changes, role, factor, paper=str(rate)))
    return _beside(rows, "learning_rate", "lr_backbone", srcc="SRCC")


def loss(settings: Profile) -> list[Variant]:
    rows = [
        Variant("L1", {"loss": "l1"}, "baseline", paper="L1 (MAE)"),
        Variant("L2", {"loss": "l2"}, paper="L2 (MSE)"),
        Variant("PLCC (the paper's “SRCC loss”)", {"loss": "plcc"}, paper="SRCC loss"),
        Variant("soft-rank SRCC", {"loss": "srcc"}),
        Variant("pairwise rank", {"loss": "pairwise_rank"}, paper="Pairwise ranking"),
        Variant("pairwise fidelity", {"loss": "pairwise_fidelity"}, paper="Pairwise fidelity"),
        Variant("L1 + margin ranking, α = 1", {"loss": "l1", "ranking_weight": 1.0}),
    ]
    return _beside(rows, "loss_functions", "loss", srcc="SRCC", plcc="PLCC")


def augmentation(settings: Profile) -> list[Variant]:
    found = [
        Variant("as the profile", {}, "baseline"),
        Variant("without flip", {"flip": False}, paper="add horizontal flip"),
        Variant("without random crop", {"random_crop": False}, paper="remove random crop"),
        Variant("colour jitter ± 20 %", {"colour_jitter": 0.2}, paper="add color jitter"),
    ]
    if settings.dataset not in EMBEDDED:  # whose images are smaller than every resolution that is tried
        # The paper's three quarters; where crops would not fit, four thirds.
        share = 3 / 4 if settings.resolution * 3 / 4 >= settings.crop_size else 4 / 3
        other = round(settings.resolution * share)
        published = "resize to 384x288 instead of 512x384" if share < 1 else None
        found.append(Variant(f"resolution {other}", {"resolution": other}, paper=published))
    return _beside(found, "augmentation", "change", srcc_delta_koniq10k="effect")


def protocol(settings: Profile) -> list[Variant]:
    """Runs that also note the test split's agreement after every epoch; and the same trainings by more seeds."""
    return [Variant("watching the test split", {"watch_test": True}), Variant("as the profile", {}, "baseline")]


# --- claims -----------------------------------------------------------------------------------------------


def steps(settings: Profile, variants: Sequence[Variant]) -> list[Claim]:
    """Each variant beats the one before it; controls make no claim."""
    return [beats(after, before) for before, after in itertools.pairwise(v for v in variants if v.role != "control")]


def of_baseline(settings: Profile, variants: Sequence[Variant]) -> list[Claim]:
    """The baseline beats every other variant; no claim on random crops where every crop is the whole image."""
    baseline = next(v for v in variants if v.role == "baseline")
    others = [v for v in variants if v is not baseline]
    if any("random_crop" in v.changes for v in others) and crops_are_whole_images(settings, load_images(settings)):
        others = [v for v in others if "random_crop" not in v.changes]
    # The paper gives "add flip: +0.002" and for others what the change costs: both as the baseline's lead.
    return [beats(baseline, v, abs(v.published["effect"]) if "effect" in v.published else None) for v in others]


def across(settings: Profile, variants: Sequence[Variant], elsewhere: Sequence[Elsewhere]) -> list[Claim]:
    """SMART-IQA beats HyperIQA at home and on every other dataset, by what the paper says where it has that."""
    hyper_iqa, smart = (replace(v, published={}) for v in variants)
    claims = []
    for name, on, srcc in everywhere(settings, elsewhere):
        claim = beats(smart, hyper_iqa, srcc["SMART-IQA"] - srcc["HyperIQA"] if srcc else None, on)
        claims.append(claim if on else replace(claim, text=f"{claim.text} on {name}"))
    return claims


def everywhere(
    settings: Profile, elsewhere: Sequence[Elsewhere]
) -> Iterator[tuple[str, Elsewhere | None, dict[str, float]]]:
    """Home (where: None) and every other dataset: its name, where, and the paper's SRCC there by method, if any."""
    columns = {"hyperiqa_srcc": "HyperIQA", "smart_srcc": "SMART-IQA"}
    published = paper("cross_dataset").set_index("dataset").rename(columns=columns)[list(columns.values())]
    for name, on in [(settings.dataset, None), *((e.name, e) for e in elsewhere)]:
        title = describe(name, settings.data_folder).title
        yield name, on, published.loc[title].to_dict() if title in published.index else {}


def crops_are_whole_images(settings: Profile, images: ImageSet) -> bool:
    """Nearly all of them: then random crops, in training or at test, are no choice at all."""
    return images.share_of_one_crop(settings.crop_size) > 0.99


# --- the registry -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """Its variants, and what is claimed of them."""

    variants: Callable[[Profile], list[Variant]]
    claims: Callable[[Profile, Sequence[Variant]], list[Claim]] | None = None


EXPERIMENTS = {
    "training": Experiment(lambda settings: [Variant("the profile's run", seeds=(settings.seed,))]),
    "main": Experiment(main),
    "ablation": Experiment(ablation, steps),
    "fixed_regressor": Experiment(fixed_regressor, of_baseline),
    "model_sizes": Experiment(model_sizes, steps),
    "learning_rate": Experiment(learning_rate, of_baseline),
    "loss": Experiment(loss, of_baseline),
    "augmentation": Experiment(augmentation, of_baseline),
    "protocol": Experiment(protocol),
    "cross_dataset": Experiment(main),
}


def variants(settings: Profile, experiment: str, only: Iterable[str] | None = None) -> list[Variant]:
    """The configurations of one of ``EXPERIMENTS`` under this profile, or ``only`` those with these labels.

    Raises ProfileError: no such experiment, or no such label in it.
    """
    if experiment not in EXPERIMENTS:
        near = difflib.get_close_matches(experiment, EXPERIMENTS, n=1)
        hint = f", did you mean '{near[0]}'?" if near else "."
        raise ProfileError(f"No experiment '{experiment}'{hint} Known: {', '.join(EXPERIMENTS)}.")
    chosen = EXPERIMENTS[experiment].variants(settings)
    if unknown := set(only or ()) - {v.label for v in chosen}:
        known = ", ".join(f"'{v.label}'" for v in chosen)
        raise ProfileError(f"Experiment '{experiment}' has no run '{sorted(unknown)[0]}'. Known: {known}.")
    return [v for v in chosen if not only or v.label in only]


def settings_of(settings: Profile, variant: Variant, seed: int) -> Profile:
    return settings.model_copy(update={**variant.changes, "seed": seed})


def seeds_of(settings: Profile, variant: Variant) -> tuple[int, ...]:
    """A baseline's are more where a profile affords one run of each variant: their scatter stands for the others'."""
    if variant.seeds:
        return variant.seeds
    if variant.role == "control":  # makes no claim: two show how far its runs lie apart
        return tuple(settings.seeds[:2])
    more = settings.baseline_seeds if variant.role == "baseline" else ()
    return tuple(dict.fromkeys((*settings.seeds, *more, *(settings.ablation_seeds if variant.ablated else ()))))


def wanted_runs(settings: Profile, variants: Iterable[Variant]) -> Iterator[tuple[Variant, Run, ImageSet]]:
    """The runs of these variants, one per seed, trained or not (`Run.complete`), each with its images.

    The images are loaded once for all that ask for the same.
    """
    images_of = functools.cache(load_images)
    for variant in variants:
        for seed in seeds_of(settings, variant):
            wanted = settings_of(settings, variant, seed)
            images = images_of(wanted.data)
            yield variant, Run(wanted, images.fingerprint), images


def train_all(settings: Profile, variants: Sequence[Variant], train_missing: bool = True) -> Runs:
    """The runs of these variants by label: from the store; what is missing there is trained, or left out."""
    from iqa_lib.training.train import train

    found: dict[str, list[Run]] = {}
    for variant, run, images in wanted_runs(settings, variants):
        if run.complete or train_missing:
            found.setdefault(variant.label, []).append(train(run.settings, images))
    return found


def results(settings: Profile, experiment: str, only: Iterable[str] | None = None, train_missing: bool = True) -> Runs:
    """As `train_all`, of one of ``EXPERIMENTS``; ``only`` as for `variants`."""
    return train_all(settings, variants(settings, experiment, only), train_missing)


def predictions(runs: list[StoredRun], elsewhere: Elsewhere | None = None) -> tuple[np.ndarray, pd.DataFrame]:
    """Predictions (seeds, images) of a variant on its test split, or on another dataset; and the images' labels."""
    parts = [test_on(run, elsewhere.name, elsewhere.images) if elsewhere else run.test for run in runs]
    return np.stack([part["prediction"].to_numpy() for part in parts]), parts[0]
