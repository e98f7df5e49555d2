"""Kernels that die or never end hold up only what needs them; servers speak to this machine alone, with a token."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from elsewhere import finish, run_notebooks, wait_for
from tiny_study import Study

from iqa_lib import paths

PID = "open(os.environ['IQA_HOME'] + '/pid', 'w').write(str(os.getpid()))"
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
TOO_MUCH = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36)); bytearray(1 << 37)"


def test_kernels_that_die_hang_or_run_out_of_memory(record, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tiny.yaml").write_text("profile: tiny\ndataset: none\nbackbone: none\ncell_timeout: 5\n")
    study = Study(tmp_path)
    study.write("01_killed", f"os.kill(os.getpid(), {signal.SIGKILL})", "record('01_killed')")
    study.write("02_endless", PID, DEAF, "record('02_endless')")
    study.write("03_memory", TOO_MUCH, "record('03_memory')")
    study.write("04_needs_it", "record('04_needs_it')", needs=["02_endless"])
    study.write("05_free", "record('05_free')")
    told = finish(tmp_path, run_notebooks, code=1)
    assert "01_killed failed at cell 4/5: DeadKernel: the kernel died (out of memory?)" in told
    assert "02_endless failed at cell 5/6: CellTimeout: it took more than 5 s and was stopped (cell_timeout" in told
    assert re.search(r"03_memory failed at cell 4/5 .*MemoryError", told)
    assert "04_needs_it: not run (needs 02_endless)" in told and "05_free: done" in told
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    report = (tmp_path / "runs/tiny/report.html").read_text()
    assert "DeadKernel" in report and "CellTimeout" in report and "MemoryError" in report
    record("notebooks", "kernel killed; a cell that never ends, deaf to interrupts; no memory", 3, "what needs them")


@pytest.fixture
def server(request, tmp_path):
    """``make lab`` or ``make app``, started for real in a copy of the notebooks; its process and its log."""
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(paths.CHECKOUT / name, tmp_path)
    settings = tmp_path / "settings"
    settings.mkdir()
    for app, also in (("jupyter_server", "c.ServerApp.allow_root = True\n"), ("voila", "")):
        quiet = "c.ServerApp.open_browser = False\nc.Voila.open_browser = False\n"
        (settings / f"{app}_config.py").write_text(quiet + also)
    command = ["make", "-o", ".venv/ready", f"BIN={Path(sys.executable).parent}", "PROFILE=smoke", request.param]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(settings),
        "IQA_HOME": str(tmp_path),
        "PYTHONPATH": str(paths.CHECKOUT),
        "BROWSER": "true",
    }
    log = tmp_path / "log.txt"
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    yield process, log
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def status_of(address):
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.url
    except urllib.error.HTTPError as error:
        return error.code, error.url


@pytest.mark.parametrize("server", ["lab", "app"], indirect=True)
def test_servers_listen_on_loopback_with_a_token(record, server, request):
    process, log = server
    found = wait_for(
        lambda: process.poll() is None and re.search(r"http://127\.0\.0\.1:(\d+)/\S*?token=(\w+)", log.read_text())
    )
    port, token = found.groups()
    assert len(token) >= 32
    time.sleep(1)
    listening = []
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a short-lived child
            listening += [c.laddr for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and {place.ip for place in listening} <= {"127.0.0.1", "::1"}
    assert int(port) in {place.port for place in listening}

    root = f"http://127.0.0.1:{port}"
    name = request.node.callspec.params["server"]
    secrets = (
        ["/api/contents", "/api/kernels", "/files/01_train.ipynb", "/"] if name == "lab" else ["/", "/api/kernels"]
    )
    for path in secrets:
        for query in ("", "?token=", f"?token={'0' * len(token)}"):
            status, where = status_of(root + path + query)
            assert status in (401, 403, 404) or "/login" in where, f"{path}{query} was answered"
    if name == "lab":
        assert status_of(f"{root}/api/contents?token={token}")[0] == 200
    record(
        f"make {name}",
        "sockets listed; pages asked for with no token, an empty and a wrong one",
        3 * len(secrets),
        "nothing: all refused",
    )
