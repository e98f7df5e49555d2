"""The batch runner: executes the notebooks of a profile, skips what is unchanged, writes one report."""

import contextlib
import difflib
import glob
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import strip_color
from rich.console import Console
from rich.live import Live

from iqa_lib import errors, paths
from iqa_lib.data import catalog
from iqa_lib.errors import DataError, ProfileError, RunError
from iqa_lib.profile import Profile, load_profile
from iqa_lib.progress import BATCH_FILE
from iqa_lib.workbook.console import Board, in_words, seconds_left, summarise
from iqa_lib.workbook.kernels import KERNEL_MANAGER
from iqa_lib.workbook.report import is_current, read_json, write_report

# ipykernel warns about its TCP sockets at every start, and calls its own shutdown an error now and then.
QUIET_KERNEL = ["--IPKernelApp.log_level=50"]
PACKAGES = ["torch", "timm", "numpy", "pandas", "papermill"]
USER_MISTAKES = {name for name, error in vars(errors).items() if isinstance(error, type)}


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
    cell: int = 0  # the one that runs, from 1
    started: float = 0.0

    def __post_init__(self):
        self.name = self.source.stem
        self.executed = self.folder / "notebooks" / f"{self.name}.ipynb"
        self.result = self.folder / "results" / f"{self.name}.json"
        self.state = self.folder / "state" / f"{self.name}.json"  # what the runner notes of it
        self.cells = len(self.code) + 1  # with the parameters that papermill puts in

    @property
    def outcome(self) -> str:
        """The status in words, as the console and the report say it."""
        return f"{self.status} ({self.remark})" if self.remark else self.status


def run_workbook(
    profile: str,
    overrides: dict[str, Any] | None = None,
    only: Sequence[str] = (),
    start: str | None = None,
    force: bool = False,
    console: Console | None = None,
) -> int:
    """Run a profile's notebooks in name order; returns 0, 1 where a notebook failed, 2 where only by a user's mistake.

    Raises ProfileError (unknown profile, parameter or notebook), DataError, or RunError where the profile is being run.
    """
    overrides, console = dict(overrides or {}), console or Console()
    for noisy in ("papermill", "asyncio"):  # unknown names are refused below, by us; a cell cut off is no news
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).resolve())  # the kernels work in another folder
    sources = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    _refuse_unknown([*only, *filter(None, [start])], [s.stem for s in sources], "no notebook")
    chosen = [s for s in sources if (not only or s.stem in only) and s.stem >= (start or "")]
    if "profile" in overrides:
        raise ProfileError("'profile' is not a parameter to override; name it with --profile")
    if not overrides.keys() <= Profile.model_fields.keys():
        known = set(Profile.model_fields).union(*(papermill.inspect_notebook(s) for s in chosen))
        _refuse_unknown(overrides, sorted(known), "unknown parameter")
    for key in {"dataset", "pretrained"} & overrides.keys():
        if isinstance(overrides[key], str) and Path(overrides[key]).is_file():
            overrides[key] = str(Path(overrides[key]).resolve())
    settings = load_profile(profile, **{k: v for k, v in overrides.items() if k in Profile.model_fields})
    _require_data(settings)
    notebooks = _read_notebooks(sources, settings.folder)
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.folder / ".lock", blocking=False):
            return _run_all(notebooks, chosen, settings, {"profile": profile, **overrides}, force, console)
    except Timeout:
        raise RunError(f"another run of profile '{settings.profile}' is under way") from None


def _run_all(
    notebooks: list[Notebook], chosen: list[Path], settings: Profile, parameters: dict, force: bool, console: Console
) -> int:
    common = {
        "profile": settings.model_dump(exclude={"cell_timeout"}),
        "parameters": {name: value for name, value in parameters.items() if name not in ("cell_timeout", "profile")},
        "library": _digest(*sorted(Path(__file__).parents[1].rglob("*.py"))),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
    }
    fingerprint = partial(_fingerprint, common=common, settings=settings)
    selected = [n for n in notebooks if n.source in chosen]
    progress_file = settings.folder / "progress.json"

    def unchanged(notebook: Notebook) -> bool:
        return not force and _is_unchanged(notebook, fingerprint)

    def say(line: str) -> None:
        if line and not console.is_terminal:  # which has the board
            console.out(line, highlight=False)

    _expect(selected, unchanged)
    board = Board(selected, progress_file)
    with Live(board, console=console) if console.is_terminal else contextlib.nullcontext():
        for notebook in selected:
            took = ""
            lacking = [n.name for n in selected if n.name in notebook.needs and (n.error or n.status == "not run")]
            if lacking:
                notebook.status, notebook.remark = "not run", f"needs {', '.join(lacking)}"
            elif unchanged(notebook):
                _recall(notebook)
                notebook.status, notebook.remark = "skipped", "inputs unchanged"
            else:
                say(f"{notebook.name}: started")
                error = _execute(notebook, parameters, progress_file, settings.cell_timeout)
                _store_state(notebook, error, fingerprint)
                _recall(notebook)
                took = f" in {notebook.seconds:.0f} s"
            say(f"{notebook.name}: {notebook.outcome}{took}")
            say(in_words(seconds_left(selected)))
    for notebook in notebooks:
        if notebook not in selected:
            _recall(notebook, "earlier")
    report = settings.folder / "report.html"
    if {n.status for n in notebooks} != {"skipped"} or not is_current(report, *(n.state for n in notebooks)):
        write_report(notebooks, settings, common["versions"])
    summarise(selected, report, console)
    failures = [n.error["name"] for n in selected if n.error]
    return 0 if not failures else 2 if USER_MISTAKES.issuperset(failures) else 1


# ---- what to run -----------------------------------------------------------------------------------------


def _refuse_unknown(names: Iterable[str], known: list[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = " or ".join(difflib.get_close_matches(name, known))
            advice = f", did you mean {near}?" if near else f"; known: {', '.join(known)}"
            raise ProfileError(f"{what} '{name}'{advice}")


def _require_data(settings: Profile) -> None:
    """Before anything runs: one page on what to put where, if the profile's dataset is not here."""
    known = [name for name in (settings.dataset, *settings.test_datasets) if name in catalog.CATALOG]
    missing = [n for n in known if not catalog.CATALOG[n].build and not catalog.locate(n, settings.data_folder)]
    if settings.dataset in missing:
        pages = [catalog.how_to_get(name, settings.data_folder) for name in missing]
        raise DataError("\n\n".join([f"Profile '{settings.profile}' needs data that is not here.", *pages]))


def _read_notebooks(sources: list[Path], folder: Path) -> list[Notebook]:
    notebooks: list[Notebook] = []
    for source in sources:
        content = nbformat.read(source, as_version=4)
        code = [f"{c.cell_type} {c.metadata.get('tags', [])} {c.source}" for c in content.cells]
        about = content.metadata.get("iqa", {})
        needs = list(about.get("needs", []))
        if missing := set(needs) - {n.name for n in notebooks}:
            raise RunError(f"{source.stem} needs {', '.join(sorted(missing))}, which no notebook before it is")
        notebooks.append(Notebook(source, code, needs, folder, about.get("share")))
    return notebooks


def _expect(selected: list[Notebook], unchanged: Callable[[Notebook], bool]) -> None:
    """What each notebook took here the last time; nothing, where it will be skipped."""
    changed = set()
    for notebook in selected:
        if not changed.intersection(notebook.needs) and unchanged(notebook):
            notebook.expected = 0.0
        else:
            changed.add(notebook.name)
            state = read_json(notebook.state)
            notebook.expected = None if state.get("error") else state.get("seconds")


# ---- one notebook ----------------------------------------------------------------------------------------


def _execute(
    notebook: Notebook, parameters: dict[str, Any], progress_file: Path, cell_timeout: int | None
) -> dict[str, str]:
    """Run it; what went wrong: where, name and message, or nothing."""

    def on_cell_start(cell: Any, cell_index: int) -> None:
        progress_file.unlink(missing_ok=True)  # what an earlier cell reported is no longer true
        notebook.cell = cell_index + 1

    def fault(name: str, message: str, execution: str = "") -> dict[str, str]:
        where = f"cell {notebook.cell}/{notebook.cells}{execution}"
        return {"where": where, "name": name, "message": strip_color(message)}

    # An earlier run's files must not be taken for this one's, even if this process is killed.
    for stale in (notebook.state, notebook.result, notebook.executed, notebook.executed.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    notebook.executed.parent.mkdir(parents=True, exist_ok=True)
    notebook.status, notebook.started = "running", time.monotonic()
    os.environ[BATCH_FILE] = str(progress_file)
    try:
        papermill.execute_notebook(
            notebook.source,
            notebook.executed,
            parameters=parameters,
            kernel_name="python3",
            cwd=notebook.source.parent,
            progress_bar=False,
            extra_arguments=QUIET_KERNEL,
            kernel_manager_class=KERNEL_MANAGER,
            on_cell_start=on_cell_start,
            execution_timeout=cell_timeout,
        )
    except papermill.PapermillExecutionError as error:
        return fault(error.ename, error.evalue, f" (In [{error.exec_count}])")
    except DeadKernelError:
        return fault("DeadKernel", "the kernel died (out of memory?)")
    except CellTimeoutError:
        return fault("CellTimeout", f"it took more than {cell_timeout} s and was stopped (cell_timeout in the profile)")
    except Exception as error:  # of any kind: the other notebooks and the report continue
        return fault(type(error).__name__, str(error))
    finally:
        del os.environ[BATCH_FILE]
        progress_file.unlink(missing_ok=True)
    if read_json(notebook.result):
        return {}
    # A notebook that left early, by SystemExit(0) say, is no error to papermill.
    message = f"the notebook ended without recording results/{notebook.result.name}"
    return {"where": "end", "name": "NoResult", "message": message}


def _fingerprint(notebook: Notebook, common: dict[str, Any], settings: Profile) -> str:
    """Of all that a notebook's outcome depends on; of the data as they are now, for the notebook may build them."""
    # A need that ran again has another time here, in this call or in one since.
    needs = {name: read_json(notebook.state.with_name(f"{name}.json")).get("finished") for name in notebook.needs}
    data = {name: _data_state(name, settings) for name in (settings.dataset, *settings.test_datasets)}
    inputs = json.dumps([notebook.code, common, needs, data], sort_keys=True, default=str)
    return hashlib.sha256(inputs.encode()).hexdigest()


def _data_state(name: str, settings: Profile) -> list | str:
    """Names, sizes and times of a dataset's files; of one's own labels, the label file's alone."""
    place = catalog.place_of(name, settings.data_folder)
    if place is None:
        return "absent"
    pattern = f"{glob.escape(str(place))}/**" if place.is_dir() else glob.escape(str(place))
    found = sorted(map(Path, glob.iglob(pattern, recursive=True)))  # unlike Path.rglob it follows links
    return paths.stamps(f for f in found if f.is_file() and not f.name.startswith("."))


def _is_unchanged(notebook: Notebook, fingerprint: Callable[[Notebook], str]) -> bool:
    state, outputs = read_json(notebook.state), _outputs(notebook)
    return (
        notebook.result.is_file()
        and notebook.executed.is_file()
        and all(outputs.values())
        and outputs == state.get("outputs")
        and fingerprint(notebook) == state.get("fingerprint")
    )


def _outputs(notebook: Notebook) -> dict[str, str | bool]:
    """Each file that the result names: figures and tables by content, runs by being there."""
    result = read_json(notebook.result)
    return {
        entry["file"]: (file := paths.HOME / entry["file"]).is_file() and (kind == "runs" or _digest(file))
        for kind in ("figures", "tables", "runs")
        for entry in result.get(kind, [])
    }


def _digest(*files: Path) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return content.hexdigest()


def _store_state(notebook: Notebook, error: dict[str, str], fingerprint: Callable[[Notebook], str]) -> None:
    state: dict[str, Any] = {"seconds": time.monotonic() - notebook.started, "error": error}
    if not error:
        finished = datetime.now().astimezone().isoformat()
        state |= {"fingerprint": fingerprint(notebook), "outputs": _outputs(notebook), "finished": finished}
    paths.write_atomically(notebook.state, json.dumps(state, indent=1))


def _recall(notebook: Notebook, remark: str = "") -> None:
    """What became of it the last time that it ran."""
    state = read_json(notebook.state)
    notebook.seconds, notebook.error = state.get("seconds"), state.get("error") or {}
    if not state:
        notebook.status = "not run"
        return
    notebook.status, notebook.remark = "failed" if notebook.error else "done", remark
    notebook.headline = "" if notebook.error else read_json(notebook.result).get("headline", "")
