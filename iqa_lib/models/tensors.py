"""Tensors from untrusted files: read without running code in them, compared with what is expected."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from iqa_lib.errors import CheckpointError

# Buffers that follow from the architecture, or count: some files have them, some do not.
DERIVED = (".attn_mask", ".relative_position_index", ".num_batches_tracked")

NO_CODE = "Save its state dict alone with torch.save(model.state_dict(), path), or as safetensors."


def read_without_running(path: str | Path, remedy: str = NO_CODE) -> object:
    """What a ``.safetensors`` file or one of ``torch.save`` holds: tensors, numbers, texts and containers of them.

    Raises CheckpointError: it is absent or damaged, or holds an object that only running code could make.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"The checkpoint '{path}' does not exist.")
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        with open(path, "rb") as file:  # neither library opens names that are not UTF-8
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle or header makes the readers raise anything
        raise CheckpointError(
            f"'{path}' is not a checkpoint that can be read safely: it is damaged or holds more than tensors "
            f"({_reason(error)}). {remedy}"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError):  # torch advises to run the code after all: not repeated here
        wanted = re.search(r"Unsupported global: GLOBAL (\S+)", text)
        return f"it wants to run {wanted[1]}" if wanted else "not the pickle of a state dict"
    return text[:200] or type(error).__name__


def state_dict_in(content: object, label: str, wrappers: Sequence[str] = ()) -> Mapping[str, Tensor]:
    """The mapping of names to tensors, bare or under the first of these keys that is there; else CheckpointError."""
    for key in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{label} holds no state dict, a mapping of names to tensors.")
    for name, tensor in content.items():
        if fault := _not_plain(tensor):
            raise CheckpointError(
                f"{label} holds {name!r}, a tensor {fault}: save the state dict of the model as it was trained, in 16 "
                f"to 64 bits and with its values."
            )
    return content


def _not_plain(tensor: Tensor) -> str:
    """What makes it more, or less, than an array of numbers that a network can take."""
    if tensor.is_meta:
        return "on the device 'meta', without values"
    if tensor.is_nested:
        return "that is nested"
    if tensor.layout != torch.strided:
        return f"that is {tensor.layout}"
    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of fewer bits none is without scales
    if tensor.is_quantized or tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in floating):
        return f"that is {tensor.dtype}"
    return ""


def require_same_tensors(given: object, expected: Mapping[str, Tensor], label: str, model: str = "the model") -> None:
    """CheckpointError with the first five tensors that are missing, unknown, misshapen or not finite."""
    given = state_dict_in(given, label)
    faults = [f"missing {k}" for k in expected.keys() - given.keys()]
    faults += [f"unknown {k}" for k in given.keys() - expected.keys()]
    for name in expected.keys() & given.keys():
        tensor, wanted = given[name], expected[name]
        if tensor.shape != wanted.shape:
            faults.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
        elif name.endswith(DERIVED):
            continue
        elif tensor.is_floating_point() != wanted.is_floating_point():
            faults.append(f"{name} is {tensor.dtype}, expected {wanted.dtype}")
        elif not tensor.isfinite().all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{label} does not fit {model}: {'; '.join(sorted(faults)[:5])}{more}.")
