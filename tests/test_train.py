"""Training: repeatable to the bit, resumable from any moment, stored once, honest about failure."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib.data.augment import jitter_colours
from iqa_lib.data.crops import load_images
from iqa_lib.errors import RunError
from iqa_lib.profile import load_profile
from iqa_lib.train import _optimizer, _schedule, build_model, train, training_crops

FROZEN = {"freeze_backbone": True}


@pytest.mark.parametrize("options", [{}, FROZEN, {"method": "hyper_iqa"}, {"use_attention": False}], ids=str)
def test_a_run_is_complete_and_can_be_read_back(home, options):
    run = train(load_profile("smoke", **options))
    files = {p.name for p in run.folder.iterdir()}
    assert files >= {"result.json", "run.json", "epochs.jsonl", "predictions.parquet", "environment.json"}
    assert "state.pt" not in files
    assert len(run.epochs) == 2
    assert set(run.predictions["split"]) == {"val", "test"}
    attention = [c for c in run.predictions if c.startswith("alpha")]
    with_attention = options in ({}, FROZEN)
    assert attention == (["alpha1", "alpha2", "alpha3", "alpha4"] if with_attention else [])
    if with_attention:
        np.testing.assert_allclose(run.predictions[attention].sum(axis=1), 1, rtol=1e-5)
    srcc = run.result["test"]["SRCC"]
    assert -1 <= srcc["low"] <= srcc["value"] <= srcc["high"] <= 1


def test_the_same_settings_are_trained_once(home, monkeypatch):
    first = train(load_profile("smoke"))
    monkeypatch.setattr("iqa_lib.train._train", pytest.fail)
    assert train(load_profile("smoke")).folder == first.folder


def test_other_settings_or_other_data_are_another_run(home):
    folder = train(load_profile("smoke", epochs=1)).folder
    assert train(load_profile("smoke", epochs=1, seed=1)).folder != folder
    labels = home / "data/offline-wild-tiny/labels.csv"
    table = pd.read_csv(labels)
    table.loc[0, "score"] -= 1
    table.to_csv(labels, index=False)
    assert train(load_profile("smoke", epochs=1)).folder != folder


@pytest.mark.parametrize("options", [{}, FROZEN], ids=["whole", "frozen"])
def test_training_learns_what_is_there_to_learn(home, options):
    """A network that works fits its training images better and better."""
    rates = {"learning_rate_backbone": 3e-3, "learning_rate_head": 3e-3}
    epochs = train(load_profile("smoke", epochs=20, train_crops=4, patience=20, **rates, **options)).epochs
    assert epochs["train_loss"].min() < 0.9 * epochs["train_loss"].iloc[0]


def test_a_frozen_backbone_does_not_move(home):
    settings = load_profile("smoke", **FROZEN)
    from accelerate.utils import set_seed

    set_seed(settings.seed)
    fresh = build_model(settings).backbone.state_dict()
    trained = train(settings).load_model().backbone.state_dict()
    assert all(torch.equal(fresh[k], trained[k]) for k in fresh)


def test_cached_features_score_as_the_whole_network_does(home):
    from iqa_lib.evaluate import predict

    settings = load_profile("smoke", **FROZEN)
    run, images = train(settings), load_images(settings)
    whole = predict(load_profile("smoke"), run.load_model(), images, images.rows("test"))
    stored = run.predictions.query("split == 'test'")["prediction"].to_numpy()
    np.testing.assert_allclose(whole["prediction"], stored, atol=0.05)  # the cache is float16


@pytest.mark.parametrize("options", [{}, FROZEN], ids=["whole", "frozen"])
def test_two_processes_train_as_one_does(tmp_path, built_data, options):
    """HyperIQA, because dropout draws differ between processes by design."""
    script = tmp_path / "script.py"
    script.write_text(
        "from iqa_lib.profile import load_profile; from iqa_lib.train import train\n"
        f"train(load_profile('smoke', method='hyper_iqa', learning_rate_head=1e-4, **{options}))\n"
    )
    losses = []
    for count in (1, 2):
        home = tmp_path / str(count)
        shutil.copytree(built_data, home / "data")
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", f"--num_processes={count}"]
        launch += [
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
            "--num_cpu_threads_per_process=1",
        ]
        launch.append(str(script))
        subprocess.run(launch, env={**os.environ, "IQA_HOME": str(home)}, check=True, timeout=180)
        (log,) = home.glob("runs/smoke/store/*/epochs.jsonl")
        losses.append(pd.read_json(log, lines=True)["train_loss"].to_numpy())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def rates_of(settings, steps):
    optimizer = _optimizer(build_model(settings), settings)
    factors = _schedule(settings, optimizer, steps // settings.epochs)
    return [
        np.array([group["lr"] * factor(step) for step in range(steps + 1)])
        for group, factor in zip(optimizer.param_groups, factors, strict=True)
    ]


def test_the_learning_rate_warms_up_and_never_rises_again():
    for rates in rates_of(load_profile("smoke", epochs=10), 1000):
        peak = int(np.argmax(rates))
        assert 0 < peak < 100
        assert (np.diff(rates[peak:]) <= 0).all()
        assert rates[-1] == pytest.approx(0.01 * rates[peak])


def test_the_papers_schedule_raises_the_backbones_rate_to_its_floor():
    """The reference's fault, kept under its own name: the cosine ends at 1e-6, above the backbone's 5e-7."""
    rates = {"learning_rate_backbone": 5e-7, "learning_rate_head": 5e-6}
    backbone, head = rates_of(load_profile("smoke", protocol="paper", epochs=10, **rates), 1000)
    assert backbone[0] == pytest.approx(5e-7) and backbone[-1] == pytest.approx(1e-6)
    assert head[0] == pytest.approx(5e-6) and head[-1] == pytest.approx(1e-6)


def test_the_papers_protocol_chooses_on_the_test_set_and_validates_on_nothing(home):
    images = load_images(load_profile("smoke"))
    settings = load_profile("smoke", protocol="paper", epochs=3)
    run = train(settings)
    assert not any(c.startswith("val") for c in run.epochs)
    assert run.result["best_epoch"] == run.epochs["test_srcc"].idxmax() + 1
    assert set(run.predictions["split"]) == {"test"}
    assert run.result["test"]["SRCC"]["value"] == pytest.approx(run.epochs["test_srcc"].max())
    assert len(load_images(settings).rows("train")) == len(images.rows("train")) + len(images.rows("val"))


def test_the_honest_protocol_notes_the_test_set_and_chooses_without_it(home):
    epochs = train(load_profile("smoke", epochs=3)).epochs
    run = train(load_profile("smoke", epochs=3))
    assert run.result["best_epoch"] == epochs["val_srcc"].idxmax() + 1
    assert run.result["test"]["SRCC"]["value"] == pytest.approx(
        epochs["test_srcc"][run.result["best_epoch"] - 1], abs=1e-6
    )


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
@pytest.mark.parametrize("change", [{"flip": False}, {"random_crop": False}, {"colour_jitter": 0.4}], ids=str)
def test_every_augmentation_changes_what_is_learnt(home, change, frozen):
    common = {"epochs": 1, "freeze_backbone": frozen, "resolution": 96}
    plain = train(load_profile("smoke", **common))
    assert (
        train(load_profile("smoke", **common, **change)).epochs["train_loss"][0]
        != plain.epochs["train_loss"][0]
    )


def test_without_random_crops_every_crop_is_the_centre(home):
    settings = load_profile("smoke", random_crop=False, flip=False, resolution=96)
    images = load_images(settings)
    crops = training_crops(settings, images, images.rows("train")[:2], np.random.default_rng(0))
    height, width = images.image(crops[0][0]).shape[:2]
    assert set(crops[:2]) == {(crops[0][0], (height - 64) // 2, (width - 64) // 2, False)}


def test_colour_jitter_acts_on_pixels_and_repeats_with_its_seed():
    crops = torch.randint(
        60, 190, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    changed = jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 2)])
    assert changed.dtype == torch.uint8 and not torch.equal(changed, crops)
    assert torch.equal(changed, jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 2)]))
    assert not torch.equal(changed, jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 3)]))
    assert torch.equal(crops, jitter_colours(crops.clone(), 0.0, [(0, 1), (0, 2)]))


@pytest.mark.parametrize("loss", ["l2", "plcc", "srcc", "pairwise_rank", "pairwise_fidelity"])
def test_every_loss_trains(home, loss):
    run = train(load_profile("smoke", loss=loss, ranking_weight=0.5, epochs=1, freeze_backbone=True))
    assert np.isfinite(run.epochs["train_loss"]).all()


def test_a_split_without_images_is_refused(home):
    labels = home / "data/offline-wild-tiny/labels.csv"
    table = pd.read_csv(labels)
    table[table["split"] != "test"].to_csv(labels, index=False)
    with pytest.raises(RunError, match="has 0 images in split 'test'"):
        train(load_profile("smoke"))
