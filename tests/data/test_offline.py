"""The embedded datasets: repeatable, of contents that no training saw, and worse where they say so."""

import filecmp
import os
import re
import signal
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqa_lib.data import faults, offline, scenes
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
            offline.EMBEDDED[f"{name}-tiny"].build(folder / name)
    return folder


@pytest.fixture(scope="module")
def view():
    return offline.cut_view(offline.read_photograph("coffee"), np.random.default_rng(0))


@pytest.fixture(scope="module", params=CROSS_TESTS)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    offline.EMBEDDED[request.param].build(folder)
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
    offline.EMBEDDED[f"{name}-tiny"].build(tmp_path)
    files = ["labels.csv", *_labels(tmp_path)["image"]]
    _, differing, missing = filecmp.cmpfiles(tiny / name, tmp_path, files, shallow=False)
    assert not differing and not missing


def test_another_seed_gives_other_scores(tiny, tmp_path):
    replace(offline.EMBEDDED["offline-phone-tiny"], seed=7).build(tmp_path)
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


# the scores that come with the package

CAMERA, RENDERER = (partial(offline._with_some, device, 5) for device in faults.FAULTS)
SAMPLE = {  # seed, source, view and the reference's variants
    "wild": (0, "coins", 1, CAMERA),
    "phone": (1, "rocket", 1, partial(offline._phone_shots, 4)),
    "render": (3, "render-3", 0, RENDERER),
} | {
    f"lab {kind}": (2, "coffee", 0, partial(offline._at_levels, kind, (1, 5)))
    for kind in ("lens-blur", "color-quantization", "jpeg2000", "denoise", "jitter", "contrast-change")
}


@pytest.mark.parametrize("sample", SAMPLE)
def test_the_packages_scores_are_those_computed(sample):
    seed, name, view, variants_of = SAMPLE[sample]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), view])
    reference = offline.cut_view(offline.open_source(name), rng)
    images = [variant.image for variant in islice(variants_of(reference, rng), 4)]
    known = offline.shipped_scores()
    shipped = [known.get(offline.address_of(reference, image), np.nan) for image in images]
    assert np.isfinite(shipped).mean() > 0.5, "other libraries' pixels: python -m iqa_lib data scores --write"
    # the last digit depends on the processor: of 2,200 scores 13 differ between AVX2 and AVX-512
    computed = np.round(offline.surrogate_scores(reference, images), 2)
    assert np.nanmax(np.abs(computed - shipped)) < 0.011


def test_the_package_has_a_score_of_each_image_of_every_dataset_and_none_twice():
    table = offline._read_scores()
    assert list(table) == ["image", "pixels", "score"]
    assert table["pixels"].is_unique and table["score"].between(0, 100).all()
    counts = table.groupby(table["image"].str.split("/").str[0])["image"].nunique()
    # as many as are built, less the few of one reference that are the same to the pixel, and a tiny set's own
    built = {"offline-wild": 1400, "offline-phone": 136, "offline-lab": 500, "offline-render": 168}
    assert set(counts.index) == {*built, "offline-phone-tiny"}
    assert all(0.9 * count <= counts[name] <= count for name, count in built.items())


def test_scores_are_taken_from_the_package_and_computed_only_where_pixels_differ(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng([0, zlib.crc32(b"coffee"), 0])
    reference = offline.cut_view(offline.read_photograph("coffee"), rng)
    variants = list(offline._phone_shots(1, reference, rng))
    known = {offline.address_of(reference, variant.image): 12.34 for variant in variants[1:]}
    monkeypatch.setattr(offline, "shipped_scores", lambda: known)
    offline.Recipe({"test": ["coffee"]}, 1, [partial(offline._phone_shots, 1)], seed=0).build(tmp_path / "mix")
    assert re.search(r"^mix: 1 of 5 scores were computed", capsys.readouterr().err, re.MULTILINE)
    assert _labels(tmp_path / "mix")["score"].tolist() == [100, *4 * [12.34]]
    assert list(_labels(tmp_path / "mix")) == COLUMNS


def test_one_pixel_less_bright_or_another_original_is_another_address(view):
    other = view.copy()
    other[0, 0, 0] ^= 1
    assert len({offline.address_of(a, b) for a in (view, other) for b in (view, other)}) == 4


def test_recomputed_scores_are_compared_with_the_packages_and_written(tmp_path, monkeypatch, tiny):
    recomputed = offline.recompute_scores(["offline-phone-tiny"])
    known = offline.shipped_scores()
    assert recomputed["image"].tolist() == [
        f"offline-phone-tiny/{os.path.basename(image)[:-4]}" for image in _labels(tiny / "offline-phone")["image"]
    ]
    assert sum(known.get(p) == pytest.approx(s, abs=0.011) for p, s in recomputed[["pixels", "score"]].values) > 4
    monkeypatch.setattr(offline, "SCORES", tmp_path / offline.SCORES.name)
    offline.write_scores(recomputed)
    assert offline.compare_scores(recomputed) == []
    assert offline.shipped_scores() == dict(zip(recomputed["pixels"], recomputed["score"], strict=True))
    here = recomputed.iloc[1:].reset_index(drop=True)
    here.loc[0, "score"] -= 1
    here.loc[1, "pixels"] = 16 * "0"
    here.loc[2, ["image", "pixels"]] = "offline-phone-tiny/new", 16 * "1"
    lines = offline.compare_scores(here)
    assert re.fullmatch(r"\S+: score \d+\.\d\d, here \d+\.\d\d", lines[0])
    assert lines[1].endswith(": other pixels than in embedded_scores.csv")
    assert lines[2] == "offline-phone-tiny/new: not in embedded_scores.csv"
    assert [line.split(": ")[1] for line in lines[3:]] == 2 * ["in embedded_scores.csv alone"]
    offline.write_scores(here, add=True)  # what was there stays
    assert len(offline.shipped_scores()) == len(recomputed) + 2
    assert [line.split(":")[0] for line in offline.compare_scores(recomputed)] == ["offline-phone-tiny/new"]


# scenes


def test_scenes_are_added_to_training_alone_and_made_of_training_photographs(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        offline, "read_photograph", lambda name: opened.append(name) or np.full((900, 1000, 3), len(opened), np.uint8)
    )
    offline.open_source.__wrapped__("scene-0")
    assert opened == offline.PHOTOGRAPHS["train"].split()


def test_a_scene_repeats_and_differs_from_the_next():
    first, again, other = (offline.open_source.__wrapped__(f"render-{n}") for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape == (720, 960, 3)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("texture", dict.fromkeys(scenes.TEXTURES), ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [(40, 40), (57, 90), (960, 720)])
def test_a_texture_fills_any_leaf_between_its_two_colours(texture, size):
    pattern = texture(size, np.random.default_rng(5))
    assert pattern.shape == size[::-1]
    assert 0 <= pattern.min() < pattern.max() <= 1


def test_leaves_are_more_the_smaller_they_are_and_of_the_sizes_promised():
    radii = Counter(np.digitize(scenes._leaf_radii(np.random.default_rng(0), 5000), (20, 40, 80, 160, 201)))
    assert set(radii) == {1, 2, 3, 4}
    # density r^-3: each octave holds a quarter of the one below
    assert radii[1] / radii[2] == pytest.approx(4, rel=0.15)
    assert radii[2] / radii[3] == pytest.approx(4, rel=0.25)


# what is done to the images


@pytest.mark.parametrize("kind", faults.RENDER_FAULTS)
def test_a_stronger_fault_of_rendering_scores_lower(kind, view):
    images = [faults.RENDER_FAULTS[kind](view, s, np.random.default_rng(1)) for s in (0.1, 0.5, 1.0)]
    scores = offline.surrogate_scores(view, [view, *images])
    assert scores == sorted(scores, reverse=True) and scores[0] > 99.9


@pytest.mark.parametrize("shot", faults.PHONE_SHOTS)
def test_a_worse_shot_of_a_telephone_scores_lower(shot, view):
    images = [faults.take_with_a_phone(view, shot, s, np.random.default_rng(1)) for s in (0.1, 0.5, 0.9)]
    scores = offline.surrogate_scores(view, [view, *images])
    assert scores == sorted(scores, reverse=True) and scores[0] > 99.9
    assert scores[1] - scores[3] > 15


def test_the_telephone_and_the_renderer_are_other_pipelines_than_the_camera():
    assert not set(faults.CAMERA_FAULTS) & (set(faults.PHONE_SHOTS) | set(faults.RENDER_FAULTS))


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
    recipe = offline.Recipe({"test": ["coffee"]}, 1, 2 * [partial(die_in_a_worker, os.getpid())], seed=0)
    with pytest.raises(DataError, match=r"worker process that builds 'mine' was killed.*Start it again"):
        recipe.build(tmp_path / "mine")
    assert not (tmp_path / "mine" / "labels.csv").exists()
