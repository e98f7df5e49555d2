"""The batch runner on tiny notebooks: what it runs, skips, refuses and reports."""

import io
import json
import re
import time
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image
from rich.console import Console
from tiny_study import Study

from iqa_lib import __main__, paths
from iqa_lib.workbook.runner import Board, Notebook, seconds_left


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A home with the profile ``tiny`` and an empty folder for notebooks."""
    monkeypatch.setenv("IQA_HOME", str(tmp_path))
    for name in ("DATA", "RUNS", "FIGURES", "NOTEBOOKS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "HOME", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tiny.yaml").write_text("profile: tiny\ndataset: none\nbackbone: none\n")
    return Study(tmp_path)


def one_pixel() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (1, 1)).save(content, "PNG")
    return content.getvalue()


PIXEL = one_pixel()
FIGURE = """
file = pathlib.Path(os.environ["IQA_HOME"], "a.png")
file.write_bytes(bytes.fromhex("%s"))
figure = {"name": "a", "caption": "A & B", "file": str(file)}
record("01_a", "SRCC 0.9 <script>", numbers={"srcc": 0.912345}, figures=[figure])
""".replace("%s", PIXEL.hex())


def test_a_notebook_is_skipped_until_something_changes(study):
    study.write("01_a", FIGURE)
    code, told = study.run()
    assert code == 0 and "01_a: done" in told
    html = study.report()
    assert "SRCC 0.9 &lt;script&gt;" in html and "<script" not in html
    assert "0.9123" in html and "data:image/png;base64,iVBOR" in html and "A &amp; B" in html
    assert 'href="notebooks/01_a.html"' in html and (study.folder / "notebooks/01_a.html").is_file()

    code, told = study.run()
    assert code == 0 and "01_a: skipped (inputs unchanged)" in told and "SRCC 0.9" in told
    assert "0.9123" in study.report()

    (study.home / "a.png").write_bytes(b"another")
    assert "01_a: done" in study.run()[1]
    assert "gone or damaged" not in study.report()
    (study.home / "a.png").unlink()
    assert "01_a: done" in study.run()[1]
    assert "01_a: done" in study.run({"mood": "wild"})[1]
    assert "01_a: done" in study.run({"mood": "wild", "epochs": 3})[1]
    study.write("01_a", FIGURE + "# edited")
    assert "01_a: done" in study.run({"mood": "wild", "epochs": 3})[1]
    assert "01_a: done" in study.run({"mood": "wild", "epochs": 3}, force=True)[1]
    (study.home / "data/none").mkdir(parents=True)
    (study.home / "data/none/x.png").write_bytes(b"x")
    assert "01_a: done" in study.run({"mood": "wild", "epochs": 3})[1]
    assert "01_a: skipped" in study.run({"mood": "wild", "epochs": 3})[1]


def test_a_notebook_is_rerun_when_what_it_needs_was_rerun_in_an_earlier_call(study):
    study.write("01_a", 'record("01_a")')
    study.write("02_b", 'record("02_b")', needs=["01_a"])
    assert study.run()[0] == 0
    assert study.run(only=["01_a"], force=True)[0] == 0
    told = study.run()[1]
    assert "01_a: skipped" in told and "02_b: done" in told


def test_failures_are_told_and_only_dependents_are_held_back(study):
    study.write("01_fails", 'raise ValueError("<b>too few</b> images")', 'record("01_fails")')
    study.write("02_needs", 'record("02_needs")', needs=["01_fails"])
    study.write("03_needs_that", 'record("03_needs_that")', needs=["02_needs"])
    study.write("04_free", 'record("04_free", "free and well")')
    study.write("05_dies", "os._exit(1)")
    study.write("06_silent", "1 + 1")
    study.write("07_leaves", "raise SystemExit(0)", 'record("07_leaves")')
    code, told = study.run()
    assert code == 1
    # the cell's number counts the parameters that papermill put in
    assert "01_fails failed at cell 4/5 (In [4]): ValueError: <b>too few</b> images" in told
    assert "02_needs: not run (needs 01_fails)" in told
    assert "03_needs_that: not run (needs 02_needs)" in told
    assert "04_free: done" in told
    assert "05_dies failed at cell 4/4: DeadKernel: the kernel died (out of memory?)" in told
    assert "06_silent failed at end: NoResult" in told
    assert "07_leaves failed at end: NoResult" in told
    html = study.report()
    assert "&lt;b&gt;too few&lt;/b&gt; images" in html and "cell 4/5 (In [4])" in html and "free and well" in html

    code, told = study.run(only=["04_free"])
    assert code == 0 and "04_free: skipped" in told
    assert "too few" in study.report() and "failed (earlier)" in study.report()
    assert "06_silent: failed" in study.run(start="06_silent")[1]


def test_a_failed_notebook_is_not_skipped_even_where_it_had_recorded(study):
    study.write("01_a", 'record("01_a")')
    assert study.run()[0] == 0
    study.write("01_a", 'record("01_a")', "1 / 0")
    assert study.run()[0] == 1
    assert study.run()[0] == 1


def test_a_users_mistake_in_a_notebook_exits_2(study):
    study.write("01_a", 'from iqa_lib.errors import DataError\nraise DataError("no folder data/koniq10k")')
    code, told = study.run()
    assert code == 2 and "DataError: no folder data/koniq10k" in told


def test_the_librarys_own_page_is_accepted(study):
    study.write(
        "01_a",
        "from iqa_lib.study.page import Page\nfrom iqa_lib.profile import Profile\n"
        'settings = Profile.from_notebook(globals())\nPage(settings, "01_a").finish(f"{settings.epochs} epochs")',
    )
    code, told = study.run({"epochs": 7})
    assert code == 0 and "7 epochs" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "epoch=3"], "unknown parameter 'epoch', did you mean epochs"),
        (["-p", "moo=3"], "unknown parameter 'moo', did you mean mood"),
        (["-p", "epochs=0"], "epochs: 0 is not allowed"),
        (["-p", "epochs"], "-p takes NAME=VALUE"),
        (["-p", "profile=x"], "name it with --profile"),
        (["--only", "01_b"], "no notebook '01_b', did you mean 01_a"),
        (["--from", "01_b"], "no notebook '01_b', did you mean 01_a"),
        (["--profile", "nowhere"], "No profile 'nowhere'"),
    ],
)
def test_mistakes_are_told_in_one_line(study, capsys, arguments, said):
    study.write("01_a", 'record("01_a")')
    assert __main__.main(["run", "--profile", study.profile, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def test_an_unknown_profile_key_is_told_in_one_line(study, capsys):
    Path(study.profile).write_text("profile: tiny\ndataset: none\nbackbone: none\nbatchsize: 3\n")
    assert __main__.main(["run", "--profile", study.profile]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "unknown key 'batchsize', did you mean 'batch_size'?" in said


def test_two_runs_of_a_profile_at_once_are_refused(study, capsys):
    study.folder.mkdir(parents=True)
    with FileLock(study.folder / ".lock"):
        assert __main__.main(["run", "--profile", study.profile]) == 2
    assert capsys.readouterr().err == "error: another run of profile 'tiny' is under way\n"


# --- how long it takes ------------------------------------------------------------------------------------


def notebooks(**changes) -> list[Notebook]:
    """Three, of one, two and four parts of the work, that wait."""
    made = [Notebook(Path(f"{n}.ipynb"), [], [], Path("runs"), share) for n, share in ((1, 1), (2, 2), (3, 4))]
    for name, value in changes.items():
        for notebook, one in zip(made, value, strict=True):
            setattr(notebook, name, one)
    return made


def test_the_time_left_is_unknown_until_a_notebook_ran_here():
    assert seconds_left(notebooks()) is None
    assert seconds_left(notebooks(status=["running", "waiting", "waiting"], started=[time.monotonic(), 0, 0])) is None
    assert seconds_left(notebooks(status=["skipped", "waiting", "waiting"])) is None


def test_the_time_left_follows_the_pace_of_the_notebooks_that_ran():
    one = notebooks(status=["done", "waiting", "waiting"], seconds=[30, None, None])
    assert seconds_left(one) == 30 * (2 + 4)
    two = notebooks(status=["done", "done", "waiting"], seconds=[30, 30, None])
    assert seconds_left(two) == (30 + 30) / (1 + 2) * 4
    failed = notebooks(status=["failed", "waiting", "waiting"], seconds=[1, None, None])
    assert seconds_left(failed) is None


def test_what_a_notebook_took_here_before_counts_more_than_its_share():
    known = notebooks(expected=[10, 20, 300])
    assert seconds_left(known) == 330
    mixed = notebooks(status=["done", "waiting", "waiting"], seconds=[30, None, None], expected=[None, 20, None])
    assert seconds_left(mixed) == 20 + 30 * 4
    now = time.monotonic()
    running = notebooks(
        status=["done", "running", "waiting"], expected=[1, 50, 5], seconds=[1, None, None], started=[0, now - 30, 0]
    )
    assert seconds_left(running) == pytest.approx(20 + 5, abs=1)
    late = notebooks(
        status=["done", "running", "waiting"], expected=[1, 50, 5], seconds=[1, None, None], started=[0, now - 90, 0]
    )
    assert seconds_left(late) == 5


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0, ""),
        (20, "less than a minute left"),
        (100, "about 2 min left"),
        (3_000, "about 50 min left"),
        (90_000, "about 25 h left"),
    ],
)
def test_the_board_says_it_in_a_line_below(tmp_path, seconds, words):
    console = Console(record=True, file=io.StringIO(), width=100)
    console.print(Board(notebooks(expected=[seconds, 0, 0]), tmp_path / "progress.json"))
    lines = console.export_text().splitlines()
    assert len(lines) == 3 + bool(words) and (not words or lines[-1] == words)


def test_a_run_says_after_each_notebook_how_long_it_still_takes(study):
    study.write("01_a", 'record("01_a")', share=1)
    study.write("02_b", 'record("02_b")', needs=["01_a"], share=200)
    study.write("03_c", 'record("03_c")', share=1)
    lines = study.run()[1].splitlines()
    assert lines[1].startswith("01_a: done") and re.fullmatch(r"about \d+ (min|h) left", lines[2])
    assert lines[3] == "02_b: started" and lines[5] == "less than a minute left"
    assert lines[7].startswith("03_c: done") and not any("left" in line for line in lines[8:])

    assert " left" not in study.run()[1]  # nothing has changed: nothing will take any time

    file = study.folder / "state/02_b.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": 600}))
    study.write("01_a", 'record("01_a")  # edited', share=1)
    told = study.run()[1].splitlines()
    assert told[1].startswith("01_a: done") and told[2] == "about 10 min left"
    assert "03_c: skipped (inputs unchanged)" in told
