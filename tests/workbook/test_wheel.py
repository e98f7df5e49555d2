"""The wheel works by itself: built from a copy of the checkout, unpacked elsewhere, used in a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from skimage import data as photographs
from skimage import io

from iqa_lib import paths

pytestmark = pytest.mark.slow
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As `pip install --no-deps --target`, which not every environment has."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for part in ("iqa_lib", "notebooks", "docs", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (paths.CHECKOUT / part).is_dir() else shutil.copy
        copy(paths.CHECKOUT / part, source / part)
    done = subprocess.run([sys.executable, "-c", BUILD, built], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "would be ignored" not in done.stderr  # folders of data that are no package to setuptools
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


@pytest.fixture
def command(site, tmp_path, built_data, monkeypatch):
    """``python -m iqa_lib`` of the installed package, in an empty folder with the tiny datasets."""
    monkeypatch.delenv("IQA_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built_data, tmp_path / "data")

    def call(*arguments, module="iqa_lib", **options):
        done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, **options)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def test_a_photograph_is_scored_and_doctor_says_what_is_installed(command, tmp_path):
    io.imsave(tmp_path / "photo.png", photographs.astronaut())
    done = command("score", "photo.png", "--json")
    (row,) = json.loads(done.stdout)
    assert done.returncode == 0 and 60 < row["score"] < 100
    assert "installed package" in command("doctor").stdout


def test_a_notebook_runs_from_the_package_and_from_a_copy_of_it_by_hand(command, tmp_path):
    done = command("run", "--profile", "smoke", "--only", "01_train")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "runs/smoke/report.html").is_file()
    (first,) = (tmp_path / "runs/smoke/store").iterdir()
    assert "none (an installed package)" in (first / "environment.json").read_text()

    assert command("notebooks").returncode == 0
    own = tmp_path / "notebooks"
    with open(own / "profiles/smoke.yaml", "a", encoding="utf-8") as profile:
        profile.write("weight_decay: 0.5\n")
    by_hand = ["01_train.ipynb", os.devnull, "-p", "profile", "smoke", "-k", "python3"]
    done = command(*by_hand, module="papermill", cwd=own)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/smoke/store").iterdir())) == 2  # by the changed profile, in the same folder


def test_the_published_study_is_part_of_the_package(command):
    done = command("repeat", "-p", "seed=-1")
    assert done.returncode == 2 and "seed: -1 is not allowed" in done.stderr
