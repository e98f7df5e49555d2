"""Looking inside a model: right places, right numbers, and maps that find what they should find."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from iqa_lib import paths
from iqa_lib.data import offline
from iqa_lib.data.decode import decode
from iqa_lib.data.images import load_images
from iqa_lib.errors import ExplainError
from iqa_lib.models.backbones import STRIDES
from iqa_lib.models.hypernet import QualityHead
from iqa_lib.models.smart_iqa import BlindIQA
from iqa_lib.profile import load_profile
from iqa_lib.study import attention, maps, statistics
from iqa_lib.study.statistics import DIRECTION, HOLDS_NOT, UNTOLD
from iqa_lib.training.evaluate import predict
from iqa_lib.training.loop import build_model
from iqa_lib.training.train import train


@pytest.fixture
def smoke():
    settings = load_profile("smoke")
    torch.manual_seed(0)
    return settings, build_model(settings)


def some_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class KnownResponse(nn.Module):
    """A stand-in for a backbone: its stages are plain means of one number per pixel."""

    channels = (2, 2, 2, 2)
    input_size = None

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.register_buffer("mean", torch.zeros(1))

    def normalize(self, image):
        return image.float()

    def forward(self, image):
        wanted = self.number(image)[:, None]
        return [F.avg_pool2d(torch.cat([wanted, -wanted], dim=1), stride) for stride in STRIDES]


def activation(number, image, crop_size=224):
    settings = load_profile("smoke", crop_size=crop_size, resolution=crop_size)
    model = BlindIQA(KnownResponse(number), QualityHead([2, 2, 2, 2]))
    return maps.examine(settings, model, image).activation_SHW


@pytest.mark.parametrize("crop_size", [64, 224])
@pytest.mark.parametrize("shape", [(224, 224), (288, 384), (451, 229), (224, 672)])
def test_activation_maps_lie_where_the_image_does_to_the_pixel(shape, crop_size):
    """Each pixel's colour is its own place: then each map must read out that place again."""
    y, x = np.indices(shape)
    image = np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=-1).astype(np.uint8)
    for place, number in [
        (x, lambda i: i[:, 0] + 256 * (i[:, 2] % 16)),
        (y, lambda i: i[:, 1] + 256 * (i[:, 2] // 16)),
    ]:
        for stride, read in zip(STRIDES, activation(number, image, crop_size), strict=True):
            inner = slice(stride // 2, -(stride // 2))  # beyond the outermost cells' middles nothing can be known
            np.testing.assert_allclose(read[inner, inner], place[inner, inner], atol=0.1)


def test_activation_maps_follow_an_image_that_was_reduced(tmp_path):
    picture = np.zeros((600, 1000, 3), np.uint8)
    picture[160:320, 480:800] = 200
    Image.fromarray(picture).save(tmp_path / "bright.png")
    image = decode(tmp_path / "bright.png", resolution=300, crop_size=224)
    stage1 = activation(lambda i: i[:, 0], image)[0]
    assert stage1.shape == (300, 500)
    rows, columns = np.flatnonzero(stage1.max(axis=1) > 100), np.flatnonzero(stage1.max(axis=0) > 100)
    np.testing.assert_allclose([rows[0], rows[-1], columns[0], columns[-1]], [80, 159, 240, 399], atol=2)


def test_an_examination_is_the_score_and_the_weights_that_evaluation_gives(home, smoke):
    settings, model = smoke
    images = load_images(settings)
    row = images.rows("test")[0]
    seen = maps.examine(settings, model, images.image(row))
    expected = predict(settings, model, images, [row]).iloc[0]
    assert seen.score == pytest.approx(expected["prediction"], abs=1e-4)
    np.testing.assert_allclose(seen.crops[attention.ALPHAS].mean(), expected[attention.ALPHAS], atol=1e-5)
    assert seen.activation_SHW.shape == (4, *images.image(row).shape[:2])


def test_a_crop_scores_the_same_alone_and_in_a_batch_of_many(smoke):
    settings, model = smoke
    image = some_image(100, 150)
    corners = [(y, x) for y in range(0, 36, 4) for x in range(0, 86, 8)]
    table = maps.score_crops(settings, model, image, corners)
    assert len(table) == len(corners) > 64
    for corner in (0, 63, 64, -1):
        alone = maps.score_crops(settings, model, image, [corners[corner]])
        assert table["score"].iloc[corner] == pytest.approx(alone["score"].item(), abs=1e-4)


@pytest.mark.parametrize("options", [{"method": "hyper_iqa"}, {"use_attention": False}, {"use_multiscale": False}])
def test_a_model_without_attention_says_so_and_shows_the_rest(home, options):
    settings = load_profile("smoke", **options)
    model, image, images = build_model(settings), some_image(70, 90), load_images(settings)
    assert "alpha1" not in maps.examine(settings, model, image).crops
    assert maps.quality_map(settings, model, image, stride=16).shape == (70, 90)
    assert np.isfinite(maps.occlusion(settings, model, image)).all()
    for call in (
        lambda: attention.stage_weights(settings, model, images, [0]),
        lambda: attention.score_with_other_weights(settings, model, images, [0]),
    ):
        with pytest.raises(ExplainError, match="no stage weights"):
            call()


@pytest.mark.parametrize("image", [some_image(63, 90), some_image(90, 90)[..., 0], some_image(90, 90) / 255, "x.png"])
def test_an_unfit_image_is_refused_in_words(smoke, image):
    with pytest.raises(ExplainError, match="at least 64 px; got"):
        maps.examine(*smoke, image)


@pytest.mark.parametrize("stride", [0, 65])
@pytest.mark.parametrize("look", [maps.quality_map, maps.occlusion])
def test_a_stride_that_leaves_gaps_is_refused(smoke, look, stride):
    with pytest.raises(ExplainError, match="1 to 64"):
        look(*smoke, some_image(64, 90), stride=stride)


class BrightnessModel(BlindIQA):
    """A model whose score is the mean red of the crop, so that every map of it is known."""

    def __init__(self):
        super().__init__(KnownResponse(lambda i: i[:, 0]), QualityHead([2, 2, 2, 2]))

    def score_stages(self, stages, alpha_BS=None):
        return stages.grids[0][:, 0].mean(dim=(1, 2))


def test_the_quality_map_puts_scores_where_they_belong():
    settings = load_profile("smoke")
    image = np.zeros((128, 256, 3), np.uint8)
    image[:, :128] = 100
    quality = maps.quality_map(settings, BrightnessModel(), image, stride=8, window=64)
    assert quality.shape == (128, 256)
    np.testing.assert_allclose(quality[:, :32], 100, atol=1)
    np.testing.assert_allclose(quality[:, -32:], 0, atol=1)
    np.testing.assert_allclose(quality[:, 127:129], 50, atol=5)


def test_occlusion_tells_how_many_points_a_part_adds():
    """One white dot on black: blurring its patch spreads it over its surroundings, elsewhere nothing changes."""
    settings = load_profile("smoke")
    image = np.zeros((64, 64, 3), np.uint8)
    image[14:18, 14:18] = 255
    fall = maps.occlusion(settings, BrightnessModel(), image, patch=32, stride=32)
    assert fall[:32, :32].min() > 0.1
    assert np.abs(fall[32:, 32:]).max() < 0.01


def test_weights_that_replace_the_learned_ones(home, smoke):
    settings, model = smoke
    images = load_images(settings)
    rows = images.rows("test")
    scores = attention.score_with_other_weights(settings, model, images, rows)
    assert list(scores) == [
        "as learned", "mean of all", "uniform", "shuffled",
        "stage 1 only", "stage 2 only", "stage 3 only", "stage 4 only", "untrained",
    ]  # fmt: skip
    predicted = predict(settings, model, images, rows)["prediction"]
    np.testing.assert_allclose(scores["as learned"], predicted, atol=1e-4)
    nn.init.zeros_(model.head.attention.weigh.weight)
    uniform = predict(settings, model, images, rows)["prediction"]
    np.testing.assert_allclose(scores["uniform"], uniform, atol=1e-4)
    model.head.attention.weigh.bias.data = torch.tensor([0.0, 0, 50, 0])
    third = predict(settings, model, images, rows)["prediction"]
    np.testing.assert_allclose(scores["stage 3 only"], third, atol=1e-4)
    again = attention.score_with_other_weights(*smoke, images, rows)
    pd.testing.assert_frame_equal(again, attention.score_with_other_weights(*smoke, images, rows))


def test_every_seed_has_an_untrained_attention_of_its_own(home, smoke):
    settings, model = smoke
    images = load_images(settings)
    labels = images.table.iloc[images.rows("test")].reset_index()
    one, other = (
        attention.untrained_control(settings.model_copy(update={"seed": s}), model, images, labels) for s in (0, 1)
    )
    assert not np.allclose(one["alpha1"], other["alpha1"])


def test_what_a_replacement_costs_is_judged_within_each_model():
    """Two models far apart in skill that lose alike: the loss is seen, though the models differ by more."""
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 100, 300)
    noise_SN = rng.normal(0, 1, (2, 300)) * [[15], [60]]
    learned = score + noise_SN
    replaced = score + 1.4 * noise_SN
    scores = [pd.DataFrame({"as learned": a, "uniform": b}) for a, b in zip(learned, replaced, strict=True)]
    uniform = attention.scores_with_other_weights(scores, score, None, 1000).set_index("weights").loc["uniform"]
    together = statistics.compare(replaced, learned, score, groups=None)
    assert uniform["difference of SRCC"] == pytest.approx(together.value, abs=1e-3)
    assert uniform["95 % high"] - uniform["95 % low"] < (together.high - together.low) / 2


def test_attention_tables_count_what_they_say():
    test = pd.DataFrame(np.eye(4), columns=attention.ALPHAS).assign(score=[10.0, 20, 30, 40])
    test.loc[0, attention.ALPHAS] = 0.25
    np.testing.assert_allclose(attention.entropy(test), [2, 0, 0, 0])
    by_half = attention.attention_by(test, pd.Series([1, 1, 2, 2], name="half"))
    assert by_half["share > 0.9 on one stage"].tolist() == [0.5, 1]
    assert by_half["entropy"].tolist() == [1, 0]
    focus = attention.focused_share({"seed 0": test.iloc[1:]}).iloc[0]
    assert (focus["all"], focus["n"]) == (1, 3)
    assert list(attention.deciles(pd.Series(np.arange(20)))) == [n // 2 + 1 for n in range(20)]


def test_verdicts_on_weights_that_are_as_the_paper_says_and_the_reverse():
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 100, 200)
    for triage, expected in ((score > 30, DIRECTION), (score < 70, HOLDS_NOT)):
        weights = np.where(triage[:, None], [0.01, 0.01, 0.97, 0.01], 0.25)
        test = pd.DataFrame(weights, columns=attention.ALPHAS).assign(score=score)
        untrained = test.assign(**dict.fromkeys(attention.ALPHAS, 0.25))
        noise = rng.normal(0, 20, 200)
        scores = pd.DataFrame({"as learned": score + noise / 2, "mean of all": score + noise})
        scores["shuffled"] = score + 2 * noise
        verdicts = attention.attention_verdicts([test] * 3, [untrained] * 3, [scores] * 3, None, 500)["verdict"]
        assert list(verdicts) == [expected, expected, DIRECTION, DIRECTION]
        one_run = attention.attention_verdicts([test], [untrained], [scores], None, 500)["verdict"]
        assert set(one_run) == {UNTOLD}


def test_stage_statistics_are_those_of_the_maps(home, smoke):
    settings, model = smoke
    images = load_images(settings)
    rows = images.rows("test")[:3]
    table = maps.stage_statistics(settings, model, images, rows)
    assert list(table["stage"]) == [1, 2, 3, 4] * 3
    crops = maps.grid_crops(images, rows[:1], settings.crop_size)
    with torch.inference_mode():
        found = model.backbone(model.backbone.normalize(images.crops(crops, settings.crop_size)))
    expected = [m.abs().mean().item() for m in found]
    np.testing.assert_allclose(table["activation"][:4], expected, rtol=1e-4)


# --- do the maps find a fault whose place is known? ------------------------------------------------------

FAULTS = ("gaussian-blur", "motion-blur", "white-noise", "jpeg", "jpeg2000")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small copy of the demo: the frozen pretrained backbone, its head trained on a quarter of the images."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, part in {"HOME": "", "DATA": "data", "RUNS": "runs", "FIGURES": "figures"}.items():
            patch.setattr(paths, name, folder / part)
        offline.wild(distorted_per_view=8, views=2, scenes=0).build(folder / "data" / "small")
        settings = load_profile("demo", dataset="small/labels.csv", train_crops=2, epochs=8)
        yield settings, train(settings).load_model()


def faulty_in_one_quarter(number):
    """An image of a photograph not trained on, with one of the faults in one quarter; and which quarter."""
    names = offline.PHOTOGRAPHS["test"].split()
    rng = np.random.default_rng([7, number])
    image = offline.cut_view(offline.read_photograph(names[number % len(names)]), rng)
    quarter = int(rng.integers(4))
    return maps.spoil_quarter(image, FAULTS[number % len(FAULTS)], 5, quarter, seed=number), quarter


def quarters(image):
    height, width = image.shape[:2]
    halves = [[slice(0, side // 2), slice(side // 2, side)] for side in (height, width)]
    return [(y, x) for y in halves[0] for x in halves[1]]


@pytest.mark.slow
@pytest.mark.parametrize("look", [maps.quality_map, maps.occlusion], ids=["quality map", "occlusion"])
def test_the_worst_quarter_of_a_map_is_the_one_with_the_fault(trained, look, record_property):
    """In at least 20 of 25 images; a map that knows nothing finds 6 or 7."""
    found = 0
    for number in range(25):
        image, quarter = faulty_in_one_quarter(number)
        seen = look(*trained, image)
        found += quarter == np.argmin([seen[part].mean() for part in quarters(image)])
    record_property("images found of 25", int(found))
    assert found >= 20, f"{found} of 25"


def test_the_quality_map_serves_a_backbone_of_fixed_size_as_well(smoke):
    settings, model = smoke
    assert model.backbone.input_size == 64
    for window in (24, 64, 500):
        assert maps.quality_map(settings, model, some_image(70, 131), 16, window).shape == (70, 131)
