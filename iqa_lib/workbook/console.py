"""What the runner shows while it works: a line per notebook, the time left, a table at the end."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from iqa_lib.workbook.report import read_json

# ipykernel warns about its TCP sockets at every start, and calls its own shutdown an error now and then.


def seconds_left(selected: list) -> float | None:
    """Of the whole call; None while that is unknown.

    A notebook that never ran here is expected to take its share of the work at the pace of those that this call ran.
    """
    ran = [n for n in selected if n.status == "done" and n.share]
    pace = sum(n.seconds for n in ran) / sum(n.share for n in ran) if ran else None
    left = 0.0
    for notebook in selected:
        if notebook.status not in ("waiting", "running"):
            continue
        expected = notebook.expected
        if expected is None and pace is not None and notebook.share:
            expected = pace * notebook.share
        if expected is None:
            return None
        elapsed = time.monotonic() - notebook.started if notebook.status == "running" else 0.0
        left += max(expected - elapsed, 0.0)
    return left


def in_words(seconds: float | None) -> str:
    """Empty where there is nothing to say."""
    if not seconds:
        return ""
    minutes = round(seconds / 60)
    if minutes >= 100:
        return f"about {minutes / 60:.0f} h left"
    return f"about {minutes} min left" if minutes else "less than a minute left"


# ---- skipping --------------------------------------------------------------------------------------------


class Board:
    """One line per notebook and one of the time left, redrawn by rich several times a second."""

    def __init__(self, notebooks: list, progress_file: Path):
        self.notebooks, self.progress_file = notebooks, progress_file

    def __rich__(self) -> Group | Table:
        left = in_words(seconds_left(self.notebooks))
        return Group(self._grid(), Text(left)) if left else self._grid()

    def _grid(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        for n in self.notebooks:
            if n.status != "running":
                took = f"{minutes_and_seconds(n.seconds)}" if n.status in ("done", "failed") else ""
                grid.add_row(n.name, "", Text(n.outcome, "red" if n.error else ""), Text(n.headline), took)
                continue
            progress = read_json(self.progress_file)
            within = progress.get("fraction", 0.0)
            bar = ProgressBar(total=max(n.cells, 1), completed=max(n.cell - 1, 0) + within, width=24)
            left = progress.get("seconds_left")
            clock = (
                f"{minutes_and_seconds(left)} left"
                if left
                else f"{minutes_and_seconds(time.monotonic() - n.started)} elapsed"
            )
            cell = f"cell {n.cell}/{n.cells}" if n.cells else "starting"
            grid.add_row(n.name, bar, cell, Text(progress.get("description", "")), clock)
        return grid


def minutes_and_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def summarise(notebooks: list, report: Path, console: Console) -> None:
    table = Table("notebook", "status", "seconds", "headline")
    for n in notebooks:
        took = "" if n.seconds is None else f"{n.seconds:.1f}"
        table.add_row(n.name, Text(n.outcome, "red" if n.error else ""), took, Text(n.headline))
    console.print(table)
    for n in notebooks:
        if n.error:
            say(console, f"{n.name} failed at {n.fault}")
    say(console, f"Report: {report}")
