"""What a bug report needs, on a computer that is well and on one that is not; and computers that are not at hand."""

import importlib
import tomllib

import torch
import yaml

from iqa_lib import __main__, machine, paths
from iqa_lib.errors import CheckpointError
from iqa_lib.models import hypernet
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.workbook import doctor


def test_a_computer_that_is_well(home, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM", 0)
    assert __main__.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in said and "nothing is wrong" in said


def test_each_fault_is_named_with_what_to_do(home, capsys, monkeypatch):
    def lost():
        raise CheckpointError("default_head.safetensors is absent: install the package again.")

    monkeypatch.setattr(SmartIQA, "default", lost)
    monkeypatch.setattr(doctor, "ROOM", 10**18)
    (home / "data" / "koniq10k").mkdir(parents=True)
    (home / "data" / "koniq10k" / "koniq10k_distributions_sets.csv").write_text("nothing\n")
    assert __main__.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "folder: make room" in said and "default model: default_head" in said
    assert "datasets: python -m iqa_lib data check koniq10k" in said


def test_a_check_that_breaks_spares_the_others(monkeypatch):
    def _kernel():
        raise ImportError("no jupyter_client")

    monkeypatch.setattr(doctor, "CHECKS", (_kernel, doctor._python))
    (kernel, found, advice), (python, _, fine) = doctor.examine()
    assert (kernel, found) == ("kernel", "no jupyter_client") and "pip install" in advice
    assert python == "python" and not fine


# --- installed ---


def test_the_wheel_lists_every_package_and_conda_what_pip_installs():
    settings = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())
    packages = {".".join(f.parent.relative_to(paths.CHECKOUT).parts) for f in paths.CHECKOUT.glob("iqa_lib/**/*.py")}
    assert {*settings["tool"]["setuptools"]["packages"]} == packages | {"iqa_lib.notebooks"}
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
    monkeypatch.chdir(tmp_path)
    for own in (False, True):
        monkeypatch.delenv("IQA_HOME", raising=False)
        installed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(installed)
        assert (tmp_path / "runs", tmp_path / "data") == (installed.RUNS, installed.DATA)
        assert (tmp_path / "notebooks" if own else site / "notebooks") == installed.NOTEBOOKS
        (tmp_path / "notebooks").mkdir(exist_ok=True)


def test_notebooks_of_ones_own_are_copied_once(home, capsys):
    assert __main__.main(["notebooks"]) == 0
    assert len(list((home / "notebooks").glob("*.ipynb"))) == 12 and (home / "notebooks/profiles/demo.yaml").is_file()
    assert __main__.main(["notebooks"]) == 2
    assert "is there already" in capsys.readouterr().err


# --- a Mac, as far as it can be tried without one ---


def test_a_mac_uses_its_gpu_in_float32_and_falls_back_to_the_processor(monkeypatch):
    import os

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
