"""The explorer without a kernel: a control changes, and what the page shows changes with it."""

import io
import re
import shutil
import threading
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqa_lib import paths
from iqa_lib.data.images import load_images
from iqa_lib.errors import ExplainError
from iqa_lib.explorer import drawing as explorer_drawing
from iqa_lib.explorer.answers import Cache, labelled
from iqa_lib.explorer.app import UPLOADS, Explorer
from iqa_lib.profile import load_profile
from iqa_lib.scoring import certainty
from iqa_lib.study import maps
from iqa_lib.training.evaluate import predict
from iqa_lib.training.predictor import ALPHAS, Predictor
from iqa_lib.training.train import train


@pytest.fixture(scope="module")
def study(tmp_path_factory, built_data):
    """The smoke profile with a backbone that sees something, trained both ways: settings, runs, images."""
    folder = tmp_path_factory.mktemp("explorer")
    shutil.copytree(built_data, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name, part in {"DATA": folder / "data", "RUNS": folder / "runs", "FIGURES": folder / "figures"}.items():
            patch.setattr(paths, name, part)
        sees = {"backbone": "tf_efficientnet_lite0", "pretrained": True, "freeze_backbone": True}
        settings = load_profile("smoke", **sees, epochs=4)
        other = settings.model_copy(update={"method": "hyper_iqa"})
        images = load_images(settings)
        yield settings, [train(settings, images), train(other, images)], images


@pytest.fixture
def explorer(study):
    settings, runs, images = study
    return Explorer(settings, runs, images, synchronous=True)


def words(widget):
    return " ".join(re.sub("<[^>]+>", " ", widget.value).split())


def file_bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def upload(explorer, name, content):
    when = datetime.now(UTC)
    file = {"name": name, "type": "", "size": len(content), "last_modified": when}
    explorer.upload.value = ({**file, "content": memoryview(content)},)


def some_photo(width=90, height=70, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels, mode if mode != "L" else None)


def size_of(png):
    return Image.open(io.BytesIO(bytes(png))).size


def everything(explorer):
    panel = explorer.panels[0]
    shown = (explorer.photo, explorer.scale, panel.title, panel.bars, panel.maps, panel.overlay)
    return {id(widget): bytes(widget.value, "utf8") if isinstance(widget.value, str) else bytes(widget.value)
            for widget in shown}  # fmt: skip


# --- what it shows ----------------------------------------------------------------------------------------


def test_the_score_and_weights_on_show_are_those_of_the_evaluation(study, explorer):
    settings, (run, _), images = study
    for row in images.rows("test")[:3]:
        explorer.image.value = int(row)
        expected = predict(settings, run.load_model(), images, np.array([row])).iloc[0]
        shown = explorer.shown().iloc[0]
        assert shown["score"] == pytest.approx(expected["prediction"], abs=0.01)
        np.testing.assert_allclose(shown[ALPHAS].astype(float), expected[ALPHAS], atol=1e-3)
        (in_words,) = re.findall(r"([\d.]+) of 100 points", words(explorer.panels[0].title))
        assert float(in_words) == pytest.approx(expected["prediction"], abs=0.06)
        assert all(f"{alpha:.2f}" in words(explorer.panels[0].bars) for alpha in shown[ALPHAS])
        assert f"{images.scores(np.array([row]))[0]:.1f}" in words(explorer.scale)


def test_images_are_offered_from_the_lowest_score_to_the_highest(study, explorer):
    scores = [study[2].table["score"].iloc[row] for _, row in explorer.image.options]
    assert scores == sorted(scores) and len(scores) == len(study[2].rows("test"))


def test_choosing_an_image_and_dragging_the_level_change_everything_on_show(explorer):
    seen = everything(explorer)
    for change in ((explorer.image, explorer.image.options[0][1]), (explorer.level, 5)):
        change[0].value = change[1]
        now = everything(explorer)
        assert all(now[widget] != seen[widget] for widget in seen)
        assert words(explorer.status).startswith("● ready")
        seen = now
    assert "level 5" in words(explorer.caption)
    assert 'y="8" width="52"' in explorer.curve.value and 'x="584"' in explorer.curve.value  # level 5 shaded


def test_pictures_keep_their_size_whatever_the_image(explorer):
    for width, height in ((90, 70), (70, 300), (64, 64)):
        upload(explorer, "x.png", file_bytes(some_photo(width, height)))
        assert size_of(explorer.photo.value) == size_of(explorer.panels[0].overlay.value) == (440, 330)
        assert size_of(explorer.panels[0].maps.value) == explorer_drawing.STRIP


def test_the_curve_holds_the_scores_that_each_level_shows(explorer):
    explorer.distortion.value, scores = "jpeg", []
    for level in range(6):
        explorer.level.value = level
        scores.append(explorer.shown()["score"].iloc[0])
    assert all(f"{score:.1f}" in words(explorer.curve) for score in scores)
    assert len(set(scores)) == 6


def test_without_distortion_there_is_no_level_to_drag(explorer):
    explorer.level.value = 4
    explorer.distortion.value = None
    assert explorer.level.disabled and explorer.shown()["level"].iloc[0] == 0
    assert "Choose a distortion" in words(explorer.curve)
    explorer.distortion.value = "white-noise"
    assert not explorer.level.disabled and explorer.shown()["level"].iloc[0] == 4


def test_opacity_goes_from_the_grey_image_to_the_map_alone(explorer):
    explorer.opacity.value = 0
    grey = np.asarray(Image.open(io.BytesIO(bytes(explorer.panels[0].overlay.value))))
    inside = grey[..., 3] > 0
    assert (np.ptp(grey[inside][:, :3], axis=1) == 0).all()
    explorer.opacity.value = 1
    full = np.asarray(Image.open(io.BytesIO(bytes(explorer.panels[0].overlay.value))))
    assert np.ptp(full[inside][:, :3], axis=1).min() > 0


def test_two_models_side_by_side_and_one_without_attention(explorer):
    first, second = explorer.models
    assert explorer.panels[1].box.layout.display == "none"
    explorer.other.value = second
    assert explorer.panels[1].box.layout.display is None
    assert "no stage weights" in words(explorer.panels[1].bars)
    assert explorer.curve.value.count("<polyline") == 2
    table = explorer.shown()
    assert list(table["model"]) == [first, second] and table[ALPHAS].iloc[1].isna().all()
    explorer.model.value = second  # the same twice is one
    assert explorer.panels[1].box.layout.display == "none" and len(explorer.shown()) == 1


def test_names_of_models_are_never_equal(study):
    settings, (run, other), _ = study
    twin = type(run)(settings.model_copy(update={"learning_rate_head": 0.5}), "other")
    assert len(labelled([run, other, twin, run])) == 3


# --- uploads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("text.png", b"not an image", "“text.png” is no image that Pillow can read"),
        ("empty.jpg", b"", "“empty.jpg” is empty (0 bytes)"),
        ("strip.png", file_bytes(some_photo(3000, 20)), "strip longer than 50 times"),
        ("IMG_1.CR3", b"raw", "raw file, not developed yet: export it as JPEG or TIFF. The image before it stays"),
        ("cut.png", file_bytes(some_photo())[:400], "“cut.png” cannot be decoded"),
        ("<b>bold</b>.png", b"?", "“&lt;b&gt;bold&lt;/b&gt;.png”"),
    ],
)
def test_a_file_that_cannot_be_scored_is_named_in_words_and_the_page_goes_on(explorer, name, content, expected):
    before = everything(explorer)
    upload(explorer, name, content)
    assert expected in explorer.status.value and "▲" in explorer.status.value
    assert "/" not in words(explorer.status).replace("&lt;/b", "")  # no path of the server's
    assert everything(explorer) == before and explorer.upload.value == ()
    explorer.level.value = 3
    assert words(explorer.status).startswith("● ready") and everything(explorer) != before


def test_the_dialog_offers_kinds_that_browsers_do_not_know_as_images(explorer):
    assert {"image/*", ".heic", ".heif", ".hif"} <= set(explorer.upload.accept.split(","))


def test_a_huge_file_is_refused_in_words(explorer, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    upload(explorer, "huge.png", file_bytes(some_photo()))
    assert "is larger than 2,000 pixels" in words(explorer.status)


def test_a_file_of_100_megapixels_is_scored(explorer):
    upload(explorer, "large.png", file_bytes(Image.new("L", (12_000, 8_400), 128)))
    assert words(explorer.status).startswith("● ready") and "91 × 64 px" in words(explorer.caption)


def transparent():
    image = some_photo(mode="RGBA")
    image.putalpha(0)
    return file_bytes(image), lambda pixels: (pixels == 255).all()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    return file_bytes(some_photo(90, 70), "JPEG", exif=exif), lambda pixels: pixels.shape[0] > pixels.shape[1]


def animated():
    frames = [Image.new("RGB", (80, 70), colour) for colour in ("red", "blue")]
    content = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return content, lambda pixels: (pixels[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", [transparent, rotated, animated])
def test_an_unusual_file_is_read_as_a_person_sees_it(explorer, kind):
    content, right = kind()
    explorer.level.value = 5
    upload(explorer, "mine.bin", content)
    assert explorer.image.label == "uploaded · mine.bin" and explorer.level.value == 0
    assert right(explorer._newest.pixels_HWC) and words(explorer.status).startswith("● ready")
    assert explorer.shown()["score in the dataset"].isna().all()


def test_uploads_stay_in_the_list_up_to_a_number_and_the_latest_comes_first(explorer):
    for number in range(UPLOADS + 2):
        upload(explorer, f"{number}.png", file_bytes(Image.new("RGB", (80, 70), (number, 0, 0))))
    names = [label for label, _ in explorer.image.options if label.startswith("uploaded")]
    assert names == [f"uploaded · {n}.png" for n in range(UPLOADS + 1, 1, -1)]
    assert explorer.image.label == names[0]


# --- cache, order, errors ---------------------------------------------------------------------------------


def test_going_back_computes_nothing(explorer, monkeypatch):
    explorer.level.value = 3
    first, made = everything(explorer), explorer.answers.cache.made
    explorer.level.value = 0
    monkeypatch.setattr(maps, "score_crops", None)
    monkeypatch.setattr(maps, "quality_map", None)
    explorer.level.value = 3
    assert everything(explorer) == first and words(explorer.status).startswith("● ready")
    assert explorer.answers.cache.made == made


def test_the_cache_forgets_what_was_not_used_longest():
    cache = Cache(limit=3000)
    for key in "abab":
        cache.get((key,), lambda: np.zeros(1000, np.uint8))
    cache.get(("a",), lambda: None)
    cache.get(("c",), lambda: np.zeros(1000, np.uint8))
    assert cache.made == 3 and cache.bytes <= 3000 and len(cache) == 2
    cache.get(("a",), lambda: pytest.fail("a was used later than b"))


def test_of_many_requests_the_newest_alone_is_finished(study, monkeypatch):
    settings, runs, images = study
    explorer = Explorer(settings, runs[:1], images)
    explorer.wait(60)
    begun, go, true_map = threading.Event(), threading.Event(), maps.quality_map
    seen, finished = [], []

    def slow_map(settings, model, image_HWC, *more):
        seen.append(image_HWC)
        begun.set()
        assert go.wait(60)
        finished.append(true_map(settings, model, image_HWC, *more))
        return finished[-1]

    monkeypatch.setattr(maps, "quality_map", slow_map)
    explorer.level.value = 1
    assert begun.wait(60) and "maps" in words(explorer.status)
    for level in (2, 3, 4, 5):  # while the map of level 1 is at work
        explorer.level.value = level
    go.set()
    explorer.wait(60)
    assert len(finished) == 1  # the first was given up between two passes of the model
    assert len(seen) == 2 and np.array_equal(seen[1], explorer._newest.pixels_HWC)
    assert "level 5" in words(explorer.caption) and words(explorer.status).startswith("● ready")


def test_the_score_is_on_show_before_the_maps(study, monkeypatch):
    settings, runs, images = study
    explorer = Explorer(settings, runs[:1], images, synchronous=True)
    before = explorer.panels[0].title.value
    monkeypatch.setattr(maps, "quality_map", lambda *_: pytest.fail("not yet"))
    monkeypatch.setattr(explorer, "_show_curve", lambda request: (_ for _ in ()).throw(ExplainError("stop")))
    explorer.level.value = 5
    assert explorer.panels[0].title.value != before and "stop" in words(explorer.status)


@pytest.mark.parametrize("synchronous", [True, False])
def test_whatever_fails_is_said_in_words_and_the_next_choice_works(study, monkeypatch, synchronous):
    settings, runs, images = study
    explorer = Explorer(settings, runs, images, synchronous=synchronous)
    explorer.wait(60)
    with monkeypatch.context() as broken:
        broken.setattr(maps, "quality_map", lambda *_: 1 / 0)
        explorer.level.value = 2
        explorer.wait(60)
        assert "division by zero" in words(explorer.status) and 'role="status"' in explorer.status.value
        with pytest.raises(ExplainError, match="status line"):
            explorer.snapshot()
    explorer.level.value = 3
    explorer.wait(60)
    assert words(explorer.status).startswith("● ready")


def test_there_must_be_something_to_explore(study):
    with pytest.raises(ExplainError, match="at least one finished run"):
        Explorer(study[0], [], study[2])


# --- keeping ----------------------------------------------------------------------------------------------


def test_what_is_kept_is_exported_as_csv_and_png(explorer):
    assert "nothing yet" in words(explorer.list)
    explorer.keep.click()
    explorer.other.value = list(explorer.models)[1]
    upload(explorer, "$a <i>.png", file_bytes(some_photo()))
    explorer.level.value = 4
    explorer.keep.click()
    table = pd.read_csv(io.BytesIO(explorer.csv()))
    assert list(table["level"]) == [0, 4, 4] and list(table["distortion"]) == ["none", *["gaussian-blur"] * 2]
    assert table["image"].iloc[1] == "$a <i>.png" and table["score"].between(0, 100).all()
    pd.testing.assert_frame_equal(table, explorer.table(), check_dtype=False)
    assert size_of(explorer.png())[0] > 400
    assert "Kept: 2" in words(explorer.list) and "<i>" not in explorer.list.value
    for start in ('download="explorer.csv" href="data:text/csv;base64,', 'href="data:image/png;base64,'):
        assert start in explorer.list.value
    explorer.clear.click()
    assert "nothing yet" in words(explorer.list) and not len(explorer.table())


def test_the_snapshot_shows_each_model(explorer, tmp_path):
    explorer.other.value = list(explorer.models)[1]
    explorer.level.value = 3
    explorer.snapshot().savefig(tmp_path / "snapshot.png")
    assert (tmp_path / "snapshot.png").stat().st_size > 5_000


# --- how sure it is -----------------------------------------------------------------------------------------


def test_a_calibrated_models_score_has_an_interval_and_odd_images_are_marked(study):
    settings, runs, images = study
    scorer = Predictor(settings, runs[0].load_model())
    file = certainty.calibrate(scorer, images).save(runs[0].folder, scorer.model)
    try:
        explorer = Explorer(settings, runs[:1], images, synchronous=True)
        assert re.search(r"\d ± \d+\.\d \(90 %\) of 100 points, higher than \d+ %", words(explorer.panels[0].title))
        assert "unlike" not in words(explorer.panels[0].title)
        upload(explorer, "red.png", file_bytes(Image.new("RGB", (90, 70), "red")))
        assert "unlike anything that the model knows" in words(explorer.panels[0].title)
    finally:
        file.unlink()
