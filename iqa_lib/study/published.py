"""Published no-reference metrics, as pyiqa ships them, scored on the same test images as our runs.

pyiqa is an optional extra (``pip install -e '.[compare]'``). Its licence, PolyForm Noncommercial, and those of
the weights that it fetches apply to those who install it.
"""

import hashlib
import importlib.metadata
import json
import re

import filelock
import torch

from iqa_lib import machine
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import WeightsError
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress
from iqa_lib.training.runs import StoredRun


class PublishedMethod(StoredRun):
    """One of pyiqa's metrics on a dataset's test images; higher predictions are better, in the metric's own units."""

    backbone = "as published (pyiqa)"
    trained = False

    def __init__(self, settings: Profile, metric: str, images: ImageSet):
        self.metric = metric
        config = {"method": f"pyiqa {_version()}: {metric}", "data_fingerprint": images.fingerprint}
        digest = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:12]
        name = f"pyiqa-{re.sub(r'[^a-z0-9]+', '-', metric)}-{digest}"
        super().__init__(settings.folder / "store" / name, config)


def published_methods(settings: Profile, images: ImageSet) -> tuple[dict[str, PublishedMethod], dict[str, str]]:
    """The profile's ``compare_methods``, scored once and then read from the store.

    Whole images are scored at the profile's working size, one by one: every method sees the pixels that ours see.
    Returns those that could be scored, by name; and why each of the others could not.
    """
    scored, reasons = {}, {}
    for metric in settings.compare_methods:
        try:
            run = PublishedMethod(settings, metric, images)
            run.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(run.folder / ".lock"):
                if not run.complete:
                    _score(run, images)
        except WeightsError as error:
            reasons[metric] = str(error)
        else:
            scored[metric] = run
    return scored, reasons


def _version() -> str:
    try:
        return importlib.metadata.version("pyiqa")
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError("pyiqa is not installed: pip install -e '.[compare]' (non-commercial licence)") from None


def _score(run: PublishedMethod, images: ImageSet) -> None:
    device = machine.device()
    model = _load(run.metric, device)
    sign = -1 if model.lower_better else 1
    rows, predicted = images.rows("test"), []
    with torch.inference_mode():
        for row in Progress(rows, desc=f"scoring: {run.metric}"):
            image_BCHW = torch.from_numpy(images.image(row).copy()).permute(2, 0, 1)[None].to(device) / 255
            predicted.append(sign * model(image_BCHW).mean().item())
    table = images.table.iloc[rows].drop(columns="path").reset_index(drop=True).assign(prediction=predicted)
    result = {"parameters": sum(p.numel() for p in model.parameters())}
    run.complete_with(table, result, str(device), seconds=0)


def _load(metric: str, device: torch.device):
    import pyiqa

    if metric not in (known := pyiqa.list_models(metric_mode="NR")):
        raise WeightsError(f"pyiqa has no no-reference metric of this name; it has {', '.join(known)}")
    try:
        return pyiqa.create_metric(metric, device=device)
    except Exception as error:  # pyiqa's loaders fail in many ways where a download fails
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(f"its weights cannot be had here ({reason})") from error
