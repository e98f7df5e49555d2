"""The batch runner: executes the notebooks of a profile, skips what is unchanged, writes one report."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import strip_color
from rich.console import Console
from rich.live import Live

from iqa_lib import errors, paths
from iqa_lib.data import catalog
from iqa_lib.errors import DataError, ProfileError, RunError
from iqa_lib.profile import Profile, load_profile
from iqa_lib.progress import BATCH_FILE
from iqa_lib.workbook.console import Board, in_words, say, seconds_left, summarise
from iqa_lib.workbook.kernels import CAN_FORK, ForkedKernelManager
from iqa_lib.workbook.report import read_json, write_report

# ipykernel warns about its TCP sockets at every start, and calls its own shutdown an error now and then.
QUIET_KERNEL = ["--IPKernelApp.log_level=50"]
PACKAGES = ["torch", "timm", "numpy", "pandas", "papermill"]
USER_MISTAKES = {
    c.__name__ for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.WorkbookError)
}


@dataclass
class Notebook:
    """One notebook and what became of it in this call."""

    source: Path
    code: list[str]
    needs: list[str]
    folder: Path  # runs/<profile>
    share: float | None = None  # of the workbook's work, beside the others' shares
    status: str = "waiting"  # then: running, done, skipped, failed, not run
    remark: str = ""
    seconds: float | None = None
    expected: float | None = None  # seconds, from its last time here; 0 where nothing has changed since
    headline: str = ""
    error: dict[str, str] = field(default_factory=dict)  # where, name, message
    cell: int = 0
    cells: int = 0
    started: float = 0.0

    @property
    def name(self) -> str:
        return self.source.stem

    @property
    def executed(self) -> Path:
        return self.folder / "notebooks" / f"{self.name}.ipynb"

    @property
    def result(self) -> Path:
        return self.folder / "results" / f"{self.name}.json"

    @property
    def state(self) -> Path:
        return self.folder / "state" / f"{self.name}.json"

    @property
    def outcome(self) -> str:
        """The status in words, as the console and the report say it."""
        return f"{self.status} ({self.remark})" if self.remark else self.status

    @property
    def fault(self) -> str:
        return "{where}: {name}: {message}".format(**self.error) if self.error else ""


class RunnerEngine(NBClientEngine):
    """papermill's engine; calls ``on_cell(number, of)`` when a cell starts and ``on_cell()`` when it ends."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, on_cell: Callable[..., None], **options):
        total = len(nb_man.nb.cells)
        return super().execute_managed_notebook(
            nb_man,
            kernel_name,
            on_cell_start=lambda cell, cell_index: on_cell(cell_index + 1, total),
            on_cell_complete=lambda cell, cell_index: on_cell(),
            **options,
        )


papermill_engines.register("iqa-runner", RunnerEngine)


def run_workbook(
    profile: str,
    overrides: dict[str, Any] | None = None,
    only: list[str] | None = None,
    start: str | None = None,
    force: bool = False,
    notebooks: Path | None = None,
    console: Console | None = None,
) -> int:
    """Run a profile's notebooks in name order; returns the exit code.

    0: all well; 1: a notebook failed; 2: notebooks failed by a user's mistake alone.

    Raises:
        ProfileError: unknown profile, parameter or notebook.
        RunError: the profile is being run already, or the notebooks' ``needs`` are wrong.
    """
    folder, overrides, console = notebooks or paths.NOTEBOOKS, dict(overrides or {}), console or Console()
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # unknown names are refused below, by us
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).resolve())  # the kernels work in another folder
    sources = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    chosen = _choose([s.stem for s in sources], only or [], start)
    _refuse_unknown_parameters(overrides, [s for s in sources if s.stem in chosen])
    for key in {"dataset", "pretrained"} & overrides.keys():
        if isinstance(overrides[key], str) and Path(overrides[key]).is_file():
            overrides[key] = str(Path(overrides[key]).resolve())
    settings = load_profile(profile, **{k: v for k, v in overrides.items() if k in Profile.model_fields})
    _require_data(settings)
    everything = [_read_notebook(source, settings) for source in sources]
    _check_needs(everything)
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.folder / ".lock", blocking=False):
            parameters = {"profile": profile, **overrides}
            return _run_all(everything, chosen, settings, parameters, force, console)
    except Timeout:
        raise RunError(f"another run of profile '{settings.profile}' is under way") from None
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the cell cut off is no news
        raise


def _run_all(everything, chosen, settings: Profile, parameters, force, console: Console) -> int:
    library = _digest(*sorted(Path(__file__).parents[1].rglob("*.py")))
    progress_file = settings.folder / "progress.json"
    selected = [n for n in everything if n.name in chosen]
    _expect(selected, everything, settings, parameters, library, force)
    board = Board(selected, progress_file)
    with Live(board, console=console) if console.is_terminal else contextlib.nullcontext():
        for notebook in selected:
            lacking = [m.name for m in selected if m.name in notebook.needs and m.error]
            blocked = [m.name for m in selected if m.name in notebook.needs and m.status == "not run"]
            if lacking or blocked:
                notebook.status, notebook.remark = "not run", f"needs {', '.join(lacking + blocked)}"
            else:
                inputs = _inputs(notebook, everything, settings, parameters, library)
                if not force and _is_unchanged(notebook, inputs, settings):
                    _recall(notebook)
                    notebook.status, notebook.remark = "skipped", "inputs unchanged"
                else:
                    if not console.is_terminal:
                        say(console, f"{notebook.name}: started")
                    _execute(notebook, parameters, progress_file, settings.cell_timeout)
                    _store_state(notebook, inputs, settings)
            if not console.is_terminal:
                took = f" in {notebook.seconds:.0f} s" if notebook.status in ("done", "failed") else ""
                say(console, f"{notebook.name}: {notebook.outcome}{took}")
                if left := in_words(seconds_left(selected)):
                    say(console, left)
    for notebook in everything:
        if notebook not in selected:
            _recall(notebook)
    report = write_report(everything, settings, _versions())
    summarise(selected, report, console)
    failures = [n.error["name"] for n in selected if n.error]
    return 0 if not failures else 2 if USER_MISTAKES.issuperset(failures) else 1


# ---- what to run -----------------------------------------------------------------------------------------


def _choose(names: list[str], only: list[str], start: str | None) -> set[str]:
    for name in [*only, *([start] if start else [])]:
        if name not in names:
            raise ProfileError(f"no notebook '{name}'{_nearest(name, names)}")
    return {n for n in names if (not only or n in only) and (not start or n >= start)}


def _refuse_unknown_parameters(overrides: dict[str, Any], sources: list[Path]) -> None:
    if "profile" in overrides:
        raise ProfileError("'profile' is not a parameter to override; name it with --profile")
    if set(overrides) <= set(Profile.model_fields):
        return
    known = set(Profile.model_fields).union(*(papermill.inspect_notebook(s) for s in sources))
    for name in overrides:
        if name not in known:
            raise ProfileError(f"unknown parameter '{name}'{_nearest(name, sorted(known))}")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known)
    return f", did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"


def _read_notebook(source: Path, settings: Profile) -> Notebook:
    content = nbformat.read(source, as_version=4)
    code = [f"{c.cell_type} {c.metadata.get('tags', [])} {c.source}" for c in content.cells]
    about = content.metadata.get("iqa", {})
    return Notebook(source, code, list(about.get("needs", [])), settings.folder, about.get("share"))


def _check_needs(notebooks: list[Notebook]) -> None:
    before: set[str] = set()
    for notebook in notebooks:
        if missing := set(notebook.needs) - before:
            raise RunError(f"{notebook.name} needs {', '.join(sorted(missing))}, which no notebook before it is")
        before.add(notebook.name)


# ---- one notebook ----------------------------------------------------------------------------------------


def _execute(notebook: Notebook, parameters: dict[str, Any], progress_file: Path, cell_timeout: int | None) -> None:
    """Run it; afterwards ``status`` is done or failed, the latter with an ``error``."""

    def on_cell(number: int | None = None, of: int = 0) -> None:
        progress_file.unlink(missing_ok=True)  # what an earlier cell reported is no longer true
        if number:
            notebook.cell, notebook.cells = number, of

    def fail(where: str, name: str, message: str) -> None:
        notebook.error = {"where": where, "name": name, "message": strip_color(message)}

    # What an earlier run left must not pass for this one's, even when we are killed on the way.
    for stale in (notebook.state, notebook.result, notebook.executed, notebook.executed.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    notebook.executed.parent.mkdir(parents=True, exist_ok=True)
    notebook.status, notebook.started = "running", time.monotonic()
    try:
        with _environment(BATCH_FILE, str(progress_file)):
            papermill.execute_notebook(
                notebook.source,
                notebook.executed,
                parameters=parameters,
                engine_name="iqa-runner",
                kernel_name="python3",
                cwd=notebook.source.parent,
                progress_bar=False,
                extra_arguments=QUIET_KERNEL,
            kernel_manager_class=ForkedKernelManager if CAN_FORK else AsyncKernelManager,
                on_cell=on_cell,
                execution_timeout=cell_timeout,
            )
    except papermill.PapermillExecutionError as error:
        fail(f"cell {notebook.cell}/{notebook.cells} (In [{error.exec_count}])", error.ename, error.evalue)
    except DeadKernelError:
        fail(f"cell {notebook.cell}/{notebook.cells}", "DeadKernel", "the kernel died (out of memory?)")
    except CellTimeoutError:
        reason = f"it took more than {cell_timeout} s and was stopped (cell_timeout in the profile)"
        fail(f"cell {notebook.cell}/{notebook.cells}", "CellTimeout", reason)
    except Exception as error:  # whatever else goes wrong, the other notebooks and the report go on
        fail(f"cell {notebook.cell}/{notebook.cells}", type(error).__name__, str(error))
    else:
        # A notebook that left early, by SystemExit(0) say, is no error to papermill.
        if not read_json(notebook.result):
            fail("end", "NoResult", f"the notebook ended without recording results/{notebook.result.name}")
    progress_file.unlink(missing_ok=True)
    notebook.seconds = time.monotonic() - notebook.started
    notebook.status = "failed" if notebook.error else "done"
    notebook.headline = "" if notebook.error else read_json(notebook.result).get("headline", "")


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


# ---- how long it takes -----------------------------------------------------------------------------------


def _expect(selected: list[Notebook], everything, settings: Profile, parameters, library, force: bool) -> None:
    """What each notebook took here the last time; nothing, where it will be skipped."""
    changed = set()
    for notebook in selected:
        inputs = _inputs(notebook, everything, settings, parameters, library)
        if not force and not changed.intersection(notebook.needs) and _is_unchanged(notebook, inputs, settings):
            notebook.expected = 0.0
        else:
            changed.add(notebook.name)
            state = read_json(notebook.state)
            notebook.expected = None if state.get("error") else state.get("seconds")


def _inputs(notebook: Notebook, everything, settings: Profile, parameters, library: str) -> dict[str, Any]:
    """All that a notebook's outcome depends on, but the data: the notebook itself may build those."""
    return {
        "code": notebook.code,
        "profile": settings.model_dump(exclude={"cell_timeout"}),
        "parameters": {name: value for name, value in parameters.items() if name != "cell_timeout"},
        "library": library,
        "versions": _versions(),
        # A need that ran again has another time here, in this call or in one since.
        "needs": {n.name: read_json(n.state).get("finished") for n in everything if n.name in notebook.needs},
    }


def _fingerprint(inputs: dict[str, Any], settings: Profile) -> str:
    data = {name: _data_state(name, settings) for name in (settings.dataset, *settings.test_datasets)}
    return hashlib.sha256(json.dumps([inputs, data], sort_keys=True, default=str).encode()).hexdigest()


def _data_state(name: str, settings: Profile) -> list | str:
    """Names, sizes and times of a dataset's files; of one's own labels, the label file's alone."""
    place = catalog.place_of(name, settings.data_folder)
    if place is None:
        return "absent"
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [
        (str(f), stat.st_size, stat.st_mtime_ns)
        for f in files
        if f.is_file() and not f.name.startswith(".")
        for stat in [f.stat()]
    ]


def _require_data(settings: Profile) -> None:
    """Before anything runs: one page on what to put where, if the profile's dataset is not here."""

    def absent(name: str) -> bool:
        known = catalog.CATALOG.get(name)
        return bool(known and not known.build and not catalog.locate(name, settings.data_folder))

    if absent(settings.dataset):
        missing = [n for n in (settings.dataset, *settings.test_datasets) if absent(n)]
        pages = [catalog.how_to_get(name, settings.data_folder) for name in missing]
        raise DataError("\n\n".join([f"Profile '{settings.profile}' needs data that is not here.", *pages]))


def _is_unchanged(notebook: Notebook, inputs: dict[str, Any], settings: Profile) -> bool:
    state, outputs = read_json(notebook.state), _outputs(notebook)
    return (
        bool(state.get("fingerprint"))
        and notebook.result.is_file()
        and notebook.executed.is_file()
        and all(outputs.values())
        and outputs == state["outputs"]
        and _fingerprint(inputs, settings) == state["fingerprint"]
    )


def _outputs(notebook: Notebook) -> dict[str, str | bool]:
    """Each file that the result names: figures and tables by content, runs by being there."""
    found: dict[str, str | bool] = {}
    for kind in ("figures", "tables", "runs"):
        for entry in read_json(notebook.result).get(kind, []):
            file = paths.HOME / entry["file"]
            found[entry["file"]] = file.is_file() and (kind == "runs" or _digest(file))
    return found


def _store_state(notebook: Notebook, inputs: dict[str, Any], settings: Profile) -> None:
    state: dict[str, Any] = {"seconds": notebook.seconds, "error": notebook.error}
    if not notebook.error:
        state["fingerprint"] = _fingerprint(inputs, settings)
        state["outputs"] = _outputs(notebook)
        state["finished"] = datetime.now().astimezone().isoformat()
    paths.write_atomically(notebook.state, json.dumps(state, indent=1))


def _recall(notebook: Notebook) -> None:
    """What an earlier call found, for a notebook that this one does not run."""
    state = read_json(notebook.state)
    notebook.seconds, notebook.error = state.get("seconds"), state.get("error") or {}
    if not state:
        notebook.status = "not run"
        return
    notebook.status, notebook.remark = "failed" if notebook.error else "done", "earlier"
    notebook.headline = "" if notebook.error else read_json(notebook.result).get("headline", "")


def _digest(*files: Path) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return content.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
