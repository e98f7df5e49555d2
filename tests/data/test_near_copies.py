"""One scene photographed or stored twice is one photograph: on one side of a split, and named."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from iqa_lib import metrics
from iqa_lib.data import catalog, near_copies
from iqa_lib.data.check import check
from iqa_lib.profile import load_profile


def scene(seed, size=(96, 128)):
    """Smooth as a photograph is: neighbouring pixels are alike."""
    rough = np.random.default_rng(seed).uniform(0, 255, (*size, 3))
    smooth = ndimage.gaussian_filter(rough, (6, 6, 0))
    return np.uint8(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)))


SKY = np.broadcast_to(np.linspace(1, 0, 96)[:, None, None], (96, 128, 3))


def landscape(seed):
    return 0.5 * (np.arange(96) < 48)[:, None, None] + 0.35 * scene(seed) / 255


@pytest.fixture
def labelled(tmp_path):
    """Thirty scenes; 3 is scene 7 as a small JPEG, 11 is scene 20 a little brighter and shifted by a pixel."""
    images = [Image.fromarray(scene(n)) for n in range(30)]
    images[3] = images[7].resize((64, 48))
    images[11] = Image.fromarray(np.uint8(np.clip(np.roll(scene(20), 1, 1) * 1.05, 0, 255)))
    lines = ["image,score"]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.jpg", quality=60 if number == 3 else 95)
        lines.append(f"{number}.jpg,{number * 3}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "labels.csv"


def test_near_copies_are_one_reference_and_on_one_side_of_every_split(home, labelled):
    for seed in range(10):
        table = catalog.load_table(str(labelled), split_seed=seed).set_index("image")
        for one, other in (("3.jpg", "7.jpg"), ("11.jpg", "20.jpg")):
            assert table.loc[one, "reference"] == table.loc[other, "reference"]
            assert table.loc[one, "split"] == table.loc[other, "split"]
        assert table["reference"].nunique() == 28 and not catalog.crossing(table).any()


def test_an_official_split_is_kept_and_what_crosses_it_is_named(home, labelled):
    rows = labelled.read_text().splitlines()
    splits = ["split", *("train" if n < 15 else "val" if n < 18 else "test" for n in range(30))]
    labelled.write_text("\n".join(f"{row},{split}" for row, split in zip(rows, splits, strict=True)))
    table = catalog.load_table(str(labelled))
    assert table["image"][catalog.crossing(table)].tolist() == ["20.jpg"]
    (note,) = [n for n in check(str(labelled), load_profile("smoke")).notes if "near-copies" in n]
    assert "2 images" in note and "7.jpg ≈ 3.jpg" in note and "1 are on both sides" in note


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (scene(5) / 255, (scene(5) / 255) ** 2, True),
        (landscape(1), landscape(2), False),  # a bright half above a dark one: like each other in brightness alone
        (SKY, SKY**5, False),
    ],
    ids=["re-exposed", "skies above land", "skies"],
)
def test_one_scene_at_two_exposures_is_alike_in_brightness_and_in_its_order(tmp_path, one, other, same):
    files = [str(tmp_path / f"{n}.png") for n in range(2)]
    for file, image in zip(files, (one, other), strict=True):
        Image.fromarray(np.uint8(255 * image)).save(file)
    thumbnails = np.stack([near_copies._thumbnail(file) for file in files])
    assert metrics.plcc(*thumbnails) < near_copies.ALIKE  # else nothing is tried
    assert near_copies.groups(files).tolist() == [0, 0 if same else 1]


def test_flat_and_unreadable_images_are_like_none(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for file, level in zip(files, (10, 200, 200), strict=False):
        Image.new("RGB", (50, 40), (level,) * 3).save(file)
    files[3].write_bytes(b"no image")
    assert near_copies.groups([str(f) for f in files]).tolist() == [0, 1, 2, 3]


def test_they_are_looked_for_once_and_again_when_a_file_changes(home, tmp_path, monkeypatch):
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for number, file in enumerate(files):
        Image.fromarray(scene(number)).save(file)
    names = [str(f) for f in files]
    assert near_copies.groups(names).tolist() == [0, 1, 2]
    Image.fromarray(scene(0, (60, 80))[:, ::-1][:, ::-1]).save(files[1])
    Image.fromarray(scene(0)).resize((70, 50)).save(files[2])
    assert near_copies.groups(names).tolist() == [0, 1, 0]
    monkeypatch.setattr(near_copies, "_alike", pytest.fail)
    assert near_copies.groups(names).tolist() == [0, 1, 0]


def test_the_pairs_across_the_lists_of_biq2021s_subset_are_found(home, shared_data):
    if not (shared_data / "BIQ2021").is_dir():
        pytest.skip("BIQ2021's 3,000 images are not here: BIQ2021/ of the shared data")
    table = catalog.load_table("biq2021", data_folder=shared_data)
    crossing = table["image"][catalog.crossing(table)]
    assert len(crossing) == 14  # nine in the same pixels; five re-exposed, these two among them
    assert {"Images/ss01 (317).jpg", "Images/ss01 (1845).jpg"} <= set(crossing)
    trained = table[table["split"] != "test"]
    assert (trained.groupby("reference")["split"].nunique() == 1).all()
