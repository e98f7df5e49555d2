"""What a bug report needs to say of a computer, and what its user can do about it."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable

from iqa_lib import paths  # the rest is imported by the checks: any of it may be what is broken
from iqa_lib.errors import WorkbookError

ROOM = 5_000_000_000  # bytes that the demo, with its features, takes at most


def examine() -> list[tuple[str, str, str]]:
    """Part, what was found and, where something is wrong, what to do about it."""
    return [(check.__name__.strip("_").replace("_", " "), *_safely(check)) for check in CHECKS]


def _safely(check: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    try:
        return check()
    except Exception as error:  # a broken installation fails in ways of its own, and this is who says so
        reason = " ".join(str(error).split()) or type(error).__name__
        again = f"if the packages are well, install again in a new environment ({reason})"
        return reason, reason if isinstance(error, WorkbookError) else again


def _workbook() -> tuple[str, str]:
    from iqa_lib.training.runs import commit

    kind = "installed package" if paths.INSTALLED else f"checkout at {commit()}"
    return f"{importlib.metadata.version('smart-iqa-workbook')}, {kind}", ""


def _python() -> tuple[str, str]:
    return f"{platform.python_version()} on {platform.platform()} ({sys.executable})", ""


def _packages() -> tuple[str, str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from iqa_lib.training.runs import PACKAGES

    wanted = [Requirement(line) for line in importlib.metadata.requires("smart-iqa-workbook")]
    wanted = [w for w in wanted if not w.marker or w.marker.evaluate({"extra": ""})]
    there = {canonicalize_name(package.name): package.version for package in importlib.metadata.distributions()}
    wrong = [w for w in wanted if not w.specifier.contains(there.get(canonicalize_name(w.name), "0"), True)]
    found = ", ".join(f"{name} {there.get(name, 'is absent')}" for name in (*PACKAGES, "torchvision", "papermill"))
    return found, "pip install " + " ".join(f"'{w}'" for w in wrong) if wrong else ""


def _torchvision() -> tuple[str, str]:
    try:
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:  # one from another index than torch, without which timm fails
        return f"{error}", "pip install --force-reinstall torch torchvision, both from one index (pytorch.org names it)"
    return f"{torchvision.__version__} fits torch", ""


def _device() -> tuple[str, str]:
    import torch

    from iqa_lib import machine

    advice = ""
    if shutil.which("nvidia-smi") and machine.device().type != "cuda":
        advice = "torch was built without CUDA: install it as pytorch.org says"
        if built := torch.version.cuda:
            advice = (
                f"the driver is too old for torch's CUDA {built}, or CUDA_VISIBLE_DEVICES hides the card: nvidia-smi"
            )
    return machine.description(), advice


def _precision() -> tuple[str, str]:
    from iqa_lib import machine

    return f"auto means {machine.used_precision('auto')} here", ""


def _folder() -> tuple[str, str]:
    paths.require_target(paths.HOME, folder=True)
    free = shutil.disk_usage(paths.existing(paths.HOME)).free
    advice = f"make room, or set IQA_HOME to a folder on another disk: the demo takes {ROOM / 1e9:.0f} GB"
    return f"{paths.HOME}, {free / 1e9:.1f} GB free", advice if free < ROOM else ""


def _cache() -> tuple[str, str]:
    from iqa_lib.training.features import MOST_BYTES

    cache = paths.DATA / "cache"
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return f"{cache}, {size / 1e9:.1f} GB (features: at most {MOST_BYTES / 1e9:.0f}); may be deleted at any time", ""


def _datasets() -> tuple[str, str]:
    from iqa_lib.data.check import overview

    there = overview().query("present != 'no'")
    faults = there[there["present"].str.contains("fault")]
    found = ", ".join(f"{row.dataset} ({row.present})" for row in there.itertuples()) or "none; the demo needs none"
    return found, "; ".join(f"python -m iqa_lib data check {name}" for name in faults["dataset"])


def _default_model() -> tuple[str, str]:
    from iqa_lib.models.smart_iqa import SmartIQA

    return f"{sum(p.numel() for p in SmartIQA.default().parameters()):,} parameters, read", ""


def _kernel() -> tuple[str, str]:
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = KernelSpecManager().get_kernel_spec("python3")
    python = kernel.argv[0]  # a bare name means the python that starts it
    if os.path.dirname(python) and os.path.normcase(python) != os.path.normcase(sys.executable):
        advice = f"notebooks would run in {python}: python -m ipykernel install --sys-prefix"
        return kernel.resource_dir, f"{advice}; where that does not help, remove {kernel.resource_dir}"
    return kernel.resource_dir, ""


CHECKS = (
    _workbook,
    _python,
    _packages,
    _torchvision,
    _device,
    _precision,
    _folder,
    _cache,
    _datasets,
    _default_model,
    _kernel,
)
