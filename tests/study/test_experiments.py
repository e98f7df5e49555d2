"""Experiments are data: every variant is a valid profile, shared runs are one run, and a plan says what they cost."""

import numpy as np
import pytest
from PIL import Image

from iqa_lib.errors import ProfileError
from iqa_lib.profile import Profile, load_profile
from iqa_lib.study import exhibits, experiments, plan
from iqa_lib.study.experiments import EXPERIMENTS, Variant, beats, results, settings_of, variants
from iqa_lib.study.page import Page
from iqa_lib.training.runs import Run

PROFILES = ["demo", "biq2021", "paper"]


def runs_of(settings, experiment):
    return {v.label: Run(settings_of(settings, v, 0), "").folder for v in variants(settings, experiment)}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_variant_is_a_valid_profile_and_a_run_of_its_own(profile, experiment):
    settings = load_profile(profile)
    for variant in variants(settings, experiment):
        Profile(**settings_of(settings, variant, 0).model_dump())
    folders = runs_of(settings, experiment)
    assert len(set(folders.values())) == len(folders)


def test_what_experiments_share_is_one_run():
    settings = load_profile("paper")
    ablation, main = runs_of(settings, "ablation"), runs_of(settings, "main")
    assert main["HyperIQA"] == ablation["HyperIQA"]
    full = {
        ablation["+ attention (full)"],
        main["SMART-IQA"],
        runs_of(settings, "model_sizes")["SMART-Base"],
        runs_of(settings, "learning_rate")["× 1"],
        runs_of(settings, "loss")["L1"],
        runs_of(settings, "fixed_regressor")["hyper-network"],
    }
    assert len(full) == 1


def test_the_papers_rows_are_named_as_in_its_tables():
    settings = load_profile("paper")
    for experiment, name, key in (
        ("ablation", "ablation_koniq10k", "configuration"),
        ("learning_rate", "learning_rate", "lr_backbone"),
        ("loss", "loss_functions", "loss"),
        ("augmentation", "augmentation", "change"),
    ):
        named = {v.paper for v in variants(settings, experiment)} - {None}
        assert named <= set(experiments.paper(name)[key].astype(str)), experiment


def test_an_unknown_experiment_or_run_is_named():
    with pytest.raises(ProfileError, match=r"did you mean .ablation."):
        variants(load_profile("smoke"), "ablations")
    with pytest.raises(ProfileError, match=r"no run '\+ afa'. Known: 'HyperIQA', .*'\+ AFA'"):
        results(load_profile("smoke"), "ablation", ["+ afa"])


def test_a_plan_refuses_what_a_training_would_refuse():
    with pytest.raises(ProfileError, match=r"no run '\+ afa'"):
        plan.plan(load_profile("paper"), ["ablation"], ["+ afa"])


def small():
    return load_profile("smoke", backbone_hyper_iqa="swin_test", epochs=1, train_crops=1, seeds=(0, 1))


def test_results_trains_what_is_missing_and_only_that(home, monkeypatch):
    (first,) = results(small(), "main", ["HyperIQA"]).values()
    assert [run.settings.seed for run in first] == [0, 1]
    assert results(small(), "main", train_missing=False).keys() == {"HyperIQA"}
    monkeypatch.setattr("iqa_lib.training.train._train", pytest.fail)
    (again,) = results(small(), "ablation", ["HyperIQA"]).values()
    assert [run.folder for run in again] == [run.folder for run in first]


def test_a_plan_lists_each_run_once_with_its_cost(home):
    results(small(), "main", ["HyperIQA"])
    table = plan.plan(small(), ["main", "ablation"])
    states = table.groupby("state").size().to_dict()
    assert states == {"done": 4, "missing": 6, "shared": 2}
    missing = table[table["state"] == "missing"]
    assert (missing["parameters (M)"] > 0).all()


def test_a_plan_for_the_paper_needs_neither_data_nor_weights(home):
    table = plan.plan(load_profile("paper", seeds=(0,)), ["ablation"])
    assert table["parameters (M)"].tolist() == [27.38, 88.39, 88.85, 89.11]
    assert (table["GPU hours (estimate)"] > 0).all()


def images_of(*changes):
    """Of runs with each of these changes to the profile."""
    variants = [Variant(str(change), change, seeds=(0,)) for change in changes]
    return [images for _, _, images in experiments.wanted_runs(small(), variants)]


def test_images_are_decoded_once_for_each_working_size(home):
    of_profile, same, smaller = images_of({}, {"loss": "l2"}, {"resolution": 96})
    assert of_profile is same
    assert of_profile is not smaller


@pytest.mark.parametrize(
    "change", [{"dataset": "offline-lab-tiny"}, {"score_range": (100, 0)}, {"split_seed": 3}], ids=str
)
def test_a_variant_of_other_images_never_gets_those_of_the_profile(home, change):
    of_profile, others = images_of({}, change)
    assert of_profile is not others
    if "dataset" in change:
        assert len(others) != len(of_profile)


def test_rebuilding_trains_nothing_and_names_what_is_missing(home, monkeypatch):
    monkeypatch.setattr("iqa_lib.training.train._train", pytest.fail)
    table = exhibits.rebuild(Page(small(), "10_paper_figures")).set_index("experiment")["state"]
    assert set(table.index) == set(EXPERIMENTS)
    assert "lacks runs of HyperIQA, SMART-IQA" in table["main"]
    assert "python -m iqa_lib train --profile smoke --experiment main" in table["main"]


def test_hyper_iqa_may_be_trained_as_its_authors_did():
    paper = load_profile("paper")
    (hyper_iqa, _) = variants(paper, "main")
    assert settings_of(paper, hyper_iqa, 0).learning_rate_backbone == 2e-5
    (same, _) = variants(load_profile("demo"), "main")
    assert same.changes.keys() == {"method", "backbone"}


def test_no_claim_on_random_crops_is_judged_where_a_crop_is_the_whole_image(home, tmp_path):
    """Twelve square images of the crop's size, with a random image in each."""
    rng, lines = np.random.default_rng(0), ["image,score,split"]
    for number, split in enumerate(["train", "val", "test"] * 4):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{8 * number},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    settings = load_profile("smoke", dataset=str(tmp_path / "labels.csv"), epochs=1, train_crops=1)
    claims = EXPERIMENTS["augmentation"].claims(settings, variants(settings, "augmentation"))
    assert len(claims) == 3 and not any("random crop" in claim.text for claim in claims)


def test_a_claim_follows_the_sign_of_the_papers_difference():
    """AGIQA-3K: SMART-IQA 0.0143 below HyperIQA, in the paper's own table."""
    smart, hyper_iqa = (Variant(name, published={"SRCC": srcc}) for name, srcc in (("S", 0.6484), ("H", 0.6627)))
    claim = beats(smart, hyper_iqa)
    assert (claim.text, claim.first, claim.size) == ("H beats S", "H", 0.0143)
    assert beats(hyper_iqa, smart) == claim
    assert beats(smart, Variant("new")).size is None


def test_a_baseline_alone_gets_more_seeds(home):
    settings = small().model_copy(update={"seeds": (0,), "baseline_seeds": (0, 1, 2)})
    seeds = {v.label: experiments.seeds_of(settings, v) for v in variants(settings, "main")}
    assert seeds == {"HyperIQA": (0,), "SMART-IQA": (0, 1, 2)}
