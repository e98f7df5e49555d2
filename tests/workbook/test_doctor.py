"""What a bug report needs, on a computer that is well and on one that is not; and computers that are not at hand."""

import argparse
import ast
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from unittest.mock import MagicMock

import nbformat
import pytest
import torch
import yaml

from iqa_lib import __main__, machine, paths
from iqa_lib.data.images import load_images
from iqa_lib.errors import CheckpointError
from iqa_lib.models import hypernet
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.profile import load_profile
from iqa_lib.scoring.metric import Metric
from iqa_lib.study import complexity
from iqa_lib.study.maps import stage_statistics
from iqa_lib.training.loop import build_model
from iqa_lib.training.predictor import Predictor
from iqa_lib.workbook import doctor


def test_a_computer_that_is_well(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM", 0)
    assert __main__.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in said and "nothing is wrong" in said


def test_each_fault_is_named_with_what_to_do(home, capsys, monkeypatch):
    def lost():
        raise CheckpointError("model.safetensors is absent: install the package again.")

    monkeypatch.setattr(SmartIQA, "default", lost)
    monkeypatch.setattr(doctor, "ROOM", 10**18)
    (home / "data" / "koniq10k").mkdir(parents=True)
    (home / "data" / "koniq10k" / "koniq10k_distributions_sets.csv").write_text("nothing\n")
    assert __main__.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "folder: make room" in said and "default model: model.safetensors" in said
    assert "datasets: python -m iqa_lib data check koniq10k" in said


def test_an_installation_without_torch_still_reports():
    """What is broken may be what every other module imports."""
    code = "import sys; sys.modules['torch'] = None; from iqa_lib.__main__ import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.CHECKOUT)
    assert done.returncode == 1 and not done.stderr
    assert "torchvision: pip install --force-reinstall torch torchvision" in done.stdout
    assert "(import of torch halted" in done.stdout and "│ folder" in done.stdout


def test_a_package_that_is_too_old_or_absent_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["numpy>=99", "torch>=2", "lost_one>=1", 'ray>=9; extra == "ray"']
    )
    assert doctor._packages()[1] == "pip install 'numpy>=99' 'lost_one>=1'"


def test_a_torchvision_of_another_torch_is_named_with_the_command(monkeypatch):
    """Met with torch from the index of CPU wheels and torchvision from PyPI."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert doctor._torchvision()[1].startswith("pip install --force-reinstall torch torchvision, both from one index")


@pytest.mark.parametrize(("built", "said"), [(None, "built without CUDA"), ("13.0", "too old for torch's CUDA 13.0")])
def test_a_card_that_torch_does_not_use_is_explained(monkeypatch, built, said):
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", built)
    assert said in doctor._device()[1]


def test_a_home_that_is_not_there_yet_is_fine_and_one_that_cannot_be_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM", 0)
    monkeypatch.setattr(paths, "HOME", tmp_path / "new" / "home")
    assert doctor._folder()[1] == ""
    (tmp_path / "new").write_text("")
    monkeypatch.setattr(doctor, "CHECKS", [doctor._folder])
    ((_, found, advice),) = doctor.examine()
    assert found == advice and "new" in advice and "Set IQA_HOME" in advice


@pytest.mark.parametrize(("python", "wrong"), [("python", False), (sys.executable, False), ("/other/python3", True)])
def test_a_kernel_of_another_python_is_named(tmp_path, monkeypatch, python, wrong):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": [python, "-m", "ipykernel_launcher"], "display_name": "x"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found, advice = doctor._kernel()
    assert found == str(folder) and ("python -m ipykernel install" in advice) is wrong


def test_a_check_that_breaks_spares_the_others(monkeypatch):
    def _kernel():
        raise ImportError("no jupyter_client")

    monkeypatch.setattr(doctor, "CHECKS", (_kernel, doctor._python))
    (kernel, found, advice), (python, _, fine) = doctor.examine()
    assert (kernel, found) == ("kernel", "no jupyter_client") and "install again" in advice
    assert python == "python" and not fine


# --- installed ---


def test_the_wheel_lists_every_package_and_conda_what_pip_installs():
    settings = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())
    files = [f for f in paths.CHECKOUT.glob("iqa_lib/**/*") if f.is_file() and f.suffix != ".pyc"]
    packages = {".".join(f.parent.relative_to(paths.CHECKOUT).parts) for f in files}
    beside = {"iqa_lib.notebooks", "iqa_lib.notebooks.profiles", "iqa_lib.published_study"}
    assert {*settings["tool"]["setuptools"]["packages"]} == packages | beside
    conda = yaml.safe_load((paths.CHECKOUT / "environment.yml").read_text())["dependencies"]
    assert conda[-1] == {"pip": ["-e .[dev]"]}
    assert f"python{settings['project']['requires-python']}" in conda


def test_the_lock_has_every_dependency_and_public_addresses_alone():
    lock = tomllib.loads((paths.CHECKOUT / "uv.lock").read_text())
    locked = {package["name"]: package for package in lock["package"]}
    wanted = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {w.partition(">")[0].partition("<")[0].strip().replace("_", "-") for w in wanted}
    assert names <= locked.keys()
    own = locked.pop("smart-iqa-workbook")["metadata"]["requires-dist"]
    assert {f"{d['name']}{d['specifier']}".replace("_", "-") for d in own if "extra" not in d.get("marker", "")} == {
        w.replace("_", "-") for w in wanted
    }, "renew it: uv lock"
    assert {package["source"]["registry"] for package in locked.values()} == {"https://pypi.org/simple"}


def test_an_installed_package_works_in_the_folder_it_is_started_in(tmp_path, monkeypatch):
    """As if iqa_lib lay in site-packages, with the notebooks inside and no checkout around."""
    site = tmp_path / "site" / "iqa_lib"
    (site / "notebooks").mkdir(parents=True)
    for name in ("paths.py", "errors.py"):
        (site / name).write_text((paths.CHECKOUT / "iqa_lib" / name).read_text())
    spec = importlib.util.spec_from_file_location("installed_paths", site / "paths.py")
    own = tmp_path / "notebooks"
    for started_in, notebooks in ((tmp_path, site / "notebooks"), (tmp_path, own), (own, own)):
        monkeypatch.delenv("IQA_HOME", raising=False)
        monkeypatch.chdir(started_in)
        installed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(installed)
        assert (tmp_path / "runs", tmp_path / "data") == (installed.RUNS, installed.DATA)
        assert notebooks == installed.NOTEBOOKS
        (own / "profiles").mkdir(parents=True, exist_ok=True)


def test_notebooks_of_ones_own_are_copied_once(home, capsys):
    assert __main__.main(["notebooks"]) == 0
    assert len(list((home / "notebooks").glob("*.ipynb"))) == 13 and (home / "notebooks/profiles/demo.yaml").is_file()
    assert __main__.main(["notebooks"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_every_job_of_the_workflow_installs_its_versions_and_runs_the_tests(tmp_path):
    """With a python3 that makes environments in which every command only says how it was called."""
    workflow = yaml.safe_load((paths.CHECKOUT / ".github/workflows/drift.yml").read_text())
    python3 = tmp_path / "python3"
    python3.write_text(
        "#!/bin/sh\nmkdir -p $3/bin\nfor name in pip uv python; do\n"
        "printf '#!/bin/sh\\necho $(basename $0) $*\\n[ \"$1\" != venv ] || python3 -m venv $3\\n' > $3/bin/$name\n"
        "chmod +x $3/bin/$name\ndone\n"
    )
    python3.chmod(0o755)
    wanted = {"highest": "uv pip install .*highest", "lowest-direct": "uv pip install .*lowest-direct"}
    wanted["locked"] = "uv sync .*--locked"
    jobs = workflow["jobs"]["drift"]["strategy"]["matrix"]["include"]
    assert {job["versions"] for job in jobs} == wanted.keys()
    for versions, command in wanted.items():
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            [paths.CHECKOUT / ".ci/drift", versions], capture_output=True, text=True, env={"PATH": path}
        )
        assert done.returncode == 0, done.stderr
        assert re.search(f"{command}(.*\n)+python -m pytest", done.stdout), done.stdout


# --- Colab, as far as it can be tried without it ---


@pytest.mark.parametrize("notebook", sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_installs_the_package_on_colab_and_nowhere_else(notebook):
    repository = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    cells = nbformat.read(notebook, 4).cells
    name = repository.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{notebook.name}"
    assert f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})" in cells[0].source
    first, *_ = next(c.source for c in cells if "iqa_lib" in c.source and c.cell_type == "code").splitlines()
    assert "iqa_lib" not in first
    for shell, commands in (
        ("<google.colab._shell.Shell object at 0x7>", [f"pip install -q git+{repository}"]),
        ("<ipykernel.zmqshell.ZMQInteractiveShell object at 0x7>", []),
    ):
        of_kernel = MagicMock(__str__=lambda _, shell=shell: shell)
        exec(first, {"get_ipython": lambda of_kernel=of_kernel: of_kernel})
        assert [call.args[0] for call in of_kernel.system.call_args_list] == commands


# --- Windows, as far as it can be tried without it ---

UNIX = {"crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def test_no_module_or_test_needs_what_windows_lacks():
    for file in (*(paths.CHECKOUT / "iqa_lib").rglob("*.py"), *(paths.CHECKOUT / "tests").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not UNIX.intersection(names), file


def test_files_are_synced_as_windows_allows_it(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def windows(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY, "EBADF"
        synced.append(descriptor)

    synced = []
    monkeypatch.setattr(os, "fsync", windows)
    paths.write_atomically(tmp_path / "file", "text")
    assert synced and (tmp_path / "file").read_text() == "text"


def test_memory_is_measured_without_the_unix_module(monkeypatch):
    class Process:
        def memory_info(self):
            return argparse.Namespace(peak_wset=3e9)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(complexity.Path, "exists", lambda _: False)
    monkeypatch.setattr(complexity.psutil, "Process", Process)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert complexity._peak_memory() == 3


# --- a Mac, as far as it can be tried without one ---


def test_a_mac_uses_its_gpu_in_float32_and_falls_back_to_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.device() == torch.device("mps")
    assert machine.used_precision("auto") == "float32" and "Apple" in machine.description()
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_pooling_that_a_macs_gpu_refuses_is_done_on_the_processor(monkeypatch):
    maps = torch.rand(1, 2, 9, 9)
    expected = hypernet._pool(maps, 7)

    class OnMps(torch.Tensor):
        is_mps = True
        asked = 0

        def cpu(self):
            OnMps.asked += 1
            return self.as_subclass(torch.Tensor)

    assert torch.equal(hypernet._pool(maps.as_subclass(OnMps), 7), expected) and OnMps.asked == 1
    hypernet._pool(torch.rand(1, 2, 14, 14).as_subclass(OnMps), 7)
    assert OnMps.asked == 1


def test_no_number_becomes_float64_on_a_macs_gpu(home, monkeypatch):
    """Which has none: it is brought to the processor first."""
    settings = load_profile("smoke")
    model, images = build_model(settings), load_images(settings)
    brought, to_cpu, to_double = [], torch.Tensor.cpu, torch.Tensor.double

    def cpu(tensor):
        brought.append(to_cpu(tensor))
        return brought[-1]

    def double(tensor):
        assert any(tensor is other for other in brought), "Cannot convert a MPS Tensor to float64 dtype"
        return to_double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
    metric = Metric(Predictor(settings, model, "mine"))
    metric.update(torch.rand(2, 3, settings.crop_size, settings.crop_size))
    assert metric.compute().isfinite()
    assert len(stage_statistics(settings, model, images, images.rows("test")[:2])) == 8
