"""`data list|check|prepare|download`: any image file ends in the right picture or in a message; nothing is lost."""

import contextlib
import hashlib
import http.server
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from broken import BROKEN, broken
from PIL import Image
from skimage import data as photographs

from iqa_lib import __main__
from iqa_lib.data import catalog, images
from iqa_lib.data.check import check
from iqa_lib.data.decode import decode
from iqa_lib.data.download import download, unpack
from iqa_lib.data.images import load_images
from iqa_lib.errors import DataError
from iqa_lib.profile import load_profile


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((96, 72), Image.Resampling.BICUBIC)


@pytest.fixture
def own(home, picture):
    """Own labels of six images, three of them seldom kinds, without a fault."""
    folder = home / "data" / "own"
    folder.mkdir()
    for i in range(4):
        picture.rotate(90 * i).save(folder / f"{i}.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "named.jpg", format="PNG")
    rows = [f"{file.name},{10 + 15 * i}" for i, file in enumerate(sorted(folder.iterdir()))]
    (folder / "labels.csv").write_text("\n".join(["image,score", *rows]))
    return folder


@pytest.fixture
def settings(home):
    return load_profile("smoke", dataset="own/labels.csv", test_datasets=["own/labels.csv"])  # few enough to train on


def remove_row(folder, image):
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(line for line in lines if not line.startswith(image)))


def add_row(folder, image, score=50):
    with open(folder / "labels.csv", "a") as file:
        file.write(f"\n{image},{score}")


# --- one image ---


def assert_alike(decoded, expected, tolerance):
    assert decoded.shape == expected.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected.astype(int)).mean() <= tolerance


@pytest.mark.parametrize(
    ("name", "convert", "options", "tolerance"),
    [
        ("png.jpg", lambda p: p, {"format": "PNG"}, 0),
        ("jpeg.png", lambda p: p, {"format": "JPEG", "quality": 95}, 4),
        ("cmyk.tif", lambda p: p.convert("CMYK"), {}, 0),
        ("cmyk.jpg", lambda p: p.convert("CMYK"), {"quality": 95}, 8),
        ("opaque.png", lambda p: p.convert("RGBA"), {}, 0),
        ("palette.png", lambda p: p.quantize(256), {}, 0),
        ("bitmap.bmp", lambda p: p, {}, 0),
        ("x.webp", lambda p: p, {"lossless": True}, 0),
        ("lossless.jp2", lambda p: p, {}, 0),
    ],
)
def test_every_kind_of_colour_file_is_the_same_picture(tmp_path, picture, name, convert, options, tolerance):
    converted = convert(picture)
    converted.save(tmp_path / name, **options)
    assert_alike(decode(tmp_path / name, 384, 32), np.asarray(converted.convert("RGB")), tolerance)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / name)
    expected = np.round(ramp / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(tmp_path / name, 384, 32), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_and_black_and_white_become_three_equal_channels(tmp_path, picture, mode):
    picture.convert(mode).save(tmp_path / "x.png")
    expected = np.asarray(picture.convert(mode).convert("L"))
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 384, 32), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (40, 40), 1)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.save(tmp_path / "x.png", transparency=bytes([255, 0]))  # the blue entry is clear
    else:
        Image.new(mode, (40, 40), 0).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 384, 32) == 255).all()


def test_a_half_transparent_black_is_mid_grey(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 128)).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 384, 32) == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_its_camera_was_held(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    p = np.asarray(picture)
    upright = {
        1: p,
        2: p[:, ::-1],
        3: p[::-1, ::-1],
        4: p[::-1],
        5: p.transpose(1, 0, 2),
        6: np.rot90(p, -1),
        7: np.rot90(p, 2).transpose(1, 0, 2),
        8: np.rot90(p),
    }
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 384, 32), upright[orientation])


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "x.gif", 384, 32) == [255, 0, 0]).all()


def test_a_single_pixel_is_enlarged_to_a_crop(tmp_path):
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "x.png")
    decoded = decode(tmp_path / "x.png", 384, 224)
    assert decoded.shape == (224, 224, 3) and (decoded == [9, 8, 7]).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_large_photo_is_reduced_quickly_and_looks_as_if_reduced_slowly(tmp_path, name, orientation):
    whole = Image.fromarray(photographs.coffee()).resize((1101, 733), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole.save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as file:
        slowly = file.convert("RGB").resize((144, 96), Image.Resampling.BICUBIC)
    expected = np.asarray(slowly) if orientation == 1 else np.rot90(slowly, -1)
    decoded = decode(tmp_path / name, 96, 32)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 1.5


@pytest.mark.slow
def test_108_megapixels_are_reduced_and_nothing_is_said(tmp_path):
    image = Image.new("RGB", (12_000, 9_000), "navy")
    image.paste("red", (6_000, 0, 12_000, 9_000))
    image.save(tmp_path / "x.jpg")
    decoded = decode(tmp_path / "x.jpg", 384, 224)
    assert decoded.shape == (384, 512, 3)
    assert_alike(decoded[:, :250], np.full((384, 250, 3), (0, 0, 128), np.uint8), 2)
    assert_alike(decoded[:, 262:], np.full((384, 250, 3), (255, 0, 0), np.uint8), 2)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_usable_image_is_named_with_the_mend(tmp_path, picture, kind):
    broken(kind, tmp_path / "x.jpg", picture)
    with pytest.raises(DataError, match=rf"x\.jpg .*({BROKEN[kind]}).*; replace the file or remove its row"):
        decode(tmp_path / "x.jpg", 384, 32)


def test_no_warning_of_pillow_leaks_and_the_filters_are_as_before(own, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # every image here is "large", none too large
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        decode(own / "0.png", 384, 32)
        load_images(settings)
        check("own/labels.csv", settings)
    assert not leaked and warnings.filters == before


# --- prepare ---


def cache_of(home):
    (index,) = home.glob("data/cache/*/index.json")
    return index.parent


def test_all_broken_images_are_in_one_message_and_no_half_cache_stays(own, settings, picture, home):
    for kind in BROKEN:
        broken(kind, own / f"bad {kind}.jpg", picture)
        add_row(own, f"bad {kind}.jpg")
    with pytest.raises(DataError, match=f"{len(BROKEN)} images cannot be used") as error:
        load_images(settings)
    assert all(f"bad {kind}.jpg" in str(error.value) for kind in BROKEN)
    assert not [path for path in home.glob("data/cache/*") if path.is_dir()]
    for kind in BROKEN:
        remove_row(own, f"bad {kind}.jpg")
    assert len(load_images(settings)) == 6


def test_the_cache_holds_what_decode_gives_in_the_order_of_the_rows(own, settings):
    images = load_images(settings)
    for row, path in enumerate(images.table["path"]):
        expected = decode(path, settings.resolution, settings.crop_size)
        np.testing.assert_array_equal(images.image(row), expected)


def test_many_images_at_once_stay_in_order_and_within_the_memory_allowed(monkeypatch):
    monkeypatch.setattr(images, "PIXELS_IN_FLIGHT", 25)
    lock, held, most = threading.Lock(), 0, 0

    def work(number):
        nonlocal held, most
        with lock:
            held += 10
            most = max(most, held)
        time.sleep(0.002 * (number % 3))
        return number

    done = []
    for number in images.in_order(work, ((number, 10) for number in range(40))):
        done.append(number)
        with lock:
            held -= 10
    assert done == list(range(40)) and most <= 30  # two at work, one just handed over


def test_too_little_space_is_said_before_anything_is_decoded(own, settings, monkeypatch):
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(images, "read_image", pytest.fail)
    with pytest.raises(DataError, match=r"needs .* are free \([\d,]+ and 1,000 bytes\). Make room, or set IQA_HOME"):
        load_images(settings)


def test_the_space_asked_for_is_the_space_taken(own, settings, home, monkeypatch):
    asked = []
    monkeypatch.setattr(images, "require_space", lambda folder, needed, what: asked.append(needed))
    load_images(settings)
    assert asked == [(cache_of(home) / "pixels.u8").stat().st_size]


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "index gone"])
def test_a_damaged_cache_is_told_and_rebuilt(own, settings, home, capsys, damage):
    whole = load_images(settings)
    expected = [whole.image(i).copy() for i in range(len(whole))]
    pixels = cache_of(home) / "pixels.u8"
    if damage == "flipped bit":
        content = bytearray(pixels.read_bytes())
        content[1000] ^= 1
        pixels.write_bytes(content)
    elif damage == "cut":
        os.truncate(pixels, pixels.stat().st_size - 1)
    else:
        (cache_of(home) / "index.json").unlink()
    again = load_images(settings, verify=damage == "flipped bit")
    assert "is damaged" in capsys.readouterr().err
    assert again.fingerprint == whole.fingerprint
    assert all(np.array_equal(again.image(i), expected[i]) for i in range(len(again)))


SLOWLY = """
import sys, time
from iqa_lib.data import images
from iqa_lib.profile import load_profile
quickly = images.read_image
images.read_image = lambda *a: (time.sleep(0.1), quickly(*a))[1]
images.load_images(load_profile("smoke", dataset="many/labels.csv"))
"""


def test_a_killed_prepare_goes_on_and_ends_in_the_same_bytes(home, picture, monkeypatch):
    folder = home / "data" / "many"
    folder.mkdir()
    for i in range(40):
        picture.rotate(9 * i).save(folder / f"{i}.png")
    (folder / "labels.csv").write_text("image,score\n" + "".join(f"{i}.png,{i}\n" for i in range(40)))
    child = subprocess.Popen([sys.executable, "-c", SLOWLY], env={**os.environ, "IQA_HOME": str(home)})
    limit = time.monotonic() + 60
    while not (journal := list(home.glob("data/cache/*/journal.csv"))) or not journal[0].read_bytes():
        assert child.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = journal[0].read_bytes().count(b"\n")
    assert 0 < done < 40
    with open(journal[0].parent / "pixels.u8", "ab") as file:
        file.write(b"half an image")
    with open(journal[0], "ab") as file:
        file.write(b"72,96,1")  # half a line

    count = 0
    original = images.read_image

    def counted(*arguments):
        nonlocal count
        count += 1
        return original(*arguments)

    monkeypatch.setattr(images, "read_image", counted)
    settings = load_profile("smoke", dataset="many/labels.csv")
    resumed = load_images(settings, verify=True)
    assert count == 40 - done
    bytes_resumed = (cache_of(home) / "pixels.u8").read_bytes()
    images.shutil.rmtree(home / "data" / "cache")
    undisturbed = load_images(settings)
    assert (cache_of(home) / "pixels.u8").read_bytes() == bytes_resumed
    assert undisturbed.fingerprint == resumed.fingerprint


def test_what_an_earlier_run_wrote_wrongly_is_decoded_again(own, settings, home):
    whole = load_images(settings)
    pixels = (cache_of(home) / "pixels.u8").read_bytes()
    folder = cache_of(home)
    lines = [
        f"{h},{w},{zlib.crc32(whole.image(i))}\n".encode()
        for i, (h, w) in enumerate(whole.image(i).shape[:2] for i in range(len(whole)))
    ]
    unfinished = folder.with_name(folder.name + ".unfinished")
    folder.rename(unfinished)
    (unfinished / "index.json").unlink()
    (unfinished / "journal.csv").write_bytes(b"".join(lines[:4]))
    second = whole.image(0).nbytes + 5
    (unfinished / "pixels.u8").write_bytes(pixels[:second] + bytes(len(pixels) - second))  # a power cut's zeros
    assert load_images(settings).fingerprint == whole.fingerprint
    assert (folder / "pixels.u8").read_bytes() == pixels


# --- check ---


def test_a_sound_dataset_has_no_fault_and_its_oddities_are_notes(own, settings):
    report = check("own/labels.csv", settings)
    assert report.faults == [] and report.images == 6 and report.folder == own
    said = " ".join(report.notes)
    assert "1 images are of mode CMYK" in said and "1 images are PNG files named .jpg" in said
    assert "96×72" in said


def test_one_report_has_all_faults(own, settings, picture):
    for kind in ("truncated", "zero bytes", "strip"):
        broken(kind, own / f"{kind}.jpg", picture)
        add_row(own, f"{kind}.jpg")
    picture.save(own / "copy.bmp")  # the same pixels as 0.png
    add_row(own, "copy.bmp")
    picture.rotate(45).save(own / "unlabelled.png")
    for image, score in [("absent.png", 1), ("1.png", 2), ("2.png", "nan"), ("3.png", 101), ("../x.png", 5)]:
        add_row(own, image, score)
    report = check("own/labels.csv", settings)
    for said in [
        "truncated.jpg cannot be decoded",
        "zero bytes.jpg is empty",
        "strip.jpg .* is a strip",
        "0.png = copy.bmp",
        "1 images have no row: unlabelled.png",
        "1 of 12 images are missing: 'absent.png'",
        "'1.png' was already in",
        "score 'nan' is not a number",
        "score 101.* is outside",
        "'../x.png' leaves the folder",
    ]:
        found = [fault for fault in report.faults if re.search(said, fault)]
        assert len(found) == 1, (said, report.faults)


def test_labels_that_cannot_be_read_do_not_keep_the_images_from_being_checked(own, settings, picture):
    (own / "labels.csv").write_text("image,remark\n0.png,good\n")
    broken("truncated", own / "bad.jpg", picture)
    faults = " ".join(check("own/labels.csv", settings).faults)
    assert "no column 'score'" in faults and "bad.jpg cannot be decoded" in faults


def test_a_name_in_other_case_is_noted(own, settings):
    (own / "0.png").rename(own / "0.PNG")
    report = check("own/labels.csv", settings)
    assert report.faults == [] and any("'0.png' is 0.PNG" in note for note in report.notes)


def test_a_wrong_scale_is_suspected(own, settings):
    (own / "labels.csv").write_text("image,score\n0.png,1\n1.png,5\n")
    assert any("set the profile key score_range" in note for note in check("own/labels.csv", settings).notes)


def test_a_published_dataset_must_have_its_published_number_of_images(home, settings, monkeypatch):
    tiny = catalog.CATALOG["offline-wild-tiny"]
    monkeypatch.setitem(catalog.CATALOG, "offline-wild-tiny", replace(tiny, images=999))
    (fault,) = check("offline-wild-tiny", settings).faults
    assert "published are 999. Unpack the whole archive again" in fault


def test_an_absent_dataset_is_one_fault_that_says_what_to_put_where(home, settings):
    (fault,) = check("koniq10k", settings).faults
    assert "1024x768/" in fault and "http" in fault


# --- the command line ---


def run(*arguments):
    return __main__.main(["data", *arguments])


def test_list_says_what_is_there_and_how_to_get_the_rest(home, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run("list") == 0
    said = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert set(catalog.CATALOG) <= set(said)
    assert "images" in said["offline-wild-tiny"] and str(home)[:20] in said["offline-wild-tiny"]
    assert "no" in said["koniq10k"] and "data download koniq10k (6.35 GB)" in said["koniq10k"]


SMALL = ["check", "own/labels.csv", "--profile", "smoke", "-p", "test_datasets=[own/labels.csv]"]


def test_check_ends_with_1_where_there_are_faults_and_0_where_there_are_none(own, capsys):
    assert run(*SMALL) == 0
    assert "no faults" in capsys.readouterr().out
    add_row(own, "absent.png")
    assert run(*SMALL) == 1
    said = capsys.readouterr().out
    assert "fault 1: " in said and "absent.png" in said and said.endswith("1 fault\n")


def test_check_takes_the_scale_of_ones_own_labels(own):
    (own / "labels.csv").write_text("image,score\n" + "".join(f"{i}.png,{-i}\n" for i in range(4)))
    assert run(*SMALL) == 1
    for image in ("cmyk.jpg", "named.jpg"):
        (own / image).unlink()
    assert run(*SMALL, "score_range=[-3, 0]") == 0


def sixteen(folder):
    folder.mkdir(exist_ok=True)
    for i in range(16):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "labels.csv").write_text("image,score\n" + "".join(f"{i}.png,{6 * i}\n" for i in range(16)))
    return folder / "labels.csv"


def test_too_few_images_to_train_on_are_said_first_with_the_way_out(home, tmp_path, monkeypatch, capsys):
    labels = sixteen(tmp_path / "mine")
    monkeypatch.chdir(labels.parent)
    monkeypatch.setattr("iqa_lib.workbook.runner.run_workbook", lambda *_, **__: 0)
    assert run("check", "labels.csv", "--profile", "smoke") == 1  # in the current folder, as finetune
    said = capsys.readouterr().out
    assert "16 labelled images" in said and re.search(
        r"fault 1: 16 images give 11 .* 2 in split 'val'.*column 'split'", said
    )
    assert __main__.main(["finetune", "labels.csv", "--profile", "smoke"]) == 2
    assert re.search(
        r"error: .*2 in split 'val', 3 in split 'test'; at least 3 .*cross-validate", capsys.readouterr().err
    )
    assert not (home / "runs/mine").exists()
    splits = ["split", *["train"] * 10, *["val"] * 3, *["test"] * 3]
    rows = zip(labels.read_text().splitlines(), splits, strict=True)
    labels.write_text("\n".join(",".join(row) for row in rows))
    assert run("check", "labels.csv", "--profile", "smoke") == 0
    assert __main__.main(["finetune", "labels.csv", "--profile", "smoke"]) == 0


def test_labels_are_looked_for_here_and_then_in_the_data_folder(home, own, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(*SMALL) == 0  # not here
    sixteen(tmp_path / "here/own").write_text("image,score\n3.png,1\n")
    run(*SMALL)
    assert "1 labelled images in" in capsys.readouterr().out


def test_how_labels_were_read_is_said_by_check(own, capsys):
    rows = (own / "labels.csv").read_text().splitlines()[1:]
    (own / "labels.csv").write_text("Image file name;ELO\r" + "\r".join(rows).replace(",", ";"))
    assert run(*SMALL) == 0
    assert "note: Read image from 'Image file name'; score from 'ELO'." in capsys.readouterr().out


def test_prepare_decodes_and_a_second_one_verifies(own, capsys, monkeypatch, home):
    assert run("prepare", "own/labels.csv", "--profile", "smoke") == 0
    monkeypatch.setattr(Image, "open", pytest.fail)
    assert run("prepare", "own/labels.csv", "--profile", "smoke") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and "6 images decoded" in first


def test_a_mistake_ends_with_2_and_one_message(home, capsys):
    assert run("prepare", "koniq", "--profile", "smoke") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Unknown dataset 'koniq', did you mean 'koniq10k'") and "Traceback" not in said


def test_help_does_not_import_what_is_slow():
    code = "import sys; from iqa_lib.__main__ import main\ntry: main(['data', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'pandas', 'PIL', 'numpy', 'huggingface_hub'} & set(sys.modules), 'slow'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- download, from a server of our own ---


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as a download meets."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        wanted, content = self.headers.get("Range"), self.server.content
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if not self.path.startswith(f"/datasets/o/d/resolve/{'a' * 40}/biq2021.") or self.server.down:
            return self.send_error(503 if self.server.down else 404)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[start : start + self.server.most])
            self.wfile.flush()
            if len(content) - start > self.server.most:
                self.server.released.wait(self.server.stall)


@pytest.fixture
def hub(home, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.content, server.ranges, server.down = tiny_dataset("tgz"), [], False
    server.most, server.stall, server.released = (1 << 40, 0, threading.Event())  # bytes an answer, then seconds
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    offer(monkeypatch, server.content)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def offer(monkeypatch, content, file="biq2021.tgz", sha256=None):
    address = catalog.Download("a" * 40, file, 1e-6, sha256 or hashlib.sha256(content).hexdigest(), "o/d")
    monkeypatch.setitem(catalog.CATALOG, "biq2021", replace(catalog.CATALOG["biq2021"], download=address, images=2))


def tiny_dataset(kind, padding=0):
    """BIQ2021's layout in small, in a folder of its own."""
    image = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(image, format="JPEG")
    files = {
        "BIQ/Images/1.jpg": image.getvalue(),
        "BIQ/Images/2.jpg": image.getvalue(),
        "BIQ/Train (Images and MOS).csv": b"Image Name,MOS\n1.jpg,0.5\n",
        "BIQ/Test (Images and MOS).csv": b"Image Name,MOS\n2.jpg,0.25\n",
        "BIQ/padding": np.random.default_rng(0).bytes(padding),
    }
    return archive_of(files, kind)


def archive_of(files, kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as opened:
            for name, content in files.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def agree(text):
    return True


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_download_fetches_unpacks_and_leaves_no_archive(hub, monkeypatch, home, kind):
    hub.content = tiny_dataset(kind)
    offer(monkeypatch, hub.content, f"biq2021.{kind}")
    folder = download("biq2021", agree)
    assert folder == (home / "data" / "biq2021" / "BIQ").resolve()
    assert catalog.load_table("biq2021")["score"].tolist() == [50, 25]
    assert not (home / "data" / ".downloads" / "biq2021").exists()
    hub.ranges.clear()
    assert download("biq2021", pytest.fail) == folder and hub.ranges == []


def test_the_licence_is_shown_and_asked_for_once(hub, home, monkeypatch):
    shown = []
    with pytest.raises(DataError, match="licence of BIQ2021 was not accepted; nothing was loaded"):
        download("biq2021", lambda text: shown.append(text))
    assert hub.ranges == [] and catalog.CATALOG["biq2021"].licence in shown[0] and "cite" in shown[0]
    folder = download("biq2021", agree)
    images.shutil.rmtree(folder.parent)
    assert download("biq2021", pytest.fail) == folder


def test_a_wrong_checksum_is_refused_and_nothing_is_unpacked(hub, home, monkeypatch):
    offer(monkeypatch, hub.content, sha256="0" * 64)
    with pytest.raises(DataError, match=r"has the SHA-256 [0-9a-f]{64} instead of 0{64}.*was removed"):
        download("biq2021", agree)
    assert not (home / "data" / "biq2021").exists()


KILLED = """
import sys, huggingface_hub
from iqa_lib.data import catalog
from iqa_lib.data.download import download
from dataclasses import replace
address = catalog.Download("a" * 40, "biq2021.tgz", 1e-6, sys.argv[1], "o/d")
catalog.CATALOG["biq2021"] = replace(catalog.CATALOG["biq2021"], download=address)
download("biq2021", lambda text: True)
"""


def test_a_killed_download_goes_on_where_it_stopped(hub, home, monkeypatch):
    hub.content = tiny_dataset("tgz", padding=5_000_000)
    hub.most, hub.stall = 4_000_000, 60
    offer(monkeypatch, hub.content)
    environment = {**os.environ, "IQA_HOME": str(home)}
    sha256 = hashlib.sha256(hub.content).hexdigest()
    child = subprocess.Popen([sys.executable, "-c", KILLED, sha256], env=environment)
    archive = home / "data" / ".downloads" / "biq2021" / "biq2021.tgz"
    limit = time.monotonic() + 60
    while not archive.is_file() or not archive.stat().st_size:
        assert child.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = archive.stat().st_size
    assert 0 < there < len(hub.content)
    hub.most = 1 << 40
    hub.ranges.clear()
    download("biq2021", agree)
    assert hub.ranges == [f"bytes={there}-"]
    assert len(catalog.load_table("biq2021")) == 2


def test_a_connection_that_breaks_is_taken_up_again(hub, monkeypatch):
    hub.content = tiny_dataset("tgz", padding=2_500_000)
    hub.most = 1_000_000
    offer(monkeypatch, hub.content)
    assert download("biq2021", agree).is_dir()
    assert hub.ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_an_archive_that_had_arrived_whole_is_not_loaded_again(hub, home):
    archive = home / "data" / ".downloads" / "biq2021" / "biq2021.tgz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(hub.content)
    assert download("biq2021", agree).is_dir()
    assert hub.ranges == [f"bytes={len(hub.content)}-"]


def test_what_cannot_be_had_is_said_and_the_command_may_be_repeated(hub, monkeypatch):
    hub.down = True
    with pytest.raises(DataError, match=r"biq2021.tgz could not be loaded .*503.*run the same command again"):
        download("biq2021", agree)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"biq2021.tgz could not be loaded .*refused"):
        download("biq2021", agree)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    hub.down = False
    assert download("biq2021", agree).is_dir()


def test_space_is_checked_before_a_download(hub, monkeypatch):
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(DataError, match=r"needs .* GB"):
        download("biq2021", agree)
    assert hub.ranges == []


@pytest.mark.parametrize("kind", ["tgz", "zip"])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:/evil"])
def test_an_archive_that_leads_outside_is_refused_whole(tmp_path, kind, name):
    archive = tmp_path / f"x.{kind}"
    archive.write_bytes(archive_of({"good": b"1", name: b"2"}, kind))
    with pytest.raises(DataError, match=r"leads outside the folder or is a link. Nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "side")
    assert not (tmp_path / "in" / "side").exists() and not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        opened.addfile(member)
    with pytest.raises(DataError, match="'link' leads outside the folder or is a link"):
        unpack(tmp_path / "x.tar", tmp_path / "inside")


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_damaged_archive_is_told_and_nothing_stays(tmp_path, kind):
    content = archive_of({"a": b"1", "b": np.random.default_rng(0).bytes(100_000)}, kind)
    (tmp_path / f"x.{kind}").write_bytes(content[:50_000])
    with pytest.raises(DataError, match=r"cannot be unpacked .* Remove it and load it again"):
        unpack(tmp_path / f"x.{kind}", tmp_path / "inside")
    assert not (tmp_path / "inside").exists()


def test_what_has_no_public_address_says_where_to_ask(home):
    with pytest.raises(DataError, match=r"DatabaseGrades.xlsx"):
        download("bid", agree)
    with pytest.raises(DataError, match="is built by this workbook"):
        download("offline-wild", agree)
    with pytest.raises(DataError, match="Unknown dataset 'koniq'"):
        download("koniq", agree)


def test_every_address_of_the_catalog_is_pinned_and_has_a_checksum():
    offered = [dataset.download for dataset in catalog.CATALOG.values() if dataset.download]
    assert len(offered) >= 8
    for address in offered:
        assert len(address.revision) == 40 and len(address.sha256) == 64
        assert int(address.revision, 16) and int(address.sha256, 16)


def test_without_a_terminal_the_licence_needs_the_option(hub, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("download", "biq2021") == 2
    assert "--accept-licence" in capsys.readouterr().err
    assert run("download", "biq2021", "--accept-licence") == 0
    assert "Licence: " in (said := capsys.readouterr().out) and "biq2021 is in " in said
