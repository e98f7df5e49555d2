"""Scores for people who only want a number: any images in, one number each, by a trained model.

Images are decoded, reduced and cut into crops as in evaluation. Each worker takes a few images, decodes them and runs
the model on their crops with threads of its own, so that no core waits for another; which crops share a batch depends
on the order of the images alone.

Shape suffixes: B batch, N images, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from iqa_lib import machine, paths
from iqa_lib.data.decode import WorkingSize, quiet_pillow, read_image, read_size
from iqa_lib.errors import CheckpointError, DataError, ImageError, ProfileError
from iqa_lib.models.checkpoints import load_reference_checkpoint
from iqa_lib.models.smart_iqa import DEFAULT, BlindIQA, HyperIQA, SmartIQA
from iqa_lib.paths import to_csv
from iqa_lib.profile import ScoringSettings, load_profile
from iqa_lib.progress import Progress, in_a_line
from iqa_lib.scoring import certainty
from iqa_lib.scoring.found import find_images
from iqa_lib.training.predictor import EVALUATION_BATCH, Predictor, on_every_core
from iqa_lib.training.runs import IDENTITY, MODEL, Run

Source = str | Path | Image.Image | np.ndarray

RESOLUTION = 384  # px: working size of models that say nothing of it
REFERENCE_CROP = 224  # px: of the reference code's checkpoints
IMAGES_AT_ONCE = EVALUATION_BATCH // 2  # of a worker: most photographs are two crops
CHECKPOINTS = (".pkl", ".pth", ".pt")
VERSIONS = ("smart-iqa-workbook", "torch", "pillow")  # of a passport

Scorer = Predictor  # here always with the model's name, and its certainty where it was calibrated

# --- which model ------------------------------------------------------------------------------------------


def load_scorer(model: str | Path | Scorer | None = None) -> Scorer:
    """The model that comes with the package, or another.

    Args:
        model: a run of the store (its folder or the folder's name), a profile with a finished run, a folder of
            ``save_pretrained``, or a checkpoint of the reference code (``.pkl``, ``.pth``), read without running it. Of
            several runs by a profile's present settings (its labels have changed) the newest that is finished.

    Raises:
        CheckpointError: it is none of these, or not usable; the installed package lacks its weights.
        RunError: the run is not complete.
    """
    if isinstance(model, Scorer):
        return model
    if not isinstance(model, str | bytes | os.PathLike | None):
        raise CheckpointError(
            f"A model is given by its name or folder, not as {type(model).__name__}: save one by `save_pretrained`."
        )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # weights are read as they are, whatever a host computes in
    try:
        return _default() if model is None else _read(_locate(model))
    finally:
        torch.set_default_dtype(before)


def _read(path: Path) -> Scorer:
    if path.suffix.lower() in CHECKPOINTS:
        return _ready(path.name, load_reference_checkpoint(path), REFERENCE_CROP)
    if (path / "run.json").is_file() or (path / "epochs.jsonl").is_file():
        run = Run.at(path)
        scorer = Scorer(run.settings, run.load_model(), path.name)
    else:
        scorer = _ready(path.name, *_load_saved(path))
    return scorer._replace(certainty=certainty.of_model(path, scorer.model))


@functools.cache
def _default() -> Scorer:
    return _read(DEFAULT)._replace(name="SmartIQA.default()")


def _ready(name: str, model: BlindIQA, crop_size: int) -> Scorer:
    # Always float32: bf16, twice as fast, moves single scores by up to one and a half points.
    settings = ScoringSettings(resolution=RESOLUTION, crop_size=crop_size, precision="float32")
    device = machine.device()
    return Scorer(settings, model.to(device, memory_format=machine.memory_format(device)).eval(), name)


def _load_saved(folder: Path) -> tuple[BlindIQA, int]:
    """The model of a folder of ``save_pretrained``, and its crop size."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, crop_size = SmartIQA if "model_size" in config else HyperIQA, int(config["image_size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not that of a saved model: {error!r}.") from error
    return kind.from_pretrained(folder), crop_size


def _locate(given: str | bytes | os.PathLike) -> Path:
    path, name = paths.named(given), paths.printable(given)
    if path.suffix.lower() in CHECKPOINTS or any(os.path.isfile(path / f) for f in ("run.json", "config.json")):
        return path
    runs = [run for run in paths.RUNS.glob("*/store/*") if (run / MODEL).is_file()]
    found = [run for run in runs if run.name == name] or [run for run in runs if _profile_of(run) == name]
    found = [run for run in found if (run / "result.json").is_file()] or found
    if len(found) > 1 and (own := _by_present_settings(name, found)):
        newest, *older = sorted(own, key=lambda run: (run / "result.json").stat().st_mtime, reverse=True)
        if older:
            print(
                f"'{name}' means {newest.name}, its newest; older ones: {', '.join(r.name for r in older)}.",
                file=sys.stderr,
            )
        return newest
    if len({run.name for run in found}) == 1:  # of one name in several stores: a run is its settings and its data
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


def _by_present_settings(profile: str, runs: list[Path]) -> list[Path]:
    """Those of a profile's runs that have the settings it has now, whatever its images were then."""
    file = paths.RUNS / profile / "profile.yaml"
    try:
        wanted = load_profile(str(file) if file.is_file() else profile)
    except ProfileError:
        return []
    trained = map(Run.at, runs)
    return [run.folder for run in trained if all(getattr(wanted, k) == getattr(run.settings, k) for k in IDENTITY)]


# --- scores -----------------------------------------------------------------------------------------------


def score(images: Source | Iterable[Source], model: str | Path | Scorer | None = None) -> float | pd.Series:
    """Quality of one image, or of many, by a trained model: 0–100, higher is better.

    The model's last layer is linear: an image worse or better than all it learnt from may lie a few points outside.

    Args:
        images: a file, a folder, a pattern; Pillow's image; an array (H, W), (H, W, 3) or (H, W, 4) of uint8; a tensor
            (3, H, W) or (N, 3, H, W), 0–1; or several of these. Name files rather than open them where there are more
            than the memory holds.
        model: as `load_scorer`; load it once to call this often.

    Returns:
        A number for one image, for several a series by file name (`paths.printable`; by number where there is none);
        what cannot be read is NaN in it, with a warning that says why. A warning counts what a calibrated model marks.

    Raises:
        DataError: a file or folder does not exist, the one image cannot be read, or it is nothing of the above.
    """
    scorer = load_scorer(model)
    table, single = score_any(images, scorer)
    if faults := faults_of(table):
        if single:
            raise DataError(faults)
        warnings.warn(faults, stacklevel=2)
    for marked in marked_in(table, scorer):
        warnings.warn(marked, stacklevel=2)
    return float(table["score"].iloc[0]) if single else table.set_index("image")["score"]


def score_any(images: Source | Iterable[Source], scorer: Scorer) -> tuple[pd.DataFrame, bool]:
    """`score_all` of whatever names images, and whether they are one image, not several."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OSU":  # of names
        images = images.tolist()
    named = isinstance(images, str | os.PathLike)
    single = os.path.exists(paths.named(images)) if named else isinstance(images, Image.Image)
    single &= not (named and os.path.isdir(paths.named(images)))
    single |= isinstance(images, np.ndarray) and images.ndim < 4
    single |= isinstance(images, Tensor) and images.ndim == 3
    if isinstance(images, ONE_THING) or not (named or single or isinstance(images, Iterable)):
        raise DataError(_unknown("That", images))
    sources = []
    for number, one in enumerate([images] if named or single or isinstance(images, Tensor) else images):
        if isinstance(one, str | os.PathLike):
            sources += find_images([one])
        elif isinstance(one, Tensor):
            sources += _as_arrays(one)
        elif isinstance(one, Image.Image | np.ndarray):
            sources.append(one)
        else:
            raise DataError(_unknown(f"Number {number} of them", one))
    return score_all(scorer, sources, 1 if isinstance(images, Tensor) else len(sources)), single


ONE_THING = bytes | bytearray | memoryview | io.IOBase | pd.DataFrame  # which Python would take for several


def _unknown(which: str, thing: object) -> str:
    return (
        f"{which} is of type {type(thing).__name__}; an image is the name of a file, folder or pattern, Pillow's "
        f"image, an array of uint8 (H, W, 3) or a tensor (3, H, W) of 0–1. An open file: "
        f"PIL.Image.open(file); its bytes: PIL.Image.open(io.BytesIO(data))."
    )


def _as_arrays(images: Tensor) -> list[np.ndarray]:
    """RGB (N, 3, H, W) or (3, H, W), 0–1, as arrays (H, W, 3) of uint8."""
    images_N3HW = with_unit_range(images).detach()
    pixels_NHW3 = (images_N3HW * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return list(np.ascontiguousarray(pixels_NHW3))


def faults_of(table: pd.DataFrame) -> str:
    faults = [f"{in_a_line(str(row.image))} {row.fault}" for row in table.itertuples() if row.fault]
    return f"{len(faults)} of {len(table)} images have no score: {'; '.join(faults)}." if faults else ""


def marked_in(table: pd.DataFrame, scorer: Scorer) -> list[str]:
    """Of each of MARKS that is there, how many images have it."""
    counts = {mark: int(table["mark"].str.contains(mark).sum()) for mark in MARKS} if "mark" in table else {}
    texts = {mark: text.format(crop=scorer.settings.crop_size) for mark, text in MARKS.items()}
    return [f"marked '{mark}': {n} of {len(table)} images, {texts[mark]}" for mark, n in counts.items() if n]


def in_words(scorer: Scorer, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What people read of a table: columns of text, ``image`` last, and lines that stand below it."""
    shown = pd.DataFrame({"score": table["score"].map("{:.1f}".format)})
    notes = [f"{len(table):,} image{'' if len(table) == 1 else 's'}, scored by {scorer.name}"]
    if scorer.certainty:
        shown["score"] += (table["score"] - table["low"]).map(" ± {:.1f}".format).replace(" ± nan", "")
        shown["better than"], shown["mark"] = table["better_than"].map("{:.0f} %".format), table["mark"]
        notes.append(f"±: 90 % interval; better than so many of {scorer.certainty.rated:,} rated photographs")
    if not table["score"].between(0, 100).all():
        notes.append("below 0 or above 100: worse or better than all that it learnt from")
    return shown.assign(image=table["image"]), notes


def score_all(scorer: Scorer, images: Iterable[Source], total: int) -> pd.DataFrame:
    """One row per image, in order: `columns`, in which a ``fault`` says why there is no score.

    No more than a few images per worker are in memory at once. On the processor two runs give the same bytes.

    Args:
        total: how many there are, for the progress bar.
    """
    rows = _scored(scorer, images)
    return _table(scorer, Progress(rows, desc="scoring", total=total) if total > 1 else rows)


SURE = ["low", "high", "better_than", "mark"]  # ends of the 90 % interval, % of the rated photographs, MARKS or nothing
MARKS = {"unlike": "unlike anything that the model knows", "small": "smaller than its crops of {crop} px"}


def columns(scorer: Scorer) -> list[str]:
    """``image`` (file or number), ``score``, SURE of a calibrated model, ``fault``, ``pixels`` (CRC-32 as scored)."""
    return ["image", "score", *(SURE if scorer.certainty else []), "fault", "pixels"]


def passport(scorer: Scorer) -> str:
    """What made the scores, for a column of theirs: ``key=value; …``."""
    settings = scorer.settings
    made_by = {
        "model": certainty.model_hash(scorer.model),
        "precision": machine.used_precision(settings.precision, scorer.model.backbone.mean.device),
        "resolution": settings.resolution,
        "crop": settings.crop_size,
        "protocol": settings.protocol,
        **{package: version(package) for package in VERSIONS},
        "data": scorer.certainty.data if scorer.certainty else Path(getattr(settings, "dataset", "")).stem,
        "name": scorer.name,
    }
    return "; ".join(f"{key}={str(value).replace(';', ',')}" for key, value in made_by.items())


def score_into(scorer: Scorer, files: list[Path], csv: Path) -> pd.DataFrame:
    """As `score_all`, to four decimals and into a CSV; scoring that was killed resumes after the last whole group.

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
    table = _table(scorer, rows).round(4).assign(scored_by=passport(scorer))
    paths.write_atomically(csv, to_csv(table))
    notes.unlink(missing_ok=True)  # by another that writes the same
    return table


def _fingerprint(scorer: Scorer, files: list[Path]) -> str:
    content = hashlib.sha256(repr((scorer.settings, passport(scorer))).encode())
    for part in scorer.certainty or ():
        content.update(np.asarray(part).tobytes())
    for file in files:
        stat = file.stat() if os.path.exists(file) else None
        content.update(repr((str(file), stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return content.hexdigest()


def _noted(notes: Path, key: str) -> list[tuple]:
    """The rows of an earlier try at the same; the last line may be half a line."""
    if not notes.is_file():
        return []
    first, *lines = notes.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        return [tuple(json.loads(line)) for line in lines[:-1]] if first == key else []
    except ValueError:  # a power cut left something else
        return []


def _table(scorer: Scorer, rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns(scorer))


def _scored(scorer: Scorer, images: Iterable[Source]) -> Iterator[tuple]:
    """`columns` of each image, in order."""
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


def _score_group(scorer: Scorer, group: list[tuple[int, Source]]) -> list[tuple]:
    """`columns` of each image."""
    names, faults, pictures, sources = [], [], [], []
    for number, source in group:
        names.append(paths.printable(source) if isinstance(source, str | Path) else number)
        try:
            pictures.append(read_image(_as_image(source), WorkingSize.of_settings(scorer.settings)))
            sources.append(source)
            faults.append("")
        except ImageError as error:
            faults.append(error.reason)
    scored = _judged(scorer, pictures, sources) if pictures else iter(())
    nothing = (np.nan, *[np.nan] * 3, "")[: None if scorer.certainty else 1]
    rows = []
    for name, fault in zip(names, faults, strict=True):
        numbers, pixels = (nothing, "") if fault else next(scored)
        rows.append((name, *numbers, fault, pixels))
    return rows


def _judged(scorer: Scorer, pictures: list[np.ndarray], sources: list[Source]) -> Iterator[tuple[tuple, str]]:
    """Of each picture the score, with SURE of a calibrated model, and the CRC-32."""
    traits = certainty.look(scorer, pictures, closely=scorer.certainty is not None)
    known = [traits.score_N.tolist()]
    if scorer.certainty:
        half_N, unlike_N = scorer.certainty.half_width(traits), scorer.certainty.unlike(traits)
        small_N = [min(_size(source)) < scorer.settings.crop_size for source in sources]
        known += [(traits.score_N - half_N).tolist(), (traits.score_N + half_N).tolist()]
        known += [scorer.certainty.better_than(traits.score_N).tolist()]
        known += [[" ".join(np.array([*MARKS])[[u, s]]) for u, s in zip(unlike_N, small_N, strict=True)]]
    return zip(zip(*known, strict=True), (f"crc32:{zlib.crc32(p):08x}" for p in pictures), strict=True)


def _size(source: Source) -> tuple[int, int]:
    """Height and width, in either order."""
    if isinstance(source, str | Path):
        return read_size(source)
    return source.size if isinstance(source, Image.Image) else source.shape[:2]


def _as_image(source: Source) -> str | Path | Image.Image:
    if not isinstance(source, np.ndarray):
        return source
    try:
        # Pillow takes a list of numbers for a picture one pixel wide, and floats whose white is nowhere said.
        if source.ndim not in (2, 3) or source.dtype.kind == "f":
            raise ValueError
        return Image.fromarray(source)
    except (TypeError, ValueError):
        raise ImageError(
            "an array", f"is {source.dtype} of shape {source.shape}, not uint8 (H, W), (H, W, 3) or (H, W, 4)"
        ) from None


ROUNDING = 0.5 / 255  # beyond 0 and 1: less than half a step of 8 bits


def with_unit_range(images: Tensor) -> Tensor:
    """(N, 3, H, W), float32, of images (N, 3, H, W) or (3, H, W); others are refused."""
    shape, kind, layout = tuple(images.shape), images.dtype, images.layout
    if (
        shape[-3:-2] != (3,)
        or len(shape) > 4
        or 0 in shape[-3:]
        or not kind.is_floating_point
        or layout != torch.strided
    ):
        raise DataError(
            f"Expected RGB images of shape (N, 3, H, W) and floating point, 0–1; got {kind} {shape}. 8-bit pixels: "
            f"x.permute(0, 3, 1, 2) where channels come last, then / 255."
        )
    images_N3HW = images.float().reshape(-1, *shape[-3:])
    if not ((images_N3HW >= -ROUNDING) & (images_N3HW <= 1 + ROUNDING)).all():
        low, high = images_N3HW.aminmax()
        raise DataError(f"Expected values of 0–1; got {low:.6g} to {high:.6g}. Divide 8-bit pixels by 255.")
    return images_N3HW
