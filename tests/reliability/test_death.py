"""Death at any moment: what is killed resumes, ends in the same bits, and does nothing twice that was done."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import bits, command, finish, kill_at_random, run_notebooks, said, start, wait_for
from PIL import Image
from tiny_study import Study

from iqa_lib import paths
from iqa_lib.profile import load_profile
from iqa_lib.scoring.score import IMAGES_AT_ONCE
from iqa_lib.training import features

KILLS = int(os.environ.get("IQA_KILLS", "10"))  # 20 are asked of a release
TRIED = "SIGKILL at random moments, started again"


def undisturbed(home, work, *arguments):
    """The seconds that it takes from start to end."""
    finish(home, print)  # once, to import everything
    started = time.monotonic()
    finish(home, work, *arguments)
    return time.monotonic() - started


# --- training, and what comes before and after it ---


def train_smoke(options):
    from iqa_lib.training.train import train

    train(load_profile("smoke", epochs=5, train_crops=1, **options))


def finished_epochs(home):
    """Of the one run, as its state tells them: with the seconds that each took, so none can pass for another."""
    states = list(home.glob("runs/smoke/store/*/state.pt"))
    return torch.load(states[0], weights_only=True)["epochs"] if states else []


def log_of(run):
    return [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


STORED = [f"runs/smoke/store/*/{name}" for name in ("*.parquet", "*.safetensors", "result.json", "[cr]*n*.json")]


@pytest.mark.parametrize("options", [{}, {"freeze_backbone": True}], ids=["whole", "frozen"])
def test_training(record, homes, options):
    expected, kept = homes(), {}
    seconds = undisturbed(expected, train_smoke, options)

    def at_death(home):
        kept[home] = finished_epochs(home) or kept.get(home, [])

    survivors = kill_at_random(homes, seconds, at_death, train_smoke, options, kills=KILLS)
    assert any(kept.values()), "no kill struck after an epoch"
    (whole,) = expected.glob("runs/smoke/store/*")
    for home in survivors:
        assert bits(home, *STORED) == bits(expected, *STORED)
        (run,) = home.glob("runs/smoke/store/*")
        assert {f.name for f in run.iterdir()} == {f.name for f in whole.iterdir()}, "something half-written stays"
        epochs = kept.get(home, [])
        assert log_of(run)[: len(epochs)] == epochs, "a finished epoch was trained again"
    record(f"training, {'the head alone' if options else 'the whole network'}", TRIED, KILLS)


def cache_features():
    from accelerate.utils import set_seed

    from iqa_lib.data.crops import random_crops
    from iqa_lib.data.images import load_images
    from iqa_lib.training.loop import build_model
    from iqa_lib.training.predictor import Predictor

    settings = load_profile("smoke", freeze_backbone=True)
    images = load_images(settings)
    set_seed(0)
    crops = random_crops(images, images.rows("train"), 40, 64, np.random.default_rng(0), flip=True)
    Predictor(settings, build_model(settings)).features(images, crops, "many crops")


def test_feature_caching(record, homes):
    expected, kept = homes(), {}
    seconds = undisturbed(expected, cache_features)
    stored = f"data/cache/features-*/{features.CROPS}", f"data/cache/features-*/{features.ROWS}"
    whole = bits(expected, *stored)

    def at_death(home):
        for file in home.glob(stored[0]):
            count = file.stat().st_size // features.CROP
            assert count >= kept.get(home, 0), "features were computed again"
            kept[home] = count

    for home in kill_at_random(homes, seconds, at_death, cache_features, kills=KILLS):
        assert bits(home, *stored) == whole
    (crops,) = (len(listed) // features.CROP for file, listed in whole.items() if file.endswith(features.CROPS))
    assert any(0 < count < crops for count in kept.values()), "no kill struck while features were computed"
    record("feature caching", TRIED, KILLS)


@pytest.fixture
def many_images(tmp_path):
    """A dataset of 400 images in a folder."""
    folder = tmp_path / "many"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for number in range(400):
        Image.fromarray(np.roll(noise, 997 * 3 * number)[:160, :220]).save(folder / f"{number}.jpg")
    lines = [f"{number}.jpg,{number / 4}" for number in range(400)]
    (folder / "labels.csv").write_text("\n".join(["image,score", *lines]))
    return str(folder / "labels.csv")


CACHE = ("data/cache/*/pixels.u8", "data/cache/*/index.json")


def test_dataset_preparation(record, homes, many_images):
    prepare = (command, "data", "prepare", many_images, "--profile", "smoke", "-p", "resolution=100")
    expected, decoded = homes(), {}
    seconds = undisturbed(expected, *prepare)

    def at_death(home):
        for journal in home.glob("data/cache/*.unfinished/journal.csv"):
            count = journal.read_bytes().count(b"\n")
            assert count >= decoded.get(home, 0), "images were decoded again"
            decoded[home] = count

    for home in kill_at_random(homes, seconds, at_death, *prepare, kills=KILLS):
        assert bits(home, *CACHE) == bits(expected, *CACHE)
    assert any(decoded.values()), "no kill struck while images were decoded"
    record("dataset preparation", TRIED, KILLS)


def test_a_sweep(record, homes):
    sweep = (
        command,
        "train",
        "--profile",
        "smoke",
        "--experiment",
        "learning_rate",
        "-p",
        "epochs=1",
        "freeze_backbone=true",
        "train_crops=1",
    )
    expected, done = homes(), {}
    seconds = undisturbed(expected, *sweep)

    def at_death(home):
        found = {file: file.stat().st_mtime_ns for file in home.glob("runs/smoke/store/*/result.json")}
        assert found.items() >= done.get(home, {}).items(), "a finished run was trained again"
        done[home] = found

    for home in kill_at_random(homes, seconds, at_death, *sweep, kills=KILLS):
        assert bits(home, *STORED) == bits(expected, *STORED)
        found = {file: file.stat().st_mtime_ns for file in home.glob("runs/smoke/store/*/result.json")}
        assert found.items() >= done.get(home, {}).items()
    assert any(done.values()), "no kill struck after a run"
    record("a sweep of five runs", TRIED, KILLS)


# --- scoring ---


@pytest.fixture
def random_model(tmp_path):
    """A folder with a saved model of random weights."""
    from iqa_lib.models.smart_iqa import SmartIQA

    torch.manual_seed(0)
    SmartIQA(backbone="swin_test", pretrained=False, image_size=64).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def score_photographs(pattern, model):
    return command("score", pattern, "--model", model, "--csv", str(paths.HOME / "out.csv"))


def test_scoring(record, homes, many_images, random_model):
    score = (score_photographs, str(Path(many_images).with_name("1*.jpg")), random_model)
    expected, groups = homes(), {}
    seconds = undisturbed(expected, *score)

    def at_death(home):
        assert not (home / "out.csv").is_file() or bits(home, "out.csv") == bits(expected, "out.csv")
        notes = home / ".out.csv.unfinished"
        if not notes.is_file():  # not begun, or killed after its end: asked again, all is scored anew
            groups[home] = 0
            return
        count = (notes.read_bytes().count(b"\n") - 1) // IMAGES_AT_ONCE  # less the line with the fingerprint
        assert count >= groups.get(home, 0), "images were scored again"
        groups[home] = count

    for home in kill_at_random(homes, seconds, at_death, *score, kills=KILLS):
        assert bits(home, "*.csv*") == bits(expected, "out.csv")
    assert any(groups.values()), "no kill struck while images were scored"
    record("scoring", TRIED, KILLS)


# --- the workbook ---


@pytest.fixture
def studies(tmp_path):
    """Makes homes with three small notebooks; the last needs the first."""
    made = []

    def another():
        home = tmp_path / f"study-{len(made)}"
        (home / "notebooks").mkdir(parents=True)
        (home / "tiny.yaml").write_text("profile: tiny\ndataset: none\nbackbone: none\n")
        study = Study(home)
        for number in (1, 2, 3):
            name, needs = f"0{number}_page", ["01_page"] if number == 3 else []
            study.write(
                name, "import time; time.sleep(0.2); print('seen')", f"record('{name}', '{number}')", needs=needs
            )
        made.append(home)
        return home

    return another


def test_a_whole_run(record, studies):
    expected, done = studies(), {}
    seconds = undisturbed(expected, run_notebooks)
    results = "runs/tiny/results/*.json"

    def states(home):
        return {file: file.read_text() for file in home.glob("runs/tiny/state/*.json")}

    def at_death(home):
        assert states(home).items() >= done.get(home, {}).items(), "a finished notebook was run again"
        done[home] = states(home)

    for home in kill_at_random(studies, seconds, at_death, run_notebooks, kills=KILLS):
        assert bits(home, results) == bits(expected, results)
        assert states(home).items() >= done.get(home, {}).items()
        report = (home / "runs/tiny/report.html").read_text()
        assert all(f"0{number}_page" in report for number in (1, 2, 3))
        pages = list(home.glob("runs/tiny/notebooks/*.ipynb"))
        assert len(pages) == 3 and all('"seen' in page.read_text() for page in pages)
    assert any(done.values()), "no kill struck after a notebook"
    record("a whole run", TRIED, KILLS)


# --- Ctrl-C, and a scheduler that wants its machine back ---

INTERRUPTED = "Interrupted. What is finished is kept: the same command resumes there."


def train_long():
    return command("train", "--profile", "smoke", "--experiment", "training", "-p", "epochs=500", "patience=500")


def run_for_ever():
    study = Study(paths.HOME)
    pid = 'json.dump(os.getpid(), open(pathlib.Path(os.environ["IQA_HOME"], "pid"), "w"))'
    study.write("01_page", pid, "import time; time.sleep(600)")
    return run_notebooks()


def pretrain_on_few():
    """Interrupted while it makes its pictures, in processes of its own."""
    from iqa_lib.data import pictures

    few = pictures.listed().head(8)
    pictures.listed = lambda: few
    pictures.VIEWS = {"wallpaper": 8, "photograph": 8, "scene": 8}
    return command("pretrain", "--backbone", "swin_test", "--epochs", "1", "--pictures", str(paths.HOME))


def an_epoch(home):
    return bool(finished_epochs(home))


def some_images(home):
    return any(file.stat().st_size for file in home.glob("data/cache/*.unfinished/journal.csv"))


def a_cell(home):
    return (home / "pid").is_file() and (home / "pid").read_text()


def some_pictures(home):
    return any(home.glob("data/pretraining/*/images/*.png"))


def prepare_slowly(labels):
    from iqa_lib.data import images

    quickly = images._try_decode
    images._try_decode = lambda *arguments: (time.sleep(0.1), quickly(*arguments))[1]
    return command("data", "prepare", labels, "--profile", "smoke")


def some_scores(home):
    notes = home / ".out.csv.unfinished"
    return notes.is_file() and notes.read_bytes().count(b"\n") > 1


WORKS = {
    "scoring": (score_photographs, some_scores),
    "training": (train_long, an_epoch),
    "preparation": (prepare_slowly, some_images),
    "run": (run_for_ever, a_cell),
    "pretraining": (pretrain_on_few, some_pictures),
}


@pytest.mark.parametrize(
    ("work", "end"),
    [(work, end) for work in WORKS for end in (signal.SIGINT, signal.SIGTERM)][:-1],  # pretraining is dear
    ids=lambda value: getattr(value, "name", value),
)
def test_an_interrupt(record, homes, many_images, random_model, work, end):
    (function, begun), home = WORKS[work], homes()
    all_images = str(Path(many_images).with_name("*.jpg"))
    arguments = {"preparation": [many_images], "scoring": [all_images, random_model]}.get(work, [])
    (home / "notebooks").mkdir()
    (home / "tiny.yaml").write_text("profile: tiny\ndataset: none\nbackbone: none\n")
    if work == "pretraining":
        place_pictures(home)
    process = start(home, function, *arguments)
    wait_for(lambda: begun(home), process)
    before = len(finished_epochs(home))
    time.sleep(random.uniform(0, 0.3))
    os.kill(process.pid, end)
    process.join(30)
    process.kill()  # where it did not end, nor may it go on beside the tests that follow
    told = said(home)
    assert process.exitcode == 128 + end, told
    assert told.endswith(f"{INTERRUPTED}\n") and "Traceback" not in told
    if work == "training":
        assert len(finished_epochs(home)) >= before > 0
    elif work in ("preparation", "scoring"):
        assert begun(home)
    elif work == "run":
        assert not (home / "runs/tiny/state/01_page.json").exists()
        with pytest.raises(ProcessLookupError):
            os.kill(int((home / "pid").read_text()), 0)
    record(f"{work}, interrupted", f"{end.name}: exit code {128 + end}, a message, what is finished stays", 1)


def place_pictures(home):
    """Eight small pictures where the listed wallpapers would be."""
    from iqa_lib.data import pictures

    rng = np.random.default_rng(0)
    for file in pictures.listed().head(8)["file"]:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (400, 600, 3), np.uint8)).save(home / file)
