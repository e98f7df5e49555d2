"""What this computer can do: its device, its native precisions, its memory. No other file queries it."""

import ctypes
import functools
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """The GPU where there is one (Apple's computes in float32), else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def memory_format(on: torch.device) -> torch.memory_format:
    """Channels last, in which convolutions are fast; not on Apple's GPU, where BatchNorm's backward pass refuses it.

    Seen in torch 2.14 and before: https://github.com/pytorch/pytorch/pull/188371.
    """
    return torch.contiguous_format if on.type == "mps" else torch.channels_last


def description() -> str:
    """Device, threads and torch's version: what measured times belong to."""
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
    elif device().type == "mps":
        name = f"{platform.machine()} (Apple's GPU)"
    else:  # and the widest instructions that torch may use for products, as they decide how fast bf16 is
        widest = "AMX" if torch.cpu._is_amx_tile_supported() else "AVX-512 bf16"
        if not native_bf16(torch.device("cpu")):
            widest = f"{torch.backends.cpu.get_cpu_capability()}, no bf16"
        name = f"{platform.processor() or platform.machine()} ({widest})"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@functools.cache
def native_bf16(on: torch.device) -> bool:
    """Whether this device multiplies bf16 itself; elsewhere torch computes the same, many times slower."""
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_it = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return on.type == "cpu" and has_it and not _held_back()


def _held_back() -> bool:
    """Whether the user keeps oneDNN's and ATen's kernels below what the processor has."""
    isa = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    with_bf16 = isa in ("ALL", "DEFAULT") or any(name in isa for name in ("BF16", "FP16", "AMX", "AVX10"))
    return not with_bf16 or torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def used_precision(wanted: str, on: torch.device | None = None) -> str:
    """``float32`` or ``bf16``: what ``auto`` means on this device; the others mean themselves."""
    on = on or device()
    if wanted == "auto":
        return "bf16" if native_bf16(on) else "float32"
    if wanted == "bf16" and not native_bf16(on):
        _warn_of_emulation(on.type)
    return wanted


@functools.cache  # once
def _warn_of_emulation(device_type: str) -> None:
    # measured on a processor with AVX2 alone: four crops of 288 px through EfficientNet-Lite0 and `swin_nano`
    warnings.warn(
        f"precision: bf16 is emulated on this machine ({device_type}): 12 to 14 times slower than float32. "
        f"`precision: auto` computes in bf16 only where the hardware does.",
        stacklevel=4,
    )


@functools.cache
def matrix_rate(precision: str, on: torch.device) -> float:
    """FLOP/s of multiplying two large matrices, measured: what no network computes faster than."""
    side = 8192 if on.type == "cuda" else 2048 if precision == "float32" or native_bf16(on) else 256
    a = torch.randn(side, side, device=on, dtype={"bf16": torch.bfloat16, "float32": torch.float32}[precision])
    best = math.inf
    for _ in range(10):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def autocast(precision: str, on: torch.device) -> torch.autocast:
    """Mixed precision where `used_precision` is bf16; nothing elsewhere."""
    return torch.autocast(on.type, torch.bfloat16, enabled=used_precision(precision, on) == "bf16")


# --- memory of the C library: kept from one training step to the next -------------------------------------

# Numbers of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}  # never trim, never map
# What glibc comes to by itself where large blocks are freed; once one option is set, the others have to be set, too.
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65_536}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """What is freed in here stays with the process until the end: a step finds the memory of the one before it.

    Getting gigabytes from Linux in every step took 10 % of training on a CPU in bf16, 20 % in float32.
    Without glibc, or where the environment already sets options of malloc, nothing is changed.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if set_by_user or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    try:
        for option in KEEPING.items():
            libc.mallopt(*option)
        yield
    finally:
        for option in USUAL.items():
            libc.mallopt(*option)
        libc.malloc_trim(0)
