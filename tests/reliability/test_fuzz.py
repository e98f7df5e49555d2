"""Strange files: every parser, given damaged and malicious input, ends in a result or in one of the library's errors.

Mutations come from Hypothesis with a fixed seed. An input counts once, however often it comes up.
"""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save as save_tensors
from scipy.io import savemat

from iqa_lib import SmartIQA, score
from iqa_lib.__main__ import main
from iqa_lib.data import catalog, decode, download, images
from iqa_lib.data.download import unpack
from iqa_lib.errors import WorkbookError
from iqa_lib.models.checkpoints import load_reference_checkpoint
from iqa_lib.models.tensors import read_without_running, require_same_tensors
from iqa_lib.paths import read_csv
from iqa_lib.profile import Profile, load_profile
from iqa_lib.scoring.score import Scorer
from iqa_lib.study.page import Page
from iqa_lib.training.runs import Run
from iqa_lib.workbook.report import read_json

AT_LEAST = 20_000  # different inputs in all
Read = Callable[[Path], object]


def fuzzing(examples: int):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def tally():
    """How many different inputs each kind of file was tried with."""
    return {}


# --- mutations --------------------------------------------------------------------------------------------

# What to do, where (3 bytes), how long or from where (3 bytes), and 8 bytes to write: four times.
RECIPE = st.binary(min_size=15, max_size=60)
ACTS = ("flip", "overwrite", "insert", "delete", "truncate", "splice")
EDGES = (b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"-1", b"nan", b"1e999", b"\n", b'"', b"\xef\xbb\xbf")


def mutated(content: bytes, recipe: bytes) -> bytes:
    for step in (recipe[start : start + 15] for start in range(0, len(recipe) - 14, 15)):
        if not content:
            return recipe
        act = ACTS[step[0] % len(ACTS)]
        where, length = (int.from_bytes(step[i : i + 3]) for i in (1, 4))
        where %= len(content)
        new = EDGES[step[7] % len(EDGES)] if step[7] & 16 else step[7 : 8 + step[8] % 8]
        if act == "flip":
            content = content[:where] + bytes([content[where] ^ (1 << length % 8)]) + content[where + 1 :]
        elif act == "overwrite":
            content = content[:where] + new + content[where + len(new) :]
        elif act == "insert":
            content = content[:where] + new + content[where:]
        elif act == "delete":
            content = content[:where] + content[where + 1 + length % 64 :]
        elif act == "truncate":
            content = content[:where]
        else:  # a piece of the file once more, elsewhere
            start = length % len(content)
            content = content[:where] + content[start : start + 1 + step[8]] + content[where:]
    return content


SEED = st.integers(0, 2**64 - 1)
ODD_TEXTS = (
    *("", "../x.png", "/etc/passwd", "a\0b", "x" * 5000, "=1+1", "nan", "1e999", "1_000", "٣", "\ud7ff", "..", ".inf"),
    *("true", "null", "~", "2020-13-45", "0x", "!!python/name:os.mkdir", "<<", "- a", "\u2028", "\ud83d\ude00", "-0"),
)


def odd_value(rng: random.Random) -> object:
    return rng.choice(
        (
            None,
            rng.random() < 0.5,
            rng.randint(-(10**20), 10**20),
            rng.uniform(-1e3, 1e3),
            rng.choice((float("nan"), float("inf"), -0.0, 5e-324, 1e308)),
            rng.choice(ODD_TEXTS),
            "".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(12))),
            [rng.randrange(9) for _ in range(rng.randrange(4))],
            {rng.choice(ODD_TEXTS): rng.randrange(9)},
        )
    )


def spoilt(content: object, seed: int) -> object:
    """The content of a JSON or YAML file with one to three of its values, or keys, exchanged or gone."""
    rng, content = random.Random(seed), json.loads(json.dumps(content))
    for _ in range(rng.randint(1, 3)):
        place, depth = content, rng.randint(0, 3)
        while depth and (inner := [v for v in _children(place) if isinstance(v, dict | list) and v]):
            place, depth = rng.choice(inner), depth - 1
        if not place:
            continue
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        act = rng.choice(("exchange", "remove", "add"))
        if act == "remove":
            del place[key]
        elif act == "exchange" or isinstance(place, list):
            place[key] = odd_value(rng)
        else:
            place[rng.choice(ODD_TEXTS)] = odd_value(rng)
    return content


def odd_json(content: object) -> st.SearchStrategy[bytes]:
    return SEED.map(lambda seed: json.dumps(spoilt(content, seed)).encode())


def odd_yaml(content: object) -> st.SearchStrategy[bytes]:
    return SEED.map(lambda seed: yaml.safe_dump(spoilt(content, seed)).encode())


def _children(place):
    return place.values() if isinstance(place, dict) else place


class Trial:
    """One file of a valid folder, offered again and again with other content."""

    def __init__(self, tally: dict, kind: str, path: Path, read: Read):
        self.kind, self.path, self.read = kind, path, read
        self.valid = path.read_bytes()
        self.seen = tally.setdefault(kind, set())
        self.read(path)  # as it is, it is read

    def offer(self, content: bytes) -> None:
        if content == self.valid:
            return
        self.seen.add((self.path.name, hash(content)))
        self.path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(self.path)
        except WorkbookError as error:
            assert str(error).strip()
        finally:
            self.path.write_bytes(self.valid)

    def offer_mutations(self, examples: int) -> None:
        fuzzing(examples)(given(RECIPE)(lambda recipe: self.offer(mutated(self.valid, recipe))))()

    def offer_drawn(self, examples: int, contents: st.SearchStrategy[bytes]) -> None:
        fuzzing(examples)(given(contents)(self.offer))()


# --- images -----------------------------------------------------------------------------------------------

PHOTOGRAPH = Image.fromarray(np.random.default_rng(5).integers(0, 255, (36, 44, 3), np.uint8).repeat(1, 0))
IMAGES = {
    "x.jpg": (
        PHOTOGRAPH,
        {"quality": 60, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    ),
    "progressive.jpg": (PHOTOGRAPH, {"progressive": True}),
    "cmyk.jpg": (PHOTOGRAPH.convert("CMYK"), {}),
    "x.png": (PHOTOGRAPH, {}),
    "palette.png": (PHOTOGRAPH.quantize(16), {"transparency": b"\0\x80"}),
    "grey16.png": (Image.fromarray(np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)), {}),
    "x.webp": (PHOTOGRAPH, {}),
    "x.tif": (PHOTOGRAPH, {"compression": "tiff_lzw"}),
    "x.bmp": (PHOTOGRAPH, {}),
    "x.gif": (PHOTOGRAPH.quantize(8), {}),
    "x.ppm": (PHOTOGRAPH, {}),
    "x.tga": (PHOTOGRAPH, {"compression": "tga_rle"}),
    "x.jp2": (PHOTOGRAPH, {}),
    "x.ico": (PHOTOGRAPH, {}),
}


def look_at(path: Path) -> None:
    image = decode.decode(path, 64, 32)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 32
    assert decode.read_size(path) != (0, 0)


@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_image_is_decoded_or_named(tmp_path, tally, record, name):
    image, options = IMAGES[name]
    image.save(tmp_path / name, **options)
    trial = Trial(tally, f"images {name}", tmp_path / name, look_at)
    trial.offer_mutations(600)
    if name.endswith(".png"):  # past the check sums, into what they guard

        def resealed(recipe):
            head, chunk = trial.valid[:8], trial.valid[8:33]
            body = chunk[4:8] + mutated(chunk[8:21], recipe)[:13].ljust(13, b"\0")
            seal = zlib.crc32(body).to_bytes(4, "big")
            return head + chunk[:4] + body + seal + trial.valid[33:]

        trial.offer_drawn(100, RECIPE.map(resealed))
    record("images", f"{name}: flipped, cut, spliced bytes", len(trial.seen), "nothing; a result or a named error")


def test_damaged_images_go_through_the_whole_scoring_path(tmp_path, tally, record):
    model = SmartIQA(backbone="swin_test", image_size=64, pretrained=False).eval()
    small = Profile(profile="small", dataset="any", backbone="swin_test", resolution=64, crop_size=64)
    rng, inputs = random.Random(8), tally.setdefault("scoring", set())
    for name, (image, options) in IMAGES.items():
        image.save(tmp_path / name, **options)
        valid = (tmp_path / name).read_bytes()
        for number in range(40):
            content = mutated(valid, rng.randbytes(30))
            (tmp_path / f"{number}-{name}.jpg").write_bytes(content)
            inputs.add(hash(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = score(sorted(tmp_path.iterdir()), Scorer(small, model, "small"))
    assert len(scores) == 41 * len(IMAGES)
    assert scores[[str(tmp_path / name) for name in IMAGES]].notna().all()
    assert np.isfinite(scores.dropna()).all() and scores.isna().any()
    record("images", "scored in one batch, damaged ones among them", len(inputs), "each has a score or a named fault")


# --- label files ------------------------------------------------------------------------------------------


def read_labels_of(dataset: str, root: Path, **options) -> Read:
    def read(path: Path) -> None:
        table = catalog.load_table(dataset, data_folder=root, **options)
        assert table["score"].between(0, 100).all() and set(table["split"]) <= set(catalog.SPLITS)
        places = [Path(os.path.realpath(place)) for place in table["path"]]
        assert all(place.is_file() and place.is_relative_to(root.resolve()) for place in places)

    return read


LABEL_FILES = (".csv", ".txt", ".json", ".xlsx", ".mat")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_damaged_label_file_is_read_or_named(tmp_path, tally, record, layout):
    layout(tmp_path / "data")
    dataset = LAYOUTS[layout][0]
    examples = 20 if layout.__name__ == "live" else 130  # a thousand images: few times
    files = [path for path in sorted((tmp_path / "data").rglob("*")) if path.suffix in LABEL_FILES]
    seen = 0
    for path in files:
        trial = Trial(tally, f"labels {layout.__name__}", path, read_labels_of(dataset, tmp_path))
        trial.offer_mutations(examples // len(files))
        if path.suffix == ".xlsx":
            trial.offer_drawn(examples // 2, inside_zip(trial.valid))
        seen = len(trial.seen)
    record("label files", f"{layout.__name__}: flipped, cut, spliced bytes", seen, "nothing; a result or a named error")


def inside_zip(archive: bytes) -> st.SearchStrategy[bytes]:
    """Archives that are sound, one member of which is not."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    names = sorted(members)

    def spoil(recipe: bytes) -> bytes:
        chosen, target = names[recipe[-1] % len(names)], io.BytesIO()
        with zipfile.ZipFile(target, "w") as opened:
            for name, content in members.items():
                opened.writestr(name, mutated(content, recipe) if name == chosen else content)
        return target.getvalue()

    return RECIPE.map(spoil)


OWN_ROWS = [
    ["image", "score", "split", "reference", "std"],
    *([f"{i}.png", str(9 * i), "train", f"r{i}", "1"] for i in range(8)),
]
OWN_JSON = [{"image": f"{i}.png", "score": 9 * i, "split": "test", "votes": [1, 2]} for i in range(8)]


@pytest.fixture
def own_folder(tmp_path):
    for number in range(8):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


HEADS = (
    "image",
    "Image file name",
    "Bild",
    "dist_name",
    "score",
    "MOS",
    "ELO",
    "2024",
    "std",
    "rater",
    "rater1",
    "rater 2",
)
HEADS += ("split", "set", "reference", "", "1", "c1", "path")
ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "cp1252",
    "gb18030",
    "shift_jis",
    "mac_roman",
)


def odd_csv(seed: int) -> bytes:
    """A label file as somebody may have it, or nearly."""
    rng, rows = random.Random(seed), [list(row) for row in OWN_ROWS]
    for _ in range(rng.randrange(5)):
        rng.choice(rows)[rng.randrange(5)] = str(odd_value(rng))
    chance = iter(rng.random() for _ in range(20))
    if next(chance) < 0.4:
        rows[0] = [rng.choice(HEADS) if rng.random() < 0.5 else name for name in rows[0]]
    if next(chance) < 0.2:
        rows = rows[1:]  # no header
    if next(chance) < 0.2:
        rows = [["a study"], [], *rows]
    if next(chance) < 0.2:  # a column more or less
        column, act = rng.randrange(5), rng.choice((list.pop, lambda row, column: row.insert(column, row[column])))
        for row in rows:
            if len(row) > column:
                act(row, column)
    if next(chance) < 0.2:
        rows += [list(rng.choice(rows)) for _ in range(rng.randrange(12))]  # several of an image
    for row in rows if next(chance) < 0.2 else ():
        row += [""] * rng.randrange(3)  # commas too many
    if next(chance) < 0.2:
        rows = [[cell.replace(".", ",") if cell.replace(".", "").isdigit() else cell for cell in row] for row in rows]
    separator = rng.choice((*",;,;\t| ", "  ", ", "))
    quoted = next(chance) < 0.3
    lines = [separator.join(json.dumps(c, ensure_ascii=False) if quoted else c for c in row) for row in rows]
    text = rng.choice(("\n", "\r", "\r\n")).join(lines)
    return text.encode(rng.choice(ENCODINGS), rng.choice(("replace", "ignore", "backslashreplace")))


def odd_sheet(seed: int) -> bytes:
    rng, content = random.Random(seed), io.BytesIO()
    rows = [[float(cell) if cell.isdigit() else cell for cell in row] for row in OWN_ROWS]
    for _ in range(rng.randrange(5)):
        value = odd_value(rng)
        rng.choice(rows)[rng.randrange(5)] = None if isinstance(value, list | dict) else value
    rows[0] = [rng.choice(HEADS) if rng.random() < 0.2 else name for name in rows[0]]
    frame = pd.DataFrame(rows).map(lambda cell: "odd" if isinstance(cell, str) and not cell.isprintable() else cell)
    with contextlib.suppress(ValueError):  # what no sheet can hold
        frame.to_excel(content, header=rng.random() < 0.2, index=rng.random() < 0.2, startrow=rng.randrange(3))
    return content.getvalue()


@pytest.mark.parametrize("name", ["labels.csv", "labels.json", "labels.xlsx"])
def test_ones_own_strange_labels_are_read_or_named(own_folder, tally, record, name):
    path = own_folder / name
    if name == "labels.csv":
        path.write_text("\n".join(",".join(row) for row in OWN_ROWS))
        odd = SEED.map(odd_csv)
    elif name == "labels.json":
        path.write_text(json.dumps(OWN_JSON))
        odd = odd_json(OWN_JSON)
    else:
        pd.DataFrame(OWN_ROWS[1:], columns=OWN_ROWS[0]).to_excel(path, index=False)
        odd = SEED.map(odd_sheet)
    trial = Trial(tally, f"own {name}", path, read_labels_of(str(path), own_folder))
    trial.offer_mutations(500)
    trial.offer_drawn(200 if name == "labels.xlsx" else 1000, odd)
    if name == "labels.xlsx":
        trial.offer_drawn(150, inside_zip(trial.valid))
    for bomb in (b"[" * 100_000, b'{"a":' * 100_000, b"image,score\n" + b"," * 200_000, b"9" * 100_000, b"\0" * 1000):
        trial.offer(bomb)
    record(
        "label files", f"{name} of one's own, damaged and odd", len(trial.seen), "nothing; a result or a named error"
    )


def test_bombs_and_odd_arrays_in_sheets_and_mat_files_are_refused(tmp_path, tally, record):
    LIVEC, SPAQ = (next(f for f in LAYOUTS if f.__name__ == name) for name in ("livec", "spaq"))
    LIVEC(tmp_path / "livec")
    path = tmp_path / "livec/Data/AllMOS_release.mat"
    trial = Trial(tally, "mat bombs", path, read_labels_of("livec", tmp_path / "livec"))
    odd = [np.zeros((0, 0)), np.zeros((3000, 3000), np.uint8), np.array(["a", "b"]), np.ones((1, 10)) * 1j, {"a": 1.0}]
    odd += [np.array([[{"x": 1}]], dtype=object), np.full((1, 10), np.nan), np.ones((10, 10, 2))]
    for value in odd:
        content = io.BytesIO()
        savemat(content, {"AllMOS_release": value}, do_compression=True)
        trial.offer(content.getvalue())
    large = io.BytesIO()  # 400 MB of zeros in 0.4 MB
    savemat(large, {"AllMOS_release": np.zeros((1, 50_000_000))}, do_compression=True)
    path.write_bytes(large.getvalue())
    with pytest.raises(WorkbookError, match="more than a label file"):
        catalog.load_table("livec", data_folder=tmp_path / "livec")

    SPAQ(tmp_path / "spaq")
    sheet = tmp_path / "spaq/Annotations/MOS and Image attribute scores.xlsx"
    with zipfile.ZipFile(sheet, "a", zipfile.ZIP_DEFLATED) as opened, opened.open("xl/bomb.xml", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(WorkbookError, match="more than a label file"):
        catalog.load_table("spaq", data_folder=tmp_path / "spaq")
    record("label files", "decompression bombs and odd arrays in .mat and .xlsx", len(odd) + 2, "all refused")


# --- profiles ---------------------------------------------------------------------------------------------

PROFILE = {
    "profile": "mine",
    "dataset": "mine/labels.csv",
    "backbone": "swin_test",
    "score_range": [1, 5],
    "seeds": [0, 1],
    "epochs": 3,
    "learning_rate_head": 1e-3,
    "flip": True,
    "loss": "l1",
    "test_datasets": ["offline-lab-tiny"],
}


def read_profile(path: Path) -> None:
    settings_ = load_profile(str(path))
    assert isinstance(settings_, Profile) and settings_.folder.parent.name == "runs"
    assert np.isfinite([settings_.learning_rate_head, *settings_.score_range]).all()


def test_a_strange_profile_is_read_or_named(tmp_path, tally, record):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    trial = Trial(tally, "profiles", path, read_profile)
    trial.offer_mutations(1600)
    trial.offer_drawn(900, odd_yaml(PROFILE))
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(9 * [f'*{chr(97 + i)}'])}]\n" for i in range(9)
    )
    for strange in (
        laughs + "epochs: *j\n",
        "a: " + "[" * 3000,
        "!!python/object/apply:os.mkdir ['x']",
        "epochs: 2020-13-45\nprofile: x",
    ):
        trial.offer(strange.encode())
    for refused, why in {
        "seed: 1\nseed: 2": "'seed' is there twice",
        "epochs: &e 1\nseed: *e": "references",
        "profile: ../elsewhere": "profile: '../elsewhere' is not allowed",
        "learning_rate_head: .inf": "learning_rate_head: inf is not allowed",
    }.items():
        path.write_text(refused)
        with pytest.raises(WorkbookError, match=why):
            load_profile(str(path))
    record(
        "profiles",
        "damaged YAML, odd values, reference bombs, tags",
        len(trial.seen),
        "nothing; a result or a named error",
    )


# --- the run store ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A complete run, without the work of training one."""
    with pytest.MonkeyPatch.context() as patch:
        from iqa_lib import paths

        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        run = Run(load_profile("smoke"), "data")
    run.folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(30)], "score": rng.uniform(0, 100, 30), "split": "test"})
    table["prediction"], table["alpha1"] = table["score"] + 1, 0.25
    result = {"best_epoch": 1, "parameters": 10, "logistic": [100.0, 0.0, 50.0, 10.0]}
    run.complete_with(table, result, "cpu", 1.0)
    epochs = [{"epoch": i, "train_loss": 9.5 / i, "val_srcc": float("nan")} for i in (1, 2, 3)]
    (run.folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    return run


def test_damaged_numbers_of_a_run_are_read_or_named(stored, tally, record):
    expected = stored.predictions
    result = Trial(tally, "result.json", stored.folder / "result.json", lambda path: stored.result)
    result.offer_mutations(1500)
    result.offer_drawn(700, odd_json(stored.result))
    epochs = Trial(tally, "epochs.jsonl", stored.folder / "epochs.jsonl", lambda path: stored.epochs)
    epochs.offer_mutations(1500)
    other = Trial(tally, "state.json", stored.folder / "environment.json", lambda path: read_json(path).get("x"))
    other.offer_mutations(600)
    other.offer_drawn(400, odd_json({"finished": [1], "b": {}}))

    def read_predictions(path: Path) -> None:
        found = stored.predictions
        pd.testing.assert_frame_equal(found[["score", "prediction"]], expected[["score", "prediction"]])

    predictions = Trial(tally, "predictions.parquet", stored.folder / "predictions.parquet", read_predictions)
    predictions.offer_mutations(1200)
    settings_of = Trial(tally, "run.json", stored.folder / "run.json", lambda path: Run.at(stored.folder).settings)
    settings_of.offer_mutations(400)
    settings_of.offer_drawn(300, odd_json(stored.config))
    trials = (result, epochs, other, predictions, settings_of)
    record(
        "run store",
        "result, epochs, predictions, states: damaged and odd",
        sum(len(t.seen) for t in trials),
        "no number was read wrongly",
    )


# --- checkpoints ------------------------------------------------------------------------------------------

STATE = {
    "swin.backbone.patch_embed.proj.weight": torch.ones(4, 3, 2, 2),
    "swin.lda4_fc.weight": torch.ones(2, 5),
    "conv1.0.weight": torch.ones(2, 7, 1, 1),
    "half": torch.ones(3, dtype=torch.float16),
    "count": torch.tensor(3),
}


def read_tensors(path: Path) -> None:
    content = read_without_running(path)
    try:
        require_same_tensors(content, STATE, "it")
    except WorkbookError:
        load_reference_checkpoint(path)


def test_a_damaged_checkpoint_is_read_or_named(tmp_path, tally, record):
    (tmp_path / "x.safetensors").write_bytes(save_tensors(STATE))
    header = json.loads(save_tensors(STATE)[8:].split(b"}}")[0] + b"}}")
    torch.save(STATE, tmp_path / "x.pth")
    torch.save(STATE, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    trials = [Trial(tally, "safetensors", tmp_path / "x.safetensors", read_tensors)]
    trials[0].offer_mutations(3000)
    trials[0].offer_drawn(700, SEED.map(lambda seed: with_header(spoilt(header, seed))))
    for name in ("x.pth", "old.pkl"):
        trials.append(Trial(tally, name, tmp_path / name, read_tensors))
        trials[-1].offer_mutations(1500)
    trials[1].offer_drawn(500, inside_zip(trials[1].valid))
    record(
        "checkpoints",
        "safetensors, .pth, old .pkl: damaged and odd",
        sum(len(t.seen) for t in trials),
        "nothing; a result or a named error",
    )


def with_header(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(200)


# --- archives ---------------------------------------------------------------------------------------------


def archive(kind: str) -> bytes:
    content = io.BytesIO()
    files = {"a/1.txt": b"one" * 50, "a/2.txt": b"two" * 50, "b.txt": b""}
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, text in files.items():
                opened.writestr(name, text)
    else:
        with tarfile.open(fileobj=content, mode="w:" if kind == "tar" else "w:gz") as opened:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                opened.addfile(member, io.BytesIO(text))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_damaged_archive_is_unpacked_inside_or_named(tmp_path, monkeypatch, tally, record, kind):
    monkeypatch.setattr(download, "Progress", lambda items, **_: items)
    inside = tmp_path / "around" / "inside"
    inside.parent.mkdir()
    path = tmp_path / f"x.{kind}"
    path.write_bytes(archive(kind))

    def read(path: Path) -> None:
        try:
            unpack(path, inside)
            for place in inside.rglob("*"):
                assert not place.is_symlink()
        finally:
            shutil.rmtree(inside, ignore_errors=True)
            assert sorted(p.name for p in inside.parent.iterdir()) == [] and len(list(tmp_path.iterdir())) == 2

    trial = Trial(tally, f"archives {kind}", path, read)
    trial.offer_mutations(450)
    record("archives", f"{kind}: flipped, cut, spliced bytes", len(trial.seen), "nothing was written outside")


def test_an_archive_that_lies_of_its_size_fills_no_disk(tmp_path, monkeypatch, record):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bomb", bytes(50_000_000))
    honest = content.getvalue()
    size = (50_000_000).to_bytes(4, "little")
    assert honest.count(size) == 2
    (tmp_path / "lies.zip").write_bytes(honest.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(WorkbookError, match="cannot be unpacked"):
        unpack(tmp_path / "lies.zip", tmp_path / "inside")
    assert not (tmp_path / "inside").exists()
    (tmp_path / "huge.zip").write_bytes(honest.replace(size, (2**32 - 2).to_bytes(4, "little")))
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**32, 0, 2**31))
    with pytest.raises(WorkbookError, match=r"needs 4\.29 GB"):
        unpack(tmp_path / "huge.zip", tmp_path / "inside")
    record("archives", "a zip that understates its size, one too large for the disk", 2, "both refused")


# --- links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "folder", "chain", "itself"])
def test_a_link_is_its_owners_will_and_one_to_itself_is_missing(tmp_path, record, kind):
    """Whoever keeps images on another disk links them; archives that bring links are refused above."""
    outside, inside = tmp_path / "disk", tmp_path / "set"
    outside.mkdir()
    inside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "0.png")
    link = inside / "link.png"
    if kind == "folder":
        (inside / "images").symlink_to(outside)
        link = inside / "images" / "0.png"
    elif kind == "chain":
        (inside / "step.png").symlink_to(outside / "0.png")
        link.symlink_to(inside / "step.png")
    else:
        link.symlink_to(outside / "0.png" if kind == "file" else link)
    labels = inside / "labels.csv"
    labels.write_text(f"image,score\n{link.relative_to(inside)},1\n")
    if kind == "itself":
        with pytest.raises(WorkbookError, match="missing"):
            catalog.load_table(str(labels))
    else:
        assert len(catalog.load_table(str(labels))) == 1
    record("label files", f"a link out of the folder: {kind}", 1, "missing" if kind == "itself" else "read")


# --- what is written for others ---------------------------------------------------------------------------


def test_no_text_of_an_exported_table_is_a_formula_and_numbers_are_untouched(home, tmp_path, record):
    texts = [f"{start}cmd|' /C calc'!A0" for start in ("=", "+", "-", "@", "\t", "\r")] + ["'=1", "plain.png"]
    table = pd.DataFrame({"=image": texts, "score": -np.arange(8.0)})
    settings_ = load_profile("smoke")
    page = Page(settings_, "notebook")
    page.save(table, "table", "a caption")
    page.save(Figure(), "figure", "a caption", data=table)
    for name in ("table.csv", "figure.csv"):
        written = (settings_.figures / name).read_bytes().decode()
        rows = list(csv.reader(io.StringIO(written, newline="")))
        assert not any(row[0].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
        assert [float(row[1]) for row in rows[1:]] == table["score"].tolist() and rows[2][1] == "-1.0"
        meant = table.replace("\r", "\n", regex=True)
        pd.testing.assert_frame_equal(read_csv(settings_.figures / name), meant)  # the report shows this
    folder = tmp_path / "photographs"
    folder.mkdir()
    PHOTOGRAPH.save(folder / "=1+1.png")
    with contextlib.chdir(folder):
        assert main(["score", "=1+1.png", "--csv", str(tmp_path / "scores.csv")]) == 0
    assert "\n'=1+1.png," in (tmp_path / "scores.csv").read_text()
    record(
        "exports",
        "cells and headings that are formulas, in tables, figures' data, scores",
        3 * len(texts),
        "none is one",
    )


# --- all together -----------------------------------------------------------------------------------------


def test_at_least_20_000_strange_inputs_were_tried(tally, record):
    tried = sum(map(len, tally.values()))
    if len(tally) < 10:
        pytest.skip("counts the whole file's inputs: run all of tests/reliability/test_fuzz.py")
    record("all of the above", "different damaged or malicious files", tried, "nothing; each a result or a named error")
    assert tried >= AT_LEAST
