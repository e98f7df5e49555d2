"""The run store: what a run is, where it is stored, whether it is complete.

``runs/<profile>/store/<name>-<hash>/`` holds ``run.json`` (its settings), ``epochs.jsonl``, ``predictions.parquet``,
the model (``model.safetensors`` and its ``config.json``), ``environment.json`` and, written last, ``result.json``:
without it the run is not complete. ``state.pt`` exists while it trains and makes resuming exact. What a published
method scores is stored there too, without a model (`iqa_lib.study.published`).
"""

from __future__ import annotations

import _thread
import contextlib
import glob
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import pandas as pd

from iqa_lib import metrics, paths
from iqa_lib.errors import RunError
from iqa_lib.profile import RunSettings

# Settings that change neither what a run learns nor what it predicts; its images have a fingerprint.
NOT_IDENTITY = {"profile", "data_folder", "compile"}
IDENTITY = RunSettings.model_fields.keys() - NOT_IDENTITY
# As ``run.json`` has them.
DEFAULTS = RunSettings.model_construct().model_dump(mode="json")

# Files of a run's folder
MODEL = "model.safetensors"
STATE = "state.pt"

PACKAGES = ("torch", "timm", "accelerate", "numpy", "scipy", "pillow", "piq")  # whose versions a run notes
LEASE = 60.0  # seconds without a sign of life after which a machine's claim to a run is void


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Work on a run alone, among all processes and machines that share its folder; prints which process it waits for.

    The claim of a dead process is void: at once on the same machine, after a minute on another. Raises StorageError,
    and RunError where this process was halted for so long that another could take the run over.
    """
    claim = filelock.SoftFileLease(
        folder / ".claim",
        lease_duration=LEASE,
        on_compromise=lambda _: _thread.interrupt_main(),  # noticed in a thread, which can stop the work only thus
    )
    try:
        with paths.writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            claim.acquire(timeout=2)
    except filelock.Timeout:
        # No owner: it has just let go. Behind a hostname's '?': which container.
        owner = f"process {o.pid} on {o.hostname.partition('?')[0]}" if (o := claim.owner) else "another process"
        print(f"{folder.name} is being worked on by {owner}: waiting for it.", file=sys.stderr)
        claim.acquire(poll_interval=1)
    try:
        yield
    except KeyboardInterrupt:
        if claim.compromise:
            raise RunError(
                f"{folder.name}: this process was halted, or cut off from its disk, for so long that another may have "
                f"taken the run over. Start it again: it waits for the other, or resumes."
            ) from None
        raise
    finally:
        claim.release()


class StoredRun:
    """A folder of the store with predictions and results, of a training or of a published method."""

    trained = True  # another training would have given other predictions

    def __init__(self, folder: Path, config: dict):
        self.folder, self.config = folder, config

    @property
    def complete(self) -> bool:
        return (self.folder / "result.json").is_file()

    @property
    def result(self) -> dict:
        """``parameters``, ``best_epoch``, ``epochs`` and the ``logistic``'s parameters; RunError where damaged."""
        with self._readable("result.json") as path:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["parameters"] = int(found["parameters"])
            found["logistic"] = found.get("logistic") and [float(value) for value in found["logistic"]]
            return found

    def measure(self, resamples: int) -> dict[str, metrics.Interval]:
        """Agreement on the test split, from the predictions: each metric with its interval (`metrics.report`)."""
        test, logistic = self.test, self.result["logistic"]
        groups = metrics.groups_of(test["reference"])
        return metrics.report(test["prediction"], test["score"], logistic, groups=groups, resamples=resamples)

    @property
    def srcc(self) -> float:
        """On the test split; NaN where it is undefined."""
        test = self.test
        return float(metrics.srcc(test["prediction"], test["score"]))

    @property
    def predictions(self) -> pd.DataFrame:
        """Per image of validation and test: labels, ``prediction`` and, with attention, ``alpha1``–``alpha4``."""
        return self.read_table("predictions.parquet")

    def read_table(self, name: str) -> pd.DataFrame:
        """As `predictions`, of another file of this run that `write_table` wrote."""
        with self._readable(name) as path:
            table = pd.read_parquet(path, page_checksum_verification=True)
            table[["image", "split"]].astype(str)
            table[["score", "prediction"]].astype(float)
            return table

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        content = io.BytesIO()
        table.to_parquet(content, index=False, write_page_checksum=True)
        paths.write_atomically(self.folder / name, content.getvalue())

    @property
    def test(self) -> pd.DataFrame:
        """The test images' part of `predictions`."""
        return self.predictions.query("split == 'test'").reset_index(drop=True)

    def complete_with(
        self, predictions: pd.DataFrame, result: dict, device: str, seconds: float, precision: str = "float32"
    ) -> None:
        """Write what was found; ``result.json`` last, for it makes the run complete."""
        self.write_table("predictions.parquet", predictions)
        made_in = environment(device, seconds, precision)
        for name, part in {"run": self.config, "environment": made_in, "result": result}.items():
            paths.write_atomically(self.folder / f"{name}.json", json.dumps(part, indent=1))

    @contextlib.contextmanager
    def _readable(self, name: str) -> Iterator[Path]:
        """A file of this run, while it is being read."""
        try:
            yield self.folder / name
        except Exception as error:  # a damaged file makes its reader raise anything
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RunError(
                f"{self.folder / name} is damaged or absent ({why}). Remove the folder {self.folder}: "
                f"the run is then trained again when it is next wanted."
            ) from error


class Run(StoredRun):
    """One trained model with all that is known of it; ``folder`` holds the files."""

    def __init__(self, settings: RunSettings, data_fingerprint: str):
        from iqa_lib.models.backbones import weights_fingerprint

        self.settings = settings
        config = settings.model_dump(include=IDENTITY, mode="json")
        config["data_fingerprint"] = data_fingerprint
        if weights := weights_fingerprint(settings.backbone, settings.pretrained):
            config["weights_fingerprint"] = weights
        name = f"{settings.method}-{settings.backbone}-s{settings.seed}".replace("/", "_")
        digest = hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()[:12]
        store = settings.folder / "store"
        folder = store / f"{name}-{digest}"
        if not folder.is_dir():
            folder = _of_an_earlier_version(store, name, config) or folder
        super().__init__(folder, config)

    @classmethod
    def at(cls, folder: Path) -> Run:
        """The finished run in this folder, anywhere; RunError where it is not finished or no run."""
        if not (folder / "result.json").is_file():
            raise RunError(f"The run in {folder} is not complete: start its training again, it resumes.")
        try:
            config = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            known = {key: value for key, value in config.items() if key in RunSettings.model_fields}
            settings = RunSettings(**known, profile=folder.resolve().parent.parent.name)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RunError(f"{folder / 'run.json'} is not that of a trained run: {error}") from error
        run = cls.__new__(cls)
        StoredRun.__init__(run, folder, config)
        run.settings = settings
        return run

    @property
    def backbone(self) -> str:
        return self.settings.backbone

    @property
    def epochs(self) -> pd.DataFrame:
        """A row per epoch; RunError where the file is damaged."""
        with self._readable("epochs.jsonl") as path:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            table = pd.DataFrame(rows).astype(float).astype({"epoch": int})
            if table["epoch"].tolist() != list(range(1, len(table) + 1)):
                raise ValueError(f"it counts the epochs {table['epoch'].tolist()}")
            return table

    def load_model(self):
        """The trained model, ready to score, on the GPU where there is one."""
        from iqa_lib import machine
        from iqa_lib.models import smart_iqa

        kind = {"smart_iqa": smart_iqa.SmartIQA, "hyper_iqa": smart_iqa.HyperIQA}[self.settings.method]
        model = kind.from_pretrained(self.folder).to(machine.device()).eval()
        return compiled(model) if self.settings.compile else model


def compiled(model):
    """`compile_backbone` of it; what the compiler makes is kept on disk, for the next run of the study."""
    from iqa_lib.models.smart_iqa import compile_backbone

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.DATA / "cache" / "compiled"))
    return compile_backbone(model)


def _identity(config: dict) -> dict:
    """What makes a run this run: its settings less those at their defaults, so that a new key changes no old run."""
    return {key: value for key, value in config.items() if not (key in DEFAULTS and value == DEFAULTS[key])}


def _of_an_earlier_version(store: Path, name: str, config: dict) -> Path | None:
    """A finished run of the same settings under the name that an earlier version gave it.

    That version knew no ``auto``: a run is the same under any precision that its profile then named.
    """
    wanted = _identity(config)
    for folder in sorted(store.glob(f"{glob.escape(name)}-*")):
        try:
            stored = dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if "precision" not in wanted:
            stored.pop("precision", None)
        if (folder / "result.json").is_file() and _identity(stored) == wanted:
            return folder
    return None


def environment(device: str, seconds: float, precision: str = "float32") -> dict:
    """Commit, versions and machine: enough to trace a number to what made it."""
    from iqa_lib import machine

    return {
        "commit": commit(),
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "machine": machine.description(),
        "precision": precision,
        "seconds": round(seconds, 1),
    }


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    if paths.INSTALLED:  # a repository around its environment is somebody else's
        return "none (an installed package)"
    command = ["git", "-C", str(paths.CHECKOUT), "--no-optional-locks", "describe"]
    try:
        described = subprocess.run(
            [*command, "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return described.stdout.strip()
