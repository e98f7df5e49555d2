"""Features of frozen backbones on disk: each crop's once, and nothing that happens to the disk changes a result."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib import paths
from iqa_lib.data.images import load_images
from iqa_lib.profile import load_profile
from iqa_lib.training import evaluate, features
from iqa_lib.training.evaluate import predict
from iqa_lib.training.loop import build_model
from iqa_lib.training.predictor import Predictor
from iqa_lib.training.train import train

WIDTH, BATCH = 6, 4
FROZEN = {"freeze_backbone": True, "train_crops": 1}


@pytest.fixture(autouse=True)
def nothing_said_yet():
    features._say_once.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the cache lies."""
    monkeypatch.setattr(paths, "DATA", tmp_path)
    return tmp_path / "cache"


def crops(number, first=0):
    return np.array([(row, 2, 3, row % 2, -1) for row in range(first, first + number)], np.int64)


class Backbone:
    """Stands in for one: the features of a crop are multiples of its row's number; counts what it is given."""

    def __init__(self, crops_N5, before_batch=lambda number: None):
        self.crops_N5, self.before_batch, self.computed = crops_N5, before_batch, []

    def __call__(self, numbers):
        for number, part in enumerate(np.split(numbers, range(BATCH, len(numbers), BATCH))):
            self.before_batch(number)
            self.computed += self.crops_N5[part, 0].tolist()
            yield expected(self.crops_N5[part])


def expected(crops_N5):
    return np.outer(crops_N5[:, 0], np.arange(1, 1 + WIDTH)).astype(np.float16)


def ask(wanted, key=("key",), **how):
    """Whether the answer is right, or None for none; and the rows of the crops that were computed for it."""
    backbone = Backbone(wanted, **how)
    found = features.cached(key, WIDTH, wanted, backbone)
    right = found is not None and np.array_equal(found[np.arange(len(wanted))].numpy(), expected(wanted))
    return right, backbone.computed


def folder_in(cache):
    (folder,) = (path for path in cache.glob("features-*") if path.is_dir())
    return folder


# --- what is there is not computed again ------------------------------------------------------------------


def test_what_was_computed_is_read_and_only_the_rest_is_added(cache):
    assert ask(crops(10)) == (True, list(range(10)))
    assert ask(crops(10)) == (True, [])
    assert ask(crops(10)[::-1]) == (True, [])
    assert ask(crops(8, first=6)) == (True, [10, 11, 12, 13])
    assert ask(np.repeat(crops(3, first=20), 2, axis=0))[0]  # the same crop twice
    assert ask(crops(10), key=("other pixels",)) == (True, list(range(10)))


@pytest.mark.parametrize("file", [features.ROWS, features.CROPS])
def test_a_file_that_was_cut_short_is_told_once_and_what_it_lost_is_computed_again(cache, capsys, file):
    ask(crops(10))
    path = folder_in(cache) / file
    os.truncate(path, path.stat().st_size - 5)  # amid the last row
    assert ask(crops(10)) == (True, [9])
    told = capsys.readouterr().err
    assert told == f"{path.parent} was cut short: 1 features are computed again.\n"
    assert ask(crops(10)) == (True, []) and not capsys.readouterr().err


def test_what_was_killed_goes_on_behind_the_last_batch(cache):
    def killed(number):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(crops(10), before_batch=killed)
    assert ask(crops(10)) == (True, [8, 9])


def test_the_longest_unused_goes_when_there_are_too_many_and_what_is_in_use_stays(cache, monkeypatch):
    folders = []
    for age, key in enumerate("abc"):
        ask(crops(10), key=(key,))
        (made,) = {path for path in cache.glob("features-*") if path.is_dir()} - set(folders)
        folders.append(made)
        os.utime(made, (1000 + age, 1000 + age))
    one = sum(file.stat().st_size for file in [made, *made.iterdir()])
    ask(crops(10), key=("a",))  # used again: now b is the oldest
    monkeypatch.setattr(features, "MOST_BYTES", 2 * one)
    assert ask(crops(10), key=("a",)) == (True, [])
    assert [path.exists() for path in folders] == [True, False, True]
    monkeypatch.setattr(features, "MOST_BYTES", 1)
    assert ask(crops(10), key=("a",)) == (True, [])
    assert [path.exists() for path in folders] == [True, False, False]


# --- whatever happens to the folder -----------------------------------------------------------------------


@pytest.mark.parametrize("batch", range(4))
def test_deleting_the_folder_under_way_costs_nothing_but_time(cache, batch, capsys):
    wanted = crops(16)

    def delete(number):
        if number == batch:
            shutil.rmtree(folder_in(cache))

    backbone = Backbone(wanted, delete)
    found = features.cached(("key",), WIDTH, wanted, backbone)
    if found is None:
        assert "No features are kept" in capsys.readouterr().err
    else:
        np.testing.assert_array_equal(found[np.arange(16)].numpy(), expected(wanted))
    assert ask(wanted)[0]


def test_deleting_the_folder_while_features_are_read_changes_none(cache):
    wanted = crops(10)
    found = features.cached(("key",), WIDTH, wanted, Backbone(wanted))
    shutil.rmtree(cache)
    np.testing.assert_array_equal(found[np.arange(10)].numpy(), expected(wanted))
    assert ask(wanted) == (True, list(range(10)))


def full(cache, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: SimpleNamespace(free=features.LEFT_FREE))
    return "the disk is too full"


def not_a_folder(cache, monkeypatch):
    cache.parent.mkdir(exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
    cache.touch()
    return "Not a directory"


@pytest.mark.parametrize("spoil", [full, not_a_folder])
def test_a_folder_that_cannot_be_written_is_told_once_and_done_without(cache, monkeypatch, capsys, spoil):
    reason = spoil(cache, monkeypatch)
    for _ in range(3):
        assert features.cached(("key",), WIDTH, crops(10), Backbone(crops(10))) is None
    told = capsys.readouterr().err
    assert told.startswith(f"No features are kept in {cache} (") and reason in told and told.count("\n") == 1


# --- in training ------------------------------------------------------------------------------------------


def test_a_training_without_room_for_features_predicts_the_same_and_says_so_once(home, monkeypatch, capsys):
    settings = load_profile("smoke", **FROZEN)
    kept = train(settings).predictions
    shutil.rmtree(home / "runs")
    shutil.rmtree(next(path for path in (home / "data/cache").glob("features-*") if path.is_dir()))
    full(home / "data/cache", monkeypatch)
    capsys.readouterr()
    pd.testing.assert_frame_equal(train(settings).predictions, kept, atol=0.02)
    assert capsys.readouterr().err.count("No features are kept in") == 1
    assert all(not rows.stat().st_size for rows in home.glob(f"data/cache/features-*/{features.ROWS}"))


def test_a_training_whose_features_are_deleted_all_the_time_predicts_the_same(home, monkeypatch):
    settings = load_profile("smoke", **FROZEN)
    kept = train(settings).predictions
    shutil.rmtree(home / "runs")
    cached = features.cached

    def deleted(*arguments):
        found = cached(*arguments)
        for path in (home / "data/cache").glob("features-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    monkeypatch.setattr(features, "cached", deleted)
    pd.testing.assert_frame_equal(train(settings).predictions, kept, atol=0.02)


def test_features_in_bf16_are_those_of_the_backbone_as_it_is(home, monkeypatch):
    """They are computed on a copy whose weights are rounded once."""
    settings = load_profile("smoke", **FROZEN, precision="bf16")
    images = load_images(settings)
    predictor, wanted = Predictor(settings, build_model(settings)), [(0, 0, 0, False), (1, 0, 5, True)]
    found = predictor.features(images, wanted, "two")
    assert predictor.with_rounded_weights() is not predictor
    predictor.model.eval()
    with torch.inference_mode():
        plain = predictor.stages(images.crops(wanted, settings.crop_size)).pack().half()
    assert torch.equal(found[np.arange(2)], plain)


def test_every_crop_passes_through_a_frozen_backbone_once_whoever_asks(home, monkeypatch):
    """Splits, variants that change the head alone, training without flips, and what is scored later."""
    passed, through = [], Predictor.stages

    def counted(predictor, crops_BCHW):
        passed.append(len(crops_BCHW))
        return through(predictor, crops_BCHW)

    monkeypatch.setattr(Predictor, "stages", counted)

    def crops_of(work):
        passed.clear()
        work()
        return sum(passed)

    settings = load_profile("smoke", **FROZEN, epochs=1)
    images = load_images(settings)
    first = train(settings, images)  # the first run: the crops of all splits
    assert sum(passed) == count_of_different_crops(settings, images)
    other_rate = settings.model_copy(update={"learning_rate_head": 1e-4})
    assert crops_of(lambda: train(other_rate, images)) == 0
    assert crops_of(lambda: train(settings.model_copy(update={"method": "hyper_iqa"}), images)) == 0
    assert crops_of(lambda: predict(settings, first.load_model(), images, images.rows("test"))) == 0

    unflipped = settings.model_copy(update={"flip": False})
    new = count_of_different_crops(unflipped, images, besides=settings)
    assert 0 < new < len(images.rows("train"))
    assert crops_of(lambda: train(unflipped, images)) == new


def count_of_different_crops(settings, images, besides=None):
    return len(different_crops(settings, images) - (different_crops(besides, images) if besides else set()))


def different_crops(settings, images):
    """Those of training, with the seed that they are drawn with, and those of validation and test."""
    from iqa_lib.training.batches import CACHED_EPOCHS, training_crops

    drawn = training_crops(settings, images, images.rows("train"), np.random.default_rng(CACHED_EPOCHS))
    for split in ("val", "test"):
        drawn += evaluate.evaluation_crops(settings, images, images.rows(split))
    return {tuple(map(int, crop)) for crop in drawn}
