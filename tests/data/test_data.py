"""Data: the embedded set is honest and repeatable, crops are exact, and every fault is named."""

import filecmp

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iqa_lib.data import faults, offline
from iqa_lib.data.catalog import load_table, split_by_reference
from iqa_lib.data.crops import grid, random_crops
from iqa_lib.data.decode import WorkingSize, decode
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import DataError
from iqa_lib.profile import load_profile


@pytest.fixture
def csv(tmp_path):
    for name in "abcd":
        Image.new("RGB", (40, 30), (name == "a" and "red") or "blue").save(tmp_path / f"{name}.png")

    def write(text):
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write


# --- embedded photographs ---


def test_no_photograph_is_on_two_sides_and_every_split_has_every_range(built_data):
    table = load_table(str(built_data / "offline-wild-tiny" / "labels.csv"))
    assert (table.groupby("reference")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "val", "test"}
    assert table["score"].between(0, 100).all()
    assert (table.loc[table["distortion"] == "none", "score"] > 99.9).all()


def test_the_same_seed_gives_the_same_bytes(built_data, tmp_path):
    built, again = built_data / "offline-wild-tiny", tmp_path / "again"
    offline.EMBEDDED["offline-wild-tiny"].build(again)
    names = ["labels.csv", *(f"images/{p.name}" for p in (built / "images").iterdir())]
    _, differing, missing = filecmp.cmpfiles(built, again, names, shallow=False)
    assert not differing and not missing


@pytest.mark.parametrize("kind", faults.CAMERA_FAULTS)
def test_a_stronger_fault_scores_lower(kind):
    view = offline.cut_view(offline.read_photograph("coffee"), np.random.default_rng(0))
    images = [faults.CAMERA_FAULTS[kind](view, s, np.random.default_rng(1)) for s in (0.1, 0.5, 1.0)]
    scores = offline.surrogate_scores(view, [view, *images])
    assert scores[0] > 99.9
    assert scores == sorted(scores, reverse=True)


def test_a_view_is_never_enlarged_and_keeps_its_aspect():
    photograph = np.zeros((872, 1000, 3), np.uint8)
    assert offline.cut_view(photograph, np.random.default_rng(0)).shape == (288, 384, 3)


# --- decoding and crops ---


@pytest.mark.parametrize(
    ("size", "expected"), [((800, 600), (384, 512)), ((300, 400), (400, 300)), ((100, 400), (896, 224))]
)
def test_aspect_is_kept_large_images_are_reduced_and_small_ones_enlarged_to_a_crop(tmp_path, size, expected):
    Image.new("RGB", size).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", resolution=384, crop_size=224).shape[:2] == expected


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_any_mode_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (50, 40)).save(path)
    assert decode(path, 384, 32).shape == (40, 50, 3)


def test_a_photo_from_a_phone_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    Image.new("RGB", (60, 40)).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg", 384, 32).shape == (60, 40, 3)


@pytest.mark.parametrize(("height", "width", "count"), [(384, 512, 6), (224, 224, 1), (225, 224, 2), (288, 384, 4)])
def test_the_grid_covers_every_pixel_with_the_fewest_crops(height, width, count):
    covered = np.zeros((height, width), bool)
    corners = grid(height, width, 224)
    for y, x in corners:
        assert covered[y : y + 224, x : x + 224].shape == (224, 224)
        covered[y : y + 224, x : x + 224] = True
    assert covered.all() and len(corners) == count


def test_a_crop_is_exactly_that_part_of_the_decoded_image(home):
    images = load_images(load_profile("smoke"))
    crop = images.crops([(5, 3, 7, False), (5, 3, 7, True)], 32).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(crop[0], images.image(5)[3:35, 7:39])
    np.testing.assert_array_equal(crop[1], crop[0][:, ::-1])


def test_images_are_decoded_once(home, monkeypatch):
    first = load_images(load_profile("smoke"))
    monkeypatch.setattr("PIL.Image.open", pytest.fail)
    again = load_images(load_profile("smoke"))
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.image(9), first.image(9))


def test_crops_cut_on_the_device_are_the_same_to_the_bit(monkeypatch):
    monkeypatch.setattr("iqa_lib.data.images.COPIED_AT_ONCE", 1000)  # so that the last part is a smaller one
    sizes = np.array([(40, 50), (64, 33), (32, 32)])
    pixels = np.random.default_rng(0).integers(0, 256, sizes.prod(axis=1).sum() * 3, dtype=np.uint8)
    images = ImageSet(pd.DataFrame({"image": list("abc")}), pixels, sizes, "")
    wanted = random_crops(images, np.arange(3), 8, 32, np.random.default_rng(0))
    assert {flipped for *_, flipped in wanted} == {True, False}
    cut = images.crops(wanted, 32)
    images.keep_on(torch.device("cpu"))
    pixels[:] = 0
    on_device = images.crops(wanted, 32)
    assert torch.equal(on_device, cut) and on_device.stride() == cut.stride()


def test_random_crops_repeat_by_seed_and_stay_inside(home):
    images = load_images(load_profile("smoke"))
    crops = random_crops(images, images.rows("train"), 3, 64, np.random.default_rng(4))
    assert crops == random_crops(images, images.rows("train"), 3, 64, np.random.default_rng(4))
    assert images.crops(crops, 64).shape == (3 * len(images.rows("train")), 3, 64, 64)


# --- one's own labels ---


def test_own_csv_is_mapped_from_its_range_and_split_by_reference(csv):
    path = csv("image,score,reference\na.png,1,x\nb.png,5,x\nc.png,3,y\n")
    table = load_table(str(path), (1, 5))
    assert table["score"].tolist() == [0, 100, 50]
    assert table["split"][0] == table["split"][1]


def test_a_dmos_range_turns_round(csv):
    assert load_table(str(csv("image,score\na.png,90\n")), (100, 0))["score"].tolist() == [10]


def test_splits_by_reference_are_disjoint_and_all_present():
    references = pd.Series([f"r{i // 5}" for i in range(100)])
    split = pd.Series(split_by_reference(references))
    assert (split.groupby(references).nunique() == 1).all()
    assert set(split) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,remark\na.png,good\n", "labels.csv: no column 'score'; it has image, remark"),
        ("image,score\na.png,good\nb.png,2\n", "labels.csv, line 2: score 'good' is not a number"),
        ("image,score\na.png,1\nb.png,nan\n", "labels.csv, line 3: score 'nan' is not a number"),
        ("image,score\na.png,1\nz.png,2\n", "1 of 2 images are missing: 'z.png' .named in labels.csv"),
        ("image,score\na.png,101\n", "line 2: score 101 is outside 0.0–100.0.*score_range"),
        ("image,score\n../../etc/passwd,1\n", "line 2: image '../../etc/passwd' leaves the folder"),
        ("image,score,split\na.png,1,dev\n", "line 2: split 'dev' is not one of train, val, test"),
        ("", "labels.csv is not a readable CSV"),
    ],
)
def test_a_fault_in_the_labels_names_file_and_line(csv, text, message):
    with pytest.raises(DataError, match=message) as error:
        load_table(str(csv(text)))
    assert "\n" not in str(error.value)


def test_windows_line_ends_and_a_byte_order_mark_are_no_fault(csv, tmp_path):
    path = csv("")
    path.write_bytes(b"\xef\xbb\xbfimage,score\r\na.png,1\r\n")
    assert load_table(str(path))["score"].tolist() == [1]


def test_every_image_that_cannot_be_decoded_is_named_and_nothing_is_dropped(home, csv):
    path = csv("image,score\na.png,1\nb.png,2\nc.png,3\nd.png,4\n")
    (path.parent / "b.png").write_bytes(b"")
    whole = (path.parent / "c.png").read_bytes()
    (path.parent / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2 images cannot be used: .*b.png.*c.png"):
        load_images(load_profile("smoke", dataset=str(path)))


def test_an_unknown_dataset_is_refused_with_the_known_ones(home):
    with pytest.raises(DataError, match=r"Unknown dataset 'koniq', did you mean 'koniq10k'\? Known: koniq10k, spaq"):
        load_table("koniq")
    with pytest.raises(DataError, match=r"The label file 'absent.csv' does not exist"):
        load_table("absent.csv")


def test_the_papers_protocol_turns_every_image_into_portrait_as_its_resize_does():
    size = WorkingSize(384, 224, portrait=True)
    assert size.of(768, 1024) == size.of(1024, 768) == size.of(100, 100) == (512, 384)
    assert WorkingSize(384, 224).of(768, 1024) == (384, 512)


def test_each_protocol_has_its_own_decoded_images(home):
    honest, paper = (load_images(load_profile("smoke", protocol=p)) for p in ("honest", "paper"))
    assert honest.image(0).shape[1] > honest.image(0).shape[0]
    assert {paper.image(i).shape for i in range(len(paper))} == {(85, 64, 3)}
    assert honest.fingerprint != paper.fingerprint
