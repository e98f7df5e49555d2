"""Scores for people who only want a number."""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from broken import BROKEN, broken
from colour_profiles import P3, meant_by
from PIL import Image
from skimage import data as photographs

import iqa_lib
from iqa_lib import __main__, machine
from iqa_lib.data.crops import grid
from iqa_lib.data.images import load_images
from iqa_lib.errors import CheckpointError, DataError, RunError
from iqa_lib.models.smart_iqa import HyperIQA
from iqa_lib.profile import load_profile
from iqa_lib.scoring import score as scoring
from iqa_lib.scoring.certainty import Certainty
from iqa_lib.scoring.metric import Metric
from iqa_lib.scoring.score import find_images, load_scorer, score, score_all
from iqa_lib.training.evaluate import predict
from iqa_lib.training.predictor import MOST_WORKERS

CROP = 64  # as in conftest.py
# Two passes over the same pixels: a GPU may add in another order.
SAME = {"check_exact": True} if machine.device().type == "cpu" else {"atol": 1e-3}


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(photographs.chelsea()).resize((150, 100))


@pytest.fixture
def photos(tmp_path, picture):
    """Three photographs, two of them in a folder below, and what is none."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    picture.save(tmp_path / "photos" / "b.jpg")
    picture.rotate(90, expand=True).save(tmp_path / "photos" / "sub" / "a.PNG")
    picture.convert("L").save(tmp_path / "photos" / "sub" / "[c].webp")
    (tmp_path / "photos" / "notes.txt").write_text("none")
    (tmp_path / "photos" / ".hidden.jpg").write_text("none either")
    return tmp_path / "photos"


# --- the number ---


@pytest.mark.parametrize("frozen", [False, True])
def test_a_score_is_what_evaluation_gives(home, scorer, frozen):
    settings = load_profile("smoke", freeze_backbone=frozen)
    images, scorer = load_images(settings), scorer._replace(settings=settings)
    rows = images.rows("test")
    expected = predict(settings, scorer.model, images, rows)["prediction"]
    files = images.table["path"].iloc[rows]
    for given in (files, [images.image(row) for row in rows]):
        np.testing.assert_allclose(score_all(scorer, given, len(rows))["score"], expected, atol=1e-4)


def test_a_score_is_the_same_alone_in_company_and_again(scorer, picture):
    images = [picture.rotate(20 * i) for i in range(19)]
    together = score_all(scorer, images, 19)
    pd.testing.assert_frame_equal(together, score_all(scorer, images, 19), **SAME)
    np.testing.assert_allclose([score(image, scorer) for image in images], together["score"], atol=1e-4)


def test_file_image_and_array_have_the_same_score_in_every_mode(tmp_path, scorer, picture):
    deep = Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16)) * 257)
    for number, image in enumerate([*map(picture.convert, ("RGB", "L", "1", "RGBA", "P", "LA")), deep]):
        image.save(file := tmp_path / f"{number}.png")
        expected = pytest.approx(score(file, scorer), abs=1e-4)
        assert score(image, scorer) == expected
        if image.mode in ("RGB", "L", "RGBA", "I;16"):
            assert score(np.asarray(image), scorer) == expected


def test_one_pixel_an_animation_and_a_transparent_image_are_scored(tmp_path, scorer, picture):
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    Image.new("RGBA", picture.size).save(tmp_path / "clear.png")
    scores = score(tmp_path, scorer)
    assert scores.notna().all() and len(scores) == 3
    first_frame = picture.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB")
    assert score(tmp_path / "moving.gif", scorer) == pytest.approx(score(first_frame, scorer), abs=1)
    white = Image.new("RGB", picture.size, "white")
    assert score(tmp_path / "clear.png", scorer) == pytest.approx(score(white, scorer), abs=1e-4)


def test_an_image_the_user_opened_stays_as_it_was(scorer, picture):
    turned = picture.copy()
    turned.getexif()[0x0112] = 6
    score(turned, scorer)
    assert turned.size == picture.size and turned.getexif()[0x0112] == 6


def test_few_images_are_in_memory_at_once(scorer, monkeypatch):
    """However many cores there are: no more than four waiting groups a worker, and the next."""
    monkeypatch.setattr(scoring, "IMAGES_AT_ONCE", 2)  # on a GPU it is 32
    allowed = 2 * (4 * MOST_WORKERS + 2)
    number_of_images = 3 * allowed
    alive, most = weakref.WeakSet(), 0

    class Picture(np.ndarray):
        __hash__ = object.__hash__

    def pictures():
        nonlocal most
        for number in range(number_of_images):
            one = np.full((CROP, CROP, 3), number % 256, np.uint8).view(Picture)
            alive.add(one)
            most = max(most, len(alive))
            yield one
            del one

    assert len(score_all(scorer, pictures(), number_of_images)) == number_of_images
    gc.collect()
    assert most <= allowed and not alive


def test_the_number_of_threads_is_as_before(scorer, picture):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        score([picture] * 20, scorer)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_shipped_model_prefers_a_sharp_photograph_to_its_blurred_copy():
    sharp = Image.fromarray(photographs.coffee())
    tiny = sharp.resize((75, 50)).resize(sharp.size)
    assert 0 < iqa_lib.score(tiny) + 10 < iqa_lib.score(sharp) < 110


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea"])
def test_a_photograph_in_display_p3_scores_like_its_srgb_twin(tmp_path, name):
    twin = Image.fromarray(getattr(photographs, name)())
    meant_by(P3, twin).save(tmp_path / "p3.png", icc_profile=P3)
    meant_by(P3, twin).save(tmp_path / "unsaid.png")
    expected = iqa_lib.score(twin)
    assert iqa_lib.score(tmp_path / "p3.png") == pytest.approx(expected, abs=0.2)
    assert iqa_lib.score(tmp_path / "unsaid.png") != pytest.approx(expected, abs=0.2)


# --- which images ---


def test_folders_files_and_patterns_give_each_image_once_in_order(photos):
    names = ["b.jpg", "sub/[c].webp", "sub/a.PNG"]
    expected = [photos / name for name in names]
    assert find_images([photos]) == expected
    assert find_images([photos / "sub" / "[c].webp", photos]) == [expected[1], expected[0], expected[2]]
    assert find_images([str(photos / "**" / "*.PNG")]) == [expected[2]]
    assert find_images([photos / "notes.txt"]) == [photos / "notes.txt"]  # asked for by name: told, not left out


def test_a_raw_file_is_named_unless_its_photograph_is_beside_it(photos, scorer):
    expected = find_images([photos])
    (photos / "b.DNG").write_bytes(b"raw")
    (photos / "sub" / "alone.nef").write_bytes(b"raw")
    assert set(find_images([photos])) - set(expected) == {photos / "sub" / "alone.nef"}
    with pytest.warns(
        UserWarning, match=r"1 of 4 images have no score: .*alone\.nef is a camera's raw file.*export it"
    ):
        score(photos, scorer)


def test_what_means_no_image_is_named(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' holds no image \(\.jpg, .*name a photograph, a folder"):
        find_images([photos, tmp_path / "empty"])
    for missing in ("absent.jpg", "*.tiff"):
        with pytest.raises(DataError, match=r"does not exist: name a photograph, a folder, or a pattern"):
            score(str(tmp_path / missing))


def test_one_image_gives_a_number_several_a_series_by_name(photos, scorer, picture):
    assert isinstance(score(photos / "b.jpg", scorer), float)
    assert isinstance(score([photos / "b.jpg"], scorer), pd.Series)
    assert score(photos, scorer).index.tolist() == [str(f) for f in find_images([photos])]
    assert score([picture, np.asarray(picture)], scorer).index.tolist() == [0, 1]
    assert len(score(np.stack([np.asarray(picture)] * 2), scorer)) == 2


def test_unreadable_among_many_is_nan_with_a_warning_alone_an_error(photos, scorer):
    with pytest.warns(UserWarning, match=r"1 of 4 images have no score: .*notes.txt is no image that Pillow"):
        scores = score([photos, photos / "notes.txt"], scorer)
    assert scores.isna().tolist() == [False, False, False, True]
    with pytest.raises(DataError, match=r"notes.txt is no image that Pillow can read\.$"):
        score(photos / "notes.txt", scorer)
    with pytest.raises(DataError, match=r"0 is float64 of shape \(9, 9\), not uint8 \(H, W\)"):
        score(np.zeros((9, 9)), scorer)
    with pytest.raises(DataError, match=r"0 is uint8 of shape \(9, 9, 7\), not uint8 \(H, W\)"):
        score(np.zeros((9, 9, 7), np.uint8), scorer)


# --- the command ---


def test_the_command_prints_the_best_first_and_writes_csv_and_maps(photos, folder, tmp_path, capsys):
    out = [str(tmp_path / "out" / "scores.csv"), str(tmp_path / "maps")]
    wanted = ["score", str(photos), "--model", str(folder), "--csv", out[0], "--map", out[1]]
    assert __main__.main(wanted) == 0
    shown = capsys.readouterr()
    assert "scoring: 100%" in shown.err and "3 images, scored by tiny" in shown.out
    table = pd.read_csv(out[0], keep_default_na=False)
    assert table.columns.tolist() == ["image", "score", "fault", "pixels", "scored_by"]
    assert table["image"].tolist() == [str(f) for f in find_images([photos])]
    best = table.sort_values("score", ascending=False)["score"].map("{:.1f}".format).tolist()
    assert [line.split()[1] for line in shown.out.splitlines() if str(photos)[:20] in line] == best
    maps = sorted(p.relative_to(out[1]).as_posix() for p in Path(out[1]).rglob("*.png"))
    assert maps == ["b.jpg.png", "sub/[c].webp.png", "sub/a.PNG.png"]
    assert all(Image.open(Path(out[1]) / m).size > (500, 200) for m in maps)
    assert __main__.main(wanted[:6]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(out[0], keep_default_na=False), table, **SAME)


def test_of_many_images_the_best_and_the_worst_are_shown(tmp_path, folder, picture, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for i in range(45):
        picture.resize((CROP, CROP)).rotate(8 * i).save(tmp_path / f"{i}.png")
    assert __main__.main(["score", str(tmp_path), "--model", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(".png") == 40 and "5 more; --csv FILE lists all" in shown


def test_a_long_name_is_shown_whole_in_a_narrow_terminal(tmp_path, folder, picture, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = f"{'long' * 20}.png"
    picture.save(tmp_path / name)
    assert __main__.main(["score", str(tmp_path), "--model", str(folder)]) == 0
    assert name in "".join(capsys.readouterr().out.replace("│", "").split())


def test_bad_files_are_listed_at_the_end_and_the_rest_is_scored(photos, folder, picture, capsys):
    for kind in BROKEN:
        broken(kind, photos / f"{kind}.jpg", picture)
    assert __main__.main(["score", str(photos), "--model", str(folder), "--json"]) == 1
    shown = capsys.readouterr()
    rows = {Path(row["image"]).name: row for row in json.loads(shown.out)}
    assert len(rows) == 3 + len(BROKEN)
    assert all(rows[name]["score"] is not None and not rows[name]["fault"] for name in ("b.jpg", "a.PNG"))
    told = [line for line in shown.err.splitlines() if line.startswith("no score: ")]
    assert len(told) == len(BROKEN)
    for kind in BROKEN:
        assert rows[f"{kind}.jpg"]["score"] is None
        assert f"no score: {photos / kind}.jpg {rows[f'{kind}.jpg']['fault']}" in told
    assert rows["bomb.jpg"]["fault"] == "is larger than 178,956,970 pixels"


def test_no_image_and_no_model_are_errors_in_words(tmp_path, photos, capsys):
    assert __main__.main(["score", str(tmp_path / "absent")]) == 2
    assert __main__.main(["score", str(photos), "--model", "absent"]) == 2
    told = capsys.readouterr().err
    assert "absent' does not exist" in told and "No model 'absent': neither a folder" in told
    assert "Traceback" not in told


# --- which model ---


def test_a_saved_hyper_iqa_is_known_by_its_settings(tmp_path):
    HyperIQA(backbone="swin_test", pretrained=False, image_size=96).save_pretrained(tmp_path)
    scorer = load_scorer(tmp_path)
    assert isinstance(scorer.model, HyperIQA) and scorer.settings.crop_size == 96


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"image_size": "large"}'])
def test_a_folder_that_holds_no_model_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json is not that of a saved model"):
        load_scorer(tmp_path)


def test_an_unfinished_run_a_missing_checkpoint_and_an_ambiguous_profile_are_refused(home):
    for name in ("one", "two"):
        run = home / "runs" / "study" / "store" / name
        run.mkdir(parents=True)
        (run / "model.safetensors").touch()
        (run / "epochs.jsonl").touch()
    with pytest.raises(RunError, match=r"one is not complete"):
        load_scorer("one")
    with pytest.raises(CheckpointError, match=r"'study' has 2 runs, name one: .*two"):
        load_scorer("study")
    with pytest.raises(CheckpointError, match=r"No model 'three': .*Runs there: one, two"):
        load_scorer("three")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_scorer(home / "absent.pkl")


# --- among other metrics ---


def test_the_metric_agrees_with_score_on_tensors_and_paths(photos, scorer, picture):
    metric = Metric(scorer)
    batch = torch.tensor(np.stack([np.asarray(picture), np.asarray(picture)[::-1]])).permute(0, 3, 1, 2) / 255
    expected = [score(picture, scorer), score(np.asarray(picture)[::-1], scorer)]
    assert metric.lower_better is False and metric(batch).shape == (2,)
    np.testing.assert_allclose(metric(batch), expected, atol=1e-4)
    np.testing.assert_allclose(metric(batch[0]), expected[:1], atol=1e-4)
    np.testing.assert_allclose(metric(photos), score(photos, scorer), atol=1e-4)
    np.testing.assert_allclose(metric(str(photos / "b.jpg")), [score(photos / "b.jpg", scorer)], atol=1e-4)


@pytest.mark.parametrize("size", [(80, 100), (40, 50)])
def test_the_metric_is_a_loss_that_moves_the_pixels(scorer, size):
    metric = Metric(scorer).train()
    assert not metric.training and not metric.model.head.training
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = -metric(image)
    assert loss.device == image.device  # wherever the model is
    np.testing.assert_allclose(-loss.detach(), metric(image.detach()), atol=0.5)
    loss.mean().backward()
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None for p in metric.parameters())


def test_the_metric_gathers_a_mean_until_reset(scorer, picture):
    metric = Metric(scorer)
    assert metric.compute().isnan()
    images = [picture, picture.rotate(90), picture.convert("L")]
    metric.update(images[:2])
    metric.update(images[2:])
    assert metric.compute().item() == pytest.approx(score(images, scorer).mean(), abs=1e-3)
    metric.reset()
    metric.update(images[0])
    assert metric.compute().item() == pytest.approx(score(images[0], scorer), abs=1e-3)


def test_the_metric_refuses_other_ranges_shapes_and_files(scorer, photos):
    metric = Metric(scorer)
    with pytest.raises(DataError, match=r"0–1; got 0 to 200. Divide 8-bit pixels by 255"):
        metric(torch.tensor([0.0, 200.0]).repeat(1, 3, 32, 32))
    with pytest.raises(DataError, match=r"got torch.float32 \(1, 1, 64, 64\)"):
        metric(torch.zeros(1, 1, 64, 64))
    with pytest.raises(DataError, match=r"got torch.uint8"):
        metric(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"1 of 2 images have no score"):
        metric([photos / "b.jpg", photos / "notes.txt"])


# --- elsewhere ---


def test_the_exported_model_gives_the_same_score_by_its_own_instructions(tmp_path, folder):
    photo = Image.fromarray(photographs.rocket())  # 427 x 640
    photo.save(tmp_path / "rocket.png")
    sure = shutil.copytree(folder, tmp_path / "sure")  # calibrated, which changes nothing
    Certainty(*[np.zeros(1)] * 5).save(sure, load_scorer(folder).model)
    assert __main__.main(["export", str(tmp_path / "m.onnx"), "--model", str(sure)]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert f"short side of {told['resolution']} px" in told["prepare"]
    short, crop = int(told["resolution"]), int(told["crop"])
    width, height = round(photo.width * short / photo.height), short
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC))
    corners = [
        (int(y), int(x))
        for y in np.linspace(0, height - crop, -(-height // crop)).round()
        for x in np.linspace(0, width - crop, -(-width // crop)).round()
    ]
    assert corners == grid(height, width, crop)
    crops = np.stack([pixels[y : y + crop, x : x + crop] for y, x in corners]).transpose(0, 3, 1, 2)
    (scores,) = session.run(None, {"crops": crops})
    assert scores.mean() == pytest.approx(score(tmp_path / "rocket.png", load_scorer(folder)), abs=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "rocket.png", "sure"]


@pytest.mark.slow
def test_the_wheel_scores_a_photograph_without_checkout_and_network(tmp_path):
    """Built from the files in the tree; nothing but the dependencies comes from this environment."""
    checkout, source = Path(iqa_lib.__file__).parents[1], tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, source)
    for name in ("iqa_lib", "notebooks", "docs"):
        shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    beside_code = {f for f in (source / "iqa_lib").rglob("*") if f.is_file() and f.suffix != ".py"}
    assert {f.relative_to(source).as_posix() for f in beside_code} <= packed
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    Image.fromarray(photographs.coffee()).save(tmp_path / "coffee.jpg")
    dependencies = next(p for p in sys.path if (Path(p) / "torch").is_dir())
    no_network = ["unshare", "--map-root-user", "--net"]  # where the system allows it
    allowed = shutil.which("unshare") and not subprocess.run([*no_network, "true"]).returncode
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("IQA_", "HF_"))}
    empty = tmp_path / "empty"
    empty.mkdir()

    def installed(*arguments, network=True):
        return subprocess.run(
            [*(no_network if allowed and not network else []), sys.executable, "-m", "iqa_lib", *arguments],
            cwd=empty,
            env={**environment, "PYTHONPATH": f"{tmp_path / 'site'}:{dependencies}"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.decode()

    (row,) = json.loads(installed("score", "../coffee.jpg", "--json", network=False))
    assert row["score"] == pytest.approx(score(tmp_path / "coffee.jpg"), abs=1e-3)
    # The study, in the folder that it is started in; then with notebooks of one's own.
    installed("run", "--profile", "smoke", "--only", "01_train")
    assert (empty / "runs/smoke/notebooks/01_train.ipynb").is_file() and (empty / "runs/smoke/report.html").is_file()
    installed("notebooks")
    profile = empty / "notebooks/profiles/smoke.yaml"
    profile.write_text(profile.read_text() + "# mine\n")
    assert "01_train" in installed("run", "--profile", "smoke", "--only", "01_train")
    assert not list((tmp_path / "site").glob("runs")) and not list((tmp_path / "site").glob("data"))


@pytest.mark.slow
def test_a_csv_one_command_and_the_tuned_model_scores(home, tmp_path, picture, capsys):
    """The README's way to fine-tune on one's own images."""
    own = tmp_path / "elsewhere"
    own.mkdir()
    for i in range(40):
        picture.resize((CROP, CROP)).rotate(9 * i).save(own / f"{i}.png")
    (own / "labels.csv").write_text("image,score\n" + "".join(f"{i}.png,{1 + i / 10}\n" for i in range(40)))
    wanted = ["finetune", str(own / "labels.csv"), "--range", "1", "5", "--profile", "smoke"]
    wanted += ["-p", "precision=float32"]  # trained in a notebook's process, scored in this one
    assert __main__.main(wanted) == 0
    for notebook in ("00_data", "01_train", "08_errors"):
        assert (home / "runs" / "mine" / "results" / f"{notebook}.json").is_file()
    assert list((home / "figures" / "mine").glob("*.png")) and (home / "runs/mine/report.html").is_file()
    (run,) = (home / "runs" / "mine" / "store").iterdir()
    test = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    files = [str(own / name) for name in test["image"]]
    capsys.readouterr()
    for model in ("mine", run.name, str(run)):
        assert __main__.main(["score", *files, "--json", "--model", model]) == 0
        scores = [row["score"] for row in json.loads(capsys.readouterr().out)]
        np.testing.assert_allclose(scores, test["prediction"], atol=1e-3)
