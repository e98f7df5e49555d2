"""What beside the labels a training learns from, and which weights it keeps."""

import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib.data.augment import HARMFUL, NO_HARM, spoilt_pair
from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.images import load_images
from iqa_lib.errors import ProfileError
from iqa_lib.profile import load_profile
from iqa_lib.training.batches import ImageBatches, training_crops
from iqa_lib.training.loop import Loop, train_epoch
from iqa_lib.training.losses import spoilt_order
from iqa_lib.training.train import train


def batches_of(settings):
    images = load_images(settings)
    loop, rows = Loop.start(settings, images), images.rows("train")
    crops = training_crops(settings, images, rows, np.random.default_rng(0))
    return loop, ImageBatches(settings, loop.model, images, crops, 1)


def test_of_two_copies_the_second_is_further_from_the_picture():
    crop = np.random.default_rng(0).integers(60, 190, (16, 16, 3), dtype=np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    pairs = [spoilt_pair(crop, (0, 1, number)) for number in range(150)]
    lost = np.array([[np.square(copy - crop.astype(float)).mean() for copy in pair] for pair in pairs])
    assert (lost[:, 1] >= lost[:, 0]).mean() > 0.95 and (lost[:, 1] > 0).mean() > 0.95
    again = spoilt_pair(crop, (0, 1, 7))
    assert all(map(np.array_equal, again, pairs[7])) and not np.array_equal(pairs[6][1], pairs[7][1])
    assert set(HARMFUL) | set(NO_HARM) == set(DISTORTIONS)


def test_a_batch_ends_with_copies_of_its_first_crops(home):
    settings = load_profile("smoke", spoilt_copies=0.25, flip=False)
    _, batches = batches_of(settings)
    chosen = np.array([5, 3, 1, 0, 2, 7, 6, 4])
    read = batches.read(chosen)
    assert read.shape == (8 + 2 + 2, 3, settings.crop_size, settings.crop_size) and read.dtype == torch.uint8
    plain = ImageBatches(settings.model_copy(update={"spoilt_copies": 0.0}), batches.predictor.model, *rest(batches))
    assert torch.equal(read[:8], plain.read(chosen))
    for number, place in enumerate((5, 3)):  # the harsh copies stand last, and are of the same crops
        nearest = [(read[10 + number].float() - crop.float()).abs().mean() for crop in read[:8]]
        assert int(np.argmin(nearest)) == number, place
    assert torch.equal(batches.read(chosen), read)


def rest(batches):
    return batches.images, batches.crops, batches.epoch


def test_copies_cost_only_while_the_harsher_one_is_not_clearly_worse():
    mild, harsh = torch.tensor([60.0, 50.0, 40.0]), torch.tensor([50.0, 49.0, 45.0])
    assert spoilt_order(mild, harsh).item() == pytest.approx((0 + 2 + 8) / 3)
    assert spoilt_order(mild + 10, mild).item() == 0


def test_the_loss_is_that_of_the_labels_and_of_the_copies_order(home):
    loop, batches = batches_of(load_profile("smoke", spoilt_copies=0.5))
    loop.model.eval()  # no dropout
    data, label_B = batches.read(np.arange(8)), torch.from_numpy(batches.labels[:8])
    with torch.inference_mode():
        scores = loop.model.score_stages(batches.stages(data)).float()
    expected = (scores[:8] - label_B).abs().mean() + spoilt_order(scores[8:12], scores[12:])
    assert loop.step(batches.stages(data), label_B, 1.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_copies_are_refused_where_features_are_computed_once():
    with pytest.raises(ProfileError, match=r"spoilt_copies: 0.5 .*new in every epoch"):
        load_profile("smoke", freeze_backbone=True, spoilt_copies=0.5)


def test_an_average_with_a_short_memory_is_the_last_step_and_a_long_one_is_not(home):
    plain, short, long = (train(load_profile("smoke", averaging=decay)) for decay in (0.0, 1e-9, 0.9))
    pd.testing.assert_frame_equal(short.predictions, plain.predictions, rtol=1e-4)
    np.testing.assert_allclose(long.epochs["train_loss"], plain.epochs["train_loss"], rtol=1e-4)  # learns the same
    assert not np.allclose(long.predictions["prediction"], plain.predictions["prediction"], rtol=1e-4)


def test_an_average_goes_on_where_a_training_died(home, monkeypatch, tmp_path):
    settings = load_profile("smoke", averaging=0.9, epochs=3)
    whole = train(settings).predictions
    monkeypatch.setattr("iqa_lib.paths.RUNS", tmp_path / "elsewhere")

    def dies(loop, crops, order, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return train_epoch(loop, crops, order, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("iqa_lib.training.train.train_epoch", dies)
        train(settings)
    resumed = train(settings)
    assert resumed.epochs["epoch"].tolist() == [1, 2, 3] and resumed.folder.is_relative_to(tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(resumed.predictions, whole, rtol=1e-3)
