"""A disk that is full, read-only, gone or slow: told with the way out; what was finished is whole and goes on."""

import os
import shutil
import subprocess
import time

import pandas as pd
import pytest
import torch
from elsewhere import bits, command, finish, said, start, wait_for

from iqa_lib import paths

resource = pytest.importorskip("resource")  # Windows lacks it
TRAIN = ("train", "--profile", "smoke", "--experiment", "training", "-p", "epochs=4")
STORED = [f"runs/smoke/store/*/{name}" for name in ("predictions.parquet", "model.safetensors", "result.json")]
MB = 1 << 20


@pytest.fixture
def small_disk(tmp_path, homes):
    """A home that is a file system of its own, 128 MB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    shutil.copytree(homes() / "data", folder / "data")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, built_data):
    """A home where the training with these options came to its end, once for all tests."""
    done = {}

    def of(*options):
        if options not in done:
            done[options] = tmp_path_factory.mktemp("undisturbed") / "home"
            shutil.copytree(built_data, done[options] / "data")
            finish(done[options], command, *TRAIN, *options)
        return done[options]

    return of


def store_of(home):
    (run,) = home.glob("runs/smoke/store/*")
    return run


# --- full -------------------------------------------------------------------------------------------------


def fill(folder, room):
    """Leave so many bytes."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MB))
        except OSError:
            pass
        file.truncate(file.seek(0, os.SEEK_END) - room)


def train_on_a_disk_that_fills(writer, room):
    """It fills when ``writer`` ("module.function", and the how-manieth call) is about to write."""
    import importlib

    path, call = writer
    module, _, name = path.rpartition(".")
    module, calls = importlib.import_module(f"iqa_lib.{module}"), []
    write = getattr(module, name)

    def fills(*arguments, **named):
        calls.append(1)
        if len(calls) == call:
            fill(paths.HOME, room)
        return write(*arguments, **named)

    setattr(module, name, fills)
    return command(*TRAIN)


FILLS = {
    "the checkpoint": (("training.train.save_state", 3), MB),
    "the weights": (("training.train._save_model", 1), MB),
    "the results": (("training.train._finish", 1), 0),
    "the decoded images": (("data.images.in_order", 1), 400_000),
}


@pytest.mark.parametrize("what", FILLS)
def test_a_disk_that_fills_while_it_writes(record, undisturbed, small_disk, what):
    finish(small_disk, train_on_a_disk_that_fills, *FILLS[what], code=2)
    told = said(small_disk).splitlines()[-1]
    assert told.startswith(f"error: {small_disk}") and "Traceback" not in said(small_disk)
    assert "cannot be written: " in told and "Make room, or set IQA_HOME" in told
    assert not list(small_disk.glob("runs/smoke/store/*/.*.tmp"))
    if what == "the checkpoint":
        assert len(torch.load(store_of(small_disk) / "state.pt", weights_only=True)["epochs"]) == 2
    (small_disk / "filler").unlink()
    told = finish(small_disk, command, *TRAIN)
    if what in ("the checkpoint", "the results"):
        begun = 3 if what == "the checkpoint" else 5
        assert [told.count(f"train: epoch {epoch}/4:   0%") for epoch in (1, 2)] == [1, 1], f"goes on at {begun}"
    assert bits(small_disk, *STORED) == bits(undisturbed(), *STORED)
    record(f"disk full: {what}", "a tmpfs fills in mid-write; room is made, started again", 1)


def test_a_disk_without_room_for_a_feature_cache(record, undisturbed, small_disk):
    """It is smaller than what the cache leaves free: training does without, and says so."""
    frozen = "freeze_backbone=true"
    told = finish(small_disk, command, *TRAIN, frozen)
    assert told.count(f"No features are kept in {small_disk / 'data/cache'} (") == 1
    assert not any(rows.stat().st_size for rows in small_disk.glob("data/cache/features-*/rows.f16"))
    found, expected = (
        pd.read_parquet(store_of(home) / "predictions.parquet") for home in (small_disk, undisturbed(frozen))
    )
    pd.testing.assert_frame_equal(found, expected, atol=0.02)
    apart = (found["prediction"] - expected["prediction"]).abs().max()
    record(
        "disk full: the feature cache",
        "a tmpfs too small for it; trained without, and said so",
        1,
        f"nothing: scores within {apart:.3f} points (allowed: 0.02)",
    )


def train_with_small_files(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return command(*TRAIN)


def test_a_file_that_may_not_grow(record, homes, undisturbed):
    """A quota, as far as it can be had without being root."""
    home = homes()
    finish(home, train_with_small_files, 12 * MB, code=2)  # the weights fit, the checkpoint does not
    assert f"error: {store_of(home)} cannot be written: File too large. Make room" in said(home)
    assert not (store_of(home) / "state.pt").exists() and not list(store_of(home).glob(".*.tmp"))
    finish(home, command, *TRAIN)
    assert bits(home, *STORED) == bits(undisturbed(), *STORED)
    record("quota: the checkpoint", "a limit on the size of files; lifted, started again", 1)


# --- read-only, gone, slow --------------------------------------------------------------------------------


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


COMMANDS = {
    "train": TRAIN,
    "prepare": ("data", "prepare", "offline-wild-tiny", "--profile", "smoke"),
    "run": ("run", "--profile", "smoke", "--only", "00_data"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_read_only_folder(record, small_disk, what):
    remount(small_disk, "ro")
    try:
        finish(small_disk, command, *COMMANDS[what], code=2)
    finally:
        remount(small_disk, "rw")
    (told,) = said(small_disk).splitlines()
    assert "cannot be written: Read-only file system. Give yourself the right to write there, or set IQA_HOME" in told
    assert f"error: {small_disk}" in told
    record(f"read-only folder: {what}", "one line says which folder, and the way out", 1)


DELETIONS = 6


def test_a_folder_that_is_deleted_under_way(record, homes, undisturbed):
    expected, lost = undisturbed(), []
    for number in range(DELETIONS):
        home = homes()
        process = start(home, command, *TRAIN)
        wait_for(lambda home=home: list(home.glob("runs/smoke/store/*/state.pt")), process)
        time.sleep(0.05 * number)
        shutil.rmtree(home / "runs", ignore_errors=True)
        process.join(60)
        assert process.exitcode in (0, 2), said(home)
        if process.exitcode:
            last = said(home).splitlines()[-1]
            assert last.startswith("error: ") and (
                "was deleted" in last or "moved or deleted" in last or "Start it again" in last
            )
            finish(home, command, *TRAIN)
        lost.append(process.exitcode != 0)
        assert bits(home, *STORED) == bits(expected, *STORED)
    record(
        "run folder deleted under way",
        "rm -r runs while it trains; started again where it stopped",
        DELETIONS,
        f"what was deleted; {sum(lost)} runs had to be started again",
    )


def train_on_a_slow_disk():
    from iqa_lib.training import runs

    sync, runs.LEASE = paths.sync, 3.0
    paths.sync = lambda path: (time.sleep(4 if "state.pt" in path.name else 0), sync(path))
    return command(*TRAIN, "epochs=2")


def train_at_the_same_time():
    from iqa_lib.training import runs

    runs.LEASE = 3.0
    return command(*TRAIN, "epochs=2")


def test_a_slow_disk(record, homes, undisturbed):
    """Writing takes longer than a claim lasts without a sign of life: it is kept all the same."""
    home = homes()
    slow = start(home, train_on_a_slow_disk)
    wait_for(lambda: list(home.glob("runs/smoke/store/*/epochs.jsonl")), slow)
    waiting = start(home, train_at_the_same_time)
    for process in (slow, waiting):
        process.join(60)
        assert process.exitcode == 0, said(home)
    assert said(home).count("train: epoch 1/2:   0%") == 1 and "waiting for it" in said(home)
    assert bits(home, *STORED) == bits(undisturbed("epochs=2"), *STORED)
    record("slow disk", "a checkpoint takes 4 s to write, a claim lasts 3 s; another process wants the run", 1)
