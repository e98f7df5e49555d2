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
        ("image,rater,score\n000.jpg,A,5\n001.jpg,A,so-so\n", "is not a number"),
        ("image,rater,dmos\n000.jpg,A,80\n001.jpg,A,20\n", r"DMOS, of which the lower.*ends=\(100, 0\)"),
        ("image,rater,score\n000.jpg,A,20\n001.jpg,A,4\n", "several scales"),
        ("task_run__user_id,task_run__info,task__image\n,5,000.jpg\n,2,001.jpg\n", "no rater is named"),
        ("image,rater,score\n000.jpg,nan,5\n001.jpg,A,2\n", "t.csv, line 2.*no rater is named"),
        ("image,rater,rating_type,score\n000.jpg,A,quality,5\n000.jpg,A,annoyance,1\n", "different things were rated"),
        ("image,rater,score\n000.jpg,A,\n001.jpg,A,N/A\n", "holds no rating"),
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


def test_label_studio_ratings_that_were_skipped_do_not_count_and_two_questions_are_asked_about(tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    task = json.loads(json.dumps(NESTED))
    task[0]["annotations"].append({"was_cancelled": True, "completed_by": 4, "result": [{"value": {"rating": 1}}]})
    (tmp_path / "t.json").write_text(json.dumps(task))
    assert read_table(tmp_path / "t.json", folder)["value"].tolist() == [100, 25]
    both = [{"from_name": name, "value": {"rating": 5}} for name in ("overall", "sharpness")]
    task[0]["annotations"][0]["result"] = both
    (tmp_path / "t.json").write_text(json.dumps(task))
    with pytest.raises(DataError, match=r"several questions \(, overall, sharpness\)"):
        read_table(tmp_path / "t.json", folder)


def test_rows_without_a_rating_are_left_out_and_what_was_inferred_is_said(tmp_path, capsys):
    folder = photographs(tmp_path / "photos", 3)
    (tmp_path / "t.csv").write_text(
        "image,user,rating\n000.jpg,A,5\n001.jpg,A,\n001.jpg,B,N/A\n002.jpg,A,1\nx.jpg,A,2\n"
    )
    assert read_table(tmp_path / "t.csv", folder)["value"].tolist() == [100, 0]
    told = capsys.readouterr().out
    for part in (
        "1 as the worst, 5 as the best",
        "rater from 'user'",
        "2 rows that hold no rating, such as t.csv, line 3",
    ):
        assert part in told
    assert "1 ratings of images that are not in" in told


def test_rows_that_are_all_there_twice_are_not_taken_for_repeats(tmp_path, capsys):
    folder = photographs(tmp_path / "photos", 6)
    rows = "".join(f"{n:03d}.jpg,A,{1 + n % 5}\n" for n in range(6))
    (tmp_path / "t.csv").write_text("image,rater,score\n" + rows + rows)
    assert len(read_table(tmp_path / "t.csv", folder)) == 6
    assert "6 rows that say once more what another says" in capsys.readouterr().out
    (tmp_path / "t.csv").write_text("image,rater,score\n" + rows + rows.replace("000.jpg,A,1", "000.jpg,A,2"))
    assert len(read_table(tmp_path / "t.csv", folder)) == 12, "real repeats differ now and then"


def test_words_of_the_five_point_scale_say_it_even_where_one_alone_occurs(tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    (tmp_path / "t.csv").write_text("image,rater,score\n000.jpg,A,good\n001.jpg,A,Good\n")
    assert read_table(tmp_path / "t.csv", folder)["value"].tolist() == [75, 75]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x=9.jpg", "x=9.jpg"),
        ("/any/path/x=9.jpg", "x=9.jpg"),
        ("/any/path/9.jpg", "9.jpg"),
        ("{folder}/A/1.jpg", "A/1.jpg"),
        ("photos/B/1.jpg", "B/1.jpg"),
        ("C:\\pictures\\A\\1.jpg", "A/1.jpg"),
        ("1.jpg", None),  # which of two?
        ("/data/local-files/?d=somewhere/A/1.jpg", "A/1.jpg"),
        ("https://host/show?id=3&file=9.jpg", "9.jpg"),
        ("9.JPG", "9.jpg"),
        ("9", "9.jpg"),
        ("0a1b2c3d-9.jpg", "9.jpg"),
        ("8.jpg", None),
    ],
)
def test_a_photograph_is_found_by_the_end_of_its_path_and_never_another(tmp_path, name, found):
    from iqa_lib.rating.records import _matched

    folder = tmp_path / "photos"
    (one,) = photographs(tmp_path / "p", 1).iterdir()
    for file in ("x=9.jpg", "9.jpg", "A/1.jpg", "B/1.jpg"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(one.read_bytes())
    assert _matched([name.format(folder=folder)], folder) == [found]


def test_a_missing_table_and_a_folder_are_refused_in_words(tmp_path):
    folder = photographs(tmp_path / "photos", 1)
    for wrong in (tmp_path / "absent.csv", folder):
        with pytest.raises(DataError, match="is no file: name the table"):
            read_table(wrong, folder)


def test_one_name_in_capitals_or_not_is_one_rater(tmp_path):
    for name, value in (("Ann", 1), ("ann", 5)):
        ratings = Ratings(tmp_path, name)
        ratings.add({**line("a.jpg"), "rater": name, "value": value}, ratings.standing().lines)
    assert load(tmp_path)["rater"].tolist() == ["Ann", "Ann"]


def test_a_line_may_say_no_more_than_what_was_rated_and_how(tmp_path):
    ratings = Ratings(tmp_path, "Ann")
    ratings.add({"rater": "Ann", "kind": "acr", "image": "a.jpg", "value": 3}, 0)
    assert load(tmp_path)[["repeat", "chosen"]].to_numpy().tolist() == [[False, "random"]]


def test_a_name_too_long_for_a_file_is_refused(tmp_path):
    with pytest.raises(WorkbookError, match="too long for the name of a file"):
        Ratings(tmp_path, "漢" * 40)
