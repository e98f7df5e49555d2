"""Every test works in a folder of its own; the embedded data and the decoded images are built once."""

import os
import shutil
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # a core each: threads that wait for one another burn what the others need
    )


@pytest.fixture(scope="session")
def built_data(tmp_path_factory):
    from iqa_lib import paths
    from iqa_lib.data import catalog

    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", folder)
        for name in ("offline-wild-tiny", "offline-phone-tiny", "offline-lab-tiny"):
            catalog.load_table(name)
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
