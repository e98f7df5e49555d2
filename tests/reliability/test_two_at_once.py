"""Two at once: one works, the other waits or says so, and whoever reads meanwhile reads whole files."""

import json
import re

import pytest
import torch
from elsewhere import bits, command, finish, run_notebooks, said, start, wait_for
from tiny_study import Study

from iqa_lib import paths
from iqa_lib.data.images import load_images
from iqa_lib.profile import load_profile
from iqa_lib.training.runs import Run

ROUNDS = 3
STORED = [f"runs/smoke/store/*/{name}" for name in ("predictions.parquet", "model.safetensors", "result.json")]
TRAIN = ("train", "--profile", "smoke", "--experiment", "training", "-p", "epochs=4", "freeze_backbone=true")


def together(home, count, work, *arguments):
    """Start so many at once; their exit codes."""
    processes = [start(home, work, *arguments) for _ in range(count)]
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_trainings_of_one_run(record, homes):
    """Three want the same run, and before it the same images and the same features."""
    alone = homes()
    finish(alone, command, *TRAIN)
    for _ in range(ROUNDS):
        home = homes()
        assert together(home, 3, command, *TRAIN) == [0, 0, 0], said(home)
        assert said(home).count("train: epoch 1/4:   0%") == 1
        assert said(home).count("features: training crops:   0%") == 1
        assert len(re.findall(r"training: the profile's run: test SRCC \S+", said(home))) == 3
        assert bits(home, *STORED) == bits(alone, *STORED)
    record("three trainings of one run", "started at once: one trains, two wait and read its result", 3 * ROUNDS)


def test_runs_of_one_profile(record, tmp_path):
    outcomes = []
    for number in range(ROUNDS):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "tiny.yaml").write_text("profile: tiny\ndataset: none\nbackbone: none\n")
        study = Study(home)
        (home / "notebooks").mkdir()
        study.write("01_page", "open(os.environ['IQA_HOME'] + '/cells', 'a').write('x')", "record('01_page')")
        outcomes += [sorted(together(home, 2, run_notebooks))]
        refused = "error: another run of profile 'tiny' is under way\n"
        assert outcomes[-1] == [0, 2] and said(home).count(refused) == 1, said(home)
        assert (home / "cells").read_text() == "x"
        assert json.loads((home / "runs/tiny/results/01_page.json").read_text())["headline"] == "fine"
    record("two runs of one profile", "started at once: one works, the other says so and ends with 2", 2 * ROUNDS)


@pytest.fixture
def watched(homes, monkeypatch):
    """A home that this process looks into, too."""
    home = homes()
    for name in ("DATA", "RUNS", "FIGURES"):
        monkeypatch.setattr(paths, name, home / name.lower())
    return home


def train_whole(epochs):
    return command("train", "--profile", "smoke", "--experiment", "training", "-p", f"epochs={epochs}")


def test_a_reader_while_a_writer_works(record, watched):
    epochs, seen, reads = 6, [], 0
    settings = load_profile("smoke", epochs=epochs)
    run = Run(settings, load_images(settings).fingerprint)
    writer = start(watched, train_whole, epochs)
    wait_for((run.folder / "epochs.jsonl").is_file, writer)
    while writer.exitcode is None:
        complete = run.complete
        seen.append(len(run.epochs))
        parameters = [p for p in run.load_model().parameters()]
        assert all(torch.isfinite(p).all() for p in parameters)
        if complete:
            assert set(run.predictions["split"]) == {"val", "test"} and run.result["epochs"] == epochs
        state = run.folder / "state.pt"
        try:
            assert len(torch.load(state, weights_only=True)["epochs"]) <= epochs
        except FileNotFoundError:
            assert run.complete or seen[-1] == 1
        reads += 1
    assert writer.exitcode == 0, said(watched)
    assert seen == sorted(seen) and seen[0] < epochs and run.complete
    record("a reader while a writer works", "epochs, weights, checkpoint and results read all the time", reads)
