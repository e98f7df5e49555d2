"""Every test works in a folder of its own; the embedded data and the decoded images are built once."""

import os
import shutil
from pathlib import Path

import filelock
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a core each: threads that wait for one another burn what the others need


# Files that take longest, in that order: dealt out last, one of them would keep a single process busy at the end.
LONG = (
    "notebooks death explain cluster pretrain train scoring soak bench names_and_targets fuzz two_at_once browser disk "
    "statistics metrics numbers servers explorer features workbook"
)


def pytest_xdist_auto_num_workers():
    """One more than cores: much of the time goes into waiting, for kernels, browsers and processes to be killed."""
    return min((os.cpu_count() or 1) + 1, 4)


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session", autouse=True)
def auto_is_float32():
    """So that every test asks the same of every machine: `precision: auto` would be bf16 on some processors and GPUs.

    In this process; what a test compares with another process names its precision. Yields what was replaced.
    """
    from iqa_lib import machine

    native_bf16 = machine.native_bf16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "native_bf16", lambda on: False)
        patch.delenv("COLUMNS", raising=False)  # a pipe has no width; pytest-xdist's processes are given one
        yield native_bf16


@pytest.fixture(scope="session")
def built_data(tmp_path_factory):
    """The tiny embedded datasets; pytest-xdist's processes share them, for building takes seconds."""
    from iqa_lib import paths
    from iqa_lib.data import catalog

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "built"
    with filelock.FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", folder)
        for name in ("offline-wild-tiny", "offline-phone-tiny", "offline-lab-tiny"):
            catalog.load_table(name)  # one that is there already is only read
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, built_data):
    """An empty workbook home with the tiny embedded datasets in place."""
    from iqa_lib import paths

    monkeypatch.setenv("IQA_HOME", str(tmp_path))
    for name, folder in {"HOME": "", "DATA": "data", "RUNS": "runs", "FIGURES": "figures"}.items():
        monkeypatch.setattr(paths, name, tmp_path / folder)
    shutil.copytree(built_data, tmp_path / "data")
    return tmp_path


@pytest.fixture(scope="session")
def shared_data():
    """Published datasets (BIQ2021, LIVE In the Wild, label files) beside the checkout; they are never part of it."""
    import iqa_lib

    folder = Path(iqa_lib.__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the published datasets are not here: ../shared/data, beside the checkout, is absent")
    return folder
