"""Many processes, many machines: a run is trained once, a lost machine costs nothing, a fault is named."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from iqa_lib import experiments
from iqa_lib.errors import RunError
from iqa_lib.profile import load_profile
from iqa_lib.runs import claimed

TRAIN = [sys.executable, "-m", "iqa_lib", "train", "--profile", "smoke", "--experiment", "ablation"]
HOLD = "import sys, time, pathlib; from iqa_lib.runs import claimed\n"


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    pytest.importorskip("ray.cluster_utils")
    return ray


def run_elsewhere(home, command, **environment):
    environment = {**os.environ, "IQA_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_trains_what_one_process_does(ray, home, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    try:
        driver = run_elsewhere(home, [*TRAIN, "--engine", "ray"], RAY_ADDRESS=cluster.address)
        while (
            len(list(home.glob("runs/smoke/store/*/state.pt"))) < 2
        ):  # both nodes are in the middle of a run
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.02)
        cluster.remove_node(lost, allow_graceful=False)
        said, errors = driver.communicate(timeout=180)
        assert driver.returncode == 0, errors
    finally:
        cluster.shutdown()
    scores = re.findall(r"^ablation: .*", said, re.MULTILINE)  # Ray tells of the lost node between them
    assert len(scores) == 4
    alone = tmp_path / "alone"
    os.symlink(home / "data", alone.mkdir() or alone / "data")
    plain = run_elsewhere(alone, TRAIN)
    assert plain.communicate(timeout=180)[0].splitlines() == scores
    for one, other in zip(stored(home), stored(alone), strict=True):
        np.testing.assert_array_equal(one, other)


def stored(home):
    import pandas as pd

    files = sorted(home.glob("runs/smoke/store/*/predictions.parquet"))
    assert len(files) == 4
    return [pd.read_parquet(file)["prediction"].to_numpy() for file in files]


@pytest.mark.slow
def test_a_run_that_fails_on_the_cluster_is_named_and_the_others_are_trained(ray, home, monkeypatch):
    from iqa_lib.cluster import train_on_ray

    settings = load_profile("smoke", epochs=1, backbone_hyper_iqa="resnet50", backbone_base="no_such_model")
    with pytest.raises(RunError, match=r"1 of 2 runs failed\..*no_such_model.*Unknown backbone"):
        train_on_ray(settings, ["main"])
    assert list(experiments.results(settings, "main", train_missing=False)) == ["HyperIQA"]


@pytest.mark.slow
def test_two_processes_that_want_the_same_run_train_it_once(home):
    both = [run_elsewhere(home, [*TRAIN, "--run", "+ AFA"]) for _ in range(2)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    (log,) = home.glob("runs/smoke/store/*/epochs.jsonl")
    assert len(log.read_text().splitlines()) == 2
    assert sum("train: epoch" in errors for _, errors in said) == 1


def test_whoever_waits_for_a_run_is_told_for_whom(tmp_path, capsys):
    holder = run_elsewhere(
        tmp_path,
        [
            sys.executable,
            "-c",
            HOLD + "with claimed(pathlib.Path(sys.argv[1])): print(1, flush=True); time.sleep(4)",
            str(tmp_path),
        ],
    )
    holder.stdout.readline()
    with claimed(tmp_path):
        assert holder.wait(timeout=20) == 0
    assert f"is being worked on by process {holder.pid} on" in capsys.readouterr().err


def test_the_claim_of_a_killed_process_holds_nobody_up(tmp_path):
    holder = run_elsewhere(
        tmp_path,
        [
            sys.executable,
            "-c",
            HOLD + "with claimed(pathlib.Path(sys.argv[1])): print(1, flush=True); time.sleep(60)",
            str(tmp_path),
        ],
    )
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with claimed(tmp_path):
        assert time.monotonic() - started < 2
