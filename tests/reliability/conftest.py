"""The table of what was tried: every test here tells, and README.md beside this file says so."""

import re
import shutil
import time
from pathlib import Path

import filelock
import pytest

FOLDER = Path(__file__).parent
TABLE = FOLDER / "README.md"
COMMAND = "pytest "
NOT_WRITTEN_BY_HAND = """# What was tried to break it

Written by this suite itself when it runs (`pytest tests/reliability -n 2 --dist loadfile`), a row for each test; a run
of a part renews its rows alone. "Lost" is what the test measured, and it fails where that is more than it says.

| subject | tried | times | lost | seconds | repeat with |
|---|---|---|---|---|---|
"""
told = pytest.StashKey[list]()
rows = pytest.StashKey[dict]()


@pytest.fixture
def record(request):
    """``record(subject, tried, times, lost)``, once the test knows all that; its row in the table.

    ``times`` is a number or says what was counted ("20 kills"); ``lost`` is what was measured.
    """

    def tell(subject: str, tried: str, times: object, lost: str = "nothing") -> None:
        request.node.stash[told] = [subject, tried, f"{times:,}" if isinstance(times, int) else times, lost]

    request.node.stash[told] = None
    return tell


@pytest.fixture
def homes(tmp_path, built_data):
    """Makes workbook homes with the tiny embedded datasets in place."""
    made = []

    def another():
        made.append(tmp_path / f"home-{len(made)}")
        shutil.copytree(built_data, made[-1] / "data")
        return made[-1]

    return another


def pytest_configure(config):
    config.stash[rows] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.started = time.monotonic()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if FOLDER in item.path.parents and (report.when == "call" or report.outcome != "passed"):
        seconds = f"{time.monotonic() - item.started:.0f}"
        path, _, name = item.nodeid.rpartition("tests/reliability/")[2].partition("::")
        command = f"{COMMAND}'tests/reliability/{path}::{name}'"
        said = item.stash.get(told, None)
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ")
            said = [_title(name), f"not tried: {reason}", "0", "–"]
        elif report.failed:
            said = [*(said or [_title(name), "see the test", "–"])[:3], "**the test failed**"]
        if said:
            item.config.stash[rows][command] = [*said, seconds, f"`{command}`"]
    return report


def _title(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def pytest_sessionfinish(session):
    if found := session.config.stash[rows]:
        with filelock.FileLock(session.config.cache.mkdir("reliability") / "lock"):  # pytest-xdist's processes
            earlier = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else []
            kept = dict(filter(None, map(_row_of_a_test_that_exists, earlier)))
            lines = [_line(row) for _, row in sorted({**kept, **found}.items())]
            TABLE.write_text(NOT_WRITTEN_BY_HAND + "\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |"


def _row_of_a_test_that_exists(line: str) -> tuple[str, list[str]] | None:
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    match = re.fullmatch(rf"`({COMMAND}'tests/reliability/(\w+\.py)::(\w+).*')`", cells[-1]) if cells else None
    if match is None:
        return None
    command, file, test = match.groups()
    if not (FOLDER / file).is_file() or f"def {test}(" not in (FOLDER / file).read_text(encoding="utf-8"):
        return None
    return command, cells
