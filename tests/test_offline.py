"""The embedded datasets: repeatable, of contents that no training saw, and worse where they say so."""

import filecmp
import functools
import os
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqa_lib.data import offline
from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.errors import DataError

CROSS_TESTS = ("offline-phone", "offline-lab", "offline-render")
COLUMNS = ["image", "score", "split", "reference", "distortion", "severity"]


def _labels(folder):
    return pd.read_csv(folder / "labels.csv")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, built_data):
    folder = tmp_path_factory.mktemp("tiny")
    for name in CROSS_TESTS:
        if (built_data / f"{name}-tiny").is_dir():
            (folder / name).symlink_to(built_data / f"{name}-tiny")
        else:
            offline.EMBEDDED[f"{name}-tiny"](folder / name)
    return folder


@pytest.fixture(scope="module")
def view():
    return offline.cut_view(offline.read_photograph("coffee"), np.random.default_rng(0))


@pytest.fixture(scope="module", params=CROSS_TESTS)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    offline.EMBEDDED[request.param](folder)
    return request.param, _labels(folder)


# every dataset


def test_every_embedded_dataset_has_a_tiny_one():
    names = {name for name in offline.EMBEDDED if not name.endswith("-tiny")}
    assert names == {"offline-wild", *CROSS_TESTS}
    assert set(offline.EMBEDDED) == names | {f"{name}-tiny" for name in names}


@pytest.mark.parametrize("name", CROSS_TESTS)
def test_labels_name_every_image_once_with_score_distortion_and_severity(name, tiny):
    table = _labels(tiny / name)
    assert list(table) == COLUMNS
    assert sorted(table["image"]) == sorted(f"images/{p.name}" for p in (tiny / name / "images").iterdir())
    assert table["score"].between(0, 100).all() and table.notna().all(axis=None)
    assert (table.loc[table["distortion"] == "none", "score"] > 99.9).all()
    for image in table["image"]:
        assert Image.open(tiny / name / image).size == offline.VIEW


@pytest.mark.parametrize("name", CROSS_TESTS)
def test_the_same_seed_gives_the_same_bytes(name, tiny, tmp_path):
    offline.EMBEDDED[f"{name}-tiny"](tmp_path)
    files = ["labels.csv", *_labels(tmp_path)["image"]]
    _, differing, missing = filecmp.cmpfiles(tiny / name, tmp_path, files, shallow=False)
    assert not differing and not missing


def test_another_seed_gives_other_scores(tiny, tmp_path):
    offline.build_phone(tmp_path, ["china"], per_shot=2, views=1, seed=7)
    assert (_labels(tmp_path)["score"] != _labels(tiny / "offline-phone")["score"]).any()


@pytest.mark.parametrize("name", CROSS_TESTS)
def test_cross_tests_are_for_testing_only_and_of_contents_that_no_training_saw(name, tiny):
    table = _labels(tiny / name)
    learnt = {*offline.PHOTOGRAPHS["train"].split(), *offline.PHOTOGRAPHS["val"].split()}
    assert set(table["split"]) == {"test"}
    assert not learnt & set(table["reference"])
    assert not table["reference"].str.startswith("scene-").any()  # these are made of training photographs


@pytest.mark.slow
def test_a_whole_dataset_is_of_some_hundred_images_that_spread_over_the_scale(whole):
    _, table = whole
    assert 100 <= len(table) <= 600
    assert np.ptp(table["score"]) >= 60
    assert table["score"].quantile(0.75) - table["score"].quantile(0.25) >= 15
    learnt = {*offline.PHOTOGRAPHS["train"].split(), *offline.PHOTOGRAPHS["val"].split()}
    assert set(table["split"]) == {"test"} and not learnt & set(table["reference"])


# scenes


def test_scenes_are_added_to_training_alone_and_made_of_training_photographs(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        offline,
        "read_photograph",
        lambda name: opened.append(name) or np.full((900, 1000, 3), len(opened), np.uint8),
    )
    offline._photograph_or_scene.__wrapped__("scene-0")
    assert opened == offline.PHOTOGRAPHS["train"].split()


def test_a_scene_repeats_and_differs_from_the_next():
    first, again, other = (offline._rendered_scene.__wrapped__(f"render-{n}") for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape == (720, 960, 3)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("texture", dict.fromkeys(offline.TEXTURES), ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [(40, 40), (57, 90), (960, 720)])
def test_a_texture_fills_any_leaf_between_its_two_colours(texture, size):
    pattern = texture(size, np.random.default_rng(5))
    assert pattern.shape == size[::-1]
    assert 0 <= pattern.min() < pattern.max() <= 1


def test_leaves_are_more_the_smaller_they_are_and_of_the_sizes_promised():
    radii = Counter(np.digitize(offline._leaf_radii(np.random.default_rng(0), 5000), (20, 40, 80, 160, 201)))
    assert set(radii) == {1, 2, 3, 4}
    # density r^-3: each octave holds a quarter of the one below
    assert radii[1] / radii[2] == pytest.approx(4, rel=0.15)
    assert radii[2] / radii[3] == pytest.approx(4, rel=0.25)


# what is done to the images


@pytest.mark.parametrize("kind", offline.RENDER_FAULTS)
def test_a_stronger_fault_of_rendering_scores_lower(kind, view):
    images = [offline.RENDER_FAULTS[kind](view, s, np.random.default_rng(1)) for s in (0.1, 0.5, 1.0)]
    scores = offline.surrogate_scores(view, [view, *images])
    assert scores == sorted(scores, reverse=True) and scores[0] > 99.9


@pytest.mark.parametrize("shot", offline.PHONE_SHOTS)
def test_a_worse_shot_of_a_telephone_scores_lower(shot, view):
    images = [offline.take_with_a_phone(view, shot, s, np.random.default_rng(1)) for s in (0.1, 0.5, 0.9)]
    scores = offline.surrogate_scores(view, [view, *images])
    assert scores == sorted(scores, reverse=True) and scores[0] > 99.9
    assert scores[1] - scores[3] > 15


def test_the_telephone_and_the_renderer_are_other_pipelines_than_the_camera():
    assert not set(offline.CAMERA_FAULTS) & (set(offline.PHONE_SHOTS) | set(offline.RENDER_FAULTS))


def test_the_lab_has_all_distortions_of_kadid(tiny):
    assert sorted(_labels(tiny / "offline-lab")["distortion"]) == sorted(DISTORTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["offline-lab"], indirect=True)
def test_the_whole_lab_has_every_level_of_each_and_worse_levels_score_lower(whole):
    _, table = whole
    cells = table.pivot_table("score", "distortion", "severity", aggfunc=["count", "mean"])
    assert cells["count"].shape == (25, 5)
    assert (cells["count"] == len(offline.TEST_PHOTOGRAPHS)).all(axis=None)
    for name, distortion in DISTORTIONS.items():
        mean = cells["mean"].loc[name].to_numpy()
        if distortion.signed:
            assert mean[2] > 99.9 and mean[0] < mean[1] < mean[2] > mean[3] > mean[4], name
        elif name == "saturation-hsv":
            # VSI and HaarPSI take the opposite hues of level 5 for nearer to the original than the grey of level 4
            assert (np.diff(mean[:4]) < 0).all() and mean[4] < mean[2], mean
        else:
            assert (np.diff(mean) < 0).all(), f"{name}: {mean}"


def die_in_a_worker(starter, reference, rng):
    if os.getpid() != starter:
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_killed_worker_ends_the_building_with_a_message(tmp_path):
    """Last, for it takes its neighbours with it."""
    parts = 2 * [functools.partial(die_in_a_worker, os.getpid())]
    with pytest.raises(DataError, match=r"worker process that builds 'mine' was killed.*Start it again"):
        offline.build_views(tmp_path / "mine", {"test": ["coffee"]}, 1, offline.read_photograph, parts, 0)
    assert not (tmp_path / "mine" / "labels.csv").exists()
