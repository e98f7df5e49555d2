"""Any name the system gives, any place to write to, any thing that is passed: scored, or refused in words."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from skimage import data as photographs

from iqa_lib import __main__, paths
from iqa_lib.errors import CheckpointError, DataError, StorageError
from iqa_lib.profile import load_profile
from iqa_lib.progress import in_a_line, shown, templates
from iqa_lib.scoring.listing import print_scores
from iqa_lib.scoring.metric import Metric
from iqa_lib.scoring.score import find_images, load_scorer, score
from iqa_lib.training.predictor import Predictor
from iqa_lib.training.runs import Run

NAMES = {
    "Latin-1": b"caf\xe9.jpg",
    "GBK": "照片.jpg".encode("gbk"),
    "beyond Latin-1": "照片 😀.jpg".encode(),
    "a control sequence and a new line": b"a\x1b[31m\n.jpg",
    "the longest name that there is": ("照" * 83 + "ab.jpg").encode(),
    "other scripts": "हिन्दी صورة.jpg".encode(),
    "writing turned round, and what TeX would take for a formula": "\u202egpj.$\\x$.jpg".encode(),
}


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(photographs.chelsea()).resize((100, 80))


@pytest.fixture
def photo(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def oddly_named(tmp_path, picture):
    """A folder of photographs whose names a terminal, a file or both cannot hold."""
    place = tmp_path / "odd"
    place.mkdir()
    picture.save(tmp_path / "plain.jpg")
    for name in NAMES.values():
        try:
            os.link(tmp_path / "plain.jpg", os.path.join(os.fsencode(place), name))
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
    return place


def command(*arguments, encoding="utf-8", **options):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200", "PYTHONPATH": str(paths.CHECKOUT)}
    call = [sys.executable, "-m", "iqa_lib", "score", *map(str, arguments)]
    return subprocess.run(call, env=environment, capture_output=True, timeout=300, **options)


# --- names ---


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_every_name_is_scored_and_printed_on_any_terminal(oddly_named, folder, tmp_path, encoding):
    done = command(oddly_named, "--model", folder, "--map", tmp_path / "maps", encoding=encoding)
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert b"Glyph" not in done.stderr  # that no font has: nothing a user can do while scoring
    text = done.stdout.decode(encoding)
    assert f"{len(NAMES)} images" in text and r"caf\udce9.jpg" in text.replace("\n", "")
    assert not {"\x1b", "\u202e"} & set(text) and r"\x1b" in text and r"\u202e" in text


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_json_has_names_that_python_finds_again(oddly_named, folder, encoding):
    done = command(oddly_named, "--model", folder, "--json", encoding=encoding)
    assert b"\xe2\x80\xae" not in done.stdout
    rows = json.loads(done.stdout.decode(encoding))
    assert {os.fsencode(paths.named(row["image"]).name) for row in rows} == set(NAMES.values())


@pytest.mark.parametrize(
    "hidden", ["\x07", "\t", "\x9b", "\xad", "\u200b", "\u202e", "\u2028", "\u2066", "\ufeff", "\U000e0041"]
)
def test_no_character_commands_a_terminal_turns_the_writing_or_hides(hidden):
    escaped = hidden.encode("unicode_escape").decode()
    assert shown(f"图片{hidden}gpj.exe\n") == f"图片{escaped}gpj.exe\n"
    assert in_a_line(f"{hidden}\n") == rf"{escaped}\n"
    page = templates(paths.CHECKOUT).from_string("{{ name }}{{ name|safe }}{{ 3 }}")
    assert page.render(name=f"<{hidden}>") == f"&lt;{escaped}&gt;<{escaped}>3"


@pytest.mark.parametrize(
    "name", ["می\u200cخواهم.jpg", "അവന്\u200d.jpg", "👩\u200d💻.jpg", "❤️\u200d🔥", "café 照片 हिन्दी صورة.jpg"]
)
def test_what_joins_letters_and_emoji_is_part_of_a_name(name):
    assert shown(name) == name
    assert shown("a\u200db\u200c") == r"a\u200db\u200c"  # of Latin letters it joins nothing


def test_a_csv_has_names_that_the_command_finds_again(oddly_named, folder, tmp_path):
    assert __main__.main(["score", str(oddly_named), "--model", str(folder), "--csv", str(tmp_path / "s.csv")]) == 0
    table = paths.read_csv(tmp_path / "s.csv")
    assert {os.fsencode(file.name) for file in find_images(table["image"])} == set(NAMES.values())


def test_a_name_that_only_looks_escaped_is_meant_as_it_is(tmp_path, picture):
    picture.save(tmp_path / r"caf\udce9.png")
    assert find_images([tmp_path / r"caf\udce9.png"]) == [tmp_path / r"caf\udce9.png"]


def test_scores_and_maps_of_odd_names(oddly_named, scorer, folder, tmp_path):
    assert score(oddly_named, scorer).notna().all()
    given = [str(oddly_named), "--model", str(folder), "--map", str(tmp_path / "maps")]
    assert __main__.main(["score", *given]) == 0
    assert len(list((tmp_path / "maps").iterdir())) == len(NAMES)


def test_who_reads_the_first_line_alone_is_no_error(oddly_named, folder):
    call = f"{sys.executable} -m iqa_lib score {oddly_named} --json --model {folder} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", call], capture_output=True, env={**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    )
    assert done.stdout == b"[" and b"Error" not in done.stderr


@pytest.mark.parametrize("name", ["~1.jpg", "~no-such-user", "~no-such-user/x.jpg"])
def test_what_only_looks_like_somebodys_home_is_a_name(tmp_path, picture, name, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_images([name])
    Path(name).parent.mkdir(exist_ok=True)
    picture.save(name, format="PNG")
    assert find_images([name]) == [Path(name)]
    for call in (["score", name, "--model", "~no-such-user/x.pkl"], ["finetune", "~no-such-user/x.csv"]):
        assert __main__.main(call) == 2
        assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "x" * 300, "a\0b.jpg", "x/" * 3000])
def test_what_can_be_no_name_is_refused_in_words(name):
    with pytest.raises(DataError, match="does not exist"):
        find_images([name])


def test_a_model_is_found_by_any_name_and_whatever_a_host_computes_in(folder, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le")
    shutil.copytree(folder, odd)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for name in (odd, os.fsencode(odd), paths.printable(odd)):
            assert {p.dtype for p in load_scorer(name).model.parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(before)
    for thing in (3, torch.nn.Linear(1, 1), ["a"]):
        with pytest.raises(CheckpointError, match="name or folder, not as"):
            load_scorer(thing)


@pytest.mark.parametrize("size", ["Infinity", "NaN", "[]", '"wide"', "null"])
def test_a_saved_model_of_an_impossible_size_is_named(folder, tmp_path, size):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"image_size": 0}).replace('"image_size": 0', f'"image_size": {size}')
    )
    with pytest.raises(CheckpointError, match=r"config\.json is not that of a saved model"):
        load_scorer(tmp_path)


# --- folders that may not be read, links to nothing, pipes ---


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_is_a_fault_of_the_list_and_nobody_waits_for_it(tmp_path, photo, scorer, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / "b.jpg")
    else:
        (tmp_path / "b.jpg").symlink_to(os.devnull)
    with pytest.warns(UserWarning, match="b.jpg is a pipe or device"):
        assert score(tmp_path, scorer).notna().tolist() == [True, False]
    with pytest.raises(DataError, match="is a pipe or device: save the picture"):
        score(tmp_path / "b.jpg", scorer)


def test_folders_that_are_linked_are_looked_into_once(tmp_path, picture):
    inside, disk = tmp_path / "pics", tmp_path / "disk"
    for place in (inside / "own", disk):
        place.mkdir(parents=True)
        picture.save(place / "a.png")
    for number, target in enumerate([disk, disk, ".", "own", inside]):
        (inside / f"link{number}").symlink_to(target)
    found = find_images([inside])
    assert {os.path.realpath(file) for file in found} == {str(disk / "a.png"), str(inside / "own/a.png")}
    assert len(found) == 2


def test_a_pattern_names_the_folders_on_its_way_that_may_not_be_read(tmp_path, photo, closed):
    assert find_images([tmp_path / "**/*.png"]) == [photo, closed]
    assert find_images([tmp_path / "*" / "*.png", photo]) == [closed, photo]


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that may not be read, also by a superuser."""
    (tmp_path / "closed").mkdir()
    scandir, access = os.scandir, os.access

    def refuses(place="."):
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuses)
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "closed" and access(place, mode))
    return tmp_path / "closed"


def test_a_folder_that_may_not_be_read_is_a_fault_of_the_list(tmp_path, photo, folder, closed, capsys):
    assert __main__.main(["score", str(tmp_path), "--model", str(folder)]) == 1
    assert "closed may not be read" in capsys.readouterr().err


def test_a_link_to_nothing_is_a_fault_of_the_list(tmp_path, photo, folder, capsys):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert __main__.main(["score", str(tmp_path), "--model", str(folder)]) == 1
    assert "gone.jpg" in capsys.readouterr().err


# --- targets ---


def test_a_link_stays_one_and_its_target_is_written(photo, folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "elsewhere" / "scores.csv")
    for _ in range(2):  # a link to nothing, then to a file
        assert __main__.main(["score", str(photo), "--model", str(folder), "--csv", str(tmp_path / "link.csv")]) == 0
        assert (tmp_path / "link.csv").is_symlink()
        assert len(pd.read_csv(tmp_path / "elsewhere" / "scores.csv")) == 1


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_standard_output_gets_the_table_alone(photo, folder, target):
    done = command(photo, "--model", folder, "--csv", target, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "image,score,fault,pixels,scored_by"
    assert len(done.stdout.splitlines()) == 2 and Path("/dev/stdout").is_symlink()


def test_a_pipe_with_a_name_is_written_to(photo, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert __main__.main(["score", str(photo), "--model", str(folder), "--csv", str(tmp_path / "pipe")]) == 0
    reader.join(30)
    assert read[0].startswith("image,score,fault,") and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("option", ["--csv", "--map"])
def test_what_cannot_be_a_target_is_refused_before_the_work(photo, folder, tmp_path, option, monkeypatch, capsys):
    monkeypatch.setattr("iqa_lib.scoring.score.load_scorer", lambda model: pytest.fail("it began to work"))
    (tmp_path / "file").write_text("")
    impossible = [tmp_path / "file" / "below"]
    impossible += [tmp_path, ""] if option == "--csv" else [tmp_path / "file"]
    for target in impossible:
        assert __main__.main(["score", str(photo), "--model", str(folder), option, str(target)]) == 2
        assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("itself", "a link to itself"),
        ("x" * 251, "too long a name"),
        ("x" * 300 + "/s.csv", "too long a name"),
        ("file/s.csv", "is no folder"),
        ("a.png", "over a photograph"),
        ("closed.csv", "is closed to you"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_with_the_reason(
    photo, folder, tmp_path, monkeypatch, capsys, target, said
):
    monkeypatch.setattr("iqa_lib.scoring.score.load_scorer", lambda model: pytest.fail("it began to work"))
    (tmp_path / "itself").symlink_to("itself")
    for name in ("file", "closed.csv"):
        (tmp_path / name).write_text("")
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "closed.csv" and access(place, mode))
    assert __main__.main(["score", str(photo), "--csv", str(tmp_path / target)]) == 2
    assert said in capsys.readouterr().err


def test_table_and_json_do_not_share_standard_output(photo, capsys):
    assert __main__.main(["score", str(photo), "--csv", "-", "--json"]) == 2
    assert "both want standard output" in capsys.readouterr().err


def test_a_closed_standard_output_is_no_error(photo, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert __main__.main(["score", str(photo), "--model", str(folder), "--csv", str(tmp_path / "s.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) == 1


def test_a_file_that_is_replaced_keeps_who_may_read_it_whatever_its_name(tmp_path):
    file = tmp_path / ("é" * 120)  # 240 bytes
    file.write_text("before")
    file.chmod(0o640)
    paths.write_atomically(file, "after")
    assert (file.read_text(), file.stat().st_mode & 0o777, len(list(tmp_path.iterdir()))) == ("after", 0o640, 1)


def test_a_reader_who_has_enough_is_no_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: open(tmp_path / "pipe", "rb").close())
    reader.start()
    paths.write_atomically(tmp_path / "pipe", bytes(1_000_000))
    reader.join(30)


def test_a_full_disk_names_a_way_out_that_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    full = OSError(28, "No space left on device")
    assert "set IQA_HOME" in str(paths.storage_error(full, tmp_path / "home" / "runs"))
    elsewhere = str(paths.storage_error(full, tmp_path))
    assert "name another place" in elsewhere and "IQA_HOME" not in elsewhere
    if os.path.exists("/dev/full"):
        with pytest.raises(StorageError, match=r"^/dev/full cannot be written: No space"):
            paths.write_atomically(Path("/dev/full"), "x")


@pytest.mark.parametrize(
    "given",
    ["data check {}", "data check {}.csv", "train --dry-run --profile {}", "finetune {}.csv", "score {}", "verify {}"],
)
def test_a_name_longer_than_any_files_is_refused_in_words(given, capsys):
    assert __main__.main(given.format("x" * 300).split()) in (1, 2)
    said = "".join(capsys.readouterr())
    assert said.startswith(("error: ", "x" * 300)) and "x" * 20 in said


def test_scores_beyond_the_range_are_explained_and_no_scores_are_no_table(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_scores(Predictor(None, None, "m"), pd.DataFrame({"image": ["a", "b"], "score": [50.0, -3.2]}))
    assert "2 images, scored by m\nbelow 0 or above 100" in capsys.readouterr().out
    print_scores(Predictor(None, None, "m"), pd.DataFrame({"image": [], "score": []}))
    assert capsys.readouterr().out == "0 images, scored by m\n"
    print_scores(Predictor(None, None, "m"), pd.DataFrame({"image": ["x" * 300], "score": [0.0]}))
    assert "1 image, scored" in (said := capsys.readouterr().out) and "x" * 300 in said


def test_an_export_into_a_folder_is_refused_in_words(tmp_path, capsys):
    assert __main__.main(["export", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_two_that_write_the_same_csv_both_end_well(photo, folder, tmp_path):
    calls = [
        subprocess.Popen(
            [sys.executable, "-m", "iqa_lib", "score", photo, "--model", folder, "--csv", tmp_path / "s.csv"],
            env={**os.environ, "PYTHONPATH": str(paths.CHECKOUT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [(b"Error" in call.communicate()[1], call.returncode) for call in calls] == [(False, 0)] * 2
    assert len(pd.read_csv(tmp_path / "s.csv")) == 1


def test_notes_that_another_removed_are_no_error(photo, scorer, tmp_path, monkeypatch):
    from iqa_lib.scoring import score as scoring

    write = paths.write_atomically

    def write_and_remove(path, content):
        write(path, content)
        if path.name == "s.csv":
            (tmp_path / ".s.csv.unfinished").unlink()

    monkeypatch.setattr(paths, "write_atomically", write_and_remove)
    assert len(scoring.score_into(scorer, [photo], tmp_path / "s.csv")) == 1


# --- things that are passed ---


def test_a_tensor_has_the_score_of_its_picture(picture, scorer):
    one = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    expected = score(picture, scorer)
    assert score(one, scorer) == expected
    assert score(one[None], scorer).tolist() == [expected]
    assert score([one, picture], scorer).tolist() == [expected] * 2
    assert score([], scorer).empty


@pytest.mark.parametrize(
    "thing",
    [
        *(None, 3, b"photo.jpg", {1: 2}, [None], [b"\xff\xd8"], object(), [["a.png"]]),
        *(bytearray(3), memoryview(b"x"), io.BytesIO(b"x"), pd.DataFrame({"image": ["a.png"]})),
    ],
)
def test_what_is_no_image_is_refused_by_its_type(thing, scorer):
    with pytest.raises(DataError, match="is of type"):
        score(thing, scorer)


@pytest.mark.parametrize("thing", [np.zeros(5, np.uint8), np.zeros((4, 4)), np.zeros((0, 0, 3), np.uint8), np.array(3)])
def test_arrays_that_are_no_picture_are_refused(thing, scorer):
    with pytest.raises(DataError, match="have no score"):
        score(thing, scorer)


SHAPES = [(64, 64, 3), (1, 64, 64), (64, 64), (1, 1, 3, 64, 64), (3, 0, 64), (2, 3, 64, 0)]


@pytest.mark.parametrize(
    "thing",
    [torch.rand(s) for s in SHAPES] + [torch.rand(3, 8, 8).to_sparse()],
    ids=lambda thing: str(tuple(thing.shape)),
)
def test_tensors_that_are_no_picture_are_refused(thing, scorer):
    for call in (lambda: score(thing, scorer), lambda: Metric(scorer)(thing)):
        with pytest.raises(DataError, match=r"\(N, 3, H, W\) and floating point.*channels come last"):
            call()


def test_a_batch_of_none_has_no_scores(scorer):
    for gradient in (False, True):
        assert Metric(scorer)(torch.rand(0, 3, 64, 64, requires_grad=gradient)).shape == (0,)


def test_names_in_an_array_or_a_series_and_paths_of_any_kind(photo, scorer):
    expected = score(photo, scorer)
    (entry,) = [e for e in os.scandir(photo.parent) if e.name == photo.name]
    for names in (np.array([str(photo)]), np.array([photo]), pd.Series([str(photo)]), (photo,), [entry]):
        assert score(names, scorer).tolist() == [expected]
    assert score(entry, scorer) == expected


# --- the metric among other modules ---


@pytest.fixture
def batch(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.double, torch.nn.Module.bfloat16])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_metric_keeps_its_precision_in_a_converted_host(batch, scorer, convert, gradient):
    metric = Metric(scorer)
    expected = metric(batch.clone().requires_grad_(gradient)).detach()
    host = torch.nn.ModuleList([metric, torch.nn.Linear(2, 2)])
    convert(host)
    assert torch.equal(metric(batch.clone().requires_grad_(gradient)).detach(), expected)
    assert host[1].weight.dtype != torch.float32


@pytest.mark.parametrize("gradient", [False, True])
def test_the_metric_keeps_its_precision_under_autocast(batch, scorer, gradient):
    metric = Metric(scorer)
    given = batch.clone().requires_grad_(gradient)
    expected = metric(given).detach()
    with torch.autocast("cpu", torch.bfloat16):
        scored = metric(given)
    assert torch.equal(scored.detach(), expected)
    if gradient:
        scored.sum().backward()
        assert given.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_pixels_of_any_floating_type_are_scored(batch, scorer, kind):
    metric = Metric(scorer)
    rounded = (batch.to(kind).float() * 255).round() / 255
    for gradient in (False, True):
        scored = metric(batch.to(kind).requires_grad_(gradient))
        assert scored.dtype == torch.float32
        assert scored.item() == pytest.approx(metric(rounded.requires_grad_(gradient)).item(), abs=1e-3)


def test_values_a_rounding_beyond_the_range_are_taken_others_shown(batch, scorer):
    metric = Metric(scorer)
    batch[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    beyond = batch.clone()
    beyond[0, 0, 0, :2] = torch.tensor([-1e-7, 1.0000001])
    for gradient in (False, True):
        assert metric(beyond.clone().requires_grad_(gradient)) == metric(batch.clone().requires_grad_(gradient))
    for wrong, told in ((1.25, "1.25"), (-0.5, "-0.5"), (255.0, "255"), (float("nan"), "nan")):
        beyond[0, 0, 0, 0] = wrong
        with pytest.raises(DataError, match=told):
            metric(beyond)


# --- names of models ---


def test_a_tuned_models_name_means_its_newest_finished_run(home, scorer, capsys):
    """Labels that were corrected make another run of the same settings."""
    settings = load_profile("smoke", profile="mine", dataset="labels.csv")
    paths.write_atomically(settings.folder / "profile.yaml", yaml.safe_dump(settings.model_dump(mode="json")))
    runs = [Run(settings.model_copy(update=changed), labels) for changed, labels in VERSIONS]
    for age, run in enumerate(runs):
        scorer.model.save_pretrained(run.folder)
        paths.write_atomically(run.folder / "run.json", json.dumps(run.config))
        if run is not runs[-1]:  # still in training
            paths.write_atomically(run.folder / "result.json", "{}")
            os.utime(run.folder / "result.json", (age, age))
    first, newest, *_ = (run.folder.name for run in runs)
    assert load_scorer("mine").name == newest
    assert f"'mine' means {newest}, its newest; older ones: {first}." in capsys.readouterr().err
    assert load_scorer(first).name == first

    shutil.copytree(settings.folder, paths.RUNS / "another")
    assert load_scorer(first).name == first  # of the same settings and data, so the same model


def test_an_interrupted_tuning_with_other_settings_leaves_the_name_to_the_finished_model(home, scorer):
    settings = load_profile("smoke", profile="mine", dataset="labels.csv")
    again = settings.model_copy(update={"epochs": 9})
    paths.write_atomically(settings.folder / "profile.yaml", yaml.safe_dump(again.model_dump(mode="json")))
    finished, interrupted = Run(settings, "labels"), Run(again, "labels")
    for run in (finished, interrupted):
        scorer.model.save_pretrained(run.folder)
        paths.write_atomically(run.folder / "run.json", json.dumps(run.config))
    paths.write_atomically(finished.folder / "result.json", "{}")
    assert load_scorer("mine").name == finished.folder.name


VERSIONS = [({}, "first"), ({}, "corrected"), ({"epochs": 9}, "other settings"), ({}, "unfinished")]
