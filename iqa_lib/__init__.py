"""SMART-IQA workbook: models, datasets and a trainer for blind image quality assessment."""

import os

# Of torch, on Linux: large tensors in huge pages, without which a CPU spends up to an eighth of scoring on page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Of torch, on macOS: what Apple's GPU lacks is computed on the processor.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_FACE = {
    "SmartIQA": "iqa_lib.models.smart_iqa",
    "HyperIQA": "iqa_lib.models.smart_iqa",
    "load_reference_checkpoint": "iqa_lib.models.checkpoints",
    "score": "iqa_lib.scoring.score",
    "Metric": "iqa_lib.scoring.metric",
}
__all__ = list(_FACE)


def __getattr__(name: str):
    # torch and timm take seconds to import: only who asks for a model pays for them.
    if name not in _FACE:
        raise AttributeError(f"module 'iqa_lib' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_FACE[name]), name)
