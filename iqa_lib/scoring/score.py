"""Scores for people who only want a number: any images in, one number each, by a trained model.

Images are decoded, reduced and cut into crops as in evaluation. Each worker takes a few images, decodes them and runs
the model on their crops with threads of its own, so that no core waits for another; who is in a batch with whom hangs
on the order of the images alone.

Shape suffixes: B batch, N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import functools
import glob
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from iqa_lib import machine, paths
from iqa_lib.data.crops import grid
from iqa_lib.data.decode import PHOTOGRAPHS, RAW, WorkingSize, quiet_pillow, read_image, read_size
from iqa_lib.errors import CheckpointError, DataError, ImageError
from iqa_lib.models.checkpoints import load_reference_checkpoint
from iqa_lib.models.smart_iqa import DEFAULT_CROP, BlindIQA, HyperIQA, SmartIQA
from iqa_lib.paths import to_csv
from iqa_lib.profile import RunSettings
from iqa_lib.progress import Progress
from iqa_lib.training.evaluate import EVALUATION_BATCH, on_every_core, stages_of
from iqa_lib.training.runs import MODEL, Run

Source = str | Path | Image.Image | np.ndarray

RESOLUTION = 384  # px: working size of models that say nothing of it
REFERENCE_CROP = 224  # px: of the reference code's checkpoints
IMAGES_AT_ONCE = EVALUATION_BATCH // 2  # of a worker: most photographs are two crops
CHECKPOINTS = (".pkl", ".pth", ".pt")


class Scorer(NamedTuple):
    """A model and how its images are prepared (``settings``: resolution, crop size, precision)."""

    name: str
    settings: RunSettings
    model: BlindIQA

    def score_crops(self, crops_BCHW: Tensor) -> Tensor:
        """Scores (B,), float32, of RGB crops, 0–255."""
        stages = stages_of(self.settings, self.model, crops_BCHW)
        if self.settings.freeze_backbone:  # trained and evaluated on cached features, which are float16
            stages = stages.as_cached()
        return self.model.head(stages)[0].float()


# --- which model ------------------------------------------------------------------------------------------


def load_scorer(model: str | Path | Scorer | None = None) -> Scorer:
    """The model that comes with the package, or another.

    Args:
        model: a run of the store (its folder or the folder's name), a profile with one finished run, a folder of
            ``save_pretrained``, or a checkpoint of the reference code (``.pkl``, ``.pth``), read without running it.

    Raises:
        CheckpointError: it is none of these, or not usable.
        RunError: the run is not complete.
        WeightsError: the installed package lacks its weights.
    """
    if isinstance(model, Scorer):
        return model
    if model is None:
        return _default()
    path = _locate(str(model))
    if path.suffix.lower() in CHECKPOINTS:
        return _ready(path.name, load_reference_checkpoint(path), REFERENCE_CROP)
    if (path / "run.json").is_file() or (path / "epochs.jsonl").is_file():
        run = Run.at(path)
        return Scorer(path.name, run.settings, run.load_model())
    return _ready(path.name, *_load_saved(path))


@functools.cache
def _default() -> Scorer:
    return _ready("SmartIQA.default()", SmartIQA.default(), DEFAULT_CROP)


def _ready(name: str, model: BlindIQA, crop_size: int) -> Scorer:
    # Always float32: bf16, twice as fast, moves single scores by up to two points.
    settings = RunSettings(
        profile="scoring",
        dataset="any",
        backbone=model.backbone.name,
        resolution=RESOLUTION,
        crop_size=crop_size,
        precision="float32",
    )
    return Scorer(name, settings, model.to(machine.device(), memory_format=torch.channels_last).eval())


def _load_saved(folder: Path) -> tuple[BlindIQA, int]:
    """The model of a folder of ``save_pretrained``, and its crop size."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, crop_size = SmartIQA if "model_size" in config else HyperIQA, int(config["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not that of a saved model: {error!r}.") from error
    return kind.from_pretrained(folder), crop_size


def _locate(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix.lower() in CHECKPOINTS or any((path / f).is_file() for f in ("run.json", "config.json")):
        return path
    runs = [run for run in paths.RUNS.glob("*/store/*") if (run / MODEL).is_file()]
    found = [run for run in runs if run.name == name] or [run for run in runs if _profile_of(run) == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"'{name}' has {len(found)} runs, name one: {', '.join(r.name for r in found)}.")
    known = ", ".join(sorted(run.name for run in runs)) or "none"
    raise CheckpointError(
        f"No model '{name}': neither a folder with a saved model, nor a checkpoint ({', '.join(CHECKPOINTS)}), nor a "
        f"run or profile in {paths.RUNS}. Runs there: {known}."
    )


def _profile_of(run: Path) -> str:
    return run.parent.parent.name


# --- which images -----------------------------------------------------------------------------------------


def find_images(wanted: Iterable[str | Path]) -> list[Path]:
    """Image files that these files, folders (with all below them) and patterns mean, each once, by name in a folder.

    Raises:
        DataError: one of them means no file.
    """
    found: dict[Path, None] = {}
    for name in wanted:
        path = Path(name).expanduser()
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        files = [file for match in matches for file in (_images_in(match) if match.is_dir() else [match])]
        if not files:
            kind = f"holds no image ({', '.join(PHOTOGRAPHS)})" if matches else "does not exist"
            raise DataError(f"'{name}' {kind}: name a photograph, a folder, or a pattern such as 'photos/*.jpg'.")
        found |= dict.fromkeys(files)
    return list(found)


def _images_in(folder: Path) -> list[Path]:
    """Its photographs, and the raw files that nobody developed: these get a fault in place of a score."""
    found = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in [*PHOTOGRAPHS, *RAW]
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    developed = {file.with_suffix("") for file in found if file.suffix.lower() in PHOTOGRAPHS}
    return sorted(f for f in found if f.suffix.lower() in PHOTOGRAPHS or f.with_suffix("") not in developed)


# --- scores -----------------------------------------------------------------------------------------------


def score(images: Source | Iterable[Source], model: str | Path | Scorer | None = None) -> float | pd.Series:
    """Quality of one image, or of many, by a trained model: 0–100, higher is better.

    Args:
        images: a file, a folder, a pattern; Pillow's image; an array (H, W), (H, W, 3) or (H, W, 4) of uint8; or several
            of these. Name files rather than open them where there are more than the memory holds.
        model: as `load_scorer`; load it once to call this often.

    Returns:
        A number for one image, for several a series by file name (by number where there is none); what cannot be read
        is NaN in it, with a warning that says why.

    Raises:
        DataError: a file or folder does not exist, or the one image cannot be read.
    """
    table, single = _score_any(images, load_scorer(model))
    if faults := _faults(table):
        if single:
            raise DataError(faults)
        warnings.warn(faults, stacklevel=2)
    return float(table["score"].iloc[0]) if single else table.set_index("image")["score"]


def _score_any(images: Source | Iterable[Source], scorer: Scorer) -> tuple[pd.DataFrame, bool]:
    """`score_all` of whatever names images, and whether they are one image, not several."""
    named = isinstance(images, str | Path)
    single = Path(images).expanduser().is_file() if named else isinstance(images, Image.Image)
    single |= isinstance(images, np.ndarray) and images.ndim < 4
    sources = []
    for one in [images] if named or single else images:
        sources += find_images([one]) if isinstance(one, str | Path) else [one]
    return score_all(scorer, sources, len(sources)), single


def _faults(table: pd.DataFrame) -> str:
    faults = [f"{row.image} {row.fault}" for row in table.itertuples() if row.fault]
    return f"{len(faults)} of {len(table)} images have no score: {'; '.join(faults)}." if faults else ""


def score_all(scorer: Scorer, images: Iterable[Source], total: int) -> pd.DataFrame:
    """One row per image, in order: ``image`` (file name or number), ``score`` and, where that is NaN, ``fault``.

    No more than a few images per worker are in memory at once. On the processor two runs give the same bytes.

    Args:
        total: how many there are, for the progress bar.
    """
    rows = _scored(scorer, images)
    return _table(Progress(rows, desc="scoring", total=total) if total > 1 else rows)


def score_into(scorer: Scorer, files: list[Path], csv: Path) -> pd.DataFrame:
    """As `score_all`, to four decimals and into a CSV; scoring that was killed goes on behind the last whole group of images.

    What is scored is noted in a hidden file beside ``csv``, under the fingerprint of model, images and their order.

    Raises:
        StorageError: the folder of ``csv`` cannot be written.
    """
    notes = csv.with_name(f".{csv.name}.unfinished")
    key = _fingerprint(scorer, files)
    with paths.writing_to(csv.parent):
        csv.parent.mkdir(parents=True, exist_ok=True)
        rows = _noted(notes, key)
        rows = rows[: len(rows) // IMAGES_AT_ONCE * IMAGES_AT_ONCE]
        paths.write_atomically(notes, "".join(f"{line}\n" for line in [key, *map(json.dumps, rows)]))
        todo = files[len(rows) :]
        with open(notes, "a", encoding="utf-8") as file:
            for row in Progress(_scored(scorer, todo), desc="scoring", total=len(todo)):
                file.write(json.dumps(row) + "\n")
                file.flush()
                rows.append(row)
    table = _table(rows).round(4)
    paths.write_atomically(csv, to_csv(table))
    notes.unlink()
    return table


def _fingerprint(scorer: Scorer, files: list[Path]) -> str:
    content = hashlib.sha256(repr((scorer.name, scorer.settings)).encode())
    for name, tensor in scorer.model.state_dict().items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    for file in files:
        stat = file.stat() if file.exists() else None
        content.update(repr((str(file), stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return content.hexdigest()


def _noted(notes: Path, key: str) -> list[tuple[str, float, str]]:
    """The rows of an earlier try at the same; the last line may be half a line."""
    if not notes.is_file():
        return []
    first, *lines = notes.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        return [tuple(json.loads(line)) for line in lines[:-1]] if first == key else []
    except ValueError:  # a power cut left something else
        return []


def _table(rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["image", "score", "fault"])


def _scored(scorer: Scorer, images: Iterable[Source]) -> Iterator[tuple[str | int, float, str]]:
    """Name, score and fault of each image, in order."""
    work = functools.partial(_score_group, scorer)
    jobs = ((group, _most_pixels(group)) for group in _grouped(images, IMAGES_AT_ONCE))
    with quiet_pillow():
        yield from itertools.chain.from_iterable(on_every_core(work, jobs))


def _grouped(images: Iterable[Source], size: int) -> Iterable[list[tuple[int, Source]]]:
    numbered = enumerate(images)
    while group := list(itertools.islice(numbered, size)):
        yield group


def _most_pixels(group: list[tuple[int, Source]]) -> int:
    """Of one image of the group: they are decoded one after the other."""
    return max(int(np.prod(read_size(s))) if isinstance(s, str | Path) else 0 for _, s in group)


def _score_group(scorer: Scorer, group: list[tuple[int, Source]]) -> list[tuple[str | int, float, str]]:
    """Name, score and fault of each image."""
    size, cuts, owners, rows = scorer.settings.crop_size, [], [], []
    for place, (number, source) in enumerate(group):
        name, fault = str(source) if isinstance(source, str | Path) else number, ""
        try:
            pixels_HWC = read_image(_as_image(source), WorkingSize.of_settings(scorer.settings))
        except ImageError as error:
            fault = error.reason
        else:
            corners = grid(*pixels_HWC.shape[:2], size)
            cuts += [pixels_HWC[y : y + size, x : x + size] for y, x in corners]
            owners += [place] * len(corners)
        rows.append((name, fault))
    scores, places = _score_cuts(scorer, cuts), np.array(owners, dtype=int)
    with np.errstate(invalid="ignore"):  # no crop, no score: NaN
        means = np.bincount(places, scores, len(group)) / np.bincount(places, minlength=len(group))
    return [(name, mean, fault) for (name, fault), mean in zip(rows, means.tolist(), strict=True)]


def _score_cuts(scorer: Scorer, cuts: list[np.ndarray]) -> np.ndarray:
    scores = [np.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(cuts), EVALUATION_BATCH):
            crops_BCHW = torch.from_numpy(np.stack(cuts[start : start + EVALUATION_BATCH])).permute(0, 3, 1, 2)
            scores.append(scorer.score_crops(crops_BCHW).double().cpu().numpy())
    return np.concatenate(scores)


def _as_image(source: Source) -> str | Path | Image.Image:
    if not isinstance(source, np.ndarray):
        return source
    try:
        return Image.fromarray(source)
    except (TypeError, ValueError):
        raise ImageError(
            "an array", f"is {source.dtype} of shape {source.shape}, not uint8 (H, W), (H, W, 3) or (H, W, 4)"
        ) from None


# --- among other metrics ----------------------------------------------------------------------------------


class Metric(nn.Module):
    """The model as one of pyiqa's metrics, and with the methods of torchmetrics.

        metric = Metric()
        metric("photo.jpg"), metric(batch_N3HW)        # (N,) scores, 0–100
        metric.update(batch_N3HW); metric.compute()    # mean over all that was seen since `reset`

    Tensors that require a gradient get one: ``-metric(images).mean()`` is a loss. Their pixels are still rounded to 8
    bits, straight through, and reduced by torch in place of Pillow, which moves scores by hundredths of a point.

    Args:
        model: as `load_scorer`.
    """

    lower_better = False

    def __init__(self, model: str | Path | Scorer | None = None):
        super().__init__()
        scorer = load_scorer(model)
        self.model = copy.deepcopy(scorer.model).requires_grad_(False)
        self.scorer = scorer._replace(model=self.model)
        self.reset()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # a metric does not learn

    def forward(self, images: Tensor | Source | Iterable[Source]) -> Tensor:
        """Scores (N,), float32, 0–100.

        Args:
            images: RGB (N, 3, H, W) or (3, H, W), 0–1; or as `score`, of which every one must be readable.

        Raises:
            DataError: a tensor of another shape or range; an image that cannot be read.
        """
        if not isinstance(images, Tensor):
            table, _ = _score_any(images, self.scorer)
            if faults := _faults(table):
                raise DataError(faults)
            return torch.tensor(table["score"].to_numpy(np.float32))
        images_N3HW = images[None] if images.ndim == 3 else images
        _require_unit_range(images_N3HW)
        if images.requires_grad and torch.is_grad_enabled():
            return self._differentiable(images_N3HW)
        pixels_NHW3 = (images_N3HW.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        table = score_all(self.scorer, list(np.ascontiguousarray(pixels_NHW3)), total=1)
        return torch.tensor(table["score"].to_numpy(np.float32), device=images.device)

    def _differentiable(self, images_N3HW: Tensor) -> Tensor:
        size = self.scorer.settings.crop_size
        wanted = WorkingSize.of_settings(self.scorer.settings).of(*images_N3HW.shape[-2:])
        pixels = images_N3HW * 255
        if pixels.shape[-2:] != wanted:
            pixels = F.interpolate(pixels, wanted, mode="bicubic", antialias=True).clamp(0, 255)
        pixels = pixels + (pixels.round() - pixels).detach()
        scores = [self.scorer.score_crops(pixels[..., y : y + size, x : x + size]) for y, x in grid(*wanted, size)]
        return torch.stack(scores).mean(dim=0).to(images_N3HW.device)

    def update(self, images: Tensor | Source | Iterable[Source]) -> None:
        scores_N = self(images).detach().double()
        self._sum, self._seen = self._sum + scores_N.sum().item(), self._seen + len(scores_N)

    def compute(self) -> Tensor:
        """Mean score of all images since `reset`; NaN where there was none."""
        return torch.tensor(self._sum / self._seen if self._seen else float("nan"))

    def reset(self) -> None:
        self._sum, self._seen = 0.0, 0


def _require_unit_range(images_N3HW: Tensor) -> None:
    shape, kind = tuple(images_N3HW.shape), images_N3HW.dtype
    if len(shape) != 4 or shape[1] != 3 or not images_N3HW.is_floating_point():
        raise DataError(f"Expected RGB images of shape (N, 3, H, W) and floating point, 0–1; got {kind} {shape}.")
    if not ((images_N3HW >= 0) & (images_N3HW <= 1)).all():
        low, high = images_N3HW.aminmax()
        raise DataError(f"Expected values of 0–1; got {low:.3g} to {high:.3g}. Divide 8-bit pixels by 255.")
