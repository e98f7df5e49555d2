"""What the machine can do, and what `precision` makes of it: said once, written down, the same run everywhere."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

from iqa_lib import machine
from iqa_lib.data.images import load_images
from iqa_lib.errors import ProfileError
from iqa_lib.profile import load_profile
from iqa_lib.training.loop import Loop
from iqa_lib.training.predictor import Predictor
from iqa_lib.training.runs import Run
from iqa_lib.training.train import train

PROCESSOR = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["native bf16", "emulated bf16"])
def native(request, monkeypatch):
    """A machine whose hardware multiplies bf16, and one where torch emulates it."""
    monkeypatch.setattr(machine, "native_bf16", lambda on: request.param)
    return request.param


# --- which device -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_weights_and_crops_lie_channels_last_but_on_apples_gpu(home, monkeypatch, kind):
    of_device = machine.memory_format(torch.device(kind))
    assert (of_device == torch.channels_last) == (kind != "mps")
    monkeypatch.setattr(machine, "memory_format", lambda on: of_device)
    settings, seen = load_profile("smoke"), []
    model = Loop.start(settings, load_images(settings)).model
    weight = next(p for p in model.parameters() if p.ndim == 4 and min(p.shape) > 1)
    model.backbone.forward = seen.append
    Predictor(settings, model).maps(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert all(x.is_contiguous(memory_format=of_device) for x in (weight, *seen)) and seen


# --- which precision --------------------------------------------------------------------------------------


def test_auto_is_bf16_where_the_hardware_multiplies_it_and_what_is_named_is_kept(native):
    assert machine.used_precision("auto", PROCESSOR) == ("bf16" if native else "float32")
    for named in ("float32", "bf16"):
        assert machine.used_precision(named, PROCESSOR) == named


def test_bf16_that_is_emulated_is_told_once_with_its_cost(native):
    machine._warn_of_emulation.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for precision in ("auto", "float32", "bf16", "bf16"):
            machine.used_precision(precision, PROCESSOR)
        with machine.autocast("bf16", PROCESSOR):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    words = [str(warning.message) for warning in told]
    if native:
        assert not words
    else:
        assert len(words) == 1
        for part in ("precision: bf16 is emulated", "(cpu)", "12 to 14 times slower", "`precision: auto`"):
            assert part in words[0]


@pytest.mark.parametrize(
    ("environment", "capability", "held"),
    [
        ({}, "AVX512", False),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, "AVX512", False),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_amx"}, "AVX512", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "AVX512", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX512", True),
        ({"DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "AVX512", True),
        ({}, "AVX2", True),
        ({}, "DEFAULT", True),
    ],
    ids=str,
)
def test_a_user_may_hold_the_kernels_back(monkeypatch, environment, capability, held):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert machine._held_back() == held


ASKED = """
import torch
from iqa_lib import machine
has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
print(machine.used_precision("auto"), has, machine.description(), sep="|")
"""


@pytest.mark.parametrize("held", [True, False], ids=["held to AVX2", "as it is"])
def test_auto_asks_the_processor_and_what_it_is_held_to(held):
    """In a process of its own, because torch reads its environment when it is imported."""
    kernels = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    environment = {k: v for k, v in os.environ.items() if k not in (*kernels, "DNNL_MAX_CPU_ISA")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", **(kernels if held else {})}
    command = [sys.executable, "-c", ASKED]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    precision, has, described = said.strip().split("|")
    native = has == "True" and not held
    assert precision == ("bf16" if native else "float32")
    assert ("no bf16" in described) != native and torch.__version__ in described


def test_an_impossible_precision_is_refused_by_its_key():
    refused = r"demo, as changed: precision: 'float16' is not allowed.*'auto'.*'float32'.*'bf16'"
    with pytest.raises(ProfileError, match=refused):
        load_profile("demo", precision="float16")


# --- what a run says of it --------------------------------------------------------------------------------


def test_a_trained_run_tells_its_machine_and_the_precision_it_was_computed_in(home, native):
    run = train(load_profile("smoke", precision="auto", epochs=1, train_crops=1))
    told = json.loads((run.folder / "environment.json").read_text())
    assert told["precision"] == ("bf16" if native else "float32")
    assert told["machine"] == machine.description() and told["device"].startswith(machine.device().type)
    assert json.loads((run.folder / "run.json").read_text())["precision"] == "auto"


def test_a_run_is_the_same_run_on_every_machine(monkeypatch):
    folders = {}
    for native in (True, False):
        monkeypatch.setattr(machine, "native_bf16", lambda on, native=native: native)
        for precision in ("auto", "float32", "bf16"):
            folder = Run(load_profile("smoke", precision=precision), "fingerprint").folder
            assert folders.setdefault(precision, folder) == folder
    assert len(set(folders.values())) == 3
