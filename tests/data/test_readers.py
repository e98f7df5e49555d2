"""Readers: every published layout is read as its authors lay it out, scores point upwards, faults are named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import (
    KONIQ_NAMES,
    LAYOUTS,
    agiqa,
    biq,
    csiq,
    kadid,
    koniq_distributions,
    koniq_json,
    koniq_sets,
    live,
    livec,
    spaq,
    tid,
    write_images,
    write_sheet,
    write_text,
)
from PIL import Image
from scipy.io import savemat

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.data.catalog import load_table, locate, read_labels, to_published
from iqa_lib.data.readers.own import read_own
from iqa_lib.data.readers.tables import VOTES
from iqa_lib.errors import DataError


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def layout(request, tmp_path):
    """Dataset, data folder, scores as published and as mapped; unpacked under a name that says nothing."""
    request.param(tmp_path / "unpacked" / "some-folder")
    return (*LAYOUTS[request.param][:1], tmp_path, *LAYOUTS[request.param][1:])


def test_every_layout_is_found_and_read_and_every_image_opens(layout):
    name, data_folder, published, mapped = layout
    assert locate(name, data_folder) == data_folder / "unpacked" / "some-folder"
    table = load_table(name, data_folder=data_folder)
    if mapped:
        np.testing.assert_allclose(table["score"][: len(mapped)], mapped, atol=1e-3)
        np.testing.assert_allclose(to_published(name, table["score"][: len(mapped)]), published, atol=1e-4)
    for path in table["path"]:
        with Image.open(path) as image:
            assert image.size == (4, 4)
    assert table["score"].between(0, 100).all() and set(table["split"]) <= set(catalog.SPLITS)


def test_no_layout_is_taken_for_another_dataset(layout):
    name, data_folder, *_ = layout
    found = [other for other in catalog.CATALOG if not catalog.CATALOG[other].build and locate(other, data_folder)]
    assert found == [name]


def test_no_reference_is_on_two_sides_in_any_of_the_ten_splits(layout):
    name, data_folder, *_ = layout
    splits = set()
    for seed in range(10):
        table = load_table(name, data_folder=data_folder, split_seed=seed)
        assert (table.groupby("reference")["split"].nunique() == 1).all()
        splits.add(tuple(table["split"]))
        again = load_table(name, data_folder=data_folder, split_seed=seed)
        assert again["split"].tolist() == table["split"].tolist()
    if table["reference"].nunique() >= 10:
        assert len(splits) > 1


def test_a_path_to_a_folder_in_a_published_layout_is_read_as_that_dataset(tmp_path):
    csiq(tmp_path / "x")
    assert load_table(str(tmp_path / "x"))["score"].tolist() == [100, 75, 50, 25]
    assert catalog.describe(str(tmp_path / "x"), None).title == "CSIQ"


def test_both_label_files_of_koniq_say_the_same(tmp_path):
    koniq_sets(tmp_path / "a")
    koniq_distributions(tmp_path / "b")
    a, b = (load_table("koniq10k", data_folder=tmp_path / x) for x in "ab")
    columns = ["score", "std", *VOTES, "c_total"]
    np.testing.assert_allclose(a[columns].astype(float), b[columns].astype(float), atol=1e-6)
    assert a[VOTES].iloc[0].tolist() == [0, 0, 25, 73, 7]
    assert a["split"].tolist() == ["train", "test", "val"]
    assert a["std"][0] == pytest.approx(25 * 0.527277894494)


def test_lists_with_a_split_come_before_koniqs_label_file_without_one(tmp_path):
    koniq_distributions(tmp_path)
    koniq_json(tmp_path)
    assert load_table("koniq10k", data_folder=tmp_path, test_only=True)["image"].tolist() == ["test/10007903636.jpg"]


def test_the_larger_images_of_koniq_are_taken_where_both_are_there(tmp_path):
    koniq_sets(tmp_path)
    write_images(tmp_path / "512x384", KONIQ_NAMES)
    assert load_table("koniq10k", data_folder=tmp_path)["image"].str.startswith("1024x768/").all()


@pytest.mark.parametrize(("scale", "top"), [((0, 1), 1), ((1, 5), 5), ((0, 100), 100)])
def test_json_lists_on_any_of_their_three_scales_give_the_same_scores(tmp_path, scale, top):
    worst, best = scale
    rows = [{"image": f"I0{i}_01_01.png", "score": worst + i / 4 * (best - worst)} for i in range(5)]
    write_text(tmp_path / "kadid_test.json", json.dumps(rows))
    write_images(tmp_path / "images", [row["image"] for row in rows])
    table = load_table("kadid10k", data_folder=tmp_path)
    np.testing.assert_allclose(table["score"], [0, 25, 50, 75, 100])
    assert set(table["split"]) == {"test"}


def test_synthetic_sets_tell_distortion_and_level(tmp_path):
    kadid(tmp_path / "kadid")
    tid(tmp_path / "tid")
    csiq(tmp_path / "csiq")
    table = load_table("kadid10k", data_folder=tmp_path)
    assert set(table["distortion"]) == {"gaussian-blur", "contrast-change"}
    assert set(table["severity"]) == {1, 5} and table["reference"].nunique() == 10
    assert table["std"][0] == pytest.approx(0.496 * 25)  # the column called var holds a standard deviation
    table = load_table("tid2013", data_folder=tmp_path)
    assert set(table["distortion"]) == {"additive-gaussian-noise", "sparse-sampling"}
    assert table["std"][0] == pytest.approx(0.13013 / 9 * 100)
    table = load_table("csiq", data_folder=tmp_path)
    assert table["reference"].tolist() == ["1600", "1600", "boston", "boston"]
    assert table["severity"].tolist() == [1, 2, 3, 4] and (table["std"] == 10).all()


def test_live_keeps_its_order_and_drops_the_undistorted_copies(tmp_path):
    live(tmp_path)
    table = load_table("live", data_folder=tmp_path)
    assert len(table) == catalog.CATALOG["live"].images == 779
    assert table["image"].iloc[0] == "jp2k/img204.bmp" and table["image"].iloc[-1] == "fastfading/img174.bmp"
    assert table["score"].is_monotonic_decreasing  # the DMOS of the copy rises
    assert table["reference"].iloc[0] == "ref00" and table["std"].iloc[0] == pytest.approx(5)


def test_live_in_the_wild_leaves_out_the_images_that_trained_the_raters(tmp_path):
    livec(tmp_path)
    table = load_table("livec", data_folder=tmp_path)
    assert table["image"].tolist() == ["Images/3.bmp", "Images/879.JPG", "Images/5.bmp"]
    assert table["score"].tolist() == [70, 80, 90] and table["std"].tolist() == [7, 8, 9]


def test_images_of_one_prompt_stay_together(tmp_path):
    agiqa(tmp_path)
    assert load_table("agiqa3k", data_folder=tmp_path)["reference"].tolist() == [
        "statue of a man",
        "statue of a man",
        "a cat, asleep",
    ]


def test_an_official_split_without_validation_gets_a_tenth_of_the_training_images(tmp_path):
    biq(tmp_path)
    table = load_table("biq2021", data_folder=tmp_path)
    assert table["split"].value_counts().to_dict() == {"train": 18, "val": 2, "test": 2}
    plain = load_table("biq2021", data_folder=tmp_path, validation=False)
    assert plain["split"].value_counts().to_dict() == {"train": 20, "test": 2}
    assert (plain["split"] == "test").equals(table["split"] == "test")


def test_a_cross_dataset_test_takes_the_official_test_part_or_else_every_image(tmp_path):
    biq(tmp_path / "biq")
    kadid(tmp_path / "kadid")
    assert load_table("biq2021", data_folder=tmp_path, test_only=True)["image"].tolist() == [
        "Images/ss02 (752).jpg",
        "Images/ss03 (1).jpg",
    ]
    everything = load_table("kadid10k", data_folder=tmp_path, test_only=True)
    assert len(everything) == 40 and set(everything["split"]) == {"test"}


def test_parts_are_70_10_20_percent_of_the_references(tmp_path):
    kadid(tmp_path)
    table = load_table("kadid10k", data_folder=tmp_path, split_seed=3)
    assert table.groupby("split")["reference"].nunique().to_dict() == {"train": 7, "val": 1, "test": 2}


# --- where a dataset may lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "koniq10k", "KonIQ-10k", "archives/koniq", "a/b"])
def test_a_dataset_is_found_two_folders_deep_under_any_name(tmp_path, place):
    koniq_sets(tmp_path / place)
    assert locate("koniq10k", tmp_path) == (tmp_path / place).resolve()


def test_a_folder_named_like_the_dataset_comes_first(tmp_path):
    koniq_sets(tmp_path / "a-copy")
    koniq_sets(tmp_path / "KonIQ-10k")
    assert locate("koniq10k", tmp_path).name == "KonIQ-10k"


def test_the_cache_and_hidden_folders_are_no_place_for_a_dataset(tmp_path):
    koniq_sets(tmp_path / "cache")
    koniq_sets(tmp_path / ".trash")
    assert locate("koniq10k", tmp_path) is None


def test_the_case_of_folders_and_label_files_does_not_count(tmp_path):
    biq(tmp_path)
    (tmp_path / "Images").rename(tmp_path / "images")
    (tmp_path / "Test (Images and MOS).csv").rename(tmp_path / "test (images and MOS).CSV")
    assert len(load_table("biq2021", data_folder=tmp_path)) == 22


def test_a_dataset_may_be_a_link_to_another_disk(tmp_path):
    koniq_sets(tmp_path / "disk")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "koniq10k").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert len(load_table("koniq10k", data_folder=tmp_path / "data")) == 3


def test_a_part_of_a_dataset_may_be_a_link_to_another_disk(tmp_path):
    biq(tmp_path / "data/biq")
    write_text(tmp_path / "data/mine/labels.csv", "image,score\nlinked/ss01 (3).jpg,5\none.jpg,6\n")
    (tmp_path / "data/biq/Images").rename(tmp_path / "disk")
    (tmp_path / "data/biq/Images").symlink_to(tmp_path / "disk")
    (tmp_path / "data/mine/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "data/mine/one.jpg").symlink_to(tmp_path / "disk/ss01 (4).jpg")
    assert len(load_table("biq2021", data_folder=tmp_path / "data")) == 22
    assert load_table("mine", data_folder=tmp_path / "data")["score"].tolist() == [5, 6]
    (tmp_path / "a.csv").symlink_to(tmp_path / "data/mine/labels.csv")  # the labels alone
    assert load_table(str(tmp_path / "a.csv"))["score"].tolist() == [5, 6]


LABELS = (".csv", ".xlsx", ".mat", ".txt", ".json")


@pytest.mark.parametrize("around", ["images", "each"])
def test_archives_may_keep_folders_of_their_own(layout, around):
    """The images' archive in one, and the label files' too."""
    name, data_folder = layout[0], layout[1] / "unpacked"
    if around == "each" and (data_folder / "some-folder/koniq_train.json").is_file():
        pytest.skip("the reference code's lists belong beside train/ and test/: no archive separates them")
    expected = load_table(name, data_folder=data_folder)
    folder = data_folder / "some-folder"
    for path in sorted(folder.iterdir()):
        has_labels = path.suffix in LABELS or any(file.suffix in LABELS for file in path.rglob("*"))
        target = "labels-archive" if has_labels and around == "each" else "" if has_labels else "images-archive"
        (folder / target).mkdir(exist_ok=True)
        path.rename(folder / target / path.name)
    found = load_table(name, data_folder=data_folder)
    pd.testing.assert_series_equal(found["score"], expected["score"])


@pytest.mark.parametrize("layout_", [koniq_sets, kadid, tid, biq, spaq], ids=lambda layout: layout.__name__)
def test_labels_may_lie_among_the_images(tmp_path, layout_):
    folder = tmp_path / "set"
    layout_(folder)
    expected = load_table(LAYOUTS[layout_][0], data_folder=tmp_path)
    images = folder / max(expected["image"]).split("/")[0]
    for file in [file for file in folder.rglob("*") if file.suffix in LABELS]:
        file.rename(images / file.name)
    found = load_table(LAYOUTS[layout_][0], data_folder=tmp_path)
    assert found["score"].tolist() == expected["score"].tolist() and len(found)


def test_tid2008_is_not_taken_for_tid2013(tmp_path):
    write_text(tmp_path / "mos_with_names.txt", "5.5 I01_01_1.bmp\n4.5 I01_17_4.bmp\n")
    assert locate("tid2013", tmp_path) is None


def test_another_data_csv_is_not_taken_for_agiqa(tmp_path):
    write_text(tmp_path / "data.csv", "name,price\na,1\n")
    assert locate("agiqa3k", tmp_path) is None


def test_a_dataset_that_is_absent_gets_one_page_of_what_to_put_where(tmp_path):
    (tmp_path / "koniq10k").mkdir()
    with pytest.raises(DataError) as error:
        load_table("koniq10k", data_folder=tmp_path)
    for part in (str(tmp_path), "1024x768/", "koniq10k_distributions_sets.csv", "http", "Licence", "is there, but"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", [n for n, d in catalog.CATALOG.items() if not d.build])
def test_the_catalog_tells_all_that_a_user_needs(name):
    dataset = catalog.CATALOG[name]
    assert dataset.images > 500 and dataset.layouts and dataset.source.startswith("http")
    assert all([dataset.title, dataset.scores, dataset.layout, dataset.split, dataset.citation, dataset.licence])
    assert ("DMOS" in dataset.scores and name != "kadid10k") == (dataset.score_range[0] > dataset.score_range[1])


def test_the_page_in_the_data_folder_says_what_the_catalog_says():
    page = (paths.CHECKOUT / "data" / "README.md").read_text(encoding="utf-8")
    for name, dataset in catalog.CATALOG.items():
        known = [dataset.layout, dataset.split, dataset.licence, dataset.source, f"{dataset.images or 0:,} images"]
        expected = [] if dataset.build else known
        assert all(part in page for part in [f"`{name.removesuffix('-tiny')}`", *expected]), name


# --- the published datasets themselves --------------------------------------------------------------------


def test_biq2021_as_published(shared_data):
    table = load_table("biq2021", data_folder=shared_data)
    assert table["split"].value_counts().to_dict() == {
        "train": 2160,
        "val": 240,
        "test": 600,
    }  # near-copies stay together
    assert table["score"].between(0, 100).all() and table["path"].is_unique
    first = table.set_index("image").loc["Images/ss02 (752).jpg"]
    assert first["score"] == pytest.approx(52.93) and first["split"] == "test"


def test_live_in_the_wild_as_published(shared_data):
    table = load_table("livec", data_folder=shared_data, test_only=True)
    assert len(table) == 80 and set(table["split"]) == {"test"}
    assert not table["image"].str.contains(r"/t\d\.bmp").any()
    first = table.iloc[0]
    assert (first["image"], round(first["score"], 3), round(first["std"], 3)) == ("Images/104.bmp", 9.229, 11.902)


def test_the_labels_of_koniq_as_published(shared_data):
    table, _ = read_labels("koniq10k", data_folder=shared_data / "labels")
    assert len(table) == catalog.CATALOG["koniq10k"].images
    assert table["split"].value_counts().to_dict() == {"train": 7058, "val": 1000, "test": 2015}
    votes = table[VOTES]
    assert (votes.sum(axis=1) == table["c_total"]).all()
    mean = (votes * [1, 2, 3, 4, 5]).sum(axis=1) / table["c_total"]
    assert mean.corr(table["score"].astype(float), method="spearman") > 0.99
    assert np.allclose(votes.iloc[0], [0, 0, 25, 73, 7])


def test_the_labels_of_agiqa_as_published(shared_data, tmp_path):
    shutil.copy(shared_data / "labels" / "agiqa3k_data.csv", tmp_path / "data.csv")
    table, _ = read_labels("agiqa3k", data_folder=tmp_path)
    assert len(table) == catalog.CATALOG["agiqa3k"].images and table["reference"].nunique() == 300
    assert table["score"].between(0, 100).all()


@pytest.mark.parametrize(("name", "count"), [("kadid10k", 10125), ("spaq", 11125)])
def test_labels_in_a_collectors_form_are_read_as_ones_own(shared_data, name, count):
    table = read_own(shared_data / "labels" / f"{name}.txt")
    assert len(table) == count == catalog.CATALOG[name].images
    assert {"image", "score", "distortion"} <= set(table)


# --- labels of one's own ----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    write_images(tmp_path, ["a.png", "b.png", "c.png", "sub/d.png"])

    def write(content, name="labels.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_own_csv_may_be_separated_by_comma_semicolon_or_tab(own, separator):
    path = own("image,score,std\r\na.png,1,0.5\r\n\r\nb.png,3,0.5\r\n".replace(",", separator))
    table = load_table(path, (1, 5))
    assert table["score"].tolist() == [0, 50] and table["std"].tolist() == [12.5, 12.5]


def test_pyiqa_meta_information_with_a_header(own):
    path = own(
        "img_name,mos,std,split,c1,c2,c3,c4,c5,c_total\na.png,70,0.5,train,0,0,1,0,0,1\nb.png,20,1,test,1,0,0,0,0,1\n"
    )
    table = load_table(path, validation=False)
    assert table["score"].tolist() == [70, 20] and table["split"].tolist() == ["train", "test"]
    path = own("ref_name,dist_name,dmos\nx.png,a.png,0.1\nx.png,b.png,0.9\n")
    table = load_table(path, (1, 0))
    assert table["score"].tolist() == pytest.approx([90, 10]) and table["reference"].tolist() == ["x.png"] * 2


def test_pyiqa_meta_information_without_a_header(own):
    table = load_table(own("a.png   \t32.5   \t19.1   \nb.png   \t60   \t19   \n"))
    assert table["image"].tolist() == ["a.png", "b.png"] and table["std"].tolist() == [19.1, 19]
    table = load_table(own("I01.bmp\ta.png\t5.5\t0.1\nI01.bmp\tb.png\t1.5\t0.1\n"), (0, 9))
    assert table["reference"].tolist() == ["I01.bmp"] * 2 and table["score"][0] == pytest.approx(5.5 / 9 * 100)


def test_a_json_list(own):
    path = own('[{"image": "a.png", "score": "40"}, {"image": "sub/d.png", "score": 60}]', "mine.json")
    assert load_table(path)["score"].tolist() == [40, 60]


def test_a_folder_with_one_label_file(own, tmp_path):
    own("image,score\na.png,10\n")
    own("not labels", "README.txt")
    assert load_table(str(tmp_path))["score"].tolist() == [10]
    own("[]", "other.json")
    with pytest.raises(DataError, match=r"expected one label file .* found labels.csv, other.json"):
        load_table(str(tmp_path))


def test_a_relative_path_is_looked_for_in_the_data_folder(own, tmp_path):
    own("image,score\na.png,10\n")
    assert len(load_table("labels.csv", data_folder=tmp_path)) == 1


def test_leading_folders_of_another_machine_are_left_out(own):
    path = own("image,score\n/home/me/set/a.png,10\n/home/me/set/b.png,20\n")
    assert load_table(path)["image"].tolist() == ["a.png", "b.png"]
    path = own("image,score\nset\\sub\\d.png,10\n")
    assert load_table(path)["image"].tolist() == ["sub/d.png"]


def test_an_image_of_the_same_name_elsewhere_is_never_taken_for_a_missing_one(own, tmp_path):
    write_images(tmp_path, ["sub/a.png"])
    with pytest.raises(DataError, match=r"1 of 2 images are missing: 'd.png'"):
        load_table(own("image,score\na.png,10\nd.png,20\n"))


def test_case_differences_between_list_and_file_are_resolved_only_where_there_is_no_doubt(own, tmp_path):
    assert load_table(own("image,score\nA.PNG,1\n"))["path"][0].endswith("a.png")
    write_images(tmp_path, ["B.png"])
    assert load_table(own("image,score\nb.png,1\n"))["path"][0].endswith("b.png")
    with pytest.raises(DataError, match=r"line 2: 'b.PNG' may be any of .*name of its own"):
        load_table(own("image,score\nb.PNG,1\n"))


NAMES = ["a.png", "b.png", "café.png", "照片.png"]
PLAIN = "image,score\n" + "".join(f"{name},{10 * i}\n" for i, name in enumerate(NAMES))
ROWS = PLAIN.split("\n", 1)[1]
FORMS = {  # as people have them; all mean PLAIN
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-32": PLAIN.encode("utf-32"),
    "files with marks, joined": PLAIN.replace("café", "\ufeffcafé").encode("utf-8-sig"),
    "GBK": PLAIN.encode("gb18030"),
    "names without endings": PLAIN.replace(".png", ""),
    "Macintosh line ends": PLAIN.replace("\n", "\r"),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "a comma too many in each row": "image,score\n" + ROWS.replace("\n", ",\n"),
    "commas too many in some rows": PLAIN.replace("20\n", "20,,,\n"),
    "columns for nothing": PLAIN.replace("\n", ",,\n"),
    "votes in columns of numbers": "image,mos,1,2,3\n" + ROWS.replace("\n", ",4,5,6\n"),
    "a year as a name": "image,score,2024\n" + ROWS.replace("\n", ",x\n"),
    "names of a survey": "Image file name,ELO\n" + ROWS,
    "names of a script": "filename,rating\n" + ROWS,
    "names that nobody knows": "Bild,Note\n" + ROWS,
    "the number of each row": ",image,score\n" + "".join(f"{i},{row}\n" for i, row in enumerate(ROWS.splitlines())),
    "titles on top": "Our study,,\n,,\n" + PLAIN,
    "no header": ROWS,
    "no header, and spaces": ROWS.replace(",", " "),
    "no header, scores first": "".join(f"{10 * i}  {name}\n" for i, name in enumerate(NAMES)),
    "bars": PLAIN.replace(",", "|"),
    "quotes": "".join(f'"{line}"\n'.replace(",", '","') for line in PLAIN.splitlines()),
    "semicolons and decimal commas": "image;score\n" + ROWS.replace(",", ";").replace("\n", ",0\n"),
    "the same column twice": "image,score,score\n"
    + "".join(f"{row},{row.split(',')[1]}\n" for row in ROWS.splitlines()),
    "a row for each rater": "image,user_id,score\n" + ROWS.replace(",", ",A,") + ROWS.replace(",", ",B,"),
    "a column for each rater": "image,Rater 1,Rater 2\n" + ROWS.replace("\n", ",\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_read_as_people_have_them(own, tmp_path, form):
    write_images(tmp_path, NAMES)
    table = load_table(own(FORMS[form]))
    assert table["image"].tolist() == NAMES and table["score"].tolist() == pytest.approx([0, 10, 20, 30])


def test_a_name_without_ending_is_read_only_where_one_file_has_it(own, tmp_path, capsys):
    assert load_table(own("image,score\nsub/d,10\na,20\n"))["image"].tolist() == ["sub/d.png", "a.png"]
    assert "images with their endings, as in 'sub/d.png'" in capsys.readouterr().err
    write_images(tmp_path, ["a.jpg"])
    with pytest.raises(DataError, match="1 of 2 images are missing: 'a'"):
        load_table(own("image,score\na,10\nb,20\n"))


@pytest.mark.parametrize("words", [("Training", "VALID", "testing"), ("train", "Validation", "TEST")])
@pytest.mark.parametrize("name", ["Split", "subset"])
def test_splits_go_by_the_words_that_people_use(own, words, name):
    rows = "".join(f"{image}.png,1,{word}\n" for image, word in zip("abc", words, strict=True))
    assert load_table(own(f"image,score,{name}\n{rows}"))["split"].tolist() == ["train", "val", "test"]


@pytest.mark.parametrize("where", [".", "photos"])
@pytest.mark.parametrize("listed", ["utf-8", "latin-1", "printable", "json"])
def test_files_whose_names_are_not_utf_8_are_found_as_any_list_spells_them(own, tmp_path, where, listed):
    write_images(tmp_path / where, ["plain.png"])
    odd = os.fsdecode("café.png".encode("latin-1"))
    try:
        os.rename(tmp_path / where / "plain.png", tmp_path / where / odd)
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")
    if listed == "json":
        labels = own(json.dumps([{"image": odd, "score": 10}]), "labels.json")
    else:
        name = paths.printable(odd).encode() if listed == "printable" else "café.png".encode(listed)
        labels = own(b"image,score\n" + name + b",10\n")
    (path,) = load_table(labels)["path"]
    assert paths.named(path).is_file()


@pytest.mark.parametrize("ending", [".csv", ".json", ".xlsx"])
def test_a_label_file_may_have_any_name_and_its_faults_are_told(own, tmp_path, ending):
    path = Path(own("", os.fsdecode(b"l\xe9" + ending.encode())))
    for score in ("1", "bad"):
        table = pd.DataFrame({"image": ["a.png", "b.png"], "score": ["2", score]})
        if ending == ".csv":
            path.write_text(table.to_csv(index=False))
        elif ending == ".json":
            path.write_text(table.to_json(orient="records"))
        else:
            with open(path, "wb") as file:
                table.to_excel(file, index=False)
        if score == "1":
            assert (
                load_table(str(path))["score"].tolist() == load_table(paths.printable(path))["score"].tolist() == [2, 1]
            )
    with pytest.raises(DataError, match=r"(line|row|entry) [23]: score 'bad' is not a number"):
        load_table(str(path))


@pytest.mark.parametrize("lone", [r"\ud800.png", r"\udce9.png"])
def test_half_a_character_in_json_is_a_missing_image(own, lone):
    with pytest.raises(DataError, match="1 of 2 images are missing"):
        load_table(own(f'[{{"image": "{lone}", "score": 1}}, {{"image": "a.png", "score": 1}}]', "mine.json"))


@pytest.mark.parametrize("encoding", ["latin-1", "mac_roman", "cp1250"])
def test_the_files_themselves_tell_an_older_encoding(own, tmp_path, encoding):
    write_images(tmp_path / "photos", ["café.png"])
    assert load_table(own("image,score\ncafé.png,10\n".encode(encoding)))["image"].tolist() == ["photos/café.png"]


def test_a_sheet_of_excel_and_other_forms_of_json(own, tmp_path):
    with pd.ExcelWriter(tmp_path / "mine.xlsx") as book:
        pd.DataFrame({"about": ["a study"]}).to_excel(book, sheet_name="notes")
        pd.DataFrame({"Image": ["a.png", "b.png"], "MOS": [40, 62.5]}).to_excel(book, sheet_name="scores")
    assert load_table(str(tmp_path / "mine.xlsx"))["score"].tolist() == [40, 62.5]
    assert load_table(own('{"a.png": 40, "b.png": "60"}', "mine.json"))["score"].tolist() == [40, 60]
    assert load_table(own('[{"filename": "a.png", "MOS": 40}]', "mine.json"))["score"].tolist() == [40]
    with pytest.raises(DataError, match=r"mine\.xls is no label file .*Save it as 'CSV UTF-8'"):
        load_table(own(b"\xd0\xcf", "mine.xls"))
    with pytest.raises(DataError, match=r"is not a readable Excel file.*save it as 'CSV UTF-8'"):
        load_table(own("image,score\na.png,1\n", "mine.xlsx"))


def test_lines_of_a_macintosh_may_be_many(own):
    rows = "".join(f"{i}.png,{i % 100}\r" for i in range(50_000))
    with pytest.raises(DataError, match="50000 of 50001 images are missing"):
        load_table(own("image,score\ra.png,5\r" + rows))


def test_several_rows_of_an_image_are_its_raters_mean_with_a_standard_error(own, capsys):
    rows = "a.png,1\na.png,3\na.png,5\nb.png,2\nb.png,4\nc.png,5\n"
    table = load_table(own("image,score\n" + rows), (1, 5))
    assert table["score"].tolist() == [50, 50, 100] and table["std"].tolist()[:2] == pytest.approx(
        [50, 35.3553], abs=1e-3
    )
    assert table["standard_error"].tolist()[:2] == pytest.approx([50 / 3**0.5, 25]) and table["std"].isna()[2]
    said = capsys.readouterr().err
    assert "up to 3 rows of one image as one rater's each" in said and "standard error of 26.9 (of 100)" in said
    wide = load_table(own("image,rater1,rater2,rater3\na.png,1,3,5\nb.png,2,4,\nc.png,,,5\n"), (1, 5))
    pd.testing.assert_frame_equal(table[["score", "std"]], wide[["score", "std"]])
    with pytest.raises(DataError, match="line 3: score 9 is outside"):  # of a single rater
        load_table(own("image,score\n" + rows.replace("a.png,3", "a.png,9")), (1, 5))
    with pytest.raises(DataError, match=r"reference 'a\.png' is in test and in train"):
        load_table(own("image,score,rater,split\na.png,1,x,train\na.png,3,y,test\n"), (1, 5))


def test_what_is_plain_is_read_without_a_word(own, capsys):
    load_table(own("image,score,std,split\na.png,1,1,train\nb.png,2,1,test\n"))
    assert capsys.readouterr().err == ""


FAULTS = {
    "a score that is no number": ("image,score\na.png,nan\n", "line 2: score 'nan' is not a number"),
    "a unit": ("image;score\na.png;55%\n", "score '55%' is not a number.*with a point"),
    "a score out of range": ("image,score\na.png,101\n", "line 2: score 101 is outside 0.0–100.0.*score_range"),
    "a row without image": ("image,score\na.png,1\n,2\n", "line 3: names no image"),
    "a missing image": ("image,score\na.png,1\n\nz.png,2\n", "1 of 2 images are missing: 'z.png'"),
    "the same image twice": (
        "image,score\na.png,1\nb.png,2\na.png,1\n",
        r"line 4: image 'a.png' was already in .*line 2.*a column 'rater'",
    ),
    "some images twice": (
        "image,score\na.png,1\nb.png,2\na.png,3\nc.png,4\n",
        r"line 4: image 'a.png' was already in .*line 2.*a column 'rater'",
    ),
    "the same image in another case": ("image,score\na.png,1\nA.png,3\n", "line 3: image 'A.png' was already"),
    "a path out of the folder": ("image,score\n../x.png,1\n", "line 2: image '../x.png' leaves the folder"),
    "an absolute path": ("image,score\n/etc/passwd,1\n", "line 2: image '/etc/passwd' leaves the folder"),
    "an unknown split": ("image,score,split\na.png,1,dev\n", "line 2: split 'dev' is not one of train, val, test"),
    "a torn reference": (
        "image,score,split,reference\na.png,1,train,r\nb.png,2,test,r\n",
        "line 3: reference 'r' is in test and in train.*one side",
    ),
    "no score column": ("image,remark\na.png,good\n", "no column 'score'; it has image, remark"),
    "two columns of numbers": (
        "image,Note,n\na.png,1,2\n",
        "in 2 ways: its score may be 'Note', 'n'. Call one 'score'",
    ),
    "images twice": ("image,image,score\na.png,b.png,2\n", "2 ways: its image may be column 1, column 2"),
    "two known names": ("image,mos,dmos\na.png,1,2\n", "its score may be 'mos', 'dmos'"),
    "two columns score": ("image,score,score\na.png,1,2\n", "its score may be column 2, column 3"),
    "raters of unknown name": ("image,1,2,3\na.png,1,2,4\n", "may be '1', '2', '3'.*rater1, rater2"),
    "two columns of images": ("one,other,score\na.png,b.png,2\n", "its image may be 'one', 'other'.*'reference'"),
    "three numbers without a header": ("a.png,1,2,3\n", "which column is the score. Put a line 'image,score' on top"),
    "names with spaces without a separator": ("a.png 1\nmy b.png 2\n", "no column 'image'"),
    "thousands or decimals": ("image;score\na.png;1,500\n", "line 2: '1,500' can be read in two ways, 1.500 or 1500"),
    "decimal commas among commas": ("image,score\na.png,1,5\n", "line 2 .* more cells than the header.*semicolons"),
    "nobody's rating": ("image,rater1,rater2\na.png,1,2\nb.png,,\n", r"line 3 \(rater1\): score 'none'"),
    "no rows": ("image,score\n", "has no rows"),
    "nothing at all": ("", "is not a readable CSV"),
    "too many cells": ("image,score\na.png,1\nb.png,2,3,4\n", "line 3 .* more cells than the header"),
    "a workbook named CSV": (b"PK\3\4\x14\0\6\0", "a workbook or archive under another name.*CSV UTF-8"),
    "an older workbook named CSV": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook or archive under another name"),
    "no encoding": (b"image,score\n\x81\x8d.png,1\n", "line 2: not in CP1252 .byte 0x81.*CSV UTF-8"),
    "half of UTF-16": ("image,score\na.png,1\n".encode("utf-16")[:-1], "not in UTF-16"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_and_line_and_the_mend(own, fault):
    content, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        load_table(own(content))
    assert "\n" not in str(error.value) and "labels.csv" in str(error.value)


def test_a_file_larger_than_labels_are_is_not_read(own):
    path = own("image,score\na.png,1\n")
    os.truncate(path, 10**10)  # takes no room
    with pytest.raises(DataError, match=r"holds 10,000,000,000 bytes, more than a label file has"):
        load_table(path)


def test_all_faults_come_in_one_message(own):
    path = own("image,score,split\na.png,good,train\nz.png,500,train\na.png,2,dev\n,4,test\n")
    table, faults = read_labels(path)
    assert len(table) == 4 and len(faults) == 6
    with pytest.raises(DataError) as error:
        load_table(path)
    for part in ("'good'", "500", "'z.png'", "already", "'dev'", "names no image"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image": "a.png", "score": 1}', "line 1: not readable as JSON"),
        ('{"image": "a.png"}', "expected a list of objects"),
        ("[]", "expected a list of objects"),
        ('[{"image": "a.png"}]', "no column 'score'"),
        ('[{"image": "a.png", "score": 1}, {"image": "b.png"}]', "entry 2: score '' is not a number"),
    ],
)
def test_a_fault_in_a_json_list_is_named(own, content, message):
    with pytest.raises(DataError, match=message):
        load_table(own(content, "mine.json"))


@pytest.mark.parametrize(
    ("layout", "file", "name"),
    [
        (spaq, "Annotations/MOS and Image attribute scores.xlsx", "spaq"),
        (livec, "Data/AllMOS_release.mat", "livec"),
        (csiq, "csiq.DMOS.xlsx", "csiq"),
    ],
)
def test_a_damaged_label_file_is_named(tmp_path, layout, file, name):
    layout(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{file} is not a readable"):
        load_table(name, data_folder=tmp_path)


SHEETS = {
    "a row that names no image": ([[None, 48.86], ["00001.jpg", 62.5]], "row 2: names no image"),
    "a heading and no row": ([], "its labels have no rows"),
}


@pytest.mark.parametrize("fault", SHEETS)
def test_what_is_missing_in_a_sheet_is_named(tmp_path, fault):
    rows, message = SHEETS[fault]
    write_sheet(tmp_path / "MOS and Image attribute scores.xlsx", [["Image name", "MOS"], *rows])
    write_images(tmp_path / "TestImage", ["00001.jpg"])
    with pytest.raises(DataError, match=message):
        load_table("spaq", data_folder=tmp_path)


def test_a_column_named_twice_is_refused_by_its_name(tmp_path):
    heading = ["Image name", "MOS", "mos"]
    write_sheet(tmp_path / "MOS and Image attribute scores.xlsx", [heading, ["00001.jpg", 62.5, 3]])
    with pytest.raises(DataError, match=r"scores\.xlsx: several columns are named 'score'"):
        load_table("spaq", data_folder=tmp_path)
    (own := tmp_path / "labels.csv").write_text("image,score ,score\na.png,1,2\n")
    with pytest.raises(DataError, match=r"labels\.csv can be read in 2 ways: its score may be column 2, column 3"):
        read_own(own)


def test_csiqs_sheet_may_have_a_row_without_a_level(tmp_path):
    csiq(tmp_path)
    head = ["image", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = [["boston", "blur", 3, 0.1, 0.5], ["boston", "contrast", None, 0.1, 0.5]]
    write_sheet(tmp_path / "csiq.DMOS.xlsx", [head, *rows], "all_by_image")
    with pytest.raises(DataError, match=r"1 of 2 images are missing: 'dst_imgs/contrast/boston\.contrast\.nan\.png'"):
        load_table("csiq", data_folder=tmp_path)


def test_lists_of_unequal_length_are_refused(tmp_path):
    livec(tmp_path / "a")
    savemat(tmp_path / "a/Data/AllMOS_release.mat", {"AllMOS_release": np.ones((1, 9))})
    with pytest.raises(DataError, match="10 images, 9 scores, 10 deviations; these should be equally many"):
        load_table("livec", data_folder=tmp_path)


def test_an_image_without_row_and_a_published_image_that_is_missing(tmp_path):
    tid(tmp_path)
    write_images(tmp_path / "distorted_images", ["extra.bmp"])  # no row: it has no score to learn
    assert len(load_table("tid2013", data_folder=tmp_path)) == 40
    (tmp_path / "distorted_images" / "i01_01_5.bmp").unlink()
    with pytest.raises(DataError, match=r"1 of 40 images are missing: 'distorted_images/I01_01_5.bmp'"):
        load_table("tid2013", data_folder=tmp_path)


def test_reading_never_changes_a_dataset(tmp_path):
    biq(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    load_table("biq2021", data_folder=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_an_embedded_set_has_one_official_split(home):
    table = load_table("offline-wild-tiny", split_seed=0)
    assert table["split"].equals(load_table("offline-wild-tiny", split_seed=7)["split"])
    only = load_table("offline-wild-tiny", test_only=True)
    assert 0 < len(only) == (table["split"] == "test").sum()
    assert pd.api.types.is_float_dtype(table["severity"])


def test_votes_of_ones_own_are_counted_and_shares_are_left_out_with_a_word(own):
    counts = own("image,score,c1,c2,c3,c4,c5\na.png,70,0,0,1,3,\nb.png,20,4,0,0,0,0\n")
    assert load_table(counts, validation=False)[VOTES].to_numpy().tolist() == [[0, 0, 1, 3, 0], [4, 0, 0, 0, 0]]
    shares = load_table(
        own("image,score,c1,c2,c3,c4,c5\na.png,70,0,0,0.25,0.75,0\nb.png,20,1,0,0,0,0\n"), validation=False
    )
    assert not set(VOTES) & set(shares) and "no counts of votes" in catalog.reading_of(shares)[0]
