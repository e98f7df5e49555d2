"""Processes to kill: forked from one that has imported everything, so a start costs no seconds.

They see no GPU: a forked process cannot use one, and only the processor gives the same bits twice.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import psutil

PRELOADED = [
    "iqa_lib.study.experiments",
    "iqa_lib.training.train",
    "iqa_lib.training.pretrain",
    "iqa_lib.workbook.runner",
    "iqa_lib.explorer.app",
]
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(PRELOADED)


def start(home: Path, work: Callable, *arguments) -> BaseProcess:
    """``work(*arguments)`` in a process of its own, in this workbook home."""
    process = forks.Process(target=_work, args=(home, work, arguments))
    with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):  # what the others are forked from reads it
        process.start()
    return process


def command(*arguments: str) -> int:
    """``python -m iqa_lib …``, for `start`."""
    from iqa_lib.__main__ import main

    return main(list(arguments))


def run_notebooks() -> int:
    """The profile ``tiny`` of the home, on the notebooks of the home; for `start`."""
    from iqa_lib import paths
    from iqa_lib.workbook import kernels

    paths.NOTEBOOKS = paths.HOME / "notebooks"
    kernels.IMPORTED = [name for name in kernels.IMPORTED if "iqa_lib" not in name]  # seconds, for what no page needs
    return command("run", "--profile", str(paths.HOME / "tiny.yaml"))


def finish(home: Path, work: Callable, *arguments, code: int = 0, seconds: float = 120) -> str:
    """As `start`, to its end; what it said."""
    process = start(home, work, *arguments)
    process.join(seconds)
    assert process.exitcode == code, said(home)
    return said(home)


def said(home: Path) -> str:
    return file.read_text() if (file := _told(home)).is_file() else ""


def _told(home: Path) -> Path:
    """Beside the home, whose disk may be full."""
    return home.with_name(f"{home.name}.told")


def bits(home, *patterns):
    """The content of every file that matches, by its path in the home."""
    files = [file for pattern in patterns for file in home.glob(pattern)]
    assert files
    return {str(file.relative_to(home)): file.read_bytes() for file in files}


def wait_for(condition, process=None, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end and (process is None or process.exitcode is None)
        time.sleep(0.01)
    return found


def kill_at_random(
    homes: Callable[[], Path], seconds: float, on_death: Callable[[Path], None], work: Callable, *arguments, kills=20
) -> list[Path]:
    """SIGKILL and start again, until ``kills`` have struck; what ends before is begun anew in the next home.

    Args:
        homes: makes the next home.
        seconds: the work takes undisturbed: every moment of it may be the one.

    Returns:
        The homes, in all of which the work has come to its end.
    """
    rng, worked, struck, fresh = random.Random(0), [homes()], 0, True
    while struck < kills:
        process, started = start(worked[-1], work, *arguments), time.monotonic()
        process.join(rng.uniform(0, seconds))
        if process.exitcode is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.join()
            psutil.wait_procs(children, 60)  # one that imports ends after that only, and would slow down the next start
            struck, fresh = struck + 1, False
            on_death(worked[-1])
        else:
            assert process.exitcode == 0, said(worked[-1])
            if fresh:  # the machine has become faster
                seconds = min(seconds, time.monotonic() - started)
            worked.append(homes())
            fresh = True
    finish(worked[-1], work, *arguments)
    return worked


def _work(home: Path, work: Callable, arguments: tuple) -> None:
    import torch

    from iqa_lib import machine, paths

    machine.native_bf16 = lambda on: False  # as in tests/conftest.py
    os.environ["IQA_HOME"] = str(home)
    os.environ.pop("IQA_PROGRESS_FILE", None)  # of a notebook whose kernel started what both are forked from
    for name, folder in {"HOME": "", "DATA": "data", "RUNS": "runs", "FIGURES": "figures"}.items():
        setattr(paths, name, home / folder)
    out = os.open(_told(home), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in a shell's background
    torch.set_num_threads(1)
    code = work(*arguments)
    sys.exit(code if isinstance(code, int) else 0)
