"""The page as its browser's half would drive it: every press answered, every fault said, nothing rated twice."""

import subprocess
import sys

import pytest
from ratings_by import photographs

from iqa_lib import paths
from iqa_lib.errors import DataError
from iqa_lib.rating import learn
from iqa_lib.rating.app import DONE, NONE, RatingApp
from iqa_lib.rating.records import load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("iqa_lib.paths.DATA", tmp_path / "data")
    return photographs(tmp_path / "my photos", 12)


def press(app, value, token=None):
    seen = token or app.photographs.view["token"]
    app.hear({"act": "rate", "token": seen, "value": value, "seconds": 1.2, "zoom": 0.8})
    return seen


def learning_from(fewest, folder, monkeypatch):
    """The page, looked at by the model, which learns after ten photographs."""
    monkeypatch.setattr("iqa_lib.rating.app.REFIT_AFTER", 10)
    monkeypatch.setattr(learn, "FEWEST", fewest)
    app = RatingApp(folder, "Ann")
    app.wait()
    return app


def test_a_press_is_on_disk_before_the_next_photograph_is_shown(folder):
    app = RatingApp(folder, "Ann")
    first = app.photographs.photo
    token = press(app, 4)
    assert load(folder)[["value", "seconds", "zoom"]].to_numpy().tolist() == [[4, 1.2, 0.8]]
    assert app.photographs.photo != first and app.photographs.view["said"].startswith("1 of 13")
    press(app, 2, token)  # the same press again
    assert len(load(folder)) == 1
    app.hear({"act": "undo", "token": app.photographs.view["token"]})
    assert load(folder).empty and app.photographs.photo == first
    app.wait()


def test_who_rated_in_this_browser_goes_on_unless_somebody_is_named(folder):
    app = RatingApp(folder)
    app.hear({"act": "hello", "rater": "Ben"})
    assert app.photographs.view["rater"] == "Ben"
    named = RatingApp(folder, "Ann")
    named.hear({"act": "hello", "rater": "Ben"})
    assert named.photographs.view["rater"] == "Ann"
    app.wait()
    named.wait()


def test_another_window_is_noticed(folder):
    one, other = RatingApp(folder, "Ann"), RatingApp(folder, "Ann")
    press(one, 5)
    press(other, 1)
    assert load(folder)["value"].tolist() == [5]
    assert "another window" in other.photographs.view["hint"] and other.photographs.photo == one.photographs.photo
    one.wait()
    other.wait()


def test_it_learns_in_the_background_and_says_how_far_it_agrees(folder, monkeypatch):
    app = learning_from(9, folder, monkeypatch)
    while app.item:
        press(app, 1 + int(app.item.images[0][:3]) % 5)
    app.wait()
    assert DONE in app.photographs.view["said"] and app.photographs.view["finished"]
    assert "Learnt: at " in app.learnt.value and "the default model" in app.learnt.value
    app.judge.click()
    app.wait()
    assert "more photographs rated bring about" in app.result.value and len(app.figure.value) > 5000


@pytest.mark.parametrize("kind", ["slider", "pair"])
def test_the_kind_can_be_changed_on_the_page(folder, kind):
    app = RatingApp(folder, "Ann")
    app.kind.value = kind
    assert app.photographs.view["kind"] == kind and bool(app.photographs.other) == (kind == "pair")
    press(app, 1)
    assert load(folder)["kind"].tolist() == [kind]
    app.wait()


def test_what_goes_wrong_is_said_on_the_page(folder):
    app = RatingApp(folder, "Ann")
    app.photographs._handle_custom_msg({"act": "rate", "token": app.photographs.view["token"], "value": 9}, [])
    assert "KeyError" in app.status.value or "from 1 to 5" in app.status.value
    app.rater.value = "x" * 50
    assert "1 to 40 letters" in app.status.value
    app.judge.click()
    app.wait()
    assert "0 photographs are rated" in app.result.value or "no ratings yet" in app.result.value


def test_make_rate_says_what_is_wrong_with_a_folder(tmp_path):
    command = [sys.executable, "-m", "iqa_lib.rating.app", str(tmp_path / "absent"), str(tmp_path / "page.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "is no folder: name the one that holds your photographs" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "page.ipynb").exists()


def test_a_photograph_that_goes_while_it_is_next_is_skipped(folder):
    app = RatingApp(folder, "Ann")
    app.wait()
    app._reader.submit(lambda: None).result()  # the next one has been read ahead
    gone = app.session.item_after(app.item).images[0]
    (folder / gone).unlink()
    press(app, 3)
    press(app, 4)
    assert len(load(folder)) == 2 and gone in app.status.value and "Errno" not in app.status.value
    assert gone not in set(load(folder)["image"])


def test_a_page_that_is_behind_is_told_what_to_show(folder, monkeypatch):
    app, told = RatingApp(folder, "Ann"), []
    monkeypatch.setattr(app.photographs, "send_state", lambda *_: told.append(app.photographs.view["token"]))
    press(app, 3, token="Ann acr 99")
    assert load(folder).empty and told == [app.photographs.view["token"]]
    app.wait()


def test_it_learns_from_photographs_not_from_repeats(folder, monkeypatch):
    """Ten ratings are nine photographs and a repeat."""
    app = learning_from(10, folder, monkeypatch)
    for number in range(10):
        press(app, 1 + number % 5)
    app.wait()
    assert not app.learnt.value and not app.result.value
    press(app, 2)
    app.wait()
    assert "Learnt: at 10" in app.learnt.value


def test_where_nothing_can_be_read_nobody_is_thanked(tmp_path, monkeypatch):
    monkeypatch.setattr("iqa_lib.paths.DATA", tmp_path / "data")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.jpg").write_bytes(b"no picture")
    app = RatingApp(tmp_path / "photos", "Ann")
    assert NONE in app.photographs.view["said"] and DONE not in app.photographs.view["said"]
    app.wait()


def test_a_kind_that_is_none_is_refused_in_words(folder):
    with pytest.raises(DataError, match="One rates by acr, slider, pair; got 'stars'"):
        RatingApp(folder, "Ann", "stars")


def test_a_folder_of_any_name_is_handed_over_by_make(tmp_path):
    folder = tmp_path / "Ann's “best” $HOME photos"
    command = ["make", "-n", "rate", f"FOLDER={str(folder).replace('$', '$$')}"]
    told = subprocess.run(command, cwd=paths.CHECKOUT, capture_output=True, text=True)
    assert told.returncode == 0 and '"$FOLDER"' in told.stdout, told.stderr
