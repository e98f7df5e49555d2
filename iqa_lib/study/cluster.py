"""An experiment's missing runs on a Ray cluster, one run a task. Needs the extra ``ray``.

The cluster is the one that RAY_ADDRESS names, else this machine. Runs come back into this machine's store, whether or
not the cluster's machines share its disk; the dataset must lie where this machine has it, and be the same.
"""

import os
import platform
from collections.abc import Iterable

from iqa_lib import paths
from iqa_lib.data.images import load_images
from iqa_lib.errors import DataError, RunError, WorkbookError
from iqa_lib.profile import Profile
from iqa_lib.progress import Progress
from iqa_lib.study import experiments
from iqa_lib.training.runs import STATE, Run, claimed

RETRIES = 3  # of a run whose machine was lost; it resumes after its last epoch where the store is shared


def train_on_ray(settings: Profile, names: Iterable[str], only: Iterable[str] | None = None) -> None:
    """Train what these experiments lack, a run that several share once; ``only`` as for `experiments.variants`.

    Raises RunError: Ray is not installed, its cluster does not answer, or runs failed: all named, after the others
    were trained.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage report unless the user asks for it
    try:
        import ray
    except ImportError:
        raise RunError("Ray is not installed: pip install 'smart-iqa-workbook[ray]'") from None
    missing = _missing(settings, names, only)
    if not missing:
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    workers = {"env_vars": {"IQA_HOME": str(paths.HOME)}}
    try:
        ray.init(address, runtime_env=workers, log_to_driver=False, include_dashboard=False)
    except ConnectionError as error:
        raise RunError(
            f"No Ray cluster answers at RAY_ADDRESS={address}: start it there (ray start --head), or unset RAY_ADDRESS "
            f"to train on this machine."
        ) from error
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_train_there)
    waiting = {task.remote(run.settings, run.config["data_fingerprint"]): run for run in missing}
    faults = []
    try:
        for _ in Progress(range(len(missing)), desc="runs on the cluster"):
            (done,), _ = ray.wait(list(waiting))
            run = waiting.pop(done)
            try:
                files, fault = ray.get(done)
            except ray.exceptions.RayError as error:
                files, fault = {}, f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
            if fault:
                faults.append(f"{run.folder.name}: {fault}")
            else:
                _store(run, files)
    finally:  # after Ctrl-C too
        for left in waiting:
            ray.cancel(left, force=True)
        ray.shutdown()
    if faults:
        raise RunError(f"{len(faults)} of {len(missing)} runs failed. {' | '.join(faults)}")


def _missing(settings: Profile, names: Iterable[str], only: Iterable[str] | None) -> list[Run]:
    variants = [variant for name in names for variant in experiments.variants(settings, name, only)]
    runs = {run.folder: run for _, run, _ in experiments.wanted_runs(settings, variants)}
    return [run for run in runs.values() if not run.complete]


def _train_there(settings: Profile, data_fingerprint: str) -> tuple[dict[str, bytes], str | None]:
    """In a worker: the finished run's files by name, or what a person should know. The latter is not tried again."""
    import torch

    from iqa_lib.training.train import train

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # Ray's share
    try:
        images = load_images(settings)
        if images.fingerprint != data_fingerprint:
            raise DataError(
                f"dataset '{settings.dataset}' differs on {platform.node()}: copy it there again, in the same form"
            )
        run = train(settings, images)
    except WorkbookError as error:
        return {}, str(error)
    files = (f for f in run.folder.iterdir() if f.is_file() and not f.name.startswith("."))
    return {f.name: f.read_bytes() for f in files}, None


def _store(run: Run, files: dict[str, bytes]) -> None:
    with claimed(run.folder):
        if not run.complete:  # else the disk is shared
            # result.json last: it makes the run complete.
            for name in sorted(files, key=lambda name: name == "result.json"):
                paths.write_atomically(run.folder / name, files[name])
        (run.folder / STATE).unlink(missing_ok=True)  # of a training that was interrupted here
