"""Every rating is on disk when it is given: none is lost, none is there twice, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ratings_by import photographs

from iqa_lib.errors import DataError, StorageError, WorkbookError
from iqa_lib.rating.records import Ratings, load, read_table

RATES = """
import sys
from pathlib import Path
from iqa_lib.rating.records import Ratings
file = Ratings(Path(sys.argv[1]), "Ann")
while True:
    lines = file.standing().lines
    added = file.add({"rater": "Ann", "kind": "acr", "image": f"{lines}.jpg", "value": 1 + lines % 5}, lines)
    print(lines if added else "refused", flush=True)
"""


def line(image, value=3, **more):
    return {"rater": "Ann", "kind": "acr", "image": image, "value": value, "repeat": False, **more}


@pytest.mark.slow
def test_killed_twenty_times_while_rating_it_loses_none_and_doubles_none(tmp_path):
    answered = []
    for wait in range(20):
        rating = subprocess.Popen([sys.executable, "-c", RATES, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        answered.append(int(rating.stdout.readline()))  # it is at work
        time.sleep(0.01 + wait / 300)
        os.kill(rating.pid, signal.SIGKILL)
        answered += [int(text) for text in rating.communicate()[0].split("\n")[:-1]]
    found = [int(image.removesuffix(".jpg")) for image in load(tmp_path)["image"]]
    assert found == list(range(len(found)))  # each once, in order
    assert set(answered) <= set(found) and len(answered) == len(set(answered)) > 20
    assert len(found) - len(answered) <= 20  # on disk, but killed before it could be answered


def test_half_a_line_was_never_answered_for_and_is_cut_off(tmp_path):
    ratings = Ratings(tmp_path, "Ann")
    assert ratings.add(line("a.jpg"), 0)
    with open(ratings.file, "a") as file:
        file.write('{"rater": "Ann", "kind": "ac')
    assert ratings.standing().lines == 1
    assert ratings.add(line("b.jpg"), 1)
    assert load(tmp_path)["image"].tolist() == ["a.jpg", "b.jpg"]


def test_a_press_sent_twice_or_from_another_window_counts_once(tmp_path):
    one, other = Ratings(tmp_path, "Ann"), Ratings(tmp_path, " ann ")
    assert one.add(line("a.jpg", 4), 0) and not one.add(line("a.jpg", 4), 0) and not other.add(line("a.jpg", 2), 0)
    assert load(tmp_path)["value"].tolist() == [4]


def test_undo_is_a_line_too_and_what_was_undone_is_shown_again(tmp_path):
    ratings = Ratings(tmp_path, "Ann")
    for number, name in enumerate("abc"):
        ratings.add(line(name), number)
    ratings.add({"undo": True}, 3)
    ratings.add({"undo": True}, 4)
    standing = ratings.standing()
    assert [g["image"] for g in standing.given] == ["a"]
    assert [u["image"] for u in standing.again] == ["c", "b"]
    ratings.add(line("b", 5), 5)
    assert [u["image"] for u in ratings.standing().again] == ["c"]
    assert len(ratings.file.read_text().splitlines()) == 6  # nothing was taken away


def test_raters_have_a_file_each_whatever_they_are_called(tmp_path):
    for rater in ("Ann", "../Ben", "Zoë 王", "a/b", "..", "CON"):
        assert Ratings(tmp_path, rater).add({**line("a.jpg"), "rater": rater}, 0)
    assert load(tmp_path)["rater"].nunique() == 6
    assert {file.parent for file in tmp_path.rglob("*.jsonl")} == {tmp_path / "ratings"}
    for nobody in ("", "  ", "x" * 41):
        with pytest.raises(WorkbookError, match="1 to 40 letters"):
            Ratings(tmp_path, nobody)


@pytest.mark.parametrize(
    "wrong", ["no json", '{"kind": "acr"}', '{"kind": "acr", "image": "a", "value": 6}', '{"undo": 1}']
)
def test_a_line_that_is_no_rating_is_named(tmp_path, wrong):
    ratings = Ratings(tmp_path, "Ann")
    ratings.file.parent.mkdir()
    ratings.file.write_text(f"{wrong}\n")
    with pytest.raises(DataError, match=r"ann\.jsonl, line 1"):
        load(tmp_path)


def test_a_disk_that_refuses_is_said_and_nothing_is_half_written(tmp_path, monkeypatch):
    ratings = Ratings(tmp_path, "Ann")
    ratings.add(line("a.jpg"), 0)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="Make room"):
        ratings.add(line("b.jpg"), 1)
    assert load(tmp_path)["image"].tolist() == ["a.jpg"]


# --- of other tools ---

LONG = "user_ID,stimulus,rating\n1,000.jpg,5\n1,001.jpg,2\n2,000.jpg,4\n2,001.jpg,1\n"
WIDE = "image,rater1,rater2\n000.jpg,5,4\n001.jpg,2,1\n"
LABEL_STUDIO = "image,rating,annotator\n/data/upload/1/0a1b2c3d-000.jpg,5,1\n/data/upload/1/0a1b2c3d-001.jpg,2,1\n"
PYBOSSA = "task_run__user_id,task_run__info,task__image\n1,Excellent,000.jpg\n1,Poor,001.jpg\n"
NESTED = [
    {
        "data": {"image": "/data/upload/1/0a1b2c3d-000.jpg"},
        "annotations": [{"completed_by": 3, "result": [{"value": {"rating": 5}}]}],
    },
    {
        "data": {"image": "/data/upload/1/0a1b2c3d-001.jpg"},
        "annotations": [{"completed_by": {"email": "x@y"}, "result": [{"value": {"choices": ["Poor"]}}]}],
    },
]


@pytest.mark.parametrize(
    ("text", "suffix"),
    [(LONG, "csv"), (WIDE, "csv"), (LABEL_STUDIO, "csv"), (PYBOSSA, "csv"), (json.dumps(NESTED), "json")],
)
def test_tables_of_other_tools_are_read(tmp_path, text, suffix):
    folder = photographs(tmp_path / "photos", 2)
    table = tmp_path / f"export.{suffix}"
    table.write_text(text)
    found = read_table(table, folder)
    first = found[found["image"] == "000.jpg"]["value"].max()
    assert (first, found[found["image"] == "001.jpg"]["value"].max()) == (100, 25)
    assert found["rater"].notna().all() and found["rater"].nunique() >= 1


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("image,score\n000.jpg,5\n001.jpg,2\n", "one person's ratings, or as means of several"),
        ("image,rater,score\n000.jpg,A,7\n001.jpg,A,2\n", "several scales"),
        ("image,rater,score\nx.jpg,A,5\ny.jpg,A,2\n", "none of its images"),
        ("image,rater,score\n000.jpg,A,5\n001.jpg,A,\n", "is not a number"),
    ],
)
def test_where_two_readings_are_possible_it_asks_in_words(tmp_path, text, asked):
    folder = photographs(tmp_path / "photos", 2)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=asked):
        read_table(tmp_path / "t.csv", folder)


def test_a_scale_can_be_said(tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    (tmp_path / "t.csv").write_text("image,rater,score\n000.jpg,A,1\n001.jpg,A,10\n")
    assert read_table(tmp_path / "t.csv", folder, (10, 1))["value"].tolist() == [100, 0]
