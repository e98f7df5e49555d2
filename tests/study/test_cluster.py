"""Many processes, many machines: a run is trained once, a lost machine costs nothing, a fault is named."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from iqa_lib import paths
from iqa_lib.errors import RunError
from iqa_lib.profile import load_profile
from iqa_lib.study import cluster, experiments
from iqa_lib.training import runs
from iqa_lib.training.runs import claimed

TRAIN = [sys.executable, "-m", "iqa_lib", "train", "--profile", "smoke", "--experiment", "ablation"]
HOLD = """
import pathlib, sys, time
from iqa_lib.training.runs import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def threads_kept():
    """What a worker's share of the cores is to be: it stays in this process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    yield ray
    ray.shutdown()


def start(home, command):
    env = {**os.environ, "IQA_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def in_training(home):
    return list(home.glob("runs/smoke/store/*/state.pt"))


def predictions(settings):
    found = experiments.results(settings, "ablation", train_missing=False)
    return {label: run.predictions["prediction"].to_numpy() for label, (run,) in found.items()}


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_trains_what_one_process_does(ray, home, monkeypatch):
    """To the bit, so on processors: a GPU adds in another order each time."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    settings = load_profile("smoke", epochs=4, precision="float32")
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a loss is noticed
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
    machines = Cluster(initialize_head=True, head_node_args=head)
    lost = machines.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    begun = []

    def lose_a_node():
        while len(in_training(home)) < 2:  # each node is in the middle of a run
            time.sleep(0.02)
        begun.extend(in_training(home))
        machines.remove_node(lost, allow_graceful=False)

    threading.Thread(target=lose_a_node, daemon=True).start()
    try:
        cluster.train_on_ray(settings, ["ablation"])
    finally:
        machines.shutdown()
    assert len(begun) == 2
    of_the_cluster = predictions(settings)
    shutil.rmtree(home / "runs")
    training = start(home, [*TRAIN, "-p", "epochs=4", "precision=float32"])
    assert training.wait(timeout=180) == 0, training.communicate()
    alone = predictions(settings)
    assert len(alone) == 4 and alone.keys() == of_the_cluster.keys()
    for label in alone:
        np.testing.assert_array_equal(alone[label], of_the_cluster[label], label)


@pytest.mark.slow
def test_a_run_that_fails_on_the_cluster_is_named_and_the_others_are_trained(ray, home):
    settings = load_profile("smoke", epochs=1, backbone_base="no_such_model")
    with pytest.raises(RunError, match=r"1 of 2 runs failed\..*no_such_model.*Unknown backbone"):
        cluster.train_on_ray(settings, ["main", "cross_dataset"])
    assert list(experiments.results(settings, "main", train_missing=False)) == ["HyperIQA"]


@pytest.mark.slow
def test_ctrl_c_ends_the_cluster_and_what_it_trained_stays(ray, home):
    training = start(home, [*TRAIN, "--engine", "ray", "-p", "epochs=500"])
    while not in_training(home):
        assert training.poll() is None, training.communicate()
        time.sleep(0.05)
    for press in range(3):  # Ray's own threads now and then swallow the first
        os.killpg(training.pid, signal.SIGINT)  # as a terminal does: everyone hears it
        try:
            _, errors = training.communicate(timeout=30)
            break
        except subprocess.TimeoutExpired:
            assert press < 2
    assert training.returncode == 130
    assert "Interrupted." in errors and "Traceback" not in errors
    with claimed(in_training(home)[0].parent):
        pass  # its trainer is gone


def test_a_run_trained_on_another_disk_comes_back_whole(home, threads_kept):
    settings = load_profile("smoke", epochs=1)
    (run,) = cluster._missing(settings, ["training"], None)
    files, fault = cluster._train_there(settings, run.config["data_fingerprint"])
    assert fault is None and "state.pt" not in files
    there = run.predictions
    shutil.rmtree(home / "runs")
    cluster._store(run, files)
    assert run.complete and run.predictions.equals(there)
    assert run.load_model()


def test_other_data_on_the_clusters_machine_are_refused(home):
    files, fault = cluster._train_there(load_profile("smoke"), "another fingerprint")
    assert not files and "'offline-wild-tiny' differs on" in fault
    assert not paths.RUNS.exists()


def test_without_ray_its_installation_is_told(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'smart-iqa-workbook\[ray\]'"):
        cluster.train_on_ray(load_profile("smoke"), ["main"])


@pytest.mark.slow
def test_whoever_waits_for_a_run_is_told_for_whom(tmp_path, capsys):
    holder = start(tmp_path, [sys.executable, "-c", HOLD, str(tmp_path), "3"])
    holder.stdout.readline()
    with claimed(tmp_path):
        assert holder.wait(timeout=1) == 0
    assert re.search(rf"being worked on by process {holder.pid} on [^?]+: waiting", capsys.readouterr().err)


def test_the_claim_of_a_killed_process_holds_nobody_up(tmp_path):
    holder = start(tmp_path, [sys.executable, "-c", HOLD, str(tmp_path), "60"])
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with claimed(tmp_path):
        assert time.monotonic() - started < 2


def test_the_claim_of_a_silent_machine_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LEASE", 1.0)
    claim = tmp_path / ".claim"
    with claimed(tmp_path):
        told = claim.read_text()
    claim.write_text(re.sub(r"(?m)^host=.*", "host=elsewhere", told))
    started = time.monotonic()
    with claimed(tmp_path):
        assert 1 <= time.monotonic() - started < 2


def test_whoever_lost_its_claim_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LEASE", 0.3)
    with pytest.raises(RunError, match="another may have taken the run over"), claimed(tmp_path):
        for _ in range(1000):  # a loaded machine notices late
            (tmp_path / ".claim").unlink(missing_ok=True)  # again, where a sign of life was just being written
            time.sleep(0.05)
